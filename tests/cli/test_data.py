"""`lcl data verify`: what it says of copies, long captions and tars that others wrote."""

import gzip
import io

import numpy as np
import pytest
from commands import lcl
from conftest import write_tar
from PIL import Image, ImageDraw

from lcl.data.writing import Sample, write_shards


def picture(seed: int, kind: str = "PNG", **options) -> bytes:
    """Boxes of many colours, other ones for every seed."""
    numbers, file = np.random.default_rng(seed), io.BytesIO()
    image = Image.new("RGB", (128, 128), tuple(numbers.integers(0, 255, 3).tolist()))
    for _ in range(14):
        left, top, width, height = (numbers.random(4) * 100).tolist()
        box = (left, top, left + width / 2, top + height / 2)
        ImageDraw.Draw(image).rectangle(box, tuple(numbers.integers(0, 255, 3).tolist()))
    image.save(file, kind, **options)
    return file.getvalue()


def test_copies_of_pictures_and_of_captions_and_long_captions_are_counted(tmp_path):
    captions = ["a cat", "A cat.", "a dog" + " word" * 60, *(f"number {n}" for n in range(7))]
    write_shards(tmp_path, (Sample(f"{n:02d}", picture(n // 2), "png", (captions[n],)) for n in range(10)), {})
    said = lcl("data", "verify", tmp_path)
    assert said.code == 0 and "10 pictures (5 distinct) with 10 captions (9 distinct) in 1 tar" in said.out
    assert "1 captions have more than 46 words: a context of 48 tokens cuts them off" in said.out


def test_near_duplicates_are_found_when_asked_for_and_named(tmp_path):
    rows = [Sample(f"{n:02d}", picture(n), "png", ("one",)) for n in range(8)]
    rows.append(Sample("99", picture(3, "JPEG", quality=60), "jpg", ("again",)))
    write_shards(tmp_path, iter(rows), {})
    plain = lcl("data", "verify", tmp_path)
    assert "nearly" not in plain.out
    near = lcl("data", "verify", tmp_path, "--near")
    assert "2 pictures look nearly like another one; the first: row 3 of pairs-00000.tar ('" in near.out
    assert " and row 8 of pairs-00000.tar ('again')" in near.out
    fingerprint = near.out.strip().rpartition(" ")[2].rstrip(".")
    assert fingerprint not in plain.out and f"fingerprint {fingerprint}." in lcl("data", "verify", tmp_path).out


def test_where_nothing_is_nearly_alike_that_is_said(tmp_path):
    write_shards(tmp_path, (Sample(f"{n:02d}", picture(n), "png", ("one",)) for n in range(8)), {})
    assert "No two different pictures look nearly alike." in lcl("data", "verify", tmp_path, "--near").out


@pytest.mark.parametrize(
    ("image", "caption", "found"),
    [
        ("s{}.input.jpg", "s{}.outputs.txt", ".input.jpg, .outputs.txt"),
        ("p.2024.{}.jpg", "p.2024.{}.txt", ".2024.0.jpg, .2024.0.txt, .2024.1.jpg"),
        ("{}.cls", "{}.txt", ".cls, .txt"),
    ],
)
def test_a_tar_of_other_names_is_refused_with_what_it_has_and_what_is_looked_for(tmp_path, image, caption, found):
    members = [pair for n in range(5) for pair in ((image.format(n), picture(n, "JPEG")), (caption.format(n), b"a cat"))]
    write_tar(tmp_path / "a.tar", members)
    said = lcl("data", "verify", tmp_path)
    assert said.code == 2 and "(first: a.tar, " in said.err and f"Their members end in {found}; a sample is NAME.jpg" in said.err


def test_a_compressed_tar_is_named(tmp_path):
    (tmp_path / "b.tar.gz").write_bytes(gzip.compress(b"anything"))
    assert "b.tar.gz is compressed; unpack it" in lcl("data", "verify", tmp_path).err
