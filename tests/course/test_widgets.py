"""Explorers follow their controls; exhibits carry all they show, need no network, and leave a still picture with words."""

import base64
import dataclasses
import io
import json
import re
import shutil
import subprocess
from pathlib import Path

import anywidget
import ipywidgets
import matplotlib.path
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from conftest import untrained
from PIL import Image
from traitlets import TraitError

from lcl.config import LclError, get_profile
from lcl.course import plots, views, widgets
from lcl.course.widgets import Explorer, dropdown, slider, stops
from lcl.course.widgets.base import atlas, script
from lcl.course.widgets.guesser import masked
from lcl.losses.contrastive import soft_targets
from lcl.losses.masked_lm import FusedMlm
from lcl.teachers.search import nearest_neighbours
from lcl.train.loop import Step, Training, Validation
from lcl.train.recipes import SoftConfig

SCRIPTS = sorted(Path(widgets.__file__).parent.glob("*.js"))


def bar(height):
    chart = plots.Chart(2, 1, f"A <bar> of {height}.")
    chart.add_subplot().bar([0], [1 / height])
    return chart


def explorer():
    height = slider("height", 0, 5, 1)
    return height, Explorer(bar, height=height)


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


def test_an_error_is_shown_as_it_is():
    """Escaped, in a widget that sets no mathematics, as a Label does."""
    height, shown = explorer()
    shown._draw = lambda height: {}["<b>$5 and $10</b>"]
    height.value = 2
    assert "&lt;b&gt;$5 and $10" in shown.problem.value and type(shown.problem) is ipywidgets.HTML


def test_the_picture_has_words_for_those_who_do_not_see_it_and_they_follow():
    height, shown = explorer()
    assert 'alt="A &lt;bar&gt; of 1."' in shown.picture.value
    height.value = 2
    assert 'alt="A &lt;bar&gt; of 2."' in shown.picture.value


def test_sliders_are_whole_or_not_as_their_limits_are():
    assert slider("n", 0, 9, 3).value == 3 and isinstance(slider("n", 0, 9, 3).value, int)
    assert isinstance(slider("x", 0.0, 9, 3).value, float)
    assert dropdown("which", ["a", "b"]).value == "a"


def test_a_slider_with_stops_takes_these_values_and_no_other():
    side = stops("side", [8, 16, 32], 16)
    assert side.value == 16 and side.index == 1
    side.index = 2
    assert side.value == 32
    with pytest.raises(TraitError):
        side.value = 24


@pytest.fixture(scope="module")
def pairs(few_world):
    return few_world.pairs("new_scenes", range(6))


@pytest.mark.parametrize("kind", [Explorer, *widgets.Exhibit.__subclasses__()], ids=lambda kind: kind.__name__)
def test_no_figure_gives_a_method_of_ipywidgets_another_meaning(kind):
    """ipywidgets calls its own: `close`, for example, when a widget or its process ends, which once drew a figure then."""
    base = ipywidgets.VBox if kind is Explorer else anywidget.AnyWidget
    classes = [each for each in kind.__mro__ if each.__module__.startswith("lcl.")]
    ours = {name for each in classes for name, found in vars(each).items() if callable(found) and not name.startswith("__")}
    assert ours & set(dir(base)) <= {"_repr_mimebundle_"}


@pytest.fixture(scope="module")
def exhibits(few_world, small_world, tokenizer, pairs):
    """One of each, of an untrained model."""
    model = untrained(0)
    mlm = FusedMlm(model.config, model.language, model.vision.width)
    aligned = {name: {s: views.aligned(model, tokenizer, pairs, s) for s in ("exact", "max")} for name in ("a", "b")}
    v, t = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    points = {way: torch.rand(12, 2) for way in ("PCA", "UMAP")}
    live = widgets.LiveCurves(Training(get_profile("smoke"), small_world))
    for event in CURVE:
        live.add(event)
    live.finish()
    figures = {"new_scenes": {"zero_shot_top1": {"value": 0.5, "chance": 0.1}}}
    contender = views.contender(model, tokenizer, pairs, CURVE, figures)
    return {
        "alignment": widgets.AlignmentInspector(pairs, aligned),
        "labels": widgets.LabelScrubber(pairs, {0: torch.eye(6), 5: torch.rand(6, 6)}, 10, SoftConfig()),
        "guesser": widgets.WordGuesser(pairs, views.blanks(model, mlm, tokenizer, pairs)),
        "neighbours": widgets.NeighbourBrowser(
            few_world, pairs.scenes, [0, 2], nearest_neighbours(v, 3), nearest_neighbours(t, 3), k=3
        ),
        "map": widgets.EmbeddingMap(pairs.images, pairs.captions, points, {"error": (views.FOUND, torch.arange(12) % 3)}),
        "board": widgets.RunBoard(pairs, {"one": contender, "other": dataclasses.replace(contender, curve=tuple(CURVE[:-1]))}),
        "curves": live,
        "search": widgets.FolderSearch(model, tokenizer),
    }


CURVE = [
    *(Step(step, 32, 4 / step, {"info_nce": 4 / step}, 1e-3, 1.0, 14.0, 100.0, 1.0) for step in range(1, 33)),
    Validation(32, 1.0, 0.3, 0.4),
]
KINDS = ("alignment", "labels", "guesser", "neighbours", "map", "board", "curves", "search")


@pytest.fixture(params=KINDS)
def exhibit(request, exhibits):
    return exhibits[request.param]


def test_every_kind_of_exhibit_is_tried_here(exhibits):
    scripts = {path.stem for path in SCRIPTS} - {"common"}
    assert set(exhibits) == set(KINDS) == scripts


def test_where_no_kernel_runs_there_is_a_still_picture_with_words(exhibit):
    bundle, metadata = exhibit._repr_mimebundle_()
    picture = Image.open(io.BytesIO(base64.b64decode(bundle["image/png"])))
    assert picture.width > 300 and picture.height > 100
    assert len(metadata["image/png"]["alt"]) > 30 and bundle["text/plain"] == metadata["image/png"]["alt"]
    assert "application/vnd.jupyter.widget-view+json" in bundle


def test_it_is_labelled_and_carries_all_that_it_shows(exhibit):
    assert len(exhibit.label) > 20
    told = json.dumps(exhibit.data, allow_nan=False)
    assert json.dumps(json.loads(told)) == told


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_script_asks_for_nothing_from_outside(path):
    script = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|\bimport\b|\bfetch\(|XMLHttpRequest|WebSocket|innerHTML|eval\(", script)
    assert path.stem == "common" or f'export default exhibit("{path.stem}"' in script


needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node, which runs scripts without a browser, is not installed"
)


def in_node(folder: Path, kind: str, code: str):
    """What `found` is after some code that follows an exhibit's script."""
    (folder / "code.mjs").write_text(f"{script(kind)};{code};console.log(JSON.stringify(found));", encoding="utf-8")
    return json.loads(subprocess.run(["node", str(folder / "code.mjs")], capture_output=True, text=True, check=True).stdout)


@needs_node
def test_the_scrubber_softens_labels_as_the_loss_does(tmp_path):
    cosines = torch.rand(5, 5, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = in_node(tmp_path, "labels", f"const found = targets({cosines.tolist()}, 0.3, 0.07)")
    torch.testing.assert_close(torch.tensor(found), soft_targets(cosines, 0.3, 0.07), rtol=1e-4, atol=1e-6)


@needs_node
def test_the_lasso_gathers_what_lies_inside_it(tmp_path):
    corners, asked = np.random.default_rng(0).uniform(0, 9, (9, 2)), np.random.default_rng(1).uniform(0, 9, (400, 2))
    corners = corners[np.argsort(np.arctan2(*(corners - corners.mean(0)).T))]  # around their middle, so no side crosses another
    code = f"const found = {asked.tolist()}.map(([x, y]) => inside(x, y, {corners.tolist()}))"
    within = matplotlib.path.Path(corners).contains_points(asked)
    assert 0.1 < within.mean() < 0.9 and in_node(tmp_path, "map", code) == within.tolist()


@needs_node
def test_colours_are_those_of_viridis(tmp_path):
    found = in_node(tmp_path, "labels", "const found = [0, 0.13, 0.5, 0.77, 1, 2].map(viridis)")
    right = [matplotlib.colormaps["viridis"](share, bytes=True)[:3] for share in (0, 0.13, 0.5, 0.77, 1.0, 1.0)]
    np.testing.assert_allclose(found, np.array(right, int), atol=4)  # its ten stops, and straight lines between them


@needs_node
def test_a_caption_does_not_reverse_the_sentence_that_it_stands_in(tmp_path):
    marks = [*range(0x202A, 0x202F), *range(0x2066, 0x206A)]
    found = in_node(tmp_path, "labels", f"const found = inOrder({json.dumps(''.join(map(chr, marks)) + ' שלום 👩‍🚒')})")
    assert found == "".join(rf"\u{mark:x}" for mark in marks) + " שלום 👩‍🚒"


@needs_node
def test_live_curves_draw_each_curve_by_its_own_values(tmp_path):
    """The pure functions of the script, called in node."""
    steps, values, weights = [1, 2, 5, 9, 10], np.random.default_rng(0).uniform(0.1, 9, (2, 5)), (0, 0.3, 0.98)
    losses = {"info_nce": values[0].tolist(), "soft": values[1].tolist()}
    data = {"steps": steps, "losses": losses, "validations": [[5, 2.5, 0.1, 0.7], [10, 1.5, 0.2, 0.9]]}
    code = f"""
        const data = {json.dumps(data)}, before = {{ ...data, validations: [] }}, [first, second] = recallLines(data);
        const found = {{
          losses: {list(weights)}.map((weight) => lossLines(data, weight)), first, second,
          before: [lossLines(before, 0).length, recallLines(before).length],
          panels: panelsOf({{ ...data, chances: {{ info_nce: 4 }} }}, 0)
            .map(({{ title, unit, chance, lines }}) => [title, unit, chance ?? null, lines.map(({{ name }}) => name)]),
          soft: panelsOf({{ ...data, losses: {{ soft: [1, 2] }}, chances: {{}} }}, 0)[0].lines.map(({{ name }}) => name),
          drawn: points(second, (step) => 2 * step, (value) => 100 - value),
          ticks: [[0, 10, false], [0, 0.47, false], [3, 1000, false], [0.004, 30, true]].map((range) => ticks(...range)),
        }};
        """
    found = in_node(tmp_path, "curves", code)
    for weight, (*lines, validation) in zip(weights, found["losses"], strict=True):
        for line, (name, row) in zip(lines, losses.items(), strict=True):
            assert (line["name"], line["steps"]) == (name, steps) and line["values"] == pytest.approx(smoothed(row, weight))
        assert validation == {"name": "validation", "steps": [5, 10], "values": [2.5, 1.5], "marks": True}  # never smoothed
    assert found["first"] == {"name": "image to text", "steps": [5, 10], "values": [10, 20], "marks": True}
    assert found["second"] == {"name": "text to image", "steps": [5, 10], "values": [70, 90], "marks": True}
    assert found["panels"] == [["info_nce", "nats", 4, ["info_nce", "validation"]], ["soft", "nats", None, ["soft"]],
                               ["recall@1, validation pairs", "percent", None, ["image to text", "text to image"]]]  # fmt: skip
    assert found["soft"] == ["soft", "validation"]  # the loss of validation has a place in any recipe
    assert found["before"] == [2, 0] and found["drawn"] == "10,30 20,10"
    assert found["ticks"][:3] == [[0, 2, 4, 6, 8, 10], pytest.approx([0, 0.1, 0.2, 0.3, 0.4]), [200, 400, 600, 800, 1000]]
    assert found["ticks"][3] == pytest.approx([0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 20])


def smoothed(values: list[float], weight: float) -> np.ndarray:
    """The exponential mean by its definition, a sum; the first value counts as if it had always been there."""
    powers = weight ** np.arange(len(values), dtype=float)
    sums = np.convolve(values, (1 - weight) * powers)[: len(values)]
    return sums + values[0] * weight * powers


@pytest.mark.parametrize("kind", KINDS)
@needs_node
def test_a_script_is_read_without_an_error(kind, tmp_path):
    path = tmp_path / f"{kind}.mjs"
    path.write_text(script(kind), encoding="utf-8")
    done = subprocess.run(["node", "--check", str(path)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_does_not_fit_together_is_refused(pairs, few_world):
    with pytest.raises(LclError, match="every checkpoint needs every solver"):
        widgets.AlignmentInspector(pairs, {"a": {"exact": []}})
    with pytest.raises(LclError, match="predictions for 0 scenes"):
        widgets.WordGuesser(pairs, [])
    with pytest.raises(LclError, match="need 12 points"):
        widgets.EmbeddingMap(pairs.images, pairs.captions, {"PCA": torch.rand(6, 2)}, {})


def test_a_board_needs_two_runs_that_were_asked_the_same(pairs):
    one = views.Contender((), {}, {"image to text": (0,) * 6, "text to image": (0,) * 6})
    with pytest.raises(LclError, match="at least two runs"):
        widgets.RunBoard(pairs, {"one": one})
    with pytest.raises(LclError, match="answered all 6 pairs"):
        widgets.RunBoard(pairs, {"one": one, "other": dataclasses.replace(one, answers={"image to text": (0,) * 5})})


def test_an_atlas_holds_every_image_in_its_place():
    images = torch.arange(5, dtype=torch.uint8).mul(50)[:, None, None, None].expand(5, 3, 8, 8)
    made = atlas(images)
    sheet = Image.open(io.BytesIO(base64.b64decode(made["src"].split(",")[1])))
    assert made["columns"] == 3 and sheet.size == (24, 16)
    for number in range(5):
        x, y = number % 3 * 8 + 4, number // 3 * 8 + 4
        assert abs(sheet.getpixel((x, y))[0] - 50 * number) < 8


def test_every_neighbour_of_a_scene_to_begin_with_leads_on(exhibits, few_world):
    """Its own list is held, whichever it is, and all cards are among the pictures that are held."""
    data, number = exhibits["neighbours"].data, 40
    assert data["queries"] == 2 and len(data["by_image"]) == len(data["by_caption"]) >= 2
    scenes = [few_world.scene("train", index) for index in range(number)]
    v, t = torch.randn(2, number, 8, generator=torch.Generator().manual_seed(1))
    near = nearest_neighbours(F.normalize(v, dim=1), 3), nearest_neighbours(F.normalize(t, dim=1), 3)
    for most in (5, 20, 1000):
        held = widgets.NeighbourBrowser(few_world, scenes, [3, 7], *near, k=3, most=most).data
        lists = list(zip(held["by_image"], held["by_caption"], strict=True))
        assert all(0 <= place < len(held["captions"]) for both in lists for cards in both for place, _, _ in cards)
        assert len(held["captions"]) <= max(most, 2 + 2 * 6) and held["captions"][:2] == [scenes[3].caption, scenes[7].caption]
        if most == 1000:  # all lead on, and each list is that of its scene
            assert len(lists) == len(held["captions"])
            rows = [[scene.caption for scene in scenes].index(caption) for caption in held["captions"]]
            for row, both in zip(rows, lists, strict=True):
                assert [[rows[place] for place, _, _ in cards] for cards in both] == [each.indices[row].tolist() for each in near]


def test_the_cosines_of_the_inspector_are_those_of_words_and_patches(exhibits):
    data = exhibits["alignment"].data
    for scenes in data["cosines"]:
        for scene, rows in zip(data["scenes"], scenes, strict=True):
            assert len(rows) == len(scene["words"]) and all(len(row) == data["rows"] ** 2 for row in rows)
            assert all(-100 <= cosine <= 100 for row in rows for cosine in row)


@needs_node
def test_captions_flow_between_their_words(tmp_path):
    code = 'const found = [gaps("a cat, a cat!", ["a", "cat", "a", "cat"]), gaps("x", ["x"]), gaps("!", [])]'
    found = in_node(tmp_path, "alignment", code)
    assert found == [["", " ", ", ", " ", "!"], ["", ""], ["!"]]


def test_a_caption_keeps_its_marks_when_a_word_is_hidden():
    words = ["A", "cat", "a", "cat", "and", "a", "cat"]
    assert masked("A cat, a cat and a cat.", words, 3) == "A cat, a [MASK] and a cat."
    assert masked("A cat, a cat and a cat.", words, 0) == "[MASK] cat, a cat and a cat."
    assert masked("A cat, a cat and a cat.", words, 6) == "A cat, a cat and a [MASK]."


@needs_node
def test_a_board_says_how_much_better_the_first_run_is(tmp_path):
    code = "const found = [difference(60, 50), difference(1, 3), difference(undefined, 3), difference(3, undefined)]"
    assert in_node(tmp_path, "board", code) == [10, -2, None, None]


@needs_node
def test_small_labels_are_said_in_words(tmp_path):
    found = in_node(tmp_path, "labels", "const found = [0, 7.6e-9, 0.0123, 1].map(small)")
    assert found == ["0.000", "under 0.001", "0.012", "1.000"]


def test_what_was_missed_is_red_and_every_group_has_a_colour_of_its_own():
    assert plots.group_colours(views.FOUND)[2] == plots.RED and len(set(plots.group_colours(views.FOUND))) == 3
    assert plots.group_colours("abcdef") == list(plots.CYCLE)


def test_the_scrubber_tells_alpha_as_the_recipe_has_it(exhibits):
    data = exhibits["labels"].data
    assert data["alphas"][0] == 0 and data["alphas"][1] == pytest.approx(0.05)  # half-way along half a cosine


def test_live_curves_keep_what_they_were_told(exhibits):
    data = exhibits["curves"].data
    assert data["steps"][-1] == 32 and data["message"] == "Done." and data["validations"] == [[32, 1.0, 0.3, 0.4]]
    assert data["losses"]["info_nce"][1] == 2.0


def test_a_long_training_sends_no_more_than_can_be_seen(exhibits):
    live = exhibits["curves"]
    steps = [dataclasses.replace(CURVE[0], step=step) for step in range(1, 5001)]
    live.finish(steps)
    assert len(live.data["steps"]) < 700 and live.data["steps"][-1] == 5000
    live.finish(CURVE)


def test_the_guesser_begins_with_the_name_of_a_thing(exhibits, pairs):
    for told, scene in zip(exhibits["guesser"].data["scenes"], pairs.scenes, strict=True):
        names = {scene.caption[slice(*obj.span)] for obj in scene.objects}
        single = names & {word["text"] for word in told["words"]}
        assert not single or told["words"][told["start"]]["text"] in names
