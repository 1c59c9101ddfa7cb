"""Training: it begins at a guess, it learns, it repeats itself bit for bit, and every pair has its turn."""

import dataclasses
import math
import shutil
from pathlib import Path

import pytest
import torch

from lcl import training
from lcl.config import EvalConfig, LanguageConfig, LclError, ModelConfig, TrainConfig, VisionConfig, get_profile
from lcl.evaluation import evaluate
from lcl.model import Clip, load_model
from lcl.recipes import RECIPES, MlmConfig, Moment, Recipe
from lcl.runs import EXTRA, load_run, save_run
from lcl.storage import read_tensors
from lcl.training import Look, Step, Training, batches, learning_rate, make_optimizer

TINY = dataclasses.replace(
    get_profile("smoke"),
    model=ModelConfig(VisionConfig(width=48, depth=1), LanguageConfig(vocab_size=400, width=48, depth=1, heads=2), 32),
    training=TrainConfig(pairs=1024, epochs=3, batch_size=32, learning_rate=2e-3, evaluate_every=40),
    evaluation=EvalConfig(retrieval=32, views=1),
)


def with_training(**changes):
    """The tiny profile with another TrainConfig."""
    return dataclasses.replace(TINY, training=dataclasses.replace(TINY.training, **changes))


@pytest.fixture(scope="module")
def finished(small_world):
    """A tiny training of 96 steps, and its events."""
    made = Training(TINY, small_world, seed=0, device="cpu")
    return made, list(made)


def test_the_loss_falls_clearly_below_a_guess(finished):
    steps = [event for event in finished[1] if isinstance(event, Step)]
    assert steps[0].loss > 0.9 * math.log(32)
    assert sum(step.loss for step in steps[-8:]) / 8 < 0.8 * math.log(32)


def test_the_loss_falls_on_new_scenes_too(finished):
    looks = [event for event in finished[1] if isinstance(event, Look)]
    assert looks[-1].loss < 0.9 * math.log(32)
    assert (looks[-1].image_to_text + looks[-1].text_to_image) / 2 > 2 / training.WATCHED


def test_events_are_every_step_in_turn_and_looks_where_they_belong(finished):
    events = finished[1]
    steps = [event for event in events if isinstance(event, Step)]
    assert [step.step for step in steps] == list(range(1, TINY.training.steps + 1))
    assert {step.total for step in steps} == {TINY.training.steps} == {96}
    assert [event.step for event in events if isinstance(event, Look)] == [40, 80, 96]
    for number, event in enumerate(events):
        assert not isinstance(event, Look) or events[number - 1].step == event.step
    assert [step.learning_rate for step in steps] == [learning_rate(TINY.training, n) for n in range(96)]
    for step in steps:
        assert step.loss == pytest.approx(sum(step.losses.values()))  # the recipe `clip` weighs its one part with 1
        assert step.gradient_norm > 0 and step.pairs_per_second > 0 and 1 <= step.logit_scale <= 100
    assert steps[-1].seconds_left == 0 < steps[0].seconds_left


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
    batch = next(batches(made.world, made.tokenizer, first.training, first.model.language.context_length, seed, "cpu"))
    with torch.no_grad():
        seen = made.model.train()(batch.images, batch.tokens)
        loss, _ = made.recipe.loss(Moment(made.model, made.extra, seen, batch.tokens, 0.0, torch.Generator()))
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


def drawn(world, made, seed=0, **changes):
    """The indices of every batch, in the order of training."""
    config = dataclasses.replace(TINY.training, **changes)
    return [batch.indices.tolist() for batch in batches(world, made.tokenizer, config, 48, seed, "cpu")]


def joined(lists):
    return [index for one in lists for index in one]


def test_a_batch_holds_the_pictures_and_captions_of_its_indices(few_world, finished):
    config = TrainConfig(pairs=24, epochs=1, batch_size=8)
    for batch in batches(few_world, finished[0].tokenizer, config, 48, 0, "cpu"):
        pairs = few_world.pairs("train", batch.indices.tolist())
        assert torch.equal(batch.images, pairs.images)
        assert torch.equal(batch.tokens.ids, finished[0].tokenizer.encode(pairs.captions, 48).ids)


@pytest.mark.parametrize("chunk", [10_000, 32, 40])
@pytest.mark.parametrize("pairs", [96, 100])
def test_every_epoch_shows_each_pair_at_most_once_in_as_many_steps_as_planned(
    few_world, finished, monkeypatch, chunk, pairs
):
    monkeypatch.setattr(training, "CHUNK", chunk)
    config = {"pairs": pairs, "epochs": 2, "batch_size": 16}
    seen = drawn(few_world, finished[0], **config)
    assert [len(batch) for batch in seen] == [16] * len(seen)
    assert len(seen) == TrainConfig(**config).steps == 12
    for epoch in (joined(seen[:6]), joined(seen[6:])):
        assert len(set(epoch)) == 96 and set(epoch) <= set(range(pairs))


def test_chunks_that_batches_fill_show_what_one_piece_shows(few_world, finished, monkeypatch):
    whole = joined(drawn(few_world, finished[0], pairs=96, epochs=1, batch_size=16))
    monkeypatch.setattr(training, "CHUNK", 32)
    chunked = joined(drawn(few_world, finished[0], pairs=96, epochs=1, batch_size=16))
    assert sorted(chunked) == sorted(whole) == list(range(96))
    assert [sorted({index // 32 for index in chunked[start : start + 32]}) for start in (0, 32, 64)] != [[0], [1], [2]]
    assert all(len({index // 32 for index in chunked[start : start + 32]}) == 1 for start in (0, 32, 64))


def test_the_order_is_a_function_of_seed_and_epoch_alone(few_world, finished):
    made, common = finished[0], {"pairs": 64, "batch_size": 16}
    three = drawn(few_world, made, **common, epochs=3)
    assert three[:4] == drawn(few_world, made, **common, epochs=1)
    torch.rand(5)
    assert three == drawn(few_world, made, **common, epochs=3)
    assert joined(three) == joined(drawn(few_world, made, pairs=64, batch_size=8, epochs=3))
    first, second, third = three[:4], three[4:8], three[8:]
    assert first != second != third != first
    assert first != drawn(few_world, made, **common, epochs=1, seed=1)


@pytest.mark.parametrize("warmup", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("epochs", [1, 50])
def test_the_learning_rate_rises_peaks_and_ends_near_zero(warmup, epochs):
    config = TrainConfig(pairs=40, epochs=epochs, batch_size=2, warmup=warmup)
    rates = [learning_rate(config, step) for step in range(config.steps)]
    top = rates.index(max(rates))
    assert top == pytest.approx(warmup * config.steps, abs=1)
    assert 0.6 * config.learning_rate < max(rates) <= config.learning_rate
    assert all(a < b for a, b in zip(rates[:top], rates[1 : top + 1], strict=True))
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1 :], strict=False))
    assert 0 < rates[-1] < 0.03 * config.learning_rate
    if epochs == 50:
        assert rates[-1] < 1e-4 * config.learning_rate and max(rates) > 0.99 * config.learning_rate


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


def test_a_loss_that_is_no_number_stops_the_training_and_names_the_step(small_world):
    made = Training(with_training(pairs=256), small_world, device="cpu")
    events = iter(made)
    for _ in range(3):
        next(events)
    next(made.model.vision.parameters()).data[0] = torch.nan
    with pytest.raises(LclError, match=r"stopped at step 4, on the scenes \[\d+, .*\]: the loss is nan\."):
        next(events)


def test_a_world_of_another_size_than_the_models_is_refused(small_world):
    vision = dataclasses.replace(TINY.model.vision, image_size=128)
    other = dataclasses.replace(TINY, model=dataclasses.replace(TINY.model, vision=vision))
    with pytest.raises(LclError, match="128 pixels.* 64"):
        Training(other, small_world)


# --- recipes


SHORT = with_training(pairs=192, epochs=1, evaluate_every=6)  # six steps


def short(world, recipe: str | Recipe, seed: int = 0) -> Training:
    """A training of six steps."""
    return Training(SHORT, world, seed, "cpu", RECIPES[recipe] if isinstance(recipe, str) else recipe)


def steps_of(made: Training) -> list[Step]:
    return [event for event in made if isinstance(event, Step)]


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_trains_and_shows_its_parts(small_world, name):
    made = short(small_world, name)
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


def test_the_same_seed_gives_the_same_bits_with_all_of_lightclip(small_world):
    def run(seed):
        made = short(small_world, "lightclip", seed)
        return [(step.loss, step.losses) for step in steps_of(made)], made.learner.state_dict()

    (losses, weights), (again, same), (others, _) = run(3), run(3), run(4)
    assert losses == again
    assert all(torch.equal(weights[name], same[name]) for name in weights)
    assert losses[0] != others[0]


def test_all_recipes_begin_with_the_same_pair_of_towers(small_world):
    first = short(small_world, "clip").model.state_dict()
    for name in RECIPES:
        other = short(small_world, name).model.state_dict()
        assert first.keys() == other.keys() and all(torch.equal(first[key], other[key]) for key in first)


def test_softening_by_nothing_trains_clip_to_the_bit(small_world):
    none = dataclasses.replace(RECIPES["clip+soft"], soft=dataclasses.replace(RECIPES["clip+soft"].soft, alpha_max=0.0))
    clip, soft = short(small_world, "clip"), short(small_world, none)
    assert [step.loss for step in steps_of(clip)] == [step.loss for step in steps_of(soft)]
    assert all(torch.equal(a, b) for a, b in zip(clip.model.parameters(), soft.model.parameters(), strict=True))


def test_nothing_of_what_only_training_needs_is_left_out_of_learning(small_world):
    made = short(small_world, "lightclip")
    known = {id(p): group for group in made.optimizer.param_groups for p in group["params"]}
    assert known.keys() == {id(p) for p in [*made.model.parameters(), *made.extra.parameters()]}
    mlm = made.extra["masked_language"]
    assert {known[id(block.gate)]["weight_decay"] for block in mlm.blocks.values()} == {0.0}
    assert known[id(mlm.head.weight)]["weight_decay"] > 0 == known[id(mlm.head.bias)]["weight_decay"]
    steps_of(made)
    assert all(gate != 0 for gate in mlm.gates.values())


@dataclasses.dataclass(frozen=True)
class Watched(Recipe):
    """A recipe that keeps every moment that it was shown, and the first number of each generator."""

    moments: list[tuple[Moment, int]] = dataclasses.field(default_factory=list)

    def loss(self, now: Moment):
        self.moments.append((now, now.generator.initial_seed()))
        return super().loss(now)


def test_a_recipe_sees_the_progress_from_zero_on_and_another_generator_in_every_step_and_seed(small_world):
    seeds = []
    for seed in (0, 1):
        recipe = Watched(**{name: getattr(RECIPES["lightclip"], name) for name in Recipe.__dataclass_fields__})
        made = short(small_world, recipe, seed)
        steps_of(made)
        assert [now.progress for now, _ in recipe.moments] == [step / 6 for step in range(6)]
        assert all(now.model is made.model and now.extra is made.extra for now, _ in recipe.moments)
        assert all(len(now.tokens) == len(now.seen.v) == 32 for now, _ in recipe.moments)
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
def test_poisoned_similarities_stop_the_training_with_its_step_and_scenes(small_world, name):
    made = short(small_world, name)
    events = iter(made)
    for _ in range(2):
        next(events)
    made.model.text_projection.weight.data[0, 0] = torch.nan
    before = [parameter.clone() for parameter in made.model.vision.parameters()]
    with pytest.raises(LclError, match=r"at step 3, on the scenes \[\d+(, \d+){31}\]: .*(nan|not finite)") as stop:
        next(events)
    assert "\n" not in str(stop.value)
    assert all(torch.equal(*both) for both in zip(before, made.model.vision.parameters(), strict=True))  # no step made


def test_a_layer_that_does_not_exist_is_refused_before_the_training(small_world):
    with pytest.raises(LclError, match=r"no layer 3 to fuse after"):
        short(small_world, dataclasses.replace(RECIPES["lightclip"], mlm=MlmConfig(layers=(3,))))


# --- runs


@pytest.fixture(scope="module")
def saved(small_world, tmp_path_factory):
    """Folders of a run of each recipe, and the trainings that made them."""
    folder, trainings = tmp_path_factory.mktemp("runs"), {}
    for name in ("clip", "lightclip"):
        trainings[name] = short(small_world, name)
        figures = {"new_scenes": {"alignment": {"value": 0.5, "chance": 0.1}}}
        save_run(folder / name, trainings[name], list(trainings[name]), figures, {"training": 1.0})
    return folder, trainings


@pytest.mark.parametrize("name", ["clip", "lightclip"])
def test_a_run_comes_back_with_its_recipe_and_what_existed_in_training_only(saved, name):
    folder, trainings = saved
    run, made = load_run(folder / name), trainings[name]
    assert run.recipe == RECIPES[name] and run.profile == SHORT and run.seed == 0
    assert run.metrics["new_scenes"]["alignment"] == {"value": 0.5, "chance": 0.1}
    for kept, trained in ((run.model, made.model), (run.extra, made.extra)):
        assert not kept.training and kept.state_dict().keys() == trained.state_dict().keys()
        assert all(torch.equal(value, trained.state_dict()[key]) for key, value in kept.state_dict().items())


def test_the_model_of_lightclip_holds_nothing_that_only_training_needs(saved):
    folder, trainings = saved
    clip, light = (read_tensors(folder / name / "model.safetensors") for name in ("clip", "lightclip"))
    assert clip.keys() == light.keys() == trainings["clip"].model.state_dict().keys()
    assert {key: value.shape for key, value in clip.items()} == {key: value.shape for key, value in light.items()}
    assert not (folder / "clip" / EXTRA).exists()
    assert read_tensors(folder / "lightclip" / EXTRA).keys() == trainings["lightclip"].extra.state_dict().keys()


@torch.no_grad()
def test_a_model_without_its_training_only_parts_gives_the_same_bits(saved, small_world, tmp_path):
    folder, trainings = saved
    made, pairs = trainings["lightclip"], small_world.pairs("new_scenes", range(8))
    for name in ("model.json", "model.safetensors"):
        shutil.copy(folder / "lightclip" / name, tmp_path / name)
    model, tokenizer = load_model(tmp_path)
    tokens = tokenizer.encode(pairs.captions, 48)
    before, after = made.model(pairs.images, tokens), model(pairs.images, tokens)
    assert torch.equal(before.v, after.v) and torch.equal(before.t, after.t)


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
def test_a_step_of_lightclip_and_its_evaluation_run_on_cuda(small_world):
    smoke = get_profile("smoke")
    profile = dataclasses.replace(smoke, training=dataclasses.replace(smoke.training, recipe="lightclip", pairs=256, epochs=1))
    made = Training(profile, small_world, device="cuda")
    losses = [event.loss for event in made if isinstance(event, Step)]
    assert all(math.isfinite(loss) for loss in losses)
    evaluate(made.model, made.tokenizer, small_world, EvalConfig(retrieval=64, views=1), made.extra)


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
    with pytest.raises(LclError, match=r"step 1, on the scenes \[.*gradient's norm is nan"):
        next(iter(made))
    assert torch.equal(made.model.image_projection.weight, before)
