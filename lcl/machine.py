"""What this process may use of the machine: processors, memory, and processes of its own. Copies to a GPU."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

CGROUP = Path("/sys/fs/cgroup")
SHARED = Path("/dev/shm")
CPUS = Path("/proc/cpuinfo")


def processors() -> int:
    """The number of processors that this process may use, 1 or more: its affinity, cut by a container's quota (cgroup v1, v2)."""
    count = getattr(os, "process_cpu_count", os.cpu_count)() or 1
    if hasattr(os, "sched_getaffinity"):
        count = min(count, len(os.sched_getaffinity(0)))
    return max(math.ceil(min(count, _quota())), 1)  # half a processor is worth a process


def _quota() -> float:
    """Processors that the control group grants; infinite without a limit, or where it cannot be read."""
    for files in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        with contextlib.suppress(OSError, ValueError, ZeroDivisionError):
            quota, period = " ".join((CGROUP / name).read_text() for name in files).split()
            if quota not in ("max", "-1"):
                return int(quota) / int(period)
    return math.inf


@functools.cache
def multiplies_bfloat16_fast() -> bool:
    """Whether this processor has units for products of bfloat16 matrices (AMX), several times as fast as those of float32.

    False where the system does not say so: only Linux does.
    """
    with contextlib.suppress(OSError):
        lines = CPUS.read_text(encoding="utf-8", errors="replace").splitlines()
        return any("amx_bf16" in line.split() for line in lines if line.startswith("flags"))
    return False


def resident_memory() -> int:
    """Bytes that this process holds; 0 where neither the system nor psutil, which is optional, says so."""
    with contextlib.suppress(OSError):
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    with contextlib.suppress(ImportError):
        import psutil

        return psutil.Process().memory_info().rss
    return 0


def shared_memory() -> str:
    """How large the memory is that processes share, and how much of it is free, in words; "" where nothing says so."""
    with contextlib.suppress(OSError, AttributeError):
        about = os.statvfs(SHARED)
        size, free = (blocks * about.f_frsize / 2**20 for blocks in (about.f_blocks, about.f_bavail))
        return f"{SHARED} has {size:,.1f} MiB, of which {free:,.1f} are free"
    return ""


def give_memory_back() -> None:
    """Let glibc return free memory to the system: batches differ in length, and the fragments of freed ones add up."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def to_device(x: torch.Tensor, device: torch.device | str) -> torch.Tensor:
    """x on a device. On its way to a GPU it goes through pinned memory, so that the host does not wait."""
    if x.is_cuda or not str(device).startswith("cuda"):
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Start processes that do not import the user's script.

    A spawned process imports the main module, to find what is defined there. A script without `if __name__ == "__main__":`
    would run again in each of them. Inside this context processes start without it, so what they call must be importable.
    """
    main = sys.modules["__main__"]
    kept = {name: vars(main)[name] for name in ("__spec__", "__file__") if name in vars(main)}
    vars(main).update(dict.fromkeys(kept))
    try:
        yield
    finally:
        vars(main).update(kept)


def one_thread(number: int) -> None:
    """Begin a worker process: it has one thread, and leaves Ctrl-C to the process that started it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
