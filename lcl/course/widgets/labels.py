"""The label scrubber."""

from collections.abc import Mapping

import torch

from lcl.course import plots
from lcl.course.widgets.base import Exhibit, atlas, script
from lcl.data.scenes import Pairs
from lcl.eval.metrics import relevance
from lcl.losses.contrastive import ramp, soft_targets
from lcl.train.recipes import SoftConfig


class LabelScrubber(Exhibit):
    """The softened labels of a batch by step, beside the objects that its scenes share.

    Args:
        pairs: N scenes, few enough to see each.
        cosines: {step: (N, N)}, images down, captions across.
        total: steps of the training.
        soft: how α grows with the steps.
    """

    _esm = script("labels")

    def __init__(self, pairs: Pairs, cosines: Mapping[int, torch.Tensor], total: int, soft: SoftConfig):
        steps, shared = list(cosines), relevance(pairs.scenes)
        alphas = [ramp(soft.schedule, soft.alpha_max, min(1.0, step / total)) for step in steps]
        data = {
            "steps": steps, "cosines": [[[round(s, 4) for s in row] for row in cosines[step].tolist()] for step in steps],
            "alphas": alphas, "temperature": soft.temperature, "shared": shared.tolist(),
            "captions": pairs.captions, "atlas": atlas(pairs.images),
        }  # fmt: skip
        labels = soft_targets(cosines[steps[-1]], alphas[-1], soft.temperature)
        still = plots.soft_labels(labels, shared, f"labels at step {steps[-1]}, α {alphas[-1]:.2f}")
        super().__init__("Label scrubber: a batch's softened labels by step, beside what its scenes share.", data, still)
