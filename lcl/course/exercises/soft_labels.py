"""Exercises of chapter 4: softened labels, their schedule and their entropy."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F

from lcl.course.checks import check, check_function
from lcl.losses.contrastive import soft_targets


def _labels(s: torch.Tensor, alpha: float, T: float, own: bool = False, along: int = 1, whole: float = 1.0) -> torch.Tensor:
    """Labels from scratch, with one of the typical mistakes where an argument is not the default."""
    eye = torch.eye(len(s))
    scores = s.detach() / T
    shares = (scores if own else scores.masked_fill(eye.bool(), -torch.inf)).softmax(along)
    return whole * (1 - alpha) * eye + alpha * shares


def targets(mine: Callable) -> str:
    """Check `my_soft_targets(s, alpha, T)`: (B, B), 0 to 1, more than 0 → (B, B) without gradient."""
    draw = torch.Generator().manual_seed(0)
    cosines = [F.normalize(torch.randn(B, 8, generator=draw), dim=1) for B in (4, 4, 7, 7)]
    cases = [
        ((cosines[0] @ cosines[1].T).requires_grad_(), 0.3, 0.1),
        ((cosines[2] @ cosines[3].T).requires_grad_(), 0.1, 0.5),
    ]

    def with_gradient(s: torch.Tensor, alpha: float, T: float) -> torch.Tensor:
        own = torch.eye(len(s))
        return (1 - alpha) * own + alpha * (s / T).masked_fill(own.bool(), -torch.inf).softmax(1)

    def unshared(s: torch.Tensor, alpha: float, T: float) -> torch.Tensor:
        return _labels(s, 1.0, T) + (1 - alpha) * torch.eye(len(s))

    def smoothed(s: torch.Tensor, alpha: float, T: float) -> torch.Tensor:
        return _labels(torch.zeros_like(s), alpha, T)

    return check_function(mine, cases, soft_targets, {
        "the labels are right, but gradients pass through them: use `s.detach()`.": with_gradient,
        "the own pair takes part in the softmax: set the diagonal to minus infinity before it.":
            lambda s, alpha, T: _labels(s, alpha, T, own=True),
        "those are the negatives' shares without the own pair, which keeps 1 - α.":
            lambda s, alpha, T: _labels(s, alpha, T, whole=0.0),
        "the negatives' shares should add up to α, not to 1.": unshared,
        "divide the cosines by T before the softmax.": lambda s, alpha, T: _labels(s, alpha, 1.0),
        "divide the cosines by T; that multiplies by it.": lambda s, alpha, T: _labels(s, alpha, 1 / T),
        "the softmax runs along the captions of an image: every row adds up to one.":
            lambda s, alpha, T: _labels(s, alpha, T, along=0),
        "all negatives get the same share, which is label smoothing; similar ones should get more.": smoothed,
    }, seen=lambda y: (y, bool(y.requires_grad)))  # fmt: skip


def row(answer: Any) -> str:
    """Check a row of labels for the cosines 0.9 (own), 0.5 and 0.4, α = 0.2 and T = 0.1."""
    negatives = torch.tensor([0.5, 0.4])
    shares = negatives.div(0.1).softmax(0)
    own = torch.tensor([0.8])
    return check(answer, torch.cat([own, 0.2 * shares]), {
        "the right caption keeps 1 - α whatever its cosine; only the negatives divide α among themselves.":
            torch.tensor([0.9, 0.5, 0.4]).div(0.1).softmax(0),
        "the negatives' shares should add up to α, not to 1.": torch.cat([own, shares]),
        "divide by T before the exponential.": torch.cat([own, 0.2 * negatives.softmax(0)]),
    }, 2e-3)  # fmt: skip


def alpha_at(mine: Callable) -> str:
    """Check `alpha_at(progress, alpha_max)`, half a cosine."""
    cases = [(progress, 0.1) for progress in (0.0, 0.25, 0.5, 1.0)]
    return check_function(mine, cases, lambda p, a: a * (1 - math.cos(math.pi * p)) / 2, {
        "that is a straight line; it has the right ends, but no flat ones.": lambda p, a: a * p,
        "that falls; labels are softened more and more.": lambda p, a: a * (1 + math.cos(math.pi * p)) / 2,
        "that is a quarter of a sine; it begins steeply. Half a cosine is flat at both ends.":
            lambda p, a: a * math.sin(math.pi * p / 2),
        "that is a quarter of a wave; half a wave is flat at both ends.": lambda p, a: a * (1 - math.cos(math.pi * p / 2)),
    })  # fmt: skip


def entropy(answer: Any, y: torch.Tensor) -> str:
    """Check the mean entropy of the rows of labels y (B, B)."""
    each = -torch.xlogy(y, y)  # (B, B)
    return check(answer, each.sum(1).mean(), {
        "that is the sum over all rows; take their mean.": each.sum(),
        "that is the mean over all entries; sum each row first.": each.mean(),
        "entropy has a minus sign.": -each.sum(1).mean(),
        "that is in bits; use the natural logarithm.": each.sum(1).mean() / math.log(2),
    })  # fmt: skip
