"""One way into every saved model: the back ends agree, ONNX folders need neither torch nor us, mistakes get one sentence."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer as Engine

from lcl import storage
from lcl.config import TEMPLATES, LclError
from lcl.data.photos import decode_image
from lcl.deploy.gallery import open_gallery
from lcl.deploy.inputs import to_pixels
from lcl.deploy.load import Model, load
from lcl.deploy.onnx import export_onnx, open_towers, to_int8

ROOT = Path(__file__).resolve().parents[2]
OLD = ROOT / "tests" / "fixtures" / "v01"
TEXTS = ["a cat", "a red apple on a striped blue background", "two dogs and a boat " * 30, "[PAD] ünïcode"]


@pytest.fixture(scope="module", autouse=True)
def data(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCL_DATA", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="module")
def run() -> Model:
    return load(OLD / "run")


@pytest.fixture(scope="module")
def onnx() -> Model:
    return load(OLD / "onnx")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of several kinds and sizes: turned by EXIF, with transparency, in colours of a palette, larger than 64 pixels."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)

    def smooth(width, height, channels=3):
        small = rng.integers(0, 256, (5, 5, channels), dtype=np.uint8)
        return Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)

    exif = Image.Exif()
    exif[0x0112] = 6  # lies on its side
    smooth(300, 200).save(folder / "turned.jpg", exif=exif, quality=90)
    smooth(90, 70, 4).save(folder / "clear.png")
    smooth(64, 64).save(folder / "exact.png")
    smooth(50, 80).quantize(16).save(folder / "palette.gif")
    (folder / "below").mkdir()
    smooth(128, 128).save(folder / "below" / "large.webp", lossless=True)
    return folder


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


def refusal(function, *arguments, **options) -> str:
    """What the user is told: one sentence."""
    with pytest.raises(LclError) as error:
        function(*arguments, **options)
    said = str(error.value)
    assert said.endswith(".") and "\n" not in said and len(said) < 400, said
    return said


# What is opened


def test_run_towers_and_onnx_of_one_training_agree(run, onnx, photos):
    towers = load(str(OLD / "towers"))
    for model in (run, towers, onnx):
        v, t = model.encode_images(files(photos)), model.encode_texts(TEXTS)
        assert v.shape == (5, 128) and t.shape == (4, 128) and v.dtype == t.dtype == np.float32
        np.testing.assert_allclose(np.linalg.norm(np.concatenate([v, t]), axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(v, run.encode_images(files(photos)), rtol=0, atol=1e-4)
        np.testing.assert_allclose(t, run.encode_texts(TEXTS), rtol=0, atol=1e-4)
        assert (model.image_size, model.embed_dim) == (64, 128)
    assert run.clip is not None and onnx.clip is None and run.logit_scale == towers.logit_scale > 0


def test_the_numbers_are_those_of_the_torch_model(run, photos):
    images = torch.stack([decode_image(path.read_bytes(), 64) for path in files(photos)])
    tokens = run.tokenizer.encode(TEXTS, run.config.language.context_length)
    assert tokens.ids.shape[1] == 48  # the long one is cut
    with torch.no_grad():
        np.testing.assert_allclose(run.encode_images(files(photos)), run.clip.encode_image(images), rtol=0, atol=1e-5)
        np.testing.assert_allclose(run.encode_texts(TEXTS), run.clip.encode_text(tokens), rtol=0, atol=1e-5)


def test_one_input_gives_one_row(run, photos):
    assert run.encode_texts("a cat").shape == run.encode_images(photos / "exact.png").shape == (1, 128)


def test_many_inputs_are_embedded_in_batches(onnx, monkeypatch):
    images = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8)
    whole = onnx.encode_images(images), onnx.encode_texts([f"{number} cats" for number in range(7)])
    monkeypatch.setattr("lcl.deploy.load.BATCH_SIZE", 3)
    parts = onnx.encode_images(images), onnx.encode_texts([f"{number} cats" for number in range(7)])
    for one, other in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5)


WITHOUT = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked}:
            raise ImportError(f"{{name}} is blocked")

sys.meta_path.insert(0, Block())
"""


def without(blocked: set[str], code: str, *arguments, **options) -> str:
    """What a fresh Python prints that cannot import some packages."""
    code = WITHOUT.format(blocked=sorted(blocked)) + code
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", env=environment, **options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_an_onnx_folder_needs_no_torch(run, photos):
    code = """
import json, sys
from lcl.deploy.load import load
model = load(sys.argv[1])
folder = sys.argv[2]
print(json.dumps([model.encode_images(f"{folder}/turned.jpg").tolist(), model.encode_texts("a cat").tolist(),
                  model.search("a cat", folder, 9)]))
assert not {"torch", "safetensors", "filelock", "scipy"} & set(sys.modules)
"""
    needless = {"torch", "torchvision", "safetensors", "filelock", "scipy", "onnx", "transformers", "matplotlib", "tqdm", "typer"}
    v, t, found = json.loads(without(needless, code, OLD / "onnx", photos))
    np.testing.assert_allclose(v, run.encode_images(photos / "turned.jpg"), rtol=0, atol=1e-4)
    np.testing.assert_allclose(t, run.encode_texts("a cat"), rtol=0, atol=1e-4)
    expected = run.search("a cat", photos, 9)
    assert [name for name, _ in found] == [name for name, _ in expected]
    assert [cosine for _, cosine in found] == pytest.approx([cosine for _, cosine in expected], abs=1e-4)


# What is handed over


def test_every_kind_of_picture_gives_the_same_pixels(photos):
    path = photos / "exact.png"
    expected = decode_image(path.read_bytes(), 64).numpy()
    tensor, array = torch.from_numpy(expected), expected.transpose(1, 2, 0)
    floats = tensor / 255
    kinds = [str(path), path, Image.open(path), array, array / 255, tensor, floats, floats.double()]
    for image in kinds:
        found = to_pixels(image, 64, False, "picture 0")
        assert found.dtype == np.uint8 and np.array_equal(found, expected)
    assert np.abs(to_pixels(floats.bfloat16(), 64, False, "").astype(int) - expected).max() <= 1


@pytest.mark.parametrize("name", ["turned.jpg", "clear.png", "palette.gif", "below/large.webp"])
def test_files_and_pil_images_are_prepared_as_training_data_are(photos, name):
    expected = decode_image((photos / name).read_bytes(), 64).numpy().astype(int)
    assert np.array_equal(to_pixels(photos / name, 64, False, ""), expected)
    opened = Image.open(photos / name)
    size = opened.size
    difference = np.abs(to_pixels(opened, 64, False, "") - expected)
    assert difference.mean() < 4 if name.endswith("jpg") else difference.max() == 0  # JPEG files are decoded at reduced scale
    assert opened.size == size  # nothing happened to the user's image


def test_arrays_of_another_size_are_resized_when_asked(run, photos):
    array = np.asarray(Image.open(photos / "below" / "large.webp").convert("RGB"))
    expected = run.encode_images(photos / "below" / "large.webp")
    tensor = torch.from_numpy(array.transpose(2, 0, 1).copy())
    for image in (array, tensor, [array], array[None], tensor[None]):
        assert "resize=True" in refusal(run.encode_images, image)
        np.testing.assert_allclose(run.encode_images(image, resize=True), expected, atol=1e-6)


def test_lists_hold_any_kinds_and_batches_are_split(run, photos):
    array = np.asarray(Image.open(photos / "exact.png"))
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    v = run.encode_images([photos / "exact.png", Image.open(photos / "exact.png"), array, tensor / 255])
    np.testing.assert_allclose(v, np.repeat(v[:1], 4, axis=0), atol=1e-6)
    for batch in (np.stack([array] * 3), torch.stack([tensor] * 3), (array, array, array), iter([array] * 3)):
        np.testing.assert_allclose(run.encode_images(batch), v[:3], atol=1e-6)


GOOD = np.zeros((64, 64, 3), np.uint8)
BAD_PICTURES = {
    "floats from 0 to 255": (torch.full((3, 64, 64), 200.0), "floats from 200 to 200"),
    "a float array from 0 to 255": (GOOD + np.float32(99), "from 0 to 1; divide by 255"),
    "normalised floats": (torch.full((3, 64, 64), -0.5), "undo a normalisation"),
    "NaN": (torch.full((3, 64, 64), torch.nan), "floats from nan to nan"),
    "one NaN": (np.where(np.arange(64 * 64 * 3).reshape(64, 64, 3) == 5, np.nan, 0.5), "from nan to nan"),
    "integers": (torch.zeros(3, 64, 64, dtype=torch.long), "of type int64"),
    "booleans": (GOOD > 0, "of type bool"),
    "NumPy, channels first": (np.zeros((3, 64, 64), np.uint8), r"NumPy array must be \(H, W, 3\)"),
    "a NumPy batch, channels first": (np.zeros((2, 3, 64, 64), np.uint8), r"picture 0 has the shape \(3, 64, 64\)"),
    "torch, channels last": (torch.zeros(64, 64, 3, dtype=torch.uint8), r"torch tensor must be \(3, H, W\)"),
    "grey": (np.zeros((64, 64), np.uint8), r"has the shape \(64, 64\)"),
    "four channels": (np.zeros((64, 64, 4), np.uint8), r"has the shape \(64, 64, 4\)"),
    "five dimensions": (np.zeros((1, 1, 64, 64, 3), np.uint8), "has the shape"),
    "no pixels": (np.zeros((0, 64, 3), np.uint8), "has the shape"),
    "another size": (np.zeros((32, 48, 3), np.uint8), r"is \(32, 48\) pixels large, but the model takes \(64, 64\)"),
    "an empty list": ([], "list of pictures is empty"),
    "an empty batch": (np.zeros((0, 64, 64, 3), np.uint8), "list of pictures is empty"),
    "nothing": (None, "a NoneType is no picture"),
    "a number": (3, "a int is no picture"),
    "a list of numbers": ([GOOD, 3], "picture 1 is a int"),
    "bytes": (b"picture", "picture 0 is a int"),
    "no file": ("nowhere.png", "there is no file nowhere.png"),
    "no file in a list": ([GOOD, Path("nowhere.png")], "there is no file nowhere.png"),
    "a long text": ("a cat " * 999, "there is no file a cat"),
    "a folder": (OLD, "but a folder"),
    "no picture": (OLD / "onnx" / "towers.json", "towers.json cannot be used .image: not a picture"),
    "a tiny PIL image": (Image.new("RGB", (2, 2)), "image: too small"),
}


@pytest.mark.parametrize("images, reason", BAD_PICTURES.values(), ids=BAD_PICTURES)
def test_pictures_that_do_not_fit_are_refused(onnx, images, reason):
    with pytest.raises(LclError, match=reason):
        onnx.encode_images(images)
    if not str(images).startswith("a cat"):  # a sentence that quotes the whole text is long
        refusal(onnx.encode_images, images)


def test_a_broken_file_is_named(onnx, tmp_path):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(file, "PNG")
    (tmp_path / "half.png").write_bytes(file.getvalue()[:2000])
    assert "half.png cannot be used (image: not whole)" in refusal(onnx.encode_images, [tmp_path / "half.png"])
    with Image.open(tmp_path / "half.png") as opened:
        assert "picture 0 cannot be used" in refusal(onnx.encode_images, opened)


@pytest.mark.parametrize(
    "texts, reason",
    [([], "list of texts is empty"), ("", "text 0 must be"), (["a", " "], "text 1 must be"), ([1], "text 0 must be"),
     (None, "texts must be a list"), (3, "texts must be a list"), (["a\0b"], "NUL"), (["a " * 1001], "1001 words")],
)  # fmt: skip
def test_texts_that_do_not_fit_are_refused(run, onnx, texts, reason):
    assert reason in refusal(onnx.encode_texts, texts) and reason in refusal(run.encode_texts, texts)


# What is answered


def test_zero_shot_is_a_softmax_over_scaled_cosines_with_the_mean_of_the_templates(run, photos):
    names = ["a cat", "a red apple", "a {boat}"]
    result = run.zero_shot(files(photos), names)
    classes = np.stack([run.encode_texts([t.replace("{}", name) for t in TEMPLATES]).mean(0) for name in names])
    classes /= np.linalg.norm(classes, axis=1, keepdims=True)
    logits = torch.from_numpy(run.logit_scale * run.encode_images(files(photos)) @ classes.T)
    assert result.probabilities.shape == (5, 3) and result.probabilities.dtype == np.float32
    np.testing.assert_allclose(result.probabilities, logits.softmax(1), atol=1e-5)
    assert result.top1 == [names[column] for column in logits.argmax(1)] and result.names == tuple(names)
    bare = run.zero_shot(files(photos), names, templates=["{}"])
    plain = torch.from_numpy(run.logit_scale * run.encode_images(files(photos)) @ run.encode_texts(names).T).softmax(1)
    np.testing.assert_allclose(bare.probabilities, plain, atol=1e-5)


@pytest.mark.parametrize(
    "names, templates, reason",
    [("cat", TEMPLATES, "names must be a list of strings, not 'cat'"), ([], TEMPLATES, "list of names is empty"),
     (["a cat"], TEMPLATES, "two classes or more"), (["a cat", ""], TEMPLATES, "name 1 must be"),
     (["a", "b"], "a picture of {}", "templates must be a list"), (["a", "b"], ["a picture"], "every template needs {}"),
     (["a", "b"], [], "list of templates is empty"), (None, TEMPLATES, "names must be a list")],
)  # fmt: skip
def test_zero_shot_refuses_names_and_templates_that_do_not_fit(run, names, templates, reason):
    assert reason in refusal(run.zero_shot, GOOD, names, templates)


def test_zero_shot_needs_the_scale_that_version_01_did_not_export(onnx):
    assert onnx.logit_scale is None
    assert "version 0.1 has no logit_scale; export it again" in refusal(onnx.zero_shot, GOOD, ["a cat", "a dog"])


def test_search_finds_in_folders_pictures_and_embeddings(run, onnx, photos):
    (photos / "broken.jpg").write_bytes(b"no picture")
    try:
        found = {model: model.search("a cat", photos, 9) for model in (run, onnx)}
    finally:
        (photos / "broken.jpg").unlink()
    gallery = open_gallery(photos, run.clip)
    assert gallery.fresh == 0 and sorted(name for name, _ in found[run]) == list(gallery.names)  # it was cached
    cosines = dict(zip(gallery.names, (gallery.v.numpy() @ run.encode_texts("a cat")[0]).tolist(), strict=True))
    assert dict(found[run]) == pytest.approx(cosines, abs=1e-5) and dict(found[onnx]) == pytest.approx(cosines, abs=1e-4)
    assert [name for name, _ in found[run]] == sorted(cosines, key=cosines.get, reverse=True)
    listed = run.search("a cat", [photos / name for name in gallery.names], 2)
    embedded = run.search("a cat", run.encode_images([photos / name for name in gallery.names]), 2)
    assert [gallery.names[row] for row, _ in listed] == [name for name, _ in found[run][:2]] and listed == embedded
    assert run.search("a cat", torch.from_numpy(run.encode_images([photos / name for name in gallery.names])), 2) == embedded


def test_a_picture_finds_itself(run, onnx, photos):
    for model in (run, onnx):
        for query in (photos / "below" / "large.webp", Image.open(photos / "below" / "large.webp")):
            (name, cosine), = model.search(query, photos, 1)  # fmt: skip
            assert name == "below/large.webp" and cosine == pytest.approx(1, abs=1e-5)


def test_searches_that_do_not_fit_are_refused(run, onnx, photos, tmp_path):
    for model in (run, onnx):
        assert "k is the number" in refusal(model.search, "a cat", photos, 0)
        assert "k is the number" in refusal(model.search, "a cat", photos, 2.5)
        assert "text 0 must be" in refusal(model.search, " ", photos)
        assert "one query at a time, not 2" in refusal(model.search, np.stack([GOOD, GOOD]), photos)
        assert "there is no folder" in refusal(model.search, "a cat", tmp_path / "nowhere")
        assert "there are no pictures" in refusal(model.search, "a cat", str(tmp_path))
        assert "list of pictures is empty" in refusal(model.search, "a cat", [])
        for v in (np.zeros((3, 7), np.float32), np.full((2, 128), np.nan), np.zeros((0, 128))):
            assert "embeddings must be (N, 128)" in refusal(model.search, "a cat", v)
    (tmp_path / "x.png").write_bytes(b"?")
    for model in (run, onnx):
        assert "none of the" in refusal(model.search, "a cat", tmp_path)


# What is damaged


def test_other_folders_are_refused(tmp_path):
    for folder in (tmp_path, tmp_path / "nowhere", OLD / "bank", OLD / "shards", OLD / "towers" / "model.json"):
        assert "is no folder with a model" in refusal(load, folder)


@pytest.mark.parametrize("name", ["model.json", "model.safetensors"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise", "{}", "[]"])
def test_damaged_towers_are_refused(tmp_path, name, damage):
    damaged(OLD / "towers", tmp_path / "towers", name, damage)


@pytest.mark.parametrize("name", ["towers.json", "image.onnx", "text.onnx"])
@pytest.mark.parametrize("damage", ["cut", "gone", "noise", "{}", "[]"])
def test_damaged_onnx_folders_are_refused(tmp_path, name, damage):
    damaged(OLD / "onnx", tmp_path / "onnx", name, damage)


def damaged(source: Path, folder: Path, name: str, damage: str) -> None:
    """A copy of a folder with a damaged file must not open."""
    shutil.copytree(source, folder)
    whole = (folder / name).read_bytes()
    texts = {"cut": whole[: len(whole) // 2], "noise": whole[:99] + b"?" + whole[100:][::-1]}
    if damage == "gone":
        (folder / name).unlink()
    else:
        (folder / name).write_bytes(texts.get(damage, damage.encode()))
    refusal(load, folder)


@pytest.mark.parametrize("field", ["files", "model", "tokenizer"])
@pytest.mark.parametrize("value", [None, [], {"embed_dim": 64}, "x"])
def test_a_description_that_lacks_a_part_is_refused(tmp_path, field, value):
    folder = shutil.copytree(OLD / "onnx", tmp_path / "onnx")
    about = json.loads((folder / "towers.json").read_text())
    (folder / "towers.json").write_text(json.dumps(about | {field: value}))
    refusal(load, folder)


# What is exported


@pytest.fixture(scope="module")
def exported(run, small_world, tmp_path_factory) -> dict[str, Path]:
    """The run of version 0.1, exported anew."""
    folders = {name: tmp_path_factory.mktemp(name) for name in ("float32", "int8")}
    pairs = small_world.pairs("train", range(64))
    export_onnx(folders["float32"], run.clip, run.tokenizer, pairs.images, pairs.captions)
    to_int8(folders["float32"], folders["int8"], pairs.images)
    return folders


@pytest.mark.slow
def test_an_export_says_how_it_is_used_without_this_library(exported, run):
    for folder in exported.values():
        names = ["image.onnx", "infer.py", "text.onnx", "tokenizer.json", "towers.json"]
        assert sorted(path.name for path in folder.iterdir()) == names
        about = json.loads((folder / "towers.json").read_text(encoding="utf-8"))
        assert about["format"] == "lcl-onnx-2" and about["embed_dim"] == 128
        assert about["logit_scale"] == pytest.approx(run.clip.logit_scale.item())
        image, text = about["image"], about["text"]
        assert (image["size"], image["layout"], image["colour"], image["dtype"]) == (64, "NCHW", "RGB", "uint8, 0 to 255")
        assert "bicubic" in image["resize"] and "centre" in image["crop"] and "graph" in image["normalise"]
        assert (text["tokenizer"], text["pad_id"], text["context_length"]) == ("tokenizer.json", 0, 48)
        assert "false at padding" in text["inputs"]["mask"] and "end token" in text["cut"]
        assert about["files"]["tokenizer.json"] == storage.file_sha256(folder / "tokenizer.json")


@pytest.mark.slow
def test_the_tokenizer_file_cuts_and_pads_as_the_tokenizer_does(exported, run):
    engine = Engine.from_file(str(exported["float32"] / "tokenizer.json"))
    engine.encode_special_tokens = True
    texts = [*TEXTS, "x", *(" ".join("cat dog boat"[i % 9 :].split() * n) for i, n in enumerate(range(8, 24)))]
    tokens, rows = run.tokenizer.encode(texts, 48), engine.encode_batch(texts)
    assert [row.ids for row in rows] == tokens.ids.tolist()
    assert [row.attention_mask for row in rows] == tokens.mask.long().tolist()


@pytest.mark.slow
def test_an_export_answers_as_the_run_does(exported, run, photos):
    model = load(exported["float32"])
    np.testing.assert_allclose(model.encode_images(files(photos)), run.encode_images(files(photos)), rtol=0, atol=1e-4)
    np.testing.assert_allclose(model.encode_texts(TEXTS), run.encode_texts(TEXTS), rtol=0, atol=1e-4)
    probabilities = [each.zero_shot(files(photos), TEXTS).probabilities for each in (model, run)]
    np.testing.assert_allclose(*probabilities, rtol=0, atol=1e-3)
    rounded = load(exported["int8"])
    assert (rounded.encode_images(files(photos)) * run.encode_images(files(photos))).sum(1).min() > 0.95
    assert rounded.zero_shot(files(photos), TEXTS).probabilities.shape == (5, 4)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["float32", "int8"])
def test_infer_needs_neither_this_library_nor_torch(exported, run, photos, tmp_path, kind):
    folder = shutil.copytree(exported[kind], tmp_path / "elsewhere")
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    blocked = {"lcl", "torch", "torchvision", "safetensors", "onnx", "scipy", "transformers", "filelock"}
    for path in files(photos):
        printed = without(blocked, code, folder / "infer.py", path, *TEXTS, cwd=tmp_path)
        cosines = [float(line.split()[0]) for line in printed.splitlines()]
        assert [line[8:].strip() for line in printed.splitlines()] == [text.strip() for text in TEXTS]
        for model, close in [(load(folder), 1e-4), (run, 1e-4 if kind == "float32" else 0.2)]:
            expected = model.encode_texts(TEXTS) @ model.encode_images(path)[0]
            np.testing.assert_allclose(cosines, expected, rtol=0, atol=close)


@pytest.mark.slow
def test_damaged_exports_are_refused(exported, tmp_path):
    for number, (name, damage) in enumerate([("tokenizer.json", "cut"), ("tokenizer.json", "gone"), ("tokenizer.json", "{}")]):
        damaged(exported["float32"], tmp_path / str(number), name, damage)
    folder = shutil.copytree(exported["float32"], tmp_path / "scale")
    about = json.loads((folder / "towers.json").read_text())
    for value in ("much", None):
        (folder / "towers.json").write_text(json.dumps(about | {"logit_scale": value}))
        assert "is damaged" in refusal(load, folder)


@pytest.mark.slow
def test_an_export_of_version_01_is_quantised(tmp_path, onnx, small_world):
    to_int8(OLD / "onnx", tmp_path, small_world.pairs("train", range(32)).images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["image.onnx", "text.onnx", "towers.json"]
    assert (load(tmp_path).encode_texts(TEXTS) * onnx.encode_texts(TEXTS)).sum(1).min() > 0.95
    open_towers(tmp_path)
