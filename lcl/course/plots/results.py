"""Figures of results: how recipes and runs compare."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes

from lcl.course.plots.base import (
    BLUE,
    CYCLE,
    GREY,
    MARKERS,
    ORANGE,
    RED,
    SMALLEST,
    Chart,
    in_words,
    legend_below,
    legend_label,
    plain_numbers,
)
from lcl.course.statistics import Gain
from lcl.train.loop import Event, Step, Validation


def bars(values: Mapping[str, Mapping[str, float]], ylabel: str, log: bool = False) -> Chart:
    """Grouped bars: {group: {bar: value}}, every group with the same bars."""
    names = list(next(iter(values.values())))
    figure = Chart(9, 3.2, f"Bars, {ylabel}. {in_words(values, '.3g')}.")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [position + (number - (len(names) - 1) / 2) * width for position in range(len(values))]
        heights = [group[name] for group in values.values()]
        drawn = axes.bar(places, heights, width, label=legend_label(name), color=CYCLE[number % len(CYCLE)])
        axes.bar_label(drawn, [_number(height) for height in heights], fontsize=SMALLEST)
    axes.set_xticks(range(len(values)), list(values), fontsize=SMALLEST)
    axes.set(ylabel=ylabel, yscale="log" if log else "linear")
    if log:
        plain_numbers(axes.yaxis)
    axes.margins(y=0.12)  # room for the numbers above the bars
    if len(names) > 1:
        figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def _number(value: float) -> str:
    return f"{value:,.0f}" if value == round(value) else f"{value:.1f}" if abs(value) >= 10 else f"{value:.3g}"


def dots(groups: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str], xlabel: str) -> Chart:
    """Compare recipes: a panel per metric, a row per recipe, a dot per seed, a bar at the mean.

    Args:
        groups: {metric: for every recipe the values of its seeds, which may be none}.
        names: of the recipes.
    """
    means = {title: {name: sum(row) / len(row) for name, row in zip(names, rows, strict=True) if row}
             for title, rows in groups.items()}  # fmt: skip
    alt = f"A dot a seed, a bar at the mean, {xlabel}. {in_words(means, '.1f')}."
    figure, panels = _panels(list(groups), names, xlabel, 0.9 + 0.32 * len(names), alt)
    for axes, rows in zip(panels, groups.values(), strict=True):
        axes.margins(x=0.08)
        for row, values in enumerate(rows):
            if values:
                axes.scatter(values, [row] * len(values), color=BLUE, s=18, zorder=3)
                axes.plot([sum(values) / len(values)] * 2, [row - 0.35, row + 0.35], color=BLUE, lw=2)
    return figure


def _panels(titles: Sequence[str], names: Sequence[str], xlabel: str, height: float, alt: str) -> tuple[Chart, list[Axes]]:
    """A chart with a panel per title, in which row n, counted from the top, is names[n]."""
    figure = Chart(9, height, alt)
    panels = figure.subplots(1, len(titles), sharey=True, squeeze=False)[0]
    for axes, title in zip(panels, titles, strict=True):
        axes.set(title=title, xlabel=xlabel)
        axes.title.set_fontsize(SMALLEST)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names, fontsize=SMALLEST)
    panels[0].set_ylim(len(names) - 0.5, -0.5)
    return figure, list(panels)


def gains(
    panels: Mapping[str, Mapping[str, Gain]], over: str, reported: Mapping[str, Mapping[str, float]] | None = None
) -> Chart:
    """Gains of recipes over a baseline: a panel per metric, a row per recipe, a dot at the mean, a bar for the 95 % interval.

    Args:
        panels: {metric: {recipe: its gain}}.
        over: the baseline.
        reported: {metric: {recipe: the gain that its paper reports}}, drawn as diamonds.
    """
    reported, names = reported or {}, list(dict.fromkeys(name for row in panels.values() for name in row))
    alt = f"Points above {over}, mean and 95 percent interval. {in_words(panels)}."
    alt += f" Reported by the papers: {in_words(reported, '+g')}." if reported else ""
    seeds = {name: gain.seeds for row in panels.values() for name, gain in row.items()}
    labels, height, diamond = [f"{name} ({seeds[name]})" for name in names], 1.1 + 0.26 * len(names) + 0.3 * bool(reported), None
    figure, found = _panels(list(panels), labels, "points", height, alt)
    for axes, (title, row) in zip(found, panels.items(), strict=True):
        for name, gain in row.items():
            number, colour = names.index(name), (GREY, BLUE, RED)[gain.sign]
            axes.plot([gain.low, gain.high], [number, number], color=colour, lw=2, solid_capstyle="butt")
            axes.scatter(gain.mean, number, color=colour, s=24, zorder=3)
            if name in reported.get(title, {}):
                style = {"marker": "D", "s": 30, "facecolors": "none", "edgecolors": ORANGE, "linewidths": 1.6, "zorder": 4}
                diamond = axes.scatter(reported[title][name], number, **style)
        axes.axvline(0, color="#000", lw=0.8)
    found[0].set_ylabel("recipe (seeds)")
    if diamond:
        words = ["reported by the paper, of its own scale"]
        figure.legend([diamond], words, loc="outside lower center", frameon=False, fontsize=SMALLEST)
    return figure


def gain_by_cost(points: Mapping[str, tuple[float, Gain]], xlabel: str, ylabel: str) -> Chart:
    """Gains of recipes by their cost, {recipe: (cost, gain)}: a point per recipe, a bar for the 95 % interval of its gain."""
    told = ", ".join(f"{name} {gain} for {cost:.2f}" for name, (cost, gain) in points.items())
    figure = Chart(9, 4.2, f"{ylabel}, mean and 95 percent interval, by {xlabel}: {told}.")
    axes = figure.add_subplot()
    for number, (name, (cost, gain)) in enumerate(points.items()):
        colour = (*CYCLE, GREY)[number % (len(CYCLE) + 1)]
        axes.plot([cost, cost], [gain.low, gain.high], color=colour, lw=1.2, alpha=0.6)
        style = {"marker": MARKERS[number % len(MARKERS)], "s": 34, "zorder": 3, "label": legend_label(name)}
        axes.scatter(cost, gain.mean, color=colour, **style)
    axes.axhline(0, color="#000", lw=0.8)
    axes.set(xlabel=xlabel, ylabel=ylabel)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside right center", frameon=False, fontsize=SMALLEST)
    return figure


def planned_steps(curve: Sequence[Event]) -> int:
    """How many steps a training run was meant to take; without any step in its curve, that of its last validation, or 1."""
    last = max((event.step for event in curve if isinstance(event, Validation)), default=1)
    return next((event.total for event in curve if isinstance(event, Step)), last)


def two_runs(curves: Mapping[str, Sequence[Event]], metrics: Mapping[str, Mapping[str, float]], split: str) -> Chart:
    """Compare two runs: recall@1 on validation pairs as they learned, and their metrics on one split, a dot per run.

    curves: {run: the events of its training}; metrics: {run: {metric: percent}}.
    """
    titles = list(dict.fromkeys(title for each in metrics.values() for title in each))
    first = {name: dict(list(each.items())[:4]) for name, each in metrics.items()}
    alt = f"{' and '.join(curves)} on {split}, percent. {in_words(first, '.1f')}."
    figure = Chart(9, 1.5 + 0.2 * max(len(titles), 8), alt)
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.2))
    for colour, style, marker, (name, curve) in zip((BLUE, ORANGE), ("-", "--"), MARKERS, curves.items(), strict=False):
        validations = [event for event in curve if isinstance(event, Validation)]
        recall = [50 * (event.image_to_text + event.text_to_image) for event in validations]
        done = [100 * event.step / planned_steps(curve) for event in validations]
        left.plot(done, recall, color=colour, ls=style, marker=marker, ms=4, label=legend_label(name))
    left.set(xlabel="percent of the training", ylabel="recall@1, mean of both ways (%)", xlim=(0, 102), ylim=(0, 100))
    left.set_title("during training, validation pairs", fontsize=SMALLEST)
    legend_below(figure, left)
    for row, title in enumerate(titles):
        pair = [each[title] for each in metrics.values() if title in each]
        right.plot([min(pair), max(pair)], [row, row], color=GREY, lw=1, zorder=1)
        for colour, marker, each in zip((BLUE, ORANGE), MARKERS, metrics.values(), strict=False):
            if title in each:
                right.scatter(each[title], row, color=colour, marker=marker, s=22, zorder=2)
    right.set_yticks(range(len(titles)), titles, fontsize=SMALLEST)
    right.set(xlabel="percent", ylim=(len(titles) - 0.4, -0.6), xlim=(-3, 103))
    right.set_title(f"after training, {split}", fontsize=SMALLEST)
    right.grid(axis="x", alpha=0.3)
    return figure
