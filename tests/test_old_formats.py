"""What version 0.1 saved still opens: runs, checkpoints, towers, banks, neighbours, shards, saved checkpoints, results.

`fixtures/v01` was written by version 0.1 itself (commit 6e845f5), when names in configs were others.
"""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from benchmarks.run import load_bench
from lcl.config import LclError, TrainConfig, from_dict, get_profile, to_dict
from lcl.course.metrics import score
from lcl.course.saved import load_saved
from lcl.data.shards import open_shards
from lcl.models.clip import load_model
from lcl.storage import read_json
from lcl.teachers.banks import open_bank
from lcl.teachers.search import load_neighbours, nearest_neighbours
from lcl.train.checkpoints import resume
from lcl.train.loop import Step, Training, Validation
from lcl.train.recipes import RECIPES, MatchConfig, Recipe
from lcl.train.runs import EventLog, load_run, read_plan

OLD = Path(__file__).parent / "fixtures" / "v01"


def test_a_run_opens_with_its_recipe_curve_and_weights():
    run = load_run(OLD / "run")
    assert run.recipe == RECIPES["lightclip-ping"] and run.recipe.match.unmatched_cost == 1.0
    assert run.profile.training.activation_checkpointing is False and run.profile.scenes.version == 1
    assert [type(event) for event in run.curve] == [Step] * 4 + [Validation]
    with torch.no_grad():
        v = run.model.encode_image(torch.full((2, 3, 64, 64), 90, dtype=torch.uint8))
    assert v.shape == (2, 128) and torch.isfinite(v).all()
    assert {"masked_language", "projections"} == set(run.extra)


def test_towers_of_an_export_are_those_of_the_run():
    (towers, words), run = load_model(OLD / "towers"), load_run(OLD / "run")
    assert words.fingerprint == run.tokenizer.fingerprint
    assert all(torch.equal(a, b) for a, b in zip(towers.state_dict().values(), run.model.state_dict().values(), strict=True))


def test_a_stopped_training_goes_on_from_its_checkpoint(first_small_world, tmp_path):
    folder = shutil.copytree(OLD / "stopped", tmp_path / "stopped")
    plan = read_plan(folder)
    training = Training(plan.profile, first_small_world, plan.seed, "cpu")
    assert plan.profile.scenes.version == 1 and resume(folder / "checkpoints", training) == 2
    log = EventLog(folder, training.step)
    assert [event.step for event in log.before] == [1, 2]  # what was told of later steps is told again
    losses = [event.loss for event in training if isinstance(event, Step)]
    assert losses == pytest.approx([3.916945695877075, 3.817939043045044], abs=1e-3)  # as version 0.1 went on


def test_a_log_that_names_validation_steps_otherwise_is_read(tmp_path):
    shutil.copy(OLD / "stopped" / "log.jsonl", tmp_path)
    assert [type(event) for event in EventLog(tmp_path, 4).before] == [Step] * 4 + [Validation]


def test_a_bank_and_its_neighbours_open(first_small_world):
    bank, found = open_bank(OLD / "bank", first_small_world.train(32)), load_neighbours(OLD / "neighbours.safetensors")
    assert bank.width == 384 and found.bank == bank.fingerprint
    assert torch.equal(found.indices, nearest_neighbours(bank, 3).indices)


def test_shards_open_with_the_same_rows(first_small_world, tmp_path):
    """Their index lacks what splits need today, so the tars are scanned again."""
    shards = open_shards(shutil.copytree(OLD / "shards", tmp_path / "shards"))
    assert (len(shards), shards.fingerprint) == (24, "b1b13195107183fd")
    assert [shards.captions(row)[0] for row in range(24)] == first_small_world.train(24).captions(range(24))


def test_a_saved_checkpoint_is_loaded(first_small_world, tmp_path, monkeypatch):
    shutil.copytree(OLD / "saved", tmp_path / "checkpoints")
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    about = read_json(tmp_path / "checkpoints" / "small" / "about.json")
    profile = from_dict(type(get_profile("smoke")), about["of"]["profile"])
    recipe = from_dict(Recipe, about["of"]["recipe"])
    training = Training(profile, first_small_world, about["of"]["seed"], "cpu", recipe, teacher=Dims(first_small_world, profile))
    curve, _ = load_saved("small", training)
    assert training.step == 4 and len([event for event in curve if isinstance(event, Step)]) == 4


class Dims:
    """A teacher of the right dimensions; nothing is trained with it."""

    def __init__(self, world, profile):
        self.dims = 1280, 384
        self.description = {"rows": world.train(profile.training.pairs).description, "widths": [1280, 384]}


def test_a_result_of_the_study_and_a_benchmark_are_read():
    result = read_json(OLD / "result.json")
    assert score(result, "zero_shot_top1") == 100 * result["metrics"]["new_scenes"]["zero_shot_top1"]["value"]
    assert from_dict(Recipe, result["recipe"]) == RECIPES["clip"]
    assert load_bench(OLD / "bench.json").races["step-open_clip"].faster.middle > 0


def test_old_names_in_configs_are_read_and_new_ones_written():
    old = to_dict(TrainConfig()) | {"recompute": True}
    del old["activation_checkpointing"]
    assert from_dict(TrainConfig, old) == dataclasses.replace(TrainConfig(), activation_checkpointing=True)
    assert from_dict(MatchConfig, {"solver": "nearest", "price": 0.5}) == MatchConfig("max", unmatched_cost=0.5)
    assert "recompute" not in json.dumps(to_dict(TrainConfig())) and "price" not in json.dumps(to_dict(MatchConfig()))
    with pytest.raises(LclError, match="no field of TrainConfig 'recompte'"):
        from_dict(TrainConfig, {"recompte": True})
