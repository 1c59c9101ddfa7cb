"""Statistics of a study: gains of paired seeds, the uncertainty of seeds and of queries, many comparisons at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import mean

import numpy as np

from lcl.config import require


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


def gain_of(ours: Sequence[float], theirs: Sequence[float]) -> Gain:
    """The gain between two lists of at least two numbers, paired by seed."""
    from scipy.stats import ttest_rel  # imported here because it takes a second

    differences = [a - b for a, b in zip(ours, theirs, strict=True)]
    middle = mean(differences)
    if max(differences) - min(differences) < 1e-9:  # equal, except for rounding
        return Gain(middle, middle, middle, len(differences))
    interval = ttest_rel(ours, theirs).confidence_interval(0.95)
    return Gain(middle, float(interval.low), float(interval.high), len(differences))


@dataclass(frozen=True)
class Estimate:
    """A difference with its 95 % interval, and p, the two-sided probability of one as large if there were no difference."""

    mean: float
    low: float
    high: float
    p: float


def paired_gain(ours: Mapping[int, float], theirs: Mapping[int, float]) -> tuple[Gain, float]:
    """The gain of one arm over another with its 95 % interval, and the two-sided p of the paired t-test.

    Equal differences make no interval, and show nothing about other seeds: their p is 1.

    Args:
        ours, theirs: values of a metric by seed. The seeds that both have are compared.

    Raises:
        LclError: for fewer than two seeds in common.
    """
    from scipy.stats import ttest_rel  # takes a second

    seeds = sorted(ours.keys() & theirs.keys())
    require(len(seeds) >= 2, f"an interval needs two seeds in common, not {len(seeds)}.")
    pair = [[values[seed] for seed in seeds] for values in (ours, theirs)]
    gain = gain_of(*pair)
    return gain, float(ttest_rel(*pair).pvalue) if gain.low < gain.high else 1.0


def crossed_gain(ours: np.ndarray, theirs: np.ndarray, rounds: int = 4000) -> Estimate:
    """The gain of one recipe over another if not only the seeds but also the queries had been others.

    Both are drawn anew with replacement, seeds and queries independently (the pigeonhole bootstrap: Owen 2007, arXiv
    0712.1111). With many seeds the interval is rather too wide. With few it can be too narrow: a bootstrap of n seeds underrates
    their variance by 1 / n of it.

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


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """The p of several comparisons, corrected so that all are wrong together in at most as many studies (Holm 1979)."""
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}
