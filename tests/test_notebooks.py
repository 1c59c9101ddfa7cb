"""The committed notebooks are clean, and a reader without a kernel sees every figure."""

import json
import re
from pathlib import Path

import nbformat
import pytest
from chapters import quick

from refresh_notebooks import clean

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
        assert not any("\r" in output.get("text", "") for output in cell.get("outputs", []))
        for output in cell.get("outputs", []):
            data = set(output.get("data", {}))
            assert not ("image/png" in data and {WIDGET, "text/html"} & data)


def test_it_finds_its_files_in_any_working_directory_and_reads_them_as_utf_8(path):
    for cell in code_cells(path):
        assert not re.search(r"""["']\.\./|read_text\(\)|text=True\)""", cell.source), cell.source


def test_every_figure_has_words(path):
    for cell in code_cells(path):
        for output in cell.outputs:
            if "image/png" in output.get("data", {}):
                words = output.metadata.get("image/png", {}).get("alt", "")
                assert len(words) > 15 and "<Figure" not in words, cell.source


def test_every_exhibit_and_explorer_left_a_still_picture(path):
    exhibits = "Explorer|AlignmentInspector|LabelScrubber|WordGuesser|NeighbourBrowser|RunBoard"
    shown = rf"^({exhibits})\(|^live\.show\(|^(explorer|atlas)$"
    for cell in code_cells(path):
        if re.search(shown, cell.source, re.M):
            assert any("image/png" in output.get("data", {}) for output in cell.outputs), cell.source


def test_it_has_three_exercises_or_more_rated_timed_and_open(path):
    cells = nbformat.read(path, as_version=4).cells
    lines = [line for cell in cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    headings = [line for line in lines if re.match("### (Exercise|Build)", line)]
    rated = [re.fullmatch(r"### (Exercise|Build) (\d) · .+ \((easy|medium|hard), (\d+) minutes\)", line) for line in headings]
    assert len(rated) >= 3 and all(rated), headings
    for kind in ("Exercise", "Build"):
        numbers = [int(match[2]) for match in rated if match[1] == kind]
        assert numbers == list(range(1, len(numbers) + 1))
    places = [n for n, cell in enumerate(cells) if cell.cell_type == "code" and "...  # your answer" in cell.source]
    assert len(places) == len(rated)
    for n in places:  # the place for the answer; the check; hint and solution
        assert "check(" not in cells[n].source and "check_function(" not in cells[n].source
        if not hides_its_answers(cells[n + 1]):  # folded because the right answer stands in it
            assert cells[n + 1].metadata.get("jupyter") == {"source_hidden": True}, cells[n + 1].source
        assert cells[n + 1].source.startswith("# checks the cell above\n")  # the line that is in sight
        assert any("Not answered yet" in output.get("text", "") for output in cells[n + 1].outputs), cells[n + 1].source
        folded = cells[n + 2].source
        assert folded.startswith("<details><summary>Hint</summary>\n\n") and "<summary>Solution</summary>\n\n" in folded
    assert sum("jupyter" in cell.metadata for cell in cells) == sum(not hides_its_answers(cells[n + 1]) for n in places)


def hides_its_answers(check) -> bool:
    """Does a cell ask `lcl.course.exercises`, where the right answers stand, instead of holding them?"""
    return "check(" not in check.source and "check_function(" not in check.source


def test_its_visible_code_fits_a_narrow_column(path):
    lines = [line for cell in code_cells(path) if "jupyter" not in cell.metadata for line in cell.source.splitlines()]
    assert [line for line in lines if len(line) > 95] == []


def test_no_exercise_is_in_a_cell_that_tests_may_leave_out(path):
    left_out = [cell.source for cell in code_cells(path) if "long" in cell.metadata.get("tags", [])]
    assert not [source for source in left_out if "your answer" in source or "checks the cell above" in source]
    assert left_out == [] or len(quick(path).cells) == len(nbformat.read(path, as_version=4).cells) - len(left_out)


def main_words(text: str) -> int:
    """The words outside folded parts, figures and blocks of code; a formula in a sentence is one word."""
    text = re.sub(r"<details>.*?</details>|!\[.*?\]\(.*?\)|\$\$.*?\$\$|```.*?```", "", text, flags=re.S)
    return len(re.findall(r"\S*\w\S*", re.sub(r"\$[^$]+\$", "formula", text)))


def test_its_main_text_has_1500_words_at_most(path):
    cells = nbformat.read(path, as_version=4).cells
    assert main_words("\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")) <= 1500


def test_chapters_2_to_10_have_a_build_and_an_open_problem(path):
    if not "02" <= path.stem[:2] <= "10":
        return
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    minutes = [int(number) for number in re.findall(r"^### Build \d · .+, (\d+) minutes\)$", text, re.M)]
    assert any(20 <= number <= 40 for number in minutes)
    assert "**Open problem (hard)**" in cells[-1].source + cells[-2].source


def test_refreshing_cleans_what_a_run_leaves(path):
    """The refresh tool's cleaning is idempotent and drops times, widget state and views."""
    notebook = nbformat.read(path, as_version=4)
    before = json.dumps(notebook, sort_keys=True)
    clean(notebook)
    assert json.dumps(notebook, sort_keys=True) == before
    notebook.metadata["widgets"] = {"state": {}}
    notebook.cells[0].id = "strange"
    clean(notebook)
    assert json.dumps(notebook, sort_keys=True) == before
    bars = ["to", "ld\nbanks:   0%|", "\rbanks: 100%|█| 3/3 [01:38<00:00, 32.94s/run]", "\n[1:2] stays\n"]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", name="stdout", text=text) for text in bars]
    clean(notebook)
    for cell in notebook.cells:
        told = [output.text for output in cell.get("outputs", [])]
        assert told == (["told\nbanks: 100%|█| 3/3\n[1:2] stays\n"] if cell.cell_type == "code" else [])
