"""A sheet to draw diagrams on: boxes, arrows, grids and bars in one style, saved as an SVG for light and dark themes.

Lengths are points. A sheet is 648 points wide. Where a narrow window shrinks it to four fifths, text of 11 points still has 9.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

WIDTH = 648
# Every colour has a role: what it is on a light sheet, and on a dark one. Lines are Okabe and Ito's colours, which colour-blind
# people can tell apart. The light values are all different, because the dark style finds a colour by its light value.
COLOURS = {
    "sheet": ("#fbfbfd", "#161b22"),
    "edge": ("#d7dbe0", "#30363d"),
    "ink": ("#1f2328", "#e6edf3"),
    "muted": ("#59636e", "#9da7b3"),
    "empty": ("#f3f4f6", "#21262d"),
    "image": ("#0072b2", "#56b4e9"),
    "image fill": ("#dcecf7", "#0f3049"),
    "text": ("#a86b00", "#f0b429"),
    "text fill": ("#fdf0d5", "#443208"),
    "shared": ("#00795a", "#2cc596"),
    "shared fill": ("#d9f2ea", "#0d3b2e"),
    "loss": ("#b94e00", "#ff8a3d"),
    "loss fill": ("#fbe4d5", "#4a2408"),
    "frozen": ("#666666", "#a8a8a8"),
    "frozen fill": ("#e9e9e9", "#2d3238"),
    "extra": ("#9a4a78", "#e3a1c6"),
    "extra fill": ("#f6e6ef", "#432236"),
}
SMALLEST = 11  # points


def colour(role: str) -> str:
    """A role's colour on a light sheet."""
    return COLOURS[role][0]


@dataclass(frozen=True)
class Box:
    """A drawn box, and the points at which arrows touch it. x, y: of its centre; y grows upwards."""

    x: float
    y: float
    width: float
    height: float

    @property
    def left(self) -> tuple[float, float]:
        return self.x - self.width / 2, self.y

    @property
    def right(self) -> tuple[float, float]:
        return self.x + self.width / 2, self.y

    @property
    def top(self) -> tuple[float, float]:
        return self.x, self.y + self.height / 2

    @property
    def bottom(self) -> tuple[float, float]:
        return self.x, self.y - self.height / 2


class Diagram:
    """A sheet of 648 × `height` points. `alt` says in one or two sentences what it shows."""

    def __init__(self, height: float, alt: str):
        self.height, self.alt = height, alt
        self.figure = Figure(figsize=(WIDTH / 72, height / 72), dpi=72)
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, WIDTH), ylim=(0, height))
        self.axes.set_axis_off()
        self.figure.patch.set_alpha(0)
        self.boxes: list[tuple[str, Box]] = []
        self._rounded(2, 2, WIDTH - 4, height - 4, "sheet", "edge", 8)

    def _rounded(self, x, y, width, height, fill, edge, radius=5.0, line=1.2, dashed=False) -> None:
        style = f"round,pad=0,rounding_size={radius}"
        self.axes.add_patch(FancyBboxPatch(
            (x, y), width, height, boxstyle=style, fc=colour(fill), ec=colour(edge), lw=line, ls="--" if dashed else "-"
        ))  # fmt: skip

    def text(self, x: float, y: float, words: str, role: str = "ink", size: float = 12, **how) -> None:
        """Words centred at (x, y), unless `ha` or `va` say otherwise. `$…$` is mathematics."""
        assert size >= SMALLEST, f"{words!r} is too small to read."
        self.axes.text(x, y, words, color=colour(role), fontsize=size, **{"ha": "center", "va": "center"} | how)

    def box(
        self, x: float, y: float, words: str, kind: str = "frozen", width: float = 96, height: float = 40, size: float = 12,
        dashed: bool = False, bold: bool = False,
    ) -> Box:  # fmt: skip
        """A box with words, centred at (x, y). kind: image, text, shared, loss, extra, frozen. dashed: in training only."""
        self._rounded(x - width / 2, y - height / 2, width, height, f"{kind} fill", kind, dashed=dashed)
        self.text(x, y, words, size=size, weight="bold" if bold else "normal")
        self.boxes.append((words, Box(x, y, width, height)))
        return self.boxes[-1][1]

    def area(self, x: float, y: float, width: float, height: float, words: str = "", dashed: bool = False) -> Box:
        """A frame around several boxes; x, y: its lower left corner. Its words stand in the upper left corner."""
        self._rounded(x, y, width, height, "sheet", "muted", line=1, dashed=dashed)
        self.text(x + 8, y + height - 11, words, "muted", SMALLEST, ha="left")
        return Box(x + width / 2, y + height / 2, width, height)

    def arrow(
        self, start: tuple[float, float], end: tuple[float, float], words: str = "", role: str = "muted", bend: float = 0,
        dashed: bool = False, both: bool = False, at: tuple[float, float] = (0, 9),
    ) -> None:  # fmt: skip
        """An arrow; its words stand `at` points from its middle. bend: 0 is straight."""
        self.axes.add_patch(FancyArrowPatch(
            start, end, arrowstyle="<|-|>" if both else "-|>", mutation_scale=11, lw=1.6, color=colour(role), shrinkA=2,
            shrinkB=2, connectionstyle=f"arc3,rad={bend}", ls="--" if dashed else "-",
        ))  # fmt: skip
        if words:
            self.text((start[0] + end[0]) / 2 + at[0], (start[1] + end[1]) / 2 + at[1], words, role, SMALLEST)

    def line(self, points: Sequence[tuple[float, float]], role: str = "muted", width: float = 1.6, dashed: bool = False) -> None:
        """A line through points."""
        self.axes.plot(*zip(*points, strict=True), color=colour(role), lw=width, ls="--" if dashed else "-",
                       solid_capstyle="round")  # fmt: skip

    def cell(self, x: float, y: float, width: float, height: float, fill: str, edge: str = "sheet", line: float = 1) -> None:
        """A rectangle; x, y: its lower left corner."""
        self.axes.add_patch(Rectangle((x, y), width, height, fc=colour(fill), ec=colour(edge), lw=line))

    def grid(self, x: float, y: float, cells: Sequence[Sequence[str]], side: float = 22, words=None) -> Box:
        """Squares of one side, their roles row by row from the top; x, y: the lower left corner. words: (row, column) → text."""
        rows, columns = len(cells), len(cells[0])
        for row, line in enumerate(cells):
            for column, role in enumerate(line):
                left, low = x + column * side, y + (rows - 1 - row) * side
                self.cell(left, low, side, side, role)
                if words and (row, column) in words:
                    self.text(left + side / 2, low + side / 2, words[row, column], size=SMALLEST)
        return Box(x + columns * side / 2, y + rows * side / 2, columns * side, rows * side)

    def bars(self, x: float, y: float, values: Sequence[float], height: float, roles: Sequence[str], width: float = 18) -> None:
        """Upright bars, values 0 to 1, on a base line; x, y: its left end."""
        for number, (value, role) in enumerate(zip(values, roles, strict=True)):
            self.cell(x + number * (width + 4), y, width, max(value * height, 0.8), role, role)
        self.line([(x - 3, y), (x + len(values) * (width + 4) - 1, y)], "muted", 1)

    def svg(self) -> str:
        """The sheet as SVG. Equal sheets give equal text."""
        file = io.StringIO()
        with matplotlib.rc_context({"svg.hashsalt": "lcl", "svg.fonttype": "path", "path.simplify": False}):
            self.figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None}, transparent=True)
        dark = "".join(
            f'[style*="{what}: {light}"]{{{what}:{dark}!important}}'
            for light, dark in COLOURS.values()
            for what in ("fill", "stroke")
        )
        style = f"<style>@media (prefers-color-scheme: dark){{{dark}}}</style>"
        words = self.alt.replace("&", "&amp;").replace("<", "&lt;")
        drawn = re.sub(r"<!--.*?-->\s*|<metadata>.*?</metadata>\s*", "", file.getvalue(), flags=re.DOTALL)
        return re.sub(r"(<svg [^>]*>)", rf'\1\n<title>{words}</title>\n{style}', drawn, count=1)

    def overlaps(self) -> list[str]:
        """Words that leave the sheet or their box, or cover other words."""
        renderer = FigureCanvasAgg(self.figure).get_renderer()
        found, seen = [], []
        for text in self.axes.texts:
            extent = text.get_window_extent(renderer)
            if extent.width == 0:
                continue
            if not (0 <= extent.x0 and extent.x1 <= self.figure.bbox.x1 and 0 <= extent.y0 and extent.y1 <= self.figure.bbox.y1):
                found.append(f"{text.get_text()!r} leaves the sheet")
            x, y = text.get_position()
            if any((box.x, box.y) == (x, y) and extent.width > box.width - 4 for _, box in self.boxes):
                found.append(f"{text.get_text()!r} is wider than its box")
            found += [f"{text.get_text()!r} covers {other!r}" for other, box in seen if box.overlaps(extent.padded(-1))]
            seen.append((text.get_text(), extent))
        return found


def save(diagrams: dict[str, Diagram], folder: Path) -> None:
    """Write each diagram to NAME.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, diagram in diagrams.items():
        (folder / f"{name}.svg").write_text(diagram.svg(), encoding="utf-8", newline="\n")
