"""Every failure is named, health is not: the checks on numbers, and on real trainings, healthy and broken."""

import dataclasses
import math
import sys

import pytest
import torch
import torch.nn.functional as F
from commands import lcl
from conftest import TINY, PixelEncoder, WordEncoder

import lcl as package
from lcl.config import LclError, get_profile
from lcl.lines import WIDTH
from lcl.models.clip import Clip
from lcl.teachers.banks import build_bank
from lcl.teachers.search import nearest_neighbours
from lcl.teachers.teacher import BankTeacher
from lcl.train.diagnosis import CHECKS, Evidence, diagnose, gather, judge, measure
from lcl.train.findings import Diagnosis, Finding
from lcl.train.loop import Step, Training
from lcl.train.recipes import Recipe, get_recipe

HEALTHY = Evidence(
    128, (1.0, 1.0), (0.12, 0.16), 1.0, (56, 56), (0.11, 0.09, 0.13), (4.88, *[2.0] * 20, 0.1), True, (3.0, *[20.0] * 20, 60.0),
    0.3, 0.8, 1 / 256, 0.0, 7.0, (2, 256), 48,
)  # fmt: skip
ILL = {
    "embeddings of length one": {"lengths": (5.0, 11.0)},
    "both directions": {"info_nce": (0.09, 0.09, 0.13)},
    "temperature": {"scales": (3.0,) * 30},
    "negatives": {"losses": (math.log(16), *[1.0] * 20)},
    "no peeking": {"info_nce": (0.01, 4.3, 4.4)},
    "spread": {"alike": (0.2, 0.97)},
    "padding": {"padding_cosine": 0.98},
    "neighbours": {"self_neighbours": 0.5},
    "pairing": {"pairing_z": 1.2},
    "caption length": {"cut": (20, 256)},
    "learning": {"recall": 0.004, "validation_loss": 5.1},
}


def test_health_is_health():
    assert judge(HEALTHY).failed == []


@pytest.mark.parametrize("name", ILL)
def test_every_failure_is_named_and_no_other(name):
    assert judge(dataclasses.replace(HEALTHY, **ILL[name])).failed == [name]


def test_a_loss_without_a_softmax_over_the_batch_is_not_compared_with_its_chance_level():
    assert "negatives" not in {finding.check for finding in judge(dataclasses.replace(HEALTHY, softmax=False))}


def test_own_features_that_a_recipe_wants_are_no_mistake(small_world, tokenizer, teacher_of):
    steps = [Step(number, 29, 4.8, {"sigmoid": 9.0}, 1e-3, 1.0, 14.0, 100.0, 1.0) for number in range(1, 30)]
    config = dataclasses.replace(PROFILE.training, pairs=100)
    own = teacher_of(get_recipe("clip+distil"))
    own.a = own.b = torch.arange(len(own.a))
    found = measure(Clip(TINY), tokenizer, small_world, config, steps, get_recipe("siglip"), torch.nn.ModuleDict(), own)
    assert not found.softmax and found.self_neighbours is None and found.info_nce is None


def test_every_check_can_fail():
    assert len(ILL) == len(CHECKS)


@pytest.mark.parametrize("change", [{"batch_size": 1}, {"losses": (0.0,) * 30, "info_nce": (0.0, 4.0, 4.1)}])
def test_a_batch_of_one_is_named(change):
    found = [finding for finding in judge(dataclasses.replace(HEALTHY, **change)) if finding.check == "negatives"]
    assert "a batch of one has no negatives" in found[0].fix


def test_a_resumed_training_is_not_blamed_for_its_low_first_loss():
    assert judge(dataclasses.replace(HEALTHY, losses=(1.0,) * 20, from_start=False)).failed == []


@pytest.mark.parametrize(("recall", "loss", "ill"), [(0.012, 4.9, False), (0.006, 4.9, True), (0.006, 4.5, False)])
def test_few_hits_are_blamed_only_if_chance_explains_them_and_the_loss_says_so_too(recall, loss, ill):
    """Among 256 pairs 2 of 512 queries are right by chance: 6 are more than that, 3 are not."""
    found = judge(dataclasses.replace(HEALTHY, recall=recall, validation_loss=loss))
    assert found.failed == (["learning"] if ill else [])


def test_among_a_handful_of_validation_pairs_luck_is_not_learning():
    assert "learning" not in {finding.check for finding in judge(dataclasses.replace(HEALTHY, recall=0.2, chance=0.2))}


def test_words_that_are_padding_are_named():
    assert judge(dataclasses.replace(HEALTHY, words=(207, 56))).failed == ["padding"]


def test_columns_alone_are_named_as_rows_alone_are():
    assert judge(dataclasses.replace(HEALTHY, info_nce=(0.13, 0.09, 0.13))).failed == ["both directions"]


def test_what_was_not_measured_is_not_judged():
    missing = dict.fromkeys(("info_nce", "validation_loss", "recall", "self_neighbours", "pairing_z"))
    unknown = dataclasses.replace(HEALTHY, **missing, scales=())
    assert {finding.check for finding in judge(unknown)} == {
        "embeddings of length one", "negatives", "spread", "padding", "caption length"
    }


def test_a_line_for_every_check_and_below_it_what_to_do():
    found = judge(dataclasses.replace(HEALTHY, **ILL["temperature"]))
    lines = repr(found).splitlines()
    assert sum(line[0] in "✓✗" for line in lines) == len(CHECKS) and repr(found.failures).startswith("✗ temperature")
    assert lines[[line[0] for line in lines].index("✗") + 1].strip() == f"→ {found.failures[0].fix}"
    assert repr(judge(HEALTHY).failures) == "✓ no problem was found"


@pytest.mark.parametrize("name", ILL)
def test_long_lines_are_broken_between_words(name):
    long = Finding("long", " ".join(f"word{number}" for number in range(40)), "do " * 40 + "it")
    found = Diagnosis([*judge(dataclasses.replace(HEALTHY, **ILL[name])), long])
    assert max(map(len, repr(found).splitlines())) <= WIDTH
    said = (f"{'✓' if f.ok else '✗'} {f.check} {f.measured} {f'→ {f.fix}' if f.fix else ''}" for f in found)
    assert repr(found).split() == " ".join(said).split()


PROFILE = get_profile("smoke")
PROFILE = dataclasses.replace(PROFILE, training=dataclasses.replace(PROFILE.training, epochs=5))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightclip", "clip-ping", "lightclip-ping"])  # clip is diagnosed below
def test_healthy_trainings_of_every_method_pass(name, small_world, tmp_path):
    rows = small_world.train(PROFILE.training.pairs)
    banks = [build_bank(rows, encoder, tmp_path / encoder.kind) for encoder in (PixelEncoder(), WordEncoder())]
    teacher = BankTeacher(*banks, *map(nearest_neighbours, banks)) if get_recipe(name).needs_teacher else None
    chosen = dataclasses.replace(PROFILE, training=dataclasses.replace(PROFILE.training, recipe=name))
    training = Training(chosen, small_world, teacher=teacher)
    assert diagnose(training, list(training)).failed == []


class OneAxis(Recipe):
    def loss(self, now, names=None):
        s = now.embeddings.logit_scale * now.embeddings.v @ now.embeddings.t.T
        return F.cross_entropy(s, torch.arange(len(s))), {"info_nce": F.cross_entropy(s, torch.arange(len(s)))}


@pytest.mark.slow
def test_a_run_is_diagnosed_by_its_folder_and_on_the_command_line(tmp_path, small_world):
    train = "train", "--profile", "smoke", "--epochs", "5", "--name", "mine", "--runs", tmp_path
    assert lcl(*train).code == 0
    assert package.diagnose(tmp_path / "mine").failed == []
    done = lcl("diagnose", tmp_path / "mine")
    assert done.code == 0 and done.out.count("✓") >= 9
    training = Training(PROFILE, small_world, device="cpu", recipe=OneAxis("clip", {"info_nce": 1.0}, "broken"))
    assert diagnose(training, list(training)).failed == ["both directions"]


def test_cut_captions_are_counted_and_the_check_that_needs_the_extra_teachers_says_so(small_world, tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # not installed
    context = 12
    model = Clip(dataclasses.replace(TINY, language=dataclasses.replace(TINY.language, context_length=context)))
    steps = [Step(number, 29, 4.8, {"info_nce": 4.8}, 1e-3, 1.0, 14.0, 100.0, 1.0) for number in range(1, 30)]
    config = dataclasses.replace(PROFILE.training, pairs=100)
    found = judge(measure(model, tokenizer, small_world, config, steps, get_recipe("clip"), torch.nn.ModuleDict(), None))
    lines = {finding.check: finding for finding in found}
    captions = small_world.train(100).captions(range(100))
    cut = sum(tokenizer.encode([caption], 10_000).ids.shape[1] > context for caption in captions)
    assert 5 < cut and lines["caption length"].measured.startswith(f"{cut} of 100 training captions have more than 12 tokens")
    assert "--context-length 24" in lines["caption length"].fix
    assert "timm is not installed" in lines["pairing"].measured and "lcl[teachers]" in lines["pairing"].measured
    assert "pairing" not in found.failed and "\n– pairing" in repr(found) and len(found) >= 8


def test_without_events_or_a_run_there_is_nothing_to_judge(small_world, tmp_path):
    with pytest.raises(LclError, match="judged by its events"):
        gather(Training(get_profile("smoke"), small_world))
    with pytest.raises(LclError, match="there is no run"):
        diagnose(tmp_path / "none")
