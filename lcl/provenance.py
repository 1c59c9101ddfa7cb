"""Where and with what something was made: commit, code, versions, machine. Every figure that is kept says so."""

from __future__ import annotations

import ast
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

from lcl.pictures import PACKAGES

HERE = Path(__file__).resolve().parent
LEARNS = ("training", "evaluation")  # what these modules and all that they import say is what a figure depends on

# Code that says something else than it did, and gives the same figures to the bit: its own key, and that which it goes by. A test
# trains the study's small cell by it, and compares every figure with the kept one.
SAME = {  # how processes that read shards are watched, scenes have none; what `matching.exact` copies before it solves
    "4629c76d89ff8c1d": "b5035f09d922b355"
}


def provenance() -> dict:
    """Where and with what something is made, now; JSON-able."""
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
    """The installed version; None where the package is missing, as art may be where one draws oneself."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The checked-out commit, with "+changes" if Python files of the checkout differ from it; None where git does not know us:
    outside a checkout, and installed into somebody else's."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=HERE, capture_output=True, text=True, check=True).stdout.strip()

    try:
        git("ls-files", "--error-unmatch", Path(__file__).name)
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--", ":/*.py") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def code_key(modules: Sequence[str] = LEARNS, folder: Path = HERE) -> str:
    """A short name of the code that a training's figures depend on: 16 hex digits.

    Two checkouts with the same key learn and measure by the same statements, or by such as SAME says. A commit would say too
    much: it changes with every word of a notebook. Comments, docstrings and blank lines do not count; the rest of these modules
    of `folder`, and of all of it that they import, does.
    """
    digest = hashlib.sha256()
    for name in sorted(imported(modules, folder)):
        digest.update(f"{name}\n{_statements((folder / f'{name}.py').read_text(encoding='utf-8'))}\n".encode())
    key = digest.hexdigest()[:16]
    return SAME.get(key, key)


def imported(modules: Sequence[str], folder: Path = HERE) -> set[str]:
    """These modules of our package, and all others of it that they import, wherever in the file, directly or not."""
    found: set[str] = set()
    ahead = list(modules)
    while ahead:
        if (name := ahead.pop()) not in found:
            found.add(name)
            for node in ast.walk(ast.parse((folder / f"{name}.py").read_text(encoding="utf-8"))):
                if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "lcl":
                    named = [node.module.removeprefix("lcl.")] if "." in node.module else [each.name for each in node.names]
                    ahead += [module for module in named if (folder / f"{module}.py").exists()]
    return found


def _statements(source: str) -> str:
    """The lines of a file without comments, docstrings and what is blank: the same text under any version of Python."""
    lines = source.splitlines()
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
    for node in ast.walk(ast.parse(source)):  # a string that stands alone tells people something, and does nothing
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for row in range(node.lineno, node.end_lineno + 1):
                lines[row - 1] = ""
    return "\n".join(line.rstrip() for line in lines if line.strip())
