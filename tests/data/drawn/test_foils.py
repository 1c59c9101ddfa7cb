"""Foils: the true sentence is true and the false one false, by a reading of the sentences that knows only names and boxes."""

import random
import re
from collections import Counter

import pytest

from lcl.config import SceneConfig
from lcl.data.drawn.captions import NUMBERS, article, plural
from lcl.data.drawn.colours import COLOURS
from lcl.data.drawn.foils import KINDS, Facts, foils
from lcl.data.scenes import SPLITS, open_scenes

RELATION = re.compile(r"(.+) (left of|right of|above|below) (.+)")
GROUND = re.compile(r"(.+) on an? (\w+) background")


def phrases_of(world) -> dict[str, tuple[int, int, str]]:
    """Everything that a sentence may name: (class, how many, colour)."""
    found = {}
    for number in {*world.known, *world.unseen}:
        concept, several = world.pictures.concepts[number], plural(world.pictures.concepts[number].name)
        for colour, before in (("", ""), *((name, f"{name} ") for name in COLOURS)):
            if concept.counted:
                found[f"{article(colour or concept.name)} {before}{concept.name}"] = number, 1, colour
                found |= {f"{word} {before}{several}": (number, count, colour) for count, word in NUMBERS.items()}
            else:
                found[before + concept.name] = number, 1, colour
    return found


def beside(a, b, relation: str) -> bool:
    """Is the box a clearly left of (…) the box b?"""
    centres = [((box[0] + box[2]) / 2, (box[1] + box[3]) / 2) for box in (a, b)]
    across, down = (centres[1][axis] - centres[0][axis] for axis in (0, 1))
    return {
        "left of": a[2] <= b[0] and across >= abs(down), "right of": b[2] <= a[0] and -across >= abs(down),
        "above": a[3] <= b[1] and down >= abs(across), "below": b[3] <= a[1] and -down >= abs(across),
    }[relation]  # fmt: skip


def is_true(world, scene, sentence: str, phrases) -> bool:
    """Does the scene show what a sentence says? A number is exact: one dog is not two."""
    if found := GROUND.fullmatch(sentence):
        return scene.background.colour == found[2] and is_true(world, scene, found[1], phrases)
    if sentence not in phrases and (found := RELATION.fullmatch(sentence)):
        groups = [[obj.box for obj in scene.objects if obj.concept == phrases[found[which]][0]] for which in (1, 3)]
        both = all(is_true(world, scene, found[which], phrases) for which in (1, 3))
        return both and all(beside(a, b, found[2]) for a in groups[0] for b in groups[1])
    number, count, colour = phrases[sentence]
    shown = [world.pictures.concepts[number].colours[obj.style] for obj in scene.objects if obj.concept == number]
    counted = world.pictures.concepts[number].counted
    return bool(shown) and (len(shown) == count or not counted) and (not colour or set(shown) == {colour})


def check(world, scenes: int) -> Counter:
    """Read both sentences of all foils; returns how often the two facts stand in which order."""
    orders, made, phrases = Counter(), Counter(), phrases_of(world)
    for split in SPLITS:
        for index in range(scenes):
            scene = world.scene(split, index)
            found = world.foils(scene)
            assert found == world.foils(scene) and found.keys() <= KINDS.keys()
            assert "relation" not in found or len(scene.concepts) > 1
            made.update(found.keys())
            for kind, foil in found.items():
                single = kind == "object"  # which names the class alone
                true = foil.true in phrases and phrases[foil.true][0] in scene.concepts if single else None
                assert true or is_true(world, scene, foil.true, phrases), (kind, foil, scene.caption)
                false = phrases[foil.false][0] not in scene.concepts if single else not is_true(world, scene, foil.false, phrases)
                assert false, (kind, foil, scene.caption)
                facts = [RELATION.sub(r"\2", s) if kind == "relation" else str(phrases[s][1]) for s in foil] if kind in (
                    "relation", "count") else []  # fmt: skip
                orders[kind, *facts] += bool(facts)
    assert made.keys() == KINDS.keys()
    return orders


@pytest.mark.parametrize("version", [1, 2])
def test_true_sentences_are_true_and_foils_are_false(version):
    check(open_scenes(SceneConfig(known=32, unseen=8, version=version)), 100)


@pytest.mark.slow
def test_ten_thousand_scenes_have_true_sentences_and_false_foils_and_no_fact_is_more_often_true_than_false(world):
    orders = check(world, 2000)
    for one, other in (("left of", "right of"), ("above", "below")):
        a, b = (orders["relation", *pair] for pair in ((one, other), (other, one)))
        assert abs(a - b) < 4 * (a + b) ** 0.5 and a + b > 500
    a, b = (orders["count", *pair] for pair in (("1", "2"), ("2", "1")))
    assert abs(a - b) < 4 * (a + b) ** 0.5 and a + b > 500


def test_a_kind_without_a_fact_or_with_the_same_one_is_missing(small_world):
    scene = next(s for s in (small_world.scene("new_scenes", index) for index in range(99)) if len(s.objects) == 1)
    mentions = list(small_world._mentions([vars(obj) for obj in scene.objects]).values())
    ours = Facts(mentions, scene.background.colour)
    assert foils(random.Random(0), ours, ours) == {}
