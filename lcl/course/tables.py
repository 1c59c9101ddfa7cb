"""Results as tables: HTML in a notebook, columns of equal width in a terminal."""

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from lcl.config import require
from lcl.course import study
from lcl.course.metrics import as_text, table

BASELINES = ("no image", "wrong image", "oracle")  # in the titles of metrics whose highest value is no merit
NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
LINE = "border-bottom:1px solid rgba(128,128,128,.45)"  # grey, and no colour of text: readable on white and on black
CELL = f"{LINE};padding:.2em .9em .2em 0;font-variant-numeric:tabular-nums;background:none"


@dataclass(frozen=True)
class Table:
    """A table that a notebook shows as HTML, and `print` as text.

    Attributes:
        rows: of cells; the first row is a header, the first cell of every row names it.
        caption: what the numbers are, in a sentence.
        best: (row, column) of the cells that are marked, counted from 0 in `rows`.

    Raises:
        LclError: for rows of different lengths, or none.
    """

    rows: Sequence[Sequence[str]]
    caption: str
    best: frozenset[tuple[int, int]] = field(default_factory=frozenset)

    def __post_init__(self):
        lengths = sorted({len(row) for row in self.rows})
        require(len(lengths) == 1, f"the rows of a table must be equally long, not {lengths} cells; fill them up with ''.")

    def __str__(self) -> str:
        marked = {column for _, column in self.best}  # their other cells are widened: numbers stay one below the other
        end = ("", "  ", " *")
        shown = [
            [cell + end[2 * ((r, c) in self.best) or c in marked] for c, cell in enumerate(row)]
            for r, row in enumerate(self.rows)
        ]
        lines = [line.rstrip() for line in as_text(shown).splitlines()]
        return "\n".join([*lines, self._caption("* highest of its row")])

    __repr__ = __str__

    def _repr_html_(self) -> str:
        head, *body = (
            "".join(self._cell(r, c, cell) for c, cell in enumerate(row)) for r, row in enumerate(self.rows)
        )
        body = "".join(f"<tr>{cells}</tr>" for cells in body)
        said = html.escape(self._caption("bold: the highest of its row"))
        caption = f'<caption style="caption-side:top;text-align:left;padding:.3em 0;color:inherit">{said}</caption>'
        table = f"<table style='border-collapse:collapse;width:auto;margin:.5em 0'>{caption}"
        return f'<div style="overflow-x:auto">{table}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'

    def _cell(self, row: int, column: int, text: str) -> str:
        words = column and any(cells[column][:1].isalpha() for cells in self.rows[1:])
        style = f"{CELL};text-align:left" if words or not column else f"{CELL};text-align:right;white-space:nowrap"
        shown = html.escape(text)
        if row and column:
            shown = f"<strong>{shown}</strong>" if (row, column) in self.best else shown
            return f'<td{" class=words" if words else ""} style="{style}">{shown}</td>'
        weight = "normal" if row else "bold"
        return f'<th scope="{"row" if row else "col"}" style="{style};font-weight:{weight}">{shown}</th>'

    def _caption(self, mark: str) -> str:
        return f"{self.caption} ({mark})" if self.best else self.caption


def results_table(metrics: dict[str, dict[str, dict]]) -> Table:
    """One run's metrics: a row per metric, a column per split. Splits differ in difficulty, so no cell is marked.

    Args:
        metrics: of each split, as `evaluate` returns them.
    """
    return Table(table(metrics), "Metrics of one run in percent; chance level in brackets.")


def comparison_table(arms: Sequence[str], metrics: Sequence[str], split: str = "new_scenes") -> Table:
    """Arms of the study side by side: mean ± standard deviation over the seeds, and chance; the highest mean of a row is marked.

    A higher mean is not yet a significant difference: see `study.gains`. Arguments and errors as of `study.comparison`.
    """
    rows = study.comparison(arms, metrics, split)
    caption = f"Percent on {split}{_spread(rows)}, chance in the last column."
    return Table(rows, caption, highest(rows, range(1, len(rows[0]) - 1)))


def arms_table(arms: Sequence[str], metrics: Sequence[str], split: str = "new_scenes") -> Table:
    """The same for many arms: a row per arm, a column per metric, chance in the last row."""
    rows = list(zip(*study.comparison(arms, metrics, split), strict=True))
    return Table(rows, f"Percent on {split}{_spread(rows)}, chance in the last row.")


def _spread(rows: Sequence[Sequence[str]]) -> str:
    return "; mean ± standard deviation over the seeds" if any("±" in cell for row in rows for cell in row) else "; one seed"


def gains_table(arms: Sequence[str], over: str, metrics: Sequence[str], split: str = "new_scenes") -> Table:
    """Gains of arms of the study over one other, with 95 % intervals. Arguments and errors as of `study.gains`."""
    rows = study.gains(arms, over, metrics, split)
    alone = "; a single seed has none" if any(row[1] == "1" for row in rows[1:]) else ""
    return Table(rows, f"Points above {over} on {split}: mean, and 95 % interval in brackets{alone}.")


def highest(rows: Sequence[Sequence[str]], columns: Sequence[int]) -> frozenset[tuple[int, int]]:
    """The cells with the highest number of each row, by the number that each begins with; equal ones are all marked.

    A row with fewer than two numbers, or whose title names a baseline, has none.
    """
    found = set()
    for number, row in enumerate(rows[1:], 1):
        values = {c: float(match[0]) for c in columns if (match := NUMBER.match(row[c].replace("−", "-")))}
        if len(values) >= 2 and not any(word in row[0] for word in BASELINES):
            found |= {(number, c) for c, value in values.items() if value == max(values.values())}
    return frozenset(found)
