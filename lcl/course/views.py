"""What exhibits show, worked out beforehand: pure functions from models and pairs to plain records."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lcl import storage
from lcl.config import CHECKOUT, choose, data_folder, need, require
from lcl.data.captions import Box
from lcl.data.scenes import Pairs
from lcl.eval.metrics import Metric, embed, ranks
from lcl.losses.masked_lm import FusedMlm
from lcl.losses.matching import SOLVERS
from lcl.models.clip import Clip, weights_sha256
from lcl.models.tokenizer import MASK, SPECIAL, Tokenizer, Tokens, words_of_span
from lcl.train.loop import Event


@dataclass(frozen=True)
class Aligned:
    """A caption's words and the patches that they are matched to.

    plan: (m, n), which share of every word each patch has; what a row lacks to one lies in the dustbin.
    boxes: for every word those of what it names, (left, top, right, bottom) in pixels; () where it names nothing.
    """

    words: tuple[str, ...]
    plan: torch.Tensor
    boxes: tuple[tuple[Box, ...], ...]


@torch.no_grad()
def aligned(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact", unmatched_cost: float = 1.0) -> list[Aligned]:
    """Match the words of every pair with its patches. solver: of `matching.SOLVERS`; price: of the dustbin."""
    model.eval()
    device = model.tau.device
    tokens = tokenizer.encode(pairs.captions, model.config.language.context_length)
    patches = model.embed_patches(model.vision(pairs.images.to(device)))  # (B, n, d)
    words, real = model.embed_words(model.language(tokens.to(device)), tokens.to(device))  # (B, m, d), (B, m)
    cost, real = (1 - words @ patches.mT).cpu(), real.cpu()  # (B, m, n), (B, m)
    plan = SOLVERS[choose("solver", solver, SOLVERS)](cost, real, unmatched_cost).plan  # (B, m, n)
    found = []
    for row, scene in enumerate(pairs.scenes):
        spans = tokens.spans[row]
        named = [words_of_span(spans, obj.span) for obj in scene.objects]
        boxes = tuple(
            tuple(obj.box for obj, its in zip(scene.objects, named, strict=True) if word in its) for word in range(len(spans))
        )
        found.append(Aligned(tuple(scene.caption[start:end] for start, end in spans), plan[row, : len(spans)], boxes))
    return found


@dataclass(frozen=True)
class Blank:
    """A hidden word and what is guessed in its place.

    token: the (first) token of the word, which is what is guessed. wrong: the pair whose image is the wrong one.
    guesses: with the true image, without one, with the wrong one; each the best tokens with their probabilities.
    """

    text: str
    token: str
    wrong: int
    guesses: tuple[tuple[tuple[str, float], ...], ...]


CONDITIONS = ("true image", "no image", "wrong image")


@torch.no_grad()
def blanks(model: Clip, mlm: FusedMlm, tokenizer: Tokenizer, pairs: Pairs, k: int = 5) -> list[list[Blank]]:
    """For every pair, and every word of its caption: the k best guesses where the word is hidden, all its tokens at once.

    The wrong image is that of the next pair that shows none of this one's things, or of the next pair if all do.
    """
    require(len(pairs) >= 2, "for a wrong image there must be another pair: hand over two or more.")
    model.eval()
    mlm.eval()
    device, found = model.tau.device, []
    tokens = tokenizer.encode(pairs.captions, model.config.language.context_length)
    for row, scene in enumerate(pairs.scenes):
        others = [*range(row + 1, len(pairs)), *range(row)]
        wrong = next((other for other in others if not scene.concepts & pairs.scenes[other].concepts), others[0])
        own, spans = tokens[[row]], tokens.spans[row]
        word = torch.arange(len(spans))[:, None]  # (m, 1): a masked caption for every word
        hidden = own.words == word  # (m, L)
        ids = torch.where(hidden, SPECIAL.index(MASK), own.ids)
        masked = Tokens(ids, own.mask.expand_as(ids), own.words.expand_as(ids), (spans,) * len(spans)).to(device)
        first = hidden & (hidden.cumsum(1) == 1)  # (m, L): a word's first token
        by_condition = []
        for image in (row, None, wrong):
            seen = None if image is None else model.vision(pairs.images[[image] * len(spans)].to(device))
            best = mlm(model.language, masked, seen, first.to(device)).softmax(-1).cpu().topk(k)  # (m, k)
            by_condition.append([
                tuple(zip(tokenizer.decode(names), shares.tolist(), strict=True))
                for names, shares in zip(best.indices.tolist(), best.values, strict=True)
            ])  # fmt: skip
        tokens_of = tokenizer.decode(own.ids.expand_as(ids)[first].tolist())
        found.append([
            Blank(scene.caption[start:end], token, wrong, guesses)
            for (start, end), token, *guesses in zip(spans, tokens_of, *by_condition, strict=True)
        ])  # fmt: skip
    return found


@dataclass(frozen=True)
class Contender:
    """A run as a board shows it. answers: by way, "image to text" and "text to image", for every pair which it finds first."""

    curve: tuple[Event, ...]
    metrics: dict[str, dict[str, Metric]]
    answers: dict[str, tuple[int, ...]]


def contender(
    model: Clip, tokenizer: Tokenizer, pairs: Pairs, curve: Sequence[Event], metrics: dict[str, dict[str, Metric]]
) -> Contender:
    """Ask a model for every image's caption among those of all pairs, and for every caption's image."""
    v, t = embed(model, tokenizer, pairs)
    cosines = {"image to text": v @ t.T, "text to image": t @ v.T}
    found = {way: s.sort(dim=1, descending=True, stable=True).indices[:, 0] for way, s in cosines.items()}  # (N,), as `ranks`
    return Contender(tuple(curve), metrics, {way: tuple(rows.tolist()) for way, rows in found.items()})


def pca(features: torch.Tensor) -> torch.Tensor:
    """The two directions along which features vary most: (N, d) → (N, 2). Signs are fixed, so that it repeats."""
    centred = (features - features.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    directions = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    return (centred @ directions.T).float()


def umap(features: torch.Tensor) -> torch.Tensor:
    """A map that keeps who is near whom (UMAP, McInnes et al. 2018, arXiv 1802.03426): (N, d) → (N, 2), by cosine.

    With a fixed seed, so that it repeats on one machine; some seconds for thousands of rows, after half a minute of compiling.
    """
    import warnings

    UMAP = need("umap", "course").UMAP  # takes seconds to import: only those who want it wait

    require(len(features) > 15, f"a map needs more than 15 points, not {len(features)}.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that a seed costs it its threads is what we want
        return torch.from_numpy(UMAP(metric="cosine", random_state=0).fit_transform(features.numpy())).float()


SHIPPED = CHECKOUT / "data" / "maps"  # what comes with the course

WAYS = {"PCA": pca, "UMAP": umap}


def map_key(model: Clip, captions: Sequence[str]) -> str:
    """A name for the map of some pairs, as a model sees them."""
    return storage.fingerprint([weights_sha256(model), list(captions)])


def coordinates(features: torch.Tensor, ways: Sequence[str] = tuple(WAYS), key: str | None = None) -> dict[str, torch.Tensor]:
    """Points for a map, by way: {"PCA" or "UMAP": (N, 2), 0 to 1}. features: (N, d).

    key: see `map_key`. What is kept under it, with the course or in the cache, is taken; what is not is worked out, and kept.
    """
    found: dict[str, torch.Tensor] = {}
    places = [folder / f"{key}.safetensors" for folder in (SHIPPED, data_folder() / "cache" / "maps")] if key else []
    for place in places:
        found |= storage.read_tensors(place) if place.exists() else {}
    fresh = {way: to_unit(WAYS[choose("map", way, WAYS)](features)) for way in ways if way not in found}
    if places and fresh:
        storage.write_tensors(places[-1], found | fresh)
    return {way: (found | fresh)[way] for way in ways}


def to_unit(points: torch.Tensor) -> torch.Tensor:
    """Points moved and scaled into the unit square, both axes alike: (N, 2)."""
    low, high = points.min(0).values, points.max(0).values
    middle, largest = (low + high) / 2, (high - low).max().clamp(min=1e-12)
    return (points - middle) / largest + 0.5


FOUND = ("found at once", "among ten", "missed")


def retrieval_errors(v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """For every image, then every caption, how well it finds its own: 0 at once, 1 among ten, 2 not. v, t: (N, d) → (2N,).

    Of fewer than twenty pairs, "among ten" means in the better half.
    """
    place = torch.cat([ranks(v @ t.T), ranks(t @ v.T)])
    return (place >= 1).long() + (place >= min(10, math.ceil(len(v) / 2))).long()
