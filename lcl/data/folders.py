"""A user's folder of images, with a table of captions or without, read into samples for shards."""

from __future__ import annotations

import collections
import concurrent.futures
import csv
import functools
import io
import itertools
import os
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePath
from typing import NamedTuple

import torch

from lcl import storage
from lcl.config import LclError, Progress, require
from lcl.data.photos import EXTENSIONS, BadSample, decode_image, read_caption, read_file
from lcl.data.shards import list_faults
from lcl.data.tables import LINES, OBJECTS, TEXTS, Row, encoding_of
from lcl.data.tars import SCANNED
from lcl.data.writing import Sample
from lcl.machine import processors
from lcl.words import spreadsheet_cell

SPELLINGS = {"jfif": "jpg", "jpe": "jpg"}  # other endings of files that are images, and the one that is written
FEWEST_BAD = 3  # pairs; fewer are left out, whatever their share
SHOWN = 3  # of the pairs that are left out, in messages


class Picture(NamedTuple):
    """An image with its captions. path: the file; name: as the table has it; captions: {caption: its lines}."""

    path: str
    name: str
    captions: dict[str, tuple[int | None, ...]]


class Rejected(NamedTuple):
    """A pair that is left out. line: of the table, None without one; path: of the image, as the table has it."""

    line: int | None
    path: str
    reason: str


@dataclass
class Pairs:
    """What a table and a folder hold.

    Attributes:
        folder: of the images.
        source: the table, in messages.
        pictures: those whose files are there, in the order in which the table first names them.
        count: pairs of an image and a caption, usable or not; a row without any caption is one.
        rejected: pairs that are left out.
        repeated: captions that a usable image has already, which are not written twice.
    """

    folder: str
    source: str
    pictures: list[Picture] = field(default_factory=list)
    count: int = 0
    rejected: list[Rejected] = field(default_factory=list)
    repeated: int = 0

    @property
    def faults(self) -> dict[str, int]:
        """How many pairs are left out, by the reason."""
        return collections.Counter(one.reason for one in self.rejected)


def rows_of_folder(folder: Path) -> tuple[list[Row], str]:
    """Captions of a folder without a table: .txt files beside the images if there are any, otherwise the folders' names.

    In a .txt file every line is a caption. The images of a folder `red_fox` are captioned "a photo of a red fox". Hidden files
    and folders are passed over.

    Args:
        folder: of the images.

    Returns:
        The rows, sorted by path, and what they were made from, in words. A row's line is 0.

    Raises:
        LclError: if there is no image, or neither .txt files nor two folders of images.
    """
    root = os.path.realpath(folder)
    require(os.path.isdir(root), f"there is no folder of images {folder}; check the path.")
    images, texts = [], {}
    for here, folders, files in os.walk(root):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(files):
            stem, extension = os.path.splitext(os.path.relpath(os.path.join(here, name), root))
            if name.startswith("."):
                continue
            if _extension(name) in EXTENSIONS:
                images.append(stem + extension)
            elif extension.lower() == ".txt":
                texts[stem] = stem + extension
    require(bool(images), f"there are no images in {folder} ({', '.join(EXTENSIONS)}); name another folder.")
    beside = {name: texts[stem] for name in images if (stem := os.path.splitext(name)[0]) in texts}
    if beside:
        rows = [Row(0, name, _captions_of_file(os.path.join(root, beside[name])) if name in beside else ()) for name in images]
        return rows, f"the captions of {len(beside):,} .txt files beside images, a line each"
    classes = {name: os.path.basename(os.path.dirname(name)).replace("_", " ").replace("-", " ").strip() for name in images}
    names = sorted(set(filter(None, classes.values())))
    some = ", ".join(names[:5]) + ", …" * (len(names) > 5)
    table = next((name for name in _names(root) if name.lower().endswith(TEXTS + LINES + OBJECTS)), "TABLE")
    require(
        len(names) > 1,
        f"{folder} has no .txt files beside its images, and {f'only one folder of images ({some})' if names else 'no folders'}, "
        f"where classes need two; name a table with --captions {table}.",
    )
    rows = [Row(0, name, (f"a photo of a {kind}",) if kind else ()) for name, kind in classes.items()]
    return rows, f'captions "a photo of a …" from the names of {len(names):,} folders ({some})'


def _captions_of_file(path: str) -> tuple[str, ...]:
    try:
        with open(path, "rb") as file:
            data = file.read(2**20)
        return tuple(line for line in data.decode(encoding_of(data)).splitlines() if line.strip())
    except (OSError, UnicodeError):
        return ("\0",)  # refused as no text, like a caption of a table


def gather(folder: Path, rows: Iterable[Row], source: str) -> Pairs:
    """Bring the captions of every image together, and look for the image files; none is opened yet.

    Images are files below `folder` only, whatever the table states. Unusable pairs go to `rejected`.

    Args:
        folder: of the images.
        rows: of the table, all of them in memory afterwards.
        source: the table, in messages.

    Returns:
        The pairs. Equal captions of an image count once.

    Raises:
        LclError: if there is no such folder.
    """
    root = os.path.realpath(folder)
    require(os.path.isdir(root), f"there is no folder of images {folder}; check the path.")
    pairs = Pairs(root, source)
    found: dict[str, Picture] = {}
    for line, image, captions in rows:
        picture = None
        if image:
            key = unicodedata.normalize("NFC", os.path.normpath(os.path.join(root, image)))
            picture = found.setdefault(key, Picture("", image, {}))
        for caption in captions or (None,):
            pairs.count += 1
            try:
                if picture is None:
                    raise BadSample("image: no path" if caption else "row: blank")
                text = read_caption(caption)
                picture.captions[text] = *picture.captions.get(text, ()), line or None
            except BadSample as reason:
                pairs.rejected.append(Rejected(line or None, image, str(reason)))
    for picture in found.values():
        try:
            if picture.captions:
                pairs.pictures.append(picture._replace(path=_locate(root, picture.name)))
                pairs.repeated += sum(len(lines) - 1 for lines in picture.captions.values())
        except BadSample as reason:
            pairs.rejected += _rejected(picture, reason)
    _listing.cache_clear()
    require(pairs.count > 0, f"{source} has no rows; name another table.")
    return pairs


def _rejected(picture: Picture, reason: BadSample) -> list[Rejected]:
    return [Rejected(line, picture.name, str(reason)) for lines in picture.captions.values() for line in lines]


def _extension(name: str) -> str:
    extension = os.path.splitext(name)[1].lower().removeprefix(".")
    return SPELLINGS.get(extension, extension)


def _locate(root: str, name: str) -> str:
    """The file of an image. A name that differs only in how accents are encoded (NFC, NFD) counts as equal."""
    path = _real(root, name) or (None if name.isascii() else _descend(root, name, _composed))
    if path is None:
        raise BadSample("image: a web address" if name.startswith(("http://", "https://")) else "image: missing")
    path = os.path.realpath(path)
    if not Path(path).is_relative_to(root):  # compares whole names of folders: photos-secret is not in photos
        raise BadSample("image: outside the folder")
    if _extension(path) not in EXTENSIONS or not os.path.isfile(path):
        raise BadSample("image: not a picture")
    return path


def _real(root: str, name: str) -> str | None:
    try:
        return os.path.realpath(os.path.join(root, name), strict=True)
    except (OSError, ValueError):
        return None


_composed = functools.partial(unicodedata.normalize, "NFC")


def _folded(name: str) -> str:
    return _composed(name).casefold()


def _descend(root: str, name: str, alike) -> str | None:
    """The path below `root` whose every part is alike, if there is one."""
    here = root
    for part in PurePath(name).parts:
        there = _listing(here, alike).get(alike(part))
        if there is None:
            return None
        here = os.path.join(here, there)
    return here


@functools.lru_cache(maxsize=64)
def _listing(folder: str, alike) -> dict[str, str]:
    """{alike(name): name} of what a folder holds; and of images also without extension, if letter case does not count."""
    names = _names(folder)
    found = {alike(os.path.splitext(name)[0]): name for name in names if alike is _folded and _extension(name) in EXTENSIONS}
    return found | {alike(name): name for name in names}


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def explain(pairs: Pairs, one: Rejected) -> str:
    """A rejected pair in words: where, why, and for a missing image the path that was tried and a like one that exists."""
    web = "download the images first, for example with img2dataset"
    notes = {"image: a web address": web, "image: outside the folder": f"only files below {pairs.folder} are read"}
    if one.reason != "image: missing":
        return f"{_short(one)} ({notes[one.reason]})" if one.reason in notes else _short(one)
    like = _alike(pairs.folder, one.path)
    hint = f", but there is {like[0]}: {like[1]}" if like else ""
    return f"{_short(one)} (there is no {os.path.join(pairs.folder, one.path)}{hint})"


def _alike(root: str, name: str) -> tuple[str, str] | None:
    """A file whose path is like one that is missing, and what to do about it."""
    name = name.replace("\\", "/").replace("\0", "")
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    for start in range(len(parts)):
        if (found := _descend(root, "/".join(parts[start:]), _folded)) and os.path.isfile(found):
            above = [str(folder) for folder in (Path(root), *Path(root).parents) if (folder / name).is_file()]
            move = f"name {above[0]} as the folder" if above else f"remove '{'/'.join(parts[:start])}/' from the paths"
            return found, move if start else "write the paths as the files are named, with / between folders"
    for folder in itertools.islice(filter(os.path.isdir, (os.path.join(root, one) for one in _names(root))), 100):
        if (found := _descend(folder, "/".join(parts), _folded)) and os.path.isfile(found):
            return found, f"name {folder} as the folder, or write its name into the paths"
    return None


def check_share(pairs: Pairs, max_bad: float, whole: bool = True) -> None:
    """Raise LclError, with counts and the first, if too many pairs are unusable.

    Args:
        pairs: so far.
        max_bad: share of all pairs that may be left out; fewer than FEWEST_BAD always may, if another is left.
        whole: False if more may turn out to be unusable.
    """
    bad = len(pairs.rejected)
    if bad < pairs.count and (bad < FEWEST_BAD or bad <= max_bad * pairs.count):
        return
    what = f"{'' if whole else 'at least '}{bad:,} of {pairs.count:,} pairs of {pairs.source} cannot be used"
    limit = f", more than {max_bad:.0%}" if bad < pairs.count else ""
    advice = "repair them, or allow a larger share with --max-bad" if bad < pairs.count else "repair them"
    raise LclError(f"{what}{limit} ({list_faults(pairs.faults)}); the first: {first_rejected(pairs)}; {advice}.")


def first_rejected(pairs: Pairs) -> str:
    """The first pairs that are left out, in words; the first of all with what can be said about it."""
    first, *others = _sorted(pairs.rejected)[:SHOWN]
    return "; ".join([explain(pairs, first), *(_short(one) for one in others)])


def _short(one: Rejected) -> str:
    return f"{', '.join(filter(None, (one.line and f'line {one.line}', one.path)))}: {one.reason}"


def _sorted(rejected: list[Rejected]) -> list[Rejected]:
    return sorted(rejected, key=lambda one: (one.line or 0, one.path))


def write_rejected(path: Path, rejected: list[Rejected]) -> None:
    """Write the pairs that are left out as a CSV with the columns line, path and reason. Raises LclError if that fails."""
    file = io.StringIO(newline="")
    rows = ((one.line or "", spreadsheet_cell(one.path), one.reason) for one in _sorted(rejected))
    csv.writer(file, lineterminator="\n").writerows([Rejected._fields, *rows])
    storage.write_bytes(path, file.getvalue().encode("utf-8", "replace"))


def samples(
    pairs: Pairs, max_bad: float = 1.0, workers: int | None = None, progress: Progress | None = None
) -> Iterator[Sample]:
    """Read and decode every image once, in threads, and give those that are whole as samples, in order.

    The other images' pairs go to `pairs.rejected`. At most four images a thread are in memory.

    Args:
        pairs: from `gather`.
        max_bad: as in `check_share`.
        workers: threads (default: one a processor).
        progress: called with the number of images that are done since the last call.

    Raises:
        LclError: as soon as too many pairs are unusable.
    """
    workers, numbered = workers or processors(), enumerate(pairs.pictures)
    waiting: collections.deque = collections.deque()
    with concurrent.futures.ThreadPoolExecutor(workers) as pool:  # Pillow lets other threads run while it decodes
        try:
            while True:
                for number, picture in itertools.islice(numbered, 4 * workers - len(waiting)):
                    waiting.append((number, picture, pool.submit(_load, picture.path)))
                if not waiting:
                    return
                number, picture, loading = waiting.popleft()
                path, name, captions = picture
                try:
                    data, pixels = loading.result()
                    sample = Sample(f"{number:08d}", data, _extension(path), tuple(captions), {"image": name}, pixels)
                except BadSample as reason:
                    pairs.rejected += _rejected(picture, reason)
                    pairs.repeated -= sum(len(lines) - 1 for lines in captions.values())
                    check_share(pairs, max_bad, whole=False)
                    sample = None
                if progress:
                    progress(1)
                if sample:
                    yield sample
        finally:
            pool.shutdown(cancel_futures=True)


def _load(path: str) -> tuple[bytes, torch.Tensor]:
    data = read_file(Path(path))
    return data, decode_image(data, SCANNED)
