"""InfoNCE against open_clip's, against a slow double loop written from the formula, and by its symmetries."""

import math

import open_clip
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.config import LclError
from lcl.contrastive import info_nce

TOLERANCE = {torch.float32: 1e-6, torch.float64: 1e-12}
seeds, sizes, widths = st.integers(0, 2**31), st.integers(2, 24), st.integers(1, 48)


def batch(seed: int, size: int, width: int, dtype: torch.dtype = torch.float64) -> list[torch.Tensor]:
    """Unit vectors v and t, and a logit scale from 1 to 100."""
    generator = torch.Generator().manual_seed(seed)
    v, t = F.normalize(torch.randn(2, size, width, generator=generator, dtype=torch.float64), dim=-1).to(dtype)
    scale = torch.exp(math.log(100) * torch.rand((), generator=generator, dtype=torch.float64)).to(dtype)
    return [tensor.clone().requires_grad_() for tensor in (v, t, scale)]


def loss_of(v: torch.Tensor, t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return info_nce(v, t, scale)["info_nce"]


def slow(v: list, t: list, scale: float) -> float:
    """The formula, one term at a time."""
    size, total = len(v), 0.0
    for i in range(size):
        own = math.exp(scale * sum(a * b for a, b in zip(v[i], t[i], strict=True)))
        captions = images = 0.0
        for j in range(size):
            captions += math.exp(scale * sum(a * b for a, b in zip(v[i], t[j], strict=True)))
            images += math.exp(scale * sum(a * b for a, b in zip(v[j], t[i], strict=True)))
        total += -math.log(own / captions) - math.log(own / images)
    return total / (2 * size)


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize(("seed", "size", "width"), [(0, 2, 1), (1, 3, 8), (2, 16, 64), (3, 64, 128), (4, 7, 512)])
def test_value_and_gradients_are_those_of_open_clip(dtype, seed, size, width):
    ours, peers = (batch(seed, size, width, dtype) for _ in range(2))
    loss, peer = loss_of(*ours), open_clip.ClipLoss()(*peers)
    loss.backward()
    peer.backward()
    torch.testing.assert_close(loss, peer, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])
    for mine, theirs in zip(ours, peers, strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@settings(max_examples=25, deadline=None)
@given(seeds, st.integers(2, 8), st.integers(1, 8))
def test_it_is_the_formula_summed_by_a_slow_double_loop(seed, size, width):
    v, t, scale = batch(seed, size, width)
    assert loss_of(v, t, scale).item() == pytest.approx(slow(v.tolist(), t.tolist(), scale.item()), rel=1e-9, abs=1e-12)


def test_gradients_are_those_of_finite_differences():
    v, t, _ = batch(0, 5, 4)
    assert torch.autograd.gradcheck(loss_of, (v, t, torch.tensor(3.0, dtype=torch.float64, requires_grad=True)))


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, widths)
def test_images_and_captions_may_change_places(seed, size, width):
    v, t, scale = batch(seed, size, width)
    torch.testing.assert_close(loss_of(v, t, scale), loss_of(t, v, scale), rtol=1e-12, atol=1e-12)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, widths)
def test_the_order_of_the_pairs_does_not_matter(seed, size, width):
    v, t, scale = batch(seed, size, width)
    order = torch.randperm(size, generator=torch.Generator().manual_seed(seed))
    torch.testing.assert_close(loss_of(v, t, scale), loss_of(v[order], t[order], scale), rtol=1e-12, atol=1e-12)


def test_who_belongs_to_whom_matters():
    v, _, scale = batch(0, 8, 32)
    assert loss_of(v, v, scale) < loss_of(v, v.roll(1, 0), scale)


@settings(max_examples=25, deadline=None)
@given(seeds, sizes, widths)
def test_the_loss_lies_between_zero_and_what_wrong_pairs_cost(seed, size, width):
    v, t, scale = batch(seed, size, width)
    assert 0 <= loss_of(v, t, scale) <= math.log(size) + 2 * scale + 1e-9


@pytest.mark.parametrize("size", [2, 16, 256])
def test_identical_embeddings_cost_the_logarithm_of_the_batch(size):
    same = F.normalize(torch.ones(size, 8, dtype=torch.float64), dim=-1)
    assert loss_of(same, same, torch.tensor(20.0)).item() == pytest.approx(math.log(size), rel=1e-12)


@pytest.mark.parametrize("size", [0, 1])
def test_a_batch_without_negatives_is_refused(size):
    with pytest.raises(LclError, match="no negatives"):
        info_nce(torch.ones(size, 4), torch.ones(size, 4), torch.tensor(10.0))
