"""A user's folder of pictures and table of captions, read into samples for shards."""

from __future__ import annotations

import collections
import csv
import json
from collections.abc import Iterator
from pathlib import Path

from lcl.config import LclError, require
from lcl.data.photos import BadSample, decode_image, read_caption, read_file
from lcl.data.tars import IMAGES
from lcl.data.writing import Sample

COLUMNS = ("image", "caption")
csv.field_size_limit(2**20)


def read_table(path: Path) -> Iterator[tuple[int, str, str]]:
    """(line, image, caption) of every row of a .csv, .tsv or .jsonl file with the columns `image` and `caption`.

    A .tsv without these names in its first line is read as CC3M's: caption, then image. Raises LclError for another kind
    of file, a missing column, and a line that is no text or no JSON.
    """
    path = Path(path)
    kinds = {".csv": _commas, ".tsv": _tabs, ".jsonl": _json_lines}
    require(path.is_file(), f"there is no table of captions {path}.")
    require(path.suffix.lower() in kinds, f"{path} is no table that can be read; give a .csv, .tsv or .jsonl file.")
    try:
        yield from kinds[path.suffix.lower()](path)
    except (UnicodeError, csv.Error) as error:
        raise LclError(f"{path} is not readable as a table of UTF-8 text ({error}); save it again as UTF-8.") from None


def _commas(path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        _check_columns(path, reader.fieldnames or [])
        for row in reader:
            yield reader.line_num, row["image"], row["caption"]


def _tabs(path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        names = None
        for row in reader:
            if names is None:
                names = row if set(COLUMNS) <= set(row) else ["caption", "image"]
                if names is row:
                    continue
            cells = dict(zip(names, row, strict=False))
            yield reader.line_num, cells.get("image", ""), cells.get("caption", "")


def _json_lines(path: Path) -> Iterator[tuple[int, str, str]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except (ValueError, RecursionError):
                raise LclError(f"line {number} of {path} is no JSON; repair or remove it.") from None
            _check_columns(path, row if isinstance(row, dict) else [])
            yield number, *(row[name] if isinstance(row[name], str) else "" for name in COLUMNS)


def _check_columns(path: Path, names) -> None:
    missing = [name for name in COLUMNS if name not in names]
    found = ", ".join(map(str, names)) or "none"
    require(not missing, f"{path} has no column {' and no column '.join(missing)} (it has: {found}); name them so.")


def samples_of_folder(folder: Path, captions: Path, faults: collections.Counter[str]) -> Iterator[Sample]:
    """The pairs of a table, in order. Unusable ones are left out and counted in `faults`, by their short names.

    Pictures are files below `folder` only, whatever the table says.
    """
    folder = Path(folder).resolve()
    require(folder.is_dir(), f"there is no folder of pictures {folder}.")
    for number, (_, image, caption) in enumerate(read_table(captions)):
        try:
            yield Sample(f"{number:08d}", *_picture(folder, image), (read_caption(caption),), {"image": image})
        except BadSample as reason:
            faults[str(reason)] += 1


def _picture(folder: Path, name: str) -> tuple[bytes, str]:
    try:
        path = (folder / name).resolve(strict=True)
    except (OSError, ValueError):
        raise BadSample("image: missing") from None
    if not path.is_relative_to(folder):
        raise BadSample("image: outside the folder")
    extension = path.suffix.lower().removeprefix(".")
    if extension not in IMAGES or not path.is_file():
        raise BadSample("image: not a picture")
    data = read_file(path)
    decode_image(data, 64)
    return data, extension
