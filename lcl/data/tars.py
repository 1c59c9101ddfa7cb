"""Scan a tar: its members from the first byte to the last, also after garbage; nothing is unpacked."""

from __future__ import annotations

import collections
import json
import re
import tarfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO, NamedTuple

import torch

from lcl import storage
from lcl.config import require
from lcl.data.duplicates import caption_key, hash64, perceptual_hash, pixel_hash
from lcl.data.photos import EXTENSIONS, MAX_BYTES, MAX_CAPTION_BYTES, BadSample, decode_image, read_caption
from lcl.words import count_words

NAME = re.compile(r"((?:[^/]+/)*[^./][^/.]*)\.([^/]+)")  # WebDataset's: the key ends at the first point of the file's name
BLOCK = tarfile.BLOCKSIZE
SCANNED = 64  # pixels at which a scan decodes and compares pictures
NAMES = ("image", "url")  # of JSON: what names a picture; the second is img2dataset's
MAX_JSON_BYTES = 64 * MAX_CAPTION_BYTES
MAX_NAME = 4096  # characters
MAX_HEADER_BYTES = 2**20  # of a long name or a PAX header
MAX_HEADERS = 16  # of these before one member; a usual tar has at most three
MAX_MARKS = 250_000  # of headers that are none: each is looked at
CHUNK = 2**20  # bytes that are searched at once
LONG = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)
PAX = (tarfile.XHDTYPE, tarfile.SOLARIS_XHDTYPE, tarfile.XGLTYPE)


class Place(NamedTuple):
    """A row's position in its tar, in bytes. kind: 0 for a caption of its own, 1 for captions within JSON."""

    image: int
    image_bytes: int
    caption: int
    caption_bytes: int
    kind: int


class Row(NamedTuple):
    """A usable row of a tar.

    Attributes:
        place: where it is.
        picture: the hash of its picture at SCANNED pixels; equal pictures, equal hashes.
        look: its perceptual hash, see `duplicates`.
        name: the hash of the picture's name or address, if JSON has one, else 0.
        captions: of every caption the hash of its key, see `duplicates.caption_key`, and its number of words.
    """

    place: Place
    picture: int
    look: int
    name: int
    captions: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Contents:
    """The contents of a tar.

    Attributes:
        rows: the usable ones.
        faults: the number of others, by the reason's short name.
        first: for every reason, the first sample or member that it concerns.
        extensions: of the samples without a picture.
        tar: its bytes, sha256 and number of rows.
    """

    rows: tuple[Row, ...]
    faults: dict[str, int]
    first: dict[str, str]
    extensions: dict[str, int]
    tar: dict


def scan_tar(path: Path) -> Contents:
    """Read a tar to its end, decode every picture and caption, and report what is there and what is wrong.

    Nothing is unpacked. After bytes that are no header, reading continues at the next header. Headers that take more time or
    memory than any tar needs end the scan of this tar, and are counted. Raises LclError if `path` is no regular file.
    """
    require(path.is_file(), f"{path} is no file; remove it.")  # a pipe would be waited for, a device never ends
    with path.open("rb") as file:
        return scan(file, path.stat().st_size, storage.file_sha256(path))


def scan(file: BinaryIO, size: int, sha256: str, pictures: Mapping[str, torch.Tensor] = MappingProxyType({})) -> Contents:
    """Scan an open tar, see `scan_tar`.

    Args:
        file: the tar.
        size: its bytes.
        sha256: its checksum.
        pictures: by the sample's key, those that are decoded already, each (3, SCANNED, SCANNED) uint8.
    """
    faults, extensions, rows = _Faults(), collections.Counter(), []
    for key, sample in _samples(file, size, faults):
        try:
            rows.append(_check(file, sample, pictures.get(key)))
        except BadSample as reason:
            faults.count(str(reason), key)
            if str(reason) == "image: missing":
                extensions.update(list(sample))
    tar = {"bytes": size, "sha256": sha256, "rows": len(rows)}
    return Contents(tuple(rows), dict(faults), faults.first, dict(extensions), tar)


class _Faults(collections.Counter):
    """Counts faults, and remembers where each was first seen. marks: how often `_find` found the mark of a header."""

    def __init__(self):
        super().__init__()
        self.first: dict[str, str] = {}
        self.marks = 0

    def count(self, reason: str, where: str = "") -> None:
        self[reason] += 1
        self.first.setdefault(reason, where[:200])


def _samples(file: BinaryIO, size: int, faults: _Faults) -> Iterator[tuple[str, dict[str, tuple[int, int]]]]:
    """The key of every sample, and its members by extension, as (offset, size); what is wrong with the tar is counted."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    last = None
    for member in _members(file, size, faults):
        if len(member.name) > MAX_NAME:  # before any pattern looks at it
            faults.count("tar: unsafe name", member.name)
            continue
        match = NAME.fullmatch(member.name)
        parts = re.split(r"[/\\]", member.name)
        if member.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            faults.count("tar: unsafe name", member.name)
        elif member.isdir():
            continue
        elif not member.isreg() or member.type == tarfile.GNUTYPE_SPARSE:
            faults.count("tar: link or device", member.name)
        elif match:
            key, extension = match[1], match[2].lower()
            if key in samples and key != last:
                faults.count("tar: members of a sample apart", member.name)  # they are joined nevertheless
            sample = samples.setdefault(key, {})
            if extension in sample:
                faults.count("tar: member twice", member.name)  # the first one counts
            sample.setdefault(extension, (member.offset_data, member.size))
            last = key
    yield from samples.items()


def _members(file: BinaryIO, size: int, faults: _Faults) -> Iterator[tarfile.TarInfo]:
    """The members of a tar that are there from the first byte to the last, also those after bytes that belong to none."""
    start = end = 0  # where a member is looked for; where the last one ended
    counted = -1  # the end after which garbage was counted: once, however often a header seems to begin in it
    try:
        while start < size:
            member, start = _member(file, start, size)
            if member:
                end = start
                yield member
                if start < size:
                    continue
            start = _find(file, start, size, faults)
            if end == counted:
                continue
            if _anything(file, end, start):
                counted = end
                begun = end and start == size and size - end < BLOCK  # a header
                faults.count("tar: cut" if begun else "tar: garbage" if end or start < size else "tar: no tar")
            elif start == size and size - end < 2 * BLOCK:  # a whole tar ends in two blocks of zeros
                faults.count("tar: cut")
        if end == 0 and counted < 0:
            faults.count("tar: empty")
    except BadSample as reason:  # nothing after it can be trusted
        faults.count(str(reason), f"byte {start:,}")


def _member(file: BinaryIO, start: int, size: int) -> tuple[tarfile.TarInfo | None, int]:
    """The member that begins at `start`, if there is one, and where the next can begin.

    Long names and PAX headers are read here and not by `tarfile`, which reads whatever length they claim, parses them in
    quadratic time, and calls itself for each. Raises BadSample for those that no tar needs, and for a member that is cut off.
    """
    said, at = {}, start
    for _ in range(MAX_HEADERS + 1):
        file.seek(at)
        try:
            member = tarfile.TarInfo.frombuf(file.read(BLOCK), "utf-8", "surrogateescape")
        except (tarfile.TarError, ValueError):  # no header, or one that says nonsense
            return None, max(at, start + 1)
        long = member.type in LONG + PAX
        member.name, member.size = said.get("path", member.name), member.size if long else said.get("size", member.size)
        member.offset_data = after = at + BLOCK
        if member.size < 0:  # it would lead backwards, for ever
            return None, max(at, start + 1)
        if long and member.size > MAX_HEADER_BYTES:
            raise BadSample("tar: header too long")
        if long or member.isreg() or member.type not in tarfile.SUPPORTED_TYPES:
            if after + member.size > size:
                raise BadSample("tar: cut")
            after += -(-member.size // BLOCK) * BLOCK
        if not long:
            member.type = tarfile.GNUTYPE_SPARSE if "sparse" in said else member.type
            return member, after
        said = _said(member.type, file.read(member.size)) | said
        at = after
    raise BadSample("tar: too many headers")


def _said(kind: bytes, header: bytes) -> dict[str, str | int]:
    """The path and the size of the next member, and whether it is sparse, as a long name or a PAX header has them, if it has."""
    if kind in LONG:
        return {"path": tarfile.nts(header, "utf-8", "surrogateescape")} if kind == tarfile.GNUTYPE_LONGNAME else {}
    said, at = {}, 0
    while kind != tarfile.XGLTYPE and at < len(header):  # records such as b"13 path=a.jpg\n"; a global one is of no file
        digits, _, _ = header[at : at + 8].partition(b" ")
        if not digits.isdigit() or int(digits) <= len(digits):
            break
        key, _, value = header[at + len(digits) + 1 : at + int(digits) - 1].partition(b"=")
        if key == b"path":
            said["path"] = value.decode("utf-8", "surrogateescape")
        elif key == b"size" and value.isdigit():
            said["size"] = int(value[:30])  # an absurd one stays absurd
        elif key.startswith(b"GNU.sparse."):
            said["sparse"] = True
        at += int(digits)
    return said


def _find(file: BinaryIO, start: int, size: int, faults: _Faults) -> int:
    """Where the next header begins: 257 bytes before its mark, and with a checksum that is right. `size` if there is none."""
    step = min(8 * BLOCK, CHUNK)  # small at first: many headers that lead nowhere may stand close to each other
    while start < size:
        file.seek(start)
        data, found = file.read(step + BLOCK), -1
        while (found := data.find(b"ustar", max(found + 1, 257))) >= 0:
            faults.marks += 1
            if faults.marks > MAX_MARKS:
                raise BadSample("tar: too many headers")
            header = data[found - 257 : found - 257 + BLOCK]
            if len(header) == BLOCK and _checksum_is_right(header):
                return start + found - 257
        start, step = start + step, min(2 * step, CHUNK)
    return size


def _checksum_is_right(header: bytes) -> bool:
    try:
        return tarfile.nti(header[148:156]) in tarfile.calc_chksums(header)
    except tarfile.TarError:
        return False


def _anything(file: BinaryIO, start: int, end: int) -> bool:
    """Are there bytes other than zero?"""
    for offset in range(start, end, CHUNK):
        file.seek(offset)
        if file.read(min(CHUNK, end - offset)).strip(b"\0"):
            return True
    return False


def _check(file: BinaryIO, sample: dict[str, tuple[int, int]], image: torch.Tensor | None) -> Row:
    extension = next((name for name in EXTENSIONS if name in sample), None)
    if extension is None:
        raise BadSample("image: missing")
    if "txt" not in sample and "json" not in sample:
        raise BadSample("caption: missing")
    try:
        about = _json(file, *sample["json"]) if "json" in sample else {}
    except BadSample:
        if "txt" not in sample:
            raise
        about = {}  # the caption has a member of its own
    in_json = "txt" not in sample or isinstance(about.get("captions"), list)
    place = Place(*sample[extension], *sample["json" if in_json else "txt"], int(in_json))
    captions = captions_of(file, place)
    image = _image_of(file, place, SCANNED) if image is None else image
    name = next((about[field] for field in NAMES if isinstance(about.get(field), str) and about[field]), "")
    keys = tuple((hash64(caption_key(caption).encode()), count_words(caption)) for caption in captions)
    return Row(place, pixel_hash(image), perceptual_hash(image), hash64(name.encode()) if name else 0, keys)


def read_row(file: BinaryIO, place: Place, size: int) -> tuple[torch.Tensor, tuple[str, ...]]:
    """A row's picture, (3, size, size) uint8, and its captions. Raises BadSample when either cannot be used."""
    captions = captions_of(file, place)
    return _image_of(file, place, size), captions


def _image_of(file: BinaryIO, place: Place, size: int) -> torch.Tensor:
    if place.image_bytes > MAX_BYTES:
        raise BadSample("image: file too large")
    file.seek(place.image)
    return decode_image(file.read(place.image_bytes), size)


def captions_of(file: BinaryIO, place: Place) -> tuple[str, ...]:
    """A row's captions, without its picture; equal ones once. Raises BadSample if there is none that can be used."""
    if place.kind == 1:
        about = _json(file, place.caption, place.caption_bytes)
        found = about.get("captions") or about.get("caption")
        return several_captions(found if isinstance(found, list) else [found])
    if place.caption_bytes > MAX_CAPTION_BYTES:
        raise BadSample("caption: too long")
    file.seek(place.caption)
    return (read_caption(file.read(place.caption_bytes)),)


def several_captions(found: Sequence[object]) -> tuple[str, ...]:
    """The captions of one picture that can be used, in order, equal ones once. Raises BadSample if there is none."""
    captions, reason = {}, BadSample("caption: missing")
    for each in found:
        try:
            captions[read_caption(each if isinstance(each, str) else None)] = None
        except BadSample as why:
            reason = why
    if not captions:
        raise reason
    return tuple(captions)


def _json(file: BinaryIO, offset: int, size: int) -> dict:
    """A JSON member; empty if it is no object. Raises BadSample if it is too long or no JSON."""
    if size > MAX_JSON_BYTES:
        raise BadSample("caption: too long")
    file.seek(offset)
    try:
        found = json.loads(file.read(size))
    except (ValueError, RecursionError):
        raise BadSample("caption: not text") from None
    return found if isinstance(found, dict) else {}
