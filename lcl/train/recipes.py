"""A method is a recipe: named objectives, each with a weight. All weights and schedules stand in this file."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from lcl.config import choose, positive, require
from lcl.losses.contrastive import SCHEDULES, info_nce, ramp, soft_info_nce
from lcl.losses.masked_lm import FusedMlm, masked_language
from lcl.losses.matching import SOLVERS, matched_contrast
from lcl.losses.neighbours import NeighbourFeatures, Projections, nn_contrast, xnn_contrast
from lcl.models.clip import Clip, Embeddings
from lcl.models.layers import upcast
from lcl.models.tokenizer import NOT_MASKED, Tokens, mask_words
from lcl.teachers.encoders import IMAGE_ENCODER, TEXT_ENCODER


@dataclass(frozen=True)
class SoftConfig:
    """Softened labels. The negatives' share grows from 0 to `alpha_max` by the schedule; see `losses.contrastive.ramp`.

    Late and sharp: with a linear ramp, alpha_max 0.2 and temperature 0.1 cost four to six points of recall@1, 0.1 and 0.05
    three (trials of half the steps, one seed each).
    """

    alpha_max: float = 0.1
    schedule: str = "cosine"
    temperature: float = 0.05  # of the softmax over the negatives' cosines

    def __post_init__(self):
        require(0 <= self.alpha_max <= 1, f"alpha_max is a share of the label, 0 to 1, not {self.alpha_max}.")
        choose("schedule", self.schedule, SCHEDULES)
        positive(self, "temperature")


@dataclass(frozen=True)
class MatchConfig:
    """Words matched to patches; see `losses.matching.matched_contrast`."""

    solver: str = "exact"
    negatives: int = 4  # hardest negatives a pair, each way
    unmatched_cost: float = 1.0  # of a word without a patch; 1.0: only patches of positive cosine are matched
    scale: float = 10.0  # of the logits

    def __post_init__(self):
        choose("solver", self.solver, SOLVERS)
        require(self.negatives >= 1, f"the number of negatives must be 1 or more, not {self.negatives}.")
        limits = "the unmatched cost must be a number, or infinity to match every word"
        require(self.unmatched_cost > -math.inf, f"{limits}, not {self.unmatched_cost}.")
        positive(self, "scale")


@dataclass(frozen=True)
class MlmConfig:
    """Masked words predicted with the image; see `models.tokenizer.mask_words` and `losses.masked_lm.FusedMlm`."""

    share: float = 0.15  # of a caption's words
    layers: tuple[int, ...] = ()  # of the text tower; () means all

    def __post_init__(self):
        require(0 <= self.share <= 1, f"the share of words to mask must lie between 0 and 1, not {self.share}.")


@dataclass(frozen=True)
class PingConfig:
    """Neighbours from frozen teachers; see `teachers.teacher`."""

    image_encoder: str = IMAGE_ENCODER
    text_encoder: str = TEXT_ENCODER
    image_size: int = 128  # pixels that the image encoder sees
    live: bool = False  # an active teacher on augmented views, with a queue of its features
    queue: int = 4096  # rows; of the live teacher only

    def __post_init__(self):
        positive(self, "image_size", "queue")


@dataclass(frozen=True)
class StepContext:
    """What objectives may use in one step of training.

    Attributes:
        model: the pair of towers.
        extra: the recipe's training-only modules, by name.
        embeddings: the batch's embeddings and the towers' outputs.
        tokens: of the batch's captions.
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


@dataclass(frozen=True)
class Recipe:
    """A method: total loss = Σ weight · objective.

    Attributes:
        name: of the method.
        weights: by objective, each 0 or more.
        source: where the method was published.
        warmup: by objective, the share of the training over which its weight grows from zero, 0 to 1.
        fade: by objective, the power of (1 - progress) by which its weight falls: 1 is linear, 2 falls faster at first.
        soft, match, mlm, ping: settings of the objectives.
    """

    name: str
    weights: dict[str, float]
    source: str
    warmup: dict[str, float] = field(default_factory=dict)
    fade: dict[str, float] = field(default_factory=dict)
    soft: SoftConfig = SoftConfig()
    match: MatchConfig = MatchConfig()
    mlm: MlmConfig = MlmConfig()
    ping: PingConfig = PingConfig()

    def __post_init__(self):
        require(bool(self.weights), f"the recipe {self.name!r} has no objective.")
        for name in self.weights:
            choose("objective", name, OBJECTIVES)
        for name, weight in self.weights.items():
            require(0 <= weight < math.inf, f"the weight of {name} must be 0 or more, not {weight}.")
        for name, start in self.warmup.items():
            choose("objective", name, self.weights)
            require(0 <= start <= 1, f"the warm-up of {name} is a share of the training, 0 to 1, not {start}.")
        for name, power in self.fade.items():
            choose("objective", name, self.weights)
            require(0 <= power < math.inf, f"the fade of {name} is a power, 0 or more, not {power}.")

    def loss(
        self, context: StepContext, names: Sequence[str] | None = None
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted total and its parts before weighting, scalars; of the objectives `names` (default: all)."""
        parts: dict[str, torch.Tensor] = {}
        names = self.weights if names is None else names
        for name in names:
            parts |= OBJECTIVES[name](self, context)
        return sum(self.weight(name, context.progress) * parts[name] for name in names), parts

    def weight(self, name: str, progress: float) -> float:
        """An objective's weight when `progress` (0 to 1) of the training is done."""
        start = self.warmup.get(name, 0.0)
        rise = min(1.0, progress / start) if start else 1.0
        return self.weights[name] * rise * (1 - progress) ** self.fade.get(name, 0.0)

    @property
    def needs_teacher(self) -> bool:
        """Does an objective use neighbours?"""
        return not NEEDS_TEACHER.isdisjoint(self.weights)

    def chance_losses(self, batch_size: int, vocab_size: int) -> dict[str, float]:
        """Each part of the loss at chance level, that is with uniform predictions: by objective, in nats."""
        choices = {"matched_contrast": 1 + min(self.match.negatives, batch_size - 1), "masked_language": vocab_size}
        return {name: math.log(choices.get(name, batch_size)) for name in self.weights}

    def make_extra(self, model: Clip, dims: Sequence[int] = ()) -> nn.ModuleDict:
        """New training-only modules, on the CPU: "masked_language", "projections".

        Args:
            model: the pair of towers.
            dims: of the teacher's image and text features, if the recipe needs a teacher.
        """
        extra = nn.ModuleDict()
        if "masked_language" in self.weights:
            extra["masked_language"] = FusedMlm(model.config, model.language, model.vision.width, self.mlm.layers)
        if self.needs_teacher:
            require(len(dims) == 2, f"the recipe {self.name!r} needs a teacher: give the dimensions of its two features.")
            extra["projections"] = Projections(*dims, model.config.embed_dim)
        return extra


def _info_nce(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    v, t, logit_scale, *_ = context.embeddings
    return info_nce(v, t, logit_scale, context.rows)


def _soft_info_nce(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    alpha = ramp(recipe.soft.schedule, recipe.soft.alpha_max, context.progress)
    v, t, logit_scale, *_ = context.embeddings
    return soft_info_nce(v, t, logit_scale, alpha, recipe.soft.temperature, context.rows)


def _matched_contrast(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    patches = context.model.embed_patches(context.embeddings.image)
    words, real = context.model.embed_words(context.embeddings.text, context.tokens)
    settings = recipe.match
    s = context.embeddings.v @ context.embeddings.t.T  # (B, B)
    return matched_contrast(
        patches, words, real, s, settings.scale, settings.negatives, settings.unmatched_cost, settings.solver
    )


def _masked_language(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    masked, targets = mask_words(context.tokens, context.generator, context.model.config.language.vocab_size, recipe.mlm.share)
    with context.model.autocast():
        logits = context.extra["masked_language"](context.model.language, masked, context.embeddings.image, targets != NOT_MASKED)
    return masked_language(upcast(logits), targets)


def _nn_contrast(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    v, t, logit_scale, *_ = context.embeddings
    return nn_contrast(v, t, context.neighbours, logit_scale, context.rows)


def _xnn_contrast(recipe: Recipe, context: StepContext) -> dict[str, torch.Tensor]:
    v, t, logit_scale, *_ = context.embeddings
    return xnn_contrast(v, t, context.neighbours, logit_scale, context.rows)


OBJECTIVES: dict[str, Callable[[Recipe, StepContext], dict[str, torch.Tensor]]] = {
    "info_nce": _info_nce,
    "soft_info_nce": _soft_info_nce,
    "matched_contrast": _matched_contrast,
    "masked_language": _masked_language,
    "nn_contrast": _nn_contrast,
    "xnn_contrast": _xnn_contrast,
}
"""All objectives, from a step's context to named scalars."""

NEEDS_TEACHER = {"nn_contrast", "xnn_contrast"}
"""Objectives that use neighbours."""

PAIRWISE = {"info_nce", "soft_info_nce", "nn_contrast", "xnn_contrast"}
"""Objectives that compare every pair with every other of the batch, by their embeddings only."""

CLIP = "Radford et al. 2021, arXiv 2103.00020"
LIGHTCLIP = "LightCLIP, arXiv 2312.00674"
PING = "CLIP-PING, arXiv 2412.03871"
MATCH, MLM = {"matched_contrast": 1.0}, {"masked_language": 0.5}
# Neighbours show early which objects are alike, but they are not the pair: their positions and backgrounds differ. So their
# weight is large at first and falls to zero (our choice; the paper's abstract names no schedule). Trials, seed 0, recall@1 both
# ways: clip 69/68; weight 1 falling as (1 - p)² 80/79, linear 78/74, constant 72/65; weight 0.5 linear 80/76, constant 75/71;
# 0.75, zero from 70 % of the training on, 80/78.
NN, XNN = {"nn_contrast": 1.0}, {"xnn_contrast": 1.0}
NN_LEAVES, XNN_LEAVES = {"nn_contrast": 2.0}, {"xnn_contrast": 2.0}
SLOWLY = {"matched_contrast": 0.5}  # at full weight from the start all embeddings collapse: no negative is hard yet

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("clip", {"info_nce": 1.0}, CLIP),
        Recipe("clip+soft", {"soft_info_nce": 1.0}, f"{LIGHTCLIP}, instance level alone"),
        Recipe("clip+match", {"info_nce": 1.0} | MATCH, f"{LIGHTCLIP}, token level alone", SLOWLY),
        Recipe("clip+mlm", {"info_nce": 1.0} | MLM, f"{LIGHTCLIP}, MLM level alone"),
        Recipe("lightclip", {"soft_info_nce": 1.0} | MATCH | MLM, LIGHTCLIP, SLOWLY),
        Recipe("clip+nn", {"info_nce": 1.0} | NN, f"{PING}, nearest neighbours alone", fade=NN_LEAVES),
        Recipe("clip+xnn", {"info_nce": 1.0} | XNN, f"{PING}, cross nearest neighbours alone", fade=XNN_LEAVES),
        Recipe("clip-ping", {"info_nce": 1.0} | NN | XNN, PING, fade=NN_LEAVES | XNN_LEAVES),
        Recipe(
            "a-clip-ping",
            {"info_nce": 1.0} | NN | XNN,
            f"{PING}, with active teachers",
            fade=NN_LEAVES | XNN_LEAVES,
            ping=PingConfig(live=True),
        ),
        Recipe(
            "lightclip-ping",
            {"soft_info_nce": 1.0} | MATCH | MLM | NN | XNN,
            f"ours: {LIGHTCLIP}, and {PING}",
            SLOWLY,
            NN_LEAVES | XNN_LEAVES,
        ),
    )
}


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`. Raises LclError, with the near names, if there is none."""
    return RECIPES[choose("recipe", name, RECIPES)]
