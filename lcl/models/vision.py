"""Light image towers: a ViT and a small conv tower from scratch, and any model of timm, with the same two outputs."""

from __future__ import annotations

from typing import NamedTuple

import safetensors
import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import LclError, VisionConfig, choose, need
from lcl.models import pretrained as pretrained_weights
from lcl.models.layers import Block
from lcl.models.pretrained import PACKAGED_IMAGE, fetched_weights, hub_of


class ImageFeatures(NamedTuple):
    """The outputs of an image tower.

    Attributes:
        patch_tokens: (B, n, d), row by row from the top left.
        pooled: (B, d), of the whole image.
        stages: patch tokens after each of the tower's blocks, the last before the final norm; each (B, n, d).
    """

    patch_tokens: torch.Tensor
    pooled: torch.Tensor
    stages: tuple[torch.Tensor, ...]


class ViT(nn.Module):
    """A vision transformer: patches, positions, pre-norm blocks; `pooled` is the mean of the patch tokens.

    There is no class token: through the mean, all patches, which later chapters match with words, receive a gradient.
    """

    def __init__(self, image_size: int, patch_size: int, width: int, depth: int, heads: int):
        super().__init__()
        self.width = width
        self.patches = nn.Conv2d(3, width, kernel_size=patch_size, stride=patch_size)
        self.positions = nn.Parameter(0.02 * torch.randn((image_size // patch_size) ** 2, width))
        self.blocks = nn.ModuleList(Block(width, heads) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: torch.Tensor) -> ImageFeatures:
        x = self.patches(normalise(images)).flatten(2).transpose(1, 2) + self.positions  # (B, n, d)
        stages = []
        for block in self.blocks:
            x = block(x)
            stages.append(x)
        x = self.norm(x)
        return ImageFeatures(x, x.mean(dim=1), tuple(stages))


class ConvTower(nn.Module):
    """A small residual conv tower: three convolutions of stride 2, then `depth` blocks at an eighth of the image's side.

    Every 8 × 8 pixels become a patch token, centred on its patch: kernels of stride 2 are 4 pixels wide, since kernels of 3
    would shift each token by 3.5 pixels to the top left. `pooled` is the maximum over the tokens, feature by feature: a scene
    holds a cat if any patch does. (Our choice, after one trial with one seed: after one epoch the maximum had 11 % recall@1
    among 1,000 new scenes, the mean 4 %.)
    """

    def __init__(self, width: int, depth: int):
        super().__init__()
        self.width = width
        self.stem = nn.Sequential(
            _conv(3, width // 4, 4, stride=2),  # (B, d/4, H/2, W/2)
            _conv(width // 4, width // 2, 4, stride=2),  # (B, d/2, H/4, W/4)
            ConvBlock(width // 2),
            _conv(width // 2, width, 4, stride=2),  # (B, d, H/8, W/8)
        )
        self.blocks = nn.ModuleList(ConvBlock(width) for _ in range(depth))
        self.norm = nn.LayerNorm(width)

    def forward(self, images: torch.Tensor) -> ImageFeatures:
        x = normalise(images).contiguous(memory_format=torch.channels_last)  # the fastest layout for convolutions
        x, stages = self.stem(x), []  # (B, d, H/8, W/8)
        for block in self.blocks:
            x = block(x)
            stages.append(x.flatten(2).transpose(1, 2))  # (B, n, d)
        x = stages[-1]
        return ImageFeatures(self.norm(x), self.norm(x.amax(dim=1)), tuple(stages))


class ConvBlock(nn.Module):
    """x + conv(relu(conv(x))), each convolution 3 × 3 and batch-normalised."""

    def __init__(self, width: int):
        super().__init__()
        self.first = _conv(width, width, 3)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(x + self.norm(self.second(self.first(x))))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=(kernel - 1) // 2, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(inplace=True),
    )


class TimmTower(nn.Module):
    """Any image model of timm, by name, with random weights or with pre-trained ones.

    `pooled` is the output of timm's own pooling, `patch_tokens` are its unpooled features without class and register tokens,
    which are the only stage.

    Args:
        name: of the model; a tag after a dot, as in resnet18.a1_in1k, names its weights.
        image_size: in pixels.
        pretrained: begin with the weights that the tag names, or with timm's default; from a package or the hub's cache, else
            from the hub.

    Raises:
        LclError: for a name or an image size that timm refuses; for weights that do not exist or cannot be had.
    """

    def __init__(self, name: str, image_size: int, pretrained: bool = False, **options):
        super().__init__()
        timm = need("timm", "teachers")  # takes seconds

        choose("timm model", name.split(".")[0], timm.list_models())
        try:
            self.body = self._make(timm, name, image_size, pretrained, options)
            default = self.body.default_cfg
            self.register_buffer("mean", torch.tensor(default["mean"])[:, None, None], persistent=False)
            self.register_buffer("std", torch.tensor(default["std"])[:, None, None], persistent=False)
            with torch.no_grad():  # some models fail only in their first forward pass
                seen = self.eval()(torch.zeros(1, 3, image_size, image_size))
        except (
            TypeError, RuntimeError, ValueError, OSError, AssertionError, AttributeError, safetensors.SafetensorError
        ) as error:  # fmt: skip
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise LclError(f"timm cannot make {name!r} for {image_size} pixels: {reason}.") from None
        self.train()
        self.width = seen.pooled.shape[-1]  # some heads widen the features

    @staticmethod
    def _make(timm, name: str, image_size: int, pretrained: bool, options: dict) -> nn.Module:
        packaged = pretrained and name in PACKAGED_IMAGE
        options = options if packaged else options | {"num_classes": 0}
        if pretrained and not packaged:
            weights = fetched_weights(name, hub_of(timm, name))
            options |= {"pretrained": True, "pretrained_cfg_overlay": {"file": weights}}
        try:  # models with positions or windows take the size
            body = timm.create_model(name, img_size=image_size, **options)
        except TypeError:  # … the others do not
            body = timm.create_model(name, **options)
        if packaged:
            body.load_state_dict(dict(zip(body.state_dict(), pretrained_weights.packaged_weights(name), strict=True)))
            body.reset_classifier(0)
        return body

    def forward(self, images: torch.Tensor) -> ImageFeatures:
        features = self.body.forward_features((unit(images) - self.mean) / self.std)
        pooled = self.body.forward_head(features, pre_logits=True)  # (B, d)
        if features.ndim == 3:  # (B, n, d)
            patch_tokens = features[:, getattr(self.body, "num_prefix_tokens", 0) :]
            return ImageFeatures(patch_tokens, pooled, (patch_tokens,))
        if features.shape[1] != self.body.num_features:  # (B, h, w, d)
            features = features.permute(0, 3, 1, 2)
        patch_tokens = features.flatten(2).transpose(1, 2)  # (B, n, d')
        if patch_tokens.shape[-1] != pooled.shape[-1]:
            patch_tokens = self.body.forward_head(patch_tokens.flatten(0, 1)[..., None, None], pre_logits=True)
            patch_tokens = patch_tokens.unflatten(0, (len(pooled), -1))
        return ImageFeatures(patch_tokens, pooled, (patch_tokens,))


def unit(images: torch.Tensor) -> torch.Tensor:
    """Pixels from 0 to 1: uint8 is divided by 255, floating point is left unchanged."""
    return images.float() / 255 if images.dtype == torch.uint8 else images


def normalise(images: torch.Tensor) -> torch.Tensor:
    """Pixels from -1 to 1, for the towers from scratch."""
    return unit(images) * 2 - 1


def augment(images: torch.Tensor, generator: torch.Generator, least: float = 0.6) -> torch.Tensor:
    """Another view of every image: a random square crop, resized back, with its brightness changed by up to a fifth.

    Nothing is mirrored, since captions say "left of".

    Args:
        images: (B, 3, H, W) uint8.
        generator: on the CPU, so that the views are the same on any device.
        least: the crop's side as a share of the image's, at least; 0 to 1.

    Returns:
        (B, 3, H, W) uint8.
    """
    draws = torch.rand(4, len(images), generator=generator).to(images.device)  # (4, B)
    side = least + (1 - least) * draws[0]  # of the crop, as a share
    x, y = (1 - side) * (2 * draws[1] - 1), (1 - side) * (2 * draws[2] - 1)  # its centre, from -1 to 1
    zero = torch.zeros_like(side)
    pieces = torch.stack([side, zero, x, zero, side, y], dim=1).view(-1, 2, 3)
    grid = F.affine_grid(pieces, list(images.shape), align_corners=False)
    views = F.grid_sample(images.float(), grid, align_corners=False, padding_mode="border")
    return (views * (0.8 + 0.4 * draws[3])[:, None, None, None]).round().clamp(0, 255).to(torch.uint8)


# LightCLIP's towers (named by a secondary source), with 4 × 4 patches at 64 pixels; the Swin's sizes are our reading.
SWIN_NANO = {"patch_size": 2, "window_size": 4, "embed_dim": 48, "depths": (2, 2, 2, 2), "num_heads": (3, 6, 12, 24)}
LIGHT_TOWERS = {
    "resnet18": ("resnet18", {"output_stride": 16}),
    "mobilenetv2": ("mobilenetv2_100", {"output_stride": 16}),
    "swin-nano": ("swin_tiny_patch4_window7_224", SWIN_NANO | {"drop_path_rate": 0.0}),
}


def make_vision(config: VisionConfig, weights: bool = True) -> nn.Module:
    """Make the tower of a config: a module from images (B, 3, H, W) to ImageFeatures, with a `width`.

    weights: load the pre-trained weights that the config names, if any; False where others are loaded instead.
    """
    if config.tower == "vit":
        return ViT(config.image_size, config.patch_size, config.width, config.depth, config.heads)
    if config.tower == "conv":
        return ConvTower(config.width, config.depth)
    name, options = LIGHT_TOWERS.get(config.tower, (config.tower.removeprefix("timm:"), {}))
    return TimmTower(name, config.image_size, weights and (config.pretrained or "." in name), **options)
