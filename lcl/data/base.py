"""The data set protocol: what scenes and shards have in common for the code that uses them."""

from __future__ import annotations

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
        captions: n.
        rows: n, the rows of these pairs: those requested, except where another row replaces an unreadable one.
        faults: number of unreadable rows, by the reason's short name.
    """

    images: torch.Tensor
    captions: list[str]
    rows: list[int]
    faults: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


class DatasetView(Protocol):
    """Pairs in a fixed order.

    Attributes:
        description: JSON-able; equal descriptions, equal rows.
        streamed: True if pairs are read from files, which worker processes should do; False if they are drawn.
    """

    description: dict
    streamed: bool

    def __len__(self) -> int: ...

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions without images. Unreadable ones are replaced."""

    def take(self, rows: Sequence[int], device: str = "cpu") -> Samples:
        """Images and captions. Unreadable rows are replaced and counted."""


class PairDataset(Protocol):
    """A data set: training pairs, and others that a training never sees.

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
