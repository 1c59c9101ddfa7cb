"""`lcl data`: show the scenes, and make shards of scenes, of your own pictures, or of CC3M."""

import time
from pathlib import Path
from typing import Annotated

import typer

from lcl.cli.common import PicturesOption, ProfileOption, ScenesVersionOption, bar, profile_of, say
from lcl.config import require

data_app = typer.Typer(invoke_without_command=True)


@data_app.callback()
def data(
    context: typer.Context,
    profile: ProfileOption = "laptop",
    scenes_version: ScenesVersionOption = None,
    pictures: PicturesOption = None,
    save: Annotated[Path | None, typer.Option(help="Write example scenes to this PNG.")] = None,
) -> None:
    """Show the pictures and an example of every split; subcommands make shards of pairs.

    The first call draws the picture dictionary, which takes seconds.
    """
    if context.invoked_subcommand:
        return
    chosen = profile_of(profile, scenes_version)

    from lcl import storage
    from lcl.data.scenes import SPLITS, open_scenes

    started = time.perf_counter()
    scenes = open_scenes(chosen.scenes, pictures)
    dictionary = scenes.pictures
    print(f"{len(dictionary.concepts)} concepts in {len(dictionary.styles)} drawing styles, fingerprint {dictionary.fingerprint}")
    for style in dictionary.styles:
        say(f"  {style.name}: {style.credit}; {style.licence}")
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


IMAGES = "The column of image paths, if it is not called image, filename, path or the like; its number if there is no header."
CAPTIONS = "The column of captions, if it is not called caption, title, text or the like; its number if there is no header."
OutOption = Annotated[Path, typer.Option(help="The folder to write the shards to.")]


@data_app.command("from-folder")
def from_folder(
    folder: Annotated[Path, typer.Argument(help="Where the images are.")],
    out: OutOption,
    captions: Annotated[
        Path | None, typer.Option(help="A table of image paths and captions: .csv, .tsv, .txt, .jsonl, .ndjson, or .json (COCO).")
    ] = None,
    image_column: Annotated[str | None, typer.Option(help=IMAGES)] = None,
    caption_column: Annotated[str | None, typer.Option(help=CAPTIONS)] = None,
    delimiter: Annotated[str | None, typer.Option(help='What separates the columns: one character, or "tab".')] = None,
    encoding: Annotated[str | None, typer.Option(help="Of the table, if neither UTF-8 nor UTF-16 with a mark.")] = None,
    max_bad: Annotated[float, typer.Option(help="Share of the pairs that may be unusable.", min=0, max=1)] = 0.05,
) -> None:
    """Make shards of your own images and captions.

    The table has one row per caption; captions of one image are gathered, also from lists. Without --captions, every line of a
    .txt file beside an image is a caption; without such files, folders are classes ("a photo of a NAME").

    Unusable pairs are left out and listed in OUT/rejected.csv. If they are more than --max-bad of all pairs and at least three,
    or if no other is left, the command refuses and leaves nothing behind.

    Limits. Files: 32 MiB. Images: at least 8 pixels a side, at most 16,384 a side, 50 Mi pixels and 16 times as long as wide; a
    JPEG counts as it is scaled down, and has at most 256 Mi pixels (progressive: 64 Mi). Captions: 1,000 words and 16 KiB.
    """
    from lcl import storage
    from lcl.data.collection import FEWEST
    from lcl.data.folders import check_share, first_rejected, gather, rows_of_folder, samples, write_rejected
    from lcl.data.shards import describe, list_faults, open_shards
    from lcl.data.tables import TableOptions, read_table
    from lcl.data.writing import write_shards

    if captions is None:
        rows, what = rows_of_folder(folder)
        say(f"took {what}")
    else:
        rows, what = read_table(captions, TableOptions(image_column, caption_column, delimiter, encoding)), str(captions)
    with storage.fresh_folder(out) as fresh:
        pairs = gather(folder, rows, str(captions or folder))
        check_share(pairs, max_bad)
        source = {"folder": str(folder.resolve()), "captions": captions.name if captions else what}
        with bar("writing", "image", len(pairs.pictures)) as progress:
            tars = write_shards(fresh, samples(pairs, max_bad, progress=progress.update), source)
        check_share(pairs, max_bad)
        say(describe(open_shards(fresh)))
        write_rejected(fresh / "rejected.csv", pairs.rejected)
    good, images = pairs.count - len(pairs.rejected), sum(tar["rows"] for tar in tars.values())
    repeated = f" ({pairs.repeated:,} of them repeated)" if pairs.repeated else ""
    print(f"{_number(good, 'pair')}{repeated} of {_number(images, 'image')} in {_number(len(tars), 'tar')} in {out}")
    if pairs.rejected:
        say(f"left out: {list_faults(pairs.faults)}; the first: {first_rejected(pairs)}; all are in {out / 'rejected.csv'}")
    if images < FEWEST:
        print(f"training needs {FEWEST} distinct pictures or more; fewer do for --validation, --test or `lcl evaluate --data`.")


def _number(count: int, what: str) -> str:
    return f"{count:,} {what}{'s' * (count != 1)}"


@data_app.command("scenes")
def write_scenes(
    out: OutOption,
    profile: ProfileOption = "laptop",
    scenes_version: ScenesVersionOption = None,
    count: Annotated[int | None, typer.Option(help="Pairs; by default those of the profile.", min=1)] = None,
    pictures: PicturesOption = None,
) -> None:
    """Write the scenes that a profile trains on as shards.

    If stopped, call it again to continue.
    """
    from lcl.data.manifest import read_manifest
    from lcl.data.scenes import open_scenes
    from lcl.data.writing import next_tar, scene_samples, write_shards

    chosen = profile_of(profile, scenes_version)
    scenes, count = open_scenes(chosen.scenes, pictures), count or chosen.training.pairs
    there = next_tar(out)
    done = sum(tar["rows"] for _, tar in sorted(read_manifest(out).items())[:there])
    rest, source = range(done, count), {"scenes": scenes.fingerprint, "split": "train", "pairs": count}
    with bar("writing", "pair", count, initial=min(done, count)) as progress:
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
    say(arrived)
    require(arrived.there > 0, f"nothing arrived in {out}; try again when the servers answer.")
    found = _verify(out, accept=arrived.tars)  # new tars only; the others must match the manifest
    print(f"that is {len(found) / PAIRS:.1%} of CC3M's {PAIRS:,} pairs")


@data_app.command()
def verify(
    folder: Annotated[Path, typer.Argument(help="Where the tars are.")],
    accept: Annotated[bool, typer.Option(help="Accept tars that differ from the manifest.")] = False,
    near: Annotated[
        bool, typer.Option("--near", help="Find near-duplicates too, and keep them on one side of every split from now on.")
    ] = False,
) -> None:
    """Check every byte of a folder of shards, and report what cannot be used and what is there twice.

    Copies of a picture never lie on two sides of a split. Near-duplicates are pictures that were resized or saved again.
    """
    found = _verify(folder, accept)
    if near:
        from lcl.data.manifest import group_near_duplicates
        from lcl.data.shards import describe_near_duplicates

        say(describe_near_duplicates(found))
        group_near_duplicates(folder)


def _verify(folder: Path, accept: bool | tuple[str, ...]):
    """Scan shards with a progress bar, print a summary, and return them."""
    from lcl.data.shards import describe, scan_shards

    with bar("scanning", "tar", len(list(folder.glob("*.tar")))) as progress:
        found = scan_shards(folder, progress=progress.update, accept=accept)
    say(describe(found))
    return found
