"""The embedding map."""

from collections.abc import Mapping, Sequence

import torch
import traitlets

from lcl.config import require
from lcl.course import plots
from lcl.course.widgets.base import Exhibit, atlas, script


class EmbeddingMap(Exhibit):
    """Images and captions as points: hover or move from point to point, gather them, colour them.

    Args:
        images: (N, 3, H, W) uint8.
        captions: N.
        coordinates: {projection: (2N, 2), 0 to 1}, of the images, then of the captions.
        colours: {what: (names of at most six groups, (2N,) int64 group of every point)}.

    Attributes:
        chosen: indices of the points that the reader gathered.
    """

    _esm = script("map")
    chosen = traitlets.List().tag(sync=True)

    def __init__(
        self,
        images: torch.Tensor,
        captions: Sequence[str],
        coordinates: Mapping[str, torch.Tensor],
        colours: Mapping[str, tuple[Sequence[str], torch.Tensor]],
    ):
        number = len(images)
        sizes = {len(points) for points in coordinates.values()} | {len(of) for _, of in colours.values()}
        fits = sizes == {2 * number} and len(captions) == number
        require(fits, f"{number} pairs need {2 * number} points, and as many colours.")
        modality = torch.arange(2).repeat_interleave(number)  # (2N,)
        colours = dict(colours) | {"modality": (["image", "caption"], modality)}
        most = len(plots.CYCLE)
        require(all(len(names) <= most for names, _ in colours.values()), f"there are only {most} colours; pass fewer groups.")
        data = {
            "captions": [*captions, *captions], "picture": [*range(number)] * 2, "modality": modality.tolist(),
            "atlas": atlas(images, 32 if number > 1000 else None),
            "coordinates": [
                {"name": way, "points": [[round(x, 4), round(y, 4)] for x, y in points.tolist()]}
                for way, points in coordinates.items()
            ],
            "colours": [
                {"name": what, "names": list(names), "colours": plots.group_colours(names), "of": of.tolist(),
                 "tell": what != "modality"}
                for what, (names, of) in colours.items()
            ],
        }  # fmt: skip
        still = plots.embedding_map(coordinates, *next(iter(colours.values())), next(iter(colours)), number)
        super().__init__(f"Embedding map of {number} images and their captions.", data, still)
