"""What the course's own trainings learned, kept small under `data/`, so that anyone can join at any chapter.

Weights are kept in 8 bits: every row of a matrix as whole numbers from -127 to 127 and one factor. A test holds that recall@1
among the watched scenes changes by no more than three points.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from lcl import storage
from lcl.config import CHECKOUT, LclError, data_folder, in_checkout, require, to_dict
from lcl.train.checkpoints import upgraded_description
from lcl.train.loop import Event, Training
from lcl.train.provenance import provenance
from lcl.train.runs import curve_from_dict, curve_to_dict

FORMAT = "lcl-kept-2"
SCALE = "//scale"  # ends the name of a matrix's factors


def to_int8(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """A matrix or kernel (rows, …) → (int8 of its shape, (rows,) float32 factors); the largest of a row becomes 127."""
    scale = weights.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    return (weights / scale.view(-1, *[1] * (weights.ndim - 1))).round().to(torch.int8), scale


def from_int8(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_int8`, but for rounding by at most half a factor."""
    return whole.float() * scale.view(-1, *[1] * (whole.ndim - 1))


def pack(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state_dict with its float matrices in 8 bits; vectors and single numbers stay as they are."""
    packed: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if value.ndim >= 2 and value.is_floating_point():
            packed[name], packed[name + SCALE] = to_int8(value.float().cpu())
        else:
            packed[name] = value.cpu()
    return packed


def unpack(packed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack`."""
    return {
        name: from_int8(value, packed[name + SCALE]) if name + SCALE in packed else value
        for name, value in packed.items() if not name.endswith(SCALE)
    }  # fmt: skip


SHIPPED = CHECKOUT / "data" / "checkpoints"  # what comes with the course


def folder_of(name: str) -> Path:
    """Where the training called `name` is kept: in the data folder, or, if it is not there, with the course."""
    own = data_folder() / "checkpoints" / name  # whose description is written last, so that half a folder has none
    return own if (own / "about.json").exists() or not (SHIPPED / name).exists() else SHIPPED / name


def describe(training: Training) -> dict:
    """What must be the same for weights to fit, on any machine; JSON-able.

    Not the pixels, nor the teacher's features: these may differ in their last bits from one machine to another, and what was
    learned from them serves all the same.
    """
    words = {name: part for name, part in training.tokenizer.to_dict().items() if name != "data"}
    of = {
        "recipe": to_dict(training.recipe),
        "profile": to_dict(training.profile),
        "seed": training.seed,
        "vocabulary": storage.fingerprint(words),
        "teacher": list(training.teacher.dims) if training.teacher else None,
    }
    return json.loads(json.dumps(of))  # as it will be read


def keep(name: str, training: Training, curve: Sequence[Event], notes: dict | None = None) -> Path:
    """Keep what a training learned, its curve, and notes (JSON-able); what was kept under this name before is replaced."""
    folder = data_folder() / "checkpoints" / name
    storage.write_tensors(folder / "weights.safetensors", pack(training.learner.state_dict()))
    about = {
        "format": FORMAT, "of": describe(training), "weights": storage.file_sha256(folder / "weights.safetensors"),
        "provenance": provenance(), "curve": _short(curve_to_dict(curve)), "notes": notes or {},
    }  # fmt: skip
    storage.write_bytes(folder / "about.json", (json.dumps(about, ensure_ascii=False) + "\n").encode())
    return folder


def _short(curve: dict) -> dict:
    """Four digits are enough to draw."""
    return json.loads(json.dumps(curve), parse_float=lambda text: float(f"{float(text):.4g}"))


def load_saved(name: str, training: Training) -> tuple[list[Event], dict]:
    """Give a training what was kept under a name, as if it had been trained here; returns its curve and the notes.

    Raises LclError if nothing is kept, or it is of another profile, recipe, seed or vocabulary.
    """
    folder = folder_of(name)
    where = "train here: set TRAIN = True" + ("" if in_checkout() else ", or use a clone of the course, which has checkpoints")
    require((folder / "about.json").exists(), f"nothing is kept in {folder}; {where}.")
    about, here = storage.read_json(folder / "about.json"), describe(training)
    ours = isinstance(about, dict) and about.get("format") == FORMAT
    require(ours, f"{folder / 'about.json'} is not of this library; {where}.")
    try:
        of = upgraded_description(about["of"])
        other = [part for part in here if here[part] != of.get(part)]
        require(not other, f"what is kept in {folder} has another {' and '.join(other)} than this training; {where}.")
        same = storage.file_sha256(folder / "weights.safetensors") == about["weights"]
        require(same, f"{folder / 'weights.safetensors'} is not the file that about.json describes; {where}.")
        curve, notes = curve_from_dict(about["curve"], training.profile), about["notes"]
        learner: nn.Module = training.learner
        learner.load_state_dict(unpack(storage.read_tensors(folder / "weights.safetensors")))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise LclError(f"what is kept in {folder} is damaged, or of other code ({_first_line(error)}); {where}.") from None
    learner.eval()
    training.step = training.profile.training.steps
    return curve, notes


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]
