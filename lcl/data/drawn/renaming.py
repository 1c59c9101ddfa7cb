"""The picture dictionary of the scenes' version 2: the same drawings, with better names, the most familiar first."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from lcl import storage
from lcl.data.drawn.pictures import Concept, Pictures

NAMES = Path(__file__).with_name("names-2.json")
"""How version 2 differs from version 1, as data.

By the name in version 1:
- left_out: nobody has a name for it, or its two drawings look like different objects;
- renamed, rejected_synonyms.
By the new name:
- synonyms: added ones;
- uncoloured: a colour would mislead;
- unmirrored: it bears text, or turns one way only;
- familiar: all names, the most frequent in English first (by the package wordfreq; each further word of a name makes it ten
  times as rare).
Everything can be counted: "two boxes of popcorn".
"""


def renamed(pictures: Pictures) -> Pictures:
    """The installed drawings with the names of version 2. pictures: those of version 1."""
    words = storage.read_json(NAMES)
    number = {words["renamed"].get(concept.name, concept.name): row for row, concept in enumerate(pictures.concepts)
              if concept.name not in words["left_out"]}  # fmt: skip
    names = [name for name in words["familiar"] if name in number]
    rows = [number[name] for name in names]
    return Pictures(
        tuple(_renamed(pictures.concepts[row], name, words) for name, row in zip(names, rows, strict=True)),
        pictures.styles,
        pictures.drawings[:, rows],
        storage.fingerprint([pictures.fingerprint, words]),
        tuple(words["unmirrored"]),
    )


def _renamed(concept: Concept, name: str, words: dict) -> Concept:
    kept = [synonym for synonym in concept.synonyms if synonym not in (name, *words["rejected_synonyms"])]
    return replace(
        concept,
        name=name,
        synonyms=tuple(dict.fromkeys(kept + words["synonyms"].get(name, []))),
        counted=True,
        colours=(None,) * len(concept.colours) if name in words["uncoloured"] else concept.colours,
    )
