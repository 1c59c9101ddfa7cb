"""The page on which one tries a saved checkpoint in the browser: its int8 towers, the embeddings of scenes, and a runtime.

All of it becomes plain scripts, since a page from a folder may neither fetch files nor load modules. It is kept in
`build/site-data`. ONNX Runtime Web comes from npm, by the lock in `tools/exhibits`, into `build/npm`.
"""

from __future__ import annotations

import base64
import gzip
import io
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lcl import storage
from lcl.config import CHECKOUT, LclError, require
from lcl.deploy.load import IMAGE, TEXT, TOKENIZER
from lcl.deploy.onnx import ImageTower, TextTower, export_onnx, open_towers, to_int8
from lcl.models.tokenizer import Tokens
from website import exhibits
from website.figures import plain

PROJECT = CHECKOUT / "tools" / "exhibits"
PACKAGES = CHECKOUT / "build" / "npm"  # apart from the lint's packages, which only those who change scripts need
RUNTIME = "onnxruntime-web"
CHECKPOINT = "-lightclip-ping"
SCENES, SHEET, COLUMNS = 3000, 100, 10  # scenes; scenes of a picture that holds many; of these side by side
CALIBRATED = 256  # training scenes from which the ranges of the int8 image tower come


class ImageParts(ImageTower):
    """The image tower with a second output: the patches (B, n, d) in the shared space, L2-normalised."""

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.vision(images)
        return self.model.embed_image(features), self.model.embed_patches(features)


class TextParts(TextTower):
    """The text tower with a second output: the tokens (B, L, d) in the shared space; the mean of a word's tokens is the word."""

    def forward(self, ids: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features = self.model.language(Tokens(ids, mask, torch.zeros_like(ids), ()))
        return self.model.embed_text(features), self.model.text_projection(features.token_features)


def fetch_runtime() -> Path:
    """The folder of ONNX Runtime Web's files, fetched if need be. Raises LclError with the reason where that is not possible."""
    lock = (PROJECT / "package-lock.json").read_bytes()
    done, found = PACKAGES / "done", PACKAGES / "node_modules" / RUNTIME / "dist"
    if done.exists() and done.read_text(encoding="utf-8") == storage.sha256(lock):
        return found
    npm = shutil.which("npm")
    require(npm is not None, "npm, which comes with Node.js and fetches ONNX Runtime Web, is not installed")
    PACKAGES.mkdir(parents=True, exist_ok=True)
    for name in ("package.json", "package-lock.json"):
        shutil.copy(PROJECT / name, PACKAGES / name)
    command = [npm, "ci", "--omit=dev", "--ignore-scripts", "--no-audit", "--no-fund"]
    try:
        ended = subprocess.run(command, cwd=PACKAGES, capture_output=True, text=True, timeout=600)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LclError(f"npm could not fetch ONNX Runtime Web ({error})") from None
    said = (ended.stderr.strip() or "it said nothing").splitlines()[0]
    require(ended.returncode == 0, f"npm could not fetch ONNX Runtime Web ({said})")
    storage.write_bytes(done, storage.sha256(lock).encode())
    return found


def export(folder: Path) -> exhibits.Saved:
    """Write the checkpoint's int8 towers, with patches and tokens as second outputs, to a folder; returns the checkpoint."""
    run = exhibits.saved(CHECKPOINT)
    seen = run.world.train(CALIBRATED).take(range(CALIBRATED))
    with tempfile.TemporaryDirectory() as whole:
        export_onnx(Path(whole), run.model, run.tokenizer, seen.images[:8], seen.captions[:8], (ImageParts, TextParts))
        to_int8(Path(whole), folder, seen.images)
    return run


def text64(content: bytes) -> str:
    """Bytes as base64."""
    return base64.b64encode(content).decode()


def fixed(embeddings: torch.Tensor) -> str:
    """Embeddings (N, d) from -1 to 1 as 16-bit integers, little-endian, in base64: their cosines are off by less than 2e-4."""
    return text64((embeddings.numpy() * 32_767).round().astype("<i2").tobytes())


def sheet(images: np.ndarray) -> str:
    """Scenes (N, H, W, 3) side by side, COLUMNS in a row, as the address of a WebP picture."""
    number, height, width, _ = images.shape
    rows = -(-number // COLUMNS)
    filled = np.zeros((rows * COLUMNS, height, width, 3), np.uint8)
    filled[:number] = images
    whole = (
        filled.reshape(rows, COLUMNS, height, width, 3)
        .transpose(0, 2, 1, 3, 4)
        .reshape(rows * height, COLUMNS * width, 3)
    )
    kept = io.BytesIO()
    Image.fromarray(whole).save(kept, "WEBP", quality=90, method=6)
    return f"data:image/webp;base64,{text64(kept.getvalue())}"


def scripts(towers: Path, run: exhibits.Saved, runtime: Path, number: int = SCENES) -> dict[str, str]:
    """The page's scripts by name.

    Args:
        towers: the folder of `export`, whose checkpoint is `run`.
        runtime: the folder of `fetch_runtime`.
        number: of the new scenes that are searched.
    """
    rows = run.world.validation(number)
    pairs, opened = rows.take(range(number)), open_towers(towers)
    length = run.model.config.language.context_length
    v = torch.cat([opened.encode_image(batch) for batch in pairs.images.split(256)])  # (N, d)
    t = torch.cat(
        [opened.encode_text(run.tokenizer.encode([caption], length)) for caption in pairs.captions]
    )
    saved = json.loads((towers / TOKENIZER).read_text(encoding="utf-8"))
    kinds = [part["type"] for part in saved["pre_tokenizer"]["pretokenizers"]]
    require(kinds == ["Whitespace", "ByteLevel"], f"the page's tokenizer knows no {kinds}")
    about = {
        "image": text64((towers / IMAGE).read_bytes()), "text": text64((towers / TEXT).read_bytes()),
        "tokenizer": saved, "length": length, "known": run.tokenizer.training_words, "size": pairs.images.shape[-1],
        "captions": pairs.captions, "v": fixed(v), "t": fixed(t), "sheet": SHEET, "columns": COLUMNS,
    }  # fmt: skip
    wasm = (runtime / "ort-wasm-simd-threaded.wasm").read_bytes()
    engine = {
        "mjs": (runtime / "ort-wasm-simd-threaded.mjs").read_text(encoding="utf-8"),
        "wasm": text64(gzip.compress(wasm, 9, mtime=0)),
    }
    found = {"about.js": plain("tryout.about", about), "engine.js": plain("tryout.engine", engine)}
    found["runtime.js"] = (runtime / "ort.wasm.min.js").read_text(encoding="utf-8").partition("//# sourceMappingURL")[0]
    images = pairs.images.permute(0, 2, 3, 1).numpy()
    for at, start in enumerate(range(0, number, SHEET)):
        found[f"sheet-{at}.js"] = plain(f"tryout.sheets[{at}]", sheet(images[start : start + SHEET]))
    return found


def prepared(say: Callable[[str], None] = print) -> Path | None:
    """The folder of the page's scripts, from build/site-data or made anew; None, after a sentence, where they cannot be made."""
    try:
        runtime = fetch_runtime()
        place = exhibits.KEPT / exhibits.key(Path(__file__), PROJECT / "package-lock.json") / "try"
        if not (place / "about.js").exists():
            say("making the page on which one tries a model")
            with tempfile.TemporaryDirectory() as towers:
                run = export(Path(towers))
                for name, text in reversed(
                    scripts(Path(towers), run, runtime).items()
                ):  # about.js last: with it all is there
                    storage.write_bytes(place / name, text.encode())
        return place
    except LclError as reason:
        say(f"the page on which one tries a model is left out: {str(reason).rstrip('.')}.")
        return None
