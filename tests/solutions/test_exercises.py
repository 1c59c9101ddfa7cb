"""Both sides of every exercise, by running the notebooks: the folded solution is right; the stub and the typical mistakes
are not, and each mistake hears its own sentence; and whatever else is answered, a sentence comes back."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
VALUE = re.compile(r"^\w+ = \.\.\.  # your answer.*$", re.M)
FUNCTION = re.compile(r"^def \w+\([^\n]*\n    return \.\.\.  # your answer[^\n]*$", re.M)

WATCH = '''
import lcl.course.checks as _checks

_proofs, _told = [], {"check": _checks.check, "check_function": _checks.check_function}


def _broken(*arguments):
    raise KeyError("a learner's own")


def _watch(name, stub, odd):
    told = _told[name]

    def watched(answer, right, *rest, **options):
        said = told(answer, right, *rest, **options)
        mistakes = rest[0 if name == "check" else 1]
        _proofs.append({
            "said": said,
            "stub": told(stub, right, *rest, **options),
            "mistakes": {sentence: told(wrong, right, *rest, **options) for sentence, wrong in mistakes.items()},
            "odd": [told(one, right, *rest, **options) for one in odd],
        })
        return said

    setattr(_checks, name, watched)


import torch as _torch

_watch("check", ..., ["text", float("nan"), _torch.full((2, 2, 2), _torch.nan), object(), print, [1, "x"], {}, b"x"])
_odd = [_broken, lambda *a: "text", lambda *a: _torch.ones(2, 2, 2), lambda: 0, 7, lambda *a: print]
_watch("check_function", lambda *arguments: ..., _odd)
'''
# Models of a few steps find so little that, by chance, mistakes may give the right numbers: these answers tell them apart.
ANSWERS = """
for _name, _right in (("yours", range(12)), ("clip", range(8, 13))):
    _found = tuple(row if row in _right else (row + 1) % len(pairs) for row in range(len(pairs)))
    contenders[_name] = dataclasses.replace(contenders[_name], answers=dict.fromkeys(contenders[_name].answers, _found))
"""
TELL = "import json as _json\nprint('PROOFS' + _json.dumps(_proofs))"


def solve(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Fill every exercise with the solution that stands folded two cells on; returns the cells between, which check."""
    checks = []
    for cell, check, folded in zip(notebook.cells, notebook.cells[1:], notebook.cells[2:], strict=False):
        open_place = cell.cell_type == "code" and (VALUE.search(cell.source) or FUNCTION.search(cell.source))
        if open_place:
            solution = re.search(r"Solution</summary>.*?```python\n(.*?)\n```", folded.source, re.S).group(1)
            cell.source = cell.source.replace(open_place[0], solution)
            checks.append(check)
    return checks


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_exercise_is_proved_on_both_sides(path, monkeypatch, record_property):
    notebook = nbformat.read(path, as_version=4)
    checks = solve(notebook)
    assert len(checks) >= 3
    watch, tell = nbformat.v4.new_code_cell(WATCH), nbformat.v4.new_code_cell(TELL)
    answered = nbformat.v4.new_code_cell(ANSWERS)
    for at, cell in enumerate(notebook.cells):
        if "RunBoard(pairs, contenders)" in cell.source and cell.cell_type == "code":
            notebook.cells.insert(at + 1, answered)
            break
    assert (answered in notebook.cells) == (path.stem == "13_capstone")
    notebook.cells = [watch, *notebook.cells, tell]
    monkeypatch.setenv("LCL_PROFILE", "smoke")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    proofs = json.loads(tell.outputs[0].text.removeprefix("PROOFS"))
    assert len(proofs) == len(checks)
    for cell, proof in zip(checks, proofs, strict=True):
        assert proof["said"] == "Right.", f"{cell.source}\n→ {proof['said']}"
        assert proof["stub"].startswith("Not answered yet")
        assert len(proof["mistakes"]) >= 2, cell.source
        for sentence, told in proof["mistakes"].items():
            assert told == f"Not yet: {sentence}", f"{cell.source}\n{sentence!r} → {told!r}"
        assert all(told.startswith("Not yet: ") for told in proof["odd"]), f"{cell.source}\n→ {proof['odd']}"
    record_property("exercises", len(proofs))
    record_property("mistakes", sum(len(proof["mistakes"]) for proof in proofs))
