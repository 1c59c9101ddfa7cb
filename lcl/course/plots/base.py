"""What all figures share: colours, figures with alt text, PNG.

The colours are Okabe and Ito's, which colour-blind people can tell apart; colour maps are viridis.
"""

import base64
import io
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.ticker import FuncFormatter, LogFormatter, LogLocator, NullFormatter

from lcl.words import printable

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, YELLOW, GREY = (
    "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#F0E442", "#666666",
)  # fmt: skip
CYCLE = (BLUE, ORANGE, GREEN, RED, PURPLE, SKY)
MARKERS = "os^Dv<>PX"
SMALLEST, WIDEST = 9, 9  # points of type; inches of a figure, which a page of 900 pixels then shows in full size


class Chart(Figure):
    """A figure with alt text.

    Args:
        width, height: inches.
        alt: one or two sentences that say what the figure shows; they go wherever its picture goes.
    """

    def __init__(self, width: float, height: float, alt: str):
        super().__init__(figsize=(width, height), layout="constrained")
        self.alt = printable(alt)

    def draw(self, renderer) -> None:
        """Draw every text as it is: a `$` of a caption begins no formula. Only the powers of logarithmic axes are formulas."""
        for text in self.findobj(Text):
            text.set_parse_math(False)
        for axis in self.findobj(Axis):
            if isinstance(axis.get_major_formatter(), LogFormatter):
                for power in axis.get_ticklabels(which="both"):
                    power.set_parse_math(True)
        super().draw(renderer)

    def _repr_mimebundle_(self, **kwargs) -> tuple[dict, dict]:
        return {"text/plain": self.alt}, {"image/png": {"alt": self.alt}}

    def _repr_png_(self) -> bytes:
        return to_png(self)


def legend_below(figure: Chart, axes: Axes, columns: int = 3) -> None:
    """Name what the axes show below them, where no curve can run through the names."""
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=min(columns, len(names)), frameon=False, fontsize=SMALLEST)


def plain_numbers(axis: Axis, multiples: Sequence[float] = (1, 3)) -> None:
    """Label a logarithmic axis with plain numbers, at these multiples of the powers of ten."""
    axis.set_major_locator(LogLocator(subs=multiples))
    axis.set_major_formatter(FuncFormatter(lambda value, place: f"{value:,.10g}"))
    axis.set_minor_formatter(NullFormatter())


def to_png(figure: Figure, dpi: int = 100) -> bytes:
    """A figure as PNG."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=dpi)
    return buffer.getvalue()


def to_data_url(figure: Figure) -> str:
    """A figure as the `src` of an HTML image."""
    return "data:image/png;base64," + base64.b64encode(to_png(figure)).decode()


def as_pixels(image: torch.Tensor) -> np.ndarray:
    """(3, H, W) uint8 → (H, W, 3) for matplotlib."""
    return image.permute(1, 2, 0).cpu().numpy()


def dark(colour: str) -> tuple[float, float, float]:
    """A darker shade of a colour, for text on white."""
    return tuple(0.62 * part for part in to_rgb(colour))


def show_image(axes: Axes, image: torch.Tensor, title: str = "", frame: str | None = None) -> None:
    """Draw an image, (3, H, W) uint8, without ticks. frame: a colour."""
    axes.imshow(as_pixels(image), interpolation="nearest")
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set(visible=frame is not None, color=frame, lw=3)
    axes.set_title(title, fontsize=SMALLEST)


def group_colours(names: Sequence[str]) -> list[str]:
    """A colour a group of a map. What was missed is red, as people expect."""
    cycle = [colour for colour in CYCLE if colour != RED] if "missed" in names else list(CYCLE)
    return [RED if name == "missed" else cycle[number % len(cycle)] for number, name in enumerate(names)]


def legend_label(name: str) -> str:
    """A name for a legend, with a space before a leading underscore, which would hide it there."""
    return f" {name}" if name.startswith("_") else name


def in_words(groups: Mapping[str, Mapping[str, object]], form: str = "") -> str:
    """Numbers for an alt text: {group: {name: value}} → "group: name value, …; …"."""
    return "; ".join(
        f"{group}: " + ", ".join(f"{name} {value:{form}}" for name, value in row.items()) for group, row in groups.items()
    )
