"""Runs of the study's plan in `results/planned/`: read for a chapter, compared arm by arm, and reported if they are missing.

`tools/study.py --plan` trains them, an arm and a seed at a time. `docs/plan.md` names the arms. `standing` says which runs
count.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean

from lcl import storage
from lcl.config import LclError, choose, require
from lcl.course.statistics import ranks_of_run
from lcl.course.study import COLUMNS, FOILS, RECALL, percent, seeds_in_words
from lcl.course.study import FOLDER as RESULTS
from lcl.train.recipes import get_recipe

FOLDER, ENTRIES = RESULTS / "planned", RESULTS / "entries"
PARTS = {
    "recall@1": RECALL,
    "ndcg@10": ("image_to_text_ndcg@10", "text_to_image_ndcg@10"),
    "foils": tuple(f"foil_{kind}" for kind in FOILS),
}
"""Metrics that are the mean of others, such as both ways of retrieval."""
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


def told(plan: dict, arm: str, seed: int, profile: str) -> list[str]:
    """The options of `lcl train` for one run of an arm. Raises LclError, with the near names, for an arm that is missing."""
    found = plan["arms"][choose("arm", arm, plan["arms"])]
    return ["--profile", profile, "--recipe", found["recipe"], "--seed", str(seed), *plan["options"], *found["options"]]


def score(run: dict, metric: str, what: str = "value", split: str = "new_scenes") -> float | None:
    """A metric of the plan in percent, or its "chance"; None if the run did not measure it. PARTS are averaged."""
    found = [run["metrics"][split].get(part) for part in PARTS.get(metric, (metric,))]
    return None if None in found else 100 * mean(each[what] for each in found)


@dataclass(frozen=True)
class Standing:
    """The saved runs of a plan that count, and why others do not.

    Attributes:
        runs: of every arm of the plan, by seed.
        left_out: the name of each file that does not count, with the reason.
        made: what all runs share: their "code", "data", "torch" and "queries"; empty without runs.
    """

    runs: dict[str, dict[int, dict]]
    left_out: list[str]
    made: dict[str, str]


def standing(plan: dict, folder: Path | None = None) -> Standing:
    """Read the saved runs of a plan, and check each of them on its own; see `Standing`.

    A run counts if it was trained as the plan says, to the end, if its metrics are numbers, and if its ranks of queries are its
    own. Runs of other code, data, torch or queries than most runs of the plan do not count.

    Args:
        plan: as in `results/plan.json`, perhaps with entries: see `with_entries`.
        folder: of the runs; `results/planned/` by default.
    """
    folder, profile = folder or FOLDER, plan["profile"]
    runs, wrong = {}, {}
    paths = {
        (arm, seed): folder / f"{stem_of(arm)}-{profile}-seed{seed}.json"
        for arm in plan["arms"] for seed in plan["arms"][arm]["seeds"]
    }  # fmt: skip
    for (arm, seed), path in paths.items():
        ranks = path.with_suffix(".safetensors")
        if path.exists():
            try:
                run = storage.read_json(path)
                fault = _fault(run, seed, told(plan, arm, seed, profile))
                if not fault:
                    ranks_of_run(ranks, run, "train the run again")
            except LclError as error:
                fault = str(error).replace(str(path), "it").replace(str(ranks), "its file of ranks").rstrip(".")
            except (KeyError, TypeError, AttributeError, ValueError):
                fault = "it is damaged, or is no saved run"
            if fault:
                wrong[path.name] = fault
            else:
                runs[arm, seed] = run
    for path in set(folder.glob("*.json")) - set(paths.values()):
        wrong[path.name] = "it belongs to no arm and seed of the plan"
    made = _usual({key: run for key, run in runs.items() if key[0] not in plan.get("entries", ())} or runs)
    for key, run in list(runs.items()):
        if other := [f"{what} {value}, not {made[what]}" for what, value in _made(run).items() if value != made[what]]:
            wrong[paths[key].name] = f"it was made with other {' and '.join(other)}"
            del runs[key]
    by_arm: dict[str, dict[int, dict]] = {arm: {} for arm in plan["arms"]}
    for (arm, seed), run in runs.items():
        by_arm[arm][seed] = run
    return Standing(by_arm, [f"`{name}`: {wrong[name]}" for name in sorted(wrong)], made)


def with_entries(plan: dict, folder: Path | None = None) -> tuple[dict, list[str]]:
    """A plan with the arms of `results/entries/` as well, each file a plan of its own; and why other files there are refused.

    "entries" holds the arms that were added, and the file of each.
    """
    arms, files, refused = dict(plan["arms"]), {}, []
    for path in sorted((folder or ENTRIES).glob("*.json")):
        try:
            entry = storage.read_json(path)
            for key in ("profile", "options"):
                require(entry[key] == plan[key], f"its {key} must be {plan[key]!r}, as in the plan, not {entry[key]!r}")
            for name, arm in entry["arms"].items():
                taken = {stem_of(other) for other in arms}
                require(re.fullmatch(r"[\w+., -]+", name) is not None, f"{name!r} is no name for a file")
                require(stem_of(name) not in taken, f"the arm {name!r} is taken, so choose another name")
                get_recipe(arm["recipe"])
                given = {type(seed) for seed in arm["seeds"]}, {type(word) for word in arm["options"]}
                require(given[0] == {int} and given[1] <= {str}, f"{name!r} needs seeds and options")
            arms |= entry["arms"]
            files |= dict.fromkeys(entry["arms"], path.name)
        except LclError as error:
            refused.append(f"`{path.name}`: {str(error).rstrip('.')}")
        except (KeyError, TypeError, AttributeError):
            refused.append(f"`{path.name}`: it is damaged, or is no plan")
    return plan | {"arms": arms, "entries": files}, refused


def _fault(run: dict, seed: int, options: list[str]) -> str:
    """Why a run is not the one that the plan asks for, or ""."""
    training = run["profile"]["training"]
    steps = training["epochs"] * (training["pairs"] // training["batch_size"])
    if run["seed"] != seed:
        return f"it holds a run of seed {run['seed']}"
    if run.get("told") != options:
        return f"it was trained with other options than `{' '.join(options)}`"
    if run["steps"] != steps:
        return f"it ended after {run['steps']:,} of {steps:,} steps"
    for split, metrics in run["metrics"].items():
        for name, metric in metrics.items():
            for what in ("value", "chance"):
                if not (math.isfinite(metric[what]) and 0 <= metric[what] <= 1):
                    return f"{name} on {split} is {metric[what]}, which is no share"
    lacking = [metric for metric in RECALL if metric not in run["metrics"]["new_scenes"]]
    lacking += [what for what, value in _made(run).items() if not isinstance(value, str)]
    return f"it does not say its {' and '.join(lacking)}" if lacking else ""


def _made(run: dict) -> dict[str, str]:
    """What all runs of a study must share; torch is the release, whatever processor it is built for."""
    made = run["provenance"]
    torch = made["packages"]["torch"].split("+")[0]
    return {"code": made["code"], "data": run["data"], "torch": torch, "queries": run["queries"]}


def _usual(runs: Mapping[tuple[str, int], dict]) -> dict[str, str]:
    """What most of these runs share; of equally many, the runs that were made first."""
    count = Counter(tuple(_made(run).items()) for run in runs.values())
    first = {}
    for run in sorted(runs.values(), key=lambda run: str(run["provenance"].get("made"))):
        first.setdefault(tuple(_made(run).items()), len(first))
    return dict(min(count, key=lambda made: (-count[made], first[made]), default=()))
