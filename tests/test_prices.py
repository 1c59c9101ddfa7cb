"""Prices: what an arm costs where the bench ran, and points per minute with the spread of both."""

import pytest

import prices
from benchmarks.run import Bench
from benchmarks.timing import Benchmark, Spread
from lcl.config import get_profile
from lcl.course.statistics import Gain

LAPTOP = get_profile("laptop").training


def bench(ratios=(1.0, 1.0, 1.0), banks=(1.0,)):
    """`clip`'s steps take 6 minutes in all, a step of `lightclip` `ratios` times as long, and both banks `banks` minutes."""

    def race_of(key, laps):
        return Benchmark(key, "", "", "", LAPTOP.pairs, tuple(laps), (1.0, 1.0, 1.0))

    times = {"recipe-clip": [6 * 60 / LAPTOP.steps] * 3, "banks": [60.0 * each for each in banks]}
    times |= {f"recipe-{name}": ratios for name in ("lightclip", "clip-ping")}
    return Bench({key: race_of(key, laps) for key, laps in times.items()}, {}, {}, 3, 1.0, {})


def arm(recipe, *options):
    return {"recipe": recipe, "options": list(options)}


@pytest.mark.parametrize(
    ("recipe", "ratios", "banks", "gained", "said"),
    [
        ("lightclip", (1.5, 1.4, 1.6), (9.0,), Gain(6.0, 3.0, 9.0, 3), "2.0 (0.8 to 3.8)"),  # 3 minutes more, 2.4 to 3.6
        ("clip-ping", (1.0, 0.9, 1.1), (2, 2, 2), Gain(6.0, 3.0, 9.0, 3), "3.0 (1.2 to 4.5)"),  # the banks' 2, and up to 0.6
        ("clip-ping", (1.0, 1.0, 1.0), (2, 1, 3), Gain(6.0, 3.0, 9.0, 3), "3.0 (1.0 to 9.0)"),  # banks alone, 1 to 3
        ("lightclip", (1.5, 1.4, 1.6), (9.0,), Gain(6.0, -3.3, 9.0, 3), "2.0 (-1.4 to 3.8)"),
        ("lightclip", (1.5, 1.4, 1.6), (9.0,), Gain(-6.0, -9.0, -3.0, 3), "-2.0 (-3.8 to -0.8)"),
        ("lightclip", (1.0, 0.9, 1.1), (9.0,), Gain(6.0, 3.0, 9.0, 3), "takes no measurable time"),
    ],
    ids=str,
)
def test_points_per_minute_have_the_spread_of_gain_and_bench(recipe, ratios, banks, gained, said):
    assert prices.per_minute(gained, prices.price(bench(ratios, banks), arm(recipe))) == said


def test_more_epochs_of_clip_cost_their_minutes():
    cost = prices.price(bench(), arm("clip", "--epochs", "12"))
    assert cost.step == Spread(1.0, 1.0, 1.0) and cost.added.middle == pytest.approx(3.0) and cost.banks == prices.NOTHING


def test_what_the_bench_did_not_time_has_no_price():
    assert prices.price(bench(), arm("clip+max")) is None
    assert prices.price(bench(), arm("clip", "--text-depth", "8", "--epochs", "4")) is None
