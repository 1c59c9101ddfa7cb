"""Exercises of chapter 3: InfoNCE, zero-shot classification, recall."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lcl.course.checks import check, check_function
from lcl.losses.contrastive import info_nce as both_directions


def lcl_info_nce(v: torch.Tensor, t: torch.Tensor, logit_scale: torch.Tensor) -> torch.Tensor:
    """lcl's InfoNCE as a scalar: see `lcl.losses.contrastive.info_nce`."""
    return both_directions(v, t, logit_scale)["info_nce"]


def _unit(rows: int, draw: torch.Generator, dims: int = 8) -> torch.Tensor:
    return F.normalize(torch.randn(rows, dims, generator=draw), dim=1)


def info_nce(mine: Callable) -> str:
    """Check `my_info_nce(v, t, logit_scale)`: (B, d), (B, d), scalar → scalar."""
    draw = torch.Generator().manual_seed(0)
    cases = [(_unit(B, draw), _unit(B, draw), torch.tensor(scale)) for B, scale in ((6, 10.0), (9, 3.0))]

    def one_way(s: torch.Tensor, **options) -> torch.Tensor:
        return F.cross_entropy(s, torch.arange(len(s)), **options)

    def both(s: torch.Tensor, **options) -> torch.Tensor:
        return (one_way(s, **options) + one_way(s.T, **options)) / 2

    return check_function(mine, cases, lcl_info_nce, {
        "that is image to text only; the columns ask for the image of every caption.":
            lambda v, t, scale: one_way(scale * v @ t.T),
        "that is text to image only; the rows ask for the caption of every image.": lambda v, t, scale: one_way(scale * t @ v.T),
        "multiply the cosines by logit_scale; without it the softmax cannot become sharp.": lambda v, t, scale: both(v @ t.T),
        "logit_scale multiplies the cosines; it is the temperature that divides them.": lambda v, t, scale: both(v @ t.T / scale),
        "the sign: a loss is minus the logarithm.": lambda v, t, scale: -both(scale * v @ t.T),
        "that is the sum of both directions; take their mean.": lambda v, t, scale: 2 * both(scale * v @ t.T),
        "that is the sum over all queries; take their mean.": lambda v, t, scale: both(scale * v @ t.T, reduction="sum"),
        "`F.cross_entropy` takes logits and applies the softmax itself; do not apply it before.":
            lambda v, t, scale: (one_way((scale * v @ t.T).softmax(1)) + one_way((scale * t @ v.T).softmax(1))) / 2,
        "that compares images with images; compare them with captions.": lambda v, t, scale: both(scale * v @ v.T),
    })  # fmt: skip


def floor(answer: Any) -> str:
    """Check the loss of a nearly perfect model: cosines 1 and 0, logit_scale 10, a batch of 256."""
    return check(answer, -math.log(math.exp(10) / (math.exp(10) + 255)), {
        "that is with 256 wrong captions; there are 255, and the right one.": -math.log(math.exp(10) / (math.exp(10) + 256)),
        "that is the chance level, ln 256; use the given cosines.": math.log(256),
        "the sign: a loss is minus the logarithm.": math.log(math.exp(10) / (math.exp(10) + 255)),
    }, 1e-6)  # fmt: skip


def classify(mine: Callable) -> str:
    """Check `classify(v, classes)`: (N, d), (C, d) → (N,), the nearest class of every picture."""
    draw = torch.Generator().manual_seed(0)
    return check_function(mine, [(_unit(6, draw), _unit(4, draw))], lambda v, classes: (v @ classes.T).argmax(1), {
        "that is the best picture for every class; take the best class for every picture.":
            lambda v, classes: (v @ classes.T).argmax(0),
        "that is the worst class; a large cosine is a good one.": lambda v, classes: (v @ classes.T).argmin(1),
        "those are the cosines; the number of the class is asked for.": lambda v, classes: (v @ classes.T).max(1).values,
        "those are all cosines; which class has the largest, for every picture?": lambda v, classes: v @ classes.T,
    })  # fmt: skip


def recall(answer: Any, similarity: torch.Tensor) -> str:
    """Check image-to-text recall@5 of `similarity` (N, N), where caption i is the only right one of image i."""

    def found(s: torch.Tensor, k: int) -> float:
        return (s.topk(k, dim=1).indices == torch.arange(len(s))[:, None]).any(dim=1).float().mean().item()

    similarity = similarity.cpu()
    right = found(similarity, 5)
    return check(answer, right, {
        "that is text-to-image: rank the captions of an image, along a row.": found(similarity.T, 5),
        "that is recall@1; take the five best.": found(similarity, 1),
        "that is in percent; give a number from 0 to 1.": 100 * right,
    }, 2e-3)  # fmt: skip
