"""Train what the course reports, keep each run's metrics.json and ranks of queries in `results/`, and never train the same twice.

python tools/study.py [--workers 2] [CELL …]

A cell of the study is a recipe, a seed, and what differs from the profile `laptop`. A cell is done when it is kept, made by the
code at hand (`lcl.train.provenance.code_key`), on its data, with its torch, and told what it would be told now; one that was
stopped goes on from its last checkpoint. So the study may be stopped at any time. Each worker is a process with one thread; runs
stay in `runs/study/`, in a folder for each such circumstance.

New cells wait in `results/next/` until all are there, and then take the place of the old study in one go: what is reported is
never half of one study and half of another.

--check: train the small cell that a test trains too, and keep it.
--plan results/plan.json --only ARM --seed 0: train one run of the plan (docs/plan.md), and keep it in results/planned/.
"""

from __future__ import annotations

import argparse
import logging
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import suppress
from dataclasses import fields, replace
from pathlib import Path
from statistics import mean

from tqdm import tqdm

from lcl import storage
from lcl.cli.common import profile_of
from lcl.config import LclError, get_profile
from lcl.course.planned import stem_of, told
from lcl.course.study import FOLDER, Study, differences, write_study
from lcl.data.scenes import open_scenes
from lcl.eval.queries import RANKS
from lcl.train.loop import Validation
from lcl.train.provenance import code_key, version

log = logging.getLogger(__name__)
ROOT = Path(__file__).resolve().parent.parent
RUNS = ROOT / "runs" / "study"
MAIN = ("clip", "lightclip", "clip-ping", "lightclip-ping")  # five seeds; the others have three
PARTS = ("clip+soft", "clip+match", "clip+mlm", "clip+nn", "clip+xnn")
LIVE = "a-clip-ping"  # its teacher runs in every step, so a cell of it takes twice as long
VIT = ["--tower", "vit", "--tower-width", "192", "--tower-depth", "4", "--tower-heads", "3"]  # a step takes two thirds of conv's
SIZES = {"4k": ["--pairs", "4096", "--epochs", "32"], "64k": ["--pairs", "65536", "--epochs", "2"]}  # the same steps
DEPTHS, DEPTH_EPOCHS = (1, 2, 4, 8, 12), "4"
LONGER = ["--epochs", "13"]  # 13 eighths of the steps: clip for longer than lightclip-ping's steps take, but for its banks
RATES = ("1e-3", "1.4e-3", "2.8e-3", "4e-3")  # beside the profile's 2e-3: is clip tuned as well as the others are?
CHECKPOINTS = ["--checkpoint-every", "128", "--keep", "1"]
PLANNED = "planned"  # in results/: runs of the plan
NEXT = "next"  # in results/: cells of a study that is not whole yet
CHECK, SMALL = "check", ["--profile", "smoke", "--recipe", "lightclip-ping", "--seed", "0"]  # the small cell


def cells() -> dict[str, list[str]]:
    """Every cell of the study: its name, and what `lcl train` is told. What matters most comes first."""
    found = {}

    def add(recipe: str, seeds: Sequence[int], of: str = "", *options: str) -> None:
        for seed in seeds:
            name = f"{recipe}-laptop{of and '-' + of}-seed{seed}"
            found[name] = ["--profile", "laptop", "--recipe", recipe, "--seed", str(seed), *options]

    for seed in range(3):
        for recipe in MAIN + PARTS:
            add(recipe, [seed])
    for seed in range(3, 5):
        for recipe in MAIN:
            add(recipe, [seed])
    add(LIVE, range(3))
    for seed in range(3):
        for recipe in MAIN:
            add(recipe, [seed], "vit", *VIT)
    for seed in range(3):
        for size, options in SIZES.items():
            for recipe in ("clip", "clip-ping"):
                add(recipe, [seed], size, *options)
    add("clip", range(3), "longer", *LONGER)
    for rate in RATES:
        add("clip", [0], f"rate{rate}", "--learning-rate", rate)
    for seed in range(3):
        for depth in DEPTHS:
            add("clip", [seed], f"depth{depth}", "--text-depth", str(depth), "--epochs", DEPTH_EPOCHS)
    return found


def planned() -> Study:
    """The study that the code at hand would make."""
    seeds: dict[str, list] = {}
    for name in cells():
        stem, seed = name.rsplit("-seed", 1)
        seeds.setdefault(stem, []).append(int(seed))
    torch = (version("torch") or "none").split("+")[0]
    return Study(code_key(), open_scenes(get_profile("laptop").scenes).fingerprint, torch, seeds)


def kept(name: str, options: list[str], study: Study, folder: str = NEXT) -> Path | None:
    """Where the cell is kept, in results/ or a folder there, if it is of this study and was told this."""
    for path in (FOLDER / f"{name}.json", FOLDER / folder / f"{name}.json"):
        if path.exists():
            try:
                run = storage.read_json(path)
                if not differences(run, study) and run.get("told") == options and ranks_of(path).exists():
                    return path
            except (LclError, KeyError, TypeError, AttributeError):
                log.warning("%s is damaged, and its cell counts as missing", path)
    return None


def train(name: str, options: list[str], study: Study, runs: Path, folder: Path) -> None:
    """Train one cell, or go on with it, and keep its figures, and what it was told, in `folder`.

    Raises LclError, with what was said, if it fails, and if it was made by something else than `study` says: somebody changed
    the code meanwhile.
    """
    run = runs / storage.fingerprint([study.code, study.data, study.torch, options]) / name
    if not (run / "metrics.json").exists():
        begun = (run / "training.json").exists()
        if not begun:
            shutil.rmtree(run, ignore_errors=True)  # stopped before there was anything to go on with
        told = ["--resume", str(run)] if begun else [*options, "--runs", str(run.parent), "--name", name, *CHECKPOINTS]
        result = subprocess.run(
            [sys.executable, "-m", "lcl", "train", *told], cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True, encoding="utf-8", errors="replace",
        )  # fmt: skip
        if result.returncode:
            raise LclError(f"{name} failed, and is left as it is in {run}: {result.stderr.strip()[-2000:]}")
    made = storage.read_json(run / "metrics.json")
    if other := differences(made, study):
        shutil.rmtree(run)
        raise LclError(f"{name} was trained while something changed ({', '.join(other)}), and is thrown away; call again.")
    made.pop("checksum", None)  # of the file as it was
    storage.write_bytes(ranks_of(folder / f"{name}.json"), (run / RANKS).read_bytes())
    # The last validation step: what a setting of the plan is chosen by, and never by its test metrics.
    names = [field.name for field in fields(Validation)]
    validation = dict(zip(names, storage.read_json(run / "curve.json")["looks"][-1], strict=True))
    storage.write_json(folder / f"{name}.json", made | {"told": options, "validation": validation})
    shutil.rmtree(run / "checkpoints", ignore_errors=True)


def ranks_of(path: Path) -> Path:
    """The ranks of the test queries lie beside a kept cell."""
    return path.with_suffix(".safetensors")


def hours(missing: Sequence[str], workers: int) -> float:
    """About how long these cells take: their steps as long as they took, or as others did; a tenth more to measure."""
    paths = [*FOLDER.glob("*-seed*.json"), *(FOLDER / NEXT).glob("*.json")]
    took = {}
    for path in paths:
        with suppress(LclError, KeyError, TypeError):  # damaged, or of a time when steps were not timed
            run = storage.read_json(path)
            took[path.stem] = run["step_ms"] * run["steps"] / 3.6e6
    usual = mean(took.values()) if took else 1 / 6
    return 1.1 * sum(took.get(name, usual) for name in missing) / workers


def settle(study: Study) -> None:
    """All cells are there: let them take the place of what was kept before."""
    found = {name: kept(name, options, study) for name, options in cells().items()}
    for name, path in found.items():
        ranks_of(path).replace(ranks_of(FOLDER / f"{name}.json"))
        path.replace(FOLDER / f"{name}.json")
    for path in [*FOLDER.glob("*-seed*.json"), *FOLDER.glob("*-seed*.safetensors")]:
        if path.stem not in found:
            path.unlink()
    shutil.rmtree(FOLDER / NEXT, ignore_errors=True)
    write_study(study)


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=2, help="trainings side by side, a core each")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--plan", type=Path, help="a plan as JSON")
    parser.add_argument("--only", metavar="ARM", help="the arm of the plan")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="only these, in this order")
    arguments = parser.parse_args(words)
    if arguments.check:
        shutil.rmtree(RUNS / "small", ignore_errors=True)  # trained anew each time
        data = open_scenes(get_profile("smoke").scenes).fingerprint
        return train(CHECK, SMALL, replace(planned(), data=data), RUNS / "small", FOLDER)
    if arguments.plan:
        return train_arm(storage.read_json(arguments.plan), arguments.only or "", arguments.seed, arguments.profile)
    known, study = cells(), planned()
    chosen = arguments.cells or list(known)
    if unknown := set(chosen) - set(known):
        parser.error(f"there is no cell {sorted(unknown)[0]}; choose among: {', '.join(known)}")
    missing = [name for name in chosen if not kept(name, known[name], study)]
    print(f"the study of code {study.code}, data {study.data}, torch {study.torch}")
    print(f"{len(missing)} of {len(chosen)} cells to train, about {hours(missing, arguments.workers):.1f} hours", flush=True)
    failed = train_all({name: known[name] for name in missing}, study, arguments.workers) if missing else []
    there = sum(kept(name, options, study) is not None for name, options in known.items())
    if there == len(known):
        settle(study)
    else:
        print(f"{there} of {len(known)} cells are there; results/ stays as it is until all are")
    if failed:
        sys.exit(f"{len(failed)} cells failed: {', '.join(failed)}")


def train_arm(plan: dict, arm: str, seed: int, profile: str) -> None:
    """Train one run of a plan and keep it in `results/planned/`, unless it is there."""
    options = told(plan, arm, seed, profile)
    version_of = int(options[options.index("--scenes-version") + 1]) if "--scenes-version" in options else None
    study = replace(planned(), data=open_scenes(profile_of(profile, version_of).scenes).fingerprint)
    name = f"{stem_of(arm)}-{profile}-seed{seed}"
    if not kept(name, options, study, PLANNED):
        train(name, options, study, RUNS, FOLDER / PLANNED)
    print(f"{name}: kept")


def train_all(options: dict[str, list[str]], study: Study, workers: int) -> list[str]:
    """Train cells side by side, and tell of each; returns the names of those that failed."""
    failed = []
    with (
        storage.locked(RUNS / "busy"),  # one study at a time: two would train the same cell into one folder
        ThreadPoolExecutor(workers) as pool,
        tqdm(total=len(options), unit="cell", dynamic_ncols=True) as bar,
    ):
        works = {pool.submit(train, name, told, study, RUNS, FOLDER / NEXT): name for name, told in options.items()}
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
    main()
