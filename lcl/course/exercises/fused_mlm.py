"""The exercises of chapter 6: masked words that are predicted with the image."""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from lcl.bpe import MASK, SPECIAL
from lcl.course.checks import check, check_function
from lcl.losses.masked_lm import FusedMlm, FusionBlock, masked_language
from lcl.models.layers import pack, unpack, upcast
from lcl.models.tokenizer import NOT_MASKED, Tokens
from lcl.train.objectives import Objective, StepContext
from lcl.train.recipes import Recipe

Mask = Callable[..., tuple[torch.Tensor, torch.Tensor]]
Fuse = Callable[[torch.Tensor, torch.Tensor, FusionBlock], torch.Tensor]


def mask(
    ids: torch.Tensor, words: torch.Tensor, share: float, draw: torch.Tensor, fate: torch.Tensor, noise: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The solution of the exercise: mask whole words, as `lcl.models.tokenizer.mask_words` does.

    Args:
        ids: (B, L) int64, tokens.
        words: (B, L) int64, the number of a token's word in its caption; -1 at a token that belongs to no word.
        share: of a caption's words that are chosen, 0 to 1; at least one word is.
        draw: (B, m) in [0, 1), a number for every word; the lowest are chosen. A shorter caption does not use its last ones.
        fate: (B, m) in [0, 1): below 0.8 a chosen word becomes [MASK], below 0.9 random tokens, else it stays.
        noise: (B, L) int64, random tokens.

    Returns:
        The masked tokens and the targets, (B, L) int64 both: the true token where a word was chosen, NOT_MASKED elsewhere.
    """
    return _mask(ids, words, share, draw, fate, noise)


def _mask(ids, words, share, draw, fate, noise, least=1, shorter=True, no_word=True, twice=True, kinds=(0.8, 0.9)):
    """`mask`, or one of its typical mistakes, each by an option."""
    counts = words.amax(1) + 1  # (B,) words of a caption
    inside = (torch.arange(draw.shape[1]) < counts[:, None]) | (not shorter)  # (B, m) words that the caption has
    wanted = (share * counts).round().clamp(min=least)[:, None]  # (B, 1)
    rank = draw.masked_fill(~inside, torch.inf).argsort(1)  # (B, m)
    rank = rank.argsort(1) if twice else rank
    chosen = (rank < wanted) & inside
    at = words.clamp(min=0)  # -1 is no column
    hidden = chosen.gather(1, at) & ((words >= 0) | (not no_word))  # (B, L)
    fate = fate.gather(1, at)
    masked = torch.where(hidden & (fate < kinds[0]), SPECIAL.index(MASK), ids)
    masked = torch.where(hidden & (fate >= kinds[0]) & (fate < kinds[1]), noise, masked)
    return masked, torch.where(hidden, ids, NOT_MASKED)


def masking(function: Any) -> str:
    """Build: whole words are masked in the shares 80, 10 and 10 %; see `mask`."""

    def targets_everywhere(ids, *rest):
        return mask(ids, *rest)[0], ids

    def targets_after(ids, *rest):
        masked, targets = mask(ids, *rest)
        return masked, torch.where(targets == NOT_MASKED, NOT_MASKED, masked)

    def stays_and_noise(ids, words, share, draw, fate, noise):
        return mask(ids, words, share, draw, torch.where(fate < 0.8, fate, 1.8 - fate), noise)

    return check_function(function, [_captions(5, 0.15, 0), _captions(7, 0.5, 1)], mask, {
        "every chosen word becomes [MASK]; a tenth of them should become random tokens, and a tenth should stay.":
            lambda *case: _mask(*case, kinds=(1.0, 1.0)),
        "the targets are the true tokens; yours were taken after the masking.": targets_after,
        "only chosen tokens have a target; all others have NOT_MASKED.": targets_everywhere,
        "the word number -1 means no word: such a token must not share the fate of word 0.":
            lambda *case: _mask(*case, no_word=False),
        "a caption uses its own draws only: those beyond its last word must not be among the lowest.":
            lambda *case: _mask(*case, shorter=False),
        "a short caption has no chosen word; at least one should be.": lambda *case: _mask(*case, least=0),
        "argsort says which word has rank j; apply it twice to get the rank of word j.": lambda *case: _mask(*case, twice=False),
        "a fate from 0.8 to 0.9 means random tokens, and one above 0.9 means that the word stays.": stays_and_noise,
    })  # fmt: skip


def _captions(number: int, share: float, seed: int) -> tuple:
    """Arguments of `mask`: captions of 1 to 12 words, of 1 to 3 tokens each, with commas, special tokens and padding."""
    random = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (1,), generator=random))

    rows = []
    for caption in range(number):
        row = [-1]
        for word in range([1, 12, 7][caption] if caption < 3 else draw(1, 12)):
            row += [word] * draw(1, 3) + [-1] * (draw(1, 4) == 1)
        rows.append([*row, -1])
    words = nn.utils.rnn.pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=-1)
    ids, noise = torch.randint(len(SPECIAL), 400, (2, *words.shape), generator=random)
    words_of_all = int(words.max()) + 1
    return ids, words, share, *torch.rand(2, number, words_of_all, generator=random), noise


def mask_tokens(
    mask: Mask, tokens: Tokens, generator: torch.Generator, vocab_size: int, share: float = 0.15
) -> tuple[Tokens, torch.Tensor]:
    """Draw what `lcl.models.tokenizer.mask_words` draws, and mask by a function like `mask`, on the CPU.

    Args:
        mask: the function.
        tokens, generator, vocab_size, share: as in `mask_words`; equal states draw the same numbers in both.

    Returns:
        The masked tokens and the targets, (B, L) int64, on the device of the tokens.
    """
    words, device = tokens.words.cpu(), tokens.ids.device
    size = len(words), max(int(words.max()) + 1 if words.numel() else 0, 1)
    draw, fate = torch.rand(size, generator=generator), torch.rand(size, generator=generator)  # (B, m)
    noise = torch.randint(len(SPECIAL), vocab_size, words.shape, generator=generator)  # (B, L)
    ids, targets = mask(tokens.ids.cpu(), words, share, draw, fate, noise)
    return replace(tokens, ids=ids.to(device)), targets.to(device)


def masked_by(mask: Mask) -> Objective:
    """The objective "masked_language" with words that a function like `mask` masks; see `lcl.train.objectives`."""

    def objective(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
        vocabulary, share = context.model.config.language.vocab_size, recipe.mlm.share
        masked, targets = mask_tokens(mask, context.tokens, context.generator, vocabulary, share)
        with context.model.autocast():
            predict, image = context.extra["masked_language"], context.embeddings.image
            logits = predict(context.model.language, masked, image, targets != NOT_MASKED)
        return masked_language(upcast(logits), targets)

    return objective


def chance_level(answer: Any, vocabulary: int) -> str:
    """What is the loss of a model that knows nothing, with a vocabulary of so many tokens?"""
    return check(answer, math.log(vocabulary), {
        "that is the probability; the loss is minus its logarithm.": 1 / vocabulary,
        "natural logarithm, please: nats, not bits.": math.log2(vocabulary),
    }, tolerance=1e-3)  # fmt: skip


def gate(function: Any) -> str:
    """A gate: x, and the information y that a number g lets in, through tanh(g)."""
    random = torch.Generator().manual_seed(0)
    x, y = torch.randn(2, 2, 3, generator=random)
    return check_function(function, [(x, y, torch.tensor(g)) for g in (0.0, 0.7, -1.5)], lambda x, y, g: x + torch.tanh(g) * y, {
        "a sigmoid is 0.5 at zero: the gate would begin half open. Use tanh.": lambda x, y, g: x + torch.sigmoid(g) * y,
        "g itself has no limit; the gate is tanh(g), which stays between -1 and 1.": lambda x, y, g: x + g * y,
        "x should pass the gate untouched: add to it.": lambda x, y, g: torch.tanh(g) * y,
        "that is a mixture, which takes away from x what it gives y.":
            lambda x, y, g: (1 - torch.tanh(g)) * x + torch.tanh(g) * y,
    })  # fmt: skip


def fuse(x: torch.Tensor, patches: torch.Tensor, block: FusionBlock) -> torch.Tensor:
    """The solution of the exercise: what a `lcl.losses.masked_lm.FusionBlock` computes, from its weights.

    Args:
        x: (B, L, d), text tokens.
        patches: (B, n, d_image), of each caption's image.
        block: with norm_text, norm_image, queries, out, whole, gate and heads.

    Returns:
        (B, L, d).
    """
    return x + torch.tanh(block.gate) * _image(x, patches, block)


def _image(x, patches, block, scaled=True, over=-1, norm_first=False):
    """What the image adds to the tokens before the gate, (B, L, d); or a typical mistake, each by an option."""
    p = block.norm_image(patches)  # (B, n, d_image)
    q = block.queries(block.norm_text(x)).unflatten(-1, (block.heads, -1)).transpose(1, 2)  # (B, h, L, d_image)
    scores = q @ p[:, None].transpose(-1, -2)  # (B, h, L, n)
    attention = (scores / p.shape[-1] ** 0.5 if scaled else scores).softmax(over)
    seen = (attention @ p[:, None]).transpose(1, 2).flatten(2)  # (B, L, h · d_image)
    whole = p.amax(1) if norm_first else block.norm_image(patches.amax(1))  # (B, d_image)
    return block.out(seen) + block.whole(whole)[:, None]


def fusion(function: Any) -> str:
    """Build: one fusion block, from text tokens to text tokens that have seen the image; see `fuse`."""

    def mixed(x, patches, block):
        gate = torch.tanh(block.gate)
        return (1 - gate) * x + gate * _image(x, patches, block)

    def gated_whole(x, patches, block):
        patches_only = _image(x, patches, block) - block.whole(block.norm_image(patches.amax(1)))[:, None]
        return x + torch.tanh(block.gate) * patches_only

    def of(**options):
        return lambda x, patches, block: x + torch.tanh(block.gate) * _image(x, patches, block, **options)

    return check_function(function, [_fusion_case(0.7, 0), _fusion_case(-1.5, 1)], fuse, {
        "a sigmoid is 0.5 at zero: the gate would begin half open. Use tanh.":
            lambda x, patches, block: x + torch.sigmoid(block.gate) * _image(x, patches, block),
        "g itself has no limit; the gate is tanh(g), which stays between -1 and 1.":
            lambda x, patches, block: x + block.gate * _image(x, patches, block),
        "the gate is missing: multiply what the image adds by tanh(block.gate).":
            lambda x, patches, block: x + _image(x, patches, block),
        "x should pass the gate untouched: add to it.":
            lambda x, patches, block: torch.tanh(block.gate) * _image(x, patches, block),
        "that is a mixture, which takes away from x what it gives the image.": mixed,
        "divide the scores by the square root of the patches' width before the softmax.": of(scaled=False),
        "each word divides its attention among the patches: the softmax is over the patches, not over the words.": of(over=-2),
        "take the maximum over the patches as they come, and norm it afterwards.": of(norm_first=True),
        "the image as a whole is missing: add block.whole of the maximum over the patches.": gated_whole,
    })  # fmt: skip


def _fusion_case(gate: float, seed: int) -> tuple:
    """Arguments of `fuse`: two captions of three tokens, two images of five patches, and a block with an open gate."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        block = FusionBlock(width=8, image_width=6, heads=2).requires_grad_(False)
        block.gate.fill_(gate)
        return 2 * torch.randn(2, 3, 8), 2 * torch.randn(2, 5, 6), block


def fuse_with(mlm: FusedMlm, fuse: Fuse) -> None:
    """Let a function like `fuse` compute every fusion block of `mlm` from now on; the weights stay where they are."""
    for block in mlm.blocks.values():
        block.forward = _padded(fuse, block)


def _padded(fuse: Fuse, block: FusionBlock) -> Callable:
    """`FusionBlock.forward`, which takes packed tokens, by a function that takes padded ones."""
    return lambda x, mask, patches: pack(fuse(unpack(x, mask), patches, block), mask)


def dropped(answer: Any, mlm: nn.Module, towers: nn.Module) -> str:
    """How many parameters does the training-only part have, as a share of those of the towers?"""
    extra, kept = (sum(parameter.numel() for parameter in module.parameters()) for module in (mlm, towers))
    return check(answer, extra / kept, {
        "that is the share of the sum of both; compare with the towers alone.": extra / (kept + extra),
        "the other way round.": kept / extra,
    }, tolerance=1e-3)  # fmt: skip
