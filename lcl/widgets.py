"""Controls over the pictures of `plots`: a thin layer, with the logic left in pure functions."""

from __future__ import annotations

import base64
import html
from collections.abc import Callable

import ipywidgets
from matplotlib.figure import Figure

from lcl.plots import to_data_url, to_png


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
