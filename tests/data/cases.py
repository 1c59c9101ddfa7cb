"""Small inputs of the kinds that users of similar tools have had trouble with."""

import csv
import io
import json
import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image

ROWS = 6
BASE = [(f"{i:03d}.jpg", f"a {colour} cat number {i}") for i, colour in enumerate("red blue green old small round".split())]


def picture(number: int, size=(24, 20), form: str = "JPEG", **options) -> bytes:
    """An image file of coloured noise."""
    file = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    Image.fromarray(noise).resize(size, Image.Resampling.NEAREST).save(file, form, **options)
    return file.getvalue()


def pictures(folder: Path, names=None) -> Path:
    """A folder of images of these names."""
    for number, name in enumerate(names or [name for name, _ in BASE]):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(picture(number))
    return folder


def table(rows, header=("image", "caption"), **dialect) -> str:
    """A table as Python's csv module writes it."""
    file = io.StringIO(newline="")
    writer = csv.writer(file, **dialect)
    writer.writerows([header] * bool(header) + list(rows))
    return file.getvalue()


TWO = [(name, text) for name, caption in BASE for text in (caption, caption + " again")]
COCO = {
    "images": [{"id": 7 * i, "file_name": name} for i, (name, _) in enumerate(BASE)],
    "annotations": [{"image_id": 7 * i, "id": i, "caption": caption} for i, (_, caption) in enumerate(BASE)],
}
KARPATHY = [{"filename": name, "split": "train", "sentences": [{"raw": text, "tokens": []}]} for name, text in BASE]

# {file: text} of tables that hold BASE
ONE_CAPTION = {
    "plain.csv": table(BASE),
    "semicolons.csv": table(BASE, delimiter=";"),
    "pipes.txt": table(BASE, delimiter="|"),
    "tabs.csv": table(BASE, delimiter="\t"),
    "excel.csv": "sep=;\r\n" + table(BASE, delimiter=";"),
    "capitals.csv": table(BASE, ("Image", " CAPTION ")),
    "more_columns.csv": table([(i, text, "x", name) for i, (name, text) in enumerate(BASE)], ("", "Title", "split", "File_Name")),
    "plain_names_first.csv": table([(text, "x", name, "y") for name, text in BASE], ("caption", "title", "image", "path")),
    "spaces.csv": "image, caption\n" + "".join(f'{name}, "{text}"\n' for name, text in BASE),
    "all_quoted.csv": table(BASE, quoting=csv.QUOTE_ALL),
    "empty_lines.csv": "\n" + table(BASE).replace("\r\n", "\r\n\r\n"),
    "old_mac.csv": table(BASE, lineterminator="\r"),
    "empty_cells.csv": table([(*row, "", "") for row in BASE]),
    "open_clip.tsv": table(BASE, ("filepath", "title"), delimiter="\t"),
    "cc3m.tsv": table([(text, name) for name, text in BASE], None, delimiter="\t"),
    "flickr8k.token.txt": table([(f"{name}#0", text) for name, text in BASE], None, delimiter="\t"),
    "metadata.jsonl": "\n\n".join(json.dumps({"file_name": name, "text": text}) for name, text in BASE),
    "metadata.ndjson": "".join(json.dumps({"Caption": text, "IMG": name, "x": [1]}) + "\n" for name, text in BASE),
    "coco.json": json.dumps(COCO),
    "blip.json": json.dumps([{"image": name, "caption": text} for name, text in BASE]),
    "karpathy.json": json.dumps({"dataset": "x", "images": KARPATHY}),
    "lines.json": "".join(json.dumps({"image": name, "caption": text}) + "\n" for name, text in BASE),
}
# of tables that hold TWO
TWO_CAPTIONS = {
    "two_rows.csv": table(TWO),
    "apart.csv": table(BASE + [(name, text + " again") for name, text in BASE]),
    "flickr30k.csv": table([(n, 0, " " + t) for n, t in TWO], ("image_name", " number", " comment"), delimiter="|"),
    "lists.jsonl": "".join(json.dumps({"image": n, "captions": [t, t + " again"]}) + "\n" for n, t in BASE),
    "lists_in_cells.csv": table([(n, json.dumps([t, t + " again"])) for n, t in BASE]),
    "lists_of_pandas.csv": table([(n, repr([t, t + " again"])) for n, t in BASE]),
    "karpathy.json": json.dumps([{"image": n, "sentences": [{"raw": t}, {"raw": t + " again"}]} for n, t in BASE]),
    "coco_of_five.json": json.dumps(
        COCO | {"annotations": [{"image_id": 7 * (i // 2), "caption": text} for i, (_, text) in enumerate(TWO)]}
    ),
    "repeated.csv": table(TWO + [(name, f"  {text.replace(' ', '  ')}") for name, text in TWO]),
    "spelt_twice.csv": table([("./" * (i % 2) + name, text) for i, (name, text) in enumerate(TWO)]),
}
ACCENTS = [(f"café{i}/größe{i}.jpg", f"caption {i}") for i in range(ROWS)]


def composed(form: str) -> list[tuple[str, str]]:
    """ACCENTS with its names in NFC or NFD."""
    return [(unicodedata.normalize(form, name), text) for name, text in ACCENTS]
