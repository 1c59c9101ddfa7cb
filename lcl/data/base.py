"""The data set protocol: what scenes and shards have in common for the code that uses them."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Samples:
    """A batch of samples.

    Attributes:
        images: (n, 3, H, W) uint8.
        all_captions: n, each picture's captions, one or more.
        rows: n, the rows of these pairs: those requested, except where another row replaces an unreadable one.
        faults: number of unreadable rows, by the reason's short name.
    """

    images: torch.Tensor
    all_captions: list[tuple[str, ...]]
    rows: list[int]
    faults: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def captions(self) -> list[str]:
        """The first caption of every picture."""
        return [captions[0] for captions in self.all_captions]

    def drawn_captions(self, seed: int, epoch: int) -> list[str]:
        """One caption of every picture, another one in each epoch until all had their turn; see `draw`."""
        return [draw(captions, row, seed, epoch) for captions, row in zip(self.all_captions, self.rows, strict=True)]

    def select(self, places: Sequence[int]) -> Samples:
        """The samples at some places of this batch."""
        captions, rows = ([column[place] for place in places] for column in (self.all_captions, self.rows))
        return Samples(self.images[list(places)], captions, rows, self.faults)


def draw(captions: Sequence[str], row: int, seed: int, epoch: int) -> str:
    """The caption of a picture in one epoch: they take turns, beginning with one that depends on the row and the seed.

    So each of n captions is seen once in n epochs, and the choice can be repeated.
    """
    return captions[(zlib.crc32(f"{seed} {row}".encode()) + epoch) % len(captions)]


class DatasetView(Protocol):
    """Pairs in a fixed order.

    Attributes:
        description: JSON-able; equal descriptions, equal rows.
        from_files: True if pairs are read from files, which worker processes should do; False if they are drawn.
    """

    description: dict
    from_files: bool

    def __len__(self) -> int: ...

    def captions(self, rows: Sequence[int]) -> list[str]:
        """The first caption of every picture, without images. Unreadable ones are replaced."""

    def take(self, rows: Sequence[int], device: str = "cpu") -> Samples:
        """Images and captions. Unreadable rows are replaced and counted."""


class PairDataset(Protocol):
    """A data set: training pairs, and others that a training run never sees.

    Attributes:
        size: side of the images in pixels.
        fingerprint: equal fingerprints, equal pairs.
        credits: of the drawings, where a licence wants them named.
    """

    size: int
    fingerprint: str
    credits: tuple[str, ...]

    def train(self, count: int) -> DatasetView:
        """The first `count` training pairs. Raises LclError if there are not so many."""

    def validation(self, count: int) -> DatasetView:
        """`count` validation pairs, or as many as there are."""

    def test(self, count: int) -> DatasetView:
        """`count` test pairs, or as many as there are."""
