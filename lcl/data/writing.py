"""Write samples as tars in WebDataset's layout."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from lcl import storage
from lcl.config import Progress, need, require
from lcl.data.manifest import read_manifest, source_of, write_manifest
from lcl.data.scenes import SceneDataset

ROWS = 1000  # of a tar


class Sample(NamedTuple):
    """A sample to write: a picture with its captions.

    Attributes:
        key: its name, without a dot.
        image: the picture's file.
        extension: of the picture's file.
        captions: one or more.
        about: further facts, JSON-able.
    """

    key: str
    image: bytes
    extension: str
    captions: tuple[str, ...]
    about: dict | None = None


def write_shards(
    folder: Path,
    samples: Iterator[Sample],
    source: dict,
    start: int = 0,
    rows: int = ROWS,
    progress: Progress | None = None,
) -> dict[str, dict]:
    """Write samples to `pairs-00000.tar` and so on, each tar atomically, and the manifest.

    Args:
        folder: for the tars.
        samples: to write, from tar `start` on.
        source: what they are made from, JSON-able.
        start: number of the first tar.
        rows: samples a tar.
        progress: called with the number of samples written since the last call.

    Returns:
        The manifest's entry of every tar.

    Raises:
        LclError: for a folder that cannot be written, or holds other files of these names or shards of another source.
    """
    TarWriter = need("webdataset", "shards").TarWriter

    folder = Path(folder)
    tars = read_manifest(folder)
    before = source_of(folder) if tars else source
    require(before == source, f"the shards in {folder} are made of something else ({before}); name another folder.")
    while chunk := list(itertools.islice(samples, rows)):
        name, buffer = f"pairs-{start:05d}.tar", io.BytesIO()
        writer = TarWriter(buffer, encoder=False, mtime=0)  # equal samples, equal bytes
        for sample in chunk:
            members = {sample.extension: sample.image, "txt": sample.captions[0].encode()}
            several = {"captions": sample.captions} if len(sample.captions) > 1 else {}
            if about := several | (sample.about or {}):
                members["json"] = json.dumps(about, ensure_ascii=False).encode()
            writer.write({"__key__": sample.key} | members)
        writer.close()
        data = buffer.getvalue()
        there = (folder / name).exists()
        same = there and storage.file_sha256(folder / name) == storage.sha256(data)  # killed before it was in the manifest
        require(same or not there, f"{folder / name} is there already, and is another one; name another folder, or remove it.")
        if not same:
            storage.write_bytes(folder / name, data)
        tars[name] = {"bytes": len(data), "sha256": storage.sha256(data), "rows": len(chunk)}
        write_manifest(folder, tars, source)
        start += 1
        if progress:
            progress(len(chunk))
    return tars


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
