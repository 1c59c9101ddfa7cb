"""Scan a tar: its members from the first byte to the last, also after garbage; nothing is unpacked."""

from __future__ import annotations

import collections
import json
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from lcl import storage
from lcl.data.photos import MAX_BYTES, MAX_CAPTION_BYTES, BadSample, decode_image, read_caption

IMAGES = ("jpg", "jpeg", "png", "webp", "gif", "bmp")
NAME = re.compile(r"((?:[^/]+/)*[^./][^/.]*)\.([^/]+)")  # WebDataset's: the key ends at the first point of the file's name
BLOCK = tarfile.BLOCKSIZE


class Place(NamedTuple):
    """A row's position in its tar, in bytes. kind: 0 for a caption of its own, 1 for one within JSON."""

    image: int
    image_bytes: int
    caption: int
    caption_bytes: int
    kind: int


@dataclass(frozen=True)
class Contents:
    """The contents of a tar. rows: the usable ones; faults: number of others by short name; tar: bytes, sha256, rows."""

    rows: tuple[Place, ...]
    faults: dict[str, int]
    tar: dict


def scan_tar(path: Path) -> Contents:
    """Read a tar to its end, decode every picture and caption, and report what is there and what is wrong.

    Nothing is unpacked. After bytes that are no header, reading continues at the next header.
    """
    faults: collections.Counter[str] = collections.Counter()
    rows, size = [], path.stat().st_size
    with path.open("rb") as file:
        for sample in _samples(file, size, faults):
            try:
                rows.append(_check(file, sample))
            except BadSample as reason:
                faults[str(reason)] += 1
    return Contents(tuple(rows), dict(faults), {"bytes": size, "sha256": storage.file_sha256(path), "rows": len(rows)})


def _samples(file: BinaryIO, size: int, faults: collections.Counter[str]) -> Iterator[dict[str, tuple[int, int]]]:
    """Members by extension, as (offset, size), of every sample; what is wrong with the tar is counted."""
    samples: dict[str, dict[str, tuple[int, int]]] = {}
    last = None
    for member in _members(file, size, faults):
        match = NAME.fullmatch(member.name)
        parts = re.split(r"[/\\]", member.name)
        if member.name.startswith(("/", "\\")) or ".." in parts or ":" in parts[0]:
            faults["tar: unsafe name"] += 1
        elif member.isdir():
            continue
        elif not member.isreg() or member.issparse():
            faults["tar: link or device"] += 1
        elif match:
            key, extension = match[1], match[2].lower()
            if key in samples and key != last:
                faults["tar: members of a sample apart"] += 1  # they are joined nevertheless
            sample = samples.setdefault(key, {})
            if extension in sample:
                faults["tar: member twice"] += 1  # the first one counts
            sample.setdefault(extension, (member.offset_data, member.size))
            last = key
    yield from samples.values()


def _members(file: BinaryIO, size: int, faults: collections.Counter[str]) -> Iterator[tarfile.TarInfo]:
    """The members of a tar that are there from the first byte to the last, also those after bytes that belong to none."""
    start = end = 0  # where members are looked for; where the last one ended
    told = -1  # the end after which garbage was counted: once, however often a header seems to begin in it
    while start < size:
        for member in _run_of_members(file, start):
            start = end = member.offset_data + (-(-member.size // BLOCK) * BLOCK if member.isreg() else 0)
            if member.offset_data + member.size > size:
                faults["tar: cut"] += 1
                return
            yield member
        start = _find(file, start + 1, size)  # at `start` itself there was none
        if end == told:
            continue
        if _anything(file, end, start):
            told = end
            begun = end and start == size and size - end < BLOCK  # a header
            faults["tar: cut" if begun else "tar: garbage" if end or start < size else "tar: no tar"] += 1
        elif start == size and size - end < 2 * BLOCK:  # a whole tar ends in two blocks of zeros
            faults["tar: cut"] += 1
    if end == 0 and told < 0:
        faults["tar: empty"] += 1


def _run_of_members(file: BinaryIO, start: int) -> Iterator[tarfile.TarInfo]:
    """Members from one on, up to the first bytes that are no header."""
    file.seek(start)
    try:
        with tarfile.open(fileobj=file, mode="r:", errors="surrogateescape") as tar:
            while (member := tar.next()) is not None:
                if member.size < 0 or tar.offset <= member.offset:  # such a header leads backwards, for ever
                    return
                tar.members = []  # it would keep them all
                here = file.tell()
                yield member
                file.seek(here)
    except (tarfile.TarError, ValueError, OverflowError):  # no header, or one that says nonsense
        return


def _find(file: BinaryIO, start: int, size: int) -> int:
    """Where the next header begins: 257 bytes before its mark, and with a checksum that is right. `size` if there is none."""
    for offset in range(start, size, 2**20):
        file.seek(offset)
        data, found = file.read(2**20 + BLOCK), -1
        while (found := data.find(b"ustar", max(found + 1, 257))) >= 0:
            header = data[found - 257 : found - 257 + BLOCK]
            if len(header) == BLOCK and _checksum_is_right(header):
                return offset + found - 257
    return size


def _checksum_is_right(header: bytes) -> bool:
    try:
        return tarfile.nti(header[148:156]) in tarfile.calc_chksums(header)
    except tarfile.TarError:
        return False


def _anything(file: BinaryIO, start: int, end: int) -> bool:
    """Are there bytes other than zero?"""
    for offset in range(start, end, 2**20):
        file.seek(offset)
        if file.read(min(2**20, end - offset)).strip(b"\0"):
            return True
    return False


def _check(file: BinaryIO, sample: dict[str, tuple[int, int]]) -> Place:
    extension = next((name for name in IMAGES if name in sample), None)
    if extension is None:
        raise BadSample("image: missing")
    image, caption = sample[extension], sample.get("txt", sample.get("json"))
    if caption is None:
        raise BadSample("caption: missing")
    kind = 0 if "txt" in sample else 1
    place = Place(*image, *caption, kind)
    read_row(file, place, 64)
    return place


def read_row(file: BinaryIO, place: Place, size: int) -> tuple[torch.Tensor, str]:
    """A row's picture, (3, size, size) uint8, and its caption. Raises BadSample when either cannot be used."""
    caption = caption_of(file, place)
    if place.image_bytes > MAX_BYTES:
        raise BadSample("image: file too large")
    file.seek(place.image)
    return decode_image(file.read(place.image_bytes), size), caption


def caption_of(file: BinaryIO, place: Place) -> str:
    """A row's caption alone. Raises BadSample when it cannot be used."""
    limit = MAX_CAPTION_BYTES if place.kind == 0 else 64 * MAX_CAPTION_BYTES
    if place.caption_bytes > limit:
        raise BadSample("caption: too long")
    file.seek(place.caption)
    data = file.read(place.caption_bytes)
    if place.kind == 0:
        return read_caption(data)
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        raise BadSample("caption: not text") from None
    caption = found.get("caption") if isinstance(found, dict) else None
    return read_caption(caption if isinstance(caption, str) else None)
