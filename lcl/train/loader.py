"""The data loader: batches in an order that is a function of (seed, epoch, step, rank) and of nothing else.

So a training run resumes in the middle of an epoch by asking for its next step, and the number of worker processes does not
change what it sees.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from torch.utils.data import DataLoader, Dataset
from torch.utils.data._utils import signal_handling

from lcl.config import LclError, TrainConfig, require
from lcl.data.base import DatasetView, PairDataset
from lcl.data.scenes import SceneView
from lcl.data.shards import MAX_BAD, list_faults
from lcl.machine import one_thread, processors, shared_memory, to_device, without_main
from lcl.models.tokenizer import Tokenizer, Tokens
from lcl.train.distributed import Ranks
from lcl.train.plans import open_plan

CHUNK = 32_768  # pairs that are shuffled together and in memory at a time; 0.4 GB at 64 pixels
PREFETCH = 4  # batches a worker reads ahead
STALL_SECONDS = 300  # without a batch, until the workers count as dead
POLL_SECONDS = 2  # of waiting, between checks that all workers are alive
RESTARTS = 3  # of the workers, in one training
MIN_ROWS = 1000  # read before the share of bad rows is checked

log = logging.getLogger("lcl")


@dataclass(frozen=True)
class Batch:
    """The batch of one step.

    Attributes:
        images: (B, 3, H, W) uint8.
        tokens: of the captions, on the CPU.
        indices: the pairs' rows in the data set, (B,) int64, on the CPU.
        replaced: rows that this process could not read so far; `indices` holds those that replace them.
    """

    images: torch.Tensor
    tokens: Tokens
    indices: torch.Tensor
    replaced: int


@dataclass(frozen=True)
class Chunk:
    """Rows that are read together.

    Attributes:
        start, length: the first row, and how many there are.
        rows: (n, B) int64, the batches of an epoch that they make, counted from `start`.
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


def shares(config: TrainConfig, seed: int, ranks: Ranks, first: int) -> Iterator[tuple[int, torch.Tensor]]:
    """The epoch and this rank's rows of every chunk from step `first` on: (n, B / world_size) int64, one step a row."""
    size, per_epoch = config.batch_size // ranks.world_size, config.pairs // config.batch_size
    own = slice(ranks.rank * size, (ranks.rank + 1) * size)
    for epoch in range(first // per_epoch, config.epochs):
        step = epoch * per_epoch  # of the chunk's first batch
        for chunk in order(config, seed, epoch):
            rows = chunk.rows[max(first - step, 0) :, own]
            step += len(chunk.rows)
            if len(rows):
                yield epoch, chunk.start + rows


def batches(
    source: PairDataset, tokenizer: Tokenizer, config: TrainConfig, context: int, seed: int, device: str,
    ranks: Ranks | None = None, first: int = 0, workers: int | None = None,
) -> Iterator[Batch]:  # fmt: skip
    """The batches of a training run, or this rank's rows of them.

    A data set of up to CHUNK pairs is drawn or read once and stays in memory. Of a larger one, scenes are described once, see
    `lcl.train.plans`, and drawn batch by batch; files are read by worker processes, which are restarted where they were if they
    die, RESTARTS times.

    Args:
        source: the data set.
        tokenizer: of its captions.
        config: pairs, epochs, batch size.
        context: tokens of a caption, at most.
        seed: of the order.
        device: of the images.
        ranks: the process group.
        first: the first step, counted from 0.
        workers: processes that describe scenes or read files (default: one a processor, for data sets above CHUNK).

    Raises:
        LclError: if more than MAX_BAD of the rows cannot be read, or the workers die again and again.
    """
    ranks, rows = ranks or Ranks(), source.train(config.pairs)
    if isinstance(rows, SceneView) and config.pairs > CHUNK:
        plan = open_plan(rows, tokenizer, context, workers=workers)
        steps = (numbers for _, share in shares(config, seed, ranks, first) for numbers in share)
        yield from _one_ahead(Batch(*plan.take(numbers, device), numbers, 0) for numbers in steps)
        return
    if workers is None:
        workers = _processors() if rows.from_files and config.pairs > CHUNK else 0
    if workers:
        yield from _file_batches(rows, tokenizer, config, context, seed, ranks, first, workers, device)
    else:
        yield from _scene_batches(rows, tokenizer, config, context, seed, ranks, first, device)


class _Count:
    """Counts rows and unreadable rows. min_rows: do not check the share of bad rows before this many rows."""

    def __init__(self, min_rows: int = 1):
        self.rows, self.faults, self.min_rows = 0, collections.Counter(), min_rows

    def add(self, rows: int, faults: dict[str, int]) -> int:
        """Returns the number of bad rows so far. Raises LclError if their share is above MAX_BAD."""
        self.rows += rows
        self.faults.update(faults)
        bad = self.faults.total()
        require(
            bad <= MAX_BAD * max(self.rows, self.min_rows),
            f"{bad:,} of {self.rows:,} rows could not be read, more than {MAX_BAD:.0%} ({list_faults(self.faults)}); look at the "
            "data with `lcl data verify`, and go on from the last checkpoint.",
        )
        return bad


def _one_ahead(made: Iterator[Batch]) -> Iterator[Batch]:
    """The batches of an iterator; a thread makes the next one while this one is learned from."""
    with ThreadPoolExecutor(1) as thread:
        ahead = thread.submit(next, made, None)
        while (batch := ahead.result()) is not None:
            ahead = thread.submit(next, made, None)
            yield batch


def _processors() -> int:
    """The processors that this process may use, divided among the ranks on this machine."""
    return max(processors() // int(os.environ.get("LOCAL_WORLD_SIZE", 1)), 1)


def _scene_batches(
    rows: DatasetView, tokenizer: Tokenizer, config: TrainConfig, context: int, seed: int, ranks: Ranks, first: int, device: str
) -> Iterator[Batch]:
    """Batches from memory, which holds everything or one chunk."""
    all_fit = config.pairs <= CHUNK // config.batch_size * config.batch_size
    taken, drawn, count = None, None, _Count()
    for epoch, share in shares(config, seed, ranks, first):
        if taken is None or not all_fit:
            taken = rows.take(range(config.pairs) if all_fit else share.flatten().tolist(), device)
            replaced = count.add(len(taken), taken.faults)
            numbers, drawn = torch.tensor(taken.rows), None
        if drawn is None or drawn != epoch and any(len(captions) > 1 for captions in taken.all_captions):
            tokens, drawn = tokenizer.encode(taken.drawn_captions(seed, epoch), context), epoch
        places = share if all_fit else torch.arange(share.numel()).view(share.shape)
        for place in places:
            yield Batch(taken.images[to_device(place, device)], tokens[place], numbers[place], replaced)


def _file_batches(
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
    """Batches that workers read, in order."""
    reading, count = _WorkerDataset(rows, tokenizer, context, seed), _Count(min(MIN_ROWS, len(rows)))
    on_gpu, restarts = device.startswith("cuda"), 0
    while True:
        steps = ((epoch, row.tolist()) for epoch, share in shares(config, seed, ranks, first) for row in share)
        loader = DataLoader(
            reading, None, sampler=steps, num_workers=workers, prefetch_factor=PREFETCH, timeout=POLL_SECONDS, pin_memory=on_gpu,
            collate_fn=_as_it_is, worker_init_fn=one_thread, generator=torch.Generator(),  # leaves the training's alone
        )  # fmt: skip
        ours = type(rows).__module__.partition(".")[0] == "lcl"  # a data set of the user's script needs that script
        try:
            with without_main() if ours else contextlib.nullcontext():
                found = iter(loader)
        except (OSError, RuntimeError) as error:  # of a fork, or of the thread that pins memory
            raise LclError(
                f"{workers} data loader workers cannot be started ({_first_line(error)}); free some memory, allow more processes "
                "(ulimit -u), or use fewer --workers: 0 needs none."
            ) from None
        # torch raises a worker's death wherever this process is, even within a step, which would end the training
        signal_handling._remove_worker_pids(id(found))
        found._worker_pids_set = False
        while True:
            try:
                read = _wait(found)
            except (RuntimeError, EOFError, OSError) as error:  # a worker is dead, or its last message is incomplete
                for worker in found._workers:  # also one that hangs
                    worker.kill()
                    worker.join()
                found, reason = None, _first_line(error)
                if "Bus error" in reason:  # a page of shared memory that is not there
                    raise LclError(_no_shared_memory(reason)) from None
                require(
                    restarts < RESTARTS,
                    f"the data loader's workers died {RESTARTS + 1} times ({reason}); free some memory, or use fewer --workers.",
                )
                restarts += 1
                log.warning("a data loader worker died (%s); restarting at step %d", reason, first + 1)
                break
            if read is None:
                return
            if isinstance(read, Exception):
                raise read
            images, tokens, numbers, faults = read
            replaced = count.add(len(numbers), faults)
            yield Batch(images.to(device, non_blocking=True), tokens, numbers, replaced)
            first += 1


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0] or type(error).__name__


def _no_shared_memory(reason: str) -> str:
    """What to say of a worker that found no room for a batch in shared memory."""
    return (
        f"a data loader worker found no room in shared memory ({shared_memory() or reason}); enlarge it (in Docker: "
        "--shm-size=8g), lower the batch size, or read without workers: --workers 0."
    )


def _wait(found: Iterator):
    """The workers' next batch, or None after the last. Raises RuntimeError if one is dead, or none answers."""
    for _ in range(0, STALL_SECONDS, POLL_SECONDS):
        try:
            return next(found, None)
        except RuntimeError as error:  # after POLL_SECONDS without a batch torch checks that the workers are alive
            if "timed out" not in str(error):
                raise
    raise RuntimeError(f"nothing was read for {STALL_SECONDS} seconds")


class _WorkerDataset(Dataset):
    """A worker's data set: from a step's rows to its batch; or to an error, to be raised in the training's process."""

    def __init__(self, rows: DatasetView, tokenizer: Tokenizer, context: int, seed: int):
        self.rows, self.tokenizer, self.context, self.seed = rows, tokenizer, context, seed

    def __getitem__(self, step: tuple[int, list[int]]) -> tuple[torch.Tensor, Tokens, torch.Tensor, dict[str, int]] | Exception:
        try:
            epoch, wanted = step
            taken = self.rows.take(wanted)
            tokens = self.tokenizer.encode(taken.drawn_captions(self.seed, epoch), self.context)
            for tensor in (taken.images, *vars(tokens).values()):
                if isinstance(tensor, torch.Tensor):
                    tensor.share_memory_()  # here, as an error in the thread that sends it would be lost, and all would wait
        except LclError as error:
            return error
        except Exception as error:
            if "shared memory" in str(error) or "/torch_" in str(error):
                return LclError(_no_shared_memory(_first_line(error)))
            # a bug: raise it where it can be seen
            return RuntimeError(f"in a data loader worker:\n{traceback.format_exc()}")
        return taken.images, tokens, torch.tensor(taken.rows), taken.faults


def _as_it_is(batch):
    return batch
