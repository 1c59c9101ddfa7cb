"""Plans: what training sees is what the scenes are, in any order; and what is finished outlives what goes wrong."""

import os
import signal
import threading

import pytest
import torch
from conftest import forks
from hypothesis import given, settings
from hypothesis import strategies as st
from pretended_gpu import PretendedGpu
from torch.utils._python_dispatch import TorchDispatchMode

from lcl import storage
from lcl.config import LclError, TrainConfig
from lcl.models.tokenizer import Tokenizer
from lcl.train import loader, plans
from lcl.train.plans import Plan, open_plan

TENSORS = ("ids", "mask", "words", "function")


@pytest.fixture
def small_shards(monkeypatch):
    monkeypatch.setattr(plans, "SHARD_ROWS", 16)


@pytest.fixture
def plan(small_shards, few_world, tokenizer, tmp_path):
    """Seventy scenes in five shards."""
    return open_plan(few_world.train(70), tokenizer, 48, tmp_path / "plan", workers=0)


def same(images, tokens, other_images, other_tokens) -> bool:
    pairs = [(getattr(tokens, name), getattr(other_tokens, name)) for name in TENSORS]
    return torch.equal(images, other_images) and all(a.dtype == b.dtype and torch.equal(a, b) for a, b in pairs)


@given(rows=st.lists(st.integers(0, 69), min_size=1, max_size=40))
@settings(deadline=None)
def test_any_rows_in_any_order_are_the_scenes_and_their_tokens(shared_plan, few_world, tokenizer, rows):
    pairs = few_world.pairs("train", rows)
    assert same(*shared_plan.take(torch.tensor(rows), "cpu"), pairs.images, tokenizer.encode(pairs.captions, 48))


@pytest.fixture(scope="module")
def shared_plan(few_world, tokenizer, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(plans, "SHARD_ROWS", 16)
        return open_plan(few_world.train(70), tokenizer, 48, tmp_path_factory.mktemp("plan"), workers=0)


def test_training_on_a_plan_sees_what_it_saw_without(small_shards, few_world, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    monkeypatch.setattr(loader, "CHUNK", 32)
    config, told = TrainConfig(pairs=100, epochs=2, batch_size=16), (48, 3)
    planned = list(loader.batches(few_world, tokenizer, config, *told, "cpu"))
    drawn = list(loader._scene_batches(few_world.train(100), tokenizer, config, *told, loader.Ranks(), 0, "cpu"))
    assert len(planned) == len(drawn) == 12
    for one, other in zip(planned, drawn, strict=True):
        assert torch.equal(one.indices, other.indices) and same(one.images, one.tokens, other.images, other.tokens)
    later = list(loader.batches(few_world, tokenizer, config, *told, "cpu", first=7))
    assert [batch.indices.tolist() for batch in later] == [batch.indices.tolist() for batch in planned[7:]]


@pytest.mark.parametrize("world", [1, 2], indirect=True)
def test_a_scene_takes_at_most_120_bytes(world, tmp_path):
    rows = world.train(4096)
    words = Tokenizer.train(rows.captions(range(4096)), 2048, world.fingerprint)
    open_plan(rows, words, 48, tmp_path, workers=0)
    (shard,) = tmp_path.glob("*.safetensors")
    assert 100 * 4096 < shard.stat().st_size <= 120 * 4096


def test_a_long_vocabulary_and_a_cut_caption_are_kept_whole(few_world, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(type(tokenizer), "vocab_size", 40_000)
    rows, numbers = few_world.train(20), torch.arange(20)
    images, tokens = open_plan(rows, tokenizer, 8, tmp_path, workers=0).take(numbers, "cpu")
    assert tokens.ids.shape == (20, 8) and tokens.ids.dtype == torch.long
    pairs = few_world.pairs("train", range(20))
    assert same(images, tokens, pairs.images, tokenizer.encode(pairs.captions, 8))


class Names(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, arguments=(), options=None):
        self.found.append(function.name())
        return function(*arguments, **(options or {}))


def test_a_gpu_draws_planned_scenes_without_being_waited_for(plan, few_world):
    few_world._canvas._drawings.pop("cuda", None)
    rows = torch.arange(40)
    here = plan.take(rows, "cpu")
    with PretendedGpu():
        images, tokens = plan.take(rows, "cuda")
        assert images.is_cuda and not tokens.ids.is_cuda
        assert same(images.cpu(), tokens, *here)
    few_world._canvas._drawings.pop("cuda", None)
    with Names() as names:
        plan.take(rows, "cpu")
    waits = {"aten::_local_scalar_dense", "aten::nonzero", "aten::masked_select", "aten::item", "aten::_unique2"}
    assert len(names.found) > 100 and not waits & set(names.found)


def test_the_next_batch_is_made_while_one_is_learned_from(small_shards, few_world, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    monkeypatch.setattr(loader, "CHUNK", 32)
    made, take = threading.Semaphore(0), Plan.take
    monkeypatch.setattr(Plan, "take", lambda *told: (take(*told), made.release())[0])
    told = few_world, tokenizer, TrainConfig(pairs=64, epochs=1, batch_size=16), 48, 0, "cpu"
    for number, _ in enumerate(loader.batches(*told), 1):
        assert made.acquire(timeout=60) and (number == 4 or made.acquire(timeout=60)), "the next one is made meanwhile"
        made.release()
    threads = threading.active_count()
    next(begun := loader.batches(*told))
    begun.close()  # a training that stops early
    assert number == 4 and threading.active_count() == threads


# --- what goes wrong


def test_an_interrupted_plan_is_gone_on_with(small_shards, few_world, tokenizer, tmp_path, monkeypatch):
    rows, made, describe = few_world.train(70), [], plans.describe_shard

    def until_the_third(*told):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(told[3])
        return describe(*told)

    monkeypatch.setattr(plans, "describe_shard", until_the_third)
    with pytest.raises(KeyboardInterrupt):
        open_plan(rows, tokenizer, 48, tmp_path, workers=0)
    monkeypatch.setattr(plans, "describe_shard", lambda *told: made.append(told[3]) or describe(*told))
    finished = []
    plan = open_plan(rows, tokenizer, 48, tmp_path, finished.append, workers=0)
    assert made == [0, 16, 32, 48, 64] and sum(finished) == len(plan) == 70
    open_plan(rows, tokenizer, 48, tmp_path, workers=0)
    assert len(made) == 5  # nothing is made twice


def test_a_damaged_shard_is_made_again(plan, few_world, tokenizer, tmp_path):
    path, other = (tmp_path / "plan" / f"plan-0000{number}.safetensors" for number in (2, 3))
    whole = path.read_bytes()
    for damaged in (whole[:-1] + bytes([whole[-1] ^ 1]), whole[:100], b"", other.read_bytes()):
        path.write_bytes(damaged)
        open_plan(few_world.train(70), tokenizer, 48, tmp_path / "plan", workers=0)
        assert path.read_bytes() == whole


def test_the_plan_of_other_scenes_is_refused(plan, few_world, tokenizer, tmp_path):
    for rows, context in ((few_world.train(60), 48), (few_world.train(70), 40)):
        with pytest.raises(LclError, match="of other scenes or another tokenizer; name another folder"):
            open_plan(rows, tokenizer, context, tmp_path / "plan", workers=0)


@pytest.mark.parametrize("text", ["", "[]", '{"rows": 3}', "[" * 100_000])
def test_a_damaged_manifest_is_said(plan, few_world, tokenizer, tmp_path, text):
    (tmp_path / "plan" / "plan.json").write_text(text)
    with pytest.raises(LclError, match="remove"):
        open_plan(few_world.train(70), tokenizer, 48, tmp_path / "plan", workers=0)


def test_a_full_disk_is_one_sentence(small_shards, few_world, tokenizer, tmp_path, monkeypatch):
    def full(path, tensors, metadata=None):
        raise LclError(f"cannot write {path}: the disk is full.")

    monkeypatch.setattr(storage, "write_tensors", full)
    with pytest.raises(LclError, match="^cannot write .*plan-00000.safetensors: the disk is full"):
        open_plan(few_world.train(70), tokenizer, 48, tmp_path, workers=0)


@forks
def test_processes_make_the_plan_that_one_makes(small_shards, plan, few_world, tokenizer, tmp_path):
    open_plan(few_world.train(70), tokenizer, 48, tmp_path / "other", workers=2)
    for path in (tmp_path / "plan").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


@forks
def test_a_killed_process_is_said_and_what_is_finished_stays(small_shards, few_world, tokenizer, tmp_path, monkeypatch):
    describe, here = plans.describe_shard, os.getpid()

    def killed(*told):
        if told[3] == 48 and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return describe(*told)

    monkeypatch.setattr(plans, "describe_shard", killed)
    with pytest.raises(LclError, match="one of the 2 processes that describe scenes died.* call again"):
        open_plan(few_world.train(70), tokenizer, 48, tmp_path, workers=2)
    again = []
    monkeypatch.setattr(plans, "describe_shard", lambda *told: again.append(told[3]) or describe(*told))
    plan = open_plan(few_world.train(70), tokenizer, 48, tmp_path, workers=0)
    assert isinstance(plan, Plan) and len(plan) == 70 and 48 in again and 0 not in again
