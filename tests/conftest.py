"""What the tests share: two worlds, a sample of scenes with its pixels, a tiny model, a quick teacher, and the rule that
GPU tests need a GPU."""

import dataclasses
import io
import itertools
import multiprocessing
import multiprocessing.forkserver
import os
import signal
import sys
import tarfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import settings

from lcl.config import LanguageConfig, ModelConfig, SceneConfig, VisionConfig, get_profile
from lcl.data.drawn.pictures import Pictures, load_pictures
from lcl.data.scenes import SPLITS, Scene, SceneDataset, SceneObject, SceneView, open_scenes
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer
from lcl.teachers.banks import Bank, build_bank
from lcl.teachers.search import nearest_neighbours
from lcl.teachers.teacher import CHOICES, BankTeacher, LiveTeacher, Teacher
from lcl.train.loop import train_tokenizer
from lcl.train.recipes import Recipe

torch.set_num_threads(
    1
)  # tests run side by side, a process a core (pytest -n 2); more threads would only get in the way

settings.register_profile("lcl", deadline=None, derandomize=True)  # a slow machine is no failure
settings.load_profile("lcl")


signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell that runs the tests in the background ignores Ctrl-C


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and torch.cuda.is_available() says that there is none")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def start_method() -> str:
    """How tests start processes of their own: forked, where that is safe, from a server that has imported everything once.

    The server is a fresh process with one thread; this one has more, and must not be forked.
    """
    if not sys.platform.startswith("linux"):
        return "spawn"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, sys.path)))  # or it does not find this module
        patch.setenv("OMP_NUM_THREADS", "1")
        multiprocessing.set_forkserver_preload(["conftest", "torch._dynamo"])  # as optimisers do
        multiprocessing.forkserver.ensure_running()
    context = multiprocessing.get_context("forkserver")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_tell_threads_of_parent, args=(sender,))
    process.start()
    assert receiver.recv() == 1
    process.join()
    return "forkserver"


forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there are no forks on this system")


TOUCHES = ("open", "os.rename", "os.chmod", "os.remove", "os.rmdir", "tempfile.mkstemp")


def killed_at(event: int, work: Callable[[], object], touches: tuple[str, ...] = TOUCHES) -> bool:
    """Do some work in another process, which dies when it touches a file for the `event`-th time. Did it die?"""
    child = os.fork()
    if child == 0:
        met = itertools.count()

        def die(name, _):
            if name in touches and next(met) == event:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(die)
        try:
            work()
        finally:
            os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _tell_threads_of_parent(pipe) -> None:
    import psutil

    pipe.send(psutil.Process(os.getppid()).num_threads())


@pytest.fixture(scope="session")
def world(request) -> SceneDataset:
    """The laptop profile's world: 64 pixels, 256 known concepts; of version 2, if a test does not ask for another."""
    return open_scenes(SceneConfig(version=getattr(request, "param", 2)))


class RememberedScenes(SceneDataset):
    """A world that keeps its scenes and their images, which are functions of a few numbers: many trainings see the same."""

    def __init__(self, world: SceneDataset):
        super().__init__(world.config, world.pictures)
        self._scenes, self._images = {}, {}

    def scene(self, split: str, index: int, single: bool = False) -> Scene:
        key = split, index, single
        if key not in self._scenes:
            self._scenes[key] = super().scene(*key)
        return self._scenes[key]

    def render(self, scenes, device="cpu") -> torch.Tensor:
        if not scenes or str(device) != "cpu":
            return super().render(scenes, device)
        new = [scene for scene in scenes if scene not in self._images]
        self._images.update(zip(new, super().render(new), strict=True))
        return torch.stack([self._images[scene] for scene in scenes])


@pytest.fixture(scope="session")
def small_world() -> SceneDataset:
    """The smoke profile's world: 64 pixels, 32 known concepts. What draws scenes is tested with the other worlds."""
    return RememberedScenes(open_scenes(get_profile("smoke").scenes))


@pytest.fixture(scope="session")
def first_small_world() -> SceneDataset:
    """The smoke profile's world in version 1, of which older runs are."""
    return RememberedScenes(open_scenes(dataclasses.replace(get_profile("smoke").scenes, version=1)))


@pytest.fixture(scope="session")
def few_pictures() -> Pictures:
    """The first sixty concepts of the dictionary: worlds made of them open at once."""
    pictures = load_pictures(64)
    return dataclasses.replace(pictures, concepts=pictures.concepts[:60], drawings=pictures.drawings[:, :60])


@pytest.fixture(scope="session")
def few_world(few_pictures) -> SceneDataset:
    """A world of 32 known and 8 unseen concepts."""
    return SceneDataset(SceneConfig(known=32, unseen=8), few_pictures)


@dataclass
class Sample:
    """Scenes of every split. images: (N, 3, H, W) uint8. opacity: for every thing of every scene, (H, W), 0 to 255."""

    scenes: list[Scene]
    images: torch.Tensor
    opacity: list[list[torch.Tensor]]


@pytest.fixture(scope="session")
def sample(world) -> Sample:
    """Four hundred scenes, with what each thing covers as the renderer tells it, not as the scene says."""
    scenes = [world.scene(split, index) for split in SPLITS for index in range(80)]
    alone = [(row, obj) for row, scene in enumerate(scenes) for obj in scene.objects]
    maps = [[] for _ in scenes]
    for (row, _), opacity in zip(alone, _opacity(world, scenes, alone), strict=True):
        maps[row].append(opacity)
    return Sample(scenes, world.render(scenes), maps)


def _opacity(world: SceneDataset, scenes: list[Scene], alone: list[tuple[int, SceneObject]]) -> torch.Tensor:
    """What shows through a thing is what differs when it stands on white and on black."""

    def on(shade: int) -> torch.Tensor:
        plain = {"kind": "solid", "first": (shade,) * 3, "second": (shade,) * 3}
        backgrounds = [dataclasses.replace(scene.background, **plain) for scene in scenes]
        return world.render([dataclasses.replace(scenes[row], background=backgrounds[row], objects=(t,)) for row, t in alone])

    return 255 - (on(255)[:, 0].int() - on(0)[:, 0].int())


TINY = ModelConfig(VisionConfig(width=32, depth=1), LanguageConfig(vocab_size=400, width=32, depth=1, heads=2), 32)


def untrained(seed: int) -> Clip:
    """A tiny model that knows nothing."""
    torch.manual_seed(seed)
    return Clip(TINY)


@pytest.fixture(scope="session")
def tokenizer(small_world) -> Tokenizer:
    """The tiny model's, trained on the smoke profile's world."""
    smoke = get_profile("smoke")
    training = dataclasses.replace(smoke.training, pairs=256)
    return train_tokenizer(small_world, dataclasses.replace(smoke, model=TINY, training=training))


class PixelEncoder:
    """Stands in for a frozen image encoder, at no cost: the image, 8 × 8 pixels small, in random directions."""

    kind, width = "images", 24
    description = {"kind": kind, "name": "pixels in random directions"}

    def __init__(self, *settings):
        self.settings, self.calls = settings, 0

    def __call__(self, images: torch.Tensor, progress: Callable[[int], None] | None = None) -> torch.Tensor:
        self.calls += 1
        small = F.adaptive_avg_pool2d(images.cpu().float() / 255 - 0.5, 8).flatten(1)  # (N, 192)
        if progress:
            progress(len(images))
        return F.normalize(small @ torch.randn(192, self.width, generator=torch.Generator().manual_seed(0)), dim=1)


class WordEncoder:
    """Stands in for a frozen text encoder, at no cost: every word has a random direction, a caption their sum."""

    kind, width = "captions", 16
    description = {"kind": kind, "name": "hashed words"}

    def __init__(self, *settings):
        self.settings, self.calls = settings, 0

    def __call__(self, texts: list[str], progress: Callable[[int], None] | None = None) -> torch.Tensor:
        self.calls += 1
        generators = [
            [torch.Generator().manual_seed(zlib.crc32(word.encode())) for word in text.split()] for text in texts
        ]
        if progress:
            progress(len(texts))
        rows = [torch.stack([torch.randn(self.width, generator=one) for one in row]).sum(0) for row in generators]
        return F.normalize(torch.stack(rows), dim=1)


@pytest.fixture(scope="session")
def small_banks(small_world, tmp_path_factory) -> tuple[Bank, Bank]:
    """What the two stand-ins say of the smoke profile's first 256 pairs."""
    rows, folder = SceneView(small_world, 256), tmp_path_factory.mktemp("banks")
    return tuple(build_bank(rows, encoder, folder / encoder.kind) for encoder in (PixelEncoder(), WordEncoder()))


@pytest.fixture(scope="session")
def teacher_of(small_world, small_banks) -> Callable[[Recipe], Teacher | None]:
    """Whom a training of a recipe asks, on the smoke profile's first 256 pairs: made of `small_banks`, None for no one."""
    images, captions = small_banks
    found, rows = [nearest_neighbours(bank) for bank in small_banks], SceneView(small_world, 256)

    def choose(recipe: Recipe) -> Teacher | None:
        ping = recipe.ping
        if not recipe.needs_teacher:
            return None
        if ping.live:
            return LiveTeacher(PixelEncoder(), captions, ping.queue)
        return BankTeacher(images, captions, *(CHOICES[ping.choice](rows, each) for each in found), ping.choice, ping.own)

    return choose


def write_tar(path: Path, members: Iterable[tuple[str, bytes]]) -> None:
    """A tar of files with these names."""
    path.parent.mkdir(exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


@pytest.fixture(scope="session")
def driver():
    """Playwright, which starts browsers: one for all tests of a process, since a process cannot have two."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
    with api.sync_playwright() as started:
        yield started
