"""Exercises check themselves: right, open, a known mistake, a strange answer; whatever comes, nothing raises."""

import pytest
import torch

from lcl.checks import OPEN, RIGHT, WRONG, check


def test_an_open_exercise_says_so():
    assert check(..., 1.0) == check(None, torch.ones(2)) == OPEN


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
