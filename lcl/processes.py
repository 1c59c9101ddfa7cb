"""Work that processes share: numbered pieces, whose results come in order; a watch that ends all if one is dead; no memory."""

from __future__ import annotations

import _thread
import collections
import contextlib
import itertools
import json
import multiprocessing
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from lcl.config import LclError
from lcl.machine import one_thread, processors, without_main

BEAT = 1.0  # seconds between two signs of life of a process
SILENT = 60.0  # seconds without one, until a process counts as dead; some calls, such as writing a large file, let no thread run
SUSPECT = 5.0  # the same once something is known to be wrong: an exchange failed, or this process was asked to stop
GRACE = 10.0  # seconds that a process has to end by itself once another one has failed
STOPPED, ENDS, LEFT = "was stopped", "ends", "left"  # what a process tells: left is one that needs the store no more
NO_MEMORY = "out of memory|can't allocate memory|_ALLOC_FAILED"  # of CUDA, MPS and the CPU; of cuBLAS and cuDNN


class Pieces(Protocol):
    """What there is to do. Where processes are not forked, it is pickled."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


def in_order(pieces: Pieces, what: str, workers: int | None = None) -> Iterator[Any]:
    """pieces[0], pieces[1] and so on, each computed by one of several processes.

    Args:
        pieces: what there is to do; tensors among the results go through shared memory.
        what: the processes do, for a message: "describe scenes".
        workers: processes (default: one a processor); below 2, this process does everything.

    Raises:
        LclError: if a process dies. What a piece raises is raised here, too.
    """
    workers = min(processors() if workers is None else workers, len(pieces))
    if workers < 2:
        yield from (pieces[number] for number in range(len(pieces)))
        return
    numbers = iter(range(len(pieces)))
    pool = ProcessPoolExecutor(workers, initializer=_begin, initargs=(pieces,))
    try:
        try:
            with without_main():
                ahead = collections.deque(pool.submit(_piece, number) for number in itertools.islice(numbers, 2 * workers))
        except OSError as error:  # of a fork
            raise LclError(
                f"the {workers} processes that {what} cannot be started ({error.strerror or error}); free some memory, or allow "
                "more processes (ulimit -u)."
            ) from None
        while ahead:
            result = ahead.popleft().result()
            ahead.extend(pool.submit(_piece, number) for number in itertools.islice(numbers, 1))
            yield result
    except BrokenProcessPool:
        raise LclError(
            f"one of the {workers} processes that {what} died, often for want of memory or of shared memory (/dev/shm); what is "
            "finished is kept: free some, and call again."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


_pieces: Pieces | None = None  # in a process: what it was started with


def _begin(pieces: Pieces) -> None:
    import torch

    global _pieces
    _pieces = pieces
    one_thread(0)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, as after `kill -9`; it would wait for more work for ever."""
    multiprocessing.parent_process().join()
    os._exit(1)


def _piece(number: int) -> Any:
    return _pieces[number]


@contextlib.contextmanager
def memory_for(what: str, remedy: str) -> Iterator[None]:
    """Raise LclError where memory ends within it, that of a GPU or of the machine.

    Args:
        what: needs the memory, such as "a training step".
        remedy: what to do about it.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not re.search(NO_MEMORY, str(error)):
            raise
        traceback.clear_frames(error.__traceback__)  # or what they hold stays in memory, for a notebook keeps the last error
        wanted = re.search(r"[Tt]ried to allocate ([\d.]+ \w+)", str(error))
        size = f" ({wanted[1]} more)" if wanted else ""
        raise LclError(f"there is not enough memory for {what}{size}; {remedy}.") from None


class LostPeer(RuntimeError):
    """An exchange among processes failed, or would wait for ever: another process is gone."""


class Store(Protocol):
    """Keys that all processes see, such as `torch.distributed.TCPStore`. Its calls raise RuntimeError where it is gone."""

    def add(self, key: str, amount: int) -> int: ...

    def compare_set(self, key: str, expected: str, desired: str) -> bytes: ...


class Watch:
    """Lets the processes of one training know that one of them failed, was killed or hangs; then all of them stop.

    Once a second a thread in each process adds 1 to a number in the store, its sign of life, and reads the others' numbers. A
    process that fails writes the reason there. The others then raise LostPeer where they wait for each other. One that is busy
    with something else is interrupted as by Ctrl-C, and one that heeds neither, as in a call of NCCL, ends after GRACE seconds.

    Args:
        store: a connection that nothing else waits at.
        rank: this process, 0 to size - 1.
        size: how many processes there are.
    """

    def __init__(self, store: Store, rank: int, size: int):
        self.store, self.rank, self.others = store, rank, [other for other in range(size) if other != rank]
        self.reason = ""  # why all must stop: a sentence
        self._stopped = False  # … because one was asked to
        self._over = threading.Event()
        self._seen: dict[int, tuple[int, float]] = {}  # the others' numbers, and since when they are these
        self._awake, self._looked = 0.0, time.monotonic()  # seconds without those that this process was stopped, as by Ctrl-Z
        self._lock = threading.Lock()
        self.look()
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def _run(self) -> None:
        while not self._over.wait(BEAT):
            if self.look():
                break
        if self._over.wait(2 * BEAT):  # what waits for the others knows by now
            return
        if hasattr(signal, "pthread_kill"):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)  # wakes one that sleeps, too
        else:
            _thread.interrupt_main()
        if not self._over.wait(GRACE):
            print(f"error: {self.reason}", file=sys.stderr, flush=True)
            os._exit(2)

    def look(self, silent: float | None = None) -> str:
        """Give a sign of life and look for the others'; returns why all must stop, a sentence, or "".

        Args:
            silent: seconds without a sign of life, until a process counts as dead (default: SILENT).
        """
        with self._lock:
            before, self._looked = self._looked, time.monotonic()
            self._awake += min(self._looked - before, 2 * BEAT)
            try:
                self.store.add(f"beats of {self.rank}", 1)
                self._tell()
                for other in self.others:
                    number = self.store.add(f"beats of {other}", 0)
                    known, since = self._seen.get(other, (-1, 0.0))
                    if number != known:
                        self._seen[other] = number, self._awake
                    elif number and self._awake - since > (silent or SILENT) and not self._have(ENDS, other):  # 0: yet to begin
                        quiet = f"gave no sign of life for {self._awake - since:.0f} seconds"
                        self._tell(other, f"{quiet}: it hangs, or was killed, often for want of memory")
                        self._mark(other, ENDS, LEFT)  # nobody waits for it
            except RuntimeError:
                self.reason = self.reason or "rank 0 or torchrun is gone, so this process stops; start the training again."
        return self.reason

    def _tell(self, rank: int = 0, what: str = "") -> None:
        """Write what happened to a process, if nothing is written yet; then read what is."""
        told = self.store.compare_set("failed", "", json.dumps([rank, what]) if what else "").decode()
        if told and not self.reason:
            rank, what = json.loads(told)
            self._stopped = what == STOPPED
            self.reason = (
                f"rank {rank} {what.rstrip('. ')}; so all {len(self.others) + 1} processes stop. Start the training again, or "
                "go on from its last checkpoint with --resume."
            )

    def wait(self, done: Callable[[], bool]) -> None:
        """Wait until `done()`, for hours if need be. Raises LostPeer if a process fails meanwhile."""
        while not done():
            if self.reason:
                raise LostPeer(self.reason)
            time.sleep(BEAT / 10)

    def blame(self, error: BaseException) -> str:
        """Why this process ends by `error`: a sentence, if another one is the cause; else "", and the others learn of it."""
        self._over.set()
        lost, stopped = isinstance(error, LostPeer), isinstance(error, (KeyboardInterrupt, SystemExit))
        with contextlib.suppress(RuntimeError):  # if the store is gone, `look` has noted it
            self.look()
            self._mark(self.rank, ENDS)
            if lost or stopped:
                self._wait_briefly(
                    SUSPECT + 2 * BEAT, lambda: self.look(SUSPECT) or stopped and self._have(ENDS, *self.others)
                )
            if not self.reason:
                kind = "" if isinstance(error, LclError) else f"{type(error).__name__}: "
                what = STOPPED if stopped else f"lost the others ({error})" if lost else f"failed: {kind}{error}"
                self._tell(self.rank, what.partition("\n")[0])
                return self.reason if lost else ""
        return "" if stopped and self._stopped else self.reason

    def leave(self, failed: bool) -> None:
        """End the watch. Rank 0, which may keep the store, waits for the others: until they have read why it failed, too."""
        self._over.set()
        with contextlib.suppress(RuntimeError):
            self._mark(self.rank, ENDS, LEFT)
            if self.rank == 0 and failed:
                self._wait_briefly(GRACE + 3 * BEAT, lambda: self._have(LEFT, *self.others))
            while self.rank == 0 and not failed and not self._have(LEFT, *self.others) and not self.look():
                time.sleep(BEAT / 10)

    def _wait_briefly(self, seconds: float, done: Callable[[], object]) -> None:
        """Wait until `done()`, also if asked to stop: torchrun asks all others as soon as one process is dead."""
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            with contextlib.suppress(KeyboardInterrupt, SystemExit):
                if done():
                    return
                time.sleep(BEAT / 4)

    def _mark(self, rank: int, *marks: str) -> None:
        for mark in marks:
            self.store.add(f"{rank} {mark}", 1)

    def _have(self, mark: str, *ranks: int) -> bool:
        return all(self.store.add(f"{rank} {mark}", 0) for rank in ranks)
