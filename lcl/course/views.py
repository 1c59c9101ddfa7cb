"""What interactive figures show, computed beforehand: pure functions from models and pairs to plain records."""

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lcl import storage
from lcl.config import CHECKOUT, choose, data_folder, need, require
from lcl.data.drawn.captions import Box
from lcl.data.scenes import Pairs
from lcl.eval.metrics import Metric, embed
from lcl.eval.retrieval import ranks
from lcl.losses.masked_lm import FusedMlm
from lcl.losses.matching import SOLVERS
from lcl.models.clip import Clip, weights_sha256
from lcl.models.tokenizer import MASK, SPECIAL, Tokenizer, Tokens, words_of_span
from lcl.train.loop import Event

SHIPPED = CHECKOUT / "data" / "maps"  # maps that come with the course
CONDITIONS = ("true image", "no image", "wrong image")
FOUND = ("found first", "in the top 10", "missed")


@dataclass(frozen=True)
class Aligned:
    """A caption's words and the patches that they are matched with.

    Attributes:
        words: m strings.
        plan: (m, n), the share of every word that each patch has; what a row lacks to 1 is unmatched.
        cosines: (m, n), of every word with every patch.
        boxes: for every word the boxes of what it names, (left, top, right, bottom) in pixels; () if it names nothing.
    """

    words: tuple[str, ...]
    plan: torch.Tensor
    cosines: torch.Tensor
    boxes: tuple[tuple[Box, ...], ...]


@torch.no_grad()
def aligned(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact", unmatched_cost: float = 1.0) -> list[Aligned]:
    """Match the words of every pair with its patches, by a solver of `matching.SOLVERS`."""
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
        named = [(obj.box, words_of_span(spans, obj.span)) for obj in scene.objects]
        boxes = tuple(tuple(box for box, its in named if word in its) for word in range(len(spans)))
        texts, rows = tuple(scene.caption[start:end] for start, end in spans), (row, slice(len(spans)))
        found.append(Aligned(texts, plan[rows], 1 - cost[rows], boxes))
    return found


@dataclass(frozen=True)
class Blank:
    """A hidden word and its predictions.

    Attributes:
        text: the word.
        token: its first token, which is predicted.
        wrong: index of the pair whose image is the wrong one.
        guesses: for each of CONDITIONS the most probable tokens with their probabilities.
    """

    text: str
    token: str
    wrong: int
    guesses: tuple[tuple[tuple[str, float], ...], ...]


@torch.no_grad()
def blanks(model: Clip, mlm: FusedMlm, tokenizer: Tokenizer, pairs: Pairs, k: int = 5) -> list[list[Blank]]:
    """The k best predictions of every word of every pair, with all tokens of that word hidden.

    The wrong image is that of the next pair without any object of this one, or of the next pair if there is none.
    """
    require(len(pairs) >= 2, "the wrong image comes from another pair: pass at least two pairs.")
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
    """A run on a board.

    Attributes:
        curve: the events of its training.
        metrics: by split and name.
        answers: for "image to text" and "text to image" the index that every pair's query retrieves first.
    """

    curve: tuple[Event, ...]
    metrics: dict[str, dict[str, Metric]]
    answers: dict[str, tuple[int, ...]]


def contender(
    model: Clip, tokenizer: Tokenizer, pairs: Pairs, curve: Sequence[Event], metrics: dict[str, dict[str, Metric]]
) -> Contender:
    """Retrieve a caption for every image among those of all pairs, and an image for every caption."""
    v, t = embed(model, tokenizer, pairs)
    cosines = {"image to text": v @ t.T, "text to image": t @ v.T}
    found = {way: s.sort(dim=1, descending=True, stable=True).indices[:, 0] for way, s in cosines.items()}  # (N,), as `ranks`
    return Contender(tuple(curve), metrics, {way: tuple(rows.tolist()) for way, rows in found.items()})


def pca(features: torch.Tensor) -> torch.Tensor:
    """Project on the two directions of largest variance: (N, d) → (N, 2). Signs are fixed, so the result is reproducible."""
    centred = (features - features.mean(0)).double()
    _, _, directions = torch.linalg.svd(centred, full_matrices=False)
    directions = directions[:2]
    directions = directions * directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
    return (centred @ directions.T).float()


def umap(features: torch.Tensor) -> torch.Tensor:
    """A projection that keeps neighbourhoods (UMAP, McInnes et al. 2018, arXiv 1802.03426): (N, d) → (N, 2), by cosine.

    The seed is fixed: reproducible on one machine. Thousands of rows take seconds, after half a minute of compiling.
    """
    require(len(features) > 15, f"a map needs more than 15 points, not {len(features)}.")
    UMAP = need("umap", "course").UMAP  # imported here because it takes seconds
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a fixed seed means one thread, which is intended
        return torch.from_numpy(UMAP(metric="cosine", random_state=0).fit_transform(features.numpy())).float()


WAYS = {"PCA": pca, "UMAP": umap}


def map_key(model: Clip, captions: Sequence[str]) -> str:
    """The name under which the map of some pairs is cached, for the weights of one model."""
    return storage.fingerprint([weights_sha256(model), list(captions)])


def coordinates(features: torch.Tensor, ways: Sequence[str] = tuple(WAYS), key: str | None = None) -> dict[str, torch.Tensor]:
    """Project features on a map: {"PCA" or "UMAP": (N, 2), 0 to 1}.

    Args:
        features: (N, d).
        ways: which projections.
        key: see `map_key`; maps under it are read from the course or the cache, and new ones are added to the cache.
    """
    found: dict[str, torch.Tensor] = {}
    places = [folder / f"{key}.safetensors" for folder in (SHIPPED, data_folder() / "cache" / "maps")] if key else []
    for place in places:
        found |= storage.read_tensors(place) if place.exists() else {}
    fresh = {way: _to_unit(WAYS[choose("map", way, WAYS)](features)) for way in ways if way not in found}
    if places and fresh:
        storage.try_write(storage.write_tensors, places[-1], found | fresh)
    return {way: (found | fresh)[way] for way in ways}


def _to_unit(points: torch.Tensor) -> torch.Tensor:
    """Move and scale points into the unit square, both axes alike: (N, 2)."""
    low, high = points.min(0).values, points.max(0).values
    return (points - (low + high) / 2) / (high - low).max().clamp(min=1e-12) + 0.5


def retrieval_errors(v: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """How well every image, then every caption, retrieves its match, as an index into FOUND. v, t: (N, d) → (2N,).

    With fewer than twenty pairs, "in the top 10" means in the better half.
    """
    place = torch.cat([ranks(v @ t.T), ranks(t @ v.T)])
    return (place >= 1).long() + (place >= min(10, math.ceil(len(v) / 2))).long()
