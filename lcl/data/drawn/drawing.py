"""Drawing scenes with integer arithmetic only, so that pixels are the same in every batch, process and device."""

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
    smaller = min((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return max(width, 0) * max(height, 0) / smaller


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


def draw_backgrounds(backgrounds: Sequence[Background], side: int, device: str) -> torch.Tensor:
    """(B, 3, H, W) int32: for every pixel a mixture of the background's two shades."""
    numbers = torch.tensor([(*g.first, *g.second, g.period, g.salt) for g in backgrounds], dtype=torch.int32, device=device)
    first, second, period, salt = numbers.split([3, 3, 1, 1], dim=1)
    steps = torch.arange(side, dtype=torch.int32, device=device)
    y, x = steps[None, :, None], steps[None, None, :]  # (1, H, 1), (1, 1, W)
    mixture = torch.zeros(len(backgrounds), side, side, dtype=torch.int32, device=device)  # 0: first, 256: second
    for kind in {background.kind for background in backgrounds} - {"solid"}:
        rows = torch.tensor([row for row, background in enumerate(backgrounds) if background.kind == kind], device=device)
        p, s = period[rows][:, :, None], salt[rows][:, :, None]  # (g, 1, 1)
        if kind == "gradient":
            pattern = ((x + y) * 128 // side).expand(len(rows), -1, -1)
        elif kind == "stripes":
            pattern = (x + y) // p % 2 * 256
        elif kind == "checks":
            pattern = (x // p + y // p) % 2 * 256
        elif kind == "dots":
            pattern = (((x % p) * 2 - p) ** 2 + ((y % p) * 2 - p) ** 2 < p * p // 2) * 256
        else:  # grain: a hash of place and salt
            mixed = (x // 2 * 374761 + y // 2 * 668265 + s * 7919) & 0xFFFFFF
            pattern = (mixed ^ (mixed >> 7) ^ (mixed >> 13)) & 255
        mixture[rows] = pattern.int()
    mixture = mixture[:, None]  # (B, 1, H, W)
    return (first[:, :, None, None] * (256 - mixture) + second[:, :, None, None] * mixture) >> 8


def paste(
    flat: torch.Tensor, drawings: torch.Tensor, placed: Sequence[tuple[int, SceneObject]], concepts: Sequence[int], side: int
) -> None:
    """Draw g objects of one size onto their scenes.

    Args:
        flat: the canvas, (B·3·H·W) int32, changed in place.
        drawings: (style, concept, 4, s, s) uint8, premultiplied.
        placed: the scene's number and the object, g times; at most one object a scene.
        concepts: the rows of their classes in `drawings`.
        side: H = W.
    """
    size, device = drawings.shape[-1], flat.device
    numbers = torch.tensor(
        [(row, o.style, concept, o.left, o.top, o.flipped, o.gain) for (row, o), concept in zip(placed, concepts, strict=True)],
        device=device,
    )  # (g, 7)
    row, style, concept, left, top, flipped, gain = numbers.T
    drawn = drawings[style, concept].int()  # (g, 4, s, s), premultiplied
    drawn = torch.where(flipped.bool()[:, None, None, None], drawn.flip(-1), drawn)
    steps = torch.arange(size, device=device)
    inside = steps[:, None] * side + steps  # (s, s)
    channels = torch.arange(3, device=device)[:, None, None] * side * side
    where = (row * 3 * side * side + top * side + left)[:, None, None, None] + channels + inside  # (g, 3, s, s)
    colour, opacity = drawn[:, :3] * gain.int()[:, None, None, None] >> 8, drawn[:, 3:]
    colour = torch.minimum(colour, opacity)  # as bright as its opacity allows
    behind = flat[where]
    flat[where] = colour + (behind * (255 - opacity) + 127) // 255
