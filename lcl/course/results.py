"""Tables of what was measured: of one run, and of the study's, mean ± spread over the seeds."""

from __future__ import annotations

from collections.abc import Sequence

from lcl.config import choose, require
from lcl.course.study import gain_of, level, percent, shared, whole
from lcl.eval.metrics import Metric

COLUMNS = {
    "image_to_text_recall@1": "image→text R@1",
    "image_to_text_recall@5": "image→text R@5",
    "image_to_text_recall@10": "image→text R@10",
    "text_to_image_recall@1": "text→image R@1",
    "text_to_image_recall@5": "text→image R@5",
    "text_to_image_recall@10": "text→image R@10",
    "image_to_text_ndcg@10": "image→text nDCG@10",
    "text_to_image_ndcg@10": "text→image nDCG@10",
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "zero-shot top-5",
    "category_top1": "category top-1",
    "probe_concept": "linear probe, concept",
    "probe_category": "linear probe, category",
    "alignment": "alignment",
    "masked_word_true_image": "masked word, true image",
    "masked_word_no_image": "masked word, no image",
    "masked_word_wrong_image": "masked word, wrong image",
}
"""Every figure that an evaluation may hold, and what tables call it."""


def comparison(stems: Sequence[str], figures: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """Recipes beside each other: a row a figure, a column a recipe, chance in the last. The first row is a header.

    Of every recipe the same seeds, which are all that they have in common. A recipe whose runs are not whole is named and
    left out. Raises LclError for a split or a figure that there is not, or that none of them measured.
    """
    _known(figures)
    runs = shared(whole(stems))
    seeds = {run["seed"] for each in runs.values() for run in each}
    rows = [[f"{split}, {seeds_in_words(seeds)}", *(short(stem) for stem in runs), "chance"]]
    for figure in figures:
        cells = {stem: level(each, split, figure) for stem, each in runs.items()}
        measured = [stem for stem, cell in cells.items() if cell is not None]
        require(bool(measured), f"none of these runs measured {figure} on {split}.")
        shown = ["–" if cell is None else str(cell) for cell in cells.values()]
        rows.append([COLUMNS[figure], *shown, f"{_chance(runs[measured[0]][0], split, figure):.1f}"])
    return rows


def gains(stems: Sequence[str], over: str, figures: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """By how many points recipes are above another, with 95 % intervals: a row a recipe, a column a figure, after the number
    of seeds that both have. The first row is a header. A figure that a recipe did not measure is a dash, and so is every one of
    a single seed; a recipe whose runs are not whole is named and left out. Raises LclError for a split or a figure that there
    is not.
    """
    _known(figures)
    runs = whole([over, *stems])
    require(over in runs, f"the runs of {over} are not whole, so there is nothing to compare with.")
    rows = [[f"{split}, above {short(over)}", "seeds", *(COLUMNS[figure] for figure in figures)]]
    for stem in stems:
        if stem in runs:
            pair = shared({name: runs[name] for name in (stem, over)})
            found = ([percent(pair[name], split, figure) for name in (stem, over)] for figure in figures)
            told = (str(gain_of(ours, theirs)) if ours and theirs and len(ours) > 1 else "–" for ours, theirs in found)
            rows.append([short(stem), str(len(pair[stem])), *told])
    return rows


def _known(figures: Sequence[str]) -> None:
    for figure in figures:
        choose("figure", figure, COLUMNS)


def short(stem: str) -> str:
    """A stem as tables call it: without its profile, and with what differs from it, as "clip, vit"."""
    recipe, _, other = stem.partition("-laptop")
    return recipe + other.replace("-", ", ", 1)


def seeds_in_words(seeds: set[int]) -> str:
    """ "seeds 0 to 4", or one after another where some are left out."""
    ordered = sorted(seeds)
    if len(ordered) == 1:
        return f"seed {ordered[0]}"
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"seeds {ordered[0]} to {ordered[-1]}"
    return f"seeds {', '.join(map(str, ordered))}"


def summary(runs: Sequence[dict]) -> list[list[str]]:
    """All splits of one recipe: a row a figure, a column a split, "mean ± spread (chance)". The first row is a header."""
    splits = list(runs[0]["metrics"])
    rows = [["split", *(f"`{split}`" for split in splits)]]
    for figure, title in COLUMNS.items():
        cells = []
        for split in splits:
            cell = level(runs, split, figure)
            cells.append("" if cell is None else f"{cell} ({_chance(runs[0], split, figure):.1f})")
        if any(cells):
            rows.append([title, *cells])
    return rows


def _chance(run: dict, split: str, figure: str) -> float:
    return 100 * run["metrics"][split][figure]["chance"]


def as_markdown(rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A table for a page: the first column left, the others right, or left if they hold words."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + ("|---" if words else "|---:") * (len(rows[0]) - 1) + "|", *lines[1:]])


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, in columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def in_percent(figures: dict[str, Metric]) -> dict[str, float]:
    """The figures of a split as tables call them, in their order."""
    return {title: 100 * figures[name]["value"] for name, title in COLUMNS.items() if name in figures}


def table(metrics: dict[str, dict[str, Metric]]) -> list[list[str]]:
    """One run's figures: a row a figure, a column a split, "value (chance)" in percent. The first row is a header."""
    rows = [["split", *metrics]]
    for name, title in COLUMNS.items():
        cells = [_cell(figures.get(name)) for figures in metrics.values()]
        if any(cells):
            rows.append([title, *cells])
    return rows


def table_text(metrics: dict[str, dict[str, Metric]]) -> str:
    """One run's figures for a terminal."""
    return as_text(table(metrics)) + "\npercent; in brackets what chance would give"


def _cell(figure: Metric | None) -> str:
    return "" if figure is None else f"{100 * figure['value']:.1f} ({100 * figure['chance']:.1f})"
