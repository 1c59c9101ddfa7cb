"""What a step asks of a GPU, counted on a pretended one: launches, waits of the host, and bytes between the two.

A launch is a call of an operator that reads or writes elements; views and empty tensors cost none. What an operator launches
within is not seen, so that a real GPU has some more. A wait is where the host needs what the GPU computes, or where CUDA waits:
a number that Python reads, a shape that depends on values, a copy to the host, a copy to the GPU from memory that is not pinned.
"""

from __future__ import annotations

import collections
import contextlib
import traceback
from pathlib import Path

import torch
from pretended_gpu import PretendedGpu
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import lcl

LCL = Path(lcl.__file__).parent
READS = {"item", "tolist", "__bool__", "__int__", "__float__", "__index__", "equal", "is_nonzero", "allclose"}
BY_VALUE = {"nonzero", "masked_select", "_unique2", "unique_dim", "unique_consecutive", "repeat_interleave", "bincount"}
BY_MASK = {"index", "index_put", "index_put_", "_index_put_impl_"}  # with a mask, whose places are looked for first
FREE = {
    "empty",
    "new_empty",
    "empty_like",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "lift_fresh",
    "_unsafe_view",
    "resize_",
}


class CountedGpu(PretendedGpu):
    """A pretended GPU that counts.

    Attributes:
        launches: calls of operators on the GPU, by name.
        waits: of the host, by the line of the library that caused them.
        moved: bytes between host and GPU.
    """

    def __init__(self):
        super().__init__()
        self.launches, self.waits, self.moved = collections.Counter(), collections.Counter(), 0
        self.pinned = None  # the tensor that was pinned last
        self.depth, self.said = 0, False  # calls on the GPU that we are in; whether the present one counts as a wait
        self.operators = _Operators(self)

    def __enter__(self):
        super().__enter__()
        self.operators.__enter__()
        return self

    def __exit__(self, *error):
        self.operators.__exit__(*error)
        return super().__exit__(*error)

    def reset(self) -> None:
        """Count from nought."""
        self.launches.clear()
        self.waits.clear()
        self.moved = 0

    @contextlib.contextmanager
    def uncounted(self):
        """Work that stands in for something else."""
        before = self.launches.copy(), self.waits.copy(), self.moved
        yield
        self.launches, self.waits, self.moved = before

    def wait(self) -> None:
        """Count a wait of the host; the operators within the same call are not waits of their own."""
        lines = [line for line in traceback.extract_stack() if Path(line.filename).is_relative_to(LCL)]
        self.waits[f"{Path(lines[-1].filename).name}:{lines[-1].lineno}" if lines else "elsewhere"] += 1
        self.said = True

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        if name == "pin_memory":
            self.pinned = super().__torch_function__(function, types, args, kwargs)
            return self.pinned
        there = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor) and x in self.there]
        on_gpu = bool(there) or "cuda" in str(kwargs.get("device", "")) or name == "cuda"
        self.said = False
        if there and name in READS:
            self.wait()
        if name in ("__getitem__", "__setitem__") and args[0] in self.there:
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            if any(
                isinstance(x, list) or isinstance(x, torch.Tensor) and x.ndim and x not in self.there for x in indices
            ):
                self.wait()  # the indices are copied
        if name == "copy_" and (args[0] in self.there) != (args[1] in self.there):
            self.wait()
        before = self.depth
        self.depth += on_gpu
        try:
            result = super().__torch_function__(function, types, args, kwargs)
        finally:
            self.depth = before
        if name in ("to", "cpu", "cuda") and isinstance(args[0], torch.Tensor):
            went, came = args[0] in self.there, result in self.there
            if went != came:
                self.moved += result.numel() * result.element_size()
                if went or not (args[0] is self.pinned and kwargs.get("non_blocking")):
                    self.wait()
        elif name in ("tensor", "as_tensor") and on_gpu and not there:
            self.wait()
        return result


class _Operators(TorchDispatchMode):
    def __init__(self, gpu: CountedGpu):
        super().__init__()
        self.gpu = gpu

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if self.gpu.depth:
            name = function.overloadpacket.__name__
            views = any(value.alias_info and not value.alias_info.is_write for value in function._schema.returns)
            if name in BY_VALUE and not self.gpu.said:
                self.gpu.wait()
                self.gpu.said = False  # each of them is one
            if name in BY_MASK and any(isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in args[1]):
                self.gpu.wait()
                self.gpu.said = False
            if name == "_local_scalar_dense":
                if not self.gpu.said:
                    self.gpu.wait()
            elif not views and name not in FREE:
                self.gpu.launches[name] += 1
        return function(*args, **(kwargs or {}))
