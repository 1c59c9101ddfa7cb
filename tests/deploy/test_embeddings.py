"""Embeddings on disk: rows and names belong together, nothing is overwritten, half a file is never there."""

import json
import sys

import numpy as np
import pytest

from lcl.config import LclError
from lcl.deploy.embeddings import check_target, read_texts, write_embeddings

V = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
NAMES = ["a.png", "b, c.png", "d\n.png", "ü.png", "红.png"]


def test_an_array_and_its_names_come_back(tmp_path):
    write_embeddings(tmp_path / "e.npy", NAMES, V.astype(np.float64), "path")
    found = np.load(tmp_path / "e.npy")
    assert found.dtype == np.float32 and np.array_equal(found, V)
    assert json.loads((tmp_path / "e.names.json").read_text(encoding="utf-8")) == NAMES
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e.names.json", "e.npy"]


def test_a_table_comes_back(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_embeddings(tmp_path / "e.parquet", NAMES, V, "path")
    table = parquet.read_table(tmp_path / "e.parquet")
    assert table.column_names == ["path", "embedding"] and table["path"].to_pylist() == NAMES
    assert np.array_equal(np.array(table["embedding"].to_pylist(), np.float32), V)
    assert [path.name for path in tmp_path.iterdir()] == ["e.parquet"]


def test_without_pyarrow_a_table_is_refused_with_the_command(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(LclError, match="pip install pyarrow, or name a .npy file"):
        check_target(tmp_path / "e.parquet")
    check_target(tmp_path / "e.npy")  # control


@pytest.mark.parametrize("there", ["e.npy", "e.names.json"])
def test_nothing_is_overwritten(tmp_path, there):
    (tmp_path / there).write_text("mine")
    with pytest.raises(LclError, match=f"{there} exists already"):
        write_embeddings(tmp_path / "e.npy", NAMES, V, "path")
    assert (tmp_path / there).read_text() == "mine" and len(list(tmp_path.iterdir())) == 1


def test_other_endings_and_places_are_refused(tmp_path):
    for name in ("e.csv", "e", "e.NPY"):
        with pytest.raises(LclError, match="must end in .npy or .parquet"):
            check_target(tmp_path / name)
    (tmp_path / "file").touch()
    with pytest.raises(LclError, match="cannot write"):
        write_embeddings(tmp_path / "file" / "e.npy", NAMES, V, "path")


@pytest.mark.parametrize("data", [b"a cat\na dog\n", b"a cat\r\na dog", b"\xef\xbb\xbfa cat\na dog\n"])
def test_every_line_is_a_text(tmp_path, data):
    (tmp_path / "t.txt").write_bytes(data)
    assert read_texts(tmp_path / "t.txt") == ["a cat", "a dog"]


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "is empty"), (b"a\n\nb\n", "line 2 of .* is empty"), (b"a\n \n", "line 2"), (b"\xff\xfe", "is not UTF-8"),
     (None, "No such")],
)  # fmt: skip
def test_texts_that_do_not_fit_are_refused(tmp_path, data, reason):
    if data is not None:
        (tmp_path / "t.txt").write_bytes(data)
    with pytest.raises(LclError, match=reason):
        read_texts(tmp_path / "t.txt")
