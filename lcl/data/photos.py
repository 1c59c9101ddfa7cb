"""Pictures and captions from outside: checked and bounded before use; every refusal has a short name."""

from __future__ import annotations

import contextlib
import importlib
import io
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, TiffImagePlugin

from lcl.models.tokenizer import MAX_WORDS
from lcl.words import clean

if TYPE_CHECKING:
    import torch  # at run time only in `decode_image`: ONNX folders are opened without torch

# The only formats that are opened: Pillow knows others that start programs. HEIF needs pillow-heif.
FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF")
EXTENSIONS = ("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "heic", "heif")  # of these formats' files
MAX_BYTES = 32 * 2**20  # of an image file
MAX_PIXELS = 50 * 2**20  # of an image as it is decoded, at four bytes a pixel
MAX_DECODED = 8 * MAX_PIXELS  # bytes of a decoded image and its RGB copy: an image of one byte a pixel may have more pixels
MAX_DRAFT_PIXELS = 2**28  # of a JPEG that is decoded at a reduced scale, which takes memory for the reduced pixels only
MAX_PROGRESSIVE_PIXELS = 2**26  # of a JPEG of several scans: libjpeg holds all its coefficients, at any scale
MAX_SCANS = 100  # of a JPEG; libtiff has the same limit
MAX_SCANNED = 2**30  # pixels times scans: each scan goes over all pixels, with any number of bytes
MAX_PIECES = 2**16  # segments, chunks, blocks or strips of a file: Pillow takes microseconds for each
BAND = 512  # rows that are converted at once
MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd7\xff])")  # of a JPEG's segment
SIDES = (8, 16_384)  # pixels
MAX_ASPECT = 16  # of a longer side to the shorter; cut to a square, less than a sixteenth would be left
MAX_CAPTION_BYTES = 16_384
NO_MEMORY = "image: not enough memory to decode it"
HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class BadSample(Exception):
    """An unusable pair. Its text is the short name under which such pairs are counted."""


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file. Raises BadSample if it is too large or cannot be read."""
    try:
        about = path.stat()
        if about.st_size > MAX_BYTES:
            raise BadSample("image: file too large")
        if not stat.S_ISREG(about.st_mode):  # a pipe would be waited for, a device never ends
            raise BadSample("image: not a file")
        return path.read_bytes()
    except OSError:
        raise BadSample("image: not readable") from None


def decode_image(data: bytes, size: int) -> torch.Tensor:
    """A picture's file, of any of FORMATS, to its middle square: (3, size, size) uint8. See `decode_pixels`."""
    import torch

    return torch.from_numpy(decode_pixels(data, size)).permute(2, 0, 1)


def decode_pixels(data: bytes, size: int) -> np.ndarray:
    """Decode an image file, of any of FORMATS, to its middle square.

    Grey, palette, CMYK and 16-bit images become RGB; transparent pixels become white; an animation gives its first frame.
    A JPEG is decoded at the smallest scale that is large enough, so a large photo is fast, and its size is limited after
    that. 16-bit grey values are divided by 65535, whatever values an image holds, so that all images of a data set are scaled
    alike. 32-bit integers and floats have no common range and are refused.

    Args:
        data: the file's bytes.
        size: side of the result in pixels.

    Returns:
        (size, size, 3) uint8.

    Raises:
        BadSample: with the reason, for an image that is incomplete, too large or too small.
    """
    if len(data) > MAX_BYTES:
        raise BadSample("image: file too large")
    scans = 0
    for number, kind in enumerate(_pieces(data)):
        scans += kind == b"\xda"
        if number >= MAX_PIECES or scans > MAX_SCANS:
            raise BadSample("image: too many parts")
    if data[:2] == b"BM" and data[14:15] >= b"\x28" and data[30:31] in (b"\1", b"\2"):  # Pillow takes 17 s for 30 kB
        raise BadSample("image: BMP with run lengths (save it as PNG)")
    image = _open(data)
    image.info["scans"] = scans
    return middle_square(image, size)


def _pieces(data: bytes) -> Iterator[bytes]:
    """What Pillow takes one by one: a JPEG's markers, a PNG's chunks, a GIF's blocks before its first frame, a TIFF's strips."""
    at = 0
    if data[:2] == b"\xff\xd8":
        while (found := MARKER.search(data, at + 2)) and found[1] != b"\xd9":  # the end; thumbnails lie within a segment
            at = found.end() - 2 + int.from_bytes(data[found.end() : found.end() + 2], "big")
            yield found[1]
    elif data[:4] == b"\x89PNG":
        while at + 8 < len(data):
            yield data[at + 12 : at + 16]
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "big")
    elif data[:4] == b"GIF8" and len(data) > 13:
        at = 13 + (6 << data[10] % 8 if data[10] & 128 else 0)  # after the palette
        while at < len(data) and data[at] != ord(","):
            extension, at = data[at] == ord("!"), at + 1
            yield b"!"
            at += extension
            while extension and at < len(data) and data[at]:
                yield b"!"
                at += 1 + data[at]
    elif data[:4] in TiffImagePlugin.PREFIXES:
        with contextlib.suppress(Exception):  # `_open` says what is wrong
            directory = TiffImagePlugin.ImageFileDirectory_v2(data[: 16 if 43 in data[2:4] else 8])
            file = io.BytesIO(data)
            file.seek(directory.next)
            directory.load(file)
            yield from (b"" for _ in directory.get(TiffImagePlugin.STRIPOFFSETS) or directory[TiffImagePlugin.TILEOFFSETS])


def _open(data: bytes) -> Image.Image:
    """`Image.open` for FORMATS, without its limit of pixels.

    That limit counts a JPEG before it is scaled down, and its warning is switched off only by state that all threads share.
    """
    heif = data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS
    if heif and "HEIF" not in Image.OPEN:
        with contextlib.suppress(Exception):  # not installed, or not able to start
            importlib.import_module("pillow_heif").register_heif_opener()
    Image.init()
    for name in FORMATS:
        opener, accepts = Image.OPEN.get(name, (None, None))
        try:  # a plug-in says with a text that it lacks its library
            if opener and (accepts is None or accepts(data[:16]) is True):
                return opener(io.BytesIO(data), "")
        except (SyntaxError, IndexError, TypeError, struct.error):
            continue  # Pillow's own way of saying that it is another format
        except MemoryError:
            raise BadSample(NO_MEMORY) from None
        except Exception:  # a file from outside can make a decoder fail in any way
            break
    if heif and "HEIF" not in Image.OPEN:
        raise BadSample("image: HEIC (pip install pillow-heif)")
    raise BadSample("image: not a picture")


def middle_square(image: Image.Image, size: int) -> np.ndarray:
    """Decode an image that Pillow opened, loaded or not, to its middle square: (size, size, 3) uint8. See `decode_pixels`."""
    width, height = image.size
    if min(width, height) < SIDES[0]:
        raise BadSample("image: too small")
    scans = image.info.get("scans", 1)
    most = MAX_PROGRESSIVE_PIXELS if scans > 1 or image.info.get("progressive") else MAX_DRAFT_PIXELS
    if width * height > most or width * height * scans > MAX_SCANNED:
        raise BadSample("image: too large")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("image: too long and thin")
    try:
        image.draft("RGB", (size, size))  # a JPEG at a half, a quarter or an eighth, never below `size`; nothing for others
    except Exception:
        raise BadSample("image: not whole") from None
    stored = 1 if image.mode in ("1", "L", "P") else 2 if image.mode.startswith("I;16") else 4
    if image.width * image.height * (stored + 4) > MAX_DECODED or max(image.size) > SIDES[1]:
        raise BadSample("image: too large")
    try:
        image.load()
        _turn_upright(image)
        image = _rgb(image)
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    except BadSample:
        raise
    except MemoryError:
        raise BadSample(NO_MEMORY) from None
    except Exception:
        raise BadSample("image: not whole") from None
    return np.array(image)  # (H, W, 3)


def _turn_upright(image: Image.Image) -> None:
    """Turn an image as the camera was held, wherever Pillow finds that: EXIF, PNG's eXIf chunk, XMP, TIFF's tags."""
    with contextlib.suppress(Exception):  # damaged metadata: the pixels are as good as before
        ImageOps.exif_transpose(image, in_place=True)


def _rgb(image: Image.Image) -> Image.Image:
    """An image as RGB, a band of rows at a time: of all rows at once, what lies between would take four times the memory."""
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PNG")  # as older Pillows call it
    if not sixteen and (image.mode.startswith("I") or image.mode == "F"):
        raise BadSample("image: 32-bit values without a range (save it with 8 or 16 bits)")
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    found = Image.new("RGB", image.size)
    for top in range(0, image.height, BAND):
        rows = image.crop((0, top, image.width, min(top + BAND, image.height)))
        if sixteen:  # Pillow's own conversion would cut the values off at 255
            values = np.asarray(rows, np.float64).clip(0, 65_535)
            rows = Image.fromarray((values / 65_535 * 255).round().astype(np.uint8))
        elif rows.mode in ("RGBA", "LA", "PA") or "transparency" in rows.info:
            rows = rows.convert("RGBA")
            rows = Image.alpha_composite(Image.new("RGBA", rows.size, "white"), rows)
        found.paste(rows.convert("RGB"), (0, top))
    return found


def read_caption(data: bytes | str | None) -> str:
    """Check a caption from outside, and normalise its white space; control characters count as white space.

    Args:
        data: UTF-8 bytes, with or without a byte order mark, or text.

    Returns:
        The caption, without white space at its ends and with single spaces inside.

    Raises:
        BadSample: if it is missing, empty (also "nan", "none" and "null"), not text (also if it holds a NUL), or too long.
    """
    if data is None:
        raise BadSample("caption: missing")
    if len(data) > MAX_CAPTION_BYTES:
        raise BadSample("caption: too long")
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        text.encode("utf-8")  # half a character, as broken JSON holds, is none
    except UnicodeError:
        raise BadSample("caption: not text") from None
    if "\0" in text:
        raise BadSample("caption: not text")
    text = " ".join(clean(text).split())
    if not text or text.lower() in ("nan", "none", "null"):  # what tables write for a missing value
        raise BadSample("caption: empty")
    if len(text.split()) > MAX_WORDS:
        raise BadSample("caption: too long")
    return text
