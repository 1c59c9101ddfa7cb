"""What a training is fed with: batches in an order that is a function of (seed, epoch, step, rank) and of nothing else.

So a training goes on in the middle of an epoch by asking for the step that it had come to.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch

from lcl.config import TrainConfig
from lcl.parallel import Team
from lcl.scenes import Pairs, World
from lcl.text import Tokenizer, Tokens

CHUNK = 32_768  # scenes in memory at a time; at 64 pixels 0.4 GB


@dataclass(frozen=True)
class Batch:
    """What one step sees. images: (B, 3, H, W) uint8. tokens: of the captions. indices: of the scenes, (B,) int64."""

    images: torch.Tensor
    tokens: Tokens
    indices: torch.Tensor


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


def batches(
    world: World,
    tokenizer: Tokenizer,
    config: TrainConfig,
    context: int,
    seed: int,
    device: str,
    team: Team | None = None,
    first: int = 0,
) -> Iterator[Batch]:
    """The batches of a training, or this process's rows of them, from step `first` on (counted from 0).

    A data set of up to CHUNK scenes is drawn once and stays in memory; of a larger one every process draws its own rows,
    chunk by chunk.
    """
    team = team or Team()
    size, per_epoch = config.batch_size // team.size, config.pairs // config.batch_size
    mine = slice(team.rank * size, (team.rank + 1) * size)
    kept: tuple[Pairs, Tokens] | None = None
    for epoch in range(first // per_epoch, config.epochs):
        step = epoch * per_epoch  # of the chunk's first batch
        for chunk in order(config, seed, epoch):
            rows = chunk.rows[max(first - step, 0) :, mine]  # (n, B / size)
            step += len(chunk.rows)
            if not len(rows):
                continue
            all_fit = chunk.length == config.pairs
            if kept is None or not all_fit:
                drawn = range(chunk.length) if all_fit else rows.flatten().tolist()
                pairs = world.pairs("train", [chunk.start + row for row in drawn], device=device)
                kept = (pairs, tokenizer.encode(pairs.captions, context))
            pairs, tokens = kept
            places = rows if all_fit else torch.arange(rows.numel()).view(rows.shape)
            for own, place in zip(rows, places, strict=True):
                yield Batch(pairs.images[place.to(device)], tokens[place].to(device), own + chunk.start)
