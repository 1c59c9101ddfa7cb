"""Drawing scenes with integer arithmetic only, so that pixels are the same in every batch, process and device."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

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


def draw_backgrounds(backgrounds: Sequence[Background], side: int, device: str) -> torch.Tensor:
    """(B, H, W) int32: each pixel one of the background's two shades or a mixture, packed as in `Drawings`, without opacity."""
    numbers = torch.tensor([(*g.first, *g.second, g.period, g.salt) for g in backgrounds], dtype=torch.int32, device=device)
    first, second, period, salt = numbers.T[..., None, None].split([3, 3, 1, 1])  # (3, B, 1, 1) and (1, B, 1, 1)
    steps = torch.arange(side, dtype=torch.int32, device=device)
    y, x = steps[:, None], steps  # (H, 1), (W,)
    canvas = packed(first).repeat(1, side, side)
    for kind in {background.kind for background in backgrounds} - {"solid"}:
        rows = torch.tensor([row for row, background in enumerate(backgrounds) if background.kind == kind], device=device)
        a, b, p, s = first[:, rows], second[:, rows], period[0, rows], salt[0, rows]  # (3, g, 1, 1), (g, 1, 1)
        if kind in ("gradient", "grain"):
            if kind == "gradient":
                mixture = (x + y) * 128 // side  # (H, W); 0: first, 256: second
            else:  # a hash of place and salt
                mixed = (x // 2 * 374761 + y // 2 * 668265 + s * 7919) & 0xFFFFFF
                mixture = (mixed ^ (mixed >> 7) ^ (mixed >> 13)) & 255  # (g, H, W)
            canvas[rows] = packed([low + ((high - low) * mixture >> 8) for low, high in zip(a, b, strict=True)])
        else:
            if kind == "stripes":
                pattern = (x + y) // p % 2
            elif kind == "checks":
                pattern = (x // p + y // p) % 2
            else:  # dots
                pattern = ((x % p) * 2 - p) ** 2 + ((y % p) * 2 - p) ** 2 < p * p // 2
            canvas[rows] = torch.where(pattern.bool(), packed(b), packed(a))
    return canvas


def packed(channels: Iterable[torch.Tensor]) -> torch.Tensor:
    """Channels of 0 to 255, int32, as one integer: the first in the lowest 8 bits."""
    return sum(channel << 8 * number for number, channel in enumerate(channels))


class Drawings(NamedTuple):
    """All drawings in all sizes, without the transparent ends of their rows of pixels.

    A pixel is an integer: red, green, blue (premultiplied) and opacity, 8 bits each, from the lowest on.

    Attributes:
        pixels: (P,) int32, row after row.
        lines: (R, 3) int64: for every row, where it begins in `pixels`, how many pixels it has, and how many are left out before.
    """

    pixels: torch.Tensor
    lines: torch.Tensor


def pack(drawings: Sequence[torch.Tensor]) -> tuple[Drawings, list[int]]:
    """Drawings of every size, premultiplied, (style, concept, 4, s, s) uint8 each, as one list of rows.

    Returns:
        The rows by size, style, concept and height; and where the rows of each size begin.
    """
    pixels, bounds, starts = [], [], [0]
    for each in drawings:
        whole = packed(each.int().unbind(2)).flatten(0, -2)  # (r, s) int32
        seen, side = whole >> 24 != 0, whole.shape[1]
        first = torch.where(seen.any(1), seen.int().argmax(1), side)  # (r,)
        last = torch.where(seen.any(1), side - seen.flip(1).int().argmax(1), side)
        x = torch.arange(side)
        pixels.append(whole[(first[:, None] <= x) & (x < last[:, None])])
        bounds.append(torch.stack([last - first, first], dim=1))
        starts.append(starts[-1] + len(whole))
    lines = torch.cat(bounds)
    begin = lines[:, :1].cumsum(0) - lines[:, :1]
    return Drawings(torch.cat(pixels), torch.cat([begin, lines], dim=1)), starts


def paste(canvas: torch.Tensor, drawings: Drawings, placed: torch.Tensor, side: int) -> None:
    """Draw g objects onto their scenes, at most one a scene, in a number of operations that does not depend on g.

    Args:
        canvas: (B·H·W) int32, pixels without opacity, changed in place.
        drawings: on the device of the canvas.
        placed: (g, 5) int64: where the object's first pixel lies on the canvas, its first row in `drawings`, its size, whether it
            is flipped, and its gain.
        side: H = W.
    """
    size = placed[:, 2]
    row = torch.arange(len(size), device=size.device).repeat_interleave(size)  # (r,): the object of every row of pixels
    y = torch.arange(len(row), device=size.device) - (size.cumsum(0) - size)[row]
    to, first, size, flipped, gain = placed[row].T
    source, length, left_out = drawings.lines[first + y].T
    step = 1 - 2 * flipped
    to = to + y * side + torch.where(flipped == 1, size - 1 - left_out, left_out)
    number = length.cumsum(0) - length  # of the row's first pixel among all that are drawn
    lines = torch.stack([source - number, to - step * number, step, gain], dim=1).int()
    line = lines.repeat_interleave(length, dim=0)  # (p, 4): of every pixel
    number = torch.arange(len(line), dtype=torch.int32, device=line.device)
    drawn, to, gain = drawings.pixels[line[:, 0] + number], line[:, 1] + line[:, 2] * number, line[:, 3]
    behind, opacity = canvas[to], drawn >> 24 & 255
    blended = torch.zeros_like(behind)
    for shift in (0, 8, 16):
        colour = ((drawn >> shift & 255) * gain >> 8).minimum(opacity)  # as bright as its opacity allows
        through = (behind >> shift & 255) * (255 - opacity) + 127
        blended += colour + (through + 1 + (through >> 8) >> 8) << shift  # the quotient by 255, exact for these numbers
    canvas[to] = blended
