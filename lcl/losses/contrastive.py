"""Objectives on whole images and captions: InfoNCE and its softened labels."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import choose, require


def info_nce(
    v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """Symmetric InfoNCE, CLIP's objective (Radford et al. 2021, arXiv 2103.00020, section 2.3).

    For every image, which caption is its own? For every caption, which image? Both are classification over the batch
    with logits s_ij = logit_scale · v_i·t_j, and the two cross-entropies are averaged.

    Args:
        v: image embeddings, (B, d) float, L2-normalised.
        t: text embeddings, (B, d) float, L2-normalised; row i belongs to row i of `v`.
        logit_scale: scalar, 1 / temperature.
        rows: slice of queries to score (default: all). Each is compared with the full batch, so the mean over equal
            slices is the batch loss.

    Returns:
        {"info_nce": scalar}, 0 or more; ln B at chance level.

    Raises:
        LclError: for a batch of one, which has no negatives, so that its loss and gradient are zero.
    """
    require(
        len(v) >= 2, "a batch of one has no negatives, so InfoNCE is zero and teaches nothing; use 2 or more pairs."
    )
    s, s_t = both_ways(logit_scale * v, t, rows)  # (b, B) each
    own = own_column(s, rows)
    return {"info_nce": (F.cross_entropy(s, own) + F.cross_entropy(s_t, own)) / 2}


def both_ways(v: torch.Tensor, t: torch.Tensor, rows: slice | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Dot products of v and t, (B, d) each: images with all captions, captions with all images; (b, B) each."""
    if rows is None:
        s = v @ t.T
        return s, s.T
    return v[rows] @ t.T, t[rows] @ v.T


def own_column(s: torch.Tensor, rows: slice | None = None) -> torch.Tensor:
    """The column that belongs to each row of s: (b, B) → (b,) int64."""
    return torch.arange(s.shape[1], device=s.device)[rows or slice(None)]


def soft_targets(s: torch.Tensor, alpha: float, temperature: float) -> torch.Tensor:
    """Labels that give the negatives a share (LightCLIP, arXiv 2312.00674, instance level; the formula is our reading).

    y_ij = (1 - α)·[i = j] + α·w_ij, where w_i = softmax over j ≠ i of s_ij / temperature and w_ii = 0: a similar pair is
    less of a mistake. α = 0 gives CLIP's labels; an infinite temperature gives label smoothing.

    Args:
        s: cosines, (B, B) float, one query a row.
        alpha: the negatives' share of the label, 0 to 1.
        temperature: of the softmax, more than 0.

    Returns:
        Labels, (B, B); each row sums to one. No gradient flows to `s`.

    Raises:
        LclError: for `alpha` or `temperature` out of range, and for a batch of one.
    """
    require(0 <= alpha <= 1, f"alpha is the share of the label that negatives get, 0 to 1, not {alpha}.")
    return (1 - alpha) * torch.eye(len(s), dtype=s.dtype, device=s.device) + alpha * negatives_share(s, temperature)


def negatives_share(s: torch.Tensor, temperature: float, rows: slice | None = None) -> torch.Tensor:
    """w of `soft_targets`: how the negatives of each row divide their share.

    Args:
        s: cosines, (b, B) float.
        temperature: of the softmax, more than 0.
        rows: which of the B rows these are (default: all).

    Returns:
        (b, B), zero in each row's own column. No gradient flows to `s`.
    """
    require(temperature > 0, f"the temperature of the softened labels must be more than 0, not {temperature}.")
    require(s.shape[1] >= 2, "a batch of one has no negatives to share the label with; use 2 or more pairs.")
    own = own_column(s, rows)[:, None] == torch.arange(s.shape[1], device=s.device)  # (b, B)
    return (s.detach() / temperature).masked_fill(own, -torch.inf).softmax(1)


def soft_info_nce(
    v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor, alpha: float, temperature: float,
    rows: slice | None = None, within_modality: bool = False,
) -> dict[str, torch.Tensor]:  # fmt: skip
    """InfoNCE with softened labels, both directions (LightCLIP, instance level; see `soft_targets`).

    Cross-entropy is linear in its labels, so this is (1 - α) · InfoNCE + α · cross-entropy with the negatives' shares:
    at α = 0 bitwise InfoNCE. Rows of s are labelled for image to text, columns for text to image.

    Args:
        v, t, logit_scale, rows: as in `info_nce`.
        alpha, temperature: as in `soft_targets`.
        within_modality: divide the share of negative images by their likeness to the image, and of captions by theirs to the
            caption, as in SoftCLIP (Gao et al. 2023, arXiv 2303.17561).

    Returns:
        {"soft_info_nce": scalar}.
    """
    require(0 <= alpha <= 1, f"alpha is the share of the label that negatives get, 0 to 1, not {alpha}.")
    own = info_nce(v, t, logit_scale, rows)["info_nce"]
    s, s_t = both_ways(v, t, rows)  # (b, B) each
    like, like_t = (both_ways(v, v, rows)[0], both_ways(t, t, rows)[0]) if within_modality else (s, s_t)
    shared = (
        F.cross_entropy(logit_scale * s, negatives_share(like, temperature, rows))
        + F.cross_entropy(logit_scale * s_t, negatives_share(like_t, temperature, rows))
    ) / 2
    return {"soft_info_nce": (1 - alpha) * own + alpha * shared}


def sigmoid_loss(
    v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor, bias: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """SigLIP's objective (Zhai et al. 2023, arXiv 2303.15343, section 3.2): of every image and caption, are they a pair?

    -1/B Σ_ij ln σ(z_ij (logit_scale · v_i·t_j + bias)), where z_ij is 1 for a pair and -1 otherwise.

    Args:
        v, t, logit_scale, rows: as in `info_nce`.
        bias: scalar. It starts at -10, since nearly all are no pairs.

    Returns:
        {"sigmoid": scalar}, 0 or more.
    """
    require(len(v) >= 2, "a batch of one has no negatives, so there is nothing to tell apart; use 2 or more pairs.")
    logits = logit_scale * both_ways(v, t, rows)[0] + bias  # (b, B)
    pairs = own_column(logits, rows)[:, None] == torch.arange(len(t), device=t.device)  # (b, B)
    return {"sigmoid": -F.logsigmoid(torch.where(pairs, logits, -logits)).sum() / len(logits)}


class Sigmoid(nn.Module):
    """The bias of `sigmoid_loss`, which trains with the model and is dropped afterwards."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(-10.0))


SCHEDULES = {
    "constant": lambda progress: 1.0,
    "linear": lambda progress: progress,
    "cosine": lambda progress: (1 - math.cos(math.pi * progress)) / 2,
}
"""How a weight grows to its largest value while progress goes from 0 to 1; "constant" has it from the start."""


def ramp(schedule: str, largest: float, progress: float) -> float:
    """A weight's value, never more than `largest`, after a share of the training.

    Args:
        schedule: a key of SCHEDULES.
        largest: the value at the end.
        progress: share of the training that is done, 0 to 1.
    """
    require(0 <= progress <= 1, f"progress is a share of the training, 0 to 1, not {progress}.")
    return largest * SCHEDULES[choose("schedule", schedule, SCHEDULES)](progress)
