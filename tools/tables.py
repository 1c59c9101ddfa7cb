"""Tables and sentences of the pages of results, worked out from the study's saved runs and the bench."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import mean, median, stdev

from benchmarks import baselines
from benchmarks.run import Bench
from benchmarks.timing import Spread
from lcl.course.study import (
    COLUMNS,
    Gain,
    Level,
    gain,
    gain_of,
    gains,
    level,
    percent,
    read_study,
    recall_gain,
    saved_runs,
    short,
    standing,
    values,
)
from verdicts import I2T, PAIR, PAPER, T2I, TRIED, ZERO, bank_minutes, clip_minutes, times_longer

ALL = ("clip+soft", "clip+match", "clip+mlm", "lightclip", "clip+nn", "clip+xnn", "clip-ping", "lightclip-ping")
MAIN = ("clip", "lightclip", "clip-ping", "lightclip-ping")
SPLITS = {
    "new_scenes": "new scenes", "unseen_pairs": "unseen pairs of known objects", "unseen_drawings": "an unseen drawing style",
    "unseen_concepts": "unseen objects",
}  # fmt: skip
BUYS = {
    I2T: "image→text", T2I: "text→image", ZERO: "zero-shot", "category_top1": "zero-shot category",
    "probe_concept": "concept probe", "probe_category": "category probe", "alignment": "pointing",
}  # fmt: skip
PLAINER = ("render", "reading", "bank-images", "bank-captions", "banks", "neighbours-product")  # races beside no library
LONGER = "clip-laptop-longer"  # clip, with more steps
SIZES = {4096: "-4k", 16_384: "", 65_536: "-64k"}


def stem_of(name: str) -> str:
    """ "clip-ping" → "clip-ping-laptop"; a whole stem stays."""
    return name if "-laptop" in name else f"{name}-laptop"


def stems_of(names: Sequence[str]) -> list[str]:
    return [stem_of(name) for name in names]


def there(*stems: str) -> bool:
    """Are there runs of all these stems that count?"""
    seeds = read_study().seeds
    return all(stem in seeds and bool(standing(stem)[0]) for stem in stems)


def as_markdown(rows: Sequence[Sequence[str]], words: bool = False) -> str:
    """A table for a page: the first column to the left, the others to the right, or to the left if they hold words."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|---" + ("|---" if words else "|---:") * (len(rows[0]) - 1) + "|", *lines[1:]])


def summary(runs: Sequence[dict]) -> list[list[str]]:
    """All splits of one recipe: a row per metric, a column per split, "mean ± spread (chance)"; the first row is a header."""
    splits = runs[0]["metrics"]
    rows = [["split", *(f"`{split}`" for split in splits)]]
    for metric, title in COLUMNS.items():
        levels = {split: level(runs, split, metric) for split in splits}
        if any(levels.values()):
            rows.append([title, *(
                f"{cell} ({100 * splits[split][metric]['chance']:.1f})" if cell else "" for split, cell in levels.items()
            )])  # fmt: skip
    return rows


def by_seed(stems: Sequence[str], figures: Sequence[str] = (I2T, T2I, ZERO, "alignment")) -> str:
    """Every run on new scenes: a row a run, a column a figure, in percent."""
    rows = [["run", "seed", *(COLUMNS[figure] for figure in figures)]]
    for stem in stems:
        runs = saved_runs(stem)
        columns = [percent(runs, "new_scenes", figure) for figure in figures]
        rows += [
            [f"`{stem}`", str(run["seed"]), *(f"{column[row]:.1f}" if column else "–" for column in columns)]
            for row, run in enumerate(runs)
        ]
    return as_markdown(rows)


def depths() -> str:
    """What layers of the text tower buy."""
    layers = (1, 2, 4, 8, 12)
    runs = [saved_runs(f"clip-laptop-depth{depth}") for depth in layers]
    rows = [["layers of the text tower", *map(str, layers)]]
    for figure in (I2T, T2I, ZERO):
        rows.append([COLUMNS[figure], *(str(level(each, "new_scenes", figure)) for each in runs)])
    return as_markdown(rows)


def rates() -> str:
    """What other learning rates make of clip, seed 0; and how much the best of them is worth, beside the luck of a seed."""
    own = saved_runs("clip-laptop")
    usual = f"{own[0]['profile']['training']['learning_rate']:g}"
    found = {usual: own[:1]}
    found |= {f"{float(stem.split('-rate')[1]):g}": saved_runs(stem) for stem in read_study().seeds if "-rate" in stem}
    found = dict(sorted(found.items(), key=lambda item: float(item[0])))
    rows = [["`clip`, seed 0, learning rate", *found]]
    for figure in (I2T, T2I, ZERO):
        rows.append([COLUMNS[figure], *(str(level(runs, "new_scenes", figure)) for runs in found.values())])
    reached = {rate: mean(map(_recall, runs)) for rate, runs in found.items()}
    return f"{as_markdown(rows)}\n\n{best_rate(reached, usual, stdev(map(_recall, own)))}"


def best_rate(reached: dict[str, float], usual: str, luck: float) -> str:
    """Which learning rate reached most recall@1, and how much that is worth beside the luck of a seed."""
    best = max(reached, key=reached.__getitem__)
    above = f"{reached[best] - reached[usual]:.1f} points above the profile's {usual}"
    where = f"none of them is above the profile's {usual}" if best == usual else f"the best of them, {best}, lies {above}"
    told = f"In recall@1, mean of both ways, {where}; from seed to seed that figure varies by {luck:.1f} (standard deviation)."
    if best == usual:
        return f"{told} This is one seed."
    return (f"{told} This is one seed, and the best of {len(reached)} is rather too high; "
            "whether recipes would gain as much at it was not tried.")


def _recall(run: dict) -> float:
    """Recall@1 on new scenes, in percent: the mean of image→text and text→image."""
    return 100 * mean(run["metrics"]["new_scenes"][figure]["value"] for figure in (I2T, T2I))


def bought(names: Sequence[str], splits: Sequence[str] = tuple(SPLITS), over: str = "clip") -> str:
    """What recipes buy beyond another, in words: a row a recipe, a column a split, of figures whose interval leaves zero.

    Of figures that the recipe does not have by chance alone.
    """
    rows, intervals, alike = [[f"recipe, above `{short(stem_of(over))}`", *(SPLITS[split] for split in splits)]], 0, []
    for stem in stems_of(names):
        cells = []
        for split in splits:
            found = {BUYS[figure]: gain(stem, stem_of(over), figure, split) for figure in BUYS if learned(stem, split, figure)}
            cells.append(in_words({what: each.sign for what, each in found.items()}))
            intervals += len(found)
            equal = [f"{what} of {SPLITS[split]} {each.mean:+.1f}" for what, each in found.items() if each.low == each.high]
            alike += [f"`{short(stem)}`, {each}" for each in equal]
        rows.append([f"`{short(stem)}`", *cells])
    luck = f"Were all gains none, about {0.05 * intervals:.0f} of them would leave zero by chance."
    same = f" No interval, and so not in the table, where all seeds gain the same: {'; '.join(alike)}." if alike else ""
    return f"{as_markdown(rows, words=True)}\n\nThese are {intervals} intervals. {luck}{same}"


def every_gain(names: Sequence[str], split: str = "new_scenes", over: str = "clip") -> str:
    """Gains of all figures that `bought` puts into words, as far as they are measured on a split."""
    figures = [figure for figure in BUYS if level(saved_runs(stem_of(over)), split, figure)]
    return as_markdown(gains(stems_of(names), stem_of(over), figures, split))


def learned(stem: str, split: str, figure: str) -> bool:
    """Did the runs of a stem measure a figure, and does it lie above what chance would give?"""
    runs = saved_runs(stem)
    found = level(runs, split, figure)
    return found is not None and found.mean > 100 * runs[0]["metrics"][split][figure]["chance"]


def in_words(signs: dict[str, int]) -> str:
    """The same of {what: 1 where the interval lies above zero, -1 below, 0 where zero lies in it}."""
    both = {"image→text", "text→image"}
    up, down = ([what for what, sign in signs.items() if sign == side] for side in (1, -1))
    if both <= set(up):
        up = ["retrieval", *(what for what in up if what not in both)]
    return ", ".join([*up, *(f"*less* {what}" for what in down)]) or "nothing that could be told"


def untouched(name: str, figure: str) -> Gain:
    """A gain over clip of the seeds that no trial looked at."""
    return gain(stem_of(name), "clip-laptop", figure, without=TRIED)


def recall(name: str) -> Gain:
    """Points of recall@1, the mean of image→text and text→image, above clip."""
    return recall_gain(stem_of(name), "clip-laptop")


def step_time(name: str, bench: Bench) -> Spread:
    """How many times as long as clip's steps those of a recipe take, as the bench measured it; or those of clip, longer."""
    if name == LONGER:
        return Spread(*3 * [float(times_longer())])
    return bench.races[f"recipe-{name}"].longer


def added_minutes(name: str, bench: Bench) -> tuple[Spread, Spread]:
    """Minutes that a recipe takes beyond clip: in its steps, and once for a data set, for banks; as the bench measured both."""
    longer, minutes = step_time(name, bench), clip_minutes(bench)
    steps = Spread(*(minutes * max(ratio - 1, 0) for ratio in (longer.middle, longer.low, longer.high)))  # no step takes less
    return steps, bank_minutes(bench) if saved_runs(stem_of(name))[0].get("teacher") else Spread(0, 0, 0)


def per_minute(name: str, bench: Bench) -> str:
    """Points of recall@1 gained for every added minute, banks included; and the least and the most that the gain's interval
    and the repeats of the bench bear."""
    here, (steps, banks) = recall(name), added_minutes(name, bench)
    middle, low, high = (getattr(steps, which) + getattr(banks, which) for which in ("middle", "low", "high"))
    if low < 0.1:  # a few seconds more or less are the noise of a machine
        return "takes no time that could be told"
    return f"{here.mean / middle:.1f} ({here.low / (high if here.low > 0 else low):.1f} to {here.high / low:.1f})"


def costs(bench: Bench) -> str:
    """What every recipe costs, and what a minute of it buys."""
    head = ["recipe", "a step takes", "minutes of steps", "banks, once", "GiB held", "seeds", "points of recall@1"]
    rows = [[*head, "points per added minute"]]
    for name in ("clip", *([LONGER] if there(LONGER) else []), *ALL):
        held = [run["memory_gib"] for run in saved_runs(stem_of(name)) if "memory_gib" in run]
        longer, banks = step_time(name, bench), added_minutes(name, bench)[1].middle
        took = "1" if name in ("clip", LONGER) else f"{longer} times"
        minutes = f"{clip_minutes(bench) * longer.middle:.1f}"
        cost = [took, minutes, f"{banks:.1f}" if banks else "–", f"{max(held):.2f}" if held else "–"]
        buys = ["–", "–", "–"] if name == "clip" else [str(recall(name).seeds), str(recall(name)), per_minute(name, bench)]
        rows.append([f"`{short(stem_of(name))}`", *cost, *buys])
    return as_markdown(rows)


def by_size(figure: str) -> dict[str, dict[int, list[float]]]:
    """A figure of clip and clip-ping in percent, by recipe and number of pairs: of the seeds that all sizes have."""
    found = iter(values([f"{name}-laptop{tail}" for name in PAIR for tail in SIZES.values()], figure))
    return {name: {pairs: next(found) for pairs in SIZES} for name in PAIR}


def sizes() -> str:
    """What clip-ping gains over clip, by the number of pairs."""
    rows = [["pairs", *(f"{pairs:,}" for pairs in SIZES)]]
    for figure in (I2T, T2I, ZERO):
        found = by_size(figure)
        for name, row in found.items():
            rows.append([f"{COLUMNS[figure]}, `{name}`", *(str(Level(mean(each), stdev(each))) for each in row.values())])
        clip, ping = (found[name].values() for name in PAIR)
        rows.append([f"{COLUMNS[figure]}, gain", *map(str, map(gain_of, ping, clip))])
    return as_markdown(rows)


def change(figure: str, few: str, many: str) -> Gain:
    """By how many points clip-ping gains more over clip of many pairs than of few; of equal seeds. Both as names end."""
    clip_few, ping_few, clip_many, ping_many = values([f"{name}-laptop{tail}" for tail in (few, many) for name in PAIR], figure)
    gained = [[b - a for a, b in zip(*pair, strict=True)] for pair in ((clip_many, ping_many), (clip_few, ping_few))]
    return gain_of(*gained)


def changes() -> str:
    """Does what clip-ping gains shrink with more pairs, or hold, or grow? From each size to the next, and in all."""
    words = {-1: "shrinks", 0: "cannot be told", 1: "grows"}
    first, middle, last = SIZES
    rows = [["the gain, from → to pairs", *(COLUMNS[figure] for figure in (I2T, T2I, ZERO))]]
    for few, many in ((first, middle), (middle, last), (first, last)):
        found = [change(figure, SIZES[few], SIZES[many]) for figure in (I2T, T2I, ZERO)]
        rows.append([f"{few:,} → {many:,}", *(f"{each}: {words[each.sign]}" for each in found)])
    return as_markdown(rows)


def races(bench: Bench) -> str:
    """Every race, a row: beside peers, beside plainer ways that are no library's, beside older code, and every recipe's step."""
    tables = []
    kind = {key: "beside a plainer way" for key in PLAINER}
    kind |= {key: "beside older code" for key in bench.races if key.startswith("history-")}
    for title in dict.fromkeys(["beside", "beside a plainer way", *kind.values()]):
        rows = [["what", title, "times as fast", "ours", "the other's", "note"]]
        for benchmark in bench.races.values():
            if not benchmark.key.startswith("recipe-") and kind.get(benchmark.key, "beside") == title:
                ours, peer = (benchmark.amount / median(laps) for laps in (benchmark.ours, benchmark.peer))
                rates = [f"{rate:,.0f} {benchmark.unit}" for rate in (ours, peer)]
                rows.append([benchmark.what, benchmark.beside, str(benchmark.faster), *rates, benchmark.note])
        tables.append(as_markdown(rows))
    steps = [["step of", "times as long as one of `clip`"]]
    of_recipes = {key.removeprefix("recipe-"): each for key, each in bench.races.items() if "recipe-" in key}
    steps += [[f"`{name}`", str(each.longer)] for name, each in of_recipes.items()]
    return "\n\n".join([*tables, as_markdown(steps)])


def shares(bench: Bench) -> str:
    """What share of the machine's limit each race reaches whose operations were counted: a row, ours and the other's."""
    rows, limit = [["what", "beside", "ours", "the other's"]], median(bench.facts[baselines.LIMIT])
    for each in bench.races.values():
        if each.operations:
            both = zip(each.operations, (each.ours, each.peer), strict=True)
            reached = [f"{operations / median(laps) / limit:.0%}" for operations, laps in both]
            rows.append([each.what, each.beside, *reached])
    return as_markdown(rows)


def growths(bench: Bench) -> str:
    """Every growth, a row."""
    rows = [["cost of", "grows with", "from", "to", "measured exponent", "theory's", "for"]]
    for each in bench.growths.values():
        slopes = f"{each.slope:.2f} ({min(each.slopes):.2f} to {max(each.slopes):.2f})"
        rows.append([each.what, each.variable, f"{each.x[0]:,}", f"{each.x[-1]:,}", slopes, f"{each.theory:g}", each.why])
    return as_markdown(rows)


def beside_paper() -> str:
    """How CLIP-PING's gains lie to the paper's: which intervals leave the paper's below, or hold it, or lie below it."""
    words = {I2T: "image→text", T2I: "text→image", ZERO: "zero-shot"}
    found: dict[str, list[str]] = {}
    for figure, paper in PAPER.items():
        here = gain("clip-ping-laptop", "clip-laptop", figure)
        where = "above" if here.low > paper else "below" if here.high < paper else "beside"
        found.setdefault(where, []).append(f"{words[figure]} ({here.mean:+.1f} to the paper's {paper:+.1f})")
    told = {
        "above": "The whole interval lies above the paper's gain for {}.",
        "beside": "The paper's gain lies within the interval for {}.",
        "below": "The whole interval lies **below the paper's gain** for {}.",
    }
    return " ".join(text.format(" and ".join(found[where])) for where, text in told.items() if where in found)
