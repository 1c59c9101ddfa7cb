"""Cosines of a picture and texts: `python infer.py picture.jpg "a cat" "a red apple"`. Stands beside towers.json."""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps
from tokenizers import Tokenizer


def main(picture, *texts):
    """Print a cosine for each text. Needs numpy, onnxruntime, pillow and tokenizers; neither lcl nor torch."""
    folder = Path(__file__).parent
    size = json.loads((folder / "towers.json").read_text(encoding="utf-8"))["image"]["size"]
    image = Image.open(picture)
    image.draft("RGB", (size, size))  # decode a large JPEG at a reduced scale, as in training
    image = ImageOps.exif_transpose(image)
    if image.has_transparency_data:
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    width, height, side = *image.size, min(image.size)
    box = ((width - side) / 2, (height - side) / 2, (width + side) / 2, (height + side) / 2)  # the middle square
    image = image.convert("RGB").resize((size, size), Image.Resampling.BICUBIC, box)
    images = np.asarray(image).transpose(2, 0, 1)[None]  # (1, 3, H, W) uint8; the graph scales and normalises

    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # it also cuts and pads
    tokenizer.encode_special_tokens = True  # "[PAD]" in a text is text like any other
    rows = tokenizer.encode_batch(texts)
    ids, mask = np.array([row.ids for row in rows]), np.array([row.attention_mask for row in rows], bool)  # (N, L)

    (v,) = onnxruntime.InferenceSession(folder / "image.onnx").run(None, {"images": images})  # (1, d)
    (t,) = onnxruntime.InferenceSession(folder / "text.onnx").run(None, {"ids": ids, "mask": mask})  # (N, d)
    for cosine, text in zip(t @ v[0], texts, strict=True):
        print(f"{cosine:8.5f}  {text}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(*sys.argv[1:])
