"""Masked language modelling with image fusion: it trains a short text tower, and is dropped afterwards.

(LightCLIP, arXiv 2312.00674, MLM level: an auxiliary fusion module injects the unmasked image embedding into the masked text
"at different network stages". One gated cross-attention block a layer, with gates that start at zero, is our reading.)
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import ModelConfig, require
from lcl.machine import to_device
from lcl.models.language import Inject
from lcl.models.layers import pack, unpack
from lcl.models.tokenizer import NOT_MASKED, Tokens
from lcl.models.vision import ImageFeatures

FIRST_SHARPNESS = 5.0  # factor of the cosines between prediction and tokens; low, so the first loss is near ln V


class FusionBlock(nn.Module):
    """x + tanh(gate) · (cross-attention over the patches + a projection of the image as a whole).

    The gate starts at zero, so the block starts as the identity. The image as a whole is the maximum over the patches,
    feature by feature, since attention learns only slowly where to look. Heads attend to the patches themselves, without
    projections for keys and values: q Wq (p Wk)ᵀ = q (Wq Wkᵀ) pᵀ, so one matrix does the work of two, on the few tokens of a
    caption instead of the many patches.
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
        """x: text tokens, (T, d) packed or (B, L, d); mask: (B, L); patches: (B, n, d_image). Returns the shape of x."""
        q, packed = self.queries(self.norm_text(x)), x.ndim == 2
        q = (unpack(q, mask) if packed else q).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        p = self.norm_image(patches)[:, None].expand(
            -1, self.heads, -1, -1
        )  # (B, h, n, d_image), as is q but for n = L
        seen = F.scaled_dot_product_attention(q, p, p).transpose(1, 2).flatten(2)  # (B, L, h · d_image)
        whole = self.whole(self.norm_image(patches.amax(1)))  # (B, d)
        if packed:
            caption = mask.nonzero()[:, 0]  # (T,), the caption of every token
            whole = F.embedding(caption, whole)  # whole[caption], but with a gradient that is summed in a fixed order
        else:
            whole = whole[:, None]
        return x + torch.tanh(self.gate) * (self.out(pack(seen, mask)) + whole)


class FusedMlm(nn.Module):
    """The training-only part of masked language modelling: fusion blocks and a vocabulary head.

    The head compares its prediction with the embeddings of all tokens by cosine (tied weights: Press and Wolf 2017, arXiv
    1608.05859). No gradient flows to these embeddings on this way, so that they keep telling images apart.

    Args:
        config: of the pair of towers.
        language: the text tower.
        image_width: of the image tower.
        layers: blocks of the text tower after which the image enters, counted from 1; () means all. A layer in the middle
            of the text tower reads from the middle of the image tower.

    Raises:
        LclError: for layers that do not exist.
    """

    def __init__(self, config: ModelConfig, language: nn.Module, image_width: int, layers: Sequence[int] = ()):
        super().__init__()
        depth = len(language.blocks)
        require(depth > 0, f"the text tower {config.language.tower!r} shows no blocks that an image could enter after.")
        layers = tuple(layers) or tuple(range(1, depth + 1))
        for layer in layers:
            require(
                1 <= layer <= depth,
                f"there is no layer {layer} to fuse after: the text tower has the layers 1 to {depth}.",
            )
        self.depth = depth
        self.blocks = nn.ModuleDict(
            {str(layer): FusionBlock(language.width, image_width, config.language.heads) for layer in layers}
        )
        self.head = nn.Linear(language.width, language.tokens.weight.shape[1])  # as wide as the table
        self.bias = nn.Parameter(torch.zeros(config.language.vocab_size))
        self.sharpness = nn.Parameter(torch.tensor(FIRST_SHARPNESS).log())

    def inject(self, image: ImageFeatures, mask: torch.Tensor) -> Inject:
        """For every fused layer, how these images enter captions of this mask: the `inject` of a text tower."""

        def entering(layer: int, block: FusionBlock) -> Callable[[torch.Tensor], torch.Tensor]:
            stage = image.stages[math.ceil(layer * len(image.stages) / self.depth) - 1]  # the last reads the last
            return lambda x: block(x, mask, stage)

        return {int(layer): entering(int(layer), block) for layer, block in self.blocks.items()}

    def forward(
        self, language: nn.Module, tokens: Tokens, image: ImageFeatures | None, where: torch.Tensor
    ) -> torch.Tensor:
        """Logits (M, vocabulary) for the M tokens at `where`, (B, L) bool; without an image, from the text only.

        If `tokens` and `where` are on the CPU, the host waits for no GPU.
        """
        tokens = tokens.to(self.bias.device)
        x = language(tokens, self.inject(image, tokens.mask) if image is not None else None).token_features  # (B, L, d)
        chosen = x.flatten(0, 1).index_select(0, to_device(where.flatten().nonzero()[:, 0], x.device))  # (M, d)
        guess, known = F.normalize(self.head(chosen), dim=-1), F.normalize(language.tokens.weight.detach(), dim=-1)
        return self.sharpness.exp() * guess @ known.T + self.bias

    @property
    def gates(self) -> dict[int, float]:
        """tanh(gate) by layer: -1 to 1, 0 before training."""
        return {int(layer): torch.tanh(block.gate).item() for layer, block in self.blocks.items()}


def masked_language(logits: torch.Tensor, targets: torch.Tensor) -> dict[str, torch.Tensor]:
    """Cross-entropy of the masked tokens.

    Args:
        logits: (M, vocabulary) float.
        targets: (B, L) int64, M of them not NOT_MASKED; best on the CPU, where their number is known without a wait.

    Returns:
        {"masked_language": scalar}, ln of the vocabulary's size at chance level; 0 where nothing was masked.
    """
    wanted = to_device(targets[targets != NOT_MASKED], logits.device)  # (M,)
    loss = F.cross_entropy(logits, wanted, reduction="sum") / max(len(wanted), 1)
    return {"masked_language": loss}
