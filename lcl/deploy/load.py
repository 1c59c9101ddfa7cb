"""Open a trained model by its folder, and use it on files, pictures, arrays and texts. ONNX folders need no torch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from lcl import storage
from lcl.bpe import cut_and_pad, read_engine
from lcl.config import TEMPLATES, LclError, ModelConfig, from_dict, need, require
from lcl.deploy.inputs import find_pictures, split_images, to_array, to_pixels, to_texts
from lcl.words import clean

FORMAT, OLD_FORMAT = "lcl-onnx-2", "lcl-onnx-1"  # version 0.1's has neither logit_scale nor tokenizer.json
IMAGE, TEXT, TOKENIZER, DESCRIPTION = "image.onnx", "text.onnx", "tokenizer.json", "towers.json"
BATCH_SIZE = 256  # pictures or texts in memory

log = logging.getLogger("lcl")


class ZeroShot(NamedTuple):
    """Probabilities (N, C) float32 of N pictures for C names."""

    names: tuple[str, ...]
    probabilities: np.ndarray

    @property
    def top1(self) -> list[str]:
        """The most probable name of each picture, N."""
        return [self.names[column] for column in self.probabilities.argmax(1)]


class Model:
    """A trained model that `load` opened. All results are NumPy arrays; for a single input, N is 1.

    Pictures are paths, PIL images, NumPy arrays (H, W, 3) or torch tensors (3, H, W): one, a list, or a batch (N, H, W, 3) or
    (N, 3, H, W). Files and PIL images are cut to their middle square and resized as training data are. Arrays and tensors are
    uint8, or floats from 0 to 1 (rounded to uint8); if they are not `image_size` pixels large, say `resize=True`.

    Attributes:
        config: of the towers. image_size: in pixels. embed_dim: d. logit_scale: exp(τ); None in ONNX folders of version 0.1.
        clip, tokenizer: the torch model, which may be moved to a GPU, and its tokenizer; None for an ONNX folder.
    """

    clip = tokenizer = None

    def __init__(self, config: ModelConfig, images: Callable, texts: Callable, logit_scale: float | None):
        """images: (n, 3, H, W) uint8 → (n, d). texts: list of n → (n, d)."""
        self.config, self.image_size, self.embed_dim = config, config.vision.image_size, config.embed_dim
        self._images, self._texts, self.logit_scale = images, texts, logit_scale

    def encode_images(self, images: Any, resize: bool = False) -> np.ndarray:
        """Embed pictures: (N, d) float32, L2-normalised. Raises LclError for what does not fit, with the reason."""
        items = [(image, self.image_size, resize, f"picture {number}") for number, image in enumerate(split_images(images))]
        return _in_batches(items, lambda some: self._images(np.stack([to_pixels(*item) for item in some])))

    def encode_texts(self, texts: str | Iterable[str]) -> np.ndarray:
        """Embed texts: (N, d) float32, L2-normalised; what exceeds the context length is cut off. Raises LclError likewise."""
        return _in_batches(to_texts([texts] if isinstance(texts, str) else texts, "text"), self._texts)

    def zero_shot(
        self, images: Any, names: Iterable[str], templates: Iterable[str] = TEMPLATES, resize: bool = False
    ) -> ZeroShot:
        """Classify pictures by names, with a softmax over logit_scale · cosine.

        Args:
            images, resize: pictures, see `Model`.
            names: two classes or more, with an article where captions have one: "a cat".
            templates: prompts with {} for the name; a class is the normalised mean of their embeddings (Radford et al. 2021,
                section 3.1.4).

        Raises:
            LclError: for what does not fit, and for an ONNX folder without logit_scale.
        """
        names, templates = to_texts(names, "name"), to_texts(templates, "template")
        require(len(names) > 1, "name two classes or more; a single one would always have the probability 1.")
        require(all("{}" in template for template in templates), "every template needs {} in the place of the name.")
        require(self.logit_scale is not None, "this ONNX folder of version 0.1 has no logit_scale; export it again.")
        prompts = [template.replace("{}", name) for name in names for template in templates]
        classes = _normalise(self.encode_texts(prompts).reshape(len(names), len(templates), -1).mean(1))  # (C, d)
        logits = self.logit_scale * self.encode_images(images, resize) @ classes.T  # (N, C)
        weights = np.exp(logits - logits.max(1, keepdims=True))
        return ZeroShot(tuple(names), weights / weights.sum(1, keepdims=True))

    def search(self, query: Any, images: Any, k: int = 5) -> list[tuple[str | int, float]]:
        """Find the k pictures nearest to a text or a picture.

        Args:
            query: a string is a text; a Path, PIL image, array or tensor is a picture.
            images: a folder, searched with those below it; pictures; or embeddings (N, d). What a folder holds and cannot be
                read is left out, with a warning.

        Returns:
            (name, cosine), the nearest first; the name is the path below the folder, else the number of the picture.
        """
        require(isinstance(k, (int, np.integer)) and k >= 1, f"k is the number of pictures to find, 1 or more, not {k!r}.")
        wanted = self.encode_texts(query) if isinstance(query, str) else self.encode_images(query)
        require(len(wanted) == 1, f"search takes one query at a time, not {len(wanted)}.")
        if isinstance(images, (str, Path)):
            names, v = self._embed_folder(Path(images))
        else:
            v = to_array(images)[0] if getattr(images, "ndim", 0) == 2 else self.encode_images(images)
            names = range(len(v))
            fits = len(v) > 0 and v.shape[1] == self.embed_dim and bool(np.isfinite(v).all())
            require(fits, f"embeddings must be (N, {self.embed_dim}) without NaN; these are {v.shape}.")
        return nearest(names, _normalise(v), wanted[0], k)

    def _embed_folder(self, folder: Path) -> tuple[Sequence[str], np.ndarray]:
        if self.clip is not None:
            from lcl.deploy.gallery import open_gallery

            gallery = open_gallery(folder, self.clip)  # embeddings are cached
            for warning in gallery.warnings:
                log.warning("%s", warning)
            if gallery.faults:
                log.warning("left out of the search in %s: %s", folder, gallery.faults)
            return gallery.names, gallery.v.numpy()
        found: dict[str, np.ndarray] = {}
        for path in find_pictures(folder):
            try:
                found[path.relative_to(folder.resolve()).as_posix()] = self.encode_images(path)[0]
            except LclError as reason:
                log.warning("left out of the search: %s", reason)
        require(bool(found), f"none of the pictures in {folder} can be read.")
        return list(found), np.stack(list(found.values()))


def nearest(names: Sequence, v: np.ndarray, query: np.ndarray, k: int) -> list[tuple[Any, float]]:
    """The k names nearest to a query, the nearest first, each with its cosine; of equally near ones the first comes first.

    Args:
        names: N. v: (N, d) float, L2-normalised. query: (d,), likewise.
        k: how many, 1 or more.
    """
    cosines = v @ query  # (N,)
    return [(names[row], float(cosines[row])) for row in np.argsort(-cosines, kind="stable")[:k]]


def _in_batches(items: list, encode: Callable[[list], np.ndarray]) -> np.ndarray:
    return np.concatenate([encode(items[start : start + BATCH_SIZE]) for start in range(0, len(items), BATCH_SIZE)])


def _normalise(v: np.ndarray) -> np.ndarray:
    return v / np.linalg.norm(v, axis=1, keepdims=True).clip(1e-12)


def load(path: str | Path) -> Model:
    """Open a run's folder, exported towers, or an ONNX folder; torch is imported for the first two alone.

    No code of the folder runs, and no network is used. But an ONNX graph can compute anything, and so take any time and memory:
    open only those of people whom you trust.

    Raises:
        LclError: for a folder that is none of these, or is incomplete or damaged.
    """
    folder = Path(path)
    if (folder / DESCRIPTION).exists():
        return _load_onnx(folder)
    known = (folder / "model.json").exists()
    require(known, f"{folder} is no folder with a model: a run or towers have model.json there, an ONNX export {DESCRIPTION}.")

    import torch

    from lcl.eval.metrics import embed_images, embed_texts
    from lcl.models.clip import load_model

    clip, tokenizer = load_model(folder)
    model = Model(
        clip.config,
        lambda pixels: embed_images(clip, torch.from_numpy(pixels)).numpy(),
        lambda texts: embed_texts(clip, tokenizer, texts).numpy(),
        clip.logit_scale.item(),
    )
    model.clip, model.tokenizer = clip, tokenizer
    return model


class OnnxFolder(NamedTuple):
    """An ONNX folder that was checked: the sessions of both towers, the tokenizer's engine, and the fingerprint of the files."""

    config: ModelConfig
    image: Any
    text: Any
    engine: Any
    logit_scale: float | None
    fingerprint: str


def open_onnx(folder: Path) -> OnnxFolder:
    """Open an ONNX folder. The engine cuts and pads. Raises LclError for files that are missing, damaged or of other towers."""
    about = read_description(folder)
    config, old = from_dict(ModelConfig, about.get("model")), about["format"] == OLD_FORMAT
    image, text = open_sessions(folder)
    inputs = [(each.name, each.type, each.shape[1:]) for each in (*image.get_inputs(), *text.get_inputs())]
    widths = [session.get_outputs()[0].shape[1:] for session in (image, text)]
    side, words = config.vision.image_size, inputs[-1][2]  # the number of tokens is a name, since it varies
    wanted = [("images", "tensor(uint8)", [3, side, side]), ("ids", "tensor(int64)", words), ("mask", "tensor(bool)", words)]
    fits = inputs == wanted and widths == [[config.embed_dim]] * 2
    require(fits, f"{folder / DESCRIPTION} describes other towers than {IMAGE} and {TEXT}, which take {inputs}; export again.")
    length, scale = config.language.context_length, about.get("logit_scale")
    if old:
        saved, scale = about.get("tokenizer"), None
        require(isinstance(saved, dict), f"{folder / DESCRIPTION} is damaged (its tokenizer is missing); export again.")
        engine = cut_and_pad(read_engine(saved.get("engine"), str(folder / DESCRIPTION)), length)
    else:
        right = isinstance(scale, float) and 0 < scale < math.inf
        require(right, f"{folder / DESCRIPTION} is damaged (logit_scale is no positive number); export again.")
        engine = read_engine(storage.read_json(folder / TOKENIZER, storage.MAX_MODEL_BYTES), str(folder / TOKENIZER), length)
    fits = engine.get_vocab_size() <= config.language.vocab_size
    require(fits, f"the tokenizer in {folder} has more tokens than {DESCRIPTION} says; export again.")
    return OnnxFolder(config, image, text, engine, scale, storage.fingerprint(about["files"]))


def _load_onnx(folder: Path) -> Model:
    config, image, text, engine, scale, _ = open_onnx(folder)

    def encode_texts(texts: list[str]) -> np.ndarray:
        rows = engine.encode_batch([clean(text) for text in texts])
        ids, mask = np.array([row.ids for row in rows], np.int64), np.array([row.attention_mask for row in rows], bool)  # (n, L)
        return text.run(None, {"ids": ids, "mask": mask})[0]

    return Model(config, lambda pixels: image.run(None, {"images": pixels})[0], encode_texts, scale)


def read_description(folder: Path) -> dict:
    """An ONNX folder's towers.json. Raises LclError unless the files have the checksums that it names."""
    about = storage.read_json(folder / DESCRIPTION, storage.MAX_MODEL_BYTES)
    ours = isinstance(about, dict) and about.get("format") in (FORMAT, OLD_FORMAT) and isinstance(about.get("files"), dict)
    require(ours, f"{folder / DESCRIPTION} describes no towers of this library.")
    for name in (IMAGE, TEXT) if about["format"] == OLD_FORMAT else (IMAGE, TEXT, TOKENIZER):
        same = storage.file_sha256(folder / name) == about["files"].get(name)
        require(same, f"{folder / name} is not the file that {DESCRIPTION} describes; export again.")
    return about


def open_sessions(folder: Path, threads: int = 0) -> list:
    """The ONNX Runtime sessions of both towers. threads: of a call; 0 for all cores. Raises LclError for damaged files."""
    onnxruntime = need("onnxruntime", "onnx")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        return [onnxruntime.InferenceSession(folder / name, options, ["CPUExecutionProvider"]) for name in (IMAGE, TEXT)]
    except Exception as error:  # the runtime has a family of exceptions of its own
        raise LclError(f"the towers in {folder} cannot be opened ({str(error).splitlines()[0]}); export again.") from None
