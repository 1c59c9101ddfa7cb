"""Text-to-image search over a folder of pictures, whose embeddings are cached."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch

from lcl import storage
from lcl.config import LclError, Progress, data_folder, require, to_dict
from lcl.data.photos import BadSample, decode_image, read_file
from lcl.data.shards import list_faults
from lcl.deploy.inputs import find_pictures
from lcl.deploy.load import nearest
from lcl.eval.metrics import embed_images, embed_texts
from lcl.models.clip import Clip, weights_sha256
from lcl.models.tokenizer import Tokenizer

CODE = 2  # raise it when the same pictures and model would give other embeddings than before
BATCH_SIZE = 256  # pictures in memory


@dataclass(frozen=True)
class Gallery:
    """The pictures of a folder and their embeddings.

    Attributes:
        names: paths below the folder, N. v: (N, d), L2-normalised.
        faults: number of pictures that cannot be used, by reason.
        fresh: number of pictures that were embedded now; the other embeddings come from the cache.
        warnings: sentences for the user, such as that the cache cannot be written.
    """

    folder: Path
    names: tuple[str, ...]
    v: torch.Tensor
    faults: dict[str, int]
    fresh: int
    warnings: tuple[str, ...] = ()

    def images(self, names: Sequence[str], pixels: int) -> torch.Tensor:
        """Some of the pictures, to show: (n, 3, pixels, pixels) uint8. Raises LclError if one is gone."""
        try:
            return torch.stack([decode_image(read_file(self.folder / name), pixels) for name in names])
        except BadSample as reason:
            raise LclError(f"a picture of {self.folder} cannot be read any more ({reason}); search again.") from None


class _Cached(NamedTuple):
    """A cached embedding. state: of the file; sha256: of its bytes; v: (d,)."""

    state: list[int]
    sha256: str
    v: torch.Tensor


def open_gallery(folder: Path, model: Clip, progress: Progress | None = None) -> Gallery:
    """Embed the pictures of a folder and those below it. The cache lies in `data/cache/search`, not among the pictures.

    A picture whose name, size and times are those of the last call is not read. Any other is read, and embedded only if no
    folder that this model has searched held the same bytes: moved and renamed pictures are not embedded again.

    Args:
        folder: is read only.
        model: embeds the pictures; a `Clip`, or the `OnnxTowers` of `load_onnx`.
        progress: is given the number of pictures that are done.

    Returns:
        The gallery. A cache that cannot be written costs a warning.

    Raises:
        LclError: for a folder that does not exist or holds no picture that can be read.
    """
    files, root = find_pictures(folder), Path(folder).resolve()
    weights = weights_sha256(model) if isinstance(model, Clip) else model.sha256
    of_model = storage.fingerprint([CODE, weights, to_dict(model.config)])
    cache = data_folder() / "cache" / "search" / f"{of_model}-{storage.fingerprint(str(root))}.safetensors"
    cached, by_content = _read_cache(cache), None
    found: dict[str, _Cached] = {}
    faults: collections.Counter[str] = collections.Counter()
    fresh = 0
    for start in range(0, len(files), BATCH_SIZE):
        images: dict[str, tuple[list[int], str, torch.Tensor]] = {}
        batch = files[start : start + BATCH_SIZE]
        for path in batch:
            name = path.relative_to(root).as_posix()
            try:
                state = _state(path)  # before the file is read, so that a change meanwhile is noticed at the next call
                if name in cached and cached[name].state == state:
                    found[name] = cached[name]
                    continue
                data = read_file(path)
                content = storage.sha256(data)
                if by_content is None:
                    by_content = _read_contents(cache.parent, of_model)
                if content in by_content:
                    found[name] = _Cached(state, content, by_content[content])
                else:
                    images[name] = state, content, decode_image(data, model.config.vision.image_size)
            except BadSample as reason:
                faults[str(reason)] += 1
        if images:
            v = embed_images(model, torch.stack([image for *_, image in images.values()]))  # (n, d)
            for (name, (state, content, _)), row in zip(images.items(), v, strict=True):
                found[name], by_content[content] = _Cached(state, content, row), row
            fresh += len(images)
        if progress:
            progress(len(batch))
    require(bool(found), f"none of the {len(files):,} pictures in {folder} can be read: {list_faults(faults)}.")
    names = tuple(sorted(found))
    v = torch.stack([found[name].v for name in names])  # (N, d)
    listed, before = ({name: [one.state, one.sha256] for name, one in some.items()} for some in (found, cached))
    warnings = _write_cache(cache, v, {name: listed[name] for name in names}) if listed != before else ()
    return Gallery(Path(folder), names, v, dict(faults), fresh, warnings)


def _state(path: Path) -> list[int]:
    """Size and times of a file. The second time changes with every write, even where the first is set back."""
    try:
        about = path.stat()
    except OSError:
        raise BadSample("image: not readable") from None
    return [about.st_size, about.st_mtime_ns, about.st_ctime_ns]


def _read_cache(path: Path) -> dict[str, _Cached]:
    """The cached embeddings of a folder, by name; empty if the file is missing or damaged."""
    try:
        metadata, v = storage.read_metadata(path), storage.read_tensors(path)["v"]
        files, checksum = json.loads(metadata["files"]), _checksum(v, metadata["files"])
        require(metadata.get("checksum", checksum) == checksum, f"{path} is damaged.")  # older caches have none
        return {name: _Cached(*about, row) for (name, about), row in zip(files.items(), v, strict=True)}
    except (LclError, KeyError, ValueError, AttributeError, TypeError):
        return {}


def _checksum(v: torch.Tensor, files: str) -> str:
    return storage.sha256(v.numpy().tobytes() + files.encode())


def _read_contents(folder: Path, of_model: str) -> dict[str, torch.Tensor]:
    """All embeddings that a model's caches hold, by the SHA-256 of the picture's file."""
    caches = (_read_cache(path) for path in sorted(folder.glob(f"{of_model}-*.safetensors")))
    return {one.sha256: one.v for cached in caches for one in cached.values()}


def _write_cache(path: Path, v: torch.Tensor, files: dict) -> tuple[str, ...]:
    """Write a cache; returns a warning if that is not possible."""
    try:
        text = json.dumps(files)
        storage.write_tensors(path, {"v": v}, {"files": text, "checksum": _checksum(v, text)})
        return ()
    except LclError as error:
        reason = error.__cause__.strerror if isinstance(error.__cause__, OSError) else error
        return (
            f"the embeddings are not cached, since {path.parent} cannot be written ({reason}), so the next search embeds these "
            "pictures again; set the environment variable LCL_DATA to a folder that can be written.",
        )


def search(gallery: Gallery, model: Clip, tokenizer: Tokenizer, words: str, k: int = 5) -> list[tuple[str, float]]:
    """The k pictures nearest to a text, the nearest first, each with its cosine. Raises LclError for an empty text."""
    require(bool(words.strip()), "say what to look for, in a few words.")
    return nearest(gallery.names, gallery.v.numpy(), embed_texts(model, tokenizer, [words])[0].numpy(), k)
