"""Plots: pure functions to a Figure with its axes named, as PNG, and nothing left behind in pyplot."""

import base64
import inspect

import matplotlib.pyplot
import numpy as np
import pytest
import torch
from matplotlib.axis import Axis
from matplotlib.figure import Figure

from lcl.course import plots
from lcl.train.loop import Step, Validation

SIMILARITY = torch.rand(8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
CURVE = [
    *(Step(step, 6, 4 / step, {"info_nce": 4 / step}, 1e-3, 1.0, 14.0, 100.0, 1.0) for step in range(1, 7)),
    Validation(3, 2.0, 0.1, 0.2),
    Validation(6, 1.0, 0.3, 0.4),
]


@pytest.fixture(scope="module")
def pairs(few_world):
    return few_world.pairs("train", range(8))


PLOTS = {
    "grid": lambda pairs, world: plots.grid(pairs.images, pairs.captions, columns=3),
    "embedding_map": lambda pairs, world: plots.embedding_map(
        {"PCA": torch.rand(9, 2), "UMAP": torch.rand(9, 2)}, ["a", "b"], torch.arange(9) % 2, "kind"
    ),
    "grid without titles": lambda pairs, world: plots.grid(pairs.images),
    "annotated_scenes": lambda pairs, world: plots.annotated_scenes(pairs, world.name),
    "loss_curve": lambda pairs, world: plots.loss_curve(CURVE, 64),
    "loss_curve without looks": lambda pairs, world: plots.loss_curve(CURVE[:6], 64),
    "similarity_matrix": lambda pairs, world: plots.similarity_matrix(SIMILARITY),
    "similarity_matrix with labels": lambda pairs, world: plots.similarity_matrix(SIMILARITY, labels=pairs.captions),
    "softmax_rows": lambda pairs, world: plots.softmax_rows(SIMILARITY, 14.3),
    "retrieved_images": lambda pairs, world: plots.retrieved_images(
        pairs.captions[:3], range(3), SIMILARITY[:3], pairs.images
    ),
    "bars": lambda pairs, world: plots.bars({"a": {"ours": 1.0, "peer": 2.0}, "b": {"ours": 3.0, "peer": 4.0}}, "s"),
    "soft_labels": lambda pairs, world: plots.soft_labels(SIMILARITY.softmax(1), (SIMILARITY > 0).long(), "after 3 steps"),
    "curve_with_reference": lambda pairs, world: plots.curve_with_reference({0.1: 0.9, 1.0: 0.5}, 0.2, "T", "share", "blind"),
    "cost_matrix": lambda pairs, world: plots.cost_matrix(1 - SIMILARITY[:3], SIMILARITY[:3].softmax(1) / 2, ["a", "red", "cat"]),
    "word_lines": lambda pairs, world: plots.word_lines(
        pairs.images[0], ["a", "red", "cat"], [-1, 3, 63], 64, [(), (), ((4, 4, 20, 30),)], "exact"
    ),
    "neighbour_sheet": lambda pairs, world: plots.neighbour_sheet(
        pairs.images[0], pairs.captions[0], {"by image": [(pairs.images[1], pairs.captions[1], 0.5, 1)], "by caption": []}
    ),
    "dots": lambda pairs, world: plots.dots({"R@1": [[1.0, 2.0], [3.0]], "nDCG": [[], [4.0]]}, ["clip", "lightclip"], "percent"),
    "depth_sweep": lambda pairs, world: plots.depth_sweep([1, 2], {"R@1": [[1, 2], [3, 4]]}, {"latency": [1.0, 2.0]}),
    "gates": lambda pairs, world: plots.gates({0: {1: 0.0, 2: 0.0}, 64: {1: 0.1, 2: -0.2}}),
    "parts_curve": lambda pairs, world: plots.parts_curve(CURVE, {"info_nce": 4.16}),
    "parts_curve of nothing yet": lambda pairs, world: plots.parts_curve([], {}),
    "reading_order": lambda pairs, world: plots.reading_order(torch.arange(24).view(6, 4), 3),
    "runs_together": lambda pairs, world: plots.runs_together({"whole": {1: 3.0, 2: 2.0}, "resumed": {2: 2.0}}, "nats"),
    "word_guesses": lambda pairs, world: plots.word_guesses(
        [pairs.images[0], None], ["true", "none"], [(["cat", "dog"], torch.tensor([0.7, 0.2]))] * 2, "a [MASK]"
    ),
    "bars in a log scale": lambda pairs, world: plots.bars({"a": {"ours": 1.0}, "b": {"ours": 300.0}}, "s", log=True),
}


@pytest.fixture(params=PLOTS)
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
        if function.__module__ == plots.__name__
        and not name.startswith("_")
        and inspect.signature(function).return_annotation in ("Chart", plots.Chart)
    }
    assert public == {name.split()[0] for name in PLOTS}


def test_a_plot_is_a_figure_and_becomes_a_png(figure):
    assert isinstance(figure, Figure) and figure.axes
    png = plots.to_png(figure, dpi=40)
    assert png.startswith(b"\x89PNG\r\n\x1a\n") and len(png) > 1000
    kind, data = plots.to_data_url(figure).split(",")
    assert kind == "data:image/png;base64" and base64.b64decode(data, validate=True).startswith(b"\x89PNG")


def test_a_plot_says_in_words_what_it_shows(figure):
    assert len(figure.alt) > 20 and figure.alt.endswith(".") and "\n" not in figure.alt
    words, about = figure._repr_mimebundle_()
    assert words == {"text/plain": figure.alt} and about["image/png"]["alt"] == figure.alt
    assert figure._repr_png_().startswith(b"\x89PNG")


def test_axes_that_show_numbers_say_of_what(figure):
    figure.draw_without_rendering()
    shown = [axes for axes in figure.axes if axes.axison]
    assert [axes for axes in shown if unnamed(axes.xaxis) or unnamed(axes.yaxis)] == []


def test_nothing_is_left_behind_in_pyplot(figure):
    plots.to_png(figure, dpi=40)
    assert matplotlib.pyplot.get_fignums() == []


def test_pixels_keep_their_colours_and_places():
    image = torch.arange(3 * 2 * 4, dtype=torch.uint8).reshape(3, 2, 4)
    shown = plots.as_pixels(image)
    assert shown.shape == (2, 4, 3) and shown.dtype == np.uint8
    assert shown[1, 2].tolist() == image[:, 1, 2].tolist()


def test_the_loss_curve_shows_the_losses_and_the_line_of_a_guess():
    left = plots.loss_curve(CURVE, 64).axes[0]
    lines = [line.get_ydata() for line in left.lines]
    assert any(list(line) == [event.loss for event in CURVE[:6]] for line in lines)
    assert any(list(line) == [2.0, 1.0] for line in lines)
    assert any(np.allclose(line, np.log(64)) for line in lines)


def test_the_title_of_softmax_rows_gives_the_loss_of_the_batch():
    title = plots.softmax_rows(torch.zeros(8, 8), 10.0).axes[0].get_title()
    assert title.count("2.08") == 2  # ln 8, twice: a guess is what it shows


def test_where_there_are_fewer_images_than_are_asked_for_all_are_shown(pairs):
    figure = plots.retrieved_images(["a query"], [1], torch.tensor([[0.1, 0.9]]), pairs.images[:2], k=5)
    assert [cell.get_title() for cell in figure.axes[1:]] == ["right: 0.90", "0.10"]


def test_retrieved_images_are_the_nearest_and_the_right_one_is_marked(pairs):
    similarity = torch.tensor([[0.1, 0.9, 0.3, 0.8, 0.2, -0.5, 0.0, 0.4]])
    cells = plots.retrieved_images(["a query"], [3], similarity, pairs.images, k=3).axes[1:]
    assert [cell.get_title() for cell in cells] == ["0.90", "right: 0.80", "0.40"]
    for cell, number in zip(cells, (1, 3, 7), strict=True):
        assert np.array_equal(cell.images[0].get_array(), plots.as_pixels(pairs.images[number]))


def rectangles(axes) -> list[tuple[float, float, float]]:
    return [(patch.get_x(), patch.get_y(), patch.get_width()) for patch in axes.patches]


def test_a_word_is_joined_with_its_patch_and_one_in_the_dustbin_with_none():
    image = torch.zeros(3, 64, 64, dtype=torch.uint8)
    axes = plots.word_lines(image, ["a", "cat"], [-1, 5], 16, [(), ((4, 4, 20, 30),)]).axes[0]
    assert rectangles(axes) == [(4, 4, 16), (16, 16, 16)]  # its box, and patch 5 of 4 × 4, which lies in row 1, column 1
    assert [text.get_text() for text in axes.texts] == ["a  (dustbin)", "cat"]


def test_the_dustbin_is_the_last_column_of_a_cost_matrix():
    plan = torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, 0.0]])
    axes = plots.cost_matrix(torch.rand(2, 3), plan, ["cat", "of"]).axes[0]
    assert axes.collections[0].get_offsets().tolist() == [[1, 0], [3, 1]]


def test_the_bar_stands_at_the_mean_of_the_seeds():
    axes = plots.dots({"R@1": [[1.0, 2.0, 6.0]]}, ["clip"], "percent").axes[0]
    assert list(axes.lines[0].get_xdata()) == [3.0, 3.0] and len(axes.collections[0].get_offsets()) == 3
