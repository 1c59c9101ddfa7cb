"""The plan of the study, and which of its saved runs count.

`docs/plan.md` names the arms. `tools/study.py` trains them, an arm and a seed at a time. `lcl.course.study` compares them.
"""

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lcl import storage
from lcl.config import LclError, choose, require
from lcl.course.metrics import RECALL, WAYS
from lcl.eval.queries import QueryRanks, read_ranks
from lcl.train.recipes import get_recipe

TRAIN = 'python tools/study.py --plan {plan} --only "{arm}" --seed {seed}'
PLAN = "results/plan.json"


def stem_of(arm: str) -> str:
    """The name of an arm's files: "clip, depth 8" → "clip-depth-8"."""
    return re.sub("[, ]+", "-", arm)


def file_of(plan: dict, arm: str, seed: int) -> str:
    """The name of the file that holds the metrics of a run; its ranks of queries have the same name with another ending."""
    return f"{stem_of(arm)}-{plan['profile']}-seed{seed}.json"


def told(plan: dict, arm: str, seed: int) -> list[str]:
    """The options of `lcl train` for one run of an arm. Raises LclError, with the near names, for an arm that is missing."""
    found = plan["arms"][choose("arm", arm, plan["arms"])]
    return ["--profile", plan["profile"], "--recipe", found["recipe"], "--seed", str(seed), *plan["options"], *found["options"]]


@dataclass(frozen=True)
class Standing:
    """The saved runs of a plan that count, and why others do not.

    Attributes:
        plan: what was asked for.
        runs: of every arm of the plan, by seed.
        wrong: the reason, by the name of each file that does not count.
        made: what all runs share: their "code", "data", "torch" and "queries"; empty without runs.
    """

    plan: dict
    runs: dict[str, dict[int, dict]]
    wrong: dict[str, str]
    made: dict[str, str]

    @property
    def left_out(self) -> list[str]:
        """The files that do not count, each with the reason, in a part of a sentence."""
        return [f"`{name}`: {self.wrong[name]}" for name in sorted(self.wrong)]


def standing(plan: dict, folder: Path, made: Mapping[str, str] | None = None) -> Standing:
    """Read the saved runs of a plan, and check each of them on its own; see `Standing`.

    A run counts if it was trained as the plan says, to the end, if its metrics are numbers, and if its ranks of queries are its
    own. The code, data, torch and queries of the majority decide: runs of others do not count.

    Args:
        plan: as in `results/plan.json`, perhaps with entries: see `with_entries`.
        folder: of the runs, such as `results/planned/`.
        made: "code", "data", "torch" and "queries" that runs must have; default those of the majority.
    """
    runs, wrong = {}, {}
    paths = {(arm, seed): folder / file_of(plan, arm, seed) for arm in plan["arms"] for seed in plan["arms"][arm]["seeds"]}
    for (arm, seed), path in paths.items():
        if path.exists():
            run, fault = read_run(path, told(plan, arm, seed))
            if fault:
                wrong[path.name] = fault
            else:
                runs[arm, seed] = run
    for path in set(folder.glob("*.json")) - set(paths.values()):
        wrong[path.name] = "it belongs to no arm and seed of the plan"
    made = made or _usual({key: run for key, run in runs.items() if key[0] not in plan.get("entries", ())} or runs)
    for key, run in list(runs.items()):
        if other := [f"{what} {value}, not {made[what]}" for what, value in _made(run).items() if value != made[what]]:
            wrong[paths[key].name] = f"it was made with other {' and '.join(other)}"
            del runs[key]
    by_arm: dict[str, dict[int, dict]] = {arm: {} for arm in plan["arms"]}
    for (arm, seed), run in runs.items():
        by_arm[arm][seed] = run
    return Standing(plan, by_arm, wrong, dict(made))


def read_run(path: Path, options: Sequence[str]) -> tuple[dict, str]:
    """A saved run, and why it is not what `lcl train` makes of these options: part of a sentence, or ""."""
    ranks, run = path.with_suffix(".safetensors"), {}
    try:
        run = storage.read_json(path)
        fault = _fault(run, list(options))
        if not fault:
            ranks_of_run(ranks, run, "train the run again")
    except LclError as error:
        fault = str(error).replace(str(path), "it").replace(str(ranks), "its file of ranks").rstrip(".")
    except (KeyError, TypeError, AttributeError, ValueError):
        fault = "it is damaged, or is no saved run"
    return run, fault


def with_entries(plan: dict, folder: Path) -> tuple[dict, dict[str, str]]:
    """A plan with the arms of a folder of entries as well, each file a plan of its own; and why other files there are refused.

    "entries" holds the arms that were added, and the file of each.
    """
    arms, files, refused = dict(plan["arms"]), {}, {}
    for path in sorted(folder.glob("*.json")):
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
            refused[path.name] = str(error).rstrip(".")
        except (KeyError, TypeError, AttributeError):
            refused[path.name] = "it is damaged, or is no plan"
    return plan | {"arms": arms, "entries": files}, refused


def ranks_of_run(path: Path, run: dict, again: str) -> QueryRanks:
    """Read the ranks of a run's queries. Raises LclError, with what to do `again`, if they are missing or not its own."""
    ranked = read_ranks(path)
    require(ranked.queries == run.get("queries"), f"{path} holds the ranks of other queries than the run's; {again}.")
    for way in dict(WAYS):
        reached = (getattr(ranked, way) < 1).double().mean().item()
        recall = run["metrics"]["new_scenes"][f"{way}_recall@1"]["value"]
        require(abs(reached - recall) < 1e-9, f"{path} holds the ranks of another run; {again}.")
    return ranked


def _fault(run: dict, options: list[str]) -> str:
    """Why a run is not the one that the plan asks for, or ""."""
    training, seed = run["profile"]["training"], int(options[options.index("--seed") + 1])
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
