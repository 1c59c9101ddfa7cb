"""Images in folders, with tables of captions or without: what is found, what is left out, and what is said about it."""

import csv
import re
import threading
import time
import unicodedata

import cases
import pytest
import torch

from lcl.config import LclError
from lcl.data import folders, shards, writing
from lcl.data.folders import Pairs, check_share, first_rejected, gather, rows_of_folder, samples, write_rejected
from lcl.data.photos import BadSample
from lcl.data.shards import open_shards, scan_shards
from lcl.data.tables import Row, read_table
from lcl.data.writing import write_shards


def gathered(folder, rows) -> Pairs:
    rows = [Row(line, image, (caption,)) for line, (image, caption) in enumerate(rows, start=2)]
    return gather(folder, rows, "t.csv")


def of(pairs: Pairs) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.name, tuple(one.captions)) for one in pairs.pictures]


@pytest.fixture
def pictures(tmp_path):
    return cases.pictures(tmp_path / "pictures")


@pytest.mark.parametrize("name", cases.TWO_CAPTIONS)
def test_captions_of_an_image_are_gathered(pictures, tmp_path, name):
    (tmp_path / name).write_text(cases.TWO_CAPTIONS[name], newline="")
    pairs = gather(pictures, read_table(tmp_path / name), name)
    assert of(pairs) == [(image, (text, text + " again")) for image, text in cases.BASE]
    assert not pairs.rejected and pairs.count - pairs.repeated == 12
    assert pairs.repeated == (12 if name == "repeated.csv" else 0)


def test_images_and_captions_become_shards(pictures, tmp_path):
    pairs = gathered(pictures, cases.TWO)
    found = list(samples(pairs))
    assert [one.image for one in found] == [cases.picture(number) for number in range(cases.ROWS)]
    assert found[3].captions == ("a old cat number 3", "a old cat number 3 again") and found[3].about == {"image": "003.jpg"}
    assert [one.key for one in found] == [f"{number:08d}" for number in range(cases.ROWS)]
    write_shards(tmp_path / "out", iter(found), {}, rows=4)
    opened = open_shards(tmp_path / "out", workers=0)
    assert len(opened) == cases.ROWS and opened.captions(3)[0] == "a old cat number 3"


def test_the_index_that_is_written_with_the_tars_is_the_one_that_a_scan_makes(pictures, tmp_path, monkeypatch):
    """An image of a folder is decoded once: not again to be scanned."""
    write_shards(tmp_path / "out", samples(gathered(pictures, cases.TWO)), {}, rows=4)
    with monkeypatch.context() as patch:
        patch.setattr(shards, "scan_tar", None)  # a scan would fail
        written = open_shards(tmp_path / "out", workers=0)
    scanned = scan_shards(tmp_path / "out", workers=0)
    assert written.tars == scanned.tars and written.fingerprint == scanned.fingerprint
    for name, column in scanned.index.items():
        assert torch.equal(written.index[name], column), name


def test_a_tar_ends_with_the_sample_that_reaches_its_size(pictures, tmp_path, monkeypatch):
    """Large images do not fill the memory: a tar is written as soon as it has so many bytes."""
    monkeypatch.setattr(writing, "TAR_BYTES", 4096)
    tars = write_shards(tmp_path / "out", samples(gathered(pictures, cases.BASE)), {})
    assert len(tars) > 1 and sum(tar["rows"] for tar in tars.values()) == len(open_shards(tmp_path / "out")) == cases.ROWS
    assert all(tar["bytes"] <= 2 * 10_240 for tar in tars.values())


FORMS = [("NFD", "NFC"), ("NFC", "NFD"), ("NFC", "NFC"), ("mixed", "NFC"), ("NFC", "mixed")]


@pytest.mark.parametrize(("on_disk", "in_table"), FORMS)
def test_accents_are_matched_however_they_are_encoded(tmp_path, on_disk, in_table):
    def spelt(form):
        if form != "mixed":
            return [name for name, _ in cases.composed(form)]
        parts = [name.split("/") for name, _ in cases.ACCENTS]
        return [f"{unicodedata.normalize('NFD', one)}/{unicodedata.normalize('NFC', other)}" for one, other in parts]

    folder = cases.pictures(tmp_path / "accents", spelt(on_disk))
    pairs = gathered(folder, zip(spelt(in_table), "abcdef", strict=True))
    assert len(pairs.pictures) == cases.ROWS and not pairs.rejected


def test_an_absolute_path_in_the_folder_is_one(pictures):
    pairs = gathered(pictures, [(str(pictures / "000.jpg"), "one"), ("000.jpg", "two"), ("./x/../000.jpg", "three")])
    assert of(pairs) == [(str(pictures / "000.jpg"), ("one", "two", "three"))]


def test_what_cannot_be_used_is_left_out_with_its_line(pictures, tmp_path):
    (tmp_path / "secret.jpg").write_bytes(cases.picture(9))
    cases.pictures(tmp_path / "pictures-secret", ["s.jpg"])  # its name begins like the folder's
    (pictures / "link.jpg").symlink_to(tmp_path / "secret.jpg")
    (pictures / "text.png").write_text("not a picture")
    (pictures / "cut.jpg").write_bytes(cases.picture(1, (300, 300))[:-2000])
    (pictures / "notes.txt").write_text("not a picture")
    (pictures / "sub.jpg").mkdir()
    outside = ["../secret.jpg", str(tmp_path / "secret.jpg"), "link.jpg", "../pictures-secret/s.jpg", "/etc/passwd"]
    no_images = ["text.png", "notes.txt", "sub.jpg", "."]
    rows = [("000.jpg", "kept"), *((name, f"x of {name}") for name in outside + no_images), ("gone.jpg", "x"), ("a\0b.jpg", "x"),
            ("http://x.org/a.jpg", "x"), ("cut.jpg", "x"), ("cut.jpg", "y"), ("", ""), ("", "x"), ("001.jpg", " "),
            ("001.jpg", "NaN"), ("001.jpg", "a\0"), ("001.jpg", "too " * 1001)]  # fmt: skip
    pairs = gathered(pictures, rows)
    assert [one.captions for one in samples(pairs, workers=2)] == [("kept",)]
    assert pairs.faults == {
        "image: outside the folder": 5, "image: not a picture": 4, "image: missing": 2, "image: a web address": 1,
        "row: blank": 1, "image: not whole": 2, "image: no path": 1, "caption: empty": 2,
        "caption: not text": 1, "caption: too long": 1,
    }  # fmt: skip
    assert pairs.count == 21
    write_rejected(tmp_path / "rejected.csv", pairs.rejected)
    with (tmp_path / "rejected.csv").open(newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["line", "path", "reason"] and len(lines) == 20
    assert lines[0] == ["3", "../secret.jpg", "image: outside the folder"] and ["15", "cut.jpg", "image: not whole"] in lines


def test_no_path_is_a_formula_in_the_table_of_what_is_left_out(pictures, tmp_path):
    names = ['=HYPERLINK("http://x.test","y")', "+1", "-1.png", "@a", "\t=1", "a=1"]
    write_rejected(tmp_path / "rejected.csv", gathered(pictures, [(name, "x") for name in names]).rejected)
    with (tmp_path / "rejected.csv").open(newline="", encoding="utf-8") as file:
        _, *lines = csv.reader(file)
    assert [path for _, path, _ in lines] == [f"'{name}" for name in names[:5]] + ["a=1"]


def test_a_bad_caption_does_not_cost_the_others_of_its_image(pictures):
    pairs = gathered(pictures, [("000.jpg", "one"), ("000.jpg", ""), ("000.jpg", "two")])
    assert of(pairs) == [("000.jpg", ("one", "two"))] and [one.line for one in pairs.rejected] == [3]


HINTS = {
    "000.JPG": r"no .*/pictures/000\.JPG, but there is .*/pictures/000\.jpg: write the paths as",
    "SUB/New/A.jpg": r"but there is .*/pictures/sub/new/a\.jpg: write",
    "000": r"but there is .*/pictures/000\.jpg: write",
    "sub/new/a": r"but there is .*/sub/new/a\.jpg: write",
    "pictures/000.jpg": r"but there is .*/pictures/000\.jpg: name .* as the folder",
    "train/images/000.jpg": r"but there is .*/pictures/000\.jpg: remove 'train/images/' from the paths",
    "/data/me/000.jpg": r"but there is .*/pictures/000\.jpg: remove",
    "sub\\new\\a.jpg": r"but there is .*/sub/new/a\.jpg: write",
    "new/a.jpg": r"but there is .*/sub/new/a\.jpg: name .*/pictures/sub as the folder",
    "gone.jpg": r"\(there is no .*/pictures/gone\.jpg\)$",
    "../000.jpg": r"but there is .*/pictures/000\.jpg",
    "http://x.org/a.jpg": "download the images first",
}


@pytest.mark.parametrize("name", HINTS)
def test_a_missing_image_is_told_with_a_like_one_and_what_to_do(pictures, name):
    cases.pictures(pictures, ["sub/new/a.jpg"])
    pairs = gathered(pictures, [(name, "x")])
    assert not pairs.pictures
    with pytest.raises(LclError, match="1 of 1 pairs of t.csv cannot be used") as refused:
        check_share(pairs, 0.05)
    assert str(refused.value).endswith("repair them.") and f"the first: line 2, {name}: image: " in str(refused.value)
    assert re.search(HINTS[name], first_rejected(pairs))


@pytest.mark.parametrize(
    ("bad", "good", "share", "refused"),
    [(0, 1, 0.0, False), (1, 3, 0.05, False), (2, 1, 0.0, False), (3, 3, 0.05, True), (3, 3, 0.5, False), (3, 57, 0.05, False),
     (3, 56, 0.05, True), (1, 0, 1.0, True), (5, 5, 0.4, True)],
)  # fmt: skip
def test_a_share_of_bad_pairs_is_refused_but_never_one_or_two_alone(pictures, bad, good, share, refused):
    pairs = gathered(pictures, [("000.jpg", f"caption {n}") for n in range(good)] + [("gone.jpg", f"{n}") for n in range(bad)])
    if not refused:
        return check_share(pairs, share)
    text = f"{bad} of {bad + good} pairs of t.csv .*image: missing {bad}×.*the first: line {good + 2},"
    with pytest.raises(LclError, match=text):
        check_share(pairs, share)


def test_an_empty_table_and_a_missing_folder_are_refused(pictures, tmp_path):
    with pytest.raises(LclError, match="t.csv has no rows"):
        gathered(pictures, [])
    for call in (lambda: gathered(tmp_path / "gone", []), lambda: rows_of_folder(tmp_path / "gone")):
        with pytest.raises(LclError, match="no folder of images"):
            call()


def captioned(folder, **options) -> list[tuple[str, tuple[str, ...]]]:
    rows, what = rows_of_folder(folder)
    assert options.get("what", "") in what
    return of(gather(folder, rows, str(folder)))


def test_text_files_beside_images_are_captions_a_line_each(pictures):
    for number, (name, text) in enumerate(cases.BASE[:-1]):
        data = [text.encode(), text.encode("utf-8-sig"), text.encode("utf-16"), f"{text}\n\n".encode(), f"{text}\r\ntwo".encode()]
        (pictures / name).with_suffix(".TXT" if number == 1 else ".txt").write_bytes(data[number])
    (pictures / "readme.txt").write_text("about these images")
    found = captioned(pictures, what="5 .txt files")
    assert found == [(name, (text, "two") if name == "004.jpg" else (text,)) for name, text in cases.BASE[:-1]]
    rows, _ = rows_of_folder(pictures)
    assert [one.reason for one in gather(pictures, rows, "x").rejected] == ["caption: missing"]


def test_folders_are_classes(tmp_path):
    names = ["cat/b.jpg", "cat/a.jpg", "train/red_fox/a.jpg", "sea-lion/a.JFIF", ".git/a.jpg", "cat/._a.jpg", "cat/.DS_Store"]
    folder = cases.pictures(tmp_path / "classes", names)
    for name in ("cat/Thumbs.db", "cat/desktop.ini"):
        (folder / name).write_text("x")
    assert captioned(folder, what="3 folders (cat, red fox, sea lion)") == [
        ("cat/a.jpg", ("a photo of a cat",)), ("cat/b.jpg", ("a photo of a cat",)),
        ("sea-lion/a.JFIF", ("a photo of a sea lion",)), ("train/red_fox/a.jpg", ("a photo of a red fox",)),
    ]  # fmt: skip


@pytest.mark.parametrize(("classes", "shown"), [("abcde", "(a, b, c, d, e)"), ("abcdef", "(a, b, c, d, e, …)")])
def test_of_many_classes_the_first_five_are_named(tmp_path, classes, shown):
    _, what = rows_of_folder(cases.pictures(tmp_path, [f"{name}/1.jpg" for name in classes]))
    assert what.endswith(f" {len(classes)} folders {shown}")


@pytest.mark.parametrize(
    ("names", "reason"),
    [
        (["a.jpg", "b.jpg", "metadata.csv"], "no .txt files .* no folders.*--captions metadata.csv"),
        (["images/a.jpg", "images/b.jpg"], "only one folder of images .images.*--captions TABLE"),
        (["notes.pdf"], "no images in"), (["._a.jpg", ".hidden/b.jpg"], "no images in"),
    ],
)  # fmt: skip
def test_a_folder_without_captions_is_refused(tmp_path, names, reason):
    with pytest.raises(LclError, match=reason):
        rows_of_folder(cases.pictures(tmp_path / "x", names))


def test_images_are_loaded_side_by_side_but_few_at_a_time_and_in_order(pictures, monkeypatch):
    pairs = gathered(pictures, [(name, "x") for name, _ in cases.BASE])
    pairs.pictures = [one._replace(name=str(number)) for number, one in enumerate(pairs.pictures * 20)]
    started, lock, together = [], threading.Lock(), threading.Barrier(2, timeout=30)

    def load(path):
        with lock:
            started.append(path)
            number = len(started)
        if number <= 2:
            together.wait()
        time.sleep(0.001 * (number % 3))
        if number == 50:
            raise BadSample("image: not whole")
        return b"x", None

    monkeypatch.setattr(folders, "_load", load)
    done = []
    for one in samples(pairs, workers=2, progress=done.append):
        assert len(started) <= int(one.key) + 1 + 8
    assert sum(done) == len(started) == 120 and len(pairs.rejected) == 1


def test_a_mistake_is_refused_before_all_images_are_decoded(pictures):
    (pictures / "000.jpg").write_text("damaged")
    pairs = gathered(pictures, [("001.jpg", "kept")] + [("000.jpg", f"{n}") for n in range(5)] + [("002.jpg", "never reached")])
    with pytest.raises(LclError, match="5 of 7 pairs .*image: not a picture 5×"):
        list(samples(pairs, max_bad=0.5))
