"""Work that processes share: numbered pieces, whose results come in order."""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Any, Protocol

from lcl.config import LclError
from lcl.machine import one_thread, processors, without_main


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
        with without_main():
            ahead = collections.deque(pool.submit(_piece, number) for number in itertools.islice(numbers, 2 * workers))
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


def _piece(number: int) -> Any:
    return _pieces[number]
