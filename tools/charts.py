"""Figures of the pages of results that no notebook shows: results by the number of pairs, and scaling curves."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from matplotlib.ticker import NullFormatter

from lcl.course.plots import BLUE, CYCLE, MARKERS, SMALLEST, Chart
from lcl.course.study import Gain


def by_size(lines: Mapping[str, Mapping[int, Sequence[float]]], gap: Mapping[int, Gain], ylabel: str) -> Chart:
    """Results by the number of training pairs.

    Args:
        lines: {recipe: {pairs: the values of its seeds}}.
        gap: {pairs: the gain}, drawn with its 95 % interval.
        ylabel: the metric.
    """
    told = "; ".join(
        f"{name} " + ", ".join(f"{sum(seeds) / len(seeds):.1f} of {pairs:,} pairs" for pairs, seeds in row.items())
        for name, row in lines.items()
    )
    figure = Chart(9, 3, f"{ylabel}: {told}. Gain: {', '.join(f'{gain} of {pairs:,}' for pairs, gain in gap.items())}.")
    left, right = figure.subplots(1, 2)
    for colour, marker, (name, row) in zip(CYCLE, MARKERS, lines.items(), strict=False):
        left.plot(list(row), [sum(seeds) / len(seeds) for seeds in row.values()], color=colour, marker=marker, ms=4, label=name)
        for pairs, seeds in row.items():
            left.scatter([pairs] * len(seeds), seeds, color=colour, s=8, alpha=0.6)
    left.set(ylabel=ylabel, ylim=(0, 100))
    left.legend(frameon=False, fontsize=SMALLEST)
    for pairs, gain in gap.items():
        right.plot([pairs, pairs], [gain.low, gain.high], color=BLUE, lw=2)
        right.scatter(pairs, gain.mean, color=BLUE, s=24, zorder=3)
    right.axhline(0, color="#000", lw=0.8)
    right.set(ylabel="points gained (95 % interval)")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="pairs to learn from, equal steps")
        axes.set_xticks(list(gap), [f"{pairs:,}" for pairs in gap])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    return figure


def scaling(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float, float]]]) -> Chart:
    """Seconds by size on logarithmic axes, a panel per variable; dashed: theory's slope through the last point.

    Args:
        panels: {variable: {what: (sizes, seconds, fitted slope, theory's slope)}}.
    """
    told = "; ".join(
        f"{what} by {variable}: measured slope {fitted:.2f}, theory {theory:g}"
        for variable, lines in panels.items() for what, (_, _, fitted, theory) in lines.items()
    )  # fmt: skip
    rows = -(-len(panels) // 3)
    figure = Chart(9, 2.9 * rows, f"Seconds by size, both logarithmic: {told}.")
    found = figure.subplots(rows, 3, squeeze=False).flatten()
    for axes in found[len(panels) :]:
        axes.set_axis_off()
    for axes, (variable, lines) in zip(found, panels.items(), strict=False):
        for colour, marker, (what, (sizes, laps, fitted, theory)) in zip(CYCLE, MARKERS, lines.items(), strict=False):
            axes.plot(sizes, laps, color=colour, marker=marker, ms=3.5, lw=1.2, label=f"{what}: {fitted:.2f}, theory {theory:g}")
            half = sizes[len(sizes) // 2 :]
            axes.plot(half, [laps[-1] * (size / sizes[-1]) ** theory for size in half], color=colour, ls="--", lw=1)
        axes.set(xscale="log", yscale="log", xlabel=variable)
        sizes = sorted({size for line in lines.values() for size in line[0]})
        shown = sizes if len(sizes) < 6 else sizes[:: math.ceil(len(sizes) / 5)]
        axes.set_xticks(shown, [f"{size:,}" for size in shown], fontsize=SMALLEST)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=SMALLEST, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.grid(alpha=0.3)
    for axes in found[::3]:
        axes.set_ylabel("seconds")
    return figure
