"""Speed beside trusted peers: all in one run, taking turns, because machines are noisy; ratios are what counts."""

from __future__ import annotations

import dataclasses
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image

from lcl.collection import Collection
from lcl.config import LanguageConfig, ModelConfig, TrainConfig, VisionConfig, get_profile
from lcl.contrastive import info_nce
from lcl.encoders import ImageEncoder, TextEncoder, load_image_model, load_text_model
from lcl.feeds import batches, one_thread
from lcl.matching import SOLVERS
from lcl.model import Clip
from lcl.neighbours import BLOCK, KEPT, nearest_neighbours
from lcl.recipes import RECIPES, get_recipe
from lcl.runs import processor
from lcl.scenes import World, open_world
from lcl.shards import open_shards, scene_samples, write_shards
from lcl.text import Tokenizer, Tokens
from lcl.training import Step, Training, make_optimizer, open_teacher, train_tokenizer

BATCH = 256


def seconds(work: Callable[[], object], times: int) -> float:
    """Seconds for one `work()`: the median of several."""
    laps = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        laps.append(time.perf_counter() - start)
    return statistics.median(laps)


def take_turns(
    ours: Callable[[], object], peer: Callable[[], object], repeats: int, times: int = 5
) -> list[tuple[float, float]]:
    """Seconds of ours and of the peer, `repeats` times, after one unmeasured round of each."""
    ours(), peer()
    return [(seconds(ours, times), seconds(peer, times)) for _ in range(repeats)]


def show(what: str, unit: str, amount: int, laps: Sequence[tuple[float, float]]) -> float:
    """Print ours, the peer's, and how many times faster ours is, with its range; returns the median ratio."""
    ours, peer = (statistics.median(column) for column in zip(*laps, strict=True))
    ratios = sorted(peer / ours for ours, peer in laps)
    middle = statistics.median(ratios)
    print(
        f"{what:58s} {amount / ours:9,.0f} {unit}   peer {amount / peer:9,.0f} {unit}   "
        f"ratio {middle:.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f}, {len(ratios)} repeats)"
    )
    return middle


def clip_step(model: Clip, images: torch.Tensor, tokens: Tokens) -> Callable[[], None]:
    """One step of ours: forward, InfoNCE, backward, AdamW."""
    optimizer = make_optimizer(model, get_profile("laptop").training)

    def step() -> None:
        seen = model(images, tokens)
        loss = info_nce(seen.v, seen.t, seen.logit_scale)["info_nce"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def open_clip_step(config: ModelConfig, images: torch.Tensor, ids: torch.Tensor) -> Callable[[], None]:
    """The same step with open_clip's towers of the same size, its loss, and the same optimiser."""
    import open_clip

    vision, language = config.vision, config.language
    model = open_clip.model.CLIP(
        config.embed_dim,
        vision_cfg={
            "image_size": vision.image_size, "patch_size": vision.patch_size, "width": vision.width,
            "layers": vision.depth, "head_width": vision.width // vision.heads, "pool_type": "avg",
        },
        text_cfg={
            "context_length": ids.shape[1], "vocab_size": language.vocab_size, "width": language.width,
            "heads": language.heads, "layers": language.depth,
        },
    )  # fmt: skip
    loss_of = open_clip.ClipLoss()
    optimizer = make_optimizer(model, get_profile("laptop").training)
    images = images.float() / 127.5 - 1

    def step() -> None:
        v, t, logit_scale = model(images, ids)
        loss = loss_of(v, t, logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def padded(tokens: Tokens, length: int) -> Tokens:
    """The same tokens, padded to a fixed length."""
    extra = length - tokens.ids.shape[1]
    pad = torch.nn.functional.pad
    return Tokens(
        pad(tokens.ids, (0, extra)), pad(tokens.mask, (0, extra)), pad(tokens.words, (0, extra), value=-1), tokens.spans
    )


def training_step(world: World, repeats: int) -> None:
    """A step beside open_clip's: ViT, 64 pixels, patches of 16, width 192, depth 4; text of width 192, depth 2."""
    laptop = get_profile("laptop")
    config = ModelConfig(VisionConfig("vit", width=192, depth=4, heads=3), LanguageConfig(width=192, depth=2, heads=3))
    length = config.language.context_length
    pairs = world.pairs("train", range(BATCH))
    tokens = train_tokenizer(world, laptop).encode(pairs.captions, length)
    for what, ours, theirs in (
        ("training step beside open_clip, each as it pads", tokens, padded(tokens, length)),
        ("training step beside open_clip, both padded alike", tokens, tokens),
    ):
        torch.manual_seed(0)
        step, peer = clip_step(Clip(config), pairs.images, ours), open_clip_step(config, pairs.images, theirs.ids)
        show(what, "pairs/s ", BATCH, take_turns(step, peer, repeats))


def rendering(world: World, repeats: int) -> None:
    """The renderer alone, beside drawing the same scenes one by one."""
    scenes = [world.scene("train", index) for index in range(2048)]

    def batched() -> None:
        for start in range(0, len(scenes), BATCH):
            world.render(scenes[start : start + BATCH])

    laps = take_turns(batched, lambda: [world.render([scene]) for scene in scenes], repeats, times=2)
    show("renderer, 64 pixels, batches of 256, beside one by one", "scenes/s", len(scenes), laps)


def solvers(repeats: int) -> None:
    """Matching 12 words with 64 patches: each solver, for the problems of a step of 256 pairs, 4 negatives each way."""
    settings = get_recipe("lightclip").match
    problems = BATCH * (1 + 2 * settings.negatives)
    torch.manual_seed(0)
    words, patches = (F.normalize(torch.randn(problems, number, 16), dim=-1) for number in (12, 64))
    cost, real = 1 - words @ patches.mT, torch.ones(problems, 12, dtype=torch.bool)
    for name, solve in SOLVERS.items():
        solve(cost, real, settings.price)
        laps = [seconds(lambda solve=solve: solve(cost, real, settings.price), times=1) for _ in range(repeats)]
        each = sorted(1e6 * lap / problems for lap in laps)
        print(
            f"matching 12 x 64, {name:9s} {statistics.median(each):8.1f} µs a pair ({each[0]:.1f} to {each[-1]:.1f}), "
            f"{1e3 * statistics.median(laps):7.1f} ms a step of {BATCH} pairs, {problems} problems"
        )


def bank_building(world: World, repeats: int) -> None:
    """Both banks of 512 scenes beside a plain loop: the same models as they come, in float32, batches of 64 in order."""
    pairs = world.pairs("train", range(512))
    images, texts = ImageEncoder(), TextEncoder()
    plain, sentences = load_image_model(images.name, images.size), load_text_model(texts.name, "cpu")

    @torch.inference_mode()
    def plain_images() -> None:
        for batch in pairs.images.split(64):
            F.normalize(plain(images.prepare(batch).contiguous()), dim=1)

    @torch.inference_mode()
    def plain_texts() -> None:
        for start in range(0, len(pairs), 64):
            sentences(sentences.preprocess(pairs.captions[start : start + 64]))["sentence_embedding"]

    def both() -> None:
        images(pairs.images)
        texts(pairs.captions)

    for what, ours, peer in (
        ("bank of images beside a plain loop", lambda: images(pairs.images), plain_images),
        ("bank of captions beside a plain loop", lambda: texts(pairs.captions), plain_texts),
        ("both banks beside plain loops", both, lambda: (plain_images(), plain_texts())),
    ):
        show(what, "rows/s  ", len(pairs), take_turns(ours, peer, repeats, times=1))


def neighbour_search(repeats: int, number: int = 100_000, width: int = 384) -> None:
    """Exact neighbours of every row beside FAISS's flat index, and beside the bare matrix product in the same blocks."""
    import faiss

    faiss.omp_set_num_threads(torch.get_num_threads())
    bank = F.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(0)), dim=1)
    found = {}

    def ours() -> None:
        found["ours"] = nearest_neighbours(bank, KEPT).indices

    def flat() -> None:
        index = faiss.IndexFlatIP(width)
        index.add(bank.numpy())
        found["FAISS"] = torch.from_numpy(index.search(bank.numpy(), KEPT + 1)[1][:, 1:])

    def bare() -> None:
        memory = torch.empty(BLOCK, BLOCK)
        for i in range(0, number, BLOCK):
            for j in range(0, number, BLOCK):
                rows, columns = bank[i : i + BLOCK], bank[j : j + BLOCK]
                torch.mm(rows, columns.T, out=memory[: len(rows), : len(columns)])

    laps = [(seconds(ours, 1), seconds(flat, 1), seconds(bare, 1)) for _ in range(repeats)]
    for peer, column in (("FAISS flat", 1), ("the bare product", 2)):
        what = f"{KEPT} neighbours, {number:,} x {width}, beside {peer}"
        show(what, "rows/s  ", number, [(lap[0], lap[column]) for lap in laps])
    same = (found["ours"] == found["FAISS"]).float().mean()
    print(f"the same as FAISS in {same:.4%} of all places; memory beside the bank: {peak_memory(number, width):.0f} MiB at most")


def peak_memory(number: int, width: int) -> float:
    """MiB that a search of every row needs at most beside the bank itself, in a process of its own."""
    work = f"""
import psutil, resource, sys, torch
from lcl.neighbours import KEPT, nearest_neighbours
bank = torch.empty({number}, {width}).uniform_(-1, 1)
bank /= bank.norm(dim=1, keepdim=True)
nearest_neighbours(bank[:4096], 1)  # what every library sets up once
before = psutil.Process().memory_info().rss
nearest_neighbours(bank, KEPT)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print((peak - before) / 2**20)  # or less: the peak may have come before
"""
    done = subprocess.run([sys.executable, "-c", work], capture_output=True, text=True)
    return float(done.stdout) if done.returncode == 0 else float("nan")  # Windows cannot tell


def recipe_steps(world: World, repeats: int, steps: int = 8) -> None:
    """A laptop step of every recipe beside one of CLIP, taking turns on the same batches."""
    laptop = get_profile("laptop")
    settings = dataclasses.replace(laptop.training, pairs=steps * laptop.training.batch_size, epochs=1)
    teacher = open_teacher(get_recipe("clip-ping").ping, world, dataclasses.replace(laptop, training=settings))
    trainings = {}
    for name, recipe in RECIPES.items():
        profile = dataclasses.replace(laptop, training=dataclasses.replace(settings, recipe=name))
        trainings[name] = Training(profile, world, teacher=teacher if recipe.guided and not recipe.ping.live else None)
    clip = trainings["clip"]
    context = laptop.model.language.context_length
    shown = list(batches(world, clip.tokenizer, settings, context, 0, clip.device))
    for training in trainings.values():
        training.learner.train()
        training.take_step(shown[0], 0)
    rounds = []
    for _ in range(repeats):
        laps: dict[str, list[float]] = {name: [] for name in trainings}
        for batch in shown:
            for name, training in trainings.items():
                laps[name].append(seconds(lambda training=training, batch=batch: training.take_step(batch, 0), times=1))
        rounds.append({name: statistics.median(times) for name, times in laps.items()})
    for name in trainings:
        ratios = sorted(lap[name] / lap["clip"] for lap in rounds)
        print(
            f"step of {name:12s} {1e3 * statistics.median(lap[name] for lap in rounds):6.0f} ms   "
            f"{statistics.median(ratios):.2f} times a step of clip ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        )


def streaming(repeats: int, number: int = 4096, workers: int = 2) -> None:
    """Shards of 256-pixel JPEGs to batches, pictures and tokens, beside plain WebDataset with Pillow; and how long steps wait."""
    import webdataset

    with tempfile.TemporaryDirectory() as folder:
        large = open_world(dataclasses.replace(get_profile("laptop").scenes, size=256))
        tars = write_shards(Path(folder), scene_samples(large, range(number)), {}, rows=512)
        shards = open_shards(Path(folder))
        paths = [str(Path(folder) / name) for name in tars]
        each = sum(tar["bytes"] for tar in tars.values()) / number / 1024
        tokenizer = Tokenizer.train([shards.caption(row) for row in range(number)], 2048, shards.fingerprint)
        for size in (64, 128):
            pairs = Collection(shards, size)
            config = TrainConfig(pairs=len(pairs) // 128 * 128, epochs=1)

            def ours(pairs=pairs, config=config) -> None:
                for batch in batches(pairs, tokenizer, config, 48, 0, "cpu", workers=workers):
                    assert batch.images.shape[0] == 128

            def reduce(image: Image.Image, size=size) -> torch.Tensor:
                return torch.from_numpy(np.array(image.convert("RGB").resize((size, size), Image.BICUBIC)).transpose(2, 0, 1))

            def together(rows: list, reduce=reduce) -> tuple[torch.Tensor, Tokens]:
                return torch.stack([image for image, _ in rows]), tokenizer.encode([caption for _, caption in rows], 48)

            def plain(reduce=reduce, together=together, count=config.pairs) -> None:
                set_ = webdataset.WebDataset(paths, shardshuffle=False).shuffle(1000).decode("pil").to_tuple("jpg", "txt")
                set_ = set_.map_tuple(reduce, lambda caption: caption).batched(128, collation_fn=together)
                loader = webdataset.WebLoader(set_, batch_size=None, num_workers=workers, worker_init_fn=one_thread)
                seen = 0
                for images, _ in loader:
                    seen += len(images)
                assert seen >= count

            what = f"256-px JPEGs of {each:.0f} KiB to {size}-px batches, beside WebDataset"
            show(what, "pairs/s ", config.pairs, take_turns(ours, plain, repeats, times=1))
        data_wait(Collection(shards, 64), repeats)


def data_wait(pairs: Collection, repeats: int) -> None:
    """The share of a laptop training's time that passes until batches are there, read by workers as of a large data set."""
    laptop = get_profile("laptop")
    settings = dataclasses.replace(laptop.training, pairs=len(pairs), epochs=3, evaluate_every=1000)
    waited = []
    for _ in range(repeats):
        made = Training(dataclasses.replace(laptop, training=settings), pairs, device="cpu", workers=2)
        waited.append([event.waited for event in made if isinstance(event, Step)][-1])
    middle = statistics.median(waited)
    print(f"a laptop step waits for data from 256-px shards {middle:.1%} of the time ({min(waited):.1%} to {max(waited):.1%})")


def main(repeats: int = 3) -> None:
    """Every benchmark, each a line."""
    print(
        f"{processor()}, {torch.get_num_threads()} threads, torch {torch.__version__}; ratio: how many times faster ours is"
    )
    world = open_world(get_profile("laptop").scenes)
    rendering(world, repeats)
    streaming(repeats)
    training_step(world, repeats)
    solvers(repeats)
    recipe_steps(world, repeats)
    bank_building(world, repeats)
    neighbour_search(repeats)
