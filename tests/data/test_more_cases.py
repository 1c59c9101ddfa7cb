"""Other people's folders, tables and tars, whole: what the commands make of them, or why they refuse."""

import io
import json
import re

import cases
import pytest
from commands import lcl
from conftest import write_tar
from PIL import Image

N = cases.ROWS
NAMES = [name for name, _ in cases.BASE]
EXIF = Image.Exif()
EXIF[0x010E] = "another description, the same pixels"


def again(name: str, form: str, **options):
    """Every picture of noise once more under a name, with equal pixels and other bytes."""

    def write(folder):
        for number in range(N):
            path = folder / name.format(number)
            path.parent.mkdir(exist_ok=True)
            Image.open(io.BytesIO(cases.picture(number, form="PNG"))).save(path, form, **options)

    return write


def lossless(folder):
    for number, name in enumerate(NAMES):
        (folder / name).write_bytes(cases.picture(number, form="PNG"))


TAB, MARK = "\t", '"'

# {kind: (file, its text, what else lies in the folder, what is said)}; the pictures of BASE are there
READ = {
    "three captions in a list of COCO's": (
        "t.json", json.dumps(cases.COCO | {"annotations": [{"image_id": i % N * 7, "caption": str(i)} for i in range(18)]}), (),
        "6 pictures with 18 captions in 1 tar",
    ),
    "captions under two spellings of a path": (
        "t.csv", cases.table(cases.BASE + [("./x/../" + name, "also " + text) for name, text in cases.BASE]), (),
        "6 pictures with 12 captions in 1 tar",
    ),
    "copies in other formats": (
        "t.csv", cases.table(cases.BASE + [(f"{i:03d}.bmp", f"copy {i}") for i in range(N)]),
        (lossless, again("{:03d}.bmp", "BMP")), "12 pictures (6 distinct) with 12 captions",
    ),
    "copies in another folder with other metadata": (
        "t.csv", cases.table(cases.BASE + [(f"Kopie/{i}.png", f"copy {i}") for i in range(N)]),
        (lossless, again("Kopie/{}.png", "PNG", exif=EXIF, compress_level=1)), "12 pictures (6 distinct) with 12 captions",
    ),
    "one class in several spellings": (
        "t.csv", cases.table([*zip(NAMES, ["A cat.", "a cat", "a  CAT", "ａ ｃａｔ", "a cat ", "A cat"], strict=True)]), (),
        "6 pictures with 6 captions (1 distinct)",
    ),
    "three classes in Japanese": (
        "t.tsv", cases.table([(name, "犬猫鳥"[i % 3] + "。" * (i > 2)) for i, name in enumerate(NAMES)], delimiter="\t"), (),
        "6 pictures with 6 captions (3 distinct)",
    ),
    "Excel's table with its note and a column more": (
        "t.csv", "sep=;\r\n" + cases.table([(2019, *row) for row in cases.BASE], ("Year", "Filename", "Text"), delimiter=";"), (),
        "6 pictures with 6 captions in 1 tar",
    ),
    "a row or two without anything": (
        "t.csv", cases.table([*cases.BASE, ("", ""), ("", "")]), (), "left out: row: blank 2×; the first: line 8: row: blank",
    ),
    "captions of more words than a model reads": (
        "t.jsonl", "".join(json.dumps({"image": name, "text": text + " and so on" * 16}) + "\n" for name, text in cases.BASE), (),
        "6 captions have more than 46 words: a context of 48 tokens cuts them off.",
    ),
    "one long caption among short ones": (
        "t.csv", cases.table([(name, "word " * (47 if name == NAMES[2] else 46)) for name in NAMES]), (),
        "1 captions have more than 46 words",
    ),
}  # fmt: skip
REFUSED = {
    "a semicolon without quotation marks": (
        "t.csv", "image;caption\n" + "".join(f"{name};{text}; at night\n" for name, text in cases.BASE), (),
        "6 rows of .* the first in line 2, so captions seem to hold a semicolon",
    ),
    "a tab in some captions": (
        "t.tsv", "filepath\ttitle\n" + "".join(f"{name}\t{text}{TAB * (name > '003')}x\n" for name, text in cases.BASE), (),
        "3 rows of .* the first in line 5, so captions seem to hold a tab",
    ),
    "a mark that opens in one row and closes three rows on": (
        "t.csv", "image;caption\na.jpg;x\n" + "".join(f"{n};{MARK * (n in NAMES[1::3])}{t}\n" for n, t in cases.BASE), (),
        "line 4 of",
    ),
    "a height in feet and inches": (
        "t.csv", 'image,caption\n000.jpg,"a man of 6\'2" in a coat"\n001.jpg,a cat\n', (), "row that begins in line 2 of",
    ),
    "rows that lack the caption": (
        "t.csv", cases.table([row for name, text in cases.BASE for row in ((name, text), (name, ""))]), (),
        "6 of 12 pairs .*caption: empty 6×.*the first: line 3, 000.jpg",
    ),
    "lines of JSON with null": (
        "t.jsonl", "".join(json.dumps({"image": n, "caption": t if n > "003" else None}) + "\n" for n, t in cases.BASE), (),
        "3 of 6 pairs .*caption: missing 3×.*the first: line 1, 000.jpg",
    ),
}  # fmt: skip


def make(tmp_path, file: str, text: str, more):
    folder, table = cases.pictures(tmp_path / "mine"), tmp_path / file
    for write in more:
        write(folder)
    table.write_bytes(text.encode())
    return lcl("data", "from-folder", folder, "--captions", table, "--out", tmp_path / "out")


@pytest.mark.parametrize("kind", READ)
def test_it_is_read(tmp_path, kind):
    *given, said = READ[kind]
    made = make(tmp_path, *given)
    assert made.code == 0 and said in made.out, made


@pytest.mark.parametrize("kind", REFUSED)
def test_it_is_refused_and_nothing_stays_behind(tmp_path, kind):
    *given, said = REFUSED[kind]
    refused = make(tmp_path, *given).refusal
    assert refused.count("\n") == 1
    assert re.search(said, refused)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", given[0]]


@pytest.mark.parametrize(
    ("about", "captions"),
    [
        ({"captions": ["a cat", "one cat", "A CAT."]}, "18 captions (2 distinct)"),
        ({"caption": "a cat", "captions": ["one", "two"], "width": 24}, "12 captions (2 distinct)"),
    ],
)
def test_a_tars_lists_of_captions_belong_to_one_picture(tmp_path, about, captions):
    files = [(f"{i}.jpg", cases.picture(i)) for i in range(N)] + [(f"{i}.json", json.dumps(about).encode()) for i in range(N)]
    write_tar(tmp_path / "tars" / "x.tar", sorted(files))
    made = lcl("data", "verify", tmp_path / "tars")
    assert made.code == 0 and "6 pictures with " in made.out and captions in made.out


@pytest.mark.parametrize("packed", ["bz2", "xz", "zst"])
def test_packed_tars_are_named(tmp_path, packed):
    (tmp_path / f"photos.tar.{packed}").write_bytes(b"whatever is in it")
    assert f"photos.tar.{packed} is compressed; unpack it" in lcl("data", "verify", tmp_path).refusal
