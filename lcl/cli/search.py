"""The commands `search` and `embed`: what a trained model says of a folder of pictures."""

import json
import time
from pathlib import Path
from typing import Annotated

import typer

from lcl.cli.common import bar, say
from lcl.config import require

RunOption = Annotated[Path, typer.Option(help="The folder of a finished run, or one that `lcl export` made.")]


def search(
    run: RunOption,
    words: Annotated[str | None, typer.Argument(help="What to look for. Leave this out with --image.")] = None,
    folder: Annotated[str | None, typer.Argument(help="The folder of the pictures.")] = None,
    image: Annotated[Path | None, typer.Option(help="Look for pictures that are similar to this one.")] = None,
    k: Annotated[int, typer.Option("--k", "-k", help="How many pictures to list.", min=1)] = 5,
    save: Annotated[Path | None, typer.Option(help="Write the pictures that were found to this PNG file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print only JSON: the results, scores and warnings.")] = False,
) -> None:
    """Find the pictures of a folder that are most similar to some words, or to another picture.

    The first search computes the embedding of every picture. Later searches do so only for new pictures, even if the folder has
    moved.

    Every query has a nearest picture, so a cosine alone says little. Therefore the best cosine is compared with the best cosines
    of 200 random texts with as many words: a query that means something to the model exceeds most of them. Words that were not
    in the training captions are listed.
    """
    if image is not None:
        require(folder is None, "say what to look for in words or with --image, not both.")
        words, folder = None, words
    require(folder is not None, "name what to look for and the folder: lcl search WORDS FOLDER, or --image PICTURE FOLDER.")
    require(image is not None or bool(words.strip()), "say what to look for, in a few words or with --image.")

    from lcl.data.shards import list_faults
    from lcl.deploy.gallery import open_gallery
    from lcl.deploy.gallery import search as find
    from lcl.deploy.load import nearest
    from lcl.deploy.query import check_query

    model, tokenizer = _open_model(run)
    query = None if image is None else _embed_picture(model, image)
    with bar("embedding", "picture", delay=1, disable=as_json) as progress:
        gallery = open_gallery(Path(folder), model, progress.update)
    started = time.perf_counter()
    if query is None:
        found = find(gallery, model, tokenizer, words, k)
    else:
        found = nearest(gallery.names, gallery.v.numpy(), query, k)
    took = time.perf_counter() - started
    check = check_query(gallery, model, tokenizer, words) if query is None else None
    left_out = (f"left out: {list_faults(gallery.faults)}",) if gallery.faults else ()
    warnings = [*gallery.warnings, *(check.warnings if check else ())]
    if save:
        _save(save, gallery, found, model.config.vision.image_size)
    if as_json:
        print(json.dumps({
            "query": words if query is None else str(image),
            "results": [{"path": name, "cosine": cosine} for name, cosine in found],
            "pictures": len(gallery.names), "embedded": gallery.fresh, "left_out": gallery.faults,
            "above_random_texts": check.above if check else None, "z": check.z if check else None,
            "unseen_words": list(check.unseen) if check else [],
            "warnings": warnings,
        }, indent=2))  # fmt: skip
        return
    for name, cosine in found:
        say(f"{cosine:6.3f}  {name}")
    number = f"{len(gallery.names):,} picture{'s' * (len(gallery.names) != 1)}, {gallery.fresh:,} of them new"
    say("; ".join([number, f"searched in {1000 * took:.0f} ms", *left_out]))
    if check:
        print(check)
    for warning in warnings:
        say(f"warning: {warning}", error=True)
    if save:
        print(f"wrote {save}")


def _open_model(folder: Path):
    """The towers and the tokenizer of a run, or of any export."""
    from lcl.deploy.load import DESCRIPTION

    if (folder / DESCRIPTION).exists():
        from lcl.deploy.onnx import load_onnx

        return load_onnx(folder)
    known = (folder / "model.json").exists()
    require(known, f"there is no model in {folder}; name a finished run, or a folder that `lcl export` made, with --run.")

    from lcl.models.clip import load_model

    return load_model(folder)


def _embed_picture(model, image: Path):
    """A picture's embedding, (d,) float32."""
    import torch

    from lcl.deploy.inputs import to_pixels
    from lcl.eval.metrics import embed_images

    pixels = to_pixels(image, model.config.vision.image_size, False, str(image))  # (3, H, W)
    return embed_images(model, torch.from_numpy(pixels.copy())[None])[0].numpy()


def _save(path: Path, gallery, found: list[tuple[str, float]], pixels: int) -> None:
    from lcl import storage
    from lcl.course import plots

    images = gallery.images([name for name, _ in found], pixels)
    storage.write_bytes(path, plots.to_png(plots.grid(images, [f"{cosine:.2f}" for _, cosine in found], columns=5)))


def embed(
    run: RunOption,
    out: Annotated[Path, typer.Option(help="The new file: FILE.npy (the names go to FILE.names.json), or FILE.parquet.")],
    folder: Annotated[Path | None, typer.Argument(help="The folder of the pictures.")] = None,
    texts: Annotated[Path | None, typer.Option(help="Embed texts instead of pictures: each line of this UTF-8 file.")] = None,
) -> None:
    """Compute the embeddings of a folder's pictures, or of texts, and write them to a file.

    The file holds N rows of d numbers (float32, L2-normalised). Pictures that `lcl search` or `lcl embed` has embedded before are
    not embedded again.
    """
    require((folder is None) != (texts is None), "name either a folder of pictures or --texts FILE, one of them.")

    from lcl.deploy.embeddings import check_target, files_of, read_texts, write_embeddings

    check_target(out)
    names = read_texts(texts) if texts else []

    import torch

    from lcl.data.shards import list_faults
    from lcl.deploy.gallery import open_gallery
    from lcl.eval.metrics import embed_texts

    model, tokenizer = _open_model(run)
    notes = []
    with bar("embedding", "text" if texts else "picture", len(names) or None, delay=1) as progress:
        if texts:
            rows = []
            for start in range(0, len(names), 256):
                rows.append(embed_texts(model, tokenizer, names[start : start + 256]))
                progress.update(len(rows[-1]))
            v = torch.cat(rows)  # (N, d)
            length = model.config.language.context_length
            if cut := tokenizer.count_cut(names, length):
                notes.append(f"{cut:,} of {len(names):,} texts have more than {length} tokens and were cut.")
        else:
            gallery = open_gallery(folder, model, progress.update)
            names, v = gallery.names, gallery.v
            notes += [*gallery.warnings, *([f"left out: {list_faults(gallery.faults)}."] if gallery.faults else [])]
    write_embeddings(out, names, v.numpy(), "text" if texts else "path")
    for note in notes:
        say(f"warning: {note}", error=True)
    print(f"wrote {len(v):,} embeddings of {v.shape[1]} numbers to {' and '.join(str(file) for file in files_of(out)[::-1])}")
