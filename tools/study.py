"""Train what the course reports, keep each run's metrics.json in `results/`, and never train the same twice.

python tools/study.py [--workers 2] [CELL …]

A cell of the study is a recipe, a seed, and what differs from the profile `laptop`. A cell whose file exists is skipped,
so the study may be stopped at any time. Each worker is a process with one thread. Checkpoints stay in `runs/study/`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
RUNS, RESULTS = ROOT / "runs" / "study", ROOT / "results"
SEEDS = (0, 1, 2)
RECIPES = (
    "clip", "clip+match", "clip+mlm", "lightclip", "clip+soft", "clip-ping", "lightclip-ping", "clip+nn", "clip+xnn",
)  # fmt: skip
DEPTHS, DEPTH_EPOCHS = (1, 2, 4, 8, 12), 4

CELLS = {
    **{f"{recipe}-laptop-seed{seed}": ["--recipe", recipe, "--seed", str(seed)] for seed in SEEDS for recipe in RECIPES},
    **{
        f"clip-laptop-depth{depth}-seed{seed}":
            ["--recipe", "clip", "--seed", str(seed), "--text-depth", str(depth), "--epochs", str(DEPTH_EPOCHS)]
        for seed in SEEDS for depth in DEPTHS
    },
}  # fmt: skip


def train(name: str) -> tuple[bool, str]:
    """Train one cell and keep its figures. Returns whether that went well, and a line to print."""
    started = time.perf_counter()
    shutil.rmtree(RUNS / name, ignore_errors=True)  # what a stopped study left half done
    command = [sys.executable, "-m", "lcl", "train", "--profile", "laptop", "--runs", str(RUNS), "--name", name, *CELLS[name]]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True)
    if done.returncode:
        return False, f"{name}: failed\n{done.stderr[-2000:]}"
    RESULTS.mkdir(exist_ok=True)
    shutil.copy(RUNS / name / "metrics.json", RESULTS / f"{name}.new")
    (RESULTS / f"{name}.new").replace(RESULTS / f"{name}.json")
    return True, f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, default=2, help="trainings side by side, a core each")
    parser.add_argument("cells", nargs="*", metavar="CELL", help="only these, in this order")
    arguments = parser.parse_args()
    cells = arguments.cells or list(CELLS)
    if unknown := set(cells) - set(CELLS):
        parser.error(f"there is no cell {sorted(unknown)[0]}; choose among: {', '.join(CELLS)}")
    missing = [name for name in cells if not (RESULTS / f"{name}.json").exists()]
    print(f"{len(missing)} of {len(cells)} cells to train", flush=True)
    with ThreadPoolExecutor(arguments.workers) as pool:
        results = []
        for well, line in pool.map(train, missing):
            results.append(well)
            print(line, flush=True)
    sys.exit(not all(results))


if __name__ == "__main__":
    main()
