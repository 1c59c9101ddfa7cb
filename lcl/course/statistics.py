"""Statistics of a study: gains with a pooled variance, the uncertainty of seeds and of queries, many comparisons at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from lcl.config import choose, require
from lcl.course import study
from lcl.eval.queries import QueryRanks, read_ranks


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95 % interval, and p, the two-sided probability of one as large if there were no difference."""

    mean: float
    low: float
    high: float
    p: float


def pooled_gains(values: Mapping[str, Mapping[int, float]], over: str) -> dict[str, Estimate]:
    """By how much recipes are above another, from the linear model: value = recipe + seed + noise.

    Seeds are shared by all recipes, so what makes a seed easy counts for none of them. The noise has one variance, estimated
    from all runs together: with few seeds a recipe, the intervals are much narrower than those of separate paired tests. With
    two recipes it is the paired t-test.

    Args:
        values: of a metric, by recipe and seed. Runs may be missing.
        over: the recipe to compare with.

    Returns:
        For every other recipe its gain.

    Raises:
        LclError: if no run is left to estimate the noise from, or for recipes that share no seed with the others.
    """
    from scipy import stats  # takes a second

    recipes, seeds = list(values), sorted({seed for runs in values.values() for seed in runs})
    require(over in values, f"there are no runs of {over} to compare with.")
    rows = [(recipe, seed, value) for recipe, runs in values.items() for seed, value in runs.items()]
    x = np.array([[*(recipe == each for each in recipes), *(seed == each for each in seeds)] for recipe, seed, _ in rows], float)
    y = np.array([value for *_, value in rows])
    freedom = len(rows) - np.linalg.matrix_rank(x)
    require(freedom >= 1, "there are too few runs to tell recipes from seeds; train further seeds.")
    inverse = np.linalg.pinv(x.T @ x)
    solution = inverse @ x.T @ y
    variance = float(((y - x @ solution) ** 2).sum()) / freedom
    found = {}
    for recipe in recipes:
        if recipe == over:
            continue
        contrast = np.array([*((each == recipe) - float(each == over) for each in recipes), *np.zeros(len(seeds))])
        known = np.allclose(contrast @ inverse @ x.T @ x, contrast)  # else the runs cannot tell the two apart
        require(known, f"{recipe} and {over} share no seed, not even through other recipes; train them with the same seeds.")
        mean, error = float(contrast @ solution), float(np.sqrt(variance * (contrast @ inverse @ contrast)))
        room = float(stats.t.ppf(0.975, freedom)) * error
        p = float(2 * stats.t.sf(abs(mean) / error, freedom)) if error > 0 else float(mean == 0)
        found[recipe] = Estimate(mean, mean - room, mean + room, p)
    return found


def paired_gain(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[study.Gain, float]:
    """The gain of one arm over another with its 95 % interval, and the two-sided p of the paired t-test.

    Equal differences make no interval, and show nothing about other seeds: their p is 1.

    Args:
        ours, theirs: values of a metric by seed. The seeds that both have are compared.

    Raises:
        LclError: for fewer than two seeds in common.
    """
    seeds = sorted(ours.keys() & theirs.keys())
    require(len(seeds) >= 2, f"an interval needs two seeds in common, not {len(seeds)}.")
    pair = {"ours": {seed: ours[seed] for seed in seeds}, "theirs": {seed: theirs[seed] for seed in seeds}}
    gain = study.gain_of(*(list(values.values()) for values in pair.values()))
    return gain, pooled_gains(pair, "theirs")["ours"].p if gain.low < gain.high else 1.0


def crossed_gain(ours: np.ndarray, theirs: np.ndarray, rounds: int = 4000) -> Estimate:
    """The gain of one recipe over another if not only the seeds but also the queries had been others.

    Both are drawn anew with replacement, seeds and queries independently (the pigeonhole bootstrap: Owen 2007, arXiv
    0712.1111). The interval is rather too wide than too narrow.

    Args:
        ours, theirs: (seeds, queries) float, such as 1 where a query was answered rightly. Rows and columns belong together.
        rounds: draws.
    """
    same = ours.shape == theirs.shape and ours.ndim == 2
    require(same, f"both recipes need the same seeds and queries, not {ours.shape} and {theirs.shape}.")
    difference, random = ours.astype(float) - theirs, np.random.default_rng(0)
    seeds, queries = (random.multinomial(n, np.full(n, 1 / n), rounds) for n in difference.shape)  # (rounds, n): how often
    means = ((seeds @ difference) * queries).sum(1) / difference.size
    low, high = np.quantile(means, [0.025, 0.975])
    p = min(1.0, 2 * (1 + min((means <= 0).sum(), (means >= 0).sum())) / (rounds + 1))
    return Estimate(float(difference.mean()), float(low), float(high), float(p))


def query_gain(stem: str, over: str, way: str = "image_to_text", k: int = 1) -> Estimate:
    """The gain in recall@k on new scenes, in points, if not only the seeds but also the queries had been others.

    See `crossed_gain`. The ranks of the queries lie in `results/`, in a file `STEM-seedN.safetensors` for each run.

    Args:
        stem, over: of the study; the seeds that both have are compared.
        way: "image_to_text" or "text_to_image".
        k: candidates that count.

    Raises:
        LclError: if the runs do not count, were evaluated on different queries, or have no ranks that belong to them.
    """
    choose("direction", way, dict(study.WAYS))
    runs = study.shared({name: study.saved_runs(name) for name in (stem, over)})
    ranked = {name: [saved_ranks(name, run) for run in each] for name, each in runs.items()}
    hits = (np.stack([100 * (getattr(each, way).numpy() < k) for each in ranked[name]]) for name in (stem, over))
    return crossed_gain(*hits)


def saved_ranks(stem: str, run: dict) -> QueryRanks:
    """The ranks of a run of the study. Raises LclError if there are none, or if they are of other queries or of another run."""
    return ranks_of_run(study.FOLDER / f"{stem}-seed{run['seed']}.safetensors", run, study.AGAIN)


def ranks_of_run(path: Path, run: dict, again: str) -> QueryRanks:
    """Read the ranks of a run's queries. Raises LclError, with what to do `again`, if they are missing or not its own."""
    ranked = read_ranks(path)
    require(ranked.queries == run.get("queries"), f"{path} holds the ranks of other queries than the run's; {again}.")
    for way in dict(study.WAYS):
        reached = (getattr(ranked, way) < 1).double().mean().item()
        recall = run["metrics"]["new_scenes"][f"{way}_recall@1"]["value"]
        require(abs(reached - recall) < 1e-9, f"{path} holds the ranks of another run; {again}.")
    return ranked


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p of several comparisons, corrected so that all are wrong together in at most as many studies (Holm 1979)."""
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}
