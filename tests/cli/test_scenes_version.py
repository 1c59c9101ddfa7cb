"""`--scenes-version`: a run of the scenes' version 1 is stopped, resumed, measured again, searched and embedded as such."""

import functools
import json
from pathlib import Path

import numpy as np
import pytest
from commands import lcl
from PIL import Image

from lcl.cli.common import NO_SCENES
from lcl.config import SceneConfig, get_profile
from lcl.course.metrics import table_text
from lcl.data import scenes
from lcl.data.manifest import source_of
from lcl.data.scenes import SceneDataset
from lcl.train.recipes import CONTROLS, RECIPES
from lcl.train.runs import EventLog, load_run

open_once = functools.cache(scenes.open_scenes)


@pytest.fixture(autouse=True, scope="module")
def opened_once():
    """Every command opens a world that was opened before at once, with no profile set."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("LCL_PROFILE", raising=False)
        patch.setattr(scenes, "open_scenes", open_once)
        yield


@pytest.fixture(scope="module")
def first() -> SceneDataset:
    """The smoke profile's world of version 1."""
    return open_once(SceneConfig(known=32, unseen=8, version=1), None)


@pytest.fixture(scope="module")
def run(tmp_path_factory, first):
    """A run of a control recipe, stopped and resumed, and what the second command printed."""
    runs, write = tmp_path_factory.mktemp("runs"), EventLog.write

    def stopped(log, event):
        write(log, event)
        if event.step == 4:
            raise KeyboardInterrupt

    options = ("--recipe", "clip+smoothing", "--scenes-version", 1, "--epochs", 1, "--batch-size", 128, "--checkpoint-every", 2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(EventLog, "write", stopped)
        assert lcl("train", "--profile", "smoke", *options, "--runs", runs, "--name", "two").code == 130
    resumed = lcl("train", "--resume", runs / "two")
    assert resumed.code == 0, resumed.err
    return runs / "two", resumed


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_a_resumed_run_is_of_its_own_version(run, first, small_world):
    found = metrics_of(run[0])
    assert found["profile"]["scenes"]["version"] == 1 and found["steps"] == 8
    assert found["data"] == first.fingerprint != small_world.fingerprint
    assert load_run(run[0]).profile.scenes == first.config
    assert load_run(run[0]).tokenizer.data == first.fingerprint


@pytest.mark.slow
def test_evaluating_opens_the_runs_own_version(run):
    again = lcl("evaluate", run[0])
    assert "equal to metrics.json" in again.out
    assert table_text(load_run(run[0]).metrics) in again.out and table_text(load_run(run[0]).metrics) in run[1].out


@pytest.mark.slow
def test_searching_and_embedding_need_no_version(run, first, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    (tmp_path / "pictures").mkdir()
    for number, image in enumerate(first.pairs("new_scenes", range(4)).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "pictures" / f"{number}.png")
    found = lcl("search", "a door", tmp_path / "pictures", "--run", run[0], "-k", 2)
    assert found.code == 0 and "4 pictures, 4 of them new" in found.out
    embedded = lcl("embed", tmp_path / "pictures", "--out", tmp_path / "made.npy", "--run", run[0])
    assert embedded.code == 0 and np.load(tmp_path / "made.npy").shape == (4, 128)


@pytest.mark.slow
def test_a_run_goes_on_in_its_own_version_or_in_another_that_is_asked_for(run, tmp_path, first, small_world):
    options = ("--epochs", 1, "--pairs", 256, "--runs", tmp_path, "--from", run[0])
    for name, more, world in (("same", (), first), ("other", ("--scenes-version", 2), small_world)):
        done = lcl("train", *options, "--name", name, *more)
        assert done.code == 0 and ("were trained on other scenes" in done.err) == (name == "other")
        assert metrics_of(tmp_path / name)["data"] == world.fingerprint


def test_data_shows_and_writes_scenes_of_the_version_that_is_asked_for(tmp_path, first, small_world):
    for version, world in ((1, first), (2, small_world)):
        options = ("--profile", "smoke", "--scenes-version", version)
        assert f"data set {world.fingerprint}" in lcl("data", *options).out
        written = lcl("data", "scenes", "--out", tmp_path / str(version), "--count", 3, *options)
        assert written.code == 0 and source_of(tmp_path / str(version))["scenes"] == world.fingerprint


def test_a_version_that_there_is_not_and_one_for_pairs_that_are_no_scenes_are_refused(tmp_path):
    assert "there is no version 3 of the scenes; choose 1 or 2." in lcl("train", "--scenes-version", 3).refusal
    assert "there is no version 0 of the scenes" in lcl("data", "--scenes-version", 0).refusal
    for command in ("train", "banks", "neighbours"):
        assert NO_SCENES in lcl(command, "--data", tmp_path, "--scenes-version", 2).refusal


@pytest.mark.parametrize("name", ["smoke", "laptop", "gpu"])
def test_every_profile_has_enough_objects_in_version_2(name, small_world):
    config = get_profile(name).scenes
    assert config.known + config.unseen <= len(small_world.pictures.concepts)


def test_all_recipes_are_listed_with_their_sources():
    listed = lcl("train", "--list-recipes")
    rows = [line.split(maxsplit=1) for line in listed.out.splitlines()]
    assert listed.code == 0 and rows == [[recipe.name, recipe.source] for recipe in (RECIPES | CONTROLS).values()]
