"""Train the runs of the plan, keep each run's metrics.json and ranks of queries in `results/`, and never train the same twice.

python tools/study.py [--workers 2]         every run of results/plan.json that is missing, what matters most first
python tools/study.py --only ARM --seed 0   one run; with --plan results/entries/mine.json, of an entry to the leaderboard, and
                                            with --threads 2, on two cores: sooner, but bitwise only like runs of two threads
python tools/study.py --only ARM --again    train a run once more, into results/again/: docs/results.md says what differs
python tools/study.py --check               the small run that a test trains too, and keep it

A run is done when it is kept, made by the code at hand (`lcl.train.provenance.code_key`), on its data, with its torch, and told
what it would be told now; one that was stopped goes on from its last checkpoint. So the study may be stopped at any time. Each
worker is a process with one thread, unless --threads says more. Runs stay in `runs/study/`, in a folder for each such
circumstance, but for those of --again, which leave nothing there.

If saved runs are of other code, data or torch, new ones wait in `results/next/` until all are there, and then take the place of
the old study in one go: what is reported is never half of one study and half of another.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from lcl import storage
from lcl.cli.common import profile_of
from lcl.config import LclError, require
from lcl.course.planned import file_of, read_run, told
from lcl.course.study import FOLDER
from lcl.data.scenes import open_scenes
from lcl.eval.queries import RANKS
from lcl.train.loop import Validation
from lcl.train.provenance import code_key, version

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "study"
CHECKPOINTS = ["--checkpoint-every", "128", "--keep", "1"]
PLANNED, NEXT, AGAIN = "planned", "next", "again"  # in results/: runs of the plan, of a study not yet whole, trained once more
CHECK = "check.json"  # the small run
SMALL = ["--profile", "smoke", "--recipe", "lightclip-ping", "--seed", "0", "--scenes-version", "2"]


@dataclass(frozen=True)
class Circumstance:
    """What runs must share to be compared: `code_key`, the fingerprint of the data, and the version of torch."""

    code: str
    data: str
    torch: str


def circumstance(options: Sequence[str]) -> Circumstance:
    """That of a run with these options of `lcl train`, made now."""
    named = {name: value for name, value in pairwise(options) if name in ("--profile", "--scenes-version")}
    scenes = int(named["--scenes-version"]) if "--scenes-version" in named else None
    data = open_scenes(profile_of(named["--profile"], scenes).scenes).fingerprint
    return Circumstance(code_key(), data, (version("torch") or "none").split("+")[0])


def differences(run: dict, here: Circumstance) -> list[str]:
    """How a run's code, data and torch version differ from these: "code X, not Y", …; empty if they match."""
    made = {"code": run["provenance"].get("code"), "data": run["data"], "torch": run["provenance"]["packages"]["torch"]}
    made["torch"] = made["torch"].split("+")[0]  # the same release for other processors
    return [f"{key} {made[key]}, not {value}" for key, value in asdict(here).items() if made[key] != value]


def runs_of(plan: dict) -> dict[str, list[str]]:
    """Every run of a plan: the name of its file, and the options of `lcl train`. What matters most comes first."""
    primary = {each[side] for each in plan.get("primary", ()) for side in ("arm", "over")}  # an entry has none
    order = sorted(
        (arm not in primary, seed, place, arm)
        for place, (arm, each) in enumerate(plan["arms"].items()) for seed in each["seeds"]
    )  # fmt: skip
    return {file_of(plan, arm, seed): told(plan, arm, seed) for _, seed, _, arm in order}


def kept(name: str, options: list[str], here: Circumstance, folders: Sequence[str] = (PLANNED,)) -> Path | None:
    """Where a run is kept, in these folders of results/, if it was made in this circumstance and fits what it was told."""
    for path in (FOLDER / folder / name for folder in folders):
        if path.exists():
            run, fault = read_run(path, options)
            if not fault and not differences(run, here):
                return path
            if fault:
                log.warning("%s counts as missing: %s", path, fault)
    return None


def is_older(path: Path, here: Circumstance) -> bool:
    """Is a run kept there that was made in another circumstance?"""
    try:
        return bool(differences(storage.read_json(path), here))
    except (LclError, KeyError, TypeError, AttributeError):
        return False  # missing or damaged


def train(name: str, options: list[str], here: Circumstance, runs: Path, folder: Path, threads: int = 1) -> Path:
    """Train one run, or go on with it, and keep its metrics, and what it was told, in `folder`; returns the run's own folder.

    Raises LclError, with what was said, if it fails, and if it was made by something else than `here` says: somebody changed
    the code meanwhile.
    """
    own = [threads] if threads != 1 else []  # a run that was begun with some threads goes on with as many
    run = runs / storage.fingerprint([*asdict(here).values(), options, *own]) / Path(name).stem
    if not (run / "metrics.json").exists():
        begun = (run / "training.json").exists()
        if not begun:
            shutil.rmtree(run, ignore_errors=True)  # stopped before there was anything to go on with
        words = ["--resume", str(run)] if begun else [*options, "--runs", str(run.parent), "--name", run.name, *CHECKPOINTS]
        result = subprocess.run(
            [sys.executable, "-m", "lcl", "train", *words], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": str(threads)},
            capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        if result.returncode:
            raise LclError(f"{name} failed, and is left as it is in {run}: {result.stderr.strip()[-2000:]}")
    made = storage.read_json(run / "metrics.json")
    if other := differences(made, here):
        shutil.rmtree(run)
        raise LclError(f"{name} was trained while something changed ({', '.join(other)}), and is thrown away; call again.")
    made.pop("checksum", None)  # of the file as it was
    storage.write_bytes((folder / name).with_suffix(".safetensors"), (run / RANKS).read_bytes())
    # All validation steps. The last one is what a setting of the plan is chosen by, and never its test metrics.
    names, looks = [field.name for field in fields(Validation)], storage.read_json(run / "curve.json")["looks"]
    validation = dict(zip(names, looks[-1], strict=True))
    storage.write_json(folder / name, made | {"told": options, "validation": validation, "looks": looks})
    shutil.rmtree(run / "checkpoints", ignore_errors=True)
    return run


def hours(missing: Sequence[str], workers: int) -> float:
    """About how long these runs take: their steps as long as they took, or as others did; a tenth more to measure."""
    took = {}
    for path in (FOLDER / PLANNED).glob("[!.]*.json"):
        with suppress(LclError, KeyError, TypeError):  # damaged
            run = storage.read_json(path)
            took[path.name] = run["step_ms"] * run["steps"] / 3.6e6
    usual = mean(took.values()) if took else 1 / 6
    return 1.1 * sum(took.get(name, usual) for name in missing) / workers


def settle(names: Sequence[str]) -> None:
    """All new runs are there: let them take the place of those that were kept before. Runs of other arms stay."""
    for name in names:
        for file in ((FOLDER / NEXT / name).with_suffix(".safetensors"), FOLDER / NEXT / name):
            if file.exists():  # else an earlier call, which was stopped, has moved it
                file.replace(FOLDER / PLANNED / file.name)
    shutil.rmtree(FOLDER / NEXT, ignore_errors=True)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="runs side by side, a core each")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plan", type=Path, default=FOLDER / "plan.json", help="a plan as JSON")
    parser.add_argument("--only", metavar="ARM", help="the arm of the plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1, help="threads of the run that --only names (default: 1)")
    parser.add_argument("--again", action="store_true", help="train the run of --only once more, beside the saved one")
    arguments = parser.parse_args(words)
    if arguments.threads < 1 or (arguments.threads > 1 and not arguments.only):
        parser.error("--threads is a number from 1 on, and goes with --only.")
    if arguments.again and not arguments.only:
        parser.error("--again trains one run: name it with --only ARM --seed N.")
    if arguments.check and arguments.only:
        parser.error("--check trains the small run alone: leave out --only, or --check.")
    if arguments.check:
        shutil.rmtree(RUNS / "small", ignore_errors=True)  # trained anew each time
        train(CHECK, SMALL, circumstance(SMALL), RUNS / "small", FOLDER)
        return
    plan = storage.read_json(arguments.plan)
    if arguments.only:
        train_arm(plan, arguments.only, arguments.seed, arguments.threads, AGAIN if arguments.again else PLANNED)
        return
    train_plan(plan, arguments.workers)


def train_arm(plan: dict, arm: str, seed: int, threads: int = 1, into: str = PLANNED) -> None:
    """Train one run of a plan and keep it in this folder of `results/`, unless it is there.

    Raises LclError for an arm or a seed that the plan does not have, and if a run of other code, data or torch is kept there.
    """
    options = told(plan, arm, seed)
    seeds = plan["arms"][arm]["seeds"]
    require(seed in seeds, f"the plan has no seed {seed} of {arm!r}; choose among {', '.join(map(str, seeds))}.")
    name, here = file_of(plan, arm, seed), circumstance(options)
    lone = into == AGAIN and not kept(name, options, here)
    require(not lone, f"no saved run of {arm!r}, seed {seed}, to compare with; train without --again.")
    runs = RUNS / AGAIN if into == AGAIN else RUNS
    with storage.locked(runs / "busy" / Path(name).stem):  # two calls would train the same run into one folder
        if not kept(name, options, here, [into]):
            path = FOLDER / into / name
            require(not is_older(path, here), f"{path} is of other code, data or torch, so it is not replaced; delete it first.")
            done = train(name, options, here, runs, path.parent, threads)
            if into == AGAIN:
                shutil.rmtree(done)  # else a third time would copy the second
    print(f"{Path(name).stem}: kept")


def train_plan(plan: dict, workers: int) -> None:
    """Train every run of a plan that is missing; exits with 1 if one fails."""
    runs = runs_of(plan)
    here = circumstance(next(iter(runs.values())))
    older = [name for name in runs if is_older(FOLDER / PLANNED / name, here)]
    folders = (NEXT, PLANNED) if older else (PLANNED,)
    missing = {name: options for name, options in runs.items() if not kept(name, options, here, folders)}
    print(f"the study of code {here.code}, data {here.data}, torch {here.torch}")
    if older:
        print(f"{len(older)} of the saved runs are of another study, such as {older[0]}: new runs wait in results/{NEXT}/")
    print(f"{len(missing)} of {len(runs)} runs to train, about {hours(list(missing), workers):.1f} hours", flush=True)
    failed = train_all(missing, here, workers, FOLDER / folders[0]) if missing else []
    number = sum(kept(name, options, here, folders) is not None for name, options in runs.items())
    print(f"{number} of {len(runs)} runs are there")
    if older and number == len(runs):
        settle(list(runs))
    if failed:
        sys.exit(f"{len(failed)} runs failed: {', '.join(failed)}")


def train_all(options: Mapping[str, list[str]], here: Circumstance, workers: int, folder: Path) -> list[str]:
    """Train runs side by side, and tell of each; returns the names of those that failed."""
    failed = []
    with (
        storage.locked(RUNS / "busy"),  # one study at a time: two would train the same run into one folder
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(options), unit="run", dynamic_ncols=True) as bar,
    ):
        works = {pool.submit(train, name, words, here, RUNS, folder): name for name, words in options.items()}
        try:
            for work in as_completed(works):
                try:
                    work.result()
                    bar.write(f"{works[work]}: kept")
                except LclError as error:
                    failed.append(works[work])
                    bar.write(str(error))
                bar.update()
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            sys.exit("stopped; the next call goes on where this one was.")
    return failed


if __name__ == "__main__":
    try:
        main()
    except LclError as error:
        sys.exit(str(error))
