"""The command line: `lcl data`, `banks`, `neighbours`, `train`, `evaluate`, `export`, `bench`. Also as `python -m lcl`."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import sys
import time
from pathlib import Path
from typing import Annotated

import typer

from lcl.config import PROFILES, LclError, Profile, get_profile, require

app = typer.Typer(
    name="lcl",
    help="Lightweight CLIP Lab: make pairs of pictures and captions, train on them, see what was learned.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)

ProfileOption = Annotated[
    str, typer.Option(help=f"How much of everything: {', '.join(PROFILES)}.", envvar="LCL_PROFILE")
]
PicturesOption = Annotated[Path | None, typer.Option(help="A folder of your own drawings with a names.csv.")]
SeedOption = Annotated[int, typer.Option(help="Of everything random in the training.", min=0)]
ImageEncoderOption = Annotated[str, typer.Option(help="The frozen image encoder: any model of timm.")]
TextEncoderOption = Annotated[str, typer.Option(help="The frozen text encoder: any of sentence-transformers, or a folder.")]
ImageSizeOption = Annotated[int, typer.Option(help="Pixels that the frozen image encoder looks at.")]
PrecisionOption = Annotated[str, typer.Option(help="Of the frozen encoders: float32, or bfloat16, faster and coarser.")]
RunsOption = Annotated[Path, typer.Option(help="The folder that holds the runs.")]


data_app = typer.Typer(invoke_without_command=True)
app.add_typer(data_app, name="data")


@data_app.callback()
def data(
    context: typer.Context,
    profile: ProfileOption = "laptop",
    pictures: PicturesOption = None,
    save: Annotated[Path | None, typer.Option(help="Write a sheet of example scenes to this PNG.")] = None,
) -> None:
    """Show the pictures, and an example of every split; or make shards of pairs.

    The first call draws the picture dictionary, which takes seconds.
    """
    if context.invoked_subcommand:
        return
    chosen = get_profile(profile)

    from lcl import plots, storage
    from lcl.scenes import SPLITS, open_world

    started = time.perf_counter()
    world = open_world(chosen.scenes, pictures)
    dictionary = world.pictures
    print(
        f"{len(dictionary.concepts)} concepts drawn by {len(dictionary.styles)} hands, fingerprint {dictionary.fingerprint}"
    )
    for style in dictionary.styles:
        print(f"  {style.name}: {style.credit}; {style.licence}")
    print(f"{len(world.known)} known and {len(world.unseen)} unseen concepts, data set {world.fingerprint}")
    for split, meaning in SPLITS.items():
        if world.concepts(split):
            print(f"  {split}: {meaning}\n    {world.scene(split, 0).caption!r}")
    print(f"ready in {time.perf_counter() - started:.1f} s")
    if save:
        sheet = plots.annotated_scenes(world.pairs("train", range(16)), world.name)
        storage.write_bytes(save, plots.to_png(sheet))
        print(f"wrote {save}")


OutOption = Annotated[Path, typer.Option(help="The folder that the shards go to.")]


@data_app.command("from-folder")
def from_folder(
    folder: Annotated[Path, typer.Argument(help="Where the pictures are.")],
    captions: Annotated[Path, typer.Option(help="A .csv, .tsv or .jsonl with the columns image and caption.")],
    out: OutOption,
) -> None:
    """Make shards of your own pictures and captions.

    Pairs that cannot be used are counted and left out.
    """
    import collections

    from tqdm import tqdm

    from lcl.folders import read_table, samples_of_folder
    from lcl.shards import check_share, tell, write_shards

    faults: collections.Counter[str] = collections.Counter()
    total = sum(1 for _ in read_table(captions))
    require(not list(out.glob("*.tar")), f"there are shards in {out} already; name another folder.")
    with tqdm(total=total, unit="pair", desc="writing", dynamic_ncols=True) as bar:
        source = {"folder": str(folder.resolve()), "captions": captions.name}
        tars = write_shards(out, samples_of_folder(folder, captions, faults), source, progress=bar.update)
    rows = sum(tar["rows"] for tar in tars.values())
    require(rows > 0, f"no pair of {captions} can be used: {tell(faults)}.")
    print(f"{rows:,} pairs in {len(tars)} tars in {out}; left out: {tell(faults)}")
    check_share(sum(faults.values()), rows, faults, str(captions))
    _verify(out, accept=False)


@data_app.command("scenes")
def write_scenes(
    out: OutOption,
    profile: ProfileOption = "laptop",
    count: Annotated[int | None, typer.Option(help="Pairs; as many as the profile trains on if not said.", min=1)] = None,
    pictures: PicturesOption = None,
) -> None:
    """Write the scenes that a profile trains on as shards.

    Stopped at any time, it goes on where it was when it is called again.
    """
    from tqdm import tqdm

    from lcl.scenes import open_world
    from lcl.shards import ROWS, scene_samples, write_shards, written

    chosen = get_profile(profile)
    world, count = open_world(chosen.scenes, pictures), count or chosen.training.pairs
    there = written(out)
    with tqdm(total=count, initial=min(there * ROWS, count), unit="pair", desc="writing", dynamic_ncols=True) as bar:
        rest, source = range(there * ROWS, count), {"scenes": world.fingerprint, "split": "train", "pairs": count}
        tars = write_shards(out, scene_samples(world, rest), source, start=there, progress=bar.update)
    print(f"{sum(tar['rows'] for tar in tars.values()):,} pairs in {len(tars)} tars in {out}")
    _verify(out, accept=False)


@data_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Where the tars are.")],
    accept: Annotated[bool, typer.Option(help="Go on with what is there, where it is not what the manifest says.")] = False,
) -> None:
    """Look at every byte of a folder of shards, and say what cannot be used."""
    _verify(folder, accept)


def _verify(folder: Path, accept: bool) -> None:
    from tqdm import tqdm

    from lcl.shards import look_through, tell

    with tqdm(total=len(list(folder.glob("*.tar"))), unit="tar", desc="looking", dynamic_ncols=True) as bar:
        found = look_through(folder, progress=bar.update, accept=accept)
    print(f"{len(found):,} pairs in {len(found.tars)} tars, fingerprint {found.fingerprint}; {tell(found.faults)}")


@app.command()
def banks(
    profile: ProfileOption = "laptop",
    image_encoder: ImageEncoderOption = "tf_efficientnet_lite0",
    text_encoder: TextEncoderOption = "all-MiniLM-L6-v2",
    image_size: ImageSizeOption = 128,
    precision: PrecisionOption = "float32",
    pictures: PicturesOption = None,
) -> None:
    """Encode every pair of a profile with two frozen encoders, and keep the features.

    Stopped at any time, it goes on where it was when it is called again.
    """
    for bank in _banks(get_profile(profile), image_encoder, text_encoder, image_size, precision, pictures):
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
) -> None:
    """Find every pair's nearest neighbours, among the images and among the captions.

    Builds the banks first, where they are missing.
    """
    chosen = get_profile(profile)
    built = _banks(chosen, image_encoder, text_encoder, image_size, precision, pictures)

    from tqdm import tqdm

    from lcl.evaluation import neighbour_purity
    from lcl.neighbours import approximate_neighbours, find_neighbours, recall_of_neighbours, save_neighbours
    from lcl.scenes import open_world

    world = open_world(chosen.scenes, pictures)
    scenes = [world.scene("train", index) for index in range(chosen.training.pairs)]
    for kind, bank in zip(("images", "captions"), built, strict=True):
        started = time.perf_counter()
        if approximate:
            found = approximate_neighbours(bank, k)
            missed = f"; has {recall_of_neighbours(bank, found):.1%} of the exact ones"
        else:
            with tqdm(total=len(bank), unit="row", desc=f"neighbours of {kind}", dynamic_ncols=True) as bar:
                found, missed = find_neighbours(bank, k, progress=bar.update), ""
        purity = neighbour_purity(scenes, found.indices[:, :1])
        print(
            f"{kind}: {time.perf_counter() - started:.1f} s; the nearest shows {purity['value']:.1%} of a scene's things, "
            f"a random scene {purity['chance']:.1%}{missed}"
        )
        if save:
            save_neighbours(save / f"{kind}.safetensors", found)
            print(f"wrote {save / f'{kind}.safetensors'}")


def _banks(
    profile: Profile, image_encoder: str, text_encoder: str, image_size: int, precision: str, pictures: Path | None
) -> list:
    """Both banks of a profile's pairs, built with a progress bar where they are missing."""
    from tqdm import tqdm

    from lcl.banks import SceneRows, build_bank
    from lcl.encoders import ImageEncoder, TextEncoder
    from lcl.scenes import open_world

    encoders = [ImageEncoder(image_encoder, image_size, precision), TextEncoder(text_encoder, precision)]
    rows = SceneRows(open_world(profile.scenes, pictures), profile.training.pairs)
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
    tower: Annotated[str | None, typer.Option(help="Another image tower: conv, vit, or timm:NAME.")] = None,
    text_depth: Annotated[int | None, typer.Option(help="Layers of the text tower, instead of the profile's.")] = None,
    epochs: Annotated[int | None, typer.Option(help="Instead of the profile's.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="Instead of the profile's.")] = None,
    micro_batch: Annotated[int | None, typer.Option(help="Pairs in one forward pass, where a batch is too large.")] = None,
    checkpoint_every: Annotated[int | None, typer.Option(help="Steps between checkpoints; none if not said.", min=1)] = None,
    keep: Annotated[int, typer.Option(help="Checkpoints that are kept, beside the best one.", min=1)] = 2,
    resume: Annotated[Path | None, typer.Option(help="The folder of a training that was stopped: go on with it.")] = None,
) -> None:
    """Train, evaluate, and write runs/NAME/.

    The folder holds metrics.json, the checkpoint, and report.html, a page to look at. With checkpoints, a training that was
    stopped goes on by `lcl train --resume runs/NAME`, bit for bit.
    """
    # Mistakes are refused at once, before torch loads.
    chosen = _customised(get_profile(profile), recipe, tower, text_depth, epochs, batch_size, micro_batch)
    given = [option for option in context.params if context.get_parameter_source(option).name == "COMMANDLINE"]
    others = ", ".join(f"--{option.replace('_', '-')}" for option in given if option != "resume")
    require(resume is None or not others, f"a training that is resumed has its own settings; leave out {others}.")

    from lcl.parallel import join
    from lcl.recipes import get_recipe
    from lcl.runs import LOG, Plan, free_name, new_run, read_plan, write_plan
    from lcl.vision import make_vision

    where = str(pictures.resolve()) if pictures else None
    plan = read_plan(resume) if resume else Plan(chosen, seed, where, checkpoint_every or 0, keep)
    get_recipe(plan.profile.training.recipe)
    make_vision(plan.profile.model.vision)  # an unknown tower, too, is refused before anything is drawn
    with join() as team, contextlib.ExitStack() as stack:
        folder = resume
        if resume is None and team.leads:
            folder = stack.enter_context(new_run(runs, name or free_name(runs, f"{recipe}-{profile}")))
            if plan.checkpoint_every:
                write_plan(folder, plan)
        try:
            _train(plan, folder := Path(team.agree(folder)), team)
        except BaseException:
            if team.leads and not plan.checkpoint_every:  # there is nothing to resume, so the name is free again
                (folder / LOG).unlink(missing_ok=True)
            raise


def _train(plan, folder: Path, team) -> None:
    """Train in a run's folder, from its last checkpoint on if it has one, and evaluate."""
    from tqdm import tqdm

    from lcl.checkpoints import resume
    from lcl.evaluation import evaluate as measure
    from lcl.recipes import get_recipe
    from lcl.report import write_report
    from lcl.results import table_text
    from lcl.runs import load_run, save_run
    from lcl.scenes import open_world
    from lcl.training import Training, open_teacher

    profile, clock, method = plan.profile, Clock(), get_recipe(plan.profile.training.recipe)
    world, teacher = open_world(profile.scenes, plan.pictures and Path(plan.pictures)), None
    if method.guided:
        total = profile.training.pairs * (1 if method.ping.live else 2)
        with tqdm(total=total, unit="row", desc="banks", dynamic_ncols=True, disable=not team.leads) as bar:
            teacher = open_teacher(method.ping, world, profile, bar.update)
    training = Training(profile, world, plan.seed, teacher=teacher, team=team)
    resume(folder / "checkpoints", training)
    clock.lap("setting up")
    curve = follow(training, folder, plan.checkpoint_every, plan.keep)
    clock.lap("training")
    if not team.leads:
        return
    metrics = measure(training.model, training.tokenizer, world, profile.evaluation, training.extra)
    clock.lap("evaluation")
    save_run(folder, training, curve, metrics, clock.laps, plan.pictures and Path(plan.pictures))
    report = write_report(load_run(folder), world)
    print(table_text(metrics))
    print(f"first loss {curve[0].loss:.3f}, {clock.laps['training'] / 60:.1f} minutes of training; see {report}")


def _customised(
    profile: Profile,
    recipe: str,
    tower: str | None,
    text_depth: int | None,
    epochs: int | None,
    batch_size: int | None,
    micro_batch: int | None,
) -> Profile:
    changes = {"recipe": recipe, "epochs": epochs, "batch_size": batch_size, "micro_batch": micro_batch}
    training = dataclasses.replace(
        profile.training, **{key: value for key, value in changes.items() if value is not None}
    )
    model = profile.model
    if tower is not None:
        model = dataclasses.replace(model, vision=dataclasses.replace(model.vision, tower=tower))
    if text_depth is not None:
        model = dataclasses.replace(model, language=dataclasses.replace(model.language, depth=text_depth))
    return dataclasses.replace(profile, training=training, model=model)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    pictures: PicturesOption = None,
) -> None:
    """Measure a finished run again.

    On every split, and compared with what it wrote down.
    """
    from lcl.evaluation import evaluate as measure
    from lcl.results import table_text
    from lcl.runs import load_run
    from lcl.scenes import open_world

    kept = load_run(run)
    world = open_world(kept.profile.scenes, pictures or kept.pictures_folder)
    require(
        world.fingerprint == kept.tokenizer.data,
        f"the run in {run} was trained on another data set ({kept.tokenizer.data}) than the one at hand "
        f"({world.fingerprint}); name its drawings with --pictures, or check the asset packages' versions.",
    )
    metrics = measure(kept.model, kept.tokenizer, world, kept.profile.evaluation, kept.extra)
    print(table_text(metrics))
    print(
        "equal to metrics.json" if metrics == kept.metrics else "differs from metrics.json: another machine or version"
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(help="The folder of a finished run.")],
    folder: Annotated[Path, typer.Argument(help="Where the pair of towers goes; must not exist.")],
) -> None:
    """Write what one uses of a run: the pair of towers and the tokenizer.

    What existed in training only (fusion blocks, vocabulary head) stays behind.
    """
    from lcl.model import save_model
    from lcl.runs import load_run, new_run

    kept = load_run(run)
    with new_run(folder.parent, folder.name) as made:
        save_model(made, kept.model, kept.tokenizer)
    used, dropped = (sum(p.numel() for p in module.parameters()) for module in (kept.model, kept.extra))
    print(f"wrote {folder}: {used:,} parameters; {dropped:,} that only the training needed were dropped")


@app.command()
def bench(repeats: Annotated[int, typer.Option(help="Rounds; peers take turns in each.", min=1)] = 3) -> None:
    """Measure speed beside trusted peers."""
    from lcl.bench import main as run_benchmarks

    run_benchmarks(repeats)


class Clock:
    """Seconds by part of the work."""

    def __init__(self):
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, part: str) -> None:
        now = time.perf_counter()
        self.laps[part], self._last = now - self._last, now


def follow(training, folder: Path, checkpoint_every: int = 0, keep: int = 2) -> list:
    """Train to the end with a progress bar and an estimate; returns all events, also those before a training was resumed.

    checkpoint_every: steps; 0 for none. They and the log of events go to `folder`.
    """
    from tqdm import tqdm

    from lcl.checkpoints import save_checkpoint
    from lcl.runs import EventLog
    from lcl.training import Look, Step

    config, leads, score = training.profile.training, training.team.leads, None
    log = EventLog(folder, training.step) if leads else None
    curve, options = log.before if log else [], {"unit": "step", "desc": "training", "dynamic_ncols": True}
    with tqdm(total=config.steps, initial=training.step, disable=not leads, **options) as bar:
        for event in training:
            curve.append(event)
            if log:
                log.write(event)
            if isinstance(event, Step):
                bar.update()
                bar.set_postfix_str(f"loss {event.loss:.3f}, {event.pairs_per_second:.0f} pairs/s", refresh=False)
            else:
                score = (event.image_to_text + event.text_to_image) / 2
                if leads:
                    bar.write(
                        f"step {event.step:5d}: InfoNCE {event.loss:.3f} on new scenes, recall@1 among 256: "
                        f"{100 * event.image_to_text:.0f} % image→text, {100 * event.text_to_image:.0f} % text→image"
                    )
            looked = isinstance(event, Look) or event.step % config.evaluate_every and event.step < config.steps
            if checkpoint_every and event.step % checkpoint_every == 0 and looked:  # after the look, if there is one
                save_checkpoint(folder / "checkpoints", training, score, keep)
    return curve


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a mistake of the user's ends in one sentence and exit code 2, ^C in 130."""
    logging.basicConfig(format="%(message)s", level=logging.INFO, force=True)
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
