"""The cheapest assignment of words to columns, for many small problems at once on a GPU: a kernel, and the same in plain torch.

Both add words along shortest augmenting paths (Jonker & Volgenant 1987; Crouse 2016, the algorithm of scipy's solver): a new word
takes a column, whose word takes another one, and so on to a free column. Column n stands for "unmatched", and is always free.
Dual prices u of the words and v of the columns keep every cost - u - v at 0 or more, so that Dijkstra's algorithm finds the path.
The kernel is written in Triton, which torch brings along where it compiles for GPUs.
"""

from __future__ import annotations

import math
import os
import shutil

import torch
import torch.nn.functional as F

try:
    import triton
    import triton.language as tl
except ImportError:  # torch for CPUs, macOS and Windows
    triton = None


def cheapest_columns(cost: torch.Tensor, words: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """The column that each word has in the cheapest assignment; -1 where it has none, and at padding.

    Args:
        cost: (N, m, n) float64, finite; not empty.
        words: (N, m) bool, false at padding.
        price: scalar float64, of a word without a column. A column that costs as much is none.

    Returns:
        (N, m) int64, on the device of the costs.
    """
    return (by_kernel if usable(cost) else in_lockstep)(cost, words, price)


def usable(x: torch.Tensor) -> bool:
    """Can the kernel run on the device of x? Triton needs a C compiler, to begin with."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("clang")
    return triton is not None and x.is_cuda and torch.cuda.is_available() and compiler is not None


def by_kernel(cost: torch.Tensor, words: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """`cheapest_columns` on a GPU: every problem is a program of its own, and the host waits for none."""
    size, m, n = cost.shape
    chosen = torch.empty(size, m, dtype=torch.int64, device=cost.device)
    width = triton.next_power_of_2(n + 1)
    _add_words[(size,)](
        cost.contiguous(), words.contiguous().view(torch.uint8), price, chosen, m, n,
        M=triton.next_power_of_2(m), N=width, num_warps=max(1, min(width // 256, 8)),
    )  # fmt: skip
    return chosen


@(triton.jit if triton else lambda kernel: kernel)
def _add_words(cost, words, price, chosen, m, n, M: tl.constexpr, N: tl.constexpr):
    """One problem. M and N: m and n + 1, rounded up to powers of two; column n stands for "unmatched", and is always free."""
    problem = tl.program_id(0).to(tl.int64)
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    real = tl.load(words + problem * m + rows, mask=rows < m, other=0)
    asked = tl.load(price)
    u, v = tl.zeros([M], tl.float64), tl.zeros([N], tl.float64)  # dual prices
    column, holder = tl.full([M], -1, tl.int32), tl.zeros([N], tl.int32) + m  # of a word, of a column; m: it is free
    new = 0
    while new < m:  # no range: Triton's interpreter, by which tests run this on a CPU, cannot count to m
        distance, came_from = tl.full([N], float("inf"), tl.float64), tl.zeros([N], tl.int32)
        reached = columns > n
        scanned = tl.full([M], float("inf"), tl.float64)  # how far from the new word each word was when its turn came
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
    taken = (rows < m) & (column >= 0) & (column < n)
    cheap = tl.load(cost + (problem * m + rows) * n + column, mask=taken, other=float("inf")).to(tl.float64) < asked
    tl.store(chosen + problem * m + rows, tl.where(taken & cheap, column, -1).to(tl.int64), mask=rows < m)


def in_lockstep(cost: torch.Tensor, words: torch.Tensor, price: torch.Tensor) -> torch.Tensor:
    """`cheapest_columns` in plain torch, on any device.

    First every word takes its cheapest column, and of several words the first keeps it. Then the others are added, one a problem
    at a time. The host waits for the device several times a word.
    """
    (size, m, n), free = cost.shape, cost.shape[1]  # `free` is the holder of a column without a word
    c = torch.cat([cost, price.expand(size, m, 1)], dim=2)  # (N, m, n + 1)
    u, column = c.min(2)  # (N, m)
    v = torch.zeros_like(c[:, 0])  # (N, n + 1)
    every, number = torch.arange(size, device=c.device), torch.arange(m, device=c.device).expand(size, m)
    holder = torch.full_like(v, free, dtype=torch.int64).scatter_reduce(
        1, column, number.masked_fill(~words, free), "amin"
    )
    holder[:, n] = free
    kept = (column == n) | (holder.gather(1, column) == number)
    waiting = words & ~kept
    column = column.masked_fill(~kept, -1)
    while waiting.any():
        new, searching = waiting.int().argmax(1), waiting.any(1)  # (N,): the word that is added
        waiting = waiting & (number != new[:, None])
        distance, came_from = torch.full_like(v, math.inf), torch.full_like(holder, free)  # of every column
        reached, last = torch.zeros_like(v, dtype=torch.bool), torch.full_like(new, -1)
        word, length = new, torch.zeros_like(v[:, 0])  # at the path's present end
        while searching.any():
            through = length[:, None] + c[every, word] - u[every, word][:, None] - v  # (N, n + 1)
            shorter = (through < distance) & ~reached & searching[:, None]
            distance, came_from = through.where(shorter, distance), word[:, None].where(shorter, came_from)
            nearest, at = distance.masked_fill(reached, math.inf).min(1)
            length = nearest.where(searching, length)
            reached[every, at] |= searching
            found = searching & (holder[every, at] == free)
            last, searching = at.where(found, last), searching & ~found
            word = holder[every, at].where(searching, word)
        rise = (length[:, None] - distance).masked_fill(~reached, 0.0)
        v = v - rise
        u = F.pad(u, (0, 1)).scatter_add(1, holder, rise)[:, :m].scatter_add(1, new[:, None], length[:, None])
        while (last >= 0).any():  # back along the path: every word on it takes the next patch
            row = (last >= 0).nonzero()[:, 0]
            at = last[row]
            word = came_from[row, at]
            last[row] = column[row, word].masked_fill(word == new[row], -1)
            column[row, word], holder[row, at] = at, word.masked_fill(at == n, free)
    cheap = c.gather(2, column.clamp(min=0)[..., None])[..., 0] < price  # otherwise as expensive as staying unmatched
    return column.masked_fill(~(words & (column < n) & cheap), -1)
