"""What the commands share: options, messages, progress bars, opening a data set."""

import logging
import sys
from pathlib import Path
from typing import Annotated

import typer

from lcl.config import PROFILES, Profile
from lcl.words import printable

ProfileOption = Annotated[str, typer.Option(help=f"Size of model and data: {', '.join(PROFILES)}.", envvar="LCL_PROFILE")]
PicturesOption = Annotated[Path | None, typer.Option(help="A folder of your own drawings with a names.csv.")]
DataOption = Annotated[Path | None, typer.Option(help="A folder of shards, made by `lcl data`, instead of scenes.")]
RunArgument = Annotated[Path, typer.Argument(help="The folder of a finished run.")]
ImageEncoderOption = Annotated[str, typer.Option(help="The frozen image encoder: any timm model.")]
TextEncoderOption = Annotated[str, typer.Option(help="The frozen text encoder: any sentence-transformers model, or a folder.")]
ImageSizeOption = Annotated[int, typer.Option(help="Input size of the frozen image encoder, in pixels.")]
PrecisionOption = Annotated[str, typer.Option(help="Of the frozen encoders: float32, or bfloat16 (faster, less exact).")]


def say(message: object, error: bool = False) -> None:
    """Print a message on one line, whatever the names and captions in it hold. error: on standard error."""
    print(printable(str(message)), file=sys.stderr if error else sys.stdout)


class OneLine(logging.Formatter):
    """Log messages without their level, each on one line, whatever the names in it hold."""

    def formatMessage(self, record: logging.LogRecord) -> str:
        return printable(record.message)


def bar(what: str, unit: str, total: int | None = None, **options):
    """A progress bar with an estimate of the time left; without a terminal there is none, unless options say disable=False."""
    from tqdm import tqdm

    return tqdm(total=total, unit=unit, desc=what, dynamic_ncols=True, **{"disable": None} | options)


def open_pairs(profile: Profile, pictures: Path | str | None, data: Path | str | None, **splits: Path | str | None):
    """Open scenes, or shards with a progress bar while they are scanned; `splits` as in `open_dataset`."""
    from lcl.data.collection import open_dataset

    folders = [Path(folder) for folder in (data, *splits.values()) if folder]
    with bar("scanning", "tar", sum(len(list(folder.glob("*.tar"))) for folder in folders), delay=1) as progress:
        return open_dataset(profile, pictures, data, progress.update, **splits)
