"""Export the towers to ONNX files, which need no torch, in float32 or int8; `lcl.deploy.load` opens them."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import types
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from lcl import storage
from lcl.bpe import PAD, SPECIAL, cut_and_pad, read_engine
from lcl.config import LclError, need, require, to_dict
from lcl.data.base import DatasetView
from lcl.deploy.load import (
    DESCRIPTION,
    FORMAT,
    IMAGE,
    TEXT,
    TOKENIZER,
    open_onnx,
    open_sessions,
    read_description,
)
from lcl.eval.retrieval import candidates, ranks
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer, Tokens

INFER = "infer.py"
MAX_DIFFERENCE = 1e-4  # between an embedding's numbers from ONNX and from torch


class ImageTower(nn.Module):
    """What is exported of a model for images: (B, 3, H, W) → embeddings (B, d)."""

    def __init__(self, model: Clip):
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.model.encode_image(images)


class TextTower(ImageTower):
    """What is exported of a model for texts: token ids and mask, (B, L) each → embeddings (B, d)."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.model.encode_text(Tokens(ids, mask, torch.zeros_like(ids), ()))


def export_onnx(
    folder: Path, model: Clip, tokenizer: Tokenizer, images: torch.Tensor, captions: Sequence[str], towers=(ImageTower, TextTower)
) -> float:
    """Write image.onnx, text.onnx, tokenizer.json, infer.py and towers.json, and compare the towers with torch.

    Args:
        folder: where they go.
        model, tokenizer: stay as they are.
        images: (N, 3, H, W) uint8, any 2 or more, to trace and compare with.
        captions: N, likewise.
        towers: the classes of what is exported; their first output is the embedding.

    Returns:
        The largest difference from torch in a number of an embedding.

    Raises:
        LclError: if that exceeds MAX_DIFFERENCE, or torch cannot export these towers; nothing is then written.
    """
    require(len(images) >= 2 and len(captions) >= 2, "hand over two pairs or more, to compare ONNX with torch.")
    model, length = copy.deepcopy(model).cpu().eval(), model.config.language.context_length
    tokens = tokenizer.encode(list(captions), length)
    batch, tokens_dim = torch.export.Dim("batch", min=1), torch.export.Dim("length", min=2, max=length)
    text_dims = {0: batch, 1: tokens_dim}
    graphs = {
        IMAGE: (towers[0](model), (images,), {"images": {0: batch}}),
        TEXT: (towers[1](model), (tokens.ids, tokens.mask), {"ids": text_dims, "mask": text_dims}),
    }
    with tempfile.TemporaryDirectory() as temporary:
        for name, (tower, inputs, shapes) in graphs.items():
            _export(Path(temporary) / name, tower, inputs, shapes)
        found = torch.cat(OnnxTowers(*open_sessions(Path(temporary))).run(images, tokens))
        with torch.no_grad():
            difference = (found - torch.cat([model.encode_image(images), model.encode_text(tokens)])).abs().max().item()
        close = f"ONNX differs from torch by {difference:.1e}, more than {MAX_DIFFERENCE:.0e}; nothing is exported."
        require(difference <= MAX_DIFFERENCE, close)
        for name in graphs:
            storage.write_bytes(Path(folder) / name, (Path(temporary) / name).read_bytes())
    engine = cut_and_pad(read_engine(tokenizer.to_dict()["engine"], "this model"), length)
    storage.write_bytes(Path(folder) / TOKENIZER, engine.to_str(pretty=True).encode())
    storage.write_bytes(Path(folder) / INFER, Path(__file__).with_name(INFER).read_bytes())
    _describe(Path(folder), _usage(model) | {"model": to_dict(model.config)})
    return difference


def _usage(model: Clip) -> dict:
    """What one must know to use the towers without this library."""
    image = {
        "input": "images", "layout": "NCHW", "dtype": "uint8, 0 to 255", "normalise": "no: the graph scales and normalises",
        "colour": "RGB", "transparent": "white", "orientation": "as EXIF says", "crop": "centre square, before it is resized",
        "resize": "bicubic with antialiasing, as Pillow does, to size", "size": model.config.vision.image_size,
    }  # fmt: skip
    text = {
        "inputs": {"ids": "(N, L) int64", "mask": "(N, L) bool, true at tokens, false at padding"},
        "tokenizer": TOKENIZER, "context_length": model.config.language.context_length, "pad_id": SPECIAL.index(PAD),
        "cut": "keep the first context_length - 1 tokens and the end token; tokenizer.json cuts and pads so",
        "special_tokens_in_text": "are text: set encode_special_tokens to true",
    }  # fmt: skip
    output = {"embed_dim": model.config.embed_dim, "normalised": "L2", "logit_scale": model.logit_scale.item()}
    return {"format": FORMAT, "image": image, "text": text} | output


def _describe(folder: Path, about: dict) -> None:
    """Write towers.json last: with it the export is complete."""
    names = (name for name in (IMAGE, TEXT, TOKENIZER) if (folder / name).exists())
    storage.write_json(folder / DESCRIPTION, about | {"files": {name: storage.file_sha256(folder / name) for name in names}})


def _export(path: Path, tower: nn.Module, inputs: tuple, shapes: dict) -> None:
    need("onnxscript", "onnx")  # torch exports through it
    try:
        with _quiet():
            program = torch.onnx.export(tower, inputs, dynamo=True, dynamic_shapes=shapes, verbose=False, optimize=True)
    except Exception as error:  # the exporter has many of its own
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LclError(f"torch cannot export this tower to ONNX ({reason}); conv, vit and transformer can be exported.") from None
    storage.write_bytes(path, program.model_proto.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's progress and deprecation messages."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)


class OnnxTowers:
    """The exported towers on tensors and tokens, where a `Clip` that only embeds may stand; `lcl.load` takes pictures and texts.

    Attributes:
        config: of the model. sha256: of the files. Both are None until `load_onnx` sets them.
    """

    config = sha256 = None
    tau = torch.zeros(())  # lies on the CPU, as all that ONNX Runtime takes

    def __init__(self, image, text):
        self.image, self.text = image, text  # onnxruntime.InferenceSession

    def eval(self) -> OnnxTowers:
        """Nothing to do: the graphs are those of evaluation mode."""
        return self

    def encode_image(self, images: torch.Tensor | np.ndarray) -> torch.Tensor:
        """(B, 3, H, W) uint8 → (B, d), L2-normalised."""
        return torch.from_numpy(self.image.run(None, {"images": np.asarray(images)})[0])

    def encode_text(self, tokens: Tokens) -> torch.Tensor:
        """B captions → (B, d), L2-normalised."""
        return torch.from_numpy(self.text.run(None, {"ids": tokens.ids.numpy(), "mask": tokens.mask.numpy()})[0])

    def run(self, images: torch.Tensor | np.ndarray, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Both: (B, d) each."""
        return self.encode_image(images), self.encode_text(tokens)


def open_towers(folder: Path, threads: int = 1) -> OnnxTowers:
    """Open an ONNX folder. threads: cores that a call uses. Raises LclError if files are missing or damaged."""
    read_description(Path(folder))
    return OnnxTowers(*open_sessions(Path(folder), threads))


def load_onnx(folder: Path) -> tuple[OnnxTowers, Tokenizer]:
    """Open an ONNX folder as `load_model` opens a run, to search and to embed.

    Raises:
        LclError: for files that are missing or damaged.
    """
    opened = open_onnx(Path(folder))
    towers = OnnxTowers(opened.image, opened.text)
    towers.config, towers.sha256 = opened.config, opened.fingerprint
    opened.engine.no_truncation(), opened.engine.no_padding()  # `Tokenizer` does both
    return towers, Tokenizer(opened.engine, data="")


def to_int8(source: Path, folder: Path, images: torch.Tensor) -> None:
    """Quantise an ONNX folder to 8-bit integers: images statically, texts dynamically (ranges are those of each batch).

    Weights keep to 7 bits: processors with AVX2 but without VNNI add pairs of products in 16 bits, which 8 bits would overflow.

    Args:
        source: the ONNX folder.
        folder: where the quantised one goes.
        images: (N, 3, H, W) uint8, some hundred, to calibrate the image tower's ranges.
    """
    need("onnxruntime.quantization", "onnx")
    from onnxruntime.quantization import QuantType, quantize_dynamic, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    source, folder, batches = Path(source), Path(folder), iter([{"images": batch.numpy()} for batch in images.split(32)])
    reader = types.SimpleNamespace(get_next=lambda: next(batches, None))
    weights = {"per_channel": True, "weight_type": QuantType.QInt8, "reduce_range": True}
    about = read_description(source)
    folder.mkdir(parents=True, exist_ok=True)
    prepared = folder / ".prepared.onnx"
    try:
        with _quiet():
            quant_pre_process(source / IMAGE, prepared, skip_symbolic_shape=True)
            quantize_static(prepared, folder / IMAGE, reader, **weights)
            quant_pre_process(source / TEXT, prepared, skip_symbolic_shape=True)
            quantize_dynamic(prepared, folder / TEXT, **weights)
    finally:
        prepared.unlink(missing_ok=True)
    for name in (TOKENIZER, INFER):
        if (source / name).exists():  # an export of version 0.1 has neither
            storage.write_bytes(folder / name, (source / name).read_bytes())
    _describe(folder, about)


@dataclass(frozen=True)
class RecallDrop:
    """recall@1 before and after quantisation, mean of both directions, 0 to 1.

    Attributes:
        pairs: number of held-out pairs, among which was searched.
        before, after: of the float32 and of the int8 towers.
        margin: half the width of the 95 % confidence interval of their difference, from the differences of single pairs.
    """

    pairs: int
    before: float
    after: float
    margin: float

    def __str__(self) -> str:
        change, low, high = (100 * (self.after - self.before + offset) for offset in (0, -self.margin, self.margin))
        values = f"{self.before:.1%} in float32, {self.after:.1%} in int8"
        return f"recall@1 on {self.pairs:,} held-out pairs: {values} ({change:+.1f} points, 95 % CI {low:+.1f} to {high:+.1f})"


def recall_drop(source: Path, folder: Path, tokenizer: Tokenizer, rows: DatasetView) -> RecallDrop:
    """Measure what quantisation costs.

    Args:
        source, folder: the ONNX folders before and after.
        tokenizer: of the model.
        rows: pairs that the training did not see, 2 or more.

    Raises:
        LclError: for fewer pairs, or pairs that cannot be read.
    """
    require(len(rows) >= 2, f"{len(rows)} held-out pairs are too few to search among; 2 are the fewest")
    length, found = read_description(Path(source))["model"]["language"]["context_length"], []
    pairs = rows.take(range(len(rows)))
    ranked = candidates(pairs)
    right = ranked.right[ranked.picture][:, ranked.caption]  # (N, N)
    for towers in (open_towers(source), open_towers(folder)):
        batches = [
            towers.run(images, tokenizer.encode(pairs.captions[start : start + len(images)], length))
            for start, images in zip(range(0, len(pairs.captions), 64), pairs.images.split(64), strict=True)
        ]
        v, t = (torch.cat(side) for side in zip(*batches, strict=True))  # (N, d) each
        found.append(((ranks(v @ t.T, right) == 0).double() + (ranks(t @ v.T, right.T) == 0).double()) / 2)  # (N,)
    before, after = found
    margin = 1.96 * (after - before).std() / len(rows) ** 0.5
    return RecallDrop(len(rows), before.mean().item(), after.mean().item(), margin.item())


def describe_recall_drop(source: Path, folder: Path, tokenizer: Tokenizer, rows: DatasetView) -> str:
    """`recall_drop` in a sentence, or the reason why it was not measured."""
    try:
        drop = recall_drop(source, folder, tokenizer, rows)
    except LclError as reason:
        hint = "to measure it, make the data that the run was trained on readable and export again"
        return f"the drop in recall@1 from float32 to int8 was not measured ({str(reason).rstrip('.')}); {hint}."
    own = rows.description.get("data") == tokenizer.data
    return f"{drop}" + ("" if own else "; these pairs are of another data set than those of the training")
