"""The house: one direction of imports, words on everything public, exact pins, and nothing of anyone's own machine."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
MODULES = sorted((ROOT / "lcl").glob("*.py"))

ORDER = (
    "config storage study sources pictures provenance captions scenes text photos tars shards folders collection cc3m "
    "layers vision language model contrastive matching fusion encoders banks neighbours guidance recipes grounding "
    "evaluation results parallel together feeds training checkpoints runs kept diagnosis plots charts report checks views "
    "widgets search portable races peers growth bench cli_data cli __main__"
).split()


def imported(source: str) -> set[str]:
    """The modules of lcl that a source imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("lcl.")}
            found |= {"__init__" for alias in node.names if alias.name == "lcl"}
        elif isinstance(node, ast.ImportFrom):
            base = (["lcl"] if node.level else []) + (node.module.split(".") if node.module else [])
            if base == ["lcl"]:
                found |= {alias.name for alias in node.names}
            elif base[0] == "lcl":
                found.add(base[1])
    return found


def normal(name: str) -> str:
    """A package's name as registries compare it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def pins() -> dict[str, str]:
    """requirements.txt as {name: version}; a name with several markers keeps each version, joined."""
    found: dict[str, str] = {}
    for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)==([^\s;]+)", line):
            found[normal(match[1])] = f"{found.get(normal(match[1]), '')} {match[2]}".strip()
    return found


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


def test_the_reader_of_imports_sees_every_form_of_import():
    forms = {
        "import lcl.text": {"text"},
        "from lcl import text, model": {"text", "model"},
        "from lcl.text import Tokens": {"text"},
        "from . import text": {"text"},
        "from .text import Tokens": {"text"},
        "def f():\n    from lcl.text import Tokens": {"text"},
        "import torch\nfrom torch import nn": set(),
    }
    assert {source: imported(source) for source in forms} == forms


def test_the_library_is_flat_and_every_module_has_its_place():
    assert [path for path in (ROOT / "lcl").iterdir() if path.is_dir() and path.name != "__pycache__"] == []
    assert {path.stem for path in MODULES} - {"__init__"} <= set(ORDER)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_a_module_imports_only_from_rows_above_its_own(path):
    above = ORDER[: ORDER.index(path.stem)] if path.stem in ORDER else ["diagnosis"]  # of `lcl.diagnose`, when it is asked for
    assert imported(path.read_text(encoding="utf-8")) <= set(above)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.stem)
def test_everything_public_says_what_it_is(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    kinds = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
    public = [node for node in tree.body if isinstance(node, kinds) and not node.name.startswith("_")]
    assert ast.get_docstring(tree), "the module has no docstring"
    assert [node.name for node in public if not ast.get_docstring(node)] == []


def test_every_requirement_is_pinned_exactly():
    lines = [line.strip() for line in (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line and not line.startswith("#")]
    assert "-e ." in lines
    assert [line for line in lines if line != "-e ." and not re.fullmatch(r"[\w.-]+==[\w.!+-]+( ; .+)?", line)] == []


def test_requirements_hold_what_pyproject_asks_for_at_the_same_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = dict(dependency.split("==") for dependency in project["dependencies"])
    assert {normal(name): version for name, version in wanted.items()}.items() <= pins().items()


def test_torch_is_the_one_that_was_agreed_on():
    assert (pins()["torch"], pins()["torchvision"]) == ("2.11.0", "0.26.0")


def test_no_file_names_a_registry_host():
    hosts = ["pypi" + ".org", "pythonhosted" + ".org", "npmjs" + ".org", "npmjs" + ".com", "pypi" + ".python"]
    assert [(name, host) for name, text in tracked_texts() for host in hosts if host in text] == []


def test_no_file_holds_a_path_of_somebodys_machine():
    homes = r"(?<![\w.:/])/(?:home|Users|root|work|tmp)/[\w.-]+"
    elsewhere = r"[A-Z]:\\+Users\\+\w+|(?<![\w.:/])/[\w./-]*/site-packages/"
    pattern = re.compile(f"{homes}|{elsewhere}")
    assert pattern.search("see /" + "home/ada/lcl") and not pattern.search("https://example.test/home/x")
    assert [(name, found[0]) for name, text in tracked_texts() if (found := pattern.search(text))] == []
