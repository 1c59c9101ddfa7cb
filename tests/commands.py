"""The command line in this process: what it prints, and how it ends."""

import contextlib
import io
import logging
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import psutil

from lcl.cli.main import main

ROOT = Path(__file__).resolve().parent.parent


@dataclass
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def refusal(self) -> str:
        """What a refused command says, which is all that it says."""
        assert self.code == 2 and self.out == "" and "Traceback" not in self.err
        return self.err


def lcl(*arguments) -> Result:
    """Run a command in this process."""
    out, err = (io.TextIOWrapper(io.BytesIO(), encoding="utf-8", write_through=True) for _ in range(2))
    root, code = logging.getLogger(), 0
    handlers, root.handlers = root.handlers, []  # the command line sets up logging anew
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            main([str(argument) for argument in arguments])
    except SystemExit as stop:
        code = stop.code or 0
    finally:
        root.handlers = handlers
    return Result(code, *(stream.buffer.getvalue().decode() for stream in (out, err)))


def two_ranks(folder: Path, number: int, *options: str) -> tuple[int, str]:
    """Train in two processes, in folder/two, and send one of them a signal after some steps: the exit status, what was said."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lcl", "train"]
    options = ["--profile", "smoke", "--epochs", "200", "--runs", str(folder), "--name", "two", *options]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    log = folder / "two" / "log.jsonl"
    with subprocess.Popen([*command, *options], stderr=subprocess.PIPE, text=True, encoding="utf-8", env=environment) as group:
        while group.poll() is None and not (log.exists() and len(log.read_text().splitlines()) > 5):
            time.sleep(0.1)
        psutil.Process(group.pid).children()[1].send_signal(number)
        told = group.communicate(timeout=120)[1]  # ends only when both have ended: they share its standard error
    return group.returncode, told
