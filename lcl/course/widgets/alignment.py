"""The alignment inspector."""

import math
from collections.abc import Mapping, Sequence

import torch

from lcl.config import require
from lcl.course import plots
from lcl.course.views import Aligned
from lcl.course.widgets.base import Exhibit, script, to_picture
from lcl.data.scenes import Pairs


class AlignmentInspector(Exhibit):
    """Scenes and their words: a word shows the patches that it is matched with, or its cosine with each.

    Args:
        pairs: S scenes.
        found: {checkpoint: {solver: `views.aligned` of all scenes}}.
    """

    _esm = script("alignment")

    def __init__(self, pairs: Pairs, found: Mapping[str, Mapping[str, Sequence[Aligned]]]):
        require(bool(found) and len(pairs) > 0, "pass at least one checkpoint and one scene.")
        checkpoint, by_solver = next(iter(found.items()))
        solvers, rows = list(by_solver), [row for each in found.values() for row in each.values()]
        same = all(list(each) == solvers for each in found.values()) and {len(row) for row in rows} == {len(pairs)}
        require(same, "every checkpoint needs every solver, and each of these all scenes.")
        first = rows[0]
        scenes = [
            {"src": to_picture(image), "caption": scene.caption, "words": list(one.words), "boxes": [list(b) for b in one.boxes]}
            for image, scene, one in zip(pairs.images, pairs.scenes, first, strict=True)
        ]
        ordered = [[each[solver] for solver in solvers] for each in found.values()]
        plans = [[[_sparse(one.plan) for one in row] for row in by_solver] for by_solver in ordered]
        binned = [
            [[[round(1 - share, 3) for share in one.plan.sum(1).tolist()] for one in row] for row in by_solver]
            for by_solver in ordered
        ]
        cosines = [[(100 * one.cosines).round().int().tolist() for one in row[0]] for row in ordered]  # hundredths; any solver's
        patches = first[0].plan.shape[1]
        data = {
            "scenes": scenes, "checkpoints": list(found), "solvers": solvers, "plans": plans, "binned": binned,
            "cosines": cosines,
            "side": pairs.images.shape[-1], "rows": math.isqrt(patches),
        }  # fmt: skip
        best = [int(row.argmax()) if row.sum() > 0.5 else -1 for row in first[0].plan]
        title = f"{checkpoint}, {solvers[0]}"
        still = plots.word_lines(pairs.images[0], first[0].words, best, patches, first[0].boxes, title)
        super().__init__("Alignment inspector: a scene and the words of its caption; a word shows its patches.", data, still)


def _sparse(plan: torch.Tensor) -> list[list[list[float]]]:
    return [[[n, round(share, 3)] for n, share in enumerate(row) if share > 0.02] for row in plan.tolist()]
