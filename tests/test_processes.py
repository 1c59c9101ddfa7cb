"""Processes that work on numbered pieces end with the one that started them."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

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
