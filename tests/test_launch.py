"""What Colab and Binder open: every chapter with a first cell that sets up, and nothing that trains unasked."""

import contextlib
import json
import os
import re
import subprocess
import sys
import tomllib
from importlib import metadata

import nbformat
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from website.build import build
from website.launch import BINDER, BRANCH, EXTRAS, PLACE, TRAINS, buttons, setup_cell, to_launch, write
from website.place import ROOT, chapters


@pytest.fixture(scope="module")
def branch(tmp_path_factory):
    target = tmp_path_factory.mktemp("launch") / "branch"
    write("someone/lcl.course", target)
    return target


def shell(line: str) -> list[str]:
    """The words of a line for the shell or for a magic."""
    return re.findall(r'"([^"]+)"|(\S+)', line)


def test_every_chapter_begins_with_the_cell_that_sets_up(branch):
    assert [path.name for path in chapters(branch)] == [path.name for path in chapters()]
    for path, ours in zip(chapters(branch), chapters(), strict=True):
        found, before = (nbformat.read(each, as_version=4) for each in (path, ours))
        nbformat.validate(found)
        assert found.cells[0].metadata.tags == ["set-up"] and len(found.cells) == len(before.cells) + 1
        assert "https://github.com/someone/lcl.course " in found.cells[0].source
        changed = [(a.source, b.source) for a, b in zip(found.cells[1:], before.cells, strict=True) if a.source != b.source]
        assert all(TRAINS.search(old) and "TRAIN = False" in new and not TRAINS.search(new) for new, old in changed)
        assert len(changed) == sum(bool(TRAINS.search(cell.source)) for cell in before.cells if cell.cell_type == "code")
        assert not any(re.search(r"\bTRAIN\s*=\s*True", cell.source) for cell in found.cells if cell.cell_type == "code")


def test_chapters_that_train_are_those_with_the_switch():
    trains = [path.stem[:2] for path in chapters() if re.search(r"TRAIN = True", path.read_text(encoding="utf-8"))]
    assert trains == ["03", "04", "05", "06", "07", "09", "10", "14"]


def test_elsewhere_the_cell_does_nothing(tmp_path):
    """Run as IPython would run it, without its shell: outside Colab no line that needs one may be reached."""
    source = re.sub(r"^( +)[!%].*$", r"\1raise SystemExit('reached')", setup_cell("x"), flags=re.M)
    exec(compile(source, "set-up", "exec"), {})


def with_dependencies(requirements: list[str]) -> set[str]:
    """The names of these packages and of all that they need, as they are installed here."""
    found, ahead = set(), [Requirement(text) for text in requirements]
    while ahead:
        needed = ahead.pop()
        name = canonicalize_name(needed.name)
        if name in found or needed.marker and not needed.marker.evaluate({"extra": ""}):
            continue
        found.add(name)
        with contextlib.suppress(metadata.PackageNotFoundError):
            ahead += [Requirement(text) for text in metadata.requires(name) or ()]
    return found


def test_all_that_the_chapters_import_is_installed_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [package for extra in (*EXTRAS, "course") for package in project["optional-dependencies"][extra]]
    there = with_dependencies(project["dependencies"] + extras)
    giver = metadata.packages_distributions()
    for path in chapters():
        code = "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "code")
        modules = set(re.findall(r"^ *(?:import|from) (\w+)", code, flags=re.M)) - set(sys.stdlib_module_names) - {"lcl"}
        lacking = {module for module in modules if not there & {canonicalize_name(name) for name in giver[module]}}
        assert not lacking, path.name


def test_it_installs_what_the_chapters_import_and_leaves_colabs_own_alone():
    (line,) = [line for line in setup_cell("x").splitlines() if "%pip" in line]
    first, *packages = [a or b for a, b in shell(line.partition("--quiet ")[2])]
    assert first == f"{PLACE}[{','.join(EXTRAS)}]"
    names = {Requirement(package).name for package in packages}
    assert {"anywidget", "ipywidgets", "matplotlib", "umap-learn"} <= names and not {"jupyterlab", "ipykernel"} & names


def test_binder_builds_from_its_own_folder(branch):
    post = branch / ".binder" / "postBuild"
    assert os.access(post, os.X_OK) and post.read_text() == BINDER.format(extras=",".join(EXTRAS))
    subprocess.run(["bash", "-n", str(post)], check=True)
    assert (branch / ".binder" / "runtime.txt").read_text() == "python-3.11\n"


def test_buttons_name_the_chapter_on_the_branch():
    for name, address in buttons("someone/lcl.course", "03_contrastive"):
        assert name in ("Colab", "Binder") and "someone/lcl.course" in address and "launch" in address
        assert address.endswith("notebooks/03_contrastive.ipynb")


def test_readme_says_how_a_fork_gets_the_buttons():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"branch `{BRANCH}`" in text.replace("\n", " ") and "make site REPOSITORY=OWNER/NAME" in text
    assert ".github/workflows/site.yml" in text and (ROOT / ".github" / "workflows" / "site.yml").exists()


def test_the_site_has_buttons_where_it_knows_the_repository(tmp_path):
    for repository in ("", "someone/lcl.course"):
        build(tmp_path, [], repository=repository)
        page = (tmp_path / "03_contrastive.html").read_text(encoding="utf-8")
        found = [f'href="{address}"' in page for _, address in buttons("someone/lcl.course", "03_contrastive")]
        assert found == [bool(repository)] * 2


@pytest.mark.parametrize("name", ["", "lcl", "a/b/c", "a/b c", "-a/b", 'a/b"><script>', "a/../b", "https://github.com/a/b"])
def test_what_is_no_repository_is_refused(name, tmp_path):
    with pytest.raises(ValueError, match="OWNER/NAME"):
        write(name, tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_a_folder_in_use_is_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="is not empty; name another folder"):
        write("a/b", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_cell_keeps_its_outputs():
    cell = {"cell_type": "code", "source": ["TRAIN = True  # x\n", "y = 1"], "outputs": [{"a": 1}], "metadata": {}}
    made = to_launch({"cells": [cell], "nbformat": 4}, "pass")
    assert made["cells"][1]["outputs"] == [{"a": 1}] and made["cells"][1]["source"][1] == "y = 1"
    assert cell["source"][0] == "TRAIN = True  # x\n", "the original stays"
    assert json.dumps(made) and ROOT.exists()
