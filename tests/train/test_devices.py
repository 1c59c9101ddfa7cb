"""What belongs on the GPU is there, and what is not there does not meet it: on a pretended GPU, for there may be no real one."""

import dataclasses

import pytest
import torch
from pretended_gpu import PretendedGpu

from lcl.config import EvalConfig, LanguageConfig, ModelConfig, VisionConfig, get_profile
from lcl.eval.metrics import evaluate
from lcl.teachers.banks import Bank
from lcl.teachers.search import nearest_neighbours
from lcl.train.checkpoints import resume, save_checkpoint
from lcl.train.loop import Step, Training
from lcl.train.recipes import RECIPES


@pytest.fixture
def gpu(monkeypatch, small_world):
    monkeypatch.setattr(torch.cuda, "get_rng_state", torch.get_rng_state)
    monkeypatch.setattr(torch.cuda, "set_rng_state", torch.set_rng_state)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 10**10))  # room for a copy of each bank
    yield PretendedGpu()
    small_world._canvas._drawings.pop("cuda", None)  # what it keeps on a GPU that is no more


def profile(tower: str, **settings):
    smoke = get_profile("smoke")
    vision, language = VisionConfig(tower, width=16, depth=1), LanguageConfig(vocab_size=300, width=16, depth=1, heads=2)
    training = dataclasses.replace(smoke.training, pairs=64, epochs=2, batch_size=16, evaluate_every=4, **settings)
    return dataclasses.replace(smoke, model=ModelConfig(vision, language, 16), training=training)


def test_the_pretended_gpu_fails_where_a_real_one_would(gpu):
    with gpu:
        x, here = torch.arange(3.0, device="cuda"), torch.ones(3)
        placed = (x + 1, x[here > 0], x[:1] + torch.tensor(1.0), x.clone(), here.to(x), here.cuda(), torch.zeros_like(x))
        assert {y.device.type for y in placed} == {"cuda"} and x.is_cuda
        assert {y.device.type for y in (here, x.cpu(), x.to("cpu"), torch.zeros(2))} == {"cpu"} and not here.is_cuda
        for mistake in (lambda: x + here, lambda: torch.cat([x, here]), lambda: here[x.long()], lambda: x.numpy()):
            with pytest.raises(RuntimeError, match="cuda:0"):
                mistake()
        here.copy_(x)
        assert here.device.type == "cpu" and torch.equal(here, x.cpu())
        layer = torch.nn.Linear(3, 2).to("cuda")
        layer(x).sum().backward()
        assert layer.weight.device == layer.weight.grad.device == x.device


@pytest.mark.parametrize(
    ("name", "tower", "settings"),
    [
        pytest.param("lightclip-ping", "conv", {}, marks=pytest.mark.slow),
        ("lightclip-ping", "vit", {"micro_batch": 8, "activation_checkpointing": True}),
        pytest.param("a-clip-ping", "conv", {}, marks=pytest.mark.slow),
    ],
)
def test_a_training_a_resumed_one_and_an_evaluation_mix_no_devices(gpu, small_world, teacher_of, tmp_path, name, tower, settings):
    def start(device: str) -> Training:
        return Training(profile(tower, **settings), small_world, 0, device, RECIPES[name], teacher_of(RECIPES[name]))

    for bank in vars(teacher_of(RECIPES[name])).values():
        if isinstance(bank, Bank):
            bank._copies.clear()  # what it keeps on a GPU that is no more
    losses = [event.loss for event in start("cpu") if isinstance(event, Step)]
    with gpu:
        whole, stopped, resumed = start("cuda"), start("cuda"), start("cuda")
        found = [event.loss for event in whole if isinstance(event, Step)]
        assert found == pytest.approx(losses, rel=1e-4)  # captions are packed on a CPU only, and sums are rounded otherwise
        next(event for event in stopped if event.step == 3)
        save_checkpoint(tmp_path, stopped)
        assert resume(tmp_path, resumed) == 3
        assert [event.loss for event in resumed if isinstance(event, Step)] == found[3:]
        for training in (whole, resumed):
            states = [x for state in training.optimizer.state.values() for x in state.values()]
            assert {x.device.type for x in (*training.learner.state_dict().values(), *states)} == {"cuda"}
        if not settings and name == "lightclip-ping":  # once: it takes long
            evaluate(whole.model, whole.tokenizer, small_world, EvalConfig(retrieval=32, views=1, gallery=32), whole.extra)


def test_a_training_reports_its_own_peak_of_memory(gpu, small_world, monkeypatch):
    peak = {"cuda": 3 * 2**30}  # what another training of this process took
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", peak.get)
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: peak.update({device: 2**30}))
    with gpu:
        training = Training(profile("vit"), small_world, 0, "cuda", RECIPES["clip"])
        assert next(iter(training)).memory == 1.0
        peak["cuda"] = 2 * 2**30  # this one's second step
        assert next(iter(Training(profile("vit"), small_world, 0, "cuda", RECIPES["clip"]))).memory == 1.0


def test_neighbours_and_pictures_mix_no_devices(gpu, small_world):
    rows = torch.nn.functional.normalize(torch.randn(300, 8, generator=torch.Generator().manual_seed(0)), dim=1)
    wanted, scenes = nearest_neighbours(rows, 3, block=128), [small_world.scene("new_scenes", index) for index in range(8)]
    with gpu:
        found = nearest_neighbours(rows.to("cuda"), 3, block=128, device="cuda")
        assert found.indices.device.type == "cpu" and torch.equal(found.indices, wanted.indices)
        drawn = small_world.render(scenes, "cuda")
        assert drawn.device.type == "cuda" and torch.equal(drawn.cpu(), small_world.render(scenes))
