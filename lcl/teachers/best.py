"""The best columns of every row so far, as similarities are computed block by block: on a CPU, on a GPU, and in a file."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from pathlib import Path

import torch
import torch.nn.functional as F

from lcl import storage
from lcl.config import LclError, require
from lcl.teachers.coarse import Rescoring

log = logging.getLogger("lcl")

FORMAT = "lcl-unfinished-neighbours-1"
GROUP = 64  # columns of which only the maximum is compared at first
FEW = 1 / 64  # of a block of bfloat16: if more could be among the best, a product in float32 is faster
LAST = 2**32 - 1  # the largest column that a key holds


class Best:
    """The k best columns of every row so far: values (N, k) float32, indices (N, k) int64.

    A row sees its columns in ascending order, so a later column replaces an earlier one only if it is strictly better.
    """

    def __init__(self, rows: int, k: int, device: str):
        self.values = torch.full((rows, k), -torch.inf, device=device)
        self.indices = torch.full((rows, k), -1, dtype=torch.int64, device=device)

    def update(self, first_row: int, s: torch.Tensor, first_column: int, rescoring: Rescoring | None = None) -> bool:
        """Update with the similarities s (b, c) of the rows from first_row on with the columns from first_column on.

        Few entries can be among the best, so each is read only once: the maximum of every group of columns is computed, and
        only groups whose maximum beats the row's worst value so far are searched.

        Args:
            first_row, s, first_column: as above.
            rescoring: of this block. Entries that could be among the best are then computed again, for s may be bfloat16.

        Returns:
            False if so many entries of bfloat16 could be among the best that nothing was done.
        """
        b, c = s.shape
        values, indices = self.values[first_row : first_row + b], self.indices[first_row : first_row + b]
        k = values.shape[1]
        grouped = F.pad(s, (0, -c % GROUP), value=-torch.inf) if c % GROUP else s
        grouped = grouped.unflatten(1, (-1, GROUP))  # (b, g, GROUP)
        # The same values either way; but a reduction is fast only if it reads memory in order.
        largest = grouped.amax(2) if s.is_contiguous() else grouped.permute(1, 2, 0).amax(1).T  # (b, g)
        worst = values[:, -1:]  # (b, 1)
        if first_column == 0 and largest.shape[1] >= k:  # nothing was seen yet: k groups hold something at least this good
            worst = largest.topk(k, dim=1).values[:, -1:].float().nextafter(torch.tensor(-torch.inf, device=s.device))
            worst = rescoring.least(worst, s.dtype) if rescoring else worst
        least = rescoring.least(worst, s.dtype) if rescoring else worst
        row, group = (largest > least).nonzero(as_tuple=True)  # (h,), in order of rows, then columns
        opened = grouped[row, group]  # (h, GROUP)
        hit, place = (opened > least[row]).nonzero(as_tuple=True)  # (n,)
        row, found = row[hit], opened[hit, place]
        column = group[hit] * GROUP + place
        if rescoring:
            if s.dtype == torch.bfloat16 and len(row) > FEW * b * c:
                return False
            found = rescoring.rescore(row, column)
        column = first_column + column

        rows = row.unique_consecutive()  # (r,), those that change
        row = torch.cat([rows.repeat_interleave(k), row])  # earlier columns come first
        found = torch.cat([values[rows].flatten(), found])
        column = torch.cat([indices[rows].flatten(), column])
        order = found.argsort(descending=True, stable=True)
        order = order[row[order].argsort(stable=True)]  # by row, then value, then column
        row, found, column = row[order], found[order], column[order]
        counts = row.unique_consecutive(return_counts=True)[1]
        rank = torch.arange(len(row), device=s.device) - (counts.cumsum(0) - counts).repeat_interleave(counts)
        kept = rank < k
        values[row[kept], rank[kept]] = found[kept]
        indices[row[kept], rank[kept]] = column[kept]
        return True


def keys_of(values: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Similarities, float32, and their columns, int64 below 2³², as int64 keys. Shapes broadcast.

    A larger similarity has the larger key, and of equal ones the smaller column: so one `topk` of keys finds both. The bits of
    a float32, as an integer, are in the order of its value; those of negative values are inverted for that.
    """
    bits = (values + 0.0).view(torch.int32)  # -0 + 0 is 0: equal values have equal bits
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)).long() << 32) | (LAST - columns)


def values_and_columns(keys: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The inverse of `keys_of`."""
    bits = (keys >> 32).int()
    return (bits ^ ((bits >> 31) & 0x7FFFFFFF)).view(torch.float32), LAST - (keys & LAST)


def best_keys(s: torch.Tensor, k: int, first_column: int) -> torch.Tensor:
    """The keys of the k best columns of a tile, the best first: s (b, c) → (b, k), or fewer where the tile has fewer columns.

    Which calls are made, and with which shapes, depends on no value, so a GPU never waits for the CPU. Only the k groups of
    columns with the best maxima are searched: a column of any other group has k better ones, namely the best of these groups.
    That holds for equal similarities, too, as the keys of groups prefer the first.
    """
    grouped = F.pad(s, (0, -s.shape[1] % GROUP), value=-torch.inf) if s.shape[1] % GROUP else s
    grouped = grouped.unflatten(1, (-1, GROUP))  # (b, g, GROUP)
    number = grouped.shape[1]
    groups = keys_of(grouped.amax(2), torch.arange(number, device=s.device)).topk(min(k, number), dim=1).indices[..., None]
    opened = grouped.gather(1, groups.expand(-1, -1, GROUP))  # (b, k, GROUP)
    columns = first_column + groups * GROUP + torch.arange(GROUP, device=s.device)
    return keys_of(opened, columns).flatten(1).topk(min(k, s.shape[1]), dim=1).values


def products(rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Similarities in float32: (b, d), (c, d) → (b, c).

    A product of two half-precision numbers is exact in float32, so a GPU multiplies half precision as it is, and adds in float32.
    """
    if rows.is_cuda and rows.dtype == columns.dtype == torch.half:
        return torch.mm(rows, columns.T, out_dtype=torch.float32)
    return torch.mm(rows.float(), columns.float().T)


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Within it float32 is multiplied as float32: on a GPU not as TF32, whose numbers have 10 bits, on a CPU not as bfloat16.

    So banks and neighbours do not depend on what the session chose, by `torch.set_float32_matmul_precision` or `allow_tf32`.
    Convolutions are TF32 on a GPU unless someone chose otherwise. Afterwards the session's choices are as before.
    """
    backends = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv
    before = [backend.fp32_precision for backend in backends]
    try:
        for backend in backends:
            backend.fp32_precision = "ieee"
        yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision


def save_state(path: Path, about: dict, best: Best, done: int) -> None:
    """Write the state of an unfinished search, atomically.

    Args:
        path: of the file.
        about: everything that the state depends on, JSON-able.
        best: of all rows.
        done: rows that are finished.
    """
    tensors = {"values": best.values.cpu(), "indices": best.indices.cpu()}
    storage.write_tensors(path, tensors, {"done": str(done), "checksum": _checksum(about, done, tensors)})


def load_state(path: Path, about: dict, best: Best) -> int:
    """Fill `best` with what `save_state` wrote, and return the number of finished rows.

    Returns 0 and changes nothing if there is no file, or, with a warning, if it is damaged or of another search.
    """
    if not path.exists():
        return 0
    try:
        told, tensors = storage.read_metadata(path), storage.read_tensors(path)
        whole = tensors.keys() == {"values", "indices"} and told.get("done", "").isdecimal()
        require(whole and told.get("checksum") == _checksum(about, int(told["done"]), tensors), f"{path} does not fit.")
    except LclError:
        log.warning("%s is damaged, or of another bank or other settings; the search begins anew.", path)
        return 0
    best.values.copy_(tensors["values"])
    best.indices.copy_(tensors["indices"])
    return int(told["done"])


def _checksum(about: dict, done: int, tensors: dict[str, torch.Tensor]) -> str:
    return storage.fingerprint([FORMAT, about, done, *(storage.sha256(tensors[name].numpy()) for name in ("values", "indices"))])
