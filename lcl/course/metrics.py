"""The metrics of an evaluation: their names in tables, a run's table, and the level of several runs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from lcl.config import choose

RECALL = ("image_to_text_recall@1", "text_to_image_recall@1")
FOILS, NO_IMAGE = ("relation", "count", "colour", "background", "object"), (("", ""), ("_no_image", ", no image"))
WAYS = (("image_to_text", "image→text"), ("text_to_image", "text→image"))
COLUMNS = {
    **{f"{way}_recall@{k}": f"{title} R@{k}" for way, title in WAYS for k in (1, 5, 10)},
    **{f"image_to_text_recall@1_objects{n}": f"image→text R@1, {n} object{'s'[: n > 1]}" for n in (1, 2, 3, 4)},
    "image_to_text_recall@1_object_oracle": "image→text R@1, oracle of objects",
    **{f"{way}_recall@{k}_gallery": f"{title} R@{k}, gallery" for way, title in WAYS for k in (1, 5, 10)},
    "image_to_text_recall@1_object_oracle_gallery": "image→text R@1, oracle of objects, gallery",
    "image_to_text_ndcg@10": "image→text nDCG@10",
    "text_to_image_ndcg@10": "text→image nDCG@10",
    "zero_shot_top1": "zero-shot top-1",
    "zero_shot_top5": "zero-shot top-5",
    "category_top1": "category top-1",
    "probe_concept": "linear probe, concept",
    "probe_category": "linear probe, category",
    "alignment": "alignment",
    "alignment_among_objects": "alignment, among objects",
    **{f"foil_{kind}{tail}": f"foil, {kind}{words}" for kind in FOILS for tail, words in NO_IMAGE},
    "masked_word_true_image": "masked word, true image",
    "masked_word_no_image": "masked word, no image",
    "masked_word_wrong_image": "masked word, wrong image",
}
"""Every metric of an evaluation, and its name in tables."""
PARTS = {
    "recall@1": RECALL,
    "recall@1_gallery": tuple(f"{way}_gallery" for way in RECALL),
    "ndcg@10": ("image_to_text_ndcg@10", "text_to_image_ndcg@10"),
    "foils": tuple(f"foil_{kind}" for kind in FOILS),
}
"""Metrics that are the mean of others, such as both directions of retrieval."""
NAMES = {
    "recall@1": "recall@1", "recall@1_gallery": "recall@1, gallery", "ndcg@10": "nDCG@10", "foils": "foils", **COLUMNS,
}  # fmt: skip
"""Every metric that runs can be compared by, and its name in tables."""


def score(run: Mapping, metric: str, split: str = "new_scenes", what: str = "value") -> float | None:
    """A metric of a run in percent, or its "chance"; PARTS are averaged. None if the run did not measure it.

    Raises:
        LclError: for an unknown split.
    """
    measured = run["metrics"][choose("split", split, run["metrics"])]
    found = [measured.get(part) for part in PARTS.get(metric, (metric,))]
    return None if None in found else 100 * mean(each[what] for each in found)


@dataclass(frozen=True)
class Level:
    """A metric in percent: its mean over the seeds, and the standard deviation, None for a single run."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


def level(runs: Sequence[Mapping], metric: str, split: str = "new_scenes") -> Level | None:
    """The mean and spread of a metric over one or more runs; None unless all of them measured it."""
    found = [score(run, metric, split) for run in runs]
    return None if None in found else Level(mean(found), stdev(found) if len(found) > 1 else None)


def seeds_in_words(seeds: set[int]) -> str:
    """ "seeds 0 to 4", or a list if some are left out."""
    ordered = sorted(seeds)
    if len(ordered) == 1:
        return f"seed {ordered[0]}"
    if ordered == list(range(ordered[0], ordered[-1] + 1)):
        return f"seeds {ordered[0]} to {ordered[-1]}"
    return f"seeds {', '.join(map(str, ordered))}"


def table(metrics: dict[str, dict[str, dict]]) -> list[list[str]]:
    """One run's metrics: a row per metric, a column per split, "value (chance)" in percent; the first row is a header."""
    rows = [["metric", *metrics]]
    for metric, title in ((RECALL[0], ""), (f"{RECALL[0]}_gallery", ", gallery")):
        ranked = [each.get(metric, {}) for each in metrics.values()]
        if any("queries" in each for each in ranked):
            counts = [f"{each['queries']:,} / {each['candidates']:,}" if "queries" in each else "" for each in ranked]
            rows.append([f"distinct pictures / captions{title}", *counts])
    for name, title in COLUMNS.items():
        found = [each.get(name) for each in metrics.values()]
        if any(found):
            rows.append([title, *(f"{100 * m['value']:.1f} ({100 * m['chance']:.1f})" if m else "" for m in found)])
    return rows


def as_text(rows: Sequence[Sequence[str]]) -> str:
    """A table for a terminal, in columns of equal width."""
    first, *widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))])
        for name, *cells in rows
    )


def table_text(metrics: dict[str, dict[str, dict]]) -> str:
    """One run's metrics for a terminal."""
    return as_text(table(metrics)) + "\npercent; chance level in brackets"


def in_percent(metrics: dict[str, dict]) -> dict[str, float]:
    """The metrics of a split in percent, by their names in tables."""
    return {title: 100 * metrics[name]["value"] for name, title in COLUMNS.items() if name in metrics}
