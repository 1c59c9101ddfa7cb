"""Put small faults into modules of lcl, one at a time, and report which of them the tests do not notice.

    python tools/mutate.py losses/matching eval/metrics --faults 10 --out build/faults.jsonl

Faults are drawn by a seed and tried in a copy of the working tree. Results are appended to the file; a second call continues.

We do not use mutmut, because its version 3 changes no code outside functions, such as our tables and constants, and documents no
way to try a random sample. We do not use cosmic-ray, because a session has one test command for all its modules, it changes the
code in place, and its filters draw no random sample.
"""

from __future__ import annotations

import argparse
import ast
import copy
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
# The tests of a module, where they are not the file of its own name in the folder of tests of its own name.
TESTS = {
    "eval/foils": ["tests/eval/test_foils_accuracy.py"],
    "losses/neighbours": ["tests/teachers/test_teacher.py"],
    "train/runs": ["tests/train/test_runs.py", "tests/cli/test_main.py"],
    "train/objectives": ["tests/train/test_recipes.py"],
    "train/loop": ["tests/train/test_loop.py", "tests/train/test_distributed.py"],
    "train/loader": ["tests/train/test_loader.py", "tests/data/test_collection.py"],
    "data/collection": ["tests/data/test_collection.py", "tests/data/test_duplicates.py"],
    "data/scenes": ["tests/data/test_versions.py", "tests/data/test_scenes.py"],
    "data/tars": ["tests/data/test_shards.py", "tests/data/test_hostile_tars.py"],
    "cli/main": ["tests/cli"],
    "cli/train": ["tests/cli/test_main.py"],
    "cli/data": ["tests/cli/test_data.py", "tests/cli/test_main.py", "tests/data/test_cc3m.py"],
    "cli/search": ["tests/cli/test_search_command.py"],
    "storage": ["tests/test_storage.py"],
}
COMPARED = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq}
COMPUTED = {ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Div, ast.Div: ast.Mult}
NAMES = {"min": "max", "max": "min", "amin": "amax", "amax": "amin", "argmin": "argmax", "argmax": "argmin",
         "any": "all", "all": "any", "zeros": "ones", "ones": "zeros"}  # fmt: skip


def changes(node: ast.AST) -> Iterator[ast.AST]:
    """The faults that a person might make at this node: what could stand in its place."""

    def changed(**fields: object) -> ast.AST:
        new = copy.copy(node)
        for name, value in fields.items():
            setattr(new, name, value)
        return new

    match node:
        case ast.Compare(ops=[op, *others]) if type(op) in COMPARED:
            yield changed(ops=[COMPARED[type(op)](), *others])
        case ast.BinOp(op=op) if type(op) in COMPUTED:
            yield changed(op=COMPUTED[type(op)]())
        case ast.BoolOp(op=op):
            yield changed(op=ast.Or() if isinstance(op, ast.And) else ast.And())
        case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
            yield operand
        case ast.Constant(value=bool(value)):
            yield changed(value=not value)
        case ast.Constant(value=int(value)):
            yield changed(value={0: 1, 1: 0}.get(value, value + 1))
        case ast.Constant(value=float(value)):
            yield changed(value=2 * value if value else 1.0)
        case ast.Name(id=name) if name in NAMES:
            yield changed(id=NAMES[name])
        case ast.Attribute(attr=name) if name in NAMES:
            yield changed(attr=NAMES[name])
        case ast.Expr(value=ast.Call()) | ast.AugAssign():
            yield ast.Pass()
        case ast.Call(func=func, args=args, keywords=keywords):
            if isinstance(func, ast.Attribute) and func.attr in ("detach", "clone", "sorted"):
                yield func.value
            if len(args) > 1 and not any(isinstance(arg, ast.Starred) for arg in args[:2]):
                yield changed(args=[args[1], args[0], *args[2:]])
            for number in range(len(keywords)):
                yield changed(keywords=keywords[:number] + keywords[number + 1 :])


def faults(source: str) -> list[tuple[int, str]]:
    """All faults of a module, each as (line, the module's text with the fault). Annotations and messages are left alone."""
    tree, lines, found = ast.parse(source), source.encode().splitlines(keepends=True), []
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.JoinedStr):
            return
        for new in changes(node):
            begin = starts[node.lineno - 1] + node.col_offset
            end = starts[node.end_lineno - 1] + node.end_col_offset
            raw, text = source.encode(), ast.unparse(ast.fix_missing_locations(new))
            text = text if isinstance(node, ast.stmt) else f"({text})"
            found.append((node.lineno, (raw[:begin] + text.encode() + raw[end:]).decode()))
        for name, value in ast.iter_fields(node):
            if name not in ("annotation", "returns", "decorator_list"):
                for child in value if isinstance(value, list) else [value]:
                    if isinstance(child, ast.AST):
                        visit(child)

    visit(tree)
    return [(line, text) for line, text in found if ast.dump(ast.parse(text)) != ast.dump(tree)]


def tests_of(module: str) -> list[str]:
    folder, _, name = module.rpartition("/")
    return TESTS.get(module) or [f"tests/{folder}/test_{name}.py"]


def run(folder: Path, tests: list[str], limit: float) -> str:
    """Run tests in a process of their own: "passed", "failed" or "timeout"."""
    command = [sys.executable, "-B", "-m", "pytest", "-p", "no:nbmake", "-p", "no:cacheprovider", "-x", "-q",
               "-m", "not slow", *tests]  # fmt: skip
    environment = os.environ | {"PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    with subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    ) as process:
        try:
            return "failed" if process.wait(limit) else "passed"
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            return "timeout"


def copy_tree(target: Path, root: Path) -> None:
    """Copy what git knows, and new files that it does not ignore, as they stand in the working tree."""
    names = subprocess.run(["git", "ls-files", "-coz", "--exclude-standard"], cwd=root, capture_output=True, check=True).stdout
    for name in filter(None, names.decode().split("\0")):
        if (root / name).is_file():
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / name, target / name)
    if (root / "data" / "cache").is_dir():  # a key holds the code that made its file: a faulty module draws anew
        shutil.copytree(root / "data" / "cache", target / "data" / "cache")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("modules", nargs="+", help="below lcl, without .py: losses/matching")
    parser.add_argument("--faults", type=int, default=10, help="a module")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=ROOT / "build" / "faults.jsonl")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    known = [json.loads(line) for line in options.out.read_text().splitlines()] if options.out.exists() else []
    with tempfile.TemporaryDirectory() as name:
        copy_tree(folder := Path(name), ROOT)
        for module in options.modules:
            path, tests = folder / "lcl" / f"{module}.py", tests_of(module)
            source = path.read_text(encoding="utf-8")
            possible = faults(source)
            chosen = random.Random(f"{options.seed}/{module}").sample(possible, min(options.faults, len(possible)))
            begin = time.monotonic()
            if run(folder, tests, 600) != "passed":
                sys.exit(f"{module}: without a fault its tests fail or take more than 600 s; fix them first: {' '.join(tests)}")
            limit = 30 + 3 * (time.monotonic() - begin)
            for line, text in chosen:
                changed = text.splitlines()[line - 1].strip()
                fault = {"module": module, "line": line, "changed": changed}
                if any(fault.items() <= each.items() for each in known):
                    continue
                path.write_text(text, encoding="utf-8")
                result = fault | {"result": run(folder, tests, limit)}
                path.write_text(source, encoding="utf-8")
                known.append(result)
                with options.out.open("a", encoding="utf-8") as file:
                    file.write(json.dumps(result) + "\n")
                if result["result"] == "passed":
                    print(f"survives: lcl/{module}.py:{line}: {changed}", flush=True)
            ours = [each["result"] for each in known if each["module"] == module]
            print(json.dumps({"module": module, "faults": len(ours), "noticed": len(ours) - ours.count("passed")}), flush=True)


if __name__ == "__main__":
    main()
