"""Controls over pictures: the picture follows the control, errors are seen, and without a kernel there is a still one."""

import base64

from matplotlib.figure import Figure

from lcl.widgets import Explorer, dropdown, slider


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
