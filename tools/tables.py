"""Tables of the pages of results: Markdown, and what the bench measured."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import median

from benchmarks import baselines
from benchmarks.run import Bench

# Compared with no library.
PLAINER = ("render", "reading", "bank-images", "bank-captions", "banks", "neighbours-product", "huge-pages")


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a page: the first column and columns of words to the left, columns of numbers to the right."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    columns = list(zip(*rows[1:], strict=True))[1:] or [()] * (len(rows[0]) - 1)
    return "\n".join([lines[0], "|---" + "".join("|---" if _of_words(cells) else "|---:" for cells in columns) + "|", *lines[1:]])


NUMBERS = re.compile("|".join([
    r"[<+-]? ?[\d.,]+( ?%| ?±.*| [\w/]+)?( \(.*\))?(: significantly lower|; .*)?",  # with spread, unit, interval, or two
    r"\d+ of \d+", "takes no measurable time",
]))  # fmt: skip


def _of_words(cells: Sequence[str]) -> bool:
    """Do most cells that say something hold more than numbers?"""
    said = [cell for cell in cells if cell.strip(" –")]
    return 2 * sum(not NUMBERS.fullmatch(cell.replace("−", "-")) for cell in said) > len(said)


def races(bench: Bench) -> str:
    """Every race, a row: beside peers, beside plainer ways that are no library's, beside older code, and every recipe's step."""
    tables = []
    kind = {key: "beside a plainer way" for key in PLAINER}
    kind |= {key: "beside older code" for key in bench.races if key.startswith("history-")}
    for title in dict.fromkeys(["beside", "beside a plainer way", *kind.values()]):
        rows = [["what", title, "times as fast", "ours", "the other's", "note"]]
        for benchmark in bench.races.values():
            if not benchmark.key.startswith("recipe-") and kind.get(benchmark.key, "beside") == title:
                ours, peer = (benchmark.amount / median(laps) for laps in (benchmark.ours, benchmark.peer))
                rates = [f"{rate:,.0f} {benchmark.unit}" for rate in (ours, peer)]
                rows.append([benchmark.what, benchmark.beside, str(benchmark.faster), *rates, benchmark.note])
        tables.append(as_markdown(rows))
    steps = [["step of", "times as long as one of `clip`"]]
    of_recipes = {key.removeprefix("recipe-"): each for key, each in bench.races.items() if "recipe-" in key}
    steps += [[f"`{name}`", str(each.longer)] for name, each in of_recipes.items()]
    return "\n\n".join([*tables, as_markdown(steps)])


def shares(bench: Bench) -> str:
    """What share of the machine's limit each race reaches whose operations were counted: a row, ours and the other's."""
    rows, limit = [["what", "beside", "ours", "the other's"]], median(bench.facts[baselines.LIMIT])
    for each in bench.races.values():
        if each.operations:
            both = zip(each.operations, (each.ours, each.peer), strict=True)
            reached = [f"{operations / median(laps) / limit:.0%}" for operations, laps in both]
            rows.append([each.what, each.beside, *reached])
    return as_markdown(rows)


def growths(bench: Bench) -> str:
    """Every growth, a row."""
    rows = [["cost of", "grows with", "from", "to", "measured exponent", "theory's", "for"]]
    for each in bench.growths.values():
        slopes = f"{each.slope:.2f} ({min(each.slopes):.2f} to {max(each.slopes):.2f})"
        rows.append([each.what, each.variable, f"{each.x[0]:,}", f"{each.x[-1]:,}", slopes, f"{each.theory:g}", each.why])
    return as_markdown(rows)
