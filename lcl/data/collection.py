"""A folder of shards as a data set, with validation and test pairs that a training run never sees."""

from __future__ import annotations

import collections
import copy
import itertools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

import torch

from lcl import storage
from lcl.config import LclError, Profile, Progress, require
from lcl.data import scenes
from lcl.data.base import PairDataset, Samples
from lcl.data.duplicates import near_duplicates
from lcl.data.photos import BadSample
from lcl.data.shards import Shards, open_shards
from lcl.machine import processors

CODE = 2  # raise it when the same shards would be divided otherwise
TEST_PAIRS, VALIDATION_PAIRS = 5000, 1024  # held-out pairs, at most …
TEST_SHARE, VALIDATION_SHARE = 20, 40  # … and at most one in so many
FEWEST = 80  # pairs of a data set
TRIES = 64  # rows that may replace an unreadable one

Result = TypeVar("Result")


class ShardView:
    """A view of shards: the rows `numbers`, (n,) int64."""

    from_files = True

    def __init__(self, shards: Shards, size: int, numbers: torch.Tensor, description: dict):
        self.shards, self.size, self.numbers = shards, size, numbers
        self.description = description | {"rows": len(numbers)}
        self._stride = next(n for n in itertools.count(1 + int(0.618 * len(numbers))) if math.gcd(n, len(numbers)) == 1)

    def __len__(self) -> int:
        return len(self.numbers)

    def captions(self, rows: Sequence[int]) -> list[str]:
        """The first caption of every picture, without images."""
        return [captions[0] for captions, _, _ in self._all(rows, lambda shards, number: shards.captions(number))]

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
        threads = min(processors(), 8)
        pieces = [rows[start : start + 256] for start in range(0, len(rows), 256)]

        def piece(some: Sequence[int]) -> list:
            own = copy.copy(self.shards)  # with file handles of its own: a handle has one position
            return [self._one(own, row, read) for row in some]

        with ThreadPoolExecutor(threads) as pool:
            return [result for results in pool.map(piece, pieces) for result in results]


class ShardDataset:
    """Shards, with a twentieth of the pictures held out as test and a fortieth as validation pairs, always the same.

    A picture lies on one side of every split, with all its copies: rows of equal pixels or of one image name are kept together
    (see `Shards.groups`). Training pairs keep the order of the tars, so that rows that are read together lie together.

    Args:
        shards: all rows, or the training rows if there are others for validation and test.
        size: side of the images in pixels.
        validation, test: shards of their own for these splits. Training rows that show one of their pictures are left out.

    Attributes:
        left_out: number of training rows that are left out for this reason.
        split_folders: where validation and test shards of their own lie, by split.

    Raises:
        LclError: for fewer than FEWEST distinct pictures.
    """

    credits = ()

    def __init__(self, shards: Shards, size: int, validation: Shards | None = None, test: Shards | None = None):
        self.shards, self.size = shards, size
        self.validation_shards, self.test_shards = validation, test
        groups, others = shards.groups(), [other for other in (test, validation) if other is not None]
        distinct = int(groups.max()) + 1
        require(
            distinct >= FEWEST,
            f"{len(shards):,} pairs in {shards.folder} show {distinct} distinct pictures, too few to learn from; there must be "
            f"{FEWEST} or more.",
        )
        shuffled = torch.randperm(len(shards), generator=torch.Generator().manual_seed(0))
        seen = _seen_elsewhere(shards, others)
        self.left_out = int(seen.sum())
        room = [
            0 if test is not None else min(distinct // TEST_SHARE, TEST_PAIRS),
            0 if validation is not None else min(distinct // VALIDATION_SHARE, VALIDATION_PAIRS),
        ]
        side = _sides(groups, shuffled[~seen[shuffled]], room)[shuffled]
        side[seen[shuffled]] = LEFT_OUT
        self._test, self._validation, self._train = (shuffled[side == which] for which in (TEST, VALIDATION, TRAIN))
        self.split_folders = {
            name: str(each.folder.resolve()) for name, each in (("validation", validation), ("test", test)) if each is not None
        }
        prints = [each.fingerprint for each in (shards, validation, test) if each is not None]
        if len(prints) > 1:
            prints += [validation is None, test is None]
        elif distinct < len(shards):  # before copies were kept together, they were divided otherwise: another data set
            prints.append(CODE)
        self.fingerprint = prints[0] if len(prints) == 1 else storage.fingerprint(prints)

    def __len__(self) -> int:
        """The number of training pairs."""
        return len(self._train)

    def train(self, count: int) -> ShardView:
        """`count` training pairs, spread evenly. Raises LclError if there are not so many."""
        require(
            count <= len(self),
            f"the shards in {self.shards.folder} have {len(self):,} training pairs, not {count:,}; ask for fewer (--pairs).",
        )
        return self._rows(self.shards, self._train[:count].sort().values, f"{count} of the training")

    def validation(self, count: int) -> ShardView:
        """Validation pairs."""
        return self._other(self.validation_shards, self._validation, count, "validation")

    def test(self, count: int) -> ShardView:
        """Test pairs."""
        return self._other(self.test_shards, self._test, count, "test")

    def _other(self, own: Shards | None, held_out: torch.Tensor, count: int, which: str) -> ShardView:
        if own is None:
            return self._rows(self.shards, held_out[:count], which)
        return self._rows(own, random_rows(own, count), which)

    def _rows(self, shards: Shards, numbers: torch.Tensor, which: str) -> ShardView:
        description = {"data": self.fingerprint, "division": CODE, "split": which, "pixels": self.size}
        return ShardView(shards, self.size, numbers, description)


TRAIN, VALIDATION, TEST, LEFT_OUT = range(4)


def _sides(groups: torch.Tensor, order: torch.Tensor, room: list[int]) -> torch.Tensor:
    """The side of every row, (N,) int64. Groups are taken in the order of their first rows, and never divided.

    Args:
        groups: (N,) int64.
        order: the rows to divide, shuffled.
        room: numbers of test and validation groups. A group with more rows than the larger of them has groups, such as the
            web's "image not available", goes to the training.
    """
    size, side_of = groups.bincount().tolist(), {}
    test, validation = room
    for number in groups[order].tolist():
        if not test + validation:
            break
        if number in side_of or size[number] > max(room):
            continue
        if test:
            side_of[number], test = TEST, test - 1
        else:
            side_of[number], validation = VALIDATION, validation - 1
    sides = torch.zeros(len(size), dtype=torch.int64)  # TRAIN
    sides[torch.tensor(list(side_of), dtype=torch.int64)] = torch.tensor(list(side_of.values()), dtype=torch.int64)
    return sides[groups]


def _seen_elsewhere(shards: Shards, others: Sequence[Shards]) -> torch.Tensor:
    """(N,) bool: which rows show a picture that is in one of the other shards, by its pixels: names may agree by chance.

    If near-duplicates count as the same picture in `shards`, their near-duplicates in the others do, too.
    """
    seen = torch.zeros(len(shards), dtype=torch.bool)
    for other in others:
        seen |= torch.isin(shards.index["picture"], other.index["picture"])
        if shards.near:
            ours, theirs = shards.index["look"], other.index["look"][other.index["look"] != 0]
            links = near_duplicates(torch.cat([ours, theirs]))
            seen |= torch.isin(ours, torch.cat([theirs, links[torch.isin(links, theirs).any(1)].flatten()]))
    groups = shards.groups()
    return torch.isin(groups, groups[seen])  # with all copies


def random_rows(shards: Shards, count: int) -> torch.Tensor:
    """`count` rows of shards, or all of them in a fixed random order if there are fewer: (n,) int64."""
    return torch.randperm(len(shards), generator=torch.Generator().manual_seed(0))[:count]


def transfer_view(shards: Shards, size: int, count: int, trained: Shards | None = None) -> tuple[ShardView, int]:
    """Pairs of shards to evaluate a model on that was trained on others.

    Args:
        shards: the other data set.
        size: side of the images in pixels.
        count: pairs, at most.
        trained: the shards that the model was trained on, if they are at hand.

    Returns:
        The view, and how many rows were left out because `trained` has their picture.

    Raises:
        LclError: if no row is left.
    """
    seen = _seen_elsewhere(shards, [] if trained is None else [trained])
    rows = random_rows(shards, len(shards))
    rows = rows[~seen[rows]]
    require(len(rows) > 0, f"the model was trained on every picture in {shards.folder}; name another data set.")
    description = {"data": shards.fingerprint, "division": CODE, "split": "transfer", "pixels": size}
    return ShardView(shards, size, rows[:count], description), int(seen.sum())


def open_dataset(
    profile: Profile, pictures: Path | str | None = None, shards: Path | str | None = None, progress: Progress | None = None,
    validation: Path | str | None = None, test: Path | str | None = None,
) -> PairDataset:  # fmt: skip
    """Open the data set of a profile: its scenes, or a folder of shards.

    Args:
        profile: of the experiment.
        pictures: the user's folder of drawings for the scenes, if any.
        shards: a folder of shards, instead of scenes.
        progress: called with the number of tars scanned since the last call, if they have no index yet.
        validation, test: folders of shards for these splits, instead of held-out pairs of `shards`.
    """
    if shards is None:
        require(validation is None and test is None, "validation and test shards need training shards; name them with --data.")
        return scenes.open_scenes(profile.scenes, Path(pictures) if pictures else None)
    require(pictures is None, "drawings are for scenes; shards bring their own pictures. Name one of them.")
    opened = (open_shards(Path(each), progress=progress) if each else None for each in (shards, validation, test))
    own, *others = opened
    return ShardDataset(own, profile.model.vision.image_size, *others)
