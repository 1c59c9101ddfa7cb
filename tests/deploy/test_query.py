"""A query that means something stands above random words, one that means nothing does not; unknown words are named."""

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import untrained

from lcl.deploy import query
from lcl.deploy.gallery import Gallery
from lcl.deploy.query import RANDOM_TEXTS, QueryCheck, check_query
from lcl.eval.metrics import embed_texts
from lcl.models.tokenizer import Tokenizer


@pytest.fixture(scope="module")
def model():
    return untrained(0).eval()


def gallery_of(v: torch.Tensor) -> Gallery:
    return Gallery(Path("."), tuple(f"{row}.png" for row in range(len(v))), F.normalize(v, dim=1), {}, 0)


def test_a_query_with_its_picture_stands_above_random_texts_and_one_against_it_below(model, tokenizer):
    t = embed_texts(model, tokenizer, ["a red picture"])
    found = check_query(gallery_of(t), model, tokenizer, "a red picture")
    assert found.best == pytest.approx(1, abs=1e-5) and found.above == 1 and found.z > 1 and found.warnings == ()
    against = check_query(gallery_of(-t), model, tokenizer, "a red picture")
    assert against.above == 0 and against.z < -1 and "random words get about as near" in against.warnings[0]


def test_random_texts_stand_like_random_texts(model, tokenizer):
    gallery = gallery_of(torch.randn(30, 32, generator=torch.Generator().manual_seed(1)))
    words = query._vocabulary(tokenizer)
    pairs = zip(words[:40], words[40:80], strict=True)
    found = [check_query(gallery, model, tokenizer, f"{one} {other}") for one, other in pairs]
    above = torch.tensor([one.above for one in found])
    assert 0.3 < above.mean() < 0.7 and above.std() > 0.15  # uniform: 0.5 and 0.29
    assert all(one.words == 2 for one in found)


def test_the_figures_are_those_of_the_definition_and_repeat(model, tokenizer):
    gallery = gallery_of(torch.randn(7, 32, generator=torch.Generator().manual_seed(2)))
    found = check_query(gallery, model, tokenizer, "a red picture", seed=3)
    assert found == check_query(gallery, model, tokenizer, "a red picture", seed=3)
    assert found != check_query(gallery, model, tokenizer, "a red picture", seed=4)
    assert found.best == pytest.approx((gallery.v @ embed_texts(model, tokenizer, ["a red picture"])[0]).max().item())
    assert found.words == 3 and found.above * RANDOM_TEXTS == pytest.approx(round(found.above * RANDOM_TEXTS))
    assert f"{found.above:.0%}" in str(found) and "3 random words" in str(found)


def test_unknown_words_are_named_and_how_sure_that_is(model, tokenizer):
    gallery = gallery_of(embed_texts(model, tokenizer, ["a qwzx red"]))
    found = check_query(gallery, model, tokenizer, "a qwzx red")
    assert found.unseen == ("qwzx",) and found.certain
    assert len(found.warnings) == 1 and "qwzx; they were not in the captions" in found.warnings[0]
    old = check_query(gallery, model, Tokenizer.from_dict(tokenizer.to_dict()), "a qwzx red")
    assert "qwzx" in old.unseen and not old.certain and "rare or missing" in old.warnings[0]
    assert "no list of its training words" in old.warnings[0] and "no list" not in found.warnings[0]
    assert dataclasses.replace(old, unseen=()).warnings == ()


def test_other_alphabets_have_random_words_too(model):
    learned = Tokenizer.train(["红色的船", "красная лодка"] * 9, 300, "")
    words = query._vocabulary(learned)
    assert {"红", "船"} <= set(words) and "\ufffd" not in "".join(words) and "a" not in words
    basic = Tokenizer.train(["1 2"], 260, "")
    assert "a" in query._vocabulary(basic)
    assert isinstance(check_query(gallery_of(torch.randn(3, 32)), model, basic, "?!"), QueryCheck)
