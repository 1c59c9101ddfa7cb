"""The command line, also as `python -m lcl`: `data`, `banks`, `neighbours`, `train`, `evaluate`, `report`, `search`,
`embed`, `export`, `diagnose`."""

import contextlib
import dataclasses
import logging
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import typer

import lcl
from lcl.cli.common import (
    Commands,
    DataOption,
    ImageEncoderOption,
    ImageSizeOption,
    MovedDataOption,
    MovedPicturesOption,
    OneLine,
    PairsOption,
    PicturesOption,
    PrecisionOption,
    ProfileOption,
    RunArgument,
    ScenesVersionOption,
    TextEncoderOption,
    bar,
    changed,
    open_pairs,
    profile_of,
    say,
)
from lcl.cli.data import data_app
from lcl.cli.search import embed, search
from lcl.cli.train import train
from lcl.config import LclError, require
from lcl.processes import memory_for

MANY = 262_144  # scenes up to which objects of neighbours are compared; more would take gigabytes

app = typer.Typer(
    name="lcl",
    cls=Commands,
    help="Lightweight CLIP Lab: make pairs of images and captions, train a model on them, and measure what it learned.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)
app.add_typer(data_app, name="data", cls=Commands)


def _print_version(asked: bool) -> None:
    if asked:
        print(f"lcl {lcl.__version__}")
        raise typer.Exit


VersionOption = Annotated[bool, typer.Option("--version", help="Print the version.", callback=_print_version)]


@app.callback()
def _options(version: VersionOption = False) -> None:
    pass


@app.command()
def banks(
    profile: ProfileOption = "laptop",
    scenes_version: ScenesVersionOption = None,
    pairs: PairsOption = None,
    image_encoder: ImageEncoderOption = "tf_efficientnet_lite0",
    text_encoder: TextEncoderOption = "all-MiniLM-L6-v2",
    image_size: ImageSizeOption = 128,
    precision: PrecisionOption = "float32",
    pictures: PicturesOption = None,
    data: DataOption = None,
) -> None:
    """Encode all training pairs with two frozen encoders, and store the features.

    Recipes with a teacher, such as clip-ping, use these banks of features. `lcl train` builds those that are missing. If this
    command was stopped, run it again: it continues.
    """
    rows = _training_pairs(profile, scenes_version, pairs, pictures, data)
    for bank in _banks(rows, image_encoder, text_encoder, image_size, precision):
        print(f"{len(bank)} rows of {bank.width} numbers in {bank.folder}, fingerprint {bank.fingerprint}")


@app.command()
def neighbours(
    profile: ProfileOption = "laptop",
    scenes_version: ScenesVersionOption = None,
    pairs: PairsOption = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many neighbours to find for each pair.", min=1)] = 8,
    approximate: Annotated[
        bool,
        typer.Option(help="Search faster with FAISS, miss some neighbours, and report how many. `lcl train` takes these, too."),
    ] = False,
    save: Annotated[
        Path | None, typer.Option(help="Write the neighbours to this folder, as images.safetensors and captions.safetensors.")
    ] = None,
    image_encoder: ImageEncoderOption = "tf_efficientnet_lite0",
    text_encoder: TextEncoderOption = "all-MiniLM-L6-v2",
    image_size: ImageSizeOption = 128,
    precision: PrecisionOption = "float32",
    pictures: PicturesOption = None,
    data: DataOption = None,
) -> None:
    """Find the nearest neighbours of every training pair, among the images and among the captions.

    The features of the frozen encoders (`lcl banks`) are computed first, if they are missing. `lcl train` uses these neighbours,
    and finds those that are missing.
    """
    rows = _training_pairs(profile, scenes_version, pairs, pictures, data)
    built = _banks(rows, image_encoder, text_encoder, image_size, precision)

    from lcl.data.scenes import SceneView
    from lcl.eval.metrics import neighbour_purity
    from lcl.teachers.approximate import approximate_neighbours, keep_approximate, recall_of_neighbours
    from lcl.teachers.search import find_neighbours, kept_neighbours, save_neighbours

    of_scenes = isinstance(rows, SceneView) and len(rows) <= MANY  # what other pairs show is unknown
    scenes = [rows.world.scene("train", index) for index in range(len(rows))] if of_scenes else []
    for kind, bank in zip(("images", "captions"), built, strict=True):
        started = time.perf_counter()
        if approximate:
            found = approximate_neighbours(bank, k)
            found = dataclasses.replace(found, recall=recall_of_neighbours(bank, found))
            if (found.indices[:, 0] < 0).any():
                kept = "is not kept: some rows found none, so train with the exact ones of `lcl neighbours`"
            elif keep_approximate(bank, found):
                kept = "is kept for `lcl train`"
            else:
                exact = (other := kept_neighbours(bank)) and other.recall is None
                kept = "is not kept: " + ("`lcl train` has exact ones" if exact else f"{bank.folder} cannot be written")
            recall = f"; has {found.recall:.1%} of the exact ones, and {kept}"
        else:
            with bar(f"neighbours of {kind}", "row", len(bank)) as progress:
                found, recall = find_neighbours(bank, k, progress.update, exact=True), ""
        took, shows = time.perf_counter() - started, ""
        if scenes:
            purity = neighbour_purity(scenes, found.indices[:, :1])
            shows = f"; the nearest shares {purity['value']:.1%} of a scene's objects, a random scene {purity['chance']:.1%}"
        print(f"{kind}: {took:.1f} s{shows}{recall}")
        if save:
            save_neighbours(save / f"{kind}.safetensors", found)
            print(f"wrote {save / f'{kind}.safetensors'}")


def _training_pairs(name: str, scenes_version: int | None, pairs: int | None, pictures: Path | None, data: Path | None):
    """The pairs that a profile trains on, or so many; of shards, no more than there are."""
    profile = changed(profile_of(name, scenes_version, data), training={"pairs": pairs})
    source, number = open_pairs(profile, pictures, data), profile.training.pairs
    return source.train(min(number, len(source)) if data else number)


def _banks(rows, image_encoder: str, text_encoder: str, image_size: int, precision: str) -> list:
    """Both banks of some pairs; missing ones are built with a progress bar."""
    from lcl.teachers.banks import build_bank
    from lcl.teachers.encoders import ImageEncoder, TextEncoder

    built = []
    for encoder in [ImageEncoder(image_encoder, image_size, precision), TextEncoder(text_encoder, precision)]:
        with bar(f"bank of {encoder.kind}", "row", len(rows)) as progress:
            built.append(build_bank(rows, encoder, progress=progress.update))
    return built


app.command()(train)


@app.command()
def evaluate(
    run: RunArgument,
    pictures: MovedPicturesOption = None,
    data: Annotated[Path | None, typer.Option(help="Other shards, or the run's own if they have moved.")] = None,
) -> None:
    """Evaluate a finished run again, on every split, and compare the result with its metrics.json.

    With --data and shards that the run was not trained on, measure zero-shot transfer to them: retrieval among up to 5,000 of
    their pairs.
    """
    from lcl.course.metrics import table_text
    from lcl.eval.metrics import evaluate as measure
    from lcl.train.runs import load_run

    saved = load_run(run)
    if data and (metrics := _transfer(saved, data)):
        print(table_text(metrics))
        return
    source = _data_of(saved, pictures, data)
    metrics = measure(saved.model, saved.tokenizer, source, saved.profile.evaluation, saved.extra)
    print(table_text(metrics))
    known = {split: {name: metrics.get(split, {}).get(name) for name in kept} for split, kept in saved.metrics.items()}
    more = "" if known == metrics else ", which an earlier version wrote: it lacks some of these metrics"
    print(f"equal to metrics.json{more}" if known == saved.metrics else "differs from metrics.json: another machine or version")


def _transfer(saved, data: Path) -> dict | None:
    """Metrics of a run on another data set; None if these are the shards that it was trained on."""
    from lcl.data.collection import TEST_PAIRS, transfer_view
    from lcl.data.manifest import source_of
    from lcl.data.shards import open_shards
    from lcl.eval.metrics import evaluate_pairs

    with bar("scanning", "tar", len(list(data.glob("*.tar"))), delay=1) as progress:
        shards = open_shards(data, progress=progress.update)
    with contextlib.suppress(LclError):  # too few pairs to be what was trained on
        if open_pairs(saved.profile, None, data, **saved.split_folders).fingerprint == saved.tokenizer.data:
            return None
    scenes = (source_of(data) or {}).get("scenes")
    require(
        scenes != saved.tokenizer.data,
        f"the shards in {data} hold the scenes that the run was trained on; leave out --data to evaluate it on others.",
    )
    trained = None
    if saved.shards_folder:
        try:
            trained = open_shards(Path(saved.shards_folder))
        except LclError as reason:
            say(f"pictures that were trained on are not left out: {reason}", error=True)
    view, left_out = transfer_view(shards, saved.profile.model.vision.image_size, TEST_PAIRS, trained)
    if left_out:
        print(f"{left_out:,} pairs are left out: the run was trained on their picture", file=sys.stderr)
    print(f"zero-shot transfer to {data}")
    return {"transfer": evaluate_pairs(saved.model, saved.tokenizer, view)}


def _data_of(saved, pictures: Path | None, data: Path | None):
    """The data set of a run, wherever it lies now. Raises LclError if it is another one."""
    from lcl.train.runs import check_data

    try:
        folders = pictures or saved.pictures_folder, data or saved.shards_folder
        source = open_pairs(saved.profile, *folders, **saved.split_folders)
    except LclError as error:
        moved = "" if pictures or data else " If the data moved, name the new folder with --data or --pictures."
        raise LclError(f"{error}{moved}") from None
    check_data(saved.folder, saved.tokenizer.data, source)
    return source


@app.command()
def report(run: RunArgument, pictures: MovedPicturesOption = None, data: MovedDataOption = None) -> None:
    """Write the report.html of a finished run again."""
    from lcl.course.report import write_report
    from lcl.train.runs import load_run

    saved = load_run(run)
    print(f"wrote {write_report(saved, _data_of(saved, pictures, data))}")


app.command()(search)
app.command()(embed)


@app.command()
def export(
    run: RunArgument,
    folder: Annotated[Path, typer.Argument(help="The new folder to write to; it must not exist yet.")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="Write ONNX files, which need no PyTorch, and check that the embeddings are equal.")
    ] = False,
    int8: Annotated[
        bool, typer.Option("--int8", help="With --onnx: compute with 8-bit integers. The files are smaller and less exact.")
    ] = False,
    pictures: MovedPicturesOption = None,
    data: MovedDataOption = None,
) -> None:
    """Write the parts of a run that you need to use the model elsewhere: the two towers and the tokenizer.

    Modules that only the training used (fusion blocks, vocabulary head, projections) are left out. So is the list of the words of
    the training captions, which may be private; without it `lcl search` can only guess which words are new to the model.
    """
    require(onnx or not int8, "--int8 is for ONNX files; say --onnx, too.")

    from lcl.models.clip import save_model
    from lcl.models.tokenizer import Tokenizer
    from lcl.train.runs import load_run, new_run

    saved = load_run(run)
    source = _data_of(saved, pictures, data) if onnx else None
    with new_run(folder.parent, folder.name) as made:
        if onnx:
            _export_onnx(made, saved, source, int8)
        else:
            save_model(made, saved.model, Tokenizer.from_dict(saved.tokenizer.to_dict()))  # without its training words
    used, dropped = (sum(p.numel() for p in module.parameters()) for module in (saved.model, saved.extra))
    print(f"wrote {folder}: {used:,} parameters; {dropped:,} more, which only training needs, were left out")
    print("the list of the words of the training captions was left out, so that you can share the folder without it")


def _export_onnx(folder: Path, saved, source, int8: bool) -> None:
    """Write a run's towers as ONNX, and compare them with torch on pairs of the run's own data."""
    from lcl.deploy.onnx import describe_recall_drop, export_onnx, to_int8

    rows = source.validation(64)
    pairs = rows.take(range(len(rows)))
    with tempfile.TemporaryDirectory() as between:
        furthest = export_onnx(Path(between) if int8 else folder, saved.model, saved.tokenizer, pairs.images, pairs.captions)
        compared = f"the embeddings of ONNX and torch differ by {furthest:.1e} at most, on {len(pairs)} pairs"
        print(compared + ("; this was measured in float32, before the weights were rounded to 8-bit integers" if int8 else ""))
        if int8:
            rows = source.train(min(256, saved.profile.training.pairs))
            to_int8(Path(between), folder, rows.take(range(len(rows))).images)
            print(describe_recall_drop(Path(between), folder, saved.tokenizer, source.validation(1000)))


@app.command()
def diagnose(run: RunArgument, pictures: MovedPicturesOption = None, data: MovedDataOption = None) -> None:
    """Check a finished run for common failures: one line for each check, and how to fix what failed.

    The exit code is 1 if a check failed.
    """
    from lcl.train.diagnosis import diagnose as check
    from lcl.train.runs import load_run

    saved = load_run(run)
    found = check(saved, source=_data_of(saved, pictures, data))
    print(found)
    sys.exit(1 if found.failed else 0)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line. A user's mistake prints one sentence and exits with code 2, ^C with 130."""
    handler = logging.StreamHandler()
    handler.setFormatter(OneLine())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    with contextlib.suppress(ValueError):  # in a thread of another program
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that child processes end and files are closed
    for noisy in ("httpx", "fontTools", "matplotlib", "faiss"):
        logging.getLogger(noisy).setLevel(logging.WARNING)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # prints arrows on a Windows console, too
            stream.reconfigure(encoding="utf-8", errors="replace")
    try:
        with memory_for("this command", "free some, or use a smaller model or batch"):
            app(arguments)
    except LclError as error:
        say(f"error: {error}", error=True)
        sys.exit(2)
    except KeyboardInterrupt:
        print("stopped.", file=sys.stderr)
        sys.exit(130)
