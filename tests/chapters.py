"""Chapters without their longest cells, for tests that run them a second and a third time."""

from pathlib import Path

import nbformat


def quick(path: Path) -> nbformat.NotebookNode:
    """A chapter without the cells that are tagged "long": no exercise and no exhibit needs them, and nbmake runs them."""
    notebook = nbformat.read(path, as_version=4)
    notebook.cells = [cell for cell in notebook.cells if "long" not in cell.metadata.get("tags", [])]
    return notebook
