"""Pairs in tars in WebDataset's layout: written, scanned once from end to end, and then read row by row.

A sample is all members of one name: `000017.jpg`, `000017.txt` and others. WebDataset itself streams such tars. We write with it
but read through an index of all rows, which is made by the first scan: any row is one read away, so the order of a training is a
list of row numbers, and can be resumed anywhere.
"""

from __future__ import annotations

import collections
import concurrent.futures
import errno
import io
import itertools
import json
import multiprocessing
import os
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch
from PIL import Image

from lcl import storage
from lcl.config import LclError, Progress, need, require
from lcl.data.photos import BadSample
from lcl.data.scenes import SceneDataset
from lcl.data.tars import Contents, Place, caption_of, read_row, scan_tar

FORMAT = "lcl-shards-1"
CODE = 1  # raise it when the same tars would give other rows than before
MANIFEST, INDEX = "manifest.json", "index.safetensors"
ROWS = 1000  # of a tar that we write
OPEN = 16  # tars that a reader keeps open: systems let a process have but a few hundred files, and many readers may be in one
MAX_BAD = 0.05  # share of the samples that may be unusable before that is taken for a mistake


class Sample(NamedTuple):
    """A sample to write: a picture with its captions.

    Attributes:
        key: its name, without a dot.
        image: the picture's file.
        extension: of the picture's file.
        captions: one or more.
        about: further facts, JSON-able.
    """

    key: str
    image: bytes
    extension: str
    captions: tuple[str, ...]
    about: dict | None = None


def write_shards(
    folder: Path,
    samples: Iterator[Sample],
    source: dict,
    start: int = 0,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """Write samples to `pairs-00000.tar` and so on, each tar atomically, and the manifest.

    Args:
        folder: for the tars.
        samples: to write, from tar `start` on.
        source: what they are made from, JSON-able.
        start: number of the first tar.
        rows: samples a tar.
        progress: called with the number of samples written since the last call.

    Returns:
        The manifest's entry of every tar.

    Raises:
        LclError: for a folder that cannot be written, or holds other files of these names or shards of another source.
    """
    TarWriter = need("webdataset", "shards").TarWriter

    folder = Path(folder)
    tars = _promised(folder)
    before = storage.read_json(folder / MANIFEST).get("source") if tars else source
    require(before == source, f"the shards in {folder} are made of something else ({before}); name another folder.")
    while chunk := list(itertools.islice(samples, rows)):
        name, buffer = f"pairs-{start:05d}.tar", io.BytesIO()
        writer = TarWriter(buffer, encoder=False, mtime=0)  # equal samples, equal bytes
        for sample in chunk:
            members = {sample.extension: sample.image, "txt": sample.captions[0].encode()}
            several = {"captions": sample.captions} if len(sample.captions) > 1 else {}
            if about := several | (sample.about or {}):
                members["json"] = json.dumps(about, ensure_ascii=False).encode()
            writer.write({"__key__": sample.key} | members)
        writer.close()
        data = buffer.getvalue()
        there = (folder / name).exists()
        same = there and storage.file_sha256(folder / name) == storage.sha256(data)  # killed before it was in the manifest
        require(same or not there, f"{folder / name} is there already, and is another one; name another folder, or remove it.")
        if not same:
            storage.write_bytes(folder / name, data)
        tars[name] = {"bytes": len(data), "sha256": storage.sha256(data), "rows": len(chunk)}
        _promise(folder, tars, source)
        start += 1
        if progress:
            progress(len(chunk))
    return tars


def written(folder: Path) -> int:
    """The number of tars, from the first on, that exist and are in the manifest: where writing resumes."""
    tars = _promised(Path(folder))
    names = (f"pairs-{number:05d}.tar" for number in itertools.count())
    return next(number for number, name in enumerate(names) if name not in tars or not (Path(folder) / name).exists())


def scene_samples(world: SceneDataset, indices: range) -> Iterator[Sample]:
    """Training scenes as samples: JPEG of high quality, and JSON with the box and the words of every object."""
    for start in range(indices.start, indices.stop, 256):
        pairs = world.pairs("train", range(start, min(start + 256, indices.stop)))
        for index, (image, scene) in enumerate(zip(pairs.images, pairs.scenes, strict=True), start=start):
            file = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95, subsampling=0)
            objects = [{"name": world.name(obj.concept), "box": obj.box, "words": obj.span} for obj in scene.objects]
            yield Sample(f"{index:09d}", file.getvalue(), "jpg", (scene.caption,), {"things": objects})


def _promised(folder: Path) -> dict[str, dict]:
    """The manifest's entries; none if there is no manifest. Raises LclError for an invalid one."""
    path = folder / MANIFEST
    if not path.exists():
        return {}
    found = storage.read_json(path)
    tars = found.get("tars") if isinstance(found, dict) and found.get("format") == FORMAT else None
    whole = isinstance(tars, dict) and all(
        isinstance(tar, dict)
        and isinstance(tar.get("sha256"), str)
        and all(type(tar.get(number)) is int and tar[number] >= 0 for number in ("bytes", "rows"))
        and Path(name).name == name
        for name, tar in tars.items()
    )
    require(whole, f"{path} is no manifest of this library; remove it, and the tars are scanned again.")
    return dict(tars)


def keep_source(folder: Path, source: dict) -> None:
    """Record what a folder's tars are made from, before they are scanned. Raises LclError if it is recorded otherwise."""
    tars = _promised(Path(folder))
    before = _source(Path(folder)) or source
    require(before == source, f"the shards in {folder} are made of something else ({before}); name another folder.")
    _promise(Path(folder), tars, source)


def _source(folder: Path) -> dict | None:
    """What the tars are made from, if the manifest says so."""
    try:
        found = storage.read_json(folder / MANIFEST)
    except LclError:
        return None
    return found.get("source") if isinstance(found, dict) else None


def _promise(folder: Path, tars: dict[str, dict], source: dict | None = None) -> None:
    storage.write_json(folder / MANIFEST, {"format": FORMAT, "source": source, "tars": dict(sorted(tars.items()))})


@dataclass
class Shards:
    """The rows of scanned tars. File handles stay open, and are not sent to worker processes.

    Attributes:
        tar: (N,) int32, the tar of every row; places: (N, 5) int64, see `tars.Place`.
        faults: unusable samples, by the reason's short name.
        fingerprint: of all tars, in order.
    """

    folder: Path
    tars: tuple[str, ...]
    tar: torch.Tensor  # (N,) int32, a row's tar
    places: torch.Tensor  # (N, 5) int64, see Place
    faults: dict[str, int]
    fingerprint: str
    _open: dict[int, BinaryIO] = field(default_factory=dict, repr=False)
    _opener: int = field(default_factory=os.getpid, repr=False)  # the process whose files these are

    def __len__(self) -> int:
        return len(self.tar)

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_open": {}}

    def read(self, row: int, size: int) -> tuple[torch.Tensor, str]:
        """(3, size, size) uint8, and the caption. Raises BadSample if the row cannot be read any more."""
        return self._read(row, lambda file, place: read_row(file, place, size))

    def caption(self, row: int) -> str:
        """Without the picture. Raises BadSample if it cannot be read any more."""
        return self._read(row, caption_of)

    def _file(self, tar: int) -> BinaryIO:
        if self._opener != os.getpid():  # a forked process shares the position of its parent's handles
            self._open, self._opener = {}, os.getpid()
        if tar not in self._open:
            if len(self._open) >= OPEN:
                self._open.pop(next(iter(self._open))).close()
            self._open[tar] = (self.folder / self.tars[tar]).open("rb")
        return self._open[tar]

    def _read(self, row: int, how: Callable):
        tar = int(self.tar[row])
        try:
            return how(self._file(tar), Place(*self.places[row].tolist()))
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
    promised = _promised(folder)
    for name, tar in promised.items():
        found = (folder / name).stat().st_size if (folder / name).exists() else None
        what = "is missing" if found is None else f"has {found:,} of {tar['bytes']:,} bytes"
        require(
            found == tar["bytes"],
            f"{folder / name} {what}; fetch it again, or let `lcl data verify {folder} --accept` go on with what is there.",
        )
    if index.exists():
        about = storage.read_metadata(index)
        if about.get("format") == FORMAT and about.get("of") == _of(promised):
            return _opened(folder, promised, storage.read_tensors(index), _faults_of(about.get("faults", ""), index))
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
    require(bool(paths), f"there are no tars in {folder}; `lcl data` makes some.")
    trusted = accept if isinstance(accept, Container) else ()
    promised = {} if accept is True else {name: tar for name, tar in _promised(folder).items() if name not in trusted}
    mend = f"; fetch it again, or let `lcl data verify {folder} --accept` go on with what is there."
    names = [path.name for path in paths]
    for name in sorted({*promised, *names}) if promised or trusted else ():
        require(name in names, f"{folder / name} is missing{mend}")
        require(name in promised or name in trusted, f"{folder / name} is not in the manifest{mend}")
    looks = dict(zip(names, _look_at_all(paths, workers, progress), strict=True))
    tars = {name: look.tar for name, look in looks.items()}
    for name, tar in promised.items():
        wrong = f" ({tell(looks[name].faults)})" if looks[name].faults else ""
        require(tar == tars[name], f"{folder / name} is not as the manifest says{wrong}{mend}")
    faults: collections.Counter[str] = collections.Counter()
    for look in looks.values():
        faults.update(look.faults)
    rows = sum(len(look.rows) for look in looks.values())
    require(rows > 0, f"no sample of the {len(paths)} tars in {folder} can be used: {tell(faults)}.")
    check_share(bad_samples(faults), rows, faults, str(folder))
    places = torch.tensor([place for look in looks.values() for place in look.rows], dtype=torch.int64)
    tar = torch.tensor([number for number, look in enumerate(looks.values()) for _ in look.rows], dtype=torch.int32)
    if tars != promised:
        _promise(folder, tars, _source(folder))
    about = {"format": FORMAT, "of": _of(tars), "faults": json.dumps(faults)}
    storage.write_tensors(folder / INDEX, {"tar": tar, "places": places}, about)
    return _opened(folder, tars, {"tar": tar, "places": places}, dict(faults))


def _look_at_all(paths: list[Path], workers: int | None, progress: Progress | None) -> list[Contents]:
    if workers is None:
        workers = (os.cpu_count() or 1) if len(paths) >= 16 else 0  # it takes seconds until a process is there
    workers = min(workers, len(paths))
    if workers <= 1:
        pool, looks = None, map(scan_tar, paths)
    else:
        pool = concurrent.futures.ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"))
        looks = pool.map(scan_tar, paths)
    done = []
    try:
        for look in looks:
            done.append(look)
            if progress:
                progress(1)
    except concurrent.futures.process.BrokenProcessPool:
        raise LclError(f"a process that scanned {paths[0].parent} was killed; free some memory, and call again.") from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return done


def bad_samples(faults: dict[str, int]) -> int:
    """The number of unusable samples; faults of tars do not count."""
    return sum(number for name, number in faults.items() if not name.startswith("tar: "))


def check_share(bad: int, good: int, faults: dict[str, int], where: str) -> None:
    """Raise LclError, with the faults, if more than MAX_BAD of the samples are unusable."""
    require(
        bad <= MAX_BAD * (bad + good),
        f"{bad:,} of {bad + good:,} samples in {where} cannot be used, more than {MAX_BAD:.0%} ({tell(faults)}); "
        "repair them, or leave them out.",
    )


def tell(faults: dict[str, int]) -> str:
    """Faults in words, the most frequent first."""
    ordered = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number:,}×" for name, number in ordered) or "nothing wrong"


def _of(tars: dict[str, dict]) -> str:
    return storage.fingerprint([CODE, dict(sorted(tars.items()))])


def _faults_of(text: str, index: Path) -> dict[str, int]:
    """The faults that the scan counted. Raises LclError for an invalid text."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    sound = isinstance(found, dict) and all(type(number) is int for number in found.values())
    require(sound, f"{index} is damaged; remove it, and the tars are scanned again.")
    return found


def _opened(folder: Path, tars: dict[str, dict], kept: dict[str, torch.Tensor], faults: dict[str, int]) -> Shards:
    names = tuple(sorted(tars))
    tar, places = kept.get("tar"), kept.get("places")
    whole = tar is not None and places is not None and places.shape == (len(tar), len(Place._fields))
    whole = whole and tar.dtype == torch.int32 and places.dtype == torch.int64
    sound = whole and bool(((tar >= 0) & (tar < len(names))).all()) and bool((places >= 0).all())
    require(sound, f"{folder / INDEX} is damaged; remove it, and the tars are scanned again.")
    return Shards(folder, names, tar, places, faults, _of(tars))
