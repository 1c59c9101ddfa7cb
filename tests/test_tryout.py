"""The page on which one tries a model: its scripts read what the library reads, and it is left out with a reason."""

import base64
import io
import json
import random
import shutil
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from lcl.bpe import cut_and_pad, read_engine
from lcl.data.photos import middle_square
from lcl.models.tokenizer import Tokenizer
from lcl.words import clean
from website import tryout
from website.build import build

ODD = [
    "ΟΔΟΣ Σίσυφος.", "İstanbul", "[PAD] [BEGIN] [UNK]", "日本語の猫", "e\u0301 a\u0300", "naïve—dash…", "1,000 cats!!", "a_b __",
    "\u200bzero\u00a0space\ufeffx", "👩‍👩‍👧 cat", "\x01a\x7fb\x85c", "a" * 300, "?!", "ﬁ Å \u212b",
    "ญี่ปุ่น", "x\u2028y", "don't", "ẞ ß", "a\u0345b",
]  # fmt: skip
needs_node = pytest.mark.skipif(
    shutil.which("node") is None, reason="node, which runs scripts without a browser, is not installed"
)


def in_node(function: str, given: object) -> object:
    """What a function of the site's scripts returns for each of `given`."""
    script = f"""import {{ site }} from "./scripts.js"; import {{ readFileSync }} from "node:fs";
        const LCL = site(), given = JSON.parse(readFileSync(0, "utf8"));
        console.log(JSON.stringify(given.each.map({function})));"""
    done = subprocess.run(
        ["node", "--input-type=module", "-e", script],
        cwd=tryout.PROJECT,
        input=json.dumps(given),
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@needs_node
def test_the_pages_tokenizer_gives_the_librarys_ids(world):
    captions = world.train(600).captions(range(600))
    tokenizer, rng = Tokenizer.train(captions, 700, "test"), random.Random(0)
    ranges = [(32, 127), (1, 0x3000), (0xA000, 0xD7FF)]
    odd = ["".join(chr(rng.randrange(*rng.choice(ranges))) for _ in range(rng.randrange(1, 30))) for _ in range(600)]
    texts = [text for text in [*captions, *ODD, *odd, " ".join(captions[:20])] if clean(text).strip()]
    engine = cut_and_pad(read_engine(tokenizer.to_dict()["engine"], "here"), 48)
    saved = {"tokenizer": json.loads(engine.to_str()), "each": texts}
    found = in_node("((read) => (text) => read(text))(LCL.tokenizer(given.tokenizer, 48))", saved)
    assert len(found) > 1200
    for text, mine in zip(texts, found, strict=True):
        theirs = tokenizer.encode([text], 48)
        assert mine["ids"] == theirs.ids[0].tolist(), repr(text)
        if text not in odd:  # Python may not know letters that are newer than it
            assert mine["of"] == theirs.words[0].tolist() and len(mine["words"]) == len(theirs.spans[0]), repr(text)


@needs_node
def test_the_page_resizes_pictures_as_the_library_does():
    draw, pictures, right = np.random.default_rng(0), [], []
    for width, height in [(64, 64), (63, 65), (100, 40), (37, 300), (8, 8), (8, 128), (200, 133), (129, 64), (65, 64)]:
        image = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        opaque = np.dstack([image, np.full((height, width), 255, np.uint8)])
        pictures.append({"width": width, "height": height, "pixels": opaque.ravel().tolist()})
        right.append(middle_square(Image.fromarray(image), 64).transpose(2, 0, 1))
    found = in_node("(picture) => [...LCL.square(picture, 64)]", {"each": pictures})
    for picture, mine, theirs in zip(pictures, found, right, strict=True):
        off = np.abs(np.array(mine).reshape(3, 64, 64) - theirs.astype(int)).max()
        assert off == 0, (picture["width"], picture["height"], off)


def test_a_sheet_holds_its_scenes_side_by_side():
    colours = np.arange(13, dtype=np.uint8) * 19
    scenes = np.broadcast_to(colours[:, None, None, None], (13, 16, 16, 3))
    kind, _, content = tryout.sheet(scenes).partition(",")
    whole = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))).convert("RGB")).astype(int)
    assert kind == "data:image/webp;base64" and whole.shape == (32, 160, 3)
    for number, colour in enumerate(colours.astype(int)):
        assert np.abs(whole[number // 10 * 16 + 8, number % 10 * 16 + 8] - colour).max() <= 3, number


def test_embeddings_in_16_bits_keep_their_cosines():
    rows = torch.nn.functional.normalize(torch.randn(50, 128, generator=torch.Generator().manual_seed(0)), dim=1)
    back = np.frombuffer(base64.b64decode(tryout.fixed(rows)), "<i2").reshape(50, 128) / 32_767
    assert np.abs(back @ back.T - (rows @ rows.T).numpy()).max() < 2e-4


def test_without_npm_it_is_left_out_with_a_reason(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(tryout, "PACKAGES", tmp_path / "npm")
    monkeypatch.setattr(tryout.shutil, "which", lambda name: None)
    assert tryout.prepared(said.append) is None
    assert said == [
        "the page on which one tries a model is left out: npm, which comes with Node.js and fetches ONNX Runtime Web, "
        "is not installed."
    ]


def test_where_npm_fails_it_is_left_out_with_a_reason(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(tryout, "PACKAGES", tmp_path)
    monkeypatch.setattr(tryout.shutil, "which", lambda name: sys.executable)  # which has no file `ci` to run
    assert tryout.prepared(said.append) is None
    assert said[0].startswith("the page on which one tries a model is left out: npm could not fetch ONNX Runtime Web (")
    assert len(said) == 1 and said[0].endswith(").") and not (tmp_path / "done").exists()


def test_the_page_is_in_the_site_only_if_it_was_made(tmp_path):
    made = tmp_path / "made"
    made.mkdir()
    (made / "about.js").write_text("globalThis.LCL.tryout.about = {};\n", encoding="utf-8")
    for tried in (None, made):
        folder = tmp_path / str(tried is None)
        names = [page.name for page in build(folder, [], tried=tried)]
        start = (folder / "index.html").read_text(encoding="utf-8")
        assert (
            ("try.html" in names)
            == (folder / "try.html").exists()
            == (folder / "assets" / "try").exists()
            == (tried is not None)
        )
        assert start.count('href="try.html"') == (2 if tried else 0)  # in the menu and below the text
