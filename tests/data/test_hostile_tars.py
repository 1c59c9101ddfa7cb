"""Hostile tars: headers that claim too much cost neither time nor memory, end the scan of their tar alone, and never raise."""

import io
import os
import tarfile
import time
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from lcl.config import LclError
from lcl.data import tars
from lcl.data.shards import scan_shards
from lcl.data.tars import scan, scan_tar

BLOCK = tarfile.BLOCKSIZE


def header(name: bytes = b"a", size: int = 0, kind: bytes = b"0", **fields: bytes) -> bytes:
    """A header with a right checksum. fields: more of it, such as at_482=b"\\1"."""
    block = bytearray(BLOCK)
    digits = b"%011o\0" % size if 0 <= size < 8**11 else (2**95 + size if size > 0 else 2**96 + size).to_bytes(12, "big")
    parts = {0: name[:100], 100: b"0000644\0", 124: digits, 136: b"%011o\0" % 0, 148: b" " * 8, 156: kind, 257: b"ustar\x0000"}
    for at, part in [*parts.items(), *((int(at.removeprefix("at_")), part) for at, part in fields.items())]:
        block[at : at + len(part)] = part
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


def member(name: bytes, data: bytes, kind: bytes = b"0", size: int | None = None) -> bytes:
    """A header, and data in whole blocks. size: what the header says, if that is not the truth."""
    return header(name, len(data) if size is None else size, kind) + data + bytes(-len(data) % BLOCK)


def record(key: bytes, value: bytes) -> bytes:
    """A record of a PAX header, which begins with its own length."""
    length = len(key) + len(value) + 3
    digits = next(n for n in range(1, 20) if len(str(length + n)) == n)
    return b"%d %s=%s\n" % (length + digits, key, value)


def sample(name: bytes = b"good") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (16, 16), "red").save(file, "JPEG")
    return member(name + b".jpg", file.getvalue()) + member(name + b".txt", b"a cat")


def scanned(data: bytes) -> tuple[int, dict[str, int]]:
    """The number of rows, and the faults."""
    found = scan(io.BytesIO(data + bytes(2 * BLOCK)), len(data) + 2 * BLOCK, "")
    return len(found.rows), found.faults


MIB = 2**20
SPARSE = record(b"GNU.sparse.major", b"1") + record(b"GNU.sparse.minor", b"0")
HOSTILE = {
    "long names of all that follows": (b"".join(header(size=1_300_000 - BLOCK * n, kind=b"L") for n in range(2500)), "too long"),
    "PAX of all that follows": (b"".join(header(size=1_300_000 - BLOCK * n, kind=b"x") for n in range(2500)), "too long"),
    "smaller ones of all that follows": (
        b"".join(header(size=BLOCK * (2000 - n), kind=b"x") for n in range(2000)) + b"x" * BLOCK, None),
    "a chain of long names": (header(kind=b"L") * 3000, "too many"),
    "a chain of links": (header(kind=b"K") * 3000, "too many"),
    "a chain of PAX": (header(kind=b"x") * 3000, "too many"),
    "a chain of global PAX": (header(kind=b"g") * 3000, "too many"),
    "a long name": (member(b"", b"a" * (MIB + 1), b"L"), "too long"),
    "a long PAX": (member(b"", record(b"path", b"a" * MIB), b"x"), "too long"),
    "records within records": (member(b"", b"2 " * 2**17 + b"=\n", b"x"), None),
    "digits without end": (member(b"", b"1" * 2**18, b"x"), None),
    "records of no length": (member(b"", b"0 a=b\n" * 1000, b"x"), None),
    "a size in PAX": (member(b"", record(b"size", b"9" * 5000), b"x") + header(b"a.jpg"), "cut"),
    "a size without end": (header(b"a.jpg", 8**11 - 1), "cut"),
    "a size in binary": (header(b"a.jpg", 2**87), "cut"),
    "a size below zero": (header(b"a.jpg", -1024), None),
    "a long name below zero": (header(b"a.jpg", -1024, b"L"), None),
    "sparse": (header(b"a.jpg", kind=b"S", at_482=b"\1") + header(b"", at_504=b"\1") * 20_000, None),
    "sparse in PAX": (member(b"", SPARSE, b"x") + member(b"a.jpg", b"4000000\n" + b"1\n" * 2**20), None),
    "global records, and many members": (
        b"".join(member(b"", b"".join(record(b"%x" % (n << 16 | m), b"") for m in range(20_000)), b"g") for n in range(5))
        + b"".join(header(b"%d/" % n, kind=b"5") for n in range(3000)), None),
    "marks of headers": (b"ustar\0" * 30_000, "too many"),
    "names without end": (member(b"", b"a/" * 2**18 + b"b.jpg", b"L") + header(), None),
}  # fmt: skip


@pytest.mark.parametrize(("data", "reason"), HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_header_costs_little_and_what_comes_before_it_is_kept(monkeypatch, data, reason):
    """reason: why the scan of this tar ends; None if what comes after is found, too."""
    monkeypatch.setattr(tars, "MAX_MARKS", 20_000)
    started = time.perf_counter()
    tracemalloc.start()
    rows, faults = scanned(sample(b"before") + data + sample(b"after"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert rows == (2 if reason is None else 1)
    assert reason is None or sum(reason in fault for fault in faults) == 1
    assert time.perf_counter() - started < 10 and most < 100 * MIB


def test_a_long_name_of_hundreds_of_megabytes_is_not_read(tmp_path):
    with (tmp_path / "x.tar").open("wb") as file:
        file.write(sample() + header(size=200 * MIB, kind=b"L"))
        file.truncate(201 * MIB)  # takes no room on the disk
    tracemalloc.start()
    found = scan_tar(tmp_path / "x.tar")
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(found.rows) == 1 and found.faults == {"tar: header too long": 1} and most < 10 * MIB
    assert found.first == {"tar: header too long": f"byte {len(sample()):,}"}


def test_a_hostile_tar_costs_the_others_nothing(tmp_path):
    for number, data in enumerate([sample(b"a"), header(kind=b"x") * 3000 + sample(b"b"), sample(b"c")]):
        (tmp_path / f"{number}.tar").write_bytes(data + bytes(2 * BLOCK))
    shards = scan_shards(tmp_path, workers=0)
    assert len(shards) == 2 and shards.faults == {"tar: too many headers": 1}
    assert shards.first == {"tar: too many headers": "1.tar, byte 0"}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_no_tar(tmp_path):
    os.mkfifo(tmp_path / "x.tar")
    with pytest.raises(LclError, match=r"x\.tar is no file; remove it"):
        scan_tar(tmp_path / "x.tar")


# --- headers that are right


NAMES = st.text(st.characters(exclude_characters="\0/", exclude_categories=["Cs"]), min_size=1, max_size=60)
PATHS = st.lists(NAMES.filter(lambda name: name.strip(".")), min_size=1, max_size=6).map("/".join)


@settings(max_examples=150)
@given(
    st.lists(st.tuples(PATHS, st.binary(max_size=1100), st.sampled_from([tarfile.REGTYPE, tarfile.DIRTYPE])), max_size=5),
    st.sampled_from([tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT]),
)
def test_members_are_those_that_tarfile_finds(items, form):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=form, pax_headers={"comment": "of all"}) as tar:
        for name, data, kind in items:
            info = tarfile.TarInfo(name)
            info.type, info.size, info.mtime = kind, len(data) * (kind == tarfile.REGTYPE), 0.5
            try:
                tar.addfile(info, io.BytesIO(data))
            except ValueError:  # a name that USTAR cannot hold
                continue
    members = list(tars._members(file, len(file.getvalue()), tars._Faults()))
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r:") as tar:
            expected = list(tar)
    except tarfile.ReadError:  # of a tar that is empty but for its global header
        expected = []
    assert [told(found) for found in members] == [told(found) for found in expected]


def told(member: tarfile.TarInfo) -> tuple:
    return member.name.rstrip("/"), member.type, member.size, member.offset_data


def test_a_size_in_pax_counts_and_the_headers_own_does_not():
    assert scanned(member(b"", record(b"size", b"5"), b"x") + member(b"a.txt", b"a cat", size=0) + sample()) == (
        1, {"image: missing": 1},
    )  # fmt: skip


@pytest.mark.parametrize("shift", range(0, 1100, 50))
def test_a_header_that_lies_across_an_edge_of_what_is_searched_at_once_is_found(monkeypatch, shift):
    monkeypatch.setattr(tars, "CHUNK", 1000)
    assert scanned(b"x" * (4000 + shift) + sample()) == (1, {"tar: garbage": 1})
    assert scanned(sample(b"a") + bytes(4000 + shift) + sample(b"b")) == (2, {})


# --- fuzzing

SIZES = st.sampled_from([0, 1, 511, 512, 513, 5000, MIB, MIB + 1, 8**11 - 1, -1, -512, -(2**90), 2**63 - 1, 2**87])
KINDS = st.sampled_from([bytes([kind]) for kind in b"01234567xgXLKSDMNVA\0"])
RECORDS = st.tuples(
    st.sampled_from([b"path", b"size", b"linkpath", b"mtime", b"hdrcharset", b"GNU.sparse.map", b"GNU.sparse.major", b""]),
    st.one_of(st.binary(max_size=20), st.integers(-(2**70), 2**70).map(lambda number: b"%d" % number)),
).map(lambda pair: record(*pair))
PARTS = st.one_of(
    st.builds(header, st.binary(max_size=100), SIZES, KINDS),
    st.builds(member, st.binary(max_size=100), st.binary(max_size=1200), KINDS),
    st.builds(member, st.just(b"p"), st.lists(RECORDS, max_size=4).map(b"".join), st.sampled_from([b"x", b"g", b"X"])),
    st.builds(header, st.just(b"a.jpg"), SIZES, KINDS, at_257=st.binary(max_size=8), at_386=st.binary(max_size=126)),
    st.binary(max_size=700),
    st.just(bytes(BLOCK)),
)


@settings(max_examples=300)
@given(st.lists(PARTS, max_size=8).map(b"".join))
def test_any_headers_are_survived_and_lose_nothing_before_them(data):
    rows, faults = scanned(sample(b"before") + data)
    assert rows >= 1 and all(": " in fault for fault in faults)
