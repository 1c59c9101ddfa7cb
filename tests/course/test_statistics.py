"""Statistics: against scipy, closed forms, slow loops, and how often intervals hold the truth in simulated studies."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lcl.config import LclError
from lcl.course import study
from lcl.course.statistics import crossed_gain, holm, paired_gain, pooled_gains, query_gain
from lcl.eval.queries import QueryRanks, write_ranks
from lcl.storage import write_json


def table(values: np.ndarray) -> dict[str, dict[int, float]]:
    return {f"r{row}": dict(enumerate(map(float, each))) for row, each in enumerate(values)}


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(0, 2**31))
def test_two_recipes_are_compared_by_the_paired_t_test(seeds, seed):
    values = np.random.default_rng(seed).normal(size=(2, seeds))
    found, peer = pooled_gains(table(values), "r0")["r1"], stats.ttest_rel(values[1], values[0])
    interval, mean = peer.confidence_interval(0.95), values[1].mean() - values[0].mean()
    assert (found.mean, found.low, found.high) == pytest.approx((mean, interval.low, interval.high))
    assert found.p == pytest.approx(peer.pvalue)


@settings(max_examples=25)
@given(st.integers(2, 8), st.integers(0, 2**31))
def test_the_gain_of_an_arm_is_that_of_the_paired_t_test_over_shared_seeds(seeds, seed):
    ours, theirs = np.random.default_rng(seed).normal(size=(2, seeds))
    found, p = paired_gain(dict(enumerate(ours)) | {90: 1e9}, {91: -1e9} | dict(enumerate(theirs)))
    peer = stats.ttest_rel(ours, theirs)
    interval = peer.confidence_interval(0.95)
    assert (found.mean, found.low, found.high) == pytest.approx(((ours - theirs).mean(), interval.low, interval.high))
    assert p == pytest.approx(peer.pvalue) and found.seeds == seeds


def test_equal_differences_show_nothing_and_a_single_seed_has_no_interval():
    found, p = paired_gain({0: 0.3, 1: 0.7, 2: 0.9}, {0: 0.2, 1: 0.6, 2: 0.8})
    assert (p, found.sign, found.mean) == (1.0, 0, pytest.approx(0.1))
    assert paired_gain({0: 1.0, 1: 2.0}, {0: 1.0, 1: 2.0})[1] == 1.0
    with pytest.raises(LclError, match="two seeds in common, not 1"):
        paired_gain({0: 1.0, 1: 2.0}, {1: 1.0, 2: 2.0})


@settings(max_examples=25)
@given(st.integers(2, 6), st.integers(2, 6), st.integers(0, 2**31))
def test_a_full_table_gives_the_closed_form(recipes, seeds, seed):
    y = np.random.default_rng(seed).normal(size=(recipes, seeds))
    rest = y - y.mean(0) - y.mean(1, keepdims=True) + y.mean()
    freedom = (recipes - 1) * (seeds - 1)
    room = stats.t.ppf(0.975, freedom) * math.sqrt(2 * (rest**2).sum() / freedom / seeds)
    for name, found in pooled_gains(table(y), "r0").items():
        mean = y[int(name[1:])].mean() - y[0].mean()
        assert (found.mean, found.low, found.high) == pytest.approx((mean, mean - room, mean + room))


def test_a_missing_run_leaves_what_the_others_say_and_an_easy_seed_counts_for_nobody():
    y = np.array([[1.0, 5.0, 3.0], [2.0, 6.0, 4.0], [4.0, 8.0, 6.0]])  # recipe + seed, without noise
    values = table(y)
    del values["r2"][1]  # the easy seed: a plain mean would fall
    found = pooled_gains(values, "r0")
    assert (found["r1"].mean, found["r2"].mean) == pytest.approx((1, 3))


def test_what_runs_cannot_tell_is_refused():
    with pytest.raises(LclError, match="too few runs"):
        pooled_gains({"a": {0: 1.0}, "b": {0: 2.0}}, "a")
    with pytest.raises(LclError, match="share no seed"):
        pooled_gains({"a": {0: 1.0, 1: 2.0}, "b": {0: 3.0, 1: 3.5}, "c": {2: 1.0, 3: 2.0}}, "a")
    with pytest.raises(LclError, match="no runs of x"):
        pooled_gains({"a": {0: 1.0}}, "x")


def test_intervals_hold_the_truth_in_19_of_20_studies():
    random, held, narrower = np.random.default_rng(0), 0, 0
    for _ in range(400):
        y = 3 * random.normal(size=3) + random.normal(size=(5, 3))  # seeds differ much, recipes not
        y[1] += 2.0
        found = pooled_gains(table(y), "r0")["r1"]
        held += found.low <= 2.0 <= found.high
        alone = stats.ttest_rel(y[1], y[0]).confidence_interval(0.95)
        narrower += found.high - found.low < alone.high - alone.low
    assert abs(held / 400 - 0.95) < 4 * math.sqrt(0.95 * 0.05 / 400) and narrower > 300


def test_crossed_draws_hold_the_truth_where_draws_of_seeds_alone_do_not():
    """Queries differ in which recipe they suit: a study of other queries would find another difference."""
    random, studies = np.random.default_rng(1), 200
    crossed = alone = 0
    for _ in range(studies):
        suits, noise = random.normal(scale=0.5, size=(1, 60)), random.normal(scale=0.5, size=(5, 60))
        ours, theirs = 0.2 + suits + noise + random.normal(scale=0.05, size=(5, 1)), np.zeros((5, 60))
        found = crossed_gain(ours, theirs, rounds=400)
        crossed += found.low <= 0.2 <= found.high
        low, high = stats.t.interval(0.95, 4, ours.mean(), stats.sem(ours.mean(1)))
        alone += low <= 0.2 <= high
    assert crossed / studies > 0.9 > alone / studies + 0.1


def test_a_crossed_gain_is_what_a_slow_loop_draws():
    random = np.random.default_rng(2)
    ours, theirs = (random.random((4, 30)) < share for share in (0.7, 0.5))
    found, means = crossed_gain(ours, theirs), []
    difference = ours.astype(float) - theirs
    for _ in range(4000):
        seeds, queries = (random.integers(n, size=n) for n in difference.shape)
        means.append(difference[seeds][:, queries].mean())
    assert found.mean == pytest.approx(difference.mean())
    assert (found.low, found.high) == pytest.approx(np.quantile(means, [0.025, 0.975]), abs=0.02)
    assert crossed_gain(ours, ours).p == 1.0
    with pytest.raises(LclError, match="same seeds and queries"):
        crossed_gain(ours, theirs[:3])


@pytest.fixture
def ranked(tmp_path, monkeypatch):
    """A study of two recipes with the ranks of 40 queries: {(stem, seed): ranks from image to text}."""
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    study.write_study(study.Study("c0de", "d", "2", {"clip-laptop": [0, 1, 2], "lightclip-laptop": [0, 1, 2]}))
    random, made = np.random.default_rng(3), {}
    for stem, most in (("clip-laptop", 3), ("lightclip-laptop", 2)):
        for seed in range(3):
            made[stem, seed] = random.integers(0, most, 40)
            save(stem, seed, made[stem, seed])
    return made


def save(stem: str, seed: int, ranks: np.ndarray, queries: str = "these", written: str = "these", recall: float | None = None):
    back = np.roll(ranks, 1)
    value = {"value": float((ranks < 1).mean()) if recall is None else recall, "chance": 0.02}
    metrics = {"new_scenes": {f"{way}_recall@1": value for way in ("image_to_text", "text_to_image")}}
    run = {"provenance": {"code": "c0de", "packages": {"torch": "2"}}, "data": "d", "profile": {}, "recipe": {}, "steps": 4}
    path = study.FOLDER / f"{stem}-seed{seed}.json"
    write_json(path, run | {"seed": seed, "metrics": metrics, "queries": queries})
    write_ranks(path.with_suffix(".safetensors"), QueryRanks(written, torch.from_numpy(ranks), torch.from_numpy(back)))


def test_saved_ranks_become_a_crossed_gain(ranked):
    for k in (1, 2):
        hits = (np.stack([100.0 * (ranked[stem, seed] < k) for seed in range(3)]) for stem in ("lightclip-laptop", "clip-laptop"))
        ours, theirs = hits
        assert query_gain("lightclip-laptop", "clip-laptop", k=k) == crossed_gain(ours, theirs)
        assert query_gain("lightclip-laptop", "clip-laptop", "text_to_image", k).mean == pytest.approx((ours - theirs).mean())
    assert query_gain("lightclip-laptop", "clip-laptop").mean > 0  # of two ranks the first is more frequent than of three
    with pytest.raises(LclError, match="no direction 'image_to_image'"):
        query_gain("lightclip-laptop", "clip-laptop", "image_to_image")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"queries": "others", "written": "others"}, "seed 2 differs from seed 0 in more than the seed: queries"),
        ({"written": "others"}, "lightclip-laptop-seed2.safetensors holds the ranks of other queries"),
        ({"recall": 0.0}, "lightclip-laptop-seed2.safetensors holds the ranks of another run"),
    ],
)
def test_ranks_of_other_queries_or_of_another_run_are_refused(ranked, change, reason):
    save("lightclip-laptop", 2, ranked["lightclip-laptop", 2], **change)
    with pytest.raises(LclError, match=reason):
        query_gain("lightclip-laptop", "clip-laptop")


def test_two_recipes_with_ranks_of_two_sets_of_queries_have_no_crossed_gain(ranked):
    for seed in range(3):
        save("lightclip-laptop", seed, ranked["lightclip-laptop", seed], queries="others", written="others")
    with pytest.raises(LclError, match="evaluated on different queries"):
        query_gain("lightclip-laptop", "clip-laptop")
    (study.FOLDER / "clip-laptop-seed0.safetensors").unlink()
    with pytest.raises(LclError, match="does not exist"):
        query_gain("clip-laptop", "clip-laptop")


@given(st.lists(st.floats(0, 1), min_size=1, max_size=9))
def test_holm_rejects_what_the_stepwise_rule_rejects(p):
    corrected = holm({str(number): value for number, value in enumerate(p)})
    order = sorted(range(len(p)), key=p.__getitem__)
    for level in (0.01, 0.05, 0.5):
        rejected = set()
        for place, number in enumerate(order):
            if (len(p) - place) * p[number] > level:
                break
            rejected.add(number)
        assert {number for number in range(len(p)) if corrected[str(number)] <= level} == rejected
