"""The exercises of chapters 6 to 9: each solution is right and equals lcl's own function, each mistake hears its sentence, and
what a learner built is what trains."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F

from lcl.config import LclError, get_profile
from lcl.course import checks
from lcl.course.exercises import clip_ping, fused_mlm, lightclip, neighbours
from lcl.course.statistics import gain_of
from lcl.data.scenes import open_scenes
from lcl.losses.masked_lm import FusionBlock
from lcl.losses.neighbours import NeighbourFeatures, nn_contrast, xnn_contrast
from lcl.models.tokenizer import NOT_MASKED, mask_words
from lcl.teachers.search import nearest_neighbours
from lcl.train.loop import Training
from lcl.train.objectives import OBJECTIVES, StepContext
from lcl.train.recipes import get_recipe

FUNCTIONS = {
    "masking": (fused_mlm, fused_mlm.masking, fused_mlm.mask),
    "fusion": (fused_mlm, fused_mlm.fusion, fused_mlm.fuse),
    "gate": (fused_mlm, fused_mlm.gate, lambda x, y, g: x + torch.tanh(g) * y),
    "warmed": (lightclip, lightclip.warmed, lambda progress, warmup: min(1.0, progress / warmup)),
    "three_terms": (lightclip, lightclip.three_terms, lightclip.total),
    "interval": (lightclip, lightclip.interval, lightclip.t_interval),
    "in_blocks": (neighbours, neighbours.in_blocks, neighbours.nearest_in_blocks),
    "xnn_of_images": (neighbours, neighbours.xnn_of_images, lambda a, Z: Z[a]),
    "neighbour_terms": (clip_ping, clip_ping.neighbour_terms, clip_ping.nn_and_xnn),
    "fading": (clip_ping, clip_ping.fading, lambda p: (1 - p) ** 2),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_solution_is_right_and_every_mistake_hears_its_sentence(name, monkeypatch):
    module, verdict, solution = FUNCTIONS[name]
    mistakes = {}
    told = checks.check_function

    def watched(function, cases, right, found, **options):
        mistakes.update(found)
        return told(function, cases, right, found, **options)

    monkeypatch.setattr(module, "check_function", watched)
    assert verdict(solution) == checks.RIGHT
    assert len(mistakes) >= 2
    for sentence, wrong in mistakes.items():
        assert " ".join(verdict(wrong).split()) == checks.WRONG + sentence

    def open_place(*case):
        """As in the notebook."""
        ...

    assert verdict(open_place) == checks.OPEN


@pytest.fixture(scope="module")
def world():
    return open_scenes(get_profile("smoke").scenes)


def training(world, recipe, **options):
    profile = get_profile("smoke")
    return Training(dataclasses.replace(profile, training=dataclasses.replace(profile.training, recipe=recipe)), world, **options)


def first_losses(training, steps=2):
    found = []
    for event in training:
        found.append(event.losses | {"total": event.loss})
        if len(found) == steps:
            return found


@pytest.mark.parametrize("share", [0.0, 0.15, 0.5, 1.0])
def test_the_masks_of_the_solution_are_those_of_lcl(world, share):
    tokenizer = training(world, "clip").tokenizer
    texts = [world.scene("unseen_concepts", index).caption for index in range(50)] + ["!!!", "a"]
    tokens = tokenizer.encode(texts, 64)
    ours, wanted = mask_words(tokens, torch.Generator().manual_seed(3), tokenizer.vocab_size, share)
    masked, targets = fused_mlm.mask_tokens(
        fused_mlm.mask, tokens, torch.Generator().manual_seed(3), tokenizer.vocab_size, share
    )
    assert torch.equal(masked.ids, ours.ids) and torch.equal(targets, wanted)
    assert (targets[-2] == NOT_MASKED).all() and (targets[-1] != NOT_MASKED).sum() == 1  # no word, and a single one


def test_the_solution_of_the_fusion_is_lcls_block():
    torch.manual_seed(0)
    block = FusionBlock(width=16, image_width=12, heads=4)
    block.gate.data.fill_(0.4)
    x, patches = torch.randn(3, 5, 16), torch.randn(3, 7, 12)
    every = torch.ones(3, 5, dtype=torch.bool)
    expected = block(x.flatten(0, 1), every, patches).view_as(x)
    torch.testing.assert_close(fused_mlm.fuse(x, patches, block), expected, rtol=1e-4, atol=1e-5)


def test_the_masks_and_the_fusion_of_a_learner_train(world, monkeypatch):
    expected = first_losses(training(world, "clip+mlm"))
    monkeypatch.setitem(OBJECTIVES, "masked_language", fused_mlm.masked_by(fused_mlm.mask))
    trained = training(world, "clip+mlm")
    fused_mlm.fuse_with(trained.extra["masked_language"], fused_mlm.fuse)
    for losses, wanted in zip(first_losses(trained), expected, strict=True):
        assert losses == pytest.approx(wanted, rel=1e-4)

    calls = []

    def nothing(x, patches, block):
        calls.append(x.shape)
        return x

    def never(ids, words, share, draw, fate, noise):
        return ids, torch.full_like(ids, NOT_MASKED)

    monkeypatch.setitem(OBJECTIVES, "masked_language", fused_mlm.masked_by(never))
    other = training(world, "clip+mlm")
    fused_mlm.fuse_with(other.extra["masked_language"], nothing)
    assert first_losses(other)[0]["masked_language"] == 0  # nothing was masked
    assert len(calls) == 2 * len(other.extra["masked_language"].blocks) and len(calls[0]) == 3


def test_the_loss_of_a_learner_trains(world):
    expected = first_losses(training(world, "lightclip"), 4)
    profile = get_profile("smoke")
    trained = Training(profile, world, recipe=lightclip.recipe_with(lightclip.total))
    for losses, wanted in zip(first_losses(trained, 4), expected, strict=True):
        assert losses == pytest.approx(wanted, rel=1e-4)
    only = Training(profile, world, recipe=lightclip.recipe_with(lambda parts, progress: parts["mlm"]))
    losses = first_losses(only)[0]
    assert losses["total"] == losses["masked_language"]


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.9])
def test_the_loss_of_the_solution_is_that_of_the_recipe(world, progress):
    trained = training(world, "lightclip")
    tokens = trained.tokenizer.encode([world.scene("train", index).caption for index in range(8)], 32)
    images = world.pairs("train", range(8)).images
    ours, theirs = lightclip.recipe_with(lightclip.total), get_recipe("lightclip")
    found = []
    for recipe in (ours, theirs):
        embeddings = trained.model(images, tokens)
        random = torch.Generator().manual_seed(0)
        found.append(recipe.loss(StepContext(trained.model, trained.extra, embeddings, tokens, progress, random)))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert found[0][1] == found[1][1]
    with pytest.raises(LclError, match="without micro-batches"):
        ours.loss(None, ["masked_language"])
    assert dataclasses.asdict(ours) == dataclasses.asdict(theirs)  # so a saved run of the recipe still fits


@pytest.mark.parametrize("differences", [[3.0, 4.0, 6.5], [1.0, -2.0, 0.5, 0.7, 3.0]])
def test_the_interval_of_the_solution_is_that_of_the_study(differences):
    low, high = lightclip.t_interval(torch.tensor(differences))
    expected = gain_of(differences, [0.0] * len(differences))
    assert (low.item(), high.item()) == pytest.approx((expected.low, expected.high), abs=2e-3)


@pytest.mark.parametrize("block", [1, 7, 64, 100])
def test_the_neighbours_of_the_solution_are_those_of_lcl_and_of_an_argmax(block):
    features = F.normalize(torch.randn(100, 16, generator=torch.Generator().manual_seed(0)), dim=1)
    where, best = neighbours.nearest_in_blocks(features, block)
    found = nearest_neighbours(features)
    assert torch.equal(where, found.indices[:, 0])
    torch.testing.assert_close(best, found.similarities[:, 0])
    assert torch.equal(where, (features @ features.T).fill_diagonal_(-torch.inf).argmax(1))


def test_the_terms_of_the_solution_are_those_of_lcl():
    random = torch.Generator().manual_seed(0)
    v, t, *near = F.normalize(torch.randn(6, 12, 8, generator=random), dim=-1)
    near, scale = NeighbourFeatures(*near), torch.tensor(9.0)
    within, across = clip_ping.nn_and_xnn(v, t, near, scale)
    torch.testing.assert_close(within, nn_contrast(v, t, near, scale)["nn_contrast"])
    torch.testing.assert_close(across, xnn_contrast(v, t, near, scale)["xnn_contrast"])
    context = StepContext(None, None, (v, t, scale, None, None), None, 0.0, random, near)
    for name, objective in clip_ping.taught_by(clip_ping.nn_and_xnn).items():
        torch.testing.assert_close(objective(None, context), OBJECTIVES[name](None, context))


def test_the_exercises_with_numbers():
    a, b = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([2.0, 4.0, 5.0])
    assert lightclip.paired_t(4.0, a, b) == checks.RIGHT  # the differences 1, 2, 1: a mean of 4 / 3, a standard error of 1 / 3
    means = {1: 50.0, 2: 48.0, 4: 25.5, 8: 20.0}
    assert lightclip.deepest(4, means) == checks.RIGHT and "that is the best" in lightclip.deepest(1, means)
    assert neighbours.gigabytes(10.98) == checks.RIGHT and "4 bytes" in neighbours.gigabytes(21.97)
    assert fused_mlm.chance_level(torch.tensor(2048.0).log().item(), 2048) == checks.RIGHT
    small, large = torch.nn.Linear(3, 1), torch.nn.Linear(7, 1)
    assert fused_mlm.dropped(0.5, small, large) == checks.RIGHT
    index, near, far = torch.tensor([3, 5]), torch.tensor([4, 8]), torch.tensor([9, 8])
    assert clip_ping.target_row(9, index, near, far) == checks.RIGHT
    assert clip_ping.different(0.5, near, far) == checks.RIGHT


def test_purity_by_hand_is_that_of_the_metrics(world):
    from lcl.eval.metrics import neighbour_purity

    scenes = [world.scene("train", index) for index in range(60)]
    nearest = torch.randperm(60, generator=torch.Generator().manual_seed(0))
    assert neighbours.purity(neighbour_purity(scenes, nearest[:, None])["value"], scenes, nearest) == checks.RIGHT
    assert neighbours.purity(1.5, scenes, nearest[:20]).startswith(checks.WRONG)
