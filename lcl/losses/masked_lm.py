"""Masked language modelling that may look at the image: what trains a short text tower to the full, and is then dropped.

(LightCLIP, arXiv 2312.00674, level three: an auxiliary module injects the image, unmasked, into the masked text "at
different network stages". One gated cross-attention block a layer, and gates that start at zero, are our reading.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import ModelConfig, require
from lcl.models.language import Inject
from lcl.models.layers import pack, unpack
from lcl.models.tokenizer import NOT_MASKED, Tokens
from lcl.models.vision import ImageFeatures

FIRST_SHARPNESS = 5.0  # factor of the cosines between a guess and the tokens; low, so that the first loss is near ln V


class FusionBlock(nn.Module):
    """x + tanh(gate) · (what text tokens find among the patches + what they are told of the image as a whole).

    The gate starts at zero, so the block as identity. The patches are asked by cross-attention; the whole is their
    maximum, feature by feature, for attention learns only slowly where to look. Every head asks the patches themselves,
    without projections for keys and values: q Wq (p Wk)ᵀ = q (Wq Wkᵀ) pᵀ, so one matrix can do the work of two, on the
    few tokens of a caption instead of the many patches.
    """

    def __init__(self, width: int, image_width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.norm_text, self.norm_image = nn.LayerNorm(width), nn.LayerNorm(image_width)
        self.queries = nn.Linear(width, heads * image_width)
        self.out = nn.Linear(heads * image_width, width)
        self.whole = nn.Linear(image_width, width)
        self.gate = nn.Parameter(torch.zeros(1))

    def forward(self, x: torch.Tensor, mask: torch.Tensor, patches: torch.Tensor) -> torch.Tensor:
        """x: (T, d) packed text tokens, mask: (B, L) where they belong, patches: (B, n, d_image) → (T, d)"""
        q = unpack(self.queries(self.norm_text(x)), mask).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        p = self.norm_image(patches)[:, None].expand(-1, self.heads, -1, -1)  # (B, h, n, d_image), as is q but for n = L
        seen = F.scaled_dot_product_attention(q, p, p).transpose(1, 2).flatten(2)  # (B, L, h · d_image)
        told = self.whole(self.norm_image(patches.amax(1)))  # (B, d)
        caption = mask.nonzero()[:, 0]  # (T,), whose token it is
        told = F.embedding(caption, told)  # told[caption], whose gradient several threads would add up in any order
        return x + torch.tanh(self.gate) * (self.out(pack(seen, mask)) + told)


class FusedMlm(nn.Module):
    """What masked language modelling adds to a pair of towers, in training only: fusion blocks and a vocabulary head.

    The head compares its guess with the embeddings of all tokens, by cosine, so that it need not learn the vocabulary
    anew (tied weights: Press and Wolf 2017, arXiv 1608.05859). No gradient passes to the embeddings on this way: what
    tells images apart should not be bent to what is easily guessed.

    layers: after which blocks of the text tower the image enters, counted from 1; () means after every one. A layer in
    the middle of the text reads from the middle of the image tower. Raises LclError for layers that do not exist.
    """

    def __init__(self, config: ModelConfig, language: nn.Module, image_width: int, layers: Sequence[int] = ()):
        super().__init__()
        depth = len(language.blocks)
        require(depth > 0, f"the text tower {config.language.tower!r} shows no blocks that an image could enter after.")
        layers = tuple(layers) or tuple(range(1, depth + 1))
        for layer in layers:
            require(1 <= layer <= depth, f"there is no layer {layer} to fuse after: the text tower has the layers 1 to {depth}.")
        self.depth = depth
        self.blocks = nn.ModuleDict({
            str(layer): FusionBlock(language.width, image_width, config.language.heads) for layer in layers
        })
        self.head = nn.Linear(language.width, language.tokens.weight.shape[1])  # as wide as the table
        self.bias = nn.Parameter(torch.zeros(config.language.vocab_size))
        self.sharpness = nn.Parameter(torch.tensor(FIRST_SHARPNESS).log())

    def inject(self, image: ImageFeatures, mask: torch.Tensor) -> Inject:
        """For every fused layer, how these images enter captions of this mask: what a text tower takes as `inject`."""

        def entering(layer: int, block: FusionBlock) -> Callable[[torch.Tensor], torch.Tensor]:
            stage = image.stages[math.ceil(layer * len(image.stages) / self.depth) - 1]  # the last reads the last
            return lambda x: block(x, mask, stage)

        return {int(layer): entering(int(layer), block) for layer, block in self.blocks.items()}

    def forward(
        self, language: nn.Module, tokens: Tokens, image: ImageFeatures | None, where: torch.Tensor
    ) -> torch.Tensor:
        """Guesses for the tokens at `where` (B, L) bool: logits (M, vocabulary). Without an image, from text alone."""
        x = language(tokens, self.inject(image, tokens.mask) if image is not None else None).token_features  # (B, L, d)
        guess, known = F.normalize(self.head(x[where]), dim=-1), F.normalize(language.tokens.weight.detach(), dim=-1)
        return self.sharpness.exp() * guess @ known.T + self.bias

    @property
    def gates(self) -> dict[int, float]:
        """How far each layer lets the image in, tanh(gate): -1 to 1, 0 before training."""
        return {int(layer): torch.tanh(block.gate).item() for layer, block in self.blocks.items()}


def masked_language(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """The cross-entropy of guessed tokens. logits: (M, vocabulary); targets: (B, L) int64, M of them not NOT_MASKED.

    Returns {"masked_language": scalar}, about ln of the vocabulary for a blind guess; 0 where nothing was masked.
    """
    wanted = targets[targets != NOT_MASKED]  # (M,)
    loss = F.cross_entropy(logits, wanted, reduction="sum") / max(len(wanted), 1)
    return {"masked_language": loss}
