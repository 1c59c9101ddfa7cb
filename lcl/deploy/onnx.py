"""The pair of towers without torch: ONNX files that any runtime reads, in float32 or in int8."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import torch
from torch import nn

from lcl import storage
from lcl.config import LclError, require, to_dict
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer, Tokens

FORMAT = "lcl-onnx-1"
IMAGE, TEXT, ABOUT = "image.onnx", "text.onnx", "towers.json"
CLOSE = 1e-4  # largest difference to torch that is let pass


class ImageTower(nn.Module):
    """images (B, 3, H, W) uint8 → (B, d), L2-normalised."""

    def __init__(self, model: Clip):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(images)


class TextTower(nn.Module):
    """ids (B, L) int64, mask (B, L) bool, false at padding → (B, d), L2-normalised."""

    def __init__(self, model: Clip):
        super().__init__()
        self.model = model

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(Tokens(ids, mask, torch.zeros_like(ids), ()))


def export_onnx(folder: Path, model: Clip, tokenizer: Tokenizer, images: torch.Tensor, captions: Sequence[str]) -> float:
    """Write image.onnx, text.onnx and towers.json, and compare them with torch; returns the largest difference.

    images: (N, 3, H, W) uint8, captions: N; any pairs, 2 or more, to trace and to compare with.
    Raises LclError if an output differs by more than CLOSE; nothing is then left in the folder.
    """
    require(len(images) >= 2 and len(captions) >= 2, "hand over two pairs or more, to compare ONNX with torch.")
    model = copy.deepcopy(model).cpu().eval()  # the caller's stays where it is
    tokens = tokenizer.encode(list(captions), model.config.language.context_length)
    batch, length = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=model.config.language.context_length)
    parts = {
        IMAGE: (ImageTower(model), (images,), {"images": {0: batch}}),
        TEXT: (TextTower(model), (tokens.ids, tokens.mask), {"ids": {0: batch, 1: length}, "mask": {0: batch, 1: length}}),
    }
    with tempfile.TemporaryDirectory() as between:  # what is in the folder already stays until all is well
        for name, (tower, inputs, shapes) in parts.items():
            _export(Path(between) / name, tower, inputs, shapes)
        v, t = open_towers(Path(between), check=False).run(images, tokens)
        with torch.no_grad():
            wanted = torch.cat([model.encode_image(images), model.encode_text(tokens)])
        furthest = (torch.cat([v, t]) - wanted).abs().max().item()
        require(furthest <= CLOSE, f"ONNX differs from torch by {furthest:.1e}, more than {CLOSE:.0e}; nothing is exported.")
        for name in parts:
            storage.write_bytes(Path(folder) / name, (Path(between) / name).read_bytes())
    _describe(Path(folder), model, tokenizer)
    return furthest


def _export(path: Path, tower: nn.Module, inputs: tuple, shapes: dict) -> None:
    try:
        with _quiet():
            program = torch.onnx.export(tower, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=True)
    except Exception as error:  # the exporter has many of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LclError(f"torch cannot write this tower as ONNX ({reason}); towers of our own can be exported.") from None
    storage.write_bytes(path, program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Exporters talk of every step, and of what they will do one day."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


def _describe(folder: Path, model: Clip, tokenizer: Tokenizer) -> None:
    """What stands beside the towers: how to make their inputs, and the sums of their files."""
    sums = {name: storage.file_sha256(folder / name) for name in (IMAGE, TEXT)}
    about = {"format": FORMAT, "files": sums, "model": to_dict(model.config), "tokenizer": tokenizer.to_dict()}
    storage.write_json(folder / ABOUT, about)


class Towers:
    """A pair of exported towers, run by ONNX Runtime."""

    def __init__(self, image: onnxruntime.InferenceSession, text: onnxruntime.InferenceSession):
        self.image, self.text = image, text

    def encode_image(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(B, 3, H, W) uint8 → (B, d), L2-normalised."""
        (v,) = self.image.run(None, {"images": np.asarray(images)})
        return torch.from_numpy(v)

    def encode_text(self, tokens: Tokens) -> torch.Tensor:
        """Tokens to embeddings (B, d), L2-normalised."""
        (t,) = self.text.run(None, {"ids": tokens.ids.numpy(), "mask": tokens.mask.numpy()})
        return torch.from_numpy(t)

    def run(self, images: torch.Tensor, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Both at once: (B, d) each."""
        return self.encode_image(images), self.encode_text(tokens)


def open_towers(folder: Path, threads: int = 1, check: bool = True) -> Towers:
    """Open exported towers. threads: cores that a call uses. check: compare the files with their sums.

    Raises LclError if they are missing or damaged.
    """
    folder = Path(folder)
    if check:
        about = storage.read_json(folder / ABOUT)
        ours = isinstance(about, dict) and about.get("format") == FORMAT
        require(ours, f"{folder / ABOUT} describes no towers of this library.")
        for name in (IMAGE, TEXT):
            same = storage.file_sha256(folder / name) == (about.get("files") or {}).get(name)
            require(same, f"{folder / name} is not the file that {ABOUT} describes; export again.")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        sessions = [onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"]) for name in (IMAGE, TEXT)]
    except Exception as error:  # the runtime has a family of exceptions of its own
        raise LclError(f"the towers in {folder} cannot be opened ({str(error).splitlines()[0]}); export again.") from None
    return Towers(*sessions)


def to_int8(source: Path, folder: Path, images: torch.Tensor) -> None:
    """Exported towers once more, with products of 8-bit integers (static for images, dynamic for captions).

    images: (N, 3, H, W) uint8, some hundred, from which the ranges of the image tower's values are taken.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            self.batches = iter(images.split(32))

        def get_next(self):
            batch = next(self.batches, None)
            return None if batch is None else {"images": batch.numpy()}

    source, folder = Path(source), Path(folder)
    open_towers(source)
    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / ".prepared.onnx"
    try:
        with _quiet():
            quant_pre_process(source / IMAGE, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, folder / IMAGE, Reader(), per_channel=True, weight_type=QuantType.QInt8)
            quant_pre_process(source / TEXT, prepared, skip_symbolic_shape=True)
            quantize_dynamic(prepared, folder / TEXT, per_channel=True, weight_type=QuantType.QInt8)
    finally:
        prepared.unlink(missing_ok=True)
    about = storage.read_json(source / ABOUT)
    about["files"] = {name: storage.file_sha256(folder / name) for name in (IMAGE, TEXT)}
    storage.write_json(folder / ABOUT, about)
