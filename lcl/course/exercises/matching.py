"""Exercises of chapter 5: a round of Sinkhorn, FILIP's max, the matched contrast, alignment."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F

from lcl.course.checks import check, check_function
from lcl.losses.matching import hardest

Similarity = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""Token similarities of images and captions, by their rows in the batch: (R,), (R,) int64 → (R,)."""


def sinkhorn_round(
    cost: torch.Tensor, dual_price: torch.Tensor, unmatched_cost: float, epsilon: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Do one round of `lcl.losses.matching.sinkhorn` on one problem without padding, after annealing, not over-relaxed.

    Args:
        cost: (m, n), a row for each word.
        dual_price: (n,) of the patches.
        unmatched_cost: of one word; may be infinite.
        epsilon: the softmax's temperature.

    Returns:
        The plan (m, n), and the new dual prices (n,).
    """
    return _round(cost, dual_price, unmatched_cost, epsilon)


def _round(
    cost: torch.Tensor, dual_price: torch.Tensor, unmatched_cost: float, epsilon: float, stay: bool = True, along: int = 1,
    sign: float = 1.0, cheap: bool = True, log: bool = True, step: bool = True, free: bool = True, cold: bool = True,
    priced: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:  # fmt: skip
    """A round, with one of the typical mistakes where an argument is not the default."""
    at = cost + sign * dual_price
    apart = torch.full((len(cost), 1), unmatched_cost + (dual_price.mean().item() if priced else 0.0))
    places = torch.cat([at, apart], dim=1) if stay else at
    plan = ((-places if cheap else places) / (epsilon if cold else 1.0)).softmax(along)[:, : cost.shape[1]]  # (m, n)
    asked = plan.sum(0)  # (n,)
    price = dual_price + (epsilon if step else 1.0) * (asked.log() if log else asked - 1)
    return plan, price.clamp(min=0) if free else price


def sinkhorn_update(mine: Callable) -> str:
    """Check `my_round(cost, dual_price, unmatched_cost, epsilon)`: see `sinkhorn_round`."""
    draw = torch.Generator().manual_seed(0)
    cases = [
        (torch.rand(3, 4, generator=draw), 0.3 * torch.rand(4, generator=draw), unmatched, 0.2)
        for unmatched in (0.4, math.inf)
    ]

    def wrong(**mistake) -> Callable:
        return lambda *case: _round(*case, **mistake)

    def with_column(cost: torch.Tensor, dual_price: torch.Tensor, unmatched_cost: float, epsilon: float) -> tuple:
        plan, price = _round(cost, dual_price, unmatched_cost, epsilon)
        return torch.cat([plan, 1 - plan.sum(1, keepdim=True)], dim=1), price

    return check_function(mine, cases, sinkhorn_round, {
        "no word can stay unmatched: the softmax needs one more column, which costs `unmatched_cost`.": wrong(stay=False),
        "return the plan without the unmatched column: (m, n).": with_column,
        "the dual price is added to the cost: a patch in demand becomes more expensive.": wrong(sign=-1.0),
        "the cheapest place gets the largest share: the softmax takes minus the cost.": wrong(cheap=False),
        "the softmax has the temperature ε: divide by it.": wrong(cold=False),
        "each word divides itself among the patches, so the softmax runs along a row.": wrong(along=0),
        "the price changes by ε times the logarithm, not by the logarithm.": wrong(step=False),
        "the price changes by the logarithm of the demand, not by the demand above one.": wrong(log=False),
        "a price is never below zero: a patch may stay free.": wrong(free=False),
        "staying unmatched has no dual price: any number of words may do so.": wrong(priced=True),
    })  # fmt: skip


def total(answer: Any) -> str:
    """Check the cheapest total of the toy with an unmatched cost of 0.6."""
    return check(answer, 1.1, {
        "there every word is matched: `of` pays 0.7 for patch 2, but to stay unmatched is cheaper.": 1.2,
        "that is the greedy choice: give patch 0 to `red`, and `apple` finds another cheap patch.": 1.3,
        "an unmatched word is not free: it costs 0.6.": 0.5,
        "red and apple are cheaper with patches than unmatched.": 1.8,
    })  # fmt: skip


def nearest(mine: Callable, cost: torch.Tensor) -> str:
    """Check `my_nearest(cost)`, FILIP's max, on `cost` (m, n) and on another: (m, n) → (m,)."""
    case = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    return check_function(mine, [(cost,), (case,)], lambda cost: cost.argmin(1), {
        "that is the cheapest word for every patch; rows are words.": lambda cost: cost.argmin(0),
        "that is the most expensive patch; a cost should be small.": lambda cost: cost.argmax(1),
        "those are the costs; the patch's number is asked for.": lambda cost: cost.min(1).values,
    })  # fmt: skip


def lcl_contrast(
    similarity: Similarity, s: torch.Tensor, same: torch.Tensor, negatives: int, scale: float
) -> torch.Tensor:
    """Contrast token similarities as `lcl.losses.matching.matched_contrast` does, where all captions have words.

    Args:
        similarity: token similarities of pairs.
        s: (B, B) global cosines, images × captions.
        same: (B, B) bool, true where two captions are equal, each with itself too.
        negatives: k.
        scale: factor of the logits.

    Returns:
        Scalar, about ln (k + 1) at chance level.
    """
    return _contrast(similarity, s, same, negatives, scale)


def _contrast(
    similarity: Similarity, s: torch.Tensor, same: torch.Tensor, negatives: int, scale: float, spare: bool = True,
    turned: bool = True, chosen: bool = True, ways: str = "both", sign: float = 1.0,
) -> torch.Tensor:  # fmt: skip
    """The contrast, with one of the typical mistakes where an argument is not the default."""
    own = torch.arange(len(s), device=s.device)
    right = similarity(own, own)[:, None]  # (B, 1)
    barred = same if spare else torch.zeros_like(same)

    def one_way(choose: torch.Tensor, pairs: Callable) -> torch.Tensor:
        others = hardest(sign * choose, negatives, barred)  # (B, k)
        queries = own.repeat_interleave(others.shape[1])
        found = pairs(queries, others.flatten()).view_as(others)  # (B, k)
        if spare:
            found = found.masked_fill(same.gather(1, others), -math.inf)  # where fewer than k others remain
        logits = scale * torch.cat([right, found], dim=1)  # (B, 1 + k)
        return F.cross_entropy(logits, torch.zeros_like(own))

    by_image = one_way(s, similarity)
    by_caption = one_way(s.T if chosen else s, lambda i, j: similarity(j, i) if turned else similarity(i, j))
    return {"both": (by_image + by_caption) / 2, "sum": by_image + by_caption, "image": by_image}[ways]


def contrast(mine: Callable) -> str:
    """Check `my_contrast(similarity, s, same, negatives, scale)`: see `lcl_contrast`."""
    draw = torch.Generator().manual_seed(0)
    cases = []
    for B, k in ((7, 2), (9, 4)):
        m = torch.rand(B, B, generator=draw)
        captions = torch.arange(B)
        captions[-1] = 0  # the last caption is the first
        same = captions[:, None] == captions
        cases.append((lambda i, j, m=m: m[i, j], torch.randn(B, B, generator=draw) + 3.0 * same, same, k, 5.0))

    def wrong(**mistake) -> Callable:
        return lambda *case: _contrast(*case, **mistake)

    def only_itself(similarity: Similarity, s: torch.Tensor, same: torch.Tensor, negatives: int, scale: float) -> torch.Tensor:
        return _contrast(similarity, s, torch.eye(len(s)).bool(), negatives, scale)

    def all_others(similarity: Similarity, s: torch.Tensor, same: torch.Tensor, negatives: int, scale: float) -> torch.Tensor:
        return _contrast(similarity, s, same, len(s) - 1, scale)

    return check_function(mine, cases, lcl_contrast, {
        "the pair itself is among its negatives: set s to minus infinity where `same` is true.": wrong(spare=False),
        "equal captions of other pairs are no negatives: use `same`, not only the diagonal.": only_itself,
        "that contrasts with all others; take only the k hardest.": all_others,
        "those are the easiest negatives; take the k with the largest s.": wrong(sign=-1.0),
        "the logits lack the factor `scale`.": lambda m, s, same, k, scale: _contrast(m, s, same, k, 1.0),
        "that is image to text only; each caption is contrasted with wrong images, too.": wrong(ways="image"),
        "that is the sum of both directions; take their mean.": wrong(ways="sum"),
        "the wrong images of a caption are the largest of a column of s: use s.T.": wrong(chosen=False),
        "`similarity` takes the image first: for caption i and image j, that is similarity(j, i).": wrong(turned=False),
    })  # fmt: skip


Box = tuple[float, float, float, float]


def _alignment(patch: Sequence[int], boxes: Sequence[Sequence[Box]], rows: int, size: float, centre: float = 0.5) -> float:
    def lies_in(place: int, box: Box) -> bool:
        x, y = (place % rows + centre) * size, (place // rows + centre) * size
        return place >= 0 and box[0] <= x < box[2] and box[1] <= y < box[3]

    named = [(place, own) for place, own in zip(patch, boxes, strict=True) if own]
    return sum(any(lies_in(place, box) for box in own) for place, own in named) / len(named)


def alignment(mine: Callable, plan: torch.Tensor, boxes: Sequence[Sequence[Box]], side: int) -> str:
    """Check `my_alignment(patch, boxes, rows, size)` on an example and on one scene.

    Args:
        mine: the learner's function.
        plan: (m, n), the scene's words and patches.
        boxes: those of each word.
        side: of the image, in pixels.
    """
    boxes_of_words = [((0, 0, 16, 16),), ((0, 16, 20, 48),), (), ((20, 44, 60, 64),), ((60, 20, 64, 28),), ((0, 0, 64, 64),)]
    example = [0, 5, -1, 14, 7, -1], boxes_of_words, 4, 16  # the last word names an object, but is unmatched
    rows = int(plan.shape[1] ** 0.5)
    scene = [int(row.argmax()) if row.sum() > 0.5 else -1 for row in plan], list(boxes), rows, side / rows

    def all_words(patch: Sequence[int], boxes: Sequence, rows: int, size: float) -> float:
        return _alignment(patch, boxes, rows, size) * sum(map(bool, boxes)) / len(boxes)

    def matched_only(patch: Sequence[int], boxes: Sequence, rows: int, size: float) -> float:
        kept = [n for n, place in enumerate(patch) if place >= 0]
        return _alignment([patch[n] for n in kept], [boxes[n] for n in kept], rows, size)

    def swapped(patch: Sequence[int], boxes: Sequence, rows: int, size: float) -> float:
        return _alignment([p if p < 0 else p % rows * rows + p // rows for p in patch], boxes, rows, size)

    return check_function(mine, [example, scene], _alignment, {
        "only words that name something count.": all_words,
        "a word that names an object but is unmatched is a miss: count it among the naming words.": matched_only,
        "that is the patch's corner; its centre lies half a patch further.": lambda *case: _alignment(*case, centre=0.0),
        "row and column are swapped: patch p lies in row p // rows, column p % rows.": swapped,
    })  # fmt: skip
