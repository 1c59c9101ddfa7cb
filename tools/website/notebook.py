"""A notebook as a page: its text, its code and its outputs, with a living figure in the place of its still picture."""

from __future__ import annotations

import base64
import re
from pathlib import Path

import bleach
import nbformat

from website.figures import Figure, kinds_of
from website.markdown import Renderer, escape, in_colours, to_html
from website.place import Site

TERMINAL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
TABLE = {"table", "caption", "thead", "tbody", "tr", "th", "td", "strong"}
NOTES = {
    "redrawn": "In the notebook, controls above this picture draw it again.",
    "moving": "In the notebook, this figure is interactive.",
}


def to_page(path: Path, site: Site, figures: list[Figure]) -> tuple[str, Renderer, list[Figure]]:
    """A chapter's HTML, what was met while it was made, and the figures that stand on it.

    Args:
        path: of the notebook.
        figures: living figures of this chapter, in the order of its cells. One that has no place in the cells follows at the end.
    """
    renderer = Renderer(site, path.relative_to(site.root).as_posix())
    waiting, placed, parts = list(figures), [], []

    def alive(kind: str) -> Figure | None:
        found = next((figure for figure in waiting if figure.kind == kind), None)
        if found:
            waiting.remove(found)
            placed.append(found)
        return found

    for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
        if cell.cell_type == "markdown":
            parts.append(to_html(cell.source, renderer))
        elif cell.cell_type == "code":
            parts.append(code(cell))
            kinds, pictures = kinds_of(cell.source), 0
            for output in cell.outputs:
                if "image/png" in output.get("data", {}):
                    kind = kinds[min(pictures, len(kinds) - 1)] if kinds else None
                    still = picture(output, site, f"{path.stem}-{number:03d}-{pictures}.png")
                    note = "moving" if kind else "redrawn" if "Explorer(" in cell.source else ""
                    parts.append(figure_or_picture(alive(kind) if kind else None, still, note))
                    pictures += 1
                else:
                    parts.append(words(output))
            parts += [figure_or_picture(alive(kind), "") for kind in kinds[pictures:]]
    left = [figure_or_picture(alive(figure.kind), "") for figure in list(waiting)]
    if left:
        parts += [to_html("## More interactive figures", renderer), *left]
    return "\n".join(filter(None, parts)), renderer, placed


def code(cell: nbformat.NotebookNode) -> str:
    """A code cell; one that the notebook folds is folded here, too."""
    made = in_colours(cell.source, "python")
    if cell.metadata.get("jupyter", {}).get("source_hidden"):
        first = cell.source.strip().split("\n")[0]
        return f"<details><summary><code>{escape(first)}</code></summary>{made}</details>"
    return made


def words(output: nbformat.NotebookNode) -> str:
    """An output in text: what was printed, a value, or an error; of HTML the tables alone, without styles and scripts."""
    table = output.get("data", {}).get("text/html", "")
    if "<table" in table:
        table = bleach.clean(table, tags=TABLE, attributes={"th": ["scope"], "td": ["class"]}, strip=True)
        return f'<div class="output wide" tabindex="0">{table}</div>'
    text = output.get("text") or output.get("data", {}).get("text/plain") or "\n".join(output.get("traceback", []))
    text = TERMINAL.sub("", text).rstrip()
    return f'<pre class="output" tabindex="0">{escape(text)}</pre>' if text else ""


def picture(output: nbformat.NotebookNode, site: Site, name: str) -> str:
    """A picture that a cell drew, with its words."""
    content = base64.b64decode(output.data["image/png"])
    alt = output.metadata.get("image/png", {}).get("alt", "")
    width, height = (int.from_bytes(content[at : at + 4], "big") for at in (16, 20))
    address = site.keep_picture(name, content)
    return f'<img class="still" alt="{escape(alt)}" src="{address}" width="{width}" height="{height}" loading="lazy">'


def figure_or_picture(figure: Figure | None, still: str, note: str = "") -> str:
    """The place of a living figure, with the still picture for where scripts do not run; or the picture and a note."""
    if figure:
        return f'<div class="exhibit" id="{figure.name}" data-exhibit="{figure.name}" data-kind="{figure.kind}">{still}</div>'
    caption = f"<figcaption>{NOTES[note]}</figcaption>" if note else ""
    return f"<figure>{still}{caption}</figure>" if still else ""
