"""Pictures and captions from outside: checked and bounded before use; every refusal has a short name."""

from __future__ import annotations

import io
import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps

from lcl.models.tokenizer import MAX_WORDS

if TYPE_CHECKING:
    import torch  # at run time only in `decode_image`: ONNX folders are opened without torch

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP")  # those alone: Pillow knows others that start programs or hide bombs
MAX_BYTES = 32 * 2**20  # of a picture's file
MAX_PIXELS = 50 * 2**20  # of a picture; decoded it takes up to four bytes each
SIDES = (8, 16_384)  # pixels
MAX_ASPECT = 16  # of a longer side to the shorter; cut to a square, less than a sixteenth would be left
MAX_CAPTION_BYTES = 16_384


class BadSample(Exception):
    """An unusable pair. Its text is the short name under which such pairs are counted."""


def read_file(path: Path) -> bytes:
    """The bytes of a picture's file. Raises BadSample if it is too large or cannot be read."""
    try:
        if path.stat().st_size > MAX_BYTES:
            raise BadSample("image: file too large")
        return path.read_bytes()
    except OSError:
        raise BadSample("image: not readable") from None


def decode_image(data: bytes, size: int) -> torch.Tensor:
    """A picture's file, of any of FORMATS, to its middle square: (3, size, size) uint8. See `decode_pixels`."""
    import torch

    return torch.from_numpy(decode_pixels(data, size)).permute(2, 0, 1)


def decode_pixels(data: bytes, size: int) -> np.ndarray:
    """A picture's file, of any of FORMATS, to its middle square at `size` pixels a side: (size, size, 3) uint8.

    Grey, palette, CMYK and 16-bit pictures become RGB, what is transparent white; of a moving one the first frame counts.
    A JPEG is decoded at the smallest scale that is large enough, which is what makes this fast.
    Raises BadSample, with the reason, for anything that is not whole, too large or too small.
    """
    if len(data) > MAX_BYTES:
        raise BadSample("image: file too large")
    try:
        with warnings.catch_warnings(category=Image.DecompressionBombWarning, action="error"):
            image = Image.open(io.BytesIO(data), formats=FORMATS)
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise BadSample("image: too large") from None
    except Exception:  # a file from outside can make a decoder fail in any way
        raise BadSample("image: not a picture") from None
    return middle_square(image, size)


def middle_square(image: Image.Image, size: int) -> np.ndarray:
    """A picture that Pillow opened, loaded or not, to its middle square: (size, size, 3) uint8. See `decode_pixels`."""
    width, height = image.size
    if not (SIDES[0] <= min(width, height) and max(width, height) <= SIDES[1]):
        raise BadSample("image: too small" if min(width, height) < SIDES[0] else "image: too large")
    if width * height > MAX_PIXELS:
        raise BadSample("image: too large")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise BadSample("image: too long and thin")
    try:
        image.draft("RGB", (size, size))  # a JPEG at a half, a quarter or an eighth, never below `size`; nothing for others
        image.load()
        image = _rgb(ImageOps.exif_transpose(image) if "exif" in image.info else image)  # as the camera was held
        side = min(image.size)
        left, top = (image.width - side) / 2, (image.height - side) / 2
        if image.size != (size, size):
            image = image.resize((size, size), Image.Resampling.BICUBIC, (left, top, left + side, top + side))
    except Exception:
        raise BadSample("image: not whole") from None
    return np.array(image)  # (H, W, 3)


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":  # 16 bits a pixel or more: Pillow would cut them off at 255
        values = np.asarray(image, np.float64)
        whole = 65_535 if values.max() > 255 else 255
        return Image.fromarray((values.clip(0, whole) / whole * 255).round().astype(np.uint8)).convert("RGB")
    if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info:
        image = image.convert("RGBA")
        return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image).convert("RGB")
    return image.convert("RGB")


def read_caption(data: bytes | str | None) -> str:
    """A caption from outside, with normalised white space. Raises BadSample if it is empty, no text, or too long."""
    if data is None:
        raise BadSample("caption: missing")
    if len(data) > MAX_CAPTION_BYTES:
        raise BadSample("caption: too long")
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        text.encode("utf-8")  # half a character, as broken JSON holds, is none
    except UnicodeError:
        raise BadSample("caption: not text") from None
    if any(ord(letter) < 32 and letter not in "\t\n\r" for letter in text):
        raise BadSample("caption: not text")
    text = " ".join(text.split())
    if not text or text.lower() in ("nan", "none", "null"):  # what tables write for a missing value
        raise BadSample("caption: empty")
    if len(text.split()) > MAX_WORDS:
        raise BadSample("caption: too long")
    return text
