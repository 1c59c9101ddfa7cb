"""Objectives of a training run: each turns what one step shows into a named scalar. A recipe weighs them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn

from lcl.losses.contrastive import info_nce, ramp, sigmoid_loss, soft_info_nce
from lcl.losses.masked_lm import masked_language
from lcl.losses.matching import SOLVERS, matched_contrast, token_similarity
from lcl.losses.neighbours import NeighbourFeatures, image_teacher, nn_contrast, other_xnn, text_teacher, xnn_contrast
from lcl.machine import to_device
from lcl.models.clip import Clip, Embeddings
from lcl.models.layers import upcast
from lcl.models.tokenizer import NOT_MASKED, Tokens, mask_words

if TYPE_CHECKING:
    from lcl.train.recipes import Recipe


@dataclass(frozen=True)
class StepContext:
    """What objectives may use in one step of training.

    Attributes:
        model: the pair of towers.
        extra: the recipe's training-only modules, by name.
        embeddings: the batch's embeddings and the towers' outputs.
        tokens: of the batch's captions, on the CPU, so that nothing waits for a GPU.
        progress: share of the training that is done, 0 to 1.
        generator: for what is random in this step, on the CPU.
        neighbours: features of the batch's neighbours in the shared space, if the recipe needs a teacher.
        rows: slice of queries to score (default: all); see `info_nce`.
    """

    model: Clip
    extra: nn.ModuleDict
    embeddings: Embeddings
    tokens: Tokens
    progress: float
    generator: torch.Generator
    neighbours: NeighbourFeatures | None = None
    rows: slice | None = None


def _info_nce(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    v, t, logit_scale, *_ = context.embeddings
    return info_nce(v, t, logit_scale, context.rows)


def _soft_info_nce(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    soft, (v, t, logit_scale, *_) = recipe.soft, context.embeddings
    alpha = ramp(soft.schedule, soft.alpha_max, context.progress)
    return soft_info_nce(v, t, logit_scale, alpha, soft.temperature, context.rows, soft.within_modality)


def _sigmoid(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    v, t, logit_scale, *_ = context.embeddings
    return sigmoid_loss(v, t, logit_scale, context.extra["sigmoid"].bias, context.rows)


def _queue_contrast(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    v, t, logit_scale, *_ = context.embeddings
    near = context.extra["queue"](t)  # (B, d)
    return {"queue_contrast": info_nce(v, near, logit_scale, context.rows)["info_nce"]}


def _matched_contrast(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    match, (patches, words, real) = recipe.match, _patches_and_words(recipe, context)
    s = context.embeddings.v @ context.embeddings.t.T  # (B, B)
    if match.random_negatives:  # "the most similar" of random similarities
        s = to_device(torch.rand(s.shape, generator=context.generator), s.device)
    caption = to_device(context.tokens.ids.unique(dim=0, return_inverse=True)[1], s.device)  # (B,), equal for equal captions
    same = caption[:, None] == caption  # (B, B)
    return matched_contrast(patches, words, real, s, match.scale, match.negatives, match.unmatched_cost, match.solver, same)


def _matched_cost(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    match, (patches, words, real) = recipe.match, _patches_and_words(recipe, context)
    own = torch.arange(len(words), device=words.device)
    similarity, _ = token_similarity(patches, words, real, own, own, match.unmatched_cost, SOLVERS[match.solver])
    return {"matched_cost": 1 - similarity.mean()}


def _patches_and_words(recipe: Recipe, context: StepContext) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    patches = context.model.embed_patches(context.embeddings.image)
    tokens = context.tokens.content() if recipe.match.content_words else context.tokens
    return patches, *context.model.embed_words(context.embeddings.text, tokens)


def _masked_language(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    masked, targets = mask_words(context.tokens, context.generator, context.model.config.language.vocab_size, recipe.mlm.share)
    with context.model.autocast():
        logits = context.extra["masked_language"](context.model.language, masked, context.embeddings.image, targets != NOT_MASKED)
    return masked_language(upcast(logits), targets)


Objective = Callable[["Recipe", StepContext], dict[str, torch.Tensor]]


def _of_neighbours(contrast: Callable[..., dict[str, torch.Tensor]]) -> Objective:
    def objective(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
        v, t, logit_scale, *_ = context.embeddings
        return contrast(v, t, context.neighbours, logit_scale, context.rows)

    return objective


OBJECTIVES: dict[str, Objective] = {
    "info_nce": _info_nce,
    "soft_info_nce": _soft_info_nce,
    "sigmoid": _sigmoid,
    "matched_contrast": _matched_contrast,
    "matched_cost": _matched_cost,
    "masked_language": _masked_language,
    "queue_contrast": _queue_contrast,
    "nn_contrast": _of_neighbours(nn_contrast),
    "xnn_contrast": _of_neighbours(xnn_contrast),
    "other_xnn": _of_neighbours(other_xnn),
    "image_teacher": _of_neighbours(image_teacher),
    "text_teacher": _of_neighbours(text_teacher),
}
"""All objectives, from a step's context to named scalars."""

NEEDS_TEACHER = {"nn_contrast", "xnn_contrast", "other_xnn", "image_teacher", "text_teacher"}
"""Objectives that use neighbours."""

PAIRWISE = {"info_nce", "soft_info_nce", "sigmoid", "queue_contrast"} | NEEDS_TEACHER
"""Objectives that compare every pair with every other of the batch, by their embeddings only."""
