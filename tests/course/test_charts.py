"""Figures of results show every number that they were given, where it belongs, and say so in words."""

import pytest
from matplotlib.colors import to_hex

from lcl.course import charts, plots
from lcl.course.study import Gain
from lcl.train.loop import Step, Validation

LOOKS = [Validation(step, 2.0, share, share / 2) for step, share in ((10, 0.2), (20, 0.6))]
CURVE = [Step(1, 20, 3.0, {"info_nce": 3.0}, 1e-3, 1.0, 14.0, 100.0, 1.0), *LOOKS]
GAINS = {"up": Gain(5.0, 2.0, 8.0, 3), "unsure": Gain(1.0, -2.0, 4.0, 3), "down": Gain(-3.0, -4.0, -2.0, 3)}


def test_what_lies_above_zero_is_blue_what_holds_it_grey_and_what_lies_below_red():
    chart = charts.gains({"recall": GAINS}, "clip", {"recall": {"up": 4.5}})
    axes = chart.axes[0]
    bars = [line for line in axes.lines if len(set(line.get_ydata())) == 1 and line.get_linewidth() == 2]
    assert [tuple(map(float, bar.get_xdata())) for bar in bars] == [(gain.low, gain.high) for gain in GAINS.values()]
    assert [to_hex(bar.get_color()).upper() for bar in bars] == [plots.BLUE, plots.GREY, plots.RED]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{name} (3)" for name in GAINS]
    (diamond,) = (dots for dots in axes.collections if not len(dots.get_facecolors()))
    assert diamond.get_offsets().tolist() == [[4.5, 0.0]]
    assert [text.get_text() for text in chart.legends[0].texts] == ["reported by the paper, of its own scale"]
    assert "up +5.0 (+2.0 to +8.0)" in chart.alt and "recall: up +4.5" in chart.alt
    assert not charts.gains({"recall": GAINS}, "clip").legends
    assert not charts.gains({"recall": GAINS}, "clip", {"zero-shot": {"up": 4.5}}).legends  # of a panel that there is not


def test_a_recipe_that_a_panel_lacks_leaves_its_line_empty():
    few = {name: GAINS[name] for name in ("unsure", "down")}
    chart = charts.gains({"recall": few, "zero-shot": GAINS}, "clip", {"zero-shot": {"up": 4.0, "down": 1.0}})
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == ["unsure (3)", "down (3)", "up (3)"]
    for axes, row in zip(chart.axes, (few, GAINS), strict=True):
        dots = {tuple(point) for each in axes.collections if len(each.get_facecolors()) for point in each.get_offsets().tolist()}
        assert dots == {(gain.mean, ["unsure", "down", "up"].index(name)) for name, gain in row.items()}
    assert len(chart.legends[0].texts) == 1


def test_two_runs_share_their_rows_and_what_one_lacks_has_one_dot():
    figures = {"mine": {"recall": 50.0, "alignment": 80.0}, "clip": {"recall": 40.0}}
    chart = charts.two_runs({"mine": CURVE, "clip": CURVE[:2]}, figures, "new_scenes")
    left, right = chart.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[50.0, 100.0], [50.0]]  # the other was stopped half-way
    assert list(left.lines[0].get_ydata()) == pytest.approx([15.0, 45.0])
    dots = {tuple(map(float, point)) for dots in right.collections for point in dots.get_offsets()}
    assert dots == {(50.0, 0.0), (80.0, 1.0), (40.0, 0.0)}
    assert "recall 50.0" in chart.alt and "new_scenes" in chart.alt


def test_sizes_have_a_dot_a_seed_and_the_gain_its_interval():
    lines = {"clip": {4: [10.0, 20.0], 16: [30.0, 40.0]}, "ping": {4: [20.0, 30.0], 16: [35.0, 45.0]}}
    chart = charts.by_size(lines, {4: GAINS["up"], 16: GAINS["unsure"]}, "recall (%)")
    left, right = chart.axes
    assert sum(len(dots.get_offsets()) for dots in left.collections) == 8
    assert [tuple(line.get_ydata()) for line in right.lines[:2]] == [(2.0, 8.0), (-2.0, 4.0)]
    assert "clip 15.0 of 4 pairs, 35.0 of 16 pairs" in chart.alt


def test_a_price_has_a_point_and_a_name_a_recipe():
    chart = charts.prices({"a": (1.0, GAINS["unsure"]), "b": (1.7, GAINS["up"])}, "time", "points")
    axes = chart.axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "b"] and "b +5.0 (+2.0 to +8.0) for 1.70" in chart.alt
    assert [dots.get_offsets().tolist() for dots in axes.collections] == [[[1.0, 1.0]], [[1.7, 5.0]]]
    assert [list(map(float, bar.get_ydata())) for bar in axes.lines[:2]] == [[-2.0, 4.0], [2.0, 8.0]]


def test_growth_is_logarithmic_and_theory_dashed_through_the_last_point():
    chart = charts.growth({"pairs": {"loss": ((1, 2, 4, 8), (1.0, 3.0, 9.0, 30.0), 1.7, 2)}})
    axes = chart.axes[0]
    assert axes.get_xscale() == axes.get_yscale() == "log"
    measured, theory = axes.lines
    assert list(theory.get_ydata()) == [30.0 / 4, 30.0] and theory.get_linestyle() == "--"
    assert list(measured.get_ydata()) == [1.0, 3.0, 9.0, 30.0] and "measured slope 1.70, theory 2" in chart.alt
