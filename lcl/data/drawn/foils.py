"""Foils: for a scene two sentences, one true, and one that is wrong in a single fact that the boxes know.

A model can reach a high recall@1 by recognising the objects alone. On foils, such a model is right half the time, except for
the kind "object". (As in Winoground, arXiv 2204.03162, and SugarCrepe, arXiv 2306.14610, but
made from what a scene is drawn from, so nothing has to be judged.)
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import NamedTuple

from lcl.data.drawn.captions import NUMBERS, RELATIONS, Mention, article, holds, plural
from lcl.data.drawn.colours import COLOURS
from lcl.data.drawn.pictures import Concept

OPPOSITE = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}


class Foil(NamedTuple):
    """A true sentence, and one that differs in one fact and is false."""

    true: str
    false: str


class Facts(NamedTuple):
    """What is known of a scene. mentions: its objects, by class; background: its colour, a key of COLOURS."""

    mentions: Sequence[Mention]
    background: str


def foils(rng: random.Random, ours: Facts, theirs: Facts) -> dict[str, Foil]:
    """A foil of every kind that can be made of a scene: "relation", "count", "colour", "background" and "object".

    The false fact is true of another scene of the same split; a relation is turned round instead. So every fact is true as often
    as false, and cannot be guessed from how frequent it is. Numbers are exact: "an apple" is one, not two. A kind is missing
    where the scene has no such fact (one object has no relation), or where both scenes have the same one.

    Args:
        rng: only `random()` is used.
        ours: of the scene.
        theirs: of the other scene.
    """
    made = {kind: make(rng, ours, theirs) for kind, make in KINDS.items()}
    return {kind: foil for kind, foil in made.items() if foil is not None}


def _pick(rng: random.Random, options: Sequence):
    return options[int(rng.random() * len(options))] if options else None


def _phrase(concept: Concept, count: int, colour: str = "") -> str:
    """ "a red apple", "two red apples", "red popcorn"."""
    name = plural(concept.name) if count > 1 and concept.counted else concept.name
    name = f"{colour} {name}".lstrip()
    if not concept.counted:
        return name
    return f"{NUMBERS[count] if count > 1 else article(name)} {name}"


def _relation(rng: random.Random, ours: Facts, theirs: Facts) -> Foil | None:
    true = [
        (a, relation, b) for a in ours.mentions for b in ours.mentions for relation in RELATIONS
        if a is not b and holds(relation, a.boxes, b.boxes)
    ]  # fmt: skip
    if not true:
        return None
    a, relation, b = _pick(rng, true)  # as often "left of" as "right of": both ways round are in the list
    first, second = (_phrase(each.concept, len(each.boxes)) for each in (a, b))
    return Foil(f"{first} {relation} {second}", f"{first} {OPPOSITE[relation]} {second}")


def _count(rng: random.Random, ours: Facts, theirs: Facts) -> Foil | None:
    mine, other = (_pick(rng, [each for each in facts.mentions if each.concept.counted]) for facts in (ours, theirs))
    if mine is None or other is None or len(mine.boxes) == len(other.boxes):
        return None
    return Foil(_phrase(mine.concept, len(mine.boxes)), _phrase(mine.concept, len(other.boxes)))


def _colour(rng: random.Random, ours: Facts, theirs: Facts) -> Foil | None:
    mine, other = (_pick(rng, [each for each in facts.mentions if _one_colour(each)]) for facts in (ours, theirs))
    if mine is None or other is None or mine.colours[0] == other.colours[0]:
        return None
    return Foil(*(_phrase(mine.concept, len(mine.boxes), each.colours[0]) for each in (mine, other)))


def _one_colour(mention: Mention) -> bool:
    """Do all drawings of a class have one and the same colour, which its name does not tell already?"""
    (colour, *others), words = set(mention.colours), set(mention.concept.name.split())
    return colour is not None and not others and not words & COLOURS.keys()


def _background(rng: random.Random, ours: Facts, theirs: Facts) -> Foil | None:
    mine = _pick(rng, ours.mentions)
    if ours.background == theirs.background:
        return None
    what = _phrase(mine.concept, len(mine.boxes))
    return Foil(*(f"{what} on {article(colour)} {colour} background" for colour in (ours.background, theirs.background)))


def _object(rng: random.Random, ours: Facts, theirs: Facts) -> Foil | None:
    mine, other = _pick(rng, ours.mentions), _pick(rng, theirs.mentions)
    if _words([mine]) & _words(theirs.mentions) or _words([other]) & _words(ours.mentions):
        return None
    return Foil(*(_phrase(each.concept, len(mine.boxes)) for each in (mine, other)))


def _words(mentions: Sequence[Mention]) -> set[str]:
    """All words of names and synonyms: "cat" and "cat face" may look alike."""
    return {word for each in mentions for name in (each.concept.name, *each.concept.synonyms) for word in name.split()}


KINDS: dict[str, Callable[[random.Random, Facts, Facts], Foil | None]] = {
    "relation": _relation, "count": _count, "colour": _colour, "background": _background, "object": _object,
}  # fmt: skip
"""How a foil of every kind is made."""
