"""Speed beside an earlier version of this project, from its own history: both do the same works, in turns, in one run."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from benchmarks.timing import Benchmark, benchmark
from lcl.config import LclError

ROOT = Path(__file__).resolve().parent.parent
COMMIT = "6e845f5"  # the last one before the modules moved into rooms
BESIDE = f"this project's code at {COMMIT}"
ROWS: dict[str, tuple[int, str, str, int, str]] = {  # name: size, what, unit, turns in a repeat, note
    "planned": (2048, "planning scenes and their captions, one core", "scenes/s", 3, ""),
    "drawn": (2048, "drawing planned scenes of 64 pixels, one core", "scenes/s", 3, ""),
    "narrow": (100_000, "8 neighbours of each of 100,000 x 384", "rows/s", 1, ""),
    "wide": (65_536, "8 neighbours of each of 65,536 x 1,280", "rows/s", 1, ""),
    "looked-up": (
        3_300_000, "1,024 rows of a bank of 3.3 million x 1,280", "rows/s", 3, "a sparse file: no disk is read"
    ),
    "matched": (9216, "exact matching of 12 words with 64 patches", "problems/s", 5, ""),
    "read": (2048, "reading 256-pixel JPEGs from shards as 64 pixels, one process", "pairs/s", 3, "enlarged scenes"),
}  # fmt: skip


class Worker:
    """A process that does works with the library in `root`.

    version: "new" or "old". folder: for what it writes. changed: variables of its environment, beside our own.

    Calling it with a name and a size does that work once. Raises LclError, with the end of its messages, if it fails.
    """

    def __init__(self, version: str, root: Path, folder: Path, changed: Mapping[str, str] = MappingProxyType({})):
        environment = os.environ | {"PYTHONPATH": str(root)} | changed
        if version == "old":
            environment["LCL_DATA"] = str(folder / "data")  # its caches are not for the new code
        self._messages = (folder / f"{version}.log").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("works.py")), version, str(folder)], cwd=folder, env=environment,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._messages, text=True,
        )  # fmt: skip

    def __call__(self, name: str, size: int) -> None:
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps([name, size]) + "\n")
            self._process.stdin.flush()
        if self._process.stdout.readline().strip() != str(size):
            self._messages.seek(0)
            last = (self._messages.read().strip() or "it says nothing").splitlines()[-1]
            raise LclError(f"the process that does the work {name} has stopped: {last}")

    def close(self) -> None:
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()
        self._messages.close()


def check_out(folder: Path, commit: str = COMMIT, root: Path = ROOT) -> bool:
    """Put the package `lcl` of a commit into a folder. False where there is no git, or no such commit, as in a shallow clone."""
    try:
        packed = subprocess.run(["git", "archive", commit, "lcl"], cwd=root, capture_output=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return False
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        tar.extractall(folder, filter="data")
    return True


def history(repeats: int, tell: Callable[[str], object] = print, sizes: dict[str, int] | None = None) -> Iterator[Benchmark]:
    """Every work of `ROWS` beside the earlier version; nothing but a sentence where this checkout lacks its commit.

    Args:
        repeats: of each.
        tell: called with that sentence.
        sizes: by name, to measure only these works, at other sizes.
    """
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        if not check_out(folder / "old"):
            tell(f"rows beside {BESIDE} are left out: this checkout's history does not reach back to it")
            return
        new, old = Worker("new", ROOT, folder), Worker("old", folder / "old", folder)
        stack.callback(new.close), stack.callback(old.close)
        for key, (usual, what, unit, times, note) in ROWS.items():
            if sizes is not None and key not in sizes:
                continue
            size = usual if sizes is None else sizes[key]
            amount = 1024 if key == "looked-up" else size
            note = note if size == usual else "; ".join(filter(None, [note, f"here only {size:,}"]))
            works = [lambda worker=worker, key=key, size=size: worker(key, size) for worker in (new, old)]
            yield benchmark(f"history-{key}", what, BESIDE, unit, amount, *works, repeats, times, note)
