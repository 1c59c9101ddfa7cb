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
from lcl.models.clip import Clip, Embeddings
from lcl.models.layers import full
from lcl.models.tokenizer import NOT_MASKED, Tokens, mask_words
from lcl.teachers.encoders import IMAGE_ENCODER, TEXT_ENCODER
from lcl.teachers.teacher import Near, Projections, nn_contrast, xnn_contrast


@dataclass(frozen=True)
class SoftConfig:
    """Softened labels. The negatives' share grows from 0 to `alpha_max` by the schedule; see `contrastive.ramp`.

    Late and sharp: with a straight ramp, α_max 0.2 and temperature 0.1 cost four to six points of recall@1, 0.1 and 0.05
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
    """Words matched to patches; see `matching.matched_contrast`."""

    solver: str = "exact"
    negatives: int = 4  # a pair is contrasted with so many, each way
    price: float = 1.0  # of the dustbin: a word looks for a patch of positive cosine
    scale: float = 10.0  # of the logits

    def __post_init__(self):
        choose("solver", self.solver, SOLVERS)
        require(self.negatives >= 1, f"the number of negatives must be 1 or more, not {self.negatives}.")
        limits = "the price of the dustbin must be a number, or infinity for no dustbin"
        require(self.price > -math.inf, f"{limits}, not {self.price}.")
        positive(self, "scale")


@dataclass(frozen=True)
class MlmConfig:
    """Words masked and guessed with the image; see `text.mask_words` and `fusion.FusedMlm`."""

    share: float = 0.15  # of a caption's words
    layers: tuple[int, ...] = ()  # of the text tower; () means all

    def __post_init__(self):
        require(0 <= self.share <= 1, f"the share of words to mask must lie between 0 and 1, not {self.share}.")


@dataclass(frozen=True)
class PingConfig:
    """Neighbours as guidance; see `guidance`. live: an active teacher on augmented views, with a queue of its features."""

    image_encoder: str = IMAGE_ENCODER
    text_encoder: str = TEXT_ENCODER
    image_size: int = 128  # pixels that the image encoder looks at
    live: bool = False
    queue: int = 4096  # rows; of the live teacher only

    def __post_init__(self):
        positive(self, "image_size", "queue")


@dataclass(frozen=True)
class Moment:
    """What objectives may look at in one step of training.

    progress: share of the training that is done, 0 to 1. generator: for what is random in this step, on the CPU.
    extra: the recipe's modules that exist in training only, by name. near: features of the batch's neighbours, projected
    into the shared space, if any objective asks for them. mine: the rows that ask, if not all; see `info_nce`.
    """

    model: Clip
    extra: nn.ModuleDict
    seen: Embeddings
    tokens: Tokens
    progress: float
    generator: torch.Generator
    near: Near | None = None
    mine: slice | None = None


@dataclass(frozen=True)
class Recipe:
    """A method: total loss = Σ weight · objective. `source` says where it was published.

    warmup: for some objectives the share of the training over which the weight grows from zero, 0 to 1.
    fade: for some objectives the power of (1 - progress) that the weight falls by: 1 is a straight line to zero, 2 a curve
    that leaves early.
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

    def loss(self, now: Moment, names: Sequence[str] | None = None) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The weighted total, and its parts before weighting; scalars. names: of the objectives to add up, all if None."""
        parts: dict[str, torch.Tensor] = {}
        names = self.weights if names is None else names
        for name in names:
            parts |= OBJECTIVES[name](self, now)
        return sum(self.weight(name, now.progress) * parts[name] for name in names), parts

    def weight(self, name: str, progress: float) -> float:
        """An objective's weight when `progress` (0 to 1) of the training is done."""
        start = self.warmup.get(name, 0.0)
        rise = min(1.0, progress / start) if start else 1.0
        return self.weights[name] * rise * (1 - progress) ** self.fade.get(name, 0.0)

    @property
    def guided(self) -> bool:
        """Does an objective ask for neighbours?"""
        return not GUIDED.isdisjoint(self.weights)

    def guesses(self, batch_size: int, vocab_size: int) -> dict[str, float]:
        """What each part of the loss would be for a model that knows nothing, in nats: by objective."""
        among = {"matched_contrast": 1 + min(self.match.negatives, batch_size - 1), "masked_language": vocab_size}
        return {name: math.log(among.get(name, batch_size)) for name in self.weights}

    def make_extra(self, model: Clip, widths: Sequence[int] = ()) -> nn.ModuleDict:
        """The modules that exist in training only: "masked_language", "projections"; new, on the CPU.

        widths: dimensions of the image and the text features of the neighbours, where the recipe is guided.
        """
        extra = nn.ModuleDict()
        if "masked_language" in self.weights:
            extra["masked_language"] = FusedMlm(model.config, model.language, model.vision.width, self.mlm.layers)
        if self.guided:
            require(len(widths) == 2, f"the recipe {self.name!r} is guided: say how wide its neighbours' features are.")
            extra["projections"] = Projections(*widths, model.config.embed_dim)
        return extra


def _info_nce(recipe: Recipe, now: Moment) -> dict[str, torch.Tensor]:
    return info_nce(now.seen.v, now.seen.t, now.seen.logit_scale, now.mine)


def _soft_info_nce(recipe: Recipe, now: Moment) -> dict[str, torch.Tensor]:
    alpha = ramp(recipe.soft.schedule, recipe.soft.alpha_max, now.progress)
    return soft_info_nce(now.seen.v, now.seen.t, now.seen.logit_scale, alpha, recipe.soft.temperature, now.mine)


def _matched_contrast(recipe: Recipe, now: Moment) -> dict[str, torch.Tensor]:
    patches = now.model.embed_patches(now.seen.image)
    words, real = now.model.embed_words(now.seen.text, now.tokens)
    settings = recipe.match
    return matched_contrast(
        patches,
        words,
        real,
        now.seen.v @ now.seen.t.T,
        settings.scale,
        settings.negatives,
        settings.price,
        settings.solver,
    )


def _masked_language(recipe: Recipe, now: Moment) -> dict[str, torch.Tensor]:
    masked, targets = mask_words(now.tokens, now.generator, now.model.config.language.vocab_size, recipe.mlm.share)
    with now.model.mixed():
        logits = now.extra["masked_language"](now.model.language, masked, now.seen.image, targets != NOT_MASKED)
    return masked_language(full(logits), targets)


def _nn_contrast(recipe: Recipe, now: Moment) -> dict[str, torch.Tensor]:
    return nn_contrast(now.seen.v, now.seen.t, now.near, now.seen.logit_scale, now.mine)


def _xnn_contrast(recipe: Recipe, now: Moment) -> dict[str, torch.Tensor]:
    return xnn_contrast(now.seen.v, now.seen.t, now.near, now.seen.logit_scale, now.mine)


OBJECTIVES: dict[str, Callable[[Recipe, Moment], dict[str, torch.Tensor]]] = {
    "info_nce": _info_nce,
    "soft_info_nce": _soft_info_nce,
    "matched_contrast": _matched_contrast,
    "masked_language": _masked_language,
    "nn_contrast": _nn_contrast,
    "xnn_contrast": _xnn_contrast,
}
"""What there is to minimise: from a moment of training to named scalars."""

GUIDED = {"nn_contrast", "xnn_contrast"}
"""The objectives that ask for neighbours."""

WHOLE = {"info_nce", "soft_info_nce", "nn_contrast", "xnn_contrast"}
"""The objectives that compare every pair with every other of the batch, by their embeddings alone."""

CLIP = "Radford et al. 2021, arXiv 2103.00020"
LIGHTCLIP = "LightCLIP, arXiv 2312.00674"
PING = "CLIP-PING, arXiv 2412.03871"
MATCH, MLM = {"matched_contrast": 1.0}, {"masked_language": 0.5}
# Neighbours show early what things are alike, but they are not the pair: their places and grounds differ, and at a constant
# weight they are still pulled at when these are all that is left to learn. So they lead at first, and leave. Trials, seed 0,
# recall@1 both ways: clip 69/68; weight 1 falling as (1 - p)² 80/79, straight 78/74, constant 72/65; weight 0.5 straight
# 80/76, constant 75/71; 0.75, gone at 70 % of the training, 80/78.
NN, XNN = {"nn_contrast": 1.0}, {"xnn_contrast": 1.0}
NN_LEAVES, XNN_LEAVES = {"nn_contrast": 2.0}, {"xnn_contrast": 2.0}
SLOWLY = {"matched_contrast": 0.5}  # at full weight from the start it pulls all embeddings together: nothing is hard yet

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
