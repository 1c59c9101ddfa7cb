"""The box that searches one's own pictures: folders and dropped files, bounded and checked, and every refusal in words."""

import io
import json

import pytest
from conftest import untrained
from PIL import Image

from lcl.config import LclError
from lcl.course import plots
from lcl.course.widgets import FolderSearch
from lcl.course.widgets import search as box
from lcl.deploy import gallery
from lcl.eval.metrics import embed


@pytest.fixture(autouse=True)
def cache_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setattr(gallery, "data_folder", lambda: tmp_path / "data")


@pytest.fixture(scope="module")
def pairs(small_world):
    return small_world.pairs("new_scenes", range(5))


@pytest.fixture
def folder(pairs, tmp_path):
    """Four pictures, and a page that claims to be one."""
    made = tmp_path / "photos"
    made.mkdir()
    for number, image in enumerate(pairs.images[:4]):
        Image.fromarray(plots.as_pixels(image)).save(made / f"{number}.png")
    (made / "page.png").write_text("<html>404 Not Found</html>")
    return made


@pytest.fixture(scope="module")
def model():
    return untrained(0).eval()


@pytest.fixture
def empty(model, tokenizer):
    return FolderSearch(model, tokenizer)


def png(image) -> bytes:
    file = io.BytesIO()
    Image.fromarray(plots.as_pixels(image)).save(file, "PNG")
    return file.getvalue()


def test_a_folder_is_opened_and_searched_and_what_is_no_picture_is_named(empty, folder, model, tokenizer, pairs):
    told = empty.reply({"folder": f" {folder} "})
    assert told["problem"] == "" and told["count"] == 4
    assert told["told"] == f"4 pictures of {folder}; 1 left out (image: not a picture)."
    found = empty.reply({"words": pairs.captions[2]})["found"]
    v, t = embed(model, tokenizer, pairs)
    cosines = (v[:4] @ t[2]).tolist()
    assert [one["name"] for one in found] == [f"{n}.png" for n in sorted(range(4), key=lambda n: -cosines[n])]
    assert [one["cosine"] for one in found] == pytest.approx(sorted(cosines, reverse=True), abs=1e-5)
    assert all(one["src"].startswith("data:image/png;base64,") for one in found)


def test_dropped_pictures_join_those_of_the_folder(empty, folder, pairs):
    empty.reply({"folder": str(folder)})
    told = empty.reply({"picture": "my <b>boat</b>.png"}, [memoryview(png(pairs.images[4]))])
    assert told["count"] == 5 and told["told"] == "5 pictures; the last is my <b>boat</b>.png."  # the page shows it as text
    assert "my <b>boat</b>.png" in [one["name"] for one in empty.reply({"words": "a bear"})["found"]]
    assert empty.reply({"folder": str(folder)})["count"] == 4  # another folder begins anew


@pytest.mark.parametrize(
    ("content", "data", "words"),
    [
        ({"picture": "page.png"}, b"<html>404</html>", "page.png was not added (image: not a picture)"),
        ({"picture": "half.png"}, None, "half.png was not added (image: not whole)"),
        ({"picture": "empty.png"}, b"", "empty.png was not added (image: not a picture)"),
        ({"picture": "large.png"}, b"\x89PNG" + bytes(8 * 2**20), "larger than 8 MiB; type the path of its folder"),
        ({"folder": "no such folder"}, b"", "there is no folder no such folder"),
        ({"folder": "  "}, b"", "the path of the folder is empty"),
        ({"words": "  "}, b"", "say what to look for"),
    ],
)
def test_what_is_not_possible_is_said_and_changes_nothing(empty, folder, pairs, content, data, words):
    empty.reply({"folder": str(folder)})
    whole = png(pairs.images[4])
    told = empty.reply(content, [whole[: len(whole) // 2] if data is None else data])
    assert words in told["problem"] and told["count"] == 4 and told["found"] == []
    assert len(empty.reply({"words": "a bear"})["found"]) == 4


def test_without_pictures_a_search_says_so(empty):
    assert "there are no pictures yet" in empty.reply({"words": "a bear"})["problem"]


def test_the_number_of_pictures_is_bounded(empty, folder, pairs, monkeypatch):
    monkeypatch.setattr(box, "MAX_PICTURES", 4)
    assert "holds 5 pictures, but this box takes 4" in empty.reply({"folder": str(folder)})["problem"]
    (folder / "page.png").unlink()
    assert empty.reply({"folder": str(folder)})["count"] == 4
    assert "this box takes 4 pictures" in empty.reply({"picture": "5.png"}, [png(pairs.images[4])])["problem"]


def test_a_message_of_the_page_changes_what_it_shows_also_if_it_says_the_same(empty):
    turns = []
    empty.observe(lambda change: turns.append(change["new"]), "answer")
    for _ in range(2):
        empty._receive(empty, {"words": "a bear"}, [])
    assert len(turns) == 2 and turns[0]["problem"] == turns[1]["problem"]


def test_a_folder_to_begin_with_is_in_the_still_picture_and_in_words(model, tokenizer, folder, pairs):
    shown = FolderSearch(model, tokenizer, folder, pairs.captions[0])
    assert len(shown.answer["found"]) == 4 and "the nearest of 4 pictures" in shown.answer["told"]
    assert ".png" in shown.still.alt
    json.dumps(shown.answer, allow_nan=False)
    with pytest.raises(LclError, match="there is no folder"):
        FolderSearch(model, tokenizer, folder / "none")
