"""`lcl search` and `lcl embed`: what they print and write, and what they refuse."""

import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import lcl
from conftest import untrained
from PIL import Image

from lcl.deploy.load import load
from lcl.models.clip import save_model

ONNX = Path(__file__).resolve().parents[1] / "fixtures" / "v01" / "onnx"  # of version 0.1


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory):
    """Towers that learned nothing."""
    folder = tmp_path_factory.mktemp("towers")
    save_model(folder, untrained(0).eval(), tokenizer)
    return folder


@pytest.fixture(scope="module")
def originals(few_world, tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    for number, image in enumerate(few_world.pairs("new_scenes", range(6)).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / f"{number}.png")
    return folder


@pytest.fixture
def photos(originals, tmp_path):
    return shutil.copytree(originals, tmp_path / "photos")


def test_a_search_says_how_far_the_best_stands_above_random_words_and_what_it_does_not_know(run, photos):
    done = lcl("search", "a qwzx red", photos, "--run", run, "-k", 2)
    assert done.code == 0 and "6 pictures, 6 of them new" in done.out
    assert "of 200 texts of 3 random words (z = " in done.out
    assert "warning: the model may not know these words: qwzx" in done.err
    assert "may not know" not in lcl("search", "a red", photos, "--run", run).err  # control


@pytest.mark.skipif(sys.platform == "win32", reason="Windows allows no such name")
def test_a_name_of_a_picture_is_one_line_whatever_it_holds(run, photos):
    names = ["1\x1b[2J\x1b]0;mine\x07.png", "2\n 0.999  forged.png", "3\u202egnp.exe", "4 [red]$$ 100%s.png"]
    for number, name in enumerate(names[:2] + names[3:]):
        (photos / f"{number}.png").rename(photos / name)
    (photos / "3.png").rename(photos / f"{names[2]}.png")
    done = lcl("search", "a red", photos, "--run", run, "-k", 6)
    hits = [line.split("  ", 1)[1] for line in done.out.splitlines()[:6]]
    shown = [r"1\x1b[2J\x1b]0;mine\x07.png", r"2\n 0.999  forged.png", r"3\u202egnp.exe.png", names[3], "4.png", "5.png"]
    assert done.code == 0 and sorted(hits) == shown and "\x1b" not in done.err
    found = json.loads(lcl("search", "a red", photos, "--run", run, "-k", 6, "--json").out)["results"]
    assert set(names[:2] + names[3:]) <= {hit["path"] for hit in found}  # for programs, the names as they are


def test_json_is_all_that_is_printed_and_says_the_same(run, photos):
    (photos / "bad.jpg").write_bytes(b"no picture")
    text = lcl("search", "a qwzx red", photos, "--run", run, "-k", 2)
    done = lcl("search", "a qwzx red", photos, "--run", run, "-k", 2, "--json", "--save", "found.png")
    found = json.loads(done.out)
    assert done.err == "" and Image.open("found.png").width > 100
    assert [f"{hit['cosine']:6.3f}  {hit['path']}" for hit in found["results"]] == text.out.splitlines()[:2]
    assert found["unseen_words"] == ["qwzx"] and found["left_out"] == {"image: not a picture": 1}
    assert [f"warning: {warning}" for warning in found["warnings"]] == [
        line for line in text.err.splitlines() if line.startswith("warning")
    ]
    assert f"{found['above_random_texts']:.0%} of" in text.out and f"z = {found['z']:+.1f}" in text.out
    assert (found["pictures"], found["embedded"]) == (6, 0)


def test_a_picture_finds_itself_without_words(run, photos):
    done = lcl("search", "--image", photos / "3.png", photos, "--run", run, "-k", 3)
    assert done.code == 0 and done.out.splitlines()[0].split() == ["1.000", "3.png"] and "random" not in done.out
    assert len(done.out.splitlines()) == 4
    found = json.loads(lcl("search", "--image", photos / "3.png", photos, "--run", run, "--json").out)
    assert found["results"][0]["path"] == "3.png" and found["z"] is None and len(found["results"]) == 5


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["a cat", "photos", "--image", "photos/3.png"], "in words or with --image, not both"),
        (["photos"], "name what to look for and the folder"),
        ([], "name what to look for and the folder"),
        (["--image", "photos/3.png"], "name what to look for and the folder"),
        ([" ", "photos"], "say what to look for"),
        (["--image", "photos/nowhere.png", "photos"], "there is no file photos/nowhere.png"),
        (["a cat", "nowhere"], "there is no folder nowhere"),
    ],
    ids=str,
)
def test_searches_that_do_not_fit_are_refused(run, photos, arguments, reason):
    for extra in ([], ["--json"]):
        assert reason in lcl("search", *arguments, "--run", run, *extra).refusal


def test_a_folder_without_a_model_is_refused(photos, tmp_path):
    for command in (["search", "a cat", photos], ["embed", photos, "--out", "e.npy"]):
        assert "there is no model in photos; name a finished run" in lcl(*command, "--run", "photos").refusal


def test_a_cache_that_cannot_be_written_is_a_warning(run, photos, monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "file"))
    done = lcl("search", "a red picture", photos, "--run", run)
    assert done.code == 0 and "6 pictures, 6 of them new" in done.out and "LCL_DATA" in done.err
    assert any("LCL_DATA" in line for line in json.loads(lcl("search", "a", photos, "--run", run, "--json").out)["warnings"])


def test_pictures_are_embedded_to_a_file(run, photos, tmp_path):
    (photos / "bad.jpg").write_bytes(b"no picture")
    done = lcl("embed", photos, "--run", run, "--out", "e.npy")
    assert done.code == 0 and "wrote 6 embeddings of 32 numbers to e.npy and e.names.json" in done.out
    assert "left out: image: not a picture 1×" in done.err
    v, names = np.load("e.npy"), json.loads((tmp_path / "e.names.json").read_text())
    assert v.shape == (6, 32) and names == [f"{number}.png" for number in range(6)]
    found = json.loads(lcl("search", "--image", photos / "3.png", photos, "--run", run, "-k", 6, "--json").out)
    assert found["embedded"] == 0  # embedding filled the cache
    assert {hit["path"]: hit["cosine"] for hit in found["results"]} == pytest.approx(
        dict(zip(names, (v @ v[3]).tolist(), strict=True)), abs=1e-5
    )
    assert "e.names.json exists already" in lcl("embed", photos, "--run", run, "--out", "e.npy").err


def test_an_onnx_export_is_searched_and_embeds_as_lcl_load_does(photos, tmp_path):
    onnx = tmp_path / "onnx"
    shutil.copytree(ONNX, onnx)
    (tmp_path / "t.txt").write_text("a cat\na qwzx boat\n")
    model = load(onnx)
    done = lcl("search", "a cat", photos, "--run", onnx, "-k", 6, "--json")
    found = json.loads(done.out)
    hits = {hit["path"]: hit["cosine"] for hit in found["results"]}
    assert done.code == 0 and hits == pytest.approx(dict(model.search("a cat", photos, 6)), abs=1e-5)
    assert 0 <= found["above_random_texts"] <= 1 and found["embedded"] == 6
    like = json.loads(lcl("search", "--image", photos / "3.png", photos, "--run", onnx, "--json").out)
    assert like["results"][0]["path"] == "3.png" and like["embedded"] == 0
    assert lcl("embed", photos, "--run", onnx, "--out", "p.npy").code == 0
    assert lcl("embed", "--texts", "t.txt", "--run", onnx, "--out", "t.npy").code == 0
    v = model.encode_images([photos / f"{number}.png" for number in range(6)])
    np.testing.assert_allclose(np.load("p.npy"), v, atol=1e-5)
    np.testing.assert_allclose(np.load("t.npy"), model.encode_texts(["a cat", "a qwzx boat"]), atol=1e-5)
    (onnx / "text.onnx").write_bytes(b"?")
    assert "is not the file that towers.json describes" in lcl("search", "a cat", photos, "--run", onnx).refusal


def test_texts_are_embedded_to_a_file_and_long_ones_are_counted(run, tmp_path):
    (tmp_path / "t.txt").write_text("a red picture\n" + "dog " * 300 + "\n")
    done = lcl("embed", "--texts", "t.txt", "--run", run, "--out", "t.npy")
    assert done.code == 0 and np.load("t.npy").shape == (2, 32) and "1 of 2 texts have more than 48 tokens" in done.err
    assert json.loads((tmp_path / "t.names.json").read_text())[0] == "a red picture"


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["--out", "e.npy"], "one of them"),
        (["photos", "--texts", "t.txt", "--out", "e.npy"], "one of them"),
        (["photos", "--out", "e.csv"], "must end in"),
        (["nowhere", "--out", "e.npy"], "there is no folder nowhere"),
        (["--texts", "nowhere", "--out", "e.npy"], "cannot read nowhere"),
    ],
    ids=str,
)
def test_what_cannot_be_embedded_is_refused_and_nothing_is_written(run, photos, tmp_path, arguments, reason):
    (tmp_path / "t.txt").write_text("a cat\n")
    assert reason in lcl("embed", *arguments, "--run", run).refusal
    assert not list(tmp_path.glob("e.*"))
