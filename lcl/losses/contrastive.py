"""Objectives at the level of whole images and captions."""

import math

import torch
import torch.nn.functional as F

from lcl.config import choose, require


def info_nce(
    v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor, mine: slice | None = None
) -> dict[str, torch.Tensor]:
    """Symmetric InfoNCE, CLIP's objective (Radford et al. 2021, arXiv 2103.00020, section 2.3).

    For every image, which caption is its own? For every caption, which image? Both are asked as classification over
    the batch, with logits s_ij = logit_scale · v_i·t_j, and the two cross-entropies averaged.

    v, t: (B, d) image and text embeddings, L2-normalised; row i of one belongs to row i of the other.
    logit_scale: scalar, 1 / temperature. mine: the rows that ask, if not all do; each is compared with all others, so that
    the mean over equal slices is the whole batch's. Returns {"info_nce": scalar}, between 0 and, for a guess, ln B.
    Raises LclError for a batch of one: it has no negatives, so its loss is zero and its gradient too.
    """
    require(
        len(v) >= 2, "a batch of one has no negatives, so InfoNCE is zero and teaches nothing; use 2 or more pairs."
    )
    s, s_t = both_ways(logit_scale * v, t, mine)  # (b, B) each
    own = own_column(s, mine)
    return {"info_nce": (F.cross_entropy(s, own) + F.cross_entropy(s_t, own)) / 2}


def both_ways(v: torch.Tensor, t: torch.Tensor, mine: slice | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Products of v and t, (B, d) each: of images with all captions, and of captions with all images; (b, B) each."""
    if mine is None:
        s = v @ t.T
        return s, s.T
    return v[mine] @ t.T, t[mine] @ v.T


def own_column(s: torch.Tensor, mine: slice | None = None) -> torch.Tensor:
    """The column that belongs to each row of s: (b, B) → (b,) int64."""
    return torch.arange(s.shape[1], device=s.device)[mine or slice(None)]


def soft_targets(s: torch.Tensor, alpha: float, temperature: float) -> torch.Tensor:
    """Labels that give the negatives a share (LightCLIP, arXiv 2312.00674, level one; the formula is our reading).

    y_ij = (1 - α)·[i = j] + α·w_ij, where w_i = softmax over j ≠ i of s_ij / temperature and w_ii = 0: what looks
    alike is no plain mistake. α = 0 are CLIP's labels; a temperature without bound gives label smoothing.

    s: (B, B) cosines, a query a row. alpha: share of the negatives, 0 to 1. temperature: more than 0.
    Returns (B, B); rows sum to one, and no gradient passes to s.
    Raises LclError for α or temperature out of range, and for a batch of one.
    """
    require(0 <= alpha <= 1, f"alpha is the share of the label that negatives get, 0 to 1, not {alpha}.")
    return (1 - alpha) * torch.eye(len(s), dtype=s.dtype, device=s.device) + alpha * negatives_share(s, temperature)


def negatives_share(s: torch.Tensor, temperature: float, mine: slice | None = None) -> torch.Tensor:
    """w of `soft_targets`: how the negatives of each row divide their share. (b, B) → (b, B), zero at a row's own, no
    gradient. mine: which of the B rows these are, if not all."""
    require(temperature > 0, f"the temperature of the softened labels must be more than 0, not {temperature}.")
    require(s.shape[1] >= 2, "a batch of one has no negatives to share the label with; use 2 or more pairs.")
    own = own_column(s, mine)[:, None] == torch.arange(s.shape[1], device=s.device)  # (b, B)
    return (s.detach() / temperature).masked_fill(own, -torch.inf).softmax(1)


def soft_info_nce(
    v: torch.Tensor,
    t: torch.Tensor,
    logit_scale: torch.Tensor,
    alpha: float,
    temperature: float,
    mine: slice | None = None,
) -> dict[str, torch.Tensor]:
    """InfoNCE with softened labels, both directions (LightCLIP, level one; see `soft_targets` for what is our reading).

    A cross-entropy is linear in its labels, so it is (1 - α) of InfoNCE and α of the cross-entropy with the negatives'
    shares: at α = 0 InfoNCE to the bit. Rows of s are labelled for image to text, columns for text to image.

    v, t, logit_scale, mine: as in `info_nce`; alpha, temperature: as in `soft_targets`. Returns {"soft_info_nce": scalar}.
    """
    require(0 <= alpha <= 1, f"alpha is the share of the label that negatives get, 0 to 1, not {alpha}.")
    own = info_nce(v, t, logit_scale, mine)["info_nce"]
    s, s_t = both_ways(v, t, mine)  # (b, B) each
    shared = (
        F.cross_entropy(logit_scale * s, negatives_share(s, temperature, mine))
        + F.cross_entropy(logit_scale * s_t, negatives_share(s_t, temperature, mine))
    ) / 2
    return {"soft_info_nce": (1 - alpha) * own + alpha * shared}


SCHEDULES = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}
"""How a weight grows from 0 to its largest value while progress goes from 0 to 1; "constant" is there from the start."""


def ramp(schedule: str, largest: float, progress: float) -> float:
    """A weight's value when `progress` (0 to 1) of the training is done; never more than `largest`."""
    require(0 <= progress <= 1, f"progress is a share of the training, 0 to 1, not {progress}.")
    return largest * SCHEDULES[choose("schedule", schedule, SCHEDULES)](progress)
