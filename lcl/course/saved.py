"""The course's saved checkpoints, compressed under `data/`, so that a reader can join at any chapter without training.

Weights take 8 bits: each row of a matrix is stored as integers from -127 to 127 and one scale. Recall@1 on validation scenes
changes by at most three points; a test checks it.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import torch

from lcl import storage
from lcl.config import CHECKOUT, LclError, Profile, data_folder, from_dict, in_checkout, require, to_dict
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer
from lcl.train.checkpoints import upgraded_description, without_unused_rows
from lcl.train.loop import Event, Training, Validation
from lcl.train.provenance import code_key, provenance
from lcl.train.runs import Run, curve_from_dict, curve_to_dict

FORMAT, TOWERS = "lcl-kept-2", "lcl-kept-towers-1"
SCALE = "//scale"  # ends the name of a matrix's scales
SHIPPED = CHECKOUT / "data" / "checkpoints"  # those that come with the course


def to_int8(weights: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Quantise a matrix or kernel (rows, …) → (int8 of its shape, (rows,) float32 scales); a row's largest value becomes 127."""
    scale = weights.flatten(1).abs().amax(1).clamp(min=1e-12) / 127
    return (weights / scale.view(-1, *[1] * (weights.ndim - 1))).round().to(torch.int8), scale


def from_int8(whole: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The inverse of `to_int8`, up to rounding by half a scale."""
    return whole.float() * scale.view(-1, *[1] * (whole.ndim - 1))


def pack(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state_dict with its float matrices in 8 bits; vectors and scalars stay as they are."""
    packed: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if value.ndim >= 2 and value.is_floating_point():
            packed[name], packed[name + SCALE] = to_int8(value.float())
        else:
            packed[name] = value
    return {name: value if value.is_meta else value.cpu() for name, value in packed.items()}  # meta: of an `outline`


def unpack(packed: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `pack`."""
    return {
        name: from_int8(value, packed[name + SCALE]) if name + SCALE in packed else value
        for name, value in packed.items() if not name.endswith(SCALE)
    }  # fmt: skip


def folder_of(name: str, kind: str = "checkpoints") -> Path:
    """The folder of a saved checkpoint, or of saved "towers": in the data folder, else with the course."""
    own, shipped = data_folder() / kind / name, SHIPPED.parent / kind / name
    return own if (own / "about.json").exists() or not shipped.exists() else shipped  # about.json is written last


def describe(training: Training) -> dict:
    """What must match for weights to fit a training run, JSON-able.

    Pixels and teacher features are not part of it: their last bits may differ between machines, which does no harm.
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


def save_training(name: str, training: Training, curve: Sequence[Event], notes: dict | None = None) -> Path:
    """Save a training run's weights, curve and notes (JSON-able) in place of an older checkpoint; returns the folder."""
    folder = data_folder() / "checkpoints" / name
    storage.write_tensors(folder / "weights.safetensors", pack(training.learner.state_dict()))
    about = {
        "format": FORMAT, "of": describe(training), "weights": storage.file_sha256(folder / "weights.safetensors"),
        "provenance": provenance(), "curve": _short(curve_to_dict(curve)), "notes": notes or {},
    }  # fmt: skip
    storage.write_bytes(folder / "about.json", (json.dumps(about, ensure_ascii=False) + "\n").encode())
    return folder


def _short(curve: dict | list) -> dict | list:
    """Round to four digits, which are enough to draw."""
    return json.loads(json.dumps(curve), parse_float=lambda text: float(f"{float(text):.4g}"))


def load_saved(name: str, training: Training) -> tuple[list[Event], dict]:
    """Load a saved checkpoint into a training run, as if it had been trained here.

    Returns:
        The curve and the notes; without their "metrics" if these were measured by other code than that of today.

    Raises:
        LclError: if there is no such checkpoint, it is damaged, or it has another profile, recipe, seed or vocabulary.
    """
    folder = folder_of(name)
    where = "train here: set TRAIN = True" + ("" if in_checkout() else ", or use a clone of the course, which has checkpoints")
    require((folder / "about.json").exists(), f"there is no saved checkpoint in {folder}; {where}.")
    about, here = storage.read_json(folder / "about.json"), describe(training)
    ours = isinstance(about, dict) and about.get("format") == FORMAT
    require(ours, f"{folder / 'about.json'} was not written by this library; {where}.")
    try:
        of = upgraded_description(about["of"], training)
        other = [part for part in here if here[part] != of.get(part)]
        require(not other, f"the checkpoint in {folder} has another {' and '.join(other)} than this training; {where}.")
        same = storage.file_sha256(folder / "weights.safetensors") == about["weights"]
        require(same, f"{folder / 'weights.safetensors'} is not the file that about.json describes; {where}.")
        curve, notes = curve_from_dict(about["curve"], training.profile), dict(about["notes"])
        if about["provenance"]["code"] != code_key():
            notes.pop("metrics", None)
        weights = unpack(storage.read_tensors(folder / "weights.safetensors"))
        training.learner.load_state_dict(without_unused_rows(weights, training))
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LclError(f"the checkpoint in {folder} is damaged, or of other code ({reason}); {where}.") from None
    training.learner.eval()
    training.step = training.profile.training.steps
    return curve, notes


def save_towers(name: str, run: Run) -> Path:
    """Save a finished run's towers, tokenizer and validation steps, for a chapter that only looks at them; returns the folder.

    `load_saved` needs the run's data set, and scenes by the million take minutes to describe. `load_towers` does not.
    """
    folder = data_folder() / "towers" / name
    storage.write_tensors(folder / "weights.safetensors", pack(run.model.state_dict()))
    looks = [dataclasses.asdict(event) for event in run.curve if isinstance(event, Validation)]
    about = {
        "format": TOWERS, "recipe": run.recipe.name, "seed": run.seed, "profile": to_dict(run.profile),
        "text_tower": getattr(run.model.language, "settings", None), "tokenizer": run.tokenizer.to_dict(words=True),
        "weights": storage.file_sha256(folder / "weights.safetensors"), "provenance": run.provenance, "looks": _short(looks),
    }  # fmt: skip
    storage.write_bytes(folder / "about.json", (json.dumps(about, ensure_ascii=False) + "\n").encode())
    return folder


def load_towers(name: str) -> tuple[Clip, Tokenizer, list[Validation]]:
    """Read what `save_towers` wrote: the model in evaluation mode, its tokenizer, and the validation steps of its run.

    Raises LclError if there are no such towers, or they are damaged.
    """
    folder = folder_of(name, "towers")
    try:
        return _read_towers(folder)
    except LclError as error:
        raise LclError(f"the towers in {folder} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise LclError(f"the towers in {folder} are damaged ({reason}); save them again.") from None


def _read_towers(folder: Path) -> tuple[Clip, Tokenizer, list[Validation]]:
    about, weights = storage.read_json(folder / "about.json", storage.MAX_MODEL_BYTES), folder / "weights.safetensors"
    ours = isinstance(about, dict) and about.get("format") == TOWERS
    require(ours, "its about.json was not written by `save_towers`.")
    config = from_dict(Profile, about["profile"]).model
    tokenizer = Tokenizer.from_dict(about["tokenizer"], str(folder / "about.json"))
    fits = tokenizer.vocab_size <= config.language.vocab_size
    require(fits, f"the tokenizer has {tokenizer.vocab_size} tokens, and the model {config.language.vocab_size}.")
    with storage.outline():  # names, shapes and types are compared before a weight is read
        outlined = pack(Clip(config, saved=about).state_dict())
    packed = storage.read_tensors(weights, like=outlined)
    require(storage.file_sha256(weights) == about["weights"], f"{weights} is not the file that about.json describes.")
    model = Clip(config, saved=about)
    model.load_state_dict(unpack(packed))
    looks = [from_dict(Validation, look) for look in about["looks"]]
    return model.to(memory_format=torch.channels_last).eval(), tokenizer, looks
