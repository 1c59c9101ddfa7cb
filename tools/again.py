"""Runs of the study that were trained once more, in another clone or on another processor: do the numbers come out again?"""

from __future__ import annotations

from pathlib import Path

from arms import commit_of, processors
from lcl.course.metrics import NAMES, score
from lcl.course.planned import Standing, file_of, standing

SAME = ("curve", "metrics")  # a checksum of every step's loss and every validation step; and the rank of every query
SHOWN = ("recall@1", "ndcg@10", "zero_shot_top1", "foils")


def trained_again(found: Standing, results: Path) -> tuple[list[dict[str, str]], list[str]]:
    """What came out of each run of `results/again/` whose saved run counts: a dict per run, for a row of a table.

    A second run whose saved run is missing, or does not count, is left out.

    Args:
        found: the saved runs that count.
        results: the folder `results/`.

    Returns:
        For each run its "arm" and "seed", the processors "first" and "again", the "commit" of the second run, and the
        "difference" in points, second minus first, or "" if both are bitwise equal: the losses of all steps, validation
        steps, metrics, and ranks of queries. Then the files that do not count, each with the reason.
    """
    more, rows = standing(found.plan, results / "again", found.made), []
    for arm, runs in more.runs.items():
        for seed in sorted(runs.keys() & found.runs[arm].keys()):
            saved, again = found.runs[arm][seed], runs[seed]
            ranks = [
                (results / name / file_of(found.plan, arm, seed)).with_suffix(".safetensors")
                for name in ("planned", "again")
            ]
            equal = (
                all(saved.get(key) == again.get(key) for key in SAME) and ranks[0].read_bytes() == ranks[1].read_bytes()
            )
            points = {NAMES[metric]: [score(run, metric) for run in (saved, again)] for metric in SHOWN}
            gaps = [
                f"{name} {later - earlier:+z.1f}"
                for name, (earlier, later) in points.items()
                if None not in (earlier, later)
            ]
            first, second = (
                processors([run]).partition(" (1 run)")[0] + ("" if threads == 1 else f", {threads} threads")
                for run in (saved, again) for threads in [run["provenance"]["machine"].get("threads", 1)]
            )  # fmt: skip
            rows.append({
                "arm": f"`{arm}`", "seed": str(seed), "first": first, "again": second,
                "commit": f"`{commit_of(again['provenance'])}`", "difference": "" if equal else ", ".join(gaps),
            })  # fmt: skip
    return rows, more.left_out
