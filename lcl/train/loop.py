"""The training loop. It yields events: notebooks plot them, the command line prints them."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch

from lcl import storage
from lcl.config import LclError, Profile, Progress, TrainConfig, require
from lcl.data.base import PairDataset, Samples
from lcl.eval.metrics import embed_candidates
from lcl.eval.retrieval import Candidates, candidates, recall_at_k
from lcl.losses.masked_lm import FusionBlock
from lcl.machine import give_memory_back, resident_memory
from lcl.models.clip import Clip
from lcl.models.layers import Block
from lcl.models.tokenizer import Tokenizer
from lcl.models.vision import augment
from lcl.teachers.banks import build_bank
from lcl.teachers.encoders import ImageEncoder, TextEncoder
from lcl.teachers.teacher import LiveTeacher, Teacher, open_bank_teacher
from lcl.train.distributed import MicroBatch, Ranks, cached_backward, kept_within_parts, memory_of_step
from lcl.train.loader import Batch, batches
from lcl.train.objectives import StepContext
from lcl.train.recipes import PingConfig, Recipe, get_recipe

log = logging.getLogger("lcl")
TOKENIZER_PAIRS = 16_384  # captions that the tokenizer is trained on
VALIDATION_PAIRS = 256  # or a batch, if that is more; they are never those of the evaluation


@dataclass(frozen=True)
class Step:
    """An optimiser step.

    Attributes:
        step: its number, 1 to total.
        loss: the weighted total; losses: its parts before weighting, by objective.
        gradient_norm: before clipping.
        seconds_left: an estimate for all steps to come.
        waited: share of the time so far that was spent waiting for data, 0 to 1.
        memory: GiB; the largest allocation of a GPU since this run began, or what this process holds.
        replaced: rows that this process could not read since it started.
        seconds: of this step, its batch included.
    """

    step: int
    total: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float
    logit_scale: float
    pairs_per_second: float
    seconds_left: float
    waited: float = 0.0
    memory: float = 0.0
    replaced: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Validation:
    """A validation step.

    Attributes:
        step: after which optimiser step.
        loss: InfoNCE in batches of the training's size, or of all validation pairs if they are fewer.
        image_to_text, text_to_image: recall@1 among all validation pairs, 0 to 1.
    """

    step: int
    loss: float
    image_to_text: float
    text_to_image: float


Event = Step | Validation


def in_one_line(curve: Sequence[Event]) -> str:
    """Sum up a training run: steps, speed if it ran here, loss and parts, recall@1 of the last validation step."""
    steps, validations = ([event for event in curve if isinstance(event, kind)] for kind in (Step, Validation))
    if not steps:
        return "stopped before the first step: nothing was learned"
    last = steps[-1]
    parts = [f"{last.step:,} of {last.total:,} steps"]
    if last.pairs_per_second:  # 0 for a saved training
        parts.append(f"{last.pairs_per_second:,.0f} pairs/s")
    losses = ", ".join(f"{name} {value:.2f}" for name, value in last.losses.items())
    parts += [f"loss {last.loss:.2f}" + (f" ({losses})" if len(last.losses) > 1 else ""), f"logit_scale {last.logit_scale:.1f}"]
    if validations:
        last = validations[-1]
        parts.append(f"validation recall@1 {last.image_to_text:.2f} (image→text) and {last.text_to_image:.2f} (text→image)")
    return "; ".join(parts)


class Training:
    """One training run: iterate over it to train; `model` and `tokenizer` can be read at any time.

    Everything random follows from `seed`: on a CPU the same seed, machine and number of threads give bitwise the same results.

    Args:
        profile: model, data and training settings; its vocabulary becomes as large as the tokenizer's, or as that of `start`.
        source: the data set.
        seed: of weights, order, masks and views.
        device: "cpu", "cuda", …; by default a GPU if there is one.
        recipe: the method (default: the one that the profile names).
        teacher: the source of neighbours, if the recipe needs one (default: `open_teacher`).
        ranks: the process group that shares every batch. All ranks hold the same model and yield the same events, except
            for times, memory and unreadable rows.
        workers: as in `loader.batches`.
        start: the model, of the profile's config, and the tokenizer to begin with (default: new ones).

    Raises:
        LclError: for settings that do not fit together; while training, when the loss is no longer finite, with the step
            and the batch's pairs, and for a step that does not fit into memory.
    """

    def __init__(
        self, profile: Profile, source: PairDataset, seed: int = 0, device: str | None = None, recipe: Recipe | None = None,
        teacher: Teacher | None = None, ranks: Ranks | None = None, workers: int | None = None,
        start: tuple[Clip, Tokenizer] | None = None,
    ):  # fmt: skip
        self.ranks = ranks or Ranks(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        share, micro_batch = profile.training.batch_size / self.ranks.world_size, profile.training.micro_batch
        require(
            share.is_integer() and (micro_batch is None or share % micro_batch == 0),
            f"a batch of {profile.training.batch_size} does not divide among {self.ranks.world_size} processes"
            + (f" in micro-batches of {micro_batch}." if micro_batch else "."),
        )
        require(
            profile.model.vision.image_size == source.size,
            f"the model takes {profile.model.vision.image_size} pixels a side, the data set has {source.size}; make them equal.",
        )
        self.source, self.seed, self.workers, self.device = source, seed, workers, self.ranks.device
        self.recipe, self.teacher = recipe or get_recipe(profile.training.recipe), None
        if self.recipe.needs_teacher:
            self.teacher = teacher or open_teacher(self.recipe.ping, source, profile)
            known, wanted = self.teacher.description["rows"], source.train(profile.training.pairs).description
            require(
                known | {"rows": 0} == wanted | {"rows": 0} and known["rows"] >= wanted["rows"],
                f"the teacher has features of {known}, but this training needs {wanted}; open one for this data set and profile.",
            )
            given, ping = self.teacher.description, self.recipe.ping
            require(
                (given.get("choice", "nearest"), given.get("own", 0.0)) == (ping.choice, ping.own),
                f"the teacher's choice of neighbours is not that of the recipe {self.recipe.name!r}; open one by `open_teacher`.",
            )
        self.tokenizer = train_tokenizer(source, profile, start and start[1])
        torch.manual_seed(seed)
        language = replace(profile.model.language, vocab_size=self.tokenizer.vocab_size)  # few captions teach fewer tokens
        model = start[0] if start else Clip(replace(profile.model, language=language))
        self.profile = replace(profile, model=model.config)
        self.model = model.to(self.device, memory_format=torch.channels_last)
        dims = self.teacher.dims if self.teacher else ()
        self.extra = self.recipe.make_extra(self.model, dims).to(self.device)  # after the model: all recipes start alike
        if "sigmoid" in self.extra and not start:
            self.model.tau.data.fill_(math.log(10.0))  # SigLIP's first value
        self.learner = torch.nn.ModuleList([self.model, self.extra])  # everything that is trained
        self.model.precision = profile.training.precision
        for block in self.learner.modules():
            if isinstance(block, Block):
                block.activation_checkpointing = profile.training.activation_checkpointing
        require(
            not profile.training.activation_checkpointing
            or any(isinstance(block, Block) for block in self.model.vision.modules()),
            f"the image tower {profile.model.vision.tower!r} has no transformer blocks of ours to checkpoint; use the tower vit, "
            "or leave out activation checkpointing.",
        )
        if profile.training.compile:
            compilers = ("c++", "g++", "clang++", "cl")
            require(any(map(shutil.which, compilers)), "to compile, a C++ compiler is needed; install one, or leave out compile.")
            storage.keep_programs_private()
            self.model.vision.compile()
            if self.device.startswith("cuda"):  # on a CPU captions are packed, which no compiler follows
                compile_blocks([self.model.language, self.extra])
        part = profile.training.micro_batch or int(share)
        if part < profile.training.batch_size and self.ranks.is_main and (told := kept_within_parts(model, self.recipe, part)):
            log.warning(told)
        self.optimizer = make_optimizer(self.learner, profile.training)
        self.step = 0  # steps done; iterating goes on from there

    def __iter__(self) -> Iterator[Event]:
        self.learner.train()
        if self.device.startswith("cuda"):
            torch.cuda.reset_peak_memory_stats(self.device)  # what this process did before is not its own
        try:
            with memory_of_step(self.profile.training, self.ranks):
                yield from self._events()
        finally:  # also when iterating stops early
            self.learner.eval()

    def _events(self) -> Iterator[Event]:
        config, context = self.profile.training, self.profile.model.language.context_length
        validation = self.source.validation(max(VALIDATION_PAIRS, config.batch_size))
        validation = validation.take(range(len(validation)))
        ranked = candidates(validation)
        loader = batches(
            self.source, self.tokenizer, config, context, self.seed, self.device, self.ranks, self.step, self.workers
        )
        first, busy, waited = self.step, 0.0, 0.0
        started = time.perf_counter()  # reading or drawing a batch counts, a validation step does not
        for batch in loader:
            waited += time.perf_counter() - started
            try:
                loss, norm, logit_scale, parts = self.take_step(batch, self.step)
            except LclError as error:
                raise LclError(
                    f"training stopped at step {self.step + 1}, on the pairs {batch.indices.tolist()}: {error} "
                    "Lower the learning rate, or look at these pairs."
                ) from None
            took = time.perf_counter() - started
            self.step, busy = self.step + 1, busy + took
            step, done = self.step, self.step - first
            rate, speed = self.optimizer.param_groups[0]["lr"], config.batch_size * done / busy
            yield Step(
                step, config.steps, loss, parts, rate, norm, logit_scale, speed, (config.steps - step) * busy / done,
                waited / busy, self._memory(), batch.replaced, took,
            )  # fmt: skip
            if step % config.evaluate_every == 0 or step == config.steps:
                yield self._validate(step, validation, ranked)
                give_memory_back()
                self.learner.train()
            started = time.perf_counter()

    def take_step(self, batch: Batch, step: int) -> tuple[float, float, float, dict[str, float]]:
        """One optimiser step: number `step` of the whole training run, counted from 0.

        Returns:
            The loss, the gradient norm before clipping, logit_scale, and the parts of the loss.

        Raises:
            LclError: if the loss or its gradient is not finite. The parameters are then those of the step before; the running
                statistics of batch norms may include the bad batch.
        """
        config = self.profile.training
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(config, step)
        self.optimizer.zero_grad()
        loss, parts = self._learn_from(batch, step)
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip_norm)
        told = torch.stack([loss, norm, self.model.logit_scale.detach(), *parts.values()])
        self.optimizer.found_inf = (~torch.isfinite(told[:2])).any().float()  # if it is 1, the next line changes nothing
        self.optimizer.step()
        total, norm, scale, *values = told.tolist()  # the only place where the host waits for a GPU
        require(math.isfinite(total), f"the loss is {total}.")
        require(math.isfinite(norm), f"the gradient's norm is {norm}.")
        return total, norm, scale, dict(zip(parts, values, strict=True))

    def _learn_from(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its parts; sets the gradients."""
        progress, size = step / self.profile.training.steps, self.profile.training.micro_batch or len(batch.indices)
        micro_batches = []
        for number, start in enumerate(range(0, len(batch.indices), size)):
            rows = slice(start, start + size)
            place = self.ranks.rank * (len(batch.indices) // size) + number  # in the whole batch
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + place * 2**40)
            images = batch.images[rows]
            images = augment(images, generator) if self.recipe.views or self.recipe.ping.live else images
            tokens = batch.tokens if size == len(batch.indices) else batch.tokens[range(start, start + size)]
            micro_batches.append(MicroBatch(images, tokens, batch.indices[rows], generator))
        if len(micro_batches) > 1 or self.ranks.world_size > 1:
            return cached_backward(self.recipe, self.model, self.extra, micro_batches, progress, self.teacher, self.ranks)

        (part,) = micro_batches
        neighbours = None
        if self.teacher:
            neighbours = self.extra["projections"](self.teacher(part.indices, part.images, generator=part.generator))
        embeddings = self.model(part.images, part.tokens)
        context = StepContext(self.model, self.extra, embeddings, part.tokens, progress, part.generator, neighbours)
        loss, parts = self.recipe.loss(context)
        loss.backward()
        return loss.detach(), {name: part.detach() for name, part in parts.items()}

    def _memory(self) -> float:
        on_gpu = self.device.startswith("cuda")
        return (torch.cuda.max_memory_allocated(self.device) if on_gpu else resident_memory()) / 2**30

    def _validate(self, step: int, validation: Samples, ranked: Candidates) -> Validation:
        v, t = embed_candidates(self.model, self.tokenizer, validation, ranked)
        similarity = v @ t.T
        s = similarity[ranked.picture][:, ranked.caption]  # of all pairs
        logits, size = self.model.logit_scale.item() * s, min(self.profile.training.batch_size, len(s))
        blocks = [logits[i : i + size, i : i + size] for i in range(0, len(s) - size + 1, size)]
        loss = sum(-(b.log_softmax(0) + b.log_softmax(1)).diagonal().mean().item() / 2 for b in blocks) / len(blocks)
        recall = recall_at_k(similarity, 1, ranked.right), recall_at_k(similarity.T, 1, ranked.right.T)
        return Validation(step, loss, *recall)


def open_teacher(
    settings: PingConfig, source: PairDataset, profile: Profile, progress: Progress | None = None,
    searched: Progress | None = None,
) -> Teacher:  # fmt: skip
    """The teacher of a training run: banks of all its pairs, built and kept if they do not exist yet.

    Args:
        settings: encoders, and whether the teacher is live.
        source: the data set.
        profile: how many pairs are trained on.
        progress, searched: called with the number of rows encoded, or searched, since the last call; a pair counts once a bank.
    """
    rows = source.train(profile.training.pairs)
    images, captions = ImageEncoder(settings.image_encoder, settings.image_size), TextEncoder(settings.text_encoder)
    if settings.live:
        return LiveTeacher(images, build_bank(rows, captions, progress=progress), settings.queue)
    return open_bank_teacher(rows, images, captions, progress, settings.choice, settings.own, searched)


def train_tokenizer(source: PairDataset, profile: Profile, begun: Tokenizer | None = None) -> Tokenizer:
    """Train the tokenizer of a data set, on training captions only; one to begin with keeps its tokens, and learns words."""
    rows = source.train(profile.training.pairs)
    captions = rows.captions(range(0, len(rows), -(-len(rows) // TOKENIZER_PAIRS)))  # spread evenly
    if begun:
        return begun.for_data(source.fingerprint, captions)
    return Tokenizer.train(captions, profile.model.language.vocab_size, source.fingerprint)


def compile_blocks(parts: Sequence[torch.nn.Module]) -> None:
    """Compile the blocks that captions pass through, for any length: whole towers would be compiled anew for each."""
    for block in (block for part in parts for block in part.modules() if isinstance(block, Block | FusionBlock)):
        block.compile(dynamic=True)


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW. Matrices and kernels decay; vectors and scalars (biases, norms, temperature) do not.

    Scalars, which have far to go (`tau`, the sharpness of the vocabulary head), learn `temperature_rate` times faster.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay, "rate": 1.0},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0, "rate": 1.0},
        {"params": [p for p in parameters if p.ndim == 0], "weight_decay": 0.0, "rate": config.temperature_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), eps=1e-6, fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, then half a cosine down to zero. step: 0 to steps - 1."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (config.steps - warmup)))
