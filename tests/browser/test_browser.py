"""Every notebook in a real browser that reaches nothing but this machine: all cells run, every exhibit is used by mouse and
by keyboard. Pictures of each are kept in `build/browser/`."""

import re

import pytest

playwright = pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")
import hands  # noqa: E402
import lab  # noqa: E402

NOTEBOOKS = sorted((lab.ROOT / "notebooks").glob("*.ipynb"))
PICTURES = lab.ROOT / "build" / "browser"
SHOWN = {  # which exhibits a chapter shows
    "03_contrastive": ["curves"],
    "04_soft_labels": ["curves", "labels"],
    "05_bipartite_matching": ["curves", "curves", "alignment"],
    "06_fused_mlm": ["curves", "guesser"],
    "07_lightclip": ["curves", "alignment"],
    "08_neighbour_mining": ["neighbours"],
    "09_clip_ping": ["curves", "map"],
    "10_what_neighbours_buy": ["curves"],
    "11_to_cc3m_scale": ["curves"],
    "13_use_it": ["search"],
    "14_capstone": ["curves", "curves", "board", "map"],
}

pytestmark = pytest.mark.skipif(
    lab.find_browser() is None, reason="no browser is installed (chromium or google-chrome); the notebooks run without one, too"
)


@pytest.fixture(scope="session")
def running(tmp_path_factory, driver):
    with lab.running_lab(tmp_path_factory.mktemp("lab"), lab.find_browser(), driver) as found:
        yield found


def test_every_kind_of_exhibit_is_used_somewhere():
    assert {kind for kinds in SHOWN.values() for kind in kinds} == set(hands.HANDS)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_and_its_exhibits_can_be_used(path, running):
    PICTURES.mkdir(parents=True, exist_ok=True)
    with running.open(f"notebooks/{path.name}") as sheet:
        sheet.run_all(400)
        assert sheet.failures() == []
        exhibits = sheet.exhibits()
        assert [kind for kind, _ in exhibits] == SHOWN.get(path.stem, [])
        for number, (kind, exhibit) in enumerate(exhibits):
            exhibit.scroll_into_view_if_needed()
            hands.HANDS[kind](sheet.page, exhibit)
            exhibit.screenshot(path=PICTURES / f"{path.stem}-{number}-{kind}.png")
            assert exhibit.locator("[role=alert]").inner_text() == ""
        source = (running.notebooks / path.name).read_text(encoding="utf-8")
        assert hands.explorers(sheet.page) == len(re.findall(r'"(?:\w+ = )?Explorer\(', source))
        assert sheet.errors == [] and running.refused == []


def test_an_exercise_is_answered_by_keyboard_and_its_folded_check_answers(running):
    """What a learner does: an answer into the cell, Shift+Enter; the next cell, folded, checks with another Shift+Enter."""
    with running.open("notebooks/00_preflight.ipynb") as sheet:
        sheet.run_all(120)
        cells, keyboard = sheet.page.locator(".jp-NotebookPanel .jp-Cell"), sheet.page.keyboard
        number = next(n for n in range(cells.count()) if cells.nth(n).inner_text().find("words = ...") >= 0)
        place, check = cells.nth(number), cells.nth(number + 1)
        check.get_by_text("Not answered yet").wait_for()
        assert check.inner_text().splitlines()[0].startswith("# checks the cell above")  # no more of it is in sight
        assert "max(" not in check.inner_text()
        for answer, told in (("words = 0", "Not yet"), ("words = max(len(c.split()) for c in pairs.captions)", "Right.")):
            place.locator(".cm-content").click()
            keyboard.press("Control+A")
            keyboard.insert_text(answer)
            keyboard.press("Shift+Enter")
            keyboard.press("Shift+Enter")
            check.get_by_text(told).wait_for()
        check.scroll_into_view_if_needed()
        sheet.page.screenshot(path=PICTURES / "exercise.png")


def test_an_error_in_an_exhibit_is_seen(running, tmp_path):
    """Data that no exhibit can show: the page says so, where the exhibit stands."""
    broken = nbformat_with(
        "from lcl.course.widgets import AlignmentInspector, Exhibit\n"
        "from lcl.course import plots\n"
        "class Broken(Exhibit):\n    _esm = AlignmentInspector._esm\n"
        'Broken("a broken exhibit", {"scenes": []}, plots.Chart(1, 1, "none"))'
    )
    (running.notebooks / "broken.ipynb").write_text(broken, encoding="utf-8")
    with running.open("notebooks/broken.ipynb") as sheet:
        sheet.run_all(120)
        alert = sheet.page.locator("[data-lcl] [role=alert]")
        alert.get_by_text("This figure met an error").wait_for()


def test_a_fresh_notebook_shows_every_picture_and_no_lost_widget(running):
    """As it is committed, before anything runs: stills, and nothing that asks for a model that is gone."""
    with running.open("notebooks/05_bipartite_matching.ipynb") as sheet:
        pictures = sheet.page.locator(".jp-NotebookPanel .jp-RenderedImage img")
        pictures.first.wait_for()
        assert pictures.count() >= 5
        assert sheet.page.get_by_text("Error displaying widget").count() == 0
        assert sheet.page.locator(".jp-NotebookPanel [data-lcl]").count() == 0
        sheet.page.screenshot(path=PICTURES / "fresh.png")


def nbformat_with(source: str) -> str:
    """A notebook of one cell."""
    import nbformat

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    return nbformat.writes(notebook)
