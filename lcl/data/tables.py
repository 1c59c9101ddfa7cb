"""Tables of captions as people have them: CSV and its relatives, JSON lines, and the JSON of COCO and Karpathy.

Nothing is guessed where a guess could be wrong: a table that can be read in two ways, or in none, is refused with the line and
the option that decides.
"""

from __future__ import annotations

import ast
import codecs
import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from lcl.config import LclError, require
from lcl.data.photos import EXTENSIONS, MAX_CAPTION_BYTES

IMAGE_NAMES = ("image", "filepath", "file_name", "filename", "image_name", "path", "image_path", "file", "img")
CAPTION_NAMES = ("caption", "title", "text", "comment", "captions", "description", "sentence", "sentences", "raw")
DELIMITERS = {",": "comma", ";": "semicolon", "\t": "tab", "|": "pipe"}
TEXTS, LINES, OBJECTS = (".csv", ".tsv", ".txt"), (".jsonl", ".ndjson"), (".json",)
MARKS = {  # the longest first: UTF-32's byte order mark begins as UTF-16's does
    codecs.BOM_UTF32_LE: "utf-32", codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16", codecs.BOM_UTF8: "utf-8-sig",
}  # fmt: skip
PICTURE = re.compile(rf"\.({'|'.join(EXTENSIONS)})(#\d+)?$", re.IGNORECASE)  # Flickr's tables number captions: 1.jpg#0
csv.field_size_limit(2**20)


class Row(NamedTuple):
    """A row of a table.

    Attributes:
        line: where it begins, from 1; in JSON that is not by lines, its number.
        image: the image's path as the table has it, without white space at its ends; "" if there is none.
        captions: as the table has them; empty if it has no text.
    """

    line: int
    image: str
    captions: tuple[str, ...]


@dataclass(frozen=True)
class TableOptions:
    """What a user states about a table; None: found out.

    Attributes:
        image_column, caption_column: names; or numbers, from 1, in a table without a header.
        delimiter: one character, or "tab".
        encoding: any that Python knows.
    """

    image_column: str | None = None
    caption_column: str | None = None
    delimiter: str | None = None
    encoding: str | None = None


@dataclass(frozen=True)
class _Layout:
    """How a text table is written. skip: rows before the first pair; width: cells of a row; image, caption: their columns."""

    delimiter: str
    skip: int
    width: int
    image: int
    caption: int
    quoted: bool = True


def read_table(path: Path, options: TableOptions | None = None) -> Iterator[Row]:
    """Read the rows of a table of captions, in order; empty lines are passed over.

    The columns are those of IMAGE_NAMES and CAPTION_NAMES, in any case; `image` and `caption` before others. Tables of text are
    read as Python's csv module writes them. A .tsv or .txt table without a header has two columns separated by a tab: caption
    and image, as in CC3M, or image and caption if only the first cell of the first row is the name of an image file.

    A tab-separated table is also written without any quoting, so there a quotation mark may be part of a caption. With a
    header it is read as csv if that is possible from the first line to the last, otherwise without quoting. Without a header
    it is read without quoting, unless that leaves cells missing or some cell holds csv's doubled quotation marks.

    Args:
        path: a .csv, .tsv, .txt, .jsonl, .ndjson or .json file.
        options: what the user states.

    Returns:
        Its rows.

    Raises:
        LclError: for another kind of file, unknown or ambiguous columns, text that cannot be decoded, quotation marks that are
            not closed, and, after the last row, if there are rows with more cells than the header has.
    """
    path, options = Path(path), options or TableOptions()
    kind = path.suffix.lower()
    require(not path.is_dir(), f"{path} is a folder, not a table of captions; name the table.")
    require(path.is_file(), f"there is no table of captions {path}; check the path.")
    kinds = ", ".join(TEXTS + LINES + OBJECTS)
    require(kind in TEXTS + LINES + OBJECTS, f"{path} is not a table that can be read; save it as one of {kinds}.")
    if kind in TEXTS:
        return _text_rows(path, options)
    return _rows_of_lines(path, options) if kind in LINES else _rows_of_objects(path, options)


def encoding_of(data: bytes) -> str:
    """The encoding that a byte order mark states; UTF-8 without one."""
    return next((name for mark, name in MARKS.items() if data.startswith(mark)), "utf-8")


def _lines(path: Path, encoding: str | None) -> Iterator[str]:
    """The lines of a file with their ends. Raises LclError, with the line, where the encoding is another."""
    hint = "say how the file is encoded, for example --encoding cp1252 (Excel) or --encoding utf-16-le."
    try:
        if encoding is None:
            with path.open("rb") as file:
                head = file.read(4096)
            encoding = encoding_of(head)
            zeros = encoding.startswith("utf-8") and b"\0" in head
            require(not zeros, f"{path} holds zero bytes, so it is not UTF-8 text; {hint}")
        with path.open(encoding=encoding, newline="") as file:
            for number, line in enumerate(file):
                yield line.removeprefix("\ufeff") if number == 0 else line
    except LookupError:
        raise LclError(f"there is no encoding {encoding}; try utf-8, utf-16 or cp1252.") from None
    except OSError as error:
        raise LclError(f"{path} cannot be read: {error.strerror}; check who may read it.") from None
    except UnicodeError:
        with path.open(encoding=encoding, errors="replace", newline="") as file:
            bad = next((number for number, line in enumerate(file, start=1) if "\ufffd" in line), 1)
        raise LclError(f"line {bad} of {path} is not {encoding} text; {hint}") from None


def _text_rows(path: Path, options: TableOptions) -> Iterator[Row]:
    layout = _layout(path, options)
    wide, first = 0, 0
    for line, cells in _cells(path, options.encoding, layout):
        if any(cell.strip() for cell in cells[layout.width :]):
            wide, first = wide + 1, first or line
            continue
        image, caption = (cells[at].strip() if at < len(cells) else "" for at in (layout.image, layout.caption))
        if not options.image_column and not layout.skip:
            image = re.sub(r"#\d+$", "", image) if PICTURE.search(image) else image
        yield Row(line, image, _captions_of_cell(caption))
    name = DELIMITERS.get(layout.delimiter, repr(layout.delimiter))
    require(
        not wide,
        f"{wide:,} rows of {path} have more cells than its header, the first in line {first}, so captions seem to hold a {name} "
        "without quotation marks around the caption; put such captions in quotation marks, or choose another delimiter.",
    )


def _cells(path: Path, encoding: str | None, layout: _Layout) -> Iterator[tuple[int, list[str]]]:
    """(line, cells) of every row after the header. Raises LclError where quotation marks swallow lines."""
    marks = {"quoting": csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE, "skipinitialspace": layout.quoted}
    reader = csv.reader(_lines(path, encoding), delimiter=layout.delimiter, strict=True, **marks)
    skip = layout.skip
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise LclError(
                f"the row that begins in line {line} of {path} has a quotation mark that is not closed, or text after one "
                f"({error}); double the marks inside a caption, and put it in quotation marks as a whole."
            ) from None
        require(
            not any(_holds_a_row(cell, layout.delimiter) for cell in cells),
            f"a quotation mark in line {line} of {path} swallows the rows up to line {reader.line_num}; remove it, or close it.",
        )
        if cells and skip:
            skip -= 1
        elif cells:
            yield line, cells


def _holds_a_row(cell: str, delimiter: str) -> bool:
    """Whether one of a cell's lines looks like a row of the table: it has the delimiter, and the name of an image file."""
    if "\n" not in cell and "\r" not in cell:
        return False
    rows = [line.split(delimiter) for line in cell.splitlines()]
    return any(len(row) > 1 and any(PICTURE.search(part.strip()) for part in row) for row in rows)


def _layout(path: Path, options: TableOptions) -> _Layout:
    lines = _lines(path, options.encoding)
    first = next((line for line in lines if line.strip()), "").rstrip("\r\n")
    skip = 0
    given = {"tab": "\t", "\\t": "\t"}.get(options.delimiter or "", options.delimiter)
    require(given is None or len(given) == 1, f"--delimiter is one character or tab, not {given!r}.")
    if match := re.fullmatch(r"sep=(.)", first):  # Excel's note to itself
        given, skip, first = given or match[1], 1, next(lines, "").rstrip("\r\n")
    headers = {sign: _split(first, sign) for sign in ([given] if given else DELIMITERS)}
    headers = {sign: names for sign, names in headers.items() if len(names) > 1}
    found = {sign: _columns(path, names, options) for sign, names in headers.items()}
    sure = [sign for sign, columns in found.items() if None not in columns]
    asked = (options.image_column or "", options.caption_column or "")
    if not sure and all(column.isdigit() and int(column) > 0 for column in asked):
        return _without_header(path, options, headers, skip, *(int(column) - 1 for column in asked))
    plain = path.suffix.lower() != ".csv" and len(headers.get("\t", ())) == 2 and not any(asked)
    if plain and found["\t"] == (None, None):
        before = bool(PICTURE.search(headers["\t"][0])) and not PICTURE.search(headers["\t"][1])
        return _without_header(path, options, {"\t": headers["\t"]}, skip, *((0, 1) if before else (1, 0)))
    require(len(sure) < 2, f"the header of {path} can be split in {len(sure)} ways; say which with --delimiter.")
    names = max(headers.values(), key=len, default=[first] if first else [])
    if not sure:
        raise LclError(_missing(path, _columns(path, names, options), names))
    layout = _Layout(sure[0], skip + 1, len(headers[sure[0]]), *found[sure[0]])
    return layout if sure[0] != "\t" else _with_quoting(path, options.encoding, layout, header=True)


def _split(line: str, delimiter: str) -> list[str]:
    try:
        return next(csv.reader([line], delimiter=delimiter, skipinitialspace=True, strict=True), [])
    except csv.Error:  # a caption of a table without quoting, or no header at all
        return line.split(delimiter) if delimiter == "\t" else []


def _columns(path: Path, names: Iterable[Any], options: TableOptions) -> tuple[int | None, int | None]:
    """The places of the image's and the caption's column, None for one that is missing. Raises LclError if two would do."""
    plain = [str(name).strip().lower() for name in names]
    return (
        _column(path, plain, options.image_column, IMAGE_NAMES, "--image-column"),
        _column(path, plain, options.caption_column, CAPTION_NAMES, "--caption-column"),
    )


def _column(path: Path, plain: list[str], asked: str | None, known: tuple[str, ...], option: str) -> int | None:
    found = [at for at, name in enumerate(plain) if name == (asked or known[0]).strip().lower()]
    if not found and asked is None:
        found = [at for at, name in enumerate(plain) if name in known]
    names = " and ".join(plain[at] for at in found)
    require(len(found) < 2, f"{path} has the columns {names}, and each could be meant; choose one with {option}.")
    return found[0] if found else None


def _missing(path: Path, found: tuple[int | None, int | None], names: Iterable[Any]) -> str:
    """The sentence about columns that are not there."""
    words = ("image", "caption")
    missing = [word for word, at in zip(words, found, strict=True) if at is None]
    has = ", ".join(str(name).strip() for name in names) or "none"
    has = has if len(has) <= 200 else has[:200] + "…"
    options = " and ".join(f"--{word}-column" for word in missing)
    return f"{path} has no column {' and no column '.join(missing)} (it has: {has}); name the right one with {options}."


def _without_header(path: Path, options: TableOptions, rows: dict, skip: int, image: int, caption: int) -> _Layout:
    signs = [sign for sign, cells in rows.items() if len(cells) > max(image, caption)]
    require(len(signs) == 1, f"it is not clear what separates the columns of {path}; say it with --delimiter.")
    layout = _Layout(signs[0], skip, len(rows[signs[0]]), image, caption)
    return layout if signs[0] != "\t" else _with_quoting(path, options.encoding, layout, header=False)


def _with_quoting(path: Path, encoding: str | None, layout: _Layout, header: bool) -> _Layout:
    """A tab-separated table's layout, with csv's quoting or without any, as the whole file shows. See `read_table`."""
    raw = _Layout(layout.delimiter, layout.skip, layout.width, layout.image, layout.caption, quoted=False)
    as_csv, as_raw = (_fits(path, encoding, one) for one in (layout, raw))
    if header:
        return layout if as_csv or not as_raw else raw
    doubled = re.compile(r'(?:^|\t)"[^\t]*""[^\t]*"(?:\t|$)')
    return layout if as_csv and (not as_raw or any(map(doubled.search, _lines(path, encoding)))) else raw


def _fits(path: Path, encoding: str | None, layout: _Layout) -> bool:
    """Whether every row has both cells, and none more than the first row."""
    try:
        return all(max(layout.image, layout.caption) < len(row) <= layout.width for _, row in _cells(path, encoding, layout))
    except LclError:
        return False


def _captions_of_cell(cell: str) -> tuple[str, ...]:
    """A cell's captions: several if it is a list of texts, as JSON or Python write it."""
    if cell.startswith("[") and cell.endswith("]") and len(cell) <= 64 * MAX_CAPTION_BYTES:
        for parse in (json.loads, ast.literal_eval):
            try:
                found = parse(cell)
            except (ValueError, SyntaxError, RecursionError, MemoryError):
                continue
            if isinstance(found, list) and found and all(isinstance(text, str) for text in found):
                return tuple(found)
    return (cell,)


def _captions_of_value(value: Any) -> tuple[str, ...]:
    """The captions of a JSON value: a text, or a list of texts or of objects that hold one each (Karpathy's "raw")."""
    values = value if isinstance(value, list) else [value]
    values = [one.get("raw", one.get("caption")) if isinstance(one, dict) else one for one in values]
    return tuple(one for one in values if isinstance(one, str))


def _rows_of_lines(path: Path, options: TableOptions) -> Iterator[Row]:
    def objects() -> Iterator[tuple[int, Any]]:
        for number, line in enumerate(_lines(path, options.encoding), start=1):
            if line.strip():
                try:
                    yield number, json.loads(line)
                except (ValueError, RecursionError):
                    raise LclError(f"line {number} of {path} is not JSON; repair or remove it.") from None

    return _rows_of(path, objects(), options)


def _rows_of(path: Path, objects: Iterable[tuple[int, Any]], options: TableOptions) -> Iterator[Row]:
    """Rows from objects; the first names the columns, and what a later one lacks is missing there."""
    names: list[str] = []
    for number, found in objects:
        keys = {str(key).strip().lower(): key for key in found} if isinstance(found, dict) else {}
        if not names:
            columns = _columns(path, keys, options)
            require(None not in columns, _missing(path, columns, keys))
            names = [list(keys)[at] for at in columns]
        image, captions = (found[keys[name]] if name in keys else None for name in names)
        yield Row(number, image.strip() if isinstance(image, str) else "", _captions_of_value(captions))
    require(bool(names), f"{path} holds no rows; name another table.")


def _rows_of_objects(path: Path, options: TableOptions) -> Iterator[Row]:
    try:
        found = json.loads("".join(_lines(path, options.encoding)))
    except (ValueError, RecursionError):
        yield from _rows_of_lines(path, options)  # JSON lines are often named .json; if not, the bad line is named
        return
    images, notes = (found.get(key) if isinstance(found, dict) else None for key in ("images", "annotations"))
    if isinstance(images, list) and isinstance(notes, list):
        yield from _coco(path, images, notes, options)
        return
    rows = images if isinstance(images, list) else found
    advice = "give a list of objects, or COCO's images and annotations."
    require(isinstance(rows, list), f"{path} is JSON, but not a table of captions; {advice}")
    yield from _rows_of(path, enumerate(rows, start=1), options)


def _coco(path: Path, images: list, notes: list, options: TableOptions) -> Iterator[Row]:
    """COCO's captions: annotations whose `image_id` is the `id` of an image."""
    name, caption = options.image_column or "file_name", options.caption_column or "caption"
    try:
        names = {image["id"]: str(image.get(name) or "") for image in images}
        found = [(note["image_id"], note.get(caption)) for note in notes]
    except (TypeError, KeyError, AttributeError):
        raise LclError(f"{path} has images without id, or annotations without image_id; it is not COCO's format.") from None
    require(any(names.values()), f"the images of {path} have no {name}; choose their path with --image-column.")
    require(any(text for _, text in found), f"the annotations of {path} have no {caption}; take the file of captions.")
    for number, (image, text) in enumerate(found, start=1):
        yield Row(number, names.get(image, "").strip(), _captions_of_value(text))
