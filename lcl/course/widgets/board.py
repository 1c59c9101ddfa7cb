"""The run board."""

import dataclasses
from collections.abc import Mapping

from lcl.config import require
from lcl.course import plots
from lcl.course.metrics import COLUMNS, in_percent
from lcl.course.views import Contender
from lcl.course.widgets.base import Exhibit, atlas, script
from lcl.data.scenes import Pairs
from lcl.train.loop import Validation


class RunBoard(Exhibit):
    """Two runs at a time: their curves, their metrics on every split, the pairs on which they disagree.

    Args:
        pairs: N of them.
        runs: at least two, by name; `views.contender` of all pairs.
    """

    _esm = script("board")

    def __init__(self, pairs: Pairs, runs: Mapping[str, Contender]):
        require(len(runs) >= 2, "a board needs at least two runs to compare.")
        asked = {len(found) for run in runs.values() for found in run.answers.values()}
        require(asked == {len(pairs)}, f"every run must have answered all {len(pairs)} pairs.")
        data = {
            "captions": pairs.captions, "atlas": atlas(pairs.images), "metrics": list(COLUMNS.values()),
            "splits": list(dict.fromkeys(split for run in runs.values() for split in run.metrics)),
            "runs": [
                {
                    "name": name, "steps": plots.planned_steps(run.curve),
                    "validations": [list(dataclasses.astuple(e)) for e in run.curve if isinstance(e, Validation)],
                    "table": {split: in_percent(metrics) for split, metrics in run.metrics.items()},
                    "answers": {way: list(found) for way, found in run.answers.items()},
                }
                for name, run in runs.items()
            ],
        }  # fmt: skip
        two, split = dict(list(runs.items())[:2]), data["splits"][0]
        metrics = {name: in_percent(run.metrics[split]) for name, run in two.items()}
        still = plots.two_runs({name: run.curve for name, run in two.items()}, metrics, split)
        super().__init__("Run board: two runs with their curves, metrics, and the pictures on which they disagree.", data, still)
