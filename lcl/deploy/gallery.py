"""Text-to-image search over a folder of pictures, whose embeddings are cached."""

from __future__ import annotations

import collections
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from lcl import storage
from lcl.config import LclError, Progress, data_folder, require
from lcl.data.photos import BadSample, decode_image, read_file
from lcl.data.shards import tell
from lcl.deploy.inputs import find_pictures
from lcl.eval.metrics import embed_images, embed_texts
from lcl.models.clip import Clip, weights_sha256
from lcl.models.tokenizer import Tokenizer

CODE = 1  # raise it when the same pictures and model would give other embeddings than before
BATCH_SIZE = 256  # pictures in memory


@dataclass(frozen=True)
class Gallery:
    """The pictures of a folder and their embeddings.

    Attributes:
        names: paths below the folder, N. v: (N, d), L2-normalised.
        faults: number of pictures that cannot be used, by reason.
        fresh: number of pictures that were embedded now; the other embeddings come from the cache.
    """

    folder: Path
    names: tuple[str, ...]
    v: torch.Tensor
    faults: dict[str, int]
    fresh: int

    def images(self, names: Sequence[str], pixels: int) -> torch.Tensor:
        """Some of the pictures, to show: (n, 3, pixels, pixels) uint8. Raises LclError if one is gone."""
        try:
            return torch.stack([decode_image(read_file(self.folder / name), pixels) for name in names])
        except BadSample as reason:
            raise LclError(f"a picture of {self.folder} cannot be read any more ({reason}); search again.") from None


def open_gallery(folder: Path, model: Clip, progress: Progress | None = None) -> Gallery:
    """Embed the pictures of a folder and those below it. The cache lies in `data/cache/search`, not among the pictures.

    Args:
        folder: is read only. Pictures that changed since the last call, by size or time, are embedded again.
        model: embeds them.
        progress: is given the number of pictures that are done.

    Raises:
        LclError: for a folder that does not exist or holds no picture that can be read.
    """
    files, root = find_pictures(folder), Path(folder).resolve()
    key = storage.fingerprint([CODE, str(root), weights_sha256(model)])
    cache = data_folder() / "cache" / "search" / f"{key}.safetensors"
    cached = _read_cache(cache)
    found: dict[str, tuple[list[int], torch.Tensor]] = {}
    faults: collections.Counter[str] = collections.Counter()
    fresh = 0
    for start in range(0, len(files), BATCH_SIZE):
        images: dict[str, tuple[list[int], torch.Tensor]] = {}
        batch = files[start : start + BATCH_SIZE]
        for path in batch:
            name, about = path.relative_to(root).as_posix(), path.stat()
            state = [about.st_size, about.st_mtime_ns]
            if name in cached and cached[name][0] == state:
                found[name] = cached[name]
                continue
            try:
                images[name] = state, decode_image(read_file(path), model.config.vision.image_size)
            except BadSample as reason:
                faults[str(reason)] += 1
        if images:
            v = embed_images(model, torch.stack([image for _, image in images.values()]))  # (n, d)
            found |= {name: (state, row) for (name, (state, _)), row in zip(images.items(), v, strict=True)}
            fresh += len(images)
        if progress:
            progress(len(batch))
    require(bool(found), f"none of the {len(files):,} pictures in {folder} can be read: {tell(faults)}.")
    names = tuple(sorted(found))
    v = torch.stack([found[name][1] for name in names])  # (N, d)
    if fresh or set(cached) != set(names):
        storage.write_tensors(cache, {"v": v}, {"files": json.dumps({name: found[name][0] for name in names})})
    return Gallery(Path(folder), names, v, dict(faults), fresh)


def _read_cache(path: Path) -> dict[str, tuple[list[int], torch.Tensor]]:
    """{name: ([bytes, time], (d,))} from an earlier call; empty if the file is missing or damaged."""
    try:
        files, v = json.loads(storage.read_metadata(path)["files"]), storage.read_tensors(path)["v"]
        return {name: (state, row) for (name, state), row in zip(files.items(), v, strict=True)}
    except (LclError, KeyError, ValueError, AttributeError):
        return {}


def search(gallery: Gallery, model: Clip, tokenizer: Tokenizer, words: str, k: int = 5) -> list[tuple[str, float]]:
    """The k pictures nearest to a text, the nearest first, each with its cosine. Raises LclError for an empty text."""
    require(bool(words.strip()), "say what to look for, in a few words.")
    cosines = gallery.v @ embed_texts(model, tokenizer, [words])[0]  # (N,)
    best = cosines.sort(descending=True, stable=True).indices[:k]
    return [(gallery.names[row], cosines[row].item()) for row in best.tolist()]
