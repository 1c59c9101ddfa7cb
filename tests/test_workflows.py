"""The workflows fit the project: their commands, files, targets and Python versions exist, and their rights are small."""

import re
import tomllib
from pathlib import Path

import pytest
from packaging.specifiers import SpecifierSet

ROOT = Path(__file__).resolve().parent.parent
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
yaml = pytest.importorskip("yaml")
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


RIGHTS = {  # beyond reading, of the only jobs that need them
    ("site", "publish"): {"pages": "write", "id-token": "write"},
    ("site", "launch"): {"contents": "write"},
}


def read(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def steps(path: Path, key: str) -> list[str]:
    return [step[key] for job in read(path)["jobs"].values() for step in job["steps"] if key in step]


def recipe(target: str) -> list[str]:
    """The commands of a target, as they are where the programs of .venv are on the path."""
    lines = re.search(rf"^{target}:.*\n((?:\t.*\n)+)", MAKEFILE, flags=re.M)[1].splitlines()
    return [line.strip().replace("$(BIN)/", "") for line in lines]


def test_there_are_four_workflows():
    assert [path.stem for path in WORKFLOWS] == ["minimum", "prose", "site", "tests"]


@every_workflow
def test_rights_and_times_are_limited(path):
    workflow = read(path)
    assert workflow["permissions"] == {"contents": "read"} and workflow["concurrency"]["cancel-in-progress"]
    for name, job in workflow["jobs"].items():
        assert 0 < job["timeout-minutes"] <= 120
        assert job.get("permissions") == RIGHTS.get((path.stem, name))
    assert all(re.fullmatch(r"[\w-]+/[\w-]+@v\d+", name) for name in steps(path, "uses"))


@every_workflow
def test_python_versions_are_those_of_the_project(path):
    versions = re.findall(r'"(3\.\d+)"', path.read_text(encoding="utf-8")) if path.stem != "prose" else ["3.12"]
    assert versions and all(version in SpecifierSet(PROJECT["requires-python"]) for version in versions)


@every_workflow
def test_targets_and_files_exist(path):
    targets = set(re.search(r"^\.PHONY: (.+)$", MAKEFILE, flags=re.M)[1].split())
    matrices = [job.get("strategy", {}).get("matrix", {}) for job in read(path)["jobs"].values()]
    for command in steps(path, "run"):
        assert set(re.findall(r"^make ([\w-]+)$", command, flags=re.M)) <= targets
        names = re.findall(r"(?<=\s)(?:tests|tools|docs|notebooks)(?:/[\w.]+)?(?=\s|$)|[\w/]+\.(?:toml|py)(?=\s|$)", command)
        for name in names:
            assert (ROOT / name).exists(), name
    assert {target for matrix in matrices for target in matrix.get("target", [])} <= targets


def test_windows_runs_the_commands_of_the_makefile():
    named = {step.get("name"): step for step in read(ROOT / ".github/workflows/tests.yml")["jobs"]["windows"]["steps"]}
    for target in ("lint", "unit", "notebooks-test"):
        assert named[target]["run"].splitlines() == recipe(target)


def test_all_parts_of_make_test_are_run():
    jobs = read(ROOT / ".github/workflows/tests.yml")["jobs"]
    run = {step["run"].removeprefix("make ") for step in jobs["unix"]["steps"] if "run" in step}
    run |= set(jobs["linux-only"]["strategy"]["matrix"]["target"])
    assert run == set(re.search(r"^test: (.+)$", MAKEFILE, flags=re.M)[1].split())


def test_without_cuda_only_packages_for_linux_are_left_out():
    left_out = re.compile(re.search(r"^CUDA = (.+)$", MAKEFILE, flags=re.M)[1])
    lock = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    for_linux = [line for line in lock if line.endswith("; sys_platform == 'linux'")]
    assert for_linux and [line for line in lock if left_out.search(line)] == for_linux


def test_the_citation_is_of_this_version():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert (str(citation["version"]), citation["license"]) == (PROJECT["version"], PROJECT["license"])
