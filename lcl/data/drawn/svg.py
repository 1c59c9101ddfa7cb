"""Draw SVG from outside: each file is checked and drawn in a process of its own, with limits of time and memory.

A drawing can name any file of this machine, and the renderer itself can hang, take all memory, or end its process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import reprlib
import xml.parsers.expat
from multiprocessing.connection import Connection

from lcl.config import LclError, need, require
from lcl.machine import without_main

SECONDS = 10  # for one drawing
START_SECONDS = 60  # for the process to start, on a busy machine
MEMORY = 2**30  # bytes, of the process that draws
MAX_DEPTH = 64  # elements within elements: at some hundreds the renderer's stack overflows
MAX_FILTERS = 100  # steps of all filters; each is as large as the drawing
SHORT = reprlib.Repr()
SHORT.maxstring = 80  # the beginning and the end of a longer text
HREF = re.compile(r"\s*(#|data:image/(png|jpe?g|gif|webp)\s*[;,])", re.IGNORECASE)  # an SVG in an SVG would not be checked


class BadDrawing(LclError):
    """A drawing that cannot be used. Its text says why, and what to do."""


class Painter:
    """Draws SVG in a process that starts with the first drawing, and again after a drawing that it did not survive.

    Use it as a context: at its end the process is stopped.
    """

    def __init__(self, side: int):
        """side: of every drawing, in pixels."""
        self.side, self._process = side, None

    def __enter__(self) -> Painter:
        return self

    def __exit__(self, *error: object) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.join()
            self._pipe.close()
            self._process = None

    def draw(self, svg: bytes) -> bytes:
        """A drawing as PNG. Raises BadDrawing if it is refused or cannot be drawn within the limits."""
        if self._process is None:
            self._start()
        try:
            self._pipe.send_bytes(svg)
            require(self._pipe.poll(SECONDS), f"takes longer than {SECONDS} s to draw; simplify it.")
            answer = self._pipe.recv_bytes()
        except (LclError, OSError, EOFError) as error:
            self.__exit__()
            crash = f"makes the renderer crash, or take more than {MEMORY // 2**30} GB of memory; simplify it."
            raise BadDrawing(str(error) if isinstance(error, LclError) else crash) from None
        if answer[:1] != PNG[:1]:
            raise BadDrawing(answer.decode())
        return answer

    def _start(self) -> None:
        need("resvg_py", "scenes")  # or the process would say so of every drawing
        context = multiprocessing.get_context("spawn")
        self._pipe, other = context.Pipe()
        process = context.Process(target=_work, args=(other, self.side), daemon=True)
        with without_main():
            process.start()
        self._process = process
        other.close()
        with contextlib.suppress(OSError, EOFError):
            if self._pipe.poll(START_SECONDS) and self._pipe.recv_bytes() == PNG:
                return
        self.__exit__()
        raise LclError("the process that draws SVG does not start; try again, or save the drawings as PNG.")


PNG = b"\x89PNG"


def _work(pipe: Connection, side: int) -> None:
    """Draw until the other end of the pipe is closed. Answers are PNG, or say what is wrong."""
    draw = need("resvg_py", "scenes").svg_to_bytes
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)  # the renderer's last words, if it crashes
    _limit()
    pipe.send_bytes(PNG)
    with contextlib.suppress(EOFError, OSError):
        while True:
            try:
                svg = pipe.recv_bytes().decode().removeprefix("\ufeff")
                check(svg)
                answer = draw(svg_string=svg, width=side, height=side, skip_system_fonts=True)
            except LclError as error:
                answer = str(error).encode()
            except MemoryError:
                answer = f"takes more than {MEMORY // 2**30} GB of memory to draw; simplify it.".encode()
            except Exception as error:  # a file from outside can make the renderer fail in any way
                answer = f"is not a readable SVG drawing ({str(error)!r}).".encode()
            pipe.send_bytes(answer)


def _limit() -> None:
    """Limit what this process may take, and let it open no more files, where the system can do that; Windows cannot."""
    with contextlib.suppress(ImportError):
        import resource

        for name, most in (("RLIMIT_AS", MEMORY), ("RLIMIT_CORE", 0), ("RLIMIT_NOFILE", 0)):
            with contextlib.suppress(AttributeError, ValueError, OSError):  # macOS refuses some
                resource.setrlimit(getattr(resource, name), (most, most))


def check(svg: str) -> None:
    """Raise LclError if an SVG refers to anything outside itself, defines entities, or is too deep or too costly."""
    depth = filters = 0

    def start(name: str, attributes: dict[str, str]) -> None:
        nonlocal depth, filters
        depth, filters = depth + 1, filters + name.rpartition(":")[2].startswith("fe")
        require(depth <= MAX_DEPTH, f"has more than {MAX_DEPTH} elements within each other; ungroup some.")
        require(filters <= MAX_FILTERS, f"has more than {MAX_FILTERS} steps of filters; remove some.")
        for key, value in attributes.items():
            alien = key.rpartition(":")[2].lower() == "href" and value and not HREF.match(value)
            require(not alien, f"refers to {SHORT.repr(value)}; a drawing may only show itself and pictures embedded as data.")

    def end(name: str) -> None:
        nonlocal depth
        depth -= 1

    def entity(*declared: object) -> None:
        raise LclError("defines entities; save it as plain SVG.")

    parser = xml.parsers.expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler, parser.EntityDeclHandler = start, end, entity
    parser.Parse(svg.encode(), True)
