"""Run the notebooks and keep clean outputs: no times, no widget state, a still picture where a widget drew one.

python tools/refresh_notebooks.py [--keep | --results] [NAME …]   all of them without a name; a notebook is replaced only if
it ran through.
--results: only the cells that show what lies in results/, by their tag, and need nothing else; seconds, after `make results`.
--keep: what they train is kept too, under data/checkpoints, so that a reader need not train; and how many minutes and how much
memory each took, in results/notebooks.json.
"""

import argparse
import re
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellControlSignal, CellTimeoutError, DeadKernelError

from lcl import storage
from lcl.train.provenance import provenance

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
WIDGET = "application/vnd.jupyter.widget-view+json"
KERNEL = {"name": "python3", "display_name": "Python 3", "language": "python"}


MEASURED = NOTEBOOKS.parent / "results" / "notebooks.json"

KEEP = "from lcl.course.saved import save_training\n"
KEEPS = {  # what runs after a notebook's last cell, and is not part of it
    "03_contrastive": KEEP + 'save_training("03-clip", training, curve, {"metrics": metrics})',
    "04_soft_labels": KEEP
    + """cosines = {step: [[round(x, 4) for x in row] for row in s.tolist()] for step, s in kept.items()}
save_training("04-clip+soft", training, curve, {"cosines": cosines})""",
    "05_bipartite_matching": KEEP + 'for name in trained: save_training(f"05-{name}", trained[name], curves[name])',
    "06_fused_mlm": KEEP + 'save_training("06-clip+mlm", training, curve, {"gates": gates})',
    "07_lightclip": KEEP + 'save_training("07-lightclip", training, curve, {"outcome": outcome, "metrics": metrics})',
    # the map is of the weights as they are kept, so that everyone who takes them finds it
    "09_clip_ping": KEEP
    + """save_training("09-clip-ping", training, curve, {"metrics": metrics})
from lcl import storage
from lcl.config import data_folder
again = training_of("clip-ping", teacher=teacher)
load_saved("09-clip-ping", again)
place = data_folder() / "maps" / f"{map_key(again.model, mapped.captions)}.safetensors"
storage.write_tensors(place, coordinates(torch.cat(embed(again.model, again.tokenizer, mapped)), ways))
for old in set(place.parent.iterdir()) - {place}:
    old.unlink()""",
    "10_what_neighbours_buy": KEEP + 'save_training("10-clip+distil", training, curve)',
    "14_capstone": KEEP + 'save_training("14-lightclip-ping", training, curve, {"metrics": metrics})',
}
MEMORY = """import resource, sys
unit = 1 if sys.platform == "darwin" else 1024
print("PEAK", unit * sum(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))"""


def refresh(path: Path, keep: bool) -> None:
    """Execute one notebook in its own folder and replace it."""
    notebook = nbformat.read(path, as_version=4)
    after = [nbformat.v4.new_code_cell(source) for source in (MEMORY, KEEPS.get(path.stem)) if keep and source]
    number = len(notebook.cells)
    notebook.cells += after
    started = time.perf_counter()
    seconds = []
    client = NotebookClient(
        notebook, timeout=1800, kernel_name="python3", resources={"metadata": {"path": str(path.parent)}},
        record_timing=False, store_widget_state=False,
        on_cell_executed=lambda cell, cell_index, **_: seconds.append(time.perf_counter() - started),
    )  # fmt: skip
    client.execute()
    notebook.cells = notebook.cells[:number]
    clean(notebook)
    temporary = path.with_suffix(".new")
    nbformat.write(notebook, temporary)
    temporary.replace(path)
    if keep:
        minutes = seconds[-1 - len(after)] / 60  # up to the notebook's own last cell
        peak = int(after[0].outputs[0].text.split()[1]) / 2**30  # this process, and the largest that it started
        measured = storage.read_json(MEASURED) if MEASURED.exists() else {}
        measured[path.stem] = {"minutes": round(minutes, 1), "peak_gib": round(peak, 1), "provenance": provenance()}
        storage.write_json(MEASURED, dict(sorted(measured.items())))


BEFORE = """import json, shutil, statistics, tempfile
from pathlib import Path
from lcl.course import plots
work = Path(tempfile.mkdtemp())"""  # what a notebook's cells with the tag "results" may take for granted
SHOW = "%matplotlib inline\nfrom IPython.display import display\n"


def shows_results(cell: nbformat.NotebookNode) -> bool:
    """Does a cell show what lies in results/, and need nothing else but such cells above it? Its tag says so."""
    return "results" in cell.metadata.get("tags", [])


def refresh_results(path: Path) -> None:
    """Run the cells of a notebook that show saved runs, and put their outputs in the place of the old ones."""
    notebook = nbformat.read(path, as_version=4)
    cells = list(filter(shows_results, notebook.cells))
    if not cells:
        return
    sources = [SHOW + BEFORE, *(cell.source for cell in cells)]
    few = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, sources)))
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(few, timeout=300, kernel_name="python3", resources=where, record_timing=False).execute()
    for cell, again in zip(cells, few.cells[1:], strict=True):
        for output in again.outputs:
            if "execution_count" in output:
                output["execution_count"] = cell.execution_count
        cell.outputs = again.outputs
    clean(notebook)
    temporary = path.with_suffix(".new")
    nbformat.write(notebook, temporary)
    temporary.replace(path)


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what changes from run to run or shows as an error without a kernel; number the cells' ids."""
    notebook.metadata = nbformat.from_dict({"kernelspec": KERNEL, "language_info": {"name": "python"}})
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number:03d}"
        if "outputs" in cell:
            cell.outputs = joined(cell.outputs)
        for output in cell.get("outputs", []):
            data = output.get("data", {})
            if "image/png" in data:
                data.pop(WIDGET, None)
                data.pop("text/html", None)  # web viewers would strip its style, and show bare words instead of the picture


def joined(outputs: list[nbformat.NotebookNode]) -> list[nbformat.NotebookNode]:
    """The same outputs, with text that was printed bit by bit in one piece, as a terminal shows it in the end."""
    found: list[nbformat.NotebookNode] = []
    for output in outputs:
        if output.output_type == "stream" and found and found[-1].get("name") == output.name:
            found[-1].text += output.text
        else:
            found.append(output)
    for output in found:
        if output.output_type == "stream":
            output.text = "\n".join(map(shown, output.text.split("\n")))
    return found


def shown(line: str) -> str:
    """Of a line that was written over and over what stays; of a progress bar no times, which change from run to run."""
    if "\r" not in line:
        return line
    return re.sub(r" \[[\d:]+<[^]]*\]", "", line.rstrip("\r").rsplit("\r", 1)[-1]).rstrip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--keep", action="store_true")
    which.add_argument("--results", action="store_true")
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    names = options.names or [path.stem for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    failed = []
    for name in names:
        started = time.perf_counter()
        try:
            path = NOTEBOOKS / f"{name}.ipynb"
            refresh_results(path) if options.results else refresh(path, options.keep)
            print(f"{name}: {(time.perf_counter() - started) / 60:.1f} minutes", flush=True)
        except (CellControlSignal, CellTimeoutError, DeadKernelError) as error:
            failed.append(name)
            print(f"{name}: failed, the old file is kept\n{error}", file=sys.stderr, flush=True)
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
