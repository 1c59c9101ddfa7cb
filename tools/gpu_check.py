"""Rehearse the library on a GPU machine that has torch, timm, sentence-transformers and pytest, but no network.

    PYTHONPATH=. python tools/gpu_check.py pack DIR                        # here: write DIR/carry.tar.xz, which must travel
    PYTHONPATH=. python tools/gpu_check.py run --carry DIR --out OUT       # there, from the root of a copy of the repository
    PYTHONPATH=. python tools/gpu_check.py run --carry DIR --out OUT --part 2    # there again: what seven more minutes tell
    PYTHONPATH=. python tools/gpu_check.py run --carry DIR --out OUT --small    # every stage in seconds, on any CPU

Stages run in order of importance, each in its own time. Every result is written at once to OUT/STAGE.json, and all of them to
OUT/gpu.json (OUT/gpu-2.json for the second part) at the end. A stage that fails or runs out of time does not stop the next.
"""

import argparse
import copy
import dataclasses
import functools
import importlib.resources
import itertools
import json
import lzma
import math
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import tokenizers
import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity

from lcl import assignment, storage
from lcl.bpe import PAD, SPECIAL
from lcl.config import LclError, Profile, get_profile, require
from lcl.data.drawn import captions, pictures
from lcl.data.drawn.renaming import renamed
from lcl.data.scenes import SceneDataset, open_scenes
from lcl.losses.matching import Matching, exact, total_cost
from lcl.machine import processors
from lcl.models import pretrained
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokens
from lcl.teachers import encoders
from lcl.teachers.banks import build_bank
from lcl.teachers.search import nearest_neighbours
from lcl.teachers.teacher import LiveTeacher, open_bank_teacher
from lcl.train.checkpoints import resume, save_checkpoint
from lcl.train.loader import CHUNK, batches
from lcl.train.loop import Training, Validation, make_optimizer, open_teacher
from lcl.train.plans import open_plan
from lcl.train.provenance import commit, provenance
from lcl.train.recipes import RECIPES

ROOT = Path(__file__).resolve().parent.parent
LIMIT_MB = 67  # 64 MiB, of what travels: the archive and the files that git tracks
NO_HYPOTHESIS = """# for a machine that lacks it: no property test needs a GPU
from unittest import mock
import pytest
given = settings = mock.MagicMock(side_effect=lambda *_, **__: pytest.mark.skip("hypothesis is missing"))
strategies = HealthCheck = mock.MagicMock()
"""
NO_FTFY = "def fix_text(text): raise NotImplementedError  # open_clip cleans captions with it, and here gets none as text\n"
ARCHIVE, CARRIED = "carry.tar.xz", "LCL_GPU_CARRY"
MAIN = ("clip", "clip-ping", "lightclip", "lightclip-ping")  # the quick ones first: they leave time to the others
XZ = [
    {"id": lzma.FILTER_LZMA2, "preset": 1, "lp": 1, "pb": 1}
]  # of two bytes only the exponent's compresses: tell them apart


# --- what travels


def pack(target: Path, sizes: Sequence[int] = (64, 128)) -> None:
    """Write what the other machine lacks to `target/carry.tar.xz`; pictures `sizes` pixels a side. Raises as `check_size`."""
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        storage.write_json(folder / "about.json", {"commit": commit()})
        for (
            size
        ) in sizes:  # as the library's own cache holds them, whose key names packages that the other machine lacks
            found = pictures.load_pictures(size)
            storage.write_tensors(folder / f"pictures-{size}.safetensors", {"drawings": found.drawings})
            about = asdict(found) | {"drawings": storage.sha256(found.drawings.numpy().tobytes())}
            storage.write_json(folder / f"pictures-{size}.json", about | {"checksum": storage.fingerprint(about)})
        (folder / "site").mkdir()
        (folder / "site" / "hypothesis.py").write_text(NO_HYPOTHESIS)
        (folder / "site" / "ftfy.py").write_text(NO_FTFY)
        for package in ("open_clip", "open_clip_train"):
            source, unwanted = importlib.resources.files(package), shutil.ignore_patterns("__pycache__")
            shutil.copytree(source, folder / "site" / package, ignore=unwanted)
        _pack_text_encoder(folder / "site", pictures.load_pictures(sizes[0]))
        weights = pretrained.packaged_weights(encoders.IMAGE_ENCODER)
        weights[-2].zero_()  # the classifier, which is taken off
        storage.write_tensors(
            folder / "image_encoder.safetensors", {f"{i:04d}": halved(x) for i, x in enumerate(weights)}
        )
        with lzma.open(target / ARCHIVE, "wb", filters=XZ) as stream, tarfile.open(fileobj=stream, mode="w|") as tar:
            tar.add(folder, ".")
    check_size(target / ARCHIVE)


def check_size(archive: Path) -> None:
    """Print how much travels. Raises LclError if an archive and the files that git tracks are more than LIMIT_MB."""
    names = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    tracked = sum((ROOT / name).stat().st_size for name in names.split("\0") if (ROOT / name).is_file()) / 1e6
    carried = archive.stat().st_size / 1e6
    print(f"{archive}: {carried:.1f} MB; tracked files: {tracked:.1f} MB; together {carried + tracked:.1f} MB")
    require(carried + tracked <= LIMIT_MB, f"together that is more than {LIMIT_MB} MB; carry less.")


def halved(x: torch.Tensor) -> torch.Tensor:
    """Matrices and kernels in bfloat16; vectors, which weigh nothing, as they are."""
    return x.bfloat16() if x.ndim >= 2 and x.is_floating_point() else x


def _pack_text_encoder(site: Path, found: pictures.Pictures) -> None:
    """Copy the sentence encoder's package, its weights in bfloat16, the word pieces that no caption can hold as zeros: half
    of the weights are word pieces, and of those captions use one in twenty."""
    package, inside = pretrained.PACKAGED_TEXT[encoders.TEXT_ENCODER]
    source, target = pretrained.in_package(package, inside), site / package / inside
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("model.safetensors", "*.md", "data_config.json"))
    (site / package / "__init__.py").write_text("")
    named = renamed(found)
    names = [name for each in (found, named) for concept in each.concepts for name in (concept.name, *concept.synonyms)]
    world = SceneDataset(dataclasses.replace(get_profile("smoke").scenes, size=found.drawings.shape[-1]), named)
    texts = [
        *names,
        *map(captions.plural, names),
        *world.train(4000).captions(range(4000)),
    ]  # these hold every other word
    engine = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    used = torch.tensor(sorted({token for encoding in engine.encode_batch(texts) for token in encoding.ids}))
    weights = {name: halved(x) for name, x in storage.read_tensors(source / "model.safetensors").items()}
    table = weights["embeddings.word_embeddings.weight"]
    weights["embeddings.word_embeddings.weight"] = torch.zeros_like(table).index_copy(0, used, table[used])
    storage.write_tensors(target / "model.safetensors", weights, {"format": "pt"})


def unpack(carry: Path, folder: Path) -> dict:
    """Unpack the archive. Returns what it says of itself."""
    require((carry / ARCHIVE).is_file(), f"there is no {ARCHIVE} in {carry}; `tools/gpu_check.py pack` writes it.")
    with lzma.open(carry / ARCHIVE) as stream, tarfile.open(fileobj=stream, mode="r|") as tar:
        tar.extractall(folder, filter="data")
    return storage.read_json(folder / "about.json")


def use_carried(folder: Path) -> None:
    """Take pictures, encoders and packages from a folder instead of from installed packages."""
    os.environ[CARRIED] = str(folder)
    sys.path.append(str(folder / "site"))  # last: what is installed goes first
    pictures._load_installed = functools.cache(lambda size, cache: pictures._read_cache(folder / f"pictures-{size}"))
    weights = storage.read_tensors(folder / "image_encoder.safetensors")
    pretrained.packaged_weights = lambda name: [weights[key].float() for key in sorted(weights)]


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests() -> None:
    """Do so in pytest, too, which the stage `tests` starts with this file as a plug-in."""
    use_carried(Path(os.environ[CARRIED]))


# --- stages


class OutOfTime(BaseException):
    """A stage's time is over. No Exception, so that no handler on the way takes it for a fault of the data."""


@dataclass
class Stage:
    """One stage, the seconds that it may take, and what it found so far, which is written at every `note`."""

    name: str
    out: Path
    small: bool
    device: str
    seconds: float
    found: dict = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)
    started: float = field(default_factory=time.monotonic)

    @property
    def left(self) -> float:
        """Seconds that are left of its time."""
        return self.started + self.seconds - time.monotonic()

    def note(self, what: str, value: object, good: bool = True) -> None:
        """Keep one result; `good`: is it as it should be?"""
        self.found[what] = value
        self.failed += [] if good else [what]
        print(
            f"  {self.name}: {what}: {json.dumps(value)[:400]}{'' if good else '  ← NOT as it should be'}", flush=True
        )
        self.write("running")

    def write(self, state: str, error: str | None = None) -> dict:
        """Write the stage's file, and return what is in it."""
        spent = round(time.monotonic() - self.started, 1)
        result = {"state": state, "seconds": spent, "failed": self.failed, "found": self.found, "error": error}
        storage.write_json(self.out / f"{self.name}.json", result)
        return result


@functools.cache
def scenes(profile: str) -> SceneDataset:
    """The scenes of a profile, opened once."""
    return open_scenes(get_profile(profile).scenes)


def changed(profile: Profile, **training: object) -> Profile:
    """A profile with other training settings."""
    return dataclasses.replace(profile, training=dataclasses.replace(profile.training, **training))


def tests(stage: Stage) -> None:
    """The tests that are marked `gpu`, in a process of their own."""
    files = [
        path for path in sorted((ROOT / "tests").rglob("test_*.py")) if "@pytest.mark.gpu" in path.read_text("utf-8")
    ]
    paths = [ROOT, ROOT / "tools", os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, map(str, paths)))}
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-p",
        "gpu_check",
        "-p",
        "no:cacheprovider",
        "-m",
        "gpu",
        "-vv",
        "--tb=short",
    ]
    command += ["--continue-on-collection-errors", *map(str, files)]
    with tempfile.TemporaryFile("w+") as log:
        where = {"cwd": ROOT, "env": environment, "stdout": log, "stderr": subprocess.STDOUT}
        try:
            done = subprocess.run(command, **where, timeout=stage.left - 2)
        finally:
            log.seek(0)
            text = log.read().strip()
            stage.note("output", text[-10_000:])
    stage.note("summary", text.rpartition("\n")[2], done.returncode == 0)


def parity(stage: Stage) -> None:
    """Pixels, features, losses and gradients against the CPU, without TF32."""
    torch.backends.cudnn.allow_tf32 = False
    for name in ("smoke",) if stage.small else ("smoke", "gpu"):
        drawn = [scenes(name).scene("train", index) for index in range(256)]
        same = torch.equal(scenes(name).render(drawn), scenes(name).render(drawn, stage.device).cpu())
        stage.note(f"pixels, {scenes(name).size}", {"scenes": len(drawn), "equal": same}, same)
    rows = scenes("smoke").train(128 if stage.small else 512)
    some, built = rows.take(range(64)), []
    for kind, inputs in ((encoders.ImageEncoder, some.images), (encoders.TextEncoder, some.captions)):
        here, there = (kind(device=device) for device in ("cpu", stage.device))
        apart = (here(inputs) - there(inputs)).abs().max().item()
        stage.note(f"features, {here.kind}", {"largest difference": apart}, apart < 1e-3)
        built.append(there)
    teacher = open_bank_teacher(rows, *built)
    for tower, name in itertools.product(("conv", "vit"), MAIN):
        smoke = changed(get_profile("smoke"), recipe=name, pairs=len(rows), batch_size=64)
        vision = dataclasses.replace(smoke.model.vision, tower=tower)
        smoke, wanted = dataclasses.replace(smoke, model=dataclasses.replace(smoke.model, vision=vision)), None
        for device, precision in (("cpu", "float32"), (stage.device, "float32"), (stage.device, "bfloat16")):
            profile = changed(smoke, precision=precision)
            training = Training(profile, scenes("smoke"), device=device, teacher=teacher)
            context = profile.model.language.context_length
            batch = next(batches(training.source, training.tokenizer, profile.training, context, 0, device))
            loss, *_ = training.take_step(
                batch, profile.training.steps // 2
            )  # half-way, where every objective has its weight
            gradient = torch.cat([p.grad.cpu().flatten() for p in training.learner.parameters() if p.grad is not None])
            if wanted is None:
                wanted = loss, gradient
                continue
            off, apart = abs(loss / wanted[0] - 1), ((gradient - wanted[1]).norm() / wanted[1].norm()).item()
            close = (
                off < 1e-4 and apart < 1e-2 if precision == "float32" else off < 0.05
            )  # rounding turns gradients, too
            value = {"loss": loss, "relative difference": off, "of the gradient": apart}
            stage.note(f"{name}, {tower}, {precision}", value, close and math.isfinite(apart))


def resumes(stage: Stage) -> None:
    """A training run that is stopped and resumed, against one that is not; and against that one once more, which is the noise."""
    torch.use_deterministic_algorithms(True, warn_only=True)
    rows, image_encoder, text_encoder = scenes("smoke").train(128), encoders.ImageEncoder(), encoders.TextEncoder()
    teacher, bank = open_bank_teacher(rows, image_encoder, text_encoder), build_bank(rows, text_encoder)
    for name in ("lightclip-ping", "a-clip-ping"):
        profile, live = changed(get_profile("smoke"), recipe=name, pairs=128, batch_size=32), RECIPES[name].ping.live
        whole, again, stopped, resumed = (
            Training(
                profile, scenes("smoke"), 0, stage.device, teacher=LiveTeacher(image_encoder, bank) if live else teacher
            )
            for _ in range(4)
        )
        list(whole), list(again), next(event for event in stopped if event.step == 4)
        with tempfile.TemporaryDirectory() as folder:
            save_checkpoint(Path(folder), stopped)
            value = {"resumed at": resume(Path(folder), resumed)}
        list(resumed)
        states = [
            torch.cat([x.float().flatten() for x in t.learner.state_dict().values()]) for t in (whole, again, resumed)
        ]
        noise, apart = ((states[0] - other).abs().max().item() for other in states[1:])
        value |= {"of steps": resumed.step, "largest difference": apart, "of a repeat": noise}
        value["step on"] = sorted({str(state["step"].device) for state in resumed.optimizer.state.values()})
        stage.note(name, value, apart <= 10 * noise + 1e-6)


def recipes(stage: Stage) -> None:
    """200 steps of each main recipe in both precisions.

    "waiting" counts when all pairs are drawn; "waiting if drawn anew" is the share if every pair were planned and drawn in this
    process and used once. "memory" includes the pairs, which stay on the GPU.
    """
    name, pairs, steps = ("smoke", 256, 4) if stage.small else ("gpu", 16_384, 200)
    world, plan = copy.copy(scenes(name)), functools.cache(scenes(name).scene)
    world.scene = lambda split, index, single=False: plan(split, index, single)  # eight runs plan the same pairs once
    profile = get_profile(name)
    size = min(profile.training.batch_size, pairs // 2)
    profile = changed(
        profile, pairs=pairs, batch_size=size, epochs=math.ceil(steps * size / pairs), evaluate_every=10**9
    )
    began = time.perf_counter()
    world.train(pairs).take(range(pairs), stage.device)
    drawing = (time.perf_counter() - began) / pairs
    stage.note("drawing", {"pairs": pairs, "pixels": world.size, "pairs/s": round(1 / drawing)})
    began = time.perf_counter()
    teacher = open_teacher(RECIPES["clip-ping"].ping, world, profile)
    stage.note("teacher", {"rows": pairs, "seconds": round(time.perf_counter() - began, 1)})
    runs = list(itertools.product(MAIN, ("bfloat16", "float32")))
    for number, (name, precision) in enumerate(runs):
        if stage.device == "cuda":
            torch.cuda.empty_cache(), torch.cuda.reset_peak_memory_stats()
        until = time.monotonic() + stage.left / (len(runs) - number)
        training = Training(
            changed(profile, recipe=name, precision=precision), world, device=stage.device, teacher=teacher
        )
        value = {"batch": size, **measure(training, steps, until)}
        if "pairs/s" in value:
            value["waiting if drawn anew"] = round(drawing / (drawing + 1 / value["pairs/s"]), 3)
        stage.note(f"{name}, {precision}", value | {"cut off": value["steps"] < steps}, math.isfinite(value["loss"][1]))


def measure(training: Training, steps: int, until: float) -> dict:
    """Train until a step, or a time on the clock; sum up speed and waiting after the first steps, memory and loss."""
    seen, validations = [], []
    for event in training:
        (validations if isinstance(event, Validation) else seen).append(event)
        if event.step == steps or time.monotonic() > until:
            break
    first, last = min(10, len(seen) // 2), seen[-1]
    found = {"steps": last.step, "loss": [seen[0].loss, last.loss], "memory, GiB": round(last.memory, 2)}
    if first:
        before, busy = sum(event.seconds for event in seen[:first]), sum(event.seconds for event in seen)
        found["pairs/s"] = round(training.profile.training.batch_size * (len(seen) - first) / (busy - before), 1)
        found["waiting"] = round((last.waited * busy - seen[first - 1].waited * before) / (busy - before), 3)
    return found | ({"validation": [asdict(event) for event in validations]} if validations else {})


def neighbours(stage: Stage) -> None:
    """The exact search among 200,000 rows as wide as EfficientNet-Lite0's features, some of them against the CPU."""
    rows, width, asked = (2000, 64, 50) if stage.small else (200_000, 1280, 200)
    generator = torch.Generator(stage.device).manual_seed(0)
    features = torch.nn.functional.normalize(torch.randn(rows, width, device=stage.device, generator=generator), dim=1)
    began = time.perf_counter()
    found = nearest_neighbours(features, 8, device=stage.device)
    value = {"rows": rows, "width": width, "seconds": round(time.perf_counter() - began, 2)}
    some, here = torch.arange(asked) * (rows // asked), features.cpu()
    exact = (here[some] @ here.T).scatter(1, some[:, None], -torch.inf).topk(8, dim=1)
    apart = (found.similarities[some] - exact.values).abs().max().item()
    equal = (found.indices[some] == exact.indices).double().mean().item()
    stage.note("exact search", value | {"equal": equal, "largest difference": apart}, apart < 1e-5 and equal > 0.99)


def long(stage: Stage) -> None:
    """The plan of 3.3 million scenes, then as many steps of `clip` on them as fit, in bfloat16."""
    world = scenes("smoke" if stage.small else "gpu")
    profile = changed(get_profile("gpu"), precision="bfloat16", evaluate_every=100)
    if stage.small:
        profile = dataclasses.replace(
            changed(profile, pairs=CHUNK + 32, batch_size=32), model=get_profile("smoke").model
        )
    training, began = Training(profile, world, device=stage.device), time.monotonic()
    plan = open_plan(world.train(profile.training.pairs), training.tokenizer, profile.model.language.context_length)
    took = time.monotonic() - began
    found = {
        "scenes": len(plan),
        "seconds": round(took, 1),
        "scenes/s": round(len(plan) / took),
        "processes": processors(),
    }
    stage.note("plan", found)
    until = time.monotonic() + min(stage.left - 8, 5 if stage.small else math.inf)
    value = measure(training, profile.training.steps, until)
    stage.note("clip, bfloat16", {"pairs": profile.training.pairs, **value}, math.isfinite(value["loss"][1]))


def matching(stage: Stage) -> None:
    """9,216 problems, as a step of 1,024 pairs with four hardest negatives has them, by each exact solver: cost and time."""
    number, m, n = (64, 6, 16) if stage.small else (9216, 16, 256)
    draw = torch.Generator().manual_seed(0)
    cost = torch.rand(number, 1, n, generator=draw) + 0.3 * torch.rand(
        number, m, n, generator=draw
    )  # all want the same patches
    words = torch.arange(m) < torch.randint(1, m + 1, (number, 1), generator=draw)
    began = time.perf_counter()
    wanted = total_cost(exact(cost, words, 0.8), cost, words, 0.8)
    stage.note(
        "scipy, on the host", {"problems": number, "words": m, "patches": n, "ms": 1e3 * (time.perf_counter() - began)}
    )
    there = cost.double().to(stage.device), words.to(stage.device)
    price = torch.tensor(0.8, dtype=torch.float64, device=stage.device)
    for solve in (assignment.by_kernel, assignment.in_lockstep):
        if solve == assignment.by_kernel and not assignment.usable(there[0]):
            stage.note(solve.__name__, "not here: it needs a GPU and Triton")
            continue
        solve(*there, price)  # compiled here
        _wait(stage.device)
        began = time.perf_counter()
        found = solve(*there, price)
        _wait(stage.device)
        took, matching = time.perf_counter() - began, Matching(found.cpu(), None, n)
        apart = (total_cost(matching, cost, words, 0.8) - wanted).abs().max().item()
        stage.note(solve.__name__, {"ms": 1e3 * took, "largest difference of a cost": apart}, apart < 1e-4)


def work(stage: Stage) -> None:
    """What ten steps of each main recipe ask of the GPU: kernels a step, and the share of the time in which one runs."""
    name, pairs = ("smoke", 256) if stage.small else ("gpu", 16_384)
    profile, world = get_profile(name), scenes(name)
    size = min(profile.training.batch_size, pairs // 2)
    profile = changed(profile, pairs=pairs, batch_size=size, epochs=math.ceil(40 * size / pairs), evaluate_every=10**9)
    teacher = open_teacher(RECIPES["clip-ping"].ping, world, profile)
    kinds = [ProfilerActivity.CPU if stage.device == "cpu" else ProfilerActivity.CUDA]
    for name, compiled in itertools.product(MAIN, (False,) if stage.small else (False, True)):
        events = iter(
            Training(changed(profile, recipe=name, compile=compiled), world, device=stage.device, teacher=teacher)
        )
        for _ in range(4 if stage.small else 20):
            next(events)
        steps, began = 2 if stage.small else 10, time.perf_counter()
        for _ in range(steps):
            next(events)
        plain = time.perf_counter() - began
        with torch.profiler.profile(activities=kinds) as seen:
            for _ in range(steps):
                next(events)
        events.close()
        ran = [event for event in seen.events() if stage.device == "cpu" or event.device_type == DeviceType.CUDA]
        busy = sum(event.time_range.elapsed_us() for event in ran) / 1e6 if stage.device == "cuda" else math.nan
        value = {"ms a step": 1e3 * plain / steps, "kernels a step": len(ran) / steps, "busy": round(busy / plain, 3)}
        stage.note(f"{name}, {profile.training.precision}{', compiled' * compiled}", value)


def beside(stage: Stage) -> None:
    """Steps of `clip` beside open_clip's training loop, by turns: the same towers, first weights, optimiser and batches."""
    name, pairs, steps, laps = ("smoke", 256, 2, 2) if stage.small else ("gpu", 16_384, 40, 4)
    profile = get_profile(name)
    size = min(profile.training.batch_size, pairs // 2)
    epochs = math.ceil(laps * steps * size / pairs)
    profile = changed(profile, recipe="clip", pairs=pairs, batch_size=size, epochs=epochs, evaluate_every=10**9)
    training = Training(profile, scenes(name), device=stage.device)
    losses: dict[str, list[float]] = {"clip": [], "open_clip": []}
    theirs = open_clip_steps(training, steps, stage.device, losses["open_clip"])  # it copies the weights
    events = iter(training)

    def ours() -> None:
        losses["clip"] += [event.loss for event in itertools.islice(events, steps)]

    took: dict[str, list[float]] = {"clip": [], "open_clip": []}
    for number in range(laps):
        for who, lap in (("clip", ours), ("open_clip", theirs))[:: 1 if number % 2 else -1]:  # each is first in half of them
            _wait(stage.device)
            began = time.perf_counter()
            lap()
            _wait(stage.device)
            took[who].append(1e3 * (time.perf_counter() - began) / steps)
    for who, (_, *kept) in took.items():  # the first lap is a warm-up
        stage.note(f"{who}, {profile.training.precision}", {"batch": size, "steps a lap": steps, "ms a step": kept})
    first = losses["clip"][0], losses["open_clip"][0]
    stage.note("first loss", first, abs(first[0] - first[1]) < 1e-2 * first[0])


def open_clip_steps(training: Training, steps: int, device: str, losses: list[float]) -> Callable[[], None]:
    """A function that takes so many steps in open_clip's loop with a copy of a training run's model; `losses`: the first."""
    import open_clip
    from open_clip_train.train import train_one_epoch

    config, language = training.profile.training, training.profile.model.language
    model, contrastive = _AsOpenClip(copy.deepcopy(training.model)), open_clip.ClipLoss()
    optimizer = make_optimizer(model, config)
    source = batches(training.source, training.tokenizer, config, language.context_length, 0, device)

    def loss(**found: torch.Tensor | bool) -> dict[str, torch.Tensor]:
        value = contrastive(**found)
        if not losses:
            losses.append(value["contrastive_loss"].item())
        return value

    class Loader:
        num_batches, num_samples = steps, steps * config.batch_size

        def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
            return ((batch.images, batch.tokens.ids) for batch in itertools.islice(source, steps))

    options = SimpleNamespace(
        device=device, precision="amp_bfloat16" if config.precision == "bfloat16" else "fp32", distill=False, accum_freq=1,
        skip_scheduler=True, grad_clip_norm=config.clip_norm, horovod=False, world_size=1, rank=0, batch_size=config.batch_size,
        log_every_n_steps=100, wandb=False,
    )  # fmt: skip
    data = {"train": SimpleNamespace(dataloader=Loader(), set_epoch=lambda epoch: None)}
    return lambda: train_one_epoch(model, data, loss, 0, optimizer, None, None, None, options)


class _AsOpenClip(torch.nn.Module):
    """Our model, called as open_clip calls its own."""

    def __init__(self, model: Clip):
        super().__init__()
        self.model, self.logit_scale = model, model.tau

    def forward(self, images: torch.Tensor, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        v, t, logit_scale, *_ = self.model(images, Tokens(ids, ids != SPECIAL.index(PAD), ids, ()))  # (B, d), (B, d), scalar
        return {"image_features": v, "text_features": t, "logit_scale": logit_scale}


def banks(stage: Stage) -> None:
    """Banks of scenes by both teachers: rows a second, drawing and preparing included."""
    rows = scenes("smoke" if stage.small else "gpu").train(64 if stage.small else 32_768)
    for encoder in (encoders.ImageEncoder(device=stage.device), encoders.TextEncoder(device=stage.device)):
        began = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            build_bank(rows, encoder, Path(folder) / "bank")
        took = time.perf_counter() - began
        stage.note(encoder.kind, {"rows": len(rows), "rows/s": round(len(rows) / took), "processes": processors()})


def all_neighbours(stage: Stage) -> None:
    """The exact search among 3,276,800 rows, as wide as either teacher's features."""
    for width in (384, 1280):
        rows = 2000 if stage.small else 3_276_800
        features = torch.empty(rows, width, dtype=torch.half, device=stage.device)
        for part in features.split(65_536):
            part.copy_(torch.nn.functional.normalize(torch.randn(part.shape, device=stage.device), dim=1))
        began = time.perf_counter()
        found = nearest_neighbours(features, 1, device=stage.device)
        took = time.perf_counter() - began
        some = torch.arange(64, device=stage.device) * (rows // 64)
        s = features[some].float() @ features.float().T if stage.small else features[some] @ features.T
        best = s.scatter(1, some[:, None], -torch.inf).float().amax(1).cpu()
        apart = (found.similarities[some.cpu(), 0] - best).abs().max().item()
        rate = 2 * rows * rows * width / took / 1e12
        value = {"rows": rows, "seconds": round(took, 1), "Tflop/s": round(rate, 1), "largest difference": apart}
        stage.note(f"of width {width}", value, apart < 2e-3)  # half precision: the products here are rounded, too


def _wait(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


PARTS = {
    1: {tests: 90, parity: 60, resumes: 40, recipes: 230, neighbours: 45, long: 600},
    2: {matching: 40, work: 100, beside: 40, banks: 60, all_neighbours: 140, long: 600},
}
"""In order of importance, each with the seconds that it may take of seven minutes; what one leaves over is for the last."""


def _alarm(seconds: float) -> None:
    """Raise OutOfTime in so many seconds, on systems that can; 0: do not."""

    def ring(*_):
        raise OutOfTime

    if hasattr(signal, "setitimer"):
        signal.signal(signal.SIGALRM, ring)
        signal.setitimer(signal.ITIMER_REAL, seconds)


def run(carry: Path, out: Path, small: bool = False, minutes: float = 7.0, part: int = 1) -> dict:
    """Run all stages of a part for which there is time, and write their results to `out`. Returns what is in `gpu.json`."""
    began, results = time.monotonic(), {}
    if small:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    require(small or torch.cuda.is_available(), "there is no CUDA device; on a CPU, rehearse with --small.")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LCL_DATA"] = str(Path(folder) / "data")
        about = unpack(carry, Path(folder) / "carry")
        use_carried(Path(folder) / "carry")
        for function, budget in PARTS[part].items():
            spent = time.monotonic() - began
            seconds = min(budget * minutes / 7, 60 * minutes - 15 - spent)  # 15: imports, and tidying up
            stage = Stage(function.__name__, out, small, "cpu" if small else "cuda", seconds)
            print(f"{spent:4.0f} s  {stage.name}, at most {seconds:.0f} s", flush=True)
            torch.use_deterministic_algorithms(False)  # whatever the stage before left behind
            torch.backends.cudnn.allow_tf32 = True
            state, error = "skipped: no time is left", None
            try:
                if seconds > 5:
                    _alarm(seconds)
                    function(stage)
                    state = "failed" if stage.failed else "passed"
            except OutOfTime:
                state = "out of time"
            except Exception:
                state, error = "error", traceback.format_exc()
            finally:
                _alarm(0)
            results[stage.name] = stage.write(state, error)
            print(f"{time.monotonic() - began:4.0f} s  {stage.name}: {state}\n{error or ''}", flush=True)
    gpu = None if small else torch.cuda.get_device_properties(0)
    made = provenance() | {
        "cuda": torch.version.cuda,
        "gpu": gpu and {"name": gpu.name, "gib": gpu.total_memory / 2**30},
    }
    made["commit"] = made["commit"] or about["commit"]  # a copy of the files may lack git's
    result = {"small": small, "seconds": round(time.monotonic() - began, 1), "stages": results, "provenance": made}
    storage.write_json(out / ("gpu.json" if part == 1 else f"gpu-{part}.json"), result)
    return result


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    packing, running = commands.add_parser("pack"), commands.add_parser("run")
    packing.add_argument("target", type=Path)
    packing.add_argument("--sizes", type=int, nargs="+", default=[64, 128])
    running.add_argument("--carry", type=Path, required=True)
    running.add_argument("--out", type=Path, required=True)
    running.add_argument("--small", action="store_true")
    running.add_argument("--minutes", type=float, default=7.0)
    running.add_argument("--part", type=int, choices=PARTS, default=1)
    options = parser.parse_args()
    try:
        if options.command == "pack":
            pack(options.target, options.sizes)
            return 0
        found = run(options.carry, options.out, options.small, options.minutes, options.part)
    except LclError as error:
        print(f"gpu_check: {error}", file=sys.stderr)
        return 2
    print(
        ", ".join(f"{name} {stage['state']}" for name, stage in found["stages"].items()), f"in {found['seconds']:.0f} s"
    )
    return int(any(stage["state"] in ("failed", "error") for stage in found["stages"].values()))


if __name__ == "__main__":
    sys.exit(main())
