"""Which pairs are the same: equal pixels, equal captions, and pictures that look alike."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Hashable, Iterable

import numpy as np
import scipy.fft
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

BANDS = 4  # of 16 bits; two hashes that differ in fewer bits than there are bands agree in one band at least
NEAR = BANDS - 1  # bits in which the hashes of near-duplicates differ, at most
FLAT = 2.0  # standard deviation, in grey levels, below which a picture has no outline to compare


def caption_key(caption: str) -> str:
    """A caption without what does not change its meaning: equal keys count as the same caption (our reading).

    Unicode forms (NFKC), case, white space and a final full stop are set aside.
    """
    return " ".join(unicodedata.normalize("NFKC", caption).casefold().split()).rstrip(" .。．")


def hash64(data: bytes) -> int:
    """A signed 64-bit hash, never 0. Equal data have equal hashes; among three million others, two agree once in four million."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big", signed=True) or 1


def pixel_hash(image: torch.Tensor) -> int:
    """The hash of a decoded and resized picture. image: (3, H, W) uint8."""
    return hash64(image.contiguous().numpy().tobytes())


def perceptual_hash(image: torch.Tensor) -> int:
    """64 bits that change little when a picture is resized or saved again: the signs of its 64 lowest frequencies.

    This is the usual pHash: a cosine transform of the grey picture at 32 pixels a side, compared with its median.

    Args:
        image: (3, H, W) uint8, H and W multiples of 32.

    Returns:
        A signed 64-bit number; 0 for a picture of a single colour, which has no outline.
    """
    grey = image.float().mean(0).numpy()  # (H, W)
    if grey.std() < FLAT:
        return 0
    rows, columns = (side // 32 for side in grey.shape)
    small = grey.reshape(32, rows, 32, columns).mean((1, 3))  # (32, 32)
    low = scipy.fft.dctn(small, norm="ortho")[:8, :8].ravel()  # (64,)
    bits = np.packbits(low > np.median(low[1:]))  # the first is the mean brightness
    return int.from_bytes(bits.tobytes(), "big", signed=True) or 1


def near_duplicates(hashes: torch.Tensor) -> torch.Tensor:
    """All pairs of different hashes that differ in at most NEAR bits.

    Args:
        hashes: (N,) int64, from `perceptual_hash`; 0 stands for no hash.

    Returns:
        (n, 2) int64: hashes, the smaller first.
    """
    values = np.unique(hashes.numpy())
    values = values[values != 0]
    found = [np.empty((0, 2), np.int64)]
    for band in range(BANDS):
        part = values.view(np.uint64) >> np.uint64(16 * band) & np.uint64(0xFFFF)
        order = np.argsort(part, kind="stable")
        part, sorted_values = part[order], values[order]
        rows, step = np.arange(len(values)), 1
        while len(rows := rows[rows < len(values) - step]):  # every value with the one that stands `step` places further on …
            rows = rows[part[rows] == part[rows + step]]  # … as long as they agree in this band
            ours, theirs = sorted_values[rows], sorted_values[rows + step]
            close = np.bitwise_count((ours ^ theirs).view(np.uint64)) <= NEAR  # of signed numbers it counts the absolute value
            found.append(np.stack([ours[close], theirs[close]], axis=1))
            step += 1
    pairs = np.sort(np.concatenate(found), axis=1)
    return torch.from_numpy(np.unique(pairs, axis=0))


def group_rows(keys: Iterable[torch.Tensor], links: torch.Tensor | None = None) -> torch.Tensor:
    """Number the groups of rows that have a key in common, directly or through others.

    Args:
        keys: each (N,) int64; rows with an equal key belong together; 0 stands for no key.
        links: (n, 2) int64, pairs of keys that count as equal, of the last of `keys`.

    Returns:
        (N,) int64, the group of every row, numbered from 0.
    """
    edges, nodes, size = [], 0, 0
    for key in keys:
        size, key = len(key), key.numpy()
        values, number = np.unique(key, return_inverse=True)
        rows = np.flatnonzero(key)
        edges.append(np.stack([rows, size + nodes + number[rows]]))  # a row and its key are joined
        last, nodes = (values, size + nodes), nodes + len(values)
    if links is not None and len(links):
        values, first = last
        edges.append(first + np.searchsorted(values, links.numpy().T))
    rows, columns = np.concatenate(edges, axis=1) if edges else np.empty((2, 0), np.int64)
    graph = coo_array((np.ones(len(rows), np.int8), (rows, columns)), shape=(size + nodes,) * 2)
    groups = connected_components(graph, directed=False)[1][:size]
    return torch.from_numpy(np.unique(groups, return_inverse=True)[1].astype(np.int64))


def distinct(keys: Iterable[Hashable]) -> tuple[list[int], list[int]]:
    """The place of the first of equal keys, for every distinct key; and for every key, the number of its distinct key."""
    numbers: dict[Hashable, int] = {}
    firsts, which = [], []
    for place, key in enumerate(keys):
        if key not in numbers:
            numbers[key] = len(firsts)
            firsts.append(place)
        which.append(numbers[key])
    return firsts, which
