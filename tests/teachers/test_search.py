"""Neighbours: the search against brute force and FAISS, its memory, half precision, inverted lists, and what is kept."""

import dataclasses
import math
import os
import subprocess
import sys

import faiss
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from conftest import PixelEncoder, WordEncoder
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

from lcl import storage
from lcl.config import LclError
from lcl.data.base import Samples
from lcl.teachers import approximate, search
from lcl.teachers.approximate import approximate_neighbours, keep_approximate
from lcl.teachers.banks import Bank, build_bank
from lcl.teachers.search import (
    KEPT,
    Neighbours,
    find_neighbours,
    load_neighbours,
    nearest_neighbours,
    open_neighbours,
    reference_neighbours,
)

recall, save_neighbours = approximate.recall_of_neighbours, search.save_neighbours


# --- the exact search

@settings(max_examples=150)
@given(st.data(), seeds, st.integers(2, 300), widths, grids)
def test_the_search_is_brute_force_for_any_block_and_of_equals_the_first_comes_first(data, seed, n, d, largest):
    features, k = whole_numbers(seed, n, d, largest), data.draw(st.integers(1, n - 1))
    found = nearest_neighbours(features, k, block=block_of(data, n))
    assert_same(found, brute_force(features, k))
    assert (found.indices != torch.arange(n)[:, None]).all() and len(found) == n


@settings(max_examples=100)
@given(st.data(), seeds, st.integers(1, 150), st.integers(1, 150), widths, grids)
def test_queries_are_compared_with_every_row(data, seed, n, q, d, largest):
    features, queries = whole_numbers(seed, n, d, largest), whole_numbers(seed + 1, q, d, largest)
    k, block = data.draw(st.integers(1, n)), block_of(data, max(n, q))
    assert_same(nearest_neighbours(features, k, queries, block), brute_force(features, k, queries))


@pytest.mark.parametrize("block", [1, 7, 64, 2048])
def test_duplicates_are_each_others_neighbours_the_smallest_index_first(block):
    found = nearest_neighbours(torch.tensor([[1.0, 0.0]]).repeat(70, 1), 3, block=block)
    assert found.indices[[0, 1, 2, 3, 69]].tolist() == [[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2], [0, 1, 2]]


def test_a_bank_is_searched_like_its_features(tmp_path):
    features = clustered(3, 2500, 16).half()
    found = nearest_neighbours(bank_of(tmp_path, features, step=999), 4, block=512)
    assert_same(Neighbours(found.indices, found.similarities), nearest_neighbours(features, 4, block=512))
    assert (found.bank, found.description) == ("f00d", {"rows": {"rows": 2500}})


@pytest.fixture(scope="module")
def large() -> tuple[torch.Tensor, Neighbours]:
    """Features of ten blocks in both directions, the last one not full, and two neighbours of each."""
    features = clustered(5, 20_000, 384)
    return features, nearest_neighbours(features, 2)


LOADED = """import os, sys
from threadpoolctl import threadpool_info
from lcl.teachers.approximate import load_faiss
load_faiss()
print("OPENBLAS_CORETYPE" in os.environ, *(each["architecture"] for each in threadpool_info() if "faiss_cpu" in each["filepath"]
      and each["internal_api"] == "openblas"))"""


@pytest.mark.skipif(sys.platform != "linux", reason="only the wheel for Linux brings an OpenBLAS")
@pytest.mark.skipif(torch.backends.cpu.get_cpu_capability() not in approximate.CORES, reason="a processor without AVX2")
def test_faiss_multiplies_with_the_code_of_this_processor():
    """On one that is younger than its OpenBLAS it took that of 2004, "Prescott", four times as slow."""
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    done = subprocess.run([sys.executable, "-c", LOADED], capture_output=True, text=True, env=environment, check=True)
    left, *cores = done.stdout.split()
    assert left == "False", "the variable is meant for FAISS alone"
    assert cores == [{"AVX512": "SkylakeX", "AVX2": "Haswell"}[torch.backends.cpu.get_cpu_capability()]]


@pytest.mark.slow
def test_a_large_bank_has_the_neighbours_that_faiss_finds(large):
    faiss.omp_set_num_threads(1)
    features, found = large
    peer = faiss.IndexFlatIP(384)
    peer.add(features.numpy())
    values, columns = (torch.from_numpy(array) for array in peer.search(features.numpy(), 3))
    assert torch.equal(columns[:, 0], torch.arange(20_000))  # itself, then two others
    torch.testing.assert_close(found.similarities, values[:, 1:], rtol=0, atol=1e-6)
    row, rank = (found.indices != columns[:, 1:]).nonzero(as_tuple=True)
    by_hand = (features[row] * features[found.indices[row, rank]]).sum(1)
    torch.testing.assert_close(by_hand, values[row, rank + 1], rtol=0, atol=1e-6)  # only ties may be told otherwise
    assert len(row) < 40


@pytest.mark.slow
def test_half_precision_finds_the_same_neighbours(large):
    features, exact = large
    half = nearest_neighbours(features.half())
    assert (exact.indices[:, :1] == half.indices).float().mean() >= 0.999
    lost = exact.similarities[:, 0] - (features * features[half.indices[:, 0]]).sum(1)
    assert lost.max() < 1e-3


MEMORY = """
import torch
from lcl.teachers.search import nearest_neighbours
def peak():
    return next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
torch.set_num_threads(1)
features = torch.nn.functional.normalize(torch.randn(60_000, 16, generator=torch.Generator().manual_seed(0)), dim=1)
nearest_neighbours(features[:100])
before = peak()
assert len(nearest_neighbours(features)) == 60_000
print(peak() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak of memory from /proc")
@pytest.mark.slow
def test_memory_stays_far_below_the_matrix_of_all_similarities():
    """The matrix would take 14,000 MB."""
    told = subprocess.run([sys.executable, "-c", MEMORY], capture_output=True, text=True, check=True).stdout
    assert float(told) < 300


@pytest.mark.parametrize("n", [1, 2, 300, 301])
def test_progress_is_told_every_row_once(n):
    told = []
    nearest_neighbours(whole_numbers(1, n + 1, 3, 2), 1, block=100, progress=told.append)
    assert sum(told) == n + 1
    told.clear()
    nearest_neighbours(torch.ones(5, 3), 1, torch.ones(n, 3), block=100, progress=told.append)
    assert sum(told) == n


# --- what cannot be searched


def refused(call, *words: str) -> None:
    with pytest.raises(LclError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


@pytest.mark.parametrize("search", [nearest_neighbours, approximate_neighbours])
def test_more_neighbours_than_others_and_none_at_all_are_refused(search):
    refused(lambda: search(torch.ones(1, 4), 1), "k = 1 neighbours", "other rows is 0")
    for k in (5, 6, 1000):
        refused(lambda k=k: search(torch.ones(5, 4), k), f"k = {k} neighbours", "other rows is 4")
    for k in (0, -1):
        refused(lambda k=k: search(torch.ones(5, 4), k), str(k))


def test_a_bank_without_rows_is_refused_in_words_that_make_sense():
    with pytest.raises(LclError) as error:
        nearest_neighbours(torch.ones(0, 4))
    assert "-1" not in str(error.value)


@pytest.mark.parametrize(("value", "words"), [(0.0, "zero"), (math.nan, "finite"), (math.inf, "finite")])
@pytest.mark.parametrize("search", [nearest_neighbours, approximate_neighbours])
def test_rows_without_a_direction_are_refused_with_their_number(search, value, words):
    features = torch.ones(9, 4)
    features[6] = value
    refused(lambda: search(features, 2), "row 6 of the features", words)
    if search is nearest_neighbours:
        refused(lambda: search(torch.ones(9, 4), 2, features), "row 6 of the queries", words)


def test_queries_of_another_width_and_for_more_rows_than_there_are_are_refused():
    refused(lambda: nearest_neighbours(torch.ones(3, 4), 4, torch.ones(1, 4)), "k = 4 neighbours", "rows is 3")
    refused(lambda: nearest_neighbours(torch.ones(9, 4), 1, torch.ones(2, 5)), "queries of 5", "features of 4")


# --- inverted lists


@pytest.mark.slow
def test_inverted_lists_find_most_neighbours_and_nobody_himself():
    features = clustered(7, 20_000, 32, 300, noise=0.5)
    found = approximate_neighbours(features, 5, lists=256, probes=32)
    assert found.indices.shape == found.similarities.shape == (20_000, 5)
    assert (found.indices != torch.arange(20_000)[:, None]).all() and (found.indices >= 0).all()
    assert (found.similarities.diff(dim=1) <= 0).all()
    assert recall(features, approximate_neighbours(features, 5, 256, probes=1)) < recall(features, found) <= 1
    assert recall(features, found) > 0.9 and recall(features, nearest_neighbours(features, 5)) == 1


def test_inverted_lists_take_half_the_memory_of_float32():
    made, kept = [], faiss.IndexIVFScalarQuantizer
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(faiss, "IndexIVFScalarQuantizer", lambda *a: made.append(kept(*a)) or made[0])
        approximate_neighbours(clustered(7, 500, 16), lists=4)
    assert made[0].code_size == 2 * 16 and made[0].ntotal == 500 and not made[0].by_residual


def test_recall_compares_similarities_not_names():
    """Equal rows are as good as one another; a row that is named twice, the row itself and none at all are not found."""
    features = clustered(10, 50, 8).repeat(4, 1)  # every row has three equals
    row = torch.arange(200)[:, None]
    equals = torch.cat([(row + 50 * step) % 200 for step in (3, 2, 1)], dim=1)
    for indices, wanted in (
        (equals, 1.0), (equals[:, :1], 1.0), (equals[:, [0, 0, 1]], 2 / 3), (torch.cat([equals[:, :2], row], 1), 2 / 3),
        (equals.masked_fill(equals > 149, -1), 0.75), ((row + torch.tensor([1, 2, 3])) % 200, 0.0),
    ):  # fmt: skip
        assert recall(features, Neighbours(indices, torch.ones(indices.shape))) == pytest.approx(wanted)
    nearly = features + 2e-5 * torch.randn(features.shape, generator=random(1))  # as rounding to half precision moves rows
    assert recall(nearly, Neighbours(equals[:, :1], torch.ones(200, 1))) == 1.0


def test_recall_counts_what_is_missing():
    features = clustered(8, 400, 8)
    exact = nearest_neighbours(features, 4)
    half = Neighbours(exact.indices.index_fill(1, torch.tensor([1, 3]), -1), exact.similarities)
    assert recall(features, half) == recall(features, half, sample=50) == 0.5
    first_half = Neighbours(exact.indices.index_fill(0, torch.arange(200), -1), exact.similarities)
    with torch.random.fork_rng():
        assert len({recall(features, first_half, sample=9) for _ in range(5)}) == 1  # always of the same rows


@pytest.mark.parametrize("n", [2, 3, 50, 1999])
def test_with_every_list_probed_the_inverted_lists_are_exact(n, tmp_path):
    features = clustered(9, n, 16).half()
    k, lists = min(n - 1, 7), min(n, 30)
    exact = nearest_neighbours(features, k)
    for searched in (features, bank_of(tmp_path, features, step=99)):
        found = approximate_neighbours(searched, k, lists=lists, probes=lists)
        assert torch.equal(found.indices, exact.indices)
        torch.testing.assert_close(found.similarities, exact.similarities, rtol=0, atol=1e-6)
    assert found.bank == "f00d"


def test_rows_are_nobodys_own_neighbour_however_few_are_searched_at_once(monkeypatch):
    features = clustered(9, 50, 8)
    monkeypatch.setattr(approximate, "ROWS_AT_ONCE", 16)
    found = approximate_neighbours(features, 7, lists=30, probes=30)
    assert torch.equal(found.indices, nearest_neighbours(features, 7).indices)


def test_inverted_lists_never_take_a_row_for_its_own_duplicate():
    features = clustered(10, 100, 8).repeat(9, 1)  # more duplicates than neighbours: a row need not find itself
    found = approximate_neighbours(features, 4, lists=10, probes=10)
    assert (found.indices != torch.arange(900)[:, None]).all()
    assert (found.similarities > 1 - 1e-3).all()  # lists hold half precision
    assert all(len(set(row)) == 4 for row in found.indices.tolist())


# --- what is kept


@pytest.fixture
def bank(tmp_path) -> Bank:
    return bank_of(tmp_path, clustered(11, 200, 8))


def test_neighbours_come_back_as_they_went_but_for_rounding(tmp_path, bank):
    found = nearest_neighbours(bank, 3)
    save_neighbours(tmp_path / "n", found)
    kept, read = storage.read_tensors(tmp_path / "n"), load_neighbours(tmp_path / "n", bank)
    assert (kept["indices"].dtype, kept["similarities"].dtype, len(kept)) == (torch.int32, torch.float16, 2)
    assert_same(read, Neighbours(found.indices, found.similarities.half().float()))
    assert (read.bank, read.description) == (found.bank, found.description) == ("f00d", bank.description)
    bare = nearest_neighbours(torch.ones(3, 2))
    save_neighbours(tmp_path / "n", bare)
    assert_same(load_neighbours(tmp_path / "n"), bare)


def test_neighbours_of_another_bank_are_refused_with_both_names(tmp_path, bank):
    save_neighbours(tmp_path / "n", nearest_neighbours(bank, 3))
    other = bank_of(tmp_path / "elsewhere", bank[:], "beef")
    refused(lambda: load_neighbours(tmp_path / "n", other), str(tmp_path / "n"), "f00d", "beef", "elsewhere")


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_a_file_that_was_cut_off_is_refused(tmp_path, bank, share):
    path = tmp_path / "n"
    save_neighbours(path, nearest_neighbours(bank, 3))
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(lambda: load_neighbours(path, bank), str(path), "cut off")


def test_what_holds_no_neighbours_is_refused(tmp_path):
    path = tmp_path / "n"
    refused(lambda: load_neighbours(path), str(path), "does not exist")
    path.write_bytes(b"{} nothing of the kind" * 9)
    refused(lambda: load_neighbours(path), str(path))
    indices, similarities = torch.zeros(3, 2, dtype=torch.int32), torch.ones(3, 2).half()
    ours, about = {"indices": indices, "similarities": similarities}, {"format": search.FORMAT}
    for tensors, metadata in [(ours, None), (ours, {"format": "other"}), ({"indices": indices}, about), ({}, about)]:
        safetensors.torch.save_file(tensors, path, metadata)
        refused(lambda: load_neighbours(path), str(path), "no neighbours")


@pytest.mark.parametrize("missing", [{"bank": ""}, {"description": "null"}, {"bank": "", "description": "{"}], ids=str)
def test_neighbours_that_do_not_say_of_what_are_refused(tmp_path, missing):
    save_neighbours(tmp_path / "n", nearest_neighbours(torch.ones(3, 2)))
    tensors = storage.read_tensors(tmp_path / "n")
    safetensors.torch.save_file(tensors, tmp_path / "n", {"format": search.FORMAT} | missing)
    refused(lambda: load_neighbours(tmp_path / "n"), str(tmp_path / "n"))


@pytest.mark.parametrize("indices", [[[1], [3]], [[1], [-2]], [[1], [2]], [1, 0], [[1], [0], [0]]], ids=str)
def test_rows_that_there_are_not_are_refused(tmp_path, indices):
    save_neighbours(tmp_path / "n", Neighbours(torch.tensor(indices), torch.ones(2, 1)))
    refused(lambda: load_neighbours(tmp_path / "n"), str(tmp_path / "n"), "rows that there are not")


def test_what_was_found_is_kept_and_not_searched_again_unless_more_is_asked(bank, monkeypatch):
    told, searched = [], []
    first = find_neighbours(bank, 3, progress=told.append)
    assert torch.equal(first.indices, brute_force(bank[:], 3).indices) and sum(told) == 200
    assert (bank.folder / "neighbours.safetensors").exists()

    def noted(bank, k, **options):
        searched.append(k)
        return nearest_neighbours(bank, k, **options)

    monkeypatch.setattr(search, "nearest_neighbours", noted)
    assert torch.equal(find_neighbours(bank, 3).indices, first.indices)
    assert torch.equal(find_neighbours(bank, KEPT).indices, brute_force(bank[:], KEPT).indices) and searched == []
    more = find_neighbours(bank, 12)
    assert torch.equal(more.indices, nearest_neighbours(bank, 12).indices) and searched == [12]
    refused(lambda: find_neighbours(bank, 200), "k = 200 neighbours", "other rows is 199")


def test_what_was_found_is_the_same_whether_it_was_kept_or_not(bank):
    assert_same(find_neighbours(bank, 5), find_neighbours(bank, 5))


def test_as_many_are_found_as_were_asked_for_even_if_more_are_kept(bank):
    find_neighbours(bank, 5)
    assert find_neighbours(bank, 2).indices.shape == (200, 2)


def some_wrong(bank, recall=0.5):
    """What a search could have found that missed some."""
    found = nearest_neighbours(bank, 3)
    return dataclasses.replace(found, indices=found.indices.roll(1, 0), recall=recall)


def test_approximate_neighbours_that_were_kept_are_taken_and_said_to_be(bank, caplog):
    wrong = some_wrong(bank)
    assert keep_approximate(bank, wrong)
    found = find_neighbours(bank, 2)
    assert torch.equal(found.indices, wrong.indices[:, :2]) and found.recall == 0.5
    assert [record.getMessage() for record in caplog.records] == [
        f"the neighbours in {bank.folder / 'neighbours.safetensors'} are approximate: they hold 50.0% of the exact ones."
    ]
    caplog.clear()
    exact = find_neighbours(bank, 2, exact=True)
    assert torch.equal(exact.indices, brute_force(bank[:], 2).indices) and exact.recall is None and not caplog.records
    assert not keep_approximate(bank, wrong)  # exact ones stay
    assert torch.equal(find_neighbours(bank, 2).indices, exact.indices) and not caplog.records


def test_a_better_search_replaces_approximate_neighbours(bank):
    assert keep_approximate(bank, some_wrong(bank)) and keep_approximate(bank, some_wrong(bank, 0.75))
    assert find_neighbours(bank, 1).recall == 0.75


@pytest.mark.parametrize("said", ["much", "nan", "-1", "2"])
def test_a_recall_that_is_no_share_is_refused(bank, said):
    save_neighbours(bank.folder / "n", nearest_neighbours(bank, 3))
    about, tensors = storage.read_metadata(bank.folder / "n"), storage.read_tensors(bank.folder / "n")
    safetensors.torch.save_file(tensors, bank.folder / "n", about | {"recall": said})
    refused(lambda: load_neighbours(bank.folder / "n"), str(bank.folder / "n"))


def test_neighbours_of_a_bank_that_is_gone_are_found_anew_as_the_sentence_promises(bank):
    find_neighbours(bank, 3)
    assert find_neighbours(bank_of(bank.folder, clustered(12, 200, 8), "beef"), 3).bank == "beef"


# --- a search that was stopped


@pytest.fixture
def stopped(monkeypatch):
    """Stop the search of a bank after some rows; its state is saved after every block of 32."""
    monkeypatch.setattr(search, "BLOCK", 32)
    monkeypatch.setattr(search, "SAVE_EVERY", -1)

    def stop(bank: Bank, rows: int, k: int = 3) -> None:
        told = []

        def progress(finished: int) -> None:
            told.append(finished)
            if sum(told) > rows:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            find_neighbours(bank, k, progress)

    return stop


def state_of(bank: Bank):
    return bank.folder / search.UNFINISHED


@pytest.mark.parametrize("rows", [32, 96, 192])
def test_a_stopped_search_goes_on_as_if_it_had_never_stopped(bank, tmp_path, stopped, rows):
    whole = find_neighbours(bank_of(tmp_path / "whole", bank[:]), 3)
    stopped(bank, rows)
    assert state_of(bank).exists() and not (bank.folder / "neighbours.safetensors").exists()
    (bank.folder / f".{search.UNFINISHED}.x1").write_bytes(b"a write that was killed")
    told = []
    assert_same(find_neighbours(bank, 3, told.append), whole)
    assert told[0] == rows and sum(told) == 200
    assert [path.name for path in bank.folder.iterdir() if path.is_file()] == ["neighbours.safetensors"]
    rest = nearest_neighbours(bank, 3, unfinished=state_of(bank))  # no state is left, so all is searched
    assert_same(rest, nearest_neighbours(bank, 3))


def test_a_search_that_goes_on_keeps_what_was_found_before(bank, stopped):
    """The similarities of finished rows come from the state: changed ones, with a checksum that fits, appear in the result."""
    stopped(bank, 96)
    about = {"bank": "f00d", "rows": 200, "k": 8, "block": 0, "device": "cpu", "coarse": False}
    best = search.Best(200, 8, "cpu")
    assert search.load_state(state_of(bank), about, best) == 96
    best.indices[:96] = 7
    search.save_state(state_of(bank), about, best, 96)
    found = find_neighbours(bank, 8)
    assert (found.indices[:96] == 7).all() and torch.equal(found.indices[96:], nearest_neighbours(bank, 8).indices[96:])


def of_another_bank(path, bank):
    object.__setattr__(bank, "fingerprint", "beef")


def cut_off(path, bank):
    path.write_bytes(path.read_bytes()[:-9])


def turned_bit(path, bank):
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def of_something_else(path, bank):
    safetensors.torch.save_file({"values": torch.ones(2)}, path, {"done": "-1"})


@pytest.mark.parametrize("spoil", [of_another_bank, cut_off, turned_bit, of_something_else])
def test_a_state_that_does_not_fit_is_ignored_with_a_sentence(bank, stopped, caplog, spoil):
    stopped(bank, 96)
    spoil(state_of(bank), bank)
    told = []
    found = find_neighbours(bank, 3, told.append)
    assert torch.equal(found.indices, nearest_neighbours(bank, 3).indices) and told[0] == 32 and sum(told) == 200
    assert str(state_of(bank)) in caplog.text and "begins anew" in caplog.text


def test_a_state_of_other_settings_is_ignored(bank, stopped, caplog):
    stopped(bank, 96, k=12)
    assert_same(find_neighbours(bank, 3), find_neighbours(bank_of(bank.folder / "whole", bank[:]), 3))
    assert "begins anew" in caplog.text


def test_a_short_search_writes_no_state_and_a_folder_that_cannot_be_written_stops_none(bank, monkeypatch, caplog):
    written = []
    monkeypatch.setattr(search, "BLOCK", 32)
    monkeypatch.setattr(search, "save_state", lambda *arguments: written.append(1))
    wanted = nearest_neighbours(bank, 3, unfinished=state_of(bank))
    assert written == []

    def full(*arguments):
        written.append(1)
        raise LclError("the disk is full.")

    monkeypatch.setattr(search, "save_state", full)
    monkeypatch.setattr(search, "SAVE_EVERY", -1)
    assert_same(nearest_neighbours(bank, 3, unfinished=state_of(bank)), wanted)
    assert len(written) == 1 and caplog.text.count("the disk is full") == 1  # told once, not every few minutes


class Pairs:
    """A data set of random pictures and captions of two words."""

    def __init__(self, number: int):
        self.description = {"data": "random", "rows": number}
        self.images = torch.randint(256, (number, 3, 8, 8), generator=random(number), dtype=torch.uint8)

    def __len__(self) -> int:
        return len(self.images)

    def captions(self, some: range) -> list[str]:
        return [f"a{row % 5} b{row % 3}" for row in some]

    def take(self, some: range) -> Samples:
        return Samples(self.images[list(some)], [(caption,) for caption in self.captions(some)], list(some))


def test_a_data_sets_neighbours_are_those_that_ship_with_the_course_or_those_of_its_banks(tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    monkeypatch.setattr(search, "ImageEncoder", PixelEncoder)
    monkeypatch.setattr(search, "TextEncoder", WordEncoder)
    rows, told = Pairs(12), []
    computed = open_neighbours(rows, told.append)  # those that ship are of another data set
    for encoder, found in zip((PixelEncoder(), WordEncoder()), computed, strict=True):
        bank = build_bank(rows, encoder, tmp_path / encoder.kind)
        assert_same(found, find_neighbours(bank))
        assert found.indices.shape == (12, KEPT) and found.bank == bank.fingerprint
    assert sum(told) == 2 * 12
    monkeypatch.setattr(search, "SHIPPED", tmp_path)
    for kind in ("images", "captions"):
        shipped = Neighbours(torch.tensor([[1], [0]]), torch.ones(2, 1), f"shipped {kind}", {"rows": rows.description})
        save_neighbours(tmp_path / f"{kind}.safetensors", shipped)
    assert [found.bank for found in open_neighbours(rows)] == ["shipped images", "shipped captions"]
    few = open_neighbours(Pairs(3))  # another data set again, with fewer others than are kept
    assert [found.indices.shape for found in few] == [(3, 2), (3, 2)]


@settings(max_examples=40)
@given(st.integers(0, 2**31), st.integers(2, 70), st.integers(1, 5), st.sampled_from([1, 7, 64]))
def test_the_reference_that_learners_read_finds_the_same(seed, n, k, block):
    features = F.normalize(torch.randn(n, 6, generator=torch.Generator().manual_seed(seed)), dim=1)
    k = min(k, n - 1)
    fast, plain = nearest_neighbours(features, k), reference_neighbours(features, k, block)
    torch.testing.assert_close(plain.similarities, fast.similarities)
    nearly_tied = (fast.similarities[:, :-1] - fast.similarities[:, 1:] < 1e-5).any(1) if k > 1 else torch.zeros(n) > 0
    differs = (plain.indices != fast.indices).any(1)
    assert not (differs & ~nearly_tied).any()  # only what rounding may swap


def test_a_block_that_does_not_fit_into_memory_is_one_sentence():
    with pytest.raises(LclError, match="^there is not enough memory for a search in blocks of .*; name a smaller `block`"):
        nearest_neighbours(clustered(0, 20, 8), 1, block=2**28, device="cpu")
