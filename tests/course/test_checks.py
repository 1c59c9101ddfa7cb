"""Exercises check themselves: right, open, a known mistake, a strange answer; whatever comes, nothing raises."""

import contextlib
import io
from typing import NamedTuple

import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell

from lcl.course.checks import OPEN, RIGHT, STOPPED, WRONG, check, check_function
from lcl.lines import WIDTH


def said(*arguments, **options) -> str:
    """What `check_function` says, in one line."""
    return " ".join(check_function(*arguments, **options).split())


def test_lines_are_short_enough_for_a_notebook_and_break_between_words():
    hint = " ".join(f"word{number}" for number in range(60))
    for answer in (check(2, 1, {hint: 2}), check_function(lambda x: x, [(2,)], lambda x: 1, {hint: lambda x: x}), OPEN, STOPPED):
        assert max(map(len, answer.splitlines())) <= WIDTH and len(answer.splitlines()) > 1
    assert check(2, 1, {hint: 2}).split() == [*WRONG.split(), *hint.split()]
    assert check(2, 1, {f"one\n{'x' * 200}": 2}).splitlines() == [f"{WRONG}one", "x" * 200]  # no word is broken


def test_an_open_exercise_says_so():
    assert check(..., 1.0) == check_function(lambda x: ..., [(1.0,)], abs) == OPEN


def test_a_build_without_a_body_is_open_but_one_that_forgets_its_result_is_not():
    def stub(x, mask=None):
        """Shapes and steps."""
        ...  # your answer

    def forgot(x, mask=None):
        x = 2 * x

    def nothing(x, mask=None):
        return mask

    assert check_function(stub, [(1.0,)], abs) == OPEN
    for function in (forgot, nothing):
        assert "is there a `return`" in said(function, [(1.0,)], abs)


def test_answers_of_several_tensors_are_compared_one_by_one():
    def right(x):
        return x, 2 * x

    cases = [(torch.ones(2),)]
    assert check_function(lambda x: [x, x + x], cases, right) == RIGHT
    assert check_function(lambda x: (x, x), cases, right, {"doubled?": lambda x: (x, x)}) == f"{WRONG}doubled?"
    assert "in value 2 of 2: the shape is right" in said(lambda x: (x, 3 * x), cases, right)
    assert "2 values, separated by commas, not a tensor" in said(lambda x: x, cases, right)
    assert "not a tuple of 3" in said(lambda x: (x, x, x), cases, right)


def test_what_is_seen_of_an_answer_is_compared_and_the_answer_itself_is_described():
    cases, seen = [(torch.ones(2).requires_grad_(),)], lambda y: (y, y.requires_grad)

    def right(x):
        return x.detach()

    assert check_function(lambda x: x.detach() + 0, cases, right, seen=seen) == RIGHT
    assert check_function(lambda x: x, cases, right, {"detach it": lambda x: 1 * x}, 1e-4, seen) == f"{WRONG}detach it"
    assert "in value 2 of 2: 1 is not" in said(lambda x: x, cases, right, seen=seen)
    assert "the shape is right, but the values" in said(lambda x: 2 * x, cases, right, seen=seen)
    assert "should be a tensor" in said(lambda x: "text", cases, right, seen=seen)
    assert check_function(lambda x: ..., cases, right, seen=seen) == OPEN


def test_answers_may_have_a_history():
    weights = torch.nn.Linear(2, 2)
    assert check_function(lambda x: weights(x), [(torch.ones(2),)], lambda x: weights(x)) == RIGHT
    assert check_function(lambda x: (weights(x), x), [(torch.ones(2),)], lambda x: (weights(x), x)) == RIGHT


@pytest.mark.parametrize("answer", ["1.1", " 1.10 ", "1,1"])
def test_a_number_given_as_text_is_understood(answer):
    assert check(answer, 1.1) == RIGHT
    assert check("1.2", 1.1).startswith(WRONG) and check("one", 1.1).startswith(WRONG) and check("1.1", "1.1") == RIGHT


def test_after_a_cell_that_raised_nothing_is_judged():
    """A real kernel: the value of before is right, but the cell that should replace it stops."""
    shell = InteractiveShell.instance()
    try:
        shell.run_cell("from lcl.course.checks import check, check_function; answer = 2.0; double = lambda x: 2 * x")
        shell.run_cell("said = check(answer, 2.0), check_function(double, [(1.0,)], double)")
        assert shell.user_ns["said"] == (RIGHT, RIGHT)
        with contextlib.redirect_stdout(io.StringIO()):
            shell.run_cell("answer = 1 / 0")
        shell.run_cell("said = check(answer, 2.0), check_function(double, [(1.0,)], double)")
        assert shell.user_ns["said"] == (STOPPED, STOPPED)
        shell.run_cell("answer = 3.0")
        shell.run_cell("said = check(answer, 2.0)")
        assert shell.user_ns["said"].startswith(WRONG)
    finally:
        InteractiveShell.clear_instance()


def test_none_is_no_open_exercise_but_a_forgotten_result():
    assert check(None, 1.0).startswith(WRONG) and "printed" in check(None, 1.0)
    assert "is there a `return`" in said(lambda x: None, [(1.0,)], abs)


def double(x):
    return 2 * x


class Projected(NamedTuple):
    features: torch.Tensor


def test_a_function_is_right_or_hears_its_mistake():
    cases = [(torch.ones(2),), (torch.tensor([3.0, -1.0]),)]
    assert check_function(lambda x: x + x, cases, double) == RIGHT
    assert check_function(lambda x: x, cases, double, {"doubled?": lambda x: x}) == f"{WRONG}doubled?"
    assert "differ by up to" in said(lambda x: 3 * x, cases, double)


def test_what_a_function_does_to_its_arguments_stays_its_own():
    shared = torch.ones(2)

    def in_place(x, factor):
        x *= factor
        return x

    assert check_function(in_place, [(shared, 2.0), (shared, 3.0)], lambda x, factor: x * factor) == RIGHT
    assert shared.tolist() == [1.0, 1.0]


def test_an_exception_of_the_learner_becomes_a_sentence():
    told = said(lambda x: x.nothing, [(torch.ones(2, 3),)], double)
    assert told.startswith(f"{WRONG}your function raised AttributeError") and "a tensor of shape (2, 3)" in told
    assert "a function is expected, not an int" in said(7, [(1,)], double)


def test_modules_functions_and_tuples_of_tensors_are_shown_by_their_kind():
    case = torch.nn.Linear(2, 2), double, Projected(torch.ones(2)), 4
    told = said(lambda *case: 1.0, [case], lambda *case: 2.0)
    assert told == f"{WRONG}called with a Linear, a function, a Projected, 4, 1 is not the right number."


def test_not_a_number_is_a_wrong_answer_that_can_be_a_known_mistake():
    nan = torch.tensor([torch.nan])
    assert check(nan, torch.ones(1), {"a softmax of nothing": nan}) == f"{WRONG}a softmax of nothing"


@pytest.mark.parametrize("answer", [torch.ones(2).to_sparse(), 10**400, torch.ones(2, requires_grad=True), type, NotImplemented])
def test_strange_answers_get_a_sentence(answer):
    for right in (torch.zeros(2), 1.0, "text"):
        assert check(answer, right).startswith(WRONG.strip())


@pytest.mark.parametrize("right", [3, 0.25, "cat", torch.eye(3), [1, 2]])
def test_the_right_answer_is_right(right):
    assert check(right, right) == RIGHT


def test_a_number_may_be_a_tensor():
    assert check(torch.tensor(0.25), 0.25) == RIGHT


def test_a_typical_mistake_hears_its_cause():
    assert check(50, 0.125, {"divide by the smaller area.": 50}) == WRONG + "divide by the smaller area."


@pytest.mark.parametrize(
    ("answer", "word"),
    [
        (torch.zeros(2, 2), "shape"),
        ([0.0], "tensor"),
        (torch.tensor([0.0, torch.nan]), "finite"),
        (torch.zeros(2), "differ"),
    ],
)
def test_a_wrong_tensor_hears_what_is_wrong_with_it(answer, word):
    assert word in check(answer, torch.ones(2))


@pytest.mark.parametrize("answer", ["one", object(), [1, 2], torch.ones(3), float("nan"), {}, print])
def test_nothing_raises(answer):
    assert check(answer, 1.0).startswith(WRONG)
