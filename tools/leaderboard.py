"""What docs/leaderboard.md says: the arms by recall@1 within the limits of the capstone. Its words stand in tools/pages/."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean

import arms
from lcl.course.metrics import score, seeds_in_words
from lcl.course.planned import PLAN, TRAIN, Standing
from tables import as_markdown

STEPS, BATCH, THREADS, SEEDS = 1024, 128, 2, 5
RANKED_BY, FOILS = "recall@1", "foils"


@dataclass(frozen=True)
class Row:
    """An arm on the board: its runs within the limits, and the metrics that it is ranked by."""

    arm: str
    runs: Mapping[int, dict]
    recall: float
    foils: float


def refused(run: dict) -> str:
    """Why a run is outside the limits of the board, or ""."""
    try:
        training, machine, towers = run["profile"]["training"], run["provenance"]["machine"], run["profile"]["model"]
        if run["steps"] > STEPS:
            return f"{run['steps']:,} steps, and the limit is {STEPS:,}"
        if training["batch_size"] > BATCH:
            return f"batches of {training['batch_size']:,} pairs, and the limit is {BATCH}"
        if machine["accelerator"] or machine["threads"] > THREADS:
            other = machine["accelerator"] or f"{machine['threads']} threads"
            return f"{other}, and the limit is two cores"
        if run["start"] or any(tower["pretrained"] for tower in (towers["vision"], towers["language"])):
            return "it starts from trained weights, and a row starts from random ones"
        if run["recipe"]["ping"]["choice"] == "objects":
            return "it uses the true objects of the scenes, so it is a control"
        lacking = [name for name in (RANKED_BY, FOILS) if score(run, name) is None]
        return f"no {' and no '.join(lacking)} on new_scenes" if lacking else ""
    except (KeyError, TypeError, AttributeError):
        return "its file does not say its settings"


class Board:
    """The tables of the page.

    Args:
        found: the plan with entries, and its runs.
    """

    steps, batch, seeds = f"{STEPS:,}", BATCH, SEEDS

    def __init__(self, found: Standing):
        plan = found.plan
        self.plan, self.code, self.left_out = plan, found.made.get("code", ""), list(found.left_out)
        rows, outside = [], {}
        for arm, runs in found.runs.items():
            reasons = {seed: refused(run) for seed, run in runs.items()}
            if arm not in plan["entries"] and not set(plan["arms"][arm]["seeds"]) & set(plan["arms"]["clip"]["seeds"]):
                reasons = dict.fromkeys(runs, "its seed only serves a choice, so the plan reports no number of it")
            for reason in filter(None, dict.fromkeys(reasons.values())):
                seeds = seeds_in_words({seed for seed in reasons if reasons[seed] == reason})
                outside.setdefault(reason, []).append(f"`{arm}` ({seeds})")
            if good := {seed: runs[seed] for seed in runs if not reasons[seed]}:
                rows.append(Row(arm, good, *(mean(arms.values(good, name).values()) for name in (RANKED_BY, FOILS))))
        self.left_out += [f"{', '.join(names)}: {reason}" for reason, names in outside.items()]
        self.rows = sorted(rows, key=lambda row: (-round(row.recall, 6), -round(row.foils, 6), row.arm))
        self.clip = next((row.runs for row in rows if row.arm == "clip"), {})

    def _table(self, rows: list[Row], ranked: bool) -> str:
        table = [["place", "arm", "recall@1", "foils", "seeds", "recall@1 above `clip` (95 % CI)", "minutes"]]
        for row in rows:
            place = 1 + sum(
                round(other.recall, 6) > round(row.recall, 6) for other in rows
            )  # equal recall, equal place
            gain = "the baseline" if row.arm == "clip" else arms.gain(row.runs, self.clip, RANKED_BY)
            levels = [arms.level(row.runs, name) for name in (RANKED_BY, FOILS)]
            first = str(place) if ranked else "provisional"
            table.append([first, f"`{row.arm}`", *levels, str(len(row.runs)), gain, arms.minutes(row.runs)])
        runs = [run for row in rows for run in row.runs.values()]
        table.append(["", "chance", *(arms.chance(runs, name) for name in (RANKED_BY, FOILS)), "", "", ""])
        return as_markdown(table)

    def ranked(self) -> str:
        """Rows with all seeds, best first; or a sentence."""
        rows = [row for row in self.rows if len(row.runs) >= SEEDS]
        return self._table(rows, True) if rows else f"No arm has {SEEDS} seeds yet, so no row is ranked."

    def provisional(self) -> str:
        """Rows with fewer seeds, best first; or a sentence."""
        rows = [row for row in self.rows if len(row.runs) < SEEDS]
        return self._table(rows, False) if rows else f"No row has fewer than {SEEDS} seeds."

    def command(self, row: Row) -> str:
        """The command that trains the runs of a row."""
        seeds = list(map(str, row.runs))
        entries = self.plan["entries"]
        plan = f"results/entries/{entries[row.arm]}" if row.arm in entries else PLAN
        command = TRAIN.format(plan=plan, arm=row.arm, seed="$seed" if len(seeds) > 1 else seeds[0])
        return f"for seed in {' '.join(seeds)}; do {command}; done" if len(seeds) > 1 else command

    def reproduce(self) -> str:
        """The commit and the command of every row."""
        table = [["arm", "commit", "processor", "command"]]
        for row in self.rows:
            commits = sorted({str(run["provenance"].get("commit") or "unknown") for run in row.runs.values()})
            named = [f"`{name[:8]}`" + (" with changes" if "+" in name else "") for name in commits]
            table.append([f"`{row.arm}`", ", ".join(named), arms.processors(row.runs.values()), f"`{self.command(row)}`"])
        return as_markdown(table) if self.rows else "There is no run yet."
