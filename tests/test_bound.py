"""Projections of frozen features: trained as a plain loop would train them, and they find what the features share."""

import dataclasses
import math

import pytest
import torch

from bound import Heads, measure, train_heads
from lcl.config import TrainConfig
from lcl.eval.retrieval import recall_at_k
from lcl.models.clip import FIRST_LOGIT_SCALE
from lcl.train.loop import learning_rate

CONFIG = TrainConfig(pairs=32, epochs=2, batch_size=8, learning_rate=0.02, weight_decay=0.0, clip_norm=1e9)


def features(number: int, width: int, seed: int) -> torch.Tensor:
    return torch.nn.functional.normalize(torch.randn(number, width, generator=torch.Generator().manual_seed(seed)), dim=1)


def slow_info_nce(v: torch.Tensor, t: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Both cross-entropies, pair by pair."""
    total = 0.0
    for i in range(len(v)):
        among_captions = sum(torch.exp(scale * (v[i] @ t[j])) for j in range(len(t)))
        among_images = sum(torch.exp(scale * (t[i] @ v[j])) for j in range(len(v)))
        total = total - 2 * scale * (v[i] @ t[i]) + torch.log(among_captions) + torch.log(among_images)
    return total / (2 * len(v))


def test_the_heads_are_trained_as_a_slow_loop_trains_them():
    u, z = features(32, 6, 0), features(32, 5, 1)
    made = train_heads(u, z, CONFIG, 4, seed=3)
    torch.manual_seed(3)
    slow, order = Heads(6, 5, 4), torch.Generator().manual_seed(3)
    (a, b), tau = (slow.projections.image.weight, slow.projections.text.weight), slow.tau
    optimizers = {p: torch.optim.AdamW([p], betas=(0.9, CONFIG.beta2), eps=1e-6, weight_decay=0.0) for p in (a, b, tau)}
    for epoch in range(2):
        shuffled = torch.randperm(32, generator=order).tolist()
        for part in range(4):
            rows = shuffled[8 * part : 8 * part + 8]
            v = torch.stack([a @ u[row] / (a @ u[row]).norm() for row in rows])
            t = torch.stack([b @ z[row] / (b @ z[row]).norm() for row in rows])
            gradients = torch.autograd.grad(slow_info_nce(v, t, tau.exp()), (a, b, tau))
            for (p, optimizer), gradient in zip(optimizers.items(), gradients, strict=True):
                faster = CONFIG.temperature_rate if p is tau else 1
                p.grad, optimizer.param_groups[0]["lr"] = gradient, faster * learning_rate(CONFIG, 4 * epoch + part)
                optimizer.step()
    for ours, theirs in zip(made.parameters(), slow.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4)
    assert made.tau.item() != pytest.approx(math.log(FIRST_LOGIT_SCALE))


def test_what_both_features_share_is_found_and_what_they_do_not_share_is_not():
    config = dataclasses.replace(CONFIG, pairs=512, epochs=40, batch_size=64)
    shared, own = features(612, 4, 0), features(612, 8, 1)
    u, z = torch.cat([own, shared], 1) @ features(12, 12, 2), torch.cat([shared, features(612, 5, 3)], 1) @ features(9, 9, 4)
    recall = {}
    for name, texts in (("pairs", z), ("no pairs", z.roll(50, 0))):
        heads = train_heads(u[:512], texts[:512], config, 4, seed=0)
        with torch.no_grad():
            v, t = heads(u[512:], texts[512:])
        recall[name] = recall_at_k(v @ t.T, 1)
    assert recall["pairs"] > 0.5 and recall["no pairs"] < 0.1  # chance is 0.01


def test_every_split_is_measured_as_runs_are(few_world):
    width = 3 * 64 * 64

    def images(pixels):
        return pixels.flatten(1).float() / 255

    def texts(captions):
        return torch.stack([features(1, 7, len(caption))[0] for caption in captions])

    found = measure(Heads(width, 7, 4), few_world, (images, texts), 12)
    assert {"new_scenes", "unseen_drawings", "unseen_pairs", "unseen_concepts"} == set(found)
    assert {"image_to_text_recall@1", "text_to_image_ndcg@10"} <= set(found["new_scenes"])
