"""Plans: scenes described once, by all processors, and memory-mapped from then on.

To describe a scene and split its caption into tokens takes a processor longer than a GPU takes to learn from it. A plan keeps
what a step needs of a scene, in 120 bytes or less: what its pixels depend on, and its caption's tokens. It is a folder of shards,
`plan-00000.safetensors` and so on, each with its checksum, and `plan.json`, which says of what. An interrupted one goes on where
it was.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lcl import storage
from lcl.config import LclError, Progress, require
from lcl.data.drawn.canvas import PACKED
from lcl.data.scenes import SceneDataset, SceneView
from lcl.models.tokenizer import Tokenizer, Tokens
from lcl.processes import in_order

FORMAT = "lcl-plan-1"
CODE = 1  # raise it when the same scenes and tokenizer would give other arrays than before
SHARD_ROWS = 16_384
DRAWN_AT_ONCE = 256  # scenes whose pixels fit a processor's cache
SAY_SECONDS = 20  # between lines about the progress

log = logging.getLogger("lcl")


@dataclass(frozen=True)
class Plan:
    """N scenes with their captions as tokens.

    Attributes:
        world: draws them.
        shards: of SHARD_ROWS scenes, the last one of fewer; see `describe_shard`.
    """

    world: SceneDataset
    shards: tuple[dict[str, np.ndarray], ...]

    def __len__(self) -> int:
        return sum(len(shard["scenes"]) for shard in self.shards)

    def take(self, rows: torch.Tensor, device: str) -> tuple[torch.Tensor, Tokens]:
        """Some pairs, drawn on `device`: (B,) int64 → (B, 3, H, W) uint8, and tokens without `spans`, on the CPU."""
        scenes, ids, words, mask = self._look_up(rows.numpy())
        parts = len(scenes) if device.startswith("cuda") else DRAWN_AT_ONCE
        images = [self.world.draw(scenes[start : start + parts], device) for start in range(0, len(scenes), parts)]
        ids, mask, numbers = map(torch.from_numpy, (ids, mask, words))
        return torch.cat(images), Tokens(ids, mask, numbers >> 1, ((),) * len(rows), (numbers & 1).bool())

    def _look_up(self, rows: np.ndarray) -> tuple[np.ndarray, ...]:
        """Packed scenes (B,), and (B, L): token ids, numbers of words as in `describe_shard`, and what is no padding."""
        shards, places = np.divmod(rows, len(self.shards[0]["scenes"]))
        scenes, begins, lengths = np.empty(len(rows), PACKED), *np.empty((2, len(rows)), np.int64)
        groups = [(self.shards[number], np.flatnonzero(shards == number)) for number in np.unique(shards)]
        for shard, mine in groups:
            own = places[mine]
            scenes[mine], begins[mine] = shard["scenes"][own], shard["begins"][own]
            lengths[mine] = shard["begins"][own + 1] - begins[mine]
        steps = np.arange(lengths.max(initial=0))  # (L,)
        mask = steps < lengths[:, None]
        ids, words = np.zeros(mask.shape, np.int64), np.full(mask.shape, -2, np.int64)
        for shard, mine in groups:
            there = mask[mine]
            source = (begins[mine, None] + steps)[there]
            for filled, name in ((ids, "ids"), (words, "words")):
                part = filled[mine]
                part[there] = shard[name][source]
                filled[mine] = part
        return scenes, ids, words, mask


def describe_shard(rows: SceneView, tokenizer: Tokenizer, context: int, first: int, last: int) -> dict[str, np.ndarray]:
    """The rows from `first` to `last` - 1 as arrays.

    Returns:
        scenes: (n,) of PACKED. begins: (n + 1,) int32, where the tokens of each row begin, and where the last one's end.
        ids: (T,) int16, or int32 if the vocabulary is large. words: (T,) int16, twice the number of a token's word, and 1 more if
        it is a function word; -2 if the token is of no word.
    """
    scenes = rows.scenes(range(first, last))
    tokens = tokenizer.encode([scene.caption for scene in scenes], context)
    begins = torch.cat([torch.zeros(1, dtype=torch.long), tokens.mask.sum(1).cumsum(0)])
    ids, words = tokens.ids[tokens.mask].numpy(), (2 * tokens.words + tokens.function.long())[tokens.mask].numpy()
    return {
        "scenes": rows.world.pack(scenes),
        "begins": begins.numpy().astype(np.int32),
        "ids": ids.astype(np.int16 if tokenizer.vocab_size < 2**15 else np.int32),
        "words": words.astype(np.int16),
    }


def open_plan(
    rows: SceneView, tokenizer: Tokenizer, context: int, folder: Path | None = None, progress: Progress | None = None,
    workers: int | None = None,
) -> Plan:  # fmt: skip
    """The plan of these rows: read from its folder, or made there by all processors, shard by shard.

    Args:
        rows: to describe.
        tokenizer: of their captions.
        context: tokens of a caption, at most.
        folder: of the plan (default: below `data/cache/plans`, or see `storage.cache_folder`).
        progress: called with the number of rows finished since the last call.
        workers: processes (default: one a processor; 0: this process alone).

    Raises:
        LclError: if the folder holds the plan of something else, cannot be written, or the processes die. What is finished is
            kept, and gone on with by the next call.
    """
    about = {
        "format": FORMAT, "code": CODE, "rows": rows.description, "tokenizer": tokenizer.fingerprint, "context": context,
        "shard_rows": SHARD_ROWS,
    }  # fmt: skip
    name = storage.fingerprint(about)
    folder = Path(folder or storage.cache_folder("plans", name))
    numbers = range(-(-len(rows) // SHARD_ROWS))
    with storage.locked(folder):  # a second process waits, and finds the plan finished
        _check(folder / "plan.json", about)
        shards = {number: shard for number in numbers if (shard := _read_shard(folder, number, name))}
        if progress:
            progress(sum(len(shard["scenes"]) for shard in shards.values()))
        pieces = _Pieces(rows, tokenizer, context, folder, name, [number for number in numbers if number not in shards])
        began = said = time.perf_counter()
        for done, number in enumerate(in_order(pieces, "describe scenes", workers), 1):
            shards[number], now = _read_shard(folder, number, name), time.perf_counter()
            if progress:
                progress(len(shards[number]["scenes"]))
            elif now - said >= SAY_SECONDS:
                said, left = now, (now - began) / done * (len(pieces) - done)
                log.info("scenes are described, once for all trainings on them: %d s are left", left)
    return Plan(rows.world, tuple(shards[number] for number in numbers))


class _Pieces:
    """Shards that are missing: each is made, written, and named."""

    def __init__(
        self, rows: SceneView, tokenizer: Tokenizer, context: int, folder: Path, name: str, missing: list[int]
    ):
        self.rows, self.tokenizer, self.context = rows, tokenizer, context
        self.folder, self.name, self.missing = folder, name, missing

    def __len__(self) -> int:
        return len(self.missing)

    def __getitem__(self, place: int) -> int:
        number = self.missing[place]
        first, last = number * SHARD_ROWS, min((number + 1) * SHARD_ROWS, len(self.rows))
        arrays = describe_shard(self.rows, self.tokenizer, self.context, first, last)
        arrays["scenes"] = arrays["scenes"].view(np.uint8).reshape(last - first, -1)
        tensors = {name: torch.from_numpy(array) for name, array in arrays.items()}
        checksum = _checksum(arrays, self.name, number)
        storage.write_tensors(_path(self.folder, number), tensors, {"checksum": checksum})
        return number


def _path(folder: Path, number: int) -> Path:
    return folder / f"plan-{number:05d}.safetensors"


def _checksum(arrays: dict[str, np.ndarray], name: str, number: int) -> str:
    """Of a shard's bytes, and of the plan and the place that it belongs to."""
    return storage.sha256(b"".join([f"{name} {number}".encode(), *(arrays[key].tobytes() for key in sorted(arrays))]))


def _read_shard(folder: Path, number: int, name: str) -> dict[str, np.ndarray] | None:
    """One shard's arrays, memory-mapped; None if it is missing, damaged or another's, and so is to be made."""
    path = _path(folder, number)
    if not path.exists():
        return None
    try:
        arrays = {key: tensor.numpy() for key, tensor in storage.read_tensors(path).items()}
        if storage.read_metadata(path).get("checksum") != _checksum(arrays, name, number):
            return None
    except LclError:
        return None
    return arrays | {"scenes": arrays["scenes"].view(PACKED)[:, 0]}


def _check(path: Path, about: dict) -> None:
    """Say in a plan's folder what it is of. Raises LclError if it is of something else."""
    remedy = f"name another folder, or remove {path.parent}"
    if not path.exists():
        storage.write_json(path, about)
    try:
        found = storage.read_json(path)
    except LclError as error:
        raise LclError(f"{error} It should say what a plan is of: {remedy}.") from None
    require(found == about, f"the plan in {path.parent} is of other scenes or another tokenizer; {remedy}.")
