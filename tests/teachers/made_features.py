"""Features whose neighbours are known, and the search that is too simple to be wrong."""

import torch
import torch.nn.functional as F
from hypothesis import strategies as st

from lcl.teachers.banks import Bank
from lcl.teachers.search import Neighbours

seeds, widths, grids = st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 3)


def block_of(data, rows: int) -> int:
    """Any size down to 1, but not so small that it takes long."""
    return data.draw(st.one_of(st.integers(1 + rows // 16, rows + 99), st.sampled_from([64, 128, 2048])))


def random(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def whole_numbers(seed: int, rows: int, width: int, largest: int) -> torch.Tensor:
    """Features whose similarities are exact, with many ties and duplicates; no row is zero."""
    features = torch.randint(-largest, largest + 1, (rows, width), generator=random(seed)).float()
    features[:, 0][(features == 0).all(1)] = 1
    return features


def clustered(seed: int, rows: int, width: int, clusters: int = 500, noise: float = 1.0) -> torch.Tensor:
    centres = torch.randn(clusters, width, generator=random(seed))
    which = torch.randint(clusters, (rows,), generator=random(seed + 1))
    return F.normalize(centres[which] + noise * torch.randn(rows, width, generator=random(seed + 2)), dim=1)


def brute_force(features: torch.Tensor, k: int, queries: torch.Tensor | None = None) -> Neighbours:
    """The whole matrix, sorted; of equals the first stays first."""
    s = (features if queries is None else queries).double() @ features.double().T
    if queries is None:
        s.fill_diagonal_(-torch.inf)
    values, order = s.sort(dim=1, descending=True, stable=True)
    return Neighbours(order[:, :k], values[:, :k].float())


def assert_same(found: Neighbours, wanted: Neighbours) -> None:
    assert found.indices.dtype == torch.int64 and found.similarities.dtype == torch.float32
    assert torch.equal(found.indices, wanted.indices) and torch.equal(found.similarities, wanted.similarities)


def bank_of(folder, features: torch.Tensor, fingerprint: str = "f00d", step: int = 1000) -> Bank:
    return Bank(folder, {"rows": {"rows": len(features)}}, fingerprint, features.half().split(step))
