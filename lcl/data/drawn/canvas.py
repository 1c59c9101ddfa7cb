"""A batch of scenes as numbers, and its pixels: drawn in a number of operations that does not depend on the batch.

Integer arithmetic only, so that pixels are the same in every batch, process and device. Everything that the shape of a tensor
depends on is known before the first operation, so a GPU is never waited for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch

from lcl.data.drawn.captions import BACKGROUNDS
from lcl.data.drawn.drawing import SIZES, Background, SceneObject
from lcl.machine import to_device

OBJECT = np.dtype(
    [("drawing", "<u4"), ("left", "<u2"), ("top", "<u2"), ("gain", "<u2"), ("level", "u1"), ("flipped", "u1")]
)
PACKED = np.dtype([
    ("objects", OBJECT, len(SIZES)), ("salt", "<u4"), ("period", "<u2"), ("first", "u1", 3), ("second", "u1", 3),
    ("kind", "u1"), ("count", "u1"),
])  # fmt: skip
"""A scene in 62 bytes, all that its pixels depend on. `drawing`: the place of style and class in a data set's list of drawings;
`kind`: that of the background in BACKGROUNDS; `count`: of objects, the others being zero."""

KINDS = {kind: number for number, kind in enumerate(BACKGROUNDS)}


class Canvas:
    """Draws the scenes of a data set.

    Args:
        drawings: (style, concept, 4, s, s) uint8, premultiplied, for every level.
        side: of the images in pixels.
    """

    def __init__(self, drawings: Sequence[torch.Tensor], side: int):
        self.side, self.sizes = side, np.array([each.shape[-1] for each in drawings])
        drawn, firsts = pack(drawings)
        self._firsts = np.array(firsts)  # the first row of every level
        self._begins = np.append(drawn.lines[:, 0].numpy(), len(drawn.pixels))  # the first pixel of every row
        self._drawings = {"cpu": drawn}  # by device

    def draw(self, scenes: np.ndarray, device: str) -> torch.Tensor:
        """Packed scenes, (B,) of PACKED, as images on a device: (B, 3, H, W) uint8."""
        if device not in self._drawings:
            self._drawings[device] = Drawings(*(part.to(device) for part in self._drawings["cpu"]))
        canvas = draw_backgrounds(scenes, self.side, device)  # (B, H, W) int32
        layer, scene = (
            scenes["count"] > np.arange(len(SIZES))[:, None]
        ).nonzero()  # a scene's objects, the first layer first
        objects = scenes["objects"][scene, layer]
        size, to = self.sizes[objects["level"]], (scene * self.side + objects["top"]) * self.side + objects["left"]
        first = self._firsts[objects["level"]] + objects["drawing"] * size
        columns = [to, first, size, objects["flipped"], objects["gain"]]
        placed = to_device(torch.from_numpy(np.stack(columns, axis=1).astype(np.int64)), device)  # one transfer for all layers
        counts = np.bincount(layer, minlength=len(SIZES))
        pixels = self._begins[first + size] - self._begins[first]
        totals = (np.bincount(layer, numbers, len(SIZES)).astype(int).tolist() for numbers in (size, pixels))
        for each, *total in zip(placed.split(counts.tolist()), *totals, strict=True):
            if len(each):
                paste(canvas.view(-1), self._drawings[device], each, self.side, *total)
        return torch.stack([canvas >> shift & 255 for shift in (0, 8, 16)], dim=1).to(torch.uint8)


def describe(background: Background, objects: Sequence[SceneObject], drawings: Sequence[int]) -> tuple:
    """A scene as a row of PACKED. drawings: of every object, its place in the data set's list."""
    placed = [
        (drawing, each.left, each.top, each.gain, each.level, each.flipped)
        for drawing, each in zip(drawings, objects, strict=True)
    ]
    empty = [(0,) * len(OBJECT)] * (len(SIZES) - len(placed))
    b = background
    return placed + empty, b.salt, b.period, b.first, b.second, KINDS[b.kind], len(placed)


def draw_backgrounds(scenes: np.ndarray, side: int, device: str) -> torch.Tensor:
    """The backgrounds of packed scenes, each pixel one of two shades or a mixture of them.

    Args:
        scenes: (B,) of PACKED.
        side: of the images.
        device: where they are drawn.

    Returns:
        (B, H, W) int32, packed as in `Drawings`, without opacity.
    """
    parts = [scenes["first"], scenes["second"], scenes["period"][:, None], scenes["salt"][:, None]]
    kinds = scenes["kind"].argsort(kind="stable")[:, None]  # the rows of every kind, one kind after another
    numbers = to_device(torch.from_numpy(np.concatenate([*parts, kinds], axis=1, dtype=np.int32)), device)  # the only transfer
    first, second, period, salt, kinds = numbers.T[..., None, None].split(
        [3, 3, 1, 1, 1]
    )  # (3, B, 1, 1) and (1, B, 1, 1)
    steps = torch.arange(side, dtype=torch.int32, device=device)
    y, x = steps[:, None], steps  # (H, 1), (W,)
    canvas = packed(first).repeat(1, side, side)
    counts = np.bincount(scenes["kind"], minlength=len(BACKGROUNDS)).tolist()
    for kind, rows in zip(BACKGROUNDS, kinds.flatten().split(counts), strict=True):
        if kind == "solid" or not len(rows):
            continue
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


def paste(canvas: torch.Tensor, drawings: Drawings, placed: torch.Tensor, side: int, rows: int, pixels: int) -> None:
    """Draw g objects onto their scenes, at most one a scene, in a number of operations that does not depend on g.

    Args:
        canvas: (B·H·W) int32, pixels without opacity, changed in place.
        drawings: on the device of the canvas.
        placed: (g, 5) int64: where the object's first pixel lies on the canvas, its first row in `drawings`, its size, whether it
            is flipped, and its gain.
        side: H = W.
        rows, pixels: how many rows and pixels the objects have together; a GPU would have to be waited for to know them.
    """
    size = placed[:, 2]
    row = torch.arange(len(size), device=size.device).repeat_interleave(size, output_size=rows)  # (r,): a row's object
    y = torch.arange(rows, device=size.device) - (size.cumsum(0) - size)[row]
    to, first, size, flipped, gain = placed[row].T
    source, length, left_out = drawings.lines[first + y].T
    step = 1 - 2 * flipped
    to = to + y * side + torch.where(flipped == 1, size - 1 - left_out, left_out)
    number = length.cumsum(0) - length  # of the row's first pixel among all that are drawn
    lines = torch.stack([source - number, to - step * number, step, gain], dim=1).int()
    line = lines.repeat_interleave(length, dim=0, output_size=pixels)  # (p, 4): of every pixel
    number = torch.arange(pixels, dtype=torch.int32, device=line.device)
    drawn, to, gain = drawings.pixels[line[:, 0] + number], line[:, 1] + line[:, 2] * number, line[:, 3]
    behind, opacity = canvas[to], drawn >> 24 & 255
    blended = torch.zeros_like(behind)
    for shift in (0, 8, 16):
        colour = ((drawn >> shift & 255) * gain >> 8).minimum(opacity)  # as bright as its opacity allows
        through = (behind >> shift & 255) * (255 - opacity) + 127
        blended += colour + (through + 1 + (through >> 8) >> 8) << shift  # the quotient by 255, exact for these numbers
    canvas[to] = blended
