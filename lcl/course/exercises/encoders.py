"""Exercises of chapter 2: patches, attention, a transformer block, pooling."""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from lcl.course.checks import check, check_function
from lcl.models.language import mean_over
from lcl.models.layers import Block, pack, unpack


def cut_patches(images: torch.Tensor, p: int) -> torch.Tensor:
    """Squares of p × p pixels, row by row, each flattened: (B, 3, H, W) → (B, n, 3·p·p), in the order of `F.unfold`."""
    return F.unfold(images, kernel_size=p, stride=p).transpose(1, 2)


def _permuted(*axes: int) -> Callable:
    """A cut of images whose six axes (B, C, H/p, p, W/p, p) are put into another order."""

    def cut(images: torch.Tensor, p: int) -> torch.Tensor:
        B, C, H, W = images.shape
        squares = images.reshape(B, C, H // p, p, W // p, p).permute(*axes)
        return squares.reshape(B, (H // p) * (W // p), C * p * p)

    return cut


def patches(mine: Callable) -> str:
    """Check `my_patches(images, p)`: see `cut_patches`."""
    cases = [(torch.rand(2, 3, 8, 12, generator=torch.Generator().manual_seed(0)), p) for p in (4, 2)]
    return check_function(mine, cases, cut_patches, {
        "without `permute` the picture is scrambled: both numbers of the patch must come before channels and pixels.":
            _permuted(0, 1, 2, 3, 4, 5),
        "the patches go down the columns; they should go along the rows, from the top left.": _permuted(0, 4, 2, 1, 3, 5),
        "within a patch the channel comes first, then the row, then the column.": _permuted(0, 2, 4, 3, 5, 1),
        "every patch is transposed: its rows come before its columns.": _permuted(0, 2, 4, 1, 5, 3),
        "keep one axis for all patches: (B, H/p · W/p, 3·p·p).": lambda images, p: cut_patches(images, p).flatten(1),
    })  # fmt: skip


def put_together(mine: Callable, images: torch.Tensor, p: int) -> torch.Tensor:
    """The images, put together from a learner's patches.

    Args:
        mine: see `patches`.
        images: (B, 3, H, W) uint8.
        p: side of a patch, in pixels.

    Returns:
        (B, 3, H, W) uint8; grey if the patches do not have the right shape. Patches in a wrong order show as scrambled pictures.
    """
    try:
        cut = mine(images.float(), p).transpose(1, 2)
        return F.fold(cut, images.shape[2:], kernel_size=p, stride=p).clamp(0, 255).to(torch.uint8)
    except Exception:  # the learner's function may do anything
        return torch.full_like(images, 128)


def attention_weights(mine: Callable) -> str:
    """Check `attention_weights(q, k, mask)` of one head: (n, d), (m, d), (m,) bool → (n, m)."""
    draw = torch.Generator().manual_seed(0)
    case = torch.randn(3, 4, generator=draw), torch.randn(5, 4, generator=draw), torch.arange(5) < 4

    def scores(q: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
        return q @ k.T / math.sqrt(q.shape[1])

    return check_function(mine, [case], lambda q, k, mask: scores(q, k).masked_fill(~mask, -math.inf).softmax(1), {
        "divide the products by the square root of d.": lambda q, k, mask: (q @ k.T).masked_fill(~mask, -math.inf).softmax(1),
        "the softmax runs along the keys: every row adds up to one, not every column.":
            lambda q, k, mask: scores(q, k).softmax(0),
        "the softmax runs along the keys: every row should add up to one. (The masked key's column is not a number, as it has "
        "nothing but minus infinity.)": lambda q, k, mask: scores(q, k).masked_fill(~mask, -math.inf).softmax(0),
        "the mask is the other way round: True marks what may be looked at.":
            lambda q, k, mask: scores(q, k).masked_fill(mask, -math.inf).softmax(1),
        "queries attend to the masked key: set its score to minus infinity before the softmax.":
            lambda q, k, mask: scores(q, k).softmax(1),
        "masked after the softmax, the rows no longer add up to one: mask before it.":
            lambda q, k, mask: scores(q, k).softmax(1) * mask,
    })  # fmt: skip


def lcl_block(x: torch.Tensor, b: Block, mask: torch.Tensor | None = None) -> torch.Tensor:
    """Apply lcl's block to tokens with padding: x (B, n, d), mask (B, n) bool or None → (B, n, d), zero at padding."""
    return b(x) if mask is None else unpack(b(pack(x, mask), mask), mask)


def _block(
    split: str = "heads", width: str = "head", masked: str = "padding", along: int = -1, merge: bool = True,
    add: bool = True, norm: str = "before", mlp_norm: bool = True, mlp_add: bool = True,
) -> Callable:  # fmt: skip
    """A block from scratch, with one of the typical mistakes where an argument is not the default."""

    def block(x: torch.Tensor, b: Block, mask: torch.Tensor | None = None) -> torch.Tensor:
        B, n, d = x.shape
        parts = b.queries_keys_values(b.norm_attention(x) if norm == "before" else x).chunk(3, dim=-1)
        if split == "heads":
            q, k, v = (part.reshape(B, n, b.heads, d // b.heads).transpose(1, 2) for part in parts)  # (B, h, n, d/h)
        else:
            q, k, v = (part.reshape(B, b.heads, n, d // b.heads) for part in parts)
        scores = q @ k.transpose(-1, -2) / math.sqrt({"head": d // b.heads, "all": d, "none": 1}[width])  # (B, h, n, n)
        if mask is not None and masked != "nothing":
            scores = scores.masked_fill((~mask if masked == "padding" else mask)[:, None, None, :], -math.inf)
        mixed = scores.softmax(along) @ v
        mixed = b.out((mixed.transpose(1, 2) if merge else mixed).reshape(B, n, d))
        x = x + mixed if add else mixed
        if norm == "after":
            x = b.norm_attention(x)
            return b.norm_mlp(x + b.mlp(x))
        return mlp_add * x + b.mlp(b.norm_mlp(x) if mlp_norm else x)

    return block


def block(mine: Callable) -> str:
    """Check `my_block(x, b, mask)` against lcl's block with the same weights; what stands at padding does not matter."""
    draw = torch.Generator().manual_seed(0)
    b = Block(width=12, heads=3)
    with torch.no_grad():
        for parameter in b.parameters():  # large enough for a mistake to show
            parameter.copy_(torch.randn(parameter.shape, generator=draw) * 0.5)
    mask = torch.arange(6) < torch.tensor([[6], [4]])  # (2, 6)
    cases = [
        (torch.randn(2, 5, 12, generator=draw), b, None),
        (torch.randn(2, 6, 12, generator=draw), b, mask),
    ]
    return check_function(mine, cases, lcl_block, {
        "divide the scores by √(d/h), where d/h is the width of one head.": _block(width="all"),
        "the scores are not divided: √(d/h) keeps the softmax from becoming too sharp.": _block(width="none"),
        "tokens attend to padding: where the mask is false, set the key's score to minus infinity.": _block(masked="nothing"),
        "the mask is the other way round: True marks tokens, False padding.": _block(masked="tokens"),
        "the softmax runs along the keys, which is the last axis of the scores.": _block(along=-2),
        "`view` cannot exchange axes: split the last axis in (h, d/h) first, then transpose heads and tokens.":
            _block(split="rows"),
        "before the heads are put side by side, transpose back: (B, h, n, d/h) → (B, n, h, d/h) → (B, n, d).":
            _block(merge=False),
        "add x to the output of attention; without this addition the block forgets its input.": _block(add=False),
        "add x to the output of the MLP as well, as it was before its norm.": _block(mlp_add=False),
        "the norms stand after the additions; here each part gets the normalised input (pre-norm).": _block(norm="after"),
        "attention gets x without its norm, `b.norm_attention`.": _block(norm="none"),
        "the MLP gets x without its norm, `b.norm_mlp`.": _block(mlp_norm=False),
    }, seen=lambda y: y[mask] if y.shape[1] == mask.shape[1] else y)  # fmt: skip


def largest(answer: Any, vit: nn.Module, patches: torch.Tensor) -> str:
    """Check how far shuffled patches move the pooled features of a ViT without positions.

    Args:
        answer: the largest difference.
        vit: the tower.
        patches: (B, n, 3·p·p).
    """
    order = torch.randperm(patches.shape[1], generator=torch.Generator().manual_seed(1))

    @torch.no_grad()
    def pooled(rows: torch.Tensor, positions: bool) -> torch.Tensor:
        x = rows @ vit.patches.weight.flatten(1).T + vit.patches.bias + positions * vit.positions
        for b in vit.blocks:
            x = b(x)
        return vit.norm(x).mean(1)

    plain, placed = pooled(patches, False), pooled(patches, True)
    return check(answer, 0.0, {
        "positions are still in it; use `pooled_without_positions`.": (placed - pooled(patches[:, order], True)).abs().max(),
        "those are different images; compare each with its own shuffled self.": (plain - plain.roll(1, 0)).abs().max(),
    }, 1e-3)  # fmt: skip


def masked_mean(mine: Callable) -> str:
    """Check `masked_mean(x, mask)`: (B, L, d), (B, L) bool → (B, d)."""
    x = torch.randn(3, 5, 4, generator=torch.Generator().manual_seed(0))
    mask = torch.arange(5) < torch.tensor([[5], [3], [1]])
    return check_function(mine, [(x, mask)], mean_over, {
        "padding counts, too: keep only the tokens where the mask is true.": lambda x, mask: x.mean(1),
        "the sum is right, but each caption is divided by L; divide by its own number of tokens.":
            lambda x, mask: (x * mask[..., None]).mean(1),
        "each caption is divided by the tokens of the whole batch; divide by its own number.":
            lambda x, mask: (x * mask[..., None]).sum(1) / mask.sum(),
        "that is the sum; a mean is divided by the number of tokens.": lambda x, mask: (x * mask[..., None]).sum(1),
    })  # fmt: skip


def parameters(answer: Any, reference: Block) -> str:
    """Check the number of parameters of a block."""
    d = reference.out.in_features
    return check(answer, sum(parameter.numel() for parameter in reference.parameters()), {
        "the biases are missing: 3d + d for attention, 4d + d for the MLP, and 4d for the norms.": 12 * d * d,
        "the norms are missing: two of 2d numbers each.": 12 * d * d + 9 * d,
    })  # fmt: skip
