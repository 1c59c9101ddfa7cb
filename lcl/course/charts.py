"""Pictures of results: what recipes gain, what they cost, how both grow. Pure functions from numbers to a figure, as `plots`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from lcl.config import need
from lcl.course.plots import BLUE, CYCLE, GREY, ORANGE, RED, Chart
from lcl.course.study import Gain
from lcl.train.loop import Event, Step, Validation

NullFormatter = need("matplotlib.ticker", "course").NullFormatter
MARKERS = "os^Dv<>PX"


def planned_steps(curve: Sequence[Event]) -> int:
    """So many steps a training was to take; one that was stopped took fewer. Of looks alone: up to the last; of nothing: 1."""
    last = max((event.step for event in curve if isinstance(event, Validation)), default=1)
    return next((event.total for event in curve if isinstance(event, Step)), last)


def two_runs(curves: Mapping[str, Sequence[Event]], figures: Mapping[str, Mapping[str, float]], split: str) -> Chart:
    """Two runs beside each other: recall@1 as they learned, and their figures of one split, in percent, a dot a run."""
    ends = {name: [event for event in curve if isinstance(event, Validation)] for name, curve in curves.items()}
    told = "; ".join(
        f"{name} " + ", ".join(f"{title} {value:.1f}" for title, value in list(figures[name].items())[:4]) for name in figures
    )
    titles = list(dict.fromkeys(title for each in figures.values() for title in each))
    figure = Chart(9, 1.2 + 0.2 * max(len(titles), 8), f"{' and '.join(curves)} on {split}, percent: {told}.")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    for colour, style, (name, looks) in zip((BLUE, ORANGE), ("-", "--"), ends.items(), strict=False):
        total = planned_steps(curves[name])
        mean = [50 * (look.image_to_text + look.text_to_image) for look in looks]
        left.plot([100 * look.step / total for look in looks], mean, color=colour, ls=style, label=name)
    left.set(xlabel="percent of the training", ylabel="recall@1, mean of both ways (%)", xlim=(0, 102), ylim=(0, 100))
    left.set_title("as they learned, among the few watched pairs", fontsize=9)
    left.legend(frameon=False, fontsize=8, loc="lower right")
    for row, title in enumerate(titles):
        pair = [each[title] for each in figures.values() if title in each]
        right.plot([min(pair), max(pair)], [row, row], color=GREY, lw=1, zorder=1)
        for colour, marker, each in zip((BLUE, ORANGE), "os", figures.values(), strict=False):
            if title in each:
                right.scatter(each[title], row, color=colour, marker=marker, s=22, zorder=2)
    right.set_yticks(range(len(titles)), titles, fontsize=7)
    right.set(xlabel="percent", ylim=(len(titles) - 0.4, -0.6), xlim=(0, 100))
    right.set_title(f"as they are measured, on {split}", fontsize=9)
    right.grid(axis="x", alpha=0.3)
    return figure


def gains(
    panels: Mapping[str, Mapping[str, Gain]], over: str, reported: Mapping[str, Mapping[str, float]] | None = None
) -> Chart:
    """What recipes gain over one: a panel a figure, a line a recipe, a dot at the mean, its 95 % interval as a bar.

    reported: {panel: {recipe: the gain that its paper reports}}, drawn as diamonds.
    """
    reported, names = reported or {}, list(dict.fromkeys(name for row in panels.values() for name in row))
    told = "; ".join(f"{title}: " + ", ".join(f"{name} {gain}" for name, gain in row.items()) for title, row in panels.items())
    papers = "; ".join(f"{title}: {name} {points:+g}" for title, row in reported.items() for name, points in row.items())
    told += f". Reported by the papers: {papers}" if papers else ""
    height = 1.1 + 0.26 * len(names) + 0.3 * bool(reported)
    figure, diamond = Chart(9, height, f"Points above {over}, mean and 95 percent interval. {told}."), None
    found = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, row) in zip(found, panels.items(), strict=True):
        for name, gain in row.items():
            number, colour = names.index(name), (GREY, BLUE, RED)[gain.sign]
            axes.plot([gain.low, gain.high], [number, number], color=colour, lw=2, solid_capstyle="butt")
            axes.scatter(gain.mean, number, color=colour, s=24, zorder=3)
            if name in reported.get(title, {}):
                style = {"marker": "D", "s": 30, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.6, "zorder": 4}
                diamond = axes.scatter(reported[title][name], number, **style)
        axes.axvline(0, color="#000", lw=0.8)
        axes.set(title=title, xlabel="points")
        axes.title.set_fontsize(9)
        axes.grid(axis="x", alpha=0.3)
    seeds = {name: gain.seeds for row in panels.values() for name, gain in row.items()}
    found[0].set_yticks(range(len(names)), [f"{name} ({seeds[name]})" for name in names], fontsize=8)
    found[0].set(ylim=(len(names) - 0.5, -0.5), ylabel="recipe (number of seeds)")
    if diamond:
        words = ["reported by the paper, of its own scale"]
        figure.legend([diamond], words, loc="outside lower center", frameon=False, fontsize=8)
    return figure


def by_size(lines: Mapping[str, Mapping[int, Sequence[float]]], gap: Mapping[int, Gain], ylabel: str) -> Chart:
    """How results depend on the number of pairs. lines: {recipe: {pairs: its seeds' values}}. gap: {pairs: what is gained}."""
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
    left.legend(frameon=False, fontsize=8)
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


def prices(points: Mapping[str, tuple[float, Gain]], xlabel: str, ylabel: str) -> Chart:
    """What recipes buy by what they cost: a point a recipe, {recipe: (cost, gain)}; the gain's 95 % interval as a bar."""
    told = ", ".join(f"{name} {gain} for {cost:.2f}" for name, (cost, gain) in points.items())
    figure = Chart(9, 4.2, f"{ylabel}, mean and 95 percent interval, by {xlabel}: {told}.")
    axes = figure.add_subplot()
    for number, (name, (cost, gain)) in enumerate(points.items()):
        colour = CYCLE[number % len(CYCLE)]
        axes.plot([cost, cost], [gain.low, gain.high], color=colour, lw=1.2, alpha=0.6)
        axes.scatter(cost, gain.mean, color=colour, marker=MARKERS[number % len(MARKERS)], s=34, zorder=3)
        axes.annotate(name, (cost, gain.mean), textcoords="offset points", xytext=(7, -3), fontsize=8)
    axes.axhline(0, color="#000", lw=0.8)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.margins(x=0.18, y=0.12)
    axes.grid(alpha=0.3)
    return figure


def growth(panels: Mapping[str, Mapping[str, tuple[Sequence[float], Sequence[float], float, float]]]) -> Chart:
    """How costs grow, on log-log paper: {variable: {what: (sizes, seconds, fitted slope, theory's slope)}}, a panel a variable.

    Dashed: theory's slope, through the last point.
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
        axes.set_xticks(shown, [f"{size:,}" for size in shown], fontsize=8)
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.legend(frameon=False, fontsize=7, loc="lower center", bbox_to_anchor=(0.5, 1.0))
        axes.grid(alpha=0.3)
    for axes in found[::3]:
        axes.set_ylabel("seconds")
    return figure
