"""A batch in micro_batches and a batch among processes learn what one forward pass would: real processes, all recipes."""

import contextlib
import dataclasses
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import torch.multiprocessing
import torch.nn.functional as F
from conftest import TINY, PixelEncoder, WordEncoder

from lcl.config import LclError, ModelConfig, VisionConfig, get_profile
from lcl.data.scenes import open_scenes
from lcl.models.clip import Clip
from lcl.models.tokenizer import Tokenizer
from lcl.teachers.banks import Bank, build_bank
from lcl.teachers.search import nearest_neighbours
from lcl.teachers.teacher import BankTeacher, LiveTeacher
from lcl.train.checkpoints import resume, save_checkpoint
from lcl.train.distributed import MicroBatch, Ranks, cached_backward, join, kept_within_parts
from lcl.train.loop import Step, Training
from lcl.train.objectives import PAIRWISE, StepContext
from lcl.train.recipes import RECIPES, PingConfig, Recipe, get_recipe

THINGS = ("cat", "dog", "car", "owl")
CAPTIONS = [f"a {how} {obj} on {background}" for how in ("red", "big") for obj in THINGS for background in ("grass", "snow")]
ROWS = len(CAPTIONS)  # 16
IMAGES = torch.randint(0, 256, (ROWS, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
TOKENS = Tokenizer.train(CAPTIONS, 300, "a data set").encode(CAPTIONS, 48)
VIT = dataclasses.replace(TINY, vision=VisionConfig("vit", width=32, depth=1))  # without statistics of batches
STEPS = 20


def teacher_for(recipe: Recipe) -> BankTeacher | LiveTeacher | None:
    """Real neighbours, found among features of these pictures and of random captions."""
    if not recipe.needs_teacher:
        return None
    encoder, rows = PixelEncoder(), {"rows": ROWS}
    captions = F.normalize(torch.randn(ROWS, 7, generator=torch.Generator().manual_seed(1)), dim=1).half()
    images = encoder(IMAGES).half()
    u, z = (Bank(Path("nowhere"), {"rows": rows}, name, (x,)) for name, x in (("images", images), ("captions", captions)))
    if recipe.ping.live:
        return LiveTeacher(encoder, z, 24)
    return BankTeacher(u, z, nearest_neighbours(u, 1), nearest_neighbours(z, 1))


def pieces_of(ranks: Ranks, size: int, step: int) -> list[MicroBatch]:
    """This process's part of a batch, in micro_batches; what is random in a piece depends on its place in the batch alone."""
    found = []
    for number in range(ROWS // (size * ranks.world_size)):
        place = ranks.rank * (ROWS // (size * ranks.world_size)) + number
        rows = torch.arange(place * size, (place + 1) * size)
        generator = torch.Generator().manual_seed(100 * step + place)
        found.append(MicroBatch(IMAGES[rows].double() / 255, TOKENS[rows.tolist()], rows, generator))
    return found


def learn(name: str, ranks: Ranks, size: int, steps: int, config: ModelConfig = TINY) -> dict:
    """Train for some steps; what the first one found, and the weights at the end."""
    recipe = get_recipe(name)
    teacher = teacher_for(recipe)
    torch.manual_seed(0)
    model = Clip(config).train()
    extra = recipe.make_extra(model, teacher.dims if teacher else ())
    model.double(), extra.double()  # or the last digit of an untrained tower's gradient is another weight 20 steps later
    learner = torch.nn.ModuleList([model, extra])
    optimizer = torch.optim.SGD(learner.parameters(), 0.05)  # AdamW would make a whole step of a gradient's last digit
    first = None
    for step in range(steps):
        loss, parts = cached_backward(recipe, model, extra, pieces_of(ranks, size, step), step / steps, teacher, ranks)
        if first is None:
            gradients = {n: p.grad.clone() for n, p in learner.named_parameters()}
            first = {"loss": loss, "parts": parts, "gradients": gradients, "buffers": dict(model.named_buffers())}
            first = {key: {k: v.clone() for k, v in x.items()} if isinstance(x, dict) else x.clone() for key, x in first.items()}
        optimizer.step()
    return first | {"weights": {n: p.detach().clone() for n, p in learner.state_dict().items()}}


@contextlib.contextmanager
def joined(rank: int, port: int) -> Iterator[Ranks]:
    """Join a group of two, as `torchrun` would start it."""
    torch.set_num_threads(1)
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with join("cpu") as ranks:
        yield ranks


def start_two(process: Callable[[int, int, str], None], folder: Path, start_method: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(process, (port, str(folder)), nprocs=2, start_method=start_method)


SHARED = [*RECIPES, "siglip-ping", "clip+queue"]  # by two processes


def one_of_two(rank: int, port: int, folder: str) -> None:
    with joined(rank, port) as ranks:
        found = {name: learn(name, ranks, ROWS // 2, STEPS) for name in SHARED}
        torch.save(found, f"{folder}/{rank}.pt")


@pytest.fixture(scope="module")
def two(tmp_path_factory, start_method) -> list[dict]:
    """What each of two processes learned, recipe by recipe."""
    folder = tmp_path_factory.mktemp("two")
    start_two(one_of_two, folder, start_method)
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


def close(found, wanted, tolerance: float) -> None:
    if isinstance(wanted, dict):
        assert found.keys() == wanted.keys()
        for key in wanted:
            close(found[key], wanted[key], tolerance)
    else:
        assert (found - wanted).abs().max() <= tolerance * max(1.0, float(wanted.abs().max()))


@pytest.mark.parametrize("name", SHARED)
@pytest.mark.slow
def test_two_processes_learn_what_one_learns_from_the_same_batches(two, name):
    one = learn(name, Ranks(), ROWS // 2, STEPS)
    for rank in range(2):
        for part in ("loss", "parts", "gradients", "buffers"):
            close(two[rank][name][part], one[part], 1e-6)
        close(two[rank][name]["weights"], one["weights"], 1e-5)
    same = zip(two[0][name]["weights"].values(), two[1][name]["weights"].values(), strict=True)
    assert all(torch.equal(a, b) for a, b in same)  # not a bit apart, or they would drift


ALL_PAIRWISE = [name for name in RECIPES if set(RECIPES[name].weights) <= PAIRWISE] + ["siglip-ping", "clip+queue"]


@pytest.mark.parametrize("name", ALL_PAIRWISE)
@pytest.mark.parametrize("size", [1, 4, 16])
def test_pieces_of_any_size_learn_what_one_forward_pass_learns(name, size):
    whole = learn(name, Ranks(), ROWS, 1, VIT)
    close(learn(name, Ranks(), size, 1, VIT) | {"weights": {}}, whole | {"weights": {}}, 1e-6)


@pytest.mark.parametrize("name", RECIPES)
def test_one_piece_of_one_process_is_the_plain_loss_and_its_gradient(name):
    recipe, teacher = RECIPES[name], teacher_for(RECIPES[name])
    torch.manual_seed(0)
    model = Clip(TINY).train()
    extra = recipe.make_extra(model, teacher.dims if teacher else ())
    model.double(), extra.double()
    (piece,) = pieces_of(Ranks(), ROWS, 0)
    near = extra["projections"](teacher(piece.indices, piece.images)) if teacher else None
    seen = model(piece.images, piece.tokens)
    loss, parts = recipe.loss(StepContext(model, extra, seen, piece.tokens, 0.0, piece.generator, near))
    loss.backward()
    found = learn(name, Ranks(), ROWS, 1)
    close(found["loss"], loss.detach(), 1e-6)
    close(found["parts"], {part: value.detach() for part, value in parts.items()}, 1e-6)
    plain = {n: p.grad for n, p in torch.nn.ModuleList([model, extra]).named_parameters()}
    close(found["gradients"], plain, 1e-6)
    close(found["buffers"], dict(model.named_buffers()), 1e-6)


SMOKE = get_profile("smoke")
SHORT = dataclasses.replace(
    SMOKE, model=TINY, training=dataclasses.replace(SMOKE.training, pairs=32, epochs=1, batch_size=16)
)


@dataclasses.dataclass(frozen=True)
class Watched(Recipe):
    """Notes the seeds of the random generators that it is given."""

    seeds: list[int] = dataclasses.field(default_factory=list)

    def loss(self, context, *names):
        if context.generator:
            self.seeds.append(context.generator.initial_seed())
        return super().loss(context, *names)


@pytest.mark.parametrize(
    ("name", "tower", "words"),
    [
        ("clip", VIT, []),
        ("clip-ping", VIT, []),
        ("clip", TINY, ["batch norms"]),
        ("lightclip", VIT, ["matched_contrast and masked_language are computed"]),
        ("clip+mlm", TINY, ["masked_language is computed", "batch norms"]),
    ],
)
def test_what_stays_within_the_parts_of_a_batch_is_said_and_nothing_else(name, tower, words):
    told = kept_within_parts(Clip(tower), get_recipe(name), 8)
    assert bool(told) == bool(words) and all(word in told for word in words)
    assert not told or ("parts of 8 pairs" in told and told.count("batch norms") == ("batch norms" in words))


def test_a_training_in_micro_batches_says_what_stays_within_them(small_world, caplog):
    for micro_batch, told in ((None, 0), (16, 0), (8, 1)):
        caplog.clear()
        Training(dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, micro_batch=micro_batch)), small_world)
        assert caplog.text.count("batch norms use the statistics of their part") == told


def train_at_random(ranks: Ranks, folder: Path, micro_batch: int | None = None) -> tuple[list, list, dict]:
    """Two steps with random masks and views: the parts of the loss, the seeds of all generators, and what batch norms keep."""
    profile = dataclasses.replace(SHORT, training=dataclasses.replace(SHORT.training, micro_batch=micro_batch))
    source, recipe = open_scenes(profile.scenes), Watched(**vars(RECIPES["lightclip-ping"]) | {"ping": PingConfig(live=True)})
    captions = ranks.main_first(lambda: build_bank(source.train(32), WordEncoder(), folder / "bank"))
    teacher = LiveTeacher(PixelEncoder(), captions, 24)
    training = Training(profile, source, 0, recipe=recipe, teacher=teacher, ranks=ranks)
    losses = [event.losses for event in training if isinstance(event, Step)]
    return losses, recipe.seeds, dict(training.model.named_buffers())


def exchange(ranks: Ranks, rank: int, folder: Path) -> None:
    """What two processes tell each other."""
    assert (ranks.rank, ranks.world_size, ranks.is_main) == (rank, 2, rank == 0)
    mine = torch.full((2, 3), float(rank))
    assert ranks.gather(mine)[:, 0].tolist() == [0, 0, 1, 1] and ranks.add(mine.clone())[0, 0] == 1
    both = [torch.full((2,), 1.0 + rank), torch.full((1, 3), 10.0 * rank)]
    ranks.average(both)
    assert both[0].tolist() == [1.5, 1.5] and both[1].tolist() == [[5.0, 5.0, 5.0]]
    ranks.average([])  # as those of a model without batch norms
    assert ranks.broadcast(f"said by {rank}") == "said by 0"

    def work() -> bool:
        found = (folder / "made first").exists()
        if not found:
            time.sleep(0.3)
            (folder / "made first").touch()
        return found

    assert ranks.main_first(work) == (rank == 1)
    ranks.wait()


def one_of_two_at_random(rank: int, port: int, folder: str) -> None:
    with joined(rank, port) as ranks:
        exchange(ranks, rank, Path(folder))
        torch.save(train_at_random(ranks, Path(folder)), f"{folder}/{rank}.pt")


def test_two_processes_draw_the_masks_and_views_of_one_and_no_two_the_same_and_keep_its_statistics(tmp_path, start_method):
    start_two(one_of_two_at_random, tmp_path, start_method)
    (losses, first, kept), (same, second, again) = (
        torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2)
    )
    of_one, seeds, kept_by_one = train_at_random(Ranks(), tmp_path, micro_batch=8)
    assert losses == same and len(set(seeds)) == 4 and sorted(first + second) == sorted(seeds)
    for step, whole in zip(losses, of_one, strict=True):
        assert step == pytest.approx(whole, rel=1e-4)
    assert any(name.endswith("running_var") for name in kept)
    close(kept, kept_by_one, 1e-3)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def one_of_two_goes_on(rank: int, port: int, folder: str) -> None:
    """Train in one go, and with a stop in between, with towers that draw random numbers: on each rank others."""

    def begin(ranks: Ranks) -> Training:
        training = Training(SHORT, open_scenes(SHORT.scenes), 0, ranks=ranks)

        def drop(tower, _, seen):
            torch.rand(ranks.rank)
            return seen._replace(pooled=F.dropout(seen.pooled))

        training.model.language.register_forward_hook(drop)
        return training

    with joined(rank, port) as ranks:
        whole = [event.losses for event in begin(ranks) if isinstance(event, Step)]
        first = next(iter(stopped := begin(ranks)))
        save_checkpoint(Path(folder), stopped)
        resume(Path(folder), again := begin(ranks))
        torch.save((whole, [first.losses, next(iter(again)).losses]), f"{folder}/{rank}.pt")


@pytest.mark.slow
def test_two_processes_go_on_with_their_own_random_numbers(tmp_path, start_method):
    start_two(one_of_two_goes_on, tmp_path, start_method)
    for rank in range(2):
        whole, resumed = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        assert whole == resumed


def test_what_batch_norms_keep_is_the_mean_over_pieces():
    found = learn("clip", Ranks(), 4, 1)["buffers"]
    apart = []
    for piece in pieces_of(Ranks(), 4, 0):
        torch.manual_seed(0)
        model = Clip(TINY).train().double()
        model(piece.images, piece.tokens)
        apart.append(dict(model.named_buffers()))
    for name, buffer in found.items():
        close(buffer.float(), torch.stack([one[name].float() for one in apart]).mean(0), 1e-6)


def test_more_processes_than_gpus_are_refused(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("RANK", "1"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(LclError, match="more processes than GPUs"), join("cuda"):
        pass


def test_a_group_of_one_needs_no_other():
    with join() as ranks:
        assert ranks.device == ("cuda" if torch.cuda.is_available() else "cpu")
    with join("cpu") as ranks:
        x = torch.ones(2, requires_grad=True)
        assert ranks == Ranks() and ranks.is_main and torch.equal(ranks.gather(x), x.detach()) and ranks.broadcast(3) == 3
        assert not ranks.gather(x).requires_grad
