"""The command line in this process: what it prints, and how it ends."""

import contextlib
import io
import logging
from dataclasses import dataclass

from lcl.cli.main import main


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
