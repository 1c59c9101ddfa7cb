"""Similarities from products of bfloat16: how wrong they can be, and how those that matter are computed again.

Some processors multiply bfloat16 several times as fast as float32, but a number of bfloat16 has only 8 significant bits. So a
search may compute all similarities coarsely, and those again in float32 that could be among the best. What it finds is exact.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import torch

ROUNDING = {torch.bfloat16: 2.0**-8, torch.float32: 2.0**-23}  # of a result, relative, twice as much as it can be
SUMS = 2.0**-22  # of float32's sums, for each term, four times as much as it can be


def norms(features: torch.Tensor) -> torch.Tensor:
    """Compute how long some rows are, and how much of them bfloat16 cuts off: (n, d) float32 → (2, n)."""
    return torch.stack([features.norm(dim=1), (features - features.bfloat16().float()).norm(dim=1)])


@dataclass(frozen=True)
class Rescoring:
    """A block of b rows and c columns of the matrix of similarities, to compute some of them again.

    Attributes:
        rows, columns: (b, d) and (c, d), float32.
        of_rows, of_columns: their `norms`, of which none should be extreme: squares must neither vanish nor overflow.
    """

    rows: torch.Tensor
    columns: torch.Tensor
    of_rows: torch.Tensor
    of_columns: torch.Tensor

    def transposed(self) -> Rescoring:
        """The same block, read column by column."""
        return Rescoring(self.columns, self.rows, self.of_columns, self.of_rows)

    def least(self, wanted: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """A lower bound of a product as computed in bfloat16 or float32, if the true one is `wanted`; and the other way round.

        Let x' be x in bfloat16, and r = x - x'. Then x·y - x'·y' = r·y + x'·r_y, which is at most |r||y| + |x'||r_y|, by Cauchy
        and Schwarz. To this comes the rounding of sums and of the result.

        Args:
            wanted: (b, 1), one of each row.
            dtype: in which the block was computed.

        Returns:
            (b, 1).
        """
        (norm, cut), (largest, largest_cut) = self.of_rows[:, :, None], self.of_columns.amax(1)
        error = SUMS * self.rows.shape[1] * (norm + cut) * (largest + largest_cut)
        if dtype == torch.bfloat16:
            error = error + cut * largest + (norm + cut) * largest_cut
        return wanted - error - ROUNDING[dtype] * (wanted.abs() + error)

    def rescore(self, row: torch.Tensor, column: torch.Tensor) -> torch.Tensor:
        """Compute some similarities in float32: numbers of rows, ascending, and of columns, (n,) int64 each → (n,)."""
        size, ends = (len(self.rows), len(self.columns)), row.bincount(minlength=len(self.rows)).cumsum(0)
        begins, none = torch.cat([ends.new_zeros(1), ends]), self.rows.new_zeros(len(row))
        with warnings.catch_warnings():  # that sparse tensors are new, and that these are not checked
            warnings.filterwarnings("ignore", message="Sparse (CSR tensor support|invariant checks)")
            wanted = torch.sparse_csr_tensor(begins, column, none, size, check_invariants=False)
            return torch.sparse.sampled_addmm(wanted, self.rows, self.columns.T, beta=0.0).values()
