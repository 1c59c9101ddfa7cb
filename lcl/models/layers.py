"""The parts of both towers: a transformer block, and packing, which saves the work on padding."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint


def pack(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """All captions' tokens in one sequence, without padding: x (B, L, d) and mask (B, L) bool → (T, d).

    On a GPU x is returned as it is: the host would have to wait for T, and a GPU hardly notices the padding.
    """
    return x if x.is_cuda else x.flatten(0, 1).index_select(0, mask.flatten().nonzero()[:, 0])


def unpack(x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
    """The inverse of `pack`, with zeros at the padding: (T, d) → (B, L, d)."""
    if x.ndim == 3:  # was not packed
        return x.masked_fill(~mask[..., None], 0.0)
    padded = x.new_zeros(mask.numel(), x.shape[-1]).index_copy(0, mask.flatten().nonzero()[:, 0], x)
    return padded.view(*mask.shape, x.shape[-1])


def upcast(x: torch.Tensor) -> torch.Tensor:
    """Upcast half precision to float32; leave float32 and float64 unchanged."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


class Block(nn.Module):
    """A pre-norm transformer block, for images and text alike: x + attention(norm(x)), then x + mlp(norm(x)).

    With `activation_checkpointing` it keeps only its input for the backward pass and computes the rest again there (Chen et
    al. 2016, arXiv 1604.06174).
    """

    activation_checkpointing = False

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_attention = nn.LayerNorm(width)
        self.queries_keys_values = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.norm_mlp = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width))

    def forward(self, x: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
        """x: (B, n, d), or packed tokens (T, d); mask: (B, L) bool of captions, false at padding. Returns the shape of x."""
        if self.activation_checkpointing and torch.is_grad_enabled():
            return checkpoint(self._forward, x, mask, use_reentrant=False, preserve_rng_state=False)  # nothing is random
        return self._forward(x, mask)

    def _forward(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        x = x + self.attend(self.norm_attention(x), mask)
        return x + self.mlp(self.norm_mlp(x))

    def attend(self, x: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
        qkv, packed = self.queries_keys_values(x), x.ndim == 2
        if packed:  # tokens attend to their own caption, and never to padding
            qkv = unpack(qkv, mask)  # (B, L, 3d)
        q, k, v = (each.unflatten(-1, (self.heads, -1)).transpose(1, 2) for each in qkv.chunk(3, -1))  # (B, h, n, d/h)
        visible = None if mask is None else mask[:, None, None, :]  # (B, 1, 1, L): the same for every head and query
        mixed = F.scaled_dot_product_attention(q, k, v, attn_mask=visible).transpose(1, 2).flatten(2)  # (B, n, d)
        return self.out(pack(mixed, mask) if packed else mixed)
