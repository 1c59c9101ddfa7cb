"""The exercises of chapter 8: banks of features, and the neighbours in them."""

from collections.abc import Sequence
from typing import Any

import torch

from lcl.course.checks import check, check_function
from lcl.data.scenes import Scene

NUMBERS = 1280 + 384
"""Of a pair: the features of its image and of its caption."""


def gigabytes(answer: Any, pairs: float = 3.3e6) -> str:
    """How many gigabytes do both banks need in half precision?"""
    return check(answer, pairs * NUMBERS * 2 / 1e9, {
        "that is for 4 bytes a number; half precision takes 2.": pairs * NUMBERS * 4 / 1e9,
        "that is the images' bank alone.": pairs * 1280 * 2 / 1e9,
        "count 2 bytes a number.": pairs * NUMBERS / 1e9,
    }, tolerance=0.02)  # fmt: skip


def nearest_in_blocks(features: torch.Tensor, block: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The solution of the exercise: the nearest other row of every row, with one block of similarities in memory at a time.

    Args:
        features: (N, d) float, L2-normalised.
        block: rows and columns of a block; it need not divide N.

    Returns:
        Of the nearest row its index, (N,) int64, and its cosine, (N,). Of equal cosines the smaller index counts.
    """
    return _in_blocks(features, block)


def _in_blocks(features, block, own=True, diagonals="own", offset=True, later=False, whole=True):
    """`nearest_in_blocks`, or one of its typical mistakes, each by an option."""
    number = len(features)
    best, where = torch.full((number,), -torch.inf), torch.full((number,), -1)
    starts = range(0, number if whole else number - number % block, block)
    for i in starts:
        rows = slice(i, i + block)
        for j in starts:
            s = features[rows] @ features[j : j + block].T  # (b, c)
            if own and (i == j or diagonals == "all"):
                s.fill_diagonal_(-torch.inf)
            value, column = s.max(dim=1)  # (b,) each; of equal values the first
            better = value >= best[rows] if later else value > best[rows]
            best[rows] = torch.where(better, value, best[rows])
            where[rows] = torch.where(better, (j if offset else 0) + column, where[rows])
    return where, best


def in_blocks(function: Any) -> str:
    """Build: exact neighbours in blocks; see `nearest_in_blocks`. The cases hold equal rows, and numbers without rounding."""
    cases = [(_rows(10, 0), 4), (_rows(9, 1), 3), (_rows(7, 2), 7)]
    return check_function(function, cases, nearest_in_blocks, {
        "every row finds itself; set the row's similarity with itself to -infinity.":
            lambda features, block: _in_blocks(features, block, own=False),
        "you exclude the diagonal of every block; a row meets itself only where i = j.":
            lambda features, block: _in_blocks(features, block, diagonals="all"),
        "the maximum gives a column of the block; add the block's first column, j.":
            lambda features, block: _in_blocks(features, block, offset=False),
        "of equal similarities the smaller index wins: replace the best only if the new one is larger.":
            lambda features, block: _in_blocks(features, block, later=True),
        "the last rows are missing: a block may be smaller than the others.":
            lambda features, block: _in_blocks(features, block, whole=False),
    })  # fmt: skip


def _rows(number: int, seed: int) -> torch.Tensor:
    """(number, 8): rows of length one, of four halves and four zeros, so that their products are exact; many are equal."""
    random, features = torch.Generator().manual_seed(seed), torch.zeros(number, 8)
    for row in features:
        row[torch.randperm(6, generator=random)[:4]] = 0.5
    return features


def xnn_of_images(function: Any) -> str:
    """Which captions are the XNN of the images? Their features, from the nearest images (N,) and the bank (N, d)."""
    case = torch.tensor([1, 2, 0, 4, 0]), torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    return check_function(function, [case], lambda a, Z: Z[a], {
        "those are the pairs' own captions; their neighbours' are asked for.": lambda a, Z: Z,
        "that is a neighbour's neighbour; one step is enough.": lambda a, Z: Z[a[a]],
        "that goes the other way: row i of the result is the caption of pair a[i].": lambda a, Z: Z[a.argsort()],
    })  # fmt: skip


def purity(answer: Any, scenes: Sequence[Scene], nearest: Sequence[int]) -> str:
    """Which share of a scene's concepts does its nearest scene have, too, on average? scenes: all; nearest: of the first ones."""
    pairs = [(scenes[i].concepts, scenes[int(j)].concepts) for i, j in enumerate(nearest)]

    def mean(share) -> float:
        return sum(share(own, other) for own, other in pairs) / len(pairs)

    return check(answer, mean(lambda own, other: len(own & other) / len(own)), {
        "divide by the number of the scene's own concepts, not of the neighbour's.":
            mean(lambda own, other: len(own & other) / len(other)),
        "that is the number of shared concepts; divide it by the scene's own number.": mean(lambda own, other: len(own & other)),
        "that is the share of scenes with any shared concept; count how many of its concepts are shared.":
            mean(lambda own, other: bool(own & other)),
    })  # fmt: skip
