"""Speed beside trusted peers: what each race compares, and how. `bench` runs them.

All on the CPU, for some peers know nothing else: `bench` refuses a machine that shows an accelerator, `make bench` hides it.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import random
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from threadpoolctl import threadpool_info

from benchmarks.timing import Benchmark, benchmark, seconds, turns
from lcl.bpe import BEGIN, END, PAD, SPECIAL
from lcl.config import LanguageConfig, ModelConfig, TrainConfig, VisionConfig, get_profile
from lcl.data.collection import ShardDataset
from lcl.data.scenes import SceneDataset, open_scenes
from lcl.data.shards import open_shards
from lcl.data.writing import scene_samples, write_shards
from lcl.losses.contrastive import info_nce, sigmoid_loss
from lcl.losses.matching import SOLVERS, exact, sinkhorn
from lcl.machine import multiplies_bfloat16_fast, one_thread
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer, Tokens
from lcl.teachers.approximate import load_faiss
from lcl.teachers.encoders import ImageEncoder, TextEncoder, load_image_model, load_text_model
from lcl.teachers.search import BLOCK, KEPT, nearest_neighbours
from lcl.train.loader import PREFETCH, batches
from lcl.train.loop import Step, Training, make_optimizer, open_teacher, train_tokenizer
from lcl.train.recipes import RECIPES, get_recipe

BATCH = 256
EASY = 256  # problems of a race that takes long
PACKAGES = (  # whose versions a bench names beside those of every provenance
    "open_clip_torch", "lightly", "webdataset", "pillow", "scipy", "torch-linear-assignment", "POT",
    "sentence-transformers", "faiss-cpu",
)  # fmt: skip
WAITS = "share of a laptop step that waits for 256-pixel shards"
LIMIT = "operations a second of a plain product in float32"
SAME = "neighbours: share of places that are the same as FAISS's"
HELD = "neighbours: MiB at most beside the bank"
Facts = dict[str, list[float]]
"""What has no peer: by name, a number a repeat."""


def step_of(model: torch.nn.Module, loss: Callable[[], torch.Tensor]) -> Callable[[], None]:
    """A step of training: forward, loss, backward, AdamW as the laptop profile has it."""
    optimizer = make_optimizer(model, get_profile("laptop").training)

    def step() -> None:
        now = loss()
        optimizer.zero_grad()
        now.backward()
        optimizer.step()

    return step


def our_step(config: ModelConfig, images: torch.Tensor, tokens: Tokens) -> Callable[[], None]:
    """A step of ours."""
    model = Clip(config)

    def loss() -> torch.Tensor:
        seen = model(images, tokens)
        return info_nce(seen.v, seen.t, seen.logit_scale)["info_nce"]

    return step_of(model, loss)


def open_clip_step(config: ModelConfig, images: torch.Tensor, tokens: Tokens) -> Callable[[], None]:
    """The same with open_clip's towers of the same size, and its loss. Its ViT has a class token more, whatever it pools."""
    import open_clip

    vision, language = config.vision, config.language
    model = open_clip.model.CLIP(
        config.embed_dim,
        vision_cfg={
            "image_size": vision.image_size, "patch_size": vision.patch_size, "width": vision.width,
            "layers": vision.depth, "head_width": vision.width // vision.heads, "pool_type": "avg",
        },
        text_cfg={
            "context_length": tokens.ids.shape[1], "vocab_size": language.vocab_size, "width": language.width,
            "heads": language.heads, "layers": language.depth,
        },
    )  # fmt: skip
    loss_of, pixels = open_clip.ClipLoss(), images.float() / 127.5 - 1
    return step_of(model, lambda: loss_of(*model(pixels, tokens.ids)))


def transformers_step(config: ModelConfig, images: torch.Tensor, tokens: Tokens) -> Callable[[], None]:
    """The same with transformers' CLIPModel of the same size, which has a class token more, and its loss.

    Where the end of a text is token 2, as here, it pools the place of the largest token instead, as its first models did; that
    costs the same.
    """
    import transformers

    vision, language = config.vision, config.language
    model = transformers.CLIPModel(
        transformers.CLIPConfig(
            vision_config={
                "image_size": vision.image_size, "patch_size": vision.patch_size, "hidden_size": vision.width,
                "num_hidden_layers": vision.depth, "num_attention_heads": vision.heads, "intermediate_size": 4 * vision.width,
                "hidden_act": "gelu",
            },
            text_config={
                "max_position_embeddings": tokens.ids.shape[1], "vocab_size": language.vocab_size,
                "hidden_size": language.width, "num_hidden_layers": language.depth, "num_attention_heads": language.heads,
                "intermediate_size": 4 * language.width, "hidden_act": "gelu", "bos_token_id": SPECIAL.index(BEGIN),
                "eos_token_id": SPECIAL.index(END), "pad_token_id": SPECIAL.index(PAD),
            },
            projection_dim=config.embed_dim,
        )
    )  # fmt: skip
    pixels, mask = images.float() / 127.5 - 1, tokens.mask.long()
    return step_of(
        model, lambda: model(input_ids=tokens.ids, pixel_values=pixels, attention_mask=mask, return_loss=True).loss
    )


def padded(tokens: Tokens, length: int) -> Tokens:
    """The same tokens, padded to a fixed length."""
    extra, pad = length - tokens.ids.shape[1], F.pad
    return Tokens(
        pad(tokens.ids, (0, extra)), pad(tokens.mask, (0, extra)), pad(tokens.words, (0, extra), value=-1), tokens.spans
    )


def of_median_length(tokens: Tokens, number: int) -> list[int]:
    """The first rows, at most `number`, whose texts are as long as the median: together they need no padding."""
    lengths = tokens.mask.sum(1)
    return (lengths == lengths.median()).nonzero().flatten()[:number].tolist()


def training_step(world: SceneDataset, repeats: int) -> Iterator[Benchmark]:
    """A step beside others': ViT, 64 pixels, patches of 16, width 192, depth 4; text of width 192, depth 2."""
    laptop = get_profile("laptop")
    config = ModelConfig(VisionConfig("vit", width=192, depth=4, heads=3), LanguageConfig(width=192, depth=2, heads=3))
    context, tokenizer = config.language.context_length, train_tokenizer(world, laptop)
    pairs = world.pairs("train", range(BATCH))
    tokens = tokenizer.encode(pairs.captions, context)
    many = tokenizer.encode([world.scene("train", row).caption for row in range(16 * BATCH)], context)
    rows = of_median_length(many, BATCH)
    even_images, even = world.pairs("train", rows).images, many[rows]
    own, alike = "training step, each with its own padding", "training step, captions padded to the longest of the batch"
    none = f"training step, captions of {even.ids.shape[1]} tokens each, so that nobody pads"
    token = "the peer's ViT has a class token more"
    leaves = f"ours leaves out padding; {token}"
    wide = f"the peer's text tower takes one length alone, {context} tokens; {leaves}"
    for key, what, name, make, images, our_tokens, theirs, note in (
        ("step-open_clip", own, "open_clip", open_clip_step, pairs.images, tokens, padded(tokens, context), wide),
        ("step-open_clip-alike", alike, "open_clip", open_clip_step, pairs.images, tokens, tokens, leaves),
        ("step-open_clip-even", none, "open_clip", open_clip_step, even_images, even, even, token),
        ("step-transformers-alike", alike, "transformers", transformers_step, pairs.images, tokens, tokens, leaves),
        ("step-transformers-even", none, "transformers", transformers_step, even_images, even, even, token),
    ):
        torch.manual_seed(0)
        ours, peer = our_step(config, images, our_tokens), make(config, images, theirs)
        yield benchmark(key, what, name, "pairs/s", len(images), ours, peer, repeats, note=note, count=True)


def plain_product(repeats: int, facts: Facts, number: int = 2048) -> None:
    """The machine's limit in this run: operations a second in a plain product of two float32 matrices."""
    a, b, out = torch.randn(number, number), torch.randn(number, number), torch.empty(number, number)
    seconds(lambda: torch.mm(a, b, out=out), 3)
    facts[LIMIT] = [2 * number**3 / seconds(lambda: torch.mm(a, b, out=out), 9) for _ in range(repeats)]


def losses(repeats: int, number: int = 1024, width: int = 256) -> Iterator[Benchmark]:
    """InfoNCE, value and gradients, beside open_clip's loss, and lightly's where it is installed."""
    import open_clip

    torch.manual_seed(0)
    v, t = (F.normalize(torch.randn(number, width), dim=1).requires_grad_() for _ in range(2))
    scale = torch.tensor(14.3, requires_grad=True)

    def ours() -> None:
        info_nce(v, t, scale)["info_nce"].backward()

    once = "ours multiplies once, and transposes; open_clip's multiplies for each way anew"
    peers = [("open_clip", open_clip.ClipLoss(), lambda loss: loss(v, t, scale).backward(), once)]
    if importlib.util.find_spec("lightly"):
        from lightly.loss import NTXentLoss

        more = "lightly's also compares images with images and captions with captions: four products to our one"
        peers.append(("lightly", NTXentLoss(1 / 14.3), lambda loss: loss(v, t).backward(), more))
    for name, loss, step, note in peers:
        what = f"InfoNCE of {number:,} pairs, and its gradients"
        yield benchmark(
            f"loss-{name}", what, name, "pairs/s", number, ours, lambda loss=loss, step=step: step(loss), repeats, note=note,
            count=True,
        )
    bias = torch.tensor(-10.0, requires_grad=True)
    theirs = open_clip.loss.SigLipLoss()
    yield benchmark(
        "loss-siglip", f"SigLIP's loss of {number:,} pairs, and its gradients", "open_clip", "pairs/s", number,
        lambda: sigmoid_loss(v, t, scale, bias)["sigmoid"].backward(), lambda: theirs(v, t, scale, bias).backward(), repeats,
        note="the same operations", count=True,
    )  # fmt: skip


def rendering(world: SceneDataset, repeats: int) -> Iterator[Benchmark]:
    """The renderer alone, beside drawing the same scenes one by one."""
    scenes = [world.scene("train", index) for index in range(2048)]

    def batched() -> None:
        for start in range(0, len(scenes), BATCH):
            world.render(scenes[start : start + BATCH])

    def single() -> None:
        for scene in scenes:
            world.render([scene])

    what = f"rendering scenes of 64 pixels, {BATCH} at a time"
    note = "a batch is drawn in one go"
    yield benchmark("render", what, "one by one", "scenes/s", len(scenes), batched, single, repeats, 2, note)


def matching(repeats: int) -> Iterator[Benchmark]:
    """The matching of a step of lightclip, 256 pairs and 4 negatives each way: 12 words, 64 patches.

    Each solver compared with plain scipy, which gets the same costs, none above the unmatched cost; and the exact one beside
    torch-linear-assignment where it is installed (on a CPU that is a loop over scipy's; its own is for GPUs).
    """
    from scipy.optimize import linear_sum_assignment

    settings = get_recipe("lightclip").match
    problems = BATCH * (1 + 2 * settings.negatives)
    cost, real = drawn_costs(problems), torch.ones(problems, 12, dtype=torch.bool)

    def plain() -> None:
        for problem in cost.clamp(max=settings.unmatched_cost).numpy():
            linear_sum_assignment(problem)

    notes = {
        "exact": "also seeks what is not finite, leaves out padding, says which words stay unmatched and which patch the others "
        "got",
        "exact-lockstep": "all problems at once, for GPUs; on a CPU one by one is faster",
        "sinkhorn": "up to 3,000 rounds over every problem; has gradients, and is meant for GPUs",
        "max": "no assignment: several words may take the same patch",
    }
    for name, solve in SOLVERS.items():
        what = f"matching 12 words with 64 patches, solver {name}"
        work = lambda solve=solve: solve(cost, real, settings.unmatched_cost)  # noqa: E731
        times = 1 if name == "sinkhorn" else 10  # seconds; the others take milliseconds
        yield benchmark(f"matching-{name}", what, "scipy alone", "problems/s", problems, work, plain, repeats, times, notes[name])
    if importlib.util.find_spec("torch_linear_assignment"):
        from torch_linear_assignment import batch_linear_assignment

        yield benchmark(
            "matching-torch-linear-assignment", "matching 12 words with 64 patches, solver exact", "torch-linear-assignment",
            "problems/s", problems, lambda: exact(cost, real, settings.unmatched_cost),
            lambda: batch_linear_assignment(cost.clamp(max=settings.unmatched_cost)), repeats, 10,
            "on a CPU a loop over scipy's; its own solver is for GPUs",
        )  # fmt: skip
    if importlib.util.find_spec("ot"):
        few = cost[:EASY]  # of all, both take minutes
        yield benchmark(
            "matching-pot", "entropic matching of 12 words with 64 patches", "POT", "problems/s", len(few),
            lambda: sinkhorn(few, real[:EASY], settings.unmatched_cost),
            lambda: entropic_by_pot(few, settings.unmatched_cost), repeats, 1,
            "the same ε, and at most 3,000 rounds each; ours stops before 1,000",
        )  # fmt: skip


def drawn_costs(problems: int) -> torch.Tensor:
    """1 - cosine of 12 random directions with 64 others, always the same: (problems, 12, 64)."""
    draws = torch.Generator().manual_seed(0)
    words, patches = (F.normalize(torch.randn(problems, number, 16, generator=draws), dim=-1) for number in (12, 64))
    return 1 - words @ patches.mT


def entropic_by_pot(cost: torch.Tensor, unmatched_cost: float, epsilon: float = 5e-4) -> torch.Tensor:
    """What `sinkhorn` minimises, by POT: costs (N, m, n), without padding → plans (N, m, n).

    POT wants equal masses, so a column takes the unmatched words, and a row of no cost gives to every patch what no word does.
    """
    import ot

    number, m, n = cost.shape
    least, most = cost.amin((1, 2), keepdim=True), cost.amax((1, 2), keepdim=True)
    c = torch.zeros(number, m + 1, n + 1, dtype=cost.dtype)
    c[:, :m, :n], c[:, :m, n:] = (cost - least) / (most - least), (unmatched_cost - least) / (most - least)
    rows, columns = torch.ones(number, m + 1), torch.ones(number, n + 1)
    rows[:, -1], columns[:, -1] = n, m
    found = ot.batch.solve_batch(c, epsilon, rows, columns, max_iter=3000, tol=1e-3, method="log_sinkhorn", grad="detach")
    return found.plan[:, :m, :n]


def bank_building(world: SceneDataset, repeats: int, number: int = 512) -> Iterator[Benchmark]:
    """Both banks of some scenes beside a plain loop: the same models as they come, in float32, batches of 64 in order.

    And captions beside the library's own `encode` as it is by default, which ours calls with other batches; and with its own.
    """
    pairs = world.pairs("train", range(number))
    images, texts, alike = ImageEncoder(), TextEncoder(), TextEncoder()
    alike.batch_size = 32  # as `encode` has it by default
    plain, sentences = load_image_model(images.name, images.size), load_text_model(texts.name, "cpu")

    @torch.inference_mode()
    def plain_images() -> None:
        for batch in pairs.images.split(64):
            F.normalize(plain(images.prepare(batch).contiguous()), dim=1)

    @torch.inference_mode()
    def plain_texts() -> None:
        for start in range(0, len(pairs), 64):
            sentences(sentences.preprocess(pairs.captions[start : start + 64]))["sentence_embedding"]

    def encode() -> None:
        sentences.encode(pairs.captions, show_progress_bar=False)

    def both() -> None:
        images(pairs.images)
        texts(pairs.captions)

    loop, library = "a plain loop over the encoder", "sentence-transformers' encode"
    folds = "ours folds batch norms into convolutions, has channels last, and batches of 16, which stay in the cache"
    sorts = "ours puts captions of about a length together, so that little is padded"
    for key, what, beside, ours, peer, note in (
        ("bank-images", "bank of images", loop, lambda: images(pairs.images), plain_images, folds),
        ("bank-captions", "bank of captions", loop, lambda: texts(pairs.captions), plain_texts, sorts),
        ("bank-captions-encode", "bank of captions", library, lambda: texts(pairs.captions), encode, "16 at a time, the peer 32"),
        ("bank-captions-alike", "bank of captions", library, lambda: alike(pairs.captions), encode, "both 32 at a time"),
        ("banks", "both banks", loop, both, lambda: (plain_images(), plain_texts()), "one after the other"),
    ):
        yield benchmark(key, what, beside, "rows/s", len(pairs), ours, peer, repeats, times=1, note=note)


def neighbour_search(repeats: int, facts: Facts, number: int = 100_000, width: int = 384) -> Iterator[Benchmark]:
    """Exact neighbours of every row beside FAISS's flat index, and beside the bare matrix product in the same blocks."""
    faiss = load_faiss()
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

    ours(), flat(), bare()  # a round that does not count
    draw = random.Random(0)
    laps = [turns((ours, flat, bare), 1, draw) for _ in range(repeats)]
    own, *others = map(tuple, zip(*laps, strict=True))
    what = f"{KEPT} neighbours of each of {number:,} x {width} (random directions)"
    half = "ours works out half of the product: a block of similarities serves its rows and its columns"
    half += "; first in bfloat16, as this processor multiplies it fast" * multiplies_bfloat16_fast()
    cores = [each["architecture"] for each in threadpool_info() if "faiss" in each["filepath"] and "architecture" in each]
    flat_note = f"{half}; FAISS multiplies by OpenBLAS's code for {cores[0]}" if cores else half
    whole = 2.0 * number * number * width
    counted = None if multiplies_bfloat16_fast() else (whole / 2, whole)  # the limit is that of float32
    named = ("faiss", "FAISS's flat index", flat_note), ("product", "the product alone", half)
    for (key, beside, note), peer in zip(named, others, strict=True):
        yield Benchmark(f"neighbours-{key}", what, beside, "rows/s", number, own, peer, note, counted)
    facts[SAME] = [(found["ours"] == found["FAISS"]).float().mean().item()]
    facts[HELD] = [peak_memory(number, width)]


def peak_memory(number: int, width: int) -> float:
    """MiB that a search of every row needs at most beside the bank itself, in a process of its own; looked at every 2 ms."""
    work = f"""
import psutil, threading, torch
from lcl.teachers.search import KEPT, nearest_neighbours
bank = torch.empty({number}, {width}).uniform_(-1, 1)
bank /= bank.norm(dim=1, keepdim=True)
nearest_neighbours(bank[:4096], 1)  # what every library sets up once
me, done, held = psutil.Process(), threading.Event(), []
watch = threading.Thread(target=lambda: [held.append(me.memory_info().rss) for _ in iter(lambda: done.wait(0.002), True)])
before = me.memory_info().rss
watch.start()
nearest_neighbours(bank, KEPT)
done.set()
watch.join()
print((max(held) - before) / 2**20)
"""
    return float(subprocess.run([sys.executable, "-c", work], capture_output=True, text=True, check=True).stdout)


TIMED_CONTROLS = ("clip+smoothing", "clip+max", "clip+mlm-blind", "clip+distil", "clip-ping+distil")


def recipe_steps(world: SceneDataset, repeats: int, steps: int = 8) -> Iterator[Benchmark]:
    """A laptop step of every recipe and of some controls beside one of CLIP, taking turns on the same batches.

    A machine may be slow for seconds, which are several batches; so a repeat's ratio is the median of those of the batches.
    """
    laptop = get_profile("laptop")
    settings = dataclasses.replace(laptop.training, pairs=steps * laptop.training.batch_size, epochs=1)
    trainings = {}
    for name in (*RECIPES, *TIMED_CONTROLS):
        profile, recipe = dataclasses.replace(laptop, training=dataclasses.replace(settings, recipe=name)), get_recipe(name)
        teacher = open_teacher(recipe.ping, world, profile) if recipe.needs_teacher else None
        trainings[name] = Training(profile, world, teacher=teacher)
    clip = trainings["clip"]
    context = laptop.model.language.context_length
    shown = list(batches(world, clip.tokenizer, settings, context, 0, clip.device))
    for training in trainings.values():
        training.learner.train()
        training.take_step(shown[0], 0)
    rounds, draw = [], random.Random(0)
    for _ in range(repeats):
        laps: dict[str, list[float]] = {name: [] for name in trainings}
        for batch in shown:
            for name in draw.sample(list(trainings), len(trainings)):  # or one would always find another's caches
                laps[name].append(seconds(lambda name=name, batch=batch: trainings[name].take_step(batch, 0)))
        of_clip = statistics.median(laps["clip"])
        ratios = {name: [own / clip for own, clip in zip(times, laps["clip"], strict=True)] for name, times in laps.items()}
        rounds.append({name: of_clip * statistics.median(each) for name, each in ratios.items()})
    for name in trainings:
        own, clips = (tuple(lap[which] for lap in rounds) for which in (name, "clip"))
        yield Benchmark(
            f"recipe-{name}", f"step of {name}", "a step of clip", "pairs/s", settings.batch_size, own, clips,
            "seconds are clip's, times the median of the batches' ratios; at inference nothing is added",
        )  # fmt: skip


def streaming(repeats: int, facts: Facts, number: int = 4096, workers: int = 2) -> Iterator[Benchmark]:
    """Shards of 256-pixel JPEGs to batches, pictures and tokens, beside plain WebDataset with Pillow; and what reading costs.

    A collection sets pairs aside, so that the peer has tars of its own, which hold as many as ours reads.
    """
    with tempfile.TemporaryDirectory() as folder:
        large = open_scenes(dataclasses.replace(get_profile("laptop").scenes, size=256))
        write_shards(Path(folder) / "ours", scene_samples(large, range(number)), {}, rows=512)
        shards = open_shards(Path(folder) / "ours")
        tokenizer = Tokenizer.train([shards.captions(row)[0] for row in range(number)], 2048, shards.fingerprint)
        count = len(ShardDataset(shards, 64)) // 128 * 128
        tars = write_shards(Path(folder) / "peer", scene_samples(large, range(count)), {}, rows=count // 8)
        paths = [str(Path(folder) / "peer" / name) for name in tars]
        each = sum(tar["bytes"] for tar in tars.values()) / count / 1024
        for size in (64, 128):
            ours = lambda size=size: list(our_stream(ShardDataset(shards, size), tokenizer, count, workers))  # noqa: E731
            peer = lambda size=size: list(plain_stream(paths, tokenizer, size, workers))  # noqa: E731
            for stream in (ours(), peer()):
                seen = sum(stream)
                assert seen == count, f"{seen} pairs of {count}"
            what = f"JPEGs of 256 pixels and {each:.0f} KiB to batches of {size} pixels"
            note = "ours decodes a JPEG at the smallest scale that is large enough, the peer in full"
            yield benchmark(f"stream-{size}", what, "plain WebDataset", "pairs/s", count, ours, peer, repeats, times=1, note=note)
        yield reading(ShardDataset(shards, 64), repeats, facts)


def our_stream(pairs: ShardDataset, tokenizer: Tokenizer, count: int, workers: int) -> Iterator[int]:
    """One epoch of batches, pictures and tokens, as a training run gets them: of each, how many pairs it holds."""
    config = TrainConfig(pairs=count, epochs=1)
    for batch in batches(pairs, tokenizer, config, 48, 0, "cpu", workers=workers):
        yield len(batch.images)


def plain_stream(tars: Sequence[str], tokenizer: Tokenizer, size: int, workers: int) -> Iterator[int]:
    """The same as WebDataset is used out of the box, with Pillow."""
    import webdataset

    def reduce(image: Image.Image) -> torch.Tensor:
        return torch.from_numpy(np.array(image.convert("RGB").resize((size, size), Image.BICUBIC)).transpose(2, 0, 1))

    def together(rows: list) -> tuple[torch.Tensor, Tokens]:
        return torch.stack([image for image, _ in rows]), tokenizer.encode([caption for _, caption in rows], 48)

    pairs = webdataset.WebDataset(tars, shardshuffle=False).shuffle(1000).decode("pil").to_tuple("jpg", "txt")
    pairs = pairs.map_tuple(reduce, lambda caption: caption).batched(128, collation_fn=together)
    ahead = {"prefetch_factor": PREFETCH} if workers else {}
    loader = webdataset.WebLoader(pairs, batch_size=None, num_workers=workers, worker_init_fn=one_thread, **ahead)
    for images, _ in loader:
        yield len(images)


def reading(pairs: ShardDataset, repeats: int, facts: Facts) -> Benchmark:
    """Laptop steps while two processes read for them, as of a large data set, beside steps on what lies in memory.

    A step waits for its batch, and is slower as well, for who reads takes processors from it; the race counts both.
    """
    laptop = get_profile("laptop")
    settings = dataclasses.replace(laptop.training, pairs=len(pairs), epochs=2, evaluate_every=1000)
    profile, took, waited = dataclasses.replace(laptop, training=settings), [], []
    for _ in range(repeats):
        streamed, held = (
            [event for event in Training(profile, pairs, device="cpu", workers=workers) if isinstance(event, Step)]
            for workers in (2, 0)
        )
        waited.append(streamed[-1].waited)
        took.append([statistics.median(step.seconds for step in steps) for steps in (streamed, held)])
    facts[WAITS] = waited
    what = "laptop steps while two processes read 256-pixel JPEGs for them"
    laps, why = map(tuple, zip(*took, strict=True)), "who reads takes processors from the steps"
    return Benchmark("reading", what, "pairs in memory", "pairs/s", settings.batch_size, *laps, why)
