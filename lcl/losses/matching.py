"""Words and patches matched one to one: three solvers behind one signature, and the objective that they serve.

A *problem* is a matrix of costs, a row a word and a column a patch. Every word takes at most one patch and every patch
at most one word; a word may instead fall into a dustbin at a fixed price, so that "a" or "of" need not be forced onto a
patch. Patches may stay free. (LightCLIP, arXiv 2312.00674, level two: "relaxed bipartite matching"; the dustbin, its
price, the token similarity and the hardest negatives are our reading.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from lcl.config import choose, require
from lcl.models.layers import full

FORBIDDEN = math.inf  # the price of a dustbin that no word may use


@dataclass(frozen=True)
class Matching:
    """Solved problems: which patch every word found.

    patch: (N, m) int64, the patch that has the word, or most of it; -1 in the dustbin, and where there is no word.
    shares: (N, m, n) where words are divided among patches; None where each goes whole to its `patch`. patches: n.
    """

    patch: torch.Tensor
    shares: torch.Tensor | None
    patches: int

    @property
    def plan(self) -> torch.Tensor:
        """Which share of every word each patch has: (N, m, n). What a word's row lacks to one lies in the dustbin."""
        return self.shares if self.shares is not None else F.one_hot(self.patch + 1, self.patches + 1)[..., 1:].float()

    @property
    def matched(self) -> torch.Tensor:
        """Which share of every word has found a patch: (N, m), 0 to 1."""
        return self.shares.sum(2) if self.shares is not None else (self.patch >= 0).float()


Solver = Callable[[torch.Tensor, torch.Tensor, float], Matching]


def exact(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> Matching:
    """The cheapest matching of all, by scipy's assignment solver: the reference. On the CPU, one transfer a call.

    cost: (N, m, n). words: (N, m) bool, false at rows that are no words (padding). price: of the dustbin, a word.
    A word in the dustbin pays `unmatched_cost`, so a patch may as well cost no more than that; solved with costs cut off at the
    price, what ends up at the price lies in the dustbin. With more words than patches those left over lie there, too.
    (One thread: a problem takes microseconds, no longer than threads need to take turns; two were a fifth slower than one.
    And no copy of all costs in double precision: the solver widens a problem at a time, which lies in the cache.)
    Raises LclError for a cost of a word that is not finite.
    """
    check_problems(cost, words, unmatched_cost)
    known = full(cost.detach()[words]).clamp_(max=unmatched_cost).cpu().numpy()  # (T, n), the words of all problems in a row
    ends = words.sum(1).cumsum(0).tolist()
    found = np.full(len(known), -1)
    for start, end in zip([0, *ends], ends, strict=False):
        chosen, patches = linear_sum_assignment(known[start:end])
        if len(chosen) == end - start:  # as always but where words outnumber patches: every word has one, in their order
            found[start:end] = patches
        else:
            found[start + chosen] = patches
    found[known[np.arange(len(known)), found] >= unmatched_cost] = -1  # as dear as the dustbin
    patch = torch.full(words.shape, -1, device=cost.device)
    patch[words] = torch.from_numpy(found).to(cost.device)
    return Matching(patch, None, cost.shape[2])


def max_match(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> Matching:
    """Every word takes its cheapest patch, and several may take the same: FILIP's max, the many-to-one contrast.

    (Yao et al. 2022, arXiv 2111.07783, equation 4; the dustbin is our addition.) Arguments as in `exact`.
    """
    check_problems(cost, words, unmatched_cost)
    best, patch = cost.detach().min(2)
    return Matching(torch.where(words & (best < unmatched_cost), patch, -1), None, cost.shape[2])


def sinkhorn(
    cost: torch.Tensor,
    words: torch.Tensor,
    unmatched_cost: float = FORBIDDEN,
    epsilon: float = 5e-4,
    rounds: int = 3000,
    tolerance: float = 1e-3,
) -> Matching:
    """The entropic relaxation: words may divide themselves among patches. Batched, differentiable, on any device.

    Minimises <plan, cost> + ε <plan, ln plan> where a word's row sums to one (dustbin included) and a patch's column to
    at most one (Cuturi 2013, arXiv 1306.0895, in the logarithmic domain; Benamou et al. 2015, arXiv 1412.5154, for the
    upper bound). In each round every word divides itself by a softmax over minus (cost + toll), and every patch that is
    asked for too much raises its toll. ε falls to its value over the first ANNEALING rounds; after them, tolls go
    OVERSHOOT times as far as they should, which settles sooner (Thibault et al. 2021, arXiv 1711.01851).

    cost, words, price: as in `exact`. epsilon: in spreads of a problem's costs, so that their unit does not matter.
    Stops when no column exceeds one by more than `tolerance`, or after `rounds`. Costs at most about `epsilon` spreads a
    word more than the optimum: less than 1 % of it, unless nearly all words have a patch that is nearly free. A gradient
    passes through all rounds (least cost and spread, which set the scale, are held fixed). Half precision is computed in
    float32.
    """
    check_problems(cost, words, unmatched_cost)
    if cost.numel() == 0:  # nothing to match
        return Matching(torch.full(words.shape, -1, device=cost.device), cost, cost.shape[2])
    kind = cost.dtype if cost.dtype in (torch.float32, torch.float64) else torch.float32
    known, row = cost.to(kind), words[..., None]  # (N, m, n), (N, m, 1)
    least = known.detach().masked_fill(~row, math.inf).amin((1, 2), keepdim=True).nan_to_num(posinf=0.0)  # (N, 1, 1)
    most = known.detach().masked_fill(~row, -math.inf).amax((1, 2), keepdim=True).nan_to_num(neginf=0.0)
    spread = (most - least).clamp(min=SMALLEST)
    # Two spreads are dearer than any patch: as good as a price without bound, where there are more words than patches.
    dustbin = ((unmatched_cost - least) / spread).clamp(-1, 2).expand(-1, cost.shape[1], 1)  # (N, m, 1)
    c = torch.cat([((known - least) / spread).masked_fill(~row, 0.0), dustbin], dim=2)  # (N, m, n + 1)
    dual_price = torch.zeros_like(c[:, :1, :-1])  # (N, 1, n), of a patch, 0 or more
    for number in range(rounds):
        e = epsilon ** min(1.0, number / ANNEALING)
        plan = (-(c + F.pad(dual_price, (0, 1))) / e).softmax(2) * row  # (N, m, n + 1); the dustbin has room for all
        asked = plan[..., :-1].sum(1, keepdim=True)  # (N, 1, n)
        settled = number >= ANNEALING
        if settled and number % 10 == 0 and asked.max() <= 1 + tolerance:
            break
        dual_price = (dual_price + (OVERSHOOT if settled else 1.0) * e * asked.clamp(min=SMALLEST).log()).clamp(min=0)
    plan = plan[..., :-1].to(cost.dtype)
    share, patch = plan.detach().max(2)
    return Matching(torch.where(words & (share > 1 - plan.detach().sum(2)), patch, -1), plan, cost.shape[2])


ANNEALING, OVERSHOOT = 300, 1.8
SMALLEST = 1e-30  # what a logarithm and a quotient can bear

SOLVERS: dict[str, Solver] = {"exact": exact, "sinkhorn": sinkhorn, "max": max_match}
"""Ways to match. `exact` and `max` give words whole to a patch, `sinkhorn` may divide them."""


def check_problems(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float) -> None:
    """Raise LclError for shapes that do not fit, no patches at all, a price that is NaN, or costs that are not finite."""
    require(
        cost.ndim == 3 and cost.shape[2] > 0 and words.shape == cost.shape[:2] and words.dtype == torch.bool,
        f"costs are (problems, words, patches) and words (problems, words) bool; got {tuple(cost.shape)} and "
        f"{tuple(words.shape)} {words.dtype}.",
    )
    limits = "the unmatched cost must be a number, or infinity to match every word"
    require(unmatched_cost > -math.inf, f"{limits}, not {unmatched_cost}.")
    if not torch.isfinite(cost.detach().sum()):  # padding may be broken, too, and does not matter
        broken = ((~torch.isfinite(cost)).any(2) & words).any(1).nonzero().flatten().tolist()
        require(not broken, f"the costs of the problems {broken[:8]} are not finite; what they come from is broken.")


def total_cost(matching: Matching, cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> torch.Tensor:
    """What matchings cost, dustbin included: (N,). Without a price (infinite) words that are left over cost nothing."""
    spent = (matching.plan * cost.masked_fill(~words[..., None], 0.0)).sum((1, 2))
    return spent if math.isinf(unmatched_cost) else spent + unmatched_cost * (words.to(cost.dtype) - matching.matched).sum(1)


def token_similarity(
    patches: torch.Tensor, words: torch.Tensor, real: torch.Tensor, images: torch.Tensor, captions: torch.Tensor,
    unmatched_cost: float, solve: Solver,
) -> tuple[torch.Tensor, Matching]:  # fmt: skip
    """How well the words of captions find their patches in images: 1 - the mean cost of a word, for R pairs.

    (Our reading. The mean is over all words, with 1 - price for one in the dustbin: over matched words alone, an image
    could raise its similarity by letting every word but one fall into the dustbin.)

    patches: (B, n, d) and words: (B, m, d), L2-normalised. real: (B, m) bool, true at words. images, captions: (R,),
    which of them make the pairs. A word in the dustbin counts as 1 - price, and as 0 where the price is infinite.
    Returns (R,), and the matching. The matching itself is held fixed in the gradient, which is exact where it is
    optimal (the derivative of a minimum is the derivative at the minimum).
    """
    with torch.no_grad():
        cost = 1 - words.index_select(0, captions) @ patches.index_select(0, images).mT  # (R, m, n)
        matching = solve(cost, real[captions], unmatched_cost)
    asked = words.index_select(0, captions)  # (R, m, d)
    if matching.shares is not None:
        found = (matching.shares * (asked @ patches.index_select(0, images).mT)).sum(2)  # (R, m)
    else:  # the same where a word has one patch, for a fraction of the work
        row = images[:, None] * patches.shape[1] + matching.patch.clamp(min=0)  # (R, m)
        its_patch = patches.flatten(0, 1).index_select(0, row.flatten()).view_as(asked)  # (R, m, d)
        found = (asked * its_patch).sum(2) * matching.matched
    number = real[captions].sum(1).to(patches.dtype)  # (R,)
    binned = 0.0 if math.isinf(unmatched_cost) else (1 - unmatched_cost) * (number - matching.matched.sum(1))
    return (found.sum(1) + binned) / number.clamp(min=1), matching


def hardest(s: torch.Tensor, negatives: int) -> torch.Tensor:
    """For every row the most similar others: (B, k) int64, k = `negatives` or as many as there are. s: (B, B)."""
    others = s.detach().masked_fill(torch.eye(len(s), dtype=torch.bool, device=s.device), -math.inf)
    return others.topk(min(negatives, len(s) - 1), dim=1).indices


def matched_contrast(
    patches: torch.Tensor, words: torch.Tensor, real: torch.Tensor, s: torch.Tensor, scale: float | torch.Tensor,
    negatives: int, unmatched_cost: float, solver: str,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Contrast of token similarities: each pair against its hardest negatives (LightCLIP, level two; our reading).

    For every image: its own caption among those of the k captions nearest to it by global similarity; for every caption
    likewise among images. Both are asked as classification with logits scale · token similarity, and averaged.

    patches, words, real: as in `token_similarity`, row i of each belongs together. s: (B, B) global cosines, which only
    choose the negatives. scale: factor of the logits. negatives: k, at least 1. price, solver: how words are matched.
    Captions without words ask nothing and are nobody's negative. Returns {"matched_contrast": scalar}, 0 to about
    ln (k + 1) for a guess. Raises LclError for a batch of one and for similarities that are not finite.
    """
    solve = SOLVERS[choose("solver", solver, SOLVERS)]
    size = len(s)
    require(size >= 2, "a batch of one has no negatives, so there is nothing to contrast; use 2 or more pairs.")
    require(negatives >= 1, f"the number of negatives must be 1 or more, not {negatives}.")
    broken = (~torch.isfinite(s)).any(1).nonzero().flatten().tolist()
    require(not broken, f"the similarities of the batch's rows {broken[:8]} are not finite numbers.")

    own = torch.arange(size, device=s.device)
    wrong_captions, wrong_images = hardest(s, negatives), hardest(s.T, negatives)  # (B, k)
    k = wrong_captions.shape[1]
    images = torch.cat([own, own.repeat_interleave(k), wrong_images.flatten()])  # (R,) with R = B (1 + 2k)
    captions = torch.cat([own, wrong_captions.flatten(), own.repeat_interleave(k)])
    similarity, _ = token_similarity(patches, words, real, images, captions, unmatched_cost, solve)  # (R,)

    logits = (scale * similarity).masked_fill(~real.any(1)[captions], -math.inf)
    right, by_image, by_caption = logits.split([size, size * k, size * k])
    asks = real.any(1)  # (B,)
    loss = [
        F.cross_entropy(
            torch.cat([right[:, None], others.view(size, k)], dim=1)[asks], own[asks] * 0, reduction="sum"
        ) / asks.sum().clamp(min=1)
        for others in (by_image, by_caption)
    ]
    return {"matched_contrast": (loss[0] + loss[1]) / 2}
