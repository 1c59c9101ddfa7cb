"""What a model has learned: retrieval, zero-shot classification, and for every figure what chance would give."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lcl.config import EvalConfig, require
from lcl.data.base import PairDataset, Samples
from lcl.data.captions import one
from lcl.data.pictures import Concept
from lcl.data.scenes import SPLITS, Pairs, Scene, SceneDataset
from lcl.eval.grounding import Metric, alignment, masked_words
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer

log = logging.getLogger("lcl")

TEMPLATES = ("{}", "a picture of {}", "an image of {}", "a drawing of {}")
"""Prompts for a name; a class is represented by the mean of their embeddings (Radford et al. 2021, section 3.1.4)."""


@torch.no_grad()
def embed(model: Clip, tokenizer: Tokenizer, pairs: Pairs | Samples) -> tuple[torch.Tensor, torch.Tensor]:
    """Embeddings of images and captions: two (N, d), L2-normalised, on the CPU. Leaves the model in evaluation mode."""
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


def ranks(similarity: torch.Tensor) -> torch.Tensor:
    """For every query, how many candidates come before its own. similarity: (N, N), own on the diagonal → (N,) int64.

    Of equally similar candidates, the one with the smaller number comes first.
    """
    check_finite(similarity)
    own = similarity.diagonal()[:, None]
    earlier = torch.ones_like(similarity, dtype=torch.bool).tril(-1)
    return ((similarity > own) | ((similarity == own) & earlier)).sum(1)


def check_finite(scores: torch.Tensor) -> None:
    """Raise LclError for NaN or infinity: comparisons with NaN are all false, and would pass for a perfect model."""
    require(
        bool(torch.isfinite(scores).all()),
        "the embeddings hold values that are not finite numbers, so nothing can be measured; the model is damaged.",
    )


def recall_at_k(similarity: torch.Tensor, k: int) -> float:
    """Share of the queries (rows) whose own candidate (same column) is among the k most similar: 0 to 1."""
    return (ranks(similarity) < k).double().mean().item()


def retrieval(v: torch.Tensor, t: torch.Tensor) -> dict[str, Metric]:
    """recall@1, @5, @10 both ways. v, t: (N, d), row i of one belongs to row i of the other."""
    similarity, number = v @ t.T, len(v)
    return {
        f"{direction}_recall@{k}": {"value": recall_at_k(matrix, k), "chance": min(1.0, k / number)}
        for direction, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T))
        for k in (1, 5, 10)
    }


def relevance(scenes: Sequence[Scene]) -> torch.Tensor:
    """How many concepts two scenes share: (N, N) int64; on the diagonal how many a scene has."""
    rows = [torch.tensor(sorted(scene.concepts)) for scene in scenes]
    shown = torch.zeros(len(scenes), 1 + max(int(row.max()) for row in rows))
    for number, row in enumerate(rows):
        shown[number, row] = 1
    return (shown @ shown.T).long()


def ndcg_at_k(scores: torch.Tensor, gains: torch.Tensor, k: int) -> Metric:
    """Normalised discounted cumulative gain (Järvelin and Kekäläinen 2002): are the relevant ones at the top?

    scores, gains: (N, C), the gain 0 or more. Of the k best-scored the gains are summed, each divided by log2(rank + 1),
    and compared with the best order there is: 0 to 1, mean over the rows that have a gain. Of equal scores the first
    comes first. Chance is the expected value of a random order.
    """
    check_finite(scores)
    k, gains = min(k, scores.shape[1]), gains.double()
    discount = 1 / torch.arange(2, k + 2, dtype=torch.float64).log2()  # (k,)
    order = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]
    found = (gains.gather(1, order) * discount).sum(1)
    best = (gains.topk(k, dim=1).values * discount).sum(1)
    asked = best > 0
    require(bool(asked.any()), "no row has a relevant candidate, so nothing can be measured.")
    value, chance = found[asked] / best[asked], gains.mean(1)[asked] * discount.sum() / best[asked]
    return {"value": value.mean().item(), "chance": chance.mean().item()}


def graded_retrieval(v: torch.Tensor, t: torch.Tensor, scenes: Sequence[Scene]) -> dict[str, Metric]:
    """nDCG@10 both ways, where a scene is as relevant as the number of concepts that it shares with the query's.

    v, t: (N, d), row i of both and scene i belong together. recall@k counts one right answer; this counts all of them.
    """
    similarity, shared = v @ t.T, relevance(scenes)
    return {
        f"{direction}_ndcg@10": ndcg_at_k(matrix, shared, 10)
        for direction, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T))
    }


def class_embeddings(model: Clip, tokenizer: Tokenizer, concepts: Sequence[Concept]) -> torch.Tensor:
    """One embedding a concept, the normalised mean over TEMPLATES. → (C, d)"""
    prompts = [template.format(one(concept)) for concept in concepts for template in TEMPLATES]
    return F.normalize(embed_texts(model, tokenizer, prompts).unflatten(0, (len(concepts), -1)).mean(1), dim=-1)


def top_k_accuracy(scores: torch.Tensor, right: torch.Tensor, k: int) -> Metric:
    """Share of the rows with a right class among the k best. scores: (N, C); right: (N, C) bool, one or more a row.

    Chance is the mean share of draws of k classes that contain a right one.
    """
    check_finite(scores)
    number = scores.shape[1]
    k = min(k, number)
    best = scores.sort(dim=1, descending=True, stable=True).indices[:, :k]  # stable: of equals, the first class
    hit = right.gather(1, best).any(1)
    misses = [math.comb(number - int(several), k) / math.comb(number, k) for several in right.sum(1)]
    return {"value": hit.double().mean().item(), "chance": 1 - sum(misses) / len(misses)}


def zero_shot(model: Clip, tokenizer: Tokenizer, world: SceneDataset, split: str, views: int) -> dict[str, Metric]:
    """Which thing is it? `views` pictures of every concept of a split, among the names of all known (or all unseen).

    Pictures hold one thing; those of `unseen_pairs` hold several, and any thing in the picture is a right answer.
    """
    names = world.unseen if split == "unseen_concepts" else world.known
    single = split != "unseen_pairs"
    pairs = world.pairs(split, range(views * len(world.concepts(split))), single=single)
    right = torch.tensor([[concept in scene.concepts for concept in names] for scene in pairs.scenes])  # (N, C)
    v = embed_images(model, pairs.images)
    classes = class_embeddings(model, tokenizer, [world.pictures.concepts[concept] for concept in names])  # (C, d)
    scores = v @ classes.T  # (N, C)
    figures = {f"zero_shot_top{k}": top_k_accuracy(scores, right, k) for k in (1, 5)}
    if split == "unseen_concepts":
        figures["category_top1"] = category_accuracy(model, tokenizer, world, v, pairs)
    return figures


def category_accuracy(model: Clip, tokenizer: Tokenizer, world: SceneDataset, v: torch.Tensor, pairs: Pairs) -> Metric:
    """Of what category is it? The mean over the categories, so that always saying the largest one is worth no more.

    A category is the mean embedding of its *known* concepts' names (our reading): a model may see the kind of a thing
    whose own name it never read. v: (N, d), of pictures of one thing each.
    """
    concepts = world.pictures.concepts
    categories = sorted({concepts[concept].category for concept in world.known})
    classes = class_embeddings(model, tokenizer, [concepts[concept] for concept in world.known])  # (known, d)
    member = torch.tensor([[concepts[c].category == category for c in world.known] for category in categories]).float()
    prototypes = F.normalize(member @ classes / member.sum(1, keepdim=True), dim=-1)  # (categories, d)
    guessed = (v @ prototypes.T).argmax(1)  # (N,)
    shown = [concepts[scene.objects[0].concept].category for scene in pairs.scenes]
    shares = [
        (guessed[torch.tensor([name == category for name in shown])] == number).double().mean().item()
        for number, category in enumerate(categories)
        if category in shown
    ]
    return {"value": sum(shares) / len(shares), "chance": 1 / len(categories)}


PROBE_VIEWS = 8  # pictures of every concept that a probe learns from


def linear_probe(model: Clip, world: SceneDataset, split: str, views: int) -> dict[str, Metric]:
    """What a linear classifier can read off the frozen image tower: which thing is it, and of what category?

    Logistic regression (scikit-learn) on the tower's pooled features, standardised, learns from PROBE_VIEWS pictures of every
    known concept out of the split `train`, and is asked about the `views` pictures of every concept that zero-shot
    classification is asked about. Of unseen concepts it learns the names from pictures of their own, other than those that
    it is asked about, and the categories from the known ones. Categories count alike, however many concepts they have.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import recall_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    def look(split: str, start: int, views: int) -> dict[str, Sequence]:
        number = len(world.concepts(split))
        pairs = world.pairs(split, range(start * number, (start + views) * number), single=True)
        concepts = [scene.objects[0].concept for scene in pairs.scenes]
        categories = [world.pictures.concepts[concept].category for concept in concepts]
        features = image_features(model, pairs.images).double().numpy()  # (N, width)
        return {"features": features, "concept": concepts, "category": categories}

    asked, known = look(split, 0, views), look("train", 0, PROBE_VIEWS)
    own = look(split, views, PROBE_VIEWS) if split == "unseen_concepts" else known
    figures: dict[str, Metric] = {}
    for name, learned in (("concept", own), ("category", known)):
        classes, right = set(learned[name]), asked[name]
        if len(classes) < 2:  # drawings of one's own may all be of one category: there is nothing to tell apart
            continue
        probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000, class_weight="balanced"))
        guessed = probe.fit(learned["features"], learned[name]).predict(asked["features"])
        value = recall_score(right, guessed, labels=sorted(set(right)), average="macro", zero_division=0)
        figures[f"probe_{name}"] = {"value": float(value), "chance": 1 / len(classes)}
    return figures


@torch.no_grad()
def image_features(model: Clip, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
    """What the image tower says before the projection, pooled. images: (N, 3, H, W) uint8 → (N, width), on the CPU."""
    model.eval()
    device = model.tau.device
    return torch.cat([model.vision(batch.to(device)).pooled.cpu() for batch in images.split(batch_size)])


def neighbour_purity(scenes: Sequence[Scene], indices: torch.Tensor) -> Metric:
    """How much of what a scene shows do its neighbours show? The mean share of its concepts, beside that of random scenes.

    scenes: N. indices: (N, k), the neighbours of each, none itself. An image's cross neighbour is the caption of the same
    scene as its nearest neighbour, so that one figure tells of both.
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
    """Every figure of every split that is not trained on: {split: {figure: {"value", "chance"}}}.

    Of scenes it is known what they show. Of other pairs nothing is known but that they belong together, so that retrieval
    is all that can be asked of them: split `held_out`.
    extra: the recipe's modules that exist in training only; masked words are asked for if it can guess them.
    """
    if not isinstance(source, SceneDataset):
        rows = source.test(config.retrieval)
        pairs = rows.take(range(len(rows)))
        v, t = embed(model, tokenizer, pairs)
        own = [row == used for row, used in enumerate(pairs.rows)]  # others stand in for what cannot be read
        if not all(own):
            log.warning("%d of %d pairs to evaluate on cannot be read any more, and are left out", own.count(False), len(own))
        return {"held_out": retrieval(v[own], t[own])}
    world, figures = source, {}
    for split in SPLITS:
        if split == "train" or not world.concepts(split):
            continue
        pairs = world.pairs(split, range(config.retrieval))
        v, t = embed(model, tokenizer, pairs)
        figures[split] = retrieval(v, t) | graded_retrieval(v, t, pairs.scenes)
        figures[split] |= zero_shot(model, tokenizer, world, split, config.views)
        if split != "unseen_pairs":  # pictures of one thing, known as in new_scenes
            figures[split] |= linear_probe(model, world, split, config.views)
        figures[split]["alignment"] = alignment(model, tokenizer, pairs)
        if extra is not None and "masked_language" in extra:
            figures[split] |= masked_words(model, extra["masked_language"], tokenizer, world, pairs)
    return figures
