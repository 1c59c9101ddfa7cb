"""The exercises of chapter 9: the features of neighbours as targets."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lcl.course.checks import check, check_function
from lcl.losses.neighbours import NeighbourFeatures
from lcl.train.objectives import Objective, StepContext
from lcl.train.recipes import Recipe

Terms = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def nn_and_xnn(
    v: torch.Tensor, t: torch.Tensor, near: NeighbourFeatures, logit_scale: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The solution of the exercise: both terms of CLIP-PING.

    Args:
        v, t: embeddings, (B, d), L2-normalised.
        near: the neighbours' projected features, (B, d) each, L2-normalised.
        logit_scale: scalar.

    Returns:
        NN and XNN, scalars.
    """
    return _mean(v, near.u_a, t, near.z_b, logit_scale), _mean(v, near.z_a, t, near.u_b, logit_scale)


def _contrast(x, y, scale, both=True):
    s, own = scale * x @ y.T, torch.arange(len(x), device=x.device)  # (B, B), (B,)
    there = F.cross_entropy(s, own)
    return (there + F.cross_entropy(s.T, own)) / 2 if both else there


def _mean(v, of_images, t, of_captions, scale, **options):
    return (_contrast(v, of_images, scale, **options) + _contrast(t, of_captions, scale, **options)) / 2


def neighbour_terms(function: Any) -> str:
    """Build: NN and XNN from the features of neighbours; see `nn_and_xnn`."""

    def turned(v, t, near, scale):
        return nn_and_xnn(v, t, near, scale)[::-1]

    def other(v, t, near, scale):
        return nn_and_xnn(v, t, near._replace(z_a=near.z_b, u_b=near.u_a), scale)

    def one_way(v, t, near, scale):
        return (_mean(v, near.u_a, t, near.z_b, scale, both=False), _mean(v, near.z_a, t, near.u_b, scale, both=False))

    def summed(v, t, near, scale):
        return tuple(2 * term for term in nn_and_xnn(v, t, near, scale))

    def images_only(v, t, near, scale):
        return _contrast(v, near.u_a, scale), _contrast(v, near.z_a, scale)

    def swapped(v, t, near, scale):
        return nn_and_xnn(t, v, near, scale)

    return check_function(function, [_neighbours(6, 4, 7.0, 0), _neighbours(5, 8, 3.0, 1)], nn_and_xnn, {
        "these are XNN and NN; return NN first. NN stays within a modality.": turned,
        "that is DeCLIP's pairing: our XNN of an image is the caption of its nearest image, z_a, not its nearest caption.": other,
        "contrast both ways, as in chapter 3: the rows of the similarities, and the columns.": one_way,
        "take the mean of the images' and the captions' contrasts, not their sum.": summed,
        "the captions' contrasts are missing: t has neighbours, too.": images_only,
        "multiply the cosines by logit_scale.": lambda v, t, near, scale: nn_and_xnn(v, t, near, torch.tensor(1.0)),
        "you contrast captions with the neighbours of images, and images with those of captions.": swapped,
    })  # fmt: skip


def _neighbours(number: int, width: int, scale: float, seed: int) -> tuple:
    """Arguments of `nn_and_xnn`, random."""
    random = torch.Generator().manual_seed(seed)
    v, t, *near = F.normalize(torch.randn(6, number, width, generator=random), dim=-1)
    return v, t, NeighbourFeatures(*near), torch.tensor(scale)


def taught_by(terms: Terms) -> dict[str, Objective]:
    """The objectives "nn_contrast" and "xnn_contrast" by a function like `nn_and_xnn`; see `lcl.train.objectives`."""

    def objective(name: str, place: int) -> Objective:
        def one(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
            v, t, logit_scale, *_ = context.embeddings
            return {name: terms(v, t, context.neighbours, logit_scale)[place]}

        return one

    return {name: objective(name, place) for place, name in enumerate(("nn_contrast", "xnn_contrast"))}


def target_row(answer: Any, indices: torch.Tensor, a: torch.Tensor, b: torch.Tensor) -> str:
    """Which row of the data set is the XNN of the first caption? indices, a, b: (B,), rows, nearest images and captions."""
    return check(answer, int(b[0]), {
        "that is the nearest image; start from the caption.": int(a[0]),
        "that is the pair itself; its neighbour is asked for.": int(indices[0]),
        "that is a row of the batch; the bank counts all pairs.": 0,
    })  # fmt: skip


def fading(function: Any) -> str:
    """The weight of the neighbours, (1 - p)², from the finished share p of the training."""
    return check_function(function, [(p,) for p in (0.0, 0.3, 0.5, 1.0)], lambda p: (1 - p) ** 2, {
        "that is a straight line; squared, it falls faster at first.": lambda p: 1 - p,
        "that grows; neighbours lead at first, and leave.": lambda p: p**2,
        "that falls slowly at first: square what is left, not what is done.": lambda p: 1 - p**2,
    })  # fmt: skip


def different(answer: Any, a: torch.Tensor, b: torch.Tensor) -> str:
    """For which share of the rows are the nearest image and the nearest caption different scenes? a, b: (B,)."""
    return check(answer, (a != b).float().mean().item(), {
        "that is the share where they are the same.": (a == b).float().mean().item(),
        "that is the number of rows; divide by the batch's size.": (a != b).sum().item(),
    })  # fmt: skip
