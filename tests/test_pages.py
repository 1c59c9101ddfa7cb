"""Pages of results are made from results/ alone, to the byte; tables of saved runs in notebooks are those of results/."""

import ast
import copy
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
from jinja2 import meta
from PIL import Image

import pages
from lcl.course import study
from refresh_notebooks import BEFORE, shows_results

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def made():
    return pages.pages()


def test_every_page_and_figure_is_that_of_the_results_to_the_byte(made):
    names = {"README.md", "results.md", "figures.md", "claims.md", "leaderboard.md", "peers.md"}
    assert names | {"gains.png", "costs.png", "growth.png"} <= {path.name for path in made}
    other = [path.name for path, data in made.items() if not path.exists() or not pages.same(path, data)]
    assert other == [], "run `python tools/pages.py`"


def test_a_changed_page_or_figure_is_noticed(made, tmp_path):
    for name, other in (("results.md", "claims.md"), ("growth.png", "gains.png")):
        data, path = made[ROOT / "docs" / name], tmp_path / name
        path.write_bytes(data)
        assert pages.same(path, data) and not pages.same(path, made[ROOT / "docs" / other])
    drawn = Image.open(io.BytesIO(made[ROOT / "docs" / "growth.png"])).convert("RGB")
    drawn.paste((90, 90, 90), (100, 100, 140, 110))  # a word
    drawn.save(tmp_path / "growth.png")
    assert not pages.same(tmp_path / "growth.png", made[ROOT / "docs" / "growth.png"])


@pytest.mark.slow
def test_making_them_twice_gives_the_same_bytes(made):
    assert pages.pages() == made


@pytest.mark.slow
def test_another_number_in_results_changes_the_pages(made, monkeypatch):
    """No test that cannot fail: one arm a little better, and README, results and ledger say something else."""
    kept = copy.deepcopy(study.read_study())
    for run in kept.runs["clip-ping"].values():
        for way in ("image_to_text", "text_to_image"):
            run["metrics"]["new_scenes"][f"{way}_recall@1"]["value"] += 0.01
    monkeypatch.setattr(study, "read_study", lambda: kept)
    changed = {path.name for path, data in pages.pages().items() if made[path] != data}
    assert {"README.md", "results.md", "figures.md", "claims.md", "leaderboard.md", "gains.png", "costs.png"} <= changed


@pytest.mark.slow
def test_what_is_missing_of_a_study_is_named_in_the_pages(monkeypatch):
    kept = copy.deepcopy(study.read_study())
    kept.runs["clip-ping"].clear()
    kept.wrong["clip-ping-laptop-seed0.json"] = "it is damaged"
    monkeypatch.setattr(study, "read_study", lambda: kept)
    made = {path.name: data.decode() for path, data in pages.pages().items() if path.suffix == ".md"}
    assert "- `clip-ping-laptop-seed0.json`: it is damaged." in made["results.md"] and "not final" in made["results.md"]
    assert "*left out: No run of clip-ping is saved" in made["claims.md"]  # in the place of the numbers
    assert "| clip-ping |" not in made["README.md"].split(pages.BEGIN)[1].split(pages.END)[0]


@pytest.mark.parametrize("name", sorted(path.name for path in pages.TEMPLATES.glob("*.jinja")))
def test_a_template_names_nothing_that_is_not_there(name):
    """Not even in a part that is left out as long as its runs are not there."""
    tree = pages.ENVIRONMENT.parse((pages.TEMPLATES / name).read_text(encoding="utf-8"))
    known = set(pages.vocabulary(pages.load_bench(ROOT / "results" / "bench.json"))) | {"figure"}
    assert meta.find_undeclared_variables(tree) <= known


def test_only_what_has_no_runs_yet_is_left_out(made):
    """Not by a slip of the pen: a name in a template that there is not would be left out, too."""
    texts = [data.decode() for path, data in made.items() if path.suffix == ".md"]
    told = [words for text in texts for words in re.findall(r"\*left out: (.+?)\*", text)]
    assert [words for words in told if not re.match("No run of|.* fewer than two seeds|.* no seed in common", words)] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tables_of_kept_runs_in_a_notebook_are_those_of_results(path):
    """Cells that need nothing but results/ are run again: they say what they said when the notebook was made, figures too."""
    shown: list[object] = []
    scope = {"display": shown.append}
    exec(BEFORE, scope)
    for cell in filter(shows_results, nbformat.read(path, as_version=4).cells):
        shown.clear()
        told, tree = io.StringIO(), ast.parse(cell.source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with redirect_stdout(told):
            exec(compile(tree, path.name, "exec"), scope)
            if last:
                shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), scope))
        figures = [each.alt if hasattr(each, "alt") else repr(each) for each in shown if each is not None]  # or a table
        said = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        words = [output.data["text/plain"] for output in cell.outputs if output.output_type != "stream"]
        assert (said, words) == (told.getvalue(), figures), "run `python tools/refresh_notebooks.py --results`"


def test_what_a_notebook_shows_of_results_is_tagged():
    """But for a cell that times towers, too, and the checks of exercises."""
    calls = re.compile(r"(?<!\.)\b(comparison(_table)?|gains?(_table)?|values|arms_table|saved_runs|load_bench)\(|\bstudy\.")
    for path in NOTEBOOKS:
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code" and calls.search(cell.source) and cell.outputs:
                tagged = "results" in cell.metadata.get("tags", [])
                assert tagged or "make_language(" in cell.source or "# checks" in cell.source, (path.stem, number)


def test_there_are_tables_to_check():
    shown = [path.stem[:2] for path in NOTEBOOKS if any(map(shows_results, nbformat.read(path, as_version=4).cells))]
    assert shown == ["04", "05", "06", "07", "09", "10", "11", "14"]
