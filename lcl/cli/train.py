"""`lcl train`."""

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from lcl.cli.common import DataOption, PicturesOption, ProfileOption, bar, open_pairs
from lcl.config import LclError, get_profile, need, require


def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="The method: its objectives and their weights.")] = "clip",
    profile: ProfileOption = "laptop",
    name: Annotated[str | None, typer.Option(help="Name of the run; by default RECIPE-PROFILE.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed.", min=0)] = 0,
    runs: Annotated[Path, typer.Option(help="The folder of all runs.")] = Path("runs"),
    pictures: PicturesOption = None,
    data: DataOption = None,
    tower: Annotated[str | None, typer.Option(help="Image tower: conv, vit, or timm:NAME.")] = None,
    tower_width: Annotated[int | None, typer.Option(help="Width of the image tower.")] = None,
    tower_depth: Annotated[int | None, typer.Option(help="Layers of the image tower.")] = None,
    tower_heads: Annotated[int | None, typer.Option(help="Attention heads of the vit tower.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Patch size of the vit tower, in pixels.")] = None,
    text_depth: Annotated[int | None, typer.Option(help="Layers of the text tower.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Training pairs; of shards, by default all, up to the profile's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Passes over the training pairs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Pairs per step.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Peak learning rate.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Pairs per forward pass (gradient caching), to save memory.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the towers: float32, or bfloat16 (faster on a GPU).")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Compile the image tower with torch.compile.")] = False,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", "--recompute", help="Less memory, slower steps.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that read shards; by default chosen for you.", min=0)] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; by default none.", min=1)] = None,
    keep: Annotated[int, typer.Option(help="How many checkpoints to keep, besides the best.", min=1)] = 2,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write a TensorBoard log.")] = False,
    resume: Annotated[Path | None, typer.Option(help="The folder of a stopped run, to continue it.")] = None,
) -> None:
    """Train, evaluate, and write runs/NAME/.

    The folder holds metrics.json, the model, and report.html. Options override the profile. With --checkpoint-every, `lcl train
    --resume runs/NAME` continues a stopped run, bitwise identical to an uninterrupted one.
    """
    # Refuse mistakes at once, before torch loads.
    image_tower = tower or get_profile(profile).model.vision.tower
    unused = {"tower_heads": tower_heads, "patch_size": patch_size} if image_tower != "vit" else {}
    unused |= {"tower_width": tower_width, "tower_depth": tower_depth} if image_tower.startswith("timm:") else {}
    idle = ", ".join(f"--{option.replace('_', '-')}" for option, value in unused.items() if value is not None)
    require(not idle, f"the image tower {image_tower!r} takes no {idle}; leave that out, or choose another --tower.")
    given = [option for option in context.params if context.get_parameter_source(option).name == "COMMANDLINE"]
    others = ", ".join(f"--{option.replace('_', '-')}" for option in given if option not in ("resume", "workers"))
    require(resume is None or not others, f"a resumed run keeps its own settings; leave out {others}.")
    vision = {"tower": tower, "width": tower_width, "depth": tower_depth, "heads": tower_heads, "patch_size": patch_size}
    chosen = _changed(
        get_profile(profile),
        model={"vision": vision, "language": {"depth": text_depth}},
        training={
            "recipe": recipe, "pairs": pairs, "epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch,
            "learning_rate": learning_rate, "precision": precision, "compile": compile or None,
            "activation_checkpointing": activation_checkpointing or None,
        },
    )  # fmt: skip

    from lcl.data.collection import ShardDataset
    from lcl.models.vision import make_vision
    from lcl.train.distributed import join
    from lcl.train.recipes import get_recipe
    from lcl.train.runs import LOG, Plan, free_name, new_run, read_plan, write_plan

    where, tars = (str(path.resolve()) if path else None for path in (pictures, data))
    plan = read_plan(resume) if resume else Plan(chosen, seed, where, checkpoint_every or 0, keep, tars, tensorboard)
    get_recipe(plan.profile.training.recipe)
    make_vision(plan.profile.model.vision)  # refuses an unknown tower before anything is drawn
    with join() as ranks, contextlib.ExitStack() as stack:
        source = ranks.main_first(lambda: open_pairs(plan.profile, plan.pictures, plan.shards))
        if isinstance(source, ShardDataset) and pairs is None and not resume:
            fewer = min(chosen.training.pairs, len(source))
            plan = dataclasses.replace(plan, profile=_changed(chosen, training={"pairs": fewer}))
        folder = resume
        if resume is None and ranks.is_main:
            folder = stack.enter_context(new_run(runs, name or free_name(runs, f"{recipe}-{profile}")))
            if plan.checkpoint_every:
                write_plan(folder, plan)
        try:
            _train(plan, source, folder := Path(ranks.broadcast(folder)), ranks, workers)
        except BaseException:
            if ranks.is_main and not plan.checkpoint_every:  # nothing to resume, so free the name
                (folder / LOG).unlink(missing_ok=True)
            raise


def _changed(config, **changes):
    """A config with changed fields, and changed fields of its fields; None leaves a field as it is."""
    new = {
        name: _changed(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
        if value is not None
    }
    return dataclasses.replace(config, **new)


@contextlib.contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    yield
    seconds[part] = time.perf_counter() - started


def _train(plan, source, folder: Path, ranks, workers: int | None) -> None:
    """Train in a run's folder, from its last checkpoint if it has one, and evaluate."""
    from lcl.course.study import table_text
    from lcl.data.scenes import SceneDataset
    from lcl.eval.metrics import evaluate
    from lcl.train.checkpoints import resume
    from lcl.train.loop import Training, open_teacher
    from lcl.train.recipes import get_recipe
    from lcl.train.runs import save_run

    profile, seconds, method, teacher = plan.profile, {}, get_recipe(plan.profile.training.recipe), None
    with _timed(seconds, "setting up"):
        if method.needs_teacher:
            total = profile.training.pairs * (1 if method.ping.live else 2)
            with bar("banks", "row", total, disable=not ranks.is_main) as progress:
                teacher = ranks.main_first(lambda: open_teacher(method.ping, source, profile, progress.update))
        if isinstance(source, SceneDataset):
            need("sklearn", "scenes")  # the evaluation uses it; ask before training
        training = Training(profile, source, plan.seed, teacher=teacher, ranks=ranks, workers=workers)
        resume(folder / "checkpoints", training)
    with _timed(seconds, "training"):
        curve = follow(training, folder, plan.checkpoint_every, plan.keep, plan.tensorboard)
    if not ranks.is_main:
        return
    with _timed(seconds, "evaluation"):
        metrics = evaluate(training.model, training.tokenizer, source, profile.evaluation, training.extra)
    save_run(folder, training, curve, metrics, seconds, plan.pictures, plan.shards)
    print(table_text(metrics))
    print(f"first loss {curve[0].loss:.3f}, {seconds['training'] / 60:.1f} minutes of training; see {_report(folder, source)}")


def _report(folder: Path, source) -> Path:
    """Write a run's report and return its path; without the extra `course`, say so and return the run's folder."""
    try:
        need("matplotlib", "course")
    except LclError as error:  # the run is complete without its report
        print(f"there is no report.html: {error}")
        return folder

    from lcl.course.report import write_report
    from lcl.train.runs import load_run

    return write_report(load_run(folder), source)


def follow(training, folder: Path, checkpoint_every: int = 0, keep: int = 2, tensorboard: bool = False) -> list:
    """Train to the end with a progress bar; returns all events, including those before a run was resumed.

    Args:
        folder: for checkpoints and logs.
        checkpoint_every: steps; 0 for none.
    """
    from lcl.train.checkpoints import save_checkpoint
    from lcl.train.loop import Step, Validation
    from lcl.train.runs import EventLog

    config, leads, score = training.profile.training, training.ranks.is_main, None
    log = EventLog(folder, training.step, tensorboard) if leads else None
    curve = log.before if log else []
    with bar("training", "step", config.steps, initial=training.step, disable=not leads) as progress:
        for event in training:
            curve.append(event)
            if log:
                log.write(event)
            if isinstance(event, Step):
                progress.update()
                progress.set_postfix_str(_progress_line(event), refresh=False)
            else:
                score = (event.image_to_text + event.text_to_image) / 2
                if leads:
                    progress.write(
                        f"step {event.step:5d}: validation InfoNCE {event.loss:.3f}; validation recall@1 "
                        f"{event.image_to_text:.0%} image→text, {event.text_to_image:.0%} text→image"
                    )
            validated = isinstance(event, Validation) or event.step % config.evaluate_every and event.step < config.steps
            if checkpoint_every and event.step % checkpoint_every == 0 and validated:  # after the validation step, if any
                save_checkpoint(folder / "checkpoints", training, score, keep)
    return curve


def _progress_line(step) -> str:
    replaced = f", {step.replaced} rows replaced" if step.replaced else ""
    return (
        f"loss {step.loss:.3f}, {step.pairs_per_second:.0f} pairs/s, {step.memory:.1f} GiB, "
        f"{step.waited:.0%} waiting for data{replaced}"
    )
