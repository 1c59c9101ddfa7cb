"""The code's key changes with what a training does, and with nothing else; provenance says commit, code, versions, machine."""

import ast
import re
import shutil
import subprocess

import pytest
from test_structure import imported as imports_of
from test_structure import name_of

import lcl.train.provenance
from lcl.train.provenance import HERE, LEARNS, SAME, code_key, commit, imported, provenance, statements

LAYERS = (
    '"""Layers."""\n\nimport math  # for pi\n\n\ndef area(r):\n    """Of a circle."""\n'
    "    # the squared radius\n    return math.pi * r**2\n"
)


@pytest.fixture
def package(tmp_path):
    """A package of three modules: training imports model, model imports layers inside a function; plots is of no account."""
    (tmp_path / "layers.py").write_text(LAYERS)
    (tmp_path / "model.py").write_text("def make():\n    from lcl import layers\n    return layers\n")
    (tmp_path / "training.py").write_text("from lcl.model import make\nimport torch\nmake()\n")
    (tmp_path / "plots.py").write_text("from lcl.training import make\n")
    return tmp_path


def test_everything_that_is_imported_counts_and_nothing_else(package):
    assert imported(["training"], package) == {"training", "model", "layers"}
    before = code_key(["training"], package)
    (package / "plots.py").write_text("x = 1\n")
    assert code_key(["training"], package) == before


def test_words_for_people_do_not_count(package):
    before = code_key(["training"], package)
    told = LAYERS.replace("Of a circle.", "Of a disc,\n\n    in square pixels.").replace("squared radius", "radius squared")
    (package / "layers.py").write_text(told.replace("import math  # for pi", "# here be numbers\nimport math\n\n"))
    assert code_key(["training"], package) == before


@pytest.mark.parametrize(
    ("old", "new"), [("r**2", "r**3"), ("math.pi", "math.e"), ("r**2", "r**2 + len('# no comment')"), ("def area", "def surface")]
)
def test_a_statement_counts(package, old, new):
    before = code_key(["training"], package)
    (package / "layers.py").write_text(LAYERS.replace(old, new))
    assert code_key(["training"], package) != before


def test_a_hash_sign_in_a_string_is_no_comment(package):
    keys = set()
    for colour in ("#ff0000", "#00ff00"):
        (package / "layers.py").write_text(f'RED = "{colour}"\n')
        keys.add(code_key(["training"], package))
    assert len(keys) == 2


def test_the_key_follows_every_form_of_import_that_the_library_uses():
    """Compared with a reader of imports of its own."""
    direct = {name_of(path): imports_of(path.read_text("utf-8")) for path in HERE.rglob("*.py")}
    found = set(LEARNS)
    while more := set().union(*(direct[name] & set(direct) for name in found)) - found:
        found |= more
    assert imported(LEARNS) == found


def test_words_for_people_share_no_line_with_a_statement():
    """The key drops whole lines of a string that stands alone; a statement beside one would be dropped with it."""
    for path in HERE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        strings = (each for each in ast.walk(tree) if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
        alone = [each for each in strings if isinstance(each.value.value, str)]
        rows = {row for each in alone for row in range(each.lineno, each.end_lineno + 1)}
        others = [each for each in ast.walk(tree) if isinstance(each, ast.stmt) and each not in alone]
        ends = {each.end_lineno for each in others if not hasattr(each, "body")}  # a block may end with such a string
        assert rows.isdisjoint(ends | {each.lineno for each in others}), path.name


def test_what_learns_and_measures_here_is_covered(tmp_path):
    """Of the real package: every module is read, what shows figures is left out, and a changed weight changes the key."""
    found = imported(LEARNS)
    assert {"train.loop", "eval.metrics", "train.recipes", "losses.matching", "data.scenes", "teachers.search"} <= found
    assert not any(name.startswith(("course.", "cli.", "deploy.")) for name in found)
    copy = shutil.copytree(HERE, tmp_path / "lcl")
    assert code_key(folder=copy) == code_key()
    recipes = copy / "train" / "recipes.py"
    text = recipes.read_text(encoding="utf-8")
    assert '"masked_language": 0.5' in text
    recipes.write_text(text.replace('"masked_language": 0.5', '"masked_language": 0.6'), encoding="utf-8")
    assert code_key(folder=copy) != code_key()


def test_code_that_goes_by_another_key_is_the_code_at_hand(monkeypatch):
    """A change that leaves every figure to the bit is named; the next change of these modules takes that back."""
    key = code_key()
    monkeypatch.setattr(lcl.train.provenance, "SAME", {})
    assert set(SAME) <= {code_key()}, "SAME names code that is gone: take it out"
    assert key == SAME.get(code_key(), code_key())


def test_what_is_left_is_still_python():
    """Taking comments and docstrings away leaves the same functions, and no word of our own imports."""
    for path in sorted(HERE.rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        bodies = [node for node in ast.walk(ast.parse(source)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))]
        if any(len(node.body) == 1 and ast.get_docstring(node) for node in bodies):
            continue  # nothing is left of such a body
        left = ast.parse("\n".join(statements(source)))
        before = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]
        assert len([node for node in ast.walk(left) if isinstance(node, ast.FunctionDef)]) == len(before), path.name
        assert not imports_of("\n".join(statements(source))) - {"lcl"}  # `import lcl`, for the version, stays


def test_a_statement_may_move_to_another_module(package):
    """Also into a folder, and out of its place in the file."""
    before = code_key(["training"], package)
    (package / "models").mkdir()
    (package / "models" / "deep.py").write_text(LAYERS)
    (package / "layers.py").write_text("from lcl.models.deep import area\n")
    assert imported(["training"], package) == {"training", "model", "layers", "models.deep"}
    assert code_key(["training"], package) == before
    (package / "models" / "deep.py").write_text(LAYERS.replace("r**2", "r**3"))
    assert code_key(["training"], package) != before


def test_provenance_says_where_and_with_what():
    found = provenance()
    assert re.fullmatch(r"[0-9a-f]{16}", found["code"]) and found["code"] == code_key()
    assert found["packages"]["torch"] and found["machine"]["cores"] >= 1
    assert found["commit"] is None or re.match(r"[0-9a-f]{40}", found["commit"])


def test_the_commit_is_that_of_this_package_and_says_what_was_changed_anywhere(tmp_path, monkeypatch):
    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=tmp_path, check=True, capture_output=True)

    package = tmp_path / "lcl"
    package.mkdir()
    monkeypatch.setattr(lcl.train.provenance, "HERE", package)
    (package / "config.py").write_text("")
    assert commit() is None  # no checkout
    git("init")
    (tmp_path / "own.py").write_text("")
    git("add", "own.py")
    git("commit", "-m", "somebody's own work, in which the package is installed")
    assert commit() is None
    git("add", ".")
    git("commit", "-m", "ours")
    clean = commit()
    assert re.fullmatch("[0-9a-f]{40}", clean)
    (tmp_path / "own.py").write_text("changed = True")  # beside the package: a tool, say
    assert commit() == clean + "+changes"
