"""A method is a recipe: named objectives, each with a weight. All weights and schedules stand in this file."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from lcl.config import choose, positive, require
from lcl.losses.contrastive import SCHEDULES, Sigmoid
from lcl.losses.masked_lm import FusedMlm
from lcl.losses.matching import SOLVERS
from lcl.losses.neighbours import CaptionQueue, Projections
from lcl.models.clip import Clip
from lcl.teachers.encoders import IMAGE_ENCODER, TEXT_ENCODER
from lcl.teachers.teacher import CHOICES
from lcl.train.objectives import NEEDS_TEACHER, OBJECTIVES, StepContext


@dataclass(frozen=True)
class SoftConfig:
    """Softened labels. The negatives' share grows from 0 to `alpha_max` by the schedule; see `losses.contrastive.ramp`.

    Late and sharp: with a linear ramp, alpha_max 0.2 and temperature 0.1 cost four to six points of recall@1, 0.1 and 0.05
    three (trials of half the steps, one seed each).
    """

    alpha_max: float = 0.1
    schedule: str = "cosine"
    temperature: float = 0.05  # of the softmax over the negatives' cosines; infinite: they share equally
    within_modality: bool = False  # cosines of images with images, and of captions with captions

    def __post_init__(self):
        require(0 <= self.alpha_max <= 1, f"alpha_max is a share of the label, 0 to 1, not {self.alpha_max}.")
        choose("schedule", self.schedule, SCHEDULES)
        require(self.temperature > 0, f"the temperature must be more than 0, not {self.temperature}.")


@dataclass(frozen=True)
class MatchConfig:
    """Words matched to patches; see `losses.matching.matched_contrast`."""

    solver: str = "exact"
    negatives: int = 4  # hardest negatives a pair, each way
    unmatched_cost: float = 1.0  # of a word without a patch; 1.0: only patches of positive cosine are matched
    scale: float = 10.0  # of the logits
    random_negatives: bool = False  # instead of the hardest
    content_words: bool = False  # without English function words, which are then neither matched nor counted

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
    fused: bool = True  # False: words are predicted without the image

    def __post_init__(self):
        require(0 <= self.share <= 1, f"the share of words to mask must lie between 0 and 1, not {self.share}.")


@dataclass(frozen=True)
class PingConfig:
    """Neighbours from frozen teachers; see `teachers.teacher`."""

    image_encoder: str = IMAGE_ENCODER
    text_encoder: str = TEXT_ENCODER
    image_size: int = 128  # pixels that the image encoder sees
    live: bool = False  # an active teacher on augmented views, with a queue of its features
    queue: int = 4096  # rows; of the live teacher, and of `queue_contrast`
    choice: str = "nearest"  # which neighbours: a key of `teachers.teacher.CHOICES`
    own: float = 0.0  # share of the rows that are their own neighbour, drawn anew in every step; 1: distillation

    def __post_init__(self):
        positive(self, "image_size", "queue")
        choose("neighbours", self.choice, CHOICES)
        require(0 <= self.own <= 1, f"the share of rows that are their own neighbour must lie between 0 and 1, not {self.own}.")
        require(not self.live or (self.choice, self.own) == ("nearest", 0.0), "a live teacher gives the nearest neighbours only.")


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
        views: train on augmented views of the images; a live teacher always does.
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
    views: bool = False

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
        """Each part of the loss at chance level, that is with uniform predictions: by objective, in nats; a cost as it is."""
        choices = {"matched_contrast": 1 + min(self.match.negatives, batch_size - 1), "masked_language": vocab_size}
        others = {"sigmoid": math.log(batch_size) - (batch_size - 1) * math.log1p(-1 / batch_size), "matched_cost": 1.0}
        return {name: others.get(name, math.log(choices.get(name, batch_size))) for name in self.weights}

    def make_extra(self, model: Clip, dims: Sequence[int] = ()) -> nn.ModuleDict:
        """New training-only modules, on the CPU: "masked_language", "projections", "sigmoid", "queue".

        Args:
            model: the pair of towers.
            dims: of the teacher's image and text features, if the recipe needs a teacher.
        """
        extra = nn.ModuleDict()
        if "masked_language" in self.weights:
            extra["masked_language"] = FusedMlm(model.config, model.language, model.vision.width, self.mlm.layers)
            if not self.mlm.fused:
                extra["masked_language"].blocks.clear()  # nowhere does the image enter
        if self.needs_teacher:
            require(len(dims) == 2, f"the recipe {self.name!r} needs a teacher: give the dimensions of its two features.")
            extra["projections"] = Projections(*dims, model.config.embed_dim)
        if "sigmoid" in self.weights:
            extra["sigmoid"] = Sigmoid()
        if "queue_contrast" in self.weights:
            extra["queue"] = CaptionQueue(self.ping.queue, model.config.embed_dim)
        return extra


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


PING_TERMS = {"info_nce": 1.0} | NN | XNN
LIGHT_TERMS = {"soft_info_nce": 1.0} | MATCH | MLM
LEAVES = NN_LEAVES | XNN_LEAVES
OTHER_LEAVES = NN_LEAVES | {"other_xnn": 2.0}
OWN, MIXED = PingConfig(own=1.0), PingConfig(own=0.5)
SHUFFLED, ORACLE = PingConfig(choice="shuffled"), PingConfig(choice="objects")
EQUAL, WITHIN = SoftConfig(temperature=math.inf), SoftConfig(within_modality=True)
RANDOM, ALL_WORDS = MatchConfig(random_negatives=True), MatchConfig(unmatched_cost=math.inf)
CONTENT = MatchConfig(content_words=True)
DISTIL = "distillation as in CLIP-KD, arXiv 2307.12732, from frozen unimodal encoders"
DECLIP = "DeCLIP, arXiv 2110.05208"
SIGLIP = "SigLIP, arXiv 2303.15343"

CONTROLS = {
    recipe.name: recipe
    for recipe in (
        # What do neighbours buy beyond the frozen encoders that find them?
        Recipe("clip+distil", PING_TERMS, f"control: own features; {DISTIL}", fade=LEAVES, ping=OWN),
        Recipe("lightclip+distil", LIGHT_TERMS | NN | XNN, f"control: own features; {DISTIL}", SLOWLY, LEAVES, ping=OWN),
        Recipe("clip-ping+distil", PING_TERMS, f"ours: own or neighbours' features; {PING}", fade=LEAVES, ping=MIXED),
        Recipe("lightclip-ping+distil", LIGHT_TERMS | NN | XNN, f"ours: both; {LIGHTCLIP}", SLOWLY, LEAVES, ping=MIXED),
        Recipe("clip-ping+shuffled", PING_TERMS, f"control: neighbours of others; {PING}", fade=LEAVES, ping=SHUFFLED),
        Recipe("clip-ping+oracle", PING_TERMS, f"control: neighbours by true objects; {PING}", fade=LEAVES, ping=ORACLE),
        Recipe("clip+image-teacher", {"info_nce": 1.0, "image_teacher": 1.0}, DISTIL, fade={"image_teacher": 2.0}, ping=OWN),
        Recipe("clip+text-teacher", {"info_nce": 1.0, "text_teacher": 1.0}, DISTIL, fade={"text_teacher": 2.0}, ping=OWN),
        # Other readings of CLIP-PING, and relatives.
        Recipe("clip-ping+constant", PING_TERMS, f"{PING}, with a constant weight"),
        Recipe("clip-ping+other-xnn", {"info_nce": 1.0, "other_xnn": 1.0} | NN, f"{PING}, paired as {DECLIP}", fade=OTHER_LEAVES),
        Recipe("clip+queue", {"info_nce": 1.0, "queue_contrast": 0.5}, f"{DECLIP}, its neighbours alone"),
        Recipe("clip+views", {"info_nce": 1.0}, f"control: the views of a-clip-ping; {CLIP}", views=True),
        # What does each part of LightCLIP buy beyond simpler ones?
        Recipe("clip+smoothing", {"soft_info_nce": 1.0}, "label smoothing, arXiv 1512.00567", soft=EQUAL),
        Recipe("clip+softclip", {"soft_info_nce": 1.0}, "after SoftCLIP, arXiv 2303.17561", soft=WITHIN),
        Recipe("clip+max", {"info_nce": 1.0} | MATCH, "after FILIP, arXiv 2111.07783", SLOWLY, match=MatchConfig("max")),
        Recipe("clip+match-random", {"info_nce": 1.0} | MATCH, f"control: random negatives; {LIGHTCLIP}", SLOWLY, match=RANDOM),
        Recipe("clip+match-all", {"info_nce": 1.0} | MATCH, f"control: all words matched; {LIGHTCLIP}", SLOWLY, match=ALL_WORDS),
        Recipe("clip+match-content", {"info_nce": 1.0} | MATCH, f"control: content words; {LIGHTCLIP}", SLOWLY, match=CONTENT),
        Recipe("clip+match-pairs", {"info_nce": 1.0, "matched_cost": 1.0}, f"another reading: true pairs alone; {LIGHTCLIP}"),
        Recipe("clip+mlm-blind", {"info_nce": 1.0} | MLM, "without images: BERT, arXiv 1810.04805", mlm=MlmConfig(fused=False)),
        # Another loss.
        Recipe("siglip", {"sigmoid": 1.0}, SIGLIP),
        Recipe("siglip-ping", {"sigmoid": 1.0} | NN | XNN, f"{SIGLIP}, and {PING}", fade=LEAVES),
    )
}
"""Controls and relatives of the papers' methods: what an honest comparison needs."""


def get_recipe(name: str) -> Recipe:
    """The recipe called `name`, of RECIPES or CONTROLS. Raises LclError, with the near names, if there is none."""
    known = RECIPES | CONTROLS
    return known[choose("recipe", name, known)]
