"""Exercises that check themselves: a reminder if unanswered, a hint at the likely mistake if wrong; they never raise."""

import copy
import dis
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from lcl.lines import short_lines

RIGHT, WRONG = "Right.", "Not yet: "
OPEN = (
    "Not answered yet: replace the ... in the cell above, run that cell, and then this one.\n"
    "(If that cell stopped with an error, read the error first.)"
)
STOPPED = (
    "The cell that ran last stopped with an error, so this check would judge an old value.\n"
    "Fix that cell, then run both."
)


def in_short_lines(judge: Callable[..., str]) -> Callable[..., str]:
    """The same function, with the lines of what it says broken between words."""

    @functools.wraps(judge)
    def judged(*arguments: Any, **options: Any) -> str:
        return short_lines(judge(*arguments, **options))

    return judged


@in_short_lines
def check(answer: Any, right: Any, mistakes: Mapping[str, Any] | None = None, tolerance: float = 1e-4) -> str:
    """Compare an answer (a number, a tensor, a tuple of tensors, a string, …; `...` if there is none) with the right one.

    Args:
        mistakes: {a hint at the likely mistake: the wrong answer that it leads to}.
        tolerance: absolute and relative.

    Returns:
        The sentence to show.
    """
    if _last_cell_failed():
        return STOPPED
    if answer is ...:
        return OPEN
    if _equal(answer, right, tolerance):
        return RIGHT
    for hint, wrong in (mistakes or {}).items():
        if _equal(answer, wrong, tolerance):
            return WRONG + hint
    return WRONG + _difference(answer, right, tolerance)


@in_short_lines
def check_function(
    function: Callable,
    cases: Sequence[tuple],
    right: Callable,
    mistakes: Mapping[str, Callable] | None = None,
    tolerance: float = 1e-4,
    seen: Callable | None = None,
) -> str:
    """Compare a function with the right one; an exception in it becomes a sentence, too.

    Args:
        cases: tuples of arguments.
        mistakes: {a hint at the likely mistake: the wrong function}; a hint is shown if that function agrees on every case.
        tolerance: absolute and relative.
        seen: turns each result into what is compared, such as its gradient (default: the result).

    Returns:
        The sentence to show.
    """
    if _last_cell_failed():
        return STOPPED
    if not callable(function):
        return OPEN if function is ... else f"{WRONG}a function is expected, not {_kind(function)}."
    expected, answers, looks = [right(*copy.deepcopy(case)) for case in cases], [], []
    for case in cases:
        try:
            answer = function(*copy.deepcopy(case))
            looks.append(_copied(_seen(answer, seen)))
            answers.append(_copied(answer))  # so in-place changes stay within a case
        except Exception as error:
            return f"{WRONG}your function raised {type(error).__name__} ({_short(error)}) when called with {_shown(case)}."
    if all(answer is ... for answer in answers) or (_is_empty(function) and all(answer is None for answer in answers)):
        return OPEN
    if any(answer is None for answer in answers):
        return f"{WRONG}your function returns None: is there a `return`, and something after it?"
    wrong = [n for n, one in enumerate(expected) if not _equal(looks[n], _seen(one, seen), tolerance)]
    if not wrong:
        return RIGHT
    for hint, mistake in (mistakes or {}).items():
        theirs = (_seen(mistake(*copy.deepcopy(case)), seen) for case in cases)
        if all(_equal(look, other, tolerance) for look, other in zip(looks, theirs, strict=True)):
            return WRONG + hint
    first = wrong[0]
    answer, one = answers[first], expected[first]
    if _equal(answer, one, tolerance):  # what differs is only what is seen of it
        answer, one = looks[first], _seen(one, seen)
    return f"{WRONG}called with {_shown(cases[first])}, {_difference(answer, one, tolerance)}"


def _is_empty(function: Callable) -> bool:
    """Has a function's body nothing but a docstring and `...`?"""
    if not hasattr(function, "__code__") or function.__name__ == "<lambda>":
        return False
    found, empty = ([step.opname for step in dis.get_instructions(one)] for one in (function, lambda: None))
    return found == empty


def _seen(answer: Any, seen: Callable | None) -> Any:
    """What is compared of an answer; the answer itself if it is not of the kind that can be asked."""
    try:
        return answer if seen is None or answer is ... or answer is None else seen(answer)
    except Exception:
        return answer


def _copied(answer: Any) -> Any:
    """A copy of an answer; torch copies no tensor that has a history, so tensors lose theirs."""
    if isinstance(answer, torch.Tensor):
        return answer.detach().clone()
    return tuple(map(_copied, answer)) if type(answer) is tuple else copy.deepcopy(answer)


def _last_cell_failed() -> bool:
    """Did the notebook's last cell, which is the one with the answer, stop with an error? False outside notebooks."""
    from IPython import get_ipython  # takes a moment, and only notebooks need it

    shell = get_ipython()
    return shell is not None and not getattr(shell, "last_execution_succeeded", True)


def _equal(answer: Any, right: Any, tolerance: float) -> bool:
    try:
        if isinstance(right, (int, float)) and isinstance(answer, str):  # "1.1", as people type it
            answer = float(answer.replace(",", "."))
        if isinstance(right, (int, float, torch.Tensor)) and not isinstance(answer, (str, bytes)):
            answer, right = _as_tensor(answer), _as_tensor(right)
            same = answer.shape == right.shape
            return same and torch.allclose(answer, right, rtol=tolerance, atol=tolerance, equal_nan=True)
        if _has_tensors(right):
            parts = type(answer) in (tuple, list) and len(answer) == len(right)
            return parts and all(_equal(one, other, tolerance) for one, other in zip(answer, right, strict=True))
        return bool(answer == right)
    except Exception:  # values that cannot be compared are not equal
        return False


def _has_tensors(value: Any) -> bool:
    return type(value) is tuple and any(isinstance(part, torch.Tensor) for part in value)


def _as_tensor(value: Any) -> torch.Tensor:
    value = torch.as_tensor(value).detach()
    return (value.to_dense() if value.layout is not torch.strided else value).cpu().double()


def _difference(answer: Any, right: Any, tolerance: float = 1e-4) -> str:
    """How an answer differs from the right one, without revealing it. Never raises."""
    try:
        if answer is None:
            return "that is None; is the result put into the variable, and not only printed?"
        if callable(answer) and not isinstance(answer, torch.Tensor):
            return "that is a function; the result of calling it is expected."
        if _has_tensors(right):
            if type(answer) not in (tuple, list) or len(answer) != len(right):
                number = f" of {len(answer)}" if isinstance(answer, (tuple, list)) else ""
                return f"the answer should be {len(right)} values, separated by commas, not {_kind(answer)}{number}."
            n = next(n for n, (one, other) in enumerate(zip(answer, right, strict=True)) if not _equal(one, other, tolerance))
            return f"in value {n + 1} of {len(right)}: {_difference(answer[n], right[n], tolerance)}"
        if isinstance(right, torch.Tensor):
            if not isinstance(answer, torch.Tensor):
                return f"the answer should be a tensor of shape {tuple(right.shape)}, not {_kind(answer)}."
            if answer.shape != right.shape:
                return f"the shape should be {tuple(right.shape)}, not {tuple(answer.shape)}."
            if not torch.isfinite(_as_tensor(answer)).all():
                return "some values are not finite numbers."
            furthest = (_as_tensor(answer) - _as_tensor(right)).abs().max().item()
            return f"the shape is right, but the values differ by up to {furthest:.3g}."
        if isinstance(right, (int, float)):
            try:
                value = _as_tensor(answer).item() if isinstance(answer, torch.Tensor) else float(answer)
            except (TypeError, ValueError, RuntimeError, OverflowError):
                return f"the answer should be a number, not {_kind(answer)}."
            return f"{value:g} is not the right number." if math.isfinite(value) else f"{value} is not a finite number."
        return f"{_short(answer)} is not the right answer."
    except Exception:  # the answer may be anything
        return f"{_kind(answer)} cannot be compared with the right answer."


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{'an' if type(value).__name__[:1] in 'aeiou' else 'a'} {type(value).__name__}"


def _shown(case: tuple) -> str:
    return ", ".join(map(_short, case))


def _short(value: Any) -> str:
    parts = value if isinstance(value, tuple) else ()
    if isinstance(value, torch.Tensor) or callable(value) or any(isinstance(part, torch.Tensor) for part in parts):
        return _kind(value)
    try:
        text = str(value) if isinstance(value, Exception) else repr(value)
    except Exception:
        text = _kind(value)
    text = " ".join(text.split())
    return text if len(text) <= 120 else text[:117] + "…"
