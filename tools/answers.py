"""What docs/answers.md says: the questions of the plan, and what its saved runs answer. Its words stand in tools/pages/."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

import arms
from lcl.config import require
from lcl.course import plots
from lcl.course.planned import Standing
from lcl.course.statistics import holm, paired_gain
from plan import METRICS
from tables import as_markdown

SUPPORTED, NOT, MIXED, UNTESTED, OPEN = "supported", "not supported", "mixed", "untested", "untested so far"
LEVEL = 0.05
FIGURE = ("recall@1", "ndcg@10", "zero_shot_top1")


@dataclass(frozen=True)
class Comparison:
    """A primary comparison of the plan.

    Attributes:
        arm, over, metric: as in the plan.
        gain: with its 95 % interval, over the seeds that both arms have; in words.
        seeds: those, "3 of 5".
        p: corrected for all primary comparisons; None as long as a run is missing.
        verdict: SUPPORTED, NOT or OPEN.
    """

    arm: str
    over: str
    metric: str
    gain: str
    seeds: str
    p: float | None
    verdict: str


def short(metric: str) -> str:
    """The name of a metric in a table: "recall@1"."""
    return METRICS[metric].partition(" (mean")[0]


def in_words(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(found: list[Comparison], whole: bool) -> str:
    """The answer to a question: of its primary comparisons, if its arms are whole."""
    if not whole or any(each.verdict == OPEN for each in found):
        return OPEN
    if not found:
        return UNTESTED
    number = sum(each.verdict == SUPPORTED for each in found)
    return SUPPORTED if number == len(found) else MIXED if number else NOT


class Answers:
    """The tables and sentences of the page.

    Args:
        plan: as in `results/plan.json`; with entries or without.
        found: its runs.
    """

    def __init__(self, plan: dict, found: Standing):
        self.plan, self.runs = plan, found.runs
        self.questions: list[dict] = plan["questions"]
        self.comparisons = self._compared()
        own = [arm for arm in plan["arms"] if arm not in plan.get("entries", ())]
        self.done, self.planned = sum(len(self.runs[arm]) for arm in own), sum(len(self._seeds(arm)) for arm in own)
        self.whole = self.done == self.planned
        self.left_out = found.left_out
        self.processors = arms.processors(run for arm in own for run in self.runs[arm].values())

    def _seeds(self, arm: str) -> list[int]:
        return self.plan["arms"][arm]["seeds"]

    def _is_whole(self, arm: str) -> bool:
        return len(self.runs[arm]) == len(self._seeds(arm))

    def _is_choice(self, arm: str) -> bool:
        """Does the arm only serve a choice? Then it has a seed of its own, and no number of it is reported."""
        return not set(self._seeds(arm)) & set(self._seeds("clip"))

    def _compared(self) -> list[Comparison]:
        """The primary comparisons. In the correction, one with missing runs counts as p = 1: that never lowers another p."""
        pairs, p = [], {}
        for number, each in enumerate(self.plan["primary"]):
            ours, theirs = (arms.values(self.runs[each[side]], each["metric"]) for side in ("arm", "over"))
            whole = ours and theirs and self._is_whole(each["arm"]) and self._is_whole(each["over"])
            pairs.append((paired_gain(ours, theirs)[0] if whole else None, len(ours.keys() & theirs.keys())))
            p[number] = paired_gain(ours, theirs)[1] if whole else 1.0
        corrected, found = holm(p), []
        for number, (each, (gain, seeds)) in enumerate(zip(self.plan["primary"], pairs, strict=True)):
            clear = corrected[number] < LEVEL
            said = OPEN if gain is None else SUPPORTED if clear and gain.mean > 0 else NOT
            words = arms.gain(self.runs[each["arm"]], self.runs[each["over"]], each["metric"])
            words += ": significantly lower" if gain and clear and gain.mean < 0 else ""
            asked = f"{seeds} of {len(set(self._seeds(each['arm'])) & set(self._seeds(each['over'])))}"
            p_of = corrected[number] if gain else None
            found.append(Comparison(each["arm"], each["over"], each["metric"], words, asked, p_of, said))
        return found

    def of_question(self, question: dict) -> dict[int, Comparison]:
        """The primary comparisons of a question, by number: each belongs to the first question that asks for all of it."""
        found = {}
        for number, each in enumerate(self.comparisons, 1):
            homes = [other for other in self.questions if {each.arm, each.over} <= set(other["arms"])]
            home = next((other for other in homes if each.metric in other["metrics"]), None)
            require(home is not None, f"no question of the plan asks for its primary comparison {number}.")
            if home is question:
                found[number] = each
        return found

    def answers(self) -> str:
        """A row per question: its verdict and what that rests on."""
        rows = [["", "question", "answer", "rests on"]]
        for number, question in enumerate(self.questions, 1):
            own = self.of_question(question)
            there = sum(len(self.runs[arm]) for arm in question["arms"])
            asked = sum(len(self._seeds(arm)) for arm in question["arms"])
            said = verdict(list(own.values()), there == asked)
            why = f"{there} of {asked} runs"
            if there == asked:
                good = sum(each.verdict == SUPPORTED for each in own.values())
                why = f"{good} of {len(own)} primary comparisons" if own else "no primary comparison: exploratory"
                why = "a primary comparison lacks its metric" if said == OPEN else why
            rows.append([str(number), question["question"], f"**{said}**", why])
        return as_markdown(rows, words=True)

    def primary(self) -> str:
        """A row per primary comparison."""
        rows = [["", "arm", "compared with", "metric", "seeds", "gain in points (95 % CI)", "corrected p", "result"]]
        for number, each in enumerate(self.comparisons, 1):
            p = arms.NONE if each.p is None else in_words(each.p)
            named = [f"`{each.arm}`", f"`{each.over}`", short(each.metric)]
            rows.append([str(number), *named, each.seeds, each.gain, p, each.verdict])
        return as_markdown(rows, words=True)

    def equal_time(self, arm: str) -> str | None:
        """The shortest `clip` that the plan expects to take at least as long as an arm; None if there is none."""
        hours = {
            name: each["hours"] for name, each in self.plan["arms"].items()
            if each["recipe"] == "clip" and "hours" in each and {*each["options"][::2]} <= {"--epochs"}
        }  # fmt: skip
        enough = [name for name in hours if hours[name] >= self.plan["arms"][arm]["hours"]]
        return min(enough, key=hours.__getitem__, default=None)

    def _alike(self) -> list[str]:
        """Arms of the plan that differ from `clip` in the recipe alone, and have a run."""
        arms_of_plan = self.plan["arms"].items()
        return [
            arm
            for arm, each in arms_of_plan
            if not each["options"] and "hours" in each and arm != "clip" and self.runs[arm]
        ]

    def costs(self) -> str:
        """A row per arm that differs from `clip` in the recipe alone: its minutes, and its gain at equal time."""
        rows = [["arm", "seeds", "minutes, planned", "minutes, measured", "`clip` of equal time"]]
        rows[0] += ["recall@1 above it", "nDCG@10 above it"]
        for arm in self._alike():
            peer = self.equal_time(arm)
            gained = [
                arms.gain(self.runs[arm], self.runs[peer], metric) if peer else arms.NONE for metric in FIGURE[:2]
            ]
            cost = [f"{60 * self.plan['arms'][arm]['hours']:.1f}", arms.minutes(self.runs[arm])]
            rows.append([f"`{arm}`", self._count(arm), *cost, f"`{peer}`" if peer else arms.NONE, *gained])
        return as_markdown(rows)

    def _count(self, arm: str) -> str:
        return f"{len(self.runs[arm])} of {len(self._seeds(arm))}"

    def _base(self, question: dict, arm: str) -> str | None:
        """What an arm is compared with in a question's table: `clip` with its options, else the first arm."""
        options = self.plan["arms"][arm]["options"]
        alike = [
            name for name in question["arms"]
            if (each := self.plan["arms"][name])["recipe"] == "clip" and each["options"] == options and not self._is_choice(name)
        ]  # fmt: skip
        base = alike[0] if alike and arm not in alike else question["arms"][0]
        return None if base == arm else base

    def table(self, question: dict) -> str:
        """A row per arm of a question with a run, a column per metric, chance in the last row; and what is missing."""
        names = [arm for arm in question["arms"] if not self._is_choice(arm)]
        there = [arm for arm in names if self.runs[arm]]
        rows = [["arm", "gain over", "seeds", "minutes", *map(short, question["metrics"])]]
        for arm in there:
            base = self._base(question, arm)
            cells = []
            for metric in question["metrics"]:
                gain = arms.gain(self.runs[arm], self.runs[base], metric, "") if base else arms.NONE
                cells.append(arms.level(self.runs[arm], metric) + ("" if gain == arms.NONE else f"; {gain}"))
            over = f"`{base}`" if base else arms.NONE
            rows.append([f"`{arm}`", over, self._count(arm), arms.minutes(self.runs[arm]), *cells])
        runs = list(chain.from_iterable(self.runs[arm].values() for arm in there))
        rows.append(["chance", "", "", "", *(arms.chance(runs, metric) for metric in question["metrics"])])
        parts = [as_markdown(rows)] if there else []
        if lacking := [arm for arm in names if not self.runs[arm]]:
            parts.append(f"No run yet: {arms.named(lacking)}.")
        if choices := [arm for arm in question["arms"] if self._is_choice(arm)]:
            count = (
                f"{sum(len(self.runs[arm]) for arm in choices)} of {sum(len(self._seeds(arm)) for arm in choices)} runs"
            )
            parts.append(
                f"Arms that only serve a choice, so that no number of them is reported ({count}): {arms.named(choices)}."
            )
        return "\n\n".join(parts)

    def panels(self) -> dict[str, dict[str, object]]:
        """The gains over `clip` of arms with the profile's own settings and two seeds or more; empty without any."""
        found: dict[str, dict[str, object]] = {}
        for arm in self._alike():
            for metric in FIGURE:
                ours, theirs = (arms.values(self.runs[name], metric) for name in (arm, "clip"))
                if len(ours.keys() & theirs.keys()) > 1:
                    found.setdefault(short(metric), {})[arm] = paired_gain(ours, theirs)[0]
        return found

    def chart(self) -> plots.Chart:
        """The figure of `panels`."""
        return plots.gains(self.panels(), "clip")
