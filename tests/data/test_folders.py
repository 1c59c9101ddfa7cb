"""Pictures and a table of captions, as people have them: every kind of table, and every way in which one goes wrong."""

import collections
import io
import json

import numpy as np
import pytest
from PIL import Image

from lcl.config import LclError
from lcl.data.folders import read_table, samples_of_folder
from lcl.data.shards import open_shards
from lcl.data.writing import write_shards


def png(number: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(number).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(["a.png", "b.PNG", "sub/c.png"]):
        (folder / name).write_bytes(png(number))
    return folder


TABLES = {
    "t.csv": 'image,caption\na.png,"one, two"\nb.PNG,two\nsub/c.png,"say ""three"""\n',
    "other.csv": '\ufeffid,caption,image,more\n1,"one, two",a.png,x\n2,two,b.PNG\n3,"say ""three""",sub/c.png,,,\n',
    "t.tsv": 'image\tcaption\na.png\tone, two\nb.PNG\ttwo\nsub/c.png\tsay "three"\n',
    "cc3m.tsv": 'one, two\ta.png\ntwo\tb.PNG\nsay "three"\tsub/c.png\n',
    "t.jsonl": "\n".join(
        json.dumps({"image": image, "caption": caption, "more": 1})
        for image, caption in (("a.png", "one, two"), ("b.PNG", "two"), ("sub/c.png", 'say "three"'))
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_every_kind_of_table_says_the_same_pairs(pictures, tmp_path, name):
    (tmp_path / name).write_text(TABLES[name], encoding="utf-8")
    faults = collections.Counter()
    found = list(samples_of_folder(pictures, tmp_path / name, faults))
    assert [(one.extension, *one.captions) for one in found] == [("png", "one, two"), ("png", "two"), ("png", 'say "three"')]
    assert [one.image for one in found] == [png(0), png(1), png(2)] and not faults
    assert [one.about["image"] for one in found] == ["a.png", "b.PNG", "sub/c.png"]


def test_a_folder_of_ones_own_pictures_becomes_shards(pictures, tmp_path):
    (tmp_path / "t.csv").write_text(TABLES["t.csv"])
    write_shards(tmp_path / "out", samples_of_folder(pictures, tmp_path / "t.csv", collections.Counter()), {}, rows=2)
    found = open_shards(tmp_path / "out", workers=0)
    assert [found.captions(row)[0] for row in range(3)] == ["one, two", "two", 'say "three"'] and len(found.tars) == 2


def test_what_cannot_be_used_is_counted_and_left_out(pictures, tmp_path):
    (tmp_path / "secret.png").write_bytes(png(9))
    (pictures / "link.png").symlink_to(tmp_path / "secret.png")
    (pictures / "text.png").write_text("no picture")
    (pictures / "notes.txt").write_text("no picture")
    rows = [("a.png", "kept"), ("../secret.png", "x"), (str(tmp_path / "secret.png"), "x"), ("link.png", "x"), ("gone.png", "x"),
            ("text.png", "x"), ("notes.txt", "x"), ("sub", "x"), ("b.PNG", " "), ("b.PNG", "NaN"), ("a\0b.png", "x")]  # fmt: skip
    table = tmp_path / "t.jsonl"
    table.write_text("\n".join(json.dumps({"image": image, "caption": caption}) for image, caption in rows))
    faults = collections.Counter()
    assert [one.captions for one in samples_of_folder(pictures, table, faults)] == [("kept",)]
    assert faults == {"image: outside the folder": 3, "image: missing": 2, "image: not a picture": 3, "caption: empty": 2}


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.csv", "file,caption\na.png,x\n", "no column image .it has: file, caption"),
        ("t.csv", "", "no column image and no column caption .it has: none"),
        ("t.jsonl", '{"image": "a.png"}', "no column caption"),
        ("t.jsonl", '{"image": "a.png", "caption": "x"}\n{"image":', "line 2 of .* is no JSON"),
        ("t.jsonl", "[1]", "no column image"),
        ("t.xlsx", "x", "give a .csv, .tsv or .jsonl"),
        ("t.csv", b"image,caption\na.png,\xff\xfe\n", "save it again as UTF-8"),
        ("t.csv", 'image,caption\na.png,"' + "x" * 2**21, "not readable as a table"),
    ],
)
def test_a_table_that_makes_no_sense_is_refused(tmp_path, name, text, reason):
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(LclError, match=reason):
        list(read_table(tmp_path / name))


def test_a_table_or_a_folder_that_is_not_there_is_said(pictures, tmp_path):
    with pytest.raises(LclError, match="no table of captions"):
        list(read_table(tmp_path / "gone.csv"))
    (tmp_path / "t.csv").write_text(TABLES["t.csv"])
    with pytest.raises(LclError, match="no folder of pictures"):
        list(samples_of_folder(tmp_path / "gone", tmp_path / "t.csv", collections.Counter()))
