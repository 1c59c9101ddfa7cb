"""A GPU for machines without one: tensors on the CPU that claim to be on "cuda", and errors where a real GPU would raise them.

Results are those of the CPU. What torch does within a call, as in the backward pass, is not seen.
"""

from __future__ import annotations

import torch
from torch.nn.utils import clip_grad
from torch.optim import Optimizer
from torch.overrides import TorchFunctionMode, resolve_name
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

CUDA, CPU = torch.device("cuda", 0), torch.device("cpu")
INDEXING = {"__getitem__", "__setitem__", "index_put", "index_put_"}  # indices of a tensor on a GPU may be on the CPU
BETWEEN = {"copy_", "to", "_has_compatible_shallow_copy_type"}  # calls that take tensors of two devices


class PretendedGpu(TorchFunctionMode):
    """Within it "cuda" is a device.

    It sees every call of torch that Python makes. Raises RuntimeError for a call that mixes devices, but for single numbers,
    and where NumPy is asked for a tensor on the GPU.
    """

    def __init__(self):
        super().__init__()
        self.there = WeakTensorKeyDictionary()  # the tensors that claim to be on the GPU

    def __enter__(self):
        self._by_device = clip_grad._group_tensors_by_device_and_dtype  # asks C++, which knows of no GPU
        self._of_optimizer = Optimizer._group_tensors_by_device_and_dtype
        clip_grad._group_tensors_by_device_and_dtype = self._grouped
        Optimizer._group_tensors_by_device_and_dtype = staticmethod(self._grouped)
        return super().__enter__()

    def __exit__(self, *error):
        clip_grad._group_tensors_by_device_and_dtype = self._by_device
        Optimizer._group_tensors_by_device_and_dtype = staticmethod(self._of_optimizer)
        return super().__exit__(*error)

    def _grouped(self, tensors: list, *options) -> dict:
        device = CUDA if tensors[0] and tensors[0][0] in self.there else CPU
        return {(device, dtype): found for (_, dtype), found in self._by_device(tensors, *options).items()}

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs, name = kwargs or {}, getattr(function, "__name__", "")
        owner = getattr(getattr(function, "__self__", None), "__name__", "")  # the property that is read or set
        tensors = _tensors((args, kwargs))
        there = [x for x in tensors if x in self.there]
        if (owner, name) == ("device", "__get__"):
            return CUDA if there else function(*args)
        if (owner, name) == ("is_cuda", "__get__"):
            return bool(there)
        if there and name in ("numpy", "__array__"):
            raise RuntimeError(f"NumPy cannot read a tensor on {CUDA}")
        if there and not owner and name not in BETWEEN:
            self._check(function, name, args, kwargs, tensors)
        if there and name == "mm" and "out_dtype" in kwargs:  # which a CPU does not know
            args, kwargs = [x.to(kwargs["out_dtype"]) for x in args], {}
        if (owner, name) == ("data", "__set__"):
            self._put(args[0], args[1] in self.there)

        gpu, moved = bool(there), name in ("to", "cpu", "cuda")
        if name == "pin_memory":
            return args[0].clone()
        if moved or "device" in kwargs:
            wanted = [CUDA if name == "cuda" else CPU] if name in ("cpu", "cuda") else []
            if name == "to" and len(args) > 1 and isinstance(args[1], torch.Tensor):
                wanted.append(CUDA if args[1] in self.there else CPU)

            def note(x: object) -> object:
                if isinstance(x, str | torch.device) and str(x).partition(":")[0] in ("cpu", "cuda"):
                    wanted.append(torch.device(x))
                    return CPU
                return x

            args, kwargs = tree_map(note, args) if name == "to" else args, tree_map(note, kwargs)
            gpu = wanted[-1].type == "cuda" if wanted else gpu
        result = args[0] if name == "cuda" else function(*args, **kwargs)
        if moved and result is args[0] and gpu != (result in self.there):
            result = result.clone()
        for x in _tensors(result):
            if not any(x is known for known in tensors):
                self._put(x, gpu)
        return result

    def _put(self, x: torch.Tensor, gpu: bool) -> None:
        if gpu:
            self.there[x] = True
        else:
            self.there.pop(x, None)

    def _check(self, function, name: str, args: tuple, kwargs: dict, tensors: list[torch.Tensor]) -> None:
        if name in INDEXING and args[0] in self.there:
            tensors = _tensors((args[2:], kwargs))  # not the indices
        least = 0 if name.startswith("_fused") else 1  # a fused optimiser takes no number from elsewhere
        here = [tuple(x.shape) for x in tensors if x not in self.there and x.ndim >= least]
        if here:
            raise RuntimeError(f"{resolve_name(function) or name} mixes tensors on {CUDA} with {here} on the CPU")


def _tensors(nested: object) -> list[torch.Tensor]:
    return [x for x in tree_leaves(nested) if isinstance(x, torch.Tensor)]
