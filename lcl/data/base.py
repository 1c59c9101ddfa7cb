"""Where pairs come from, as those who use them see it: scenes and shards answer the same questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch


@dataclass(frozen=True)
class Samples:
    """Pairs taken out of a data set. images: (n, 3, H, W) uint8. captions: n.

    rows: n, whose pairs these are: those that were asked for, but for what could not be read, whose place another row took.
    faults: how many could not be read, by the short name of the reason.
    """

    images: torch.Tensor
    captions: list[str]
    rows: list[int]
    faults: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)


class DatasetView(Protocol):
    """Pairs in a fixed order. description: JSON-able; equal ones, equal rows. streamed: are they read from files, so that
    processes of their own should do it? Otherwise they are drawn, where the model is."""

    description: dict
    streamed: bool

    def __len__(self) -> int: ...

    def captions(self, rows: Sequence[int]) -> list[str]:
        """n captions, without a look at the images. What cannot be read is replaced."""

    def take(self, rows: Sequence[int], device: str = "cpu") -> Samples:
        """Images and captions. What cannot be read is replaced, and counted."""


class PairDataset(Protocol):
    """A data set: pairs to learn from, and others that a training never sees.

    size: pixels a side. fingerprint: equal ones, equal pairs. credits: whose art it is, where that must be said.
    """

    size: int
    fingerprint: str
    credits: tuple[str, ...]

    def train(self, count: int) -> DatasetView:
        """The first `count` pairs to learn from. Raises LclError if there are not so many."""

    def validation(self, count: int) -> DatasetView:
        """Pairs to look at during a training: `count`, or as many as there are."""

    def test(self, count: int) -> DatasetView:
        """Pairs to evaluate on: `count`, or as many as there are."""
