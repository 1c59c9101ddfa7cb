"""What an arm of the plan costs on the machine of the bench, and what a minute of it buys."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import median

from benchmarks.run import Bench
from benchmarks.timing import Spread
from lcl.config import get_profile
from lcl.course.statistics import Gain
from lcl.train.recipes import get_recipe

NOTHING = Spread(0, 0, 0)


@dataclass(frozen=True)
class Price:
    """What an arm costs: a step, relative to one of `clip`; minutes beyond those of `clip`'s steps; minutes of both banks."""

    step: Spread
    added: Spread
    banks: Spread


def clip_minutes(bench: Bench) -> float:
    """Minutes of all steps of `clip` in the laptop profile, where the bench ran."""
    return median(bench.races["recipe-clip"].ours) * get_profile("laptop").training.steps / 60


def bank_minutes(bench: Bench) -> Spread:
    """Minutes that both banks of the laptop profile take to build there, reckoned from fewer rows."""
    banks, pairs = bench.races["banks"], get_profile("laptop").training.pairs
    return Spread.of([seconds * pairs / banks.amount / 60 for seconds in banks.ours])


def price(bench: Bench, arm: Mapping) -> Price | None:
    """What an arm of the plan costs; None if the bench did not time its recipe, or if it has other options than epochs."""
    options, race = dict(zip(arm["options"][::2], arm["options"][1::2], strict=True)), bench.races.get(f"recipe-{arm['recipe']}")
    if options.keys() - {"--epochs"} or race is None:
        return None
    times = int(options.get("--epochs", 8)) / get_profile("laptop").training.epochs
    minutes = clip_minutes(bench)
    steps = (race.longer.middle, race.longer.low, race.longer.high) if arm["recipe"] != "clip" else (1.0, 1.0, 1.0)
    added = Spread(*(minutes * max(times * step - 1, 0) for step in steps))  # no step takes less than clip's
    return Price(Spread(*steps), added, bank_minutes(bench) if get_recipe(arm["recipe"]).needs_teacher else NOTHING)


def per_minute(gain: Gain, cost: Price) -> str:
    """Points gained for every minute beyond `clip`, banks included: the mean, and the least and the most that the gain's
    interval and the repeats of the bench allow."""
    middle, low, high = (getattr(cost.added, which) + getattr(cost.banks, which) for which in ("middle", "low", "high"))
    if low < 0.1:  # a few seconds more or less are the noise of a machine
        return "takes no measurable time"
    least, most = gain.low / (high if gain.low > 0 else low), gain.high / (low if gain.high > 0 else high)
    return f"{gain.mean / middle:.1f} ({least:.1f} to {most:.1f})"
