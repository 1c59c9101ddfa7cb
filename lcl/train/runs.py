"""Run folders: metrics.json, weights, curve and ranks of queries, and where and with what they were made."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median

import torch

from lcl import storage
from lcl.config import LclError, Profile, from_dict, need, require, to_dict
from lcl.data.base import PairDataset
from lcl.eval.grounding import Metric
from lcl.eval.queries import RANKS, QueryRanks, write_ranks
from lcl.models.clip import Clip, load_model, save_model
from lcl.models.tokenizer import Tokenizer
from lcl.train.loop import Event, Step, Training, Validation
from lcl.train.provenance import provenance
from lcl.train.recipes import Recipe

log = logging.getLogger("lcl")

FORMAT = "lcl-run-2"
EXTRA = "training_only.safetensors"


@dataclasses.dataclass(frozen=True)
class Run:
    """A finished run, read from its folder; see `save_run`.

    `extra` holds the recipe's training-only modules, `split_folders` the shards of their own for validation and test, if any.
    """

    folder: Path
    profile: Profile
    seed: int
    pictures_folder: str | None
    shards_folder: str | None
    metrics: dict[str, dict[str, Metric]]
    curve: list[Event]
    provenance: dict
    model: Clip
    tokenizer: Tokenizer
    recipe: Recipe
    extra: torch.nn.ModuleDict
    split_folders: dict[str, str] = dataclasses.field(default_factory=dict)


@contextlib.contextmanager
def new_run(runs: Path, name: str) -> Iterator[Path]:
    """Make the folder `runs/name`; remove it if the work inside fails and leaves it empty.

    Raises:
        LclError: if the folder exists already, or the name is no plain file name.
    """
    require(
        re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,63}", name) is not None,
        f"{name!r} is no name for a run; use up to 64 letters, digits, dots, dashes and underscores.",
    )
    folder = Path(runs) / name
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise LclError(f"{folder} exists already and is never overwritten; choose another name or remove it.") from None
    except OSError as error:
        raise LclError(f"cannot make the folder {folder}: {error.strerror}; choose another place.") from None
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):
            folder.rmdir()
        raise


def free_name(runs: Path, stem: str) -> str:
    """The first of stem, stem-2, stem-3, … that is not taken."""
    number, name = 1, stem
    while (Path(runs) / name).exists():
        number += 1
        name = f"{stem}-{number}"
    return name


PLAN = "training.json"  # the settings of a run, written before it starts
LOG = "log.jsonl"  # its events, one a line, as they happen
START = "start"  # the towers and the tokenizer that it begins with, until it is finished


@dataclasses.dataclass(frozen=True)
class Plan:
    """The settings of a run.

    Attributes:
        pictures, shards: the user's folder of drawings, or of pairs, if any.
        checkpoint_every: steps; 0: by the clock, and removed when the run is finished. keep: how many of the last ones stay.
        start: the folder of the model that it begins with, if any; a copy lies in the run's folder.
        validation, test: folders of shards for these splits, if any.
        data: fingerprint of the data set.
    """

    profile: Profile
    seed: int
    pictures: str | None
    checkpoint_every: int
    keep: int
    shards: str | None = None
    tensorboard: bool = False
    start: str | None = None
    data: str | None = None
    validation: str | None = None
    test: str | None = None


def write_plan(folder: Path, plan: Plan) -> None:
    """Write the settings, so that the run can be resumed by its folder."""
    storage.write_json(folder / PLAN, {"format": FORMAT} | to_dict(plan))


def read_plan(folder: Path) -> Plan:
    """Read the settings of a run that was started. Raises LclError if there are none, or the run is finished."""
    folder = Path(folder)
    require(
        not (folder / "metrics.json").exists(),
        f"the training in {folder} is finished; `lcl train --from {folder} --epochs N` trains its model further.",
    )
    require((folder / PLAN).exists(), f"there is no training to resume in {folder}; `lcl train --name NAME` begins one.")
    found = storage.read_json(folder / PLAN)
    ours = isinstance(found, dict) and found.pop("format", None) == FORMAT
    require(ours, f"{folder / PLAN} holds no settings of this library; train again under another name.")
    return from_dict(Plan, found)


def check_data(run: Path, wanted: str | None, source: PairDataset) -> None:
    """Raise LclError unless a data set has the fingerprint that a run's has; None is that of a run before it was recorded."""
    require(
        wanted in (None, source.fingerprint),
        f"the run in {run} was trained on another data set ({wanted}) than this one ({source.fingerprint}); "
        "name its drawings with --pictures or its shards with --data, or check the versions of the asset packages.",
    )


class EventLog:
    """A run's events on disk, one line of JSON each, written as they happen."""

    def __init__(self, folder: Path, until: int = 0, tensorboard: bool = False):
        """Open the log of a run that resumes after step `until`; later events are dropped.

        Args:
            folder: of the run.
            until: the last step that counts.
            tensorboard: also log to `folder/tensorboard`.
        """
        self.path = Path(folder) / LOG
        lines = self.path.read_bytes().splitlines() if self.path.exists() else []
        events = [_event(line) for line in lines]
        if damaged := events.count(None):
            place = self.path, damaged, len(events), events.index(None) + 1
            log.warning("%s is damaged: %d of its %d lines cannot be read, first line %d; the others are used.", *place)
        self.before = [event for event in events if event is not None and event.step <= until]
        storage.write_bytes(self.path, "".join(map(_line, self.before)).encode())
        self.board = None
        if tensorboard:
            need("tensorboard", "course")
            from torch.utils.tensorboard import SummaryWriter  # takes seconds

            self.board = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=until + 1)

    def write(self, event: Event) -> None:
        """Append an event."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(event))
        if self.board:
            values = dataclasses.asdict(event)
            step, parts = values.pop("step"), values.pop("losses", {})
            group = "training" if isinstance(event, Step) else "validation"
            for name, value in (values | {f"losses/{name}": value for name, value in parts.items()}).items():
                self.board.add_scalar(f"{group}/{name}", value, step)
            if group == "validation":
                self.board.flush()


def _line(event: Event) -> str:
    return json.dumps({"event": type(event).__name__} | dataclasses.asdict(event)) + "\n"


def _event(line: bytes) -> Event | None:
    """An event of the log; None for a damaged line, such as an incomplete one that a kill leaves."""
    try:
        found = json.loads(line)
        return from_dict({"Step": Step, "Validation": Validation, "Look": Validation}[found.pop("event")], found)
    except (LclError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def save_run(
    folder: Path,
    training: Training,
    curve: Sequence[Event],
    metrics: dict[str, dict[str, Metric]],
    seconds: dict[str, float],
    pictures_folder: Path | None = None,
    shards_folder: Path | None = None,
    start: Path | None = None,
    ranked: QueryRanks | None = None,
) -> None:
    """Write the weights, the curve and the ranks of the queries, then metrics.json, which marks the run as complete.

    The pair of towers is one file, the training-only modules another. In metrics.json, `metrics` are a function of profile,
    seed and machine, bitwise; `seconds` by part since the start or resume, `step_ms` (median), `memory_gib` (maximum) and
    `provenance` are not.

    `start` names the folder of the model that the training began with, if any; `ranked` is None without new scenes.

    Raises:
        LclError: for a training run without a step.
    """
    steps = [event for event in curve if isinstance(event, Step)]
    require(bool(steps), "the training made no step, so there is no run to save.")
    save_model(folder, training.model, training.tokenizer)
    if len(training.extra):
        storage.write_tensors(folder / EXTRA, training.extra.state_dict())
    extra = storage.file_sha256(folder / EXTRA) if len(training.extra) else None
    written = curve_to_dict(curve)
    storage.write_json(folder / "curve.json", written)
    if ranked:
        write_ranks(folder / RANKS, ranked)
    losses = written["steps"]
    storage.write_checked(
        folder / "metrics.json",
        {
            "format": FORMAT,
            "seed": training.seed,
            "steps": len(losses),
            "first_loss": losses[0][1],
            "last_loss": losses[-1][1],
            "metrics": metrics,
            "queries": ranked.queries if ranked else None,
            "profile": to_dict(training.profile),
            "recipe": to_dict(training.recipe),
            "training_only": extra,
            "curve": storage.file_sha256(folder / "curve.json"),
            "teacher": training.teacher.description if training.teacher else None,
            "data": training.source.fingerprint,
            "pictures": str(Path(pictures_folder).resolve()) if pictures_folder else None,
            "shards": str(Path(shards_folder).resolve()) if shards_folder else None,
            "splits": getattr(training.source, "split_folders", {}),
            "start": str(start) if start else None,
            "seconds": {part: round(value, 1) for part, value in seconds.items()},
            "step_ms": round(1000 * median(step.seconds for step in steps), 1),
            "memory_gib": round(max(step.memory for step in steps), 3),
            "provenance": provenance(),
        },
    )


def load_run(folder: Path) -> Run:
    """Read a run. Raises LclError for a folder without one, or with one that did not finish."""
    folder = Path(folder)
    require(folder.is_dir(), f"there is no run in {folder}; `lcl train --name NAME` makes one.")
    require(
        (folder / "metrics.json").exists(),
        f"{folder} has no metrics.json: its training did not finish. Train again under another name.",
    )
    found = storage.read_json(folder / "metrics.json")
    require(
        isinstance(found, dict) and found.get("format") == FORMAT,
        f"{folder / 'metrics.json'} is not of this library; name the folder of a run.",
    )
    try:
        folders = found["pictures"], found.get("shards")  # of the user's drawings or pairs, if any
        splits = found.get("splits") or {}
        named = [*folders, *splits.values()] if splits.keys() <= {"validation", "test"} else [splits]
        require(all(isinstance(name, str | None) for name in named), f"{folder / 'metrics.json'} names no folder of pictures.")
        model, tokenizer = load_model(folder, data=found["data"])
        model = model.to(memory_format=torch.channels_last)  # as it was trained and measured: the last bits depend on it
        profile = from_dict(Profile, found["profile"])
        curve = curve_from_dict(storage.read_json(folder / "curve.json"), profile)
        recipe = from_dict(Recipe, found["recipe"])
        dims = ()
        if recipe.needs_teacher:
            image_width, text_width = found["teacher"]["widths"]
            dims = image_width, text_width
        with storage.outline():  # without memory, whatever the file says
            outlined = recipe.make_extra(model, dims)
        kept = storage.read_tensors(folder / EXTRA, like=outlined.state_dict()) if len(outlined) else {}
        extra = recipe.make_extra(model, dims).eval()
        if len(extra):
            extra.load_state_dict(kept)
            same = storage.file_sha256(folder / EXTRA) == found["training_only"]
            require(same, f"{folder / EXTRA} does not belong to the training that {folder / 'metrics.json'} describes.")
        run = Run(
            folder, profile, found["seed"], *folders, found["metrics"], curve,
            found["provenance"] | {"seconds": found["seconds"]}, model, tokenizer, recipe, extra, splits,
        )  # fmt: skip
        _tell_what_changed(folder, found)
        return run
    except LclError as error:
        raise LclError(f"the run in {folder} cannot be read: {error}") from None
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise LclError(f"the run in {folder} is damaged ({error!r} is missing or wrong); train again.") from None


def _tell_what_changed(folder: Path, found: dict) -> None:
    """Warn if metrics.json, whose contents are `found`, or curve.json is not as it was written; older runs have no checksums."""
    changed = {
        "metrics.json": found.pop("checksum", None) not in (None, storage.fingerprint(found)),
        "curve.json": "curve" in found and found["curve"] != storage.file_sha256(folder / "curve.json"),
    }
    for name in filter(changed.get, changed):
        log.warning("%s was changed or damaged since it was written: its checksum is another one.", folder / name)


def curve_to_dict(curve: Sequence[Event]) -> dict:
    """A curve as it is saved, JSON-able: loss, logit_scale and parts of every step, and all validation steps."""
    steps = [[event.step, event.loss, event.logit_scale, event.losses] for event in curve if isinstance(event, Step)]
    return {"steps": steps, "looks": [dataclasses.astuple(event) for event in curve if isinstance(event, Validation)]}


def curve_from_dict(kept: dict, profile: Profile) -> list[Event]:
    """The inverse of `curve_to_dict`: steps, then validation steps; what was not saved of a step is 0."""
    total = profile.training.steps
    steps = [Step(step, total, loss, dict(parts), 0.0, 0.0, scale, 0.0, 0.0) for step, loss, scale, parts in kept["steps"]]
    return [*steps, *(Validation(*look) for look in kept["looks"])]
