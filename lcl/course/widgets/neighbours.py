"""The neighbour browser."""

from collections import deque
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
        queries: indices of the scenes to begin with. Their neighbours lead on to their own neighbours, and so on.
        by_image, by_caption: their neighbours.
        k: neighbours to show.
        most: scenes that the browser holds. The neighbours of `queries` are held even if they are more.
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
        most: int = 1200,
    ):
        both, queries = {"by_image": by_image, "by_caption": by_caption}, list(dict.fromkeys(queries))
        place = {row: number for number, row in enumerate(queries)}  # all that are held, in the order in which they were found
        open_to, waiting = [], deque(queries)  # those whose neighbours are held, too; those to look at, breadth first
        while waiting:
            row = waiting.popleft()
            near = {other for each in both.values() for other in each.indices[row, :k].tolist()} - place.keys()
            if len(open_to) >= len(queries) and len(place) + len(near) > most:
                break
            open_to.append(row)
            waiting.extend(sorted(near))
            place |= {other: len(place) + number for number, other in enumerate(sorted(near))}
        short = any(row < 0 for row in place)
        require(not short, f"some scene has fewer than {k} neighbours; search exactly, or ask for fewer.")
        used = list(place)
        images = dataset.render([scenes[row] for row in used])

        def cards(near: Neighbours) -> list[list[list[float]]]:
            """For every open scene its neighbours: place in the atlas, cosine, number of shared objects."""
            return [
                [
                    [place[other], round(cosine, 4), len(scenes[other].concepts & scenes[row].concepts)]
                    for other, cosine in zip(near.indices[row, :k].tolist(), near.similarities[row].tolist(), strict=False)
                ]
                for row in open_to
            ]

        data = {
            "queries": len(queries), "captions": [scenes[row].caption for row in used],
            "atlas": atlas(images), **{name: cards(near) for name, near in both.items()},
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
