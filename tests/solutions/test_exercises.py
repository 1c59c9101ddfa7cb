"""Every folded solution, put in the place of its exercise's `...`, is told that it is right: by running the notebook."""

import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).resolve().parents[2] / "notebooks").glob("*.ipynb"))
OPEN = re.compile(r"^\w+ = \.\.\.  # your answer.*$", re.M)


def solve(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    """Fill every exercise with the solution that stands folded in the next cell; returns the exercises' cells."""
    exercises = []
    for cell, after in zip(notebook.cells, notebook.cells[1:], strict=False):
        if cell.cell_type == "code" and OPEN.search(cell.source):
            solution = re.search(r"Solution</summary>.*?```python\n(.*?)```", after.source, re.S).group(1)
            cell.source = OPEN.sub(lambda _, solution=solution: solution, cell.source)
            exercises.append(cell)
    return exercises


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_every_solution_is_right(path, monkeypatch):
    notebook = nbformat.read(path, as_version=4)
    exercises = solve(notebook)
    if not exercises:
        pytest.skip("this notebook has no exercise")
    monkeypatch.setenv("LCL_PROFILE", "smoke")
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": path.parent}}
    ).execute()
    for cell in exercises:
        said = "".join(output.get("text", "") for output in cell.outputs)
        assert "Right." in said, f"{cell.source}\n→ {said}"
