"""Retrieval: is a right caption of a picture ranked first, and a right picture of a caption?"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from lcl.config import require
from lcl.data.base import Samples
from lcl.data.duplicates import caption_key, distinct, pixel_hash
from lcl.data.scenes import Pairs
from lcl.eval.grounding import Metric


@dataclass(frozen=True)
class Candidates:
    """What retrieval ranks: of N pairs every distinct picture and every distinct caption, once.

    Attributes:
        rows: P rows, for each distinct picture the first pair that shows it.
        captions: C distinct captions, see `duplicates.caption_key`.
        right: (P, C) bool, which captions belong to which picture; one or more in every row and column. Of scenes, a caption
            that states the same facts as the picture's own, in other words, belongs to it, too.
        picture, caption: (N,) int64, the numbers of a pair's picture and of its (first) caption.
    """

    rows: list[int]
    captions: list[str]
    right: torch.Tensor
    picture: torch.Tensor
    caption: torch.Tensor


def candidates(pairs: Pairs | Samples) -> Candidates:
    """The distinct pictures (equal pixels) and captions of some pairs, and which belong together."""
    texts: Sequence[Sequence[str]] = getattr(pairs, "all_captions", None) or [[caption] for caption in pairs.captions]
    rows, picture = distinct(map(pixel_hash, pairs.images))
    owned = [(row, caption) for row, several in enumerate(texts) for caption in several]
    firsts, caption = distinct(caption_key(text) for _, text in owned)
    first_of_row = torch.tensor([0, *map(len, texts)]).cumsum(0)[:-1]
    right = torch.zeros(len(rows), len(firsts), dtype=torch.bool)
    right[torch.tensor([picture[row] for row, _ in owned]), torch.tensor(caption)] = True
    found = Candidates(
        rows, [owned[place][1] for place in firsts], right, torch.tensor(picture), torch.tensor(caption)[first_of_row]
    )
    if isinstance(pairs, Pairs):
        right |= agreeing([scene.facts for scene in pairs.scenes], found)
    return found


def agreeing(keys: Sequence[Hashable], found: Candidates) -> torch.Tensor:
    """Which pictures and captions come from pairs of an equal key: (P, C) bool. keys: of the N pairs."""
    firsts, kind = distinct(keys)
    kinds = torch.zeros(len(found.captions), len(firsts), dtype=torch.bool)
    kinds[found.caption, kind] = True  # several, should pairs of different keys share a caption
    return kinds[:, torch.tensor(kind)[found.rows]].T


def ranks(similarity: torch.Tensor, right: torch.Tensor | None = None) -> torch.Tensor:
    """How many candidates come before the first right one.

    Args:
        similarity: (Q, C) float, of queries and candidates. Of equally similar candidates the one with the smaller index comes
            first.
        right: (Q, C) bool, one or more a row (default: the diagonal of a square matrix).

    Returns:
        (Q,) int64, 0 or more.
    """
    check_finite(similarity)
    if right is None:
        right = torch.eye(len(similarity), dtype=torch.bool)
    best = similarity.masked_fill(~right, -math.inf).amax(1, keepdim=True)  # (Q, 1)
    place = (right & (similarity == best)).int().argmax(1, keepdim=True)  # (Q, 1), the first of equals
    earlier = torch.arange(similarity.shape[1]) < place
    return ((similarity > best) | ((similarity == best) & earlier)).sum(1)


def check_finite(scores: torch.Tensor) -> None:
    """Raise LclError for NaN or infinity: comparisons with NaN are false, and would make any model look perfect."""
    require(
        bool(torch.isfinite(scores).all()),
        "the embeddings hold values that are not finite numbers, so nothing can be measured; the model is damaged.",
    )


def recall_at_k(similarity: torch.Tensor, k: int, right: torch.Tensor | None = None) -> float:
    """Share of the queries (rows) with a right candidate among the k most similar, 0 to 1. See `ranks`."""
    return (ranks(similarity, right) < k).double().mean().item()


def chance_of_recall(right: torch.Tensor, k: int) -> float:
    """The expected recall@k of random orders: the mean probability that k random candidates contain a right one.

    right: (Q, C) bool. A query with m right ones among C candidates is answered with probability 1 - C(C-m, k) / C(C, k).
    """
    number, k = right.shape[1], min(k, right.shape[1])
    queries = Counter(right.sum(1).tolist())  # how many have m right ones
    missed = sum(n * Fraction(math.comb(number - m, k), math.comb(number, k)) for m, n in queries.items())
    return float(1 - missed / len(right))


def retrieval(v: torch.Tensor, t: torch.Tensor, right: torch.Tensor | None = None) -> dict[str, Metric]:
    """recall@1, @5 and @10 in both directions.

    Args:
        v: (P, d), embeddings of pictures.
        t: (C, d), embeddings of captions.
        right: (P, C) bool, which belong together (default: row i of one and row i of the other).

    Returns:
        For every metric its value, chance, and the numbers of queries and candidates.
    """
    similarity, metrics = v @ t.T, {}
    right = torch.eye(len(v), dtype=torch.bool) if right is None else right
    for direction, scores, owned in (("image_to_text", similarity, right), ("text_to_image", similarity.T, right.T)):
        (queries, number), ranked = scores.shape, ranks(scores, owned)
        for k in (1, 5, 10):
            value, chance = (ranked < k).double().mean().item(), chance_of_recall(owned, k)
            metrics[f"{direction}_recall@{k}"] = {"value": value, "chance": chance, "queries": queries, "candidates": number}
    return metrics
