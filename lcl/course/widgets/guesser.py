"""The masked-word guesser."""

from collections.abc import Sequence

import torch

from lcl.config import require
from lcl.course import plots
from lcl.course.views import CONDITIONS, Blank
from lcl.course.widgets.base import Exhibit, atlas, script
from lcl.data.scenes import Pairs
from lcl.words import printable


def masked(caption: str, words: Sequence[str], hidden: int) -> str:
    """A caption whose words are these, in this order, with [MASK] in the place of one."""
    end = 0
    for word in words[: hidden + 1]:
        start = caption.index(word, end)
        end = start + len(word)
    return f"{caption[:start]}[MASK]{caption[end:]}"


class WordGuesser(Exhibit):
    """Captions with a hidden word, and its predictions with the true image, without one, and with a wrong one.

    Args:
        pairs: scenes.
        found: `views.blanks` of them.
    """

    _esm = script("guesser")

    def __init__(self, pairs: Pairs, found: Sequence[Sequence[Blank]]):
        require(len(found) == len(pairs), f"there are predictions for {len(found)} scenes, but {len(pairs)} scenes.")
        scenes = []
        for row, (scene, words) in enumerate(zip(pairs.scenes, found, strict=True)):
            names = {scene.caption[slice(*obj.span)] for obj in scene.objects}
            start = next((word for word, blank in enumerate(words) if blank.text in names), 0)
            told = [{"text": b.text, "token": b.token, "wrong": b.wrong, "guesses": [list(g) for g in b.guesses]} for b in words]
            scenes.append({"caption": scene.caption, "image": row, "words": told, "start": start})
        data = {"scenes": scenes, "conditions": list(CONDITIONS), "atlas": atlas(pairs.images)}
        at = scenes[0]["start"]
        blank = found[0][at]
        guesses = [([word for word, _ in best], torch.tensor([share for _, share in best])) for best in blank.guesses]
        text = printable(masked(pairs.captions[0], [word.text for word in found[0]], at))
        still = plots.word_guesses([pairs.images[0], None, pairs.images[blank.wrong]], CONDITIONS, guesses, text)
        super().__init__("Masked-word guesser: hide a word and see what is predicted, by which image.", data, still)
