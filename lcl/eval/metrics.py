"""Metrics: retrieval and zero-shot classification, each beside its chance level."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import TEMPLATES, EvalConfig, require
from lcl.data.base import DatasetView, PairDataset, Samples
from lcl.data.drawn.captions import one
from lcl.data.drawn.pictures import Concept
from lcl.data.scenes import SPLITS, Pairs, Scene, SceneDataset
from lcl.eval.foils import foil_accuracy
from lcl.eval.grounding import Metric, alignments, masked_words
from lcl.eval.probes import linear_probe
from lcl.eval.queries import QueryRanks, gallery_retrieval, object_oracle, rank_queries, recall_by_objects
from lcl.eval.retrieval import Candidates, candidates, check_finite, retrieval
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer

log = logging.getLogger("lcl")


@torch.no_grad()
def embed(model: Clip, tokenizer: Tokenizer, pairs: Pairs | Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of images and captions: two (N, d), L2-normalised, on the CPU. Sets the model to evaluation mode."""
    return embed_images(model, pairs.images), embed_texts(model, tokenizer, pairs.captions)


@torch.no_grad()
def embed_images(model: Clip, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """images: (N, 3, H, W) uint8 → (N, d), L2-normalised, on the CPU."""
    model.eval()
    device = model.tau.device
    return torch.cat([model.encode_image(batch.to(device)).cpu() for batch in images.split(batch_size)])


@torch.no_grad()
def embed_texts(model: Clip, tokenizer: Tokenizer, texts: Sequence[str], batch_size: int = 256) -> torch.Tensor:
    """texts: N strings → (N, d), L2-normalised, on the CPU."""
    model.eval()
    device, context = model.tau.device, model.config.language.context_length
    batches = (texts[start : start + batch_size] for start in range(0, len(texts), batch_size))
    return torch.cat([model.encode_text(tokenizer.encode(batch, context).to(device)).cpu() for batch in batches])


def relevance(scenes: Sequence[Scene]) -> torch.Tensor:
    """How many classes two scenes share: (N, N) int64; on the diagonal, how many a scene has."""
    rows = [torch.tensor(sorted(scene.concepts)) for scene in scenes]
    shown = torch.zeros(len(scenes), 1 + max(int(row.max()) for row in rows))
    for number, row in enumerate(rows):
        shown[number, row] = 1
    return (shown @ shown.T).long()


def ndcg_at_k(scores: torch.Tensor, gains: torch.Tensor, k: int) -> Metric:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002): are relevant candidates ranked first?

    Args:
        scores: (N, C) float; of equal scores the first comes first.
        gains: (N, C), 0 or more.
        k: candidates that count.

    Returns:
        The gains of the k best-scored, each divided by log2(rank + 1), relative to the best order: 0 to 1, mean over the rows
        with a gain. Chance is the expectation over random orders.
    """
    check_finite(scores)
    k, gains = min(k, scores.shape[1]), gains.double()
    discount = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()  # (k,)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = (gains.gather(1, order) * discount).sum(1)
    best = (gains.topk(k, dim=1).values * discount).sum(1)
    some = best > 0
    require(bool(some.any()), "no row has a relevant candidate, so nothing can be measured.")
    value, chance = found[some] / best[some], gains.mean(1)[some] * discount.sum() / best[some]
    return {"value": value.mean().item(), "chance": chance.mean().item()}


def graded_retrieval(v: torch.Tensor, t: torch.Tensor, scenes: Sequence[Scene]) -> dict[str, Metric]:
    """nDCG@10 in both directions; a scene's gain is the number of classes that it shares with the query's.

    recall@k counts one right answer, this counts all of them. v, t: (N, d); row i of both and scene i belong together.
    """
    similarity, shared = v @ t.T, relevance(scenes)
    return {
        f"{direction}_ndcg@10": ndcg_at_k(matrix, shared, 10)
        for direction, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T))
    }


def class_embeddings(model: Clip, tokenizer: Tokenizer, concepts: Sequence[Concept]) -> torch.Tensor:
    """One embedding a class, the normalised mean over TEMPLATES: (C, d)."""
    prompts = [template.format(one(concept)) for concept in concepts for template in TEMPLATES]
    return F.normalize(embed_texts(model, tokenizer, prompts).unflatten(0, (len(concepts), -1)).mean(1), dim=-1)


def top_k_accuracy(scores: torch.Tensor, right: torch.Tensor, k: int) -> Metric:
    """Share of the rows with a right class among the k best.

    Args:
        scores: (N, C) float; of equal scores the first class comes first.
        right: (N, C) bool, one or more a row.
        k: classes that count. Chance is the probability that k random classes contain a right one.
    """
    check_finite(scores)
    number = scores.shape[1]
    k = min(k, number)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]  # stable: of equals, the first class
    hit = right.gather(1, best).any(1)
    misses = [math.comb(number - int(several), k) / math.comb(number, k) for several in right.sum(1)]
    return {"value": hit.double().mean().item(), "chance": 1 - sum(misses) / len(misses)}


def zero_shot(model: Clip, tokenizer: Tokenizer, world: SceneDataset, split: str, views: int) -> dict[str, Metric]:
    """Zero-shot top-1 and top-5 accuracy: `views` pictures of every class of a split, among all known (or all unseen) names.

    Pictures hold one object; those of `unseen_pairs` hold several, and any object of the picture is a right answer.
    """
    names = world.unseen if split == "unseen_concepts" else world.known
    single = split != "unseen_pairs"
    pairs = world.pairs(split, range(views * len(world.concepts(split))), single=single)
    right = torch.tensor([[concept in scene.concepts for concept in names] for scene in pairs.scenes])  # (N, C)
    v = embed_images(model, pairs.images)
    classes = class_embeddings(model, tokenizer, [world.pictures.concepts[concept] for concept in names])  # (C, d)
    scores = v @ classes.T  # (N, C)
    metrics = {f"zero_shot_top{k}": top_k_accuracy(scores, right, k) for k in (1, 5)}
    if split == "unseen_concepts":
        metrics["category_top1"] = category_accuracy(model, tokenizer, world, v, pairs)
    return metrics


def category_accuracy(model: Clip, tokenizer: Tokenizer, world: SceneDataset, v: torch.Tensor, pairs: Pairs) -> Metric:
    """Accuracy of the category, averaged over categories, of pictures v (N, d) of one object each.

    A category is the mean embedding of its *known* classes' names (our reading): a model may recognise the category of an
    object whose own name it never read.
    """
    concepts = world.pictures.concepts
    categories = sorted({concepts[concept].category for concept in world.known})
    classes = class_embeddings(model, tokenizer, [concepts[concept] for concept in world.known])  # (known, d)
    member = torch.tensor([[concepts[c].category == category for c in world.known] for category in categories]).float()
    prototypes = F.normalize(member @ classes / member.sum(1, keepdim=True), dim=-1)  # (categories, d)
    predicted = (v @ prototypes.T).argmax(1)  # (N,)
    shown = [concepts[scene.objects[0].concept].category for scene in pairs.scenes]
    shares = [
        (predicted[torch.tensor([name == category for name in shown])] == number).double().mean().item()
        for number, category in enumerate(categories)
        if category in shown
    ]
    return {"value": sum(shares) / len(shares), "chance": 1 / len(categories)}


def neighbour_purity(scenes: Sequence[Scene], indices: torch.Tensor) -> Metric:
    """The mean share of a scene's classes that its neighbours show, beside that of random scenes.

    Args:
        scenes: N.
        indices: (N, k) int64, the neighbours of each scene, without itself. An image's cross neighbour is the caption of its
            nearest image's scene, so one number holds for both.
    """
    rows = [torch.tensor(sorted(scene.concepts)) for scene in scenes]
    shown = torch.zeros(len(scenes), 1 + max(int(row.max()) for row in rows))  # (N, C)
    for number, row in enumerate(rows):
        shown[number, row] = 1
    own = shown.sum(1)  # (N,)
    shared = torch.stack([(shown * shown[column]).sum(1) / own for column in indices.T], dim=1)  # (N, k)
    chance = ((shown * (shown.sum(0) - shown)).sum(1) / own).mean() / (len(scenes) - 1)
    return {"value": shared.mean().item(), "chance": chance.item()}


HELD_OUT = {"held_out": "pairs of the same collection that were never trained on"}


def evaluate(
    model: Clip, tokenizer: Tokenizer, source: PairDataset, config: EvalConfig, extra: nn.ModuleDict | None = None
) -> dict[str, dict[str, Metric]]:
    """Every metric of every split that is not trained on: what `evaluate_queries` returns, without the ranks."""
    return evaluate_queries(model, tokenizer, source, config, extra)[0]


def evaluate_queries(
    model: Clip, tokenizer: Tokenizer, source: PairDataset, config: EvalConfig, extra: nn.ModuleDict | None = None
) -> tuple[dict[str, dict[str, Metric]], QueryRanks | None]:
    """Every metric of every split that is not trained on, and the rank of every query of the split `new_scenes`.

    Scenes are evaluated on all tasks. Of other pairs only retrieval can be measured, on the split `held_out`.

    Args:
        model, tokenizer: as trained.
        source: the data set.
        config: how many pairs and pictures.
        extra: the recipe's training-only modules; with a vocabulary head, masked words are measured.

    Returns:
        {split: {metric: {"value", "chance"}}}, each 0 to 1; and the ranks, None if there are no scenes.
    """
    if not isinstance(source, SceneDataset):
        return {"held_out": evaluate_pairs(model, tokenizer, source.test(config.retrieval))}, None
    world, metrics, ranked, texts_to_t = source, {}, None, partial(embed_texts, model, tokenizer)
    for split in SPLITS:
        if split == "train" or not world.concepts(split):
            continue
        pairs = world.pairs(split, range(config.retrieval))
        found = candidates(pairs)
        v, t = embed_candidates(model, tokenizer, pairs, found)
        metrics[split] = retrieval(v, t, found.right)
        if split == "new_scenes":
            ranked = rank_queries(v, t, pairs, found)
            metrics[split] |= recall_by_objects(ranked.image_to_text, pairs.scenes, found)
            metrics[split] |= object_oracle(pairs.scenes, found)
            if config.gallery > config.retrieval:
                more = world.pairs(split, range(config.retrieval, config.gallery))
                metrics[split] |= gallery_retrieval(pairs, more, v, t, partial(embed_images, model), texts_to_t)
        metrics[split] |= graded_retrieval(v[found.picture], t[found.caption], pairs.scenes)
        metrics[split] |= zero_shot(model, tokenizer, world, split, config.views)
        if split != "unseen_pairs":  # pictures of one object, known as in new_scenes
            metrics[split] |= linear_probe(model, world, split, config.views)
        metrics[split] |= alignments(model, tokenizer, pairs)
        metrics[split] |= foil_accuracy(world, pairs.scenes, v[found.picture], texts_to_t)
        if extra is not None and "masked_language" in extra:
            metrics[split] |= masked_words(model, extra["masked_language"], tokenizer, world, pairs)
    return metrics, ranked


def evaluate_pairs(model: Clip, tokenizer: Tokenizer, rows: DatasetView) -> dict[str, Metric]:
    """Retrieval among all pairs of a view: {metric: {"value", "chance", "queries", "candidates"}}.

    Pairs that cannot be read any more are left out, with a warning.
    """
    pairs = rows.take(range(len(rows)))
    readable = [place for place, row in enumerate(pairs.rows) if place == row]  # another pair replaces what cannot be read
    if len(readable) < len(pairs):
        lost = len(pairs) - len(readable)
        log.warning("%d of %d pairs to evaluate on cannot be read any more, and are left out", lost, len(pairs))
    pairs = pairs.select(readable)
    found = candidates(pairs)
    return retrieval(*embed_candidates(model, tokenizer, pairs, found), found.right)


def embed_candidates(
    model: Clip, tokenizer: Tokenizer, pairs: Pairs | Samples, found: Candidates
) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of the distinct pictures and captions of some pairs: (P, d) and (C, d), L2-normalised, on the CPU."""
    return embed_images(model, pairs.images[found.rows]), embed_texts(model, tokenizer, found.captions)
