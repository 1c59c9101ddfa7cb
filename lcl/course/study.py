"""The study: the runs that the course reports, kept in `results/`. Which of them count, and by how much one recipe is above
another: of runs with the same seed, which had the same first weights and the same batches.

`make results` trains them. `results/study.json` says what the study is made of; what does not fit it is named and left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev

from lcl import storage
from lcl.config import CHECKOUT, LclError, choose, from_dict, in_checkout, require

FOLDER = CHECKOUT / "results"
MANIFEST = "study.json"
RECALL = ("image_to_text_recall@1", "text_to_image_recall@1")
AGAIN = "`make results` trains what is missing"
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """What all runs of a study have in common, and which there are.

    code: `provenance.code_key` of what trained and measured them. data: fingerprint of the data set. torch: its version.
    seeds: by the runs' stem, which is their name without "-seed…"; a whole study has a file `STEM-seedN.json` for each.
    """

    code: str
    data: str
    torch: str
    seeds: dict[str, list]


def read_study() -> Study:
    """The manifest of `results/`. Raises LclError if there is none."""
    found = (FOLDER / MANIFEST).exists()
    require(found or in_checkout(), "an installed lcl has no results of the study; use a clone of the course's repository.")
    require(found, f"{FOLDER} holds no study: there is no {MANIFEST}; {AGAIN}.")
    return from_dict(Study, storage.read_json(FOLDER / MANIFEST))


def write_study(study: Study) -> None:
    """Say what `results/` is to hold from now on."""
    storage.write_json(FOLDER / MANIFEST, asdict(study))


def differences(run: dict, study: Study) -> list[str]:
    """By what else than the study's code, data and torch a run was made: "code X, not Y", …; empty if by nothing else."""
    made = {"code": run["provenance"].get("code"), "data": run["data"], "torch": run["provenance"]["packages"]["torch"]}
    made["torch"] = made["torch"].split("+")[0]  # the same release for other processors
    return [f"{key} {value}, not {getattr(study, key)}" for key, value in made.items() if value != getattr(study, key)]


def standing(stem: str) -> tuple[list[dict], str]:
    """The runs of a stem that count, each as its metrics.json, in order of their seeds; and what is wrong, if anything is.

    All of the stem's seeds must be there, whole, of the study's code, data and torch, and alike but for their seed; else none
    counts.
    """
    study = read_study()
    choose("stem in the study", stem, study.seeds)
    paths = {seed: FOLDER / f"{stem}-seed{seed}.json" for seed in study.seeds[stem]}
    missing = [str(seed) for seed, path in paths.items() if not path.exists()]
    wrong = [f"seed {' and '.join(missing)} missing"] if missing else []
    runs: list[dict] = []
    for seed, path in paths.items():
        if path.exists():
            try:
                run = storage.read_json(path)
                misfits = _misfits(run, (runs or [run])[0], seed, study)
                wrong += [f"seed {seed} {each}" for each in misfits]
                runs += [] if misfits else [run]  # the first that fits: what comes after is compared with it
            except (LclError, KeyError, TypeError, AttributeError):
                wrong.append(f"seed {seed} damaged, in {path.name}")
    return ([], f"{stem}: {'; '.join(wrong)}") if wrong else (runs, "")


def _misfits(run: dict, first: dict, seed: int, study: Study) -> list[str]:
    """Why a run does not fit into the study, or beside the first of its stem."""
    other = differences(run, study)
    found = [f"of other {' and '.join(other)}"] if other else []
    found += [f"holds a run of seed {run['seed']}"] if run["seed"] != seed else []
    here, there = _but_for_the_seed(run), _but_for_the_seed(first)
    other = [what for what in here if here[what] != there[what]]
    return [*found, f"differs from seed {first['seed']} in more than the seed: {' and '.join(other)}"] if other else found


def _but_for_the_seed(run: dict) -> dict[str, object]:
    """What the runs of a stem have in common."""
    return {
        "profile": run["profile"], "recipe": run["recipe"], "steps": run["steps"], "teacher": run.get("teacher"),
        "packages": {name: version for name, version in run["provenance"]["packages"].items() if name != "torch"},
        "figures": {split: set(figures) for split, figures in run["metrics"].items()},
    }  # fmt: skip


def saved_runs(stem: str) -> list[dict]:
    """The kept runs of a stem, each as its metrics.json, in order of their seeds.

    Raises LclError, with the reason, unless all of them are there and fit together.
    """
    runs, wrong = standing(stem)
    require(not wrong, f"only whole sets of runs are averaged: {wrong}. {AGAIN[0].upper() + AGAIN[1:]}.")
    return runs


def whole(stems: Sequence[str]) -> dict[str, list[dict]]:
    """The kept runs of those stems that are whole, by stem; the others are named in a warning, and left out.

    Raises LclError if none is left.
    """
    found, wrong = {}, []
    for stem in stems:
        runs, reason = standing(stem)
        if reason:
            wrong.append(reason)
        else:
            found[stem] = runs
    require(bool(found), f"only whole sets of runs are averaged: {' / '.join(wrong)}. {AGAIN[0].upper() + AGAIN[1:]}.")
    for reason in wrong:
        log.warning("left out, %s", reason)
    return found


def shared(runs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """Of every stem the runs of those seeds that all stems have. Raises LclError if they have none in common."""
    seeds = set.intersection(*({run["seed"] for run in each} for each in runs.values()))
    require(bool(seeds), f"{', '.join(runs)} have no seed in common.")
    return {stem: [run for run in each if run["seed"] in seeds] for stem, each in runs.items()}


def percent(runs: Sequence[dict], split: str, figure: str) -> list[float]:
    """A figure of some runs, in percent, a number a run; empty unless all of them measured it.

    Raises LclError for a split that one of them was not measured on.
    """
    found = [run["metrics"][choose("split", split, run["metrics"])].get(figure) for run in runs]
    return [] if None in found else [100 * each["value"] for each in found]


def values(
    stems: Sequence[str], figure: str, split: str = "new_scenes", without: Sequence[int] = ()
) -> list[list[float]]:
    """A figure of kept runs, in percent: a list a stem, of the seeds that all these stems have, in the seeds' order.

    without: seeds that are left out. Raises LclError where one of them did not measure it, or they share no seed.
    """
    runs = shared({stem: [run for run in saved_runs(stem) if run["seed"] not in without] for stem in stems})
    found = {stem: percent(each, split, figure) for stem, each in runs.items()}
    lacking = [stem for stem, each in found.items() if not each]
    require(not lacking, f"{figure} was not measured on {split} by {' and '.join(lacking)}.")
    return list(found.values())


@dataclass(frozen=True)
class Level:
    """A figure of some runs, in percent: the mean over the seeds, and the standard deviation, None of a single run."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


def level(runs: Sequence[dict], split: str, figure: str) -> Level | None:
    """A figure over runs, one at least; None unless all of them measured it."""
    found = percent(runs, split, figure)
    return Level(mean(found), stdev(found) if len(found) > 1 else None) if found else None


@dataclass(frozen=True)
class Gain:
    """By how many points a figure lies above another recipe's: mean of the differences of equal seeds, and its 95 % interval
    (Student's t for paired samples; with three seeds it is wide).

    It accounts for the luck of first weights and of batches. All seeds are asked the same questions about the same data set,
    so the luck of these is not in it; and of twenty intervals of recipes that gain nothing, one would miss zero by chance.
    Where all differences are equal there is no spread to make an interval of: low and high are the mean, and `sign` is 0.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 where the whole interval lies above zero, -1 below, 0 where zero lies in it."""
        return 0 if self.low == self.high else int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        nearest = min((abs(end) for end in (self.low, self.high) if end), default=1.0)
        digits = next((digits for digits in range(1, 9) if round(nearest, digits)), 9)  # on which side of zero is that end?
        mean, low, high = (f"{value:+z.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})" if self.low < self.high else f"{mean} (no interval: equal differences)"


def gain(stem: str, over: str, figure: str, split: str = "new_scenes", without: Sequence[int] = ()) -> Gain:
    """Points of a figure by which the runs of a stem are above those of another: of equal seeds, two at least.

    without: seeds that are left out. Raises LclError where either did not measure it, or they have but one seed in common.
    """
    return gain_of(*_pair(stem, over, figure, split, without))


def recall_gain(stem: str, over: str) -> Gain:
    """The same of recall@1 on new scenes, the mean of image→text and text→image."""
    ways = [_pair(stem, over, figure) for figure in RECALL]
    return gain_of(*([mean(both) for both in zip(*each, strict=True)] for each in zip(*ways, strict=True)))


def _pair(stem: str, over: str, *which) -> list[list[float]]:
    """`values` of two stems, which must have two seeds in common."""
    found = values([stem, over], *which)
    enough = len(found[0]) >= 2
    require(enough, f"{stem} and {over} have fewer than two seeds in common, so there is no spread to speak of.")
    return found


def gain_of(ours: Sequence[float], theirs: Sequence[float]) -> Gain:
    """The same of numbers, two or more, a pair a seed."""
    from scipy.stats import ttest_rel  # takes a second to import: only those who want it wait

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle = mean(differences)
    if max(differences) - min(differences) < 1e-9:  # equal, but for what floats make of them
        return Gain(middle, middle, middle, len(differences))
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    return Gain(middle, float(interval.low), float(interval.high), len(differences))
