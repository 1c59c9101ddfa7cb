"""Plots: pure functions to a Figure with its axes named, as PNG, and nothing left behind in pyplot."""

import base64
import dataclasses
import inspect
import io
import re

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.axis import Axis
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image

from lcl.course import plots
from lcl.course.statistics import Gain
from lcl.train.loop import Step, Validation

SIMILARITY = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
CURVE = [
    *(Step(step, 6, 4 / step, {"info_nce": 4 / step}, 1e-3, 1.0, 14.0, 100.0, 1.0) for step in range(1, 7)),
    Validation(3, 2.0, 0.1, 0.2),
    Validation(6, 1.0, 0.3, 0.4),
]
HALFWAY = [
    Step(1, 20, 3.0, {"info_nce": 3.0}, 1e-3, 1.0, 14.0, 100.0, 1.0),
    *(Validation(step, 2.0, share, share / 2) for step, share in ((10, 0.2), (20, 0.6))),
]
LONG = "an image of a pink pair of ballet shoes to the left of a seal, and a megaphone on a grainy brown background"
GAINS = {"up": Gain(5.0, 2.0, 8.0, 3), "unsure": Gain(1.0, -2.0, 4.0, 3), "down": Gain(-3.0, -4.0, -2.0, 3)}


@pytest.fixture(scope="module")
def pairs(few_world):
    return few_world.pairs("train", range(8))


PLOTS = {
    "grid": lambda pairs, world: plots.grid(pairs.images, pairs.captions, columns=3),
    "embedding_map": lambda pairs, world: plots.embedding_map(
        {"PCA": torch.rand(9, 2), "UMAP": torch.rand(9, 2)}, ["a", "b"], torch.arange(9) % 2, "kind"
    ),
    "grid of long titles": lambda pairs, world: plots.grid(pairs.images[:6], [LONG] + ["short"] * 5, width=2.0),
    "annotated_scenes with long captions": lambda pairs, world: plots.annotated_scenes(
        dataclasses.replace(pairs, scenes=[dataclasses.replace(pairs.scenes[0], caption=LONG), *pairs.scenes[1:]]), world.name
    ),
    "similarity_matrix of 24 long labels": lambda pairs, world: plots.similarity_matrix(torch.eye(24), labels=24 * [LONG]),
    "grid without titles": lambda pairs, world: plots.grid(pairs.images),
    "annotated_scenes": lambda pairs, world: plots.annotated_scenes(pairs, world.name),
    "loss_curve": lambda pairs, world: plots.loss_curve(CURVE, {"info_nce": 4.16}),
    "loss_curve without validation": lambda pairs, world: plots.loss_curve(CURVE[:6], {}),
    "loss_curve of nothing yet": lambda pairs, world: plots.loss_curve([], {}),
    "gains": lambda pairs, world: plots.gains({"recall": GAINS}, "clip"),
    "gain_by_cost": lambda pairs, world: plots.gain_by_cost({"a": (1.0, GAINS["up"])}, "time", "points"),
    "two_runs": lambda pairs, world: plots.two_runs({"a": HALFWAY, "b": CURVE}, {"a": {"recall": 1.0}, "b": {}}, "x"),
    "grid with frames": lambda pairs, world: plots.grid(pairs.images, pairs.captions, framed=[1]),
    "similarity_matrix": lambda pairs, world: plots.similarity_matrix(SIMILARITY),
    "similarity_matrix with labels": lambda pairs, world: plots.similarity_matrix(SIMILARITY, labels=pairs.captions),
    "softmax_rows": lambda pairs, world: plots.softmax_rows(SIMILARITY, 14.3),
    "retrieved_images": lambda pairs, world: plots.retrieved_images(
        pairs.captions[:3], range(3), SIMILARITY[:3], pairs.images
    ),
    "bars": lambda pairs, world: plots.bars({"a": {"ours": 1.0, "peer": 2.0}, "b": {"ours": 3.0, "peer": 4.0}}, "s"),
    "soft_labels": lambda pairs, world: plots.soft_labels(SIMILARITY.softmax(1), (SIMILARITY > 0).long(), "after 3 steps"),
    "lines": lambda pairs, world: plots.lines({"R@1": {1: [1, 2], 2: [3, 4]}, "MRR": {1: 5, 2: 6}}, "layers", "percent"),
    "lines by logarithm": lambda pairs, world: plots.lines({"a": {0.1: 0.9, 1: 0.5}}, "T", "share", ("blind", 0.2), True),
    "cost_matrix": lambda pairs, world: plots.cost_matrix(
        1 - SIMILARITY[:3], SIMILARITY[:3].softmax(1) / 2, ["a", "red", "cat"], "cost 1", SIMILARITY[0].clamp(min=0)
    ),
    "token_chips": lambda pairs, world: plots.token_chips([[("[BEGIN]", -1), ("pen", 0), ("guin", 0)], [("a", 0)] * 30]),
    "word_lines": lambda pairs, world: plots.word_lines(
        pairs.images[0], ["a", "red", "cat"], [-1, 3, 63], 64, [(), (), ((4, 4, 20, 30),)], "exact"
    ),
    "dots": lambda pairs, world: plots.dots({"R@1": [[1.0, 2.0], [3.0]], "nDCG": [[], [4.0]]}, ["clip", "lightclip"], "percent"),
    "reading_order": lambda pairs, world: plots.reading_order(torch.arange(24).view(6, 4), 3),
    "runs_together": lambda pairs, world: plots.runs_together({"whole": {1: 3.0, 2: 2.0}, "resumed": {2: 2.0}}, "nats"),
    "word_guesses": lambda pairs, world: plots.word_guesses(
        [pairs.images[0], None], ["true", "none"], [(["cat", "dog"], torch.tensor([0.7, 0.2]))] * 2, "a [MASK]"
    ),
    "bars in a log scale": lambda pairs, world: plots.bars({"a": {"ours": 1.0}, "b": {"ours": 300.0}}, "s", log=True),
}


@pytest.fixture(scope="module", params=PLOTS)
def figure(request, pairs, few_world):
    return PLOTS[request.param](pairs, few_world)


def is_number(text: str) -> bool:
    return any(character.isdigit() for character in text)


def unnamed(axis: Axis) -> bool:
    """Does an axis show numbers and not say of what?"""
    numbers = any(is_number(label.get_text()) for label in axis.get_ticklabels())
    return numbers and not axis.get_label_text()


def test_every_plot_is_tried_here():
    public = {
        name
        for name, function in inspect.getmembers(plots, inspect.isfunction)
        if function.__module__.startswith(plots.__name__)
        and not name.startswith("_")
        and inspect.signature(function).return_annotation in ("Chart", plots.Chart)
    }
    assert public == {name.split()[0] for name in PLOTS}


def test_a_plot_is_a_figure_and_becomes_a_png(figure):
    assert isinstance(figure, Figure) and figure.axes
    png = plots.to_png(figure, dpi=40)
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and len(png) > 1000
    assert matplotlib.pyplot.get_fignums() == []  # nothing is left behind


def test_a_plot_shows_itself_and_becomes_part_of_a_page():
    figure = plots.bars({"a": {"ours": 1.0}}, "s")
    kind, data = plots.to_data_url(figure).split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data, validate=True).startswith(b"\x89PNG")
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_a_plot_says_in_words_what_it_shows(figure):
    assert len(figure.alt) > 20 and figure.alt.endswith(".") and "\n" not in figure.alt
    words, about = figure._repr_mimebundle_()
    assert words == {"text/plain": figure.alt} and about["image/png"]["alt"] == figure.alt


def test_axes_that_show_numbers_say_of_what(figure):
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes for axes in shown if unnamed(axes.xaxis) or unnamed(axes.yaxis)] == []


PAGE = 900  # pixels that a page is wide


def drawn(figure: plots.Chart, monkeypatch) -> list[Text]:
    """The texts that are to be seen in a figure's picture."""
    found, draw = [], Text.draw
    monkeypatch.setattr(Text, "draw", lambda text, renderer: (found.append(text), draw(text, renderer)))
    plots.to_png(figure)
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def test_type_has_9_points_at_least_on_a_page_of_900_pixels(figure, monkeypatch):
    shrinks = min(1, PAGE / (100 * figure.get_size_inches()[0]))  # a PNG has 100 pixels an inch
    assert {text.get_text() for text in drawn(figure, monkeypatch) if shrinks * text.get_size() < 9} == set()


def test_no_text_is_cut_off(figure, monkeypatch):
    texts, page = drawn(figure, monkeypatch), figure.bbox.padded(1)
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    cut = [name for name, box in boxes.items() if not (page.containsx(box.x0) and page.containsx(box.x1)
                                                       and page.containsy(box.y0) and page.containsy(box.y1))]  # fmt: skip
    assert cut == []


def test_a_picture_brings_its_own_ground_so_a_dark_theme_does_not_hide_its_type(figure):
    pixels = np.asarray(Image.open(io.BytesIO(plots.to_png(figure, dpi=40))).convert("RGBA"))
    assert pixels[..., 3].min() == 255 and pixels[0, 0, :3].min() == 255  # opaque, and white
    brightness = [sum(to_rgb(text.get_color())) / 3 for text in figure.findobj(Text) if text.get_bbox_patch() is None]
    assert max(brightness) < 0.7


DOLLARS = r"costs $5 and $10, $$ or $x$ and $\frac{1}$"  # some of these are no formulas, and stop matplotlib
NAMED = {  # every place where a figure shows a text of its data: titles, labels of axes and ticks, legends, annotations
    "grid": lambda image, t: plots.grid(image[None], [t]),
    "similarity_matrix": lambda image, t: plots.similarity_matrix(torch.eye(2), t, [t, t], t, t, what=t),
    "retrieved_images": lambda image, t: plots.retrieved_images([t], [0], torch.ones(1, 1), image[None]),
    "cost_matrix": lambda image, t: plots.cost_matrix(torch.eye(2), torch.eye(2), [t, t], t),
    "token_chips": lambda image, t: plots.token_chips([[(t, 0), (t, -1)]]),
    "word_lines": lambda image, t: plots.word_lines(image, [t, t], [0, -1], 4, [(), ((1, 1, 5, 5),)], t),
    "word_guesses": lambda image, t: plots.word_guesses([image], [t], [([t], torch.ones(1))], t),
    "embedding_map": lambda image, t: plots.embedding_map({t: torch.eye(2)}, [t], torch.zeros(2), t),
    "runs_together": lambda image, t: plots.runs_together({t: {1: 1.0}}, t),
    "lines": lambda image, t: plots.lines({t: {1: 1.0, 2: 3.0}}, t, t, (t, 1.0), log=True),
    "bars": lambda image, t: plots.bars({t: {t: 1.0, "b": 2.0}}, t),
    "dots": lambda image, t: plots.dots({t: [[1.0]]}, [t], t),
    "gains": lambda image, t: plots.gains({t: {t: GAINS["up"]}}, t),
    "gain_by_cost": lambda image, t: plots.gain_by_cost({t: (1.0, GAINS["up"])}, t, t),
    "two_runs": lambda image, t: plots.two_runs({t: HALFWAY}, {t: {t: 1.0}}, t),
}


@pytest.mark.parametrize("name", NAMED)
def test_no_text_of_data_is_a_formula(name):
    """The picture equals the one that matplotlib draws with formulas switched off."""
    image = torch.zeros(3, 8, 8, dtype=torch.uint8)
    with matplotlib.rc_context({"text.parse_math": False}):
        plain = plots.to_png(NAMED[name](image, DOLLARS), dpi=30)
    assert plots.to_png(NAMED[name](image, DOLLARS), dpi=30) == plain


def test_the_powers_of_a_logarithmic_axis_are_formulas_as_before():
    figure = plots.Chart(4, 3, "two points")
    axes = figure.add_subplot(yscale="log")
    axes.plot(["$5 and $", "b"], [1.0, 300.0])
    plots.to_png(figure, dpi=30)
    names, powers = (axis.get_ticklabels() for axis in (axes.xaxis, axes.yaxis))
    assert not any(label.get_parse_math() for label in names) and all(label.get_parse_math() for label in powers)
    assert any("mathdefault" in label.get_text() for label in powers)


def test_bars_say_whole_numbers_whole_and_small_ones_exactly():
    figure = plots.bars({"a": {"x": 512.0, "y": 3.0, "z": 12.34}, "b": {"x": 0.04, "y": 5000.0, "z": 1.0}}, "s")
    shown = {text.get_text() for text in figure.axes[0].texts}
    assert shown == {"512", "3", "12.3", "0.04", "5,000", "1"}


@pytest.mark.parametrize(("reference", "bottom"), [(None, True), (("r", 0.5), True), (("r", -1.0), False)])
def test_a_reference_line_is_within_its_figure(reference, bottom):
    low, _ = plots.lines({"a": {1: 1.0, 2: 2.0}}, "x", "y", reference).axes[0].get_ylim()
    assert (low == 0) if bottom else (low < -1)
    assert plots.lines({}, "x", "y").axes


def test_logarithmic_bars_have_plain_numbers():
    figure = plots.bars({"a": {"ours": 0.286}, "b": {"ours": 4.74}}, "minutes", log=True)
    figure.draw_without_rendering()
    axis = figure.axes[0].yaxis
    shown = [label.get_text() for which in (False, True) for label in axis.get_ticklabels(minor=which) if label.get_text()]
    assert "1" in shown and all(re.fullmatch(r"[\d.]+", text) for text in shown)


def test_a_name_that_begins_with_an_underscore_is_in_the_legend():
    legends = [
        plots.lines({"_a": {1: 1.0}}, "x", "y", ("_b", 1.0)).legends[0],
        plots.runs_together({"_a": {1: 1.0}, "_b": {1: 1.0}}, "y").legends[0],
        plots.two_runs({"_a": HALFWAY, "_b": CURVE}, {"_a": {"recall": 1.0}, "_b": {}}, "x").legends[0],
        plots.bars({"x": {"_a": 1.0, "_b": 2.0}}, "s").legends[0],
        plots.embedding_map({"PCA": torch.eye(2)}, ["_a", "_b"], torch.arange(2), "kind").legends[0],
    ]
    for legend in legends:
        assert sorted(text.get_text().strip()[:2] for text in legend.texts) == ["_a", "_b"]


def test_words_for_a_figure_hold_nothing_that_a_terminal_obeys():
    assert plots.Chart(1, 1, "a\x1b[31m \u202eb\n").alt == "a\\x1b[31m \\u202eb\\n"


def test_pixels_keep_their_colours_and_places():
    image = torch.arange(3 * 2 * 4, dtype=torch.uint8).reshape(3, 2, 4)
    shown = plots.as_pixels(image)
    assert shown.shape == (2, 4, 3) and shown.dtype == np.uint8
    assert shown[1, 2].tolist() == image[:, 1, 2].tolist()


def test_the_loss_curve_shows_the_losses_and_the_line_of_chance():
    left = plots.loss_curve(CURVE, {"info_nce": np.log(64)}).axes[0]
    lines = [line.get_ydata() for line in left.lines]
    assert any(list(line) == [event.loss for event in CURVE[:6]] for line in lines)
    assert any(list(line) == [2.0, 1.0] for line in lines)
    assert any(np.allclose(line, np.log(64)) for line in lines)


def test_the_title_of_softmax_rows_gives_the_loss_of_the_batch():
    title = plots.softmax_rows(torch.zeros(8, 8), 10.0).axes[0].get_title()
    assert title.count("2.08") == 2  # ln 8, twice: the loss is at its chance level


def test_where_there_are_fewer_images_than_are_asked_for_all_are_shown(pairs):
    figure = plots.retrieved_images(["a query"], [1], torch.tensor([[0.1, 0.9]]), pairs.images[:2], k=5)
    assert [cell.get_title() for cell in figure.axes[1:]] == ["✓ 0.90", "0.10"]


def test_retrieved_images_are_the_nearest_and_the_right_one_is_marked(pairs):
    similarity = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2, -0.5, 0.0, 0.4]])
    cells = plots.retrieved_images(["a query"], [3], similarity, pairs.images, k=3).axes[1:]
    assert [cell.get_title() for cell in cells] == ["0.90", "✓ 0.80", "0.40"]
    for cell, number in zip(cells, (1, 3, 7), strict=True):
        assert np.array_equal(cell.images[0].get_array(), plots.as_pixels(pairs.images[number]))


def rectangles(axes) -> list[tuple[float, float, float]]:
    return [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in axes.patches]


def test_a_word_is_joined_with_its_patch_and_an_unmatched_one_with_none():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    axes = plots.word_lines(image, ["a", "cat"], [-1, 5], 16, [(), ((4, 4, 20, 30),)]).axes[0]
    assert rectangles(axes) == [(4, 4, 16), (16, 16, 16)]  # its box, and patch 5 of 4 × 4, which lies in row 1, column 1
    assert [text.get_text() for text in axes.texts] == ["a  (unmatched)", "cat"]


def test_a_patchs_dual_price_is_a_bar_below_its_column():
    cost, prices = torch.rand(2, 3), torch.tensor([0.3, 0.0, 0.1])
    above, below = plots.cost_matrix(cost, torch.eye(2, 3), ["cat", "of"], prices=prices).axes[:2]
    bars = {round(bar.get_x() + bar.get_width() / 2): bar.get_height() for bar in below.patches}
    assert bars == pytest.approx(dict(enumerate(prices.tolist()))) and above.get_xlim() == below.get_xlim()


def test_tokens_of_a_word_share_a_colour_and_stand_above_its_number():
    chart = plots.token_chips([[("[BEGIN]", -1), ("pen", 0), ("guin", 0), ("sits", 1)]])
    chips = {text.get_text(): text.get_bbox_patch().get_edgecolor() for text in chart.axes[0].texts if text.get_bbox_patch()}
    assert list(chips) == ["[BEGIN]", "pen", "guin", "sits"]
    assert chips["pen"] == chips["guin"] and len(set(chips.values())) == 3
    assert [text.get_text() for text in chart.axes[0].texts if not text.get_bbox_patch()] == ["0", "0", "1"]
    assert "4 tokens, 2 words" in chart.alt


def test_the_unmatched_share_is_the_last_column_of_a_cost_matrix():
    plan = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    axes = plots.cost_matrix(torch.rand(2, 3), plan, ["cat", "of"]).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[1, 0], [3, 1]]


def test_the_bar_stands_at_the_mean_of_the_seeds():
    axes = plots.dots({"R@1": [[1.0, 2.0, 6.0]]}, ["clip"], "percent").axes[0]
    assert list(axes.lines[0].get_xdata()) == [3.0, 3.0] and len(axes.collections[0].get_offsets()) == 3


def test_what_lies_above_zero_is_blue_what_holds_it_grey_and_what_lies_below_red():
    chart = plots.gains({"recall": GAINS}, "clip", {"recall": {"up": 4.5}})
    axes = chart.axes[0]
    bars = [line for line in axes.lines if len(set(line.get_ydata())) == 1 and line.get_linewidth() == 2]
    assert [tuple(map(float, bar.get_xdata())) for bar in bars] == [(gain.low, gain.high) for gain in GAINS.values()]
    assert [to_hex(bar.get_color()).upper() for bar in bars] == [plots.BLUE, plots.GREY, plots.RED]
    assert [label.get_text() for label in axes.get_yticklabels()] == [f"{name} (3)" for name in GAINS]
    (diamond,) = (dots for dots in axes.collections if not len(dots.get_facecolors()))
    assert diamond.get_offsets().tolist() == [[4.5, 0.0]]
    assert [text.get_text() for text in chart.legends[0].texts] == ["reported by the paper, of its own scale"]
    assert "up +5.0 (+2.0 to +8.0)" in chart.alt and "recall: up +4.5" in chart.alt
    assert not plots.gains({"recall": GAINS}, "clip").legends
    assert not plots.gains({"recall": GAINS}, "clip", {"zero-shot": {"up": 4.5}}).legends  # of a panel that there is not


def test_a_recipe_that_a_panel_lacks_leaves_its_line_empty():
    few = {name: GAINS[name] for name in ("unsure", "down")}
    chart = plots.gains({"recall": few, "zero-shot": GAINS}, "clip", {"zero-shot": {"up": 4.0, "down": 1.0}})
    assert [label.get_text() for label in chart.axes[0].get_yticklabels()] == ["unsure (3)", "down (3)", "up (3)"]
    for axes, row in zip(chart.axes, (few, GAINS), strict=True):
        dots = {tuple(point) for each in axes.collections if len(each.get_facecolors()) for point in each.get_offsets().tolist()}
        assert dots == {(gain.mean, ["unsure", "down", "up"].index(name)) for name, gain in row.items()}
    assert len(chart.legends[0].texts) == 1


def test_two_runs_share_their_rows_and_what_one_lacks_has_one_dot():
    figures = {"mine": {"recall": 50.0, "alignment": 80.0}, "clip": {"recall": 40.0}}
    chart = plots.two_runs({"mine": HALFWAY, "clip": HALFWAY[:2]}, figures, "new_scenes")
    left, right = chart.axes
    assert [list(line.get_xdata()) for line in left.lines] == [[50.0, 100.0], [50.0]]  # the other was stopped half-way
    assert list(left.lines[0].get_ydata()) == pytest.approx([15.0, 45.0])
    dots = {tuple(map(float, point)) for dots in right.collections for point in dots.get_offsets()}
    assert dots == {(50.0, 0.0), (80.0, 1.0), (40.0, 0.0)}
    assert "recall 50.0" in chart.alt and "new_scenes" in chart.alt


def test_a_cost_has_a_point_and_a_name_a_recipe():
    chart = plots.gain_by_cost({"a": (1.0, GAINS["unsure"]), "b": (1.7, GAINS["up"])}, "time", "points")
    axes = chart.axes[0]
    assert [text.get_text() for text in chart.legends[0].texts] == ["a", "b"] and "b +5.0 (+2.0 to +8.0) for 1.70" in chart.alt
    assert [dots.get_offsets().tolist() for dots in axes.collections] == [[[1.0, 1.0]], [[1.7, 5.0]]]
    assert [list(map(float, bar.get_ydata())) for bar in axes.lines[:2]] == [[-2.0, 4.0], [2.0, 8.0]]


def test_a_band_lies_between_the_seeds():
    axes = plots.lines({"R@1": {1: [10.0, 20.0], 2: [30.0, 50.0]}}, "layers", "percent", ("chance", 5.0)).axes[0]
    assert [list(line.get_ydata()) for line in axes.lines] == [[15.0, 40.0], [5.0, 5.0]]
    assert {20.0, 50.0} <= {float(y) for _, y in axes.collections[0].get_paths()[0].vertices}


def test_framed_images_have_a_green_frame(pairs):
    frames = [axes.spines["left"].get_visible() for axes in plots.grid(pairs.images[:3], framed=[1]).axes]
    assert frames == [False, True, False]
