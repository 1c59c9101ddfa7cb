"""Search over a folder: the nearest pictures, looked at once, and nothing of the folder taken on trust."""

import dataclasses
import io
import json
import os
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import TINY, untrained
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lcl import storage
from lcl.config import LclError, get_profile
from lcl.data.photos import decode_image
from lcl.deploy import gallery as searching
from lcl.deploy.gallery import open_gallery, search
from lcl.eval.metrics import embed_images, embed_texts
from lcl.train.loop import Training


def png(image: torch.Tensor) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(autouse=True)
def data(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path_factory.mktemp("data")))


@pytest.fixture
def photos(few_world, tmp_path):
    """Twenty scenes as pictures, some in a folder below."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for number, image in enumerate(few_world.pairs("new_scenes", range(20)).images):
        (folder / ("more" if number % 3 == 0 else ".") / f"{number:02d}.png").write_bytes(png(image))
    return folder


@pytest.fixture(scope="module")
def model():
    return untrained(0).eval()


def test_the_nearest_are_those_of_all_that_are_compared(photos, model, tokenizer):
    gallery = open_gallery(photos, model)
    assert len(gallery.names) == gallery.fresh == 20 and gallery.names[0] == "01.png" and gallery.names[-1] == "more/18.png"
    images = torch.stack([decode_image((photos / name).read_bytes(), 64) for name in gallery.names])
    torch.testing.assert_close(gallery.v, embed_images(model, images))
    cosines = embed_images(model, images) @ embed_texts(model, tokenizer, ["a red boat"])[0]
    found = search(gallery, model, tokenizer, "a red boat", 4)
    assert [name for name, _ in found] == [gallery.names[row] for row in cosines.topk(4).indices]
    assert [cosine for _, cosine in found] == pytest.approx(cosines.topk(4).values.tolist(), abs=1e-6)
    assert len(search(gallery, model, tokenizer, "a red boat", 99)) == 20
    assert torch.equal(gallery.images([found[0][0]], 64), images[[gallery.names.index(found[0][0])]])


@pytest.mark.slow
def test_who_learned_finds_scenes_by_their_captions(small_world, tmp_path):
    profile = get_profile("smoke")
    longer = dataclasses.replace(profile, training=dataclasses.replace(profile.training, epochs=4))
    made = Training(longer, small_world, device="cpu")
    for _ in made:
        pass
    pairs = small_world.pairs("new_scenes", range(60))
    for number, image in enumerate(pairs.images):
        (tmp_path / f"{number}.png").write_bytes(png(image))
    gallery = open_gallery(tmp_path, made.model)
    found = [[name for name, _ in search(gallery, made.model, made.tokenizer, caption)] for caption in pairs.captions]
    hits = sum(f"{number}.png" in names for number, names in enumerate(found))
    assert hits > 3 * 5  # chance would find five


def test_what_did_not_change_is_not_looked_at_again(photos, model, few_world, monkeypatch):
    first = open_gallery(photos, model)
    assert open_gallery(photos, model).fresh == 0
    (photos / "01.png").write_bytes(png(few_world.pairs("new_scenes", [77]).images[0]))
    (photos / "new.png").write_bytes((photos / "02.png").read_bytes())
    (photos / "04.png").unlink()
    again = open_gallery(photos, model)
    assert again.fresh == 1 and "04.png" not in again.names and len(again.names) == 20
    rows = {name: again.v[row] for row, name in enumerate(again.names)}
    assert not torch.equal(rows["01.png"], first.v[0])
    torch.testing.assert_close(rows["new.png"], rows["02.png"])
    assert open_gallery(photos, untrained(1).eval()).fresh == 20  # another model sees with other eyes
    assert sorted(path.name for path in photos.iterdir() if path.is_dir()) == ["more"]  # nothing is written there


def by_name(gallery):
    return dict(zip(gallery.names, gallery.v, strict=True))


def test_a_moved_or_renamed_folder_is_not_embedded_again(photos, model, tmp_path):
    first = by_name(open_gallery(photos, model))
    shutil.copytree(photos, tmp_path / "copy")  # without the times
    photos.rename(tmp_path / "album")
    (tmp_path / "album" / "01.png").rename(tmp_path / "album" / "renamed.png")
    (tmp_path / "above").mkdir()
    (tmp_path / "album").rename(tmp_path / "above" / "album")
    for folder in (tmp_path / "copy", tmp_path / "above" / "album", tmp_path / "above"):
        again = open_gallery(folder, model)
        assert again.fresh == 0 and len(again.names) == 20
        for name, row in by_name(again).items():
            name = name.removeprefix("album/").replace("renamed", "01")
            assert torch.equal(row, first[name])


def test_pictures_that_are_cached_under_their_name_are_not_read_and_others_are(photos, model, monkeypatch, tmp_path):
    open_gallery(photos, model)
    read, real = [], searching.read_file
    monkeypatch.setattr(searching, "read_file", lambda path: read.append(path.name) or real(path))
    open_gallery(photos, model)
    assert read == []
    os.utime(photos / "01.png")
    assert open_gallery(photos, model).fresh == 0 and read == ["01.png"]
    assert open_gallery(photos, model).fresh == 0 and read == ["01.png"]  # its new time is cached


@pytest.mark.parametrize("change", ["size", "time", "content alone", "swapped names"])
def test_a_changed_picture_is_embedded_again(photos, model, few_world, change):
    first = by_name(open_gallery(photos, model))
    one, other = photos / "01.png", photos / "02.png"
    old, data = one.stat(), one.read_bytes()
    new = png(few_world.pairs("new_scenes", [77]).images[0])
    if change != "size":  # equal sizes: bytes after a PNG's end mean nothing
        size = max(len(data), len(new)) + 9
        one.write_bytes(data.ljust(size, b"."))
        first, old = by_name(open_gallery(photos, model)), one.stat()
        new = new.ljust(size, b".")
    if change == "swapped names":
        other.write_bytes(new)
        before = by_name(open_gallery(photos, model))
        for path in (one, other):
            os.utime(path, ns=(1, 1))
        one.rename(photos / "x"), other.rename(one), (photos / "x").rename(other)
        again = open_gallery(photos, model)
        assert again.fresh == 0 and torch.equal(by_name(again)["01.png"], before["02.png"])
        assert torch.equal(by_name(again)["02.png"], before["01.png"])
        return
    one.write_bytes(new)
    if change == "content alone":
        os.utime(one, ns=(old.st_atime_ns, old.st_mtime_ns))
        assert [one.stat().st_size, one.stat().st_mtime_ns] == [old.st_size, old.st_mtime_ns]
    again = open_gallery(photos, model)
    assert again.fresh == 1 and not torch.equal(by_name(again)["01.png"], first["01.png"])
    assert all(torch.equal(row, first[name]) for name, row in by_name(again).items() if name != "01.png")


def cache_of() -> Path:
    (place,) = (searching.data_folder() / "cache" / "search").iterdir()
    return place


@pytest.mark.parametrize("part", [None, "st_size", "st_mtime_ns", "st_ctime_ns"])
def test_each_part_of_a_files_state_decides_whether_its_cached_embedding_is_used(photos, model, part):
    """The cache holds another embedding, for a file that differs from the one that is there in this part, or in none."""
    first, place = by_name(open_gallery(photos, model)), cache_of()
    files, v = json.loads(storage.read_metadata(place)["files"]), storage.read_tensors(place)["v"]
    v[list(files).index("01.png")] *= -1
    about = (photos / "01.png").stat()
    state = [getattr(about, name) - (name == part) for name in ("st_size", "st_mtime_ns", "st_ctime_ns")]
    files["01.png"] = [state, "another content"]
    storage.write_tensors(place, {"v": v}, {"files": json.dumps(files)})
    again = open_gallery(photos, model)
    assert again.fresh == bool(part)
    torch.testing.assert_close(by_name(again)["01.png"], first["01.png"] if part else -first["01.png"])


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 8))
def test_whatever_is_cut_or_flipped_in_a_cache_the_search_answers(photos, model, place, bit):
    first = open_gallery(photos, model)
    data, path = cache_of().read_bytes(), cache_of()
    at = int(place * len(data))
    path.unlink()
    path.write_bytes(data[:at] if bit == 8 else data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
    again = open_gallery(photos, model)
    assert again.names == first.names
    torch.testing.assert_close(again.v, first.v)


def test_the_cache_belongs_to_a_model_its_config_and_the_code(photos, monkeypatch):
    model = untrained(0).eval()
    assert open_gallery(photos, model).fresh == 20 and open_gallery(photos, untrained(0).eval()).fresh == 0
    assert open_gallery(photos, untrained(1).eval()).fresh == 20
    larger = untrained(0).eval()  # equal weights, another size of the pictures
    larger.config = dataclasses.replace(TINY, vision=dataclasses.replace(TINY.vision, image_size=96))
    assert open_gallery(photos, larger).fresh == 20 and open_gallery(photos, model).fresh == 0
    monkeypatch.setattr(searching, "CODE", searching.CODE + 1)
    assert open_gallery(photos, model).fresh == 20


def test_a_cache_that_cannot_be_written_costs_a_warning_and_not_the_answer(photos, model, tokenizer, tmp_path, monkeypatch):
    expected = open_gallery(photos, model)
    assert expected.warnings == ()
    (tmp_path / "a file").touch()
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "a file" / "data"))
    found = open_gallery(photos, model)
    assert found.fresh == 20 and torch.equal(found.v, expected.v)
    (warning,) = found.warnings
    assert "LCL_DATA" in warning and "Not a directory" in warning and "\n" not in warning and warning.endswith(".")
    assert search(found, model, tokenizer, "a red boat") == search(expected, model, tokenizer, "a red boat")


def test_what_is_kept_and_damaged_is_made_again(photos, model):
    first = open_gallery(photos, model)
    (place,) = (searching.data_folder() / "cache" / "search").iterdir()
    place.write_bytes(place.read_bytes()[:-100])
    again = open_gallery(photos, model)
    assert again.fresh == 20 and torch.equal(again.v, first.v)


def test_what_cannot_be_read_is_counted_and_links_out_of_the_folder_are_left_alone(photos, model, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no picture")
    (photos / "IMG_1.HEIC").write_bytes(b"\0\0\0\x18ftypheic" + bytes(12))
    (photos / ".thumbnails").mkdir()
    for hidden in ("._01.jpg", ".thumbnails/01.jpg", "Thumbs.db"):
        (photos / hidden).write_bytes(b"what systems leave behind")
    (photos / "notes.txt").write_text("no picture either")
    (tmp_path / "outside.png").write_bytes((photos / "01.png").read_bytes())
    os.symlink(tmp_path / "outside.png", photos / "link.png")
    gallery = open_gallery(photos, model)
    assert gallery.faults.pop("image: not a picture") == 1 and len(gallery.names) == 20
    assert [(reason[:11], count) for reason, count in gallery.faults.items()] == [("image: HEIC", 1)]


def test_mistakes_are_said_in_one_sentence(photos, model, tokenizer, tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "x.png").write_bytes(b"?")
    for folder, reason in (("nowhere", "there is no folder"), ("empty", "there are no pictures in"), ("bad", "none of the 1")):
        with pytest.raises(LclError, match=reason):
            open_gallery(tmp_path / folder, model)
    with pytest.raises(LclError, match="say what to look for"):
        search(open_gallery(photos, model), model, tokenizer, " ")


def test_a_thousand_pictures_answer_within_a_second(model, tokenizer, tmp_path):
    gallery = searching.Gallery(tmp_path, tuple(map(str, range(1000))), torch.randn(1000, TINY.embed_dim), {}, 0)
    search(gallery, model, tokenizer, "warm", 5)
    took = []
    for _ in range(5):
        started = time.perf_counter()
        search(gallery, model, tokenizer, "a red boat", 5)
        took.append(time.perf_counter() - started)
    assert min(took) < 1  # the others may have waited for a busy machine
