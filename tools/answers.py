"""What docs/results.md says: the questions of the plan, and what its saved runs answer. Its words stand in tools/pages/."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

import arms
import prices
from benchmarks.run import Bench
from lcl.config import require
from lcl.course import plots
from lcl.course.metrics import NAMES
from lcl.course.planned import Standing
from lcl.course.statistics import Gain, holm, paired_gain
from plan import METRICS
from tables import as_markdown

SUPPORTED, NOT, MIXED, UNTESTED, EXPLORATORY = "supported", "not supported", "mixed", "untested", "exploratory"
LEVEL = 0.05
SLACK = 0.03  # of the time of a run
FIGURE = ("recall@1", "ndcg@10", "zero_shot_top1")


@dataclass(frozen=True)
class Comparison:
    """A primary comparison of the plan.

    Attributes:
        arm, over, metric: as in the plan.
        gain: with its 95 % interval, over the seeds that both arms have; in words.
        seeds: those, "3 of 5".
        p: corrected for all primary comparisons; None as long as a run is missing.
        verdict: SUPPORTED, NOT or, as long as runs are missing, UNTESTED.
        question: of the plan, counted from 1; None if it answers none.
    """

    arm: str
    over: str
    metric: str
    gain: str
    seeds: str
    p: float | None
    verdict: str
    question: int | None


def short(metric: str) -> str:
    """The name of a metric in a table: "recall@1"."""
    return METRICS[metric].partition(" (mean")[0]


def in_words(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3f}"


def verdict(found: list[Comparison], whole: bool) -> str:
    """The answer to a question: of its primary comparisons, if the arms that it waits for are whole."""
    if not whole or any(each.verdict == UNTESTED for each in found):
        return UNTESTED
    if not found:
        return EXPLORATORY
    number = sum(each.verdict == SUPPORTED for each in found)
    return SUPPORTED if number == len(found) else MIXED if number else NOT


class Answers:
    """The tables and sentences of the page.

    Args:
        found: the plan, with entries or without, and its runs.
        bench: what a step of each recipe takes.
    """

    def __init__(self, found: Standing, bench: Bench | None = None):
        plan = found.plan
        self.plan, self.runs, self.made, self.bench = plan, found.runs, found.made, bench
        self.questions: list[dict] = plan["questions"]
        self.comparisons = self._compared()
        own = self._own()
        self.done, self.planned = sum(len(self.runs[arm]) for arm in own), sum(len(self._seeds(arm)) for arm in own)
        self.whole = self.done == self.planned
        self.left_out = found.left_out
        self.processors = arms.processors(run for arm in own for run in self.runs[arm].values())

    def _own(self) -> list[str]:
        """The arms of the plan itself, without entries."""
        return [arm for arm in self.plan["arms"] if arm not in self.plan.get("entries", ())]

    def _seeds(self, arm: str) -> list[int]:
        return self.plan["arms"][arm]["seeds"]

    def _is_whole(self, arm: str) -> bool:
        return len(self.runs[arm]) == len(self._seeds(arm))

    def is_choice(self, arm: str) -> bool:
        """Does the arm only serve a choice? Then it has a seed of its own, and no number of it is reported."""
        return arm not in self.plan.get("entries", ()) and not set(self._seeds(arm)) & set(self._seeds("clip"))

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
            said = UNTESTED if gain is None else SUPPORTED if clear and gain.mean > 0 else NOT
            words = arms.gain(self.runs[each["arm"]], self.runs[each["over"]], each["metric"])
            words += ": significantly lower" if gain and clear and gain.mean < 0 else ""
            asked = f"{seeds} of {len(set(self._seeds(each['arm'])) & set(self._seeds(each['over'])))}"
            p_of = corrected[number] if gain else None
            found.append(Comparison(each["arm"], each["over"], each["metric"], words, asked, p_of, said, each.get("question")))
        for number, each in enumerate(found, 1):
            asks = self.questions[each.question - 1] if each.question in range(1, len(self.questions) + 1) else None
            fits = asks and {each.arm, each.over} <= set(asks["arms"]) and each.metric in asks["metrics"]
            own = "the arms and the metric of its primary comparison"
            require(each.question is None or fits, f"question {each.question} of the plan lacks {own} {number}.")
        return found

    def of_question(self, question: dict) -> list[Comparison]:
        """The primary comparisons that answer a question."""
        number = self.questions.index(question) + 1
        return [each for each in self.comparisons if each.question == number]

    def answers(self, said: Mapping[str, str] | None = None) -> str:
        """A row per question: its verdict, what that rests on, and a sentence on it, once its runs are there.

        Args:
            said: sentences by question.
        """
        rows = [["", "question", "verdict", "rests on", "in a sentence"]]
        for number, question in enumerate(self.questions, 1):
            own, deciding = self.of_question(question), self.deciding(question)
            there = sum(len(self.runs[arm]) for arm in deciding)
            asked = sum(len(self._seeds(arm)) for arm in deciding)
            found = verdict(own, there == asked)
            why = f"{there} of {asked} runs" + (" of primary comparisons" if own else "")
            if there == asked:
                good = sum(each.verdict == SUPPORTED for each in own)
                why = f"{good} of {len(own)} primary comparisons supported" if own else "no primary comparison"
                why = "a primary comparison lacks its metric" if found == UNTESTED else why
            rows.append([str(number), question["question"], f"**{found}**", why, self.sentence(question, said or {})])
        return as_markdown(rows)

    def deciding(self, question: dict) -> list[str]:
        """The arms that a question waits for: those of its primary comparisons, or all of them if it has none."""
        own = self.of_question(question)
        return list(dict.fromkeys(arm for each in own for arm in (each.arm, each.over))) or question["arms"]

    def sentence(self, question: dict, said: Mapping[str, str]) -> str:
        """What is said on a question, once its runs are there; "" before."""
        whole = all(map(self._is_whole, self.deciding(question)))
        return said.get(question["question"], "") if verdict(self.of_question(question), whole) != UNTESTED else ""

    def primary(self) -> str:
        """A row per primary comparison."""
        rows = [["", "question", "arm", "compared with", "metric", "seeds", "gain in points (95 % CI)", "corrected p", "result"]]
        for number, each in enumerate(self.comparisons, 1):
            p = arms.NONE if each.p is None else in_words(each.p)
            named = [f"`{each.arm}`", f"`{each.over}`", short(each.metric)]
            rows.append([str(number), str(each.question or arms.NONE), *named, each.seeds, each.gain, p, each.verdict])
        return as_markdown(rows)

    def equal_time(self, cost: prices.Price) -> str | None:
        """The shortest `clip` whose steps take as long as those of an arm with this price, or longer; None if there is none.

        SLACK of the time may be missing: repeats of the bench differ by as much.
        """
        minutes = {
            name: prices.price(self.bench, each).added.middle for name, each in self.plan["arms"].items()
            if each["recipe"] == "clip" and {*each["options"][::2]} <= {"--epochs"}
        }  # fmt: skip
        clip = prices.clip_minutes(self.bench)
        enough = [name for name in minutes if clip + minutes[name] >= (1 - SLACK) * (clip + cost.added.middle)]
        return min(enough, key=minutes.__getitem__, default=None)

    def _alike(self) -> list[str]:
        """Arms of the plan that differ from `clip` in the recipe alone, and have a run."""
        arms_of_plan = self.plan["arms"].items()
        return [
            arm
            for arm, each in arms_of_plan
            if not each["options"] and arm in self._own() and arm != "clip" and self.runs[arm]
        ]

    def costs(self) -> str:
        """A row per arm whose steps the bench timed: its price, and what it buys, per minute and at equal time."""
        rows = [["arm", "seeds", "a step, relative to `clip`", "minutes added", "banks, once", "recall@1 above `clip`"]]
        rows[0] += ["points per added minute", "`clip` of equal time", "recall@1 above it", "nDCG@10 above it"]
        for arm, (cost, gain) in self.prices().items():
            peer = self.equal_time(cost)
            at_equal_time = [
                arms.gain(self.runs[arm], self.runs[peer], metric) if peer and peer != arm else arms.NONE
                for metric in FIGURE[:2]
            ]
            banks = f"{cost.banks.middle:.1f}" if cost.banks.middle else arms.NONE
            buys = [str(gain), prices.per_minute(gain, cost)] if gain else [arms.NONE] * 2
            named = f"`{peer}`" if peer and peer != arm else arms.NONE
            cells = [self._count(arm), str(cost.step), f"{cost.added.middle:.1f}", banks, *buys, named, *at_equal_time]
            rows.append([f"`{arm}`", *cells])
        return as_markdown(rows)

    def not_timed(self) -> str:
        """Arms of primary comparisons whose steps the bench did not time, in a sentence; or ""."""
        primary = dict.fromkeys(name for each in self.comparisons for name in (each.arm, each.over))
        lacking = [arm for arm in primary if self.bench and not prices.price(self.bench, self.plan["arms"][arm])]
        return f"The bench did not time {arms.named(lacking)}." if lacking else ""

    def prices(self) -> dict[str, tuple[prices.Price, Gain | None]]:
        """What each arm costs whose steps the bench timed, and what it gains over `clip` in recall@1, from two seeds on."""
        found, clip = {}, arms.values(self.runs["clip"], FIGURE[0])
        for arm in self._own():
            cost = prices.price(self.bench, self.plan["arms"][arm]) if self.bench and arm != "clip" and self.runs[arm] else None
            if cost:
                ours = arms.values(self.runs[arm], FIGURE[0])
                both = len(ours.keys() & clip.keys()) > 1
                found[arm] = cost, paired_gain(ours, clip)[0] if both else None
        return found

    def cost_chart(self) -> plots.Chart:
        """The figure of `prices`: gains by the time of all steps and banks."""
        minutes = prices.clip_minutes(self.bench)
        points = {
            arm: (1 + (cost.added.middle + cost.banks.middle) / minutes, gain)
            for arm, (cost, gain) in self.prices().items() if gain
        }  # fmt: skip
        return plots.gain_by_cost(points, "time of all steps and of the banks, relative to clip's", "points of recall@1 gained")

    def _count(self, arm: str) -> str:
        return f"{len(self.runs[arm])} of {len(self._seeds(arm))}"

    def _base(self, question: dict, arm: str) -> str | None:
        """What an arm is compared with in a question's table: `clip` with its options, else the first arm."""
        options = self.plan["arms"][arm]["options"]
        alike = [
            name for name in question["arms"]
            if (each := self.plan["arms"][name])["recipe"] == "clip" and each["options"] == options and not self.is_choice(name)
        ]  # fmt: skip
        base = alike[0] if alike and arm not in alike else question["arms"][0]
        return None if base == arm else base

    def table(self, question: dict) -> str:
        """A row per arm of a question with a run, a column per metric, chance in the last row; and what is missing."""
        names = [arm for arm in question["arms"] if not self.is_choice(arm)]
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
        if choices := [arm for arm in question["arms"] if self.is_choice(arm)]:
            count = (
                f"{sum(len(self.runs[arm]) for arm in choices)} of {sum(len(self._seeds(arm)) for arm in choices)} runs"
            )
            parts.append(
                f"Arms that only serve a choice, so that no number of them is reported ({count}): {arms.named(choices)}."
            )
        return "\n\n".join(parts)

    def levels(self, metrics: Sequence[str], split: str) -> str:
        """A row per arm with a run, a column per metric that was measured on a split, chance in the last row."""
        there = self._there()
        asked = [name for name in metrics if any(arms.values(self.runs[arm], name, split) for arm in there)]
        rows = [["arm", "seeds", *(NAMES[name] for name in asked)]]
        rows += [[f"`{arm}`", self._count(arm), *(arms.level(self.runs[arm], name, split) for name in asked)] for arm in there]
        runs = list(chain.from_iterable(self.runs[arm].values() for arm in there))
        return as_markdown([*rows, ["chance", "", *(arms.chance(runs, name, split) for name in asked)]])

    def gains(self, metrics: Sequence[str], split: str) -> str:
        """A row per arm with two seeds or more: its gain over `clip` with the same options, a column per metric."""
        there, rows = self._there(), []
        asked = [name for name in metrics if any(arms.values(self.runs[arm], name, split) for arm in there)]
        for arm in there:
            over = self._alike_clip(arm)
            if arm != over and len(self.runs[arm].keys() & self.runs[over].keys()) > 1:
                cells = [arms.gain(self.runs[arm], self.runs[over], name, split=split) for name in asked]
                rows.append([f"`{arm}`", f"`{over}`", *cells])
        return as_markdown([["arm", "above", *(NAMES[name] for name in asked)], *rows]) if rows else ""

    def _there(self) -> list[str]:
        """The arms of the plan with a run, except those that only serve a choice."""
        return [arm for arm in self.plan["arms"] if self.runs[arm] and not self.is_choice(arm)]

    def _alike_clip(self, arm: str) -> str:
        """The arm of `clip` with the options of an arm; `clip` itself if there is none."""
        options = self.plan["arms"][arm]["options"]
        alike = (name for name, each in self.plan["arms"].items() if each["recipe"] == "clip" and each["options"] == options)
        return next((name for name in alike if not self.is_choice(name)), "clip")

    def verdict_of(self, *pairs: tuple[str, str]) -> str:
        """The verdict on all primary comparisons of these (arm, other arm)."""
        found = {pair: [each for each in self.comparisons if (each.arm, each.over) == pair] for pair in pairs}
        lacking = [" over ".join(pair) for pair, each in found.items() if not each]
        require(not lacking, f"the plan has no primary comparison of {' and '.join(lacking)}.")
        return verdict(list(chain.from_iterable(found.values())), whole=True)

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
