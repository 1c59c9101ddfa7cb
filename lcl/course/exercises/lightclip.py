"""The exercises of chapter 7: LightCLIP's loss, and whether a gain is more than luck."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lcl.config import require
from lcl.course.checks import check, check_function
from lcl.losses.contrastive import info_nce, soft_info_nce
from lcl.train.objectives import StepContext
from lcl.train.recipes import Recipe, get_recipe

Loss = Callable[[Mapping[str, torch.Tensor], float], torch.Tensor]
STUDENT = {2: 4.303, 3: 3.182, 4: 2.776, 5: 2.571}
"""Student's t at 97.5 %, by degrees of freedom."""


def warmed(function: Any) -> str:
    """The weight of the matching, from the progress and the share of the training that its warm-up takes."""
    cases = [(progress, 0.5) for progress in (0.0, 0.2, 0.5, 0.8, 1.0)]
    return check_function(function, cases, lambda progress, warmup: min(1.0, progress / warmup), {
        "it goes on growing after the warm-up; it should stay at 1.": lambda progress, warmup: progress / warmup,
        "it reaches 1 only at the end of the training; the warm-up ends earlier.": lambda progress, warmup: progress,
        "that is a switch; it should grow.": lambda progress, warmup: float(progress >= warmup),
    })  # fmt: skip


def total(parts: Mapping[str, torch.Tensor], progress: float) -> torch.Tensor:
    """The solution of the exercise: the loss of the recipe `lightclip` from its parts.

    Args:
        parts: scalars: "own", the InfoNCE of the true labels; "shared", the same loss if the negatives share the whole label;
            "match"; "mlm".
        progress: share of the training that is done, 0 to 1.

    Returns:
        Scalar.
    """
    return _weighted(parts, _alpha(progress), min(1.0, progress / 0.5))


def _alpha(progress: float) -> float:
    return 0.1 * (1 - math.cos(math.pi * progress)) / 2


def _weighted(parts, alpha, match, mlm=0.5):
    return (1 - alpha) * parts["own"] + alpha * parts["shared"] + match * parts["match"] + mlm * parts["mlm"]


def three_terms(function: Any) -> str:
    """Build: the loss of LightCLIP from its parts and the progress; see `total`."""
    parts = {name: torch.tensor(value) for name, value in (("own", 2.3), ("shared", 4.1), ("match", 1.7), ("mlm", 5.2))}

    def rise(progress: float) -> float:
        return min(1.0, progress / 0.5)

    return check_function(function, [(parts, progress) for progress in (0.0, 0.2, 0.5, 0.8, 1.0)], total, {
        "the weight of the matching goes on growing after the warm-up; it should stay at 1.":
            lambda parts, p: _weighted(parts, _alpha(p), p / 0.5),
        "the weight of the matching reaches 1 only at the end of the training; the warm-up ends earlier.":
            lambda parts, p: _weighted(parts, _alpha(p), p),
        "the weight of the matching is a switch; it should grow.": lambda parts, p: _weighted(parts, _alpha(p), float(p >= 0.5)),
        "the weight of the matching is 1 from the start; it should grow during the warm-up.":
            lambda parts, p: _weighted(parts, _alpha(p), 1.0),
        "α rises to 1, so that no true label would be left at the end; it rises to 0.1.":
            lambda parts, p: _weighted(parts, 10 * _alpha(p), rise(p)),
        "α is 0.1 from the start; it should rise from 0 along half a cosine.": lambda parts, p: _weighted(parts, 0.1, rise(p)),
        "α rises along a straight line; it should rise along half a cosine.": lambda parts, p: _weighted(parts, 0.1 * p, rise(p)),
        "the true labels keep 1 - α: the shares of a label add up to one.":
            lambda parts, p: total(parts, p) + _alpha(p) * parts["own"],
        "the masked words have the weight 0.5.": lambda parts, p: _weighted(parts, _alpha(p), rise(p), mlm=1.0),
    })  # fmt: skip


def parts_of(recipe: Recipe, context: StepContext, found: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The parts that `total` weighs, from a step and its objectives' values."""
    v, t, logit_scale, *_ = context.embeddings
    shared = soft_info_nce(v, t, logit_scale, 1.0, recipe.soft.temperature)["soft_info_nce"]
    own = info_nce(v, t, logit_scale)["info_nce"]
    return {"own": own, "shared": shared, "match": found["matched_contrast"], "mlm": found["masked_language"]}


def recipe_with(loss: Loss) -> Recipe:
    """The recipe `lightclip`, whose objectives a function like `total` weighs instead of the recipe's own weights."""

    class Weighed(Recipe):
        def loss(
            self, context: StepContext, names: Sequence[str] | None = None
        ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
            require(names is None, "a loss of your own needs all its parts at once; train without micro-batches, in one process.")
            _, found = super().loss(context)
            return loss(parts_of(self, context, found), context.progress), found

    recipe = get_recipe("lightclip")
    return Weighed(**{field.name: getattr(recipe, field.name) for field in dataclasses.fields(recipe)})


def paired_t(answer: Any, a: torch.Tensor, b: torch.Tensor) -> str:
    """What is the mean of the paired differences b - a, divided by its standard error? a, b: (n,), by seed."""
    difference, root = b - a, len(a) ** 0.5
    t = (difference.mean() / (difference.std() / root)).item()
    return check(answer, t, {
        "that compares two groups; the seeds are pairs, so take the difference seed by seed first.":
            ((b.mean() - a.mean()) / (a.var() / len(a) + b.var() / len(b)) ** 0.5).item(),
        "divide the standard deviation by the square root of the number of seeds.": t / root,
        "take the difference seed by seed, lightclip minus clip.": -t,
    }, tolerance=1e-3)  # fmt: skip


def t_interval(difference: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The solution of the exercise: the 95 % interval of the mean of paired differences, (n,) → its two ends."""
    return _ends(difference)


def _ends(difference, freedom=-1, root=True, unbiased=True, quantile=None, sides=(-1, 1)):
    """`t_interval`, or one of its typical mistakes, each by an option."""
    n = len(difference)
    quantile = STUDENT[n + freedom] if quantile is None else quantile
    room = quantile * difference.std(unbiased=unbiased) / (n**0.5 if root else 1.0)
    return tuple(difference.mean() + side * room for side in sides)


def interval(function: Any) -> str:
    """The 95 % interval of a gain, from three or five paired differences; see `t_interval`."""
    cases = [(torch.tensor(each),) for each in ([7.1, 9.4, 6.2], [6.8, 8.4, 9.0, 5.1, 7.7], [-1.0, 3.0, 0.4])]
    return check_function(function, cases, t_interval, {
        "1.96 belongs to the normal distribution, which needs many seeds; take Student's t.":
            lambda difference: _ends(difference, quantile=1.96),
        "n seeds have n - 1 degrees of freedom.": lambda difference: _ends(difference, freedom=0),
        "divide the standard deviation by √n: the interval is that of the mean.":
            lambda difference: _ends(difference, root=False),
        "the standard deviation divides by n - 1, not by n.": lambda difference: _ends(difference, unbiased=False),
        "the lower end comes first.": lambda difference: _ends(difference, sides=(1, -1)),
        "the interval lies around the mean of the differences; add it.":
            lambda difference: tuple(end - difference.mean() for end in _ends(difference)),
    }, tolerance=1e-3)  # fmt: skip


def deepest(answer: Any, means: Mapping[int, float], points: float = 25.0) -> str:
    """Which is the largest depth whose mean lies within `points` of the best? means: by depth, in percent."""
    return check(answer, max(depth for depth in means if means[depth] >= max(means.values()) - points), {
        "that is the best; how much deeper may it be?": max(means, key=means.__getitem__),
        "that is the deepest; how many points has it lost?": max(means),
    })  # fmt: skip
