"""Feature banks: a frozen encoder's features of every row of a data set, computed once and saved.

A bank is a folder of shards in half precision, `features-00000.safetensors` and so on, and `bank.json` with descriptions of rows
and encoder and the shards' checksums. It is written shard by shard, so that an interrupted build resumes, and memory-mapped when
read.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import safetensors.torch
import torch

from lcl import storage
from lcl.config import LclError, Progress, data_folder, require
from lcl.data.base import DatasetView
from lcl.machine import to_device
from lcl.processes import in_order, memory_for
from lcl.teachers.best import full_precision
from lcl.teachers.encoders import ImageEncoder, TextEncoder

log = logging.getLogger("lcl")

FORMAT = "lcl-bank-1"
CODE = 1  # raise it when the same encoder and rows would give other features than before
SHARD_ROWS = 4096
PIECE = 512  # rows that a process prepares at a time, so that little waits in shared memory
MANY = 65_536  # rows from which on all processors prepare what the encoder is given


@dataclass(frozen=True)
class Bank:
    """The features of N rows, L2-normalised, (N, d) in half precision, memory-mapped.

    Attributes:
        folder: of the bank.
        description: of rows and encoder.
        fingerprint: equal fingerprints, equal bytes.
        shards: (n, d) each.
    """

    folder: Path
    description: dict
    fingerprint: str
    shards: tuple[torch.Tensor, ...]

    def __len__(self) -> int:
        return sum(len(shard) for shard in self.shards)

    @property
    def width(self) -> int:
        """d, the dimension of a feature."""
        return self.shards[0].shape[1]

    def __getitem__(self, rows: slice | torch.Tensor) -> torch.Tensor:
        """Some rows as float32: a slice or (n,) int64 → (n, d)."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            if step != 1:
                return self[torch.arange(start, stop, step)]
            touched = range(start // self._step, -(-stop // self._step)) if stop > start else []
            parts = [self.shards[n][max(start - n * self._step, 0) : stop - n * self._step] for n in touched]
            return torch.cat(parts).float() if parts else torch.empty(0, self.width)
        found = np.empty((len(rows), self.width), np.float16)
        for place, row in enumerate((rows % len(self)).tolist()):  # -1 is the last row
            found[place] = self._arrays[row // self._step][row % self._step]  # a batch's rows lie in hundreds of shards
        return torch.from_numpy(found).float()

    def rows(self, rows: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Some rows, (n,) int64, as float32 on a device: (n, d). A GPU looks them up in a copy of its own, if it has room."""
        copy = self.on(device) if device.type != "cpu" else None
        return to_device(self[rows], device) if copy is None else copy[to_device(rows, device)].float()

    def on(self, device: torch.device) -> torch.Tensor | None:
        """The bank, (N, d) in half precision, kept on a GPU from the first call on; None if it takes over half of its room."""
        device = torch.empty(0, device=device).device  # "cuda" is "cuda:0"
        if device not in self._copies:
            copy, size, room = None, 2 * len(self) * self.width, free_memory(device)  # bytes
            if 2 * size <= room:
                with contextlib.suppress(torch.OutOfMemoryError):  # another process took it, or it is in pieces
                    copy = torch.empty(len(self), self.width, dtype=torch.half, device=device)
                    for part, shard in zip(copy.split(self._step), self.shards, strict=True):
                        part.copy_(shard)
            if copy is None and device.type == "cuda":
                sizes = f"{size / 2**30:.1f} GiB, and {device} has {room / 2**30:.1f} GiB free"
                log.info("the bank in %s takes %s: it stays on the CPU, which is slower.", self.folder, sizes)
            self._copies[device] = copy
        return self._copies[device]

    @cached_property
    def _arrays(self) -> list[np.ndarray]:
        return [shard.numpy() for shard in self.shards]

    @cached_property
    def _copies(self) -> dict[torch.device, torch.Tensor | None]:
        return {}

    @property
    def _step(self) -> int:
        return len(self.shards[0])


def free_memory(device: torch.device) -> int:
    """Bytes that are free on a GPU; 0 elsewhere, where a bank is memory-mapped and needs no copy."""
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else 0


def bank_folder(rows: DatasetView, encoder: ImageEncoder | TextEncoder) -> Path:
    """The default folder of the bank of these rows and this encoder: `data/cache/banks/…`, or see `storage.cache_folder`."""
    name = f"{encoder.kind}-{storage.fingerprint(describe(rows, encoder))}"
    own = data_folder() / "cache" / "banks" / name
    return own if (own / "bank.json").exists() else storage.cache_folder("banks", name)


def describe(rows: DatasetView, encoder: ImageEncoder | TextEncoder) -> dict:
    """Everything that a bank depends on."""
    return {
        "format": FORMAT,
        "code": CODE,
        "rows": rows.description,
        "encoder": encoder.description,
        "width": encoder.width,
    }


def build_bank(
    rows: DatasetView, encoder: ImageEncoder | TextEncoder, folder: Path | None = None, progress: Progress | None = None
) -> Bank:
    """Encode all rows, shard by shard; complete shards of an earlier call are reused, damaged ones computed again.

    An encoder in float32 computes in float32, whatever the session allows; see `full_precision`.

    Args:
        rows: to encode.
        encoder: of images or of captions.
        folder: of the bank (default: `bank_folder(rows, encoder)`).
        progress: called with the number of rows finished since the last call.

    Returns:
        The bank. If the disk is full, what was not written stays in memory, with a warning.

    Raises:
        LclError: if the folder holds a bank of other rows or another encoder, or is no place to write.
    """
    folder = Path(folder or bank_folder(rows, encoder))
    require(len(rows) >= 1, "a data set without rows has no bank.")
    if (folder / "bank.json").exists():
        with contextlib.suppress(LclError):  # a finished one is read without a lock, for which a file would be written
            bank = open_bank(folder, rows, encoder)
            if progress:
                progress(len(rows))
            return bank
        folder = folder if storage.can_write(folder) else storage.cache_folder("banks", folder.name)
    with storage.locked(folder):  # a second process waits, and finds the bank finished
        return _fill(folder, rows, encoder, progress)


def _fill(folder: Path, rows: DatasetView, encoder: ImageEncoder | TextEncoder, progress: Progress | None) -> Bank:
    description, step, checksums, shards = describe(rows, encoder), SHARD_ROWS, {}, []
    if (folder / "bank.json").exists():
        step, checksums = _read_manifest(folder, rows, encoder)
    for pattern in (".features-*", ".bank.json.*"):  # of a write that was killed
        for left_over in folder.glob(pattern):
            left_over.unlink(missing_ok=True)
    remedy = "set a smaller `batch_size` of the encoder, or free some memory, and call again: what is finished is kept"
    writes, starts = True, range(0, len(rows), step)
    kept: dict[int, torch.Tensor] = {}
    for number, start in enumerate(starts):
        with contextlib.suppress(LclError):  # not there yet, or not whole
            name = _shard_name(number)
            kept[start] = _read_shard(folder / name, checksums.get(name), start)
    pieces = [range(a, min(a + PIECE, start + step, len(rows))) for start in starts if start not in kept
              for a in range(start, min(start + step, len(rows)), PIECE)]  # fmt: skip
    given = in_order(_Inputs(rows, encoder.kind, pieces), "prepare rows for a bank", None if len(rows) >= MANY else 0)
    for number, start in enumerate(starts):
        name, end = _shard_name(number), min(start + step, len(rows))
        if start in kept:
            shards.append(kept[start])
            if progress:
                progress(end - start)
            continue
        parts = [next(given) for _ in range(start, end, PIECE)]
        inputs = torch.cat(parts) if encoder.kind == "images" else list(itertools.chain(*parts))
        with full_precision(), memory_for(f"{getattr(encoder, 'batch_size', 'many')} {encoder.kind} in the encoder", remedy):
            features = {"features": encoder(inputs, progress).half().contiguous()}
        checksums[name] = storage.sha256(safetensors.torch.save(features))  # that of the file
        manifest = description | {"shard_rows": step, "shards": dict(sorted(checksums.items()))}
        writes = writes and storage.try_write(storage.write_tensors, folder / name, features)
        writes = writes and storage.try_write(storage.write_json, folder / "bank.json", manifest)
        shards.append(_read_shard(folder / name, checksums[name], start) if writes else features["features"])
        check_features(shards[-1], f"the bank in {folder}", start)
    return _whole_bank(folder, description, checksums, shards)


@dataclass(frozen=True)
class _Inputs:
    """What an encoder is given of some rows: images, or captions."""

    rows: DatasetView
    kind: str
    pieces: list[range]

    def __len__(self) -> int:
        return len(self.pieces)

    def __getitem__(self, number: int) -> torch.Tensor | list[str]:
        some = self.pieces[number]
        return self.rows.take(some).images if self.kind == "images" else self.rows.captions(some)


def _shard_name(number: int) -> str:
    return f"features-{number:05d}.safetensors"


def _read_shard(path: Path, checksum: str | None, first_row: int) -> torch.Tensor:
    """One shard's features, memory-mapped. Raises LclError if it is missing or changed, or holds zeros or NaN."""
    whole = path.exists() and storage.file_sha256(path) == checksum
    require(whole, f"{path} is missing or not as it was written; `lcl banks` makes it again.")
    features = storage.read_tensors(path)["features"]  # (n, d)
    check_features(features, f"the bank in {path.parent}", first_row, "`lcl banks` makes it again")
    return features


def open_bank(folder: Path, rows: DatasetView | None = None, encoder: ImageEncoder | TextEncoder | None = None) -> Bank:
    """Open a bank memory-mapped, after one comparison of every byte with its checksums.

    Args:
        folder: of the bank.
        rows, encoder: what it must be of, if given.

    Raises:
        LclError: for a bank of something else, with the difference; for one that is missing, unfinished, damaged, or holds
            features that are zero or not finite.
    """
    folder = Path(folder)
    require((folder / "bank.json").exists(), f"there is no bank in {folder}; `lcl banks` builds one.")
    step, checksums = _read_manifest(folder, rows, encoder)
    kept = storage.read_json(folder / "bank.json")
    description = {key: value for key, value in kept.items() if key not in ("shards", "shard_rows")}
    shards = [_read_shard(folder / name, checksums[name], number * step) for number, name in enumerate(checksums)]
    return _whole_bank(folder, description, checksums, shards)


def _whole_bank(folder: Path, description: dict, checksums: dict[str, str], shards: list[torch.Tensor]) -> Bank:
    expected, there = description["rows"]["rows"], sum(len(shard) for shard in shards)
    require(there == expected, f"the bank in {folder} has {there} of {expected} rows; call `lcl banks` again to finish it.")
    return Bank(folder, description, storage.fingerprint([description, checksums]), tuple(shards))


def check_features(features: torch.Tensor, what: str, first_row: int = 0, remedy: str = "look at this row") -> None:
    """Raise LclError, with the row, if features (n, d) hold a row of zeros or values that are not finite."""
    norms = features.float().norm(dim=1)
    bad = (~torch.isfinite(norms) | (norms == 0)).nonzero()[:, 0]
    if len(bad):
        row = int(bad[0])
        kind = "is zero" if norms[row] == 0 else "holds values that are no finite numbers"
        raise LclError(f"row {first_row + row} of {what} {kind}, so it has no neighbours; {remedy}.")


def _read_manifest(
    folder: Path, rows: DatasetView | None, encoder: ImageEncoder | TextEncoder | None
) -> tuple[int, dict[str, str]]:
    """Rows a shard, and the checksums of existing shards. Raises LclError if they are not of `rows` and `encoder`."""
    found = storage.read_json(folder / "bank.json")
    shards = found.get("shards") if isinstance(found, dict) else None
    ours = isinstance(shards, dict) and found.get("format") == FORMAT and isinstance(found.get("rows"), dict)
    numbers = ours and all(type(n) is int and n > 0 for n in (found["rows"].get("rows"), found.get("shard_rows")))
    require(numbers, f"{folder / 'bank.json'} describes no bank of this library; remove that folder, or name another.")
    require(
        list(shards) == [_shard_name(number) for number in range(len(shards))],
        f"{folder / 'bank.json'} names other shards than this library writes.",
    )
    wanted: dict = {"code": CODE}
    wanted |= {"rows": rows.description} if rows is not None else {}
    wanted |= {"encoder": encoder.description, "width": encoder.width} if encoder is not None else {}
    for part, value in wanted.items():
        if found.get(part) != value:
            difference = _first_difference(part, value, found.get(part))
            raise LclError(
                f"the bank in {folder} is of something else: {difference}. Name another folder, or build it anew."
            )
    return found["shard_rows"], dict(shards)


def _first_difference(part: str, wanted: object, found: object) -> str:
    if isinstance(wanted, dict) and isinstance(found, dict):
        key = next(key for key in [*wanted, *found] if key not in wanted or key not in found or wanted[key] != found[key])
        if key == "rows":
            return f"it has {found.get(key)} rows, not {wanted.get(key)}"
        return f"in its description of the {part}, {key} is {found.get(key)!r}, not {wanted.get(key)!r}"
    return f"its {part} is {found!r}, not {wanted!r}"
