"""What the saved runs and the bench say of a claim: its numbers in a line, and its verdict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import arms
import prices
from answers import MIXED, SUPPORTED, UNTESTED, Answers
from benchmarks.run import Bench
from lcl.course.metrics import NAMES, RECALL, level
from lcl.course.study import saved_runs

(I2T, T2I), ZERO = RECALL, "zero_shot_top1"
TITLES = NAMES | {"recall@1_gallery": "recall@1 among 5,000"}  # so many scenes rank the runs of the plan
PROBES = ("probe_concept", "probe_category")
TRANSFER = {"unseen_drawings": "an unseen drawing style", "unseen_concepts": "unseen objects"}
PAPER = {ZERO: 5.5, I2T: 10.7, T2I: 5.7}  # what CLIP-PING gains over CLIP, says its abstract
CHEAP = 0.1  # share of `clip`'s time: what takes less is minimal overhead, by our reading
MASKED = ("masked_word_true_image", "masked_word_no_image", "masked_word_wrong_image")


@dataclass(frozen=True)
class Evidence:
    """What a claim is judged by: the plan's primary comparisons, and the bench."""

    answers: Answers
    bench: Bench


Words = Callable[[Evidence], str]


def primary(*pairs: tuple[str, str]) -> Words:
    """The verdict of the primary comparisons of these (arm, other arm)."""
    return lambda evidence: evidence.answers.verdict_of(*pairs)


def untested(evidence: Evidence) -> str:
    """The verdict of a claim without a primary comparison: whatever its numbers are, they are exploratory."""
    return UNTESTED


def above(arm: str, *metrics: str, over: str = "clip", split: str = "new_scenes") -> str:
    """ "image→text R@1 +9.4 (+5.0 to +13.9), …": points above another arm, with 95 % intervals from two seeds on.

    Raises LclError if one of the arms has no run.
    """
    ours, theirs = ({run["seed"]: run for run in saved_runs(name)} for name in (arm, over))
    return ", ".join(f"{TITLES[metric]} {arms.gain(ours, theirs, metric, split=split)}" for metric in metrics)


def gains(arm: str, *metrics: str, over: str = "clip") -> Words:
    """The same of new scenes, as what is measured of a claim."""
    return lambda evidence: f"`{arm}` above `{over}`: {above(arm, *metrics, over=over)}"


def both(*parts: Words) -> Words:
    """Several of these in one line."""
    return lambda evidence: "; ".join(part(evidence) for part in parts)


def levels(arm: str, *metrics: str) -> str:
    """ "alignment 92.6 ± 0.9, …": mean and standard deviation over the seeds, in percent."""
    return ", ".join(f"{TITLES[metric]} {level(saved_runs(arm), metric)}" for metric in metrics)


def masked(evidence: Evidence) -> str:
    told = "; ".join(f"`{arm}`, percent: {levels(arm, *MASKED[:2])}" for arm in ("clip+mlm", "clip+mlm-blind"))
    return f"{told}; {gains('clip+mlm', 'recall@1', 'recall@1_gallery', over='clip+mlm-blind')(evidence)}"


def depths(evidence: Evidence) -> str:
    cells = ", ".join(f"{depth} layers {levels(f'clip, depth {depth}', 'recall@1')}" for depth in (2, 8, 12))
    return f"{cells}; {gains('clip, depth 12', 'recall@1', over='clip, depth 2')(evidence)}"


def overhead(evidence: Evidence) -> str:
    bench = evidence.bench
    step, minutes, banks = bench.races["recipe-clip-ping"].longer, prices.clip_minutes(bench), prices.bank_minutes(bench).middle
    later = step.middle - 1
    return (
        f"a step takes {step} times one of `clip`; both banks of 16,384 pairs take {banks:.1f} minutes once, reckoned from "
        f"{bench.races['banks'].amount} pairs, compared with {minutes:.1f} minutes of `clip`'s steps. So the first run on these "
        f"pairs takes {100 * (later + banks / minutes):.0f} % longer than `clip`, a later one {100 * later:.0f} %; "
        "nothing at inference"
    )


def cheap(evidence: Evidence) -> str:
    """Supported if neither steps nor banks take much of `clip`'s time, mixed if one of them does not."""
    bench = evidence.bench
    steps = bench.races["recipe-clip-ping"].longer.high < 1 + CHEAP
    banks = prices.bank_minutes(bench).high < CHEAP * prices.clip_minutes(bench)
    return SUPPORTED if steps and banks else MIXED if steps or banks else "not supported"


def inference(evidence: Evidence) -> str:
    return (
        "chapter 7 exports LightCLIP's towers: as many parameters and operations as CLIP's, and bitwise the outputs from before "
        "the export; tests show that the fusion changes no bit of the contrastive path"
    )


def probed(evidence: Evidence) -> str:
    return "; ".join(f"{what}: {above('clip-ping', *PROBES, split=split)}" for split, what in TRANSFER.items())


def live(evidence: Evidence) -> str:
    steps = evidence.bench.races["recipe-a-clip-ping"].longer
    told = both(gains("a-clip-ping", ZERO, I2T, T2I), gains("a-clip-ping", ZERO, I2T, T2I, over="clip-ping"))(evidence)
    return f"{told}; a step takes {steps} times one of `clip`"


SIZES = {"4,096": "{}, 4k pairs", "16,384": "{}", "65,536": "{}, 64k pairs"}
"""Numbers of pairs at equal steps, and how the plan names an arm with so many."""


def demand(evidence: Evidence) -> str:
    def told(recipe: str) -> str:
        def points(few: str, many: str) -> str:
            return above(SIZES[few].format(recipe), "recall@1", over=SIZES[many].format("clip"))

        same = [f"{pairs} pairs: {points(pairs, pairs)}" for pairs in SIZES]
        quarter = [f"{few} pairs above {many}: {points(few, many)}" for few, many in pairwise(SIZES)]
        return f"`{recipe}` above `clip`, {'; '.join(same)}; with a quarter of `clip`'s pairs, {'; '.join(quarter)}"

    return f"{told('clip-ping')}. The control: {told('clip+distil')}"
