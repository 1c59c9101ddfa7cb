"""Retrieval with several right answers: ranks and chance against slow loops, and what is ranked."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lcl.config import LclError
from lcl.data.base import Samples
from lcl.data.duplicates import caption_key
from lcl.eval.retrieval import agreeing, candidates, chance_of_recall, ranks, recall_at_k, retrieval


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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_similarities_that_are_not_finite_are_refused_by_every_measure(bad):
    broken = torch.eye(4)
    broken[2, 1] = bad
    for measure in (lambda: ranks(broken), lambda: recall_at_k(broken, 1), lambda: retrieval(broken, torch.eye(4))):
        with pytest.raises(LclError, match="not finite"):
            measure()


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


def test_of_scenes_a_caption_of_the_same_facts_is_right_in_other_words(small_world):
    pairs = small_world.pairs("new_scenes", range(400))
    found, extra = candidates(pairs), 0
    texts = [caption_key(scene.caption) for scene in pairs.scenes]
    for place, row in enumerate(found.rows):
        same = [texts[other] for other, scene in enumerate(pairs.scenes) if scene.facts == pairs.scenes[row].facts]
        right = [caption_key(found.captions[caption]) for caption in found.right[place].nonzero().flatten().tolist()]
        assert set(right) == set(same) and len(set(same)) == len(right)
        extra += len(right) > 1
    assert extra > 20, "in a small world several pictures have the same to be said about them"


def test_keys_agree_where_a_picture_and_a_caption_come_from_pairs_of_one_key():
    found = candidates(samples([1, 2, 1, 3], [("a",), ("b",), ("c",), ("b",)]))
    keys = ["x", "y", "x", "x"]
    agree = agreeing(keys, found)
    for place, row in enumerate(found.rows):
        for caption in range(3):
            owners = [pair for pair in range(4) if int(found.caption[pair]) == caption]
            assert bool(agree[place, caption]) == any(keys[pair] == keys[row] for pair in owners)
