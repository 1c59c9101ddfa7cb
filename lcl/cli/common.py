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


def open_pairs(profile: Profile, pictures: Path | str | None, data: Path | str | None, **splits: Path | str | None):
    """Open scenes, or shards with a progress bar while they are scanned; `splits` as in `open_dataset`."""
    from lcl.data.collection import open_dataset

    folders = [Path(folder) for folder in (data, *splits.values()) if folder]
    with bar("scanning", "tar", sum(len(list(folder.glob("*.tar"))) for folder in folders), delay=1) as progress:
        return open_dataset(profile, pictures, data, progress.update, **splits)
