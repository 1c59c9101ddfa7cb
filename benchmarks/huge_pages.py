"""A step of training with huge pages of memory, which the Makefile asks glibc for, and without: the same code, in turns."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from benchmarks.history import ROOT, Worker
from benchmarks.timing import Benchmark, benchmark

VARIABLE, ASKED = "GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"
SINCE = (2, 35)  # the first glibc that knows it
STATE = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def setting(state: Path = STATE) -> str | None:
    """How Linux gives huge pages: always, to those who ask (madvise), or never. None where glibc cannot ask for them."""
    kind, version = platform.libc_ver()
    if kind != "glibc" or tuple(map(int, version.split("."))) < SINCE or not state.exists():
        return None
    return state.read_text().partition("[")[2].partition("]")[0]


def huge_pages(repeats: int, tell: Callable[[str], object] = print, steps: int = 8) -> Iterator[Benchmark]:
    """The race; nothing but a sentence where glibc cannot ask for huge pages. steps: in one turn."""
    found = setting()
    if found is None:
        tell("the row on huge pages is left out: it needs Linux with glibc 2.35 or later")
        return
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folders = [Path(name) / each for each in ("asked", "not-asked")]
        workers = []
        for folder, value in zip(folders, (ASKED, ""), strict=True):
            folder.mkdir()
            workers.append(Worker("new", ROOT, folder, {VARIABLE: value}))
            stack.callback(workers[-1].close)
        works = [lambda worker=worker: worker("stepped", steps) for worker in workers]
        what, note = "steps of `clip` on huge pages of memory", f"`{VARIABLE}={ASKED}`; Linux gives such pages: {found}"
        yield benchmark("huge-pages", what, "the same without", "steps/s", steps, *works, repeats, 1, note)
