"""Pictures of what happens: pure functions from numbers to a matplotlib Figure. Nothing here keeps state.

Colours are Okabe and Ito's, which colour-blind people can tell apart; maps are viridis and its kin.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Mapping, Sequence

import numpy as np
import torch

from lcl.config import need
from lcl.data.captions import Box
from lcl.data.scenes import Pairs, Scene
from lcl.train.loop import Event, Step, Validation

colormaps = need("matplotlib", "course").colormaps
Figure = need("matplotlib.figure", "course").Figure
LogNorm = need("matplotlib.colors", "course").LogNorm
Rectangle = need("matplotlib.patches", "course").Rectangle

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#666666",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)


class Chart(Figure):
    """A figure that says in words what it shows: `alt`, one or two sentences, goes wherever its picture goes."""

    def __init__(self, width: float, height: float, alt: str):
        super().__init__(figsize=(width, height), layout="constrained")
        self.alt = alt

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return {"text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def _repr_png_(self) -> bytes:
        return to_png(self)


def as_pixels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) uint8 → (H, W, 3) for matplotlib."""
    return image.permute(1, 2, 0).cpu().numpy()


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_data_url(figure: Figure) -> str:
    """A figure as the `src` of an HTML image."""
    return "data:image/png;base64," + base64.b64encode(to_png(figure)).decode()


def grid(
    images: torch.Tensor, titles: Sequence[str] | None = None, columns: int = 6, width: float = 1.5, alt: str | None = None
) -> Chart:
    """Images beside and below each other, each with its title. images: (N, 3, H, W) uint8. width: of one, in inches.

    alt: what they show, where the titles do not say it.
    """
    rows = math.ceil(len(images) / columns)
    lines = max((len(_wrap(title, width).splitlines()) for title in titles), default=0) if titles else 0
    names = "; ".join(" ".join(title.split()) for title in titles or ())
    alt = alt or f"{len(images)} pictures, {columns} in a row{': ' if names else ''}{textwrap.shorten(names, 600)}."
    figure = Chart(columns * width, rows * (width + 0.14 * lines), alt)
    for position, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(as_pixels(image), interpolation="nearest")
        axes.axis("off")
        if titles:
            axes.set_title(_wrap(titles[position], width), fontsize=7)
    return figure


def _wrap(text: str, width: float) -> str:
    return textwrap.fill(text, int(width * 15))


def annotated_scenes(pairs: Pairs, name_of, columns: int = 4) -> Chart:
    """Scenes with the boxes of their things, in the colour that the caption below gives their names.

    name_of: from a concept's number to its name.
    """
    rows = math.ceil(len(pairs) / columns)
    alt = f"{len(pairs)} scenes, a box around every thing that its caption names: {'; '.join(pairs.captions)}."
    figure = Chart(2.4 * columns, 3.0 * rows, alt)
    for position, (image, scene) in enumerate(zip(pairs.images, pairs.scenes, strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(as_pixels(image), interpolation="nearest")
        axes.axis("off")
        for colour, spanned in zip(CYCLE, _by_span(scene), strict=False):
            for obj in spanned:
                left, top, right, bottom = obj.box
                outline = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, lw=2, ec=colour)
                axes.add_patch(outline)
                axes.text(left, bottom, name_of(obj.concept), color="white", fontsize=6, va="top",
                          bbox={"facecolor": colour, "pad": 1, "lw": 0})  # fmt: skip
        axes.set_title(textwrap.fill(scene.caption, 34), fontsize=7.5)
    return figure


def _by_span(scene: Scene) -> list[list]:
    spans = dict.fromkeys(obj.span for obj in scene.objects)
    return [[obj for obj in scene.objects if obj.span == span] for span in spans]


def loss_curve(curve: Sequence[Event], batch_size: int) -> Chart:
    """Training and validation loss by step, with the line at ln B where a guess would be; recall@1 beside it."""
    steps = [event for event in curve if isinstance(event, Step)]
    looks = [event for event in curve if isinstance(event, Validation)]
    guess = f"A guess costs ln {batch_size}, {math.log(batch_size):.2f}."
    figure = Chart(9, 3.2, f"Loss and recall@1 by step. {_tell(curve)} {guess}")
    left, right = figure.subplots(1, 2)
    name = next((name for event in steps for name in event.losses), "info_nce")
    kinds = ("", "") if name == "info_nce" else (f", {name}", ", info_nce")  # two losses can be compared only if they are one
    values = [event.loss for event in steps]
    left.plot([event.step for event in steps], values, color=SKY, lw=1, label=f"training{kinds[0]}")
    if looks:
        values = [event.loss for event in looks]
        left.plot([e.step for e in looks], values, color=BLUE, marker="o", ms=4, label=f"new pairs{kinds[1]}")
    left.axhline(math.log(batch_size), color=GREY, ls="--", lw=1)
    left.text(0.98, math.log(batch_size), f"ln {batch_size}: a guess", color=GREY, va="top", fontsize=8, ha="right",
              transform=left.get_yaxis_transform())  # fmt: skip
    left.set(xlabel="step", ylabel="nats", title="Loss", ylim=(0, None))
    left.legend(frameon=False, loc="lower left")  # where a loss that falls leaves room
    for name, colour, marker, label in (
        ("image_to_text", BLUE, "o", "image to text"),
        ("text_to_image", ORANGE, "s", "text to image"),
    ):
        values = [100 * getattr(event, name) for event in looks]
        right.plot([e.step for e in looks], values, color=colour, marker=marker, ms=4, label=label)
    right.set(xlabel="step", ylabel="recall@1 (%)", title="Retrieval among new pairs", ylim=(0, 100))
    if looks:
        right.legend(frameon=False)
    return figure


def _tell(curve: Sequence[Event]) -> str:
    """A training in a sentence."""
    steps = [event for event in curve if isinstance(event, Step)]
    looks = [event for event in curve if isinstance(event, Validation)]
    if not steps:
        return "Nothing was trained yet."
    told = f"The loss goes from {steps[0].loss:.2f} to {steps[-1].loss:.2f} in {steps[-1].step} steps"
    if looks:
        told += f"; recall@1 on new pairs reaches {looks[-1].image_to_text:.0%} and {looks[-1].text_to_image:.0%}"
    return f"{told}."


def similarity_matrix(
    similarity: torch.Tensor,
    title: str = "Cosine similarity",
    labels: Sequence[str] | None = None,
    down: str = "image",
    across: str = "caption",
) -> Chart:
    """Images down, captions across, or what else is compared; the right pairs lie on the diagonal.

    similarity: (N, N), -1 to 1. labels: of the rows.
    """
    alt = f"{title}, {len(similarity)} {down}s down, {across}s across: {_diagonal(similarity)}."
    figure = Chart(8.5 if labels else 4.6, 4, alt)
    axes = figure.add_subplot()
    shown = axes.imshow(similarity.cpu().numpy(), cmap="viridis", vmin=-0.5, vmax=1)
    axes.set(xlabel=across, ylabel=down, title=title)
    if labels:
        axes.set_yticks(range(len(labels)), [textwrap.shorten(label, 60) for label in labels], fontsize=6)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
    figure.colorbar(shown, ax=axes, label="cosine similarity", location="left" if labels else "right")
    return figure


def _diagonal(matrix: torch.Tensor) -> str:
    """What lies on a matrix's diagonal, and what beside it, in a few words. matrix: (N, N)."""
    own, number = matrix.diagonal().mean().item(), len(matrix)
    if number < 2:
        return f"{own:.2f} on the diagonal"
    others = (matrix.sum().item() - own * number) / (number * (number - 1))
    return f"{own:.2f} on the diagonal in the mean, {others:.2f} beside it"


def softmax_rows(similarity: torch.Tensor, logit_scale: float) -> Chart:
    """What the loss sees: each image's probabilities over the captions, at a given temperature.

    similarity: (N, N) cosines. The title gives InfoNCE of this batch beside ln N.
    """
    logits = logit_scale * similarity
    loss = -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean() / 2
    told = f"Each image's probabilities over {len(logits)} captions at logit_scale {logit_scale:.1f}"
    figure = Chart(4.8, 4, f"{told}: {_diagonal(logits.softmax(1))}.")
    axes = figure.add_subplot()
    shown = axes.imshow(logits.softmax(1).cpu().numpy(), cmap="viridis", vmin=0, vmax=1)
    axes.set(xlabel="caption", ylabel="image",
             title=f"logit_scale {logit_scale:.1f}: InfoNCE {loss:.2f} (a guess: {math.log(len(logits)):.2f})")  # fmt: skip
    figure.colorbar(shown, ax=axes, label="probability of the caption, given the image")
    return figure


def retrieved_images(
    queries: Sequence[str], own: Sequence[int], similarity: torch.Tensor, images: torch.Tensor, k: int = 5
) -> Chart:
    """For every caption the k best images, or all if there are fewer, the right one framed.

    queries: Q captions; own: the number of each one's image. similarity: (Q, N), to images (N, 3, H, W) uint8.
    """
    k = min(k, len(images))
    hits = sum(own[row] in similarity[row].topk(k).indices.tolist() for row in range(len(queries)))
    known = f"; the right one is among them for {hits}" if max(own) >= 0 else ""
    figure = Chart(9, 1.5 * len(queries), f"The {k} nearest images of {len(queries)} captions{known}: {'; '.join(queries)}.")
    axes = figure.subplots(len(queries), k + 1, squeeze=False, width_ratios=[2.2] + [1] * k)
    for row, query in enumerate(queries):
        axes[row, 0].axis("off")
        axes[row, 0].text(0, 0.5, textwrap.fill(query, 30), va="center", fontsize=9)
        for column, best in enumerate(similarity[row].topk(k).indices.tolist(), start=1):
            cell = axes[row, column]
            cell.imshow(as_pixels(images[best]), interpolation="nearest")
            cell.set(xticks=[], yticks=[])
            right = best == own[row]
            cell.set_title(
                f"{'right: ' if right else ''}{similarity[row, best]:.2f}",
                fontsize=8,
                color=GREEN if right else "black",
            )
            for side in cell.spines.values():
                side.set(color=GREEN if right else "white", lw=4 if right else 0)
    return figure


def neighbour_sheet(
    image: torch.Tensor, caption: str, rows: Mapping[str, Sequence[tuple[torch.Tensor, str, float, int]]]
) -> Chart:
    """A scene and, row by row, its neighbours; those that share a thing with it are framed and say so.

    image: (3, H, W) uint8. rows: {how they were found: (image, caption, cosine, number of shared things) of each}.
    """
    most = max(len(found) for found in rows.values())
    kin = ", ".join(f"{how} {sum(bool(shared) for *_, shared in found)} of {len(found)}" for how, found in rows.items())
    figure = Chart(9, 2.3 * len(rows), f"A scene, {caption!r}, and its nearest neighbours; sharing a thing with it: {kin}.")
    axes = figure.subplots(len(rows), most + 1, squeeze=False)
    for cell in axes.flat:
        cell.set(xticks=[], yticks=[])
        cell.spines[:].set_visible(False)
    for line, (how, found) in zip(axes, rows.items(), strict=True):
        line[0].imshow(as_pixels(image), interpolation="nearest")
        line[0].set_title(how, fontsize=9, fontweight="bold")
        line[0].set_xlabel(textwrap.fill(caption, 24), fontsize=7)
        for cell, (picture, words, cosine, shared) in zip(line[1:], found, strict=False):
            cell.imshow(as_pixels(picture), interpolation="nearest")
            cell.set_xlabel(textwrap.fill(words, 24), fontsize=7)
            cell.set_title(f"{cosine:.2f}" + (f", shares {shared}" if shared else ""), fontsize=8)
            if shared:
                cell.spines[:].set(visible=True, color=GREEN, lw=3)
    return figure


def bars(values: dict[str, dict[str, float]], ylabel: str, log: bool = False) -> Chart:
    """Grouped bars: {group: {bar: value}}, every group with the same bars."""
    names = list(next(iter(values.values())))
    told = "; ".join(f"{group}: " + ", ".join(f"{name} {bar:.3g}" for name, bar in row.items()) for group, row in values.items())
    figure = Chart(9, 3.2, f"Bars, {ylabel}. {told}.")
    axes = figure.add_subplot()
    width = 0.8 / len(names)
    for number, name in enumerate(names):
        places = [position + (number - (len(names) - 1) / 2) * width for position in range(len(values))]
        drawn = axes.bar(
            places, [group[name] for group in values.values()], width, label=name, color=CYCLE[number % len(CYCLE)]
        )
        axes.bar_label(drawn, fmt="%.3g", fontsize=7)
    axes.set_xticks(range(len(values)), list(values), fontsize=8)
    axes.set(ylabel=ylabel, yscale="log" if log else "linear")
    if len(names) > 1:
        figure.legend(loc="outside upper center", ncols=len(names), frameon=False)
    return figure


def soft_labels(labels: torch.Tensor, shared: torch.Tensor, title: str) -> Chart:
    """Labels of a batch beside the truth. labels: (B, B), 0 to 1, a row an image; shared: (B, B) things in common.

    Labels are coloured by their logarithm: the negatives' shares are small beside the diagonal.
    """
    kin = (shared > 0) & ~torch.eye(len(shared), dtype=torch.bool)
    share = labels[kin].sum() / (labels.sum() - labels.diagonal().sum()).clamp(min=1e-9)
    alt = f"{title}: {_diagonal(labels)}; of the negatives' share {share:.0%} lies where scenes share a thing"
    figure = Chart(9, 4, f"{alt}, which {kin.sum() / max(1, kin.numel() - len(kin)):.0%} of the pairs do.")
    left, right = figure.subplots(1, 2)
    shown = left.imshow(labels.clamp(min=1e-4).numpy(), cmap="viridis", norm=LogNorm(1e-3, 1, clip=True))
    left.set(xlabel="caption", ylabel="image", title=title)
    figure.colorbar(shown, ax=left, label="label (0.001 and less: dark)")
    most = max(int(shared.max()), 1)
    truth = right.imshow(shared.numpy(), cmap=colormaps["viridis"].resampled(most + 1), vmin=-0.5, vmax=most + 0.5)
    right.set(xlabel="caption", ylabel="image", title="truth")
    figure.colorbar(truth, ax=right, label="things that both scenes hold", ticks=range(most + 1))
    return figure


def curve_with_reference(values: Mapping[float, float], reference: float, x: str, y: str, what: str) -> Chart:
    """Values over a positive setting, on a logarithmic axis, and the dashed line that they are to be compared with."""
    told = ", ".join(f"{value:.2f} at {setting:g}" for setting, value in values.items())
    figure = Chart(6, 3, f"{y} by {x}: {told}; {what}: {reference:.2f}.")
    axes = figure.add_subplot()
    axes.plot(list(values), list(values.values()), color=BLUE, marker="o")
    axes.axhline(reference, color=GREY, ls="--", lw=1)
    axes.text(1, reference, f"{what}: {reference:.2f}", color=GREY, va="bottom", ha="right", fontsize=8,
              transform=axes.get_yaxis_transform())  # fmt: skip
    axes.set(xscale="log", xlabel=x, ylabel=y, ylim=(0, None))
    axes.set_xticks(list(values), [f"{value:g}" for value in values])
    axes.minorticks_off()
    return figure


def cost_matrix(cost: torch.Tensor, plan: torch.Tensor, rows: Sequence[str], title: str = "") -> Chart:
    """Costs of giving patches to words, and who is given what. cost, plan: (m, n); rows: the words.

    A patch's dot is as large as its share of the word; what a word lacks to one lies in the dustbin, the last column.
    """
    words, patches = cost.shape
    best = [int(row.argmax()) if row.sum() > 0.5 else -1 for row in plan]
    alt = f"Costs of {words} words and {patches} patches, and who takes what: {_taken(rows, best)}."
    figure = Chart(9, 0.6 + 0.3 * words + 0.6, alt)
    axes = figure.add_subplot()
    full = torch.cat([cost, torch.full((words, 1), math.nan)], dim=1)
    shown = axes.imshow(full.numpy(), cmap="viridis_r", aspect="auto")
    shares = torch.cat([plan, (1 - plan.sum(1, keepdim=True)).clamp(min=0)], dim=1)
    row, column = (shares > 0.02).nonzero().T
    axes.scatter(column, row, s=70 * shares[row, column], facecolor="white", edgecolor=RED, lw=1.5)
    axes.set_yticks(range(words), rows, fontsize=8)
    ticks = [*range(0, patches, max(1, patches // 16)), patches]
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), "bin"], fontsize=7)
    axes.set(xlabel="patch", title=title)
    figure.colorbar(shown, ax=axes, label="cost, 1 − cosine")
    return figure


def _taken(words: Sequence[str], patch: Sequence[int]) -> str:
    pairs = zip(words, patch, strict=True)
    return ", ".join(f"{word} patch {place}" if place >= 0 else f"{word} the dustbin" for word, place in pairs)


def word_lines(
    image: torch.Tensor, words: Sequence[str], patch: Sequence[int], patches: int, boxes: Sequence[Sequence[Box]], title: str = ""
) -> Chart:
    """A scene with its words beside it. From every word that names a thing a line to its patch, and that thing's dashed box.

    image: (3, H, W) uint8. patch: for every word its patch, -1 for the dustbin. patches: n, a square number.
    boxes: for every word the boxes of what it names, in pixels; none of a word that names nothing, which stays grey.
    """
    side, rows = image.shape[-1], math.isqrt(patches)
    step = side / rows
    alt = f"A scene and its words; words that name things are joined with their patches: {_taken(words, patch)}."
    figure = Chart(7, 4.2, alt)
    axes = figure.add_subplot()
    axes.imshow(as_pixels(image), extent=(0, side, side, 0), interpolation="nearest")
    for line in range(1, rows):
        axes.axhline(line * step, xmax=0.5, color="white", lw=0.4, alpha=0.6)
        axes.plot([line * step] * 2, [0, side], color="white", lw=0.4, alpha=0.6)
    naming = [number for number, own in enumerate(boxes) if own]
    objects = list(dict.fromkeys(tuple(boxes[number]) for number in naming))  # words of one thing share its colour
    for number, (word, place, own) in enumerate(zip(words, patch, boxes, strict=True)):
        y = side * (number + 0.5) / len(words)
        colour = CYCLE[objects.index(tuple(own)) % len(CYCLE)] if own else GREY
        axes.text(side * 1.3, y, word if place >= 0 else f"{word}  (dustbin)", va="center", fontsize=10, color=colour)
        for left, top, right, bottom in own:
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=1.2, ls="--"))
        if place >= 0 and own:
            x0, y0 = place % rows * step, place // rows * step
            axes.add_patch(Rectangle((x0, y0), step, step, fill=False, ec=colour, lw=2))
            axes.plot([x0 + step, side * 1.28], [y0 + step / 2, y], color=colour, lw=1.3)
    axes.set(xlim=(0, 2 * side), ylim=(side, 0), title=title)
    axes.axis("off")
    return figure


def dots(groups: Mapping[str, Sequence[Sequence[float]]], names: Sequence[str], xlabel: str) -> Chart:
    """Recipes beside each other: a panel a figure, a line a recipe, a dot a seed, and a bar at the mean.

    groups: {figure: for every recipe the values of its seeds}; names: of the recipes.
    """
    means = [
        f"{title}: " + ", ".join(f"{name} {sum(row) / len(row):.1f}" for name, row in zip(names, rows, strict=True) if row)
        for title, rows in groups.items()
    ]
    figure = Chart(9, 0.9 + 0.32 * len(names), f"A dot a seed, a bar at the mean, {xlabel}. {'; '.join(means)}.")
    panels = figure.subplots(1, len(groups), sharey=True, squeeze=False)[0]
    for axes, (title, rows) in zip(panels, groups.items(), strict=True):
        for row, values in enumerate(rows):
            colour = CYCLE[row % len(CYCLE)]
            if values:
                axes.scatter(values, [row] * len(values), color=colour, s=18, zorder=3)
                axes.plot([sum(values) / len(values)] * 2, [row - 0.35, row + 0.35], color=colour, lw=2)
        axes.set(title=title, xlabel=xlabel)
        axes.title.set_fontsize(9)
        axes.grid(axis="x", alpha=0.3)
    panels[0].set_yticks(range(len(names)), names)
    panels[0].set_ylim(len(names) - 0.4, -0.6)
    return figure


def depth_sweep(
    depths: Sequence[int], quality: Mapping[str, Sequence[Sequence[float]]], costs: Mapping[str, Sequence[float]]
) -> Chart:
    """What layers of a text tower buy, and what they cost.

    depths: numbers of layers. quality: {figure: for every depth the values of its seeds, in percent}.
    costs: {what: for every depth a number}, drawn relative to the first depth's.
    """
    means = {name: [sum(seeds) / len(seeds) for seeds in rows] for name, rows in quality.items()}
    ends = [f"{name} from {values[0]:.0f} to {values[-1]:.0f} percent" for name, values in means.items()]
    ends += [f"{name} to {values[-1] / values[0]:.1f} times" for name, values in costs.items()]
    figure = Chart(9, 3.2, f"Text towers of {depths[0]} to {depths[-1]} layers: {', '.join(ends)}.")
    left, right = figure.subplots(1, 2)
    for colour, marker, (name, values) in zip(CYCLE, "os^D", quality.items(), strict=False):
        left.plot(depths, means[name], color=colour, marker=marker, ms=4, label=name)
        left.fill_between(depths, [min(s) for s in values], [max(s) for s in values], color=colour, alpha=0.2, lw=0)
    for colour, marker, (name, values) in zip(CYCLE, "os^D", costs.items(), strict=False):
        right.plot(depths, [value / values[0] for value in values], color=colour, marker=marker, ms=4, label=name)
    left.set(ylabel="percent", title="Quality (band: all seeds)", ylim=(0, None))
    right.set(ylabel=f"times {depths[0]} layer{'s' * (depths[0] > 1)}", title="Cost of the text tower", yscale="log")
    most = max(values[-1] / values[0] for values in costs.values())
    ticks = [2**power for power in range(math.ceil(math.log2(max(most, 1))) + 1)]
    right.set_yticks(ticks, map(str, ticks))
    for axes in (left, right):
        axes.set(xscale="log", xlabel="layers of the text tower")
        axes.set_xticks(depths, map(str, depths))
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize=8)
    return figure


def gates(history: Mapping[int, Mapping[int, float]]) -> Chart:
    """How far each layer lets the image in, over the training. history: {step: {layer: tanh(gate), -1 to 1}}."""
    steps = list(history)
    opened = ", ".join(f"layer {layer} {gate:.2f}" for layer, gate in history[steps[-1]].items())
    figure = Chart(6, 2.8, f"Gates by step, from 0; after {steps[-1]} steps: {opened}.")
    axes = figure.add_subplot()
    for colour, marker, layer in zip(CYCLE, "os^Dvx", history[steps[0]], strict=False):
        axes.plot(steps, [history[step][layer] for step in steps], color=colour, marker=marker, ms=4, label=f"layer {layer}")
    axes.axhline(0, color=GREY, ls="--", lw=1)
    axes.set(xlabel="step", ylabel="gate, tanh(g)", title="How far the image is let in")
    axes.legend(frameon=False)
    return figure


def word_guesses(
    images: Sequence[torch.Tensor | None], titles: Sequence[str], guesses: Sequence[tuple[Sequence[str], torch.Tensor]], text: str
) -> Chart:
    """Guesses for a masked word, a panel an image. guesses: for every image the best words and their probabilities."""
    told = "; ".join(f"{title}: {words[0]} {shares[0]:.0%}" for title, (words, shares) in zip(titles, guesses, strict=True))
    figure = Chart(9, 3.4, f"Guesses for the masked word of {text!r}. {told}.")
    figure.suptitle(textwrap.fill(text, 100), fontsize=10)
    rows = figure.subplots(2, len(images), height_ratios=[1.2, 1])
    for column, (image, title, (words, shares)) in enumerate(zip(images, titles, guesses, strict=True)):
        picture, axes = rows[0, column], rows[1, column]
        picture.axis("off")
        picture.set_title(title, fontsize=9)
        if image is not None:
            picture.imshow(as_pixels(image), interpolation="nearest")
        axes.barh(range(len(words)), shares.tolist(), color=BLUE)
        axes.set_yticks(range(len(words)), words, fontsize=8)
        axes.set(xlim=(0, 1), ylim=(len(words) - 0.5, -0.5), xlabel="probability")
    return figure


SMOOTH = 49  # steps


def parts_curve(curve: Sequence[Event], guesses: Mapping[str, float]) -> Chart:
    """Every part of the loss by step, a panel each, and smoothed (mean of SMOOTH steps); the last panel is recall@1 on new pairs.

    guesses: what a part would be for a model that knows nothing, by its name: a dashed line.
    """
    steps = [event for event in curve if isinstance(event, Step)]
    looks = [event for event in curve if isinstance(event, Validation)]
    names = list(steps[-1].losses) if steps else ["loss"]
    alt = f"The parts of the loss by step ({', '.join(names)}; dashed: a guess), and recall@1. {_tell(curve)}"
    rows = 1 if len(names) < 5 else 2  # six in a row are too narrow to read
    figure = Chart(9, 2.8 * rows, alt)
    *panels, last = figure.subplots(rows, -(-(len(names) + 1) // rows), squeeze=False).flatten()[: len(names) + 1]
    for axes, name in zip(panels, names, strict=True):
        values = np.array([event.losses[name] for event in steps])
        axes.plot([event.step for event in steps], values, color=SKY, lw=0.5, label="each step")
        if len(values) > SMOOTH:
            smooth, half = np.convolve(values, np.ones(SMOOTH) / SMOOTH, "valid"), SMOOTH // 2
            axes.plot([event.step for event in steps[half:-half]], smooth, color=BLUE, label=f"mean of {SMOOTH}")
        if name in guesses:
            axes.axhline(guesses[name], color=GREY, ls="--", lw=1)
            axes.annotate(f"a guess: {guesses[name]:.2f}", (0.98, guesses[name]), (0, -2), axes.get_yaxis_transform(),
                          "offset points", color=GREY, fontsize=7, ha="right", va="top")  # fmt: skip
        axes.set(title=name, xlabel="step", ylabel="nats", ylim=(0, None))
        axes.title.set_fontsize(9)
    for name, colour, marker in (("image_to_text", BLUE, "o"), ("text_to_image", ORANGE, "s")):
        values = [100 * getattr(event, name) for event in looks]
        last.plot([e.step for e in looks], values, color=colour, marker=marker, ms=3, label=name.replace("_", " "))
    last.set(title="recall@1, new pairs", xlabel="step", ylabel="percent", ylim=(0, 100))
    last.title.set_fontsize(9)
    if steps:
        panels[0].legend(frameon=False, fontsize=7, loc="center right")
    if looks:
        last.legend(frameon=False, fontsize=7, loc="lower right")
    return figure


def reading_order(rows: torch.Tensor, per_epoch: int) -> Chart:
    """Which row is read at which step. rows: (steps, B) int64, a batch a row; per_epoch: steps of one."""
    alt = f"Which of {int(rows.max()) + 1} rows is read at which of {len(rows)} steps: every row once in {per_epoch} steps."
    figure = Chart(9, 3, alt)
    axes = figure.add_subplot()
    steps = torch.arange(1, len(rows) + 1)[:, None].expand_as(rows)
    axes.scatter(steps.flatten(), rows.flatten(), s=4, color=BLUE, linewidths=0)
    for end in range(per_epoch, len(rows), per_epoch):
        axes.axvline(end + 0.5, color=GREY, ls="--", lw=1)
        axes.text(end + 0.6, 0.99, "next epoch", color=GREY, fontsize=8, va="top", transform=axes.get_xaxis_transform())
    axes.set(xlabel="step", ylabel="row of the data set")
    return figure


def runs_together(curves: Mapping[str, Mapping[int, float]], ylabel: str) -> Chart:
    """Several runs over the same steps, {run: {step: value}}: the first as a line, the others as marks on it or off it."""
    ends = ", ".join(f"{name} {list(values.values())[-1]:.3g} at step {list(values)[-1]}" for name, values in curves.items())
    figure = Chart(9, 3, f"{ylabel} by step: {ends}.")
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(curves.items()):
        style = {"color": GREY, "lw": 3, "alpha": 0.5} if number == 0 else {
            "color": CYCLE[number % len(CYCLE)], "marker": "osD^v"[number % 5], "ms": 4, "ls": "none"
        }  # fmt: skip
        axes.plot(list(values), list(values.values()), label=name, **style)
    axes.set(xlabel="step", ylabel=ylabel, ylim=(0, None))
    axes.legend(frameon=False)
    return figure


def embedding_map(
    coordinates: Mapping[str, torch.Tensor], names: Sequence[str], group: torch.Tensor, what: str, images: int | None = None
) -> Chart:
    """Points of an embedding space, a panel a way of laying them out. coordinates: {way: (N, 2)}. group: (N,), of `names`.

    images: so many points, the first ones, are images, and round; those after them are captions, and square. All round if None.
    """
    shares = ", ".join(f"{name} {int((group == number).sum())}" for number, name in enumerate(names))
    figure = Chart(9, 4.4, f"{len(group)} points by {' and '.join(coordinates)}, coloured by {what}: {shares}.")
    panels = figure.subplots(1, len(coordinates), squeeze=False)[0]
    first = torch.arange(len(group)) < (len(group) if images is None else images)
    rarest_last = sorted(range(len(names)), key=lambda number: -int((group == number).sum()))  # or the others would hide it
    for axes, (way, points) in zip(panels, coordinates.items(), strict=True):
        for number in rarest_last:
            rare = (group == number).double().mean() < 0.02
            for marker, which, size in (("o", first, 24 if rare else 6), ("s", ~first, 16 if rare else 4)):
                x, y = points[(group == number) & which].T
                label = names[number] if marker == "o" else None
                axes.scatter(x, -y, s=size, color=CYCLE[number % len(CYCLE)], marker=marker, label=label, linewidths=0, alpha=0.7)
        axes.set(title=way, xticks=[], yticks=[], aspect="equal")
    dots, labels = panels[0].get_legend_handles_labels()
    title = what if images is None else f"{what} (images round, captions square)"
    figure.legend(dots, labels, loc="outside lower center", ncols=3, frameon=False, fontsize=8, markerscale=2.5, title=title)
    return figure
