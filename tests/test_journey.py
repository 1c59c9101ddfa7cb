"""A user's journey with own pictures, in processes of their own: from a folder to a search without this library."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent


def own_pictures(world, folder: Path, first: int, count: int) -> Path:
    """Pictures with two captions each, and a table as people write it."""
    folder.mkdir()
    pairs = world.pairs("train", range(first, first + count))
    with (folder / "captions.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, delimiter=";")
        writer.writerow(["Filename", "Caption"])
        for number, (image, caption) in enumerate(zip(pairs.images, pairs.captions, strict=True)):
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize((200, 200)).save(folder / f"{number:03d}.jpg", quality=90)
            writer.writerows([(f"{number:03d}.jpg", caption), (f"{number:03d}.jpg", f"a drawing: {caption}")])
    return folder


@pytest.mark.slow
def test_from_a_folder_to_a_search_without_this_library(small_world, tmp_path):
    environment = os.environ | {"LCL_DATA": str(tmp_path / "data"), "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(*command, **options):
        return subprocess.Popen(
            [sys.executable, *map(str, command)], cwd=tmp_path, env=environment, text=True, encoding="utf-8",
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options,
        )  # fmt: skip

    def run(*command) -> str:
        process = start("-m", "lcl", *command)
        out, err = process.communicate(timeout=400)
        assert process.returncode == 0, err
        return out

    mine, others = own_pictures(small_world, tmp_path / "mine", 0, 320), own_pictures(small_world, tmp_path / "others", 280, 120)
    said = run("data", "from-folder", mine, "--captions", mine / "captions.csv", "--out", "shards")
    assert "640 pairs of 320 images" in said and "320 pictures with 640 captions" in said
    run("data", "from-folder", others, "--captions", others / "captions.csv", "--out", "other-shards")

    train = ("train", "--profile", "smoke", "--recipe", "clip-ping", "--data", "shards", "--epochs", 4, "--batch-size", 16)
    training = start("-m", "lcl", *train, "--name", "mine", "--checkpoint-every", 4)
    checkpoints, deadline = tmp_path / "runs" / "mine" / "checkpoints", time.monotonic() + 300
    while not list(checkpoints.glob("step-*/*.json")) and time.monotonic() < deadline and training.poll() is None:
        time.sleep(0.05)
    training.kill()  # in the middle of a step, wherever it is
    training.communicate()
    assert list(checkpoints.glob("step-*")) and not (tmp_path / "runs" / "mine" / "metrics.json").exists()
    said = run("train", "--resume", "runs/mine")
    assert "held_out" in said and "distinct pictures / captions" in said
    found = json.loads((tmp_path / "runs" / "mine" / "metrics.json").read_text(encoding="utf-8"))
    assert found["last_loss"] < found["first_loss"] and found["metrics"]["held_out"]["image_to_text_recall@1"]["candidates"] == 32

    assert "equal to metrics.json" in run("evaluate", "runs/mine")
    process = start("-m", "lcl", "evaluate", "runs/mine", "--data", "other-shards")
    out, err = process.communicate(timeout=400)
    assert process.returncode == 0, err
    assert "transfer" in out and "40 pairs are left out: the run was trained on their picture" in err
    assert "80 / 160" in out.replace(" " * 2, " ")

    hits = json.loads(run("search", "a red apple", mine, "--run", "runs/mine", "--json"))["results"]
    assert len(hits) == 5 and hits[0]["cosine"] >= hits[-1]["cosine"]
    run("export", "runs/mine", "onnx", "--onnx")
    bare = start("onnx/infer.py", mine / hits[0]["path"], "a red apple", "a blue car")
    out, err = bare.communicate(timeout=100)
    assert bare.returncode == 0, err
    cosines = {line.split(maxsplit=1)[1]: float(line.split()[0]) for line in out.splitlines()}
    assert cosines["a red apple"] == pytest.approx(hits[0]["cosine"], abs=2e-3) and "a blue car" in cosines
