"""Pictures of what happens: pure functions from numbers to a matplotlib Figure. Nothing here keeps state.

Colours are Okabe and Ito's, which colour-blind people can tell apart; maps are viridis and its kin.
"""

from __future__ import annotations

import base64
import io
import math
import textwrap
from collections.abc import Sequence

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from lcl.scenes import Pairs, Scene
from lcl.training import Event, Look, Step

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#666666",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)


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


def grid(images: torch.Tensor, titles: Sequence[str] | None = None, columns: int = 6, width: float = 1.5) -> Figure:
    """Images beside and below each other, each with its title. images: (N, 3, H, W) uint8. width: of one, in inches."""
    rows = math.ceil(len(images) / columns)
    lines = max((len(_wrap(title, width).splitlines()) for title in titles), default=0) if titles else 0
    figure = Figure(figsize=(columns * width, rows * (width + 0.14 * lines)), layout="constrained")
    for position, image in enumerate(images):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(as_pixels(image), interpolation="nearest")
        axes.axis("off")
        if titles:
            axes.set_title(_wrap(titles[position], width), fontsize=7)
    return figure


def _wrap(text: str, width: float) -> str:
    return textwrap.fill(text, int(width * 15))


def annotated_scenes(pairs: Pairs, name_of, columns: int = 4) -> Figure:
    """Scenes with the boxes of their things, in the colour that the caption below gives their names.

    name_of: from a concept's number to its name.
    """
    rows = math.ceil(len(pairs) / columns)
    figure = Figure(figsize=(2.4 * columns, 3.0 * rows), layout="constrained")
    for position, (image, scene) in enumerate(zip(pairs.images, pairs.scenes, strict=True)):
        axes = figure.add_subplot(rows, columns, position + 1)
        axes.imshow(as_pixels(image), interpolation="nearest")
        axes.axis("off")
        for colour, spanned in zip(CYCLE, _by_span(scene), strict=False):
            for thing in spanned:
                left, top, right, bottom = thing.box
                outline = Rectangle((left - 0.5, top - 0.5), right - left, bottom - top, fill=False, lw=2, ec=colour)
                axes.add_patch(outline)
                axes.text(left, bottom, name_of(thing.concept), color="white", fontsize=6, va="top",
                          bbox={"facecolor": colour, "pad": 1, "lw": 0})  # fmt: skip
        axes.set_title(textwrap.fill(scene.caption, 34), fontsize=7.5)
    return figure


def _by_span(scene: Scene) -> list[list]:
    spans = dict.fromkeys(thing.span for thing in scene.things)
    return [[thing for thing in scene.things if thing.span == span] for span in spans]


def loss_curve(curve: Sequence[Event], batch_size: int) -> Figure:
    """Training and validation loss by step, with the line at ln B where a guess would be; recall@1 beside it."""
    steps = [event for event in curve if isinstance(event, Step)]
    looks = [event for event in curve if isinstance(event, Look)]
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.plot([event.step for event in steps], [event.loss for event in steps], color=SKY, lw=1, label="training")
    if looks:
        left.plot([e.step for e in looks], [e.loss for e in looks], color=BLUE, marker="o", ms=4, label="new scenes")
    left.axhline(math.log(batch_size), color=GREY, ls="--", lw=1)
    left.text(1, math.log(batch_size), f"ln {batch_size}: a guess", color=GREY, va="bottom", fontsize=8, ha="left",
              transform=left.get_yaxis_transform())  # fmt: skip
    left.texts[-1].set(x=0.98, ha="right")
    left.set(xlabel="step", ylabel="InfoNCE (nats)", title="Loss", ylim=(0, None))
    left.legend(frameon=False)
    for name, colour, marker, label in (
        ("image_to_text", BLUE, "o", "image to text"),
        ("text_to_image", ORANGE, "s", "text to image"),
    ):
        values = [100 * getattr(event, name) for event in looks]
        right.plot([e.step for e in looks], values, color=colour, marker=marker, ms=4, label=label)
    right.set(xlabel="step", ylabel="recall@1 (%)", title="Retrieval among 256 new scenes", ylim=(0, 100))
    if looks:
        right.legend(frameon=False)
    return figure


def similarity_matrix(
    similarity: torch.Tensor, title: str = "Cosine similarity", labels: Sequence[str] | None = None
) -> Figure:
    """Images down, captions across; the right pairs lie on the diagonal. similarity: (N, N), -1 to 1."""
    wide = 8.5 if labels else 4.6
    figure = Figure(figsize=(wide, 4), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(similarity.cpu().numpy(), cmap="viridis", vmin=-0.5, vmax=1)
    axes.set(xlabel="caption", ylabel="image", title=title)
    if labels:
        axes.set_yticks(range(len(labels)), [textwrap.shorten(label, 60) for label in labels], fontsize=6)
        axes.yaxis.tick_right()
        axes.yaxis.set_label_position("right")
    figure.colorbar(shown, ax=axes, label="cosine similarity", location="left" if labels else "right")
    return figure


def softmax_rows(similarity: torch.Tensor, logit_scale: float) -> Figure:
    """What the loss sees: each image's probabilities over the captions, at a given temperature.

    similarity: (N, N) cosines. The title gives InfoNCE of this batch beside ln N.
    """
    logits = logit_scale * similarity
    loss = -(logits.log_softmax(0) + logits.log_softmax(1)).diagonal().mean() / 2
    figure = Figure(figsize=(4.8, 4), layout="constrained")
    axes = figure.add_subplot()
    shown = axes.imshow(logits.softmax(1).cpu().numpy(), cmap="viridis", vmin=0, vmax=1)
    axes.set(xlabel="caption", ylabel="image",
             title=f"logit_scale {logit_scale:.1f}: InfoNCE {loss:.2f} (a guess: {math.log(len(logits)):.2f})")  # fmt: skip
    figure.colorbar(shown, ax=axes, label="probability of the caption, given the image")
    return figure


def retrieved_images(
    queries: Sequence[str], own: Sequence[int], similarity: torch.Tensor, images: torch.Tensor, k: int = 5
) -> Figure:
    """For every caption the k best images, the right one framed.

    queries: Q captions; own: the number of each one's image. similarity: (Q, N), to images (N, 3, H, W) uint8.
    """
    figure = Figure(figsize=(9, 1.5 * len(queries)), layout="constrained")
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


def bars(values: dict[str, dict[str, float]], ylabel: str, log: bool = False) -> Figure:
    """Grouped bars: {group: {bar: value}}, every group with the same bars."""
    names = list(next(iter(values.values())))
    figure = Figure(figsize=(9, 3.2), layout="constrained")
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
