"""The slides hold what the notebooks hold, and need no network; the tables of the teacher's sheet and of README are measured;
the study trains what it says, once, and a run made again is the kept one, bitwise."""

import dataclasses
import html
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import made_plan
import nbformat
import pytest

import slides
import study
from lcl.config import LclError
from lcl.course import study as study_module
from lcl.course.planned import file_of, told
from lcl.course.study import FOLDER, read_study, saved_runs
from lcl.storage import read_json, write_json
from lcl.train.provenance import code_key, processor, version

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
MEASURED = read_json(ROOT / "results" / "notebooks.json")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_chapter_becomes_slides_that_need_no_network(path):
    title, found = slides.slides_of(path)
    page = slides.PAGE.render(title=title, slides=found)
    cells = nbformat.read(path, as_version=4).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    for heading in re.findall(r"^## (.+)$", text, flags=re.M):
        plain = max(re.split(r"[*`$\\']", heading), key=len).strip()  # its longest part without a mark
        assert len(plain) > 2 and plain in page
    pictures = sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))
    diagrams = len(re.findall(r"^!\[[^\]]+\]\(diagrams/", text, flags=re.M))
    assert diagrams >= 1 and page.count('src="data:image/svg+xml;base64,') == diagrams
    assert page.count("<img ") == pictures + diagrams and page.count('<img alt=""') == 0 and 'alt=""' not in page
    assert not re.search(r"(?:src|href)=\"https?://[^\"]*\.(?:js|css|png)", page) and "<script src" not in page
    assert "$$" not in page and "&lt;details" not in page and "&lt;/details" not in page


def test_what_a_notebook_folds_is_a_note():
    shown, notes = slides.split("## Why?\n\nThink.\n\n<details><summary>Answer</summary>\n\n- So.\n\n</details>\n\nThen go on.")
    assert shown == "## Why?\n\nThink." and notes == "Then go on.\n\n**Answer**\n\n- So."


def test_equations_become_mathml():
    assert "<math" in slides.to_html(r"with $e^\tau$ and") and 'display="block"' in slides.to_html(r"$$L = \sum_i x_i$$")


NO_FORMULAS = ["MATH0MATH", "$^$", r"$\frac$", r"$\href{javascript:hurt()}{x}$", '$\\class{a" onclick="hurt()}{x}$']


@pytest.mark.parametrize("text", NO_FORMULAS)
def test_what_is_no_formula_is_shown_as_it_is(text):
    page = slides.to_html(text)
    assert html.unescape(page) == f"<p>{text}</p>\n" and "onclick=\"" not in page


def test_no_formula_brings_elements_into_the_page_and_code_holds_none():
    assert "<script" not in slides.to_html(r"$\text{<script>hurt()</script>}$ and $a < b$")
    assert slides.to_html("`costs $5 and $10`") == "<p><code>costs $5 and $10</code></p>\n"


def test_minutes_and_memory_are_those_that_were_measured():
    assert list(MEASURED) == [path.stem for path in NOTEBOOKS]
    readme, sheet = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "docs/teaching.md"))
    for name, row in MEASURED.items():
        minutes, memory = f"{row['minutes']:.1f}", f"{row['peak_gib']:.1f}"
        assert re.search(rf"\(notebooks/{name}\.ipynb\) \| [^|]+ \| \d+ \| {minutes} \|$", readme, flags=re.M), name
        assert re.search(rf"/{name}\.ipynb\) \| {minutes} \| {memory} \| \d+ \|$", sheet, flags=re.M), name
    total, capstone = sum(row["minutes"] for row in MEASURED.values()), MEASURED["14_capstone"]["minutes"]
    assert f"| {total:.1f} |" in readme and total - capstone <= 55 and capstone <= 15
    paper = " ".join((ROOT / "docs/paper.md").read_text(encoding="utf-8").split())
    assert f"running all cells {total:.1f} minutes on two cores of an Intel Xeon" in paper
    assert all("Intel" in row["provenance"]["machine"]["processor"] for row in MEASURED.values())


def test_the_sheet_counts_the_exercises():
    sheet = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        number = sum("...  # your answer" in cell.source for cell in nbformat.read(path, as_version=4).cells)
        assert re.search(rf"/{path.stem}\.ipynb\) \|.* \| {number} \|$", sheet, flags=re.M), path.stem


PLAN = read_json(FOLDER / "plan.json")


def test_every_run_is_something_that_can_be_trained_and_primary_arms_come_first():
    """Each is understood by `lcl train`."""
    runs = study.runs_of(PLAN)
    assert len(runs) == sum(len(arm["seeds"]) for arm in PLAN["arms"].values())
    primary = {each[side] for each in PLAN["primary"] for side in ("arm", "over")}
    first = list(runs)[: len(primary) * 5]
    assert set(first) == {file_of(PLAN, arm, seed) for arm in primary for seed in range(5)}
    assert [name.endswith("seed0.json") for name in first] == [True] * len(primary) + [False] * len(primary) * 4
    import typer

    from lcl.cli.main import app

    known = {name for parameter in typer.main.get_command(app).commands["train"].params for name in parameter.opts}
    assert {word for options in runs.values() for word in [*options, *study.CHECKPOINTS] if word.startswith("--")} <= known


def test_the_kept_study_is_of_one_code_that_the_pages_name_and_the_bench_is_of_it():
    """Of the code that it was made by, which may be older than the code at hand."""
    kept = read_study()
    assert f"code `{kept.made['code']}`" in (FOLDER.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert read_json(FOLDER / "bench.json")["provenance"]["code"] == kept.made["code"], "`make bench OUT=results/bench.json`"
    assert code_key() == kept.made["code"], "prove that runs are as before, and name the new key in `provenance.SAME`"


HERE, NAME = study.Circumstance("c", "d", "2.11.0"), "clip-laptop-seed0.json"


def test_a_run_is_kept_if_it_was_made_in_this_circumstance_and_fits_what_it_was_told(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    path, options = tmp_path / "planned" / NAME, told(made_plan.PLAN, "clip", 0)
    assert study.kept(NAME, options, HERE) is None and not study.is_older(path, HERE)
    made = made_plan.made_run("clip", 0, 0.7)
    other = made["provenance"] | {"code": "0ther"}
    for change, fits, older in (
        ({}, True, False), ({"data": "e"}, False, True), ({"provenance": other}, False, True),
        ({"told": ["--seed", "1"]}, False, False), ({"steps": 3}, False, False), ({"metrics": {}}, False, False),
    ):  # fmt: skip
        made_plan.keep(tmp_path / "planned", "clip", made)
        write_json(path, made | change)
        assert (study.kept(NAME, options, HERE) == path, study.is_older(path, HERE)) == (fits, older), change
    made_plan.keep(tmp_path / "planned", "clip", made)
    path.with_suffix(".safetensors").unlink()
    assert study.kept(NAME, options, HERE) is None and "its file of ranks does not exist" in caplog.text


def test_an_option_without_a_value_is_no_stumbling_block():
    words = told(made_plan.PLAN, "clip", 0)
    assert study.circumstance([*words, "--activation-checkpointing"]) == study.circumstance(words)
    assert study.circumstance(["--activation-checkpointing", *words]).data == study.circumstance(words).data


def test_an_entry_has_no_primary_comparisons_and_an_unknown_arm_gets_one_sentence(tmp_path):
    entry = {key: made_plan.PLAN[key] for key in ("profile", "options")} | {"arms": {"mine": made_plan.PLAN["arms"]["siglip"]}}
    assert list(study.runs_of(entry)) == [f"mine-laptop-seed{seed}.json" for seed in range(5)]
    write_json(tmp_path / "mine.json", entry)
    command = [sys.executable, "tools/study.py", "--plan", str(tmp_path / "mine.json"), "--only", "mien"]
    made = subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert made.returncode == 1 and "no arm 'mien'; did you mean mine" in made.stderr and "Traceback" not in made.stderr


@pytest.mark.parametrize("damage", ['{"seed": 0, "met', "{}", "[]"])
def test_a_damaged_run_is_named_and_counts_as_missing(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    (tmp_path / "planned").mkdir()
    (tmp_path / "planned" / NAME).write_text(damage)
    assert study.kept(NAME, told(made_plan.PLAN, "clip", 0), HERE) is None
    assert not study.is_older(tmp_path / "planned" / NAME, HERE)
    assert f"{NAME} counts as missing: it is" in caplog.text
    assert study.hours([NAME], workers=1) == pytest.approx(1.1 / 6)


def test_an_estimate_counts_steps_not_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    (tmp_path / "planned").mkdir()
    run = {"steps": 1000, "step_ms": 3600.0, "seconds": {"training": 1e6}}  # an hour of steps; somebody closed the lid
    (tmp_path / "planned" / NAME).write_text(json.dumps(run))
    assert study.hours([NAME, "other"], workers=2) == pytest.approx(1.1)


def test_a_run_that_fails_is_said_with_its_reason(tmp_path):
    with pytest.raises(LclError, match="odd failed.*no recipe 'clipp'; did you mean"):
        study.train("odd", ["--profile", "smoke", "--recipe", "clipp"], HERE, tmp_path, tmp_path)
    assert not list(tmp_path.glob("odd*"))


def test_threads_reach_the_run_and_runs_of_other_threads_are_not_gone_on_with(tmp_path, monkeypatch):
    begun = []

    def run(words, env, **_):
        begun.append((env["OMP_NUM_THREADS"], words[words.index("--runs") + 1]))
        return subprocess.CompletedProcess(words, 1, "", "it stops here")

    monkeypatch.setattr(subprocess, "run", run)
    for threads in (1, 2, 1):
        with pytest.raises(LclError, match="it stops here"):
            study.train("odd", ["--profile", "smoke"], HERE, tmp_path, tmp_path, threads)
    (one, first), (two, second), (again, third) = begun
    assert (one, two, again) == ("1", "2", "1") and first == third != second


@pytest.mark.parametrize("words", [["--threads", "2"], ["--only", "clip", "--threads", "0"]])
def test_threads_that_nobody_would_use_are_refused(words, capsys):
    with pytest.raises(SystemExit):
        study.main(words)
    assert "--threads is a number from 1 on, and goes with --only." in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_during_which_the_code_changed_is_thrown_away(tmp_path):
    small = ["--profile", "smoke", "--pairs", "64", "--epochs", "1"]
    before = dataclasses.replace(study.circumstance(small), code="what it was when the study began")
    with pytest.raises(LclError, match="trained while something changed .code .*thrown away"):
        study.train("run.json", small, before, tmp_path / "runs", tmp_path)
    assert not (tmp_path / "run.json").exists() and not list((tmp_path / "runs").glob("*/run"))


@pytest.mark.slow
def test_new_runs_wait_until_all_are_there_and_then_replace_the_old_study_in_one_go(tmp_path, monkeypatch, capsys):
    few = {"recipe": "clip", "options": ["--pairs", "64", "--epochs", "1"], "seeds": [0, 1]}
    plan = {"profile": "smoke", "options": [], "arms": {"clip": few}, "primary": []}
    (tmp_path / "planned").mkdir()
    write_json(tmp_path / "plan.json", plan)
    names = [f"clip-smoke-seed{seed}.json" for seed in (0, 1)]
    write_json(tmp_path / "planned" / names[0], {"data": "old", "provenance": {"code": "x", "packages": {"torch": "1"}}})
    write_json(tmp_path / "planned" / "mine-smoke-seed0.json", {})  # an entry of somebody
    for module in (study, study_module):
        monkeypatch.setattr(module, "FOLDER", tmp_path)
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs")
    real = study.train

    def stopped(name, *rest):
        if name == names[0]:
            raise LclError("stopped")
        real(name, *rest)

    monkeypatch.setattr(study, "train", stopped)
    words = ["--plan", str(tmp_path / "plan.json")]
    with pytest.raises(SystemExit, match="1 runs failed"):
        study.main(words)
    assert "1 of the saved runs are of another study, such as clip-smoke-seed0.json" in capsys.readouterr().out
    assert read_json(tmp_path / "planned" / names[0])["data"] == "old" and (tmp_path / "next" / names[1]).exists()
    monkeypatch.setattr(study, "train", real)
    study.main(words)
    assert "1 of 2 runs to train" in capsys.readouterr().out
    files = {Path(name).with_suffix(kind).name for name in names for kind in (".json", ".safetensors")}
    assert {path.name for path in (tmp_path / "planned").iterdir()} == {*files, "mine-smoke-seed0.json"}
    assert not (tmp_path / "next").exists()
    assert [run["seed"] for run in saved_runs("clip")] == [0, 1]
    study.main(words)
    assert "0 of 2 runs to train" in capsys.readouterr().out


@pytest.mark.slow
def test_the_small_run_made_again_is_the_kept_one(tmp_path):
    kept = read_json(FOLDER / "check.json")
    made = kept["provenance"]
    if (made["machine"]["processor"], made["packages"]["torch"]) != (processor(), version("torch")):
        pytest.skip(f"kept on {made['machine']['processor']}, torch {made['packages']['torch']}: others round differently")
    if made["code"] != code_key():
        pytest.skip(f"kept by code {made['code']}, and the study is not yet trained anew by the code at hand, {code_key()}")
    here = dataclasses.replace(study.circumstance(study.SMALL), data=kept["data"])
    study.train(study.CHECK, study.SMALL, here, tmp_path, tmp_path)
    again = read_json(tmp_path / "check.json")
    assert again["provenance"]["code"] == made["code"], "training changed: run `python tools/study.py --check`"
    for part in ("metrics", "first_loss", "last_loss", "profile", "recipe", "data", "steps"):
        assert again[part] == kept[part], part
