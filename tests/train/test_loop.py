"""Training: it begins at a guess, it learns, it repeats itself bit for bit, and every pair has its turn."""

import dataclasses
import itertools
import json
import math
import os
import shutil
from pathlib import Path
from statistics import median

import pytest
import torch
from conftest import PixelEncoder, WordEncoder

from lcl import storage
from lcl.config import (
    EvalConfig,
    LanguageConfig,
    LclError,
    ModelConfig,
    Profile,
    TrainConfig,
    VisionConfig,
    get_profile,
)
from lcl.data.scenes import SceneDataset
from lcl.eval.metrics import evaluate
from lcl.losses.contrastive import info_nce
from lcl.losses.neighbours import NeighbourFeatures
from lcl.models.clip import Clip, load_model
from lcl.models.vision import LIGHT_TOWERS
from lcl.storage import read_tensors
from lcl.teachers.teacher import BankTeacher, LiveTeacher
from lcl.train import loop
from lcl.train.loader import batches
from lcl.train.loop import Step, Training, Validation, in_one_line, learning_rate, make_optimizer, open_teacher
from lcl.train.objectives import StepContext
from lcl.train.recipes import CONTROLS, RECIPES, MlmConfig, PingConfig, Recipe
from lcl.train.runs import EXTRA, load_run, save_run

TINY = dataclasses.replace(
    get_profile("smoke"),
    model=ModelConfig(VisionConfig(width=48, depth=1), LanguageConfig(vocab_size=400, width=48, depth=1, heads=2), 32),
    training=TrainConfig(pairs=1024, epochs=3, batch_size=32, learning_rate=2e-3, evaluate_every=40),
    evaluation=EvalConfig(retrieval=32, views=1, gallery=32),
)


def with_training(**changes):
    """The tiny profile with another TrainConfig."""
    return dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, **changes))


@pytest.fixture(scope="module", autouse=True)
def few_validation_pairs():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "VALIDATION_PAIRS", 64)
        yield


@pytest.fixture(scope="module")
def finished(small_world):
    """A tiny training of 96 steps, and its events."""
    made = Training(TINY, small_world, seed=0, device="cpu")
    return made, list(made)


def test_the_loss_falls_clearly_below_a_guess(finished):
    steps = [event for event in finished[1] if isinstance(event, Step)]
    assert steps[0].loss > 0.9 * math.log(32)
    assert sum(step.loss for step in steps[-8:]) / 8 < 0.85 * math.log(32)


def test_the_loss_falls_on_new_scenes_too(finished):
    looks = [event for event in finished[1] if isinstance(event, Validation)]
    assert looks[-1].loss < 0.9 * math.log(32)
    assert (looks[-1].image_to_text + looks[-1].text_to_image) / 2 > 2 / loop.VALIDATION_PAIRS


def test_events_are_every_step_in_turn_and_looks_where_they_belong(finished):
    events = finished[1]
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.step for step in steps] == list(range(1, TINY.training.steps + 1))
    assert {step.total for step in steps} == {TINY.training.steps} == {96}
    assert [event.step for event in events if isinstance(event, Validation)] == [40, 80, 96]
    for number, event in enumerate(events):
        assert not isinstance(event, Validation) or events[number - 1].step == event.step
    assert [step.learning_rate for step in steps] == [learning_rate(TINY.training, n) for n in range(96)]
    for step in steps:
        assert step.loss == pytest.approx(sum(step.losses.values()))  # the recipe `clip` weighs its one part with 1
        assert step.gradient_norm > 0 and step.pairs_per_second > 0 and step.seconds > 0 and 1 <= step.logit_scale <= 100
    for done, step in enumerate(steps, start=1):
        assert step.seconds_left == pytest.approx((96 - done) * sum(each.seconds for each in steps[:done]) / done)


def test_the_validation_loss_is_that_of_batches_of_new_pairs(small_world, monkeypatch):
    """Batch by batch, as large as those of the training: a loss among more pairs would be higher."""
    monkeypatch.setattr(loop, "VALIDATION_PAIRS", 96)
    made = Training(with_training(pairs=64, epochs=1), small_world, device="cpu")
    *_, validation = made
    rows = small_world.validation(96)
    seen, losses = rows.take(range(len(rows))), []
    with torch.no_grad():
        for start in range(0, 96, 32):
            tokens = made.tokenizer.encode(seen.captions[start : start + 32], 48)
            found = made.model(seen.images[start : start + 32], tokens)
            losses.append(info_nce(found.v, found.t, found.logit_scale)["info_nce"].item())
    assert validation.loss == pytest.approx(sum(losses) / 3, rel=1e-4)


def test_a_look_leaves_the_model_in_training_and_the_end_in_evaluation(small_world):
    made = Training(with_training(pairs=256, epochs=1, evaluate_every=4), small_world, device="cpu")
    modes = [made.model.training for event in made if isinstance(event, Step)]
    assert modes == [True] * 8 and not made.model.training


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("name", ["smoke", "laptop"])
def test_the_first_loss_is_that_of_a_guess(name, seed, request):
    profile = get_profile(name)
    size = profile.training.batch_size
    first = dataclasses.replace(profile, training=dataclasses.replace(profile.training, pairs=size, epochs=1))
    made = Training(first, request.getfixturevalue("small_world" if name == "smoke" else "world"), seed, "cpu")
    batch = next(batches(made.source, made.tokenizer, first.training, first.model.language.context_length, seed, "cpu"))
    with torch.no_grad():
        seen = made.model.train()(batch.images, batch.tokens)
        loss, _ = made.recipe.loss(StepContext(made.model, made.extra, seen, batch.tokens, 0.0, torch.Generator()))
    assert loss.item() == pytest.approx(math.log(size), rel=0.02)


def test_the_same_seed_gives_the_same_bits_and_another_seed_does_not(small_world):
    def run(seed):
        made = Training(with_training(pairs=256, epochs=1), small_world, seed, "cpu")
        return [event.loss for event in made], made.model.state_dict()

    (losses, weights), (again, same), (others, _) = run(3), run(3), run(4)
    assert losses == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses[0] != others[0]


def test_training_does_not_hang_on_what_was_random_before(small_world):
    def first_loss(noise):
        torch.manual_seed(noise)
        return next(iter(Training(with_training(pairs=64), small_world, 0, "cpu"))).loss

    assert first_loss(1) == first_loss(2)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("epochs", [1, 50])
def test_the_learning_rate_rises_peaks_and_ends_near_zero(warmup, epochs):
    config = TrainConfig(pairs=40, epochs=epochs, batch_size=2, warmup=warmup)
    rates = [learning_rate(config, step) for step in range(config.steps)]
    top = rates.index(max(rates))
    assert top == pytest.approx(warmup * config.steps, abs=1)
    assert 0.6 * config.learning_rate < max(rates) <= config.learning_rate
    assert not warmup or rates[0] == pytest.approx(config.learning_rate / (warmup * config.steps + 1))  # not 0: every step counts
    assert all(a < b for a, b in zip(rates[:top], rates[1 : top + 1], strict=True))
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert 0 < rates[-1] < 0.03 * config.learning_rate
    if epochs == 50:
        assert rates[-1] < 1e-4 * config.learning_rate and max(rates) > 0.99 * config.learning_rate


@pytest.mark.slow
@pytest.mark.parametrize("tower", LIGHT_TOWERS)
def test_two_steps_of_lightclip_change_every_layer_of_its_own_towers(small_world, tower):
    """Two: at first the last norm of a residual block is zero, and what comes before it gets no gradient."""
    profile = with_training(pairs=16, batch_size=8, epochs=1, recipe="lightclip")
    profile = dataclasses.replace(profile, model=dataclasses.replace(profile.model, vision=VisionConfig(tower)))
    made = Training(profile, small_world, device="cpu")
    before = {name: parameter.clone() for name, parameter in made.model.named_parameters()}
    list(itertools.islice(made, 2))
    assert [name for name, parameter in made.model.named_parameters() if torch.equal(parameter, before[name])] == []


@pytest.mark.parametrize("tower", ["conv", "vit", "timm:resnet18"])
def test_vectors_and_scalars_do_not_decay_and_nothing_is_left_out(tower):
    vision = VisionConfig(tower, width=48, depth=1)
    model = Clip(dataclasses.replace(TINY.model, vision=vision))
    optimizer = make_optimizer(model, TINY.training)
    decaying = [p for group in optimizer.param_groups if group["weight_decay"] for p in group["params"]]
    resting = [p for group in optimizer.param_groups if not group["weight_decay"] for p in group["params"]]
    assert sorted(map(id, decaying + resting)) == sorted(map(id, model.parameters()))
    assert {p.ndim for p in resting} == {0, 1}
    assert min(p.ndim for p in decaying) == 2
    assert {group["weight_decay"] for group in optimizer.param_groups} == {0.0, TINY.training.weight_decay}


def test_the_temperature_alone_learns_faster_by_its_rate(small_world):
    made = Training(with_training(pairs=64, epochs=1), small_world, device="cpu")
    next(iter(made))
    rates = {id(p): group["lr"] for group in made.optimizer.param_groups for p in group["params"]}
    faster = TINY.training.temperature_rate * learning_rate(made.profile.training, 0)
    assert rates.pop(id(made.model.tau)) == pytest.approx(faster)
    assert set(rates.values()) == {learning_rate(made.profile.training, 0)}


@pytest.mark.parametrize("micro_batch", [None, 16])
def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step(small_world, micro_batch):
    made = Training(with_training(pairs=256, micro_batch=micro_batch), small_world, device="cpu")
    events = iter(made)
    for _ in range(3):
        next(events)
    next(made.model.vision.parameters()).data[0] = torch.nan
    with pytest.raises(LclError, match=r"stopped at step 4, on the pairs \[\d+, .*\]: the loss is nan\."):
        next(events)


def test_a_step_without_memory_is_one_sentence_in_a_notebook_too(small_world, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB.\nmore")

    made = Training(with_training(pairs=256, micro_batch=16), small_world, device="cpu")
    events = iter(made)
    next(events)
    monkeypatch.setattr(Training, "_learn_from", full)
    step = r"a step of 32 pairs, encoded 16 at a time \(2.00 GiB more\)"
    remedy = r"free some memory, and resume .* smaller micro_batch \(--micro-batch 8\)"
    with pytest.raises(LclError, match=f"^there is not enough memory for {step}; {remedy}"):
        next(events)
    assert made.step == 1 and not made.model.training  # what was learned before stays, ready to use


def test_a_world_of_another_size_than_the_models_is_refused(small_world):
    vision = dataclasses.replace(TINY.model.vision, image_size=128)
    other = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, vision=vision))
    with pytest.raises(LclError, match="128 pixels.* 64"):
        Training(other, small_world)


# --- recipes


SHORT = with_training(pairs=192, epochs=1, evaluate_every=6)  # six steps


@pytest.fixture(scope="module")
def short(small_world, teacher_of):
    """Makes a training of six steps; where the recipe is guided, its teacher is a quick one."""

    def make(recipe: str | Recipe, seed: int = 0, teacher=None) -> Training:
        recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
        return Training(SHORT, small_world, seed, "cpu", recipe, teacher or teacher_of(recipe))

    return make


def steps_of(made: Training) -> list[Step]:
    return [event for event in made if isinstance(event, Step)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_shows_its_parts(short, name):
    made = short(name)
    steps = steps_of(made)
    assert len(steps) == 6
    for number, step in enumerate(steps):
        assert step.losses.keys() == RECIPES[name].weights.keys()
        assert all(math.isfinite(loss) for loss in step.losses.values()) and math.isfinite(step.gradient_norm)
        weighted = sum(RECIPES[name].weight(part, number / 6) * loss for part, loss in step.losses.items())
        assert step.loss == pytest.approx(weighted, rel=1e-4)
    assert not made.model.training and not made.extra.training


def test_the_profile_names_the_recipe(small_world):
    profile = dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, recipe="lightclip"))
    assert Training(profile, small_world, device="cpu").recipe is RECIPES["lightclip"]
    with pytest.raises(LclError, match="did you mean lightclip"):
        Training(with_training(recipe="lightclop"), small_world, device="cpu")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lightclip", "lightclip-ping", "a-clip-ping"])
def test_the_same_seed_gives_the_same_bits_whatever_the_recipe_is_made_of(short, name):
    def run(seed):
        made = short(name, seed)
        return [(step.loss, step.losses) for step in steps_of(made)], made.learner.state_dict()

    (losses, weights), (again, same), (others, _) = run(3), run(3), run(4)
    assert losses == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses[0] != others[0]


def test_all_recipes_begin_with_the_same_pair_of_towers(short):
    first = short("clip").model.state_dict()
    for name in RECIPES:
        other = short(name).model.state_dict()
        assert first.keys() == other.keys() and all(torch.equal(first[key], other[key]) for key in first)


def test_softening_by_nothing_trains_clip_to_the_bit(short):
    none = dataclasses.replace(RECIPES["clip+soft"], soft=dataclasses.replace(RECIPES["clip+soft"].soft, alpha_max=0.0))
    clip, soft = short("clip"), short(none)
    assert [step.loss for step in steps_of(clip)] == [step.loss for step in steps_of(soft)]
    assert all(torch.equal(a, b) for a, b in zip(clip.model.parameters(), soft.model.parameters(), strict=True))


def test_nothing_of_what_only_training_needs_is_left_out_of_learning(short):
    made = short("lightclip")
    known = {id(p): group for group in made.optimizer.param_groups for p in group["params"]}
    assert known.keys() == {id(p) for p in [*made.model.parameters(), *made.extra.parameters()]}
    mlm = made.extra["masked_language"]
    assert {known[id(block.gate)]["weight_decay"] for block in mlm.blocks.values()} == {0.0}
    assert known[id(mlm.head.weight)]["weight_decay"] > 0 == known[id(mlm.head.bias)]["weight_decay"]
    steps_of(made)
    assert all(gate != 0 for gate in mlm.gates.values())


def test_the_projections_of_neighbours_learn_with_the_towers(short):
    made = short("clip-ping")
    known = {id(p): group for group in made.optimizer.param_groups for p in group["params"]}
    before = [p.clone() for p in made.extra["projections"].parameters()]
    assert len(before) == 2 and known.keys() == {id(p) for p in made.learner.parameters()}
    steps_of(made)
    assert not any(torch.equal(*both) for both in zip(before, made.extra["projections"].parameters(), strict=True))


@dataclasses.dataclass(frozen=True)
class Watched(Recipe):
    """A recipe that keeps every moment that it was shown, and the first number of each generator."""

    moments: list[tuple[StepContext, int]] = dataclasses.field(default_factory=list)

    def loss(self, now: StepContext):
        self.moments.append((now, now.generator.initial_seed()))
        return super().loss(now)


def test_a_recipe_sees_the_progress_from_zero_on_and_another_generator_in_every_step_and_seed(short):
    seeds = []
    for seed in (0, 1):
        recipe = Watched(**{name: getattr(RECIPES["lightclip"], name) for name in Recipe.__dataclass_fields__})
        made = short(recipe, seed)
        steps_of(made)
        assert [now.progress for now, _ in recipe.moments] == [step / 6 for step in range(6)]
        assert all(now.model is made.model and now.extra is made.extra for now, _ in recipe.moments)
        assert all(len(now.tokens) == len(now.embeddings.v) == 32 for now, _ in recipe.moments)
        seeds += [generator for _, generator in recipe.moments]
    assert len(set(seeds)) == 12


def test_gradients_are_clipped_over_all_that_learns(small_world):
    profile = dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, clip_norm=0.01))
    made = Training(profile, small_world, 0, "cpu", RECIPES["lightclip"])
    step = next(iter(made))
    norm = torch.stack([p.grad.norm() for p in made.learner.parameters()]).norm().item()
    assert step.gradient_norm > 0.1 and norm == pytest.approx(0.01, rel=1e-3)
    assert made.extra["masked_language"].head.weight.grad.abs().max() > 0


@pytest.mark.parametrize("name", RECIPES)
def test_poisoned_similarities_stop_the_training_with_its_step_and_scenes(short, name):
    made = short(name)
    events = iter(made)
    for _ in range(2):
        next(events)
    made.model.text_projection.weight.data[0, 0] = torch.nan
    before = [parameter.clone() for parameter in made.model.vision.parameters()]
    with pytest.raises(LclError, match=r"at step 3, on the pairs \[\d+(, \d+){31}\]: .*(nan|not finite)") as stop:
        next(events)
    assert "\n" not in str(stop.value)
    assert all(torch.equal(*both) for both in zip(before, made.model.vision.parameters(), strict=True))  # no step made


def test_a_layer_that_does_not_exist_is_refused_before_the_training(short):
    with pytest.raises(LclError, match=r"no layer 3 to fuse after"):
        short(dataclasses.replace(RECIPES["lightclip"], mlm=MlmConfig(layers=(3,))))


# --- controls


KINDS = ["clip-ping+distil", "clip-ping+oracle", "clip+queue", "clip+views", "clip+match-pairs", "siglip"]


@pytest.mark.parametrize("name", KINDS)
def test_a_control_trains_and_shows_its_parts(short, name):
    """One of each kind: what differs in the other controls is seen by the tests of recipes."""
    first, *_, last = steps_of(short(CONTROLS[name]))
    assert first.losses.keys() == CONTROLS[name].weights.keys() and math.isfinite(last.loss)
    assert last.gradient_norm > 0


def test_a_sigmoid_training_begins_with_siglips_temperature_and_a_saved_one_keeps_what_it_learned(short, tmp_path):
    made = short(CONTROLS["siglip"])
    assert made.model.logit_scale.item() == pytest.approx(10.0)
    save_run(tmp_path / "run", made, list(made), {"new_scenes": {}}, {"training": 1.0})
    learned = made.model.tau.item()
    assert learned != math.log(10.0)
    run = load_run(tmp_path / "run")
    assert run.model.tau.item() == learned and torch.equal(run.extra["sigmoid"].bias, made.extra["sigmoid"].bias)
    on = Training(SHORT, made.source, 1, "cpu", CONTROLS["siglip"], start=(run.model, run.tokenizer))
    assert on.model.tau.item() == learned


def test_what_only_training_used_is_compared_before_it_is_made(short, tmp_path):
    made = short("clip-ping")
    save_run(tmp_path / "run", made, list(made), {"new_scenes": {}}, {"training": 1.0})
    found = storage.read_json(tmp_path / "run" / "metrics.json")
    for widths in ([20_000_000, 384], [2**40, 2**40]):
        storage.write_json(tmp_path / "run" / "metrics.json", found | {"teacher": found["teacher"] | {"widths": widths}})
        with pytest.raises(LclError, match="projections.image.weight|damaged"):
            load_run(tmp_path / "run")


def test_a_teacher_of_another_choice_is_refused(short, teacher_of):
    for name in ("clip+distil", "clip-ping+shuffled"):
        with pytest.raises(LclError, match="choice of neighbours is not that of the recipe 'clip-ping'"):
            short("clip-ping", teacher=teacher_of(CONTROLS[name]))


# --- neighbours


class Recorded:
    """Passes every question on to a teacher, and keeps it."""

    def __init__(self, teacher):
        self.teacher, self.dims, self.description, self.asked = teacher, teacher.dims, teacher.description, []

    def __call__(self, indices: torch.Tensor, images: torch.Tensor, **options) -> NeighbourFeatures:
        self.asked.append((indices.clone(), images.clone()))
        return self.teacher(indices, images, **options)


@pytest.mark.parametrize("name", ["clip", "clip-ping", "a-clip-ping", "lightclip-ping"])
def test_the_teacher_is_asked_for_the_batchs_scenes_and_sees_what_the_model_sees(short, small_world, teacher_of, name):
    live = RECIPES[name].ping.live
    teacher, seen = Recorded(teacher_of(RECIPES[name])) if name != "clip" else None, []
    made = short(name, teacher=teacher)
    hook = made.model.register_forward_pre_hook(lambda model, given: seen.append(given[0].clone()))
    steps_of(made)
    hook.remove()
    drawn = list(batches(small_world, made.tokenizer, SHORT.training, 48, 0, "cpu"))
    assert len(seen) == len(drawn) == 6
    for batch, image in zip(drawn, seen, strict=True):
        assert image.dtype == torch.uint8 and image.shape == batch.images.shape
        assert torch.equal(image, batch.images) != live  # the live teacher's pupil alone sees other views
    if teacher:
        assert [indices.tolist() for indices, _ in teacher.asked] == [batch.indices.tolist() for batch in drawn]
        assert all(torch.equal(image, shown) for image, (_, shown) in zip(seen, teacher.asked, strict=True))


def test_an_epoch_later_and_with_another_seed_a_scene_is_seen_in_another_view(short, teacher_of):
    looks = []
    for seed in (0, 0, 1):
        teacher = Recorded(teacher_of(RECIPES["a-clip-ping"]))
        made = short("a-clip-ping", seed, teacher)
        batch = next(batches(made.source, made.tokenizer, SHORT.training, 48, 0, "cpu"))
        for step in (1, 2):
            made.take_step(batch, step)
        looks.append([image for _, image in teacher.asked])  # of one batch, in two steps
    assert torch.equal(looks[0][0], looks[1][0]) and torch.equal(looks[0][1], looks[1][1])
    assert not torch.equal(looks[0][0], looks[0][1]) and not torch.equal(looks[0][0], looks[2][0])


def test_a_recipe_that_asks_for_no_neighbours_leaves_a_teacher_alone(short, teacher_of, tmp_path):
    teacher = Recorded(teacher_of(RECIPES["clip-ping"]))
    made = short("clip", teacher=teacher)
    curve = list(made)
    save_run(tmp_path, made, curve, {}, {})
    found = json.loads((tmp_path / "metrics.json").read_text(encoding="utf-8"))
    assert len(teacher.asked) == 0 and found["teacher"] is None


@pytest.mark.parametrize("name", ["clip-ping", pytest.param("lightclip-ping", marks=pytest.mark.slow)])
def test_neighbours_that_weigh_nothing_leave_the_towers_as_they_would_be_to_the_bit(short, name):
    needs_teacher = RECIPES[name]
    plain = {part: weight for part, weight in needs_teacher.weights.items() if not part.endswith("nn_contrast")}
    alone = short(dataclasses.replace(needs_teacher, weights=plain, fade={}))
    beside = short(dataclasses.replace(needs_teacher, weights=dict.fromkeys(needs_teacher.weights, 0.0) | plain))
    assert [step.loss for step in steps_of(alone)] == [step.loss for step in steps_of(beside)]
    assert all(torch.equal(a, b) for a, b in zip(alone.model.parameters(), beside.model.parameters(), strict=True))


@pytest.mark.slow
def test_the_towers_learn_who_is_near(small_world, teacher_of):
    recipe = Recipe("mine", {"info_nce": 1.0, "nn_contrast": 1.0, "xnn_contrast": 1.0}, "")  # to the end at full weight
    profile = with_training(pairs=256, epochs=7, evaluate_every=1000)
    losses = [step.losses for step in steps_of(Training(profile, small_world, 0, "cpu", recipe, teacher_of(recipe)))]
    for part in ("nn_contrast", "xnn_contrast"):
        assert losses[0][part] > 0.9 * math.log(32)
        assert sum(loss[part] for loss in losses[-8:]) / 8 < 0.9 * math.log(32)


def test_a_teacher_of_another_data_set_or_of_too_few_pairs_is_refused(few_pictures, small_world, teacher_of):
    recipe = RECIPES["clip-ping"]
    with pytest.raises(LclError, match="the teacher has features of"):
        other = SceneDataset(dataclasses.replace(SHORT.scenes, seed=1), few_pictures)
        Training(SHORT, other, 0, "cpu", recipe, teacher_of(recipe))
    with pytest.raises(LclError, match="the teacher has features of"):  # … 256 pairs
        Training(with_training(pairs=320), small_world, 0, "cpu", recipe, teacher_of(recipe))


@pytest.fixture
def quick_encoders(monkeypatch, tmp_path):
    """No encoder but the two that stand in, which keep what they were made with; and banks in a folder of their own."""
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    made = []

    def maker(kind):
        return lambda *settings: made.append(kind(*settings)) or made[-1]

    monkeypatch.setattr(loop, "ImageEncoder", maker(PixelEncoder))
    monkeypatch.setattr(loop, "TextEncoder", maker(WordEncoder))
    return made


@pytest.mark.parametrize("live", [False, True])
def test_a_recipes_settings_say_who_teaches(small_world, quick_encoders, live):
    told, settings = [], PingConfig("some-image-model", "some-text-model", 96, live, queue=77)
    teacher = open_teacher(settings, small_world, SHORT, told.append)
    assert type(teacher) is (LiveTeacher if live else BankTeacher)
    assert [encoder.settings for encoder in quick_encoders] == [("some-image-model", 96), ("some-text-model",)]
    assert teacher.dims == (24, 16) and teacher.description["rows"]["rows"] == 192
    assert teacher.description["rows"]["data"] == small_world.fingerprint
    assert sum(told) == (192 if live else 384)  # the live one sees to the images as they come
    assert teacher.length == 77 if live else len(teacher.a) == len(teacher.b) == 192


def test_a_training_without_a_teacher_opens_the_one_of_its_recipe(short, small_world, quick_encoders):
    recipe = RECIPES["clip-ping"]
    given = short(recipe, teacher=open_teacher(recipe.ping, small_world, SHORT))
    opened = Training(SHORT, small_world, 0, "cpu", recipe)
    assert opened.teacher.description == given.teacher.description
    assert [step.losses for step in steps_of(opened)] == [step.losses for step in steps_of(given)]
    assert [encoder.calls for encoder in quick_encoders] == [1, 1, 0, 0]  # the second finds what the first kept
    assert Training(SHORT, small_world, 0, "cpu", RECIPES["clip"]).teacher is None and len(quick_encoders) == 4


# --- the vocabulary


def with_a_large_vocabulary(tower: str = "transformer") -> Profile:
    """The tiny profile with room for 4,096 tokens, of which its captions teach a few hundred."""
    language = dataclasses.replace(TINY.model.language, vocab_size=4096, tower=tower)
    settings = dataclasses.replace(TINY.training, pairs=64, epochs=1, batch_size=16, recipe="clip+mlm")
    return dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, language=language), training=settings)


@pytest.mark.parametrize("tower", ["transformer", "hf:bert"])
def test_the_vocabulary_is_as_large_as_the_tokenizers_also_in_what_is_saved(small_world, tmp_path, tower):
    wanted = with_a_large_vocabulary(tower)
    made = Training(wanted, small_world, device="cpu")
    size = made.tokenizer.vocab_size
    assert 260 < size < 1000
    assert len(made.model.language.tokens.weight) == len(made.extra["masked_language"].bias) == size
    language = dataclasses.replace(wanted.model.language, vocab_size=size)
    assert made.profile == dataclasses.replace(wanted, model=dataclasses.replace(wanted.model, language=language))
    events = list(made)
    assert events[0].losses["masked_language"] == pytest.approx(math.log(size), abs=0.8)  # and not ln 4096, which is 2 more
    save_run(tmp_path, made, events, {}, {"training": 1.0})
    run = load_run(tmp_path)
    assert run.profile == made.profile and run.model.config == made.model.config == made.profile.model
    on = Training(run.profile, small_world, device="cpu", start=(run.model, run.tokenizer))
    assert on.profile == made.profile and on.tokenizer.fingerprint == made.tokenizer.fingerprint


def test_a_model_with_more_rows_than_tokens_is_trained_further_as_it_is(small_world):
    wanted = with_a_large_vocabulary()
    older = Clip(wanted.model), Training(wanted, small_world, device="cpu").tokenizer
    made = Training(wanted, small_world, device="cpu", start=older)
    assert made.profile == wanted and made.model.language.tokens.weight.shape[0] == 4096
    assert math.isfinite(next(iter(made)).loss)


# --- runs


KEPT = ("clip", "lightclip", "clip-ping", "lightclip-ping", "a-clip-ping")


@pytest.fixture(scope="module")
def saved(short, tmp_path_factory):
    """Folders of a run of each recipe, and the trainings that made them."""
    folder, trainings = tmp_path_factory.mktemp("runs"), {}
    for name in KEPT:
        trainings[name] = short(name)
        figures = {"new_scenes": {"alignment": {"value": 0.5, "chance": 0.1}}}
        save_run(folder / name, trainings[name], list(trainings[name]), figures, {"training": 1.0})
    return folder, trainings


@pytest.mark.parametrize("name", KEPT)
def test_a_run_comes_back_with_its_recipe_and_what_existed_in_training_only(saved, name):
    folder, trainings = saved
    run, made = load_run(folder / name), trainings[name]
    assert run.recipe == RECIPES[name] and run.profile == SHORT and run.seed == 0
    assert run.metrics["new_scenes"]["alignment"] == {"value": 0.5, "chance": 0.1}
    for kept, trained in ((run.model, made.model), (run.extra, made.extra)):
        assert not kept.training and kept.state_dict().keys() == trained.state_dict().keys()
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in kept.state_dict().items())


@pytest.mark.parametrize("name", KEPT)
def test_a_run_says_who_taught_it(saved, name):
    folder, trainings = saved
    found = json.loads((folder / name / "metrics.json").read_text(encoding="utf-8"))
    teacher = trainings[name].teacher
    assert found["teacher"] == (teacher.description if teacher else None)
    assert not RECIPES[name].needs_teacher or found["teacher"]["widths"] == [24, 16]


@pytest.mark.parametrize("name", KEPT[1:])
def test_a_model_holds_nothing_that_only_training_needs(saved, name):
    folder, trainings = saved
    clip, other = (read_tensors(folder / one / "model.safetensors") for one in ("clip", name))
    assert clip.keys() == other.keys() == trainings["clip"].model.state_dict().keys()
    assert {key: value.shape for key, value in clip.items()} == {key: value.shape for key, value in other.items()}
    assert not (folder / "clip" / EXTRA).exists()
    assert read_tensors(folder / name / EXTRA).keys() == trainings[name].extra.state_dict().keys()


@pytest.mark.parametrize("name", KEPT[1:])
@torch.no_grad()
def test_a_model_without_its_training_only_parts_gives_the_same_bits(saved, small_world, tmp_path, name):
    folder, trainings = saved
    made, pairs = trainings[name], small_world.pairs("new_scenes", range(8))
    for file in ("model.json", "model.safetensors"):
        shutil.copy(folder / name / file, tmp_path / file)
    model, tokenizer = load_model(tmp_path)
    tokens = tokenizer.encode(pairs.captions, 48)
    before, after = made.model(pairs.images, tokens), model(pairs.images, tokens)
    assert torch.equal(before.v, after.v) and torch.equal(before.t, after.t)


WRONG_WIDTHS = ([24], [24, 17], ["24", "16"], 24)


@pytest.mark.parametrize(
    "wrong", [None, {}, *({"widths": dims} for dims in WRONG_WIDTHS), [24, 16], "Guide"], ids=str
)
def test_a_run_that_no_longer_says_how_wide_its_teachers_features_are_is_refused(saved, tmp_path, wrong):
    shutil.copytree(saved[0] / "clip-ping", tmp_path / "changed")
    path = tmp_path / "changed" / "metrics.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"teacher": wrong}), encoding="utf-8")
    with pytest.raises(LclError, match="changed") as refusal:
        load_run(tmp_path / "changed")
    assert "\n" not in str(refusal.value)


def test_a_run_from_before_there_were_neighbours_is_read_as_it_was(saved, tmp_path):
    shutil.copytree(saved[0] / "lightclip", tmp_path / "old")
    found = json.loads((tmp_path / "old" / "metrics.json").read_text(encoding="utf-8"))
    del found["teacher"], found["recipe"]["ping"]
    (tmp_path / "old" / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    assert load_run(tmp_path / "old").recipe == RECIPES["lightclip"]


def test_a_run_whose_training_only_part_is_missing_or_damaged_is_refused(saved, tmp_path):
    for name, change in (("missing", Path.unlink), ("cut", lambda path: path.write_bytes(path.read_bytes()[:-9]))):
        shutil.copytree(saved[0] / "lightclip", tmp_path / name)
        change(tmp_path / name / EXTRA)
        with pytest.raises(LclError, match=EXTRA):
            load_run(tmp_path / name)
    shutil.copytree(saved[0] / "lightclip", tmp_path / "other")
    text = (tmp_path / "other" / "metrics.json").read_text(encoding="utf-8")
    for wrong in ('"recipe": {', '"weights": {'):
        (tmp_path / "other" / "metrics.json").write_text(text.replace(wrong, wrong + '"colour": 1, '), encoding="utf-8")
        with pytest.raises(LclError, match="colour"):
            load_run(tmp_path / "other")


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["lightclip", "lightclip-ping", "a-clip-ping"])
def test_a_training_and_its_evaluation_run_on_cuda(small_world, teacher_of, name):
    smoke = get_profile("smoke")
    profile = dataclasses.replace(smoke, training=dataclasses.replace(smoke.training, recipe=name, pairs=256, epochs=1))
    made = Training(profile, small_world, device="cuda", teacher=teacher_of(RECIPES[name]))
    losses = [event.loss for event in made if isinstance(event, Step)]
    assert all(math.isfinite(loss) for loss in losses)
    evaluate(made.model, made.tokenizer, small_world, EvalConfig(retrieval=64, views=1, gallery=64), made.extra)


def test_stopping_early_leaves_the_model_ready_to_evaluate(small_world):
    made = Training(get_profile("smoke"), small_world)
    events = iter(made)
    next(events), next(events)
    assert made.model.training
    events.close()
    assert not made.model.training


def test_a_gradient_that_is_no_number_stops_the_training_before_the_weights_change(small_world):
    made = Training(get_profile("smoke"), small_world)
    before = made.model.image_projection.weight.detach().clone()
    made.model.image_projection.weight.register_hook(lambda gradient: gradient * math.nan)
    with pytest.raises(LclError, match=r"step 1, on the pairs \[.*gradient's norm is nan"):
        next(iter(made))
    assert torch.equal(made.model.image_projection.weight, before)


# --- faster, or with less memory


def vit(**changes):
    """A tiny profile of transformer blocks alone."""
    model = dataclasses.replace(
        TINY.model, vision=VisionConfig("vit", width=48, depth=2), language=dataclasses.replace(TINY.model.language, depth=2)
    )
    return dataclasses.replace(with_training(pairs=256, epochs=1, **changes), model=model)


def first_gradients(made: Training) -> tuple[float, dict[str, torch.Tensor]]:
    """The loss of the first step, and its gradients by parameter."""
    made.learner.train()
    batch = next(batches(made.source, made.tokenizer, made.profile.training, 48, 0, "cpu"))
    loss, _ = made._learn_from(batch, 0)
    return loss.item(), {name: p.grad for name, p in made.learner.named_parameters() if p.grad is not None}


def test_recomputed_blocks_keep_less_and_give_the_same_bits(small_world, teacher_of):
    recipe, kept = RECIPES["lightclip-ping"], []
    results = []
    for activation_checkpointing in (False, True):
        config = vit(activation_checkpointing=activation_checkpointing)
        made, kept_bytes = Training(config, small_world, 0, "cpu", recipe, teacher_of(recipe)), 0

        def note(x: torch.Tensor) -> torch.Tensor:
            nonlocal kept_bytes
            kept_bytes += x.nbytes
            return x

        with torch.autograd.graph.saved_tensors_hooks(note, lambda x: x):
            results.append(first_gradients(made))
        kept.append(kept_bytes)
    (loss, gradients), (again, recomputed) = results
    assert loss == again and gradients.keys() == recomputed.keys()
    assert all(torch.equal(gradients[name], recomputed[name]) for name in gradients)
    assert kept[1] < 0.7 * kept[0]  # a checkpoint's own saving again, in the backward pass, is counted as well


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("tower", [pytest.param("conv", marks=pytest.mark.slow), "vit"])
def test_half_precision_changes_little_and_losses_stay_in_full(small_world, teacher_of, name, tower):
    recipe = RECIPES[name]
    profiles = [vit(precision=precision) for precision in ("float32", "bfloat16")]
    if tower == "conv":
        profiles = [dataclasses.replace(profile, model=TINY.model) for profile in profiles]
    whole, half = (Training(profile, small_world, 0, "cpu", recipe, teacher_of(recipe)) for profile in profiles)
    seen = []
    half.model.register_forward_hook(lambda model, given, result: seen.append(result))
    halves = []
    half.model.language.blocks[0].mlp[0].register_forward_hook(lambda module, given, result: halves.append(result.dtype))
    (loss, gradients), (rough, roughly) = first_gradients(whole), first_gradients(half)
    assert rough != loss and rough == pytest.approx(loss, rel=0.02)
    assert set(halves) == {torch.bfloat16}  # products are made in half precision …
    assert all(x.dtype == torch.float32 for x in (*seen[0][:3], seen[0].image.pooled, seen[0].image.patch_tokens, *seen[0].text))
    assert all(p.dtype == torch.float32 for p in half.learner.parameters())
    flat, roughly_flat = (torch.cat([g[name].flatten() for name in gradients]) for g in (gradients, roughly))
    assert torch.cosine_similarity(flat, roughly_flat, dim=0) > 0.97


@pytest.mark.slow
def test_half_precision_learns_as_well(small_world):
    """Of transformer blocks: convolutions in half precision take minutes on a processor without products for it."""
    model, last = dataclasses.replace(TINY.model, vision=VisionConfig("vit", width=32, depth=1)), {}
    for precision in ("float32", "bfloat16"):
        profile = dataclasses.replace(with_training(precision=precision), model=model)
        made = Training(profile, small_world, seed=0, device="cpu")
        losses = [event.loss for event in made if isinstance(event, Step)]
        last[precision] = sum(losses[-8:]) / 8
    assert last["float32"] < 0.95 * math.log(32) and last["bfloat16"] == pytest.approx(last["float32"], rel=0.02)


@pytest.mark.slow
def test_a_compiled_tower_gives_the_same_gradients(small_world, monkeypatch):
    """Captured as ever, forwards and backwards, but run without the C++ that takes most of a minute to be compiled."""
    compile = torch.nn.Module.compile
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compile(module, backend="aot_eager", fullgraph=True))
    monkeypatch.setattr(loop.shutil, "which", lambda name: name)
    torch._dynamo.reset()
    (loss, gradients), (again, compiled) = (
        first_gradients(Training(vit(compile=compile), small_world, device="cpu")) for compile in (False, True)
    )
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1
    assert again == pytest.approx(loss, rel=1e-5) and gradients.keys() == compiled.keys()  # names of parameters stay
    for name, gradient in gradients.items():
        torch.testing.assert_close(compiled[name], gradient, rtol=1e-3, atol=1e-5)


def test_compiled_programs_are_not_kept_where_others_may_have_put_some(small_world, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.shutil, "which", lambda name: name)
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: None)  # which would load a compiler for seconds
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "shared"))
    (tmp_path / "shared").mkdir(mode=0o700)
    (tmp_path / "shared").chmod(0o777)
    Training(vit(compile=True), small_world, device="cpu")
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] != str(tmp_path / "shared")


def test_without_a_compiler_compiling_is_refused_at_once(small_world, monkeypatch):
    monkeypatch.setattr(loop.shutil, "which", lambda name: None)
    with pytest.raises(LclError, match=r"a C\+\+ compiler is needed; install one, or leave out compile"):
        Training(vit(compile=True), small_world, device="cpu")


def test_to_recompute_what_has_no_blocks_is_refused(small_world):
    with pytest.raises(LclError, match="the image tower 'conv' has no transformer blocks of ours"):
        Training(with_training(activation_checkpointing=True), small_world, device="cpu")


def test_steps_say_how_long_they_waited_and_what_memory_is_held(finished):
    steps = [event for event in finished[1] if isinstance(event, Step)]
    assert all(0 <= step.waited < 1 and 0.05 < step.memory < 100 and step.replaced == 0 for step in steps)
    assert median(step.waited for step in steps) < steps[0].waited  # everything was drawn before the first


def test_a_training_in_one_line_whether_it_ran_was_kept_or_was_stopped_at_once():
    step = Step(1200, 4000, 3.21, {"info_nce": 2.1, "masked_language": 1.11}, 1e-3, 0.5, 14.2, 380.0, 7.0)
    look = Validation(1000, 2.0, 0.71, 0.69)
    assert in_one_line([step, look]) == (
        "1,200 of 4,000 steps; 380 pairs/s; loss 3.21 (info_nce 2.10, masked_language 1.11); logit_scale 14.2; "
        "validation recall@1 0.71 (image→text) and 0.69 (text→image)"
    )
    kept = dataclasses.replace(step, pairs_per_second=0.0, losses={"info_nce": 3.21})
    assert in_one_line([kept]) == "1,200 of 4,000 steps; loss 3.21; logit_scale 14.2"
    assert in_one_line([]) == in_one_line([look]) == "stopped before the first step: nothing was learned"
