"""Banks: what the encoder said and nothing else, whole whatever kills a build, and refused when they are of something else."""

import hashlib
import itertools
import json
import os
import signal
import sys
import time
import types
from pathlib import Path

import pytest
import safetensors.torch
import torch
from conftest import PixelEncoder, WordEncoder, forks, killed_at
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lcl import storage
from lcl.config import LclError, SceneConfig
from lcl.data.scenes import SceneDataset, SceneView
from lcl.teachers import banks
from lcl.teachers.banks import bank_folder, build_bank, check_features, open_bank
from lcl.teachers.encoders import ImageEncoder, TextEncoder, normalised
from lcl.teachers.search import find_neighbours

COUNT, STEP = 25, 10
SHARDS = [f"features-{number:05d}.safetensors" for number in range(3)]


class Fake(WordEncoder):
    """Breaks down when it is given more than `last` rows. seen: how many it was given."""

    def __init__(self, last: int = 1000, **changes):
        super().__init__()
        self.last, self.seen = last, 0
        self.description = {"name": "fake", "weights": "0123", "size": 64, "mean": [0.5, 0.5]} | changes

    def __call__(self, texts, progress=None) -> torch.Tensor:
        self.seen += len(texts)
        if self.seen > self.last:
            raise KeyboardInterrupt
        return super().__call__(texts, progress)


@pytest.fixture(scope="module")
def rows(few_world) -> SceneView:
    return SceneView(few_world, COUNT)


@pytest.fixture(autouse=True)
def small_shards(monkeypatch):
    monkeypatch.setattr(banks, "SHARD_ROWS", STEP)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != ".lock"}


@pytest.fixture
def unbroken(rows, tmp_path) -> dict[str, bytes]:
    build_bank(rows, Fake(), tmp_path / "unbroken")
    return contents(tmp_path / "unbroken")


def refused(call, *words: str) -> None:
    with pytest.raises(LclError) as error:
        call()
    text = str(error.value)
    assert "\n" not in text and all(word in text for word in words), text


# --- what a bank holds


@forks
@pytest.mark.parametrize("encoder", [PixelEncoder(), WordEncoder()], ids=["images", "captions"])
def test_processes_prepare_what_one_prepares(rows, encoder, tmp_path, monkeypatch):
    build_bank(rows, encoder, tmp_path / "one")
    (tmp_path / "several").mkdir()
    for name in ("bank.json", SHARDS[1]):  # a shard is there already
        (tmp_path / "several" / name).write_bytes((tmp_path / "one" / name).read_bytes())
    monkeypatch.setattr(banks, "MANY", COUNT)
    monkeypatch.setattr(banks, "PIECE", 4)
    build_bank(rows, encoder, tmp_path / "several")
    assert contents(tmp_path / "several") == contents(tmp_path / "one")


@forks
def test_a_process_that_dies_is_said_and_finished_shards_stay(rows, tmp_path, monkeypatch):
    here, captions = os.getpid(), SceneView.captions

    def killed(self, wanted):
        if 20 in wanted and os.getpid() != here:
            os.kill(os.getpid(), signal.SIGKILL)
        return captions(self, wanted)

    monkeypatch.setattr(SceneView, "captions", killed)
    monkeypatch.setattr(banks, "MANY", COUNT)
    monkeypatch.setattr("lcl.processes.processors", lambda: 2)
    refused(lambda: build_bank(rows, Fake(), tmp_path), "one of the 2 processes that prepare rows for a bank died", "call again")
    monkeypatch.setattr(banks, "MANY", 1000)
    assert len(build_bank(rows, Fake(), tmp_path)) == COUNT


def test_an_encoder_without_memory_is_one_sentence_and_finished_shards_stay(rows, tmp_path):
    class Large(Fake):
        batch_size = 512

        def __call__(self, inputs, progress=None):
            if done:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
            done.append(1)
            return super().__call__(inputs, progress)

    done = []
    words = "smaller `batch_size`", "call again: what is finished is kept"
    refused(lambda: build_bank(rows, Large(), tmp_path), f"not enough memory for 512 {Fake.kind} in the encoder", *words)
    assert sorted(contents(tmp_path)) == ["bank.json", SHARDS[0]]


def test_a_bank_that_does_not_fit_on_a_gpu_stays_on_the_cpu_and_says_so(rows, tmp_path, monkeypatch, caplog):
    bank, gpu = build_bank(rows, Fake(), tmp_path), torch.device("cuda", 0)
    empty = torch.empty

    def full(*shape, device=None, **options):
        if shape != (0,) and device == gpu:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return empty(*shape, **options) if shape != (0,) else types.SimpleNamespace(device=gpu)

    monkeypatch.setattr(torch, "empty", full)
    for room in (0, 2**40):  # it is too large; another process took what was free
        bank._copies.clear(), caplog.clear()
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, room=room: (room, room))
        with caplog.at_level("INFO"):
            assert bank.on(gpu) is None and bank.on(gpu) is None
        assert caplog.text.count(f"the bank in {tmp_path} takes 0.0 GiB, and cuda:0 has {room / 2**30:.1f} GiB free") == 1
        assert "it stays on the CPU" in caplog.text


@pytest.mark.parametrize("encoder", [PixelEncoder(), WordEncoder()], ids=["images", "captions"])
def test_a_bank_holds_what_the_encoder_says_of_every_row_in_half_precision(rows, few_world, tmp_path, encoder):
    bank, pairs = build_bank(rows, encoder, tmp_path), few_world.pairs("train", range(COUNT))
    inputs = pairs.images if encoder.kind == "images" else [scene.caption for scene in pairs.scenes]
    plain = torch.cat([encoder(inputs[start : start + STEP]) for start in range(0, COUNT, STEP)])
    assert bank[:].dtype == torch.float32 and torch.equal(bank[:], plain.half().float())
    assert (len(bank), bank.width, bank.folder) == (COUNT, encoder.width, tmp_path)
    assert sorted(contents(tmp_path)) == ["bank.json", *SHARDS]
    assert [len(shard) for shard in bank.shards] == [10, 10, 5] and bank.shards[0].dtype == torch.float16
    again = open_bank(tmp_path, rows, encoder)
    assert torch.equal(again[:], bank[:]) and again.fingerprint == bank.fingerprint
    assert bank.description == banks.describe(rows, encoder)


@pytest.fixture(scope="module", params=[1, 9, 10, 20, COUNT])
def bank(request, few_world, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(banks, "SHARD_ROWS", STEP)
        return build_bank(SceneView(few_world, request.param), Fake(), tmp_path_factory.mktemp("bank"))


@settings(max_examples=40)
@given(data=st.data())
def test_a_slice_is_that_of_the_plain_features(bank, data):
    start, plain = data.draw(st.integers(0, len(bank) - 1)), torch.cat(bank.shards).float()
    stop = data.draw(st.integers(start + 1, len(bank) + 3))
    found = bank[start:stop]
    assert found.dtype == torch.float32 and torch.equal(found, plain[start:stop])
    assert torch.equal(bank[start - len(bank) : stop], plain[start:stop]) and torch.equal(bank[:stop], plain[:stop])


@settings(max_examples=40)
@given(data=st.data())
def test_a_slice_with_nothing_in_it_is_empty(bank, data):
    start = data.draw(st.integers(0, len(bank) + 3))
    assert bank[start : data.draw(st.integers(0, start))].shape == (0, bank.width)


def test_a_slice_with_a_step_is_that_of_the_plain_features(bank):
    assert torch.equal(bank[::3], torch.cat(bank.shards).float()[::3])


@settings(max_examples=40)
@given(data=st.data())
def test_rows_in_any_order_and_twice_are_those_of_the_plain_features(bank, data):
    index = torch.tensor(data.draw(st.lists(st.integers(0, len(bank) - 1), max_size=40)), dtype=torch.int64)
    found = bank[index]
    assert found.dtype == torch.float32 and torch.equal(found, torch.cat(bank.shards).float()[index])


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the map of memory from /proc")
def test_an_open_bank_is_a_file_in_memorys_map_not_a_copy(rows, tmp_path):
    bank = build_bank(rows, Fake(), tmp_path)
    mapped = Path("/proc/self/maps").read_text()
    assert all(str(tmp_path / name) in mapped for name in SHARDS) and len(bank.shards) == 3


def test_a_bank_of_real_encoders_holds_their_features_and_has_a_place_of_its_own(few_world, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    monkeypatch.setattr(banks, "SHARD_ROWS", 32)
    rows, folders = SceneView(few_world, 64), set()
    for encoder in (ImageEncoder(size=64), TextEncoder()):
        bank = build_bank(rows, encoder)
        inputs = rows.take(range(64)).images if encoder.kind == "images" else rows.captions(range(64))
        torch.testing.assert_close(bank[:], encoder(inputs), rtol=0, atol=1e-3)
        torch.testing.assert_close(bank[:].norm(dim=1), torch.ones(64), rtol=0, atol=1e-3)
        assert bank.folder == bank_folder(rows, encoder) and tmp_path in bank.folder.parents
        assert bank.width == encoder.width and encoder.kind in bank.folder.name
        folders |= {bank.folder, bank_folder(SceneView(few_world, 63), encoder)}
    assert len(folders) == 4


# --- a build that is killed


@pytest.mark.slow
@forks
def test_a_build_killed_at_any_step_and_started_again_gives_the_same_bytes(rows, tmp_path, unbroken):
    for event in itertools.count():
        folder = tmp_path / f"killed at {event}"
        died = killed_at(event, lambda folder=folder: build_bank(rows, Fake(), folder))
        assert torch.equal(build_bank(rows, Fake(), folder)[:], open_bank(tmp_path / "unbroken")[:])
        found = contents(folder)
        assert {name: found[name] for name in unbroken} == unbroken, event
        if not died:
            break
    assert event > 20


@forks
def test_a_build_killed_over_and_over_leaves_nothing_behind(rows, tmp_path, unbroken):
    folder = tmp_path / "often"
    for event in range(1, 46, 4):
        killed_at(event, lambda: build_bank(rows, Fake(), folder))
    build_bank(rows, Fake(), folder)
    assert contents(folder) == unbroken


@forks
def test_of_two_builds_at_once_one_waits_and_finds_the_work_done(rows, tmp_path, unbroken):
    folder, first, second = tmp_path / "both", Fake(), Fake()
    child = os.fork()
    if child == 0:
        try:
            build_bank(rows, first, folder, lambda _: time.sleep(0.1))
        finally:
            os._exit(0 if first.seen == COUNT else 1)
    while not (folder / SHARDS[0]).exists() and os.waitpid(child, os.WNOHANG)[0] == 0:
        time.sleep(0.01)
    build_bank(rows, second, folder)
    assert os.waitpid(child, 0)[1] == 0 and second.seen == 0 and contents(folder) == unbroken


@pytest.mark.parametrize(("last", "left"), [(9, 25), (10, 15), (19, 15), (20, 5), (24, 5)])
def test_what_is_finished_is_not_encoded_again_and_progress_counts_every_row(rows, tmp_path, unbroken, last, left):
    with pytest.raises(KeyboardInterrupt):
        build_bank(rows, Fake(last=last), tmp_path / "b")
    told, encoder = [], Fake()
    build_bank(rows, encoder, tmp_path / "b", told.append)
    assert encoder.seen == left and sum(told) == COUNT and contents(tmp_path / "b") == unbroken
    build_bank(rows, Fake(last=0), tmp_path / "b", told.append)
    assert sum(told) == 2 * COUNT and contents(tmp_path / "b") == unbroken


def test_a_finished_bank_outlives_a_change_of_the_size_of_shards(rows, tmp_path, monkeypatch):
    bank = build_bank(rows, Fake(), tmp_path)
    monkeypatch.setattr(banks, "SHARD_ROWS", 4)
    assert torch.equal(open_bank(tmp_path)[:], bank[:])
    assert torch.equal(build_bank(rows, Fake(), tmp_path)[:], bank[:])


def test_a_bank_that_was_written_before_opens_still(tmp_path):
    """Another format, name or code has every bank on a disk built again, so only a person who means that changes them."""
    features = torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).half()
    data = safetensors.torch.save({"features": features})
    (tmp_path / "features-00000.safetensors").write_bytes(data)
    manifest = {
        "format": "lcl-bank-1", "code": 1, "rows": {"rows": 3}, "encoder": {"name": "fake"}, "width": 2, "shard_rows": 4,
        "shards": {"features-00000.safetensors": hashlib.sha256(data).hexdigest()},
    }  # fmt: skip
    (tmp_path / "bank.json").write_text(json.dumps(manifest))
    assert torch.equal(open_bank(tmp_path)[:], features.float())


# --- what is refused


def other_rows(world: SceneDataset, change: str) -> SceneView:
    if change == "world":
        return SceneView(SceneDataset(SceneConfig(known=32, unseen=8, seed=1), world.pictures), COUNT)
    rows = SceneView(world, 24 if change == "count" else COUNT, "unseen_pairs" if change == "split" else "train")
    rows.description |= {"new": {"part": 1}, "nothing": {"part": None}}.get(change, {})
    return rows


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("world", ["rows", "data"]), ("split", ["rows", "split", "'train'", "'unseen_pairs'"]),
        ("count", ["it has 25 rows, not 24"]),
        ("new", ["part", "1"]), ("nothing", ["part"]), ({"name": "other"}, ["encoder", "name", "'fake'", "'other'"]),
        ({"weights": "4567"}, ["encoder", "weights", "'0123'", "'4567'"]), ({"size": 65}, ["encoder", "size", "64", "65"]),
        ({"mean": [0.5, 0.4]}, ["encoder", "mean", "0.4"]), ("code", ["code", "1", "2"]), ("width", ["width", "16", "9"]),
    ],
    ids=str,
)  # fmt: skip
def test_a_bank_of_something_else_is_refused_with_what_differs_and_left_alone(
    rows, few_world, tmp_path, unbroken, monkeypatch, change, words
):
    encoder = Fake(**change) if isinstance(change, dict) else Fake()
    rows = other_rows(few_world, change) if isinstance(change, str) else rows
    if change == "code":
        monkeypatch.setattr(banks, "CODE", banks.CODE + 1)
    if change == "width":
        encoder.width = 9
    folder = tmp_path / "unbroken"
    for call in (lambda: open_bank(folder, rows, encoder), lambda: build_bank(rows, encoder, folder)):
        refused(call, str(folder), "something else", *words)
    assert contents(folder) == unbroken and encoder.seen == 0
    assert bank_folder(rows, encoder) != bank_folder(SceneView(few_world, COUNT), Fake()) or change == "code"


@pytest.mark.parametrize("room", [0, 10**9], ids=["no room", "room"])
def test_a_device_looks_rows_up_in_a_copy_of_its_own_if_it_has_room(rows, monkeypatch, tmp_path, room):
    monkeypatch.setattr(banks, "free_memory", lambda device: room)
    bank, device, wanted = build_bank(rows, Fake(), tmp_path), torch.device("meta"), torch.tensor([24, 0, 7, 7])
    assert bank.rows(wanted, device).shape == (4, bank.width) and bank.rows(wanted, device).device == device
    assert (bank.on(device) is None) == (room == 0) and bank.on(device) is bank.on(device)
    here = bank.on(torch.device("cpu"))  # what a device would hold
    assert here is None if room == 0 else torch.equal(here[wanted].float(), bank[wanted])
    assert torch.equal(bank.rows(wanted, torch.device("cpu")), bank[wanted])


def test_a_manifest_whose_encoder_is_a_mere_word_is_of_something_else(rows, tmp_path, unbroken):
    path = tmp_path / "unbroken" / "bank.json"
    storage.write_json(path, storage.read_json(path) | {"encoder": "mine"})
    refused(lambda: open_bank(path.parent, rows, Fake()), "something else", "its encoder is 'mine'")


def test_a_bank_that_is_missing_or_not_finished_is_refused_with_the_remedy(rows, tmp_path):
    refused(lambda: open_bank(tmp_path), str(tmp_path), "no bank", "lcl banks")
    with pytest.raises(KeyboardInterrupt):
        build_bank(rows, Fake(last=20), tmp_path)
    refused(lambda: open_bank(tmp_path), str(tmp_path), "20 of 25 rows", "lcl banks")
    refused(lambda: build_bank(SceneView(rows.world, 0), Fake(), tmp_path / "0"), "without rows")


BASIC = {"format": banks.FORMAT, "code": banks.CODE, "shard_rows": 10, "rows": {"rows": 1}, "shards": {}}
NONE = ["", "{", "[]", "null", {"a": 1}, *(BASIC | change for change in ({"format": 3}, {"rows": 3}, {"shards": 3}))]
NAMES = [["../x"], ["/x"], ["bank.json"], SHARDS[::-1], SHARDS[1:], [*SHARDS, "features-3.safetensors"]]
NONE += [BASIC | {"shard_rows": number} for number in (0, -1, True)]
FOREIGN = [BASIC | {"shards": dict.fromkeys(names, "0")} for names in NAMES]


@pytest.mark.parametrize("manifest", [*NONE, BASIC | {"rows": {}}, *FOREIGN], ids=str)
def test_a_manifest_that_is_none_or_names_other_files_is_refused(rows, tmp_path, manifest):
    path = tmp_path / "bank.json"
    path.write_text(manifest if isinstance(manifest, str) else json.dumps(manifest))
    words = ["other shards"] if manifest in FOREIGN else [str(path)]
    refused(lambda: open_bank(tmp_path), *words)
    refused(lambda: build_bank(rows, Fake(), tmp_path))
    assert list(contents(tmp_path)) == ["bank.json"]


def flip(data: bytes, place: int, bit: int = 4) -> bytes:
    return data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]


DAMAGE = {
    "missing": lambda data: None, "empty": lambda data: b"", "cut off": lambda data: data[:-1],
    "in the size": lambda data: flip(data, 0), "in the header": lambda data: flip(data, 12),
    "in a number": lambda data: flip(data, len(data) - 3), "longer": lambda data: data + b"\0",
}  # fmt: skip


@settings(max_examples=80, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.sampled_from(["bank.json", *SHARDS]), place=st.floats(0, 0.99), bit=st.integers(0, 8))
def test_wherever_a_bank_is_cut_or_flipped_it_gives_the_same_features_or_one_sentence(rows, tmp_path, unbroken, name, place, bit):
    path, data = tmp_path / "unbroken" / name, unbroken[name]
    at = int(place * len(data))
    path.unlink()
    path.write_bytes(data[:at] if bit == 8 else flip(data, at, 1 << bit))
    try:
        assert len(open_bank(path.parent, rows, Fake())) == COUNT and name == "bank.json"
    except LclError as error:
        assert "\n" not in str(error)
    finally:
        path.write_bytes(data)


@pytest.mark.parametrize("number", range(3))
@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_shard_is_refused_by_name_and_repaired_to_the_same_bytes(rows, tmp_path, unbroken, damage, number):
    folder, path = tmp_path / "unbroken", tmp_path / "unbroken" / SHARDS[number]
    path.unlink()
    if (data := damage(unbroken[path.name])) is not None:
        path.write_bytes(data)
    refused(lambda: open_bank(folder), str(path))
    encoder = Fake()
    build_bank(rows, encoder, folder)
    assert contents(folder) == unbroken and encoder.seen == (5 if number == 2 else 10)


# --- features without a direction


def spoil(folder: Path, features: torch.Tensor) -> None:
    """Put other features into the second shard, and a checksum that fits them."""
    storage.write_tensors(folder / SHARDS[1], {"features": features.half()})
    manifest = storage.read_json(folder / "bank.json")
    manifest["shards"][SHARDS[1]] = storage.file_sha256(folder / SHARDS[1])
    storage.write_json(folder / "bank.json", manifest)


@pytest.mark.parametrize(("value", "words"), [(0.0, "zero"), (float("nan"), "finite"), (float("inf"), "finite")])
def test_rows_without_a_direction_get_neither_into_a_bank_nor_out_of_one(rows, tmp_path, unbroken, value, words):
    features = torch.ones(10, 16)
    features[3] = value
    refused(lambda: normalised(features), "1 of 10 rows", "[3]", words)
    refused(lambda: check_features(features, "the bank", 10), "row 13 of the bank", words)
    check_features(features[:3], "the bank")
    broken = type("Broken", (Fake,), {"__call__": lambda *_: normalised(features)})
    refused(lambda: build_bank(rows, broken(), tmp_path / "new"), "encoder", "[3]")
    refused(lambda: open_bank(tmp_path / "new"), "no bank")
    folder = tmp_path / "unbroken"
    spoil(folder, features)
    refused(lambda: open_bank(folder, rows, Fake()), str(folder), "row 13", words, "makes it again")


def test_a_bank_of_rows_without_a_direction_can_be_built_again_as_the_sentence_says(rows, tmp_path, unbroken):
    folder = tmp_path / "unbroken"
    spoil(folder, torch.zeros(10, 16))
    build_bank(rows, Fake(), folder)
    assert contents(folder) == unbroken


# --- places that cannot be written


def test_a_full_disk_costs_a_warning_and_not_the_bank(rows, tmp_path, monkeypatch, caplog):
    whole = build_bank(rows, Fake(), tmp_path / "whole")
    near = find_neighbours(whole, 3)
    write, writes = storage.write_tensors, itertools.count()

    def full(path, *contents):
        if next(writes) > 0:
            raise LclError("No space left on device.")
        write(path, *contents)

    monkeypatch.setattr(storage, "write_tensors", full)
    bank = build_bank(rows, Fake(), tmp_path / "full")
    assert torch.equal(bank[:], whole[:]) and bank.fingerprint == whole.fingerprint
    assert caplog.text.count("No space left on device") == 1 and "LCL_DATA" in caplog.text
    found = find_neighbours(bank, 3)
    assert torch.equal(found.indices, near.indices) and torch.equal(found.similarities, near.similarities)
    monkeypatch.undo()
    monkeypatch.setattr(banks, "SHARD_ROWS", STEP)
    encoder = Fake()
    assert torch.equal(build_bank(rows, encoder, tmp_path / "full")[:], whole[:]) and encoder.seen == COUNT - STEP


def test_a_finished_bank_is_read_without_a_lock_or_any_other_file(rows, tmp_path):
    whole = build_bank(rows, Fake(), tmp_path)
    (tmp_path / ".lock").unlink()
    again = build_bank(rows, Fake(last=0), tmp_path)
    assert torch.equal(again[:], whole[:]) and again.fingerprint == whole.fingerprint
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bank.json", *SHARDS]


def test_a_bank_in_a_read_only_folder_is_read_and_an_unfinished_one_made_elsewhere(rows, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    whole, told = build_bank(rows, Fake()), []
    monkeypatch.setattr(storage, "can_write", lambda folder: tmp_path / "data" not in (folder, *folder.parents))
    before, encoder = contents(whole.folder), Fake()
    again = build_bank(rows, encoder, progress=told.append)
    assert again.folder == whole.folder and (encoder.seen, sum(told)) == (0, COUNT) and contents(whole.folder) == before
    (whole.folder / SHARDS[1]).unlink()
    elsewhere = build_bank(rows, Fake())
    assert elsewhere.folder == tmp_path / "user" / "lcl" / "banks" / whole.folder.name
    assert elsewhere.fingerprint == whole.fingerprint
