"""Works that this library and an earlier version of it can both do, each in a process of its own; `history` starts them.

python benchmarks/works.py new|old FOLDER

It is asked by lines of JSON on standard input, [name, size], and does that work once; it answers on standard output with a
line: the amount of work done, a number. The first time it prepares what the work needs. What a library prints goes to standard
error. This file imports nothing from its own checkout, so that PYTHONPATH decides which library it measures.
"""

from __future__ import annotations

import io
import itertools
import json
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

Work = Callable[[], object]


def planned(new: bool, folder: Path, size: int) -> Work:
    """Decide what `size` scenes show, and write their captions; on one core."""
    world = scenes(new)
    return lambda: [world.scene("train", index) for index in range(size)]


def drawn(new: bool, folder: Path, size: int) -> Work:
    """Draw `size` planned scenes, 256 at a time; on one core."""
    world = scenes(new)
    plans = [world.scene("train", index) for index in range(size)]

    def draw() -> None:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        for start in range(0, size, 256):
            world.render(plans[start : start + 256])
        torch.set_num_threads(threads)

    return draw


def narrow(new: bool, folder: Path, size: int, width: int = 384) -> Work:
    """Eight exact neighbours of each of `size` random directions."""
    if new:
        from lcl.teachers.search import nearest_neighbours
    else:
        from lcl.neighbours import nearest_neighbours
    bank = F.normalize(torch.randn(size, width, generator=torch.Generator().manual_seed(0)), dim=1)
    return lambda: nearest_neighbours(bank, 8)


def wide(new: bool, folder: Path, size: int) -> Work:
    """The same of 1,280 dimensions."""
    return narrow(new, folder, size, 1280)


def looked_up(new: bool, folder: Path, size: int, width: int = 1280) -> Work:
    """1,024 random rows of a bank of `size` rows in half precision. Its file is sparse, so that no disk is read."""
    if new:
        from lcl.teachers.banks import Bank
    else:
        from lcl.banks import Bank
    path = folder / "features"
    with path.open("wb") as file:
        file.truncate(2 * size * width)
    features = torch.from_file(str(path), shared=False, size=size * width, dtype=torch.half).view(size, width)
    bank, order = Bank(folder, {}, "", features.split(4096)), torch.Generator().manual_seed(0)
    features[:, 0].float().sum()  # now every page is in memory: to fill it with zeros takes longer than a look-up
    return lambda: bank[torch.randint(size, (1024,), generator=order)]


def matched(new: bool, folder: Path, size: int) -> Work:
    """`size` exact matchings of 12 words with 64 patches, as a step of lightclip asks for."""
    if new:
        from lcl.losses.matching import exact
    else:
        from lcl.matching import exact
    draws = torch.Generator().manual_seed(0)
    words, patches = (F.normalize(torch.randn(size, number, 16, generator=draws), dim=-1) for number in (12, 64))
    cost, real = 1 - words @ patches.mT, torch.ones(size, 12, dtype=torch.bool)
    return lambda: exact(cost, real, 1.0)


def read(new: bool, folder: Path, size: int) -> Work:
    """Read `size` pairs of 256-pixel JPEGs from shards, in random order, as pictures of 64 pixels and captions."""
    if new:
        from lcl.data.collection import ShardDataset
        from lcl.data.shards import open_shards
        from lcl.data.writing import Sample, write_shards
    else:
        from lcl.collection import Collection
        from lcl.shards import Sample, open_shards, write_shards

    def samples() -> Iterator[Sample]:
        """Scenes of 64 pixels, enlarged: a dictionary of large drawings would take minutes."""
        pairs = scenes(new).pairs("train", range(size * 10 // 9))  # some are held out
        for number, (image, caption) in enumerate(zip(pairs.images, pairs.captions, strict=True)):
            file = io.BytesIO()
            large = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((256, 256), Image.BICUBIC)
            large.save(file, "JPEG", quality=95, subsampling=0)
            yield Sample(f"{number:06d}", file.getvalue(), "jpg", (caption,) if new else caption)

    write_shards(folder / "shards", samples(), {}, rows=512)
    shards = open_shards(folder / "shards")
    rows = ShardDataset(shards, 64).train(size) if new else Collection(shards, 64).training(size)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(0)).tolist()
    return lambda: [rows.take(order[start : start + 128]) for start in range(0, size, 128)]


def stepped(new: bool, folder: Path, size: int) -> Work:
    """`size` steps of `clip`, as the laptop trains it. Only the new code does it."""
    from lcl.config import get_profile
    from lcl.data.scenes import open_scenes
    from lcl.train.loop import Step, Training

    profile = get_profile("laptop")
    steps = (event for event in Training(profile, open_scenes(profile.scenes), seed=0) if isinstance(event, Step))
    return lambda: [next(steps) for _ in range(size)]


def scenes(new: bool) -> object:
    """The scenes of the laptop profile, in version 1: the old code has no other."""
    from lcl.config import SceneConfig

    if new:
        from lcl.data.scenes import open_scenes as make
    else:
        from lcl.scenes import open_world as make
    return make(SceneConfig(version=1) if new else SceneConfig())


WORKS = {
    "planned": planned, "drawn": drawn, "narrow": narrow, "wide": wide, "looked-up": looked_up, "matched": matched, "read": read,
    "stepped": stepped,
}  # fmt: skip


def main(version: str, folder: str) -> None:
    """Do what standard input asks for, until it ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    ready: dict[tuple[str, int], Work] = {}
    numbers = itertools.count()
    for line in sys.stdin:
        name, size = json.loads(line)
        if (name, size) not in ready:
            own = Path(folder) / f"{version}-{next(numbers)}"
            own.mkdir()
            ready = {(name, size): WORKS[name](version == "new", own, size)}  # those of other works are let go
        ready[name, size]()
        print(size, file=answers, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
