"""The course as Colab and Binder open it: a first cell that sets up, and saved checkpoints in place of training.

PYTHONPATH=tools python -m website.launch OWNER/NAME FOLDER

FOLDER becomes a copy of the last commit, to be pushed as the branch `launch`. The site's buttons lead there.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

from website.place import ROOT, chapters

BRANCH = "launch"
EXTRAS = ("scenes", "teachers", "shards", "onnx")  # that chapters need beside [course]
COLAB_HAS = ("jupyterlab", "ipykernel")  # its own, which must stay as they are
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9_][\w.-]*")
SETUP = """\
# Sets up the course on Colab, once in a session: about three minutes. Elsewhere this cell does nothing.
import sys
if "google.colab" in sys.modules:
    ![ -d {place} ] || git clone --quiet --depth 1 --branch {branch} {address} {place}
    %pip install --quiet {packages}
    %cd -q {place}/notebooks
    sys.path.insert(0, "{place}")
    from google.colab import output
    output.enable_custom_widget_manager()  # for the interactive figures
"""
PLACE = "/content/lightweight-clip-lab"
BINDER = """\
#!/bin/bash
set -e
pip install --quiet uv
uv pip install --quiet --python "$(command -v python)" --torch-backend cpu --editable ".[{extras},course]"
"""
TRAINS = re.compile(r"^TRAIN = True\b.*$", flags=re.M)


def buttons(repository: str, chapter: str) -> list[tuple[str, str]]:
    """Where a chapter opens: names and addresses. repository: OWNER/NAME on GitHub. Raises ValueError if it is no such name."""
    if not REPOSITORY.fullmatch(repository):
        raise ValueError(f"{repository!r} is no repository; it should be OWNER/NAME.")
    path = f"notebooks/{chapter}.ipynb"
    return [
        ("Colab", f"https://colab.research.google.com/github/{repository}/blob/{BRANCH}/{path}"),
        ("Binder", f"https://mybinder.org/v2/gh/{repository}/{BRANCH}?labpath={path}"),
    ]


def setup_cell(address: str, place: str = PLACE) -> str:
    """The source of the first cell. address: of the repository, for git; place: where its copy goes."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    course = [package for package in extras["course"] if not package.startswith(COLAB_HAS)]
    packages = " ".join(f'"{name}"' for name in (f"{place}[{','.join(EXTRAS)}]", *course))
    return SETUP.format(place=place, branch=BRANCH, address=address, packages=packages).rstrip("\n")


def to_launch(notebook: dict, setup: str) -> dict:
    """A notebook with the cell that sets up at its head, which loads saved checkpoints unless its reader wants to train."""
    cells = [dict(cell) for cell in notebook["cells"]]
    for cell in cells:
        if cell["cell_type"] == "code":
            source = TRAINS.sub("TRAIN = False  # True: train here, which takes minutes", "".join(cell["source"]))
            cell["source"] = source.splitlines(keepends=True)
    first = {
        "cell_type": "code", "execution_count": None, "id": "set-up", "metadata": {"tags": ["set-up"]}, "outputs": [],
        "source": setup.splitlines(keepends=True),
    }  # fmt: skip
    return notebook | {"cells": [first, *cells]}


def write(repository: str, target: Path, root: Path = ROOT) -> None:
    """Write the branch's files to an empty folder. Raises ValueError for a name that is none, and for a folder that is in use."""
    buttons(repository, "")
    if target.exists() and any(target.iterdir()):
        raise ValueError(f"{target} is not empty; name another folder.")
    target.mkdir(parents=True, exist_ok=True)
    archive = subprocess.run(["git", "archive", "HEAD"], cwd=root, check=True, capture_output=True).stdout
    subprocess.run(["tar", "-x", "-C", str(target)], input=archive, check=True)
    setup = setup_cell(f"https://github.com/{repository}")
    for path in chapters(target):
        notebook = to_launch(json.loads(path.read_text(encoding="utf-8")), setup)
        path.write_text(json.dumps(notebook, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    binder = target / ".binder"
    binder.mkdir()
    (binder / "runtime.txt").write_text("python-3.11\n", encoding="utf-8")
    (binder / "postBuild").write_text(BINDER.format(extras=",".join(EXTRAS)), encoding="utf-8")
    (binder / "postBuild").chmod(0o755)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("repository", help="OWNER/NAME on GitHub")
    parser.add_argument("target", type=Path)
    options = parser.parse_args()
    try:
        write(options.repository, options.target)
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
