"""Text towers: any depth from 1 to 12, deaf to padding, and not deaf to the order of words."""

import dataclasses

import pytest
import torch

from lcl.config import LanguageConfig, LclError
from lcl.models.language import make_language, mean_over
from lcl.models.layers import pack, unpack
from lcl.models.tokenizer import Tokenizer

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


# --- what is injected


def far(tower):
    """The tower with weights far from their start, so that every block does something."""
    with torch.no_grad():
        for parameter in tower.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return tower


INJECTED = ("transformer", "hf:bert", "hf:distilbert", "hf:roberta", "hf:mpnet")


@pytest.fixture(scope="module", params=INJECTED)
def deep(request):
    """Towers of three blocks."""
    torch.manual_seed(0)
    return far(make_language(dataclasses.replace(SMALL, depth=3, tower=request.param)).eval())


@torch.no_grad()
def test_every_tower_shows_its_blocks_in_order(tokenizer, deep):
    tokens, order = tokenizer.encode(CAPTIONS, 64), []
    assert len(deep.blocks) == 3
    deep(tokens, {number: lambda x, number=number: order.append(number) or x for number in (3, 1, 2)})
    assert order == [1, 2, 3]


@torch.no_grad()
def test_injecting_nothing_changes_nothing(tokenizer, deep):
    tokens = tokenizer.encode(CAPTIONS, 64)
    plain, kept = deep(tokens), deep(tokens, {1: lambda x: x, 3: lambda x: x})
    torch.testing.assert_close(kept.pooled, plain.pooled, rtol=1e-5, atol=1e-6)
    at = tokens.mask
    torch.testing.assert_close(kept.token_features[at], plain.token_features[at], rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_what_is_injected_comes_packed_and_arrives_after_the_block_it_names(tokenizer, deep):
    tokens, seen = tokenizer.encode(CAPTIONS, 64), {}

    def look(number):
        def change(x):
            seen[number] = x.clone()
            return x + 0.5 * torch.arange(32.0).sin() if number == 2 else x

        return change

    plain = deep(tokens).pooled
    moved = deep(tokens, {number: look(number) for number in (1, 2, 3)}).pooled
    changed = dict(seen)
    deep(tokens, {number: lambda x, number=number: seen.update({number: x.clone()}) or x for number in (1, 2, 3)})
    assert all(x.shape == (int(tokens.mask.sum()), 32) for x in seen.values())
    for number, same in ((1, True), (2, True), (3, False)):  # block 3 is the first to read what came after block 2
        assert torch.allclose(changed[number], seen[number], rtol=1e-4, atol=1e-5) == same
    assert (moved - plain).abs().max() > 1e-3


@torch.no_grad()
def test_what_is_injected_into_one_caption_reaches_no_other(tokenizer, deep):
    tokens = tokenizer.encode(CAPTIONS, 64)
    bump = torch.zeros(*tokens.ids.shape, 32)
    bump[1, 2] = torch.arange(32.0).sin()
    plain = deep(tokens).pooled
    moved = (deep(tokens, {1: lambda x: x + pack(bump, tokens.mask)}).pooled - plain).abs().amax(1) > 1e-5
    assert moved.tolist() == [False, True, False, False]


@torch.no_grad()
def test_nothing_stays_injected_after_the_call_even_if_it_failed(tokenizer, deep):
    tokens = tokenizer.encode(CAPTIONS, 64)
    plain = deep(tokens).pooled

    def fail(x):
        raise ZeroDivisionError

    deep(tokens, {2: lambda x: 2 * x})
    with pytest.raises(ZeroDivisionError):
        deep(tokens, {1: lambda x: 3 * x, 2: fail})
    assert torch.equal(deep(tokens).pooled, plain)


def test_gradients_reach_what_was_injected(tokenizer, deep):
    tokens = tokenizer.encode(CAPTIONS, 64)
    gift = torch.zeros(int(tokens.mask.sum()), 32, requires_grad=True)
    read = deep(tokens, {1: lambda x: x + gift})
    (gradient,) = torch.autograd.grad((read.pooled * torch.arange(32.0).cos()).sum(), gift)
    assert gradient.isfinite().all() and (unpack(gradient, tokens.mask).abs().sum((1, 2)) > 0).all()


@torch.no_grad()
def test_features_at_padding_are_zero_in_the_tower_from_scratch(tokenizer):
    tokens = tokenizer.encode(CAPTIONS, 64)
    read = make_language(SMALL)(tokens)
    assert (read.token_features[~tokens.mask] == 0).all() and (~tokens.mask).any()
