"""Runs of the study's plan in `results/planned/`: read for a chapter, compared arm by arm, and reported if they are missing.

`tools/study.py --plan` trains them, an arm and a seed at a time. `docs/plan.md` names the arms.
"""

import re
from collections.abc import Mapping, Sequence

from lcl import storage
from lcl.config import LclError, choose, require
from lcl.course.study import COLUMNS, percent, seeds_in_words
from lcl.course.study import FOLDER as RESULTS

FOLDER = RESULTS / "planned"
TRAIN = 'python tools/study.py --plan results/plan.json --only "{arm}" --seed {seed}'


def stem_of(arm: str) -> str:
    """The name of an arm's files: "clip, depth 8" → "clip-depth-8"."""
    return re.sub("[, ]+", "-", arm)


def read_arms(arms: Sequence[str], seed: int = 0, profile: str = "laptop") -> dict[str, dict]:
    """The saved runs of those arms that have one, each as its metrics.json, in the order of `arms`.

    Args:
        arms: names in the plan.
        seed: of all runs.
        profile: of all runs.

    Raises:
        LclError: if a file is damaged or holds another seed, or if two runs differ in data, test queries, steps or code: then
            their difference has more than one reason.
    """
    found: dict[str, dict] = {}
    for arm in arms:
        path = FOLDER / f"{stem_of(arm)}-{profile}-seed{seed}.json"
        if not path.exists():
            continue
        again = f"delete it and train it anew: {TRAIN.format(arm=arm, seed=seed)}"
        run = storage.read_json(path)
        try:
            here = _shared(run)
            require(run["seed"] == seed, f"{path} holds a run of seed {run['seed']}; {again}")
        except (KeyError, TypeError, AttributeError):
            raise LclError(f"{path} is damaged, or is no saved run; {again}") from None
        for first, other in list(found.items())[:1]:
            differ = [what for what, value in _shared(other).items() if value != here[what]]
            require(not differ, f"{path} has another {' and '.join(differ)} than the run of {first!r}; {again}")
        found[arm] = run
    return found


def _shared(run: dict) -> dict[str, object]:
    """What arms must have in common to be compared."""
    return {
        "data set": run["data"], "set of test queries": run.get("queries"), "number of steps": run["steps"],
        "code": run["provenance"].get("code"), "set of splits": set(run["metrics"]),
    }  # fmt: skip


def missing(arms: Sequence[str], runs: Mapping[str, dict], seed: int = 0) -> str:
    """One sentence on the arms that have no saved run, and how to train them; "" if none is missing."""
    lacking = [arm for arm in arms if arm not in runs]
    if not lacking:
        return ""
    names = " and ".join(filter(None, [", ".join(lacking[:-1]), lacking[-1]]))
    return f"No run of {names} is saved in results/planned/ yet; `{TRAIN.format(arm=lacking[0], seed=seed)}` trains the first."


def compare(runs: Mapping[str, dict], metrics: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """A table in percent: a row per arm, a column per metric, chance in the last row; the first row is a header.

    A dash stands for a metric that an arm did not measure. Without runs, the table is the header alone.

    Raises:
        LclError: for an unknown metric or split.
    """
    for metric in metrics:
        choose("metric", metric, COLUMNS)
    seeds = {run["seed"] for run in runs.values()}
    rows = [[f"{split}, {seeds_in_words(seeds)}" if seeds else split, *(COLUMNS[metric] for metric in metrics)]]
    for arm, run in runs.items():
        found = [percent([run], split, metric) for metric in metrics]
        rows.append([arm, *(f"{value[0]:.1f}" if value else "–" for value in found)])
    if runs:
        measured = [
            next((run["metrics"][split][metric]["chance"] for run in runs.values() if metric in run["metrics"][split]), None)
            for metric in metrics
        ]
        rows.append(["chance", *("–" if value is None else f"{100 * value:.1f}" for value in measured)])
    return rows


def points(runs: Mapping[str, dict], arm: str, over: str, metric: str, split: str = "new_scenes") -> float:
    """Points by which the run of an arm is above that of another. Raises LclError if either is missing or did not measure it."""
    for name in (arm, over):
        choose("arm with a saved run", name, runs)
    ours, theirs = (percent([runs[name]], split, metric) for name in (arm, over))
    require(bool(ours and theirs), f"{arm} or {over} did not measure {metric} on {split}.")
    return ours[0] - theirs[0]
