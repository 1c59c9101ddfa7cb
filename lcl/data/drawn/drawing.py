"""What a scene is made of, and drawings at their sizes: integer arithmetic only, so that all machines agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from lcl.data.drawn.captions import Box
from lcl.data.drawn.colours import COLOURS

LEVELS = 12  # number of sizes that drawings are kept in
GAIN = (0.86, 1.09)  # an object's brightness; `colours.main_colour` holds over this range
SHADE = (0.84, 0.90)  # how bright the second shade of a background is, as a part of the first
CLEAR = 90  # the distance at which two colours differ clearly: 30 steps of grey
VISIBLE = 0.3  # the share of an object's pixels that must differ clearly from a background for it to be chosen
SIZES = ((0.45, 0.90), (0.36, 0.60), (0.32, 0.50), (0.28, 0.44))  # of the canvas, for 1, 2, 3, 4 objects


@dataclass(frozen=True)
class SceneObject:
    """One object of a scene; pixels count from the top left corner.

    Attributes:
        concept: its class, a number in the picture dictionary; style: of the drawing.
        level: which of the data set's sizes.
        left, top: corner of the drawing's square.
        box: the smallest rectangle around what is opaque.
        span: the characters (start, end) of the caption that name it; two dogs share one span.
    """

    concept: int
    style: int
    level: int
    left: int
    top: int
    flipped: bool
    gain: int  # brightness, in 256ths
    box: Box
    span: tuple[int, int]


@dataclass(frozen=True)
class Background:
    """What is behind the objects. colour: a key of COLOURS; first, second: its two shades."""

    kind: str
    colour: str
    first: tuple[int, int, int]
    second: tuple[int, int, int]
    period: int  # pixels; of stripes, checks and dots
    salt: int  # of the grain


def overlap(a: Box, b: Box) -> float:
    """Area that two boxes share, as a part of the smaller one's area: 0 to 1."""
    width, height = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if width <= 0 or height <= 0:
        return 0.0
    return width * height / min((a[2] - a[0]) * (a[3] - a[1]), (b[2] - b[0]) * (b[3] - b[1]))


def sizes(side: int) -> list[int]:
    """LEVELS sizes from the smallest to the largest of SIZES, each the same factor above the last. Pixels."""
    low, high = SIZES[-1][0] * side, SIZES[0][1] * side
    return [round(low * (high / low) ** (level / (LEVELS - 1))) for level in range(LEVELS)]


def shrink(drawings: torch.Tensor, size: int) -> torch.Tensor:
    """Drawings at another size, colours premultiplied by opacity. (style, concept, 4, S, S) uint8 → (…, size, size)."""
    styles, concepts = drawings.shape[:2]
    flat = drawings.flatten(0, 1).int()
    opacity = flat[:, 3:]
    flat = torch.cat([(flat[:, :3] * opacity + 127) // 255, opacity], dim=1).to(torch.uint8)
    small = F.interpolate(flat, size=(size, size), mode="bilinear", antialias=True)  # (style·concept, 4, size, size)
    small[:, :3] = torch.minimum(
        small[:, :3], small[:, 3:]
    )  # rounding must not make a colour brighter than its opacity
    return small.unflatten(0, (styles, concepts))


def bounds(opacity: torch.Tensor) -> list[list[Box]]:
    """The smallest box around what is opaque (over half). (style, concept, s, s) uint8 → [style][concept] boxes."""
    most = opacity.amax((-2, -1), keepdim=True)  # of a hair-thin drawing, shrunk, nothing is over half opaque
    opaque = opacity > torch.where(most > 127, 127, most // 2)

    def ends(lines: torch.Tensor) -> torch.Tensor:  # (style, concept, s) bool → first and last + 1: (style, concept, 2)
        size = lines.shape[-1]
        first = lines.int().argmax(-1)
        last = size - lines.flip(-1).int().argmax(-1)
        return torch.stack([first, last], dim=-1)

    columns, rows = ends(opaque.any(-2)), ends(opaque.any(-1))
    boxes = torch.stack([columns[..., 0], rows[..., 0], columns[..., 1], rows[..., 1]], dim=-1)
    return [[tuple(box) for box in style] for style in boxes.tolist()]


def visible_share(drawings: torch.Tensor, shades: Sequence[tuple[int, int, int]], clear: int = CLEAR) -> torch.Tensor:
    """The share of a drawing's opaque pixels that differ clearly from every shade of a background.

    Args:
        drawings: (…, 4, s, s) uint8, premultiplied.
        shades: red, green and blue, 0 to 255.
        clear: the distance from which on two colours differ clearly.

    Returns:
        (…) float, 0 to 1.
    """
    colour, opacity = drawings[..., :3, :, :].int(), drawings[..., 3:, :, :].int()
    seen = opaque = opacity[..., 0, :, :] > 127
    weights = torch.tensor([2, 4, 3])[:, None, None]  # the eye tells shades of green best; integers are exact everywhere
    for shade in shades:
        change = colour - (torch.tensor(shade)[:, None, None] * opacity + 127) // 255  # by which the drawing changes the pixel
        seen = seen & ((change.square() * weights).sum(-3) >= clear**2)
    return seen.sum((-2, -1)) / opaque.sum((-2, -1)).clamp(min=1)


def hidden_on(drawings: torch.Tensor) -> dict[tuple[int, int], set[str]]:
    """The background colours on which a drawing does not stand out at every brightness, by (style, concept).

    drawings: (style, concept, 4, S, S) uint8, not premultiplied.
    """
    small = shrink(drawings, 18).int()  # as small as on a canvas of 64 pixels, where thin outlines help least
    colour, opacity = small[:, :, :3], small[:, :, 3:]
    gains = [round(256 * (GAIN[0] + step * (GAIN[1] - GAIN[0]) / 5)) for step in range(6)]
    lit = [torch.cat([(colour * gain >> 8).minimum(opacity), opacity], dim=2) for gain in gains]
    found: dict[tuple[int, int], set[str]] = {}
    for name, shade in COLOURS.items():
        shades = [shade, tuple(int(value * sum(SHADE) / 2) for value in shade)]
        margin = 30  # a scene's shades and brightness lie between those that are tried
        share = torch.stack([visible_share(each, shades, CLEAR + margin) for each in lit]).amin(0)  # (style, concept)
        for place in (share < VISIBLE).nonzero().tolist():
            found.setdefault(tuple(place), set()).add(name)
    return found
