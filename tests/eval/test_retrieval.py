"""Retrieval with several right answers: ranks and chance against slow loops, and what is ranked."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lcl.data.base import Samples
from lcl.eval.retrieval import candidates, chance_of_recall, ranks, recall_at_k, retrieval


def matrix(draw, values, rows: int, columns: int) -> torch.Tensor:
    return torch.tensor(draw(st.lists(st.lists(values, min_size=columns, max_size=columns), min_size=rows, max_size=rows)))


def right_of(draw, rows: int, columns: int) -> torch.Tensor:
    """Every query has a right candidate."""
    right = matrix(draw, st.booleans(), rows, columns)
    right[torch.arange(rows), torch.arange(rows) % columns] = True
    return right


@given(data=st.data(), rows=st.integers(1, 6), columns=st.integers(1, 7))
def test_the_rank_is_that_of_the_first_right_answer(data, rows, columns):
    scores, right = matrix(data.draw, st.integers(0, 3), rows, columns).float(), right_of(data.draw, rows, columns)
    for row, rank in enumerate(ranks(scores, right).tolist()):
        order = sorted(range(columns), key=lambda column: (-scores[row, column].item(), column))
        assert rank == min(place for place, column in enumerate(order) if right[row, column])


@pytest.mark.parametrize(("columns", "owned", "k"), [(5, 1, 1), (5, 2, 1), (5, 2, 3), (6, 3, 5), (4, 4, 1), (3, 1, 10)])
def test_chance_is_the_share_of_all_orders(columns, owned, k):
    right = torch.zeros(1, columns, dtype=torch.bool)
    right[0, :owned] = True
    orders = list(itertools.permutations(range(columns)))
    hits = sum(any(column < owned for column in order[:k]) for order in orders)
    assert chance_of_recall(right, k) == pytest.approx(hits / len(orders))


def samples(pictures: list[int], captions: list[tuple[str, ...]]) -> Samples:
    images = torch.stack([torch.full((3, 8, 8), number, dtype=torch.uint8) for number in pictures])
    return Samples(images, captions, list(range(len(pictures))))


def test_any_caption_of_the_picture_and_any_equal_one_is_right():
    found = candidates(samples([1, 2, 1, 3], [("A cat.", "a pet"), ("a dog", "A  CAT"), ("a tail",), ("a dog.",)]))
    assert found.rows == [0, 1, 3] and found.captions == ["A cat.", "a pet", "a dog", "a tail"]
    assert found.right.int().tolist() == [[1, 1, 0, 1], [1, 0, 1, 0], [0, 0, 1, 0]]
    assert found.picture.tolist() == [0, 1, 0, 2] and found.caption.tolist() == [0, 2, 3, 2]


def test_two_captions_among_many_pictures_are_two_candidates_and_a_perfect_model_reaches_all():
    """The case of two classes: one caption for every cat, one for every dog."""
    pairs = samples(list(range(120)), [("a photo of a " + ("cat" if n % 2 else "dog"),) for n in range(120)])
    found = candidates(pairs)
    kinds = torch.eye(2)
    perfect = retrieval(kinds[torch.arange(120) % 2], kinds, found.right)
    assert {name: metric["value"] for name, metric in perfect.items()} == dict.fromkeys(perfect, 1.0)
    assert perfect["image_to_text_recall@1"] == {"value": 1.0, "chance": 0.5, "queries": 120, "candidates": 2}
    assert perfect["text_to_image_recall@1"] == {"value": 1.0, "chance": 0.5, "queries": 2, "candidates": 120}
    collapsed = retrieval(torch.ones(120, 2), torch.ones(2, 2), found.right)
    assert collapsed["image_to_text_recall@1"]["value"] == 0.5


def test_without_copies_it_is_the_usual_recall():
    v, t = torch.randn(50, 8), torch.randn(50, 8)
    pairs = samples(list(range(50)), [(f"caption {n}",) for n in range(50)])
    found = candidates(pairs)
    assert torch.equal(found.right, torch.eye(50, dtype=torch.bool)) and retrieval(v, t, found.right) == retrieval(v, t)
    own = (v @ t.T).diagonal()[:, None]
    assert recall_at_k(v @ t.T, 3) == ((v @ t.T > own).sum(1) < 3).double().mean().item()
    assert retrieval(v, t)["image_to_text_recall@5"]["chance"] == 5 / 50
