"""Make the pages and figures of results: a page in docs/ for each template in tools/pages/, tables of README and model card.

python tools/pages.py               from results/ and the templates alone, the same each time
python tools/pages.py results.md    only these pages and their figures

Numbers of the study and of the bench are worked out here and in the other modules of this folder. Templates hold the words,
and single numbers of works that were done once and are said to be (100,000 scenes written and verified).
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import jinja2
import numpy as np
from PIL import Image

import charts
import tables
from again import trained_again
from answers import Answers
from arms import commit_of
from benchmarks import baselines
from benchmarks.run import Bench, load_bench
from benchmarks.scaling import Scaling
from claims import CLAIMS, DEFINITIONS, OURS, SOURCES
from lcl import storage
from lcl.config import LclError, choose
from lcl.course import plots, study
from lcl.course.metrics import WAYS
from lcl.course.planned import Standing
from lcl.course.study import comparison, gain, query_gain
from lcl.data import scenes
from leaderboard import Board
from sizes import bfloat16_sizes, bfloat16_steps, curves, gains_by_size, levels_by_size, levels_by_steps
from verdicts import I2T, T2I, ZERO, Evidence

ROOT = Path(__file__).resolve().parent.parent
DOCS, TEMPLATES = ROOT / "docs", ROOT / "tools" / "pages"
MAIN = ("clip", "lightclip", "clip+distil", "clip-ping", "clip-ping+distil")
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined, autoescape=False,
)  # fmt: skip
TABLES = (  # within a page that is written by hand: the page, arms, metrics
    (ROOT / "README.md", MAIN, (I2T, T2I, "ndcg@10", ZERO, "alignment")),
    (DOCS / "model-card.md", ("clip", "lightclip", "clip-ping", "lightclip-ping"), (I2T, T2I, ZERO, "alignment")),
)
BEGIN, END = "<!-- made by tools/pages.py -->", "<!-- end -->"


# --- what a page says of the study


def about(found: Standing) -> str:
    """Who made the study, with what: a sentence."""
    runs = [run for arm in found.runs.values() for run in arm.values()]
    made = [run["provenance"] for run in runs]
    commits = sorted({f"`{commit_of(each)}`" for each in made})
    hours = sum(run["step_ms"] * run["steps"] * run["provenance"]["machine"].get("threads", 1) / 3.6e6 for run in runs)
    return (
        f"{len(runs)} runs, {hours:.1f} core hours of steps; code `{found.made.get('code', 'none')}`, "
        f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}, torch {found.made.get('torch', 'none')}."
    )


def other_scenes(plan: dict) -> str:
    """Primary comparisons of recall@1 with both intervals: that of the seeds alone, and that of other test scenes as well."""
    rows = [["arm", "compared with", "direction", "other seeds", "other seeds and other scenes"]]
    for each in plan["primary"]:
        for way, title in WAYS if each["metric"] == "recall@1" else ():
            pair = each["arm"], each["over"]
            named = [f"`{name}`" for name in pair]
            rows.append([*named, title, str(gain(*pair, f"{way}_recall@1")), str(query_gain(*pair, way))])
    return tables.as_markdown(rows)


def _guarded(tell: Callable[..., object]) -> Callable[..., object]:
    """The same, but where runs are missing it says so in the place of the table or the figure."""
    return lambda *arguments, **options: _or_left_out(lambda: tell(*arguments, **options))


def _or_left_out(tell: Callable[[], object]) -> object:
    try:
        return tell()
    except LclError as error:
        return f"*left out: {error}*"


# --- figures


def _sizes_chart() -> plots.Chart:
    found = study.read_study()
    levels, gains = levels_by_size(found, "recall@1"), gains_by_size(found, "recall@1")
    return charts.by_size(levels, gains, "clip", "recall@1 (%)", bfloat16_sizes(found))


def _steps_chart() -> plots.Chart:
    found = study.read_study()
    panels = {split.replace("_", " "): levels_by_steps(found, "recall@1", split) for split in ("new_scenes", "unseen_drawings")}
    return charts.by_steps(panels, "recall@1 (%)", bfloat16_steps(found))


def _growth_chart(bench: Bench) -> plots.Chart:
    def line(each: Scaling) -> tuple:
        return each.x, [median(laps) for laps in each.laps], each.slope, each.theory

    panels = {
        "pairs of a batch": ("info_nce", "matched_contrast"), "patches": ("exact-patches", "sinkhorn-patches", "vit"),
        "words": ("exact-words", "sinkhorn-words", "text"), "layers of the text tower": ("layers",), "rows N": ("neighbours",),
    }  # fmt: skip
    named = {"vit": "ViT", "text": "text tower", "layers": "text tower", "neighbours": "exact neighbours", "info_nce": "InfoNCE"}
    told = {key: named.get(key, key.split("-")[0].replace("_", " ")) for keys in panels.values() for key in keys}
    return charts.scaling({
        variable: {told[key]: line(bench.growths[key]) for key in keys} for variable, keys in panels.items()
    })  # fmt: skip


# --- all of it


def _later(bench: Bench) -> str:
    """Which parts of a bench were measured later, and at which commit: "losses, matching at commit `01234567`"."""
    commits: dict[str, list[str]] = {}
    for part, made in bench.later.items():
        commits.setdefault(commit_of(made), []).append(part)
    return "; ".join(f"{', '.join(parts)} at commit `{commit}`" for commit, parts in commits.items())


def _limits(values: Sequence[float]) -> str:
    return f"{min(values):,.0f} and {max(values):,.0f}"


def vocabulary(bench: Bench) -> dict[str, object]:
    """What templates may name: values, and functions that say it in words where runs are missing."""
    made = bench.provenance
    long = storage.read_json(study.FOLDER / "memory.json")
    trainer, readers = zip(*(row[1:] for row in long["rows"] if row[0] >= 500), strict=True)
    waits = bench.facts[baselines.WAITS]
    own = study.read_study()
    answers = Answers(own, bench)
    evidence = Evidence(answers, bench)
    again, not_again = trained_again(own, study.FOLDER)
    found: dict[str, object] = {
        "answers": answers, "board": Board(own), "claims": CLAIMS, "definitions": DEFINITIONS, "ours": OURS,
        "sources": SOURCES,
        "measured": lambda claim: claim.measured(evidence), "judged": lambda claim: claim.verdict(evidence),
        "about": about(own), "main": MAIN, "again": again, "left_out": [*answers.left_out, *not_again],
        "splits": [split for split in scenes.SPLITS if split != "train"], "meanings": scenes.SPLITS,
        "gain": gain, "other_scenes": lambda: other_scenes(own.plan),
        "transposed": lambda arms, metrics, split="new_scenes": tables.as_markdown(
            list(zip(*comparison(arms, metrics, split, own_seeds=True), strict=True))
        ),
        "bench": bench, "race": bench.races.__getitem__,
        "races": lambda: tables.races(bench), "growths": lambda: tables.growths(bench), "shares": lambda: tables.shares(bench),
        "peers": lambda: ", ".join(
            f"{package} {made['packages'][package] or 'not installed'}"
            for package in baselines.PACKAGES
            if package in made["packages"]  # an earlier bench did not look for the others
        ),
        "bench_about": f"{made['machine']['processor']}, {made['machine']['threads']} threads, torch "
        f"{made['packages']['torch']}, commit `{commit_of(made)}`",
        "later": _later(bench),
        "waits": lambda: f"{median(waits):.1%} ({min(waits):.1%} to {max(waits):.1%})",
        "memory": {"trainer": _limits(trainer), "readers": _limits(readers), "epochs": long["epochs"], "count": long["workers"],
            "commit": commit_of(long["provenance"])},
        "same_places": f"{bench.facts[baselines.SAME][0]:.4%}", "search_memory": f"{bench.facts[baselines.HELD][0]:,.0f}",
    }  # fmt: skip
    return {name: _guarded(value) if callable(value) else value for name, value in found.items()}


def pages(only: Sequence[str] = ()) -> dict[Path, bytes]:
    """Every file that is made here, by its path: the bytes that it should have. `only` names pages of docs/, default all."""
    bench = load_bench(study.FOLDER / "bench.json")
    out: dict[Path, bytes] = {}
    drawings: dict[str, Callable[[], plots.Chart]] = {
        "gains": lambda: found["answers"].chart(), "costs": lambda: found["answers"].cost_chart(),
        "growth": lambda: _growth_chart(bench), "sizes": _sizes_chart, "steps": _steps_chart,
        "curves": lambda: charts.by_pairs_seen(curves(study.read_study()), "recall@1, validation (%)"),
    }  # fmt: skip

    def figure(name: str, words: str) -> str:
        """Draw a figure beside the pages; what a page shows of it."""
        out[DOCS / f"{name}.png"] = plots.to_png(drawings[name]())
        return f"![{words}]({name}.png)"

    found = vocabulary(bench) | {"figure": _guarded(figure)}
    names = sorted(template.name.removesuffix(".jinja") for template in TEMPLATES.glob("*.md.jinja"))
    for name in [choose("page", each, names) for each in only] or names:
        text = ENVIRONMENT.get_template(f"{name}.jinja").render(found)
        out[DOCS / name] = re.sub(r"\n{3,}", "\n\n", text.lstrip("\n")).encode()
    if only:
        return out
    answers = found["answers"]
    so_far = f"\n\n**{answers.done} of {answers.planned} runs** of the study are there, so this is not final."
    for path, arms, metrics in TABLES:
        table = tables.as_markdown(comparison(arms, metrics, own_seeds=True)) + ("" if answers.whole else so_far)
        before, rest = path.read_text(encoding="utf-8").split(BEGIN)
        out[path] = f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}".encode()
    return out


def same(path: Path, data: bytes) -> bool:
    """Does a file hold these bytes? Figures that another machine drew may differ in how an edge is smoothed.

    On Linux a processor of another kind turned the last bit of five pixels; other systems draw letters otherwise.
    """
    if path.suffix != ".png":
        return path.read_bytes() == data
    ours, theirs = (np.asarray(Image.open(file).convert("RGB"), dtype=float) for file in (path, io.BytesIO(data)))
    return ours.shape == theirs.shape and np.abs(ours - theirs).mean() < (1e-3 if sys.platform == "linux" else 1)


def main(words: Sequence[str] = ()) -> None:
    for path, data in pages(words).items():
        if not path.exists() or not same(path, data):
            storage.write_bytes(path, data)
            print(f"made {path.relative_to(ROOT)}")
    print("the pages are those of results/")


if __name__ == "__main__":
    main(sys.argv[1:])
