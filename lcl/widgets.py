"""Controls over the pictures of `plots`: a thin layer, with the logic left in pure functions."""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Callable, Sequence

import ipywidgets
import torch
from matplotlib.figure import Figure
from PIL import Image as Picture

from lcl import storage
from lcl.plots import BLUE, RED, SKY, YELLOW, as_pixels, to_data_url, to_png, word_lines


class Explorer(ipywidgets.VBox):
    """Controls above a picture; the picture is drawn again when a control moves.

    draw: a pure function from the controls' values, by name, to a Figure. alt: says in words what the picture shows.
    An error in `draw` is shown in a visible label. Where no kernel runs (GitHub, a saved page), the first picture is
    shown as it is.
    """

    def __init__(self, draw: Callable[..., Figure], alt: str, **controls: ipywidgets.Widget):
        self._draw, self._alt, self._controls = draw, alt, controls
        self.picture, self.problem = ipywidgets.HTML(), ipywidgets.Label()
        super().__init__([*controls.values(), self.problem, self.picture])
        for control in controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    def _redraw(self, change: dict | None = None) -> None:
        try:
            figure = self._draw(**{name: control.value for name, control in self._controls.items()})
        except Exception as error:  # whatever it is, the reader should see it, not an unchanged picture
            self.problem.value = f"This setting does not work: {error}"
            return
        self.problem.value = ""
        self.picture.value = f'<img alt="{html.escape(self._alt)}" src="{to_data_url(figure)}" style="max-width: 100%">'
        self._still = to_png(figure)

    def _repr_mimebundle_(self, **kwargs) -> dict:
        bundle = super()._repr_mimebundle_(**kwargs)
        return bundle | {"image/png": base64.b64encode(self._still).decode(), "text/plain": self._alt}


def slider(description: str, low: float, high: float, value: float, step: float | None = None) -> ipywidgets.Widget:
    """A labelled slider: whole numbers where all its limits are, else fractions."""
    whole = all(isinstance(number, int) for number in (low, high, value)) and step is None
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    wide = {"style": {"description_width": "initial"}, "layout": {"width": "32em"}}
    return kind(value, min=low, max=high, step=step or (1 if whole else (high - low) / 100), description=description,
                continuous_update=False, **wide)  # fmt: skip


def dropdown(description: str, options: list) -> ipywidgets.Dropdown:
    """A labelled choice. options: values, or (label, value) pairs."""
    return ipywidgets.Dropdown(options=options, description=description, style={"description_width": "initial"})


class WordHover:
    """A scene and its caption: point at a word, or tab to it, and the patches that it is matched to light up.

    One piece of SVG and CSS: it needs no kernel and no script. Committed notebooks keep its still picture alone, for web
    viewers strip the style that makes it hover.

    image: (3, H, W) uint8. words: of the caption. plan: (m, n), which share of every word each patch has, n a square
    number. right: for every word the boxes (left, top, right, bottom) of what it names, drawn dashed; () where nothing.
    """

    def __init__(self, image: torch.Tensor, words: Sequence[str], plan: torch.Tensor, right: Sequence[Sequence] = ()):
        self._html = _hover_svg(image, words, plan, right or [()] * len(words))
        best = [int(row.argmax()) if row.sum() > 0.5 else -1 for row in plan]
        self._still = to_png(word_lines(image, words, best, plan.shape[1]))
        self._text = "; ".join(f"{word}: {'dustbin' if at < 0 else f'patch {at}'}" for word, at in zip(words, best, strict=True))

    def _repr_mimebundle_(self, **kwargs) -> dict:
        return {
            "text/html": self._html, "image/png": base64.b64encode(self._still).decode(), "text/plain": self._text
        }  # fmt: skip


def _hover_svg(image: torch.Tensor, words: Sequence[str], plan: torch.Tensor, right: Sequence[Sequence]) -> str:
    side, rows = image.shape[-1], math.isqrt(plan.shape[1])
    large, step = 320, 320 / rows
    buffer = io.BytesIO()
    Picture.fromarray(as_pixels(image)).resize((large, large), Picture.Resampling.NEAREST).save(buffer, "PNG")
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    name = f"hover-{storage.fingerprint([list(words), plan.tolist()])}"  # so that two on one page keep apart
    parts, line = [], 26
    for number, (word, shares, boxes) in enumerate(zip(words, plan.tolist(), right, strict=True)):
        lit = "".join(
            f'<rect x="{place % rows * step}" y="{place // rows * step}" width="{step}" height="{step}" '
            f'fill="{YELLOW}" fill-opacity="{0.75 * share:.3f}" stroke="{RED}" stroke-width="3" stroke-opacity="{share:.3f}"/>'
            for place, share in enumerate(shares) if share > 0.02
        )  # fmt: skip
        for left, top, end, bottom in boxes:
            scale = large / side
            lit += (
                f'<rect x="{left * scale}" y="{top * scale}" width="{(end - left) * scale}" height="{(bottom - top) * scale}" '
                f'fill="none" stroke="{BLUE}" stroke-width="2" stroke-dasharray="6 4"/>'
            )
        binned = 1 - sum(shares)
        note = f" – dustbin {binned:.0%}" if binned > 0.02 else ""
        parts.append(
            f'<g class="word" tabindex="0" role="img" aria-label="{html.escape(word)}"><rect x="{large + 10}" '
            f'y="{number * line + 4}" width="240" height="{line}" class="back"/><text x="{large + 18}" '
            f'y="{number * line + 22}">{html.escape(word)}<tspan class="note">{note}</tspan></text><g class="lit">{lit}</g></g>'
        )
    height = max(large, len(words) * line + 12)
    style = (
        f"#{name} .lit, #{name} .note {{ visibility: hidden }} #{name} .back {{ fill: none; pointer-events: all }} "
        f"#{name} .word:hover .lit, #{name} .word:focus .lit, #{name} .word:hover .note, #{name} .word:focus .note "
        f"{{ visibility: visible }} #{name} .word:hover .back, #{name} .word:focus .back {{ fill: {SKY}; fill-opacity: .35 }} "
        f"#{name} text {{ font: 16px sans-serif; fill: currentColor }} #{name} .word {{ outline: none; cursor: pointer }}"
    )
    return (
        f'<svg id="{name}" viewBox="0 0 {large + 260} {height}" style="max-width: 44em; width: 100%" role="group" '
        f'aria-label="A scene; its words light up the patches that they are matched to."><style>{style}</style>'
        f'<image href="{source}" width="{large}" height="{large}"/>{"".join(parts)}</svg>'
    )
