"""The committed notebooks are clean, and a reader without a kernel sees every figure."""

import json
import re
import sys
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"

pytestmark = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code"]


def test_it_is_valid_and_small(path):
    nbformat.validate(nbformat.read(path, as_version=4))
    assert path.stat().st_size < 2_500_000


def test_it_was_run_in_order_and_without_an_error(path):
    cells = code_cells(path)
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1)), "run `make notebooks`"
    for cell in cells:
        for output in cell.outputs:
            assert output.output_type != "error", output.get("evalue")
            assert output.get("name") != "stderr", output.get("text")


def test_it_holds_no_widget_state_no_times_and_no_view_beside_a_picture(path):
    notebook = nbformat.read(path, as_version=4)
    assert "widgets" not in notebook.metadata and notebook.metadata.kernelspec.name == "python3"
    assert [cell.id for cell in notebook.cells] == [f"cell-{number:03d}" for number in range(len(notebook.cells))]
    for cell in notebook.cells:
        assert "execution" not in cell.metadata
        for output in cell.get("outputs", []):
            data = set(output.get("data", {}))
            assert not ("image/png" in data and {WIDGET, "text/html"} & data)


def test_every_explorer_left_a_still_picture(path):
    for cell in code_cells(path):
        if re.search(r"^(Explorer\(|WordHover\(|hover\(|explorer$)", cell.source, re.M):
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_its_links_lead_somewhere(path):
    text = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")
    for target in re.findall(r"\]\(([^)#\s]+)\)", text):
        assert target.startswith("https://") or (path.parent / target).exists(), target


def test_its_open_exercises_are_open(path):
    for cell in code_cells(path):
        if "= ...  # your answer" in cell.source:
            assert any("Not answered yet" in output.get("text", "") for output in cell.outputs), cell.source


def test_refreshing_cleans_what_a_run_leaves(path):
    """The refresh tool's cleaning is idempotent and drops times, widget state and views."""
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        from refresh_notebooks import clean
    finally:
        sys.path.pop(0)
    notebook = nbformat.read(path, as_version=4)
    before = json.dumps(notebook, sort_keys=True)
    clean(notebook)
    assert json.dumps(notebook, sort_keys=True) == before
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[0].id = "strange"
    clean(notebook)
    assert json.dumps(notebook, sort_keys=True) == before
