"""Several processes that train as one: who is who, and what they tell each other. `torchrun` starts them."""

from __future__ import annotations

import contextlib
import datetime
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from lcl.config import LclError, require

Result = TypeVar("Result")


@dataclass(frozen=True)
class Team:
    """The processes of one training. rank: 0 … size - 1, one's own. device: that one works on."""

    rank: int = 0
    size: int = 1
    device: str = "cpu"

    @property
    def leads(self) -> bool:
        """Is this the one that writes files and prints?"""
        return self.rank == 0

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """Everybody's rows, in order of their ranks: (b, …) → (size·b, …), where x is. No gradient passes."""
        if self.size == 1:
            return x.detach()
        own = x.detach().to(self.device).contiguous()  # GPUs tell each other what they hold, and nothing else
        parts = [torch.empty_like(own) for _ in range(self.size)]
        dist.all_gather(parts, own)
        return torch.cat(parts).to(x.device)

    def add(self, x: torch.Tensor) -> torch.Tensor:
        """The sum of everybody's x, in its place."""
        if self.size > 1:
            dist.all_reduce(x)
        return x

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace everybody's tensors by their means: in one message, for that is what takes the time."""
        tensors = list(tensors)
        if self.size == 1 or not tensors:
            return
        flat = self.add(torch.cat([tensor.flatten() for tensor in tensors])) / self.size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def agree(self, value: object) -> object:
        """What the leader says."""
        values = [value]
        if self.size > 1:
            dist.broadcast_object_list(values, device=torch.device(self.device))
        return values[0]

    def one_by_one(self, work: Callable[[], Result]) -> Result:
        """What needs to be done once and is then found done, as files that are kept: first by the leader, then by all others."""
        done = [work()] if self.leads else []
        self.wait()
        return done[0] if done else work()

    def wait(self) -> None:
        """Until all are here."""
        if self.size > 1:
            dist.barrier()


@contextlib.contextmanager
def join(device: str | None = None) -> Iterator[Team]:
    """The team that `torchrun` made, or a team of one. Raises LclError for more processes than there are GPUs."""
    started = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0} | os.environ
    size, rank, place = (int(started[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if size == 1:
        yield Team(device=kind)
        return
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        require(place < gpus, f"there are more processes than GPUs ({gpus}); start one for each: --nproc-per-node={gpus}.")
        torch.cuda.set_device(place)
    try:
        # the leader may build banks for hours while the others wait; that one died, torchrun notices
        dist.init_process_group("nccl" if kind == "cuda" else "gloo", timeout=datetime.timedelta(days=3))
    except (RuntimeError, ValueError) as error:
        raise LclError(f"the {size} processes did not find each other ({error}); start them with torchrun.") from None
    try:
        yield Team(rank, size, f"cuda:{place}" if kind == "cuda" else kind)
    finally:
        dist.destroy_process_group()
