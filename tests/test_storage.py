"""Files are whole or not there at all, whatever goes wrong on the way."""

import errno
import os
import sys
import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lcl import storage
from lcl.config import LclError

TENSORS = {"weights": torch.arange(4000.0).reshape(40, 100), "bias": torch.tensor([1, 2, 3], dtype=torch.uint8)}
WRITERS = {
    "bytes": lambda path: storage.write_bytes(path, b"new" * 4000),
    "json": lambda path: storage.write_json(path, list(range(4000))),
    "tensors": lambda path: storage.write_tensors(path, TENSORS),
}
writers = pytest.mark.parametrize("write", WRITERS.values(), ids=WRITERS)


def refused(write, path):
    """`write(path)` must raise one sentence that names the path."""
    with pytest.raises(LclError) as error:
        write(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    return str(error.value)


@writers
def test_a_write_leaves_one_file_that_others_may_read(tmp_path, write):
    path = tmp_path / "new" / "folder" / "file"
    write(path)
    assert os.listdir(path.parent) == ["file"]
    assert path.stat().st_mode & 0o777 == 0o644


@writers
@pytest.mark.parametrize("step", ["replace", "fsync", "chmod"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, write, step):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, step, full)
        assert "No space left on device" in refused(write, path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]
    write(path)
    assert path.read_bytes() != b"old"


@pytest.mark.skipif(sys.platform == "win32", reason="limits on the size of a file are Unix's")
@writers
def test_a_write_that_truly_fails_halfway_leaves_the_old_file_and_nothing_else(tmp_path, write):
    import resource

    path = tmp_path / "file"
    path.write_bytes(b"old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limits[1]))  # no file may grow beyond 4 kB
    try:
        refused(write, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@writers
def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write(path)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


@writers
def test_a_folder_that_cannot_be_is_named(tmp_path, write):
    (tmp_path / "file").write_bytes(b"old")
    refused(write, tmp_path / "file" / "inside")
    (tmp_path / "folder").mkdir()
    refused(write, tmp_path / "folder")
    assert sorted(os.listdir(tmp_path)) == ["file", "folder"] and (tmp_path / "file").read_bytes() == b"old"


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="nothing is read-only to the superuser")
@writers
def test_a_read_only_folder_is_left_alone(tmp_path, write):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    tmp_path.chmod(0o555)
    try:
        refused(write, path)
    finally:
        tmp_path.chmod(0o755)
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


def test_what_is_no_json_is_refused_before_the_file_is_touched(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises(TypeError):
        storage.write_json(path, {1, 2})
    assert path.read_bytes() == b"old" and os.listdir(tmp_path) == ["file"]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)


@given(json_values)
def test_json_comes_back_as_it_went(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    storage.write_json(path, value)
    assert storage.read_json(path) == value


@given(st.dictionaries(st.text(st.characters()), st.integers(), min_size=2))  # half of a surrogate pair is a character, too
def test_a_fingerprint_knows_values_not_their_order(value):
    assert storage.fingerprint(value) == storage.fingerprint(dict(reversed(value.items())))
    assert storage.fingerprint(value) != storage.fingerprint(value | {next(iter(value)): 0.5})
    assert len(storage.fingerprint(value)) == 16


def test_tensors_come_back_as_they_went_even_views(tmp_path):
    tensors = TENSORS | {"turned": TENSORS["weights"].T}
    storage.write_tensors(tmp_path / "t", tensors)
    read = storage.read_tensors(tmp_path / "t")
    assert read.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor)


def test_json_with_a_checksum_comes_back_and_a_changed_value_is_noticed(tmp_path):
    path, value = tmp_path / "a.json", {"step": 3, "loss": [1.5, None]}
    storage.write_checked(path, value)
    written = storage.read_json(path)
    assert written.pop("checksum") == storage.fingerprint(value) and written == value


def test_a_lock_makes_the_folder_and_waits_in_one_that_exists(tmp_path, caplog):
    caplog.set_level("INFO", "lcl")
    with storage.locked(tmp_path / "a" / "b"):
        waiter = threading.Thread(target=lambda: storage.locked(tmp_path / "a" / "b").__enter__(), daemon=True)
        waiter.start()
        waiter.join(1.5)
        assert waiter.is_alive() and "another process works in" in caplog.text
    waiter.join(30)
    assert not waiter.is_alive()



@pytest.mark.parametrize("read", [storage.read_json, storage.read_tensors, storage.read_metadata])
def test_a_missing_file_is_said_to_be_missing(tmp_path, read):
    assert "does not exist" in refused(read, tmp_path / "nothing")
    refused(read, tmp_path)  # a folder is no file


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.999])
def test_a_tensor_file_that_was_cut_off_is_refused(tmp_path, share):
    path = tmp_path / "t"
    storage.write_tensors(path, TENSORS)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(share * len(whole))])
    assert "cut off" in refused(storage.read_tensors, path)


@pytest.mark.parametrize("text", [b"", b"{", b'{"a": [1, 2', b"nonsense", b'"\xff\xfe"', b"\x80\x04\x95"])
def test_a_json_file_that_is_damaged_is_refused(tmp_path, text):
    (tmp_path / "j").write_bytes(text)
    assert "cut off" in refused(storage.read_json, tmp_path / "j")


@given(st.binary(max_size=200))
def test_no_bytes_are_mistaken_for_tensors(tmp_path_factory, data):
    path = tmp_path_factory.getbasetemp() / "noise"
    path.write_bytes(data)
    refused(storage.read_tensors, path)


def test_a_json_file_may_have_the_most_bytes_and_not_one_more(tmp_path):
    path = tmp_path / "j"
    path.write_text("[1, 2]")
    assert storage.read_json(path, most=6) == [1, 2]
    assert "6 bytes, more than" in refused(lambda path: storage.read_json(path, most=5), path)


def test_metadata_comes_back_as_it_went(tmp_path):
    for metadata in (None, {"made by": "a test"}):
        storage.write_tensors(tmp_path / "t", TENSORS, metadata)
        assert storage.read_metadata(tmp_path / "t") == (metadata or {})
    (tmp_path / "t").write_bytes(b"noise")
    assert "cut off" in refused(storage.read_metadata, tmp_path / "t")


OTHERS = {  # than those of TENSORS, and what is said about them
    "no bias": ({"weights": TENSORS["weights"]}, "missing or extra are bias"),
    "another name": (TENSORS | {"scale": torch.ones(1)}, "missing or extra are scale"),
    "another shape": (TENSORS | {"bias": TENSORS["bias"][:2]}, "is [2], but this model's is [3]"),
    "turned": (TENSORS | {"weights": TENSORS["weights"].T}, "is [100, 40], but this model's is [40, 100]"),
    "another type": (TENSORS | {"bias": TENSORS["bias"].int()}, "of type torch.int32, but this model's is torch.uint8"),
    "NaN": (TENSORS | {"weights": TENSORS["weights"] * torch.nan}, "holds NaN or infinity"),
    "one infinity": (TENSORS | {"weights": TENSORS["weights"].index_fill(1, torch.tensor(3), -torch.inf)}, "NaN or infinity"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_tensors_that_are_not_those_of_the_model_are_refused(tmp_path, name):
    tensors, reason = OTHERS[name]
    outlined = {key: torch.empty_like(tensor, device="meta") for key, tensor in TENSORS.items()}
    storage.write_tensors(tmp_path / "t", TENSORS)
    read = storage.read_tensors(tmp_path / "t", like=outlined)
    assert all(torch.equal(read[key], TENSORS[key]) for key in TENSORS) and read.keys() == TENSORS.keys()
    storage.write_tensors(tmp_path / "t", tensors)
    assert reason in refused(lambda path: storage.read_tensors(path, like=outlined), tmp_path / "t")


def test_an_outline_takes_no_memory_and_has_so_many_tensors_at_most(monkeypatch):
    monkeypatch.setattr(storage, "MAX_PARAMETERS", 4)
    with storage.outline():
        layers = torch.nn.Sequential(torch.nn.Linear(10**6, 10**6), torch.nn.Linear(2, 2))
    assert {parameter.device.type for parameter in layers.parameters()} == {"meta"}
    with pytest.raises(LclError, match="more than 4 tensors"), storage.outline():
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    for _ in range(3):  # outside, nobody counts
        assert torch.nn.Linear(2, 2).weight.device.type == "cpu"


def test_a_fresh_folder_takes_its_name_only_when_it_is_whole(tmp_path):
    with storage.fresh_folder(tmp_path / "new" / "one") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "new" / "one").exists()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one"]
    assert (tmp_path / "new" / "one" / "file").read_text() == "x"
    with pytest.raises(KeyboardInterrupt), storage.fresh_folder(tmp_path / "new" / "two") as folder:
        (folder / "file").write_text("x")
        raise KeyboardInterrupt
    for taken in ("one", "one/file"):
        with pytest.raises(LclError, match="exists and is not empty"), storage.fresh_folder(tmp_path / "new" / taken):
            pass
    with pytest.raises(LclError, match="cannot write in"), storage.fresh_folder(tmp_path / "new" / "one" / "file" / "below"):
        pass
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["one"]


def test_caches_go_where_they_can_be_written_and_a_warning_names_the_variable(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    assert storage.cache_folder("banks", "x") == tmp_path / "data" / "cache" / "banks" / "x" and not caplog.text
    assert os.listdir(tmp_path) == []
    for place in ("data", "user"):
        (tmp_path / place).touch()  # a file, in which nobody can write
        found = storage.cache_folder("banks", "x")
        assert found.parts[-2:] == ("banks", "x") and not found.is_relative_to(tmp_path / "data")
        assert storage.cache_folder("banks", "x") == found
        assert found.is_relative_to(tmp_path / "user") == (place == "data")
    assert caplog.text.count("LCL_DATA") == 2 and str(tmp_path / "user" / "lcl") in caplog.text


def test_a_folder_that_is_read_only_cannot_be_written(tmp_path, monkeypatch):
    assert storage.can_write(tmp_path / "new" / "folder") and storage.can_write(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # root may write anywhere but on a read-only disk
    assert not storage.can_write(tmp_path / "new" / "folder")


def test_a_cache_on_a_full_disk_costs_a_warning(tmp_path, monkeypatch, caplog):
    assert storage.try_write(storage.write_json, tmp_path / "file", [1]) and not caplog.text

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    assert not storage.try_write(storage.write_json, tmp_path / "file", [2])
    assert "No space left on device" in caplog.text and "LCL_DATA" in caplog.text and storage.read_json(tmp_path / "file") == [1]


@pytest.mark.skipif(not hasattr(os, "getuid"), reason="there are no owners and modes of folders on this system")
@pytest.mark.parametrize("named", ["", "named"])
def test_compiled_programs_go_where_only_this_user_can_write(tmp_path, monkeypatch, caplog, named):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    place = tmp_path / (named or "lcl/inductor")

    def chosen() -> str:
        monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(place) if named else "")
        storage.keep_programs_private()
        return os.environ["TORCHINDUCTOR_CACHE_DIR"]

    old = os.umask(0)
    try:
        assert chosen() == chosen() == str(place) and place.stat().st_mode & 0o777 == 0o700 and not caplog.text
    finally:
        os.umask(old)
    for mode in (0o720, 0o702, 0o777):
        place.chmod(mode)
        other = chosen()
        assert other != str(place) and os.stat(other).st_mode & 0o777 == 0o700 and str(place) in caplog.text
        os.rmdir(other)
        caplog.clear()
    place.chmod(0o755)
    assert chosen() == str(place)
    other = os.getuid() + 1
    monkeypatch.setattr(os, "getuid", lambda: other)  # the folder is another user's
    os.rmdir(chosen())
    assert place.exists() and str(place) in caplog.text
