"""Linear probes: what a linear classifier can read off the frozen image tower."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from lcl.config import need
from lcl.data.scenes import SceneDataset
from lcl.eval.grounding import Metric
from lcl.models.clip import Clip

PROBE_VIEWS = 8  # pictures of every concept that a probe learns from


def linear_probe(model: Clip, world: SceneDataset, split: str, views: int) -> dict[str, Metric]:
    """Accuracy of a linear classifier on frozen image features: which object is it, and of what category?

    Logistic regression (scikit-learn) on the tower's pooled, standardised features. It is trained on PROBE_VIEWS pictures of
    every known class from the split `train`, and tested on the pictures that zero-shot classification uses. For unseen
    classes it learns the names from other pictures of them, and the categories from the known classes.

    Args:
        model: the pair of towers.
        world: the scenes.
        split: tested on.
        views: test pictures a class.

    Returns:
        {"probe_concept", "probe_category"}: mean recall over classes, beside chance; one is missing if there is only one class.
    """
    need("sklearn", "scenes")
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def features_of(split: str, start: int, views: int) -> dict[str, Sequence]:
        number = len(world.concepts(split))
        pairs = world.pairs(split, range(start * number, (start + views) * number), single=True)
        concepts = [scene.objects[0].concept for scene in pairs.scenes]
        categories = [world.pictures.concepts[concept].category for concept in concepts]
        features = image_features(model, pairs.images).double().numpy()  # (N, width)
        return {"features": features, "concept": concepts, "category": categories}

    test, known = features_of(split, 0, views), features_of("train", 0, PROBE_VIEWS)
    own = features_of(split, views, PROBE_VIEWS) if split == "unseen_concepts" else known
    metrics: dict[str, Metric] = {}
    for name, learned in (("concept", own), ("category", known)):
        classes, right = set(learned[name]), test[name]
        if len(classes) < 2:  # a user's drawings may all be of one category
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
        predicted = probe.fit(learned["features"], learned[name]).predict(test["features"])
        value = recall_score(right, predicted, labels=sorted(set(right)), average="macro", zero_division=0)
        metrics[f"probe_{name}"] = {"value": float(value), "chance": 1 / len(classes)}
    return metrics


@torch.no_grad()
def image_features(model: Clip, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """The image tower's pooled features, before the projection: (N, 3, H, W) uint8 → (N, width) on the CPU."""
    model.eval()
    device = model.tau.device
    return torch.cat([model.vision(batch.to(device)).pooled.cpu() for batch in images.split(batch_size)])
