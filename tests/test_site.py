"""The site: every document and notebook has a page, links lead somewhere, nothing is asked of others, no text becomes HTML."""

import dataclasses
import html.parser
import json
import re
import shutil
import subprocess
from pathlib import Path

import nbformat
import pytest
from course.test_widgets import exhibits, pairs  # noqa: F401

from lcl.course.tables import Table
from website import api, figures, notebook
from website.build import build, sentences
from website.exhibits import MAKERS, figure_of
from website.markdown import Renderer, to_html
from website.place import ROOT, Site, chapters, documents
from website.search import entries

HOSTILE = "<img src=x onerror=alert(1)></script><script>alert(2)</script> \" ' & \u2028"
LIMIT = 40e6  # bytes of the site


class Read(html.parser.HTMLParser):
    """What a page is made of: its tags with their attributes, and the ids in it."""

    def __init__(self, text: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    @property
    def ids(self) -> list[str]:
        return [given["id"] for _, given in self.tags if given.get("id")]


def wanted() -> list[tuple[str, str]]:
    """All interactive figures of the notebooks as they are: chapter and kind."""
    found = []
    for path in chapters():
        for cell in nbformat.read(path, as_version=4).cells:
            found += [(path.stem, kind) for kind in figures.kinds_of(cell.source) if cell.cell_type == "code"]
    return found


@pytest.fixture(scope="module")
def made(exhibits):  # noqa: F811
    """A small figure for each of the notebooks' figures."""
    return [
        dataclasses.replace(figure_of(f"{chapter}-{number}", exhibits[kind]), label=f"{kind} {HOSTILE}")
        for number, (chapter, kind) in enumerate(wanted())
    ]


@pytest.fixture(scope="module")
def site(made, tmp_path_factory):
    """A site's folder, its pages, and what each is made of."""
    folder, tried = tmp_path_factory.mktemp("site"), tmp_path_factory.mktemp("tried")
    (tried / "about.js").write_text("globalThis.LCL.tryout.about = {};\n", encoding="utf-8")
    pages = build(folder, made, tried=tried)
    return folder, pages, {page.name: Read((folder / page.name).read_text(encoding="utf-8")) for page in pages}


def test_every_document_and_notebook_has_a_page(site):
    folder, pages, _ = site
    names = [page.name for page in pages]
    assert len(set(names)) == len(names)
    assert len([page for page in pages if page.part == "Chapters"]) == len(chapters())
    assert {f"{path.stem}.html" for path in (*chapters(), *(ROOT / "docs").glob("*.md"))} <= set(names)
    assert len(documents()) == len(set(documents())) and {"index.html", "map.html", "readme.html", "api.html"} <= set(names)
    assert {path.name for path in folder.glob("*.html")} == set(names)


def test_links_and_pictures_lead_somewhere(site):
    folder, _, read = site
    for name, page in read.items():
        for tag, given in page.tags:
            address = given.get("href" if tag in ("a", "link") else "src")
            if address is None or address.startswith(("https://", "mailto:", "data:,")):
                continue
            path, _, anchor = address.partition("#")
            assert not path or (folder / path).is_file(), f"{name}: {address}"
            there = read[path or name] if (path or name).endswith(".html") else None
            assert not anchor or name == "figures-alone.html" or anchor in there.ids, f"{name}: {address}"
            assert address != "#", f"{name}: a link that leads nowhere"


def test_nothing_is_asked_of_others(site):
    """Only links that a reader sees lead away; what a page loads lies in the site's folder."""
    folder, _, read = site
    for name, page in read.items():
        for tag, given in page.tags:
            outside = [each for each in given.values() if each and re.match(r"(?:https?:)?//", each)]
            assert not outside or tag in ("a", "math", "svg"), f"{name}: {tag} {outside}"
            assert not [each for each in given if each.startswith("on")], f"{name}: {tag} {given}"
            assert tag not in ("iframe", "object", "embed", "base", "form") or given == {"role": "search", "id": "search"}
    for path in (folder / "assets").rglob("*"):
        if path.suffix in (".js", ".css"):
            text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
            if path.parent.name != "figures" or path.stem in figures.KINDS.values():
                asks = re.search(r"https?://|\bfetch\(|XMLHttpRequest|WebSocket|@import|innerHTML", text)
                assert path.name == "index.js" or not asks, path.name
        if path.suffix == ".svg":
            assert not re.search(r'href="http|<script|url\(http', path.read_text(encoding="utf-8")), path.name


def test_it_is_small(site):
    folder, _, _ = site
    assert 1e6 < sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < LIMIT


def test_no_interactive_figure_is_lost(site, made):
    folder, _, read = site
    for chapter, kinds in {chapter: [k for c, k in wanted() if c == chapter] for chapter, _ in wanted()}.items():
        shown = [given["data-kind"] for _, given in read[f"{chapter}.html"].tags if "data-exhibit" in given]
        assert sorted(shown) == sorted(kinds), chapter
    alone = [given["href"] for tag, given in read["figures-alone.html"].tags if tag == "a" and "data-kind" in given]
    assert [address[1:] for address in alone] == [figure.name for figure in made]
    for figure in made:
        assert (folder / "assets" / "figures" / f"{figure.name}.js").exists()
    assert {figure.kind for figure in made} == set(figures.KINDS.values())


def test_makers_are_of_chapters_that_exist_and_make_what_these_show():
    names = {path.stem.partition("_")[2]: path.stem for path in chapters()}
    assert set(MAKERS) <= set(names)
    for chapter, makers in MAKERS.items():
        calls = len([kind for stem, kind in wanted() if stem == names[chapter]])
        assert calls <= len(makers) <= calls + 1, chapter  # a loop makes more figures than it has calls


def test_without_figures_the_still_pictures_stay(tmp_path):
    pages = build(tmp_path, [])
    assert not [page for page in pages if page.alive]
    text = (tmp_path / "09_clip_ping.html").read_text(encoding="utf-8")
    assert text.count('class="still"') >= 2 and "In the notebook, this figure is interactive." in text
    assert "inspector.gif" in (tmp_path / "index.html").read_text(encoding="utf-8")


def test_a_label_is_shown_as_it_is(site, made):
    folder, _, read = site
    assert not any(tag == "img" and given.get("src") == "x" for page in read.values() for tag, given in page.tags)
    for figure in made:
        text = figures.as_data(figure)
        assert "</script" not in text and "\u2028" not in text
        told = text.partition(" = ")[2].rstrip(";\n")
        assert json.loads(told) == {"label": figure.label, "data": json.loads(json.dumps(figure.data))}


def test_texts_and_outputs_of_a_notebook_are_shown_as_they_are(tmp_path):
    picture = {"image/png": "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="}
    outputs = [
        nbformat.v4.new_output("stream", name="stdout", text=f"\x1b[31m{HOSTILE}\x1b[0m"),
        nbformat.v4.new_output("display_data", picture, metadata={"image/png": {"alt": HOSTILE}}),
        nbformat.v4.new_output("display_data", {"text/html": HOSTILE, "text/plain": HOSTILE}),
    ]
    links = f"[a link](javascript:alert(1)) ![{HOSTILE}](javascript:alert(1))"
    cells = [
        nbformat.v4.new_markdown_cell(f"# {HOSTILE}\n\n{links}\n\n{HOSTILE}"),
        nbformat.v4.new_code_cell(f"x = '''{HOSTILE}'''", outputs=outputs, metadata={"jupyter": {"source_hidden": True}}),
    ]
    (tmp_path / "notebooks").mkdir()
    path = tmp_path / "notebooks" / "00_hostile.ipynb"
    nbformat.write(nbformat.v4.new_notebook(cells=cells), path)
    for document in ("README.md", "data/README.md"):
        (tmp_path / document).parent.mkdir(exist_ok=True)
        (tmp_path / document).write_text("# x", encoding="utf-8")
    body, _, _ = notebook.to_page(path, Site(tmp_path / "site", tmp_path), [])
    tags = Read(body).tags
    assert {tag for tag, _ in tags} <= {"h1", "p", "a", "details", "summary", "pre", "code", "span", "figure", "img"}
    assert [given["alt"] for tag, given in tags if tag == "img"] == [HOSTILE]
    assert not any((value or "").startswith("javascript") for _, given in tags for value in given.values())
    assert "\x1b" not in body


def test_a_table_of_results_is_a_table_and_nothing_else_of_an_outputs_html_is_kept():
    def shown(html: str) -> str:
        return notebook.words(nbformat.v4.new_output("display_data", data={"text/html": html, "text/plain": "as text"}))

    table = Table([["split", "clip"], ["R@1 <b>", "70.4"]], "Percent.", frozenset({(1, 1)}))
    found = shown(table._repr_html_())
    assert "<caption>Percent. (bold: the highest of its row)</caption>" in found and "style=" not in found
    assert '<th scope="row">R@1 &lt;b&gt;</th><td><strong>70.4</strong></td>' in found
    hostile = shown("<table onclick=hurt()><tr><td><script>hurt()</script><img src=x onerror=hurt()>1</td></tr></table>")
    assert not re.search("<script|<img|on[a-z]+=", hostile) and "<td>" in hostile
    assert shown("<b>bold</b>") == '<pre class="output" tabindex="0">as text</pre>'


def test_formulas_become_mathml_and_code_stays_code(tmp_path):
    renderer = Renderer(Site(tmp_path), "README.md")
    text = "# A $x_i$\n\n$$\\sum_i x_i$$\n\n`$x$` and\n\n```python\ny = '$x$'\n```\n\n"
    body = to_html(f"{text}<details>\n<summary>Open `it`</summary>\n\n*x*\n\n</details>", renderer)
    assert body.count("<math") == 2 and body.count("$x$") == 2
    assert "<details>\n<summary>Open <code>it</code></summary>" in body and "</details>" in body
    assert renderer.headings[1].anchor == "a"


def test_no_command_of_a_formula_is_left_over(site):
    """What the converter does not know, it shows as it is."""
    folder, pages, _ = site
    for page in pages:
        text = (folder / page.name).read_text(encoding="utf-8")
        assert not [found for found in re.findall(r"<math[\s\S]*?</math>", text) if "\\" in found], page.name


def test_intervals_in_a_table_stay_on_one_line(tmp_path):
    text = "| recipe | R@1 |\n|---|---:|\n| `clip` | +1.1 (-2.1 to +4.2) |\n\nnone (1 to 2)"
    body = to_html(text, Renderer(Site(tmp_path), "README.md"))
    assert body.count('<span class="whole">(-2.1 to +4.2)</span>') == body.count("whole") == 1


def test_equal_headings_have_anchors_of_their_own(tmp_path):
    renderer = Renderer(Site(tmp_path), "README.md")
    to_html("# A\n\n## B `c.d`\n\nx\n\n## B `c.d`\n\ny\n\n## B cd", renderer)
    assert [heading.anchor for heading in renderer.headings[1:]] == ["a", "b-cd", "b-cd-1", "b-cd-2"]
    both = [["p.html#b-cd", "A", "B c.d", "x"], ["p.html#b-cd-1", "A", "B c.d", "y"]]
    assert entries("p.html", "A", renderer.headings)[1:3] == both


def test_the_first_page_has_three_sentences_and_two_commands(site):
    folder, _, _ = site
    text = (folder / "index.html").read_text(encoding="utf-8")
    assert "make lab" in text and "make test" in text and "make run" not in text
    three = sentences(Site(folder / "unused"))
    assert three.count(". ") == 2 and three.endswith(".")
    first, last = three.split(". ")[0], three.split(". ")[-1]  # the limits come last
    words = [re.sub(r"[^a-z]", "", part.split("](")[0].lower())[:20] for part in (first, last)]
    plain = re.sub(r"<[^>]+>|[^a-z]", "", text[text.index("<article") :].lower())
    assert plain.index(words[0]) < plain.index("seethechapters") < plain.index("makelab") < plain.index(words[1])


def test_the_reference_has_every_public_name(site):
    """Every name that `lcl` exports, with what its docstring says."""
    folder, _, read = site
    rooms = {room.name: room for room in api.rooms(ROOT / "lcl")}
    assert {"lcl", "lcl.models", "lcl.losses", "lcl.data", "lcl.train", "lcl.cli"} <= set(rooms)
    for room, name in (("lcl.losses", "info_nce"), ("lcl.train", "Training"), ("lcl.course", "NeighbourBrowser")):
        assert name.lower() in read[rooms[room].page].ids
    docstring = "Do it.\n\nArgs:\n    x: a number,\n        of two lines.\n    y: another.\n\nReturns:\n    A sum.\n\nAfter."
    text = api.document(docstring)
    assert "**Arguments**\n\n- `x`: a number,\n    of two lines.\n- `y`: another.\n\n**Returns**\n\nA sum.\n\nAfter." in text
    assert "_" not in [name[0] for page in rooms.values() for name in page.modules]


def test_signatures_are_cut_at_their_own_commas():
    assert api.split("a: dict[str, int]={'x, y': 1}, *, b=(1, 2)") == ["a: dict[str, int]={'x, y': 1}", "*", "b=(1, 2)"]


@pytest.mark.skipif(shutil.which("node") is None, reason="node, which runs scripts without a browser, is not installed")
def test_the_scripts_pass_their_own_tests():
    done = subprocess.run(["node", "--test"], cwd=ROOT / "tools" / "exhibits", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert int(re.search(r"^# pass (\d+)$|^ℹ pass (\d+)$", done.stdout, flags=re.M)[0].split()[-1]) >= 15


@pytest.mark.skipif(
    not (ROOT / "tools" / "exhibits" / "node_modules").exists() or shutil.which("npm") is None,
    reason="the scripts' lint is not installed; `npm ci` in tools/exhibits installs it",
)
@pytest.mark.parametrize("task", ["lint", "types"])
def test_the_scripts_pass_lint_and_types(task):
    done = subprocess.run(["npm", "run", "--silent", task], cwd=ROOT / "tools" / "exhibits", capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_figures_script_is_plain_and_closed():
    for kind in figures.KINDS.values():
        text = figures.as_script(kind)
        assert text.startswith('"use strict";\n(() => {') and text.endswith("})();\n") and "export" not in text
    assert Path(figures.SCRIPTS / "common.css").exists()
