"""Every choice in one place: frozen, validated dataclasses that travel as JSON, and the profiles made of them."""

import dataclasses
import difflib
import importlib
import math
import os
import reprlib
import types
import typing
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).resolve().parent.parent
"""The folder around the package: of a checkout the repository, which also holds `data/` and `results/`."""


class LclError(Exception):
    """A mistake that the user can fix. Its text is one clear sentence: what is wrong, where, and what to do."""


TEMPLATES = ("{}", "a picture of {}", "an image of {}", "a drawing of {}")
"""Prompts for a class name; a class is the mean of their embeddings (Radford et al. 2021, section 3.1.4)."""

Progress = Callable[[int], object]
"""Called repeatedly with the number of items finished since the last call."""


def choose(what: str, name: str, names: Iterable[str]) -> str:
    """Return `name` if it is one of `names`; otherwise raise LclError with similar names."""
    names = list(names)
    if name in names:
        return name
    near = difflib.get_close_matches(str(name), names, n=3, cutoff=0.5)
    known = ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")
    hint = f"did you mean {' or '.join(near)}?" if near else f"choose one of: {known}."
    raise LclError(f"there is no {what} {repr(name)[:200]}; {hint}")


def require(condition: bool, message: str) -> None:
    """Raise LclError(message) unless `condition` holds."""
    if not condition:
        raise LclError(message)


def need(module: str, extra: str) -> Any:
    """Import a package that only one of the extras in `pyproject.toml` installs.

    Args:
        module: the name that one imports, such as "matplotlib.figure".
        extra: the extra that installs it, such as "course".

    Returns:
        The module.

    Raises:
        LclError: if it, or a package that it imports, is not installed; the message has the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        raise LclError(not_installed(error.name or module, extra)) from None


def not_installed(package: str, extra: str) -> str:
    """The sentence about a missing package, with the command that installs it."""
    return f"{package} is not installed; it belongs to the extra '{extra}': pip install \"lcl[{extra}]\""


def positive(config: Any, *names: str) -> None:
    """Raise LclError unless these numbers of a config are finite and more than 0."""
    for name in names:
        value = getattr(config, name)
        require(0 < value < math.inf, f"{name} must be a positive number, not {reprlib.repr(value)}.")


def data_folder() -> Path:
    """The folder of generated data: $LCL_DATA, else `data/` of the checkout, else `data/` in the working directory."""
    if folder := os.environ.get("LCL_DATA"):
        return Path(folder)
    return CHECKOUT / "data" if in_checkout() else Path("data")


def in_checkout() -> bool:
    """Whether this is the repository, with `data/` and `results/` beside the package, and not an installed wheel."""
    return (CHECKOUT / "pyproject.toml").exists()


@dataclass(frozen=True)
class SceneConfig:
    """A data set of scenes. Equal configs make the same scenes, pixel for pixel.

    Attributes:
        size: side of the canvas in pixels, 32 to 512.
        known, unseen: number of classes to train on, and to hold out.
        seed: of the data set (frequencies, what is held out), not of the training.
        version: 2, or 1 of older runs: names of Unicode, any classes most frequent, mirrored text, and hidden objects.
    """

    size: int = 64
    known: int = 256
    unseen: int = 64
    seed: int = 0
    version: int = 2

    def __post_init__(self):
        require(self.version in (1, 2), f"there is no version {self.version} of the scenes; choose 1 or 2.")
        require(32 <= self.size <= 512, f"scene size {self.size} is outside 32 to 512 pixels.")
        require(self.known >= 8, f"{self.known} known concepts are too few; a scene needs at least 8 to choose from.")
        require(self.unseen >= 0, f"the number of unseen concepts cannot be negative ({self.unseen}).")


@dataclass(frozen=True)
class VisionConfig:
    """The image tower: "vit" or "conv" (ours), one of LightCLIP's by name, or "timm:NAME" for any model of timm.

    width, depth, heads and patch_size are for "vit" and "conv"; the others have their own.
    """

    tower: str = "conv"
    image_size: int = 64  # pixels
    width: int = 128
    depth: int = 2
    heads: int = 2  # vit only
    patch_size: int = 16  # vit only; the conv tower's patches are 8 pixels
    pretrained: bool = False  # begin with timm's weights; a name with a tag, timm:NAME.TAG, always does

    def __post_init__(self):
        if not self.tower.startswith("timm:"):
            choose("image tower", self.tower, ["conv", "vit", "resnet18", "mobilenetv2", "swin-nano", "timm:NAME"])
            require(not self.pretrained, f"the image tower {self.tower!r} has no pre-trained weights.")
        positive(self, "image_size", "width", "depth", "heads", "patch_size")
        require(
            self.image_size <= 1024 and self.width <= 4096 and self.depth <= 64,
            f"{self.image_size} pixels, width {self.width}, depth {self.depth}: not a lightweight tower; choose less.",
        )
        require(self.tower != "vit" or self.width % self.heads == 0, f"width {self.width} is no multiple of {self.heads} heads.")
        require(
            self.tower != "vit" or self.image_size % self.patch_size == 0,
            f"image size {self.image_size} is no multiple of patch size {self.patch_size}.",
        )
        require(
            self.tower != "vit" or self.image_size // self.patch_size <= 64,
            f"image size {self.image_size} makes more than 64 × 64 patches of {self.patch_size} pixels; choose larger patches.",
        )
        require(self.tower != "conv" or self.width % 4 == 0, f"the conv tower's width {self.width} is no multiple of 4.")
        require(self.depth >= 1, f"an image tower needs at least one layer, not {self.depth}.")


@dataclass(frozen=True)
class LanguageConfig:
    """The text tower: "transformer" (from scratch), or "hf:NAME" for any encoder of transformers."""

    tower: str = "transformer"
    vocab_size: int = 2048  # of a tokenizer to train: at most; of a model: rows of its table, as many as its tokenizer has tokens
    context_length: int = 48  # tokens, [BEGIN] and [END] included
    width: int = 128
    depth: int = 2
    heads: int = 2
    pretrained: bool = False  # begin with the weights of hf:NAME; one that names no architecture always does

    def __post_init__(self):
        if not self.tower.startswith("hf:"):
            require(not self.pretrained, f"the text tower {self.tower!r} has no pre-trained weights.")
            choose("text tower", self.tower, ["transformer", "hf:NAME"])
        positive(self, "width", "heads")
        require(self.width <= 4096, f"width {self.width}: this is not a lightweight tower; choose smaller numbers.")
        require(self.vocab_size <= 250_000, f"a vocabulary of {self.vocab_size} tokens is more than 250,000.")
        require(self.vocab_size >= 260, f"a vocabulary of {self.vocab_size} has no room for the 260 basic tokens.")
        require(self.width % self.heads == 0, f"width {self.width} is no multiple of {self.heads} heads.")
        require(1 <= self.depth <= 12, f"a text tower has 1 to 12 layers, not {self.depth}.")
        require(8 <= self.context_length <= 1024, f"a context has 8 to 1024 tokens, not {self.context_length}.")


@dataclass(frozen=True)
class ModelConfig:
    """The pair of towers and the dimension of the space they share."""

    vision: VisionConfig = VisionConfig()
    language: LanguageConfig = LanguageConfig()
    embed_dim: int = 128

    def __post_init__(self):
        positive(self, "embed_dim")
        require(self.embed_dim <= 8192, f"a space of {self.embed_dim} dimensions is not light; use 8192 or fewer.")


@dataclass(frozen=True)
class TrainConfig:
    """How to train. An epoch sees each of the `pairs` once, except for an incomplete last batch."""

    recipe: str = "clip"
    pairs: int = 16_384
    epochs: int = 8
    batch_size: int = 128
    learning_rate: float = 2e-3  # peak
    weight_decay: float = 0.1  # of matrices; vectors and scalars do not decay
    warmup: float = 0.1  # share of the steps
    temperature_rate: float = 10.0  # factor of the learning rate for the temperature
    beta2: float = 0.98
    clip_norm: float = 1.0  # largest global norm of a gradient
    evaluate_every: int = 64  # steps between validation steps
    micro_batch: int | None = None  # pairs in one forward pass of a process (default: all); see `train.distributed`
    precision: str = "float32"  # of the towers' products; "bfloat16" is faster where the machine has it. Losses are float32
    compile: bool = False  # the image tower, and on a GPU the text tower's blocks: a minute at first, then faster steps
    activation_checkpointing: bool = False  # of transformer blocks: less memory, slower steps

    def __post_init__(self):
        require(
            self.batch_size >= 2,
            f"a batch of {self.batch_size} has no negatives, so InfoNCE is zero and teaches nothing; use 2 or more.",
        )
        require(
            self.pairs >= self.batch_size,
            f"{self.pairs} pairs do not fill a single batch of {self.batch_size}; lower the batch size.",
        )
        require(self.epochs >= 1, f"training needs at least one epoch, not {self.epochs}.")
        positive(self, "learning_rate", "clip_norm", "temperature_rate", "evaluate_every")
        require(0 <= self.weight_decay < math.inf, f"weight_decay must be 0 or more, not {self.weight_decay}.")
        require(0 <= self.beta2 < 1, f"beta2 must be at least 0 and less than 1, not {self.beta2}.")
        require(0 <= self.warmup < 1, f"warmup is a share of the steps, at least 0 and less than 1, not {self.warmup}.")
        require(
            self.micro_batch is None or (self.micro_batch >= 1 and self.batch_size % self.micro_batch == 0),
            f"a batch of {self.batch_size} does not divide into micro-batches of {self.micro_batch}.",
        )
        choose("precision", self.precision, ["float32", "bfloat16"])

    @property
    def steps(self) -> int:
        """Optimiser steps of the whole training run."""
        return self.epochs * (self.pairs // self.batch_size)


@dataclass(frozen=True)
class EvalConfig:
    """What is measured: retrieval among `retrieval` scenes; zero-shot over `views` pictures of every class."""

    retrieval: int = 1000
    views: int = 4
    gallery: int = 5000  # new scenes that retrieval ranks, too; if no more than `retrieval`, they are not ranked again

    def __post_init__(self):
        positive(self, "retrieval", "views", "gallery")


@dataclass(frozen=True)
class Profile:
    """All settings of an experiment, from the data to the evaluation."""

    name: str
    scenes: SceneConfig
    model: ModelConfig
    training: TrainConfig
    evaluation: EvalConfig


def _profiles() -> dict[str, Profile]:
    laptop = Profile("laptop", SceneConfig(), ModelConfig(), TrainConfig(), EvalConfig())
    smoke = Profile(
        "smoke",
        SceneConfig(known=32, unseen=8),
        ModelConfig(VisionConfig(width=64, depth=1), LanguageConfig(vocab_size=512, width=64, depth=1), embed_dim=128),
        TrainConfig(pairs=1024, epochs=2, batch_size=64, evaluate_every=16),
        EvalConfig(retrieval=128, views=2, gallery=256),
    )
    gpu = Profile(
        "gpu",
        SceneConfig(size=128, known=600, unseen=128),
        ModelConfig(
            VisionConfig("vit", image_size=128, width=256, depth=8, heads=4),
            LanguageConfig(vocab_size=4096, width=256, depth=4, heads=4),
            embed_dim=256,
        ),
        TrainConfig("clip", 3_276_800, 4, 1024, learning_rate=1e-3, evaluate_every=400, precision="bfloat16"),
        EvalConfig(retrieval=5000, views=4),
    )
    return {profile.name: profile for profile in (smoke, laptop, gpu)}


PROFILES = _profiles()
"""smoke: seconds, for tests. laptop: minutes on two cores, the default. gpu: hours on one GPU, at CC3M's scale."""


def get_profile(name: str | None = None) -> Profile:
    """The profile called `name`; without a name the one in $LCL_PROFILE, else `laptop`."""
    return PROFILES[choose("profile", name or os.environ.get("LCL_PROFILE") or "laptop", PROFILES)]


def to_dict(config: Any) -> dict[str, Any]:
    """A config as plain dicts, strings and numbers, ready for JSON."""
    return dataclasses.asdict(config)


OLD_FIELDS = {("TrainConfig", "recompute"): "activation_checkpointing", ("MatchConfig", "price"): "unmatched_cost"}
OLD_VALUES = {("MatchConfig", "solver", "nearest"): "max"}
OLD_DEFAULTS = {"SceneConfig": {"version": 1}}
"""What version 0.1 wrote under other names or not at all, so that its runs and checkpoints still open."""


def from_dict(kind: type, values: dict[str, Any]) -> Any:
    """Make a config from what `to_dict` gave, also that of version 0.1.

    Args:
        kind: the config's dataclass.
        values: its fields, as JSON holds them.

    Raises:
        LclError: for fields that `kind` does not have or lacks, and for values of another type.
    """
    require(isinstance(values, dict), f"{kind.__name__} should be a JSON object, not {type(values).__name__}.")
    values = {OLD_FIELDS.get((kind.__name__, name), name): value for name, value in values.items()}
    values = OLD_DEFAULTS.get(kind.__name__, {}) | {
        name: OLD_VALUES.get((kind.__name__, name, value), value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    hints = typing.get_type_hints(kind)
    for name in values:
        choose(f"field of {kind.__name__}", name, hints)
    parsed = {}
    for name, value in values.items():
        hint = hints[name]
        if dataclasses.is_dataclass(hint):
            parsed[name] = from_dict(hint, value)
        else:
            require(_fits(value, hint), f"{kind.__name__}.{name} cannot be {reprlib.repr(value)}.")
            parsed[name] = tuple(value) if typing.get_origin(hint) is tuple else value
    try:
        return kind(**parsed)
    except TypeError as error:
        raise LclError(f"{kind.__name__} is incomplete: {error}.") from None


def upgraded(kind: type, values: dict[str, Any]) -> dict[str, Any]:
    """A config's fields as version 0.1 or this one wrote them → as this one writes them."""
    return to_dict(from_dict(kind, values))


def _fits(value: Any, hint: Any) -> bool:
    """Is a value out of JSON of the kind that a field's type hint names?"""
    inner = typing.get_args(hint)
    if typing.get_origin(hint) is tuple:  # tuple[int, ...], which JSON writes as a list
        return isinstance(value, (list, tuple)) and all(_fits(item, inner[0]) for item in value)
    if typing.get_origin(hint) is dict:
        return isinstance(value, dict) and all(_fits(k, inner[0]) and _fits(v, inner[1]) for k, v in value.items())
    allowed = inner if isinstance(hint, types.UnionType) else (hint,)
    allowed = (*allowed, int) if float in allowed else allowed  # JSON writes 1.0 and 1 alike
    huge = isinstance(value, int) and abs(value) >= 2**63
    return isinstance(value, allowed) and not huge and (bool in allowed or not isinstance(value, bool))  # True is an int, too
