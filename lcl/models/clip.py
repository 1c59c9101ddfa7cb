"""The pair of towers: projections into one space, a temperature, and how both are kept on disk."""

from __future__ import annotations

import math
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from lcl import storage
from lcl.config import LclError, ModelConfig, from_dict, require, to_dict
from lcl.machine import to_device
from lcl.models.language import TextFeatures, make_language
from lcl.models.layers import upcast
from lcl.models.tokenizer import Tokenizer, Tokens
from lcl.models.vision import ImageFeatures, make_vision

FIRST_LOGIT_SCALE = 3.0  # lower than CLIP's 1/0.07, so that the first loss is close to ln B
MAX_LOGIT_SCALE = 100.0  # the clamp of CLIP


class Embeddings(NamedTuple):
    """A batch's embeddings.

    Attributes:
        v, t: of images and texts, (B, d), L2-normalised.
        logit_scale: scalar, exp(τ).
        image, text: the towers' outputs, for objectives on patches and words.
    """

    v: torch.Tensor
    t: torch.Tensor
    logit_scale: torch.Tensor
    image: ImageFeatures
    text: TextFeatures


class Clip(nn.Module):
    """An image tower and a text tower with projections into one space of `embed_dim` dimensions.

    `precision` is that of the towers' products in `forward`, "float32" or "bfloat16"; outputs are float32 in any case.

    Args:
        config: of the towers.
        saved: what `save_model` wrote in model.json; towers are then made without pre-trained weights, to be loaded.
    """

    precision = "float32"

    def __init__(self, config: ModelConfig, saved: dict | None = None):
        super().__init__()
        self.config = config
        self.vision = make_vision(config.vision, weights=saved is None)
        self.language = make_language(config.language, None if saved is None else saved.get("text_tower") or {})
        self.image_projection = nn.Linear(self.vision.width, config.embed_dim, bias=False)
        self.text_projection = nn.Linear(self.language.width, config.embed_dim, bias=False)
        for projection in (self.image_projection, self.text_projection):
            nn.init.normal_(projection.weight, std=projection.in_features**-0.5)
        self.tau = nn.Parameter(torch.tensor(math.log(FIRST_LOGIT_SCALE)))

    @property
    def logit_scale(self) -> torch.Tensor:
        """exp(τ), at most MAX_LOGIT_SCALE. Scalar."""
        return self.tau.exp().clamp(max=MAX_LOGIT_SCALE)

    def embed_image(self, features: ImageFeatures) -> torch.Tensor:
        """(B, d), L2-normalised."""
        return F.normalize(self.image_projection(features.pooled), dim=-1)

    def embed_text(self, features: TextFeatures) -> torch.Tensor:
        """(B, d), L2-normalised."""
        return F.normalize(self.text_projection(features.pooled), dim=-1)

    def embed_patches(self, features: ImageFeatures) -> torch.Tensor:
        """Patches in the shared space, through the projection of the whole image: (B, n, d), L2-normalised."""
        return F.normalize(self.image_projection(features.patch_tokens), dim=-1)

    def embed_words(self, features: TextFeatures, tokens: Tokens) -> tuple[torch.Tensor, torch.Tensor]:
        """Words in the shared space, through the projection of the whole caption; a word is the mean of its tokens.

        The host waits for no GPU if the tokens are on the CPU.

        Returns:
            (B, m, d), L2-normalised, where m is the largest number of words, and (B, m) bool, true at words.
        """
        of_token = to_device(tokens.words, features.token_features.device)  # (B, L)
        numbers = torch.arange(max(int(tokens.words.max()) + 1, 1), device=of_token.device)  # (m,)
        member = of_token[:, None, :] == numbers[:, None]  # (B, m, L)
        real = member.any(2)
        member = member.to(features.token_features.dtype)
        words = member @ features.token_features / member.sum(2, keepdim=True).clamp(min=1)
        return F.normalize(self.text_projection(words), dim=-1) * real[..., None], real

    def encode_image(self, images: torch.Tensor) -> torch.Tensor:
        """Images (B, 3, H, W), uint8 or 0 to 1, to embeddings (B, d), L2-normalised."""
        return self.embed_image(self.vision(images))

    def encode_text(self, tokens: Tokens) -> torch.Tensor:
        """Tokens, on any device, to embeddings (B, d), L2-normalised."""
        return self.embed_text(self.language(tokens.to(self.tau.device)))

    def autocast(self) -> torch.autocast:
        """The context of `precision`: if it is bfloat16, products are computed in it, and sums are not."""
        return torch.autocast(self.tau.device.type, torch.bfloat16, enabled=self.precision == "bfloat16")

    def forward(self, images: torch.Tensor, tokens: Tokens) -> Embeddings:
        """Images (B, 3, H, W), as in `encode_image`, on the model's device, and tokens of B captions on any device."""
        with self.autocast():
            image, text = self.vision(images), self.language(tokens.to(self.tau.device))
        image = image._replace(patch_tokens=upcast(image.patch_tokens), pooled=upcast(image.pooled))
        text = TextFeatures(*map(upcast, text))
        return Embeddings(self.embed_image(image), self.embed_text(text), self.logit_scale, image, text)


def weights_sha256(model: nn.Module) -> str:
    """A checksum of a model's weights."""
    return storage.sha256(b"".join(x.cpu().contiguous().numpy().tobytes() for x in model.state_dict().values()))


FORMAT = "lcl-model-1"


def save_model(folder: Path, model: Clip, tokenizer: Tokenizer) -> None:
    """Write `model.safetensors`, then `model.json` with config, tokenizer and the weights' checksum, each atomically.

    The tokenizer's words are those of the training captions, in plain text.
    """
    storage.write_tensors(folder / "model.safetensors", model.state_dict())
    checksum = storage.file_sha256(folder / "model.safetensors")
    description = {
        "format": FORMAT,
        "weights": checksum,
        "model": to_dict(model.config),
        "tokenizer": tokenizer.to_dict(words=True),
        "text_tower": getattr(model.language, "settings", None),
    }
    storage.write_json(folder / "model.json", description)


def load_model(folder: Path, data: str | None = None, config: ModelConfig | None = None) -> tuple[Clip, Tokenizer]:
    """Read what `save_model` wrote, in evaluation mode.

    Args:
        folder: which holds model.json and model.safetensors.
        data: fingerprint of a data set; a model that was trained on another one is refused.
        config: make the towers of this config, which the weights must fit (default: the one that was saved).

    Raises:
        LclError: for files that are missing or damaged, and weights that do not fit the config.
    """
    folder = Path(folder)
    description = storage.read_json(folder / "model.json", storage.MAX_MODEL_BYTES)
    require(
        isinstance(description, dict) and description.get("format") == FORMAT,
        f"{folder / 'model.json'} describes no model of this library; name a run's folder, or one that `lcl export` made.",
    )
    saved = from_dict(ModelConfig, description.get("model"))
    config = config or saved
    for tower in ("vision", "language"):  # another model of the same shape is another model
        one, other = getattr(saved, tower).tower, getattr(config, tower).tower
        require(one == other, f"the weights in {folder} are those of another model: its {tower}.tower is {one!r}, not {other!r}.")
    tokenizer = Tokenizer.from_dict(description.get("tokenizer"), str(folder / "model.json"))
    if data is not None and tokenizer.data != data:
        raise LclError(
            f"the model in {folder} belongs to another data set ({tokenizer.data}) than the one at hand ({data}); "
            "evaluate it on its own, or train one on this data set."
        )
    require(
        tokenizer.vocab_size <= config.language.vocab_size,
        f"the tokenizer in {folder} has {tokenizer.vocab_size} tokens, the model only {config.language.vocab_size}; "
        "they come from different trainings.",
    )
    with storage.outline():
        outlined = Clip(config, saved=description)
    try:
        weights = storage.read_tensors(folder / "model.safetensors", like=outlined.state_dict())
    except LclError as error:
        wrong = _difference(saved, config)
        raise LclError(f"the weights in {folder} are those of another model: {wrong}.") if wrong else error from None
    model = Clip(config, saved=description)
    model.load_state_dict(weights)
    require(
        storage.file_sha256(folder / "model.safetensors") == description.get("weights"),
        f"the weights in {folder} are not those that its model.json describes; copy both files from one training.",
    )
    return model.eval(), tokenizer


def _difference(saved: ModelConfig, wanted: ModelConfig) -> str:
    """How a saved model differs from the one that is wanted, field by field; "" if it does not."""
    found = []
    for tower in ("vision", "language"):
        one, other = (to_dict(getattr(config, tower)) for config in (saved, wanted))
        found += [f"its {tower}.{name} is {one[name]!r}, not {other[name]!r}" for name in one if one[name] != other[name]]
    if saved.embed_dim != wanted.embed_dim:
        found.append(f"its embed_dim is {saved.embed_dim}, not {wanted.embed_dim}")
    return "; ".join(found)
