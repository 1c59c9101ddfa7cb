"""Scenes are a function of (seed, split, index), and what they say of their things is what the pixels show."""

import dataclasses
import hashlib
import itertools
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from torch.utils._python_dispatch import TorchDispatchMode

from lcl.config import LclError, SceneConfig
from lcl.data.scenes import MAX_OVERLAP, SPLITS, SceneDataset, SceneView, open_scenes, overlap

PLANNED = 3000


@pytest.fixture(scope="module")
def planned(world):
    """Three thousand scenes of every split, without pixels."""
    return {split: [world.scene(split, index) for index in range(PLANNED)] for split in SPLITS}


@pytest.fixture(scope="module")
def every(planned):
    return list(itertools.chain(*planned.values()))


# --- what a scene holds


def test_a_scene_has_one_to_four_things(every):
    assert {len(scene.objects) for scene in every} == {1, 2, 3, 4}


def test_boxes_lie_inside_the_canvas(world, every):
    for scene in every:
        for left, top, right, bottom in (obj.box for obj in scene.objects):
            assert 0 <= left < right <= world.config.size and 0 <= top < bottom <= world.config.size


def test_things_overlap_little(every):
    for scene in every:
        for a, b in itertools.combinations(scene.objects, 2):
            assert overlap(a.box, b.box) <= MAX_OVERLAP


def test_things_of_a_concept_share_a_span_and_others_do_not(every):
    for scene in every:
        assert len({obj.span for obj in scene.objects}) == len(scene.concepts)
        assert len({(obj.span, obj.concept) for obj in scene.objects}) == len(scene.concepts)
        for start, end in (obj.span for obj in scene.objects):
            assert 0 <= start < end <= len(scene.caption)


def test_a_ground_has_a_colour_that_none_of_its_things_has(world, every):
    for scene in every:
        colours = {world.pictures.concepts[obj.concept].colours[obj.style] for obj in scene.objects}
        assert scene.background.colour not in colours


def test_boxes_are_tight_around_what_is_opaque(sample):
    for scene, opacity in zip(sample.scenes, sample.opacity, strict=True):
        for obj, shown in zip(scene.objects, opacity, strict=True):
            rows, columns = torch.nonzero(shown > 127, as_tuple=True)
            edges = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
            assert tuple(int(edge) for edge in edges) == obj.box


def test_a_thing_changes_pixels_only_where_its_drawing_lies(world, sample):
    without = world.render([dataclasses.replace(scene, objects=scene.objects[:-1]) for scene in sample.scenes])
    for scene, with_it, image, opacity in zip(sample.scenes, sample.images, without, sample.opacity, strict=True):
        changed = (with_it != image).any(0)
        assert changed.any()
        assert not (changed & (opacity[-1] == 0)).any()
        left, top, right, bottom = scene.objects[-1].box
        strongly = ((with_it.int() - image.int()).abs() > 140).any(0)
        strongly[top:bottom, left:right] = False
        assert not strongly.any()  # half transparent at the most outside the box


@given(*[st.tuples(*[st.integers(0, 30)] * 2, *[st.integers(1, 30)] * 2)] * 2)
def test_overlap_is_the_share_of_pixels_of_the_smaller_box(a, b):
    boxes = [(left, top, left + width, top + height) for left, top, width, height in (a, b)]
    pixels = [{(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])} for box in boxes]
    assert overlap(*boxes) == len(pixels[0] & pixels[1]) / min(map(len, pixels))


# --- the same for everybody


def test_a_scene_is_a_function_of_seed_split_and_index(few_pictures, few_world):
    again = SceneDataset(few_world.config, few_pictures)
    asked = [(split, index, single) for split in SPLITS for index in (0, 1, 7, 10**9) for single in (False, True)]
    first = [few_world.scene(*which) for which in asked]
    assert [again.scene(*which) for which in reversed(asked)][::-1] == first
    assert len(set(first)) == len(first)
    assert again.fingerprint == few_world.fingerprint


def test_another_seed_is_another_world(few_pictures, few_world):
    other = SceneDataset(dataclasses.replace(few_world.config, seed=1), few_pictures)
    assert other.fingerprint != few_world.fingerprint
    assert other.known != few_world.known
    same = sum(other.scene("train", index).caption == few_world.scene("train", index).caption for index in range(100))
    assert same <= 2


def test_pixels_do_not_depend_on_the_batch(world, sample):
    scenes, images = sample.scenes[40:104], sample.images[40:104]
    for size in (1, 7, 64):
        parts = [world.render(scenes[start : start + size]) for start in range(0, len(scenes), size)]
        assert torch.equal(torch.cat(parts), images)
    assert torch.equal(world.render(scenes[::-1]).flip(0), images)
    assert torch.equal(world.render([scenes[0], scenes[0]])[1], images[0])


CHILD = """
import dataclasses, hashlib, torch
from lcl.config import SceneConfig
from lcl.data.drawn.pictures import load_pictures
from lcl.data.scenes import SPLITS, SceneDataset
torch.set_num_threads(1)
pictures = load_pictures(64)
few = dataclasses.replace(pictures, concepts=pictures.concepts[:60], drawings=pictures.drawings[:, :60])
world = SceneDataset(SceneConfig(known=32, unseen=8), few)
scenes = [world.scene(split, index) for split in SPLITS for index in range(20)]
print(hashlib.sha256(world.render(scenes).numpy().tobytes() + repr(scenes).encode()).hexdigest())
"""


@pytest.mark.slow
def test_pixels_and_captions_are_the_same_in_another_process_on_a_simpler_processor(few_world):
    scenes = [few_world.scene(split, index) for split in SPLITS for index in range(20)]
    digest = hashlib.sha256(few_world.render(scenes).numpy().tobytes() + repr(scenes).encode()).hexdigest()
    simpler = os.environ | {"PYTHONHASHSEED": "7", "ATEN_CPU_CAPABILITY": "default"}  # no vector instructions
    root = Path(__file__).parents[2]
    child = subprocess.run(
        [sys.executable, "-c", CHILD], cwd=root, env=simpler, capture_output=True, text=True, check=True
    )
    assert child.stdout.strip() == digest


def test_a_batch_of_any_size_is_drawn_by_as_many_operations(world):
    """A GPU waits for launches, not for pixels: they are few, and do not grow with the batch."""

    class Count(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.operations = 0

        def __torch_dispatch__(self, function, types, arguments=(), options=None):
            self.operations += 1
            return function(*arguments, **(options or {}))

    counts = []
    for number in (100, 400):
        with Count() as count:
            world.render([world.scene("train", index) for index in range(number)])
        counts.append(count.operations)
    assert counts[0] == counts[1] < 600  # views included, which launch nothing



@pytest.mark.gpu
def test_a_gpu_draws_the_same_pixels(world, sample):
    drawn = world.render(sample.scenes, "cuda")
    assert drawn.device.type == "cuda"
    assert torch.equal(drawn.cpu(), sample.images)


def test_pairs_are_scenes_with_their_pixels_however_many(few_world):
    indices = list(range(5, 265))  # more than are drawn at once
    pairs = few_world.pairs("train", indices)
    assert len(pairs) == 260 and pairs.images.shape == (260, 3, 64, 64) and pairs.images.dtype == torch.uint8
    assert list(pairs.scenes) == [few_world.scene("train", index) for index in indices]
    assert torch.equal(pairs.images[250:], few_world.render(pairs.scenes[250:]))
    assert pairs.captions == [scene.caption for scene in pairs.scenes]


# --- what training sees, and what it does not


def test_few_concepts_are_frequent_and_many_are_rare(world, planned):
    counts = Counter(concept for scene in planned["train"] for concept in scene.concepts)
    rarest = sorted(counts[concept] for concept in world.known)[: len(world.known) // 10]
    assert max(counts.values()) >= 5 * sum(rarest) / len(rarest)
    assert min(counts[concept] for concept in world.known) > 0
    head, tail = world.known[:26], world.known[-26:]
    assert sum(counts[concept] for concept in head) > 4 * sum(counts[concept] for concept in tail)


def test_what_is_held_out_leaves_something_to_train_on(world):
    assert not set(world.known) & set(world.unseen)
    assert (len(world.known), len(world.unseen)) == (world.config.known, world.config.unseen)
    assert len(set(world.known)) == world.config.known
    for concept in world.known:
        shown, held = world.styles("train", concept), [style for style, held in world.held_drawings if held == concept]
        assert shown and not set(shown) & set(held) and sorted(shown + held) == [0, 1]
    assert len(world.held_drawings) == len(world.known) // 4 * 2
    pairs = world.config.known * (world.config.known - 1) / 2
    assert 0.08 * pairs < len(world.held_pairs) < 0.12 * pairs


def drawings(scene):
    return {(obj.style, obj.concept) for obj in scene.objects}


def held_pairs(world, scene):
    return {frozenset(pair) for pair in itertools.combinations(scene.concepts, 2)} & world.held_pairs


@pytest.mark.parametrize("split", ["train", "new_scenes"])
def test_training_and_its_validation_see_nothing_that_is_held_out(world, planned, split):
    for scene in planned[split]:
        assert scene.concepts <= set(world.known)
        assert not drawings(scene) & world.held_drawings
        assert not held_pairs(world, scene)


def test_training_shows_every_other_drawing(world, planned):
    shown = set().union(*map(drawings, planned["train"]))
    wanted = {(style, concept) for concept in world.known for style in (0, 1)} - world.held_drawings
    assert shown <= wanted and len(shown) > 0.99 * len(wanted)


def test_unseen_drawings_are_all_held_out(world, planned):
    for scene in planned["unseen_drawings"]:
        assert drawings(scene) <= world.held_drawings
        assert not held_pairs(world, scene)


def test_unseen_pairs_are_there_to_see(world, planned):
    lost = [scene for scene in planned["unseen_pairs"] if not held_pairs(world, scene)]
    assert len(lost) == 0, f"{len(lost)} of {PLANNED} scenes show no held-out pair"


def test_unseen_pairs_are_new_as_pairs_only(world, planned):
    for scene in planned["unseen_pairs"]:
        assert scene.concepts <= set(world.known)
        assert not drawings(scene) & world.held_drawings


def test_unseen_concepts_are_all_unseen(world, planned):
    shown = [scene.concepts for scene in planned["unseen_concepts"]]
    assert set().union(*shown) == set(world.unseen)


def test_no_training_image_is_an_evaluation_image(world, sample):
    training = world.render([world.scene("train", index) for index in range(320)])
    digests = [hashlib.sha256(image.numpy().tobytes()).digest() for image in training]
    others = [hashlib.sha256(image.numpy().tobytes()).digest() for image in sample.images[80:]]
    assert sample.scenes[80].split != "train"
    assert len(set(digests)) == len(digests) and not set(digests) & set(others)


def test_training_validation_and_test_pairs_have_no_scene_in_common(few_world):
    views = [view(20) for view in (few_world.train, few_world.validation, few_world.test)]
    seen = [{(scene.split, scene.index) for scene in view.scenes(range(20))} for view in views]
    assert sum(map(len, seen)) == len(set().union(*seen)) == 60
    captions = [set(view.captions(range(20))) for view in views]
    assert len(captions[1] - captions[2]) > 10


def test_a_view_counts_its_rows_from_its_first_scene(few_world):
    view = SceneView(few_world, 9, "new_scenes", first=40)
    expected = [few_world.scene("new_scenes", index) for index in (40, 47)]
    taken = view.take([0, 7])
    assert view.scenes([0, 7]) == expected and view.captions([0, 7]) == [scene.caption for scene in expected]
    assert list(taken.captions) == view.captions([0, 7]) and torch.equal(taken.images, few_world.render(expected))


def test_single_scenes_show_each_concept_in_turn(few_world):
    for split in SPLITS:
        concepts = few_world.concepts(split)
        scenes = [few_world.scene(split, index, single=True) for index in range(2 * len(concepts))]
        assert all(len(scene.objects) == 1 for scene in scenes)
        assert [scene.objects[0].concept for scene in scenes] == list(concepts) * 2
        assert scenes[0] != scenes[len(concepts)]  # another view of it
        for scene in scenes:
            assert scene.objects[0].style in few_world.styles(split, scene.objects[0].concept)


# --- what cannot be


def test_an_unknown_split_is_refused_with_its_neighbours(few_world):
    for ask in (lambda: few_world.scene("trian", 0), lambda: few_world.concepts("trian")):
        with pytest.raises(LclError, match="no split 'trian'; did you mean train"):
            ask()


def test_more_concepts_than_there_are_drawings_are_refused(few_pictures):
    with pytest.raises(LclError, match="61 concepts are asked for, but the pictures hold 60"):
        SceneDataset(SceneConfig(known=50, unseen=11), few_pictures)
    assert len(SceneDataset(SceneConfig(known=50, unseen=10), few_pictures).unseen) == 10


def test_a_world_of_one_style_has_no_unseen_drawings_and_says_so(few_pictures):
    one = dataclasses.replace(few_pictures, styles=few_pictures.styles[:1], drawings=few_pictures.drawings[:1])
    world = SceneDataset(SceneConfig(known=20, unseen=0), one)
    assert not world.held_drawings
    for split in ("unseen_drawings", "unseen_concepts"):
        with pytest.raises(LclError, match=f"nothing for the split {split}"):
            world.scene(split, 0)
    assert world.pairs("train", range(8)).images.shape == (8, 3, 64, 64)


def test_the_smallest_world_has_every_pair_it_promises_or_says_so(few_pictures):
    eight = dataclasses.replace(few_pictures, concepts=few_pictures.concepts[:8], drawings=few_pictures.drawings[:, :8])
    for seed in range(60):
        world = SceneDataset(SceneConfig(size=32, known=8, unseen=0, seed=seed), eight)
        try:
            assert held_pairs(world, world.scene("unseen_pairs", 0))
        except LclError as error:
            assert "unseen_pairs" in str(error)


def test_a_folder_of_your_own_drawings_makes_a_world_even_of_thin_lines(tmp_path):
    lines = ["file,name"]
    for number in range(9):
        image = Image.new("RGBA", (200, 200))
        ImageDraw.Draw(image).rectangle((90, 10, 90 + number * 10, 190), fill="red")  # the first is a hair
        image.save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,bar number {number}")
    (tmp_path / "names.csv").write_text("\n".join(lines))
    world = open_scenes(SceneConfig(known=9, unseen=0), tmp_path)
    hair = next(concept for concept in world.known if world.name(concept) == "bar number 0")
    scenes = [world.scene("train", index) for index in range(100)]
    widths = [t.box[2] - t.box[0] for scene in scenes for t in scene.objects if t.concept == hair]
    assert widths and max(widths) <= 3
