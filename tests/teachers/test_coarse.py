"""A coarse search: nothing true lies outside its bounds, and it finds what brute force finds, ties included."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from made_features import (
    assert_same,
    bank_of,
    block_of,
    brute_force,
    clustered,
    grids,
    random,
    seeds,
    whole_numbers,
    widths,
)

from lcl.teachers import best, search
from lcl.teachers.best import Best
from lcl.teachers.coarse import Rescoring, norms
from lcl.teachers.search import Neighbours, nearest_neighbours, reference_neighbours


@pytest.fixture(autouse=True, scope="module")
def on_any_machine():
    """Search coarsely, however few rows there are, and whatever this processor multiplies fast."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "MANY", 1)
        patch.setattr(search, "SOME", 1)
        patch.setattr(search, "multiplies_bfloat16_fast", lambda: True)
        yield


def rescoring_of(x: torch.Tensor, y: torch.Tensor) -> Rescoring:
    return Rescoring(x, y, norms(x), norms(y))


def half_way(x: torch.Tensor) -> torch.Tensor:
    """The numbers that bfloat16 rounds most: close to the middle of two of its own."""
    return (x.view(torch.int32) & -(1 << 16) | 0x7FFF).view(torch.float32)


@settings(max_examples=100)
@given(seeds, st.integers(1, 600), st.sampled_from([1e-3, 1.0, 50.0]), st.booleans(), st.booleans())
def test_no_product_is_outside_its_bounds(seed, width, size, worst, same_sign):
    x, y = (torch.randn(20, width, generator=random(seed + n)) * size for n in (0, 1))
    y[:5] = x[:5]  # the largest similarities
    if same_sign:
        x, y = x.abs(), y.abs()
    x, y = (half_way(x), half_way(y)) if worst else (x, y)
    true, block = x.double() @ y.double().T, rescoring_of(x, y)
    for dtype in (torch.bfloat16, torch.float32):
        s = (x.to(dtype) @ y.to(dtype).T).float()
        assert (s >= block.least(true.float(), dtype)).all() and (true >= block.least(s, dtype)).all()
    coarse = (x.bfloat16() @ y.bfloat16().T).float()
    if worst and same_sign and width > 100:
        assert ((coarse - true).abs() > 2**-9 * true.abs()).any()  # so the bounds were near


def test_what_is_computed_again_is_as_good_as_float32_and_equal_both_ways_and_for_equal_rows():
    x, y = (clustered(seed, 50, 384) for seed in (1, 2))
    y[7] = y[3]
    row, column = (torch.rand(50, 50, generator=random(3)) < 0.3).nonzero(as_tuple=True)
    found = rescoring_of(x, y).rescore(row, column)
    torch.testing.assert_close(found.double(), (x.double() @ y.double().T)[row, column], rtol=0, atol=1e-6)
    order = (column * 50 + row).argsort()
    other = rescoring_of(x, y).transposed().rescore(column[order], row[order])
    assert torch.equal(other, found[order])
    pairs = torch.arange(50)
    assert torch.equal(rescoring_of(x, y).rescore(pairs, pairs * 0 + 3), rescoring_of(x, y).rescore(pairs, pairs * 0 + 7))


@settings(max_examples=120)
@given(st.data(), seeds, st.integers(2, 300), widths, grids, st.sampled_from([0.0, best.FEW, 1.0]))
def test_the_search_is_brute_force_whether_blocks_are_refused_or_not(data, seed, n, d, largest, few):
    features, k = whole_numbers(seed, n, d, largest), data.draw(st.integers(1, n - 1))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best, "FEW", few)
        assert_same(nearest_neighbours(features, k, block=block_of(data, n)), brute_force(features, k))


@settings(max_examples=60)
@given(st.data(), seeds, st.integers(1, 150), st.integers(1, 150), widths, grids, st.sampled_from([0.0, best.FEW, 1.0]))
def test_so_it_is_for_queries(data, seed, n, q, d, largest, few):
    features, queries = whole_numbers(seed, n, d, largest), whole_numbers(seed + 1, q, d, largest)
    k, block = data.draw(st.integers(1, n)), block_of(data, max(n, q))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(best, "FEW", few)
        assert_same(nearest_neighbours(features, k, queries, block), brute_force(features, k, queries))


def test_of_duplicates_in_refused_and_other_blocks_the_smaller_index_comes_first(tmp_path):
    features = clustered(4, 1500, 48, noise=0.3).half()
    features = torch.cat([features, features[torch.randperm(1500, generator=random(5))]])
    found = nearest_neighbours(bank_of(tmp_path, features), 8, block=256)
    equal = found.similarities.diff(dim=1) == 0
    assert (found.indices.diff(dim=1)[equal] > 0).all()
    assert (equal[:, 1::2]).float().mean() > 0.99  # after a row's own copy, the others come in pairs, bitwise equal
    plain = reference_neighbours(features.float(), 8)
    torch.testing.assert_close(found.similarities, plain.similarities, rtol=0, atol=1e-6)


def nearly_orthogonal(seed: int, rows: int, queries: int, width: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and queries whose similarities differ by less than bfloat16 tells apart, about zero; of several lengths."""
    a, b = torch.linalg.qr(torch.randn(width, 2, generator=random(seed)))[0].T
    features, asked = (
        x + 3e-4 * torch.randn(number, width, generator=random(seed + number)) for x, number in ((a, rows), (b, queries))
    )
    return features * torch.linspace(0.5, 2, rows)[torch.randperm(rows, generator=random(seed))][:, None], asked


@pytest.mark.parametrize("block", [256, 1000])
@pytest.mark.parametrize("few", [best.FEW, 1.0])
def test_no_neighbour_is_missed_where_bfloat16_tells_nothing_apart(monkeypatch, block, few):
    monkeypatch.setattr(best, "FEW", few)
    rows, asked = nearly_orthogonal(7, 2000, 700)
    rounded, rounded_asked = (x.bfloat16().float() for x in (rows, asked))
    for features, queries in ((rows, asked), (rounded, asked), (rows, rounded_asked), (rows, None)):
        found = nearest_neighbours(features, 3, queries, block)
        exact = brute_force(features, 3, queries)
        torch.testing.assert_close(found.similarities, exact.similarities, rtol=1e-6, atol=2e-7)


@pytest.mark.parametrize("scale", [1e-19, 1e-6, 1e6])
def test_rows_that_are_far_from_unit_length_are_searched_in_float32(monkeypatch, scale):
    seen, update = [], Best.update
    monkeypatch.setattr(Best, "update", lambda self, i, s, *rest: seen.append(s.dtype) or update(self, i, s, *rest))
    features = clustered(9, 600, 32)
    found, plain = nearest_neighbours(features * scale, 3, block=200), reference_neighbours(features, 3)
    assert set(seen) == {torch.float32} and (found.indices == plain.indices).float().mean() > 0.99


def test_few_queries_are_not_worth_a_pass_over_the_bank(monkeypatch):
    monkeypatch.setattr(search, "SOME", 100)
    seen, update = [], Best.update
    monkeypatch.setattr(Best, "update", lambda self, i, s, *rest: seen.append(s.dtype) or update(self, i, s, *rest))
    features = clustered(9, 600, 32)
    for number, dtype in ((99, torch.float32), (100, torch.bfloat16)):
        seen.clear()
        nearest_neighbours(features, 3, features[:number])
        assert seen[0] == dtype


def test_no_warning_of_torch_reaches_the_user():
    work = (
        "import torch; from lcl.teachers import search; search.MANY = search.SOME = 1\n"
        "search.multiplies_bfloat16_fast = lambda: True; search.nearest_neighbours(torch.eye(300), 2, block=100)"
    )
    done = subprocess.run([sys.executable, "-W", "error", "-c", work], capture_output=True, text=True)
    assert done.returncode == 0 and not done.stderr, done.stderr


def test_it_finds_what_float32_finds_but_for_near_ties_and_seldom_needs_a_product_in_float32(monkeypatch):
    features, told, update = clustered(6, 4000, 64), [], Best.update

    def noted(self, first_row, s, *rest):
        told.append((s.dtype, update(self, first_row, s, *rest)))
        return told[-1][1]

    monkeypatch.setattr(Best, "update", noted)
    found = nearest_neighbours(features, 4, block=512)
    coarse = [done for dtype, done in told if dtype == torch.bfloat16]
    assert len(coarse) == 8 * 8 and sum(coarse) > 48 and len(told) == 64 + coarse.count(False)
    plain = reference_neighbours(features, 4)
    torch.testing.assert_close(found.similarities, plain.similarities, rtol=0, atol=1e-6)
    gaps = plain.similarities.diff(dim=1).abs().min(1).values
    assert torch.equal(found.indices[gaps > 1e-5], plain.indices[gaps > 1e-5]) and (gaps > 1e-5).sum() > 3900


def test_equal_rows_are_refused_and_found_all_the_same():
    found = nearest_neighbours(torch.tensor([[0.6, 0.8]]).repeat(70, 1), 3, block=7)
    assert found.indices[[0, 1, 2, 3, 69]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]
    assert isinstance(found, Neighbours)
