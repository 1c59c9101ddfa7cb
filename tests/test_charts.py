"""Figures of the pages of results show every number that they were given, where it belongs, and say so in words."""

import charts
from lcl.course.study import Gain

UP, UNSURE = Gain(5.0, 2.0, 8.0, 3), Gain(1.0, -2.0, 4.0, 3)


def test_sizes_have_a_dot_a_seed_and_the_gain_its_interval():
    lines = {"clip": {4: [10.0, 20.0], 16: [30.0, 40.0]}, "ping": {4: [20.0, 30.0], 16: [35.0, 45.0]}}
    chart = charts.by_size(lines, {4: UP, 16: UNSURE}, "recall (%)")
    left, right = chart.axes
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 8
    assert [tuple(line.get_ydata()) for line in right.lines[:2]] == [(2.0, 8.0), (-2.0, 4.0)]
    assert "clip 15.0 of 4 pairs, 35.0 of 16 pairs" in chart.alt


def test_growth_is_logarithmic_and_theory_dashed_through_the_last_point():
    chart = charts.scaling({"pairs": {"loss": ((1, 2, 4, 8), (1.0, 3.0, 9.0, 30.0), 1.7, 2)}})
    axes = chart.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    measured, theory = axes.lines
    assert list(theory.get_ydata()) == [30.0 / 4, 30.0] and theory.get_linestyle() == "--"
    assert list(measured.get_ydata()) == [1.0, 3.0, 9.0, 30.0] and "measured slope 1.70, theory 2" in chart.alt
