"""Figures of images, of matrices that compare images with captions, and of maps of embeddings."""

import itertools
import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle
from matplotlib.patheffects import withStroke

from lcl.course.plots.base import (
    BLUE,
    CYCLE,
    GREEN,
    SMALLEST,
    WIDEST,
    Chart,
    group_colours,
    legend_label,
    show_image,
)
from lcl.data.scenes import Pairs

FEW = 10  # rows of a matrix whose values can be printed


def grid(
    images: torch.Tensor,
    titles: Sequence[str] | None = None,
    columns: int = 6,
    width: float = 1.5,
    alt: str | None = None,
    framed: Collection[int] = (),
) -> Chart:
    """Images in rows, each with its title.

    Args:
        images: (N, 3, H, W) uint8.
        width: inches per image, less if they would not fit.
        alt: what the images show, if the titles do not say it.
        framed: indices of images with a green frame.
    """
    rows, width = math.ceil(len(images) / columns), min(width, WIDEST / columns)
    wrapped = [textwrap.fill(title, int(width * 12)) for title in titles or ()]
    lines = max((len(title.splitlines()) for title in wrapped), default=0)
    names = "; ".join(" ".join(title.split()) for title in titles or ())
    alt = alt or f"{len(images)} pictures, {columns} in a row{': ' if names else ''}{textwrap.shorten(names, 600)}."
    figure = Chart(columns * width, rows * (width + 0.1 + 0.17 * lines), alt)
    for number, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, number + 1)
        show_image(axes, image, wrapped[number] if wrapped else "", GREEN if number in framed else None)
    return figure


def annotated_scenes(pairs: Pairs, name_of: Callable[[int], str], columns: int = 4) -> Chart:
    """Scenes with a box around every object; objects named by the same words share a colour.

    name_of: from a concept's number to its name.
    """
    rows = math.ceil(len(pairs) / columns)
    alt = f"{len(pairs)} scenes with a box around every object that the caption names: {'; '.join(pairs.captions)}."
    figure = Chart(WIDEST, rows * (WIDEST / columns + 0.8), alt)
    for number, (image, scene) in enumerate(zip(pairs.images, pairs.scenes, strict=True)):
        axes = figure.add_subplot(rows, columns, number + 1)
        show_image(axes, image, textwrap.fill(scene.caption, 108 // columns))
        spans = list(dict.fromkeys(obj.span for obj in scene.objects))
        for obj in scene.objects:
            colour, (left, top, right, bottom) = CYCLE[spans.index(obj.span) % len(CYCLE)], obj.box
            outlined = withStroke(linewidth=3.5, foreground="black", alpha=0.5)  # else a box vanishes on its own colour
            axes.add_patch(Rectangle(
                (left - 0.5, top - 0.5), right - left, bottom - top, fill=False, lw=2, ec=colour, path_effects=[outlined]
            ))  # fmt: skip
            side, name = image.shape[-1], name_of(obj.concept)
            x = max(0, min(left, side * (1 - 0.009 * columns * len(name))))  # names stay on their picture
            axes.text(x, bottom, name, color="white" if colour == BLUE else "black", fontsize=SMALLEST,
                      va="top" if bottom < 0.92 * side else "bottom", bbox={"facecolor": colour, "pad": 1, "lw": 0})  # fmt: skip
    return figure


def retrieved_images(
    queries: Sequence[str], own: Sequence[int], similarity: torch.Tensor, images: torch.Tensor, k: int = 5
) -> Chart:
    """The k most similar images of every caption, the right one framed.

    Args:
        own: the index of each caption's own image; -1 if it has none.
        similarity: (Q, N).
        images: (N, 3, H, W) uint8; all are shown if there are fewer than k.
    """
    k = min(k, len(images))
    hits = sum(own[row] in similarity[row].topk(k).indices.tolist() for row in range(len(queries)))
    known = f"; the right one is among them for {hits}" if max(own) >= 0 else ""
    figure = Chart(9, 1.5 * len(queries), f"The {k} nearest images of {len(queries)} captions{known}: {'; '.join(queries)}.")
    axes = figure.subplots(len(queries), k + 1, squeeze=False, width_ratios=[2.2] + [1] * k)
    for row, query in enumerate(queries):
        axes[row, 0].axis("off")
        axes[row, 0].text(0, 0.5, textwrap.fill(query, 28), va="center", fontsize=SMALLEST + 1)
        for cell, best in zip(axes[row, 1:], similarity[row].topk(k).indices.tolist(), strict=True):
            right = best == own[row]
            show_image(cell, images[best], f"{'✓ ' if right else ''}{similarity[row, best]:.2f}", GREEN if right else None)
    return figure


def similarity_matrix(
    similarity: torch.Tensor,
    title: str = "Cosine similarity",
    labels: Sequence[str] | None = None,
    down: str = "image",
    across: str = "caption",
    low: float = -0.5,
    what: str = "cosine similarity",
) -> Chart:
    """A matrix (N, N) of cosines, or of other values up to 1, with matching pairs on the diagonal.

    Args:
        labels: of the rows; if there are ten or fewer, of the columns, too, and every value is printed, the highest of a row
            in bold.
        down, across: what the rows and the columns are.
        low: the value of the darkest colour.
        what: what the values are.
    """
    alt = f"{title}, {len(similarity)} by {len(similarity)}, down: {down}, across: {across}; {_diagonal(similarity)}."
    figure = Chart(WIDEST if labels else 4.8, 5 if labels else 4, alt)
    axes = figure.add_subplot()
    shown = axes.imshow(similarity.cpu().numpy(), cmap="viridis", vmin=low, vmax=1)
    axes.set(xlabel=across, ylabel=down, title=title)
    if labels:
        axes.set_yticks(range(len(labels)), [textwrap.shorten(label, 45) for label in labels], fontsize=SMALLEST)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
    if labels and len(labels) <= FEW:
        names = [label if len(label) <= 20 else f"{row + 1}" for row, label in enumerate(labels)]  # too long: its number
        axes.set_xticks(range(len(names)), names, fontsize=SMALLEST, rotation=40, ha="right", rotation_mode="anchor")
        for row, column in itertools.product(range(len(similarity)), repeat=2):
            value, best = similarity[row, column].item(), similarity[row].argmax() == column
            axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=SMALLEST,
                      weight="bold" if best else "normal",
                      bbox={"facecolor": "white", "alpha": 0.75, "pad": 1, "lw": 0})  # fmt: skip
    figure.colorbar(shown, ax=axes, label=what, location="left" if labels else "right")
    return figure


def softmax_rows(similarity: torch.Tensor, logit_scale: float) -> Chart:
    """Each image's probabilities over the captions; the title compares InfoNCE with its chance level, ln N.

    similarity: (N, N) cosines.
    """
    logits = logit_scale * similarity
    loss = -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean() / 2
    title = f"logit_scale {logit_scale:.1f}: InfoNCE {loss:.2f} (chance: {math.log(len(logits)):.2f})"
    return similarity_matrix(logits.softmax(1), title, low=0, what="probability of the caption, given the image")


def _diagonal(matrix: torch.Tensor) -> str:
    """The means on and off the diagonal of (N, N), in words."""
    own, number = matrix.diagonal().mean().item(), len(matrix)
    if number < 2:
        return f"{own:.2f} on the diagonal"
    others = (matrix.sum().item() - own * number) / (number * (number - 1))
    return f"mean {own:.2f} on the diagonal, {others:.2f} off it"


def soft_labels(labels: torch.Tensor, shared: torch.Tensor, title: str) -> Chart:
    """The softened labels of a batch beside the objects that its scenes share.

    Args:
        labels: (B, B), 0 to 1, a row per image; coloured by their logarithm, because the negatives' are small.
        shared: (B, B), numbers of shared objects.
    """
    related = (shared > 0) & ~torch.eye(len(shared), dtype=torch.bool)
    share = labels[related].sum() / (labels.sum() - labels.diagonal().sum()).clamp(min=1e-9)
    told = f"{share:.0%} of the negatives' share falls on scenes that share an object"
    alt = f"{title}: {_diagonal(labels)}; {told}"
    figure = Chart(9, 4, f"{alt}, which are {related.sum() / max(1, related.numel() - len(related)):.0%} of the negatives.")
    left, right = figure.subplots(1, 2)
    shown = left.imshow(labels.clamp(min=1e-4).numpy(), cmap="viridis", norm=LogNorm(1e-3, 1, clip=True))
    left.set(xlabel="caption", ylabel="image", title=title)
    figure.suptitle(told, fontsize=10)
    figure.colorbar(shown, ax=left, label="label (0.001 and less: dark)")
    most = max(int(shared.max()), 1)
    truth = right.imshow(shared.numpy(), cmap=colormaps["viridis"].resampled(most + 1), vmin=-0.5, vmax=most + 0.5)
    right.set(xlabel="caption", ylabel="image", title="ground truth")
    figure.colorbar(truth, ax=right, label="objects in both scenes", ticks=range(most + 1))
    return figure


def embedding_map(
    coordinates: Mapping[str, torch.Tensor], names: Sequence[str], group: torch.Tensor, what: str, images: int | None = None
) -> Chart:
    """Points of an embedding space, a panel per projection.

    Args:
        coordinates: {projection: (N, 2)}.
        names: of the groups.
        group: (N,) int64, the group of every point.
        what: what the groups are.
        images: the first `images` points are images, drawn as dots, the others captions, drawn as crosses; all are dots if None.
    """
    shares = ", ".join(f"{name} {int((group == number).sum())}" for number, name in enumerate(names))
    figure = Chart(9, 4.4, f"{len(group)} points by {' and '.join(coordinates)}, coloured by {what}: {shares}.")
    panels = figure.subplots(1, len(coordinates), squeeze=False)[0]
    first = torch.arange(len(group)) < (len(group) if images is None else images)
    colours = group_colours(names)
    rarest_last = sorted(range(len(names)), key=lambda number: -int((group == number).sum()))  # or the others would hide it
    for axes, (way, points) in zip(panels, coordinates.items(), strict=True):
        for number in rarest_last:
            rare = (group == number).double().mean() < 0.02
            for marker, which, size in (("o", first, 30 if rare else 9), ("x", ~first, 24 if rare else 9)):
                x, y = points[(group == number) & which].T
                label = legend_label(names[number]) if marker == "o" else None
                lines = 0 if marker == "o" else 0.9
                axes.scatter(x, -y, s=size, color=colours[number], marker=marker, label=label, linewidths=lines, alpha=0.7)
        axes.set(title=way, xticks=[], yticks=[], aspect="equal")
    title = what if images is None else f"{what} (dots: images, crosses: captions)"
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False, fontsize=SMALLEST,
                  markerscale=2.5, title=title)  # fmt: skip
    return figure
