"""Work that processes share: numbered pieces, whose results come in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import DataLoader

from lcl.config import LclError
from lcl.machine import one_thread, processors, without_main


class Pieces(Protocol):
    """What there is to do. A piece that raises LclError must return it: torch would wrap what is raised in a process."""

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> Any: ...


def in_order(pieces: Pieces, what: str, workers: int | None = None) -> Iterator[Any]:
    """pieces[0], pieces[1] and so on, each computed by one of several processes.

    Args:
        pieces: what there is to do; what is returned goes through shared memory where it holds tensors.
        what: they do, for a message: "describe scenes".
        workers: processes (default: one a processor); below 2, this process does everything.

    Raises:
        LclError: if a piece returned one, or if a process dies.
    """
    workers = min(processors() if workers is None else workers, len(pieces))
    loader = DataLoader(
        pieces, None, num_workers=workers if workers > 1 else 0, collate_fn=as_it_is, worker_init_fn=one_thread,
        generator=torch.Generator(),  # leaves the caller's alone
    )  # fmt: skip
    try:
        with without_main():
            found = iter(loader)
        for result in found:
            if isinstance(result, LclError):
                raise result
            yield result
    except RuntimeError as error:
        if "worker" not in str(error):
            raise
        reason = str(error).partition("\n")[0]
        raise LclError(
            f"a process of those that {what} died ({reason}); what is finished is kept: free some memory, and call again."
        ) from None


def as_it_is(batch: Any) -> Any:
    """No collation."""
    return batch
