"""Text towers: any depth from 1 to 12, deaf to padding, and not deaf to the order of words."""

import dataclasses

import pytest
import torch

from lcl.config import LanguageConfig, LclError
from lcl.language import make_language, mean_over
from lcl.text import Tokenizer

CAPTIONS = [
    "a red apple",
    "a dog left of a cat",
    "a cat left of a dog",
    "two small wolves above a big green tree and next to a house, on a blue ground with dots.",
]
SMALL = LanguageConfig(vocab_size=300, context_length=64, width=32, depth=2, heads=2)
TOWERS = ("transformer", "hf:bert", "hf:distilbert", "hf:roberta", "hf:mpnet")


@pytest.fixture(scope="module")
def tokenizer():
    return Tokenizer.train(CAPTIONS, 300, "a data set")


@pytest.fixture(scope="module", params=TOWERS)
def tower(request):
    torch.manual_seed(0)
    return make_language(dataclasses.replace(SMALL, tower=request.param)).eval()


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 12])
def test_every_depth_from_1_to_12_reads(tokenizer, depth):
    tower = make_language(dataclasses.replace(SMALL, depth=depth))
    tokens = tokenizer.encode(CAPTIONS, 64)
    read = tower(tokens)
    assert read.token_features.shape == (*tokens.ids.shape, 32) and read.pooled.shape == (4, 32)
    assert len(tower.blocks) == depth
    (read.pooled * torch.randn(4, 32)).sum().backward()
    assert [name for name, p in tower.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


@torch.no_grad()
def test_every_tower_gives_features_of_tokens_and_one_pooled_vector(tokenizer, tower):
    tokens = tokenizer.encode(CAPTIONS, 64)
    read = tower(tokens)
    assert tower.width == 32
    assert read.token_features.shape == (*tokens.ids.shape, 32)
    assert read.pooled.shape == (4, 32)
    assert read.pooled.isfinite().all()


@torch.no_grad()
def test_padding_changes_nothing(tokenizer, tower):
    together = tower(tokenizer.encode(CAPTIONS, 64))
    for row, caption in enumerate(CAPTIONS):
        alone = tower(tokenizer.encode([caption], 64))
        length = alone.token_features.shape[1]
        torch.testing.assert_close(alone.pooled[0], together.pooled[row], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(alone.token_features[0], together.token_features[row, :length], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_what_lies_under_the_padding_is_never_read(tokenizer, tower):
    tokens = tokenizer.encode(CAPTIONS, 64)
    scribbled = dataclasses.replace(tokens, ids=torch.where(tokens.mask, tokens.ids, 7))
    assert not torch.equal(tokens.ids, scribbled.ids)
    torch.testing.assert_close(tower(tokens).pooled, tower(scribbled).pooled, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_the_order_of_words_matters(tokenizer, tower):
    tokens = tokenizer.encode(CAPTIONS[1:3], 64)
    assert torch.equal(tokens.ids[0].sort().values, tokens.ids[1].sort().values)
    first, second = tower(tokens).pooled
    assert (first - second).abs().max() > 1e-4


def test_the_mean_leaves_padding_out():
    x = torch.tensor([[[1.0], [3.0], [100.0]], [[5.0], [7.0], [9.0]]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    assert mean_over(x, mask).tolist() == [[2.0], [7.0]]


@pytest.mark.parametrize("name", ["brt", "nobody/no-such-model"])
def test_an_unknown_hub_model_is_refused_in_one_sentence(name, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(LclError, match=name) as refusal:
        make_language(dataclasses.replace(SMALL, tower=f"hf:{name}"))
    assert "\n" not in str(refusal.value) and len(str(refusal.value)) < 500


def test_an_unknown_text_tower_is_refused_with_the_near_name():
    with pytest.raises(LclError, match="did you mean transformer"):
        dataclasses.replace(SMALL, tower="transfomer")
