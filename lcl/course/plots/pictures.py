"""Figures of images, and of matrices that compare images with captions, words or patches."""

import math
import textwrap
from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from matplotlib import colormaps
from matplotlib.colors import LogNorm
from matplotlib.patches import Rectangle

from lcl.course.plots.base import (
    BLUE,
    CYCLE,
    GREEN,
    GREY,
    RED,
    SMALLEST,
    WIDEST,
    Chart,
    as_pixels,
    group_colours,
    legend_label,
    show_image,
)
from lcl.data.drawn.captions import Box
from lcl.data.scenes import Pairs


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
            axes.add_patch(Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, lw=2, ec=colour))
            side, x = ("left", left) if left + right < image.shape[-1] else ("right", right)  # names stay on their picture
            axes.text(x, bottom, name_of(obj.concept), color="white", fontsize=SMALLEST, ha=side, va="top",
                      bbox={"facecolor": colour, "pad": 1, "lw": 0})  # fmt: skip
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
        axes[row, 0].text(0, 0.5, textwrap.fill(query, 30), va="center", fontsize=SMALLEST)
        for cell, best in zip(axes[row, 1:], similarity[row].topk(k).indices.tolist(), strict=True):
            right = best == own[row]
            show_image(cell, images[best], f"{'right: ' if right else ''}{similarity[row, best]:.2f}", GREEN if right else None)
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
        labels: of the rows.
        down, across: what the rows and the columns are.
        low: the value of the darkest colour.
        what: what the values are.
    """
    alt = f"{title}, {len(similarity)} {down}s down, {across}s across: {_diagonal(similarity)}."
    figure = Chart(WIDEST if labels else 4.8, 5 if labels else 4, alt)
    axes = figure.add_subplot()
    shown = axes.imshow(similarity.cpu().numpy(), cmap="viridis", vmin=low, vmax=1)
    axes.set(xlabel=across, ylabel=down, title=title)
    if labels:
        axes.set_yticks(range(len(labels)), [textwrap.shorten(label, 45) for label in labels], fontsize=SMALLEST)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
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
    alt = f"{title}: {_diagonal(labels)}; {share:.0%} of the negatives' share falls on scenes that share an object"
    figure = Chart(9, 4, f"{alt}, which are {related.sum() / max(1, related.numel() - len(related)):.0%} of the negatives.")
    left, right = figure.subplots(1, 2)
    shown = left.imshow(labels.clamp(min=1e-4).numpy(), cmap="viridis", norm=LogNorm(1e-3, 1, clip=True))
    left.set(xlabel="caption", ylabel="image", title=title)
    figure.colorbar(shown, ax=left, label="label (0.001 and less: dark)")
    most = max(int(shared.max()), 1)
    truth = right.imshow(shared.numpy(), cmap=colormaps["viridis"].resampled(most + 1), vmin=-0.5, vmax=most + 0.5)
    right.set(xlabel="caption", ylabel="image", title="ground truth")
    figure.colorbar(truth, ax=right, label="objects in both scenes", ticks=range(most + 1))
    return figure


def cost_matrix(
    cost: torch.Tensor, plan: torch.Tensor, rows: Sequence[str], title: str = "", prices: torch.Tensor | None = None
) -> Chart:
    """The costs of matching words with patches, and the plan: dots as large as a patch's share of the word.

    Args:
        cost, plan: (m, n); what a row of the plan lacks to 1 is unmatched, the last column.
        rows: the words.
        prices: (n,), the dual prices of the patches, as bars below.
    """
    words, patches = cost.shape
    best = [int(row.argmax()) if row.sum() > 0.5 else -1 for row in plan]
    alt = f"Costs of {words} words and {patches} patches; matched: {_matched(rows, best)}."
    if prices is None:
        figure = Chart(9, 1.2 + 0.3 * words, alt)
        axes = lowest = figure.add_subplot()
    else:
        told = ", ".join(f"patch {number} {price:.2f}" for number, price in enumerate(prices.tolist()))
        figure = Chart(9, 2.6 + 0.3 * words, f"{alt} Dual prices: {told}.")
        axes, lowest = figure.subplots(2, sharex=True, height_ratios=(0.3 * words, 1))
        axes.tick_params(labelbottom=False)
        lowest.bar_label(lowest.bar(range(patches), prices.tolist(), color=BLUE), fmt="%.2f", fontsize=SMALLEST)
        lowest.set(ylabel="dual price", ylim=(0, 1.3 * max(prices.max().item(), 0.1)))
    full = torch.cat([cost, torch.full((words, 1), math.nan)], dim=1)
    shown = axes.imshow(full.numpy(), cmap="viridis_r", aspect="auto")
    shares = torch.cat([plan, (1 - plan.sum(1, keepdim=True)).clamp(min=0)], dim=1)
    row, column = (shares > 0.02).nonzero().T
    axes.scatter(column, row, s=70 * shares[row, column], facecolor="white", edgecolor=RED, lw=1.5)
    axes.set_yticks(range(words), rows, fontsize=SMALLEST)
    ticks = [*range(0, patches, max(1, patches // 16)), patches]
    lowest.set_xticks(ticks, [*map(str, ticks[:-1]), "bin"], fontsize=SMALLEST)
    axes.set_title(title)
    lowest.set_xlabel("patch")
    figure.colorbar(shown, ax=axes, label="cost, 1 − cosine")
    return figure


def token_chips(captions: Sequence[Sequence[tuple[str, int]]]) -> Chart:
    """The tokens of captions as chips. Tokens of a word share a colour, and its number stands below each of them.

    captions: the tokens of each, and the number of each token's word; -1 if it belongs to none.
    """
    wide, line, places = 88, 0, []  # characters of a line; the line; (line, column, token, word)
    for tokens in captions:
        column = 0
        for token, word in tokens:
            token = textwrap.shorten(token, 40) or " "
            if column and column + len(token) + 2 > wide:
                line, column = line + 1, 0
            places.append((line, column, token, word))
            column += len(token) + 3
        line += 1
    words = [len({word for _, word in tokens if word >= 0}) for tokens in captions]
    told = "; ".join(f"{len(tokens)} tokens, {number} words" for tokens, number in zip(captions, words, strict=True))
    figure = Chart(9, 0.1 + 0.55 * line, f"Tokens of {len(captions)} captions as chips, with the numbers of their words: {told}.")
    axes = figure.add_subplot(xlim=(0, wide + 2), ylim=(line - 0.3, -0.5))
    axes.axis("off")
    for row, column, token, word in places:
        colour = CYCLE[word % len(CYCLE)] if word >= 0 else GREY
        box = {"boxstyle": "round,pad=0.25", "facecolor": colour + "30", "edgecolor": colour}
        at = column + 1 + len(token) / 2
        axes.text(at, row, token, bbox=box, ha="center", va="center", family="monospace", fontsize=SMALLEST)
        if word >= 0:
            axes.text(at, row + 0.45, str(word), ha="center", va="center", color=GREY, fontsize=SMALLEST)
    return figure


def _matched(words: Sequence[str], patch: Sequence[int]) -> str:
    pairs = zip(words, patch, strict=True)
    return ", ".join(f"{word} → {f'patch {place}' if place >= 0 else 'unmatched'}" for word, place in pairs)


def word_lines(
    image: torch.Tensor, words: Sequence[str], patch: Sequence[int], patches: int, boxes: Sequence[Sequence[Box]], title: str = ""
) -> Chart:
    """A scene beside its words: a line from every word that names an object to its patch, and the object's dashed box.

    Args:
        image: (3, H, W) uint8.
        patch: the patch of every word; -1 if it is unmatched.
        patches: n, a square number.
        boxes: for every word the boxes of what it names, in pixels; empty for a word that names nothing, which is drawn grey.
    """
    side, rows = image.shape[-1], math.isqrt(patches)
    step = side / rows
    alt = f"A scene and its words; lines join words that name objects with their patches: {_matched(words, patch)}."
    figure = Chart(7, 4.2, alt)
    axes = figure.add_subplot()
    axes.imshow(as_pixels(image), extent=(0, side, side, 0), interpolation="nearest")
    for line in range(1, rows):
        axes.axhline(line * step, xmax=0.5, color="white", lw=0.4, alpha=0.6)
        axes.plot([line * step] * 2, [0, side], color="white", lw=0.4, alpha=0.6)
    objects = list(dict.fromkeys(tuple(own) for own in boxes if own))  # words of one object share its colour
    for number, (word, place, own) in enumerate(zip(words, patch, boxes, strict=True)):
        y = side * (number + 0.5) / len(words)
        colour = CYCLE[objects.index(tuple(own)) % len(CYCLE)] if own else GREY
        axes.text(side * 1.3, y, word if place >= 0 else f"{word}  (unmatched)", va="center", fontsize=10, color=colour)
        for left, top, right, bottom in own:
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, fill=False, ec=colour, lw=1.2, ls="--"))
        if place >= 0 and own:
            x0, y0 = place % rows * step, place // rows * step
            axes.add_patch(Rectangle((x0, y0), step, step, fill=False, ec=colour, lw=2))
            axes.plot([x0 + step, side * 1.28], [y0 + step / 2, y], color=colour, lw=1.3)
    axes.set(xlim=(0, 2 * side), ylim=(side, 0), title=title)
    axes.axis("off")
    return figure


def word_guesses(
    images: Sequence[torch.Tensor | None], titles: Sequence[str], guesses: Sequence[tuple[Sequence[str], torch.Tensor]], text: str
) -> Chart:
    """Predictions of a masked word, a panel per image.

    Args:
        images: (3, H, W) uint8 each; None for no image.
        guesses: for every panel the most probable words and their probabilities.
        text: the caption with its mask.
    """
    best = "; ".join(f"{title}: {words[0]} {shares[0]:.0%}" for title, (words, shares) in zip(titles, guesses, strict=True))
    figure = Chart(9, 3.4, f"Predictions of the masked word of {text!r}. {best}.")
    figure.suptitle(textwrap.fill(text, 100), fontsize=10)
    rows = figure.subplots(2, len(images), squeeze=False, height_ratios=[1.2, 1])
    for picture, axes, image, title, (words, shares) in zip(*rows, images, titles, guesses, strict=True):
        if image is not None:
            show_image(picture, image)
        picture.axis("off")
        picture.set_title(title, fontsize=SMALLEST)
        axes.barh(range(len(words)), shares.tolist(), color=BLUE)
        axes.set_yticks(range(len(words)), words, fontsize=SMALLEST)
        axes.set(xlim=(0, 1), ylim=(len(words) - 0.5, -0.5), xlabel="probability")
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
