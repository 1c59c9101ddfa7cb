"""Hostile pictures: few bytes or few pixels that would take minutes or gigabytes, and reasons that stay what they are."""

import io
import os
import struct
import subprocess
import sys
import time
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, features

from lcl.data import photos
from lcl.data.photos import MAX_PIECES, BadSample, decode_pixels, read_file


def saved(form: str, mode: str = "RGB", side: int = 32, **options) -> bytes:
    colours = np.random.default_rng(0).integers(0, 256, (4, 4, 4), dtype=np.uint8)
    image = Image.fromarray(colours, "RGBA").resize((side, side), Image.BICUBIC)
    file = io.BytesIO()
    (image if mode == "RGBA" else image.convert("RGB").convert(mode)).save(file, form, **options)
    return file.getvalue()


def refused(data: bytes, reason: str) -> None:
    started = time.perf_counter()
    with pytest.raises(BadSample, match=reason):
        decode_pixels(data, 16)
    assert time.perf_counter() - started < 5


JPEG, PROGRESSIVE, PNG, GIF = saved("JPEG"), saved("JPEG", progressive=True, side=512), saved("PNG"), saved("GIF", "P")
BLOCKS = 13 + (6 << GIF[10] % 8)  # where a GIF's blocks begin, after its palette


def scans(jpeg: bytes, more: int) -> bytes:
    """A JPEG whose last scan, with its Huffman table, is there `more` times more."""
    at = jpeg.rfind(b"\xff\xc4", 0, jpeg.rfind(b"\xff\xda"))
    return jpeg[:-2] + jpeg[at:-2] * more + jpeg[-2:]


def sized(jpeg: bytes, side: int) -> bytes:
    """A JPEG whose header states another size."""
    at = next(at for marker in (b"\xff\xc0", b"\xff\xc2") if (at := jpeg.find(marker)) >= 0)
    return jpeg[: at + 5] + struct.pack(">HH", side, side) + jpeg[at + 9 :]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(side: int, depth: int, colours: int) -> bytes:
    """A PNG of this size, bits a channel and kind of colours, without its pixels."""
    start = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, depth, colours, 0, 0, 0))
    return start + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def tiff(strips: int, big: bool = False) -> bytes:
    """A grey TIFF, classic or BigTIFF, with so many strips, all of them its own header."""
    number, word = ("Q", 8) if big else ("I", 4)
    tags = [(256, 1, 64), (257, 1, 64), (258, 1, 8), (259, 1, 1), (262, 1, 1), (273, strips, None), (277, 1, 1), (278, 1, 1)]
    start = struct.pack("<2sHHHQQ", b"II", 43, 8, 0, 16, len(tags)) if big else struct.pack("<2sHIH", b"II", 42, 8, len(tags))
    after = len(start) + len(tags) * (4 + 2 * word) + word
    entries = b"".join(
        struct.pack(f"<HH{number}{number}", tag, 16 if big else 4, n, after if value is None else value)
        for tag, n, value in tags
    )
    return start + entries + bytes(word) + struct.pack(f"<{number}", 0) * strips


def bmp(data: bytes, side: int) -> bytes:
    """A BMP whose pixels are run lengths."""
    about = struct.pack("<IiiHHIIiiII", 40, side, side, 1, 8, 1, len(data), 2835, 2835, 256, 0)
    return b"BM" + struct.pack("<IHHI", 1078 + len(data), 0, 0, 1078) + about + bytes(1024) + data


COSTLY = {
    "thousands of scans": (lambda: scans(PROGRESSIVE, 3_000), "too many parts"),
    "scans over many pixels": (lambda: sized(scans(PROGRESSIVE, 60), 8000), "too large"),
    "two scans of many pixels": (lambda: sized(scans(JPEG, 1), 9000), "too large"),
    "markers without end": (lambda: JPEG[:2] + b"\xff\xfe\0\2" * 8_000_000 + JPEG[2:], "too many parts"),
    "chunks without end": (lambda: PNG[:33] + chunk(b"tEXt", b"") * 2_500_000 + PNG[33:], "too many parts"),
    "blocks without end": (lambda: GIF[:BLOCKS] + b"\x21\xfe\0" * 10_000_000 + GIF[BLOCKS:], "too many parts"),
    "small blocks": (lambda: GIF[:BLOCKS] + b"\x21\xfe" + b"\1a" * 15_000_000 + bytes(1) + GIF[BLOCKS:], "too many parts"),
    "nothing in a GIF": (lambda: GIF[:BLOCKS] + bytes(30_000_000) + GIF[BLOCKS:], "too many parts"),
    "strips without end": (lambda: tiff(8_000_000), "too many parts"),
    "strips of a BigTIFF": (lambda: tiff(2_000_000, big=True), "too many parts"),
    "lines that end at once": (lambda: bmp(b"\1\0\0\0" * 7168 + b"\0\1", 7168), "run lengths"),
    "many pixels of four bytes": (lambda: png(7500, 8, 6), "too large"),
    "many pixels of sixteen bits": (lambda: png(8700, 16, 0), "too large"),
}


@pytest.mark.parametrize(("make", "reason"), COSTLY.values(), ids=COSTLY)
def test_what_would_take_minutes_or_gigabytes_is_refused_at_once(make, reason):
    refused(make(), reason)


THUMBNAIL = b"\xff\xe1" + struct.pack(">H", len(JPEG) + 2) + JPEG


@pytest.mark.parametrize(
    "data",
    [
        scans(PROGRESSIVE, 20), JPEG[:2] + THUMBNAIL * 200 + JPEG[2:], JPEG + JPEG * 200, JPEG[:2] + b"\xff" * 9 + JPEG[2:],
        PNG[:33] + chunk(b"tEXt", b"a\0b") * 2000 + PNG[33:], GIF[:BLOCKS] + b"\x21\xfe" + b"\2ab" * 1000 + b"\0" + GIF[BLOCKS:],
        saved("TIFF", side=600, tiffinfo={278: 1}), saved("BMP", "L"),
    ],
    ids=["scans", "thumbnails", "pictures after the end", "fill bytes", "texts", "comments", "strips", "BMP"],
)  # fmt: skip
def test_what_only_looks_costly_is_decoded(data):
    assert decode_pixels(data, 16).shape == (16, 16, 3)


def test_a_thumbnail_is_no_scan_and_grey_pixels_count_less():
    assert decode_pixels(sized(JPEG[:2] + THUMBNAIL.replace(b"\xff\xc0", b"\xff\xc1") + JPEG[2:], 9000), 16).any()
    refused(png(8500, 8, 0), "not whole")


def test_a_file_of_the_largest_number_of_pieces_is_decoded(monkeypatch):
    monkeypatch.setattr(photos, "MAX_PIECES", 40)  # two of them before the header's end, and one at the end
    at = PNG[:33]
    assert MAX_PIECES == 2**16 and decode_pixels(at + chunk(b"tEXt", b"") * 37 + PNG[33:], 16).any()
    refused(at + chunk(b"tEXt", b"") * 38 + PNG[33:], "too many parts")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no pipes in folders")
def test_a_pipe_is_no_picture(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(BadSample, match="not a file"):
        read_file(tmp_path / "a.jpg")


def sixteen(form: str) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.linspace(0, 65_535, 32 * 32).reshape(32, 32).astype(np.uint16)).save(file, form)
    return file.getvalue()


MODES = {
    **{mode: saved("PNG", mode) for mode in ("1", "L", "LA", "P", "RGB", "RGBA")},
    "clear grey": saved("PNG", "L", transparency=77), "clear colour": saved("PNG", transparency=(77, 77, 77)),
    "clear of a palette": saved("PNG", "P", transparency=3), "clear GIF": saved("GIF", "P", transparency=3),
    "CMYK": saved("TIFF", "CMYK"), "16 bits": sixteen("PNG"), "16 bits of a TIFF": sixteen("TIFF"), "WEBP": saved("WEBP", "RGBA"),
}  # fmt: skip


@pytest.mark.parametrize("data", MODES.values(), ids=MODES)
def test_a_picture_in_bands_is_the_picture_in_one(monkeypatch, data):
    whole = decode_pixels(data, 20)
    monkeypatch.setattr(photos, "BAND", 5)
    assert np.array_equal(decode_pixels(data, 20), whole) and whole.std() > 0


MEASURE = """
import io, resource, sys
from PIL import Image
import numpy as np
from lcl.data import photos
from lcl.data.photos import BadSample, decode_pixels
def saved(image, **options):
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return file.getvalue()
large, small = ([saved(Image.new(mode, (side, side))) for mode in ("RGBA", "LA")] for side in (4000, 64))
large, small = ([*each, saved(Image.fromarray(np.zeros((side, side), np.uint16)))]
                for each, side in ((large, 4000), (small, 64)))
most = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for data in small: decode_pixels(data, 16)
resource.setrlimit(resource.RLIMIT_AS, (int(open("/proc/self/statm").read().split()[0]) * 4096 + 2**28,) * 2)
for data in large: print(decode_pixels(data, 16).shape)
photos.MAX_DECODED *= 4
try: decode_pixels(open(sys.argv[1], "rb").read(), 16)
except BadSample as reason: print(reason)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the memory that is taken from /proc")
def test_transparent_and_sixteen_bit_pictures_take_little_memory_and_too_little_is_said(tmp_path):
    """16 Mi pixels are decoded with 256 MiB; and where the memory does not suffice, that is the reason."""
    (tmp_path / "huge.png").write_bytes(png(14_000, 8, 2))
    run = subprocess.run([sys.executable, "-c", MEASURE, tmp_path / "huge.png"], capture_output=True, text=True)
    assert run.stdout.splitlines() == ["(16, 16, 3)"] * 3 + ["image: not enough memory to decode it"], run.stderr


FILES = [JPEG, saved("JPEG", progressive=True), PNG, saved("PNG", "P"), sixteen("PNG"), GIF, saved("WEBP"), saved("WEBP", "RGBA")]
FILES += [saved("TIFF"), saved("TIFF", compression="tiff_lzw"), saved("TIFF", compression="jpeg"), sixteen("TIFF"), saved("BMP")]
FILES += [saved("AVIF")] if features.check("avif") else []
EXTREMES = st.sampled_from([struct.pack(f, n) for f in ("<I", ">I") for n in (0, 1, 2**15, 2**31 - 1, 2**32 - 1)])


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
@settings(max_examples=300)
@given(st.sampled_from(FILES), st.data())
def test_any_picture_is_decoded_or_refused_in_time(data, draw):
    damaged = bytearray(data)
    for _ in range(draw.draw(st.integers(1, 4))):
        at = draw.draw(st.integers(2, min(len(data), 400) - 4))  # mostly headers
        part = draw.draw(st.one_of(EXTREMES, st.binary(min_size=1, max_size=4), st.just(data[at : at + 4] * 9)))
        damaged[at : at + 4] = part
    started = time.perf_counter()
    try:
        assert decode_pixels(bytes(damaged), 16).shape == (16, 16, 3)
    except BadSample as reason:
        assert str(reason).startswith("image: ")
    assert time.perf_counter() - started < 10
