"""`lcl data`: show the scenes, and make shards of pairs, of scenes, of one's own pictures, or of CC3M."""

from __future__ import annotations

import collections
import time
from pathlib import Path
from typing import Annotated

import typer

from lcl.config import PROFILES, get_profile, require

ProfileOption = Annotated[
    str, typer.Option(help=f"How much of everything: {', '.join(PROFILES)}.", envvar="LCL_PROFILE")
]
PicturesOption = Annotated[Path | None, typer.Option(help="A folder of your own drawings with a names.csv.")]

data_app = typer.Typer(invoke_without_command=True)


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

    from lcl import storage
    from lcl.data.scenes import SPLITS, open_scenes

    started = time.perf_counter()
    world = open_scenes(chosen.scenes, pictures)
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
        from lcl.course import plots

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
    from tqdm import tqdm

    from lcl.data.folders import read_table, samples_of_folder
    from lcl.data.shards import check_share, tell, write_shards

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

    from lcl.data.scenes import open_scenes
    from lcl.data.shards import ROWS, scene_samples, write_shards, written

    chosen = get_profile(profile)
    world, count = open_scenes(chosen.scenes, pictures), count or chosen.training.pairs
    there = written(out)
    with tqdm(total=count, initial=min(there * ROWS, count), unit="pair", desc="writing", dynamic_ncols=True) as bar:
        rest, source = range(there * ROWS, count), {"scenes": world.fingerprint, "split": "train", "pairs": count}
        tars = write_shards(out, scene_samples(world, rest), source, start=there, progress=bar.update)
    print(f"{sum(tar['rows'] for tar in tars.values()):,} pairs in {len(tars)} tars in {out}")
    _verify(out, accept=False)


@data_app.command()
def cc3m(
    out: OutOption,
    limit: Annotated[int | None, typer.Option(help="Number of tars, at most.", min=1)] = None,
) -> None:
    """Download Conceptual Captions: 3 million pairs of the web.

    As tars from the hub, about 270 GB. Called again, it keeps complete tars and downloads the others. Links instead of tars
    can be downloaded with img2dataset; README has the line.
    """
    from tqdm import tqdm

    from lcl.data.cc3m import PAIRS, fetch_tars

    with tqdm(unit="B", unit_scale=True, desc="downloading", dynamic_ncols=True) as bar:
        arrived = fetch_tars(out, limit, progress=bar.update)
    print(arrived)
    require(arrived.there > 0, f"nothing arrived in {out}; call again when the servers answer.")
    found = _verify(out, accept=arrived.tars)  # new ones; other tars must be as the manifest says
    print(f"that is {len(found) / PAIRS:.1%} of CC3M's {PAIRS:,} pairs")


@data_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Where the tars are.")],
    accept: Annotated[bool, typer.Option(help="Go on with what is there, where it is not what the manifest says.")] = False,
) -> None:
    """Look at every byte of a folder of shards, and say what cannot be used."""
    _verify(folder, accept)


def _verify(folder: Path, accept: bool | tuple[str, ...]):
    """Look through shards with a progress bar, print what is there, and return them."""
    from tqdm import tqdm

    from lcl.data.shards import scan_shards, tell

    with tqdm(total=len(list(folder.glob("*.tar"))), unit="tar", desc="looking", dynamic_ncols=True) as bar:
        found = scan_shards(folder, progress=bar.update, accept=accept)
    print(f"{len(found):,} pairs in {len(found.tars)} tars, fingerprint {found.fingerprint}; {tell(found.faults)}")
    return found
