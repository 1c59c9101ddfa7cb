"""A training that is stopped, or killed, goes on bit for bit as if it had not been; and never in another one's place."""

import contextlib
import dataclasses
import itertools
import math
import multiprocessing
import random
import time
import types
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import forks, killed_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcl import storage
from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig, get_profile
from lcl.data.scenes import SceneDataset, open_scenes
from lcl.models.clip import Clip
from lcl.train import loop
from lcl.train.checkpoints import STATE, TENSORS, _restore, _tensors, checkpoints, resume, save_checkpoint
from lcl.train.distributed import Ranks
from lcl.train.loop import Step, Training, Validation
from lcl.train.recipes import get_recipe

SMOKE = get_profile("smoke")
SHORT = dataclasses.replace(
    SMOKE,
    model=ModelConfig(VisionConfig(width=16, depth=1), LanguageConfig(vocab_size=300, width=16, depth=1, heads=2), 16),
    training=dataclasses.replace(SMOKE.training, pairs=96, epochs=2, batch_size=16, evaluate_every=4),
)


@pytest.fixture(autouse=True)
def few_validation_pairs(monkeypatch):
    monkeypatch.setattr(loop, "VALIDATION_PAIRS", 32)


@pytest.fixture
def start(small_world, teacher_of):
    def begin(name="clip", profile=SHORT, seed=0, **options) -> Training:
        return Training(profile, small_world, seed, "cpu", get_recipe(name), teacher_of(get_recipe(name)), **options)

    return begin


def told(events) -> list[dict]:
    """What they say, but for how long it took."""
    clock = {"pairs_per_second", "seconds_left", "waited", "memory", "seconds"}
    return [{key: value for key, value in dataclasses.asdict(event).items() if key not in clock} for event in events]


def same(one: Training, other: Training) -> bool:
    states = [[*training.learner.state_dict().values()] for training in (one, other)]
    moments = [[x for p in t.learner.parameters() for _, x in sorted(t.optimizer.state[p].items())] for t in (one, other)]
    return all(torch.equal(a, b) for pair in (states, moments) for a, b in zip(*pair, strict=True))


@pytest.mark.parametrize("name", ["clip", "lightclip-ping", "a-clip-ping", "clip+queue", "clip-ping+distil"])
@pytest.mark.parametrize("stop", [1, *(pytest.param(n, marks=pytest.mark.slow) for n in (6, 8))])  # in an epoch; its end; a look
def test_a_training_goes_on_bit_for_bit(start, tmp_path, name, stop):
    unbroken = start(name)
    events = list(unbroken)
    stopped = start(name)
    before = []
    for event in stopped:
        before.append(event)
        if isinstance(event, Validation) and event.step == stop or stop % 4 and isinstance(event, Step) and event.step == stop:
            break
    save_checkpoint(tmp_path, stopped)
    torch.rand(7)
    again = start(name)
    assert resume(tmp_path, again) == stop == again.step
    assert same(again, stopped)
    assert told([*before, *again]) == told(events) and same(again, unbroken)


def test_a_checkpoint_from_before_a_teacher_had_a_choice_goes_on(start, tmp_path):
    made = start("clip-ping")
    next(iter(made))
    folder = save_checkpoint(tmp_path, made)
    state = storage.read_json(folder / STATE)
    del state["checksum"], state["of"]["teacher"]["choice"], state["of"]["teacher"]["own"]
    storage.write_json(folder / STATE, state | {"checksum": storage.fingerprint(state)})
    made = start("clip-ping")
    assert resume(tmp_path, made) == made.step == 1


def test_a_checkpoint_whose_table_has_rows_of_no_token_goes_on_without_them(start, tmp_path):
    """Earlier versions made the table as large as a vocabulary may be at most."""
    large = dataclasses.replace(SHORT.model, language=dataclasses.replace(SHORT.model.language, vocab_size=4096))
    profile = dataclasses.replace(SHORT, model=large)
    older = start("lightclip", profile, start=(Clip(large), start(profile=profile).tokenizer))
    events = iter(older)
    next(events), next(events)
    save_checkpoint(tmp_path, older)
    assert storage.read_json(next(tmp_path.glob("step-*")) / STATE)["of"]["profile"]["model"]["language"]["vocab_size"] == 4096
    made = start("lightclip", profile)
    assert resume(tmp_path, made) == 2
    size = made.tokenizer.vocab_size
    for name, parameter in made.learner.named_parameters():
        before = older.learner.get_parameter(name)
        assert torch.equal(parameter, before[:size] if len(before.shape) and len(before) == 4096 else before), name
        moment, old_moment = (x.optimizer.state[y]["exp_avg"] for x, y in ((made, parameter), (older, before)))
        assert torch.equal(moment, old_moment[: len(moment)] if moment.ndim else old_moment), name
    assert made.model.language.tokens.weight.shape[0] == size < 4096 and math.isfinite(next(iter(made)).loss)


def test_a_tower_with_dropout_goes_on_bit_for_bit(start, tmp_path):
    """Dropout draws from torch's own generator, which nothing but the checkpoint can bring back."""

    def begin() -> Training:
        training = start()
        training.model.language.register_forward_hook(
            lambda tower, _, seen: seen._replace(pooled=F.dropout(seen.pooled, 0.5, tower.training))
        )
        return training

    unbroken = begin()
    events = list(unbroken)
    stopped = begin()
    before = list(itertools.islice(stopped, 3))
    save_checkpoint(tmp_path, stopped)
    again = begin()
    resume(tmp_path, again)
    assert told([*before, *again]) == told(events) and same(again, unbroken)


@pytest.mark.filterwarnings("ignore:.*meta parameter")
def test_the_optimizer_is_restored_where_its_parameters_are():
    """Fused AdamW on a GPU fails with a step count on the CPU. The device "meta" stands in for a GPU."""
    here, there = (torch.nn.ModuleList([torch.nn.Linear(3, 2, device=device)]) for device in ("cpu", "meta"))
    trainings = []
    for learner in (here, there):
        optimizer = torch.optim.AdamW(learner.parameters())
        trainings.append(types.SimpleNamespace(learner=learner, optimizer=optimizer, teacher=None, device="cpu", ranks=Ranks()))
    here[0](torch.ones(1, 3)).sum().backward()
    trainings[0].optimizer.step()
    _restore(trainings[1], _tensors(trainings[0]))
    for before, after in zip(here.parameters(), there.parameters(), strict=True):
        known, restored = trainings[0].optimizer.state[before], trainings[1].optimizer.state[after]
        assert {name: (x.dtype, x.shape) for name, x in restored.items()} == {k: (x.dtype, x.shape) for k, x in known.items()}
        assert {x.device.type for x in restored.values()} == {"meta"}


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lightclip-ping", "a-clip-ping"])
def test_a_training_on_a_gpu_goes_on(small_world, teacher_of, tmp_path, name):
    def start() -> Training:
        return Training(SHORT, small_world, 0, "cuda", get_recipe(name), teacher_of(get_recipe(name)))

    whole, stopped, resumed = start(), start(), start()
    losses = [event.loss for event in whole if isinstance(event, Step)]
    next(event for event in stopped if event.step == 6)
    save_checkpoint(tmp_path, stopped)
    assert resume(tmp_path, resumed) == 6
    devices = [{x.device.type for x in resumed.optimizer.state[p].values()} for p in resumed.learner.parameters()]
    assert devices == [{"cuda"}] * len(devices)
    after = [event.loss for event in resumed if isinstance(event, Step)]
    assert after == pytest.approx(losses[6:], rel=1e-3)  # sums on a GPU are made in an order that varies


def test_without_a_checkpoint_one_begins(start, tmp_path):
    assert resume(tmp_path / "nowhere", start()) == 0


def test_the_last_ones_and_the_best_are_kept(start, tmp_path):
    training = start()
    for step, score in enumerate([0.1, 0.9, 0.3, None, 0.2], start=1):
        training.step = step
        save_checkpoint(tmp_path, training, score, keep=2)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000004", "step-00000005"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [path.name for path in checkpoints(tmp_path)]


def test_what_a_resumed_training_passed_over_is_removed_by_its_next_checkpoint(start, tmp_path):
    training = start()
    for step in (1, 2, 9):
        training.step = step
        save_checkpoint(tmp_path, training, score=step, keep=3)
    for name in ("step-00000009/" + TENSORS, "step-00000001/" + STATE):
        (tmp_path / name).write_bytes(b"{")
    training.step = resume(tmp_path, start()) + 1
    save_checkpoint(tmp_path, training, keep=3)
    assert [path.name for path in checkpoints(tmp_path)] == ["step-00000002", "step-00000003"]


@forks
def test_a_save_that_is_killed_at_any_step_leaves_whole_checkpoints_only(start, tmp_path):
    training = start()
    for event in itertools.count():
        folder = tmp_path / str(event)
        training.step = 1
        save_checkpoint(folder, training, keep=1)
        training.step = 2
        died = killed_at(event, lambda folder=folder: save_checkpoint(folder, training, keep=1))
        assert (left := checkpoints(folder))
        for path in left:
            assert storage.file_sha256(path / TENSORS) == storage.read_json(path / STATE)["tensors"], event
        if not died:
            break
    assert event > 15 and [path.name for path in left] == ["step-00000002"]


@forks
def test_one_that_is_being_removed_counts_no_longer(start, tmp_path):
    training = start()
    for step in (1, 2):
        training.step = step
        before = checkpoints(tmp_path)
        died = killed_at(0, lambda: save_checkpoint(tmp_path, training, keep=1), ("shutil.rmtree",))
    assert died and (before[0] / TENSORS).exists() and before[0] not in checkpoints(tmp_path)
    save_checkpoint(tmp_path, training, keep=1)
    assert not before[0].exists() and len(checkpoints(tmp_path)) == 1


# --- damage


def test_one_that_was_not_finished_is_passed_over(start, tmp_path):
    training = start()
    for step in (1, 2):
        training.step = step
        save_checkpoint(tmp_path, training)
    (tmp_path / "step-00000002" / STATE).unlink()
    assert resume(tmp_path, start()) == 1


@pytest.fixture(scope="module")
def two(small_world, tmp_path_factory):
    """A training, and a folder with its checkpoints of steps 1 and 2."""
    folder, training = tmp_path_factory.mktemp("two"), Training(SHORT, small_world, 0, "cpu")
    for _ in itertools.islice(training, 2):
        save_checkpoint(folder, training, score=0.123456)
    return training, folder


def cut(share: float):
    return lambda data: data[: int(share * len(data))]


def flipped(share: float, bit: int):
    return lambda data: data[: (at := int(share * len(data)))] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :]


shares = st.floats(0, 0.99)  # a state without its last line break is whole
damages = st.tuples(st.sampled_from([STATE, TENSORS]), st.builds(cut, shares) | st.builds(flipped, shares, st.integers(0, 7)))


@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.tuples(st.none() | damages, damages))
def test_whatever_is_cut_or_flipped_the_newest_whole_checkpoint_is_used(two, caplog, changes):
    training, folder = two
    (first, second), before = checkpoints(folder), {}
    caplog.clear()
    try:
        for path, change in zip((first, second), changes, strict=True):
            if change:
                name, harm = change
                before[path / name] = (path / name).read_bytes()
                (path / name).write_bytes(harm(before[path / name]))
        if changes[0]:
            with pytest.raises(LclError, match=r"^no checkpoint in .* is whole; remove that folder[^\n]*$"):
                resume(folder, training)
        else:
            assert resume(folder, training) == training.step == 1
        assert len(caplog.records) == len(before)
        assert all(str(file) in record.getMessage() for file, record in zip(reversed(before), caplog.records, strict=True))
    finally:
        for file, data in before.items():
            file.write_bytes(data)


def test_a_damaged_checkpoint_behind_a_whole_one_does_not_matter(two, caplog):
    training, folder = two
    (checkpoints(folder)[0] / STATE).write_bytes(b"")
    assert resume(folder, training) == 2 and not caplog.text


FORMATS = ('"other"', '["lcl-checkpoint-1"]', '"lcl-checkpoint-2"')
NONE = ("[]", "{}", "1", *(f'{{"format": {name}, "no character": "\\ud800"}}' for name in FORMATS))


@pytest.mark.parametrize("state", NONE)
def test_a_state_that_is_none_is_refused(start, tmp_path, state):
    (save_checkpoint(tmp_path, start()) / STATE).write_text(state)
    with pytest.raises(LclError, match="no checkpoint in .* is whole"):
        resume(tmp_path, start())


def test_a_state_of_a_later_format_is_refused_and_that_of_version_0_1_is_read(start, tmp_path, caplog):
    path = save_checkpoint(tmp_path, start()) / STATE
    state = {key: value for key, value in storage.read_json(path).items() if key != "checksum"}  # whole, but for the format
    storage.write_json(path, state | {"format": "lcl-checkpoint-1"})
    assert resume(tmp_path, start()) == 0 and not caplog.text
    storage.write_json(path, state | {"format": "lcl-checkpoint-3"})
    with pytest.raises(LclError, match="no checkpoint in .* is whole"):
        resume(tmp_path, start())
    assert "is of no format that this library knows" in caplog.text


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"seed": 1}, "its seed is 0, not 1"),
        ({"name": "clip+soft"}, "its recipe.name is 'clip', not 'clip\\+soft'"),
        ({"profile": dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, epochs=3))},
         "its profile.training.epochs is 2, not 3"),
        ({"ranks": Ranks(0, 2)}, "its processes is 1, not 2"),
    ],
)  # fmt: skip
def test_another_training_cannot_go_on_from_it(start, tmp_path, changes, reason):
    save_checkpoint(tmp_path, start())
    with pytest.raises(LclError, match=reason):
        resume(tmp_path, start(**changes))


def test_another_data_set_cannot_go_on_from_it(start, few_pictures, tmp_path):
    save_checkpoint(tmp_path, start())
    other = SceneDataset(dataclasses.replace(SHORT.scenes, seed=1), few_pictures)
    with pytest.raises(LclError, match="its data is"):
        resume(tmp_path, Training(SHORT, other, 0, "cpu"))


def test_a_full_disk_is_said_and_leaves_what_was_there(start, tmp_path, monkeypatch):
    training = start()
    save_checkpoint(tmp_path, training)

    def full(*_):
        raise OSError(28, "No space left on device")

    training.step = 1
    monkeypatch.setattr(storage.os, "fsync", full)
    with pytest.raises(LclError, match="No space left on device"):
        save_checkpoint(tmp_path, training)
    monkeypatch.undo()
    assert resume(tmp_path, start()) == 0 and len(checkpoints(tmp_path)) == 1


LONGER = dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, epochs=8))  # ten kills do not use it up


def go_on(folder: Path, pipe) -> None:
    """What a process does: go on where the last checkpoint is, and after every step tell the loss and write one.

    In this order: a step that is told and not kept is done again, one that is kept and not told would be missing.
    """
    torch.set_num_threads(1)
    training = Training(LONGER, open_scenes(LONGER.scenes), 0, "cpu")
    resume(folder, training)
    for event in training:
        if isinstance(event, Step):
            pipe.send((event.step, event.loss))
            save_checkpoint(folder, training)
    pipe.send(None)


@pytest.mark.slow
def test_killed_at_random_moments_it_ends_as_if_it_had_not_been(small_world, tmp_path, start_method):
    """Ten kills, most of them while a checkpoint is written, for one is written after every step."""
    processes = multiprocessing.get_context(start_method)
    draw, losses, kills, starts, ended = random.Random(0), {}, 0, 0, False
    while not ended:
        assert (starts := starts + 1) < 40
        receiver, sender = processes.Pipe(duplex=False)
        process = processes.Process(target=go_on, args=(tmp_path, sender))
        process.start()
        sender.close()
        alive, last = 0, draw.choice([1, 1, 2])
        with contextlib.suppress(EOFError):
            while (told := receiver.recv()) is not None:
                assert losses.setdefault(*told) == told[1]  # a step done twice is the same step
                alive += 1
                if kills < 10 and alive >= last:
                    time.sleep(draw.random() * 0.02)
                    process.kill()
                    kills += 1
            ended = True
        process.join()
    unbroken = Training(LONGER, small_world, 0, "cpu")
    events = list(unbroken)
    last = Training(LONGER, small_world, 0, "cpu")
    assert kills == 10 and resume(tmp_path, last) == LONGER.training.steps == 48
    assert same(last, unbroken)
    assert losses == {event.step: event.loss for event in events if isinstance(event, Step)}
