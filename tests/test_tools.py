"""The slides hold what the notebooks hold, and need no network; the tables of the teacher's sheet and of README are measured;
the study trains what it says, once, and a cell made again is the kept one to the bit."""

import dataclasses
import html
import json
import re
from pathlib import Path

import nbformat
import pytest

import slides
import study
from lcl.config import LclError, get_profile
from lcl.course import study as study_module
from lcl.course.statistics import saved_ranks
from lcl.course.study import FOLDER, Study, read_study
from lcl.data.scenes import open_scenes
from lcl.storage import read_json
from lcl.train.provenance import code_key, processor, version

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
TORCH = version("torch").split("+")[0]
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


def test_the_sheet_counts_the_exercises():
    sheet = (ROOT / "docs" / "teaching.md").read_text(encoding="utf-8")
    for path in NOTEBOOKS:
        number = sum("...  # your answer" in cell.source for cell in nbformat.read(path, as_version=4).cells)
        assert re.search(rf"/{path.stem}\.ipynb\) \|.* \| {number} \|$", sheet, flags=re.M), path.stem


def test_every_cell_is_something_that_can_be_trained():
    """Each is understood by `lcl train`, no two are the same, and the main recipes have five seeds, the others three."""
    told = study.cells()
    assert len({tuple(options) for options in told.values()}) == len(told)
    seeds = study.planned().seeds
    assert all(seeds[f"{recipe}-laptop"] == [0, 1, 2, 3, 4] for recipe in study.MAIN)
    assert all(seeds[f"{recipe}-laptop"] == [0, 1, 2] for recipe in (*study.PARTS, study.LIVE))
    assert {f"clip-laptop{of}" for of in ("-vit", "-4k", "-64k", "-depth12", "-rate4e-3")} <= set(seeds)
    import typer

    from lcl.cli.main import app

    known = {name for parameter in typer.main.get_command(app).commands["train"].params for name in parameter.opts}
    assert {word for options in told.values() for word in [*options, *study.CHECKPOINTS] if word.startswith("--")} <= known


def test_the_kept_study_is_the_one_that_is_planned_and_the_bench_is_of_its_code():
    """Of the code that it was made by, which may be older than the code at hand; the pages name it."""
    kept = read_study()
    assert kept == dataclasses.replace(study.planned(), code=kept.code), "`make results` trains what is missing"
    assert f"code `{kept.code}`" in (FOLDER.parent / "docs" / "results.md").read_text(encoding="utf-8")
    assert read_json(FOLDER / "bench.json")["provenance"]["code"] == read_study().code, "`make bench OUT=results/bench.json`"


def test_a_cell_is_kept_if_it_is_of_this_study_and_was_told_this(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    here, path = Study("c0de", "d", "2", {}), tmp_path / "clip-laptop-seed0.json"
    made = {"data": "d", "provenance": {"code": "c0de", "packages": {"torch": "2+cpu"}}, "told": ["--seed", "0"]}
    assert study.kept("clip-laptop-seed0", ["--seed", "0"], here) is None
    for change, found in (
        ({}, path), ({"data": "e"}, None), ({"told": ["--seed", "1"]}, None), ({"told": None}, None),
        ({"provenance": {"code": "0ther", "packages": {"torch": "2"}}}, None),
        ({"provenance": {"code": "c0de", "packages": {"torch": "3"}}}, None),
    ):  # fmt: skip
        path.write_text(json.dumps(made | change))
        assert study.kept("clip-laptop-seed0", ["--seed", "0"], here) is None, "the ranks of its queries are missing"
        path.with_suffix(".safetensors").touch()
        assert study.kept("clip-laptop-seed0", ["--seed", "0"], here) == found, change
        path.with_suffix(".safetensors").unlink()


@pytest.mark.parametrize("damage", ['{"seed": 0, "met', "{}", "[]"])
def test_a_damaged_cell_is_named_and_counts_as_missing(tmp_path, monkeypatch, caplog, damage):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    (tmp_path / "clip-laptop-seed0.json").write_text(damage)
    assert study.kept("clip-laptop-seed0", ["--seed", "0"], Study("c0de", "d", "2", {})) is None
    assert "clip-laptop-seed0.json is damaged, and its cell counts as missing" in caplog.text
    assert study.hours(["clip-laptop-seed0"], workers=1) == pytest.approx(1.1 / 6)


def test_an_estimate_counts_steps_not_pauses(tmp_path, monkeypatch):
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    run = {"steps": 1000, "step_ms": 3600.0, "seconds": {"training": 1e6}}  # an hour of steps; somebody closed the lid
    (tmp_path / "clip-laptop-seed0.json").write_text(json.dumps(run))
    assert study.hours(["clip-laptop-seed0", "other"], workers=2) == pytest.approx(1.1)


def test_a_training_that_fails_is_said_with_its_reason(tmp_path):
    with pytest.raises(LclError, match="odd failed.*no recipe 'clipp'; did you mean"):
        study.train("odd", ["--profile", "smoke", "--recipe", "clipp"], Study("c0de", "d", "2", {}), tmp_path, tmp_path)
    assert not (tmp_path / "odd.json").exists()


@pytest.mark.slow
def test_a_cell_during_which_the_code_changed_is_thrown_away(tmp_path):
    small = ["--profile", "smoke", "--pairs", "64", "--epochs", "1"]
    before = Study("what it was when the study began", open_scenes(get_profile("smoke").scenes).fingerprint, TORCH, {})
    with pytest.raises(LclError, match="trained while something changed .code .*thrown away"):
        study.train("cell", small, before, tmp_path / "runs", tmp_path)
    assert not (tmp_path / "cell.json").exists() and not list((tmp_path / "runs").glob("*/cell"))


@pytest.mark.slow
def test_new_cells_wait_until_all_are_there_and_then_replace_the_old_study_in_one_go(tmp_path, monkeypatch, capsys):
    small = ["--profile", "smoke", "--recipe", "clip", "--pairs", "64", "--epochs", "1", "--seed"]
    folder, old = tmp_path / "results", {"clip-laptop-seed0.json": "old", "gone-laptop-seed0.json": "old"}
    folder.mkdir()
    (folder / "gone-laptop-seed0.safetensors").touch()
    for name, text in old.items():
        made = {"data": text, "provenance": {"packages": {"torch": "1"}}}
        (folder / name).write_text(json.dumps(made))
    data = open_scenes(get_profile("smoke").scenes).fingerprint
    plan = Study(code_key(), data, TORCH, {"clip-laptop": [0, 1]})
    monkeypatch.setattr(study, "FOLDER", folder)
    monkeypatch.setattr(study_module, "FOLDER", folder)
    monkeypatch.setattr(study, "RUNS", tmp_path / "runs")
    monkeypatch.setattr(study, "cells", lambda: {f"clip-laptop-seed{seed}": [*small, str(seed)] for seed in (0, 1)})
    monkeypatch.setattr(study, "planned", lambda: plan)
    study.main(["clip-laptop-seed1"])
    assert "1 of 2 cells are there; results/ stays as it is until all are" in capsys.readouterr().out
    assert {path.name for path in folder.glob("*.json")} == set(old) and (folder / "next" / "clip-laptop-seed1.json").exists()
    study.main([])
    assert "1 of 2 cells to train" in capsys.readouterr().out
    cells = {f"clip-laptop-seed{seed}.{kind}" for seed in (0, 1) for kind in ("json", "safetensors")}
    assert {path.name for path in folder.iterdir()} == {*cells, "study.json"}
    assert [read_json(folder / f"clip-laptop-seed{seed}.json")["seed"] for seed in (0, 1)] == [0, 1]
    assert study_module.read_study() == plan
    assert saved_ranks("clip-laptop", read_json(folder / "clip-laptop-seed1.json")).image_to_text.shape == (128,)
    study.main([])
    assert "0 of 2 cells to train" in capsys.readouterr().out


@pytest.mark.slow
def test_a_cell_made_again_is_the_kept_one_to_the_bit(tmp_path):
    kept = read_json(FOLDER / "check.json")
    made = kept["provenance"]
    if (made["machine"]["processor"], made["packages"]["torch"]) != (processor(), version("torch")):
        pytest.skip(f"kept on {made['machine']['processor']}, torch {made['packages']['torch']}: others round differently")
    if made["code"] != code_key():
        pytest.skip(f"kept by code {made['code']}, and the study is not yet trained anew by the code at hand, {code_key()}")
    here = Study(code_key(), kept["data"], TORCH, {})
    study.train(study.CHECK, study.SMALL, here, tmp_path, tmp_path)
    again = read_json(tmp_path / "check.json")
    assert again["provenance"]["code"] == made["code"], "training changed: run `python tools/study.py --check`"
    for part in ("metrics", "first_loss", "last_loss", "profile", "recipe", "data", "steps"):
        assert again[part] == kept[part], part
