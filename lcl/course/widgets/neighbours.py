"""The neighbour browser."""

from collections.abc import Sequence

from lcl.config import require
from lcl.course import plots
from lcl.course.widgets.base import Exhibit, atlas, script
from lcl.data.scenes import Scene, SceneDataset
from lcl.teachers.search import Neighbours


class NeighbourBrowser(Exhibit):
    """Scenes and their nearest neighbours, by image and by caption; either half can be a target of CLIP-PING (NN, XNN).

    Args:
        dataset: draws the scenes.
        scenes: all that were searched.
        queries: indices of the scenes to browse.
        by_image, by_caption: their neighbours.
        k: neighbours to show.
    """

    _esm = script("neighbours")

    def __init__(
        self,
        dataset: SceneDataset,
        scenes: Sequence[Scene],
        queries: Sequence[int],
        by_image: Neighbours,
        by_caption: Neighbours,
        k: int = 5,
    ):
        both = {"by_image": by_image, "by_caption": by_caption}
        found = {name: near.indices[list(queries), :k].tolist() for name, near in both.items()}
        short = any(row < 0 for rows in found.values() for near in rows for row in near)
        require(not short, f"some scene has fewer than {k} neighbours; search exactly, or ask for fewer.")
        used = sorted({*queries, *(row for rows in found.values() for near in rows for row in near)})
        place = {row: number for number, row in enumerate(used)}
        images = dataset.render([scenes[row] for row in used])

        def cards(name: str) -> list[list[list[float]]]:
            """For every query its neighbours: place in the atlas, cosine, number of shared objects."""
            return [
                [
                    [place[row], round(cosine, 4), len(scenes[row].concepts & scenes[query].concepts)]
                    for row, cosine in zip(chosen, both[name].similarities[query].tolist(), strict=False)
                ]
                for query, chosen in zip(queries, found[name], strict=True)
            ]

        data = {
            "queries": [place[query] for query in queries], "captions": [scenes[row].caption for row in used],
            "atlas": atlas(images), **{name: cards(name) for name in both},
        }  # fmt: skip
        rows = [[(place[queries[0]], name.replace("_", " "), 0)] + [
            (row, f"{cosine:.2f}, shares {shared}", shared) for row, cosine, shared in data[name][0]
        ] for name in both]  # fmt: skip
        shown, titles, kin = zip(*(card for row in rows for card in row), strict=True)
        alt = f"A scene, {scenes[queries[0]].caption!r}, and its nearest neighbours, by image and by caption: "
        alt += f"{', '.join(titles)}."
        framed = [number for number, shared in enumerate(kin) if shared]
        still = plots.grid(images[list(shown)], titles, k + 1, alt=alt, framed=framed)
        super().__init__("Neighbour browser: a scene and its nearest, by image and by caption.", data, still)
