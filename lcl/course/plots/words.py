"""Figures of words: their tokens, the patches they match, and guesses of a masked one."""

import math
import textwrap
from collections.abc import Sequence

import torch
from matplotlib.patches import Rectangle

from lcl.course.plots.base import BLUE, CYCLE, GREY, RED, SMALLEST, Chart, as_pixels, dark, show_image
from lcl.data.drawn.captions import Box


def cost_matrix(
    cost: torch.Tensor, plan: torch.Tensor, rows: Sequence[str], title: str = "", prices: torch.Tensor | None = None
) -> Chart:
    """The costs of matching words with patches, and the plan: dots as large as a patch's share of the word.

    Args:
        cost, plan: (m, n); what a row of the plan lacks to 1 is unmatched, in a column of its own.
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
        figure = Chart(9, 3 + 0.3 * words, f"{alt} Dual prices: {told}.")
        axes, lowest = figure.subplots(2, sharex=True, height_ratios=(0.3 * words, 1))
        axes.tick_params(labelbottom=True, labelsize=SMALLEST)
        axes.set_xlabel("patch")
        lowest.bar_label(lowest.bar(range(patches), prices.tolist(), color=BLUE), fmt="%.2f", fontsize=SMALLEST)
        lowest.set(ylabel="dual price", ylim=(0, 1.3 * max(prices.max().item(), 0.1)))
    wide = max(1, patches // 16)  # of the column of what is unmatched
    full = torch.cat([cost, torch.full((words, wide), math.nan)], dim=1)
    shown = axes.imshow(full.numpy(), cmap="viridis_r", aspect="auto")
    shares = torch.cat([plan, (1 - plan.sum(1, keepdim=True)).clamp(min=0)], dim=1)
    row, column = (shares > 0.02).nonzero().T
    none = patches - 0.5 + wide / 2
    at = torch.where(column == patches, none, column.double())
    axes.scatter(at, row, s=70 * shares[row, column], facecolor="white", edgecolor=RED, lw=1.5)
    axes.axvline(patches - 0.5, color=GREY, lw=1)
    axes.set_yticks(range(words), rows, fontsize=SMALLEST)
    ticks = [*range(0, patches, wide)]
    lowest.set_xticks([*ticks, none], [*map(str, ticks), "none"], fontsize=SMALLEST)
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
        line, column = line + 0.5 * bool(places), 0  # a gap between captions
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
        said = word if place >= 0 else f"{word}  (unmatched)"
        axes.text(side * 1.3, y, said, va="center", fontsize=10, color=dark(colour))
        for left, top, right, bottom in own:
            dashes = {"fill": False, "lw": 1.4, "ls": "--"}
            axes.add_patch(Rectangle((left, top), right - left, bottom - top, ec=dark(colour), **dashes))
        if place >= 0 and own:
            x0, y0 = place % rows * step, place // rows * step
            axes.add_patch(Rectangle((x0, y0), step, step, fill=False, ec=colour, lw=2))
            axes.plot([x0 + step, side * 1.28], [y0 + step / 2, y], color=colour, lw=1.3)
    axes.set(xlim=(0, 2 * side), ylim=(side, 0))
    axes.set_title(title, loc="left")
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
