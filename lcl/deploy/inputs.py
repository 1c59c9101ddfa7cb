"""What users hand over, checked and turned into what a model takes: pictures to uint8, texts to a list. Needs no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lcl.config import LclError, require
from lcl.data.photos import EXTENSIONS, FORMATS, BadSample, decode_pixels, middle_square, read_file
from lcl.models.tokenizer import check_caption

KINDS = "a path, a PIL image, a NumPy array (H, W, 3) or a torch tensor (3, H, W)"


def to_array(value: Any) -> tuple[np.ndarray, bool]:
    """An array or tensor as an array, and if it is a tensor; bfloat16 becomes float32. Does not import torch."""
    tensor = "torch" in sys.modules and isinstance(value, sys.modules["torch"].Tensor)
    if tensor:
        value = (value.float() if value.is_floating_point() else value).detach().cpu()
    return np.asarray(value), tensor


def split_images(images: Any) -> list:
    """One picture, a batch or a list → a list of single pictures, not yet checked. Raises LclError if there is none."""
    if isinstance(images, (str, Path, Image.Image)) or getattr(images, "ndim", 4) != 4:
        return [images]
    require(isinstance(images, Iterable), f"a {type(images).__name__} is no picture; hand over {KINDS}, or a list of them.")
    images = list(images)
    require(bool(images), "the list of pictures is empty; hand over at least one.")
    return images


def to_pixels(image: Any, size: int, resize: bool, name: str) -> np.ndarray:
    """One picture, of any of KINDS → (3, size, size) uint8.

    Args:
        image: files and PIL images are cropped and resized as training data are (JPEG files decoded at a reduced scale).
        size: side in pixels.
        resize: crop and resize arrays and tensors, too.
        name: of the picture, for messages.

    Raises:
        LclError: for a picture that cannot be used, with the reason.
    """
    try:
        if isinstance(image, (str, Path)):
            name = str(image)
            require(os.path.isfile(image), f"there is no file {name}{' but a folder' * os.path.isdir(image)}; name a picture.")
            return decode_pixels(read_file(Path(image)), size).transpose(2, 0, 1)
        if not isinstance(image, Image.Image):
            pixels = _check_array(image, name)  # (H, W, 3)
            if pixels.shape[:2] == (size, size):
                return pixels.transpose(2, 0, 1)
            require(resize, f"{name} is {pixels.shape[:2]} pixels large, but the model takes {(size, size)}; say resize=True.")
            image = Image.fromarray(pixels)
        return middle_square(image.copy(), size).transpose(2, 0, 1)  # a copy: decoding may change it
    except (BadSample, OSError, ValueError) as error:
        raise LclError(f"{name} cannot be used ({error}); hand over a whole picture ({', '.join(FORMATS)}).") from None


def _check_array(image: Any, name: str) -> np.ndarray:
    """An array or tensor → (H, W, 3) uint8, of any size."""
    array, tensor = to_array(image)
    require(tensor or isinstance(image, np.ndarray), f"{name} is a {type(image).__name__}; hand over {KINDS}.")
    layout = "torch tensor must be (3, H, W)" if tensor else "NumPy array must be (H, W, 3)"
    fits = array.ndim == 3 and array.shape[0 if tensor else 2] == 3 and array.size > 0
    require(fits, f"{name} has the shape {array.shape}, but a {layout}; permute its dimensions.")
    if array.dtype.kind == "f":
        low, high = array.min(), array.max()  # NaN if there is one
        found = f"{name} holds floats from {low:.3g} to {high:.3g}, but they must lie from 0 to 1"
        require(bool(low >= 0 and high <= 1), f"{found}; divide by 255, undo a normalisation, or hand over uint8.")
        array = (array * 255).round().astype(np.uint8)
    require(array.dtype == np.uint8, f"{name} is of type {array.dtype}; hand over uint8, or floats from 0 to 1.")
    return np.ascontiguousarray(array.transpose(1, 2, 0)) if tensor else array


def to_texts(texts: Any, what: str) -> list[str]:
    """A list of texts, checked. what: the word for one, in messages. Raises LclError for a bare string, none, or an empty one."""
    require(isinstance(texts, Iterable) and not isinstance(texts, str), f"{what}s must be a list of strings, not {texts!r}.")
    texts = list(texts)
    require(bool(texts), f"the list of {what}s is empty; give at least one.")
    for number, text in enumerate(texts):
        require(isinstance(text, str) and bool(text.strip()), f"{what} {number} must be a text of a word or more, not {text!r}.")
        check_caption(text, number)
    return texts


def find_pictures(folder: Path) -> list[Path]:
    """The pictures in a folder and below it, sorted; not hidden ones, nor links out of it. Raises LclError if there is none."""
    require(Path(folder).is_dir(), f"there is no folder {folder}.")
    root, known = Path(folder).resolve(), Image.registered_extensions()  # {".jpg": "JPEG", …}
    endings = {ending for ending in known if known[ending] in FORMATS} | {f".{name}" for name in EXTENSIONS}  # HEIC, to name it
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in endings and path.is_file())
    files = [path for path in files if not any(part.startswith(".") for part in path.relative_to(root).parts)]
    files = [path for path in files if path.resolve().is_relative_to(root)]
    require(bool(files), f"there are no pictures in {folder} ({', '.join(FORMATS)}); name another folder.")
    return files
