"""What a model has learned: retrieval, zero-shot classification, and for every figure what chance would give."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from lcl.captions import Box, one, plural
from lcl.config import EvalConfig, choose, require
from lcl.fusion import FusedMlm
from lcl.matching import FREE, SOLVERS
from lcl.model import Clip
from lcl.pictures import Concept
from lcl.scenes import SPLITS, Pairs, Scene, World
from lcl.text import MASK, SPECIAL, Tokenizer, Tokens, words_of_span

TEMPLATES = ("{}", "a picture of {}", "an image of {}", "a drawing of {}")
"""Prompts for a name; a class is represented by the mean of their embeddings (Radford et al. 2021, section 3.1.4)."""

Figure = dict[str, float]
"""{"value": …, "chance": …}, both from 0 to 1."""


@torch.no_grad()
def embed(model: Clip, tokenizer: Tokenizer, pairs: Pairs) -> tuple[torch.Tensor, torch.Tensor]:
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


def retrieval(v: torch.Tensor, t: torch.Tensor) -> dict[str, Figure]:
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


def ndcg_at_k(scores: torch.Tensor, gains: torch.Tensor, k: int) -> Figure:
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


def graded_retrieval(v: torch.Tensor, t: torch.Tensor, scenes: Sequence[Scene]) -> dict[str, Figure]:
    """nDCG@10 both ways, where a scene is as relevant as the number of concepts that it shares with the query's.

    v, t: (N, d), row i of both and scene i belong together. recall@k counts one right answer; this counts all of them.
    """
    similarity, shared = v @ t.T, relevance(scenes)
    return {
        f"{direction}_ndcg@10": ndcg_at_k(matrix, shared, 10)
        for direction, matrix in (("image_to_text", similarity), ("text_to_image", similarity.T))
    }


@torch.no_grad()
def align(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact") -> list[torch.Tensor]:
    """For every pair the patch that each word of its caption is matched to: N tensors (words,) int64.

    Without a dustbin, so that every model has to point at something; -1 only where words outnumber patches.
    """
    model.eval()
    device, context, found = model.tau.device, model.config.language.context_length, []
    for start in range(0, len(pairs), 256):
        chosen = slice(start, start + 256)
        tokens = tokenizer.encode(pairs.captions[chosen], context).to(device)
        patches = model.embed_patches(model.vision(pairs.images[chosen].to(device)))
        words, real = model.embed_words(model.language(tokens), tokens)
        check_finite(patches)
        patch = SOLVERS[choose("solver", solver, SOLVERS)](1 - words @ patches.mT, real, FREE).patch
        found += [row[mask].cpu() for row, mask in zip(patch, real, strict=True)]
    return found


def patches_in_box(box: Box, side: int, patches: int) -> list[int]:
    """The numbers of the patches whose centre lies in a box. side: of the image, pixels; patches: n, a square number."""
    rows = math.isqrt(patches)
    step = side / rows
    centres = [(number + 0.5) * step for number in range(rows)]
    left, top, right, bottom = box
    return [
        row * rows + column
        for row, y in enumerate(centres) if top <= y < bottom
        for column, x in enumerate(centres) if left <= x < right
    ]  # fmt: skip


def alignment(model: Clip, tokenizer: Tokenizer, pairs: Pairs, solver: str = "exact") -> Figure:
    """Share of the object words whose matched patch has its centre in the box of (one of) the things they name.

    An object word is a word of a thing's name; a word cut off at the context's end counts as missed. Chance: the share of
    all patches that would be right, mean over the words.
    """
    rows = align(model, tokenizer, pairs, solver)
    side = pairs.images.shape[-1]
    with torch.no_grad():
        number = model.vision(pairs.images[:1].to(model.tau.device)).patch_tokens.shape[1]
    spans = tokenizer.encode(pairs.captions, 1_000_000).spans  # of the whole captions, nothing cut off
    hits, chances = [], []
    for scene, patch, words in zip(pairs.scenes, rows, spans, strict=True):
        for span in {thing.span for thing in scene.things}:
            boxes = [thing.box for thing in scene.things if thing.span == span]
            right = {n for box in boxes for n in patches_in_box(box, side, number)}
            for word in words_of_span(words, span):
                hits.append(word < len(patch) and int(patch[word]) in right)
                chances.append(len(right) / number)
    return {"value": sum(hits) / len(hits), "chance": sum(chances) / len(chances)}


def mask_names(tokenizer: Tokenizer, pairs: Pairs, context_length: int) -> tuple[Tokens, torch.Tensor, list[int]]:
    """Captions with one name masked, where the name is a single word (the rest of a longer name would give it away).

    Scenes without such a name are left as they are. Returns the tokens; where they are masked (N, L) bool; and for every
    scene the concept whose name is masked, -1 where none is.
    """
    tokens = tokenizer.encode(pairs.captions, context_length)
    where, concepts = torch.zeros_like(tokens.mask), []
    for row, scene in enumerate(pairs.scenes):
        first = row % len(scene.things)  # not always the thing that is drawn first
        single = [
            (words, thing.concept)
            for thing in (*scene.things[first:], *scene.things[:first])
            if len(words := words_of_span(tokens.spans[row], thing.span)) == 1
            and scene.caption[slice(*thing.span)].isalpha()
        ]
        concepts.append(single[0][1] if single else -1)
        if single:
            where[row] = tokens.words[row] == single[0][0][0]
    ids = torch.where(where, SPECIAL.index(MASK), tokens.ids)
    return Tokens(ids, tokens.mask, tokens.words, tokens.spans), where, concepts


@torch.no_grad()
def masked_words(model: Clip, mlm: FusedMlm, tokenizer: Tokenizer, world: World, pairs: Pairs) -> dict[str, Figure]:
    """Share of masked object words that are guessed right: with the true image, without one, and with a wrong one.

    What is masked: see `mask_names`. A guess is right if it names the thing, by this or another of its names, and in any
    number. The wrong image is the next scene's that does not show the thing. Chance: what the best constant answer gets.
    """
    model.eval()
    mlm.eval()
    device = model.tau.device
    masked, where, concepts = mask_names(tokenizer, pairs, model.config.language.context_length)
    asked = [row for row, concept in enumerate(concepts) if concept >= 0]
    require(len(asked) > 0, "no caption names a thing in a single word, so none can be guessed; use more scenes.")
    wrong = list(range(len(pairs)))
    for row in asked:
        others = [*range(row + 1, len(pairs)), *range(row)]
        wrong[row] = next((o for o in others if concepts[row] not in pairs.scenes[o].concepts), row)

    def names(concept: int) -> set[tuple[int, ...]]:
        known = world.pictures.concepts[concept]
        texts = {form for name in (known.name, *known.synonyms) for form in (name, plural(name))}
        encoded = tokenizer.encode(sorted(texts), model.config.language.context_length)
        return {tuple(ids[mask][1:-1].tolist()) for ids, mask in zip(encoded.ids, encoded.mask, strict=True)}

    right_names = {concept: names(concept) for concept in set(concepts) - {-1}}
    shown = [concepts[row] for row in asked]
    figures, chance = {}, Counter(shown).most_common(1)[0][1] / len(shown)
    for how, images in (("true_image", range(len(pairs))), ("no_image", None), ("wrong_image", wrong)):
        hits = 0
        for rows in torch.tensor(asked).split(256):
            some = masked[rows]
            at = where[rows, : some.ids.shape[1]]
            image = None if images is None else model.vision(pairs.images[[images[row] for row in rows]].to(device))
            guesses = mlm(model.language, some.to(device), image, at.to(device)).argmax(1).cpu()
            for row, guess in zip(rows.tolist(), guesses.split(at.sum(1).tolist()), strict=True):
                hits += tuple(guess.tolist()) in right_names[concepts[row]]
        figures[f"masked_word_{how}"] = {"value": hits / len(asked), "chance": chance}
    return figures


def class_embeddings(model: Clip, tokenizer: Tokenizer, concepts: Sequence[Concept]) -> torch.Tensor:
    """One embedding a concept, the normalised mean over TEMPLATES. → (C, d)"""
    prompts = [template.format(one(concept)) for concept in concepts for template in TEMPLATES]
    return F.normalize(embed_texts(model, tokenizer, prompts).unflatten(0, (len(concepts), -1)).mean(1), dim=-1)


def top_k_accuracy(scores: torch.Tensor, right: torch.Tensor, k: int) -> Figure:
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


def zero_shot(model: Clip, tokenizer: Tokenizer, world: World, split: str, views: int) -> dict[str, Figure]:
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


def category_accuracy(model: Clip, tokenizer: Tokenizer, world: World, v: torch.Tensor, pairs: Pairs) -> Figure:
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
    shown = [concepts[scene.things[0].concept].category for scene in pairs.scenes]
    shares = [
        (guessed[torch.tensor([name == category for name in shown])] == number).double().mean().item()
        for number, category in enumerate(categories)
        if category in shown
    ]
    return {"value": sum(shares) / len(shares), "chance": 1 / len(categories)}


def evaluate(
    model: Clip, tokenizer: Tokenizer, world: World, config: EvalConfig, extra: nn.ModuleDict | None = None
) -> dict[str, dict[str, Figure]]:
    """Every figure of every split that is not trained on: {split: {figure: {"value", "chance"}}}.

    extra: the recipe's modules that exist in training only; masked words are asked for if it can guess them.
    """
    figures: dict[str, dict[str, Figure]] = {}
    for split in SPLITS:
        if split == "train" or not world.concepts(split):
            continue
        pairs = world.pairs(split, range(config.retrieval))
        v, t = embed(model, tokenizer, pairs)
        figures[split] = retrieval(v, t) | graded_retrieval(v, t, pairs.scenes)
        figures[split] |= zero_shot(model, tokenizer, world, split, config.views)
        figures[split]["alignment"] = alignment(model, tokenizer, pairs)
        if extra is not None and "masked_language" in extra:
            figures[split] |= masked_words(model, extra["masked_language"], tokenizer, world, pairs)
    return figures
