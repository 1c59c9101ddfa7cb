"""`lcl data`: show the scenes, and make shards of scenes, of your own pictures, or of CC3M."""

import collections
import time
from pathlib import Path
from typing import Annotated

import typer

from lcl.cli.common import PicturesOption, ProfileOption, bar
from lcl.config import get_profile, require

data_app = typer.Typer(invoke_without_command=True)


@data_app.callback()
def data(
    context: typer.Context,
    profile: ProfileOption = "laptop",
    pictures: PicturesOption = None,
    save: Annotated[Path | None, typer.Option(help="Write example scenes to this PNG.")] = None,
) -> None:
    """Show the pictures and an example of every split; subcommands make shards of pairs.

    The first call draws the picture dictionary, which takes seconds.
    """
    if context.invoked_subcommand:
        return
    chosen = get_profile(profile)

    from lcl import storage
    from lcl.data.scenes import SPLITS, open_scenes

    started = time.perf_counter()
    scenes = open_scenes(chosen.scenes, pictures)
    dictionary = scenes.pictures
    print(f"{len(dictionary.concepts)} concepts in {len(dictionary.styles)} drawing styles, fingerprint {dictionary.fingerprint}")
    for style in dictionary.styles:
        print(f"  {style.name}: {style.credit}; {style.licence}")
    print(f"{len(scenes.known)} known and {len(scenes.unseen)} unseen concepts, data set {scenes.fingerprint}")
    for split, meaning in SPLITS.items():
        if scenes.concepts(split):
            print(f"  {split}: {meaning}\n    {scenes.scene(split, 0).caption!r}")
    print(f"ready in {time.perf_counter() - started:.1f} s")
    if save:
        from lcl.course import plots

        sheet = plots.annotated_scenes(scenes.pairs("train", range(16)), scenes.name)
        storage.write_bytes(save, plots.to_png(sheet))
        print(f"wrote {save}")


OutOption = Annotated[Path, typer.Option(help="The folder to write the shards to.")]


@data_app.command("from-folder")
def from_folder(
    folder: Annotated[Path, typer.Argument(help="Where the pictures are.")],
    captions: Annotated[Path, typer.Option(help="A .csv, .tsv or .jsonl with the columns image and caption.")],
    out: OutOption,
) -> None:
    """Make shards of your own pictures and captions.

    Unusable pairs are counted and left out.
    """
    from lcl.data.folders import read_table, samples_of_folder
    from lcl.data.shards import check_share, tell
    from lcl.data.writing import write_shards

    faults: collections.Counter[str] = collections.Counter()
    total = sum(1 for _ in read_table(captions))
    require(not list(out.glob("*.tar")), f"there are shards in {out} already; name another folder.")
    source = {"folder": str(folder.resolve()), "captions": captions.name}
    with bar("writing", "pair", total) as progress:
        tars = write_shards(out, samples_of_folder(folder, captions, faults), source, progress=progress.update)
    rows = sum(tar["rows"] for tar in tars.values())
    require(rows > 0, f"no pair of {captions} can be used: {tell(faults)}.")
    print(f"{rows:,} pairs in {len(tars)} tars in {out}; left out: {tell(faults)}")
    check_share(sum(faults.values()), rows, faults, str(captions))
    _verify(out, accept=False)


@data_app.command("scenes")
def write_scenes(
    out: OutOption,
    profile: ProfileOption = "laptop",
    count: Annotated[int | None, typer.Option(help="Pairs; by default those of the profile.", min=1)] = None,
    pictures: PicturesOption = None,
) -> None:
    """Write the scenes that a profile trains on as shards.

    If stopped, call it again to continue.
    """
    from lcl.data.scenes import open_scenes
    from lcl.data.writing import ROWS, next_tar, scene_samples, write_shards

    chosen = get_profile(profile)
    scenes, count = open_scenes(chosen.scenes, pictures), count or chosen.training.pairs
    there = next_tar(out)
    rest, source = range(there * ROWS, count), {"scenes": scenes.fingerprint, "split": "train", "pairs": count}
    with bar("writing", "pair", count, initial=min(there * ROWS, count)) as progress:
        tars = write_shards(out, scene_samples(scenes, rest), source, start=there, progress=progress.update)
    print(f"{sum(tar['rows'] for tar in tars.values()):,} pairs in {len(tars)} tars in {out}")
    _verify(out, accept=False)


@data_app.command()
def cc3m(
    out: OutOption,
    limit: Annotated[int | None, typer.Option(help="Number of tars, at most.", min=1)] = None,
) -> None:
    """Download Conceptual Captions: 3 million pairs from the web.

    As tars from the hub, about 270 GB. Call it again to download what is missing; complete tars are kept. Links instead of tars
    can be downloaded with img2dataset; README has the line.
    """
    from lcl.data.cc3m import PAIRS, fetch_tars

    with bar("downloading", "B", unit_scale=True) as progress:
        arrived = fetch_tars(out, limit, progress=progress.update)
    print(arrived)
    require(arrived.there > 0, f"nothing arrived in {out}; try again when the servers answer.")
    found = _verify(out, accept=arrived.tars)  # new tars only; the others must match the manifest
    print(f"that is {len(found) / PAIRS:.1%} of CC3M's {PAIRS:,} pairs")


@data_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Where the tars are.")],
    accept: Annotated[bool, typer.Option(help="Accept tars that differ from the manifest.")] = False,
) -> None:
    """Check every byte of a folder of shards, and report what cannot be used."""
    _verify(folder, accept)


def _verify(folder: Path, accept: bool | tuple[str, ...]):
    """Scan shards with a progress bar, print a summary, and return them."""
    from lcl.data.shards import scan_shards, tell

    with bar("scanning", "tar", len(list(folder.glob("*.tar")))) as progress:
        found = scan_shards(folder, progress=progress.update, accept=accept)
    print(f"{len(found):,} pairs in {len(found.tars)} tars, fingerprint {found.fingerprint}; {tell(found.faults)}")
    return found
