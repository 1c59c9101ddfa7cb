"""Controls over pictures: the picture follows the control, errors are seen, and without a kernel there is a still one."""

import base64
import xml.etree.ElementTree as ElementTree

import torch
from matplotlib.figure import Figure

from lcl.widgets import Explorer, WordHover, dropdown, slider


def bar(height):
    figure = Figure(figsize=(2, 1))
    figure.add_subplot().bar([0], [1 / height])
    return figure


def explorer():
    height = slider("height", 0, 5, 1)
    return height, Explorer(bar, "A <bar>.", height=height)


def test_the_picture_follows_the_control_and_comes_back():
    height, shown = explorer()
    first = shown.picture.value
    height.value = 2
    assert shown.picture.value != first
    height.value = 1
    assert shown.picture.value == first


def test_an_error_is_seen_and_goes_away():
    height, shown = explorer()
    height.value = 0
    assert "division by zero" in shown.problem.value
    height.value = 3
    assert shown.problem.value == ""


def test_the_picture_has_words_for_those_who_do_not_see_it():
    assert 'alt="A &lt;bar&gt;."' in explorer()[1].picture.value


def test_without_a_kernel_there_is_a_still_picture():
    bundle = explorer()[1]._repr_mimebundle_()
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")
    assert "application/vnd.jupyter.widget-view+json" in bundle and bundle["text/plain"] == "A <bar>."


def test_sliders_are_whole_or_not_as_their_limits_are():
    assert slider("n", 0, 9, 3).value == 3 and isinstance(slider("n", 0, 9, 3).value, int)
    assert isinstance(slider("x", 0.0, 9, 3).value, float)
    assert dropdown("which", ["a", "b"]).value == "a"


SVG = "{http://www.w3.org/2000/svg}"


def hover(words=("a", "<b>cat</b>"), shares=((0, 0.0), (5, 1.0))):
    plan = torch.zeros(len(words), 16)
    for row, (patch, share) in enumerate(shares):
        plan[row, patch] = share
    bundle = WordHover(torch.zeros(3, 32, 32, dtype=torch.uint8), words, plan, [(), [(8, 8, 16, 24)]])._repr_mimebundle_()
    return bundle, ElementTree.fromstring(bundle["text/html"].replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))


def test_every_word_can_be_reached_by_keyboard_and_lights_its_patch():
    _, svg = hover()
    words = [group for group in svg.iter(f"{SVG}g") if group.get("class") == "word"]
    assert [word.get("aria-label") for word in words] == ["a", "<b>cat</b>"]
    assert all(word.get("tabindex") == "0" for word in words)
    lit = [[r for r in word.find(f"{SVG}g").iter(f"{SVG}rect") if r.get("stroke-dasharray") is None] for word in words]
    assert [len(patches) for patches in lit] == [0, 1]
    assert [lit[1][0].get(side) for side in ("x", "y", "width")] == ["80.0", "80.0", "80.0"]  # patch 5 of 4 × 4, at 320 pixels


def test_the_box_of_what_a_word_names_is_dashed():
    _, svg = hover()
    dashed = [rectangle for rectangle in svg.iter(f"{SVG}rect") if rectangle.get("stroke-dasharray")]
    boxes = [[float(rectangle.get(side)) for side in ("x", "y", "width", "height")] for rectangle in dashed]
    assert boxes == [[80.0, 80.0, 80.0, 160.0]]


def test_a_word_in_the_dustbin_says_so():
    bundle, svg = hover()
    assert [note.text or "" for note in svg.iter(f"{SVG}tspan")] == [" – dustbin 100%", ""]
    assert bundle["text/plain"] == "a: dustbin; <b>cat</b>: patch 5"


def test_it_needs_no_script_and_no_network_and_leaves_a_still_picture():
    bundle, _ = hover()
    assert "<script" not in bundle["text/html"] and "http" not in bundle["text/html"]
    assert base64.b64decode(bundle["image/png"]).startswith(b"\x89PNG")


def test_two_on_one_page_keep_apart_and_equal_ones_are_equal():
    first, second = hover()[1].get("id"), hover(shares=((0, 1.0), (5, 1.0)))[1].get("id")
    assert first != second and first == hover()[1].get("id")
