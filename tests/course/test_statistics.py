"""Statistics: against scipy, closed forms, slow loops, and how often intervals hold the truth in simulated studies."""


import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lcl.config import LclError
from lcl.course.statistics import Gain, crossed_gain, gain_of, holm, paired_gain


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


@pytest.mark.parametrize(("suits", "noise", "seeds"), [(0.5, 0.5, 0.05), (0.0, 0.5, 0.05), (0.3, 0.3, 0.3)])
def test_crossed_intervals_hold_the_truth(suits, noise, seeds):
    """Queries may differ in which recipe they suit: a study of other queries would then find another difference."""
    random, studies = np.random.default_rng(1), 300
    crossed = alone = 0
    for _ in range(studies):
        parts = ((suits, (1, 60)), (noise, (5, 60)), (seeds, (5, 1)))
        ours, theirs = 0.2 + sum(random.normal(scale=scale, size=size) for scale, size in parts), np.zeros((5, 60))
        found = crossed_gain(ours, theirs)
        crossed += found.low <= 0.2 <= found.high
        low, high = stats.t.interval(0.95, 4, ours.mean(), stats.sem(ours.mean(1)))
        alone += low <= 0.2 <= high
    assert crossed / studies >= 0.94
    assert suits < 0.5 or alone / studies < 0.85, "the seeds alone should be too sure here"


@given(st.integers(2, 6), st.integers(2, 40), st.integers(0, 2**31))
def test_a_crossed_interval_is_never_narrower_than_that_of_the_seeds(seeds, queries, seed):
    random = np.random.default_rng(seed)
    ours, theirs = (100.0 * (random.random((seeds, queries)) < share) for share in (0.7, 0.5))
    found, (own, _) = crossed_gain(ours, theirs), paired_gain(*(dict(enumerate(each.mean(1))) for each in (ours, theirs)))
    assert (found.mean, found.seeds) == (pytest.approx(own.mean), seeds)
    assert found.low <= own.low + 1e-9 and own.high <= found.high + 1e-9
    turned = crossed_gain(theirs, ours)
    assert (turned.low, turned.high) == pytest.approx((-found.high, -found.low))


def test_a_crossed_gain_is_its_formula_and_refuses_what_does_not_belong_together():
    ours, theirs = np.array([[1.0, 1.0, 0.0], [1.0, 0.0, 0.0]]), np.zeros((2, 3))
    error = (np.var([2 / 3, 1 / 3], ddof=1) / 2 + np.var([1.0, 0.5, 0.0], ddof=1) / 3) ** 0.5
    found = crossed_gain(ours, theirs)
    assert (found.mean, found.high) == pytest.approx((0.5, 0.5 + stats.t.ppf(0.975, 1) * error))
    equal = crossed_gain(ours, ours)
    assert equal.low == equal.high == 0 and equal.sign == 0
    for other in (theirs[:1], theirs[:, :2]):
        with pytest.raises(LclError, match="same seeds and queries"):
            crossed_gain(ours, other)
    with pytest.raises(LclError, match="two or more of each"):
        crossed_gain(ours[:1], theirs[:1])


def test_differences_without_spread_make_no_interval():
    found = gain_of([2.0, 3.0], [1.0, 2.0])
    assert found.low == found.mean == found.high == 1.0 and found.sign == 0
    assert str(found) == "+1.0 (no interval: equal differences)"
    found = gain_of([100 * 0.57, 100 * 0.07], [100 * 0.5, 0.0])  # 7 and 7.000000000000007
    assert found.low == found.high and found.sign == 0


def test_on_which_side_of_zero_an_interval_ends_can_be_seen():
    assert str(Gain(1.6, 0.012, 3.2, 3)) == "+1.60 (+0.01 to +3.20)"
    assert str(Gain(-1.6, -3.2, -0.04, 3)) == "-1.60 (-3.20 to -0.04)"
    assert str(Gain(4.7, -0.001, 9.3, 3)) == "+4.700 (-0.001 to +9.300)"
    assert str(Gain(4.7, 0.004, 9.3, 3)) == "+4.700 (+0.004 to +9.300)"
    assert str(Gain(3.9, 3.859, 3.94, 2)) == "+3.90 (+3.86 to +3.94)"  # not "+3.9 to +3.9"
    assert str(Gain(4.7, 0.0, 9.3, 3)) == "+4.7 (+0.0 to +9.3)"
    assert str(Gain(4.7, -0.1, 9.3, 3)) == "+4.7 (-0.1 to +9.3)"


@given(st.lists(st.tuples(*[st.floats(-100, 100)] * 2), min_size=2, max_size=8))
def test_the_interval_is_students(pairs):
    """Compared with the formula of any textbook: mean ± t · s / √n."""
    ours, theirs = zip(*pairs, strict=True)
    found, number = gain_of(ours, theirs), len(pairs)
    differences = [a - b for a, b in pairs]
    middle = sum(differences) / number
    spread = (sum((d - middle) ** 2 for d in differences) / (number - 1)) ** 0.5
    half = stats.t.ppf(0.975, number - 1) * spread / number**0.5
    assert (found.mean, found.low, found.high) == pytest.approx((middle, middle - half, middle + half), abs=1e-6)


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
