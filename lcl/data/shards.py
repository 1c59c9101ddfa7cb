"""Pairs in tars in WebDataset's layout: written, scanned once from end to end, and then read row by row.

A sample is all members of one name: `000017.jpg`, `000017.txt` and others. WebDataset itself streams such tars. We write with it
but read through an index of all rows, which is made by the first scan: any row is one read away, so a run reads
rows in any order, and can be resumed anywhere.
"""

from __future__ import annotations

import collections
import concurrent.futures
import dataclasses
import errno
import json
import multiprocessing
import os
from collections.abc import Callable, Collection, Container
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import torch

from lcl import storage
from lcl.config import LanguageConfig, LclError, Progress, require
from lcl.data.duplicates import group_rows, near_duplicates
from lcl.data.manifest import near_duplicates_grouped, read_manifest, source_of, write_manifest
from lcl.data.photos import EXTENSIONS, BadSample
from lcl.data.tars import Contents, Place, captions_of, read_row, scan_tar
from lcl.machine import processors, without_main

INDEX_FORMAT = "lcl-shards-index-2"
CODE = 1  # raise it when the same tars would give other rows than before
INDEX = "index.safetensors"
OPEN = 16  # tars that a reader keeps open: systems let a process have but a few hundred files, and many readers may be in one
MAX_BAD = 0.05  # share of the samples that may be unusable before that is taken for a mistake
OF_ROWS = {"tar": torch.int32, "picture": torch.int64, "look": torch.int64, "name": torch.int64, "captions": torch.int32}
OF_CAPTIONS = {"caption_keys": torch.int64, "words": torch.int32}


@dataclass
class Shards:
    """The rows of scanned tars. File handles stay open, and are not sent to worker processes.

    Attributes:
        index: by name. For N rows: tar, (N,) int32, the tar of every row; places, (N, 5) int64, see `tars.Place`; picture,
            look and name, (N,) int64, hashes, see `tars.Row`; captions, (N,) int32, how many a row has. For the M captions of
            all rows, in order: caption_keys, (M,) int64, hashes of their keys; words, (M,) int32.
        faults: unusable samples, by the reason's short name; first: where each was first seen.
        fingerprint: of all tars, in order, and of how they are grouped.
        near: whether near-duplicates count as the same picture.
    """

    folder: Path
    tars: tuple[str, ...]
    index: dict[str, torch.Tensor]
    faults: dict[str, int]
    first: dict[str, str]
    fingerprint: str
    near: bool = False
    _open: dict[int, BinaryIO] = field(default_factory=dict, repr=False)
    _opener: int = field(default_factory=os.getpid, repr=False)  # the process whose files these are

    def __len__(self) -> int:
        return len(self.index["tar"])

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}

    def groups(self) -> torch.Tensor:
        """(N,) int64: rows of one group show the same picture, by its pixels or its name."""
        links = near_duplicates(self.index["look"]) if self.near else None
        looks = [self.index["look"]] if self.near else []
        return group_rows([self.index["picture"], self.index["name"], *looks], links)

    def read(self, row: int, size: int) -> tuple[torch.Tensor, tuple[str, ...]]:
        """(3, size, size) uint8, and the captions. Raises BadSample if the row cannot be read any more."""
        return self._read(row, lambda file, place: read_row(file, place, size))

    def captions(self, row: int) -> tuple[str, ...]:
        """Without the picture. Raises BadSample if they cannot be read any more."""
        return self._read(row, captions_of)

    def _file(self, tar: int) -> BinaryIO:
        if self._opener != os.getpid():  # a forked process shares the position of its parent's handles
            self._open, self._opener = {}, os.getpid()
        if tar not in self._open:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[tar] = (self.folder / self.tars[tar]).open("rb")
        return self._open[tar]

    def _read(self, row: int, how: Callable):
        tar = int(self.index["tar"][row])
        try:
            return how(self._file(tar), Place(*self.index["places"][row].tolist()))
        except FileNotFoundError:
            raise BadSample("tar: missing") from None
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):  # no fault of the row
                raise LclError("this process has too many files open to read shards; raise the limit (ulimit -n).") from None
            self._open.pop(tar, None)  # a disk or network may recover for another row
            raise BadSample("tar: not readable") from None


def open_shards(folder: Path, workers: int | None = None, progress: Progress | None = None) -> Shards:
    """Open the rows of a folder's tars. The first time, every tar is scanned, and the index is saved.

    Args:
        folder: of the tars.
        workers: scanning processes (default: one a processor for many tars; 0: this process).
        progress: called with the number of tars scanned since the last call.

    Raises:
        LclError: if tars are missing or have another size than in the manifest, or if too many samples are unusable.
    """
    folder = Path(folder)
    index = folder / INDEX
    promised = read_manifest(folder)
    for name, tar in promised.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        what = "is missing" if found is None else f"has {found:,} of {tar['bytes']:,} bytes"
        require(
            found == tar["bytes"],
            f"{folder / name} {what}; fetch it again, or let `lcl data verify {folder} --accept` go on with what is there.",
        )
    if index.exists():
        about = storage.read_metadata(index)
        if about.get("format") == INDEX_FORMAT and about.get("of") == _fingerprint(promised):
            faults, first = (_counts(about.get(name, ""), kind, index) for name, kind in (("faults", int), ("first", str)))
            return _opened(folder, promised, storage.read_tensors(index), faults, first)
    return scan_shards(folder, workers, progress)


def scan_shards(
    folder: Path, workers: int | None = None, progress: Progress | None = None, accept: bool | Container[str] = False
) -> Shards:
    """Scan every byte of a folder's tars; save the index and, if there is none, the manifest.

    Args:
        folder, workers, progress: as in `open_shards`.
        accept: accept tars that differ from the manifest, all or those of these names; the manifest is then rewritten.

    Raises:
        LclError: without tars or usable rows; if tars differ from the manifest; if more than MAX_BAD of the samples are unusable.
    """
    folder = Path(folder)
    paths = sorted(path for path in folder.glob("*.tar") if not path.name.startswith("."))
    packed = sorted(path.name for path in folder.glob("*.tar.*") if path.suffix in (".gz", ".bz2", ".xz", ".zst"))
    hint = f"{packed[0]} is compressed; unpack it." if packed else "`lcl data from-folder` makes some."
    require(bool(paths), f"there are no tars in {folder}; {hint}")
    trusted = accept if isinstance(accept, Container) else ()
    promised = {} if accept is True else {name: tar for name, tar in read_manifest(folder).items() if name not in trusted}
    fix = f"; fetch it again, or let `lcl data verify {folder} --accept` go on with what is there."
    names = [path.name for path in paths]
    for name in sorted({*promised, *names}) if promised or trusted else ():
        require(name in names, f"{folder / name} is missing{fix}")
        require(name in promised or name in trusted, f"{folder / name} is not in the manifest{fix}")
    scanned = dict(zip(names, _scan_all(paths, workers, progress), strict=True))
    tars = {name: contents.tar for name, contents in scanned.items()}
    for name, tar in promised.items():
        wrong = f" ({list_faults(scanned[name].faults)})" if scanned[name].faults else ""
        require(tar == tars[name], f"{folder / name} is not as the manifest says{wrong}{fix}")
    faults, first, extensions = collections.Counter(), {}, collections.Counter()
    for name, contents in scanned.items():
        faults.update(contents.faults)
        extensions.update(contents.extensions)
        first = {reason: f"{name}, {where}" if where else name for reason, where in contents.first.items()} | first
    rows = sum(len(contents.rows) for contents in scanned.values())
    wanted = _wanted(extensions) if faults["image: missing"] else ""
    require(rows > 0, f"no sample of the {len(paths)} tars in {folder} can be used: {list_faults(faults, first)}.{wanted}")
    check_share(bad_samples(faults), rows, faults, str(folder), first)
    if tars != promised:
        write_manifest(folder, tars, source_of(folder))
    index = write_index(folder, tars, scanned.values(), faults, first)
    return _opened(folder, tars, index, dict(faults), first)


def write_index(
    folder: Path, tars: dict[str, dict], scanned: Collection[Contents], faults: dict[str, int], first: dict[str, str]
) -> dict[str, torch.Tensor]:
    """Save what a scan found, so that `open_shards` needs none; returns the tensors of `Shards.index`.

    Args:
        folder: of the tars.
        tars: the manifest's entries.
        scanned: every tar, in the order of their names.
        faults, first: of all tars, as in `Shards`.
    """
    index = _index(scanned)
    about = {"format": INDEX_FORMAT, "of": _fingerprint(tars), "faults": json.dumps(faults), "first": json.dumps(first)}
    storage.write_tensors(folder / INDEX, index, about)
    return index


def _index(scanned: Collection[Contents]) -> dict[str, torch.Tensor]:
    """The tensors of `Shards.index`."""
    rows = [row for contents in scanned for row in contents.rows]
    captions = [caption for row in rows for caption in row.captions]
    columns = {
        "tar": [number for number, contents in enumerate(scanned) for _ in contents.rows],
        "picture": [row.picture for row in rows], "look": [row.look for row in rows], "name": [row.name for row in rows],
        "captions": [len(row.captions) for row in rows],
        "caption_keys": [key for key, _ in captions], "words": [words for _, words in captions],
    }  # fmt: skip
    kinds = OF_ROWS | OF_CAPTIONS
    places = torch.tensor([row.place for row in rows], dtype=torch.int64)
    return {name: torch.tensor(column, dtype=kinds[name]) for name, column in columns.items()} | {"places": places}


def _wanted(extensions: collections.Counter[str]) -> str:
    """What the samples without a picture have, and what a sample should have."""
    found = ", ".join(f".{name[:40]}" for name, _ in extensions.most_common(3))
    return (
        f" Their members end in {found}; a sample is NAME.jpg (or {', '.join(EXTENSIONS[1:])}) with NAME.txt or NAME.json, "
        "and NAME has no dot."
    )


def _scan_all(paths: list[Path], workers: int | None, progress: Progress | None) -> list[Contents]:
    if workers is None:
        workers = processors() if len(paths) >= 16 else 0  # it takes seconds until a process is there
    workers = min(workers, len(paths))
    if workers <= 1:
        pool, found = None, map(scan_tar, paths)
    else:
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        with without_main():  # all processes start now: `map` submits every tar at once
            found = pool.map(scan_tar, paths)
    done = []
    try:
        for contents in found:
            done.append(contents)
            if progress:
                progress(1)
    except concurrent.futures.process.BrokenProcessPool:
        raise LclError(f"a process that scanned {paths[0].parent} was killed; free some memory, and call again.") from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return done


def describe(shards: Shards) -> str:
    """What shards hold, in one line: pictures, captions, copies, long captions, and what cannot be used."""
    index, longest = shards.index, LanguageConfig().context_length - 2  # [BEGIN] and [END] take two tokens
    distinct = [len(index[name].unique()) for name in ("picture", "caption_keys")]
    counts = [len(shards), len(index["caption_keys"])]
    pictures, captions = (
        f"{count:,} {what}{'s' * (count != 1)}" + (f" ({found:,} distinct)" if found < count else "")
        for count, found, what in zip(counts, distinct, ("picture", "caption"), strict=True)
    )
    cut = int((index["words"] > longest).sum())
    long = f" {cut:,} captions have more than {longest} words: a context of {longest + 2} tokens cuts them off." if cut else ""
    tars = f"{len(shards.tars)} tar{'s' * (len(shards.tars) != 1)}"
    faults = f" Left out: {list_faults(shards.faults, shards.first)}." if shards.faults else ""
    return f"{pictures} with {captions} in {tars}, fingerprint {shards.fingerprint}.{long}{faults}"


def describe_near_duplicates(shards: Shards) -> str:
    """How many pictures look nearly like another one, and the first two that do."""
    same, near = (dataclasses.replace(shards, near=near).groups() for near in (False, True))
    more = len(same.unique()) - len(near.unique())
    if not more:
        return "No two different pictures look nearly alike."
    size = near.bincount()[near] > same.bincount()[same]  # its group grew
    first = int(size.nonzero()[0])
    second = next(row for row in (near == near[first]).nonzero().flatten().tolist() if same[row] != same[first])
    tar = shards.index["tar"]
    places = " and ".join(
        f"row {int((tar[:row] == tar[row]).sum())} of {shards.tars[int(tar[row])]} ({shards.captions(row)[0]!r})"
        for row in (first, second)
    )
    return (
        f"{int(size.sum()):,} pictures look nearly like another one; the first: {places}. From now on they lie on one side of "
        f"every split, and the fingerprint is {_fingerprint(read_manifest(shards.folder), near=True)}."
    )


def bad_samples(faults: dict[str, int]) -> int:
    """The number of unusable samples; faults of tars do not count."""
    return sum(number for name, number in faults.items() if not name.startswith("tar: "))


def check_share(bad: int, good: int, faults: dict[str, int], where: str, first: dict[str, str] | None = None) -> None:
    """Raise LclError, with the faults, if more than MAX_BAD of the samples are unusable."""
    require(
        bad <= MAX_BAD * (bad + good),
        f"{bad:,} of {bad + good:,} samples in {where} cannot be used, more than {MAX_BAD:.0%} ({list_faults(faults, first)}); "
        "repair them, or leave them out.",
    )


def list_faults(faults: dict[str, int], first: dict[str, str] | None = None) -> str:
    """Faults in words, the most frequent first, with the place where each was first seen."""
    ordered = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    places = {name: f" (first: {where})" for name, where in (first or {}).items()}
    return ", ".join(f"{name} {number:,}×{places.get(name, '')}" for name, number in ordered) or "nothing wrong"


def _fingerprint(tars: dict[str, dict], near: bool = False) -> str:
    return storage.fingerprint([CODE, dict(sorted(tars.items())), *(["near"] if near else [])])


def _counts(text: str, kind: type, index: Path) -> dict:
    """What the scan noted about faults. Raises LclError for an invalid text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    sound = isinstance(found, dict) and all(type(value) is kind for value in found.values())
    require(sound, f"{index} is damaged; remove it, and the tars are scanned again.")
    return found


def _opened(
    folder: Path, tars: dict[str, dict], index: dict[str, torch.Tensor], faults: dict[str, int], first: dict[str, str]
) -> Shards:
    names, near = tuple(sorted(tars)), near_duplicates_grouped(folder)
    kinds, rows = OF_ROWS | OF_CAPTIONS | {"places": torch.int64}, len(index.get("tar", ()))
    whole = index.keys() == kinds.keys() and all(index[name].dtype == kind for name, kind in kinds.items())
    whole = whole and index["places"].shape == (rows, len(Place._fields))
    whole = whole and all(index[name].shape == (rows,) for name in OF_ROWS)
    whole = whole and all(index[name].shape == (int(index["captions"].sum()),) for name in OF_CAPTIONS)
    sound = whole and bool(((index["tar"] >= 0) & (index["tar"] < len(names))).all())
    sound = sound and bool((index["places"] >= 0).all()) and bool((index["captions"] >= 1).all())
    require(sound, f"{folder / INDEX} is damaged; remove it, and the tars are scanned again.")
    return Shards(folder, names, index, faults, first, _fingerprint(tars, near), near)
