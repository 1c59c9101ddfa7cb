"""Foils: is the true one of two sentences, which differ in one fact, nearer to the picture?"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from lcl.data.drawn.foils import KINDS
from lcl.data.scenes import Scene, SceneDataset
from lcl.eval.grounding import Metric


def foil_accuracy(
    world: SceneDataset, scenes: Sequence[Scene], v: torch.Tensor, embed: Callable[[list[str]], torch.Tensor]
) -> dict[str, Metric]:
    """Share of the foils whose true sentence is nearer to the picture than the false one; equally near counts half.

    Args:
        world: of the scenes.
        scenes: N of them.
        v: (N, d), the embeddings of their pictures.
        embed: sentences to embeddings, (n, d).

    Returns:
        For every kind of which there are foils: "foil_KIND", and "foil_KIND_no_image" with the mean of all pictures (its own
        among them) in place of each: clearly above one half, the sentences alone tell which is true. Scenes without a foil of a
        kind are no queries.
    """
    found = [world.foils(scene) for scene in scenes]
    mean, metrics = v.mean(0, keepdim=True).expand_as(v), {}
    for kind in KINDS:
        rows = [row for row, foils in enumerate(found) if kind in foils]
        if not rows:
            continue
        true, false = (embed([found[row][kind][which] for row in rows]) for which in (0, 1))
        for name, pictures in ((f"foil_{kind}", v), (f"foil_{kind}_no_image", mean)):
            difference = ((true - false) * pictures[rows]).sum(1)
            value = ((difference > 0).double() + (difference == 0) / 2).mean().item()
            metrics[name] = {"value": value, "chance": 0.5, "queries": len(rows), "candidates": 2}
    return metrics
