"""Text-to-image search over a folder of pictures: they are looked at once, and then asked in any words."""

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
from lcl.data.tars import IMAGES
from lcl.eval.metrics import embed_images, embed_texts
from lcl.models.clip import Clip, weights_sha256
from lcl.models.tokenizer import Tokenizer

CODE = 1  # raise it when the same pictures and model would give other embeddings than before
AT_ONCE = 256  # pictures in memory


@dataclass(frozen=True)
class Gallery:
    """The pictures of a folder, embedded. names: paths below it, N. v: (N, d), L2-normalised. faults: what was left out, by
    its short name. fresh: how many were looked at now; the others were known."""

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
    """Embed the pictures of a folder and those below it; what did not change since the last call is not looked at again.

    The embeddings are kept in `data/cache/search`, and nothing is written among the pictures. progress: is told the number of
    pictures that are done. Raises LclError for a folder that is none, and one without a picture that can be read.
    """
    folder = Path(folder)
    require(folder.is_dir(), f"there is no folder {folder}.")
    root = folder.resolve()
    files = sorted(path for path in root.rglob("*") if path.suffix.lower().removeprefix(".") in IMAGES and path.is_file())
    files = [path for path in files if path.resolve().is_relative_to(root)]  # links may lead anywhere
    require(bool(files), f"there are no pictures in {folder} ({', '.join(IMAGES)}); name another folder.")
    key = storage.fingerprint([CODE, str(root), weights_sha256(model)])
    place = data_folder() / "cache" / "search" / f"{key}.safetensors"
    known = _kept(place)
    seen: dict[str, tuple[list[int], torch.Tensor]] = {}
    faults: collections.Counter[str] = collections.Counter()
    fresh = 0
    for start in range(0, len(files), AT_ONCE):
        images: dict[str, tuple[list[int], torch.Tensor]] = {}
        some = files[start : start + AT_ONCE]
        for path in some:
            name, about = path.relative_to(root).as_posix(), path.stat()
            state = [about.st_size, about.st_mtime_ns]
            if name in known and known[name][0] == state:
                seen[name] = known[name]
                continue
            try:
                images[name] = state, decode_image(read_file(path), model.config.vision.image_size)
            except BadSample as reason:
                faults[str(reason)] += 1
        if images:
            v = embed_images(model, torch.stack([image for _, image in images.values()]))  # (n, d)
            seen |= {name: (state, row) for (name, (state, _)), row in zip(images.items(), v, strict=True)}
            fresh += len(images)
        if progress:
            progress(len(some))
    require(bool(seen), f"none of the {len(files):,} pictures in {folder} can be read: {tell(faults)}.")
    names = tuple(sorted(seen))
    v = torch.stack([seen[name][1] for name in names])  # (N, d)
    if fresh or set(known) != set(names):
        storage.write_tensors(place, {"v": v}, {"files": json.dumps({name: seen[name][0] for name in names})})
    return Gallery(folder, names, v, dict(faults), fresh)


def _kept(place: Path) -> dict[str, tuple[list[int], torch.Tensor]]:
    """What is known of pictures from an earlier call: {name: ([bytes, time], (d,))}; nothing if that is damaged."""
    try:
        files, v = json.loads(storage.read_metadata(place)["files"]), storage.read_tensors(place)["v"]
        return {name: (state, row) for (name, state), row in zip(files.items(), v, strict=True)}
    except (LclError, KeyError, ValueError, AttributeError):
        return {}


def search(gallery: Gallery, model: Clip, tokenizer: Tokenizer, words: str, k: int = 5) -> list[tuple[str, float]]:
    """The k pictures nearest to some words, the nearest first, each with its cosine. Raises LclError for no words at all."""
    require(bool(words.strip()), "say what to look for, in a few words.")
    cosines = gallery.v @ embed_texts(model, tokenizer, [words])[0]  # (N,)
    best = cosines.sort(descending=True, stable=True).indices[:k]
    return [(gallery.names[row], cosines[row].item()) for row in best.tolist()]
