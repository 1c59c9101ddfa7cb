"""Figures of the pages of results that no notebook shows: results by the number of pairs, and scaling curves."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence

from matplotlib.lines import Line2D
from matplotlib.ticker import NullFormatter

from lcl.course.plots import CYCLE, GREY, MARKERS, SMALLEST, Chart, plain_numbers
from lcl.course.statistics import Gain

Lines = Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]
Gains = Mapping[str, Mapping[str, Mapping[int, Gain]]]
RING = {"ls": "", "marker": "o", "ms": 9, "markerfacecolor": "none"}


def by_size(lines: Lines, gains: Gains, base: str, ylabel: str, bfloat16: Collection[tuple] = ()) -> Chart:
    """Results by the number of distinct training pairs, on a logarithmic axis: a colour per recipe, a line style per budget.

    Args:
        lines: {recipe: {budget, such as "one epoch": {pairs: the values of its seeds}}}; the first two budgets are drawn.
        gains: {recipe: {budget: {pairs: gain over `base`}}}, drawn with their 95 % intervals; a single seed has none.
        base: the recipe that others are compared with.
        ylabel: the metric.
        bfloat16: (recipe, budget, pairs) of the points whose runs compute in bfloat16; a ring marks them.
    """
    told = "; ".join(
        f"{recipe}, {budget}: " + ", ".join(f"{sum(seeds) / len(seeds):.1f} of {pairs:,} pairs" for pairs, seeds in row.items())
        for recipe, budgets in lines.items() for budget, row in budgets.items()
    )  # fmt: skip
    above = "; ".join(
        f"{recipe}, {budget}: " + ", ".join(f"{gain.mean:+.1f} of {pairs:,}" for pairs, gain in row.items())
        for recipe, budgets in gains.items() for budget, row in budgets.items()
    )  # fmt: skip
    figure = Chart(9, 4, f"{ylabel} by pairs, logarithmic: {told}. Points above {base}: {above}.{_ringed(bfloat16, 'pairs')}")
    left, right = figure.subplots(1, 2)
    sizes = sorted({pairs for budgets in lines.values() for row in budgets.values() for pairs in row})
    for place, (recipe, budgets) in enumerate(lines.items()):
        colour, marker = CYCLE[place % len(CYCLE)], MARKERS[place % len(MARKERS)]
        for budget, style in zip(budgets, ("-", "--"), strict=False):
            looks = {"color": colour, "ls": style, "marker": marker, "ms": 4}
            row = budgets[budget]
            means = [sum(seeds) / len(seeds) for seeds in row.values()]
            left.plot(list(row), means, label=f"{recipe}, {budget}", **looks)
            for pairs, seeds in row.items():
                left.scatter([pairs] * len(seeds), seeds, color=colour, s=8, alpha=0.6)
                if (recipe, budget, pairs) in bfloat16:
                    left.plot([pairs], [sum(seeds) / len(seeds)], **RING, markeredgecolor=colour)
            if above := gains.get(recipe, {}).get(budget):
                shifted = [pairs * 1.06 ** (place - 1) for pairs in above]  # else intervals of recipes hide each other
                middle, low, high = zip(*((gain.mean, gain.low, gain.high) for gain in above.values()), strict=True)
                right.plot(shifted, middle, **looks)
                right.vlines(shifted, low, high, color=colour, lw=1.5)
    right.axhline(0, color="#000", lw=0.8)
    left.set(ylabel=ylabel, ylim=(0, 100))
    right.set(ylabel=f"points above {base} (95 % interval)")
    for axes in (left, right):
        axes.set(xscale="log", xlabel="distinct pairs to learn from")
        axes.set_xticks(sizes, [f"{pairs:,}" for pairs in sizes], rotation=30, ha="right")
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    handles = left.get_legend_handles_labels()[0]
    if bfloat16:
        handles.append(Line2D([], [], **RING, markeredgecolor=GREY, label="ring: computed in bfloat16"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALLEST)
    return figure


def _ringed(bfloat16: Collection[tuple], unit: str) -> str:
    words = ", ".join(f"{' '.join(names)}, {number:,} {unit}" for *names, number in sorted(bfloat16))
    return f" In bfloat16: {words}." if words else ""


def by_steps(panels: Lines, ylabel: str, bfloat16: Collection[tuple] = ()) -> Chart:
    """A metric by the number of training steps, on a logarithmic axis: a panel per split, a line per supply of pairs.

    Args:
        panels: {title: {line: {steps: the values of its seeds}}}.
        ylabel: the metric.
        bfloat16: (line, steps) of the points whose runs compute in bfloat16; a ring marks them.
    """
    shown = "; ".join(
        f"{title}, {line}: " + ", ".join(f"{sum(seeds) / len(seeds):.1f} after {steps:,} steps" for steps, seeds in row.items())
        for title, lines in panels.items() for line, row in lines.items()
    )  # fmt: skip
    figure = Chart(9, 3.6, f"{ylabel} by steps, logarithmic: {shown}.{_ringed(bfloat16, 'steps')}")
    columns = figure.subplots(1, len(panels), squeeze=False)[0]
    for axes, (title, lines) in zip(columns, panels.items(), strict=True):
        for colour, marker, (line, row) in zip(CYCLE, MARKERS, lines.items(), strict=False):
            means = {steps: sum(seeds) / len(seeds) for steps, seeds in row.items()}
            axes.plot(list(means), list(means.values()), color=colour, marker=marker, ms=4, label=line)
            for steps, seeds in row.items():
                axes.scatter([steps] * len(seeds), seeds, color=colour, s=8, alpha=0.6)
                if (line, steps) in bfloat16:
                    axes.plot([steps], [means[steps]], **RING, markeredgecolor=colour)
        axes.set(xscale="log", xlabel="training steps", ylabel=ylabel, title=title)
        plain_numbers(axes.xaxis, (1,))
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    handles = columns[0].get_legend_handles_labels()[0]
    if bfloat16:
        handles.append(Line2D([], [], **RING, markeredgecolor=GREY, label="ring: computed in bfloat16"))
    figure.legend(handles=handles, loc="outside lower center", ncols=3, frameon=False, fontsize=SMALLEST)
    return figure


def by_pairs_seen(lines: Mapping[str, tuple[Sequence[int], Sequence[float]]], ylabel: str) -> Chart:
    """A metric while a run trains, on a logarithmic axis.

    Args:
        lines: {recipe: (pairs seen, values)}.
        ylabel: the metric.
    """
    told = "; ".join(f"{recipe}: {values[-1]:.1f} after {seen[-1]:,} pairs" for recipe, (seen, values) in lines.items())
    figure = Chart(7, 3, f"{ylabel} by pairs seen, logarithmic: {told}.")
    axes = figure.subplots()
    for place, (recipe, (seen, values)) in enumerate(lines.items()):
        axes.plot(seen, values, color=CYCLE[place % len(CYCLE)], lw=1.2, label=f"{recipe}, {seen[-1]:,} pairs")
    axes.set(xscale="log", xlabel="pairs seen", ylabel=ylabel, ylim=(0, 100))
    plain_numbers(axes.xaxis, (1,))
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=SMALLEST)
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
    style, said = {"color": GREY, "lw": 1.2}, ["measured, with its slope", "theory's slope, through the last point"]
    looks = [Line2D([], [], marker=MARKERS[0], ms=3.5, **style), Line2D([], [], ls="--", **style)]
    figure.legend(looks, said, loc="outside lower center", ncols=2, frameon=False, fontsize=SMALLEST)
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
        few = max(max(laps) for _, laps, _, _ in lines.values()) < 100 * min(min(laps) for _, laps, _, _ in lines.values())
        plain_numbers(axes.yaxis, (1, 3) if few else (1,))
        axes.legend(frameon=False, fontsize=SMALLEST, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.grid(alpha=0.3)
    for axes in found[::3]:
        axes.set_ylabel("seconds")
    return figure
