"""Objectives at the level of whole images and captions."""

import torch
import torch.nn.functional as F

from lcl.config import require


def info_nce(v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor) -> dict[str, torch.Tensor]:
    """Symmetric InfoNCE, CLIP's objective (Radford et al. 2021, arXiv 2103.00020, section 2.3).

    For every image, which caption is its own? For every caption, which image? Both are asked as classification over
    the batch, with logits s_ij = logit_scale · v_i·t_j, and the two cross-entropies averaged.

    v, t: (B, d) image and text embeddings, L2-normalised; row i of one belongs to row i of the other.
    logit_scale: scalar, 1 / temperature. Returns {"info_nce": scalar}, between 0 and, for a guess, ln B.
    Raises LclError for a batch of one: it has no negatives, so its loss is zero and its gradient too.
    """
    require(
        len(v) >= 2, "a batch of one has no negatives, so InfoNCE is zero and teaches nothing; use 2 or more pairs."
    )
    s = logit_scale * v @ t.T  # (B, B)
    own = torch.arange(len(s), device=s.device)  # (B,)
    return {"info_nce": (F.cross_entropy(s, own) + F.cross_entropy(s.T, own)) / 2}
