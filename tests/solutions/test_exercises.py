"""Both sides of every exercise, by running the notebooks: the folded solution is right; the stub and the typical mistakes
are not, and each mistake hears its own sentence; and whatever else is answered, a sentence comes back.

Of a build, the learner's function is the one that the next cells use and that is trained; lcl's, which takes its place until
it is right, passes the same check."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from chapters import quick
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
VALUE = re.compile(r"^\w+ = \.\.\.  # your answer.*$", re.M)
FUNCTION = re.compile(r"^def \w+\([^\n]*\n(?:(?:[ )][^\n]*)?\n)*?    (?:return )?\.\.\.  # your answer[^\n]*$", re.M)
BUILD = re.compile(r"^### Build \d · .+ \((?:easy|medium|hard), (\d+) minutes\)$", re.M)

WATCH = '''
import lcl.course.checks as _checks

_proofs, _asked, _told = [], [None], {"check": _checks.check, "check_function": _checks.check_function}


def _broken(*arguments):
    raise KeyError("a learner's own")


def _watch(name, stub, odd):
    told = _told[name]

    def watched(answer, right, *rest, **options):
        said = told(answer, right, *rest, **options)
        mistakes = rest[0 if name == "check" else 1]
        _asked[0] = lambda one: told(one, right, *rest, **options)
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

import lcl.course.exercises as _exercises

_choices, _objectives, _choose, _replace = [], [], _exercises.yours_or_ours, _exercises.train_with


def _choose_and_count(mine, verdict, ours):
    chosen = _choose(mine, verdict, ours)
    choice = {"verdict": verdict, "mine": chosen is mine, "calls": 0, "ours": _asked[0](ours)}
    choice["stub"] = _choose(lambda *arguments: ..., _checks.OPEN, ours) is ours
    _choices.append(choice)

    def counted(*arguments, **options):
        choice["calls"] += 1
        return chosen(*arguments, **options)

    return counted


def _replace_and_count(name, objective):
    trained = {"name": name, "steps": 0, "calls": 0}
    _objectives.append(trained)

    def counted(recipe, context):
        before = sum(choice["calls"] for choice in _choices)
        found = objective(recipe, context)
        trained["steps"] += found[name].requires_grad
        trained["calls"] += sum(choice["calls"] for choice in _choices) - before
        return found

    _replace(name, counted)


_exercises.yours_or_ours, _exercises.train_with = _choose_and_count, _replace_and_count
'''
# Models of a few steps find so little that, by chance, mistakes may give the right numbers: these answers tell them apart.
ANSWERS = """
for _name, _right in (("yours", range(12)), ("clip", range(8, 13))):
    _found = tuple(row if row in _right else (row + 1) % len(pairs) for row in range(len(pairs)))
    contenders[_name] = dataclasses.replace(contenders[_name], answers=dict.fromkeys(contenders[_name].answers, _found))
"""
TELL = "import json as _json\nprint('PROOFS' + _json.dumps([_proofs, _choices, _objectives]))"


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
    notebook = quick(path)
    checks = solve(notebook)
    assert len(checks) >= 3
    watch, tell = nbformat.v4.new_code_cell(WATCH), nbformat.v4.new_code_cell(TELL)
    answered = nbformat.v4.new_code_cell(ANSWERS)
    for at, cell in enumerate(notebook.cells):
        if "RunBoard(pairs, contenders)" in cell.source and cell.cell_type == "code":
            notebook.cells.insert(at + 1, answered)
            break
    assert (answered in notebook.cells) == (path.stem == "14_capstone")
    notebook.cells = [watch, *notebook.cells, tell]
    monkeypatch.setenv("LCL_PROFILE", "smoke")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    proofs, choices, objectives = json.loads(tell.outputs[0].text.removeprefix("PROOFS"))
    assert len(proofs) == len(checks)
    for cell, proof in zip(checks, proofs, strict=True):
        assert proof["said"] == "Right.", f"{cell.source}\n→ {proof['said']}"
        assert proof["stub"].startswith("Not answered yet")
        assert len(proof["mistakes"]) >= 2, cell.source
        for sentence, told in proof["mistakes"].items():
            assert " ".join(told.split()) == f"Not yet: {sentence}", f"{cell.source}\n{sentence!r} → {told!r}"
        assert all(told.startswith("Not yet:") for told in proof["odd"]), f"{cell.source}\n→ {proof['odd']}"
    builds = [cell for cell in notebook.cells if cell.cell_type == "markdown" and BUILD.search(cell.source)]
    assert len(choices) == len(builds)
    for choice, build in zip(choices, builds, strict=True):
        assert choice["verdict"] == choice["ours"] == "Right." and choice["mine"] and choice["stub"], build.source
        assert choice["calls"] > 0, f"no cell uses the function of\n{build.source}"
    for trained in objectives:
        assert trained["steps"] > 0 and trained["calls"] >= trained["steps"], f"{trained['name']} was not trained with the answer"
    record_property("exercises", len(proofs))
    record_property("builds", len(choices))
    record_property("mistakes", sum(len(proof["mistakes"]) for proof in proofs))
