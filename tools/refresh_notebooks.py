"""Run the notebooks and keep clean outputs: no times, no widget state, a still picture where a widget drew one.

python tools/refresh_notebooks.py [NAME …]   all of them without a name; a notebook is replaced only if it ran through.
"""

import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


def refresh(path: Path) -> None:
    """Execute one notebook in its own folder and replace it."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        record_timing=False, store_widget_state=False,
    )  # fmt: skip
    client.execute()
    clean(notebook)
    temporary = path.with_suffix(".new")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what changes from run to run or shows as an error without a kernel; number the cells' ids."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data.pop(WIDGET, None)
                data.pop("text/html", None)  # web viewers would strip its style, and show bare words instead of the picture


def main() -> None:
    names = sys.argv[1:] or [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    failed = []
    for name in names:
        started = time.perf_counter()
        try:
            refresh(NOTEBOOKS / f"{name}.ipynb")
            print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
        except CellExecutionError as error:
            failed.append(name)
            print(f"{name}: failed, the old file is kept\n{error}", file=sys.stderr, flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
