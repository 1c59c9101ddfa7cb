"""Write samples as tars in WebDataset's layout."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from PIL import Image

from lcl import storage
from lcl.config import Progress, need, require
from lcl.data.manifest import read_manifest, source_of, write_manifest
from lcl.data.scenes import SceneDataset
from lcl.data.shards import write_index
from lcl.data.tars import scan

ROWS = 1000  # of a tar, at most …
TAR_BYTES = 256 * 2**20  # … and it ends with the sample that reaches this size: a tar is in memory until it is written


class Sample(NamedTuple):
    """A sample to write: a picture with its captions.

    Attributes:
        key: its name, without a dot.
        image: the picture's file.
        extension: of the picture's file.
        captions: one or more.
        about: further facts, JSON-able.
        pixels: the decoded picture, (3, SCANNED, SCANNED) uint8, if it is at hand: it need not be decoded again.
    """

    key: str
    image: bytes
    extension: str
    captions: tuple[str, ...]
    about: dict | None = None
    pixels: torch.Tensor | None = None


def write_shards(
    folder: Path,
    samples: Iterator[Sample],
    source: dict,
    start: int = 0,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """Write samples to `pairs-00000.tar` and so on, each tar atomically, and the manifest.

    If every sample brings its pixels, the index is written, too: `open_shards` then need not scan the tars.

    Args:
        folder: for the tars.
        samples: to write, from tar `start` on.
        source: what they are made from, JSON-able.
        start: number of the first tar.
        rows: samples a tar, at most.
        progress: called with the number of samples written since the last call.

    Returns:
        The manifest's entry of every tar.

    Raises:
        LclError: for a folder that cannot be written, or holds other files of these names or shards of another source.
    """
    folder = Path(folder)
    tars, scanned = read_manifest(folder), {}
    before = source_of(folder) if tars else source
    require(before == source, f"the shards in {folder} are made of something else ({before}); name another folder.")
    for number, chunk in enumerate(_tars(samples, rows), start):
        name, size, sha256 = f"pairs-{number:05d}.tar", chunk.file.getbuffer().nbytes, storage.sha256(chunk.file.getbuffer())
        there = (folder / name).exists()
        same = there and storage.file_sha256(folder / name) == sha256  # killed before it was in the manifest
        require(same or not there, f"{folder / name} is there already, and is another one; name another folder, or remove it.")
        if not same:
            storage.write_bytes(folder / name, chunk.file.getbuffer())
        if len(chunk.pixels) == chunk.rows:
            scanned[name] = scan(chunk.file, size, sha256, chunk.pixels)
        tars[name] = {"bytes": size, "sha256": sha256, "rows": chunk.rows}
        write_manifest(folder, tars, source)
        if progress:
            progress(chunk.rows)
    if scanned and scanned.keys() == tars.keys() and not any(contents.faults for contents in scanned.values()):
        write_index(folder, tars, scanned.values(), {}, {})
    return tars


class _Tar(NamedTuple):
    file: io.BytesIO
    rows: int
    pixels: dict[str, torch.Tensor]


def _tars(samples: Iterator[Sample], rows: int) -> Iterator[_Tar]:
    """Samples as tars in memory."""
    TarWriter = need("webdataset", "shards").TarWriter

    for first in samples:
        file, pixels, count = io.BytesIO(), {}, 0
        with TarWriter(file, encoder=False, mtime=0) as writer:  # equal samples, equal bytes
            for sample in itertools.chain([first], samples):
                members = {sample.extension: sample.image, "txt": sample.captions[0].encode()}
                several = {"captions": sample.captions} if len(sample.captions) > 1 else {}
                if about := several | (sample.about or {}):
                    members["json"] = json.dumps(about, ensure_ascii=False).encode()
                writer.write({"__key__": sample.key} | members)
                count += 1
                if sample.pixels is not None:
                    pixels[sample.key] = sample.pixels
                if count == rows or file.tell() >= TAR_BYTES:
                    break
        yield _Tar(file, count, pixels)


def next_tar(folder: Path) -> int:
    """The number of tars, from the first on, that exist and are in the manifest: where writing resumes."""
    tars = read_manifest(Path(folder))
    names = (f"pairs-{number:05d}.tar" for number in itertools.count())
    return next(number for number, name in enumerate(names) if name not in tars or not (Path(folder) / name).exists())


def scene_samples(world: SceneDataset, indices: range) -> Iterator[Sample]:
    """Training scenes as samples: JPEG of high quality, and JSON with the box and the words of every object."""
    for start in range(indices.start, indices.stop, 256):
        pairs = world.pairs("train", range(start, min(start + 256, indices.stop)))
        for index, (image, scene) in enumerate(zip(pairs.images, pairs.scenes, strict=True), start=start):
            file = io.BytesIO()
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "JPEG", quality=95, subsampling=0)
            objects = [{"name": world.name(obj.concept), "box": obj.box, "words": obj.span} for obj in scene.objects]
            yield Sample(f"{index:09d}", file.getvalue(), "jpg", (scene.caption,), {"things": objects})
