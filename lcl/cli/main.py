"""The command line, also as `python -m lcl`: `data`, `banks`, `neighbours`, `train`, `evaluate`, `search`, `export`,
`diagnose`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import signal
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lcl.cli.data import PicturesOption, ProfileOption, data_app
from lcl.config import LclError, Profile, get_profile, need, require

app = typer.Typer(
    name="lcl",
    help="Lightweight CLIP Lab: make pairs of pictures and captions, train on them, see what was learned.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

SeedOption = Annotated[int, typer.Option(help="Of everything random in the training.", min=0)]
ImageEncoderOption = Annotated[str, typer.Option(help="The frozen image encoder: any model of timm.")]
TextEncoderOption = Annotated[str, typer.Option(help="The frozen text encoder: any of sentence-transformers, or a folder.")]
ImageSizeOption = Annotated[int, typer.Option(help="Pixels that the frozen image encoder looks at.")]
PrecisionOption = Annotated[str, typer.Option(help="Of the frozen encoders: float32, or bfloat16, faster and coarser.")]
RunsOption = Annotated[Path, typer.Option(help="The folder that holds the runs.")]
DataOption = Annotated[Path | None, typer.Option(help="A folder of shards, as `lcl data` makes them, instead of scenes.")]

app.add_typer(data_app, name="data")


@app.command()
def banks(
    profile: ProfileOption = "laptop",
    image_encoder: ImageEncoderOption = "tf_efficientnet_lite0",
    text_encoder: TextEncoderOption = "all-MiniLM-L6-v2",
    image_size: ImageSizeOption = 128,
    precision: PrecisionOption = "float32",
    pictures: PicturesOption = None,
    data: DataOption = None,
) -> None:
    """Encode every pair of a profile with two frozen encoders, and keep the features.

    Stopped at any time, it goes on where it was when it is called again.
    """
    rows = _rows(get_profile(profile), pictures, data)
    for bank in _banks(rows, image_encoder, text_encoder, image_size, precision):
        print(f"{len(bank)} rows of {bank.width} numbers in {bank.folder}, fingerprint {bank.fingerprint}")


@app.command()
def neighbours(
    profile: ProfileOption = "laptop",
    k: Annotated[int, typer.Option("--k", "-k", help="Neighbours of every row.", min=1)] = 8,
    approximate: Annotated[bool, typer.Option(help="Search by FAISS's inverted lists, and say what that misses.")] = False,
    save: Annotated[Path | None, typer.Option(help="Also write images.safetensors and captions.safetensors there.")] = None,
    image_encoder: ImageEncoderOption = "tf_efficientnet_lite0",
    text_encoder: TextEncoderOption = "all-MiniLM-L6-v2",
    image_size: ImageSizeOption = 128,
    precision: PrecisionOption = "float32",
    pictures: PicturesOption = None,
    data: DataOption = None,
) -> None:
    """Find every pair's nearest neighbours, among the images and among the captions.

    Builds the banks first, where they are missing.
    """
    rows = _rows(get_profile(profile), pictures, data)
    built = _banks(rows, image_encoder, text_encoder, image_size, precision)

    from tqdm import tqdm

    from lcl.data.scenes import SceneView
    from lcl.eval.metrics import neighbour_purity
    from lcl.teachers.search import approximate_neighbours, find_neighbours, recall_of_neighbours, save_neighbours

    of_scenes = isinstance(rows, SceneView)  # of other pairs nobody knows what they show
    scenes = [rows.world.scene("train", index) for index in range(len(rows))] if of_scenes else []
    for kind, bank in zip(("images", "captions"), built, strict=True):
        started = time.perf_counter()
        if approximate:
            found = approximate_neighbours(bank, k)
            missed = f"; has {recall_of_neighbours(bank, found):.1%} of the exact ones"
        else:
            with tqdm(total=len(bank), unit="row", desc=f"neighbours of {kind}", dynamic_ncols=True) as bar:
                found, missed = find_neighbours(bank, k, progress=bar.update), ""
        took, shows = time.perf_counter() - started, ""
        if scenes:
            purity = neighbour_purity(scenes, found.indices[:, :1])
            shows = f"; the nearest shows {purity['value']:.1%} of a scene's things, a random scene {purity['chance']:.1%}"
        print(f"{kind}: {took:.1f} s{shows}{missed}")
        if save:
            save_neighbours(save / f"{kind}.safetensors", found)
            print(f"wrote {save / f'{kind}.safetensors'}")


def _rows(profile: Profile, pictures: Path | None, data: Path | None):
    """The pairs that a profile trains on: of a collection no more than there are."""
    from lcl.data.collection import ShardDataset

    source = _open(profile, pictures, data)
    return source.train(min(profile.training.pairs, len(source)) if isinstance(source, ShardDataset) else profile.training.pairs)


def _open(profile: Profile, pictures: Path | str | None, data: Path | str | None):
    """Scenes or shards; where these were not looked at yet, that is shown."""
    from tqdm import tqdm

    from lcl.data.collection import open_dataset

    if data is None:
        return open_dataset(profile, pictures)
    with tqdm(total=len(list(Path(data).glob("*.tar"))), unit="tar", desc="looking", delay=1, dynamic_ncols=True) as bar:
        return open_dataset(profile, pictures, data, bar.update)


def _banks(rows, image_encoder: str, text_encoder: str, image_size: int, precision: str) -> list:
    """Both banks of a data set, built with a progress bar where they are missing."""
    from tqdm import tqdm

    from lcl.teachers.banks import build_bank
    from lcl.teachers.encoders import ImageEncoder, TextEncoder

    encoders = [ImageEncoder(image_encoder, image_size, precision), TextEncoder(text_encoder, precision)]
    built = []
    for encoder in encoders:
        with tqdm(total=len(rows), unit="row", desc=f"bank of {encoder.kind}", dynamic_ncols=True) as bar:
            built.append(build_bank(rows, encoder, progress=bar.update))
    return built


@app.command()
def train(
    context: typer.Context,
    recipe: Annotated[str, typer.Option(help="The method: its objectives and their weights.")] = "clip",
    profile: ProfileOption = "laptop",
    name: Annotated[str | None, typer.Option(help="The run's name; without it one is found.")] = None,
    seed: SeedOption = 0,
    runs: RunsOption = Path("runs"),
    pictures: PicturesOption = None,
    data: DataOption = None,
    tower: Annotated[str | None, typer.Option(help="Another image tower: conv, vit, or timm:NAME.")] = None,
    tower_width: Annotated[int | None, typer.Option(help="Of the image tower, instead of the profile's.")] = None,
    tower_depth: Annotated[int | None, typer.Option(help="Layers of the image tower, instead of the profile's.")] = None,
    tower_heads: Annotated[int | None, typer.Option(help="Of the tower vit, instead of the profile's.")] = None,
    patch_size: Annotated[int | None, typer.Option(help="Pixels, of the tower vit, instead of the profile's.")] = None,
    text_depth: Annotated[int | None, typer.Option(help="Layers of the text tower, instead of the profile's.")] = None,
    pairs: Annotated[int | None, typer.Option(help="Instead of the profile's; of shards all there are, up to these.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the profile's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the profile's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="The largest of the training, instead of the profile's.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Pairs in one forward pass, where a batch is too large.")] = None,
    precision: Annotated[str | None, typer.Option(help="Of the towers: float32, or bfloat16, faster on a GPU.")] = None,
    compile: Annotated[bool, typer.Option("--compile", help="Let torch compile the image tower.")] = False,
    activation_checkpointing: Annotated[
        bool, typer.Option("--activation-checkpointing", "--recompute", help="Less memory, slower steps.")
    ] = False,
    workers: Annotated[int | None, typer.Option(help="Processes that read shards; found if not said.", min=0)] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; none if not said.", min=1)] = None,
    keep: Annotated[int, typer.Option(help="Checkpoints that are kept, beside the best one.", min=1)] = 2,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Also write a log for TensorBoard.")] = False,
    resume: Annotated[Path | None, typer.Option(help="The folder of a training that was stopped: go on with it.")] = None,
) -> None:
    """Train, evaluate, and write runs/NAME/.

    The folder holds metrics.json, the checkpoint, and report.html, a page to look at. With checkpoints, a training that was
    stopped goes on by `lcl train --resume runs/NAME`, bit for bit.
    """
    # Mistakes are refused at once, before torch loads.
    image_tower = tower or get_profile(profile).model.vision.tower
    unused = {"tower_heads": tower_heads, "patch_size": patch_size} if image_tower != "vit" else {}
    unused |= {"tower_width": tower_width, "tower_depth": tower_depth} if image_tower.startswith("timm:") else {}
    idle = ", ".join(f"--{option.replace('_', '-')}" for option, value in unused.items() if value is not None)
    require(not idle, f"the image tower {image_tower!r} takes no {idle}; leave that out, or choose another --tower.")
    given = [option for option in context.params if context.get_parameter_source(option).name == "COMMANDLINE"]
    others = ", ".join(f"--{option.replace('_', '-')}" for option in given if option not in ("resume", "workers"))
    require(resume is None or not others, f"a training that is resumed has its own settings; leave out {others}.")
    chosen = _customised(
        get_profile(profile),
        model={
            "vision": {
                "tower": tower, "width": tower_width, "depth": tower_depth, "heads": tower_heads, "patch_size": patch_size,
            },
            "language": {"depth": text_depth},
        },
        training={
            "recipe": recipe, "pairs": pairs, "epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch,
            "learning_rate": learning_rate,
            "precision": precision, "compile": compile or None, "recompute": activation_checkpointing or None,
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
    make_vision(plan.profile.model.vision)  # an unknown tower, too, is refused before anything is drawn
    with join() as ranks, contextlib.ExitStack() as stack:
        source = ranks.main_first(lambda: _open(plan.profile, plan.pictures, plan.shards))
        if isinstance(source, ShardDataset) and pairs is None and not resume:
            fewer = min(chosen.training.pairs, len(source))
            plan = dataclasses.replace(plan, profile=_customised(chosen, training={"pairs": fewer}))
        folder = resume
        if resume is None and ranks.is_main:
            folder = stack.enter_context(new_run(runs, name or free_name(runs, f"{recipe}-{profile}")))
            if plan.checkpoint_every:
                write_plan(folder, plan)
        try:
            _train(plan, source, folder := Path(ranks.broadcast(folder)), ranks, workers)
        except BaseException:
            if ranks.is_main and not plan.checkpoint_every:  # there is nothing to resume, so the name is free again
                (folder / LOG).unlink(missing_ok=True)
            raise


def _train(plan, source, folder: Path, ranks, workers: int | None) -> None:
    """Train in a run's folder, from its last checkpoint on if it has one, and evaluate."""
    from tqdm import tqdm

    from lcl.course.results import table_text
    from lcl.data.scenes import SceneDataset
    from lcl.eval.metrics import evaluate as measure
    from lcl.train.checkpoints import resume
    from lcl.train.loop import Training, open_teacher
    from lcl.train.recipes import get_recipe
    from lcl.train.runs import save_run

    profile, clock, method, teacher = plan.profile, Clock(), get_recipe(plan.profile.training.recipe), None
    if method.needs_teacher:
        total = profile.training.pairs * (1 if method.ping.live else 2)
        with tqdm(total=total, unit="row", desc="banks", dynamic_ncols=True, disable=not ranks.is_main) as bar:
            teacher = ranks.main_first(lambda: open_teacher(method.ping, source, profile, bar.update))
    if isinstance(source, SceneDataset):
        need("sklearn", "scenes")  # the evaluation uses it; ask before training
    training = Training(profile, source, plan.seed, teacher=teacher, ranks=ranks, workers=workers)
    resume(folder / "checkpoints", training)
    clock.lap("setting up")
    curve = follow(training, folder, plan.checkpoint_every, plan.keep, plan.tensorboard)
    clock.lap("training")
    if not ranks.is_main:
        return
    metrics = measure(training.model, training.tokenizer, source, profile.evaluation, training.extra)
    clock.lap("evaluation")
    save_run(folder, training, curve, metrics, clock.laps, plan.pictures, plan.shards)
    print(table_text(metrics))
    print(f"first loss {curve[0].loss:.3f}, {clock.laps['training'] / 60:.1f} minutes of training; see {_report(folder, source)}")


def _report(folder: Path, source) -> Path:
    """Write a run's report and return its path; without the extra `course` say so and return the run's folder."""
    try:
        need("matplotlib", "course")
    except LclError as error:  # the run is complete without its report
        print(f"there is no report.html: {error}")
        return folder

    from lcl.course.report import write_report
    from lcl.train.runs import load_run

    return write_report(load_run(folder), source)


def _customised(config, **changes):
    """A config with some fields changed, and fields of its fields; None leaves one as it is."""
    new = {
        name: _customised(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
        if value is not None
    }
    return dataclasses.replace(config, **new)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    pictures: PicturesOption = None,
    data: DataOption = None,
) -> None:
    """Measure a finished run again.

    On every split, and compared with what it wrote down.
    """
    from lcl.course.results import table_text
    from lcl.eval.metrics import evaluate as measure
    from lcl.train.runs import load_run

    kept = load_run(run)
    source = _open(kept.profile, pictures or kept.pictures_folder, data or kept.shards_folder)
    require(
        source.fingerprint == kept.tokenizer.data,
        f"the run in {run} was trained on another data set ({kept.tokenizer.data}) than the one at hand "
        f"({source.fingerprint}); name its drawings with --pictures or its shards with --data, or check the asset packages' "
        "versions.",
    )
    metrics = measure(kept.model, kept.tokenizer, source, kept.profile.evaluation, kept.extra)
    print(table_text(metrics))
    print(
        "equal to metrics.json" if metrics == kept.metrics else "differs from metrics.json: another machine or version"
    )


@app.command()
def search(
    words: Annotated[str, typer.Argument(help="What to look for.")],
    folder: Annotated[Path, typer.Argument(help="Where the pictures are.")],
    run: Annotated[Path, typer.Option(help="The folder of a finished run, or of exported towers.")],
    k: Annotated[int, typer.Option("--k", "-k", help="So many pictures.", min=1)] = 5,
    save: Annotated[Path | None, typer.Option(help="Write the pictures that were found to this PNG.")] = None,
) -> None:
    """Find the pictures of a folder that are nearest to some words.

    The first time every picture is looked at; later only new and changed ones are.
    """
    from tqdm import tqdm

    from lcl.data.shards import tell
    from lcl.deploy.gallery import open_gallery
    from lcl.deploy.gallery import search as find
    from lcl.models.clip import load_model

    model, tokenizer = load_model(run)
    with tqdm(unit="picture", desc="looking", delay=1, dynamic_ncols=True) as bar:
        gallery = open_gallery(folder, model, bar.update)
    started = time.perf_counter()
    found = find(gallery, model, tokenizer, words, k)
    took = time.perf_counter() - started
    for name, cosine in found:
        print(f"{cosine:6.3f}  {name}")
    left_out = f"; left out: {tell(gallery.faults)}" if gallery.faults else ""
    print(f"{len(gallery.names):,} pictures, {gallery.fresh:,} of them new; asked in {1000 * took:.0f} ms{left_out}")
    if save:
        from lcl import storage
        from lcl.course import plots

        images = gallery.images([name for name, _ in found], model.config.vision.image_size)
        storage.write_bytes(save, plots.to_png(plots.grid(images, [f"{cosine:.2f}" for _, cosine in found], columns=5)))
        print(f"wrote {save}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    folder: Annotated[Path, typer.Argument(help="Where the pair of towers goes; must not exist.")],
    onnx: Annotated[bool, typer.Option("--onnx", help="As ONNX files, which any runtime reads, compared with torch.")] = False,
    int8: Annotated[bool, typer.Option("--int8", help="With --onnx: products of 8-bit integers.")] = False,
) -> None:
    """Write what one uses of a run: the pair of towers and the tokenizer.

    What existed in training only (fusion blocks, vocabulary head) stays behind.
    """
    require(onnx or not int8, "--int8 is for ONNX files; say --onnx, too.")

    from lcl.models.clip import save_model
    from lcl.train.runs import load_run, new_run

    kept = load_run(run)
    with new_run(folder.parent, folder.name) as made:
        if onnx:
            _export_onnx(made, kept, int8)
        else:
            save_model(made, kept.model, kept.tokenizer)
    used, dropped = (sum(p.numel() for p in module.parameters()) for module in (kept.model, kept.extra))
    print(f"wrote {folder}: {used:,} parameters; {dropped:,} that only the training needed were dropped")


def _export_onnx(folder: Path, kept, int8: bool) -> None:
    """The towers of a run as ONNX, and how far that is from torch on pairs of its own data."""
    import tempfile

    from lcl.data.collection import open_dataset
    from lcl.deploy.onnx import export_onnx, to_int8

    source = open_dataset(kept.profile, kept.pictures_folder, kept.shards_folder)
    rows = source.validation(64)
    pairs = rows.take(range(len(rows)))
    with tempfile.TemporaryDirectory() as between:
        furthest = export_onnx(Path(between) if int8 else folder, kept.model, kept.tokenizer, pairs.images, pairs.captions)
        print(f"ONNX and torch differ by {furthest:.1e} at most, on {len(pairs)} pairs" + (", before rounding" if int8 else ""))
        if int8:
            rows = source.train(min(256, kept.profile.training.pairs))
            to_int8(Path(between), folder, rows.take(range(len(rows))).images)


@app.command()
def diagnose(run: Annotated[Path, typer.Argument(help="The folder of a finished run.")]) -> None:
    """Look for what usually goes wrong: a line for every check, with what to mend."""
    from lcl.train.diagnosis import diagnose as look_for

    found = look_for(run)
    print(found)
    sys.exit(1 if found.failed else 0)


class Clock:
    """Seconds by part of the work."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.laps[part], self._last = now - self._last, now


def follow(training, folder: Path, checkpoint_every: int = 0, keep: int = 2, tensorboard: bool = False) -> list:
    """Train to the end with a progress bar and an estimate; returns all events, also those before a training was resumed.

    checkpoint_every: steps; 0 for none. They, the log of events and, if wanted, one for TensorBoard go to `folder`.
    """
    from tqdm import tqdm

    from lcl.train.checkpoints import save_checkpoint
    from lcl.train.loop import Step, Validation
    from lcl.train.runs import EventLog

    config, leads, score = training.profile.training, training.ranks.is_main, None
    log = EventLog(folder, training.step, tensorboard) if leads else None
    curve, options = log.before if log else [], {"unit": "step", "desc": "training", "dynamic_ncols": True}
    with tqdm(total=config.steps, initial=training.step, disable=not leads, **options) as bar:
        for event in training:
            curve.append(event)
            if log:
                log.write(event)
            if isinstance(event, Step):
                bar.update()
                bar.set_postfix_str(progress_line(event), refresh=False)
            else:
                score = (event.image_to_text + event.text_to_image) / 2
                if leads:
                    bar.write(
                        f"step {event.step:5d}: InfoNCE {event.loss:.3f} on pairs never trained on; recall@1 among some of them: "
                        f"{100 * event.image_to_text:.0f} % image→text, {100 * event.text_to_image:.0f} % text→image"
                    )
            looked = isinstance(event, Validation) or event.step % config.evaluate_every and event.step < config.steps
            if checkpoint_every and event.step % checkpoint_every == 0 and looked:  # after the look, if there is one
                save_checkpoint(folder / "checkpoints", training, score, keep)
    return curve


def progress_line(step) -> str:
    """What the progress bar says of a step, beside the time that is left."""
    replaced = f", {step.replaced} rows replaced" if step.replaced else ""
    return (
        f"loss {step.loss:.3f}, {step.pairs_per_second:.0f} pairs/s, {step.memory:.1f} GiB, "
        f"{step.waited:.0%} waiting for data{replaced}"
    )


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake of the user's ends in one sentence and exit code 2, ^C in 130."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
    with contextlib.suppress(ValueError):  # … in a thread of somebody else's program
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what was started is ended, and files are closed
    for noisy in ("httpx", "fontTools", "matplotlib", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # arrows, on a Windows console too
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        app(arguments)
    except LclError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
