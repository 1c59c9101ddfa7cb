"""Recipes: what they weigh is what they say, they travel as JSON, and nothing of them is left in what one uses."""

import dataclasses
import json
import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl import storage
from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig, from_dict, to_dict
from lcl.losses.contrastive import SCHEDULES, Sigmoid, info_nce, ramp, sigmoid_loss, soft_info_nce
from lcl.losses.masked_lm import FusedMlm, masked_language
from lcl.losses.matching import FORBIDDEN, SOLVERS, matched_contrast, token_similarity, total_cost
from lcl.losses.neighbours import (
    CaptionQueue,
    NeighbourFeatures,
    Projections,
    image_teacher,
    nn_contrast,
    other_xnn,
    text_teacher,
    xnn_contrast,
)
from lcl.models.clip import Clip
from lcl.models.tokenizer import NOT_MASKED, Tokenizer, mask_words
from lcl.teachers.encoders import IMAGE_ENCODER, TEXT_ENCODER
from lcl.teachers.teacher import CHOICES
from lcl.train.objectives import NEEDS_TEACHER, OBJECTIVES, StepContext
from lcl.train.recipes import CONTROLS, RECIPES, MatchConfig, MlmConfig, PingConfig, Recipe, SoftConfig, get_recipe

CAPTIONS = ["a red apple", "two dogs left of a cat, on a blue ground", "a small house", "a cat", "a cat and a dog"]
TINY = ModelConfig(
    VisionConfig("conv", width=32, depth=1), LanguageConfig(vocab_size=300, width=32, depth=2, heads=2), 16
)
IMAGES = torch.randint(256, (5, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)

soft_configs = st.builds(
    SoftConfig, st.floats(0, 1), st.sampled_from([*SCHEDULES]), st.floats(0.01, 10) | st.just(math.inf), st.booleans()
)
match_configs = st.builds(
    MatchConfig, st.sampled_from([*SOLVERS]), st.integers(1, 64), st.floats(0, 2) | st.just(FORBIDDEN), st.floats(0.1, 100),
    st.booleans(), st.booleans(),
)  # fmt: skip
mlm_configs = st.builds(MlmConfig, st.floats(0, 1), st.lists(st.integers(1, 12), max_size=4).map(tuple), st.booleans())
ping_configs = st.builds(
    PingConfig, st.text(max_size=9), st.text(max_size=9), st.integers(1, 512), st.just(False), st.integers(1, 9999),
    st.sampled_from([*CHOICES]), st.floats(0, 1),
) | st.builds(PingConfig, live=st.just(True))  # fmt: skip
weights = st.dictionaries(st.sampled_from([*OBJECTIVES]), st.floats(0, 10), min_size=1)


@st.composite
def recipes(draw) -> Recipe:
    """Any recipe that makes sense."""
    chosen = draw(weights)
    warmup, fade = (draw(st.dictionaries(st.sampled_from([*chosen]), st.floats(0, most))) for most in (1, 9))
    settings = (draw(configs) for configs in (soft_configs, match_configs, mlm_configs, ping_configs))
    return Recipe("mine", chosen, draw(st.text(max_size=9)), warmup, fade, *settings, draw(st.booleans()))


@pytest.fixture(scope="module")
def tokens():
    return Tokenizer.train(CAPTIONS, 300, "a data set").encode(CAPTIONS, 48)


WIDTHS = (6, 7)  # of what a teacher tells of images, and of captions


def neighbours(rows: int) -> NeighbourFeatures:
    """What a teacher might tell."""
    generator = torch.Generator().manual_seed(1)
    return NeighbourFeatures(*(F.normalize(torch.randn(rows, WIDTHS[kind], generator=generator), dim=1) for kind in (0, 1, 1, 0)))


def moment(recipe: Recipe, tokens, progress: float = 0.5, rows: int = 5, seed: int = 3) -> StepContext:
    """A step of training: an untrained model looks at five pairs, and a recipe that asks is told their neighbours."""
    torch.manual_seed(0)
    model = Clip(TINY).eval()
    extra = recipe.make_extra(model, WIDTHS if recipe.needs_teacher else ())
    if "masked_language" in extra:
        for block in extra["masked_language"].blocks.values():
            block.gate.data.fill_(0.5)
    some = tokens[range(rows)]
    seen, near = model(IMAGES[:rows], some), extra["projections"](neighbours(rows)) if recipe.needs_teacher else None
    return StepContext(model, extra, seen, some, progress, torch.Generator().manual_seed(seed), near)


# --- what there is


def test_the_recipes_are_clip_each_objective_alone_and_all_of_them():
    assert {"clip", "clip+soft", "clip+match", "clip+mlm", "lightclip"} <= RECIPES.keys()
    assert RECIPES["clip"].weights == {"info_nce": 1.0}
    parts = {name: set(RECIPES[name].weights) for name in RECIPES}
    assert parts["clip+soft"] == {"soft_info_nce"}  # softened labels stand in place of hard ones
    assert parts["clip+match"] == {"info_nce", "matched_contrast"}
    assert parts["clip+mlm"] == {"info_nce", "masked_language"}
    assert parts["lightclip"] == {"soft_info_nce", "matched_contrast", "masked_language"}
    assert parts["clip+nn"] == {"info_nce", "nn_contrast"}
    assert parts["clip+xnn"] == {"info_nce", "xnn_contrast"}
    assert parts["clip-ping"] == parts["a-clip-ping"] == parts["clip+nn"] | parts["clip+xnn"]
    assert parts["lightclip-ping"] == parts["lightclip"] | {"nn_contrast", "xnn_contrast"}
    assert [name for name in RECIPES if RECIPES[name].ping.live] == ["a-clip-ping"]


def test_the_recipes_that_ask_for_neighbours_are_the_guided_ones():
    named = {name for name in RECIPES if name.endswith(("nn", "ping"))}
    assert {name for name in RECIPES if RECIPES[name].needs_teacher} == named
    for name in OBJECTIVES:
        assert Recipe("mine", {name: 0.0}, "").needs_teacher == (name in NEEDS_TEACHER)


def test_guidance_uses_the_encoders_that_are_installed_with_the_library():
    for recipe in RECIPES.values():
        assert (recipe.ping.image_encoder, recipe.ping.text_encoder) == (IMAGE_ENCODER, TEXT_ENCODER)


ALL = RECIPES | CONTROLS


@pytest.mark.parametrize("name", ALL)
def test_a_recipe_is_found_by_its_name_and_says_where_it_was_published(name):
    assert get_recipe(name) is ALL[name] and ALL[name].name == name
    assert "arXiv" in ALL[name].source
    assert all(weight > 0 and math.isfinite(weight) for weight in ALL[name].weights.values())
    assert ALL[name].warmup.keys() | ALL[name].fade.keys() <= ALL[name].weights.keys()


def test_a_control_differs_from_its_method_in_what_it_controls_and_in_nothing_else():
    """Field by field: otherwise it would control something else, too."""
    pairs = {
        "clip+distil": ("clip-ping", "ping"), "clip-ping+distil": ("clip-ping", "ping"),
        "clip-ping+shuffled": ("clip-ping", "ping"), "clip-ping+oracle": ("clip-ping", "ping"),
        "lightclip+distil": ("lightclip-ping", "ping"), "lightclip-ping+distil": ("lightclip-ping", "ping"),
        "clip-ping+constant": ("clip-ping", "fade"), "clip+views": ("clip", "views"), "clip+max": ("clip+match", "match"),
        "clip+match-random": ("clip+match", "match"), "clip+match-all": ("clip+match", "match"),
        "clip+match-content": ("clip+match", "match"),
        "clip+smoothing": ("clip+soft", "soft"), "clip+softclip": ("clip+soft", "soft"), "clip+mlm-blind": ("clip+mlm", "mlm"),
    }  # fmt: skip
    for control, (method, field) in pairs.items():
        one, other = vars(CONTROLS[control]), vars(RECIPES[method])
        assert {name for name in one if one[name] != other[name]} == {"name", "source", field}, control
    one, other = (vars(recipe.match) for recipe in (CONTROLS["clip+match-content"], RECIPES["clip+match"]))
    assert {name for name in one if one[name] != other[name]} == {"content_words"} and one["content_words"]
    assert not RECIPES.keys() & CONTROLS.keys()
    other_terms = {"clip+image-teacher", "clip+text-teacher", "clip-ping+other-xnn", "clip+queue", "clip+match-pairs"}
    assert CONTROLS.keys() == pairs.keys() | other_terms | {"siglip", "siglip-ping"}


def test_every_term_weighs_one_but_for_two_and_those_of_neighbours_and_teachers_leave_by_the_same_power():
    half = {"masked_language", "queue_contrast"}
    for name, recipe in ALL.items():
        assert recipe.weights == {term: 0.5 if term in half else 1.0 for term in recipe.weights}, name
        leaving = recipe.weights.keys() & NEEDS_TEACHER if name != "clip-ping+constant" else ()
        assert recipe.fade == dict.fromkeys(leaving, 2.0), name
        assert recipe.warmup == dict.fromkeys(recipe.weights.keys() & {"matched_contrast"}, 0.5), name


def test_every_objective_alone_weighs_what_it_weighs_in_lightclip():
    whole = RECIPES["lightclip"]
    for name, objective in (("soft", "soft_info_nce"), ("match", "matched_contrast"), ("mlm", "masked_language")):
        alone = RECIPES[f"clip+{name}"]
        assert alone.weights[objective] == whole.weights[objective]
        assert alone.warmup.get(objective) == whole.warmup.get(objective)
        assert getattr(alone, name) == getattr(whole, name)


def test_the_recipes_with_ping_weigh_what_their_parts_weigh():
    ping, both = RECIPES["clip-ping"], RECIPES["lightclip-ping"]
    assert ping.weights == RECIPES["clip+nn"].weights | RECIPES["clip+xnn"].weights
    assert both.weights == RECIPES["lightclip"].weights | {name: ping.weights[name] for name in ("nn_contrast", "xnn_contrast")}
    assert ping.fade == both.fade == RECIPES["clip+nn"].fade | RECIPES["clip+xnn"].fade
    assert both.warmup == RECIPES["lightclip"].warmup and ping.ping == both.ping == RECIPES["clip+nn"].ping
    active = RECIPES["a-clip-ping"]
    assert (active.weights, active.fade) == (ping.weights, ping.fade) and active.ping == dataclasses.replace(ping.ping, live=True)


# --- as JSON


@pytest.mark.parametrize("recipe", RECIPES.values(), ids=RECIPES)
def test_a_recipe_survives_json(recipe):
    assert from_dict(Recipe, json.loads(json.dumps(to_dict(recipe)))) == recipe


@given(recipes())
def test_any_recipe_survives_json(recipe):
    read = from_dict(Recipe, json.loads(json.dumps(to_dict(recipe))))
    assert read == recipe and isinstance(read.mlm.layers, tuple)


def test_a_recipe_without_a_price_survives_a_file(tmp_path):
    recipe = dataclasses.replace(RECIPES["lightclip"], match=MatchConfig(unmatched_cost=FORBIDDEN), mlm=MlmConfig(layers=(1, 2)))
    storage.write_json(tmp_path / "recipe.json", to_dict(recipe))
    assert from_dict(Recipe, storage.read_json(tmp_path / "recipe.json")) == recipe


def test_a_recipe_of_a_run_from_before_there_were_neighbours_is_read_as_it_was():
    old = {key: value for key, value in to_dict(RECIPES["lightclip"]).items() if key != "ping"}
    assert from_dict(Recipe, old) == RECIPES["lightclip"]


@pytest.mark.parametrize(
    "change",
    [
        {"weights": {"info_nec": 1.0}}, {"weights": {}}, {"weights": {"info_nce": "1"}}, {"weights": ["info_nce"]},
        {"warmup": {"info_nce": None}}, {"fade": {"info_nce": 1.0}}, {"fade": {"soft_info_nce": -0.5}},
        {"soft": {"alpha": 0.1}}, {"soft": {"alpha_max": 2.0}},
        {"mlm": {"layers": [1.5]}}, {"mlm": {"layers": 1}}, {"match": {"solver": "exakt"}}, {"weight": 1},
        {"ping": {"live": 1}}, {"ping": {"queue": 0}}, {"ping": {"queue": 1.5}}, {"ping": {"encoder": "x"}},
        {"ping": {"image_encoder": None}}, {"ping": {"image_size": -1}}, {"ping": True}, {"ping": {"choice": "best"}},
        {"ping": {"own": 1.5}}, {"ping": {"own": 0.5, "live": True}}, {"soft": {"temperature": 0}}, {"views": 1},
    ],
    ids=str,
)  # fmt: skip
def test_json_that_is_no_recipe_is_refused(change):
    with pytest.raises(LclError):
        from_dict(Recipe, to_dict(RECIPES["lightclip"]) | change)


# --- what they weigh


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("progress", [0.0, 0.3, 1.0])
def test_the_total_is_the_sum_of_the_weighted_parts(name, progress, tokens):
    recipe = ALL[name]
    total, parts = recipe.loss(moment(recipe, tokens, progress))
    assert parts.keys() == recipe.weights.keys()
    assert all(part.ndim == 0 and part.isfinite() for part in parts.values())
    wanted = sum(recipe.weight(part, progress) * value.item() for part, value in parts.items())
    assert total.item() == pytest.approx(wanted, rel=1e-5)


def matched_cost(now: StepContext, match: MatchConfig) -> torch.Tensor:
    """The mean cost of a caption's words in its own image, pair by pair."""
    words, real = now.model.embed_words(now.embeddings.text, now.tokens)
    patches, found = now.model.embed_patches(now.embeddings.image), []
    for row in range(len(words)):
        cost = 1 - words[row, real[row]] @ patches[row].T  # (m, n)
        given, every = cost[None], torch.ones(1, len(cost), dtype=torch.bool)
        matching = SOLVERS[match.solver](given, every, match.unmatched_cost)
        found.append(total_cost(matching, given, every, match.unmatched_cost)[0] / len(cost))
    return torch.stack(found).mean()


def test_parts_are_the_objectives_of_the_embeddings_at_hand(tokens):
    recipe = Recipe("all", dict.fromkeys(OBJECTIVES, 1.0), "")
    now = moment(recipe, tokens, progress=0.7)
    _, parts = recipe.loss(now)
    v, t, scale = now.embeddings.v, now.embeddings.t, now.embeddings.logit_scale
    alpha = ramp(recipe.soft.schedule, recipe.soft.alpha_max, 0.7)
    words, real = now.model.embed_words(now.embeddings.text, now.tokens)
    some, targets = mask_words(now.tokens, torch.Generator().manual_seed(3), 300, recipe.mlm.share)
    mlm = now.extra["masked_language"]
    match = recipe.match
    wanted = {
        **info_nce(v, t, scale),
        **soft_info_nce(v, t, scale, alpha, recipe.soft.temperature),
        **matched_contrast(
            now.model.embed_patches(now.embeddings.image), words, real, v @ t.T, match.scale, match.negatives,
            match.unmatched_cost,
            match.solver,
        ),
        **masked_language(mlm(now.model.language, some, now.embeddings.image, targets != NOT_MASKED), targets),
        **nn_contrast(v, t, now.neighbours, scale),
        **xnn_contrast(v, t, now.neighbours, scale),
        **other_xnn(v, t, now.neighbours, scale),
        **image_teacher(v, t, now.neighbours, scale),
        **text_teacher(v, t, now.neighbours, scale),
        **sigmoid_loss(v, t, scale, torch.tensor(-10.0)),
        "queue_contrast": info_nce(v, t[(t @ t.T).fill_diagonal_(-2).argmax(1)], scale)["info_nce"],
        "matched_cost": matched_cost(now, match),
    }  # fmt: skip
    assert parts.keys() == wanted.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(parts[name], value)


@pytest.mark.parametrize("rows", [[1, 3, 1, 4, 3], [2, 2, 2, 2, 2], [0, 1, 2, 3, 4]], ids=str)
@pytest.mark.parametrize("random_negatives", [False, True])
def test_equal_captions_of_a_batch_are_no_negatives_of_each_other(tokens, rows, random_negatives):
    recipe = Recipe("mine", {"matched_contrast": 1.0}, "", match=MatchConfig(negatives=3, random_negatives=random_negatives))
    now = moment(recipe, tokens[rows])
    found = recipe.loss(now)[1]["matched_contrast"]
    s = now.embeddings.v @ now.embeddings.t.T
    if random_negatives:
        s = torch.rand(s.shape, generator=torch.Generator().manual_seed(3))
    patches, same = now.model.embed_patches(now.embeddings.image), torch.tensor([[a == b for b in rows] for a in rows])
    given = patches, *now.model.embed_words(now.embeddings.text, now.tokens), s
    wanted = matched_contrast(*given, 10.0, 3, 1.0, "exact", same)["matched_contrast"]
    torch.testing.assert_close(found, wanted)
    blind = matched_contrast(*given, 10.0, 3, 1.0, "exact")["matched_contrast"]
    assert (len(set(rows)) == 5) == torch.allclose(found, blind) and (found == 0) == (len(set(rows)) == 1)


@pytest.mark.parametrize("objective", ["matched_contrast", "matched_cost"])
def test_of_content_words_alone_the_others_are_neither_matched_nor_counted(tokens, objective):
    recipe = Recipe("mine", {objective: 1.0}, "", match=MatchConfig(content_words=True))
    now = moment(recipe, tokens)
    words, real = now.model.embed_words(now.embeddings.text, now.tokens)
    content = [["red", "apple"], ["two", "dogs", "left", "cat", "blue", "ground"], ["small", "house"], ["cat"], ["cat", "dog"]]
    some, own = torch.zeros_like(words), torch.zeros_like(real)
    for row, spans in enumerate(now.tokens.spans):  # the content words by their text, moved to the front
        kept = [word for word, (start, end) in enumerate(spans) if CAPTIONS[row][start:end] in content[row]]
        assert len(kept) == len(content[row]) < len(spans)
        some[row, : len(kept)], own[row, : len(kept)] = words[row, kept], True
    patches, match = now.model.embed_patches(now.embeddings.image), recipe.match
    if objective == "matched_contrast":
        s = now.embeddings.v @ now.embeddings.t.T
        wanted = matched_contrast(patches, some, own, s, match.scale, match.negatives, match.unmatched_cost, "exact")[objective]
    else:
        rows = torch.arange(5)
        wanted = 1 - token_similarity(patches, some, own, rows, rows, match.unmatched_cost, SOLVERS["exact"])[0].mean()
    torch.testing.assert_close(recipe.loss(now)[1][objective], wanted)


def test_softening_begins_as_clip_to_the_bit_and_then_departs(tokens):
    soft = dataclasses.replace(RECIPES["clip+soft"], soft=SoftConfig(0.3, "linear"))
    loss = lambda recipe, progress: recipe.loss(moment(recipe, tokens, progress))[0]  # noqa: E731
    clip = loss(RECIPES["clip"], 0.0)
    assert torch.equal(loss(soft, 0.0), clip)
    assert [torch.equal(loss(soft, progress), clip) for progress in (0.3, 1.0)] == [False, False]
    assert torch.equal(loss(dataclasses.replace(soft, soft=SoftConfig(0.0)), 1.0), clip)


@settings(max_examples=30)
@given(st.floats(0, 10), st.floats(0, 1), st.floats(0, 1))
def test_an_objectives_weight_rises_to_its_value_and_stays(largest, start, progress):
    recipe = Recipe("mine", {"info_nce": largest}, "", {"info_nce": start})
    found = recipe.weight("info_nce", progress)
    assert 0 <= found <= largest
    assert found == (largest if progress >= start else pytest.approx(largest * progress / start))
    assert Recipe("mine", {"info_nce": largest}, "").weight("info_nce", progress) == largest


@settings(max_examples=30)
@given(st.floats(0, 10), st.floats(0, 1), st.floats(0, 8), st.floats(0, 1))
def test_a_fading_weight_falls_to_zero_by_its_power_and_a_warm_up_multiplies_it(largest, start, power, progress):
    def weight(progress, **shapes):
        return Recipe("mine", {"info_nce": largest}, "", **shapes).weight("info_nce", progress)

    rising, falling = {"warmup": {"info_nce": start}}, {"fade": {"info_nce": power}}
    assert weight(progress, **falling) == pytest.approx(largest * (1 - progress) ** power)
    assert weight(1.0, **falling) == (0 if power else largest) and weight(0.0, **falling) == largest
    assert weight(progress, **rising, **falling) == pytest.approx(weight(progress, **rising) * (1 - progress) ** power)


def test_guidance_leads_at_first_and_has_left_at_the_end(tokens):
    ping = RECIPES["clip-ping"]
    for progress, weight in ((0.0, 1.0), (0.5, 0.25), (1.0, 0.0)):
        assert [ping.weight(name, progress) for name in ("nn_contrast", "xnn_contrast")] == [weight, weight]
    last, parts = ping.loss(moment(ping, tokens, 1.0))
    torch.testing.assert_close(last, parts["info_nce"])


def test_a_weight_scales_the_gradient_of_its_part_alone(tokens):
    def gradient(recipe):
        now = moment(recipe, tokens)
        recipe.loss(now)[0].backward()
        return now.model.image_projection.weight.grad

    apart = [gradient(Recipe("one", {name: 1.0}, "")) for name in ("info_nce", "matched_contrast")]
    both = gradient(Recipe("two", {"info_nce": 0.5, "matched_contrast": 3.0}, ""))
    torch.testing.assert_close(both, 0.5 * apart[0] + 3.0 * apart[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(NEEDS_TEACHER))
def test_other_neighbours_change_the_guided_part_and_nothing_else(name, tokens):
    recipe = Recipe("mine", {"info_nce": 1.0, name: 1.0}, "")
    now = moment(recipe, tokens)
    others = dataclasses.replace(now, neighbours=NeighbourFeatures(*(x.flip(0) for x in now.neighbours)))
    (_, first), (_, second) = recipe.loss(now), recipe.loss(others)
    assert torch.equal(first["info_nce"], second["info_nce"]) and not torch.equal(first[name], second[name])


@pytest.mark.parametrize("recipe", [RECIPES["clip+mlm"], CONTROLS["clip+match-random"]], ids=["masks", "negatives"])
def test_equal_generators_give_equal_losses_and_others_draw_other_masks_and_negatives(tokens, recipe):
    recipe = dataclasses.replace(recipe, match=dataclasses.replace(recipe.match, negatives=1))
    first, again, other = (recipe.loss(moment(recipe, tokens, seed=seed))[0] for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


@pytest.mark.parametrize("name", ALL)
def test_gradients_are_finite_and_reach_all_that_learns(name, tokens):
    recipe = ALL[name]
    now = moment(recipe, tokens)
    recipe.loss(now)[0].backward()
    unused = {"clip+image-teacher": ["projections.text.weight"], "clip+text-teacher": ["projections.image.weight"]}
    learner = [*now.model.named_parameters(), *now.extra.named_parameters()]
    assert [n for n, p in learner if p.grad is None or not p.grad.isfinite().all()] == unused.get(name, [])


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_one_word_or_all_words_masked_are_no_trouble(share, tokens):
    recipe = dataclasses.replace(RECIPES["clip+mlm"], mlm=MlmConfig(share))
    assert recipe.loss(moment(recipe, tokens))[0].isfinite()


def test_the_share_of_a_recipe_is_the_share_of_words_that_are_masked(tokens):
    masked = []
    for share in (0.0, 0.5, 1.0):
        recipe = dataclasses.replace(RECIPES["clip+mlm"], mlm=MlmConfig(share))
        now = moment(recipe, tokens)
        now.extra["masked_language"].register_forward_pre_hook(lambda _, inputs: masked.append(int(inputs[-1].sum())))
        recipe.loss(now)
    assert masked[0] < masked[1] < masked[2]


@pytest.mark.parametrize(
    "change",
    [
        {"soft": SoftConfig(alpha_max=0.3)}, {"soft": SoftConfig(schedule="linear")}, {"soft": SoftConfig(temperature=1.0)},
        {"soft": SoftConfig(within_modality=True)}, {"match": MatchConfig(negatives=1)}, {"match": MatchConfig(scale=3.0)},
        {"match": MatchConfig(unmatched_cost=0.5)}, {"match": MatchConfig("max")},
        {"match": MatchConfig(negatives=1, random_negatives=True)}, {"match": MatchConfig(content_words=True)},
        {"mlm": MlmConfig(0.9)}, {"mlm": MlmConfig(layers=(1,))},
    ],
    ids=str,
)  # fmt: skip
def test_every_setting_of_an_objective_changes_its_loss(tokens, change):
    (part,) = change
    base = RECIPES[f"clip+{part}"]
    if change[part] == MatchConfig(negatives=1, random_negatives=True):
        base = dataclasses.replace(base, match=MatchConfig(negatives=1))
    changed = dataclasses.replace(base, **change)
    progress = 0.3  # where schedules differ
    assert not torch.equal(base.loss(moment(base, tokens, progress))[0], changed.loss(moment(changed, tokens, progress))[0])


@pytest.mark.parametrize("solver", SOLVERS)
def test_every_solver_serves_a_recipe(solver, tokens):
    recipe = dataclasses.replace(RECIPES["clip+match"], match=MatchConfig(solver))
    total, _ = recipe.loss(moment(recipe, tokens))
    total.backward()
    assert total.isfinite()


@pytest.mark.parametrize("name", ALL)
def test_a_batch_of_one_is_refused(name, tokens):
    recipe = ALL[name]
    with pytest.raises(LclError, match="batch of one has no negatives"):
        recipe.loss(moment(recipe, tokens, rows=1))


# --- what exists in training only


@pytest.mark.parametrize("recipe", ALL.values(), ids=ALL)
def test_only_these_objectives_add_modules_of_their_own(recipe):
    extra = recipe.make_extra(Clip(TINY), WIDTHS if recipe.needs_teacher else ())
    kinds = {"masked_language": FusedMlm, "sigmoid": Sigmoid, "queue_contrast": CaptionQueue}
    kinds = {name.removesuffix("_contrast"): kind for name, kind in kinds.items() if name in recipe.weights}
    kinds |= {"projections": Projections} if recipe.needs_teacher else {}
    assert {name: type(module) for name, module in extra.items()} == kinds


@pytest.mark.parametrize("name", ["clip+nn", "clip+xnn", "clip-ping", "a-clip-ping", "lightclip-ping"])
def test_projections_lead_from_the_teachers_widths_into_the_shared_space(name):
    made = RECIPES[name].make_extra(Clip(TINY), [9, 5])["projections"]
    assert (made.image.weight.shape, made.text.weight.shape) == ((16, 9), (16, 5))


def test_a_model_and_its_neighbours_projections_have_no_parameter_in_common(tokens):
    now = moment(RECIPES["lightclip-ping"], tokens)
    shared = {id(p) for p in now.model.parameters()} & {id(p) for p in now.extra["projections"].parameters()}
    assert not shared and not any("projections" in name for name in now.model.state_dict())


def test_the_layers_of_fusion_are_those_of_the_recipe():
    model = Clip(TINY)
    for layers, fused in (((), ["1", "2"]), ((2,), ["2"])):
        recipe = dataclasses.replace(RECIPES["clip+mlm"], mlm=MlmConfig(layers=layers))
        assert list(recipe.make_extra(model)["masked_language"].blocks) == fused
    with pytest.raises(LclError, match=r"no layer 7 to fuse after: the text tower has the layers 1 to 2"):
        dataclasses.replace(recipe, mlm=MlmConfig(layers=(1, 7))).make_extra(model)


# --- what makes no sense


@pytest.mark.parametrize(
    "make",
    [
        lambda: SoftConfig(alpha_max=-0.1), lambda: SoftConfig(alpha_max=1.1), lambda: SoftConfig(alpha_max=math.nan),
        lambda: SoftConfig(temperature=0.0), lambda: SoftConfig(temperature=math.nan),
        lambda: MatchConfig(negatives=0), lambda: MatchConfig(scale=0.0), lambda: MatchConfig(unmatched_cost=math.nan),
        lambda: PingConfig(image_size=0), lambda: PingConfig(queue=0), lambda: PingConfig(queue=-5),
        lambda: MlmConfig(share=-0.1), lambda: MlmConfig(share=1.1), lambda: MlmConfig(share=math.nan),
        lambda: Recipe("mine", {}, ""), lambda: Recipe("mine", {"info_nce": math.nan}, ""),
        lambda: Recipe("mine", {"info_nce": -1.0}, ""), lambda: Recipe("mine", {"info_nce": 1.0}, "", {"info_nce": -0.5}),
    ],
)  # fmt: skip
def test_a_number_that_cannot_work_is_refused(make):
    with pytest.raises(LclError) as refusal:
        make()
    assert str(refusal.value).endswith(".") and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("make", "near"),
    [
        (lambda: get_recipe("lightclop"), "lightclip"),
        (lambda: get_recipe("clip-pnig"), "clip-ping"),
        (lambda: Recipe("mine", {"info_nec": 1.0}, ""), "info_nce"),
        (lambda: Recipe("mine", {"xn_contrast": 1.0}, ""), "xnn_contrast"),
        (lambda: Recipe("mine", {"info_nce": 1.0}, "", {"info_nec": 0.5}), "info_nce"),
        (lambda: SoftConfig(schedule="linaer"), "linear"),
        (lambda: MatchConfig(solver="exakt"), "exact"),
    ],
)
def test_an_unknown_name_is_refused_with_the_near_one(make, near):
    with pytest.raises(LclError, match=f"did you mean .*{near}"):
        make()


def test_the_chance_level_is_that_of_uniform_predictions():
    recipe = dataclasses.replace(get_recipe("lightclip-ping"), match=MatchConfig(negatives=4))
    guesses = recipe.chance_losses(batch_size=128, vocab_size=2048)
    assert list(guesses) == list(recipe.weights)
    assert {name: round(math.exp(value)) for name, value in guesses.items()} == {
        "soft_info_nce": 128, "matched_contrast": 5, "masked_language": 2048, "nn_contrast": 128, "xnn_contrast": 128,
    }  # fmt: skip
    uniform = torch.full((5, 5), 1 / 5)  # whatever the pair, its probability is one in five
    right = torch.eye(5).bool()
    sigmoid = -torch.where(right, uniform, 1 - uniform).log().sum(1).mean().item()
    assert get_recipe("siglip").chance_losses(5, 2048)["sigmoid"] == pytest.approx(sigmoid)
    assert recipe.chance_losses(3, 2048)["matched_contrast"] == math.log(3)  # a batch of three has no more than two negatives
