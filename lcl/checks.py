"""Exercises that check themselves: an open one says so, a wrong answer hears its likely mistake, nothing raises."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

RIGHT, OPEN, WRONG = "Right.", "Not answered yet: replace the ... above and run the cell again.", "Not yet: "


def check(answer: Any, right: Any, mistakes: Mapping[str, Any] | None = None, tolerance: float = 1e-4) -> str:
    """Compare an answer (a number, a tensor, a string, …) with the right one; returns the sentence to show.

    mistakes: for typical wrong results, by the sentence that tells the likely cause.
    """
    if answer is None or answer is ...:
        return OPEN
    if _equal(answer, right, tolerance):
        return RIGHT
    for hint, wrong in (mistakes or {}).items():
        if _equal(answer, wrong, tolerance):
            return WRONG + hint
    if isinstance(right, torch.Tensor):
        if not isinstance(answer, torch.Tensor):
            return WRONG + f"the answer should be a tensor of shape {tuple(right.shape)}, not {type(answer).__name__}."
        if answer.shape != right.shape:
            return WRONG + f"the shape should be {tuple(right.shape)}, not {tuple(answer.shape)}."
        if not torch.isfinite(answer.double()).all():
            return WRONG + "some values are not finite numbers."
        furthest = (answer.double() - right.double()).abs().max().item()
        return WRONG + f"the shape is right, but the values differ by up to {furthest:.3g}."
    return WRONG + f"the result is {answer!r}, which is not what was asked for."


def _equal(answer: Any, right: Any, tolerance: float) -> bool:
    try:
        if isinstance(right, (int, float, torch.Tensor)) and not isinstance(answer, str):
            answer, right = torch.as_tensor(answer).double(), torch.as_tensor(right).double()
            return answer.shape == right.shape and torch.allclose(answer, right, rtol=tolerance, atol=tolerance)
        return bool(answer == right)
    except (TypeError, ValueError, RuntimeError):
        return False
