"""The study: the saved runs in `results/` that the course reports, how they compare, and tables of them.

`make results` trains them. `results/study.json` says which runs belong to the study; runs that do not fit it are reported and
left out. Recipes are compared by runs of the same seed, which had the same initial weights and the same batches.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import mean, stdev

from lcl import storage
from lcl.config import CHECKOUT, LclError, choose, from_dict, in_checkout, require

FOLDER = CHECKOUT / "results"
MANIFEST = "study.json"
RECALL = ("image_to_text_recall@1", "text_to_image_recall@1")
AGAIN = "`make results` trains what is missing"
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
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Study:
    """What all runs of a study have in common, and which runs there are.

    Attributes:
        code: `provenance.code_key` of the code that trained and measured them.
        data: fingerprint of the data set.
        torch: its version.
        seeds: of each stem, which is a run's name without "-seed…". A complete study has a file `STEM-seedN.json` for each.
    """

    code: str
    data: str
    torch: str
    seeds: dict[str, list]


def read_study() -> Study:
    """The manifest of `results/`. Raises LclError if there is none."""
    found = (FOLDER / MANIFEST).exists()
    require(found or in_checkout(), "an installed lcl has no results of the study; use a clone of the course's repository.")
    require(found, f"{FOLDER} holds no study: there is no {MANIFEST}; {AGAIN}.")
    return from_dict(Study, storage.read_json(FOLDER / MANIFEST))


def write_study(study: Study) -> None:
    """Write the manifest of `results/`."""
    storage.write_json(FOLDER / MANIFEST, asdict(study))


def differences(run: dict, study: Study) -> list[str]:
    """How a run's code, data and torch version differ from the study's: "code X, not Y", …; empty if they match."""
    made = {"code": run["provenance"].get("code"), "data": run["data"], "torch": run["provenance"]["packages"]["torch"]}
    made["torch"] = made["torch"].split("+")[0]  # the same release for other processors
    return [f"{key} {value}, not {getattr(study, key)}" for key, value in made.items() if value != getattr(study, key)]


def standing(stem: str) -> tuple[list[dict], str]:
    """The runs of a stem that count, each as its metrics.json, by seed; and what is wrong with them, or "".

    Either all runs of a stem count or none: every seed must be there, complete, made with the study's code, data and torch, and
    the runs must be alike except for their seed.
    """
    study = read_study()
    choose("stem in the study", stem, study.seeds)
    paths = {seed: FOLDER / f"{stem}-seed{seed}.json" for seed in study.seeds[stem]}
    missing = [str(seed) for seed, path in paths.items() if not path.exists()]
    wrong = [f"seed {' and '.join(missing)} missing"] if missing else []
    runs: list[dict] = []
    for seed, path in paths.items():
        if path.exists():
            try:
                run = storage.read_json(path)
                misfits = _misfits(run, (runs or [run])[0], seed, study)
                wrong += [f"seed {seed} {each}" for each in misfits]
                runs += [] if misfits else [run]  # later runs are compared with the first that fits
            except (LclError, KeyError, TypeError, AttributeError):
                wrong.append(f"seed {seed} damaged, in {path.name}")
    return ([], f"{stem}: {'; '.join(wrong)}") if wrong else (runs, "")


def _misfits(run: dict, first: dict, seed: int, study: Study) -> list[str]:
    """Why a run does not fit the study, or the first run of its stem."""
    other = differences(run, study)
    found = [f"of other {' and '.join(other)}"] if other else []
    found += [f"holds a run of seed {run['seed']}"] if run["seed"] != seed else []
    here, there = _shared_settings(run), _shared_settings(first)
    other = [what for what in here if here[what] != there[what]]
    return [*found, f"differs from seed {first['seed']} in more than the seed: {' and '.join(other)}"] if other else found


def _shared_settings(run: dict) -> dict[str, object]:
    """What must be the same in all runs of a stem; "queries" is the fingerprint of the test queries, None in older runs."""
    return {
        "profile": run["profile"], "recipe": run["recipe"], "steps": run["steps"], "teacher": run.get("teacher"),
        "queries": run.get("queries"),
        "packages": {name: version for name, version in run["provenance"]["packages"].items() if name != "torch"},
        "metrics": {split: set(metrics) for split, metrics in run["metrics"].items()},
    }  # fmt: skip


def whole(stems: Sequence[str]) -> dict[str, list[dict]]:
    """The runs of those stems whose runs count, by stem; warns of the others. Raises LclError if none is left."""
    found = {stem: standing(stem) for stem in stems}
    wrong = [reason for _, reason in found.values() if reason]
    require(len(wrong) < len(found), f"only whole sets of runs are averaged: {' / '.join(wrong)}. {AGAIN}.")
    for reason in wrong:
        log.warning("left out, %s", reason)
    return {stem: runs for stem, (runs, reason) in found.items() if not reason}


def saved_runs(stem: str) -> list[dict]:
    """The runs of a stem, each as its metrics.json, by seed. Raises LclError, with the reason, if they do not count."""
    return whole([stem])[stem]


def shared(runs: dict[str, list[dict]]) -> dict[str, list[dict]]:
    """The runs of every stem whose seeds all stems have. Raises LclError if there is no such seed, or for different queries."""
    seeds = set.intersection(*({run["seed"] for run in each} for each in runs.values()))
    require(bool(seeds), f"{', '.join(runs)} have no seed in common.")
    same = len({run.get("queries") for each in runs.values() for run in each}) == 1
    require(same, f"{', '.join(runs)} were evaluated on different queries, so they cannot be compared; {AGAIN}.")
    return {stem: [run for run in each if run["seed"] in seeds] for stem, each in runs.items()}


def percent(runs: Sequence[dict], split: str, metric: str) -> list[float]:
    """A metric in percent, a number per run; empty unless all runs measured it. Raises LclError for an unknown split."""
    found = [run["metrics"][choose("split", split, run["metrics"])].get(metric) for run in runs]
    return [] if None in found else [100 * each["value"] for each in found]


def values(stems: Sequence[str], metric: str, split: str = "new_scenes", without: Sequence[int] = ()) -> list[list[float]]:
    """A metric of saved runs in percent: a list per stem, of the seeds that all stems have, except `without`, by seed.

    Raises:
        LclError: if a stem did not measure the metric, or the stems share no seed.
    """
    runs = shared({stem: [run for run in saved_runs(stem) if run["seed"] not in without] for stem in stems})
    found = {stem: percent(each, split, metric) for stem, each in runs.items()}
    lacking = [stem for stem, each in found.items() if not each]
    require(not lacking, f"{metric} was not measured on {split} by {' and '.join(lacking)}.")
    return list(found.values())


@dataclass(frozen=True)
class Level:
    """A metric in percent: its mean over the seeds, and the standard deviation, None for a single run."""

    mean: float
    spread: float | None

    def __str__(self) -> str:
        return f"{self.mean:.1f}" if self.spread is None else f"{self.mean:.1f} ± {self.spread:.1f}"


def level(runs: Sequence[dict], split: str, metric: str) -> Level | None:
    """The mean and spread of a metric over one or more runs; None unless all of them measured it."""
    found = percent(runs, split, metric)
    return Level(mean(found), stdev(found) if len(found) > 1 else None) if found else None


@dataclass(frozen=True)
class Gain:
    """Points by which a recipe is above another: the mean difference of equal seeds, and its 95 % confidence interval.

    The interval is Student's t for paired samples; with three seeds it is wide. It covers the randomness of initial weights and
    of batches, not that of the data set and its test questions, which all seeds share. Of twenty intervals of recipes without
    any effect, one would exclude zero by chance. If all differences are equal, low and high are the mean, and `sign` is 0.
    """

    mean: float
    low: float
    high: float
    seeds: int

    @property
    def sign(self) -> int:
        """1 if the whole interval is above zero, -1 if below, 0 if it includes zero."""
        return 0 if self.low == self.high else int(self.low > 0) - int(self.high < 0)

    def __str__(self) -> str:
        nearest = min((abs(end) for end in (self.low, self.high) if end), default=1.0)
        digits = next((digits for digits in range(1, 9) if round(nearest, digits)), 9)  # enough to show that end's sign
        mean, low, high = (f"{value:+z.{digits}f}" for value in (self.mean, self.low, self.high))
        return f"{mean} ({low} to {high})" if self.low < self.high else f"{mean} (no interval: equal differences)"


def gain(stem: str, over: str, metric: str, split: str = "new_scenes", without: Sequence[int] = ()) -> Gain:
    """Points by which the runs of a stem are above those of another. Raises LclError as `values` does, or for a single seed."""
    return gain_of(*_pair(stem, over, metric, split, without))


def recall_gain(stem: str, over: str) -> Gain:
    """The gain in recall@1 on new scenes, the mean of image→text and text→image."""
    ways = [_pair(stem, over, metric) for metric in RECALL]
    return gain_of(*([mean(both) for both in zip(*each, strict=True)] for each in zip(*ways, strict=True)))


def _pair(stem: str, over: str, *which) -> list[list[float]]:
    """`values` of two stems that have at least two seeds in common."""
    found = values([stem, over], *which)
    require(len(found[0]) >= 2, f"{stem} and {over} have fewer than two seeds in common, so their difference has no interval.")
    return found


def gain_of(ours: Sequence[float], theirs: Sequence[float]) -> Gain:
    """The gain between two lists of at least two numbers, paired by seed."""
    from scipy.stats import ttest_rel  # imported here because it takes a second

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle = mean(differences)
    if max(differences) - min(differences) < 1e-9:  # equal, except for rounding
        return Gain(middle, middle, middle, len(differences))
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    return Gain(middle, float(interval.low), float(interval.high), len(differences))


def comparison(stems: Sequence[str], metrics: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """A table of recipes: a row per metric, a column per recipe, chance in the last; the first row is a header.

    It uses the seeds that all recipes share. Recipes whose runs do not count are reported and left out.

    Raises:
        LclError: for an unknown split or metric, or a metric that none of the recipes measured.
    """
    for metric in metrics:
        choose("metric", metric, COLUMNS)
    runs = shared(whole(stems))
    seeds = {run["seed"] for each in runs.values() for run in each}
    rows = [[f"{split}, {seeds_in_words(seeds)}", *(short(stem) for stem in runs), "chance"]]
    for metric in metrics:
        cells = [level(each, split, metric) for each in runs.values()]
        chance = [run["metrics"][split][metric]["chance"] for run, *_ in runs.values() if metric in run["metrics"][split]]
        require(any(cells), f"none of these runs measured {metric} on {split}.")
        rows.append([COLUMNS[metric], *("–" if cell is None else str(cell) for cell in cells), f"{100 * chance[0]:.1f}"])
    return rows


def gains(stems: Sequence[str], over: str, metrics: Sequence[str], split: str = "new_scenes") -> list[list[str]]:
    """A table of gains over one recipe: a row per recipe, its seeds and a column per metric; the first row is a header.

    A dash stands for a metric that was not measured, or for a single seed. Recipes whose runs do not count are reported and left
    out. Raises LclError for an unknown split or metric.
    """
    for metric in metrics:
        choose("metric", metric, COLUMNS)
    runs = whole([over, *stems])
    require(over in runs, f"the runs of {over} are not whole, so there is nothing to compare with.")
    rows = [[f"{split}, above {short(over)}", "seeds", *(COLUMNS[metric] for metric in metrics)]]
    for stem in filter(runs.__contains__, stems):
        pair = shared({name: runs[name] for name in (stem, over)})
        found = ([percent(pair[name], split, metric) for name in (stem, over)] for metric in metrics)
        cells = (str(gain_of(ours, theirs)) if ours and theirs and len(ours) > 1 else "–" for ours, theirs in found)
        rows.append([short(stem), str(len(pair[stem])), *cells])
    return rows


def short(stem: str) -> str:
    """A stem in tables: without its profile, and with what differs from the profile, as in "clip, vit"."""
    recipe, _, other = stem.partition("-laptop")
    return recipe + other.replace("-", ", ", 1)


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
    rows = [["split", *metrics]]
    for metric, title in ((RECALL[0], ""), (f"{RECALL[0]}_gallery", ", gallery")):
        ranked = [each.get(metric, {}) for each in metrics.values()]
        if any("queries" in each for each in ranked):
            counts = [f"{each['queries']:,}, {each['candidates']:,}" if "queries" in each else "" for each in ranked]
            rows.append([f"distinct pictures, captions{title}", *counts])
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
