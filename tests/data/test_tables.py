"""Tables of captions: every kind that people have, and what is said about one that cannot be read."""

import csv
import json

import cases
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lcl.config import LclError
from lcl.data.tables import Row, TableOptions, read_table


def read(folder, name, text, **options) -> list[Row]:
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return list(read_table(folder / name, TableOptions(**options)))


def pairs(rows) -> list[tuple[str, str]]:
    return [(row.image, caption) for row in rows for caption in row.captions]


@pytest.mark.parametrize("name", cases.ONE_CAPTION)
def test_every_kind_of_table_holds_the_same_pairs(tmp_path, name):
    assert pairs(read(tmp_path, name, cases.ONE_CAPTION[name])) == cases.BASE


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("name", ["plain.csv", "open_clip.tsv", "metadata.jsonl", "coco.json"])
def test_a_byte_order_mark_states_the_encoding(tmp_path, name, encoding):
    text = cases.ONE_CAPTION[name].replace("cat", "Kätzchen").replace("K\\u00e4", "Kä")
    assert pairs(read(tmp_path, name, text.encode(encoding)))[0] == ("000.jpg", "a red Kätzchen number 0")


def test_the_options_decide_where_nothing_else_does(tmp_path):
    picture = "pic:words:image\na.jpg:one:x\n"
    options = {"image_column": "PIC", "caption_column": "words", "delimiter": ":"}
    assert read(tmp_path, "t.csv", picture, **options) == [Row(2, "a.jpg", ("one",))]
    assert read(tmp_path, "t.csv", "1;a.jpg;one\n", image_column="2", caption_column="3") == [Row(1, "a.jpg", ("one",))]
    assert read(tmp_path, "t.tsv", "file\tpath\ttext\na\tb\tc\n", image_column="path") == [Row(2, "b", ("c",))]
    table = "image,caption\na.jpg,Kätzchen\n"
    assert read(tmp_path, "t.csv", table.encode("cp1252"), encoding="cp1252") == [Row(2, "a.jpg", ("Kätzchen",))]
    assert read(tmp_path, "t.csv", "image,caption\na,b\n".encode("utf-16-le"), encoding="utf-16-le") == [Row(2, "a", ("b",))]
    options = {"image_column": "pic", "caption_column": "words"}
    assert read(tmp_path, "t.jsonl", '{"pic": "a", "words": "b"}', **options) == [Row(1, "a", ("b",))]
    assert read(tmp_path, "t.csv", "image\tcaption\na\tb, c\n", delimiter="tab") == [Row(2, "a", ("b, c",))]


SAID = 'a sign, called "the best"'


@pytest.mark.parametrize(
    ("name", "text", "caption"),
    [
        ("t.tsv", cases.table([("a.jpg", SAID)], delimiter="\t"), SAID),  # csv doubles the marks
        ("t.tsv", f"image\tcaption\na.jpg\t{SAID}\n", SAID),
        ("t.tsv", 'image\tcaption\na.jpg\t"One" said she\n', '"One" said she'),
        ("t.tsv", 'image\tcaption\na.jpg\t"one\nb.jpg\ttwo\n', '"one'),
        ("t.tsv", 'image\tcaption\na.jpg\t"one\ntwo"\n', "one\ntwo"),
        ("t.tsv", '"One" said she\ta.jpg\n', '"One" said she'),
        ("t.tsv", '"Hello, world"\ta.jpg\n', '"Hello, world"'),
        ("t.tsv", '" two\ta.jpg\nthree "\tb.jpg\n', '" two'),
        ("t.tsv", cases.table([(SAID, "a.jpg")], None, delimiter="\t"), SAID),
        ("t.tsv", cases.table([("one\ttwo", "a.jpg"), ("x", "b.jpg")], ("caption", "image"), delimiter="\t"), "one\ttwo"),
        ("t.csv", cases.table([("a.jpg", "[not a list]")]), "[not a list]"),
        ("t.csv", cases.table([("a.jpg", '["a", 1]')]), '["a", 1]'),
        ("t.csv", cases.table([("a.jpg", "one,\ntwo, three.")]), "one,\ntwo, three."),
    ],
)
def test_quotation_marks_are_read_as_they_were_meant(tmp_path, name, text, caption):
    row = read(tmp_path, name, text)[0]
    assert (row.image, row.captions) == ("a.jpg", (caption,))


def test_what_a_row_lacks_is_empty_and_lines_are_those_of_the_file(tmp_path):
    text = 'image,caption,more\na.jpg,"one\ntwo",x\n\n,,\nb.jpg\n"c.jpg","three"\n'
    assert read(tmp_path, "t.csv", text) == [
        Row(2, "a.jpg", ("one\ntwo",)), Row(5, "", ("",)), Row(6, "b.jpg", ("",)), Row(7, "c.jpg", ("three",)),
    ]  # fmt: skip
    text = '{"image": "a", "caption": 5}\n\n{"image": ["b"], "caption": ["x", null, "y"]}\n{}\n[]\n'
    assert read(tmp_path, "t.jsonl", text) == [Row(1, "a", ()), Row(3, "", ("x", "y")), Row(4, "", ()), Row(5, "", ())]


STRAY = [(f"{i:03d}.jpg", f"caption {i}") for i in range(100)]


def stray(line: int, other: str = "") -> str:
    rows = [f"{name},{text}" for name, text in STRAY]
    rows[line - 2] = rows[line - 2].replace(",", ',"')
    return "\n".join(["image,caption", *rows]) + other


@pytest.mark.parametrize(
    ("name", "text", "reason"),
    [
        ("t.csv", "file,what\na.png,x\n", "no column caption .it has: file, what.*--caption-column"),
        ("t.csv", "", "no column image and no column caption .it has: none"),
        ("t.csv", "a.jpg;a cat\n", "no column image and no column caption .it has: a.jpg, a cat"),
        ("t.tsv", "filename\twords\na.jpg\tx\n", "no column caption .it has: filename, words"),
        ("t.txt", "a cat\n", "no column image"),
        ("t.csv", "path,file,text\na,b,c\n", "columns path and file, .*choose one with --image-column"),
        ("t.csv", "Image,image,text\na,b,c\n", "columns image and image"),
        ("t.jsonl", '{"img": "a", "text": "b", "title": "c"}', "columns text and title, .*--caption-column"),
        ("t.csv", "image,caption,x;image;caption\n", "can be split in 2 ways; say which with --delimiter"),
        ("t.jsonl", '{"image": "a.png"}', "no column caption"),
        ("t.jsonl", '{"image": "a.png", "caption": "x"}\n{"image":', "line 2 of .* is not JSON"),
        ("t.jsonl", "[1]", "no column image"),
        ("t.jsonl", "\n\n", "holds no rows"),
        ("t.json", '{"image": "a.png", \n', "line 1 of .* is not JSON"),
        ("t.json", '{"a": 1}', "not a table of captions"),
        ("t.json", json.dumps({"images": [{"id": 1}], "annotations": [{"image_id": 1, "caption": "x"}]}), "have no file_name"),
        ("t.json", json.dumps({"images": cases.COCO["images"], "annotations": [{"image_id": 0, "bbox": []}]}), "have no caption"),
        ("t.json", json.dumps({"images": [1], "annotations": []}), "not COCO's format"),
        ("t.xlsx", "x", "save it as one of .csv, .tsv"),
        ("t.csv", b"image,caption\na.png,ok\nb.png,\xff\xfe\n", "line 3 of .* is not utf-8 text; .*--encoding cp1252"),
        ("t.csv", "image,caption\na,b\n".encode("utf-16-le"), "zero bytes.*--encoding"),
        ("t.csv", b"\xff\xfei\0m", "line 1 of .* is not utf-16 text"),
        ("t.csv", 'image,caption\na.png,"' + "x" * 2**21, "begins in line 2 .*field larger"),
        ("t.csv", cases.table(STRAY[:7]) + "7.jpg,one, two\n8.jpg,a, b, c\n", "2 rows of .* the first in line 9,"),
        ("t.csv", stray(52), "row that begins in line 52 of"),
        ("t.csv", stray(52, '\n200.jpg,"one, two"\n'), "row that begins in line 52 of"),
        ("t.csv", stray(52, '\n200.jpg,two"\n'), "quotation mark in line 52 of .* swallows the rows up to line 102"),
        ("t.tsv", 'image\tcaption\na.jpg\t"one\nb.jpg\ttwo"\nc.jpg\n', "quotation mark in line 2 of .* up to line 3"),
    ],
)  # fmt: skip
def test_a_table_that_makes_no_sense_is_refused_with_the_place(tmp_path, name, text, reason):
    with pytest.raises(LclError, match=reason) as refused:
        read(tmp_path, name, text)
    assert str(refused.value).endswith(".") and "\n" not in str(refused.value)


def test_a_coco_annotation_without_a_caption_is_a_row_without_one(tmp_path):
    notes = [{"image_id": 0, "bbox": []}, {"image_id": 7, "caption": "two dogs"}]
    found = read(tmp_path, "t.json", json.dumps({"images": cases.COCO["images"], "annotations": notes}))
    assert [row.captions for row in found] == [(), ("two dogs",)]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"image_column": "picture"}, "no column image .it has: image, caption.; name the right one with --image-column"),
        ({"delimiter": "::"}, "one character or tab"), ({"encoding": "utf-9"}, "no encoding utf-9"),
        ({"encoding": "ascii"}, "line 3 of .* is not ascii text"),
        ({"image_column": "4", "caption_column": "5"}, "what separates"),
    ],
)  # fmt: skip
def test_an_option_that_does_not_fit_is_refused(tmp_path, options, reason):
    with pytest.raises(LclError, match=reason):
        read(tmp_path, "t.csv", "image,caption\na.jpg,one\nb.jpg,zwölf\n", **options)


def test_a_table_that_is_not_there_is_named(tmp_path):
    with pytest.raises(LclError, match="no table of captions .*gone.csv"):
        list(read_table(tmp_path / "gone.csv"))
    with pytest.raises(LclError, match="is a folder, not a table"):
        list(read_table(tmp_path))


WORDS = st.text(st.characters(codec="utf-8", exclude_characters="\0\ufeff"), max_size=20)
NAMES = st.from_regex(r"[a-z0-9ä _;|,'\"-]{1,12}\.(jpg|PNG)", fullmatch=True)


@settings(max_examples=300)
@given(
    rows=st.lists(st.tuples(NAMES, WORDS), min_size=1, max_size=8),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC]),
    delimiter=st.sampled_from(",;\t|"),
    end=st.sampled_from(["\n", "\r\n"]),
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_what_csv_writes_is_read_back(tmp_path_factory, rows, quoting, delimiter, end, encoding):
    # a caption's lone \r is not quoted by csv of older Pythons; a list is not a caption
    rows = [(name.strip(), text.replace("\r", " ")) for name, text in rows if not text.strip().startswith("[")]
    text = cases.table(rows, quoting=quoting, delimiter=delimiter, lineterminator=end)
    found = read(tmp_path_factory.getbasetemp(), "t.csv", text.encode(encoding))
    assert pairs(found) == [(name, text.strip()) for name, text in rows]
