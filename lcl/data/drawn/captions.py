"""Captions of scenes: varied wording, and no statement that the picture does not show."""

from __future__ import annotations

import random
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from lcl import storage
from lcl.config import need
from lcl.data.drawn.colours import COLOURS
from lcl.data.drawn.pictures import Concept

ENGLISH = Path(__file__).with_name("english.json")
"""The article and the plural of every name of the dictionary, so that they do not change with the package that knows English.
Made by `tools/english.py`."""

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom lie one pixel outside

NUMBERS = {2: "two", 3: "three"}
LEADS = ("", "", "", "a picture of ", "an image of ", "a drawing of ", "a scene with ")
RELATIONS = {
    "left of": ("left of", "to the left of"),
    "right of": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
BACKGROUNDS = {
    "solid": ("on {a} background", "on {}", "against {a} background"),
    "gradient": ("on {a} background", "on a shaded {} background"),
    "stripes": ("on a striped {} background", "on {} stripes"),
    "checks": ("on a checked {} background", "on {} checks"),
    "dots": ("on a dotted {} background", "on {} dots"),
    "grain": ("on a grainy {} background", "on rough {} ground"),
}
"""Phrases for every kind of background; {} is its colour."""

SMALL, LARGE = 0.32, 0.6  # an object is small or large if its longer side is below or above this share of the canvas


class Mention(NamedTuple):
    """Objects of one class that a caption names together ("two dogs")."""

    concept: Concept
    boxes: tuple[Box, ...]
    colours: tuple[str | None, ...]  # one an object


def compose(
    rng: random.Random, mentions: Sequence[Mention], background: str, background_colour: str, size: int
) -> tuple[str, list[tuple[int, int]], frozenset]:
    """Write a caption.

    Args:
        rng: only `random()` is used, whose sequence is the same in every version of Python.
        mentions: the scene's objects, by class.
        background, background_colour: keys of BACKGROUNDS and COLOURS.
        size: side of the canvas in pixels.

    Returns:
        The caption; for every mention the characters (start, end) of its name; and the facts that the caption states. Captions
        of equal facts say the same in other words, or in another order.
    """
    order = sorted(range(len(mentions)), key=lambda _: rng.random())
    relation = (
        _relation(rng, [mentions[index] for index in order]) if len(mentions) > 1 and rng.random() < 0.6 else None
    )
    text, spans, facts = _pick(rng, LEADS), {}, set()
    names = [mention.concept.name for mention in mentions]

    def say(index: int) -> None:
        nonlocal text
        phrase, start, end, told = _name(rng, mentions[index], size)
        facts.add((names[index], len(mentions[index].boxes), *told))
        spans[index] = (len(text) + start, len(text) + end)
        text += phrase

    if relation:
        first, words, second = relation
        say(order[first])
        text += f" {_pick(rng, RELATIONS[words])} "
        say(order[second])
        low, high = (first, second) if words in ("left of", "above") else (second, first)
        facts.add(({"right of": "left of", "below": "above"}.get(words, words), names[order[low]], names[order[high]]))
        rest = [index for position, index in enumerate(order) if position not in (first, second)]
        joiners = [_pick(rng, (", with ", ", and "))] + [" and "] * 3
    else:
        say(order[0])
        rest = order[1:]
        joiners = [_pick(rng, (" with ", " and ", " next to ") if _near(mentions, order) else (" with ", " and "))]
        facts |= {("next to", *sorted(names))} if joiners == [" next to "] else set()
        joiners = [", "] * (len(rest) - 1) + ([" and "] if len(rest) > 1 else joiners)
    for joiner, index in zip(joiners, rest, strict=False):
        text += joiner
        say(index)
    if rng.random() < 0.3:
        a_colour = f"{article(background_colour)} {background_colour}"
        phrase = _pick(rng, BACKGROUNDS[background])
        text += " " + phrase.format(background_colour, a=a_colour)
        facts.add(("background", background_colour, *([] if phrase in BACKGROUNDS["solid"] else [background])))
    if rng.random() < 0.3:
        text = text[0].upper() + text[1:]
    if rng.random() < 0.3:
        text += "."
    return text, [spans[index] for index in range(len(mentions))], frozenset(facts)


def _pick(rng: random.Random, options: Sequence):
    return options[int(rng.random() * len(options))]


def _name(rng: random.Random, mention: Mention, size: int) -> tuple[str, int, int, list[str]]:
    """A noun phrase such as "a small red apple", the position of the name ("apple") in it, and its size and colour, if told."""
    concept, count = mention.concept, len(mention.boxes)
    name = concept.name
    if concept.synonyms and rng.random() < 0.35:
        name = _pick(rng, concept.synonyms)
    adjectives, told = [], []
    share = max(max(right - left, bottom - top) for left, top, right, bottom in mention.boxes) / size
    if count == 1 and rng.random() < 0.3 and not SMALL <= share <= LARGE:
        adjectives.append(_pick(rng, ("small", "little") if share < SMALL else ("big", "large")))
        told.append("small" if share < SMALL else "large")
    colour = mention.colours[0] if len(set(mention.colours)) == 1 else None
    if colour and rng.random() < 0.3 and not set(name.split()) & COLOURS.keys():
        adjectives.append(colour)
        told.append(colour)
    if not concept.counted:
        start = "some " if rng.random() < 0.4 else ""
    elif count == 1:
        start = article(" ".join([*adjectives, name])) + " "
    else:
        start, name = NUMBERS[count] + " ", plural(name)
    start += "".join(f"{adjective} " for adjective in adjectives)
    return start + name, len(start), len(start) + len(name), told


def one(concept: Concept) -> str:
    """A class as a prompt names it: "an apple", or "popcorn" if it is not counted."""
    return f"{article(concept.name)} {concept.name}" if concept.counted else concept.name


@cache
def _english() -> dict:
    return storage.read_json(ENGLISH)


@cache
def _rules():
    """The rules of English, for names that are not in the table; importing them takes seconds."""
    return need("inflect", "scenes").engine()


@cache
def article(phrase: str) -> str:
    """ "a" or "an", as the phrase is spoken: "an hourglass", "a unicorn"."""
    return _english()["articles"].get(phrase.split()[0]) or _rules().a(phrase).split()[0]


@cache
def plural(name: str) -> str:
    """ "wolf" → "wolves", "pair of jeans" → "pairs of jeans"."""
    return _english()["plurals"].get(name) or _rules().plural_noun(name)


def holds(relation: str, first: Sequence[Box], second: Sequence[Box]) -> bool:
    """Is every box of `first` clearly left of (right of, above, below) every box of `second`?

    Clearly: the boxes do not overlap along that direction, and their centres are further apart along it than across.
    """
    if relation in ("right of", "below"):
        first, second = second, first
    low, high = (0, 2) if relation in ("left of", "right of") else (1, 3)
    across_low, across_high = 1 - low, 5 - high
    for a in first:
        for b in second:
            along = (b[low] + b[high]) - (a[low] + a[high])
            across = (b[across_low] + b[across_high]) - (a[across_low] + a[across_high])
            if a[high] > b[low] or along < abs(across):
                return False
    return True


def _relation(rng: random.Random, mentions: Sequence[Mention]) -> tuple[int, str, int] | None:
    """A true relation between two of the mentions, as (first, relation, second), or None."""
    true = [
        (first, relation, second)
        for first in range(len(mentions))
        for second in range(len(mentions))
        for relation in RELATIONS
        if first != second and holds(relation, mentions[first].boxes, mentions[second].boxes)
    ]
    return _pick(rng, true) if true else None


def next_to(a: Box, b: Box) -> bool:
    """Side by side: the gap between the boxes is at most half the larger one's side, and their heights overlap."""
    gap = max(a[0] - b[2], b[0] - a[2], 0)
    reach = max(a[2] - a[0], b[2] - b[0], a[3] - a[1], b[3] - b[1]) / 2
    return gap <= reach and min(a[3], b[3]) > max(a[1], b[1])


def _near(mentions: Sequence[Mention], order: Sequence[int]) -> bool:
    """May the only two mentions be said to stand next to each other?"""
    if len(order) != 2:
        return False
    first, second = (mentions[index].boxes for index in order)
    return len(first) == len(second) == 1 and next_to(first[0], second[0])
