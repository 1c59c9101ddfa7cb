"""Diagnose a training run: evidence is measured first, then judged; every check is a pure function of numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F

from lcl.config import LclError, require
from lcl.data.base import DatasetView, PairDataset, Samples
from lcl.data.collection import open_dataset
from lcl.eval.metrics import embed
from lcl.losses.contrastive import both_ways, own_column
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer
from lcl.teachers.encoders import ImageEncoder, TextEncoder
from lcl.teachers.search import nearest_neighbours
from lcl.teachers.teacher import BankTeacher, Teacher
from lcl.train.findings import Diagnosis, Finding
from lcl.train.loop import VALIDATION_PAIRS, Event, Step, Training, Validation
from lcl.train.recipes import Recipe, StepContext
from lcl.train.runs import Run, load_run

PAIRS = 256  # training pairs that are measured
MANY_CUT = 0.05  # share of the captions that are cut, from which the context is too short (our choice)
COLLAPSED = 0.9  # mean cosine of two images, or two captions; in healthy training runs 0.01 to 0.16, in a collapsed one 1.00


@dataclass(frozen=True)
class Evidence:
    """What was measured; None where it could not be.

    Attributes:
        lengths: smallest and largest norm of an embedding.
        alike: mean cosine of two images, and of two captions.
        padding_cosine: smallest cosine between a caption's embedding alone and in a batch.
        words: number of words that the model counts in some captions, and the true number.
        info_nce: of one batch, the recipe's contrastive loss, and the cross-entropies along the rows and along the columns.
        losses: the contrastive part of the loss, by step; from_start: is the first step among these?
        scales: logit_scale, by step.
        validation_loss: the last one; recall: validation recall@1, mean of both directions, with its `chance`.
        self_neighbours: share of the rows that are their own neighbour, if the recipe does not want that.
        pairing_z: standard errors by which captions of similar images are more similar than any two, by frozen encoders; or why
            this was not measured.
        cut: how many training captions have more tokens than `context_length`, and how many were counted.
        softmax: is `losses` a cross-entropy over the batch, whose chance level is ln B?
    """

    batch_size: int
    lengths: tuple[float, float]
    alike: tuple[float, float]
    padding_cosine: float
    words: tuple[int, int]
    info_nce: tuple[float, float, float] | None
    losses: tuple[float, ...]
    from_start: bool
    scales: tuple[float, ...]
    validation_loss: float | None
    recall: float | None
    chance: float
    self_neighbours: float | None
    pairing_z: float | str | None
    cut: tuple[int, int]
    context_length: int
    softmax: bool = True


def diagnose(run: Path | str | Run | Training, curve: Sequence[Event] = (), source: PairDataset | None = None) -> Diagnosis:
    """Check a run's folder, or a training run and its events, for the usual faults; takes some seconds.

    Args:
        run: a finished run or its folder, or a `Training`.
        curve: the events that the training yielded.
        source: the data set of a finished run (default: opened where it was).

    Returns:
        One finding a check.
    """
    return judge(gather(run, curve, source))


def judge(evidence: Evidence) -> Diagnosis:
    """Apply every check."""
    return Diagnosis(finding for check in CHECKS if (finding := check(evidence)) is not None)


def gather(run: Path | str | Run | Training, curve: Sequence[Event] = (), source: PairDataset | None = None) -> Evidence:
    """Measure what the checks need; arguments as in `diagnose`."""
    if isinstance(run, Training):
        require(any(isinstance(event, Step) for event in curve), "a training is judged by its events; pass them as `curve`.")
        teacher, profile = run.teacher, run.profile
        return measure(run.model, run.tokenizer, run.source, profile.training, curve, run.recipe, run.extra, teacher)
    found = run if isinstance(run, Run) else load_run(Path(run))
    source = source or open_dataset(found.profile, found.pictures_folder, found.shards_folder, **found.split_folders)
    # a run's folder has no teacher, so neighbours are checked for a `Training` only
    return measure(found.model, found.tokenizer, source, found.profile.training, found.curve, found.recipe, found.extra, None)


@torch.no_grad()
def measure(
    model: Clip, tokenizer: Tokenizer, source, config, curve: Sequence[Event], recipe: Recipe, extra, teacher: Teacher | None
) -> Evidence:
    """The evidence of a trained model, which is set to evaluation mode."""
    model.eval()
    extra.eval()
    device, context = model.tau.device, model.config.language.context_length
    rows = source.train(min(config.pairs, PAIRS))
    pairs = rows.take(range(len(rows)))
    v, t = embed(model, tokenizer, pairs)
    lengths = torch.cat([v, t]).norm(dim=1)

    few = sorted(pairs.captions[:64], key=len)[:8]  # short ones have the most padding in a batch
    together = tokenizer.encode([*few, max(pairs.captions[:64], key=len)], context).to(device)
    alone = torch.cat([model.encode_text(tokenizer.encode([caption], context).to(device)) for caption in few])
    padding_cosine = F.cosine_similarity(alone, model.encode_text(together)[: len(few)]).min().item()
    _, real = model.embed_words(model.language(together), together)

    steps = [event for event in curve if isinstance(event, Step)]
    require(bool(steps), "a training is judged by its steps, but the curve has none.")
    validation = next((event for event in reversed(curve) if isinstance(event, Validation)), None)
    contrastive = next((name for name in ("info_nce", "soft_info_nce") if name in steps[0].losses), None)
    return Evidence(
        config.batch_size,
        (lengths.min().item(), lengths.max().item()),
        (mean_cosine(v), mean_cosine(t)),
        padding_cosine,
        (int(real.sum()), sum(len(spans) for spans in together.spans)),
        _info_nce(model, tokenizer, pairs, config.batch_size, recipe, extra),
        tuple(event.losses[contrastive] if contrastive else event.loss for event in steps),
        steps[0].step == 1,
        tuple(event.logit_scale for event in steps),
        validation and validation.loss,
        validation and (validation.image_to_text + validation.text_to_image) / 2,
        1 / max(1, len(source.validation(max(VALIDATION_PAIRS, config.batch_size)))),
        _self_neighbours(teacher),
        pairing_z(pairs),
        count_cut(source.train(config.pairs), tokenizer, context, 8 * PAIRS),
        context,
        contrastive is not None,
    )


def mean_cosine(x: torch.Tensor) -> float:
    """Mean cosine of two different rows."""
    x = F.normalize(x, dim=1)
    return ((x.sum(0).square().sum() - len(x)) / (len(x) * (len(x) - 1))).item()


def _info_nce(model: Clip, tokenizer: Tokenizer, pairs: Samples, size: int, recipe: Recipe, extra) -> tuple | None:
    """What `Evidence.info_nce` holds."""
    if "info_nce" not in recipe.weights:
        return None
    size, device = min(size, len(pairs)), model.tau.device
    images = pairs.images[:size].to(device)
    tokens = tokenizer.encode(pairs.captions[:size], model.config.language.context_length).to(device)
    seen = model(images, tokens)
    rows, columns = (F.cross_entropy(seen.logit_scale * s, own_column(s)).item() for s in both_ways(seen.v, seen.t))
    context = StepContext(model, extra, seen, tokens, 1.0, torch.Generator().manual_seed(0))
    loss = recipe.loss(context, ["info_nce"])[1].get("info_nce")
    return None if loss is None else (loss.item(), rows, columns)


def _self_neighbours(teacher: Teacher | None) -> float | None:
    if not isinstance(teacher, BankTeacher) or teacher.own:  # where the recipe wants own features, they are no mistake
        return None
    return max((found == torch.arange(len(found))).float().mean().item() for found in (teacher.a, teacher.b))


def count_cut(rows: DatasetView, tokenizer: Tokenizer, context_length: int, most: int = 20_000) -> tuple[int, int]:
    """How many captions have more than `context_length` tokens, and how many were counted: `most`, evenly spread, or fewer."""
    captions = rows.captions(range(0, len(rows), -(-len(rows) // most)))
    return tokenizer.count_cut(captions, context_length), len(captions)


def pairing_z(pairs: Samples) -> float | str | None:
    """How much more similar are captions of similar images than any two, by frozen encoders? In standard errors."""
    try:
        u, z = ImageEncoder()(pairs.images), TextEncoder()(pairs.captions)
    except LclError as reason:  # their packages or weights are missing, which no other check needs
        return str(reason)
    similarity = z @ z.T  # (N, N)
    near = similarity[torch.arange(len(z)), nearest_neighbours(u, 1).indices[:, 0]]
    usual = (similarity.sum(1) - similarity.diagonal()) / (len(z) - 1)
    gain = near - usual
    found = (gain.mean() / (gain.std() / len(gain) ** 0.5)).item()
    return found if math.isfinite(found) else None  # undefined, for example if all captions are equal


def length_one(e: Evidence) -> Finding:
    """Embeddings of length one (CLIP, section 2.3)."""
    low, high = e.lengths
    fix = "normalise both embeddings before the dot product" if max(abs(low - 1), abs(high - 1)) > 0.01 else ""
    return Finding("embeddings of length one", f"lengths from {low:.2f} to {high:.2f}", fix)


def both_directions(e: Evidence) -> Finding | None:
    """Cross-entropy along the rows and along the columns."""
    if e.info_nce is None:
        return None
    loss, rows, columns = e.info_nce
    one_way = abs(rows - columns) > 1e-3 and min(abs(loss - rows), abs(loss - columns)) < 1e-4
    fix = "the softmax runs along one axis only: let images choose captions, and captions images" if one_way else ""
    return Finding("both directions", f"loss {loss:.3f}; along the rows {rows:.3f}, along the columns {columns:.3f}", fix)


def temperature_moves(e: Evidence) -> Finding | None:
    """A learned logit_scale."""
    if len(e.scales) < 20:
        return None
    low, high = min(e.scales), max(e.scales)
    frozen = high - low < 1e-4 * high and high < 99
    fix = "add the temperature to the optimiser, without weight decay" if frozen else ""
    return Finding("temperature", f"logit_scale between {low:.2f} and {high:.2f}", fix)


def enough_negatives(e: Evidence) -> Finding | None:
    """A first loss of ln B: below it, pairs are compared with fewer than the batch."""
    if not e.softmax:
        return None
    first, chance = e.losses[0], math.log(max(e.batch_size, 1))
    said = f"first loss {first:.2f}, chance level among {e.batch_size} is {chance:.2f}"
    if e.batch_size < 2 or max(map(abs, e.losses)) < 1e-6:
        return Finding("negatives", said, "a batch of one has no negatives, so the loss is 0: use larger batches")
    fewer = e.from_start and first < 0.8 * chance
    fix = f"this is the chance level among {math.exp(first):.0f}: contrast the whole batch" if fewer else ""
    return Finding("negatives", said, fix)


def no_leakage(e: Evidence) -> Finding | None:
    """A training loss that follows from the embeddings; undecided if they collapsed."""
    if e.info_nce is None or max(e.alike) > COLLAPSED:
        return None
    loss, rows, columns = e.info_nce
    expected, chance = (rows + columns) / 2, math.log(max(e.batch_size, 2))
    leaks = loss < expected - 0.25 * chance and max(map(abs, e.losses)) > 1e-6
    fix = "the objective leaks its answer: a caption's embedding must not depend on its image" if leaks else ""
    return Finding("no peeking", f"loss {loss:.3f}, and {expected:.3f} from the embeddings alone", fix)


def not_collapsed(e: Evidence) -> Finding:
    """Different inputs, different embeddings."""
    collapsed = "the embeddings collapsed to one point: lower the learning rate, or look for a loss without negatives"
    fix = collapsed if max(e.alike) > COLLAPSED else ""
    return Finding("spread", f"cosine of two images {e.alike[0]:.2f}, of two captions {e.alike[1]:.2f}", fix)


def padding_is_masked(e: Evidence) -> Finding:
    """Padding that is neither attended to nor counted as a word."""
    counted, there = e.words
    said = f"a caption alone and in a batch: cosine {e.padding_cosine:.4f}; {counted} words counted"
    if counted != there:
        return Finding("padding", f"{said}, but {there} are there", "padding counts as words: mask it")
    fix = "a caption depends on the batch it is in: mask the padding" if e.padding_cosine < 0.999 else ""
    return Finding("padding", said, fix)


def others_as_neighbours(e: Evidence) -> Finding | None:
    """Neighbours other than the row itself."""
    fraction = e.self_neighbours
    if fraction is None:
        return None
    fix = "exclude the diagonal from the search: a row that is its own neighbour learns nothing from others"
    return Finding("neighbours", f"{fraction:.0%} of the rows are their own neighbour", fix if fraction > 0.01 else "")


def captions_belong(e: Evidence) -> Finding | None:
    """Captions that match their images."""
    if e.pairing_z is None:
        return None
    if isinstance(e.pairing_z, str):
        return Finding("pairing", f"left out, since it compares the pairs with frozen encoders: {e.pairing_z}", left_out=True)
    fix = "captions do not match their images: look at a dozen pairs" if e.pairing_z < 3 else ""
    return Finding("pairing", f"captions of similar images are {e.pairing_z:.1f} standard errors more alike", fix)


def captions_fit(e: Evidence) -> Finding:
    """Captions that are rarely cut at the context length."""
    cut, counted = e.cut
    longer = f"train with a longer context: --context-length {2 * e.context_length}" if cut > MANY_CUT * counted else ""
    said = f"{cut:,} of {counted:,} training captions have more than {e.context_length} tokens (cut)"
    return Finding("caption length", said, longer)


def learns(e: Evidence) -> Finding | None:
    """What was learned holds for new pairs: more hits than chance explains, or a validation loss below chance level."""
    if e.validation_loss is None or e.recall is None or e.chance > 0.1:  # among ten pairs or fewer, chance decides
        return None
    from scipy.stats import poisson  # takes a second

    queries = 2 / e.chance  # both directions
    by_chance = poisson.sf(e.recall * queries - 1, e.chance * queries)  # probability of so many hits without learning
    last = sum(e.losses[-10:]) / len(e.losses[-10:])
    said = f"loss {last:.2f}, on new pairs {e.validation_loss:.2f}; recall@1 there {e.recall:.1%} (chance {e.chance:.1%})"
    nothing = by_chance > 0.1 and e.validation_loss > 0.97 * math.log(max(e.batch_size, 2))
    fix = "nothing is learned that holds for new pairs: see the other lines, the learning rate, the number of steps"
    return Finding("learning", said, fix if nothing else "")


CHECKS: tuple[Callable[[Evidence], Finding | None], ...] = (
    length_one, both_directions, temperature_moves, enough_negatives, no_leakage, not_collapsed, padding_is_masked,
    others_as_neighbours, captions_belong, captions_fit, learns,
)  # fmt: skip
"""All checks, in order."""
