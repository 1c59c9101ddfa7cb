"""Figures of the pages of results show every number that they were given, where it belongs, and say so in words."""

import charts
from lcl.course.statistics import Gain

UP, UNSURE = Gain(5.0, 2.0, 8.0, 3), Gain(1.0, -2.0, 4.0, 3)


def test_sizes_have_a_dot_a_seed_a_style_a_budget_and_gains_their_interval():
    lines = {
        "clip": {"equal steps": {4: [10.0, 20.0], 16: [30.0, 40.0]}, "one epoch": {16: [35.0], 64: [50.0]}},
        "ping": {"equal steps": {4: [20.0, 30.0], 16: [35.0, 45.0]}},
    }
    chart = charts.by_size(lines, {"ping": {"equal steps": {4: UP, 16: UNSURE}}}, "clip", "recall (%)")
    left, right = chart.axes
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 10
    assert [line.get_linestyle() for line in left.lines] == ["-", "--", "-"]
    assert len({line.get_color() for line in left.lines}) == 2
    (intervals,) = right.collections
    assert [tuple(each[:, 1]) for each in intervals.get_segments()] == [(2.0, 8.0), (-2.0, 4.0)]
    assert list(right.lines[0].get_ydata()) == [5.0, 1.0]
    assert "clip, equal steps: 15.0 of 4 pairs, 35.0 of 16 pairs" in chart.alt and "ping, equal steps: +5.0 of 4" in chart.alt
    assert "bfloat16" not in chart.alt


def test_sizes_in_bfloat16_have_a_ring_that_the_legend_names():
    lines = {"clip": {"equal steps": {4: [10.0, 20.0]}, "one epoch": {4: [5.0], 64: [50.0]}}}
    chart = charts.by_size(lines, {}, "clip", "recall (%)", bfloat16={("clip", "one epoch", 64)})
    rings = [line for line in chart.axes[0].lines if line.get_markerfacecolor() == "none"]
    assert [(list(ring.get_xdata()), list(ring.get_ydata())) for ring in rings] == [([64], [50.0])]
    assert chart.legends[0].get_texts()[-1].get_text() == "ring: computed in bfloat16"
    assert "In bfloat16: clip one epoch, 64 pairs." in chart.alt


def test_steps_have_a_panel_a_split_a_line_a_supply_of_pairs_and_rings():
    lines = {"again": {128: [10.0], 1024: [60.0, 70.0]}, "once": {128: [10.0], 512: [40.0]}}
    chart = charts.by_steps({"new": lines, "drawings": {"again": {128: [2.0]}}}, "recall (%)", {("again", 1024)})
    left, right = chart.axes
    assert [list(line.get_ydata()) for line in left.lines if line.get_label() in lines] == [[10.0, 65.0], [10.0, 40.0]]
    rings = [line for axes in chart.axes for line in axes.lines if line.get_markerfacecolor() == "none"]
    assert [(list(ring.get_xdata()), list(ring.get_ydata())) for ring in rings] == [([1024], [65.0])]
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 5
    assert (left.get_title(), right.get_title()) == ("new", "drawings")
    assert "new, again: 10.0 after 128 steps, 65.0 after 1,024 steps" in chart.alt
    assert "In bfloat16: again, 1,024 steps." in chart.alt


def test_curves_end_where_their_runs_end():
    chart = charts.by_pairs_seen({"clip": ([128, 256], [10.0, 40.0]), "ping": ([128, 256], [20.0, 60.0])}, "recall (%)")
    (axes,) = chart.axes
    assert axes.get_xscale() == "log" and [list(line.get_ydata()) for line in axes.lines] == [[10.0, 40.0], [20.0, 60.0]]
    assert "clip: 40.0 after 256 pairs" in chart.alt


def test_growth_is_logarithmic_and_theory_dashed_through_the_last_point():
    chart = charts.scaling({"pairs": {"loss": ((1, 2, 4, 8), (1.0, 3.0, 9.0, 30.0), 1.7, 2)}})
    axes = chart.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    measured, theory = axes.lines
    assert list(theory.get_ydata()) == [30.0 / 4, 30.0] and theory.get_linestyle() == "--"
    assert list(measured.get_ydata()) == [1.0, 3.0, 9.0, 30.0] and "measured slope 1.70, theory 2" in chart.alt
