"""Neighbours as extra supervision (CLIP-PING, arXiv 2412.03871): NN within a modality, XNN across modalities."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from lcl.losses.contrastive import info_nce


class NeighbourFeatures(NamedTuple):
    """Teacher features of the neighbours of a batch's rows.

    U is the bank of images, Z that of captions. Row i has the nearest image a(i) and the nearest caption b(i), each found
    within its own bank; (B, d_u) and (B, d_z) before projection, (B, d) after it.

    Attributes:
        u_a: the nearest image.
        z_b: the nearest caption.
        z_a: the caption of the nearest image.
        u_b: the image of the nearest caption.
    """

    u_a: torch.Tensor
    z_b: torch.Tensor
    z_a: torch.Tensor
    u_b: torch.Tensor


class Projections(nn.Module):
    """q_u and q_z: from the teachers' spaces into the shared one. They train with the model and are dropped afterwards.

    `forward` takes features in the banks' dimensions and returns them in the shared space: (B, d) each, L2-normalised.
    """

    def __init__(self, image_width: int, text_width: int, embed_dim: int):
        super().__init__()
        self.image = nn.Linear(image_width, embed_dim, bias=False)
        self.text = nn.Linear(text_width, embed_dim, bias=False)

    def forward(self, features: NeighbourFeatures) -> NeighbourFeatures:
        q_u, q_z = self.image, self.text
        u_a, z_b, z_a, u_b = (x.to(q_u.weight.dtype) for x in features)
        return NeighbourFeatures(*(F.normalize(q, dim=-1) for q in (q_u(u_a), q_z(z_b), q_z(z_a), q_u(u_b))))


def nn_contrast(
    v: torch.Tensor, t: torch.Tensor, near: NeighbourFeatures, logit_scale: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """Nearest neighbours within a modality (CLIP-PING's NN; the formula is our reading).

    Every image is contrasted with the nearest images, every caption with the nearest captions: the mean of
    InfoNCE(v, q_u(U_a)) and InfoNCE(t, q_z(Z_b)).

    Args:
        v, t: embeddings, (B, d) float, L2-normalised.
        near: the neighbours' projected features, (B, d) each, L2-normalised.
        logit_scale, rows: as in `info_nce`.

    Returns:
        {"nn_contrast": scalar}; ln B at chance level.

    Raises:
        LclError: for a batch of one.
    """
    images, captions = info_nce(v, near.u_a, logit_scale, rows), info_nce(t, near.z_b, logit_scale, rows)
    return {"nn_contrast": (images["info_nce"] + captions["info_nce"]) / 2}


def xnn_contrast(
    v: torch.Tensor, t: torch.Tensor, near: NeighbourFeatures, logit_scale: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """Cross nearest neighbours, between the modalities (CLIP-PING's XNN; the formula and the pairing are our reading).

    Every image is contrasted with the captions of the nearest images, every caption with the images of the nearest
    captions: the mean of InfoNCE(v, q_z(Z_a)) and InfoNCE(t, q_u(U_b)).

    Args:
        v, t, near, logit_scale, rows: as in `nn_contrast`.

    Returns:
        {"xnn_contrast": scalar}; ln B at chance level.
    """
    images, captions = info_nce(v, near.z_a, logit_scale, rows), info_nce(t, near.u_b, logit_scale, rows)
    return {"xnn_contrast": (images["info_nce"] + captions["info_nce"]) / 2}


def other_xnn(
    v: torch.Tensor, t: torch.Tensor, near: NeighbourFeatures, logit_scale: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """The other plausible pairing of XNN: InfoNCE(v, q_z(Z_b)) and InfoNCE(t, q_u(U_a)), their mean.

    Every image is contrasted with the captions nearest to its own caption, as in DeCLIP (Li et al. 2022, arXiv 2110.05208), every
    caption with the images nearest to its own image. Arguments as in `xnn_contrast`.
    """
    return {"other_xnn": xnn_contrast(v, t, near._replace(z_a=near.z_b, u_b=near.u_a), logit_scale, rows)["xnn_contrast"]}


def image_teacher(
    v: torch.Tensor, t: torch.Tensor, near: NeighbourFeatures, logit_scale: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """The half of NN and XNN that comes from the frozen image encoder: InfoNCE(v, q_u(U_a)) and InfoNCE(t, q_u(U_b)), their mean.

    Arguments as in `nn_contrast`.
    """
    images, captions = info_nce(v, near.u_a, logit_scale, rows), info_nce(t, near.u_b, logit_scale, rows)
    return {"image_teacher": (images["info_nce"] + captions["info_nce"]) / 2}


def text_teacher(
    v: torch.Tensor, t: torch.Tensor, near: NeighbourFeatures, logit_scale: torch.Tensor, rows: slice | None = None
) -> dict[str, torch.Tensor]:
    """The half that comes from the frozen text encoder: InfoNCE(v, q_z(Z_a)) and InfoNCE(t, q_z(Z_b)), their mean."""
    images, captions = info_nce(v, near.z_a, logit_scale, rows), info_nce(t, near.z_b, logit_scale, rows)
    return {"text_teacher": (images["info_nce"] + captions["info_nce"]) / 2}


class CaptionQueue(nn.Module):
    """The model's own embeddings of earlier captions, and who is nearest among them (DeCLIP, arXiv 2110.05208).

    `forward` takes the embeddings of a batch's captions, (B, d), and returns the nearest other one of each, from the batch or the
    queue, (B, d), without a gradient. In training the batch then enters the queue. Keep it much shorter than an epoch: otherwise
    it holds the same captions again, and the nearest one is a caption's own.

    Args:
        length: captions that are kept.
        embed_dim: d.
    """

    def __init__(self, length: int, embed_dim: int):
        super().__init__()
        self.register_buffer("captions", torch.zeros(length, embed_dim))
        self.register_buffer("filled", torch.zeros((), dtype=torch.int64))

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        t = t.detach()
        known = torch.cat([t, self.captions[: self.filled]])  # with the batch itself, so that the first step finds some, too
        near = known[(t @ known.T).fill_diagonal_(-torch.inf).argmax(1)]
        if self.training:
            self.filled.fill_(min(len(known), len(self.captions)))
            self.captions[: self.filled] = known[: self.filled]
        return near
