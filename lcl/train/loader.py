"""What a training is fed with: batches in an order that is a function of (seed, epoch, step, rank) and of nothing else.

So a training goes on in the middle of an epoch by asking for the step that it had come to; and how many processes read for it
makes no difference to what it is given.
"""

from __future__ import annotations

import collections
import logging
import os
import traceback
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from lcl.config import LclError, TrainConfig, require
from lcl.data.base import DatasetView, PairDataset
from lcl.data.shards import MAX_BAD, tell
from lcl.models.tokenizer import Tokenizer, Tokens
from lcl.train.distributed import Ranks

CHUNK = 32_768  # pairs that are shuffled among each other, and in memory at a time; at 64 pixels 0.4 GB
AHEAD = 4  # batches that a worker reads ahead
STALL = 300  # seconds without a batch, after which the workers are taken for dead
LOOK = 2  # seconds of waiting for a batch, after which one looks whether all workers live
RESTARTS = 3  # of the workers, in one training
FEW = 1000  # rows that are streamed before a share of bad ones is taken

log = logging.getLogger("lcl")


@dataclass(frozen=True)
class Batch:
    """What one step sees. images: (B, 3, H, W) uint8. tokens: of the captions. indices: the pairs' rows, (B,) int64.

    replaced: how many rows this process could not read so far; others have their place, and `indices` says which.
    """

    images: torch.Tensor
    tokens: Tokens
    indices: torch.Tensor
    replaced: int = 0


@dataclass(frozen=True)
class Chunk:
    """Rows that are read together: where they begin, how many they are, and the batches of an epoch that they make.

    rows: (n, B) int64, a batch a row, counted from the chunk's first.
    """

    start: int
    length: int
    rows: torch.Tensor


def order(config: TrainConfig, seed: int, epoch: int) -> Iterator[Chunk]:
    """An epoch's batches, chunk by chunk, shuffled between and within chunks. Only the last chunk leaves pairs over."""
    size = max(CHUNK // config.batch_size, 1) * config.batch_size
    starts = range(0, config.pairs, size)
    shuffle = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    for number in torch.randperm(len(starts), generator=shuffle).tolist():
        length = min(size, config.pairs - starts[number])
        rows = torch.randperm(length, generator=shuffle)
        whole = length // config.batch_size * config.batch_size
        yield Chunk(starts[number], length, rows[:whole].view(-1, config.batch_size))


def shares(config: TrainConfig, seed: int, ranks: Ranks, first: int) -> Iterator[torch.Tensor]:
    """The rows of every chunk that this process is to see from step `first` on: (n, B / processes) int64, a step a row."""
    size, per_epoch = config.batch_size // ranks.world_size, config.pairs // config.batch_size
    mine = slice(ranks.rank * size, (ranks.rank + 1) * size)
    for epoch in range(first // per_epoch, config.epochs):
        step = epoch * per_epoch  # of the chunk's first batch
        for chunk in order(config, seed, epoch):
            rows = chunk.rows[max(first - step, 0) :, mine]
            step += len(chunk.rows)
            if len(rows):
                yield chunk.start + rows


def batches(
    source: PairDataset,
    tokenizer: Tokenizer,
    config: TrainConfig,
    context: int,
    seed: int,
    device: str,
    ranks: Ranks | None = None,
    first: int = 0,
    workers: int | None = None,
) -> Iterator[Batch]:
    """The batches of a training, or this process's rows of them, from step `first` on (counted from 0).

    A data set of up to CHUNK pairs is drawn or read once and stays in memory. Of a larger one scenes are drawn chunk by chunk;
    files are read by processes of their own, `workers` of them, which also a small data set's may be; None: as many as there
    are processors, up to eight. Workers that die are started again where they were, RESTARTS times.
    Raises LclError when more than MAX_BAD of the rows cannot be read, or the workers die again and again.
    """
    ranks, rows = ranks or Ranks(), source.train(config.pairs)
    if workers is None:
        workers = min(_processors(), 8) if rows.streamed and config.pairs > CHUNK else 0
    if workers:
        yield from _streamed(rows, tokenizer, config, context, seed, ranks, first, workers, device)
    else:
        yield from _drawn(rows, tokenizer, config, context, seed, ranks, first, device)


class _Count:
    """How many rows were asked for, and how many could not be read. fewest: rows before which no share is taken of them."""

    def __init__(self, fewest: int = 1):
        self.rows, self.faults, self.fewest = 0, collections.Counter(), fewest

    def add(self, rows: int, faults: dict[str, int]) -> int:
        """Returns how many were bad up to now. Raises LclError when their share is above MAX_BAD."""
        self.rows += rows
        self.faults.update(faults)
        bad = self.faults.total()
        require(
            bad <= MAX_BAD * max(self.rows, self.fewest),
            f"{bad:,} of {self.rows:,} rows could not be read, more than {MAX_BAD:.0%} ({tell(self.faults)}); look at the "
            "data with `lcl data verify`, and go on from the last checkpoint.",
        )
        return bad


def _processors() -> int:
    """Those of this machine, shared with the other processes of the training on it."""
    return max((os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


def _drawn(
    rows: DatasetView, tokenizer: Tokenizer, config: TrainConfig, context: int, seed: int, ranks: Ranks, first: int, device: str
) -> Iterator[Batch]:
    """Batches out of what is in memory: everything, or a chunk."""
    all_fit = config.pairs <= CHUNK // config.batch_size * config.batch_size
    taken, count = None, _Count()
    for share in shares(config, seed, ranks, first):
        if taken is None or not all_fit:
            taken = rows.take(range(config.pairs) if all_fit else share.flatten().tolist(), device)
            replaced = count.add(len(taken), taken.faults)
            tokens, numbers = tokenizer.encode(taken.captions, context), torch.tensor(taken.rows)
        places = share if all_fit else torch.arange(share.numel()).view(share.shape)
        for place in places:
            yield Batch(taken.images[place.to(device)], tokens[place].to(device), numbers[place], replaced)


def _streamed(
    rows: DatasetView,
    tokenizer: Tokenizer,
    config: TrainConfig,
    context: int,
    seed: int,
    ranks: Ranks,
    first: int,
    workers: int,
    device: str,
) -> Iterator[Batch]:
    """Batches as workers read them, in order."""
    reading, count = _Reading(rows, tokenizer, context), _Count(min(FEW, len(rows)))
    on_gpu, restarts = device.startswith("cuda"), 0
    while True:
        steps = (row.tolist() for share in shares(config, seed, ranks, first) for row in share)
        loader = DataLoader(
            reading, None, sampler=steps, num_workers=workers, prefetch_factor=AHEAD, timeout=LOOK, pin_memory=on_gpu,
            collate_fn=_as_it_is, worker_init_fn=one_thread, generator=torch.Generator(),  # leaves the training's alone
        )  # fmt: skip
        found = iter(loader)
        # torch raises a worker's death wherever this process is, also in the midst of a step, which would end the training
        signal_handling._remove_worker_pids(id(found))
        found._worker_pids_set = False
        while True:
            try:
                read = _wait(found)
            except (RuntimeError, EOFError, OSError) as error:  # one is dead, or its last message ends in the midst
                for worker in found._workers:  # also one that hangs, or nothing would end
                    worker.kill()
                    worker.join()
                found, reason = None, str(error).partition("\n")[0] or type(error).__name__
                require(restarts < RESTARTS, f"the processes that read the data died {RESTARTS + 1} times ({reason}).")
                restarts += 1
                log.warning("a process that read the data died (%s); starting it again at step %d", reason, first + 1)
                break
            if read is None:
                return
            if isinstance(read, Exception):
                raise read
            images, tokens, numbers, faults = read
            replaced = count.add(len(numbers), faults)
            yield Batch(images.to(device, non_blocking=True), tokens.to(device), numbers, replaced)
            first += 1


def _wait(found: Iterator):
    """What the workers read next, or None after the last batch. Raises RuntimeError when one is dead, or all are silent."""
    for _ in range(0, STALL, LOOK):
        try:
            return next(found, None)
        except RuntimeError as error:  # each time nothing came for LOOK seconds torch looks whether the workers live
            if "timed out" not in str(error):
                raise
    raise RuntimeError(f"nothing was read for {STALL} seconds")


class _Reading(Dataset):
    """What a worker does: a step's rows in, its batch out; or an error, to be raised where the training is."""

    def __init__(self, rows: DatasetView, tokenizer: Tokenizer, context: int):
        self.rows, self.tokenizer, self.context = rows, tokenizer, context

    def __getitem__(self, wanted: list[int]) -> tuple[torch.Tensor, Tokens, torch.Tensor, dict[str, int]] | Exception:
        try:
            taken = self.rows.take(wanted)
            tokens = self.tokenizer.encode(taken.captions, self.context)
        except LclError as error:
            return error
        except Exception:  # a mistake of ours: it is told where one can see it
            return RuntimeError(f"in a process that reads the data:\n{traceback.format_exc()}")
        return taken.images, tokens, torch.tensor(taken.rows), taken.faults


def _as_it_is(batch):
    return batch


def one_thread(number: int) -> None:
    """What a worker begins with: it is one thread's work."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
