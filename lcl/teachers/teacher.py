"""Teachers: where a batch's neighbours come from (CLIP-PING, arXiv 2412.03871)."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Protocol

import torch

from lcl.config import Progress, require
from lcl.data.base import DatasetView
from lcl.losses.neighbours import NeighbourFeatures
from lcl.teachers.banks import Bank, bank_folder, build_bank
from lcl.teachers.encoders import ImageEncoder, TextEncoder
from lcl.teachers.search import Neighbours, find_neighbours

Gather = Callable[[torch.Tensor], torch.Tensor]
"""Rows of one process → those of all, as `train.distributed.Ranks.gather`."""


def alone(x: torch.Tensor) -> torch.Tensor:
    """The gather of a single process: the identity."""
    return x


class Teacher(Protocol):
    """The source of a batch's neighbours.

    Attributes:
        dims: d_u and d_z, of image and text features.
        description: what it was made of, JSON-able.

    Called with indices (B,) int64, images (B, 3, H, W) uint8, `gather`, which joins the rows of all ranks, and the step's random
    generator, it returns the neighbours of the whole batch.
    """

    dims: tuple[int, int]
    description: dict

    def __call__(
        self, indices: torch.Tensor, images: torch.Tensor, gather: Gather = alone, generator: torch.Generator | None = None
    ) -> NeighbourFeatures: ...


class BankTeacher:
    """Neighbours found once, before the training: CLIP-PING's teacher costs one look-up a step.

    Args:
        images, captions: the banks of one data set.
        a, b: the neighbours found in each.
        choice: which neighbours these are, a key of CHOICES.
        own: share of the rows that are their own neighbour, 0 to 1, drawn anew at every call, for each bank apart: 1 is plain
            distillation of the frozen encoders.

    Raises:
        LclError: if these do not belong together.
    """

    def __init__(
        self, images: Bank, captions: Bank, a: Neighbours, b: Neighbours, choice: str = "nearest", own: float = 0.0
    ):
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
                f"some rows of the bank in {bank.folder} have no neighbour; search exactly, or probe more lists.",
            )
        self.images, self.captions = images, captions
        self.a, self.b, self.own = a.indices[:, 0], b.indices[:, 0], own
        self.dims = images.width, captions.width
        self.description = {
            "rows": images.description["rows"], "images": images.fingerprint, "captions": captions.fingerprint,
            "widths": list(self.dims), "choice": choice, "own": own,
        }  # fmt: skip
        if recall := {bank.fingerprint: found.recall for bank, found in ((images, a), (captions, b)) if found.recall is not None}:
            self.description["recall"] = recall  # of approximate neighbours

    def __call__(
        self, indices: torch.Tensor, images: torch.Tensor, gather: Gather = alone, generator: torch.Generator | None = None
    ) -> NeighbourFeatures:
        """indices: (B,) int64, rows of the banks; images: (B, 3, H, W), on whose device the features are returned."""
        a, b = self.a[indices], self.b[indices]
        if self.own:
            own = torch.rand(2, len(indices), generator=generator) < self.own
            a, b = indices.where(own[0], a), indices.where(own[1], b)
        a, b = gather(a), gather(b)
        u, z, device = self.images, self.captions, images.device
        return NeighbourFeatures(u.rows(a, device), z.rows(b, device), z.rows(a, device), u.rows(b, device))


class LiveTeacher:
    """A-CLIP-PING's active teacher: it encodes the views that the model sees, and searches a queue of past features.

    The queue holds the features of the last `length` rows; a row is never its own neighbour, in any view. Captions do not
    change from view to view, so their features come from a bank (our reading of active teachers).

    Args:
        encoder: of images.
        captions: the bank of captions.
        length: of the queue, 1 or more.
    """

    def __init__(self, encoder: ImageEncoder, captions: Bank, length: int = 4096):
        require(length >= 1, f"the queue must hold 1 row or more, not {length}.")
        self.encoder, self.captions, self.length = encoder, captions, length
        self.dims = encoder.width, captions.width
        self.description = {
            "rows": captions.description["rows"], "live": encoder.description, "captions": captions.fingerprint,
            "widths": list(self.dims), "queue": length,
        }  # fmt: skip
        self.rows = torch.empty(0, dtype=torch.int64)
        self.u, self.z = torch.empty(0, encoder.width), torch.empty(0, captions.width)

    def __call__(
        self, indices: torch.Tensor, images: torch.Tensor, gather: Gather = alone, generator: torch.Generator | None = None
    ) -> NeighbourFeatures:
        """indices: (B,) int64, rows of the bank; images: (B, 3, H, W) uint8, the views."""
        u, indices = gather(self.encoder(images)), gather(indices)
        z = self.captions[indices]
        rows = torch.cat([indices, self.rows])  # with the batch itself, so that the first step finds neighbours, too
        all_u, all_z = torch.cat([u, self.u]), torch.cat([z, self.z])
        same = indices[:, None] == rows  # (B, B + queue)
        require(not bool(same.all()), "every row of the batch and the queue is the same one; there is no neighbour.")
        a = (u @ all_u.T).masked_fill(same, -torch.inf).argmax(1)
        b = (z @ all_z.T).masked_fill(same, -torch.inf).argmax(1)
        self.rows, self.u, self.z = rows[: self.length], all_u[: self.length], all_z[: self.length]
        return NeighbourFeatures(*(features.to(images.device) for features in (all_u[a], all_z[b], all_z[a], all_u[b])))


def shuffled(rows: DatasetView, found: Neighbours) -> Neighbours:
    """A control: every row gets the neighbour of another row, always the same, so that only its relation to the row is lost."""
    order = torch.randperm(len(found), generator=torch.Generator().manual_seed(0))
    return dataclasses.replace(found, indices=found.indices[order], similarities=found.similarities[order])


def by_objects(rows: DatasetView, found: Neighbours) -> Neighbours:
    """A control that knows the truth: the scene with the most alike set of objects, by cosine; of equals a random one.

    Raises LclError for pairs without scenes.
    """
    require(hasattr(rows, "scenes"), "which objects a picture shows is known of scenes only; this control cannot be used here.")
    sets = [scene.concepts for scene in rows.scenes(range(len(found)))]
    shows = torch.zeros(len(sets), 1 + max(max(each) for each in sets))
    for row, each in enumerate(sets):
        shows[row, list(each)] = len(each) ** -0.5
    generator, best = torch.Generator().manual_seed(0), []
    for block in torch.arange(len(shows)).split(1024):
        alike = shows[block] @ shows.T + 1e-3 * torch.rand(len(block), len(shows), generator=generator)  # cosines differ by more
        alike[torch.arange(len(block)), block] = -1.0
        best.append(alike.max(1))
    indices, similarities = torch.cat([each.indices for each in best]), torch.cat([each.values for each in best])
    return dataclasses.replace(found, indices=indices[:, None], similarities=similarities[:, None])


def itself(bank: Bank) -> Neighbours:
    """Every row as its own neighbour: plain distillation asks for no other, and a search would grow as N²."""
    rows = torch.arange(len(bank))[:, None]
    return Neighbours(rows, torch.ones(rows.shape), bank.fingerprint)


CHOICES = {"nearest": lambda rows, found: found, "shuffled": shuffled, "objects": by_objects}
"""Which neighbours a teacher gives: those that its encoders find, or those of a control."""


def open_bank_teacher(
    rows: DatasetView, image_encoder: ImageEncoder, text_encoder: TextEncoder, progress: Progress | None = None,
    choice: str = "nearest", own: float = 0.0, searched: Progress | None = None,
) -> BankTeacher:  # fmt: skip
    """The teacher of a data set; banks and neighbours are read, or computed and saved if they do not exist yet.

    Args:
        rows: of the training.
        image_encoder, text_encoder: frozen.
        progress: called with the number of rows encoded since the last call; each pair counts once a bank.
        choice: a key of CHOICES.
        own: as of `BankTeacher`.
        searched: called with the number of rows whose neighbours were found since the last call; each pair counts once a bank.
    """
    images, captions = (
        build_bank(rows, encoder, bank_folder(rows, encoder), progress) for encoder in (image_encoder, text_encoder)
    )
    a, b = (
        itself(bank) if own == 1 else CHOICES[choice](rows, find_neighbours(bank, 1, searched)) for bank in (images, captions)
    )
    return BankTeacher(images, captions, a, b, choice, own)
