"""nanoclip.py: short, on its own, with the library's loss; it runs, and it learns."""

import ast
import math
import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import nanoclip
from lcl.losses.contrastive import info_nce

ROOT = Path(__file__).resolve().parent.parent
SOURCE = (ROOT / "nanoclip.py").read_text(encoding="utf-8")
MOST_LINES = 300
ALLOWED = {"lcl.config", "lcl.data.scenes", "lcl.data.drawn.captions"}  # the scenes; all of CLIP is in the file itself


def test_it_is_one_short_file():
    assert Path(nanoclip.__file__) == ROOT / "nanoclip.py"
    assert len(SOURCE.splitlines()) <= MOST_LINES


def test_it_needs_only_torch_and_the_scenes():
    modules = set()
    for node in ast.walk(ast.parse(SOURCE)):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            modules.add(node.module)
    ours = {module for module in modules if module.split(".")[0] == "lcl"}
    assert ours <= ALLOWED
    assert {module.split(".")[0] for module in modules - ours} <= {"torch", *sys.stdlib_module_names}


@pytest.mark.parametrize("logit_scale", [1.0, 14.3, 100.0])
@pytest.mark.parametrize("batch_size", [2, 3, 16, 128, 257])
def test_its_loss_is_bitwise_the_librarys(batch_size, logit_scale):
    """Values and gradients of v, t and logit_scale."""
    generator = torch.Generator().manual_seed(batch_size)
    values = [*torch.randn(2, batch_size, 128, generator=generator), torch.tensor(logit_scale)]

    def value_and_gradients(loss) -> list[torch.Tensor]:
        v, t, scale = (value.clone().requires_grad_() for value in values)
        value = loss(F.normalize(v, dim=-1), F.normalize(t, dim=-1), scale)
        value.backward()
        return [value.detach(), v.grad, t.grad, scale.grad]

    ours = value_and_gradients(nanoclip.info_nce)
    library = value_and_gradients(lambda v, t, scale: info_nce(v, t, scale)["info_nce"])
    assert all(torch.equal(a, b) for a, b in zip(ours, library, strict=True))
    assert all(gradient.abs().sum() > 0 for gradient in ours[1:])


def test_the_tokenizer_gives_each_word_its_number():
    tokenizer = nanoclip.Tokenizer(["A red cat.", "a cat above a dog", "two red dogs"])
    a, cat, red = (tokenizer.ids[word] for word in ("a", "cat", "red"))
    assert tokenizer.ids.keys() == {"a", "cat", "red"} and tokenizer.vocab_size == 5  # the other words occur once
    rows = tokenizer.encode(["A cat, red", "zebra"])
    assert rows.tolist() == [[a, cat, red], [nanoclip.UNKNOWN, nanoclip.PAD, nanoclip.PAD]]
    assert tokenizer.encode(["a " * 99]).shape == (1, nanoclip.CONTEXT_LENGTH)


def test_embeddings_do_not_depend_on_the_rest_of_the_batch():
    """Neither through batch norm, nor through padding. They have length one."""
    tokenizer = nanoclip.Tokenizer(["a cat above a dog with a red bus"] * 2)
    torch.manual_seed(0)
    model = nanoclip.Clip(tokenizer.vocab_size)
    images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8)
    captions = ["a cat", "a red bus above a dog with a cat", "a dog above a cat"]
    v, t = nanoclip.embed(model, tokenizer, images, captions)
    alone_v, alone_t = nanoclip.embed(model, tokenizer, images[:1], captions[:1])
    torch.testing.assert_close(v[:1], alone_v)
    torch.testing.assert_close(t[:1], alone_t)
    torch.testing.assert_close(torch.cat([v, t]).norm(dim=1), torch.ones(6))
    other_order = nanoclip.embed(model, tokenizer, images[:1], ["a cat above a dog"])[1]
    assert (t[2] - other_order[0]).abs().max() > 1e-4  # positions matter


def test_the_learning_rate_rises_and_falls():
    rates = [nanoclip.learning_rate(step, 100) for step in range(1, 101)]
    assert max(rates) == rates[9] == nanoclip.LEARNING_RATE
    assert rates[:10] == sorted(rates[:10]) and rates[9:] == sorted(rates[9:], reverse=True)
    assert 0 < rates[-1] < nanoclip.LEARNING_RATE / 1000
    assert all(0 < nanoclip.learning_rate(step, 2) <= nanoclip.LEARNING_RATE for step in (1, 2))


def test_an_epoch_shows_every_pair_once():
    order = nanoclip.batches(10, 3, seed=0)
    epochs = [[next(order) for _ in range(3)] for _ in range(2)]
    for epoch in epochs:
        assert [len(rows) for rows in epoch] == [3, 3, 3] and len(set(torch.cat(epoch).tolist())) == 9
    assert torch.cat(epochs[0]).tolist() != torch.cat(epochs[1]).tolist()


def test_a_short_run_starts_at_chance_and_prints_metrics_with_chance(monkeypatch, capsys, small_world):
    monkeypatch.setattr(nanoclip, "open_scenes", lambda config: small_world)
    for name, value in {"VALIDATION": 16, "TEST": 50, "VIEWS": 1}.items():
        monkeypatch.setattr(nanoclip, name, value)
    runs = []
    run = nanoclip.run
    monkeypatch.setattr(nanoclip, "run", lambda *arguments: runs.append(run(*arguments)))
    nanoclip.main(["--steps", "3", "--batch-size", "32", "--seed", "1"])

    ((losses, metrics),) = runs
    assert losses[0] == pytest.approx(math.log(32), abs=0.5)
    assert len(losses) == 3 and all(map(math.isfinite, losses))
    assert {name: chance for name, (_, chance) in metrics.items()} == {
        "image→text recall@1": 1 / 50, "text→image recall@1": 1 / 50, "zero-shot top-1": 1 / 32,
    }  # fmt: skip
    assert all(0 <= value <= 1 for value, _ in metrics.values())
    printed = capsys.readouterr().out
    assert "step    3 of 3: loss" in printed and "min left" in printed and "(chance 3.47)" in printed
    assert "zero-shot top-1" in printed and "(chance 3.1%)" in printed


@pytest.mark.parametrize("wrong", [["--steps", "0"], ["--batch-size", "1"], ["--batch-size", "99999"]])
def test_settings_that_cannot_work_are_refused(wrong, capsys):
    with pytest.raises(SystemExit):
        nanoclip.main(wrong)
    assert "--steps must be 1 or more" in capsys.readouterr().err


@pytest.mark.slow
def test_it_learns(monkeypatch, small_world):
    """On 32 classes a minute is enough to be far above chance, on pairs and classes alike."""
    monkeypatch.setattr(nanoclip, "TEST", 256)
    losses, metrics = nanoclip.run(small_world, steps=128, batch_size=64, seed=0)
    assert losses[0] == pytest.approx(math.log(64), abs=0.5)
    assert sum(losses[-8:]) / 8 < 0.5 * math.log(64)
    for name, (value, chance) in metrics.items():
        assert value > 10 * chance, f"{name} is {value:.1%}, chance {chance:.1%}"
