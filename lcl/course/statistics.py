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
        wide = self.high - self.low or 1.0
        digits = next((n for n in range(1, 9) if round(nearest, n) and 10**n * wide >= 1), 9)  # show its sign, and the ends apart
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


def crossed_gain(ours: np.ndarray, theirs: np.ndarray) -> Gain:
    """The gain of one recipe over another if not only the seeds but also the queries had been others.

    The variance of the mean is the sum of two: that of the seeds' means, divided by the number of seeds, and that of the queries'
    means, divided by the number of queries. The noise of a single answer counts in both, so the interval is a little too wide
    (two-way random effects: Owen 2007, arXiv 0712.1111). It is never narrower than that of the seeds alone. It is Student's t
    with one degree of freedom less than seeds.

    Args:
        ours, theirs: (seeds, queries) float, such as 1 where a query was answered rightly. Rows and columns belong together.

    Raises:
        LclError: for other seeds or queries, or fewer than two of either.
    """
    from scipy.stats import t  # imported here because it takes a second

    same = ours.shape == theirs.shape and ours.ndim == 2 and min(ours.shape) >= 2
    require(same, f"both recipes need the same seeds and queries, two or more of each, not {ours.shape} and {theirs.shape}.")
    difference = ours.astype(float) - theirs
    means = difference.mean(axis=1), difference.mean(axis=0)  # (seeds,), (queries,)
    middle, error = difference.mean(), sum(each.var(ddof=1) / len(each) for each in means) ** 0.5
    half = t.ppf(0.975, len(difference) - 1) * error
    return Gain(float(middle), float(middle - half), float(middle + half), len(difference))


def holm(p: Mapping[str, float]) -> dict[str, float]:
    """Correct the p values of several comparisons by the method of Holm (1979).

    If none of the differences exists, at least one corrected p is below 0.05 in at most 5 % of all studies.

    Args:
        p: the p value of each comparison.

    Returns:
        The corrected p of each, from its own p to 1, in the order given.
    """
    corrected, largest = {}, 0.0
    for place, name in enumerate(sorted(p, key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - place) * p[name]))
        corrected[name] = largest
    return {name: corrected[name] for name in p}
