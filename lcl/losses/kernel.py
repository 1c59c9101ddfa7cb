"""The cheapest matching as one kernel, for GPUs: every problem is a program of its own, and the host waits for none.

The algorithm is that of `lcl.losses.matching.exact_lockstep`, without its first round: words are added one after the other.
It is written in Triton, which torch brings along where it compiles for GPUs.
"""

from __future__ import annotations

import os
import shutil

import torch

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs, macOS and Windows
    triton = None


def usable(x: torch.Tensor) -> bool:
    """Can the kernel run on the device of x? Triton needs a C compiler, to begin with."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return triton is not None and x.is_cuda and torch.cuda.is_available() and compiler is not None


def cheapest_patches(cost: torch.Tensor, words: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """The column that each word has in the cheapest matching; -1 where it stays unmatched, and at padding.

    Args:
        cost: (N, m, n) float, finite at words.
        words: (N, m) bool, false at padding.
        price: scalar float64, of an unmatched word.

    Returns:
        (N, m) int64. A word whose patch costs as much as the price counts as unmatched.
    """
    size, m, n = cost.shape
    patch = torch.empty(size, m, dtype=torch.int64, device=cost.device)
    width = triton.next_power_of_2(n + 1)
    _add_words[(size,)](
        cost.contiguous(), words.contiguous().view(torch.uint8), price, patch, m, n,
        M=triton.next_power_of_2(m), N=width, num_warps=max(1, min(width // 256, 8)),
    )  # fmt: skip
    return patch


@(triton.jit if triton else lambda kernel: kernel)
def _add_words(cost, words, price, patch, m, n, M: tl.constexpr, N: tl.constexpr):
    """One problem. M and N: m and n + 1, rounded up to powers of two; column n stands for "unmatched", and is always free."""
    problem = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    real = tl.load(words + problem * m + rows, mask=rows < m, other=0)
    asked = tl.load(price)
    u, v = tl.zeros([M], tl.float64), tl.zeros([N], tl.float64)  # dual prices
    column, holder = tl.full([M], -1, tl.int32), tl.zeros([N], tl.int32) + m  # of a word, of a column; m: it is free
    new = 0
    while new < m:  # Triton's interpreter, with which tests run this on a CPU, knows no range of a number from outside
        distance, came_from = tl.full([N], float("inf"), tl.float64), tl.zeros([N], tl.int32)
        reached, scanned = (
            columns > n,
            tl.full([M], float("inf"), tl.float64),
        )  # scanned: how far a word was from the new one
        word, length = new, tl.sum(tl.zeros([N], tl.float64), 0)
        asking = tl.sum(tl.where(rows == new, real, 0).to(tl.int32), 0)  # 1; 0 for padding, which looks for nothing
        found = -asking  # the free column, or -1 until it is found
        while found < 0:
            scanned = tl.where(rows == word, length, scanned)
            row = tl.load(cost + (problem * m + word) * n + columns, mask=columns < n, other=0.0).to(tl.float64)
            row = tl.where(columns < n, row, asked)
            through = length + row - tl.sum(tl.where(rows == word, u, 0.0), 0) - v
            shorter = (through < distance) & (reached == 0)
            distance, came_from = tl.where(shorter, through, distance), tl.where(shorter, word, came_from)
            ahead = tl.where(reached, float("inf"), distance)
            length, at = tl.min(ahead, 0), tl.argmin(ahead, 0)
            reached = reached | (columns == at)
            word = tl.sum(tl.where(columns == at, holder, 0), 0)
            found = tl.where(word == m, at, -1)
        u = tl.where(scanned < float("inf"), u + length - scanned, u)
        v = tl.where(reached & (distance < float("inf")), v - (length - distance), v)
        at = tl.where(asking > 0, found, -1)
        while at >= 0:  # back along the path: every word on it takes the next column
            word = tl.sum(tl.where(columns == at, came_from, 0), 0)
            had = tl.sum(tl.where(rows == word, column, 0), 0)
            column = tl.where(rows == word, at, column)
            holder = tl.where((columns == at) & (columns < n), word, holder)
            at = tl.where(word == new, -1, had)
        new += 1
    paid = tl.load(
        cost + (problem * m + rows) * n + column, mask=(rows < m) & (column >= 0) & (column < n), other=float("inf")
    )
    cheap = (column >= 0) & (column < n) & (paid.to(tl.float64) < asked)
    tl.store(patch + problem * m + rows, tl.where(cheap, column, -1).to(tl.int64), mask=rows < m)
