"""What interactive figures share: controls, a script, data, and a still picture for where no kernel runs."""

import base64
import html
import io
import math
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image as Picture

from lcl.config import need
from lcl.course.plots import Chart, as_pixels, to_data_url, to_png

anywidget, ipywidgets, traitlets = (need(module, "course") for module in ("anywidget", "ipywidgets", "traitlets"))

LABELLED = {"description_width": "initial"}


class Explorer(ipywidgets.VBox):
    """Controls above a picture that the kernel draws again when a control moves.

    Where no kernel runs (GitHub, a saved page), the first picture is shown.

    draw: a pure function from the controls' values, by name, to a Chart; its errors are shown in a label.
    """

    def __init__(self, draw: Callable[..., Chart], **controls: ipywidgets.Widget):
        self._draw, self._controls, self._still = draw, controls, Chart(4, 1, "Nothing could be drawn.")
        self.picture, self.problem = ipywidgets.HTML(), ipywidgets.HTML()  # a Label would read $ as mathematics
        super().__init__([*controls.values(), self.problem, self.picture])
        for control in controls.values():
            control.observe(self._redraw, "value")
        self._redraw()

    def _redraw(self, change: dict | None = None) -> None:
        try:
            chart = self._draw(**{name: control.value for name, control in self._controls.items()})
        except Exception as error:  # the reader should see any error, not an unchanged picture
            self.problem.value = f"This setting does not work: {html.escape(str(error))}"
            return
        self.problem.value = ""
        self.picture.value = f'<img alt="{html.escape(chart.alt)}" src="{to_data_url(chart)}" style="max-width: 100%">'
        self._still = chart

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return _with_still(super()._repr_mimebundle_(**kwargs), self._still)


class Exhibit(anywidget.AnyWidget):
    """An interactive figure that needs no kernel: its script shows errors, works by mouse and keyboard, and describes in words.

    Args:
        label: for screen readers.
        data: all that the script shows, JSON-able.
        still: a picture for where no kernel runs.
    """

    _css = (Path(__file__).parent / "common.css").read_text(encoding="utf-8")
    label = traitlets.Unicode().tag(sync=True)
    data = traitlets.Dict().tag(sync=True)

    def __init__(self, label: str, data: dict, still: Chart):
        super().__init__(label=label, data=data)
        self.still = still

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return _with_still(super()._repr_mimebundle_(**kwargs), self.still)


def _with_still(bundle: dict | tuple[dict, dict], still: Chart) -> tuple[dict, dict]:
    """A widget's bundle with the picture that replaces it where no kernel runs."""
    bundle = bundle[0] if isinstance(bundle, tuple) else bundle
    picture = base64.b64encode(to_png(still)).decode()
    return bundle | {"image/png": picture, "text/plain": still.alt}, {"image/png": {"alt": still.alt}}


def script(name: str) -> str:
    """The JavaScript module of a widget: the shared part, then its own file."""
    return "".join((Path(__file__).parent / f"{part}.js").read_text(encoding="utf-8") for part in ("common", name))


def slider(description: str, low: float, high: float, value: float, step: float | None = None) -> ipywidgets.Widget:
    """A labelled slider: of integers if all its limits are integers, else of floats."""
    whole = all(isinstance(number, int) for number in (low, high, value)) and step is None
    kind = ipywidgets.IntSlider if whole else ipywidgets.FloatSlider
    return kind(value, min=low, max=high, step=step or (1 if whole else (high - low) / 100), description=description,
                continuous_update=False, style=LABELLED, layout={"width": "32em"})  # fmt: skip


def stops(description: str, values: list, value: object) -> ipywidgets.SelectionSlider:
    """A labelled slider over these values only: for what is ordered but unevenly spaced."""
    return ipywidgets.SelectionSlider(options=values, value=value, description=description, continuous_update=False,
                                      style=LABELLED, layout={"width": "32em"})  # fmt: skip


def dropdown(description: str, options: list) -> ipywidgets.Dropdown:
    """A labelled choice. options: values, or (label, value) pairs. By keyboard: space, arrows, enter."""
    return ipywidgets.Dropdown(options=options, description=description, style=LABELLED)


def to_picture(image: torch.Tensor) -> str:
    """A lossless data URL of an image, (3, H, W) uint8."""
    return _data_url(image, "PNG")


def atlas(images: torch.Tensor, side: int | None = None) -> dict:
    """Many images in one JPEG: {"src": data URL, "columns": int}. images: (N, 3, H, W) uint8; side: pixels of each."""
    if side and side != images.shape[-1]:
        images = F.interpolate(images.float(), size=(side, side), mode="bilinear", antialias=True).round().to(torch.uint8)
    columns, side = math.ceil(math.sqrt(len(images))), images.shape[-1]
    rows = math.ceil(len(images) / columns)
    sheet = torch.full((rows * columns, 3, side, side), 255, dtype=torch.uint8)
    sheet[: len(images)] = images
    sheet = sheet.view(rows, columns, 3, side, side).permute(2, 0, 3, 1, 4).reshape(3, rows * side, columns * side)
    return {"src": _data_url(sheet, "JPEG", quality=85), "columns": columns}


def _data_url(image: torch.Tensor, form: str, **options) -> str:
    buffer = io.BytesIO()
    Picture.fromarray(as_pixels(image)).save(buffer, form, **options)
    return f"data:image/{form.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}"
