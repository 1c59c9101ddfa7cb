"""Figures of training runs: losses, gates, order, sweeps."""

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes

from lcl.course.plots.base import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    MARKERS,
    ORANGE,
    PURPLE,
    SKY,
    SMALLEST,
    Chart,
    legend_below,
    legend_label,
)
from lcl.train.loop import Event, Step, Validation, in_one_line

SMOOTH = 49  # steps of a running mean; fewer in short runs
CROWD = 32  # marks on a curve that still let others show through


def loss_curve(curve: Sequence[Event], chance_losses: Mapping[str, float]) -> Chart:
    """Every part of the loss by step, a panel each; the last panel is recall@1 on validation pairs.

    Args:
        curve: the events of a training run.
        chance_losses: the loss of a model that knows nothing, by part: a dashed line.
    """
    steps, validations = ([event for event in curve if isinstance(event, kind)] for kind in (Step, Validation))
    names = list(steps[-1].losses) if steps else ["info_nce"]
    home = "info_nce" if "info_nce" in names else names[0]  # where the loss of validation, InfoNCE, is shown
    validated = "validation" if home == "info_nce" else "validation (InfoNCE)"
    rows = 1 if len(names) < 3 else 2  # four in a row are too narrow to read
    alt = f"Loss by step ({', '.join(names)}; dashed: chance level) and recall@1 on validation pairs: {in_one_line(curve)}."
    figure = Chart(9, 0.3 + 2.9 * rows, alt)
    *panels, last = figure.subplots(rows, -(-(len(names) + 1) // rows), squeeze=False).flatten()[: len(names) + 1]
    for axes, name in zip(panels, names, strict=True):
        values = np.array([event.losses[name] for event in steps])
        axes.plot([event.step for event in steps], values, color=SKY, lw=0.5, label="training")
        half = min(SMOOTH, len(values) // 4) // 2
        if half:
            window = 2 * half + 1
            smooth = np.convolve(values, np.ones(window) / window, "valid")
            axes.plot([event.step for event in steps[half:-half]], smooth, color=BLUE, label=f"mean of {window} steps")
        if name == home and validations:
            losses = [event.loss for event in validations]
            axes.plot([event.step for event in validations], losses, color=GREEN, marker="D", ms=3, lw=1, label=validated)
        if name in chance_losses:
            axes.axhline(chance_losses[name], color=GREY, ls="--", lw=1, label="chance level")
        chance = f" (chance: {chance_losses[name]:.2f})" if name in chance_losses else ""
        axes.set(title=name + chance, xlabel="step", ylabel="nats", ylim=(0, None))
        axes.title.set_fontsize(SMALLEST)
    for name, colour, marker in (("image_to_text", PURPLE, "o"), ("text_to_image", ORANGE, "s")):
        values = [100 * getattr(event, name) for event in validations]
        last.plot([e.step for e in validations], values, color=colour, marker=marker, ms=3, label=name.replace("_", " "))
    last.set(title="recall@1, validation pairs", xlabel="step", ylabel="percent", ylim=(0, 100))
    last.title.set_fontsize(SMALLEST)
    shown = {label: line for axes in (*panels, last) for line, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    figure.legend(shown.values(), shown, loc="outside lower center", ncols=6, frameon=False, fontsize=SMALLEST)
    return figure


def runs_together(
    curves: Mapping[str, Mapping[int, float]], ylabel: str, reference: tuple[str, float] | None = None
) -> Chart:
    """Several runs over the same steps: the first as a broad line, the others as thin ones with marks on it or off it.

    Args:
        curves: {run: {step: value}}.
        ylabel: name of the y axis.
        reference: the name and the y of a dashed line.
    """
    ends = ", ".join(f"{name} {list(values.values())[-1]:.3g} at step {list(values)[-1]}" for name, values in curves.items())
    figure = Chart(9, 3.2, f"{ylabel} by step: {ends}{_said(reference)}.")
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(curves.items()):
        style = {"color": GREY, "lw": 3, "alpha": 0.5} if number == 0 else {
            "color": CYCLE[number % len(CYCLE)], "marker": "osD^v"[number % 5], "ms": 4, "lw": 0.8,
            "markevery": -(-len(values) // CROWD),
        }  # fmt: skip
        axes.plot(list(values), list(values.values()), label=legend_label(name), **style)
    _dashed(axes, reference)
    axes.set(xlabel="step", ylabel=ylabel, ylim=(0, None))
    legend_below(figure, axes)
    return figure


def _said(reference: tuple[str, float] | None) -> str:
    return f"; {reference[0]}: {reference[1]:.3g}" if reference else ""


def _dashed(axes: Axes, reference: tuple[str, float] | None) -> None:
    if reference:
        axes.axhline(reference[1], color=GREY, ls="--", lw=1, label=legend_label(f"{reference[0]}: {reference[1]:.3g}"))


def lines(
    curves: Mapping[str, Mapping[float, float | Sequence[float]]],
    xlabel: str,
    ylabel: str,
    reference: tuple[str, float] | None = None,
    log: bool = False,
) -> Chart:
    """Curves with a band over the seeds, and a dashed horizontal reference.

    Args:
        curves: {name: {x: y, or the values of all seeds}}.
        xlabel, ylabel: names of the axes.
        reference: its name and its y.
        log: a logarithmic x axis, with a tick per x.
    """
    means = {name: {x: float(np.mean(seeds)) for x, seeds in row.items()} for name, row in curves.items()}
    ends = ", ".join(f"{name} from {list(row.values())[0]:.3g} to {list(row.values())[-1]:.3g}" for name, row in means.items())
    figure = Chart(6, 3.2, f"{ylabel} by {xlabel}: {ends}{_said(reference)}.")
    axes = figure.add_subplot()
    for colour, marker, (name, row) in zip(CYCLE, MARKERS, curves.items(), strict=False):
        axes.plot(list(row), list(means[name].values()), color=colour, marker=marker, ms=4, label=legend_label(name))
        low, high = ([float(end(seeds)) for seeds in row.values()] for end in (np.min, np.max))
        axes.fill_between(list(row), low, high, color=colour, alpha=0.2, lw=0)
    _dashed(axes, reference)
    axes.set(xlabel=xlabel, ylabel=ylabel, xscale="log" if log else "linear")
    lowest = [float(np.min(seeds)) for row in curves.values() for seeds in row.values()] + ([reference[1]] if reference else [])
    if min(lowest, default=0) >= 0:
        axes.set_ylim(bottom=0)
    if log:
        axes.set_xticks(list(row), [f"{x:g}" for x in row])
        axes.xaxis.minorticks_off()
    legend_below(figure, axes)
    return figure


def reading_order(rows: torch.Tensor, per_epoch: int) -> Chart:
    """Which row of the data set is read at which step. rows: (steps, B) int64; per_epoch: steps of an epoch."""
    alt = f"Which of {int(rows.max()) + 1} rows is read at which of {len(rows)} steps: every row once in {per_epoch} steps."
    figure = Chart(9, 3, alt)
    axes = figure.add_subplot()
    steps = torch.arange(1, len(rows) + 1)[:, None].expand_as(rows)
    axes.scatter(steps.flatten(), rows.flatten(), s=4, color=BLUE, linewidths=0)
    for end in range(per_epoch, len(rows), per_epoch):
        axes.axvline(end + 0.5, color=GREY, ls="--", lw=1)
        axes.text(end + 0.6, 0.99, "next epoch", color=GREY, fontsize=SMALLEST, va="top", transform=axes.get_xaxis_transform())
    axes.set(xlabel="step", ylabel="row of the data set")
    return figure
