"""Words and patches matched one to one: four solvers with one signature, and the objective that uses them.

A *problem* is a cost matrix, one row a word and one column a patch. Every word gets at most one patch and every patch at most
one word. A word may stay unmatched at a fixed cost, so that "a" or "of" need not take a patch; patches may stay free.
(LightCLIP, arXiv 2312.00674, token level: "relaxed bipartite matching". The unmatched cost, the token similarity and the
hardest negatives are our reading.)
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from scipy.optimize import linear_sum_assignment

from lcl.assignment import cheapest_columns
from lcl.config import LclError, choose, require
from lcl.models.layers import upcast

FORBIDDEN = math.inf  # the unmatched cost with which every word must be matched


@dataclass(frozen=True)
class Matching:
    """Solved problems.

    Attributes:
        patch: (N, m) int64, the patch of every word, or the one with most of it; -1 if unmatched, and at padding.
        shares: (N, m, n) float where words are divided among patches; None where each word has one patch.
        patches: n.
    """

    patch: torch.Tensor
    shares: torch.Tensor | None
    patches: int

    @property
    def plan(self) -> torch.Tensor:
        """The share of every word that each patch has: (N, m, n). What a row lacks to one is unmatched."""
        return self.shares if self.shares is not None else F.one_hot(self.patch + 1, self.patches + 1)[..., 1:].float()

    @property
    def matched(self) -> torch.Tensor:
        """The share of every word that is matched: (N, m), 0 to 1."""
        return self.shares.sum(2) if self.shares is not None else (self.patch >= 0).float()


Solver = Callable[[torch.Tensor, torch.Tensor, float], Matching]


def exact(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> Matching:
    """The cheapest matching, by scipy's assignment solver: the reference.

    It runs on the CPU, one problem at a time, and is not differentiable. Costs are clipped at `unmatched_cost` before
    solving; a word whose assigned cost equals it counts as unmatched, and so do the words left over where there are more
    words than patches. One thread: a problem takes microseconds, and two threads were a fifth slower. Costs on a GPU stay there:
    see `exact_lockstep`.

    Args:
        cost: (N, m, n) float.
        words: (N, m) bool, false at padding.
        unmatched_cost: of one word; infinity: every word must be matched if it can.

    Raises:
        LclError: for a word with a cost that is not finite.
    """
    if cost.is_cuda:
        return exact_lockstep(cost, words, unmatched_cost)
    check_problems(cost, words, unmatched_cost)
    known = upcast(cost.detach()[words]).clamp_(max=unmatched_cost).cpu().numpy()  # (T, n), all problems' words
    ends = words.sum(1).cumsum(0).tolist()
    found = np.full(len(known), -1)
    for start, end in zip([0, *ends], ends, strict=False):
        chosen, patches = linear_sum_assignment(known[start:end])
        if len(chosen) == end - start:  # every word has a patch, in the order of the words
            found[start:end] = patches
        else:
            found[start + chosen] = patches
    found[known[np.arange(len(known)), found] >= unmatched_cost] = -1  # as expensive as staying unmatched
    patch = torch.full(words.shape, -1, device=cost.device)
    patch[words] = torch.from_numpy(found).to(cost.device)
    return Matching(patch, None, cost.shape[2])


def exact_lockstep(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> Matching:
    """The cheapest matching, all problems at once on any device: what `exact` finds, for GPUs; see `lcl.assignment`.

    On a CPU it takes about ten times as long as `exact`, whose arguments it takes.
    """
    check_problems(cost, words, unmatched_cost)
    if cost.numel() == 0:  # nothing to match
        return Matching(torch.full(words.shape, -1, device=cost.device), None, cost.shape[2])
    known = upcast(cost.detach()).double().masked_fill(~words[..., None], 0.0)  # (N, m, n)
    price = torch.full((), unmatched_cost, dtype=known.dtype, device=known.device)
    if math.isinf(unmatched_cost):  # no saving elsewhere is worth an unmatched word
        price = known.amax() + (known.shape[1] + 1) * (known.amax() - known.amin()) + 1
    return Matching(cheapest_columns(known, words, price), None, cost.shape[2])


def max_match(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> Matching:
    """Every word takes its cheapest patch, and several may take the same: FILIP's max, many-to-one.

    (Yao et al. 2022, arXiv 2111.07783, equation 4; the unmatched cost is our addition.) Arguments as in `exact`.
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
    """The entropic relaxation: words may be divided among patches. Batched, differentiable, on any device.

    Minimises <plan, cost> + ε <plan, ln plan> where a word's row, unmatched share included, sums to one and a patch's column
    to at most one (Cuturi 2013, arXiv 1306.0895, in the logarithmic domain; Benamou et al. 2015, arXiv 1412.5154, for the
    upper bound). In each round every word is divided by a softmax over -(cost + dual price), and the dual price of every
    patch with a column sum above one rises. ε is annealed to its value over the first ANNEALING rounds; after them, dual
    prices are over-relaxed by OVERSHOOT, which converges sooner (Thibault et al. 2021, arXiv 1711.01851).

    Args:
        cost, words, unmatched_cost: as in `exact`.
        epsilon: in units of a problem's cost range, so that the scale of the costs does not matter.
        rounds: at most.
        tolerance: stop when no column sum exceeds one by more.

    Returns:
        A matching whose cost exceeds the optimum by about `epsilon` cost ranges a word: less than 1 %, unless nearly all
        words have a nearly free patch. The gradient flows through all rounds, with smallest cost and range held fixed.
        Half precision is computed in float32.
    """
    check_problems(cost, words, unmatched_cost)
    if cost.numel() == 0:  # nothing to match
        return Matching(torch.full(words.shape, -1, device=cost.device), cost, cost.shape[2])
    kind = cost.dtype if cost.dtype in (torch.float32, torch.float64) else torch.float32
    known, row = cost.to(kind), words[..., None]  # (N, m, n), (N, m, 1)
    least = known.detach().masked_fill(~row, math.inf).amin((1, 2), keepdim=True).nan_to_num(posinf=0.0)  # (N, 1, 1)
    most = known.detach().masked_fill(~row, -math.inf).amax((1, 2), keepdim=True).nan_to_num(neginf=0.0)
    spread = (most - least).clamp(min=SMALLEST)
    # Two ranges cost more than any patch, so 2 stands for an infinite cost where there are more words than patches.
    unmatched = ((unmatched_cost - least) / spread).clamp(-1, 2).expand(-1, cost.shape[1], 1)  # (N, m, 1)
    c = torch.cat([((known - least) / spread).masked_fill(~row, 0.0), unmatched], dim=2)  # (N, m, n + 1)
    dual_price = torch.zeros_like(c[:, :1, :-1])  # (N, 1, n), 0 or more
    for number in range(rounds):
        e = epsilon ** min(1.0, number / ANNEALING)
        plan = (-(c + F.pad(dual_price, (0, 1))) / e).softmax(2) * row  # (N, m, n + 1); any number may stay unmatched
        asked = plan[..., :-1].sum(1, keepdim=True)  # (N, 1, n)
        settled = number >= ANNEALING
        if settled and number % 10 == 0 and asked.max() <= 1 + tolerance:
            break
        dual_price = (dual_price + (OVERSHOOT if settled else 1.0) * e * asked.clamp(min=SMALLEST).log()).clamp(min=0)
    plan = plan[..., :-1].to(cost.dtype)
    share, patch = plan.detach().max(2)
    return Matching(torch.where(words & (share > 1 - plan.detach().sum(2)), patch, -1), plan, cost.shape[2])


ANNEALING, OVERSHOOT = 300, 1.8
SMALLEST = 1e-30  # guards logarithms and quotients

SOLVERS: dict[str, Solver] = {"exact": exact, "exact-lockstep": exact_lockstep, "sinkhorn": sinkhorn, "max": max_match}
"""Ways to match. All but `sinkhorn` give every word to one patch; `sinkhorn` may divide it."""


def check_problems(cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float) -> None:
    """Raise LclError for shapes that do not fit, no patches, an unmatched cost of NaN, or costs that are not finite."""
    require(
        cost.ndim == 3 and cost.shape[2] > 0 and words.shape == cost.shape[:2] and words.dtype == torch.bool,
        f"costs are (problems, words, patches) and words (problems, words) bool; got {tuple(cost.shape)} and "
        f"{tuple(words.shape)} {words.dtype}.",
    )
    limits = "the unmatched cost must be a number, or infinity to match every word"
    require(unmatched_cost > -math.inf, f"{limits}, not {unmatched_cost}.")
    if not torch.isfinite(cost.detach().sum()):  # at padding they do not matter
        broken = ((~torch.isfinite(cost)).any(2) & words).any(1).nonzero().flatten().tolist()
        require(not broken, f"the costs of the problems {broken[:8]} are not finite; check the embeddings.")


def total_cost(matching: Matching, cost: torch.Tensor, words: torch.Tensor, unmatched_cost: float = FORBIDDEN) -> torch.Tensor:
    """The cost of matchings, unmatched words included: (N,). Where it is infinite, words left over cost nothing."""
    spent = (matching.plan * cost.masked_fill(~words[..., None], 0.0)).sum((1, 2))
    return spent if math.isinf(unmatched_cost) else spent + unmatched_cost * (words.to(cost.dtype) - matching.matched).sum(1)


def token_similarity(
    patches: torch.Tensor, words: torch.Tensor, real: torch.Tensor, images: torch.Tensor, captions: torch.Tensor,
    unmatched_cost: float, solve: Solver,
) -> tuple[torch.Tensor, Matching]:  # fmt: skip
    """1 - the mean cost of a word, for R pairs of image and caption (our reading).

    The mean is over all words, unmatched ones included: over matched words only, an image could raise its similarity by
    leaving all words but one unmatched.

    Args:
        patches: (B, n, d) float, L2-normalised.
        words: (B, m, d) float, L2-normalised.
        real: (B, m) bool, true at words.
        images, captions: (R,) int64, the pairs.
        unmatched_cost: of one word; an unmatched word counts as 1 - unmatched_cost, and as 0 if that is infinite.
        solve: one of SOLVERS.

    Returns:
        Similarities (R,), and the matching. The assignment is held constant within a step and gradients flow through the
        costs of the matched pairs: exact at an optimal matching (the derivative of a minimum).
    """
    with torch.no_grad():
        cost = 1 - words.index_select(0, captions) @ patches.index_select(0, images).mT  # (R, m, n)
        matching = solve(cost, real[captions], unmatched_cost)
    chosen = words.index_select(0, captions)  # (R, m, d)
    if matching.shares is not None:
        found = (matching.shares * (chosen @ patches.index_select(0, images).mT)).sum(2)  # (R, m)
    else:  # the same result where every word has one patch, for a fraction of the work
        row = images[:, None] * patches.shape[1] + matching.patch.clamp(min=0)  # (R, m)
        its_patch = patches.flatten(0, 1).index_select(0, row.flatten()).view_as(chosen)  # (R, m, d)
        found = (chosen * its_patch).sum(2) * matching.matched
    number = real[captions].sum(1).to(patches.dtype)  # (R,)
    unmatched = 0.0 if math.isinf(unmatched_cost) else (1 - unmatched_cost) * (number - matching.matched.sum(1))
    return (found.sum(1) + unmatched) / number.clamp(min=1), matching


def hardest(s: torch.Tensor, negatives: int, same: torch.Tensor | None = None) -> torch.Tensor:
    """The most similar others of every row: (B, k) int64, k = `negatives` or as many as there are. s: (B, B).

    same: (B, B) bool, true where two rows have the same content, each with itself too; these are chosen last.
    """
    same = torch.eye(len(s), dtype=torch.bool, device=s.device) if same is None else same
    others = s.detach().masked_fill(same, -math.inf)
    return others.topk(min(negatives, len(s) - 1), dim=1).indices


def matched_contrast(
    patches: torch.Tensor, words: torch.Tensor, real: torch.Tensor, s: torch.Tensor, scale: float | torch.Tensor,
    negatives: int, unmatched_cost: float, solver: str, same: torch.Tensor | None = None,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """Contrast of token similarities: each pair against its hardest negatives (LightCLIP, token level; our reading).

    Every image's own caption is classified among the k captions nearest to it by global similarity, and every caption's own
    image likewise, with logits scale · token similarity; the two cross-entropies are averaged. Other plausible readings:
    minimise the matching cost of true pairs only; contrast with all pairs.

    Args:
        patches, words, real: as in `token_similarity`; row i of each belongs together.
        s: (B, B) global cosines, which only choose the negatives.
        scale: factor of the logits.
        negatives: k, 1 or more.
        unmatched_cost, solver: how words are matched.
        same: (B, B) bool, true where two captions are equal: neither is a negative of the other, nor of the other's image.

    Returns:
        {"matched_contrast": scalar}, about ln (k + 1) at chance level. A caption without words is neither query nor negative.
        A row with fewer than k others to choose from has fewer negatives; without any, its loss is 0.

    Raises:
        LclError: for a batch of one and for similarities that are not finite.
    """
    solve = SOLVERS[choose("solver", solver, SOLVERS)]
    size = len(s)
    require(size >= 2, "a batch of one has no negatives, so there is nothing to contrast; use 2 or more pairs.")
    require(negatives >= 1, f"the number of negatives must be 1 or more, not {negatives}.")
    if not torch.isfinite(s).all():
        broken = (~torch.isfinite(s)).any(1).nonzero().flatten().tolist()
        raise LclError(f"the similarities of the batch's rows {broken[:8]} are not finite numbers.")

    own = torch.arange(size, device=s.device)
    itself = torch.eye(size, dtype=torch.bool, device=s.device)
    same = itself if same is None else same | itself
    wrong_captions, wrong_images = hardest(s, negatives, same), hardest(s.T, negatives, same.T)  # (B, k)
    k = wrong_captions.shape[1]
    images = torch.cat([own, own.repeat_interleave(k), wrong_images.flatten()])  # (R,) with R = B (1 + 2k)
    captions = torch.cat([own, wrong_captions.flatten(), own.repeat_interleave(k)])
    similarity, _ = token_similarity(patches, words, real, images, captions, unmatched_cost, solve)  # (R,)

    barred = same[images, captions] | ~real.any(1)[captions]  # (R,)
    barred[:size] = False  # the right ones
    logits = (scale * similarity).masked_fill(barred, -math.inf)
    right, by_image, by_caption = logits.split([size, size * k, size * k])
    has_words = real.any(1)  # (B,)
    wanted = torch.zeros_like(own).masked_fill(~has_words, -100)  # (B,): the right one comes first; -100 is left out
    loss = [
        F.cross_entropy(torch.cat([right[:, None], others.view(size, k)], dim=1), wanted, reduction="sum")
        / has_words.sum().clamp(min=1)
        for others in (by_image, by_caption)
    ]
    return {"matched_contrast": (loss[0] + loss[1]) / 2}
