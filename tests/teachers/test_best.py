"""The two ways to keep the best columns find the same; keys are in the order of similarities; a GPU is not waited for."""

import math

import pytest
import torch
from conftest import WordEncoder
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
from pretended_gpu import CUDA, PretendedGpu

from lcl.teachers import search
from lcl.teachers.banks import build_bank
from lcl.teachers.best import LAST, Best, best_keys, full_precision, keys_of, products, values_and_columns
from lcl.teachers.search import Neighbours, nearest_neighbours, reference_neighbours

ANY = st.floats(width=32, allow_nan=False)
WAITS = {"item", "tolist", "cpu", "numpy", "nonzero", "unique", "unique_consecutive", "masked_select", "__bool__", "__int__"}


# --- keys


@given(st.lists(st.tuples(ANY, st.integers(0, LAST)), min_size=1, max_size=40, unique_by=lambda each: each[1]))
def test_keys_are_in_the_order_of_similarities_and_of_equal_ones_the_smaller_column_wins(pairs):
    values, columns = torch.tensor([value for value, _ in pairs]), torch.tensor([column for _, column in pairs])
    keys = keys_of(values, columns)
    order = keys.argsort(descending=True).tolist()
    assert order == sorted(range(len(pairs)), key=lambda n: (-pairs[n][0], pairs[n][1]))
    back = values_and_columns(keys)
    assert torch.equal(back[0], values) and torch.equal(back[1], columns)


def test_zeros_of_both_signs_are_equal_and_infinities_are_the_ends():
    values = torch.tensor([0.0, -0.0, -math.inf, math.inf, -1e-45])
    keys = keys_of(values, torch.tensor([9, 3, 0, 0, 0]))
    assert keys.argsort(descending=True).tolist() == [3, 1, 0, 4, 2]
    assert keys.min() > torch.iinfo(torch.int64).min  # which stands for no column at all


# --- both ways


@settings(max_examples=150)
@given(st.data(), seeds, st.integers(1, 9), st.integers(1, 300), st.sampled_from([1, 2, 1000]))
def test_keys_find_bitwise_what_the_threshold_finds_on_the_same_similarities(data, seed, b, n, steps):
    """Random similarities, few different ones among them or many; tiles of any width, one after another."""
    k, width = data.draw(st.integers(1, min(n, 80))), data.draw(st.integers(1, n))
    s = (torch.rand(b, n, generator=random(seed)) * 2 - 1).mul(steps).round() / steps
    best, keys = Best(b, k, "cpu"), torch.full((b, k), torch.iinfo(torch.int64).min)
    for j in range(0, n, width):
        best.update(0, s[:, j : j + width].contiguous(), j)
        keys = torch.cat([keys, best_keys(s[:, j : j + width], k, j)], dim=1).topk(k, dim=1).values
    values, columns = values_and_columns(keys)
    assert torch.equal(values, best.values) and torch.equal(columns, best.indices)


def by_tiles(features, k: int, queries=None, block: int = 0) -> Neighbours:
    """The search of a GPU, on the CPU."""
    best = Best(len(features if queries is None else queries), k, "cpu")
    assert sum(search._tiles(features, queries, best, block, torch.device("cpu"), 0)) == len(best.values)
    return Neighbours(best.indices, best.values)


@settings(max_examples=100)
@given(st.data(), seeds, st.integers(2, 300), widths, grids)
def test_the_search_in_tiles_is_brute_force_for_any_block(data, seed, n, d, largest):
    features, k = whole_numbers(seed, n, d, largest), data.draw(st.integers(1, n - 1))
    assert_same(by_tiles(features, k, block=block_of(data, n)), brute_force(features, k))


@settings(max_examples=50)
@given(st.data(), seeds, st.integers(1, 150), st.integers(1, 150), widths, grids)
def test_so_it_is_for_queries(data, seed, n, q, d, largest):
    features, queries = whole_numbers(seed, n, d, largest), whole_numbers(seed + 1, q, d, largest)
    k, block = data.draw(st.integers(1, n)), block_of(data, max(n, q))
    assert_same(by_tiles(features, k, queries, block), brute_force(features, k, queries))


@pytest.mark.parametrize("tall", [(64, 128), (96, 640), (1000, 64)])
def test_tall_tiles_of_a_bank_find_bitwise_what_square_blocks_find(tmp_path, monkeypatch, tall):
    """Features of few bits, whose sums are exact in any order, with many duplicates; in half precision."""
    features = (clustered(3, 500, 16).mul(8).round() / 8).repeat(2, 1)[torch.randperm(1000, generator=random(4))]
    features[:, 0][(features == 0).all(1)] = 1
    bank = bank_of(tmp_path, features, step=99)
    monkeypatch.setattr(search, "TALL", tall[0])
    monkeypatch.setattr(search, "WIDE", tall[1])
    monkeypatch.setattr(search, "free_memory", lambda device: 10**9)
    for k in (1, 8, 70):
        found, wanted = by_tiles(bank, k), nearest_neighbours(bank, k)
        assert_same(found, Neighbours(wanted.indices, wanted.similarities))


def test_rounded_features_have_the_neighbours_of_the_reference_but_for_near_ties(tmp_path):
    features = clustered(5, 2000, 48).half()
    plain, found = reference_neighbours(features.float(), 4), by_tiles(bank_of(tmp_path, features), 4, block=512)
    torch.testing.assert_close(found.similarities, plain.similarities)
    gaps = plain.similarities.diff(dim=1).abs().min(1).values
    assert torch.equal(found.indices[gaps > 1e-5], plain.indices[gaps > 1e-5]) and (gaps > 1e-5).sum() > 1900


# --- on a GPU


class Waiting(PretendedGpu):
    """Counts the calls that would make the CPU wait for the GPU."""

    def __init__(self):
        super().__init__()
        self.waits: list[str] = []

    def __torch_function__(self, function, types, args=(), kwargs=None):
        name = getattr(function, "__name__", "")
        there = bool(args) and isinstance(args[0], torch.Tensor) and args[0] in self.there
        masked = name in ("__getitem__", "__setitem__") and getattr(args[1], "dtype", None) == torch.bool
        if there and (name in WAITS or masked or name == "to" and "cpu" in map(str, args[1:])):
            self.waits.append(name)
        return super().__torch_function__(function, types, args, kwargs)


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (10**9, 10**9))
    return Waiting()


@pytest.mark.parametrize("columns", [64, 640, 6400])
def test_the_cpu_waits_once_for_all_tiles_of_some_rows(gpu, monkeypatch, tmp_path, columns):
    """Values and indices come back together after every 256 rows, whether their columns were in 16 tiles or in one."""
    monkeypatch.setattr(search, "TALL", 256)
    monkeypatch.setattr(search, "WIDE", columns)
    features = clustered(6, 1024, 16).mul(8).round().div(8)
    features[:, 0][(features == 0).all(1)] = 1
    bank, told = bank_of(tmp_path, features), []
    wanted = nearest_neighbours(bank, 3, device="cpu")
    with gpu:
        found = nearest_neighbours(bank, 3, device="cuda", progress=told.append)
    assert_same(Neighbours(found.indices, found.similarities), Neighbours(wanted.indices, wanted.similarities))
    assert gpu.waits == ["cpu", "cpu"] * 4 and told == [256] * 4
    assert [*bank._copies] == [CUDA] and bank._copies[CUDA].dtype == torch.half  # one copy, the one of `Bank.rows`


def test_the_count_sees_what_waits(gpu):
    with gpu:
        x = torch.arange(3.0, device="cuda")
        x.nonzero(), x[x > 1], x.sum().item(), bool(x[0] > 0), x.cpu(), x.to("cpu"), x + 1
    assert len(gpu.waits) == 6


def test_a_bank_without_room_on_the_gpu_is_searched_from_the_disk(gpu, monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 1000))
    features = whole_numbers(2, 300, 4, 2)
    bank = bank_of(tmp_path, features, step=70)
    with gpu:
        found = nearest_neighbours(bank, 5, device="cuda")
        asked = nearest_neighbours(bank, 5, features[:40], device="cuda")
    assert_same(Neighbours(found.indices, found.similarities), brute_force(features, 5))
    assert_same(Neighbours(asked.indices, asked.similarities), brute_force(features, 5, features[:40]))
    assert [*bank._copies.values()] == [None]


def test_half_precision_is_multiplied_as_it_is_and_added_in_float32(gpu):
    rows = clustered(7, 20, 64).half()
    with gpu:
        s = products(rows.to("cuda"), rows.to("cuda"))
        assert s.dtype == torch.float32 and s.is_cuda
    torch.testing.assert_close(s.double(), rows.double() @ rows.double().T, rtol=0, atol=1e-6)


FLOAT32 = torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.mkldnn.matmul, torch.backends.mkldnn.conv


def precisions() -> list[str]:
    return [backend.fp32_precision for backend in FLOAT32]


@pytest.fixture(params=["default", "tf32", "ieee", "high", "medium", "allow_tf32"])
def session(request):
    """What a session may choose before it computes a bank or neighbours."""
    before, legacy = precisions(), torch.get_float32_matmul_precision()
    if request.param in ("high", "medium"):
        torch.set_float32_matmul_precision(request.param)
    elif request.param == "allow_tf32":
        torch.backends.cuda.matmul.allow_tf32 = True
    elif request.param != "default":
        for backend in FLOAT32:
            backend.fp32_precision = request.param
    yield precisions()
    torch.set_float32_matmul_precision(legacy)
    for backend, precision in zip(FLOAT32, before, strict=True):
        backend.fp32_precision = precision


def test_float32_is_multiplied_as_such_and_the_choice_of_the_session_comes_back(session):
    with full_precision():
        assert precisions() == ["ieee"] * 4
    assert precisions() == session
    with pytest.raises(ZeroDivisionError), full_precision():
        raise ZeroDivisionError
    assert precisions() == session


def test_banks_and_neighbours_are_computed_in_full_precision(session, few_world, tmp_path, monkeypatch):
    seen = []

    class Noting(WordEncoder):
        def __call__(self, texts, progress=None):
            seen.append(precisions())
            return super().__call__(texts, progress)

    update = Best.update
    monkeypatch.setattr(Best, "update", lambda *told: seen.append(precisions()) or update(*told))
    bank = build_bank(few_world.train(20), Noting(), tmp_path)
    nearest_neighbours(bank, 2, device="cpu")
    assert seen == [["ieee"] * 4] * 2 and precisions() == session


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["tf32", "ieee"])
def test_a_gpu_convolves_float32_as_such(kind):
    random = torch.Generator().manual_seed(0)
    x, w = torch.randn(4, 64, 32, 32, generator=random), torch.randn(64, 64, 3, 3, generator=random) / 24
    with full_precision():
        torch.backends.cudnn.conv.fp32_precision = kind
        found = torch.nn.functional.conv2d(x.cuda(), w.cuda()).cpu()
    error = (found.double() - torch.nn.functional.conv2d(x.double(), w.double())).abs().max()
    assert (error > 1e-4) == (kind == "tf32")


@pytest.mark.gpu
def test_a_gpu_finds_what_the_cpu_finds(tmp_path):
    features = clustered(8, 3000, 64).half()
    bank = bank_of(tmp_path, features)
    wanted, found = nearest_neighbours(bank, 4, device="cpu"), nearest_neighbours(bank, 4, device="cuda")
    torch.testing.assert_close(found.similarities, wanted.similarities, rtol=0, atol=1e-5)
    gaps = wanted.similarities.diff(dim=1).abs().min(1).values
    assert torch.equal(found.indices[gaps > 2e-5], wanted.indices[gaps > 2e-5])
