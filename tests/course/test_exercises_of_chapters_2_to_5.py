"""Exercises in `lcl.course.exercises`: what all builds share; of chapters 2 to 5, the solutions and lcl's functions are right."""

import ast
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F

from lcl.config import LanguageConfig, LclError, ModelConfig, VisionConfig
from lcl.course import exercises
from lcl.course.checks import OPEN, RIGHT, WRONG
from lcl.course.exercises import contrastive, encoders, matching, soft_labels
from lcl.losses.contrastive import ramp
from lcl.losses.matching import SOLVERS, matched_contrast, sinkhorn, token_similarity
from lcl.models.clip import Clip
from lcl.models.vision import ViT
from lcl.train.objectives import OBJECTIVES, StepContext
from lcl.train.recipes import get_recipe


def mine(x):
    return 2 * x


def ours(x):
    return x + x


@pytest.mark.parametrize(("verdict", "chosen"), [(RIGHT, mine), (OPEN, ours), (WRONG + "doubled?", ours)])
def test_the_next_cells_use_a_learners_function_only_if_it_is_right(verdict, chosen, capsys):
    assert exercises.yours_or_ours(mine, verdict, ours) is chosen
    told = capsys.readouterr().out
    assert told == (
        "The next cells use your function.\n" if chosen is mine else "The next cells use lcl's function until yours is right.\n"
    )


def test_a_recipe_trains_with_the_objective_that_was_given(monkeypatch, capsys):
    monkeypatch.setitem(OBJECTIVES, "info_nce", OBJECTIVES["info_nce"])  # and put back afterwards
    seen = []

    def objective(recipe, context):
        seen.append((recipe.name, context))
        return {"info_nce": torch.tensor(3.0)}

    exercises.train_with("info_nce", objective)
    assert "'info_nce'" in capsys.readouterr().out
    total, parts = get_recipe("clip").loss(Context())
    assert (total.item(), parts["info_nce"].item(), len(seen)) == (3.0, 3.0, 1)
    with pytest.raises(LclError, match="info_nse"):
        exercises.train_with("info_nse", objective)


class Context:
    """All that a recipe asks of a step before its objectives do."""

    progress = 0.5


def test_lcls_patches_are_those_of_the_loops_and_fold_back():
    images = torch.randint(0, 256, (2, 3, 8, 12), dtype=torch.uint8)
    cut = encoders.cut_patches(images.float(), 4)
    for number, (row, column) in enumerate((row, column) for row in (0, 4) for column in (0, 4, 8)):
        assert torch.equal(cut[:, number], images[:, :, row : row + 4, column : column + 4].flatten(1).float())
    assert torch.equal(encoders.put_together(encoders.cut_patches, images, 4), images)


def test_patches_in_a_wrong_order_show_as_a_scrambled_picture_and_no_patches_as_grey():
    images = torch.arange(3 * 8 * 8, dtype=torch.uint8).view(1, 3, 8, 8)
    scrambled = encoders.put_together(lambda images, p: images.reshape(1, 4, 48), images, 4)
    assert not torch.equal(scrambled, images) and torch.equal(scrambled.flatten().sort().values, images.flatten())
    for odd in (lambda images, p: ..., lambda images, p: None, lambda images, p: 1 / 0, lambda images, p: images, 7):
        assert torch.equal(encoders.put_together(odd, images, 4), torch.full_like(images, 128))


def test_lcls_block_in_the_exercise_ignores_padding():
    torch.manual_seed(0)
    b, mask = encoders.Block(12, 3), torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    x = torch.randn(2, 5, 12)
    found = encoders.lcl_block(x, b, mask)
    torch.testing.assert_close(found[1:, :3], b(x[1:, :3]))
    assert found[1, 3:].abs().max() == 0
    assert encoders.block(encoders._block()) == RIGHT  # from scratch, without a mistake


def test_info_nce_of_the_exercise_is_lcls_and_a_mistake_hears_its_reason():
    assert contrastive.info_nce(contrastive.lcl_info_nce) == RIGHT

    def one_way(v, t, logit_scale):
        return F.cross_entropy(logit_scale * v @ t.T, torch.arange(len(v)))

    assert "image to text only" in contrastive.info_nce(one_way)
    assert contrastive.info_nce(lambda v, t, scale: ...) == OPEN


def test_labels_that_let_gradients_pass_are_not_right():
    assert soft_labels.targets(soft_labels.soft_targets) == RIGHT
    with_gradient = soft_labels.targets(
        lambda s, alpha, T: (1 - alpha) * torch.eye(len(s))
        + alpha * (s / T).masked_fill(torch.eye(len(s)).bool(), -torch.inf).softmax(1)
    )
    assert "detach" in with_gradient
    said = " ".join(soft_labels.targets(lambda s, alpha, T: s.softmax(1)).split())
    assert "values differ" in said  # not "of 2 values"


class Watched:
    """Takes the place of `check` and `check_function`: keeps what they were asked with, and says what they say."""

    def __init__(self, checker):
        self.checker, self.asked = checker, []

    def __call__(self, answer, right, *rest, **options):
        self.asked.append((right, rest, options))
        return self.checker(answer, right, *rest, **options)


def drawn(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(3))


def tower():
    """A small ViT whose positions matter."""
    torch.manual_seed(0)
    vit = ViT(image_size=32, patch_size=8, width=12, depth=1, heads=2)
    torch.nn.init.normal_(vit.positions)
    return vit


PLAN = F.one_hot(torch.tensor([3, 1, 7]), 16).float()
BOXES = [((48, 0, 64, 16),), (), ((0, 20, 20, 64), (60, 0, 64, 10))]
EXERCISES = [
    *[(encoders, name) for name in ("patches", "attention_weights", "block", "masked_mean")],
    (encoders, "largest", tower(), drawn(4, 16, 192)), (encoders, "parameters", encoders.Block(24, 3)),
    *[(contrastive, name) for name in ("info_nce", "floor", "classify")], (contrastive, "recall", drawn(40, 40)),
    *[(soft_labels, name) for name in ("targets", "row", "alpha_at")],
    (soft_labels, "entropy", soft_labels.soft_targets(drawn(5, 5), 0.3, 0.5)),
    *[(matching, name) for name in ("sinkhorn_update", "total", "contrast")],
    (matching, "nearest", drawn(3, 4)), (matching, "alignment", PLAN, BOXES, 64),
]  # fmt: skip


@pytest.mark.parametrize(("module", "name", "rest"), [(m, n, r) for m, n, *r in EXERCISES], ids=lambda value: str(value)[:20])
def test_the_right_answer_is_right_and_every_mistake_hears_its_reason(module, name, rest, monkeypatch):
    """On other values than the notebook's, where an exercise takes some."""
    watched = {each: Watched(getattr(module, each)) for each in ("check", "check_function")}
    for each in watched.items():
        monkeypatch.setattr(module, *each)
    exercise = getattr(module, name)
    assert exercise(..., *rest) == OPEN
    is_function = bool(watched["check_function"].asked)
    ((right, others, _),) = watched["check_function" if is_function else "check"].asked
    right, mistakes = (others[0], others[1]) if is_function else (right, others[0])
    assert exercise(right, *rest) == RIGHT and len(mistakes) >= 2
    said = {hint: " ".join(exercise(wrong, *rest).split()) for hint, wrong in mistakes.items()}
    assert said == {hint: WRONG + hint for hint in mistakes}
    assert exercise(lambda *case: ..., *rest).startswith((OPEN, WRONG)) and exercise("text", *rest).startswith(WRONG)


def test_every_exercise_of_these_chapters_is_proved():
    helpers = {"put_together", "cut_patches", "lcl_block", "lcl_info_nce", "sinkhorn_round", "lcl_contrast"}
    for module in (encoders, contrastive, soft_labels, matching):
        own = {name for name, one in vars(module).items() if getattr(one, "__module__", "") == module.__name__}
        own = {name for name in own if not name.startswith("_")} - helpers
        assert own == {name for of, name, *_ in EXERCISES if of is module}


def test_rounds_of_sinkhorn_come_to_lcls_plan():
    cost = torch.rand(5, 9, generator=torch.Generator().manual_seed(0))
    real = torch.ones(1, 5, dtype=torch.bool)
    for unmatched_cost in (float("inf"), 0.15):
        dual_price = torch.zeros(9)
        for _ in range(3000):
            plan, dual_price = matching.sinkhorn_round(cost, dual_price, unmatched_cost, 0.01)
        spread = (cost.max() - cost.min()).item()
        theirs = sinkhorn(cost[None], real, unmatched_cost, epsilon=0.01 / spread, rounds=6000).plan[0]
        torch.testing.assert_close(plan, theirs, rtol=0, atol=5e-3)
        assert plan.sum(0).max() < 1.01


def test_the_contrast_of_the_exercise_is_lcls():
    draw = torch.Generator().manual_seed(0)
    patches, words = (F.normalize(torch.randn(8, n, 6, generator=draw), dim=2) for n in (9, 4))
    real = torch.arange(4) < torch.randint(1, 5, (8, 1), generator=draw)
    s = torch.randn(8, 8, generator=draw)
    captions = torch.tensor([0, 1, 2, 3, 4, 5, 6, 0])
    same = captions[:, None] == captions

    def similarity(images, captions):
        return token_similarity(patches, words, real, images, captions, 1.0, SOLVERS["exact"])[0]

    for k in (1, 3, 7):  # of 7 others, one has the same caption
        theirs = matched_contrast(patches, words, real, s, 10.0, k, 1.0, "exact", same)["matched_contrast"]
        torch.testing.assert_close(matching.lcl_contrast(similarity, s, same, k, 10.0), theirs)
    assert matching.contrast(matching.lcl_contrast) == RIGHT


CHAPTERS = [  # its recipe, the objective that it replaces, and what its adapter uses
    ("03_contrastive", "clip", "info_nce", {"contrast": contrastive.lcl_info_nce}),
    ("04_soft_labels", "clip+soft", "soft_info_nce", {"labels": soft_labels.soft_targets, "ramp": ramp, "F": F}),
    ("05_bipartite_matching", "clip+match", "matched_contrast",
     {"contrast": matching.lcl_contrast, "token_similarity": token_similarity, "SOLVERS": SOLVERS}),
]  # fmt: skip


@pytest.mark.parametrize(("stem", "recipe", "name", "uses"), CHAPTERS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_objective_in_a_chapter_gives_what_lcls_gives(stem, recipe, name, uses, small_world, tokenizer):
    """With lcl's function in the place of the learner's, in value and gradient; two captions of the batch are equal."""
    path = Path(__file__).resolve().parents[2] / "notebooks" / f"{stem}.ipynb"
    cells = [cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]
    assert sum(f'train_with("{name}", objective)' in source for source in cells) == 1
    nodes = [node for source in cells for node in ast.parse(source.replace("%matplotlib inline", "")).body]
    wanted = [node for node in nodes if getattr(node, "name", "") in ("objective", "my_soft_info_nce")]
    scope = {"torch": torch, **uses}
    exec(compile(ast.Module(wanted, []), stem, "exec"), scope)

    pairs = small_world.pairs("train", range(12))
    tokens = tokenizer.encode([pairs.captions[0], *pairs.captions[:11]], 32)
    torch.manual_seed(0)
    language = LanguageConfig(vocab_size=tokenizer.vocab_size, width=32, depth=1, heads=2)
    model, recipe = Clip(ModelConfig(VisionConfig(width=32, depth=1), language, 32)), get_recipe(recipe)
    found = []
    for objective in (scope["objective"], OBJECTIVES[name]):
        torch.manual_seed(0)
        context = StepContext(model, torch.nn.ModuleDict(), model(pairs.images, tokens), tokens, 0.7, torch.Generator())
        loss = objective(recipe, context)[name]
        model.zero_grad()
        loss.backward()
        found.append([loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)])
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=2e-6)
    assert len(found[0]) > 10
