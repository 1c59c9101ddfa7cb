"""Packed captions: pack and unpack undo each other, and a block gives every caption what it gives it alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.models.layers import Block, pack, unpack

lengths_of_captions = st.lists(st.integers(0, 7), min_size=1, max_size=6)


def mask_of(lengths: list[int]) -> torch.Tensor:
    """(B, L) bool, true at the first `lengths` places of each row."""
    return torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]


def block(width: int = 16, heads: int = 2) -> Block:
    """A block whose weights are far from their start, in float64."""
    torch.manual_seed(heads)
    made = Block(width, heads).double()
    with torch.no_grad():
        for parameter in made.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return made


@settings(max_examples=30)
@given(lengths_of_captions)
def test_packed_tokens_are_the_captions_in_turn(lengths):
    x, mask = torch.randn(len(lengths), max(lengths), 3), mask_of(lengths)
    assert torch.equal(pack(x, mask), torch.cat([row[:length] for row, length in zip(x, lengths, strict=True)]))


@settings(max_examples=30)
@given(lengths_of_captions)
def test_unpacking_undoes_packing_and_leaves_zeros_at_padding(lengths):
    x, mask = torch.randn(len(lengths), max(lengths), 3), mask_of(lengths)
    there_and_back = unpack(pack(x, mask), mask)
    assert torch.equal(there_and_back, torch.where(mask[..., None], x, 0.0))
    assert torch.equal(pack(there_and_back, mask), x[mask])


def test_a_mask_with_holes_packs_too():
    x, mask = torch.randn(3, 4, 2), torch.tensor([[1, 0, 1, 0], [0, 0, 0, 0], [0, 1, 1, 1]]).bool()
    assert torch.equal(pack(x, mask), x[mask])
    assert torch.equal(unpack(x[mask], mask), torch.where(mask[..., None], x, 0.0))


def test_what_lies_at_padding_is_lost_even_if_it_is_no_number():
    x, mask = torch.randn(2, 4, 3), mask_of([4, 2])
    x[1, 3] = torch.nan
    assert unpack(pack(x, mask), mask).isfinite().all()


def test_gradients_pass_through_packing_and_unpacking():
    mask = mask_of([3, 1, 2])
    x = torch.randn(3, 3, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: unpack(pack(x, mask) ** 2, mask), x)
    unpack(pack(x, mask), mask).sum().backward()
    assert torch.equal(x.grad, mask[..., None].expand_as(x).double())


@pytest.mark.parametrize("heads", [1, 4])
@pytest.mark.parametrize("lengths", [[5], [1, 1], [7, 3, 1, 6], [2, 0, 4]], ids=str)
def test_a_block_on_packed_captions_is_the_block_on_each_caption_alone(heads, lengths):
    made, mask = block(heads=heads), mask_of(lengths)
    x = torch.randn(len(lengths), max(lengths), 16, dtype=torch.float64)
    packed = made(pack(x, mask), mask)
    alone = torch.cat([made(row[None, :length])[0] for row, length in zip(x, lengths, strict=True) if length])
    torch.testing.assert_close(packed, alone, rtol=1e-10, atol=1e-10)


def test_a_blocks_gradients_are_those_of_every_caption_alone():
    made, lengths = block(), [4, 1, 3]
    mask, x = mask_of(lengths), torch.randn(3, 4, 16, dtype=torch.float64)
    weigh = torch.randn(3, 4, 16, dtype=torch.float64)
    together = torch.autograd.grad((made(pack(x, mask), mask) * pack(weigh, mask)).sum(), list(made.parameters()))
    loss = sum((made(x[i : i + 1, :n]) * weigh[i : i + 1, :n]).sum() for i, n in enumerate(lengths))
    for packed, alone in zip(together, torch.autograd.grad(loss, list(made.parameters())), strict=True):
        torch.testing.assert_close(packed, alone, rtol=1e-9, atol=1e-9)


@torch.no_grad()
def test_a_token_hears_its_own_caption_and_no_other():
    made, mask = block(), mask_of([3, 4])
    x = torch.randn(2, 4, 16, dtype=torch.float64)
    changed = x.clone()
    changed[1, 2] += torch.arange(16.0)  # a norm takes away what all features share
    moved = (unpack(made(pack(x, mask), mask) - made(pack(changed, mask), mask), mask)).abs().amax(2) > 1e-9
    assert moved.tolist() == [[False] * 4, [True] * 4]


@torch.no_grad()
def test_a_full_mask_changes_nothing():
    made, x = block(), torch.randn(2, 5, 16, dtype=torch.float64)
    mask = mask_of([5, 5])
    torch.testing.assert_close(unpack(made(pack(x, mask), mask), mask), made(x), rtol=1e-10, atol=1e-10)
