"""Grounding: matched patches compared with known boxes, and masked words predicted with and without the image."""

from __future__ import annotations

import math
from collections import Counter

import torch

from lcl.config import choose, require
from lcl.data.drawn.captions import Box, plural
from lcl.data.scenes import Pairs, SceneDataset
from lcl.losses.masked_lm import FusedMlm
from lcl.losses.matching import FORBIDDEN, SOLVERS
from lcl.models.clip import Clip
from lcl.models.tokenizer import MASK, SPECIAL, Tokenizer, Tokens, words_of_span

Metric = dict[str, float]
"""{"value": …, "chance": …}, both from 0 to 1."""


@torch.no_grad()
def align(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact") -> list[torch.Tensor]:
    """For every pair, the patch that each word of its caption is matched to: N tensors (words,) int64.

    Every word must be matched, so that every model has to point somewhere; -1 only where words outnumber patches.
    """
    model.eval()
    device, context, found = model.tau.device, model.config.language.context_length, []
    for start in range(0, len(pairs), 256):
        chosen = slice(start, start + 256)
        tokens = tokenizer.encode(pairs.captions[chosen], context).to(device)
        patches = model.embed_patches(model.vision(pairs.images[chosen].to(device)))
        words, real = model.embed_words(model.language(tokens), tokens)
        patch = SOLVERS[choose("solver", solver, SOLVERS)](1 - words @ patches.mT, real, FORBIDDEN).patch
        found += [row[mask].cpu() for row, mask in zip(patch, real, strict=True)]
    return found


def patches_in_box(box: Box, side: int, patches: int) -> list[int]:
    """The patches whose centre lies in a box. side: of the image, pixels; patches: n, a square number."""
    rows = math.isqrt(patches)
    step = side / rows
    centres = [(number + 0.5) * step for number in range(rows)]
    left, top, right, bottom = box
    return [
        row * rows + column
        for row, y in enumerate(centres) if top <= y < bottom
        for column, x in enumerate(centres) if left <= x < right
    ]  # fmt: skip


def alignment(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact") -> Metric:
    """Share of the object words whose matched patch has its centre in a box of the object that they name.

    An object word is a word of an object's name; a word that is cut off counts as missed. Chance is the share of all patches
    that would be right, averaged over the words.
    """
    return alignments(model, tokenizer, pairs, solver)["alignment"]


def alignments(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact") -> dict[str, Metric]:
    """`alignment`, and "alignment_among_objects", which asks whether a word finds its own object rather than another one.

    The second is the same share of those object words only whose patch has its centre in a box of any object of the picture. Its
    chance is that of a random patch in these boxes, over the same words: what a model reaches that finds objects and does not
    know which is which. Without such words, its value is 0 and its chance is that over all words.
    """
    rows = align(model, tokenizer, pairs, solver)
    side = pairs.images.shape[-1]
    with torch.no_grad():
        number = model.vision(pairs.images[:1].to(model.tau.device)).patch_tokens.shape[1]
    spans = tokenizer.encode(pairs.captions, 1_000_000).spans  # of the whole captions, nothing cut off
    found = []  # for every word: is it right, is it on any object, and its chance among all patches and among those of objects
    for scene, patch, words in zip(pairs.scenes, rows, spans, strict=True):
        shown = {n for obj in scene.objects for n in patches_in_box(obj.box, side, number)}
        for span in {obj.span for obj in scene.objects}:
            boxes = [obj.box for obj in scene.objects if obj.span == span]
            right = {n for box in boxes for n in patches_in_box(box, side, number)}
            chances = len(right) / number, len(right) / max(len(shown), 1)
            for word in words_of_span(words, span):
                at = int(patch[word]) if word < len(patch) else -1
                found.append((at in right, at in shown, *chances))
    inside = [each for each in found if each[1]] or found
    value, _, chance, _ = (sum(column) / len(found) for column in zip(*found, strict=True))
    among, _, _, chance_among = (sum(column) / len(inside) for column in zip(*inside, strict=True))
    return {
        "alignment": {"value": value, "chance": chance},
        "alignment_among_objects": {"value": among, "chance": chance_among},
    }


def mask_names(tokenizer: Tokenizer, pairs: Pairs, context_length: int) -> tuple[Tokens, torch.Tensor, list[int]]:
    """Captions with one object's name masked, if it is a single word (the rest of a longer name would give it away).

    Returns:
        The tokens; where they are masked, (N, L) bool; and for every scene the class whose name is masked, -1 for none.
    """
    tokens = tokenizer.encode(pairs.captions, context_length)
    where, concepts = torch.zeros_like(tokens.mask), []
    for row, scene in enumerate(pairs.scenes):
        first = row % len(scene.objects)  # not always the object that is drawn first
        single = [
            (words, obj.concept)
            for obj in (*scene.objects[first:], *scene.objects[:first])
            if len(words := words_of_span(tokens.spans[row], obj.span)) == 1
            and scene.caption[slice(*obj.span)].isalpha()
        ]
        concepts.append(single[0][1] if single else -1)
        if single:
            where[row] = tokens.words[row] == single[0][0][0]
    ids = torch.where(where, SPECIAL.index(MASK), tokens.ids)
    return Tokens(ids, tokens.mask, tokens.words, tokens.spans), where, concepts


@torch.no_grad()
def masked_words(model: Clip, mlm: FusedMlm, tokenizer: Tokenizer, world: SceneDataset, pairs: Pairs) -> dict[str, Metric]:
    """Accuracy of masked object words: with the true image, without an image, and with a wrong one.

    What is masked: see `mask_names`. A prediction is right if it is any of the object's names, singular or plural. The wrong
    image is that of the next scene without the object. Chance is the accuracy of the best constant answer.
    """
    model.eval()
    mlm.eval()
    device = model.tau.device
    masked, where, concepts = mask_names(tokenizer, pairs, model.config.language.context_length)
    masked_rows = [row for row, concept in enumerate(concepts) if concept >= 0]
    require(len(masked_rows) > 0, "no caption names an object in a single word, so none can be predicted; use more scenes.")
    wrong = list(range(len(pairs)))
    for row in masked_rows:
        others = [*range(row + 1, len(pairs)), *range(row)]
        wrong[row] = next((o for o in others if concepts[row] not in pairs.scenes[o].concepts), row)

    def names(concept: int) -> set[tuple[int, ...]]:
        known = world.pictures.concepts[concept]
        texts = {form for name in (known.name, *known.synonyms) for form in (name, plural(name))}
        encoded = tokenizer.encode(sorted(texts), model.config.language.context_length)
        return {tuple(ids[mask][1:-1].tolist()) for ids, mask in zip(encoded.ids, encoded.mask, strict=True)}

    right_names = {concept: names(concept) for concept in set(concepts) - {-1}}
    shown = [concepts[row] for row in masked_rows]
    metrics, chance = {}, Counter(shown).most_common(1)[0][1] / len(shown)
    for how, images in (("true_image", range(len(pairs))), ("no_image", None), ("wrong_image", wrong)):
        hits = 0
        for rows in torch.tensor(masked_rows).split(256):
            some = masked[rows]
            at = where[rows, : some.ids.shape[1]]
            image = None if images is None else model.vision(pairs.images[[images[row] for row in rows]].to(device))
            predictions = mlm(model.language, some.to(device), image, at.to(device)).argmax(1).cpu()
            for row, prediction in zip(rows.tolist(), predictions.split(at.sum(1).tolist()), strict=True):
                hits += tuple(prediction.tolist()) in right_names[concepts[row]]
        metrics[f"masked_word_{how}"] = {"value": hits / len(masked_rows), "chance": chance}
    return metrics
