"""One training in several processes, and batches that no single forward pass holds.

`torchrun` starts the processes; `Ranks` is what they tell each other. A batch that is shared among them, or too large for
memory, is handled by gradient caching (GradCache; Gao et al. 2021, arXiv 2101.06983): all micro-batches are embedded first;
the loss over all embeddings gives the gradient at each of them; then every micro-batch passes through the towers again with
its cached gradient. Each process compares its own rows with all others', and the sum of these gradients is the batch's.
Two parts of a step stay within a micro-batch: the statistics of batch norms, and objectives that look at patches and words.
Then the gradient is not exactly that of one forward pass; `kept_within_parts` says so.
"""

from __future__ import annotations

import contextlib
import datetime
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.rendezvous import rendezvous

from lcl.config import LclError, TrainConfig, require
from lcl.models.clip import Clip, Embeddings
from lcl.models.tokenizer import Tokens
from lcl.processes import LostPeer, Watch, memory_for
from lcl.teachers.teacher import Teacher
from lcl.train.objectives import PAIRWISE, StepContext
from lcl.train.recipes import Recipe

Result = TypeVar("Result")
PATIENCE = datetime.timedelta(minutes=30)  # of an exchange; for what may take longer there is `main_first`


@dataclass(frozen=True)
class Ranks:
    """The process group of one training, as one of its processes sees it.

    Attributes:
        rank: this process, 0 to world_size - 1.
        world_size: how many processes there are.
        device: the one that this process works on.
        watch: tells when another process is gone; with several processes.

    Exchanges raise LostPeer, which `join` explains, if another process is gone.
    """

    rank: int = 0
    world_size: int = 1
    device: str = "cpu"
    watch: Watch | None = None

    @property
    def is_main(self) -> bool:
        """Is this the process that writes files and prints?"""
        return self.rank == 0

    def gather(self, x: torch.Tensor) -> torch.Tensor:
        """All ranks' rows, in order of the ranks: (b, …) → (world_size·b, …), on the device of x. No gradient flows."""
        if self.world_size == 1:
            return x.detach()
        own = x.detach().to(self.device).contiguous()  # NCCL exchanges only what is on the GPU
        parts = [torch.empty_like(own) for _ in range(self.world_size)]
        with _exchange():
            dist.all_gather(parts, own)
        return torch.cat(parts).to(x.device)

    def add(self, x: torch.Tensor) -> torch.Tensor:
        """Sum x over all ranks, in place."""
        if self.world_size > 1:
            with _exchange():
                dist.all_reduce(x)
        return x

    def average(self, tensors: Iterable[torch.Tensor]) -> None:
        """Replace tensors by their means over all ranks; one message, since each message costs time."""
        tensors = list(tensors)
        if self.world_size == 1 or not tensors:
            return
        flat = self.add(torch.cat([tensor.flatten() for tensor in tensors])) / self.world_size
        for tensor, mean in zip(tensors, flat.split([tensor.numel() for tensor in tensors]), strict=True):
            tensor.copy_(mean.view_as(tensor))

    def broadcast(self, value: object) -> object:
        """The main process's value, on every rank."""
        values = [value]
        if self.world_size > 1:
            with _exchange():
                dist.broadcast_object_list(values, device=torch.device(self.device))
        return values[0]

    def main_first(self, work: Callable[[], Result]) -> Result:
        """Call `work` on the main process, then on the others, which find the files that it made. It may take hours."""
        if self.world_size == 1:
            return work()
        name, store = f"work {next(_works)}", self.watch.store
        self.watch.wait(lambda: self.is_main or store.add(name, 0) > 0)
        done = work()
        store.add(name, 1)
        self.watch.wait(lambda: store.add(name, 0) == self.world_size)
        return done

    def wait(self) -> None:
        """Wait for all ranks (a barrier)."""
        if self.world_size > 1:
            with _exchange():
                dist.barrier()


_works = itertools.count()  # calls of `main_first`: the same in all processes


@contextlib.contextmanager
def _exchange() -> Iterator[None]:
    """Raise LostPeer where torch says that an exchange failed."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        raise LostPeer(str(error).partition("\n")[0]) from None


@contextlib.contextmanager
def join(device: str | None = None) -> Iterator[Ranks]:
    """Join the process group that `torchrun` started, or make a group of one.

    A process that fails within it tells the others, which then raise LclError with its rank and reason, as they do for one that
    was killed; see `lcl.processes.Watch`.

    Raises:
        LclError: for more processes than GPUs, for processes that do not find each other, and if another process is gone.
    """
    started = {"WORLD_SIZE": 1, "RANK": 0, "LOCAL_RANK": 0} | os.environ
    size, rank, local_rank = (int(started[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if size == 1:
        yield Ranks(device=kind)
        return
    if kind == "cuda":
        gpus = torch.cuda.device_count()
        require(local_rank < gpus, f"there are more processes than GPUs ({gpus}); start one for each: --nproc-per-node={gpus}.")
        torch.cuda.set_device(local_rank)
    try:
        store, *_ = next(rendezvous("env://", timeout=PATIENCE))
        watch = Watch(dist.PrefixStore("watch", store.clone()), rank, size)
    except (RuntimeError, ValueError) as error:
        raise LclError(f"the {size} processes did not find each other ({error}); start them with torchrun.") from None
    failed = True
    try:
        backend = "nccl" if kind == "cuda" else "gloo"
        with _exchange():
            dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=PATIENCE)
        yield Ranks(rank, size, f"cuda:{local_rank}" if kind == "cuda" else kind, watch)
        failed = False
    except BaseException as error:
        if reason := watch.blame(error):
            raise LclError(reason) from None
        raise
    finally:
        try:
            with contextlib.suppress(RuntimeError) if failed else contextlib.nullcontext():  # the first error is to be told
                if dist.is_initialized() and failed:
                    dist.group.WORLD.abort()  # others wait for what will not come: let them fail
                if dist.is_initialized():
                    dist.destroy_process_group()
        finally:
            watch.leave(failed)


def memory_of_step(config: TrainConfig, ranks: Ranks) -> contextlib.AbstractContextManager[None]:
    """Raise LclError, which names the setting to lower, where the memory ends that a training step needs."""
    size = config.micro_batch or config.batch_size // ranks.world_size
    parts = f", encoded {size} at a time" if size < config.batch_size else ""
    smaller = f"micro_batch (--micro-batch {size // 2})" if size % 2 == 0 else "batch_size (--batch-size)"
    remedy = "free some memory, and resume from the last checkpoint if there is one (`lcl train --resume FOLDER`); or start"
    remedy += f" again with a smaller {smaller}"
    return memory_for(f"a step of {config.batch_size} pairs{parts}", remedy)


@dataclass(frozen=True)
class MicroBatch:
    """A part of a batch.

    Attributes:
        images: (m, 3, H, W) uint8.
        tokens: of its m captions.
        indices: (m,) int64, the pairs' rows in the data set.
        generator: for what is random in this part, on the CPU.
    """

    images: torch.Tensor
    tokens: Tokens
    indices: torch.Tensor
    generator: torch.Generator


def cached_backward(
    recipe: Recipe, model: Clip, extra: nn.ModuleDict, micro_batches: Sequence[MicroBatch], progress: float,
    teacher: Teacher | None, ranks: Ranks,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # fmt: skip
    """Set `.grad` of every parameter to the batch gradient, identical on all ranks. Existing gradients are overwritten.

    Args:
        recipe: the objectives and their weights.
        model: the pair of towers.
        extra: the recipe's training-only modules.
        micro_batches: those of this rank, of equal size; its rows of the batch precede those of the next rank.
        progress: share of the training that is done, 0 to 1.
        teacher: the source of neighbours, if the recipe needs one.
        ranks: the process group.

    Returns:
        The loss, and its parts before weighting: scalars, the same on every rank. Batch norms normalise each micro-batch
        by its own statistics; their running statistics become the mean over all micro-batches.
    """
    local = [name for name in recipe.weights if name not in PAIRWISE]
    model.zero_grad(), extra.zero_grad()
    statistics = _RunningStatistics(model)
    with torch.set_grad_enabled(len(micro_batches) == 1):  # a single micro-batch needs no second pass
        embedded = [model(part.images, part.tokens) for part in micro_batches]

    v, t = (ranks.gather(torch.cat(rows)).requires_grad_() for rows in zip(*((e.v, e.t) for e in embedded), strict=True))
    total, parts = _pairwise_backward(recipe, model, extra, v, t, micro_batches, progress, teacher, ranks)
    cached = [
        ranks.add(x.grad).split(len(v) // ranks.world_size)[ranks.rank].split(len(micro_batches[0].indices)) for x in (v, t)
    ]

    for number, (part, grad_v, grad_t) in enumerate(zip(micro_batches, *cached, strict=True)):
        own = embedded[number]
        if len(micro_batches) > 1:
            statistics.restore()
            own = model(part.images, part.tokens)
        context = StepContext(model, extra, own, part.tokens, progress, part.generator)
        share, local_parts = recipe.loss(context, local)
        ((own.v * grad_v).sum() + (own.t * grad_t).sum() + share / len(micro_batches)).backward()
        statistics.note()
        for name, value in local_parts.items():
            parts[name] = parts.get(name, 0.0) + value.detach() / len(micro_batches)
        total = total + torch.as_tensor(share).detach() / len(micro_batches)
    statistics.keep(ranks)
    ranks.average(p.grad for p in (*model.parameters(), *extra.parameters()) if p.grad is not None)
    values = torch.stack([total, *(parts[name] for name in recipe.weights)])
    ranks.average([values])
    return values[0], dict(zip(recipe.weights, values[1:], strict=True))


def _pairwise_backward(
    recipe: Recipe, model: Clip, extra: nn.ModuleDict, v: torch.Tensor, t: torch.Tensor,
    micro_batches: Sequence[MicroBatch], progress: float, teacher: Teacher | None, ranks: Ranks,
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:  # fmt: skip
    """Losses over the whole batch's embeddings v, t (B, d), scored for this rank's rows, and their gradients: at v and t, and
    at what follows the towers (temperature and projections)."""
    near, own = None, len(v) // ranks.world_size
    if teacher:
        indices, images = (torch.cat(x) for x in zip(*((part.indices, part.images) for part in micro_batches), strict=True))
        near = extra["projections"](teacher(indices, images, ranks.gather, micro_batches[0].generator))
    rows = slice(ranks.rank * own, (ranks.rank + 1) * own) if ranks.world_size > 1 else None
    whole = Embeddings(v, t, model.logit_scale, None, None)
    context = StepContext(model, extra, whole, None, progress, None, near, rows)
    loss, parts = recipe.loss(context, [name for name in recipe.weights if name in PAIRWISE])
    (loss + 0.0 * (v.sum() + t.sum())).backward()  # also where no objective uses them
    return torch.as_tensor(loss).detach(), {name: part.detach() for name, part in parts.items()}


def kept_within_parts(model: Clip, recipe: Recipe, size: int) -> str:
    """What stays within the parts of a batch, of `size` pairs each, and changes its gradient; "" if nothing does."""
    kept = [name for name in recipe.weights if name not in PAIRWISE]
    limits = [f"{' and '.join(kept)} {'is' if len(kept) == 1 else 'are'} computed within each part"] if kept else []
    if any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules()):
        limits.append("batch norms use the statistics of their part (the tower vit has none)")
    told = f"a batch is encoded in parts of {size} pairs, so its gradient is not exactly that of a whole batch"
    return f"{told}: {'; '.join(limits)}." if limits else ""


class _RunningStatistics:
    """Running statistics of batch norms: every micro-batch starts from the same, and the mean of the results stays."""

    def __init__(self, model: nn.Module):
        self.buffers = list(model.buffers())
        self.before = [buffer.clone() for buffer in self.buffers]
        self.after: list[list[torch.Tensor]] = []

    def restore(self) -> None:
        for buffer, before in zip(self.buffers, self.before, strict=True):
            buffer.copy_(before)

    def note(self) -> None:
        self.after.append([buffer.clone() for buffer in self.buffers])

    def keep(self, ranks: Ranks) -> None:
        for buffer, *after in zip(self.buffers, *self.after, strict=True):
            if buffer.is_floating_point():  # counters are the same after each micro-batch
                buffer.copy_(torch.stack(after).mean(0))
        ranks.average(buffer for buffer in self.buffers if buffer.is_floating_point())
