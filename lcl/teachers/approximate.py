"""Approximate neighbours, for banks that are too large for an exact search; and how many of the exact ones they hold."""

import os
from types import ModuleType

import torch

from lcl import storage
from lcl.config import need, require
from lcl.teachers.banks import Bank, check_features
from lcl.teachers.search import (
    KEPT_IN,
    Features,
    Neighbours,
    kept_neighbours,
    nearest_neighbours,
    save_neighbours,
    width_of,
)

ROWS_AT_ONCE = 65_536  # that an index of inverted lists takes or answers
ROUNDING = 2**-11  # the distance of two numbers of half precision just below 1
CORES = {"AVX512": "SKYLAKEX", "AVX2": "HASWELL"}  # what torch finds in a processor, and OpenBLAS's name for such a one


def load_faiss() -> ModuleType:
    """Import FAISS, and choose the code of its OpenBLAS by the vector instructions that torch finds in the processor.

    The wheel for Linux brings an OpenBLAS of 2021. It takes a younger processor for one of 2004, and is then several times
    slower. It reads OPENBLAS_CORETYPE once, when it is loaded, so this has no effect if FAISS was imported before. A value
    that you have set is kept. Raises LclError if FAISS is not installed.
    """
    core = CORES.get(torch.backends.cpu.get_cpu_capability())
    ours = core is not None and "OPENBLAS_CORETYPE" not in os.environ
    if ours:
        os.environ["OPENBLAS_CORETYPE"] = core
    try:
        return need("faiss", "teachers")  # only here: on some systems it loads a second OpenMP runtime
    finally:
        if ours:
            del os.environ["OPENBLAS_CORETYPE"]


def approximate_neighbours(features: Features, k: int = 1, lists: int = 0, probes: int = 16) -> Neighbours:
    """Approximate neighbours by FAISS's inverted lists on the CPU, for banks that are too large for an exact search.

    The lists hold half precision, as banks do: half of the memory of float32, and no other rounding than the bank's own.

    Args:
        features: (N, d), L2-normalised.
        k: neighbours of each, less than N.
        lists: clusters of rows; 0 for about 4·√N.
        probes: clusters that each row is compared with. `recall_of_neighbours` measures what that misses.
    """
    faiss = load_faiss()
    number, width = len(features), width_of(features)
    require(1 <= k < number, f"k = {k} neighbours are asked for, but the number of other rows is {max(number - 1, 0)}.")
    if isinstance(features, torch.Tensor):
        check_features(features, "the features")
    lists = min(lists or round(4 * number**0.5), number)
    kind, metric = faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
    index = faiss.IndexIVFScalarQuantizer(faiss.IndexFlatIP(width), width, lists, kind, metric, False)  # rows, not residuals
    index.cp.seed, index.cp.min_points_per_centroid = 0, 1  # no warning about few rows a list
    sample = torch.randperm(number, generator=torch.Generator().manual_seed(0))[: 64 * lists].sort().values
    index.train(features[sample].float().numpy())
    for start in range(0, number, ROWS_AT_ONCE):
        index.add(features[start : start + ROWS_AT_ONCE].float().numpy())
    index.nprobe = probes
    indices, similarities = [], []
    for start in range(0, number, ROWS_AT_ONCE):
        found = index.search(features[start : start + ROWS_AT_ONCE].float().numpy(), k + 1)
        values, columns = (
            torch.from_numpy(array) for array in found
        )  # (n, k + 1); -1 where the probed lists held fewer
        others = columns != torch.arange(start, start + len(columns))[:, None]
        others &= others.cumsum(1) <= k  # where duplicates pushed the row itself out, the last is one too many
        indices.append(columns[others].view(-1, k))
        similarities.append(values[others].view(-1, k))
    name, description = (features.fingerprint, features.description) if isinstance(features, Bank) else ("", None)
    return Neighbours(torch.cat(indices), torch.cat(similarities), name, description)


def recall_of_neighbours(features: Features, found: Neighbours, sample: int = 1000) -> float:
    """Share of the exact k nearest neighbours that `found` holds, over a sample of rows: 0 to 1.

    Which of two equally similar rows was found does not matter: a row counts if it is at least as similar as the k-th exact
    neighbour, less `ROUNDING`, by which the similarities of half-precision features may differ.
    """
    number, k = len(features), found.indices.shape[1]
    rows = torch.randperm(number, generator=torch.Generator().manual_seed(0))[:sample]
    own = features[rows].float()
    exact = nearest_neighbours(features, k + 1, queries=own)  # itself is among them
    others = exact.indices != rows[:, None]
    others &= others.cumsum(1) <= k  # where duplicates pushed the row itself out, the last is one too many
    least = exact.similarities[others].view(-1, k)[:, -1:] - ROUNDING
    indices = found.indices[rows].sort(1).values  # (n, k)
    got = features[indices.flatten()].float().view(*indices.shape, -1)  # of -1, which is none, the last row
    hits = ((got @ own[:, :, None])[..., 0] >= least) & (indices >= 0) & (indices != rows[:, None])
    hits[:, 1:] &= indices.diff(dim=1) > 0  # a row that is named twice counts once
    return hits.float().mean().item()


def keep_approximate(bank: Bank, found: Neighbours) -> bool:
    """Keep approximate neighbours for training runs, unless the bank's folder has exact ones; were they kept?"""
    kept = kept_neighbours(bank)
    return (kept is None or kept.recall is not None) and storage.try_write(save_neighbours, bank.folder / KEPT_IN, found)
