"""Exact nearest neighbours of every row of a bank: a reference of a few lines, and a fast search in blocks."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from lcl import storage
from lcl.config import CHECKOUT, LclError, Progress, require
from lcl.data.base import DatasetView
from lcl.machine import multiplies_bfloat16_fast
from lcl.processes import memory_for
from lcl.teachers.banks import Bank, build_bank, check_features, free_memory
from lcl.teachers.best import Best, best_keys, full_precision, load_state, products, save_state, values_and_columns
from lcl.teachers.coarse import Rescoring, norms
from lcl.teachers.encoders import ImageEncoder, TextEncoder

log = logging.getLogger("lcl")

FORMAT = "lcl-neighbours-1"
BLOCK = 2048  # rows and columns of a block of the similarity matrix on a CPU
TALL, WIDE = 8192, 65_536  # rows and columns of a tile on a GPU, at most
MANY, SOME = 32_768, 2048  # columns and rows from which on a CPU with fast products of bfloat16 computes coarsely first
SHORT = 1e-3  # a row that is shorter, or longer than 1 / SHORT, is not searched coarsely
SAVE_EVERY = 300  # seconds between two writes of an unfinished search
SHIPPED = CHECKOUT / "data" / "neighbours"
KEPT = 8  # neighbours that are saved for every row; objectives use the nearest, notebooks show the others
KEPT_IN, UNFINISHED = "neighbours.safetensors", "unfinished-neighbours.safetensors"  # in a bank's folder

Features = torch.Tensor | Bank
"""(N, d), L2-normalised: a tensor, or a bank on disk."""


@dataclass(frozen=True)
class Neighbours:
    """The k nearest rows of every row, the nearest first.

    Attributes:
        indices: (N, k) int64.
        similarities: (N, k) float32, cosines.
        bank: the fingerprint of the bank that was searched, "" for a tensor.
        description: what that bank holds.
        recall: of an approximate search, the share of the exact neighbours that a sample of its rows has, 0 to 1.
    """

    indices: torch.Tensor
    similarities: torch.Tensor
    bank: str = ""
    description: dict | None = None
    recall: float | None = None

    def __len__(self) -> int:
        return len(self.indices)


def reference_neighbours(features: torch.Tensor, k: int = 1, block: int = BLOCK) -> Neighbours:
    """The k rows with the largest cosine for every row, in a few lines: what `nearest_neighbours` computes faster.

    Args:
        features: (N, d) float, L2-normalised.
        k: less than N.
        block: rows whose similarities with all others are in memory at a time.
    """
    found = []
    for start in range(0, len(features), block):
        s = features[start : start + block] @ features.T  # (b, N)
        rows = torch.arange(len(s))
        s[rows, start + rows] = -torch.inf  # a row is not its own neighbour
        found.append(s.topk(k, dim=1))  # (b, k) values and indices
    return Neighbours(torch.cat([best.indices for best in found]), torch.cat([best.values for best in found]))


def nearest_neighbours(
    features: Features, k: int = 1, queries: torch.Tensor | None = None, block: int = 0, device: str | None = None,
    progress: Progress | None = None, unfinished: Path | None = None,
) -> Neighbours:  # fmt: skip
    """The k rows with the largest cosine for every row, itself excluded; or for every query.

    Exact: every similarity is computed, and of equal ones the smaller index comes first. A similarity is the product of the
    features as they are given (those of a bank are half precision), added in float32, also on a GPU and whatever the session
    allows (`full_precision`); sums in another order, as another device or block size has them, may differ in the last bits.

    On a CPU only the half of the symmetric matrix above its diagonal is computed, and read in both directions. Of many rows, it
    is first computed in bfloat16 if that is fast, and only what could be among the best in float32. A GPU computes all
    of it, in tall tiles, from a copy of the bank in half precision if it has room. Besides the features, the search needs memory
    for one block and the result.

    Args:
        features: (N, d), L2-normalised: a tensor, or a bank on disk.
        k: neighbours of each, 1 or more.
        queries: (Q, d) float, L2-normalised; by default the rows themselves.
        block: side of a block of the similarity matrix; 0 for 2,048 on a CPU, and on a GPU for what fits into its free memory.
        device: where blocks are computed (default: a GPU if there is one).
        progress: called with the number of rows finished since the last call.
        unfinished: a file that is written every few minutes, so that the same call after a `kill` goes on from there, with the
            result of a search that was never stopped. At the end it is removed. For a bank without queries.

    Raises:
        LclError: for features that are zero or not finite, for k below 1 or above the number of other rows, and if a block does
            not fit into memory.
    """
    alone = queries is None
    others = len(features) - alone
    require(k >= 1, f"the number of neighbours must be 1 or more, not {k}.")
    require(len(features) >= 1, "there are no features, so there are no neighbours.")
    there = f"the number of {'other rows' if alone else 'rows'} is {others}"
    require(k <= others, f"k = {k} neighbours are asked for, but {there}; ask for fewer, or use more data.")
    if isinstance(features, torch.Tensor):
        check_features(features, "the features")  # a bank was checked when it was opened
    if queries is not None:
        check_features(queries, "the queries")
        require(
            queries.shape[1] == width_of(features),
            f"queries of {queries.shape[1]} and features of {width_of(features)} dimensions.",
        )
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    name, description = (features.fingerprint, features.description) if isinstance(features, Bank) else ("", None)
    number, on_gpu = len(features if alone else queries), place.type == "cuda"
    best = Best(number, k, "cpu" if on_gpu else place)
    about = {"bank": name, "rows": number, "k": k, "block": block, "device": place.type}
    about["coarse"] = _coarsely(len(features), number, place)  # another way to add would change the last bits
    done, saved = load_state(unfinished, about, best) if unfinished else 0, time.monotonic()
    if progress and done:
        progress(done)
    size = f"blocks of {block} rows" if block else "blocks of the size that was chosen"
    remedy = 'name a smaller `block`, or search on the CPU (device="cpu", or set CUDA_VISIBLE_DEVICES to nothing)'
    with full_precision(), memory_for(f"a search in {size}", remedy):
        for finished in (_tiles if on_gpu else _blocks)(features, queries, best, block, place, done):
            done += finished
            if progress:
                progress(finished)
            if unfinished and done < number and time.monotonic() - saved > SAVE_EVERY:
                saved = time.monotonic() if storage.try_write(save_state, unfinished, about, best, done) else math.inf
    if unfinished:
        for path in (unfinished, *unfinished.parent.glob(f".{unfinished.name}.*")):  # and what a killed write left
            path.unlink(missing_ok=True)
    return Neighbours(best.indices.cpu(), best.values.cpu(), name, description)


def _blocks(
    features: Features, queries: torch.Tensor | None, best: Best, block: int, device: torch.device, start: int
) -> Iterator[int]:
    """Search from row `start` on, square block by square block; yields the number of rows finished since the last one."""
    rows, block = features if queries is None else queries, block or BLOCK
    of_rows = of_columns = None
    if _coarsely(len(features), len(rows), device):
        of_columns = _norms(features, block)
        of_rows = of_columns if queries is None else _norms(queries, block)
        lengths = torch.cat([of_rows[0], of_columns[0]])
        if lengths.min() < SHORT or lengths.max() > 1 / SHORT:
            of_rows = None  # squares of parts could vanish or overflow
    dtypes = (torch.float32,) if of_rows is None else (torch.bfloat16, torch.float32)
    memory = {dtype: torch.empty(block * block, dtype=dtype, device=device) for dtype in dtypes}  # new ones would take longer
    for i in range(start, len(rows), block):
        own = rows[i : i + block].to(device, torch.float32)  # (b, d)
        for j in range(i if queries is None else 0, len(features), block):
            columns = features[j : j + block].to(device, torch.float32)  # (c, d)
            rescoring = None
            if of_rows is not None:
                rescoring = Rescoring(own, columns, of_rows[:, i : i + block], of_columns[:, j : j + block])
            by_rows, by_columns = True, queries is None and j > i  # the ways to read it that are left
            for dtype in dtypes:
                if by_rows or by_columns:
                    s = memory[dtype][: len(own) * len(columns)].view(len(own), len(columns))
                    torch.mm(own.to(dtype), columns.to(dtype).T, out=s)  # (b, c)
                    if queries is None and j == i:
                        s.fill_diagonal_(-torch.inf)  # a row is not its own neighbour
                    by_rows = by_rows and not best.update(i, s, j, rescoring)
                    by_columns = by_columns and not best.update(j, s.T, i, rescoring and rescoring.transposed())
        yield len(own)


def _coarsely(columns: int, rows: int, device: torch.device) -> bool:
    """Whether a search of so many rows among so many columns is worth a coarse product first."""
    return device.type == "cpu" and columns >= MANY and rows >= SOME and multiplies_bfloat16_fast()


def _norms(features: Features, block: int) -> torch.Tensor:
    """`norms` of all rows, on the CPU: (2, N)."""
    blocks = (features[start : start + block] for start in range(0, len(features), block))
    return torch.cat([norms(rows.to("cpu", torch.float32)) for rows in blocks], dim=1)


def _tiles(
    features: Features, queries: torch.Tensor | None, best: Best, block: int, device: torch.device, start: int
) -> Iterator[int]:
    """The same in tall tiles, each row's columns one tile after another, without waiting for the device in between."""
    copy = features.on(device) if isinstance(features, Bank) else None
    columns = features if copy is None else copy
    rows, k = columns if queries is None else queries, best.values.shape[1]
    height = block or max(TALL * KEPT // max(k, KEPT), 64)
    width = block or max(min(WIDE, free_memory(device) // (16 * height)), 64) // 64 * 64  # 4 bytes each, of a quarter
    for i in range(start, len(rows), height):
        own = rows[i : i + height].to(device)  # (b, d)
        keys = torch.full((len(own), k), torch.iinfo(torch.int64).min, device=device)
        for j in range(0, len(columns), width):
            s = products(own, columns[j : j + width].to(device))  # (b, c)
            first, last = max(i, j), min(i + len(own), j + s.shape[1])
            if queries is None and first < last:
                s[first - i : last - i, first - j : last - j].fill_diagonal_(-torch.inf)
            keys = torch.cat([keys, best_keys(s, k, j)], dim=1).topk(k, dim=1).values
        found = values_and_columns(keys)
        best.values[i : i + height], best.indices[i : i + height] = found[0].cpu(), found[1].cpu()
        yield len(own)


def save_neighbours(path: Path, found: Neighbours) -> None:
    """Write indices (int32) and similarities (half precision) with the fingerprint of their bank, atomically."""
    about = {"format": FORMAT, "bank": found.bank, "description": json.dumps(found.description)}
    about |= {} if found.recall is None else {"recall": repr(found.recall)}
    storage.write_tensors(path, {"indices": found.indices.int(), "similarities": found.similarities.half()}, about)


def load_neighbours(path: Path, bank: Bank | None = None) -> Neighbours:
    """Read neighbours. Raises LclError when they are damaged, or of another bank than the one given."""
    about, tensors = storage.read_metadata(path), storage.read_tensors(path)
    complete = {"bank", "description"} <= set(about) and {"indices", "similarities"} <= set(tensors)
    require(about.get("format") == FORMAT and complete, f"{path} holds no neighbours of this library.")
    if bank is not None and about["bank"] != bank.fingerprint:
        raise LclError(
            f"the neighbours in {path} are of another bank ({about['bank']}) than the one in {bank.folder} "
            f"({bank.fingerprint}); `lcl neighbours` finds them anew."
        )
    indices = tensors["indices"].long()
    whole = indices.ndim == 2 and indices.shape == tensors["similarities"].shape
    require(whole and bool(((indices >= -1) & (indices < len(indices))).all()), f"{path} names rows that there are not.")
    try:
        description, recall = json.loads(about["description"]), float(about["recall"]) if "recall" in about else None
        if recall is not None and not 0 <= recall <= 1:
            raise ValueError
    except ValueError:
        raise LclError(f"{path} does not say what its neighbours are of; `lcl neighbours` finds them anew.") from None
    return Neighbours(indices, tensors["similarities"].float(), about["bank"], description, recall)


def find_neighbours(bank: Bank, k: int = KEPT, progress: Progress | None = None, exact: bool = False) -> Neighbours:
    """The k nearest neighbours of every row of a bank: read from its folder, or computed and saved there.

    Similarities are rounded to half precision. Saved ones that are damaged or of another bank are computed again. The state of a
    long search is saved every few minutes; after a `kill` it goes on as if it had never stopped. Approximate ones that were kept
    are taken, with a warning, unless these shall be `exact`.
    """
    path, kept = bank.folder / KEPT_IN, kept_neighbours(bank)
    if kept is None or kept.indices.shape[1] < k or (exact and kept.recall is not None):
        at_least = max(k, min(KEPT, len(bank) - 1))
        found = nearest_neighbours(bank, at_least, progress=progress, unfinished=bank.folder / UNFINISHED)
        kept = dataclasses.replace(found, similarities=found.similarities.half().float())
        storage.try_write(save_neighbours, path, found)
    elif progress:
        progress(len(bank))
    if kept.recall is not None:
        log.warning("the neighbours in %s are approximate: they hold %.1f%% of the exact ones.", path, 100 * kept.recall)
    return dataclasses.replace(kept, indices=kept.indices[:, :k], similarities=kept.similarities[:, :k])


def kept_neighbours(bank: Bank) -> Neighbours | None:
    """The neighbours that lie in a bank's folder; None if there are none, or if they are damaged or of another bank."""
    with contextlib.suppress(LclError):
        return load_neighbours(bank.folder / KEPT_IN, bank)
    return None


def open_neighbours(rows: DatasetView, progress: Progress | None = None) -> tuple[Neighbours, Neighbours]:
    """A data set's neighbours among its images and among its captions, by the packaged encoders.

    Those of the profile `laptop` ship with the course in `data/neighbours/`; others are computed, and saved with their banks.
    """
    found = []
    for make in (ImageEncoder, TextEncoder):
        path = SHIPPED / f"{make.kind}.safetensors"
        shipped = load_neighbours(path) if path.exists() else None
        if shipped is not None and shipped.description["rows"] == rows.description:
            found.append(shipped)
        else:
            bank = build_bank(rows, make(), progress=progress)
            found.append(find_neighbours(bank, min(KEPT, len(bank) - 1)))
    return found[0], found[1]


def width_of(features: Features) -> int:
    """d, the dimension of a row."""
    return features.width if isinstance(features, Bank) else features.shape[1]
