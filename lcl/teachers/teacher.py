"""Neighbours as extra supervision (CLIP-PING, arXiv 2412.03871): the objectives, and where their targets come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import Progress, require
from lcl.data.base import Rows
from lcl.losses.contrastive import info_nce
from lcl.teachers.banks import Bank, bank_folder, build_bank
from lcl.teachers.encoders import ImageEncoder, TextEncoder
from lcl.teachers.search import Neighbours, find_neighbours


class Near(NamedTuple):
    """Features of the neighbours of a batch's rows. U is the bank of images, Z that of captions; row i has the nearest
    image a(i) and the nearest caption b(i), each found within its own bank.

    u_a: (B, d_u) the nearest image. z_b: (B, d_z) the nearest caption.
    z_a: (B, d_z) the caption of the nearest image. u_b: (B, d_u) the image of the nearest caption.
    """

    u_a: torch.Tensor
    z_b: torch.Tensor
    z_a: torch.Tensor
    u_b: torch.Tensor


class Projections(nn.Module):
    """q_u and q_z: from the frozen encoders' spaces into the shared one. They learn with the model and are dropped after.

    `forward`: Near in the banks' dimensions → Near in the shared space, L2-normalised, each (B, d).
    """

    def __init__(self, image_width: int, text_width: int, embed_dim: int):
        super().__init__()
        self.image = nn.Linear(image_width, embed_dim, bias=False)
        self.text = nn.Linear(text_width, embed_dim, bias=False)

    def forward(self, near: Near) -> Near:
        q_u, q_z = self.image, self.text
        u_a, z_b, z_a, u_b = (x.to(q_u.weight.dtype) for x in near)
        return Near(*(F.normalize(q, dim=-1) for q in (q_u(u_a), q_z(z_b), q_z(z_a), q_u(u_b))))


def nn_contrast(
    v: torch.Tensor, t: torch.Tensor, near: Near, logit_scale: torch.Tensor, mine: slice | None = None
) -> dict[str, torch.Tensor]:
    """Nearest neighbours, within a modality (CLIP-PING's NN; the formula is our reading).

    Every image should know its nearest image among those of the batch, every caption its nearest caption: the mean of
    InfoNCE(v, q_u(U_a)) and InfoNCE(t, q_z(Z_b)).

    v, t: (B, d) embeddings; near: projected, (B, d) each; all L2-normalised. logit_scale, mine: as in `info_nce`.
    Returns {"nn_contrast": scalar}. Raises LclError for a batch of one.
    """
    images, captions = info_nce(v, near.u_a, logit_scale, mine), info_nce(t, near.z_b, logit_scale, mine)
    return {"nn_contrast": (images["info_nce"] + captions["info_nce"]) / 2}


def xnn_contrast(
    v: torch.Tensor, t: torch.Tensor, near: Near, logit_scale: torch.Tensor, mine: slice | None = None
) -> dict[str, torch.Tensor]:
    """Cross nearest neighbours, between the modalities (CLIP-PING's XNN; the formula is our reading).

    Every image should know the caption of its nearest image, every caption the image of its nearest caption: the mean of
    InfoNCE(v, q_z(Z_a)) and InfoNCE(t, q_u(U_b)). Arguments, result and errors as in `nn_contrast`.
    """
    images, captions = info_nce(v, near.z_a, logit_scale, mine), info_nce(t, near.u_b, logit_scale, mine)
    return {"xnn_contrast": (images["info_nce"] + captions["info_nce"]) / 2}


Gather = Callable[[torch.Tensor], torch.Tensor]
"""Rows of one process → those of all, as `parallel.Team.gather`."""


def alone(x: torch.Tensor) -> torch.Tensor:
    """What gathers where there is one process: nothing."""
    return x


class Teacher(Protocol):
    """Whoever tells a batch's neighbours. widths: d_u and d_z. description: JSON-able, what it was made of.

    gather: brings together what several processes see of one batch; every one is told the neighbours of the whole batch.
    """

    widths: tuple[int, int]
    description: dict

    def __call__(self, indices: torch.Tensor, images: torch.Tensor, gather: Gather = alone) -> Near: ...


class Guide:
    """Neighbours found once, before the training: CLIP-PING's teacher costs a look-up a step.

    images, captions: the banks of one data set. a, b: the neighbours found in each.
    Raises LclError if these do not belong together.
    """

    def __init__(self, images: Bank, captions: Bank, a: Neighbours, b: Neighbours):
        require(
            images.description["rows"] == captions.description["rows"],
            f"the banks in {images.folder} and {captions.folder} are of different rows; build both from one data set.",
        )
        for bank, found in ((images, a), (captions, b)):
            require(
                found.bank == bank.fingerprint and len(found) == len(bank),
                f"these neighbours were not found in the bank in {bank.folder}; `lcl neighbours` finds them anew.",
            )
            require(
                int(found.indices[:, 0].min()) >= 0,
                f"for some rows of the bank in {bank.folder} no neighbour was found; search exactly, or probe more lists.",
            )
        self.images, self.captions = images, captions
        self.a, self.b = a.indices[:, 0], b.indices[:, 0]
        self.widths = images.width, captions.width
        self.description = {
            "rows": images.description["rows"], "images": images.fingerprint, "captions": captions.fingerprint,
            "widths": list(self.widths),
        }  # fmt: skip

    def __call__(self, indices: torch.Tensor, images: torch.Tensor, gather: Gather = alone) -> Near:
        """indices: (B,) int64, rows of the banks. images: (B, 3, H, W), of which the device counts alone. → Near there."""
        indices = gather(indices)
        a, b = self.a[indices], self.b[indices]
        found = Near(self.images[a], self.captions[b], self.captions[a], self.images[b])
        return Near(*(features.to(images.device) for features in found))


class LiveGuide:
    """A-CLIP-PING's active teacher: it encodes the very view that the model sees, and finds neighbours in a queue.

    The queue holds the features of the last `length` rows that were seen; a row itself, in any view, is never its own
    neighbour. Captions are not changed from view to view, so what the text encoder would say stands in their bank (our
    reading of "the teachers run live").
    """

    def __init__(self, encoder: ImageEncoder, captions: Bank, length: int = 4096):
        require(length >= 1, f"the queue must hold 1 row or more, not {length}.")
        self.encoder, self.captions, self.length = encoder, captions, length
        self.widths = encoder.width, captions.width
        self.description = {
            "rows": captions.description["rows"], "live": encoder.description, "captions": captions.fingerprint,
            "widths": list(self.widths), "queue": length,
        }  # fmt: skip
        self.rows = torch.empty(0, dtype=torch.int64)
        self.u, self.z = torch.empty(0, encoder.width), torch.empty(0, captions.width)

    def __call__(self, indices: torch.Tensor, images: torch.Tensor, gather: Gather = alone) -> Near:
        """indices: (B,) int64, rows of the bank. images: (B, 3, H, W) uint8, the views. → Near on their device."""
        u, indices = gather(self.encoder(images)), gather(indices)
        z = self.captions[indices]
        rows = torch.cat([indices, self.rows])  # the batch itself is there, so that the first step, too, finds somebody
        all_u, all_z = torch.cat([u, self.u]), torch.cat([z, self.z])
        same = indices[:, None] == rows  # (B, B + queue)
        require(not bool(same.all()), "every row of the batch and the queue is the same one; there is no neighbour.")
        a = (u @ all_u.T).masked_fill(same, -torch.inf).argmax(1)
        b = (z @ all_z.T).masked_fill(same, -torch.inf).argmax(1)
        self.rows, self.u, self.z = rows[: self.length], all_u[: self.length], all_z[: self.length]
        return Near(*(features.to(images.device) for features in (all_u[a], all_z[b], all_z[a], all_u[b])))


def open_guide(
    rows: Rows, image_encoder: ImageEncoder, text_encoder: TextEncoder, progress: Progress | None = None
) -> Guide:
    """The guide of a data set: its banks and neighbours, read where they are kept, and made and kept where they are not."""
    images, captions = (
        build_bank(rows, encoder, bank_folder(rows, encoder), progress) for encoder in (image_encoder, text_encoder)
    )
    return Guide(images, captions, find_neighbours(images, 1), find_neighbours(captions, 1))
