"""Pairs in tars, as WebDataset lays them out: written, looked at once from end to end, and then read row by row.

A sample is members of one name: `000017.jpg`, `000017.txt`, and what else there is. WebDataset itself streams such tars; we
write with it, but read through an index of where every row lies, made when the tars are looked at first. With it any row is
one read away, so that an order of training is a list of numbers, and goes on in its middle as if nothing had happened.
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
    """What is written. key: its name, without a point. image: a picture's file. about: more, as JSON holds it."""

    key: str
    image: bytes
    extension: str
    caption: str
    about: dict | None = None


def write_shards(
    folder: Path,
    samples: Iterator[Sample],
    source: dict,
    start: int = 0,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """Write samples to `pairs-00000.tar` and so on, `rows` a tar, each whole or not there at all, and the manifest.

    source: what they are made of, JSON-able. start: number of the first tar; the samples begin there. Returns what the
    manifest says of each tar. Raises LclError for a folder that cannot be written, holds other files of these names, or
    shards of another source.
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
            members = {sample.extension: sample.image, "txt": sample.caption.encode()}
            if sample.about is not None:
                members["json"] = json.dumps(sample.about, ensure_ascii=False).encode()
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
    """How many tars, from the first on, are there and in the manifest: the number that a writing goes on with."""
    tars = _promised(Path(folder))
    names = (f"pairs-{number:05d}.tar" for number in itertools.count())
    return next(number for number, name in enumerate(names) if name not in tars or not (Path(folder) / name).exists())


def scene_samples(world: SceneDataset, indices: range) -> Iterator[Sample]:
    """The training scenes of a world, as JPEG of high quality; with them, as JSON, the box and the words of every thing."""
    for start in range(indices.start, indices.stop, 256):
        pairs = world.pairs("train", range(start, min(start + 256, indices.stop)))
        for index, (image, scene) in enumerate(zip(pairs.images, pairs.scenes, strict=True), start=start):
            file = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95, subsampling=0)
            objects = [{"name": world.name(obj.concept), "box": obj.box, "words": obj.span} for obj in scene.objects]
            yield Sample(f"{index:09d}", file.getvalue(), "jpg", scene.caption, {"things": objects})


def _promised(folder: Path) -> dict[str, dict]:
    """What the manifest says of each tar; nothing if there is none. Raises LclError for one that makes no sense."""
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
    require(whole, f"{path} is no manifest of this library; remove it, and the tars are looked at anew.")
    return dict(tars)


def keep_source(folder: Path, source: dict) -> None:
    """Note what the tars of a folder are made of, before they are looked at. Raises LclError if it is something else already."""
    tars = _promised(Path(folder))
    before = _source(Path(folder)) or source
    require(before == source, f"the shards in {folder} are made of something else ({before}); name another folder.")
    _promise(Path(folder), tars, source)


def _source(folder: Path) -> dict | None:
    """What the manifest says that the tars are made of, if it says so."""
    try:
        found = storage.read_json(folder / MANIFEST)
    except LclError:
        return None
    return found.get("source") if isinstance(found, dict) else None


def _promise(folder: Path, tars: dict[str, dict], source: dict | None = None) -> None:
    storage.write_json(folder / MANIFEST, {"format": FORMAT, "source": source, "tars": dict(sorted(tars.items()))})


@dataclass
class Shards:
    """Rows of tars that were looked at. row → tar and place; opened files are kept, and are not taken along to workers.

    faults: what could not be used, by its short name. fingerprint: of all tars, in order.
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
        if self._opener != os.getpid():  # a forked process would read on from where another one of them has just read
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
            if error.errno in (errno.EMFILE, errno.ENFILE):  # says nothing of the row
                raise LclError("this process has too many files open to read shards; raise the limit (ulimit -n).") from None
            self._open.pop(tar, None)  # a disk or a network that fails may be back for another row
            raise BadSample("tar: not readable") from None


def open_shards(folder: Path, workers: int | None = None, progress: Progress | None = None) -> Shards:
    """The rows of all tars of a folder. The first time, every tar is looked at, and what was found is kept beside them.

    workers: processes that look; if None as many as there are processors, where the tars are many; 0 for this one alone.
    progress: is told the number of tars that are done, as they are.
    Raises LclError when tars are missing or have another size than the manifest says, and when too much is unusable.
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
    """Look at every tar of a folder, byte by byte, and keep the index and, if there is none, the manifest.

    accept: go on with what there is, where the tars, or those of these names, are not as the manifest says; it is written anew.
    Raises LclError for a folder without tars or without a usable row; when tars differ from the manifest; when more than
    MAX_BAD of the samples cannot be used.
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
        raise LclError(
            f"a process that looked at the tars in {paths[0].parent} was killed; free some memory, and call again."
        ) from None
    finally:
        if pool:
            pool.shutdown(cancel_futures=True)
    return done


def bad_samples(faults: dict[str, int]) -> int:
    """How many samples could not be used; faults of tars are no samples."""
    return sum(number for name, number in faults.items() if not name.startswith("tar: "))


def check_share(bad: int, good: int, faults: dict[str, int], where: str) -> None:
    """Raise LclError when more than MAX_BAD of the samples are bad, and say what is wrong with them."""
    require(
        bad <= MAX_BAD * (bad + good),
        f"{bad:,} of {bad + good:,} samples in {where} cannot be used, more than {MAX_BAD:.0%} ({tell(faults)}); "
        "repair them, or leave them out.",
    )


def tell(faults: dict[str, int]) -> str:
    """Faults in words, the most frequent first."""
    by_number = sorted(faults.items(), key=lambda item: (-item[1], item[0]))
    return ", ".join(f"{name} {number:,}×" for name, number in by_number) or "nothing wrong"


def _of(tars: dict[str, dict]) -> str:
    return storage.fingerprint([CODE, dict(sorted(tars.items()))])


def _faults_of(text: str, index: Path) -> dict[str, int]:
    """What was counted when the tars were looked at. Raises LclError for what is no such thing."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    sound = isinstance(found, dict) and all(type(number) is int for number in found.values())
    require(sound, f"{index} is damaged; remove it, and the tars are looked at anew.")
    return found


def _opened(folder: Path, tars: dict[str, dict], kept: dict[str, torch.Tensor], faults: dict[str, int]) -> Shards:
    names = tuple(sorted(tars))
    tar, places = kept.get("tar"), kept.get("places")
    whole = tar is not None and places is not None and places.shape == (len(tar), len(Place._fields))
    whole = whole and tar.dtype == torch.int32 and places.dtype == torch.int64
    sound = whole and bool(((tar >= 0) & (tar < len(names))).all()) and bool((places >= 0).all())
    require(sound, f"{folder / INDEX} is damaged; remove it, and the tars are looked at anew.")
    return Shards(folder, names, tar, places, faults, _of(tars))
