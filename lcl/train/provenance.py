"""Where and with what something was made: commit, code, versions, machine. Every saved result carries this."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.metadata
import io
import os
import platform
import subprocess
import time
import tokenize
from collections.abc import Sequence
from pathlib import Path

import torch

from lcl.config import CHECKOUT
from lcl.data.drawn.pictures import PACKAGES

HERE = CHECKOUT / "lcl"
LEARNS = ("train.loop", "eval.metrics")  # a metric depends on these modules and on all that they import

# Code that changed and gives bitwise identical results: its own key, and the older key that it goes by. A test trains the
# study's small cell by it, and compares every metric with the kept one.
SAME: dict[str, str] = {"d7c3fd88b3bd707f": "d8464c85373508c3"}


def provenance() -> dict:
    """Commit, code, versions and machine, as they are now; JSON-able."""
    packages = ("torch", "torchvision", "timm", "transformers", "tokenizers", "numpy", *PACKAGES)
    return {
        "made": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "commit": commit(),
        "code": code_key(),
        "python": platform.python_version(),
        "packages": {package: version(package) for package in packages},
        "machine": {
            "system": platform.system(),
            "processor": processor(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
            "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        },
    }


def version(package: str) -> str | None:
    """The installed version; None if not installed (some packages are optional)."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checked-out commit, with "+changes" if Python files differ from it; None outside a checkout of this project."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", "config.py")
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ":/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The processor's name, if the system gives it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def code_key(modules: Sequence[str] = LEARNS, folder: Path = HERE) -> str:
    """Name the code that a training run's metrics depend on: 16 hexadecimal digits.

    The key is that of the *set* of top-level statements of these modules and of all modules of the package that they import.
    Comments, docstrings, blank lines and imports within the package do not count, nor does the file that a statement stands
    in: moving code to another module changes nothing. Code that changed and gives bitwise identical results goes by an older
    key, see `SAME`. A commit would say too much: it changes with every word of a notebook.

    Args:
        modules: dotted names below `folder`, such as "training".
        folder: the package.
    """
    found = {text for name in imported(modules, folder) for text in statements(_path(name, folder).read_text(encoding="utf-8"))}
    key = hashlib.sha256("\n\n".join(sorted(found)).encode()).hexdigest()[:16]
    return SAME.get(key, key)


def imported(modules: Sequence[str], folder: Path = HERE) -> set[str]:
    """These modules of our package, and all others of it that they import, wherever in the file, directly or not."""
    found: set[str] = set()
    ahead = list(modules)
    while ahead:
        if (name := ahead.pop()) not in found:
            found.add(name)
            named = _read(_path(name, folder).read_text(encoding="utf-8"))[1]
            ahead += [module for module in named if _path(module, folder).exists()]
    return found


def _path(module: str, folder: Path) -> Path:
    return folder.joinpath(*module.split(".")).with_suffix(".py")


def statements(source: str) -> list[str]:
    """The top-level statements of a file without comments, docstrings, blank lines and imports from our package."""
    return _read(source)[0]


@functools.cache  # a key reads some forty files, which takes a second
def _read(source: str) -> tuple[list[str], list[str]]:
    """The statements of a file, and the names that it imports from our package, as "models.clip" or "config.LclError"."""
    lines, tree = source.splitlines(), ast.parse(source)
    nodes = list(ast.walk(tree))
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    texts = [each for each in nodes if isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant)]
    texts = [each for each in texts if isinstance(each.value.value, str)]  # a string that stands alone does nothing
    own = {each for each in nodes if isinstance(each, ast.ImportFrom) and (each.module or "").split(".")[0] == "lcl"}
    for_types = [each for each in nodes if isinstance(each, ast.If) and own.issuperset(each.body) and not each.orelse]
    for node in [*texts, *own, *for_types]:
        lines[node.lineno - 1 : node.end_lineno] = [""] * (node.end_lineno - node.lineno + 1)
    found = []
    for node in tree.body:
        first = min([node.lineno, *(each.lineno for each in getattr(node, "decorator_list", []))])
        found.append("\n".join(line.rstrip() for line in lines[first - 1 : node.end_lineno] if line.strip()))
    named = [name for node in own for name in (node.module, *(f"{node.module}.{each.name}" for each in node.names))]
    return [text for text in found if text], [name.removeprefix("lcl.") for name in named if name != "lcl"]
