"""Processes that work on numbered pieces end with the one that started them; and where memory ends, a sentence says so."""

import errno
import multiprocessing
import os
import subprocess
import sys
import time
import weakref
from pathlib import Path

import psutil
import pytest
import torch

from lcl import processes
from lcl.config import LclError
from lcl.processes import in_order, memory_for

ROOT = Path(__file__).resolve().parent.parent

SLOW = """
import time

class Slow:
    def __len__(self):
        return 100
    def __getitem__(self, number):
        time.sleep(0.1)
        return number
"""
KILLED = """
import multiprocessing, os, signal, sys
from lcl.processes import in_order
from slow import Slow

if __name__ == "__main__":
    multiprocessing.set_start_method(sys.argv[1])
    for number in in_order(Slow(), "sleep", 2):
        if number == 3:
            print(*[process.pid for process in multiprocessing.active_children()], flush=True)
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGKILL")
@pytest.mark.parametrize("method", multiprocessing.get_all_start_methods())
def test_processes_end_with_the_one_that_started_them(tmp_path, method):
    (tmp_path / "slow.py").write_text(SLOW)
    (tmp_path / "killed.py").write_text(KILLED)
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"}
    with (tmp_path / "told").open("w") as told:  # a pipe would be waited for until the last of them is gone
        subprocess.run([sys.executable, str(tmp_path / "killed.py"), method], stdout=told, env=environment, timeout=120)
    workers = [int(number) for number in (tmp_path / "told").read_text().split()]
    assert len(workers) == 2
    try:
        for _ in range(300):
            if not any(map(psutil.pid_exists, workers)):
                return
            time.sleep(0.1)
        raise AssertionError(f"of {workers} some are left")
    finally:
        for worker in filter(psutil.pid_exists, workers):
            psutil.Process(worker).kill()


CUDA = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 139 GiB of which 1 GiB is free."


def raising(error: Exception):
    def work():
        raise error

    return work


@pytest.mark.parametrize(
    ("work", "told"),
    [
        (lambda: torch.empty(2**58), r" \(\d+ bytes more\)"),  # a real one
        (raising(torch.OutOfMemoryError(CUDA)), r" \(2.00 GiB more\)"),
        (raising(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`\nmore")), ""),
        (raising(MemoryError()), ""),
    ],
)
def test_where_memory_ends_one_sentence_says_what_to_lower(work, told):
    with pytest.raises(LclError, match=f"^there is not enough memory for a step{told}; lower the batch.$"):
        with memory_for("a step", "lower the batch"):
            work()


def test_what_a_failed_step_holds_is_freed_even_if_the_error_is_kept():
    held = []

    def work():
        activations = torch.ones(3)
        held.append(weakref.ref(activations))
        raise torch.OutOfMemoryError(CUDA)

    with pytest.raises(LclError) as kept, memory_for("a step", "lower the batch"):
        work()
    assert held[0]() is None and kept.value.__context__ is not None


def test_other_errors_pass():
    with pytest.raises(RuntimeError, match="a bug"), memory_for("a step", "lower the batch"):
        raise RuntimeError("a bug")


@pytest.mark.parametrize("number", [errno.EAGAIN, errno.ENOMEM])
def test_a_fork_that_fails_is_one_sentence(monkeypatch, number):
    monkeypatch.setattr(processes.ProcessPoolExecutor, "submit", lambda *_: raising(OSError(number, os.strerror(number)))())
    told = f"^the 2 processes that describe scenes cannot be started .{os.strerror(number)}.; free some memory, or allow more"
    with pytest.raises(LclError, match=told):
        list(in_order(range(10), "describe scenes", 2))
