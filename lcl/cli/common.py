"""What the commands share: their list in the help, options, messages, progress, opening a data set."""

import dataclasses
import logging
import sys
from pathlib import Path
from typing import Annotated

import typer
from typer.core import TyperGroup

from lcl.config import PROFILES, ModelConfig, Profile, get_profile, require
from lcl.words import printable

ProfileOption = Annotated[str, typer.Option(help=f"Size of model and data: {', '.join(PROFILES)}.", envvar="LCL_PROFILE")]
ScenesVersionOption = Annotated[
    int | None, typer.Option(help="Version of the scenes: 2, or 1 with the names of Unicode, as in older runs. Default: 2.")
]
PairsOption = Annotated[
    int | None, typer.Option(help="How many pairs to train on. Default: the profile's number, or all of --data if it has fewer.")
]
PicturesOption = Annotated[
    Path | None, typer.Option(help="Draw the scenes from your own drawings: a folder with pictures and a names.csv.")
]
DataOption = Annotated[
    Path | None, typer.Option(help="Use your own pairs instead of scenes: a folder of shards that `lcl data` made.")
]
MovedPicturesOption = Annotated[Path | None, typer.Option(help="The folder of the run's drawings, if it has moved.")]
MovedDataOption = Annotated[Path | None, typer.Option(help="The folder of the run's shards, if it has moved.")]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a finished run, such as runs/first.")]
ImageEncoderOption = Annotated[str, typer.Option(help="The frozen image encoder: the name of a timm model.")]
TextEncoderOption = Annotated[
    str, typer.Option(help="The frozen text encoder: the name of a sentence-transformers model, or its folder.")
]
ImageSizeOption = Annotated[int, typer.Option(help="The frozen image encoder gets images of this size, in pixels.")]
PrecisionOption = Annotated[
    str, typer.Option(help="Number format in which the frozen encoders compute: float32, or bfloat16 (less exact, often faster).")
]


def _list_recipes(asked: bool) -> None:
    if asked:
        from lcl.train.recipes import CONTROLS, RECIPES

        for recipe in (RECIPES | CONTROLS).values():
            print(f"{recipe.name:24}{recipe.source}")
        raise typer.Exit


ListRecipesOption = Annotated[
    bool,
    typer.Option("--list-recipes", help="List all recipes, with the controls, and stop.", callback=_list_recipes, is_eager=True),
]


class Commands(TyperGroup):
    """Commands whose descriptions are shown whole in the help; by default they are cut to one line."""

    def format_commands(self, ctx, formatter) -> None:
        commands = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit=1000)) for name, command in commands])


SECONDS = 30  # between two lines of progress in a file or a pipe


def say(message: object, error: bool = False) -> None:
    """Print a message on one line, whatever the names and captions in it hold. error: on standard error."""
    print(printable(str(message)), file=sys.stderr if error else sys.stdout)


class OneLine(logging.Formatter):
    """Log messages without their level, each on one line, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(record.message)


def bar(what: str, unit: str, total: int | None = None, **options):
    """A progress bar with an estimate of the time left; in a file or a pipe a plain line every SECONDS instead."""
    from tqdm import tqdm

    class Lines(tqdm):
        write = staticmethod(print)

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            if msg is None:  # else this is to erase what was displayed
                print(self, file=self.fp, flush=True)

    line = f"{{desc}}: {{n_fmt}}/{{total_fmt}} {unit}, {{elapsed}} so far, {{remaining}} left{{postfix}}"
    plain = {"bar_format": line, "mininterval": SECONDS, "miniters": 1, "leave": False, "delay": 1e-9}  # delay: no line of 0 %
    kind, own = (tqdm, {"dynamic_ncols": True}) if sys.stderr.isatty() else (Lines, plain)
    return kind(total=total, unit=unit, desc=what, **own | options)


def changed(config, **changes):
    """A config with changed fields, and changed fields of its fields; None leaves a field as it is."""
    new = {
        name: changed(getattr(config, name), **value) if isinstance(value, dict) else value
        for name, value in changes.items()
        if value is not None
    }
    return dataclasses.replace(config, **new)


NO_SCENES = "--data names pairs that are no scenes, so there is no version to choose; leave out --scenes-version."


def profile_of(name: str, scenes_version: int | None, data: Path | None = None) -> Profile:
    """The profile called `name`, with scenes of another version if one is given, which pairs from `data` do not have."""
    require(data is None or scenes_version is None, NO_SCENES)
    return changed(get_profile(name), scenes={"version": scenes_version})


def load_start(folder: Path, model: ModelConfig, scenes: str | None):
    """The towers and the tokenizer that a run begins with.

    Args:
        folder: of a finished run, or of exported towers.
        model: the towers' settings.
        scenes: fingerprint of the scenes of the new run, to warn if the weights saw others; None if it has no scenes.
    """
    from lcl.models.clip import load_model

    towers, tokenizer = load_model(folder, config=model)
    if scenes not in (None, tokenizer.data):
        others = f"other scenes ({tokenizer.data}, not {scenes}), which may have shown what the test splits of these call unseen"
        say(f"the weights in {folder} were trained on {others}.", error=True)
    return towers, tokenizer


def open_pairs(profile: Profile, pictures: Path | str | None, data: Path | str | None, **splits: Path | str | None):
    """Open scenes, or shards with a progress bar while they are scanned; `splits` as in `open_dataset`."""
    from lcl.data.collection import open_dataset

    folders = [Path(folder) for folder in (data, *splits.values()) if folder]
    with bar("scanning", "tar", sum(len(list(folder.glob("*.tar"))) for folder in folders), delay=1) as progress:
        return open_dataset(profile, pictures, data, progress.update, **splits)
