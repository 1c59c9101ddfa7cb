"""Write `lcl/data/drawn/english.json`: the plurals and articles of all names of the scenes' dictionary, by inflect's rules.

    PYTHONPATH=. python tools/english.py
"""

import inflect

from lcl import storage
from lcl.config import SceneConfig
from lcl.data.drawn.captions import ENGLISH
from lcl.data.drawn.colours import COLOURS
from lcl.data.scenes import open_scenes

IRREGULAR = {
    "burrito": "burritos", "bento": "bentos", "leaf fluttering in wind": "leaves fluttering in wind",
    "hammer and wrench": "hammers and wrenches", "hammer and pick": "hammers and picks", "nut and bolt": "nuts and bolts",
    "bow and arrow": "bows and arrows", "fork and knife": "forks and knives", "couch and lamp": "couches and lamps",
    "fork and knife with plate": "forks and knives with plate", "plate with cutlery": "plates with cutlery",
    "set of cutlery": "sets of cutlery", "plane taking off": "planes taking off",
    "beach with an umbrella": "beaches with umbrellas", "six-sided die": "six-sided dice", "american bison": "american bison",
    "stick of butter": "sticks of butter",
}  # fmt: skip
"""Plurals that the rules miss."""

SIZES = ("small", "little", "big", "large")


def names() -> list[str]:
    """Every name and synonym of both versions of the scenes."""
    concepts = [concept for version in (1, 2) for concept in open_scenes(SceneConfig(version=version)).pictures.concepts]
    return sorted({name for concept in concepts for name in (concept.name, *concept.synonyms)})


def english() -> dict:
    """What the file holds: the article of every first word that a phrase can have, and the plural of every name."""
    rules, found = inflect.engine(), names()
    first = sorted({name.split()[0] for name in found} | COLOURS.keys() | set(SIZES))
    return {
        "articles": {word: rules.a(word).split()[0] for word in first},
        "plurals": {name: IRREGULAR.get(name) or rules.plural_noun(name) for name in found},
    }


if __name__ == "__main__":
    storage.write_json(ENGLISH, english())
