"""Faults that are put into modules are real ones, and a fault that no test notices is reported."""

import ast
import subprocess
import sys

import pytest

import mutate

SOURCE = '''"""Says x < 1."""
def f(x: int, *, dim=0):
    if not x < 1 and min(x, 3):
        return g(x, 2, dim=dim).detach()
    h(x)
    return x + 1
'''


def test_faults_are_the_kinds_that_people_make_and_each_changes_what_runs():
    found = mutate.faults(SOURCE)
    changed = [text.splitlines()[line - 1].strip() for line, text in found]
    assert all(ast.dump(ast.parse(text)) != ast.dump(ast.parse(SOURCE)) for _, text in found)
    for expected in (
        "not (x <= 1)", "(x < 1) and", "(max)(x, 3)", "(g(2, x, dim=dim))", "(g(x, 2)).detach()", "(x - 1)", "dim=(1)",
    ):  # fmt: skip
        assert any(expected in line for line in changed), expected
    assert "return (g(x, 2, dim=dim))" in changed and "pass" in changed


@pytest.mark.slow
def test_a_fault_that_no_test_notices_is_reported_and_a_second_run_continues(tmp_path, monkeypatch, capsys):
    for name in ("lcl/losses", "tests/losses"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "lcl/losses/sums.py").write_text("def total(a, b):\n    return a + b\n\n\ndef unseen(a, b):\n    return a * b\n")
    test = "import runpy\n\n\ndef test_total():\n    assert runpy.run_path('lcl/losses/sums.py')['total'](2, 1) == 3\n"
    (tmp_path / "tests/losses/test_sums.py").write_text(test)
    (tmp_path / "pytest.ini").write_text("[pytest]\nmarkers = slow\n")
    monkeypatch.setattr(mutate, "ROOT", tmp_path)
    monkeypatch.setattr(sys, "argv", ["mutate.py", "losses/sums", "--out", str(tmp_path / "found.jsonl")])
    subprocess.run(["git", "init", "-q"], cwd=tmp_path, check=True)
    mutate.main()
    printed = capsys.readouterr().out
    assert "survives: lcl/losses/sums.py:6: return (a / b)" in printed and '"faults": 2, "noticed": 1' in printed
    before = (tmp_path / "found.jsonl").read_text()
    mutate.main()
    assert (tmp_path / "found.jsonl").read_text() == before and len(before.splitlines()) == 2
    (tmp_path / "tests/losses/test_sums.py").write_text("def test_total():\n    assert False\n")
    with pytest.raises(SystemExit, match="fix them first"):
        mutate.main()
