"""The slides hold what the notebooks hold, and need no network; the tables of the teacher's sheet and of README are measured."""

import re
import sys
from pathlib import Path

import nbformat
import pytest

from lcl.storage import read_json

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MEASURED = read_json(ROOT / "results" / "notebooks.json")


@pytest.fixture(scope="module")
def slides():
    sys.path.insert(0, str(ROOT / "tools"))
    try:
        import slides
    finally:
        sys.path.pop(0)
    return slides


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_becomes_slides_that_need_no_network(path, slides):
    title, found = slides.slides_of(path)
    page = slides.PAGE.render(title=title, slides=found)
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for heading in re.findall(r"^## (.+)$", text, flags=re.M):
        plain = max(re.split(r"[*`$\\']", heading), key=len).strip()  # its longest part without a mark
        assert len(plain) > 2 and plain in page
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    assert page.count("<img ") == pictures and page.count('<img alt=""') == 0
    assert not re.search(r"(?:src|href)=\"https?://[^\"]*\.(?:js|css|png)", page) and "<script src" not in page
    assert "MATH0MATH" not in page and "$$" not in page


def test_equations_become_mathml(slides):
    assert "<math" in slides.to_html(r"with $e^\tau$ and") and 'display="block"' in slides.to_html(r"$$L = \sum_i x_i$$")


def test_minutes_and_memory_are_those_that_were_measured():
    assert list(MEASURED) == [path.stem for path in NOTEBOOKS]
    readme, sheet = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/teaching.md"))
    for name, row in MEASURED.items():
        minutes, memory = f"{row['minutes']:.1f}", f"{row['peak_gib']:.1f}"
        assert re.search(rf"\(notebooks/{name}\.ipynb\) \| [^|]+ \| \d+ \| {minutes} \|$", readme, flags=re.M), name
        assert re.search(rf"/{name}\.ipynb\) \| {minutes} \| {memory} \| \d+ \|$", sheet, flags=re.M), name
    total = sum(row["minutes"] for row in MEASURED.values())
    assert f"| {total:.1f} |" in readme and total <= 45


def test_the_sheet_counts_the_exercises():
    sheet = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        number = sum("...  # your answer" in cell.source for cell in nbformat.read(path, as_version=4).cells)
        assert re.search(rf"/{path.stem}\.ipynb\) \|.* \| {number} \|$", sheet, flags=re.M), path.stem
