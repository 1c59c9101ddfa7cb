"""The site's interactive figures: each is the script of its kind, as a plain script, and a file with its data."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

from website.place import ROOT

SCRIPTS = ROOT / "lcl" / "course" / "widgets"
KINDS = {  # the class that a chapter calls → the figure's kind, which names its script
    "LiveCurves": "curves", "LabelScrubber": "labels", "AlignmentInspector": "alignment", "WordGuesser": "guesser",
    "NeighbourBrowser": "neighbours", "EmbeddingMap": "map", "RunBoard": "board",
}  # fmt: skip
EXPORT = "export default exhibit("


@dataclass(frozen=True)
class Figure:
    """A living figure.

    Attributes:
        name: the chapter's, a dash and a number.
        kind: names its script.
        label: for screen readers.
        data: all that the script shows, JSON-able.
    """

    name: str
    kind: str
    label: str
    data: dict

    @property
    def chapter(self) -> str:
        """The name of its notebook."""
        return self.name.rpartition("-")[0]


def kinds_of(source: str) -> list[str]:
    """The kinds of figures that a cell makes, in the order of its calls."""
    return [KINDS[name] for name in re.findall(rf"\b({'|'.join(KINDS)})\(", source)]


def as_script(kind: str) -> str:
    """The module of a kind as a plain script: a page from a folder may not load modules."""
    source = "".join((SCRIPTS / f"{part}.js").read_text(encoding="utf-8") for part in ("common", kind))
    assert source.count(EXPORT) == 1, f"{kind}.js must export one figure by `{EXPORT}`"
    return f'"use strict";\n(() => {{\n{source.replace(EXPORT, f"globalThis.LCL.views[{json.dumps(kind)}] = exhibit(")}}})();\n'


def plain(name: str, value: object) -> str:
    """A JSON-able value as a plain script, which sets LCL.name. Its JSON cannot end the script, nor a line of it."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":")).replace("</", "<\\/")
    return f"globalThis.LCL.{name} = {text};\n"


def as_data(figure: Figure) -> str:
    """The data of a figure as a plain script."""
    return plain(f"states[{json.dumps(figure.name)}]", {"label": figure.label, "data": figure.data})


def write(figures: list[Figure], target: Path) -> None:
    """Write the scripts of all kinds that are used, and the data of all figures."""
    (target / "assets" / "figures").mkdir(parents=True, exist_ok=True)
    for kind in {figure.kind for figure in figures}:
        (target / "assets" / "figures" / f"{kind}.js").write_text(as_script(kind), encoding="utf-8")
    for figure in figures:
        (target / "assets" / "figures" / f"{figure.name}.js").write_text(as_data(figure), encoding="utf-8")


def scripts_of(figures: list[Figure]) -> list[str]:
    """The addresses of the scripts that a page with these figures needs, in their order."""
    names = [*dict.fromkeys(figure.kind for figure in figures), *(figure.name for figure in figures)]
    return [f"assets/figures/{name}.js" for name in names]
