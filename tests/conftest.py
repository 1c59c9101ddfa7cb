"""What the tests share: two worlds, a sample of scenes with its pixels, and the rule that GPU tests need a GPU."""

import dataclasses
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings

from lcl.config import SceneConfig, get_profile
from lcl.pictures import Pictures, load_pictures
from lcl.scenes import SPLITS, Scene, Thing, World, open_world

torch.set_num_threads(
    1
)  # tests run side by side, a process a core (pytest -n 2); more threads would only get in the way

settings.register_profile("lcl", deadline=None, derandomize=True)  # a slow machine is no failure
settings.load_profile("lcl")


def pytest_collection_modifyitems(items):
    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="needs a CUDA device, and torch.cuda.is_available() says that there is none")
        for item in items:
            if item.get_closest_marker("gpu"):
                item.add_marker(skip)


@pytest.fixture(scope="session")
def world() -> World:
    """The laptop profile's world: 64 pixels, 256 known concepts."""
    return open_world(SceneConfig())


@pytest.fixture(scope="session")
def small_world() -> World:
    """The smoke profile's world: 64 pixels, 32 known concepts."""
    return open_world(get_profile("smoke").scenes)


@pytest.fixture(scope="session")
def few_pictures() -> Pictures:
    """The first sixty concepts of the dictionary: worlds made of them open at once."""
    pictures = load_pictures(64)
    return dataclasses.replace(pictures, concepts=pictures.concepts[:60], drawings=pictures.drawings[:, :60])


@pytest.fixture(scope="session")
def few_world(few_pictures) -> World:
    """A world of 32 known and 8 unseen concepts."""
    return World(SceneConfig(known=32, unseen=8), few_pictures)


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
    alone = [(row, thing) for row, scene in enumerate(scenes) for thing in scene.things]
    maps = [[] for _ in scenes]
    for (row, _), opacity in zip(alone, _opacity(world, scenes, alone), strict=True):
        maps[row].append(opacity)
    return Sample(scenes, world.render(scenes), maps)


def _opacity(world: World, scenes: list[Scene], alone: list[tuple[int, Thing]]) -> torch.Tensor:
    """What shows through a thing is what differs when it stands on white and on black."""

    def on(shade: int) -> torch.Tensor:
        plain = {"kind": "solid", "first": (shade,) * 3, "second": (shade,) * 3}
        grounds = [dataclasses.replace(scene.ground, **plain) for scene in scenes]
        return world.render([dataclasses.replace(scenes[row], ground=grounds[row], things=(t,)) for row, t in alone])

    return 255 - (on(255)[:, 0].int() - on(0)[:, 0].int())
