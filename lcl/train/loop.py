"""The training loop. It yields events: notebooks plot them, the command line prints them."""

from __future__ import annotations

import contextlib
import ctypes
import math
import shutil
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil
import torch

from lcl.config import LclError, Profile, Progress, TrainConfig, require
from lcl.data.base import Source, Taken
from lcl.eval.metrics import embed, recall_at_k
from lcl.models.clip import Clip
from lcl.models.layers import Block
from lcl.models.tokenizer import Tokenizer
from lcl.models.vision import augment
from lcl.teachers.banks import build_bank
from lcl.teachers.encoders import ImageEncoder, TextEncoder
from lcl.teachers.teacher import LiveGuide, Teacher, open_guide
from lcl.train.distributed import Team
from lcl.train.loader import Batch, batches
from lcl.train.recipes import Moment, PingConfig, Recipe, get_recipe
from lcl.train.together import Piece, backward

TOKENIZER_PAIRS = 16_384  # captions that the tokenizer is trained on
WATCHED = 256  # pairs, or a batch if that is more, that are looked at in training; never those of the evaluation


@dataclass(frozen=True)
class Step:
    """An optimiser step was made. losses: the parts by name. seconds_left: an estimate for all steps still to come.

    waited: share of the time so far that passed until batches were there. memory: GiB; the most that the GPU held, or what
    this process holds. replaced: rows that this process could not read since it began. seconds: that this step took, its
    batch included.
    """

    step: int  # 1 … total
    total: int
    loss: float
    losses: dict[str, float]
    learning_rate: float
    gradient_norm: float  # before clipping
    logit_scale: float
    pairs_per_second: float
    seconds_left: float
    waited: float = 0.0
    memory: float = 0.0
    replaced: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Look:
    """A look at pairs that are not trained on. loss: InfoNCE in batches of the training's size, or of all if they are fewer.

    image_to_text, text_to_image: recall@1 among all that are watched.
    """

    step: int
    loss: float
    image_to_text: float
    text_to_image: float


Event = Step | Look


def in_one_line(curve: Sequence[Event]) -> str:
    """What a training came to: its steps, their speed if it ran here, the loss and its parts, recall@1 at the last look."""
    steps, looks = ([event for event in curve if isinstance(event, kind)] for kind in (Step, Look))
    if not steps:
        return "stopped before the first step: nothing was learned"
    last = steps[-1]
    said = [f"{last.step:,} of {last.total:,} steps"]
    if last.pairs_per_second:  # 0 if it was kept, and not made here
        said.append(f"{last.pairs_per_second:,.0f} pairs/s")
    parts = ", ".join(f"{name} {value:.2f}" for name, value in last.losses.items())
    said += [f"loss {last.loss:.2f}" + (f" ({parts})" if len(last.losses) > 1 else ""), f"logit_scale {last.logit_scale:.1f}"]
    if looks:
        said.append(f"recall@1 among the watched {looks[-1].image_to_text:.2f} and {looks[-1].text_to_image:.2f}")
    return "; ".join(said)


class Training:
    """One run: iterate over it to train, read `model` and `tokenizer` at any time.

    teacher: tells the neighbours where the recipe asks for them; `open_teacher` of its settings if None. team: the processes
    that share every batch; they all hold the same model, and yield the same events but for times, memory and what each could
    not read. workers: as in `feeds.batches`.
    Everything random follows from `seed`: on a CPU the same seed, machine and number of threads give the same bits.
    Raises LclError when the loss stops being a finite number, with the step and the batch's pairs.
    """

    def __init__(
        self,
        profile: Profile,
        source: Source,
        seed: int = 0,
        device: str | None = None,
        recipe: Recipe | None = None,
        teacher: Teacher | None = None,
        team: Team | None = None,
        workers: int | None = None,
    ):
        self.team = team or Team(device=device or ("cuda" if torch.cuda.is_available() else "cpu"))
        share, piece = profile.training.batch_size / self.team.size, profile.training.micro_batch
        require(
            share.is_integer() and (piece is None or share % piece == 0),
            f"a batch of {profile.training.batch_size} does not divide among {self.team.size} processes"
            + (f" in pieces of {piece}." if piece else "."),
        )
        require(
            profile.model.vision.image_size == source.size,
            f"the model sees {profile.model.vision.image_size} pixels, the pictures have {source.size}; make them equal.",
        )
        self.profile, self.source, self.seed, self.workers = profile, source, seed, workers
        self.device = self.team.device
        self.recipe = recipe or get_recipe(profile.training.recipe)
        self.teacher = None
        if self.recipe.guided:
            self.teacher = teacher or open_teacher(self.recipe.ping, source, profile)
            knows, asked = self.teacher.description["rows"], source.training(profile.training.pairs).description
            require(
                knows | {"rows": 0} == asked | {"rows": 0} and knows["rows"] >= asked["rows"],
                f"the teacher knows {knows}, but this training asks for {asked}; open one for this data set and profile.",
            )
        self.tokenizer = train_tokenizer(source, profile)
        torch.manual_seed(seed)
        self.model = Clip(profile.model).to(self.device, memory_format=torch.channels_last)
        widths = self.teacher.widths if self.teacher else ()
        self.extra = self.recipe.make_extra(self.model, widths).to(self.device)  # after the model: recipes begin alike
        self.learner = torch.nn.ModuleList([self.model, self.extra])  # all that learns
        self.model.precision = profile.training.precision
        blocks = [block for block in self.learner.modules() if isinstance(block, Block)]
        for block in blocks:
            block.recompute = profile.training.recompute
        require(
            not profile.training.recompute or any(isinstance(block, Block) for block in self.model.vision.modules()),
            f"the image tower {profile.model.vision.tower!r} has no transformer blocks of ours, so there is little to recompute; "
            "use the tower vit, or leave out recompute.",
        )
        if profile.training.compile:
            compilers = ("c++", "g++", "clang++", "cl")
            require(any(map(shutil.which, compilers)), "to compile, a C++ compiler is needed; install one, or leave out compile.")
            self.model.vision.compile()  # captions have a length of their own each; compiling them would never end
        self.optimizer = make_optimizer(self.learner, profile.training)
        self.step = 0  # that many are done; whoever iterates goes on there

    def __iter__(self) -> Iterator[Event]:
        self.learner.train()
        try:
            yield from self._events()
        finally:  # also when somebody stops early
            self.learner.eval()

    def _events(self) -> Iterator[Event]:
        config, context = self.profile.training, self.profile.model.language.context_length
        watched = self.source.watched(max(WATCHED, config.batch_size))
        watched = watched.take(range(len(watched)))
        feed = batches(
            self.source, self.tokenizer, config, context, self.seed, self.device, self.team, self.step, self.workers
        )
        first, busy, waited = self.step, 0.0, 0.0
        started = time.perf_counter()  # the clock runs while a batch is read or drawn, too, but not during a look
        for batch in feed:
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
            yield Step(
                step,
                config.steps,
                loss,
                parts,
                self.optimizer.param_groups[0]["lr"],
                norm,
                logit_scale,
                config.batch_size * done / busy,
                (config.steps - step) * busy / done,
                waited / busy,
                self._memory(),
                batch.replaced,
                took,
            )
            if step % config.evaluate_every == 0 or step == config.steps:
                yield self._look(step, watched)
                give_memory_back()
                self.learner.train()
            started = time.perf_counter()

    def take_step(self, batch: Batch, step: int) -> tuple[float, float, float, dict[str, float]]:
        """One step of the optimiser: number `step`, counted from 0, of the whole training.

        Returns the loss, the gradient's norm before clipping, logit_scale, and the loss's parts. Raises LclError when the
        loss or its gradient is not finite; the parameters are then those of the step before (the statistics of batch norms
        may have seen the bad batch).
        """
        config = self.profile.training
        for group in self.optimizer.param_groups:
            group["lr"] = group["rate"] * learning_rate(config, step)
        self.optimizer.zero_grad()
        loss, parts = self._learn_from(batch, step)
        norm = torch.nn.utils.clip_grad_norm_(self.learner.parameters(), config.clip_norm)
        require(bool(torch.isfinite(norm)), f"the gradient's norm is {norm.item()}.")
        scale = self.model.logit_scale.detach()
        self.optimizer.step()

        total, norm, scale, *values = torch.stack([loss, norm, scale, *parts.values()]).tolist()  # waits
        return total, norm, scale, dict(zip(parts, values, strict=True))

    def _learn_from(self, batch: Batch, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The loss of a batch and its parts; their gradients are then at the parameters. Raises LclError if it is not finite."""
        progress, size = step / self.profile.training.steps, self.profile.training.micro_batch or len(batch.indices)
        pieces = []
        for number, rows in enumerate(torch.arange(len(batch.indices)).split(size)):
            place = self.team.rank * (len(batch.indices) // size) + number  # in the whole batch
            generator = torch.Generator().manual_seed(self.seed * 1_000_003 + step + place * 2**40)
            images = batch.images[rows[0] : rows[-1] + 1]
            images = augment(images, generator) if self.recipe.ping.live else images
            tokens = batch.tokens if len(rows) == len(batch.indices) else batch.tokens[rows]
            pieces.append(Piece(images, tokens, batch.indices[rows], generator))
        if len(pieces) > 1 or self.team.size > 1:
            loss, parts = backward(self.recipe, self.model, self.extra, pieces, progress, self.teacher, self.team)
            require(bool(torch.isfinite(loss)), f"the loss is {loss.item()}.")
            return loss, parts

        (piece,) = pieces
        near = self.extra["projections"](self.teacher(piece.indices, piece.images)) if self.teacher else None
        seen = self.model(piece.images, piece.tokens)
        now = Moment(self.model, self.extra, seen, piece.tokens, progress, piece.generator, near)
        loss, parts = self.recipe.loss(now)
        require(bool(torch.isfinite(loss)), f"the loss is {loss.item()}.")
        loss.backward()
        return loss.detach(), {name: part.detach() for name, part in parts.items()}

    def _memory(self) -> float:
        if self.device.startswith("cuda"):
            return torch.cuda.max_memory_allocated(self.device) / 2**30
        return psutil.Process().memory_info().rss / 2**30

    def _look(self, step: int, watched: Taken) -> Look:
        v, t = embed(self.model, self.tokenizer, watched)
        s = v @ t.T
        logits, size = self.model.logit_scale.item() * s, min(self.profile.training.batch_size, len(s))
        blocks = [logits[i : i + size, i : i + size] for i in range(0, len(s) - size + 1, size)]
        loss = sum(-(b.log_softmax(0) + b.log_softmax(1)).diagonal().mean().item() / 2 for b in blocks) / len(blocks)
        return Look(step, loss, recall_at_k(s, 1), recall_at_k(s.T, 1))


def give_memory_back() -> None:
    """Let the C library return memory that is free, but in pieces: batches have lengths of their own each, and what freed
    ones leave behind adds up in the hours of a long run. Linux's library alone can be asked to.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def open_teacher(settings: PingConfig, source: Source, profile: Profile, progress: Progress | None = None) -> Teacher:
    """Who tells a training's neighbours: banks of all its pairs, made and kept if they are not there yet.

    progress: is told the number of rows that are encoded, as they are: each of the pairs once a bank.
    """
    rows = source.training(profile.training.pairs)
    image_encoder = ImageEncoder(settings.image_encoder, settings.image_size)
    text_encoder = TextEncoder(settings.text_encoder)
    if settings.live:
        return LiveGuide(image_encoder, build_bank(rows, text_encoder, progress=progress), settings.queue)
    return open_guide(rows, image_encoder, text_encoder, progress)


def train_tokenizer(source: Source, profile: Profile) -> Tokenizer:
    """The tokenizer of a data set: trained on captions that are trained on, and no others."""
    rows = source.training(profile.training.pairs)
    captions = rows.captions(range(0, len(rows), -(-len(rows) // TOKENIZER_PAIRS)))  # some of everywhere
    return Tokenizer.train(captions, profile.model.language.vocab_size, source.fingerprint)


def make_optimizer(model: torch.nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW; matrices and kernels decay, vectors and scalars (biases, norms, temperature) do not.

    Single numbers with a long way to go (the temperature, the sharpness of guesses) learn `temperature_rate` times faster.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay, "rate": 1.0},
        {"params": [p for p in parameters if p.ndim == 1], "weight_decay": 0.0, "rate": 1.0},
        {"params": [p for p in parameters if p.ndim == 0], "weight_decay": 0.0, "rate": config.temperature_rate},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, config.beta2), eps=1e-6, fused=True)


def learning_rate(config: TrainConfig, step: int) -> float:
    """Rises linearly over the warm-up, then falls as half a cosine to zero. step: 0 … steps - 1."""
    warmup = config.warmup * config.steps
    if step < warmup:
        return config.learning_rate * (step + 1) / (warmup + 1)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * (step - warmup) / (config.steps - warmup)))
