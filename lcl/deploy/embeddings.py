"""Write embeddings and the names of their rows to files that other programs read: NumPy arrays and Parquet tables."""

from __future__ import annotations

import importlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lcl import storage
from lcl.config import LclError, require


def check_target(path: Path) -> None:
    """Raise LclError unless embeddings can be written to `path`: a new .npy file, or a new .parquet file with pyarrow."""
    require(path.suffix in (".npy", ".parquet"), f"{path} must end in .npy or .parquet; name such a file with --out.")
    for file in files_of(path):
        require(not file.exists(), f"{file} exists already and is never overwritten; choose another name or remove it.")
    if path.suffix == ".parquet":
        _pyarrow()


def files_of(path: Path) -> list[Path]:
    """The files that `write_embeddings` writes: the names come first, so that with `path` all is there."""
    return [path.with_suffix(".names.json"), path] if path.suffix == ".npy" else [path]


def write_embeddings(path: Path, names: Sequence[str], v: np.ndarray, column: str) -> None:
    """Write embeddings; each file atomically.

    Args:
        path: FILE.npy, an array (N, d) float32, beside which FILE.names.json lists the names; or FILE.parquet, a table with
            the names and a column `embedding`, d float32 numbers a row.
        names: of the rows, N.
        v: (N, d).
        column: of the names in a table, such as "path".

    Raises:
        LclError: as `check_target` does, and for a folder that cannot be written.
    """
    check_target(path)
    v, buffer = np.ascontiguousarray(v, np.float32), io.BytesIO()
    if path.suffix == ".npy":
        np.save(buffer, v)
        storage.write_json(files_of(path)[0], list(names))
    else:
        arrow = _pyarrow()
        rows = arrow.FixedSizeListArray.from_arrays(arrow.array(v.reshape(-1)), v.shape[1])
        importlib.import_module("pyarrow.parquet").write_table(arrow.table({column: list(names), "embedding": rows}), buffer)
    storage.write_bytes(path, buffer.getvalue())


def _pyarrow():
    """pyarrow, which is large and which nothing else needs, so that no extra installs it."""
    try:
        return importlib.import_module("pyarrow")
    except ModuleNotFoundError:
        raise LclError("pyarrow, which writes Parquet, is not installed: pip install pyarrow, or name a .npy file.") from None


def read_texts(path: Path) -> list[str]:
    """The lines of a UTF-8 text file. Raises LclError for a file that cannot be read, and for an empty line or file."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except OSError as error:
        raise LclError(f"cannot read {path}: {error.strerror}; name a text file with one text a line.") from None
    except UnicodeDecodeError:
        raise LclError(f"{path} is not UTF-8 text; save it as UTF-8, one text a line.") from None
    lines = [line.removesuffix("\r") for line in lines]
    if lines[-1] == "":
        lines.pop()
    require(bool(lines), f"{path} is empty; write one text a line.")
    for number, line in enumerate(lines, 1):
        require(bool(line.strip()), f"line {number} of {path} is empty; rows follow lines, so write a text there or remove it.")
    return lines
