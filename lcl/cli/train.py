"""`lcl train`."""

import contextlib
import dataclasses
import shlex
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lcl import storage
from lcl.cli.common import (
    NO_SCENES,
    DataOption,
    ListRecipesOption,
    PairsOption,
    PicturesOption,
    ProfileOption,
    ScenesVersionOption,
    bar,
    changed,
    load_start,
    open_pairs,
    say,
)
from lcl.cli.follow import MINUTES, follow, own_folder
from lcl.config import LclError, ModelConfig, Profile, choose, from_dict, get_profile, need, require

METHODS = "clip, clip+soft, clip+match, clip+mlm, lightclip, clip+nn, clip+xnn, clip-ping, a-clip-ping, lightclip-ping"
TOWERS = "conv, vit, resnet18, mobilenetv2, swin-nano, or timm:NAME (a model of timm)"
FEW_STEPS = 100  # of a training run; below, a warning


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help=f"Training method: {METHODS}. More: --list-recipes.")] = "clip",
    list_recipes: ListRecipesOption = False,
    profile: ProfileOption = "laptop",
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: RECIPE-PROFILE.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed. Another seed gives another run.", min=0)] = 0,
    runs: Annotated[Path, typer.Option(help="The folder for all runs.")] = Path("runs"),
    scenes_version: ScenesVersionOption = None,
    pictures: PicturesOption = None,
    data: DataOption = None,
    validation: Annotated[
        Path | None, typer.Option(help="A folder of shards for validation. Default: a part of --data is held out.")
    ] = None,
    test: Annotated[Path | None, typer.Option(help="A folder of shards for the test. Default: a part of --data.")] = None,
    start: Annotated[
        Path | None, typer.Option("--from", help="Begin with the weights of a finished run, or of exported towers; see above.")
    ] = None,
    tower: Annotated[str | None, typer.Option(help=f"Image tower: {TOWERS}.")] = None,
    tower_width: Annotated[int | None, typer.Option(help="Width of the image tower, in channels.")] = None,
    tower_depth: Annotated[int | None, typer.Option(help="Number of layers of the image tower.")] = None,
    tower_heads: Annotated[int | None, typer.Option(help="Number of attention heads of a vit tower.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Side of the patches of a vit tower, in pixels.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the images that the image tower gets, in pixels.")] = None,
    text_tower: Annotated[str | None, typer.Option(help="Text tower: transformer, or hf:NAME (a model of Hugging Face).")] = None,
    text_depth: Annotated[int | None, typer.Option(help="Number of layers of the text tower.")] = None,
    context_length: Annotated[int | None, typer.Option(help="Most tokens of a caption. Longer captions are cut.")] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="Begin timm: and hf: towers with their pre-trained weights.")
    ] = False,
    pairs: PairsOption = None,
    epochs: Annotated[int | None, typer.Option(help="How many times to go through the training pairs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="How many pairs a training step compares with each other.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest learning rate: after the warm-up.")] = None,
    micro_batch: Annotated[
        int | None,
        typer.Option(help="Save memory: encode so many pairs at a time (gradient caching; exact without batch norms)."),
    ] = None,
    precision: Annotated[
        str | None,
        typer.Option(help="Number format of the towers: float32, or bfloat16 (less exact; often faster on a GPU or with AMX)."),
    ] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the towers with torch.compile.")] = False,
    activation_checkpointing: Annotated[
        bool,
        typer.Option(
            "--activation-checkpointing", "--recompute",
            help="Save memory: compute activations again in the backward pass, which makes steps slower.",
        ),
    ] = False,
    device: Annotated[
        str | None, typer.Option(help="Where to compute: cpu, cuda, or mps. Default: a CUDA GPU if there is one, else the CPU.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(help="Number of processes that read shards. Default: chosen for this machine.", min=0)
    ] = None,
    checkpoint_every: Annotated[
        int | None, typer.Option(help=f"Number of steps between two checkpoints. Default: one every {MINUTES} minutes.", min=1)
    ] = None,
    keep: Annotated[
        int, typer.Option(help="How many last checkpoints to keep, besides the best; 1 leaves none to fall back on.", min=1)
    ] = 2,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write a TensorBoard log, too.")] = False,
    resume: Annotated[Path | None, typer.Option(help="Continue the stopped run in this folder.")] = None,
) -> None:
    """Train a model, evaluate it, and write the run to the folder runs/NAME.

    The folder holds metrics.json, the model, and report.html. The options below change single settings of the profile.

    To stop early, press Ctrl-C: a checkpoint is written first. `lcl train --resume runs/NAME` continues a stopped run, bitwise
    identical to an uninterrupted one. If its data moved, name the new folder with --data. The checkpoints of a finished run are
    removed, unless you set --checkpoint-every.

    To train more epochs: `lcl train --from runs/NAME --epochs N` begins a new run with the weights, tokenizer, settings and data
    of a finished one. With --profile, or from exported towers, only the weights and the tokenizer are taken.
    """
    # Refuse mistakes at once, before torch loads.
    given = [option for option in context.params if context.get_parameter_source(option).name == "COMMANDLINE"]
    settings = ", ".join(_flag(option) for option in given if option not in ("resume", "workers", "device", "data", "pictures"))
    require(resume is None or not settings, f"a resumed run keeps its own settings; leave out {settings}.")
    if device:
        choose("device", device, ["cpu", "cuda", "mps"])
    base = get_profile(profile)
    if start:
        require(not pretrained, "--from brings the weights of a run; leave out --pretrained.")
        base, of_run = _begin_with(start, base)
        if of_run and "profile" not in given:
            base = from_dict(Profile, of_run.get("profile"))
            recipe = recipe if "recipe" in given else base.training.recipe
            if pictures is None and data is None:
                pictures, data = (Path(folder) if folder else None for folder in map(of_run.get, ("pictures", "shards")))
    require(data is None or scenes_version is None, NO_SCENES)
    towers = {"vision": tower or base.model.vision.tower, "language": text_tower or base.model.language.tower}
    named = {kind for kind, prefix in (("vision", "timm:"), ("language", "hf:")) if towers[kind].startswith(prefix)}
    unused = {"tower_heads": tower_heads, "patch_size": patch_size} if towers["vision"] != "vit" else {}
    unused |= {"tower_width": tower_width, "tower_depth": tower_depth} if towers["vision"] not in ("conv", "vit") else {}
    idle = ", ".join(_flag(option) for option, value in unused.items() if value is not None)
    require(not idle, f"the image tower {towers['vision']!r} takes no {idle}; leave that out, or choose another --tower.")
    require(bool(named) or not pretrained, "towers from scratch have no pre-trained weights; name one: --tower timm:NAME.")
    vision = {
        "tower": tower, "width": tower_width, "depth": tower_depth, "heads": tower_heads, "patch_size": patch_size,
        "image_size": image_size, "pretrained": (pretrained and "vision" in named) or None,
    }  # fmt: skip
    language = {
        "tower": text_tower, "depth": text_depth, "context_length": context_length,
        "pretrained": (pretrained and "language" in named) or None,
    }  # fmt: skip
    chosen = changed(
        base,
        scenes={"size": image_size, "version": scenes_version},
        model={"vision": vision, "language": language},
        training={
            "recipe": recipe, "pairs": pairs, "epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch,
            "learning_rate": learning_rate, "precision": precision, "compile": compile or None,
            "activation_checkpointing": activation_checkpointing or None,
        },
    )  # fmt: skip

    from lcl.data.collection import ShardDataset
    from lcl.models.clip import Clip, save_model
    from lcl.train.distributed import join
    from lcl.train.recipes import get_recipe
    from lcl.train.runs import START, Plan, check_data, free_name, new_run, read_plan, write_plan

    if device:
        _require_device(device)
    where, tars = (str(path.resolve()) if path else None for path in (pictures, data))
    if resume:
        plan = read_plan(resume)
        plan = dataclasses.replace(plan, pictures=where or plan.pictures, shards=tars or plan.shards)
    else:
        plan = Plan(chosen, seed, where, checkpoint_every or 0, keep, tars, tensorboard, str(start.resolve()) if start else None)
        own = {name: str(each.resolve()) for name, each in (("validation", validation), ("test", test)) if each}
        plan = dataclasses.replace(plan, **own)
    get_recipe(plan.profile.training.recipe)
    side, drawn = plan.profile.model.vision.image_size, plan.profile.scenes.size
    fits = plan.shards is not None or side == drawn
    require(fits, f"the model takes {side} pixels a side, the data set has {drawn}; make them equal.")  # before it is drawn
    if not plan.start:
        Clip(plan.profile.model)  # refuses an unknown tower, or weights that are not there, before anything is drawn
    with join(device) as ranks, contextlib.ExitStack() as stack:
        try:
            splits = {"validation": plan.validation, "test": plan.test}
            source = ranks.main_first(lambda: open_pairs(plan.profile, plan.pictures, plan.shards, **splits))
        except LclError as error:
            moved = " If the data moved, name the new folder with --data or --pictures." if resume and not (where or tars) else ""
            raise LclError(f"{error}{moved}") from None
        if resume:
            check_data(resume, plan.data, source)
        plan = dataclasses.replace(plan, data=source.fingerprint)
        if isinstance(source, ShardDataset) and pairs is None and not resume:
            fewer = min(chosen.training.pairs, len(source))
            plan = dataclasses.replace(plan, profile=changed(chosen, training={"pairs": fewer}))
        folder = resume
        if ranks.is_main and not resume:
            begun = load_start(start, chosen.model, None if tars else source.fingerprint) if start else None
            folder = stack.enter_context(new_run(runs, name or free_name(runs, f"{chosen.training.recipe}-{chosen.name}")))
        if ranks.is_main:
            stack.enter_context(own_folder(folder, resumed=bool(resume)))
        try:
            if ranks.is_main:
                if plan.start and not resume:
                    save_model(folder / START, *begun)  # so that the run can be resumed wherever the other one is
                write_plan(folder, plan)
            _train(plan, source, folder := Path(ranks.broadcast(folder)), ranks, workers)
        except BaseException as error:
            if ranks.is_main:
                interrupted = isinstance(error, (KeyboardInterrupt, SystemExit))
                _leave(folder, resume is None, plan.profile.training.steps if interrupted else 0)
            raise


def _flag(option: str) -> str:
    return {"start": "--from"}.get(option, f"--{option.replace('_', '-')}")


def _require_device(name: str) -> None:
    """Raise LclError if this machine, or this build of torch, has no such device."""
    import torch

    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    usable = " or ".join(device for device, found in there.items() if found)
    require(there[name], f"torch finds no {name} device on this machine; choose --device {usable}.")


def _begin_with(folder: Path, profile: Profile) -> tuple[Profile, dict]:
    """A profile with the model of a run or of exported towers, and what metrics.json says, if it is a run."""
    known = (folder / "model.json").exists()
    require(known, f"there is no model to begin with in {folder}; name the folder of a finished run, or of exported towers.")
    described = storage.read_json(folder / "model.json", storage.MAX_MODEL_BYTES)
    model = from_dict(ModelConfig, described.get("model") if isinstance(described, dict) else None)
    run = storage.read_json(folder / "metrics.json") if (folder / "metrics.json").exists() else {}
    return dataclasses.replace(profile, model=model), run if isinstance(run, dict) else {}


def _leave(folder: Path, is_new: bool, steps: int) -> None:
    """Leave a run that stopped: free the name of one that learned nothing, and say how to go on if the user stopped it.

    What is saved already stays as it is; only its report is missing then.

    Args:
        folder: of the run.
        is_new: it was not resumed.
        steps: of the whole training run; 0 if an error stopped it.
    """
    from lcl.train.checkpoints import checkpoints
    from lcl.train.runs import LOG, PLAN, START

    if (folder / "metrics.json").exists():
        return _tell_that_the_report_is_missing(folder, "stopped before its end")
    whole = checkpoints(folder / "checkpoints")
    if is_new and not whole:
        for name in (LOG, PLAN):
            (folder / name).unlink(missing_ok=True)
        for name in (START, "checkpoints"):
            shutil.rmtree(folder / name, ignore_errors=True)
    if steps and (whole or not is_new):
        step = int(whole[-1].name.removeprefix("step-")) if whole else 0
        command = f"lcl train --resume {shlex.quote(str(folder))}"
        print(f"stopped at step {step:,} of {steps:,}; go on with: {command}", file=sys.stderr)
    elif steps:
        print("stopped before the first checkpoint; nothing was saved.", file=sys.stderr)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], stage: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[stage] = time.perf_counter() - started


def _train(plan, source, folder: Path, ranks, workers: int | None) -> None:
    """Train in a run's folder, from its last checkpoint if it has one, and evaluate."""
    from lcl.course.metrics import table_text
    from lcl.data.scenes import SceneDataset
    from lcl.eval.metrics import evaluate_queries
    from lcl.models.clip import load_model
    from lcl.train.checkpoints import resume
    from lcl.train.loop import Training, open_teacher
    from lcl.train.recipes import get_recipe
    from lcl.train.runs import PLAN, START, save_run

    profile, seconds, method, teacher = plan.profile, {}, get_recipe(plan.profile.training.recipe), None
    begun = load_model(folder / START) if plan.start else None
    with _timed(seconds, "setting up"):
        if method.needs_teacher:
            rows, off = profile.training.pairs, not ranks.is_main
            banks, finds = (rows, 0) if method.ping.live else (2 * rows, 0 if method.ping.own == 1 else 2 * rows)
            with (
                bar("banks", "row", banks, disable=off) as coded,
                bar("neighbours", "row", finds, disable=off or not finds) as found,
            ):
                teacher = ranks.main_first(lambda: open_teacher(method.ping, source, profile, coded.update, found.update))
        if isinstance(source, SceneDataset):
            need("sklearn", "scenes")  # the evaluation uses it; ask before training
        training = Training(profile, source, plan.seed, teacher=teacher, ranks=ranks, workers=workers, start=begun)
        resume(folder / "checkpoints", training)
    if ranks.is_main:
        _print_what_is_left_out(training)
    with _timed(seconds, "training"):
        curve = follow(training, folder, plan.checkpoint_every, plan.keep, plan.tensorboard)
    if not ranks.is_main:
        return
    with _timed(seconds, "evaluation"):
        metrics, ranked = evaluate_queries(training.model, training.tokenizer, source, profile.evaluation, training.extra)
    save_run(folder, training, curve, metrics, seconds, plan.pictures, plan.shards, plan.start, ranked)
    shutil.rmtree(folder / START, ignore_errors=True)
    if not plan.checkpoint_every:  # they were for a stop; each is three times as large as the model
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / PLAN).unlink()
    print(table_text(metrics))
    steps = [event.loss for event in curve if hasattr(event, "losses")]
    loss = f"loss {steps[0]:.3f} → {steps[-1]:.3f} in {len(steps):,} steps"
    missing = _report(folder, source)
    print(f"{loss}, {seconds['training'] / 60:.1f} minutes of training; see {folder if missing else folder / 'report.html'}")
    if len(steps) < FEW_STEPS:
        print(f"{len(steps)} steps are few to learn from; raise --epochs until there are some hundred.", file=sys.stderr)
    if missing:
        _tell_that_the_report_is_missing(folder, missing)


def _print_what_is_left_out(training) -> None:
    """Say on standard error how many captions are cut, and how many pictures are of another split."""
    from lcl.train.diagnosis import count_cut

    rows, context = training.source.train(training.profile.training.pairs), training.profile.model.language.context_length
    cut, counted = count_cut(rows, training.tokenizer, context)
    if cut:
        of = f"{cut:,} of {counted:,} training captions have more than {context} tokens and are cut"
        print(f"{of}; --context-length {2 * context} keeps more of them.", file=sys.stderr)
    if left_out := getattr(training.source, "left_out", 0):
        print(f"{left_out:,} training pairs are left out: validation or test has their picture.", file=sys.stderr)


def _report(folder: Path, source) -> str:
    """Write a run's report; returns why that failed, or nothing."""
    try:
        need("matplotlib", "course")

        from lcl.course.report import write_report
        from lcl.train.runs import load_run

        write_report(load_run(folder), source)
        return ""
    except LclError as error:
        return str(error)
    except Exception as error:  # whatever it is, the run is complete without its report
        return f"{type(error).__name__}: {error}"


def _tell_that_the_report_is_missing(folder: Path, reason: str) -> None:
    how = f"go on with: lcl report {shlex.quote(str(folder))}"
    say(f"the run is saved, but its report could not be written ({reason.strip().rstrip('.')}); {how}", error=True)
