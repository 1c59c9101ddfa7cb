"""Old and new code do the same works in processes of their own; without the history the rows are left out with a sentence."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import history, works
from benchmarks.history import Worker, check_out
from lcl.config import LclError

SMALL = {"planned": 3, "drawn": 3, "narrow": 20, "wide": 20, "looked-up": 50, "matched": 4, "read": 80}
reached = pytest.mark.skipif(
    subprocess.run(["git", "cat-file", "-e", history.COMMIT], cwd=history.ROOT, capture_output=True).returncode != 0,
    reason="this checkout's history does not reach back to the old code",
)


@pytest.fixture
def old(tmp_path) -> Path:
    assert check_out(tmp_path / "old")
    return tmp_path / "old"


def test_every_row_has_a_work():
    assert history.ROWS.keys() | {"stepped"} == works.WORKS.keys() == SMALL.keys() | {"stepped"}  # the old code does not train so


def test_without_the_commit_the_rows_are_left_out_with_a_sentence(tmp_path, monkeypatch):
    assert not check_out(tmp_path, "0" * 40)
    assert not check_out(tmp_path, root=tmp_path)  # no repository at all
    monkeypatch.setattr(history, "check_out", lambda folder: False)
    told = []
    assert list(history.history(1, told.append)) == [] and len(told) == 1
    assert "are left out" in told[0] and history.COMMIT in told[0]


@reached
def test_each_process_measures_its_own_library(old, tmp_path):
    """The old one takes the flat module that the new library lacks, and the other way round."""
    for version, root, module, other in (
        ("new", history.ROOT, "lcl.teachers.search", "lcl.neighbours"), ("old", old, "lcl.neighbours", "lcl.teachers.search"),
    ):  # fmt: skip
        seen = f"import importlib.util as u, lcl; print(lcl.__file__, bool(u.find_spec({module!r})))"
        process = subprocess.run(
            [sys.executable, "-c", seen], cwd=tmp_path, env={"PYTHONPATH": str(root)}, capture_output=True, text=True
        )
        assert process.stdout.split() == [str(root / "lcl" / "__init__.py"), "True"], (version, process.stderr)
        assert not (root / "lcl" / Path(*other.split(".")[1:]).with_suffix(".py")).exists()


@reached
@pytest.mark.parametrize("name", ["narrow", "looked-up", "matched"])
def test_both_versions_do_the_same_work_in_turns(name):
    (row,) = history.history(2, sizes={name: SMALL[name]})
    assert row.key == f"history-{name}" and history.COMMIT in row.beside and "here only" in row.note
    assert len(row.ours) == len(row.peer) == 2 and min(*row.ours, *row.peer) > 0
    assert row.amount == (1024 if name == "looked-up" else SMALL[name])


@reached
@pytest.mark.slow
@pytest.mark.parametrize("name", ["planned", "drawn", "read"])
def test_so_they_do_with_scenes(name):
    (row,) = history.history(1, sizes={name: SMALL[name]})
    assert row.amount == SMALL[name] and min(*row.ours, *row.peer) > 0


def test_a_process_that_fails_says_why(tmp_path):
    worker = Worker("new", history.ROOT, tmp_path)
    with pytest.raises(LclError, match="the work no such work has stopped: KeyError: 'no such work'"):
        worker("no such work", 1)
    worker.close()


def test_a_work_is_prepared_once_and_the_answers_hold_nothing_else(tmp_path, monkeypatch):
    calls = []

    def noisy(new, folder, size):
        calls.append((new, folder.name, size))
        return lambda: print("what a library prints")

    monkeypatch.setattr(works, "WORKS", {"noisy": noisy})
    monkeypatch.setattr(works.sys, "stdin", io.StringIO("".join(json.dumps(["noisy", n]) + "\n" for n in (5, 5, 7))))
    answers, duplicated = tmp_path / "answers", []
    monkeypatch.setattr(works.os, "dup", lambda number: duplicated.append(number) or 1)
    monkeypatch.setattr(works.os, "dup2", lambda *numbers: duplicated.append(numbers))
    monkeypatch.setattr(works.os, "fdopen", lambda number, mode: answers.open(mode))
    works.main("old", str(tmp_path))
    assert calls == [(False, "old-0", 5), (False, "old-1", 7)] and duplicated == [1, (2, 1)]
    assert answers.read_text().split() == ["5", "5", "7"]


@pytest.mark.parametrize("name", ["narrow", "looked-up", "matched"])
def test_a_work_computes_what_it_says(name, tmp_path):
    done = works.WORKS[name](True, tmp_path, SMALL[name])()
    if name == "narrow":
        assert done.indices.shape == (20, 8)
    elif name == "looked-up":
        assert done.shape == (1024, 1280) and torch.equal(done, torch.zeros_like(done))
        assert getattr((tmp_path / "features").stat(), "st_blocks", 0) * 512 < 50 * 1280 * 2  # sparse
    else:
        assert done.patch.shape == (4, 12) and (done.patch >= -1).all()
