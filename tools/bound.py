"""What retrieval reaches with the frozen teachers as towers: two linear projections, trained with InfoNCE, and nothing else.

python tools/bound.py [--profile laptop] [--scenes-version 2] [--seeds 3]

Distillation and neighbours hand a light model what these features know; this says how much that is. LiT (arXiv 2111.07991)
locks the image tower and trains the text tower; here both are locked. Prints recall@k and nDCG@10 of every split, mean of the
seeds. A tower of its own may go beyond: it sees what the teachers' features have lost, such as positions.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Sequence
from statistics import mean

import torch
import torch.nn.functional as F
from torch import nn

from lcl.cli.common import bar, profile_of
from lcl.course.metrics import as_text
from lcl.data.scenes import SPLITS, SceneDataset, open_scenes
from lcl.eval.grounding import Metric
from lcl.eval.metrics import graded_retrieval
from lcl.eval.retrieval import candidates, retrieval
from lcl.losses.contrastive import info_nce
from lcl.losses.neighbours import Projections
from lcl.models.clip import FIRST_LOGIT_SCALE, MAX_LOGIT_SCALE
from lcl.teachers.banks import build_bank
from lcl.teachers.encoders import ImageEncoder, TextEncoder
from lcl.train.loop import learning_rate, make_optimizer
from lcl.train.recipes import PingConfig


class Heads(nn.Module):
    """A linear projection of each teacher's features, and the temperature."""

    def __init__(self, image_width: int, text_width: int, embed_dim: int):
        super().__init__()
        self.projections = Projections(image_width, text_width, embed_dim)
        self.tau = nn.Parameter(torch.tensor(math.log(FIRST_LOGIT_SCALE)))

    def forward(self, u: torch.Tensor, z: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features of images (N, d_u) and captions (M, d_z) → embeddings (N, d) and (M, d), L2-normalised."""
        return F.normalize(self.projections.image(u), dim=-1), F.normalize(self.projections.text(z), dim=-1)


def train_heads(u: torch.Tensor, z: torch.Tensor, config, embed_dim: int, seed: int) -> Heads:
    """Train the projections of N pairs of features by InfoNCE, with the optimiser and the schedule of a training run.

    Args:
        u, z: (N, d_u) and (N, d_z) float, rows of length one; row i of both is a pair.
        config: a TrainConfig, of which recipe and pairs are not used.
        embed_dim: d, of the shared space.
        seed: of the first weights and of the order.
    """
    torch.manual_seed(seed)
    heads = Heads(u.shape[1], z.shape[1], embed_dim)
    optimizer = make_optimizer(heads, config)
    order, per_epoch = torch.Generator().manual_seed(seed), len(u) // config.batch_size
    for step in range(config.epochs * per_epoch):
        if step % per_epoch == 0:
            shuffled = torch.randperm(len(u), generator=order)
        rows = shuffled[step % per_epoch * config.batch_size :][: config.batch_size]
        loss = info_nce(*heads(u[rows], z[rows]), heads.tau.exp().clamp(max=MAX_LOGIT_SCALE))["info_nce"]
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(heads.parameters(), config.clip_norm)
        for group in optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(config, step)
        optimizer.step()
    return heads.eval()


@torch.no_grad()
def measure(heads: Heads, world: SceneDataset, encoders: tuple, count: int) -> dict[str, dict[str, Metric]]:
    """Retrieval among `count` scenes of every split that is not trained on, as `lcl.eval.metrics.evaluate` measures it.

    encoders: of images and of texts, such as ImageEncoder and TextEncoder.
    """
    found = {}
    for split in SPLITS:
        if split == "train" or not world.concepts(split):
            continue
        pairs = world.pairs(split, range(count))
        ranked = candidates(pairs)
        v, t = heads(encoders[0](pairs.images[ranked.rows]), encoders[1](ranked.captions))
        found[split] = retrieval(v, t, ranked.right)
        found[split] |= graded_retrieval(v[ranked.picture], t[ranked.caption], pairs.scenes)
    return found


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--profile", default="laptop")
    parser.add_argument("--scenes-version", type=int)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args(words)
    profile, settings = profile_of(arguments.profile, arguments.scenes_version), PingConfig()
    world, config = open_scenes(profile.scenes), profile.training
    rows, encoders = world.train(config.pairs), (ImageEncoder(settings.image_encoder, settings.image_size), TextEncoder())
    with bar("banks", "row", 2 * config.pairs) as progress:
        u, z = (build_bank(rows, encoder, progress=progress.update)[:].float() for encoder in encoders)
    runs = []
    for seed in range(arguments.seeds):
        heads = train_heads(u, z, config, profile.model.embed_dim, seed)
        runs.append(measure(heads, world, encoders, profile.evaluation.retrieval))
    table = [["percent", *runs[0]]]
    for name in runs[0]["new_scenes"]:
        table.append([name, *(f"{100 * mean(run[split][name]['value'] for run in runs):.1f}" for split in runs[0])])
    print(as_text(table))


if __name__ == "__main__":
    main()
