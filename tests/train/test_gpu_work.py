"""What a step asks of a GPU, counted on a pretended one and held: see `gpu_work`."""

import copy
import dataclasses

import pytest
import torch
from gpu_work import CountedGpu

from lcl import assignment
from lcl.config import CHECKOUT, LanguageConfig, ModelConfig, VisionConfig, get_profile
from lcl.losses.matching import exact
from lcl.models.clip import Clip
from lcl.models.layers import Block
from lcl.teachers.banks import Bank
from lcl.train.loop import Step, Training, compile_blocks
from lcl.train.recipes import RECIPES

# Launches in float32 and in bfloat16, and waits, with the depths of the profile `gpu`: 8 blocks for images, 4 for captions.
# docs/scale.md tells them, beside those at commit 6e845f5.
MOST = {
    "clip": (488, 758, 1),
    "lightclip": (1109, 1560, 3),
    "clip-ping": (674, 944, 1),
    "lightclip-ping": (1295, 1746, 3),
}


@pytest.fixture
def gpu(monkeypatch, small_world):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**10, 10**10))  # room for a copy of each bank
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", lambda device: None)
    counted = CountedGpu()

    def matched(cost, words, price):  # in place of the kernel, which is one launch
        counted.launches["kernel"] += 1
        with counted.uncounted():
            return exact(cost.cpu(), words.cpu(), price.item()).patch.to("cuda")

    monkeypatch.setattr(assignment, "usable", lambda x: x.is_cuda)
    monkeypatch.setattr(assignment, "by_kernel", matched)
    yield counted
    small_world._canvas._drawings.pop("cuda", None)  # what it keeps on a GPU that is no more


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("name", MOST)
def test_a_step_launches_and_waits_no_more_than_it_did(gpu, small_world, teacher_of, name, precision, monkeypatch):
    if precision == "bfloat16":  # torch switches "cuda" off where there is none
        monkeypatch.setattr(Clip, "autocast", lambda model: torch.autocast("cpu", torch.bfloat16))
    smoke = get_profile("smoke")
    model = ModelConfig(
        VisionConfig("vit", width=16, depth=8, heads=4), LanguageConfig(vocab_size=300, width=16, depth=4, heads=4), 16
    )
    training = dataclasses.replace(smoke.training, pairs=64, epochs=1, batch_size=16, evaluate_every=4)
    for bank in vars(teacher_of(RECIPES[name]) or ()).values() if RECIPES[name].needs_teacher else ():
        if isinstance(bank, Bank):
            bank._copies.clear()  # what it keeps on a GPU that is no more
    with gpu:
        told = dataclasses.replace(smoke, model=model, training=training), small_world, 0, "cuda", RECIPES[name]
        for event in Training(*told, teacher_of(RECIPES[name]) if RECIPES[name].needs_teacher else None):
            if isinstance(event, Step) and event.step == 3:
                break
            gpu.reset()
    *launches, waits = MOST[name]
    launches = launches[precision == "bfloat16"]
    assert 0.95 * launches <= gpu.launches.total() <= launches, "lower the bound, or say why a step launches more"
    assert gpu.waits.total() <= waits, f"the host waits in these lines: {dict(gpu.waits)}"
    assert gpu.moved < 200_000  # bytes: no picture, no bank


def test_the_page_tells_these_counts():
    page = (CHECKOUT / "docs" / "scale.md").read_text("utf-8")
    for name, (single, half, waits) in MOST.items():
        assert f"| `{name}` | {single:,} | {half:,} | {waits} |" in page


def test_the_counting_sees_waits_and_launches():
    def waits(work) -> int:
        with CountedGpu() as gpu:
            x, here = torch.arange(6.0, device="cuda"), torch.ones(6)
            gpu.reset()
            work(x, here)
            return gpu.waits.total()

    for work in (
        lambda x, here: x.sum().item(), lambda x, here: bool(x.sum()), lambda x, here: x.tolist(), lambda x, here: x.nonzero(),
        lambda x, here: x[x > 2], lambda x, here: x.cpu(), lambda x, here: here.to("cuda"), lambda x, here: x[here.long()],
        lambda x, here: here.to("cuda", non_blocking=True), lambda x, here: x.unique(), lambda x, here: int(x[0]),
        lambda x, here: torch.tensor([1.0], device="cuda"),
    ):  # fmt: skip
        assert waits(work) == 1
    for work in (
        lambda x, here: x + 1, lambda x, here: here.pin_memory().to("cuda", non_blocking=True), lambda x, here: here.sum().item(),
        lambda x, here: x[2:], lambda x, here: torch.zeros(3, device="cuda"), lambda x, here: x[x.long().argsort()],
    ):  # fmt: skip
        assert waits(work) == 0
    with CountedGpu() as gpu:
        x = torch.ones(4, 4, device="cuda", requires_grad=True)
        gpu.reset()
        (x.T @ x).sum().backward()  # products: 1, and 2 backwards; sum, its seed, and two gradients added
        assert gpu.launches["mm"] == 3 and gpu.launches["sum"] == 1 and gpu.launches.total() <= 8
        torch.ones(3) + 1
        assert gpu.launches.total() <= 8, "work of the host is none of the GPU"


def test_blocks_that_are_compiled_take_captions_of_any_length(monkeypatch):
    """Unpacked, as on a GPU; captured as ever, but run without a compiler's code. One graph trains, one is for evaluation."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(
        torch.nn.Module, "compile", lambda block, dynamic: compile(block, dynamic=dynamic, backend="aot_eager")
    )
    torch._dynamo.reset()
    made = torch.nn.ModuleList([Block(8, 2), Block(8, 2)])
    plain = copy.deepcopy(made)
    compile_blocks([made])
    counters = torch._dynamo.utils.counters["stats"]
    counters.clear()
    for number, length in enumerate((5, 9, 7, 12)):
        x, mask = torch.randn(4, length, 8), torch.arange(length) < torch.tensor([[length], [2], [1], [3]])
        for one, other in zip(made, plain, strict=True):
            torch.testing.assert_close(one(x, mask), other(x, mask), rtol=1e-5, atol=1e-6)
            with torch.no_grad():
                one.eval()(x, mask)
            one.train()
        if number == 1:
            graphs = counters["unique_graphs"]
    assert counters["unique_graphs"] == graphs <= 6, "another length is compiled anew"
