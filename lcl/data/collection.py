"""A folder of shards as a data set, with validation and test pairs that a training never sees."""

from __future__ import annotations

import collections
import copy
import itertools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from lcl.config import LclError, Profile, Progress, require
from lcl.data import scenes
from lcl.data.base import PairDataset, Samples
from lcl.data.photos import BadSample
from lcl.data.shards import Shards, open_shards

CODE = 1  # raise it when the same shards would be divided otherwise
TEST_PAIRS, VALIDATION_PAIRS = 5000, 1024  # held-out pairs, at most …
TEST_SHARE, VALIDATION_SHARE = 20, 40  # … and at most one in so many
FEWEST = 80  # pairs of a data set
TRIES = 64  # rows that may replace an unreadable one

Result = TypeVar("Result")


class ShardView:
    """A view of shards: the rows `numbers`, (n,) int64."""

    streamed = True

    def __init__(self, shards: Shards, size: int, numbers: torch.Tensor, description: dict):
        self.shards, self.size, self.numbers = shards, size, numbers
        self.description = description | {"rows": len(numbers)}
        self._stride = next(n for n in itertools.count(1 + int(0.618 * len(numbers))) if math.gcd(n, len(numbers)) == 1)

    def __len__(self) -> int:
        return len(self.numbers)

    def captions(self, rows: Sequence[int]) -> list[str]:
        """Captions without images."""
        return [caption for caption, _, _ in self._all(rows, lambda shards, number: shards.caption(number))]

    def take(self, rows: Sequence[int], device: str = "cpu") -> Samples:
        """Images and captions. An unreadable row is replaced, always by the same other row, and counted.

        Raises LclError if TRIES replacements cannot be read either.
        """
        pairs, used, reasons = zip(*self._all(rows, lambda shards, number: shards.read(number, self.size)), strict=True)
        images, captions = zip(*pairs, strict=True)
        faults = collections.Counter(reason for reason in reasons if reason)
        return Samples(torch.stack(images).to(device), list(captions), list(used), dict(faults))

    def _one(self, shards: Shards, row: int, read: Callable[[Shards, int], Result]) -> tuple[Result, int, str]:
        """What `read` gives for a row or its replacement; which row that is; and the reason if it was replaced."""
        reason, place, tries = "", row, min(TRIES, len(self))
        for _ in range(tries):
            try:
                return read(shards, int(self.numbers[place])), place, reason
            except BadSample as fault:
                reason = reason or str(fault)
                place = (place + self._stride) % len(self)  # far away: neighbouring rows are often bad, too
        raise LclError(
            f"row {row} of the shards in {self.shards.folder} cannot be read any more ({reason}), nor can {tries - 1} others "
            f"in its place; `lcl data verify {self.shards.folder}` says what has changed."
        )

    def _all(self, rows: Sequence[int], read: Callable) -> list:
        """`_one` of each, in order; many of them in threads, since decoding releases the interpreter's lock."""
        if len(rows) < 512 or torch.utils.data.get_worker_info():
            return [self._one(self.shards, row, read) for row in rows]
        threads = min(os.cpu_count() or 1, 8)
        pieces = [rows[start : start + 256] for start in range(0, len(rows), 256)]

        def piece(some: Sequence[int]) -> list:
            own = copy.copy(self.shards)  # with file handles of its own: a handle has one position
            return [self._one(own, row, read) for row in some]

        with ThreadPoolExecutor(threads) as pool:
            return [result for results in pool.map(piece, pieces) for result in results]


class ShardDataset:
    """Shards, with a twentieth of the pairs held out as test and a fortieth as validation pairs, always the same.

    Training pairs keep the order of the tars, so that rows that are read together lie together. Raises LclError for fewer than
    FEWEST pairs.

    Args:
        shards: all rows.
        size: side of the images in pixels.
    """

    credits = ()

    def __init__(self, shards: Shards, size: int):
        self.shards, self.size = shards, size
        number = len(shards)
        require(number >= FEWEST, f"{number} pairs in {shards.folder} are too few to learn from; {FEWEST} are the fewest.")
        shuffled = torch.randperm(number, generator=torch.Generator().manual_seed(0))
        asked, watched = min(number // TEST_SHARE, TEST_PAIRS), min(number // VALIDATION_SHARE, VALIDATION_PAIRS)
        self._test, self._validation = shuffled[:asked], shuffled[asked : asked + watched]
        self._train = shuffled[asked + watched :]
        self.fingerprint = shards.fingerprint

    def __len__(self) -> int:
        """The number of training pairs."""
        return len(self._train)

    def train(self, count: int) -> ShardView:
        """`count` training pairs, spread evenly. Raises LclError if there are not so many."""
        require(
            count <= len(self),
            f"the shards in {self.shards.folder} have {len(self):,} training pairs, not {count:,}; ask for fewer (--pairs).",
        )
        return self._rows(self._train[:count].sort().values, f"{count} of the training")

    def validation(self, count: int) -> ShardView:
        """Validation pairs."""
        return self._rows(self._validation[:count], "watched")

    def test(self, count: int) -> ShardView:
        """Test pairs."""
        return self._rows(self._test[:count], "asked")

    def _rows(self, numbers: torch.Tensor, which: str) -> ShardView:
        description = {"data": self.fingerprint, "division": CODE, "split": which, "pixels": self.size}
        return ShardView(self.shards, self.size, numbers, description)


def open_dataset(
    profile: Profile, pictures: Path | str | None = None, shards: Path | str | None = None, progress: Progress | None = None
) -> PairDataset:
    """Open the data set of a profile: its scenes, or a folder of shards.

    Args:
        profile: of the experiment.
        pictures: the user's folder of drawings for the scenes, if any.
        shards: a folder of shards, instead of scenes.
        progress: called with the number of tars scanned since the last call, if they have no index yet.
    """
    if shards is None:
        return scenes.open_scenes(profile.scenes, Path(pictures) if pictures else None)
    require(pictures is None, "drawings are for scenes; shards bring their own pictures. Name one of them.")
    return ShardDataset(open_shards(Path(shards), progress=progress), profile.model.vision.image_size)


