"""Cells of the pages that report the plan: a metric of an arm, its gain over another arm, its minutes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

from lcl.course.metrics import level as level_of
from lcl.course.metrics import score
from lcl.course.statistics import paired_gain

NONE = "–"


def values(runs: Mapping[int, dict], metric: str, split: str = "new_scenes") -> dict[int, float]:
    """A metric of an arm's runs in percent, by seed; empty unless all of them measured it."""
    found = {seed: score(run, metric, split) for seed, run in runs.items()}
    return {} if None in found.values() else found


def level(runs: Mapping[int, dict], metric: str, split: str = "new_scenes") -> str:
    """ "71.3 ± 1.8", "71.3" for a single run, or a dash."""
    found = level_of(list(runs.values()), metric, split) if runs else None
    return NONE if found is None else str(found)


def gain(
    ours: Mapping[int, dict], theirs: Mapping[int, dict], metric: str, alone: str = "one seed: no interval",
    split: str = "new_scenes",
) -> str:
    """ "+8.5 (+6.3 to +10.7)" over the seeds that both arms have, "+8.5" and `alone` for a single seed, or a dash."""
    a, b = values(ours, metric, split), values(theirs, metric, split)
    both = a.keys() & b.keys()
    if len(both) > 1:
        return str(paired_gain(a, b)[0])
    words = f" ({alone})" if alone else ""
    return f"{sum(a[seed] - b[seed] for seed in both):+z.1f}{words}" if both else NONE


def chance(runs: Iterable[dict], metric: str, split: str = "new_scenes") -> str:
    """The chance level of a metric, of the first run that measured it; or a dash."""
    found = (score(run, metric, split, "chance") for run in runs)
    return next((f"{each:.1f}" for each in found if each is not None), NONE)


def minutes(runs: Mapping[int, dict]) -> str:
    """Minutes that the steps of an arm's quickest run took: the median step, times their number; or a dash.

    "81.3 (2 threads)" if it did not have one thread.
    """
    took = [
        ((run.get("step_ms") or math.nan) * run["steps"] / 60_000, run["provenance"]["machine"].get("threads", 1))
        for run in runs.values()
    ]
    if not took or not all(0 < each < math.inf for each, _ in took):
        return NONE
    least, threads = min(took)
    return f"{least:.1f}" + (f" ({threads} threads)" if threads != 1 else "")


def named(names: Iterable[str]) -> str:
    """Arms in a sentence: "`clip`, `siglip`"."""
    return ", ".join(f"`{name}`" for name in names)


def commit_of(made: Mapping) -> str:
    """The commit of a provenance in short, and whether files differed from it."""
    name, _, changes = (made["commit"] or "unknown").partition("+")
    return name[:8] + (" with changes" if changes else "")


def processors(runs: Iterable[dict]) -> str:
    """Which processors made these runs, in a sentence's part: "Intel Xeon (8 runs), AMD EPYC (2 runs)"."""
    count = Counter(run["provenance"]["machine"].get("processor", "unknown") for run in runs)
    return ", ".join(f"{name} ({number} run{'s' * (number > 1)})" for name, number in count.most_common())
