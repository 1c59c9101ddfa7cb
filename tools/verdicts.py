"""What the study's saved runs and the bench say of the papers' statements, in a line each: figures, and verdicts by intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import median

from benchmarks.run import Bench
from benchmarks.timing import Spread
from lcl.config import get_profile
from lcl.course import study
from lcl.course.study import COLUMNS, Gain, gain, saved_runs, seeds_in_words

(I2T, T2I), ZERO = study.RECALL, "zero_shot_top1"
NDCG = ("image_to_text_ndcg@10", "text_to_image_ndcg@10")
PROBES = ("probe_concept", "probe_category")
JUDGED = (I2T, T2I, *NDCG, ZERO, "category_top1", *PROBES, "alignment")  # on every split, the more the better
PAIR = ("clip", "clip-ping")  # what is trained with fewer and with more pairs, too
TRIED = (0,)  # the seed by which weights of recipes were chosen
TRANSFER = {"unseen_drawings": "an unseen drawing style", "unseen_concepts": "unseen objects"}
PAPER = {ZERO: 5.5, I2T: 10.7, T2I: 5.7}  # what CLIP-PING gains over CLIP, says its abstract


def above(stem: str, *figures: str, over: str = "clip", split: str = "new_scenes", tail: str = "") -> str:
    """ "image→text R@1 +9.4 (+5.0 to +13.9), …": points above another recipe, with 95 % intervals. tail: of the other's name."""
    return ", ".join(f"{COLUMNS[figure]} {gain(f'{stem}-laptop', f'{over}-laptop{tail}', figure, split)}" for figure in figures)


def levels(stem: str, *figures: str, split: str = "new_scenes") -> str:
    """ "alignment 92.6 ± 0.9, …": mean and standard deviation over the seeds, in percent."""
    runs = saved_runs(f"{stem}-laptop")
    return ", ".join(f"{COLUMNS[figure]} {study.level(runs, split, figure)}" for figure in figures)


def judge(stem: str, *figures: str, longer: bool = False) -> Callable[[Bench], str]:
    """Do intervals of gains over `clip` lie above zero?

    longer: and do they above `clip` that was trained for longer?
    """

    def told(bench: Bench) -> str:
        over_clip = gains_of(f"{stem}-laptop", "clip-laptop", figures)
        if not longer:
            return both_verdicts(over_clip)
        beside = verdict(gains_of(f"{stem}-laptop", "clip-laptop-longer", figures)(()))
        return f"{both_verdicts(over_clip)}. Above `clip` trained for {times_longer()} times as many steps: {beside}"

    return told


def judge_part(stem: str, *figures: str) -> Callable[[Bench], str]:
    """The same where the paper states what an objective is, and whether it gains is our question."""
    return lambda bench: f"built and tested; that it gains over `clip` {judge(stem, *figures)(bench)}"


Measure = Callable[[Sequence[int]], dict[str, Gain]]
"""Gains by name, of all seeds but those that it is told to leave out."""


def gains_of(stem: str, over: str, figures: Sequence[str], split: str = "new_scenes") -> Measure:
    return lambda without: {COLUMNS[figure]: gain(stem, over, figure, split, without) for figure in figures}


def both_verdicts(measure: Measure) -> str:
    """What the intervals of gains say together; and without the seed that trials looked at, if three others are left."""
    found = measure(())
    told, seeds = verdict(found), min(each.seeds for each in found.values())
    if seeds - len(TRIED) < 3:
        return f"{told}; {seeds} seeds, of which seed 0 served to choose weights"
    late = verdict(measure(TRIED))
    return f"{told}; without seed 0, too" if told == late else f"{told}. Without seed 0: {late}"


def verdict(found: dict[str, Gain]) -> str:
    """What the intervals of gains say together, a name each."""
    up, down = ([name for name, each in found.items() if each.sign == sign] for sign in (1, -1))
    if len(up) == len(found):
        return "holds here: every interval lies above zero"
    words = [f"holds here for {' and '.join(up)}"] if up else []
    words += [f"lies below zero for {' and '.join(down)}"] if down else []
    if len(up) + len(down) < len(found):
        words += ["of the rest these seeds cannot tell"] if up or down else ["is not shown by these seeds"]
    return "; ".join(words)


def not_alone(bench: Bench) -> str:
    """The verdict where no run differs in this alone."""
    return "built and tested; no run tells it from the rest"


def points(text: str) -> str:
    """A list of gains, said to be what they are."""
    return f"points above `clip`, with 95 % intervals: {text}"


def first_loss(bench: Bench) -> str:
    losses = [run["first_loss"] for run in saved_runs("clip-laptop")]
    return f"the first loss is {min(losses):.3f} to {max(losses):.3f} nats over the seeds; a guess among 128 costs ln 128 = 4.852"


def masked(bench: Bench) -> str:
    seen = levels("clip+mlm", "masked_word_true_image", "masked_word_no_image", "masked_word_wrong_image")
    both = levels("lightclip", "masked_word_true_image", "masked_word_no_image")
    return f"`clip+mlm`, percent: {seen}; `lightclip`: {both}; {points(above('clip+mlm', I2T, T2I, ZERO))}"


def depths(bench: Bench) -> str:
    cells = ", ".join(str(study.level(saved_runs(f"clip-laptop-depth{depth}"), "new_scenes", I2T)) for depth in (1, 2, 4, 8, 12))
    loss = gain("clip-laptop-depth12", "clip-laptop-depth1", I2T)
    return f"image→text R@1 with 1, 2, 4, 8 and 12 layers, half the epochs: {cells}; 12 layers above 1: {loss} points"


def falls(bench: Bench) -> str:
    found = [gain("clip-laptop-depth12", "clip-laptop-depth1", figure) for figure in (I2T, T2I, ZERO)]
    if all(each.sign < 0 for each in found):
        return "at these equal, few steps twelve layers are worse than one; not tested with many steps"
    return "is not shown by these seeds"


def read(bench: Bench) -> str:
    runs = saved_runs("clip+mlm-laptop")
    true, none = (study.level(runs, "new_scenes", f"masked_word_{image}_image").mean for image in ("true", "no"))
    read = "the image is read" if true > 2 * none else "the image is not read"
    return f"{read}; that this gains over `clip` {judge('clip+mlm', I2T, T2I, ZERO)(bench)}"


def cheap(bench: Bench) -> str:
    longer, once = bench.races["recipe-clip-ping"].longer, bank_minutes(bench).middle
    cheap = "holds here" if longer.high < 1.1 else "does not hold here" if longer.middle > 1.1 else "holds here in the median"
    return (
        f"{cheap} for steps: one takes {longer} times as long. Banks, once for a data set, take {once:.1f} minutes: "
        f"{100 * once / clip_minutes(bench):.0f} % more for a first training at this scale"
    )


QUARTERS = {"4,096 beside 16,384": ("-4k", ""), "16,384 beside 65,536": ("", "-64k")}
"""Fewer pairs and more of them: how the runs' names end."""


def quarter(few: str, many: str) -> Measure:
    """`clip-ping` with a quarter of the pairs above `clip` with all of them."""
    return gains_of(f"clip-ping-laptop{few}", f"clip-laptop{many}", (I2T, T2I, ZERO))


def fewer(bench: Bench) -> str:
    told = (f"{pairs} pairs: {both_verdicts(quarter(*tails))}" for pairs, tails in QUARTERS.items())
    return f"`clip-ping` with a quarter of the pairs that `clip` has. {'. '.join(told)}"


def no_worse(bench: Bench) -> str:
    def measure(without: Sequence[int]) -> dict[str, Gain]:
        return {
            f"{COLUMNS[figure]} over `{other}`": gain("lightclip-ping-laptop", f"{other}-laptop", figure, without=without)
            for other in ("lightclip", "clip-ping") for figure in (I2T, T2I)
        }  # fmt: skip

    return f"that it is above both papers' recipes in recall@1 {both_verdicts(measure)}"


def overhead(bench: Bench) -> str:
    benchmark = bench.races["recipe-clip-ping"]
    return (
        f"a step takes {benchmark.longer} times one of `clip`, {len(benchmark.ours)} repeats; both banks of 16,384 pairs take "
        f"{bank_minutes(bench).middle:.1f} minutes once, reckoned from {bench.races['banks'].amount}, beside "
        f"{clip_minutes(bench):.1f} minutes of `clip`'s steps; nothing at inference"
    )


def clip_minutes(bench: Bench) -> float:
    """Minutes of all steps of `clip` in the laptop profile, where the bench ran."""
    return median(bench.races["recipe-clip"].ours) * get_profile("laptop").training.steps / 60


def bank_minutes(bench: Bench) -> Spread:
    """Minutes that both banks of the laptop profile take to build there, reckoned from fewer rows."""
    banks, pairs = bench.races["banks"], get_profile("laptop").training.pairs
    return Spread.of([seconds * pairs / banks.amount / 60 for seconds in banks.ours])


def inference(bench: Bench) -> str:
    return "the same parameters, operations and bits as CLIP's towers: equal, not nearly equal"


def probed(bench: Bench) -> str:
    told = [f"{what}: {above('clip-ping', *PROBES, split=split)}" for split, what in TRANSFER.items()]
    return points("; ".join(told))


def transfer(bench: Bench) -> str:
    def measure(without: Sequence[int]) -> dict[str, Gain]:
        return {
            f"{COLUMNS[figure]} of {what}": gain("clip-ping-laptop", "clip-laptop", figure, split, without)
            for split, what in TRANSFER.items() for figure in PROBES
        }  # fmt: skip

    return both_verdicts(measure)


def beside_longer(stem: str, *figures: str) -> str:
    """Points above `clip`, and above a training run of it that takes longer than the recipe's steps."""
    longer = above(stem, *figures, tail="-longer")
    return f"{points(above(stem, *figures))}; above `clip` trained for {times_longer()} times as many steps: {longer}"


def times_longer() -> str:
    """How many times as many steps the longer training of `clip` took."""
    steps, longer = (saved_runs(stem)[0]["steps"] for stem in ("clip-laptop", "clip-laptop-longer"))
    return f"{longer / steps:.4g}"


def live(bench: Bench) -> str:
    longer, figures = bench.races["recipe-a-clip-ping"].longer, (ZERO, I2T, T2I)
    beside = above("a-clip-ping", *figures, over="clip-ping")
    return f"{points(above('a-clip-ping', *figures))}; above `clip-ping`: {beside}; a step takes {longer} times one of `clip`"


def best(bench: Bench) -> str:
    others = ("lightclip", "clip-ping")
    told = [f"above `{other}` by {above('lightclip-ping', I2T, T2I, over=other)}" for other in others]
    for other in others:
        lost = [
            f"{COLUMNS[figure]} on `{split}` {each}"
            for split, figures in saved_runs(f"{other}-laptop")[0]["metrics"].items() for figure in JUDGED if figure in figures
            if (each := gain("lightclip-ping-laptop", f"{other}-laptop", figure, split)).sign < 0
        ]  # fmt: skip
        told += [f"below `{other}` in {', '.join(lost)}"] if lost else []
    return "; ".join(told)


def demand(bench: Bench) -> str:
    stems = {(name, tail): f"{name}-laptop{tail}" for tail in ("-4k", "", "-64k") for name in PAIR}
    runs = study.shared({stem: saved_runs(stem) for stem in stems.values()})
    found = {key: study.level(runs[stem], "new_scenes", I2T) for key, stem in stems.items()}
    seeds = seeds_in_words({run["seed"] for run in next(iter(runs.values()))})
    sizes = (("4,096", "-4k"), ("16,384", ""), ("65,536", "-64k"))
    told = (f"of {pairs} pairs `clip-ping` {found['clip-ping', tail]}, `clip` {found['clip', tail]}" for pairs, tail in sizes)
    quarters = {pairs: quarter(*tails)(()).items() for pairs, tails in QUARTERS.items()}
    above = (f"{pairs}, {', '.join(f'{name} {each}' for name, each in found)}" for pairs, found in quarters.items())
    return (
        f"image→text R@1, {seeds}: {'; '.join(told)}. Points of `clip-ping` with a quarter of the pairs above `clip` "
        f"with all of them, with 95 % intervals: {'; '.join(above)}"
    )
