"""Put the site together: pages, pictures, figures, the search, and how one gets from page to page."""

from __future__ import annotations

import re
import shutil
from collections import defaultdict
from dataclasses import dataclass, field
from pathlib import Path

import jinja2

from website import api, figures, notebook, search
from website.launch import buttons
from website.markdown import Heading, Renderer, in_colours, to_html
from website.place import ROOT, Site, chapters, documents, page_of

HERE = Path(__file__).parent
MENU = {  # documents by the part of the menu in which they stand
    "Results": ["docs/results.md", "docs/figures.md", "docs/claims.md", "docs/leaderboard.md", "docs/peers.md", "docs/scale.md",
                "docs/dead-ends.md", "docs/plan.md", "docs/model-card.md", "docs/paper.md"],
    "Help": ["docs/symptoms.md", "docs/teaching.md", "docs/handout.md", "README.md", "data/README.md"],
}
EXAMPLE = "two dogs and a cat"  # the first search of the page on which one tries the model
SHORT = {"index.html": "Start", "readme.html": "Set-up and commands", "paper.html": "A draft of a paper"}  # in the menu


@dataclass
class Page:
    """A page before it is written.

    Attributes:
        name: its file.
        title: its heading.
        body: HTML.
        headings: for the table of contents and the search; none is searched if it is empty.
        alive: the interactive figures that stand on it.
        part: the part of the menu that it belongs to.
        launch: where a chapter can be run without installing: names and addresses.
    """

    name: str
    title: str
    body: str
    headings: list[Heading] = field(default_factory=list)
    alive: list[figures.Figure] = field(default_factory=list)
    part: str = "More"
    launch: list[tuple[str, str]] = field(default_factory=list)

    @property
    def short(self) -> str:
        """Its title in the menu."""
        return SHORT.get(self.name, self.title)


def title_of(headings: list[Heading], otherwise: str) -> str:
    """The first heading of a page."""
    return next((heading.text for heading in headings if heading.text), otherwise)


def document_pages(site: Site) -> list[Page]:
    """A page a document."""
    pages, parts = [], {path: part for part, paths in MENU.items() for path in paths}
    for path in documents(site.root):
        source = path.relative_to(site.root).as_posix()
        renderer = Renderer(site, source)
        body = to_html(path.read_text(encoding="utf-8"), renderer)
        title = title_of(renderer.headings, path.stem)
        pages.append(Page(site.pages[source], title, body, renderer.headings, part=parts.get(source, "Project")))
    return pages


def chapter_pages(site: Site, made: list[figures.Figure], repository: str = "") -> list[Page]:
    """A page a chapter, with its living figures."""
    pages, of = [], defaultdict(list)
    for figure in made:
        of[figure.chapter].append(figure)
    for path in chapters(site.root):
        body, renderer, alive = notebook.to_page(path, site, of[path.stem])
        title = title_of(renderer.headings, path.stem)
        launch = buttons(repository, path.stem) if repository else []
        pages.append(Page(f"{path.stem}.html", title, body, renderer.headings, alive, "Chapters", launch))
    return pages


def reference_pages(site: Site) -> list[Page]:
    """A page a room of the library, and one that lists them."""
    pages, listed = [], ["# The reference of `lcl`", "Made from the docstrings. A module imports only from rooms below its own."]
    for room in api.rooms(site.root / "lcl"):
        renderer = Renderer(site, f"lcl/{room.name}")
        body = to_html(api.to_markdown(room), renderer, mathematics=False)
        pages.append(Page(room.page, f"The reference of {room.name}", body, renderer.headings, part="Reference"))
        listed.append(f"- [`{room.name}`](https://{room.page}): " + ", ".join(f"`{name}`" for name in room.modules))
    renderer = Renderer(site, "lcl")
    body = to_html("\n\n".join(listed[:2]) + "\n\n" + "\n".join(listed[2:]), renderer)
    body = body.replace('href="https://api-', 'href="api-')
    return [Page("api.html", "API reference", body, renderer.headings, part="Reference"), *pages]


def source_pages(site: Site) -> list[Page]:
    """A page a file of the project to which some page links: its text, or the names in a folder."""
    pages = []
    for source, name in sorted(site.sources.items()):
        path = site.root / source
        if path.is_dir():
            text, language = "\n".join(sorted(each.name for each in path.iterdir() if each.name[0] not in "._")), "text"
        else:
            text, language = path.read_text(encoding="utf-8"), path.name if "." in path.name[1:] else "text"
        pages.append(Page(name, source, f"<h1>{jinja2.filters.escape(source)}</h1>{in_colours(text, language)}"))
    return pages


def abilities(site: Site) -> dict[str, tuple[str, str]]:
    """By notebook what its reader will be able to do, and the minutes of work: from the table in README."""
    rows = re.findall(r"^\| \[[^]]*\]\(notebooks/(\w+)\.ipynb\) \| (.+?) \| *(\d+) \|", readme(site), flags=re.M)
    return {name: (able, minutes) for name, able, minutes in rows}


def readme(site: Site) -> str:
    """The text of README."""
    return (site.root / "README.md").read_text(encoding="utf-8")


def sentences(site: Site, number: int = 3) -> str:
    """The first sentences of README below its heading, as Markdown."""
    first = readme(site).split("\n\n")[1].replace("\n", " ")
    return " ".join(re.split(r"(?<=\.) (?=[A-Z])", first)[:number])


def commands(site: Site) -> list[str]:
    """The two commands of README with what each does."""
    return re.search(r"```sh\n(make lab[\s\S]*?)```", readme(site))[1].strip().splitlines()[:2]


def parts_of_the_course() -> list[tuple[str, list[str]]]:
    """The parts of the course, each with the numbers of its chapters, as the map in every chapter draws them."""
    from diagrams.basics import PARTS  # it imports matplotlib, which takes a second

    return [(name, [f"{number:02d}" for number, _ in inside]) for name, _, inside in PARTS]


def start_page(site: Site, made: list[figures.Figure], tried: bool) -> tuple[Page, dict]:
    """The landing page, and what its template shows. tried: whether there is a page on which one tries a model."""
    moving = [figure for figure in made if figure.kind == "alignment"][-1:]
    *first, limits = re.split(r"(?<=\.) (?=[A-Z])", sentences(site))
    intro, limits = (to_html(text, Renderer(site, "README.md")) for text in (" ".join(first), limits))
    picture = site.picture("README.md", "docs/inspector.gif")
    return Page("index.html", "Lightweight CLIP Lab", "", alive=moving, part="Start"), {
        "intro": intro, "limits": limits, "commands": commands(site), "moving": moving, "picture": picture, "tried": tried,
    }  # fmt: skip


def map_page(site: Site, lessons: list[Page]) -> tuple[Page, dict]:
    """The course map: chapters by part, with what their readers will be able to do, and how long they work."""
    able, by_number = abilities(site), {page.name[:2]: page for page in lessons}
    parts = [(name, [by_number[number] for number in numbers if number in by_number]) for name, numbers in parts_of_the_course()]
    mapped = {page.name for _, pages in parts for page in pages}
    parts += [("More", rest)] if (rest := [page for page in lessons if page.name not in mapped]) else []
    cards = [
        (name, [{"page": page, "able": to_html(able.get(page.name[:-5], ("", ""))[0], Renderer(site, "README.md")),
                 "minutes": able.get(page.name[:-5], ("", ""))[1]} for page in pages])
        for name, pages in parts
    ]  # fmt: skip
    headings = [Heading(1, "", "Course map", [f"{page.title} {able.get(page.name[:-5], ('',))[0]}" for page in lessons])]
    return Page("map.html", "Course map", "", headings, part="Start"), {"parts": cards}


def figures_page(made: list[figures.Figure], lessons: list[Page]) -> tuple[Page, dict]:
    """The page that opens each interactive figure alone."""
    titles = {page.name[:-5]: page.title for page in lessons}
    headings = [Heading(1, "", "Interactive figures", [figure.label for figure in made])]
    return Page("figures-alone.html", "Interactive figures", "", headings, part="Start"), {"titles": titles, "made": made}


def try_page() -> tuple[Page, dict]:
    """The page that searches scenes with a trained model in the browser."""
    words = "find scenes by a caption and captions by a picture; words and patches; ONNX Runtime Web; int8 towers in the browser"
    headings = [Heading(1, "", "Try a trained model", [words])]
    return Page("try.html", "Try a trained model", "", headings, part="Start"), {"example": EXAMPLE}


def menu_of(pages: list[Page]) -> dict[str, list[Page]]:
    """The menu: parts, and the pages of each."""
    menu: dict[str, list[Page]] = {part: [] for part in ("Start", "Chapters", *MENU, "Reference", "Project")}
    for page in pages:
        if page.part in menu and not (page.part == "Reference" and page.name != "api.html"):
            menu[page.part].append(page)
    order = [page_of(path) for paths in MENU.values() for path in paths]
    for part in MENU:
        menu[part].sort(key=lambda page: order.index(page.name))
    return menu


def build(
    target: Path, made: list[figures.Figure], root: Path = ROOT, repository: str = "", tried: Path | None = None
) -> list[Page]:
    """Write the site.

    Args:
        target: its folder, which is emptied before.
        made: the living figures.
        root: the project.
        repository: OWNER/NAME on GitHub, for buttons that open chapters in Colab and Binder; "" for none.
        tried: the folder of `website.tryout.prepared`; without it there is no page on which one tries a model.

    Returns:
        All pages.
    """
    shutil.rmtree(target, ignore_errors=True)
    site = Site(target, root)
    lessons = chapter_pages(site, made, repository)
    alive = [figure for page in lessons for figure in page.alive]
    special = {page.name: (page, values) for page, values in (
        start_page(site, alive, tried is not None), map_page(site, lessons), *([try_page()] if tried else []),
        figures_page(alive, lessons))}  # fmt: skip
    pages = [page for page, _ in special.values()] + lessons + document_pages(site) + reference_pages(site)
    menu, index = menu_of(pages), []
    for page in pages:
        index += search.entries(page.name, page.title, page.headings)
    pages += source_pages(site)
    templates = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"), autoescape=True, trim_blocks=True, undefined=jinja2.StrictUndefined
    )
    for number, page in enumerate(pages):
        values = special.get(page.name, (page, {}))[1]
        name = page.name if page.name in special else "page.html"
        at = lessons.index(page) if page in lessons else None
        beside = (lessons[at - 1] if at else None, lessons[at + 1] if at + 1 < len(lessons) else None) if at is not None else ()
        text = templates.get_template(f"{name}.jinja").render(
            page=page, menu=menu, scripts=figures.scripts_of(page.alive), beside=beside, number=number,
            contents=[heading for heading in page.headings if heading.level == 2 and heading.text], **values,
        )  # fmt: skip
        (target / page.name).write_text(text, encoding="utf-8")
    figures.write(alive, target)
    if tried:
        shutil.copytree(tried, target / "assets" / "try")
    (target / "assets" / "index.js").write_text(search.as_script(index), encoding="utf-8")
    for path in (HERE / "static").iterdir():
        shutil.copy(path, target / "assets" / path.name)
    common = (figures.SCRIPTS / "common.css").read_text(encoding="utf-8")
    (target / "assets" / "figures.css").write_text(common, encoding="utf-8")
    return pages
