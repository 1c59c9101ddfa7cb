"""Checkpoints: everything a training run needs to resume with bitwise identical results.

A checkpoint is a folder `step-00000500` with tensors and `state.json`, which is written last and has the checksums of both
files: a folder without it is no checkpoint. The position in the data is the step; see `loader`.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import shutil
from pathlib import Path

import torch

from lcl import storage
from lcl.config import LclError, Profile, require, to_dict, upgraded
from lcl.teachers.teacher import LiveTeacher
from lcl.train.loop import Training
from lcl.train.recipes import Recipe

log = logging.getLogger("lcl")

FORMAT, OLD_FORMAT = "lcl-checkpoint-2", "lcl-checkpoint-1"  # version 0.1's state has no checksum of its own
TENSORS, STATE = "state.safetensors", "state.json"
KEPT = 2


def describe(training: Training) -> dict:
    """What must be the same for a training run to resume; JSON-able."""
    of = {
        "data": training.source.fingerprint,
        "recipe": to_dict(training.recipe),
        "profile": to_dict(training.profile),
        "seed": training.seed,
        "processes": training.ranks.world_size,
        "tokenizer": storage.fingerprint(training.tokenizer.to_dict()),
        "teacher": training.teacher.description if training.teacher else None,
    }
    return json.loads(json.dumps(of))  # with JSON's types


def save_checkpoint(folder: Path, training: Training, score: float | None = None, keep: int = KEPT) -> Path:
    """Write `folder/step-…`; keep the last ones and the one with the best score, and remove the others.

    Args:
        folder: of all checkpoints.
        training: the run; all ranks call this, the main process writes.
        score: higher is better, such as validation recall; None if it was not measured.
        keep: how many of the last checkpoints stay.

    Raises:
        LclError: if the disk is full; earlier checkpoints are then untouched.
    """
    place = Path(folder) / f"step-{training.step:08d}"
    tensors = _tensors(training)  # on all ranks, for each has random numbers of its own
    try:
        if training.ranks.is_main:
            storage.write_tensors(place / TENSORS, tensors)
            state = {"format": FORMAT, "step": training.step, "score": score, "of": describe(training)}
            state["tensors"] = storage.file_sha256(place / TENSORS)
            storage.write_checked(place / STATE, state)
            _remove_old(Path(folder), training.step, keep)
    finally:
        training.ranks.wait()  # also if it could not be written: the others must not wait for ever
    return place


def _remove_old(folder: Path, step: int, keep: int) -> None:
    """Remove all but the last ones and the best; those after `step`, too: a resumed training has passed them over as damaged."""
    scores = {}
    for path in checkpoints(folder):
        with contextlib.suppress(LclError):
            if (state := _read_state(path))["step"] <= step:
                scores[path] = state.get("score")
    best = max((path for path in scores if scores[path] is not None), key=lambda path: scores[path], default=None)
    for path in folder.glob("step-*"):
        if path not in {*list(scores)[-keep:], best}:
            (path / STATE).unlink(missing_ok=True)  # first, so that half a folder does not count
            shutil.rmtree(path)


def _read_state(path: Path) -> dict:
    """The state of a checkpoint. Raises LclError if it is not as it was written."""
    state = storage.read_json(path / STATE)
    require(isinstance(state, dict), f"{path / STATE} is no state of a training.")
    checksum, form = state.pop("checksum", None), str(state.get("format"))
    require(form in (FORMAT, OLD_FORMAT), f"{path / STATE} is of no format that this library knows.")
    same = checksum == (storage.fingerprint(state) if form == FORMAT else None)
    same = same and state.get("step") == int(path.name.removeprefix("step-"))
    require(same, f"{path / STATE} does not match its checksum.")
    return state


def checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints of a folder, the earliest first."""
    found = Path(folder).glob("step-*")
    return sorted(path for path in found if re.fullmatch(r"step-\d{8}", path.name) and (path / STATE).exists())


def resume(folder: Path, training: Training) -> int:
    """Load a folder's last whole checkpoint into a new training; returns its step, or 0 if there is none.

    A damaged checkpoint is passed over with a warning.

    Raises:
        LclError: for a checkpoint of another data set, recipe, profile, seed or number of processes, with the difference; if
            there are checkpoints, but none is whole.
    """
    found = checkpoints(folder)
    for path in reversed(found):
        try:
            state = _read_state(path)
            same = storage.file_sha256(path / TENSORS) == state.get("tensors")
            require(same, f"{path / TENSORS} does not match its checksum.")
            kept = upgraded_description(state.get("of"), training)
            tensors = without_unused_rows(storage.read_tensors(path / TENSORS), training)
        except LclError as error:
            if training.ranks.is_main:
                log.warning("the checkpoint in %s is damaged and passed over: %s", path, error)
            continue
        difference = _difference(kept, describe(training), "")
        require(not difference, f"the checkpoint in {path} belongs to another training: its {difference}.")
        _restore(training, tensors)
        training.step = state["step"]
        return training.step
    require(not found, f"no checkpoint in {folder} is whole; remove that folder to train from the beginning.")
    return 0


def upgraded_description(of: object, training: Training) -> object:
    """What `describe` of an earlier version or of this one gave → as this one gives it.

    The size of the vocabulary is that of `training`: it follows from the tokenizer, which a description names, too.
    """
    if not isinstance(of, dict) or not {"profile", "recipe"} <= set(of):
        return of
    new = json.loads(json.dumps({"profile": upgraded(Profile, of["profile"]), "recipe": upgraded(Recipe, of["recipe"])}))
    new["profile"]["model"]["language"]["vocab_size"] = training.profile.model.language.vocab_size
    if isinstance(teacher := of.get("teacher"), dict) and "images" in teacher:  # of banks; before, there was no choice
        new["teacher"] = {"choice": "nearest", "own": 0.0} | teacher
    return of | new


def without_unused_rows(tensors: dict[str, torch.Tensor], training: Training) -> dict[str, torch.Tensor]:
    """Saved tensors without the rows of no token: before, tables had as many rows as a vocabulary may have at most."""
    rows = {name: len(tensor) for name, tensor in training.learner.state_dict().items() if tensor.ndim}
    owner = {name: re.sub(r"^(learner|optimizer\.\w+)\.", "", name) for name in tensors}
    return {name: tensor[: rows.get(owner[name])] if tensor.ndim else tensor for name, tensor in tensors.items()}


def _difference(kept: object, ours: object, where: str) -> str:
    """The first difference of two descriptions, in words; "" if there is none."""
    if isinstance(kept, dict) and isinstance(ours, dict):
        found = (_difference(kept.get(key), ours.get(key), f"{where}.{key}".strip(".")) for key in [*ours, *kept])
        return next((difference for difference in found if difference), "")
    return "" if kept == ours else f"{where} is {kept!r}, not {ours!r}"


def _tensors(training: Training) -> dict[str, torch.Tensor]:
    """All tensors that change in training, by name."""
    tensors = {f"learner.{name}": tensor for name, tensor in training.learner.state_dict().items()}
    names = {id(parameter): name for name, parameter in training.learner.named_parameters()}
    for parameter, state in training.optimizer.state.items():
        tensors |= {f"optimizer.{key}.{names[id(parameter)]}": torch.as_tensor(value) for key, value in state.items()}
    if isinstance(training.teacher, LiveTeacher):
        queue = training.teacher
        tensors |= {"queue.rows": queue.rows, "queue.u": queue.u, "queue.z": queue.z}
    tensors["random.cpu"] = training.ranks.gather(torch.get_rng_state()[None])  # (world_size, n)
    if training.device.startswith("cuda"):
        tensors["random.cuda"] = training.ranks.gather(torch.cuda.get_rng_state()[None])
    return tensors


def _restore(training: Training, tensors: dict[str, torch.Tensor]) -> None:
    try:
        training.learner.load_state_dict(
            {name.removeprefix("learner."): x for name, x in tensors.items() if name.startswith("learner.")}
        )
        for name, parameter in training.learner.named_parameters():
            if f"optimizer.step.{name}" in tensors:
                state = {"step": tensors[f"optimizer.step.{name}"].to(parameter.device)}  # the fused step counts there
                for key in ("exp_avg", "exp_avg_sq"):  # laid out in memory as the parameter is: the fused step relies on it
                    state[key] = torch.empty_like(parameter).copy_(tensors[f"optimizer.{key}.{name}"])
                training.optimizer.state[parameter] = state
        if isinstance(training.teacher, LiveTeacher):
            queue = training.teacher
            queue.rows, queue.u, queue.z = (tensors[f"queue.{name}"] for name in ("rows", "u", "z"))
        states = {name: torch.atleast_2d(tensors[name]) for name in tensors if name.startswith("random.")}
        # Version 0.1 kept the main process's alone. A copy, since torch crashes on a view.
        own = {name: rows[training.ranks.rank % len(rows)].clone() for name, rows in states.items()}
        torch.set_rng_state(own["random.cpu"])
        if training.device.startswith("cuda"):
            torch.cuda.set_rng_state(own["random.cuda"])
    except (KeyError, RuntimeError) as error:
        raise LclError(f"the checkpoint does not hold what this training needs ({error}); train anew.") from None
