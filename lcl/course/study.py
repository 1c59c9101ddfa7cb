"""The study: what the saved runs of the plan say, arm by arm.

`results/plan.json` names the arms, `results/planned/` holds their runs, and `make results` trains what is missing. Arms are
compared by runs of the same seed: equal towers have the same initial weights, and equal data the same batches.
"""

import contextlib
import copy
import dataclasses
import functools
import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lcl import storage
from lcl.config import CHECKOUT, choose, in_checkout, require
from lcl.course.metrics import NAMES, WAYS, level, score, seeds_in_words
from lcl.course.planned import PLAN, TRAIN, Standing, file_of, ranks_of_run, standing, with_entries
from lcl.course.statistics import Gain, crossed_gain, gain_of
from lcl.eval.queries import QueryRanks

FOLDER = CHECKOUT / "results"
AGAIN = "`make results` trains what is missing"
log = logging.getLogger(__name__)


def read_study() -> Standing:
    """The plan in `results/` with its entries, and which runs count. Raises LclError if there is no plan."""
    found = (FOLDER / "plan.json").exists()
    require(found or in_checkout(), "an installed lcl has no results of the study; use a clone of the course's repository.")
    require(found, f"{FOLDER} holds no study: there is no plan.json; {AGAIN}.")
    state = []
    for file in (FOLDER / "plan.json", *sorted(FOLDER.glob("entries/[!.]*")), *sorted(FOLDER.glob("planned/[!.]*"))):
        with contextlib.suppress(FileNotFoundError):  # it went while we looked
            state.append((str(file), file.stat().st_mtime_ns, file.stat().st_size))
    return _read(FOLDER, tuple(state))


@functools.lru_cache(maxsize=1)  # all runs take seconds to read; another state of the files is read anew
def _read(folder: Path, state: tuple) -> Standing:
    plan, refused = with_entries(storage.read_json(folder / "plan.json"), folder / "entries")
    found = standing(plan, folder / "planned")
    return dataclasses.replace(found, wrong=found.wrong | refused)


def missing(arms: Sequence[str]) -> str:
    """One sentence on the arms without a run that counts, and how to train them; "" if every arm has one."""
    found = read_study()
    lacking = [arm for arm in arms if not found.runs[choose("arm of the study", arm, found.runs)]]
    if not lacking:
        return ""
    names = " and ".join(filter(None, [", ".join(lacking[:-1]), lacking[-1]]))
    first = TRAIN.format(plan=PLAN, arm=lacking[0], seed=found.plan["arms"][lacking[0]]["seeds"][0])
    return f"No run of {names} is saved in results/planned/ yet; `{first}` trains the first."


def there(arms: Sequence[str]) -> dict[str, list[dict]]:
    """The runs of those arms that have any, each as its metrics.json, by seed; warns of the others, and of runs left out.

    Raises:
        LclError: for an unknown arm, or if no arm has a run.
    """
    lacking, study = missing(arms), read_study()
    found = {arm: [study.runs[arm][seed] for seed in sorted(study.runs[arm])] for arm in arms if study.runs[arm]}
    require(bool(found), lacking)
    if lacking:
        log.warning("left out: %s", lacking)
    names = {file_of(study.plan, arm, seed) for arm in arms for seed in study.plan["arms"][arm]["seeds"]}
    for name in sorted(names & study.wrong.keys()):
        log.warning("left out, %s: %s", name, study.wrong[name])
    return found


def saved_runs(arm: str) -> list[dict]:
    """The runs of an arm that count, each as its metrics.json, by seed; copies, which you may change.

    Raises:
        LclError: with the reason, if there is none.
    """
    return copy.deepcopy(there([arm])[arm])


def shared(runs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The runs of every arm whose seeds all arms have. Raises LclError if there is no such seed."""
    seeds = set.intersection(*({run["seed"] for run in each} for each in runs.values()))
    require(bool(seeds), f"{', '.join(runs)} have no seed in common.")
    return {arm: [run for run in each if run["seed"] in seeds] for arm, each in runs.items()}


def values(arms: Sequence[str], metric: str, split: str = "new_scenes", without: Sequence[int] = ()) -> list[list[float]]:
    """A metric of saved runs in percent: a list per arm, of the seeds that all arms have, except `without`, by seed.

    Args:
        arms: of the plan.
        metric: a key of NAMES.
        split: of the test scenes.
        without: seeds to leave out.

    Raises:
        LclError: if an arm has no run or did not measure the metric, or if the arms share no seed.
    """
    choose("metric", metric, NAMES)
    runs = shared({arm: [run for run in there([arm])[arm] if run["seed"] not in without] for arm in arms})
    found = {arm: [score(run, metric, split) for run in each] for arm, each in runs.items()}
    lacking = [arm for arm, each in found.items() if None in each]
    require(not lacking, f"{metric} was not measured on {split} by {' and '.join(lacking)}.")
    return list(found.values())


def gain(arm: str, over: str, metric: str, split: str = "new_scenes", without: Sequence[int] = ()) -> Gain:
    """Points by which the runs of an arm are above those of another. Raises LclError as `values` does, or for a single seed."""
    ours, theirs = values([arm, over], metric, split, without)
    require(len(ours) >= 2, f"{arm} and {over} have fewer than two seeds in common, so their difference has no interval.")
    return gain_of(ours, theirs)


def comparison(
    arms: Sequence[str], metrics: Sequence[str], split: str = "new_scenes", own_seeds: bool = False
) -> list[list[str]]:
    """A table of arms: a row per metric, a column per arm, chance in the last; the first row is a header.

    Arms without runs are reported and left out.

    Args:
        arms: of the plan.
        metrics: keys of NAMES.
        split: of the test scenes.
        own_seeds: use all seeds of each arm, and say in a row how many; not only those that all arms share.

    Raises:
        LclError: for an unknown split or metric, or a metric that none of the arms measured.
    """
    for metric in metrics:
        choose("metric", metric, NAMES)
    runs = there(arms) if own_seeds else shared(there(arms))
    seeds = {run["seed"] for each in runs.values() for run in each}
    rows = [[split if own_seeds else f"{split}, {seeds_in_words(seeds)}", *runs, "chance"]]
    if own_seeds:
        rows.append(["seeds", *(str(len(each)) for each in runs.values()), "–"])
    for metric in metrics:
        cells = [level(each, metric, split) for each in runs.values()]
        require(any(cells), f"none of these runs measured {metric} on {split}.")
        first = next(each[0] for each, cell in zip(runs.values(), cells, strict=True) if cell)
        chance = f"{score(first, metric, split, 'chance'):.1f}"
        rows.append([NAMES[metric], *("–" if cell is None else str(cell) for cell in cells), chance])
    return rows


def gains(arms: Sequence[str], over: str, metrics: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """A table of gains over one arm: a row per arm, its seeds and a column per metric; the first row is a header.

    A dash stands for a metric that was not measured. A single seed has no interval. Arms without runs are reported and left out.

    Raises:
        LclError: for an unknown split or metric, or if `over` has no run.
    """
    for metric in metrics:
        choose("metric", metric, NAMES)
    runs = there([over, *arms])
    require(over in runs, f"{over} has no run, so there is nothing to compare with: {missing([over])}")
    rows = [[f"{split}, above {over}", "seeds", *(NAMES[metric] for metric in metrics)]]
    for arm in filter(runs.__contains__, arms):
        pair = shared({name: runs[name] for name in (arm, over)})
        found = ([[score(run, metric, split) for run in pair[name]] for name in (arm, over)] for metric in metrics)
        rows.append([arm, str(len(pair[arm])), *(_gain_in_words(*both) for both in found)])
    return rows


def _gain_in_words(ours: list[float | None], theirs: list[float | None]) -> str:
    if None in (*ours, *theirs):
        return "–"
    return str(gain_of(ours, theirs)) if len(ours) > 1 else f"{ours[0] - theirs[0]:+.1f}"


def query_gain(arm: str, over: str, way: str = "image_to_text", k: int = 1) -> Gain:
    """The gain in recall@k on new scenes, in points, if not only the seeds but also the queries had been others.

    See `crossed_gain`.

    Args:
        arm, over: of the plan; the seeds that both have are compared.
        way: "image_to_text" or "text_to_image".
        k: candidates that count.

    Raises:
        LclError: if an arm has no run, or for a single seed in common.
    """
    choose("direction", way, dict(WAYS))
    runs = shared({name: saved_runs(name) for name in (arm, over)})
    ranked = {name: [saved_ranks(name, run) for run in each] for name, each in runs.items()}
    hits = (np.stack([100 * (getattr(each, way).numpy() < k) for each in ranked[name]]) for name in (arm, over))
    return crossed_gain(*hits)


def saved_ranks(arm: str, run: dict) -> QueryRanks:
    """The ranks of the test queries of a run. Raises LclError if there are none, or if they are of another run."""
    path = FOLDER / "planned" / file_of(read_study().plan, arm, run["seed"])
    return ranks_of_run(path.with_suffix(".safetensors"), run, AGAIN)
