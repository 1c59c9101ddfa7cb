"""Colour names as people use them: of a pixel, and of a whole drawing."""

from functools import cache

import torch

COLOURS = {
    "red": (214, 48, 40), "orange": (240, 140, 40), "yellow": (250, 214, 60), "green": (80, 160, 65),
    "blue": (60, 130, 215), "purple": (140, 80, 185), "pink": (245, 150, 190), "brown": (135, 85, 50),
    "grey": (140, 145, 150), "black": (25, 25, 28), "white": (248, 248, 248),
}  # fmt: skip
"""Colour names that captions use, each with the sRGB value that stands for it."""

# People give one name to many shades; these are near a border, where the nearest of COLOURS would be another name.
SHADES = {
    "green": [(112, 122, 54), (150, 160, 80), (45, 85, 45), (160, 210, 110)],
    "brown": [(100, 60, 40), (170, 115, 75), (80, 55, 45)],
    "orange": [(205, 120, 50)],
    "red": [(150, 30, 35), (235, 85, 75)],
    "yellow": [(225, 190, 70), (250, 235, 150)],
    "blue": [(35, 60, 120), (150, 205, 245), (90, 120, 150)],
    "purple": [(95, 60, 110), (190, 150, 220)],
    "pink": [(220, 110, 160), (250, 200, 205)],
    "grey": [(85, 90, 95), (180, 185, 190)],
    "black": [(45, 48, 52)],
    "white": [(225, 228, 232)],
}


def colour_name(rgb: torch.Tensor) -> torch.Tensor:
    """Index into COLOURS of the nearest named colour or shade of it. rgb: (..., 3), 0 to 255 → (...) int64."""
    r, g, b = (rgb.long() >> 3).unbind(-1)
    return _colour_table()[r, g, b]


@cache
def _colour_table() -> torch.Tensor:
    """The name of every colour, in steps of 8: (32, 32, 32) int64.

    Nearest in hue, saturation and value on a cone, where a dark or pale colour is closer to black or white than to
    its own pure hue, as people name colours.
    """

    def on_cone(rgb: torch.Tensor) -> torch.Tensor:
        rgb = rgb.float() / 255
        value, chroma = rgb.amax(-1), rgb.amax(-1) - rgb.amin(-1)
        centred = rgb - rgb.mean(-1, keepdim=True)  # direction: hue; length: chroma
        direction = torch.nn.functional.normalize(centred, dim=-1)
        return torch.cat([direction * chroma[..., None] * 1.2, 0.7 * value[..., None]], dim=-1)  # (..., 4)

    known = [(number, shade) for number, name in enumerate(COLOURS) for shade in [COLOURS[name], *SHADES.get(name, ())]]
    numbers, shades = torch.tensor([number for number, _ in known]), torch.tensor([shade for _, shade in known])
    steps = torch.arange(32) * 8 + 4
    every = torch.stack(torch.meshgrid(steps, steps, steps, indexing="ij"), dim=-1)  # (32, 32, 32, 3)
    return numbers[(on_cone(every)[..., None, :] - on_cone(shades)).square().sum(-1).argmin(-1)]


def main_colour(drawing: torch.Tensor, share: float = 0.6) -> str | None:
    """The colour that people would give a drawing, or None if it has no single one.

    drawing: (4, S, S) uint8. A colour counts if it covers at least `share` of what is drawn, outlines (near black)
    aside, and still leads when the drawing is shrunk (thin lines mix with their neighbours) or its brightness changes.
    """
    opacity = drawing[3:].float()
    premultiplied = torch.cat([drawing[:3].float() * opacity / 255, opacity])[None]
    found = set()
    for part in (1.0, 0.5, 0.28):
        size = round(part * drawing.shape[-1])
        small = torch.nn.functional.interpolate(premultiplied, size=(size, size), mode="bilinear", antialias=True)[0]
        rgb = small[:3, small[3] > 250].T  # (opaque pixels, 3)
        for gain in (0.85, 0.9, 0.95, 1.0, 1.05, 1.1):
            counts = torch.bincount(colour_name((rgb * gain).clamp(max=255)), minlength=len(COLOURS))
            black = list(COLOURS).index("black")
            if counts[black] < 0.75 * counts.sum():
                counts[black] = 0
            if counts.sum() == 0 or counts.max() < (share if part == 1 else 0.5) * counts.sum():
                return None
            found.add(list(COLOURS)[int(counts.argmax())])
            if len(found) > 1:
                return None
    return found.pop()
