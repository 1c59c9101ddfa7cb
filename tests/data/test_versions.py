"""Version 2 of the scenes: names that people say, familiar first, no mirrored text, nothing hidden. Version 1 is as it was."""

import dataclasses
import hashlib
import itertools

import pytest
import torch
from PIL import Image, ImageDraw

from lcl import storage
from lcl.config import PROFILES, LclError, SceneConfig, from_dict
from lcl.data.drawn.captions import one, plural
from lcl.data.drawn.colours import COLOURS
from lcl.data.drawn.drawing import shrink, visible_share
from lcl.data.drawn.pictures import load_pictures
from lcl.data.drawn.renaming import NAMES
from lcl.data.scenes import SPLITS, SceneDataset, open_scenes

WORDS = storage.read_json(NAMES)


@pytest.fixture(scope="module")
def second():
    """The laptop profile's world in version 2."""
    return open_scenes(SceneConfig(version=2))


@pytest.fixture(scope="module")
def first():
    """The laptop profile's world in version 1."""
    return open_scenes(SceneConfig(version=1))


@pytest.fixture(scope="module")
def concepts(second):
    """The classes of version 2, by name."""
    return {concept.name: concept for concept in second.pictures.concepts}


# --- version 1


def test_version_1_is_bitwise_what_it_was_before_there_was_a_second(first, first_small_world):
    assert (first.fingerprint, first_small_world.fingerprint) == ("d8d90d4566ceec44", "204254520916d90c")
    described = repr([first.scene(split, index) for split in SPLITS for index in range(40)]).encode()
    assert hashlib.sha256(described).hexdigest()[:16] == "f87b3702309cc6ad"
    pixels = first.pairs("train", range(40)).images.numpy().tobytes()
    assert hashlib.sha256(pixels).hexdigest()[:16] == "fcb3f6debcd7274a"


def test_a_config_that_was_saved_without_a_version_is_of_version_1():
    assert from_dict(SceneConfig, {"size": 64, "known": 256, "unseen": 64, "seed": 0}) == SceneConfig(version=1)


def test_another_version_is_another_data_set_and_the_default_is_2(first, second, world):
    assert first.fingerprint != second.fingerprint == world.fingerprint
    assert {profile.scenes.version for profile in PROFILES.values()} == {2} == {SceneConfig().version}
    with pytest.raises(LclError, match="no version 3 of the scenes; choose 1 or 2"):
        SceneConfig(version=3)


# --- names


@pytest.mark.parametrize("name", [
    "page facing up", "page with curl", "lock with pen", "locked with pen", "bell with slash", "toast with wine", "black joker",
    "flag in hole", "construction", "cooking", "meat on bone", "front-facing baby chick",
])  # fmt: skip
def test_names_that_nobody_says_are_gone(concepts, name):
    assert name not in {name for concept in concepts.values() for name in (concept.name, *concept.synonyms)}


@pytest.mark.parametrize(
    ("phrase", "many"),
    [("a sheet of paper", "sheets of paper"), ("a crossed-out bell", "crossed-out bells"), ("a joker card", "joker cards")]
    + [("a pair of champagne glasses", "pairs of champagne glasses"), ("a golf flag", "golf flags"), ("a sheep", "sheep")]
    + [("a road barrier", "road barriers"), ("a plane taking off", "planes taking off"), ("an eight ball", "eight balls")]
    + [("a map of japan", "maps of japan"), ("a slice of pizza", "slices of pizza"), ("an ice cube", "ice cubes")]
    + [("a flame", "flames"), ("a log", "logs"), ("a tennis ball", "tennis balls"), ("a bar of soap", "bars of soap")]
    + [("a couch with a lamp", "couches with lamps"), ("a karate uniform", "karate uniforms")]
    + [("a box of popcorn", "boxes of popcorn"), ("a stick of butter", "sticks of butter")],
)
def test_names_articles_and_plurals(concepts, phrase, many):
    concept = concepts[phrase.split(" ", 1)[1]]
    assert (one(concept), plural(concept.name)) == (phrase, many)


def test_everything_can_be_counted(concepts):
    """So no caption says "big butter"."""
    assert all(concept.counted for concept in concepts.values())


def test_every_decision_is_about_something(concepts):
    first = load_pictures(64).concepts
    synonyms = {synonym for concept in first for synonym in concept.synonyms}
    assert {*WORDS["left_out"], *WORDS["renamed"]} <= {concept.name for concept in first}
    assert set(WORDS["rejected_synonyms"]) <= synonyms
    for part in ("synonyms", "uncoloured", "unmirrored", "familiar"):
        assert set(WORDS[part]) <= concepts.keys(), part
    assert len(concepts) == len(first) - len(WORDS["left_out"]) == len(set(WORDS["familiar"]))


def test_a_misleading_colour_is_never_said(concepts):
    for name in ("top hat", "necktie", "sailboat", "golf flag", "penguin", "glass of wine"):
        assert concepts[name].colours == (None, None)
    assert not set(WORDS["uncoloured"]) & {name for name in concepts if set(name.split()) & COLOURS.keys()}


# --- familiarity


def few(pictures, known, unseen, seed=0):
    return SceneDataset(SceneConfig(known=known, unseen=unseen, seed=seed, version=2), pictures)


def test_known_concepts_are_ordered_by_familiarity_and_unseen_ones_are_a_fair_sample(second):
    assert [concept.name for concept in second.pictures.concepts] == WORDS["familiar"]
    assert list(second.known) == sorted(second.known)
    assert WORDS["familiar"].index("house") < WORDS["familiar"].index("violin") < WORDS["familiar"].index("trolleybus")
    assert sorted(second.known + second.unseen) == list(range(320))
    for block in range(64):  # one of every five in a row
        assert sum(5 * block <= concept < 5 * block + 5 for concept in second.unseen) == 1


@pytest.mark.parametrize(("known", "unseen"), [(8, 0), (8, 1), (20, 13), (9, 40)])
def test_unseen_concepts_are_a_fair_sample_however_many(few_pictures, known, unseen):
    world = few(few_pictures, known, unseen)
    assert (len(world.known), len(world.unseen)) == (known, unseen)
    assert set(world.known) | set(world.unseen) == set(range(known + unseen))
    assert all(a < b for a, b in itertools.pairwise(world.unseen))


def test_another_seed_holds_out_others(few_pictures):
    assert len({few(few_pictures, 40, 10, seed).unseen for seed in range(4)}) == 4


def test_splits_do_not_meet(second):
    shown = {split: [second.scene(split, index) for index in range(500)] for split in SPLITS}
    concepts = {split: {obj.concept for scene in scenes for obj in scene.objects} for split, scenes in shown.items()}
    assert concepts["unseen_concepts"] <= set(second.unseen) and not concepts["train"] & set(second.unseen)
    for split, scenes in shown.items():
        drawn = {(obj.style, obj.concept) for scene in scenes for obj in scene.objects}
        assert drawn <= second.held_drawings if split == "unseen_drawings" else not drawn & second.held_drawings
        together = {frozenset(pair) for scene in scenes for pair in itertools.combinations(scene.concepts, 2)}
        assert bool(together & second.held_pairs) == (split == "unseen_pairs")


# --- pixels


def test_text_is_not_mirrored_and_the_rest_is(second):
    flipped = [
        (second.name(obj.concept), obj.flipped)
        for split in SPLITS for index in range(800) for obj in second.scene(split, index).objects
    ]  # fmt: skip
    text = [mirrored for name, mirrored in flipped if name in WORDS["unmirrored"]]
    assert len(text) > 200 and not any(text)
    rest = [mirrored for name, mirrored in flipped if name not in WORDS["unmirrored"]]
    assert 0.45 < sum(rest) / len(rest) < 0.55
    assert {"stop sign", "watch", "calendar", "dollar bill", "rising line graph", "treble clef"} <= set(WORDS["unmirrored"])


def hidden(world, scene) -> bool:
    """Do fewer than three tenths of an object's pixels differ clearly from the background's shades? Read from rendered pixels."""
    behind = scene.background
    for obj in scene.objects:
        seen = True
        for shade in {behind.first, behind.first if behind.kind == "solid" else behind.second}:
            plain = dataclasses.replace(behind, kind="solid", first=shade)
            image = world.render([dataclasses.replace(scene, objects=(obj,), background=plain)])[0]
            change = (image.float() - torch.tensor(shade)[:, None, None]).square()
            seen = seen & ((2 * change[0] + 4 * change[1] + 3 * change[2]).sqrt() >= 90)
        whole = world.pictures.drawings[obj.style, obj.concept][None, None]
        opaque = shrink(whole, world.sizes[obj.level])[0, 0, 3] > 127
        if seen.sum() < 0.3 * opaque.sum():
            return True
    return False


def test_no_object_is_hidden_on_its_background(first, second):
    assert not any(hidden(second, second.scene(split, index)) for split in SPLITS for index in range(100))
    assert any(hidden(first, first.scene("train", index)) for index in range(150))  # in version 1 it is one scene of fifty


def test_the_visible_share_is_that_of_a_slow_count():
    drawing = torch.zeros(4, 8, 8, dtype=torch.uint8)
    drawing[3, 2:6] = 255  # half of the square; of it a quarter is red, the rest white
    drawing[:3, 2:6] = 255
    drawing[1:3, 2] = 0
    assert visible_share(drawing, [(248, 248, 248)]) == 0.25
    assert visible_share(drawing, [(248, 248, 248), (240, 10, 10)]) == 0
    assert visible_share(drawing, [(20, 60, 200)]) == 1


def test_drawings_of_your_own_keep_their_names_and_order(tmp_path):
    lines = ["file,name"]
    for number in range(9):
        image = Image.new("RGBA", (40, 40))
        ImageDraw.Draw(image).rectangle((4, 4, 4 + 4 * number, 36), fill="red")
        image.save(tmp_path / f"{number}.png")
        lines.append(f"{number}.png,baby chick {number}")
    (tmp_path / "names.csv").write_text("\n".join(lines))
    world = open_scenes(SceneConfig(known=9, unseen=0, version=2), tmp_path)
    assert [world.name(concept) for concept in world.known] == [f"baby chick {number}" for number in range(9)]
    assert {world.scene("train", index).background.colour for index in range(100)} <= COLOURS.keys() - {"red", "black"}
