"""The runs that the course reports, kept in `results/`, and tables made of them: mean ± spread over the seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean, stdev

from lcl import storage
from lcl.config import require
from lcl.evaluation import Figure

FOLDER = Path(__file__).resolve().parent.parent / "results"

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


def kept_runs(stem: str) -> list[dict]:
    """The kept runs `results/STEM-seed*.json`, in order of their seeds, each as its metrics.json.

    Raises LclError if there is none, or if they differ in more than their seed.
    """
    runs = [storage.read_json(path) for path in sorted(FOLDER.glob(f"{stem}-seed*.json"))]
    require(bool(runs), f"results/ keeps no run {stem}-seed….json; `python tools/study.py` trains what is missing.")
    for run in runs[1:]:
        same = all(run[key] == runs[0][key] for key in ("profile", "recipe", "data", "steps"))
        require(same, f"the runs results/{stem}-seed….json differ in more than their seed; train them anew.")
    return runs


def values(stem: str, figure: str, split: str = "new_scenes") -> list[float]:
    """A figure of every kept run `results/STEM-seed*.json`, in percent, in order of the seeds."""
    return [100 * run["metrics"][split][figure]["value"] for run in kept_runs(stem)]


def percent(runs: Sequence[dict], split: str, figure: str) -> tuple[float, float] | None:
    """Mean and standard deviation of a figure over runs, in percent; None where it was not measured."""
    found = [100 * run["metrics"][split][figure]["value"] for run in runs if figure in run["metrics"][split]]
    return (mean(found), stdev(found) if len(found) > 1 else 0.0) if found else None


def comparison(stems: Sequence[str], figures: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """Recipes beside each other: a row a figure, a column a recipe, chance in the last. The first row is a header.

    Raises LclError for a figure that none of them measured on this split.
    """
    runs = {stem: kept_runs(stem) for stem in stems}
    rows = [[split, *(stem.removesuffix("-laptop") for stem in stems), "chance"]]
    for figure in figures:
        cells = [percent(runs[stem], split, figure) for stem in stems]
        require(any(cell is not None for cell in cells), f"none of these runs measured {figure} on {split}.")
        shown = ["–" if cell is None else f"{cell[0]:.1f} ± {cell[1]:.1f}" for cell in cells]
        measured = next(stem for stem, cell in zip(stems, cells, strict=True) if cell is not None)
        rows.append([COLUMNS[figure], *shown, f"{_chance(runs[measured][0], split, figure):.1f}"])
    return rows


def summary(runs: Sequence[dict]) -> list[list[str]]:
    """All splits of one recipe: a row a figure, a column a split, "mean ± spread (chance)". The first row is a header."""
    splits = list(runs[0]["metrics"])
    rows = [["split", *(f"`{split}`" for split in splits)]]
    for figure, title in COLUMNS.items():
        cells = []
        for split in splits:
            cell = percent(runs, split, figure)
            cells.append(
                "" if cell is None else f"{cell[0]:.1f} ± {cell[1]:.1f} ({_chance(runs[0], split, figure):.1f})"
            )
        if any(cells):
            rows.append([title, *cells])
    return rows


def _chance(run: dict, split: str, figure: str) -> float:
    return 100 * run["metrics"][split][figure]["chance"]


def as_markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table for a page: the first column left, the others right."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + "|---:" * (len(rows[0]) - 1) + "|", *lines[1:]])


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, in columns of equal width."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in rows
    )


def table(metrics: dict[str, dict[str, Figure]]) -> list[list[str]]:
    """One run's figures: a row a figure, a column a split, "value (chance)" in percent. The first row is a header."""
    rows = [["split", *metrics]]
    for name, title in COLUMNS.items():
        cells = [_cell(figures.get(name)) for figures in metrics.values()]
        if any(cells):
            rows.append([title, *cells])
    return rows


def table_text(metrics: dict[str, dict[str, Figure]]) -> str:
    """One run's figures for a terminal."""
    return as_text(table(metrics)) + "\npercent; in brackets what chance would give"


def _cell(figure: Figure | None) -> str:
    return "" if figure is None else f"{100 * figure['value']:.1f} ({100 * figure['chance']:.1f})"
