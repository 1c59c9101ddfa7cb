"""Make the pages and figures of results: a page in docs/ for each template in tools/pages/, README's table, docs/*.png.

python tools/pages.py               from results/ and the templates alone, the same each time
python tools/pages.py answers.md    only these pages and their figures

Figures of the study and of the bench are worked out here and in `tables`. Templates hold the words, and single numbers of works
that were done once and are said to be (100,000 scenes written and verified).
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
from answers import Answers
from benchmarks import baselines
from benchmarks.run import Bench, load_bench
from benchmarks.scaling import Scaling
from claims import CLAIMS, Claim
from lcl import storage
from lcl.config import LclError, choose
from lcl.course import planned, plots, study
from lcl.course.study import (
    COLUMNS,
    comparison,
    gain,
    gain_of,
    gains,
    level,
    read_study,
    saved_runs,
    seeds_in_words,
    short,
    standing,
)
from lcl.data import scenes
from leaderboard import Board
from tables import ALL, LONGER, MAIN, SIZES, SPLITS, stem_of, stems_of, there
from verdicts import I2T, PAPER, T2I, ZERO, times_longer

ROOT = Path(__file__).resolve().parent.parent
DOCS, TEMPLATES = ROOT / "docs", ROOT / "tools" / "pages"
ENVIRONMENT = jinja2.Environment(
    loader=jinja2.FileSystemLoader(TEMPLATES), trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    undefined=jinja2.StrictUndefined, autoescape=False,
)  # fmt: skip
BEGIN, END = "<!-- made by tools/pages.py -->", "<!-- end -->"


# --- what a page says of the study


class About:
    """Who made the study, with what, and what of it does not count."""

    def __init__(self):
        kept = read_study()
        found = {stem: standing(stem) for stem in kept.seeds}
        self.left_out = [wrong for _, wrong in found.values() if wrong]
        self.runs = [run for runs, _ in found.values() for run in runs]
        made = [run["provenance"] for run in self.runs]
        commits = sorted({f"`{commit_of(each)}`" for each in made})
        by = f"commit{'s' * (len(commits) > 1)} {', '.join(commits)}"
        hours = sum(minutes_of(run) for run in self.runs) / 60
        machines = sorted({each["machine"]["processor"] for each in made})
        self.sentence = (
            f"The study: {len(self.runs)} runs, {by}, torch {kept.torch}, {' and '.join(machines)}."
        )
        self.paragraph = (
            f"The study: {len(self.runs)} runs, {hours:.1f} hours of steps on one core, two runs side by side "
            f"({' and '.join(machines)}); code `{kept.code}`, {by}, data `{kept.data}`, torch {kept.torch}."
        )


def commit_of(made: dict) -> str:
    """A commit in short, and whether files differed from it."""
    name, _, changes = (made["commit"] or "unknown").partition("+")
    return name[:8] + (" with changes" if changes else "")


def minutes_of(run: dict) -> float:
    """Minutes of a run's steps: the median step, times their number. A run may have been stopped, or made to wait."""
    return run["step_ms"] * run["steps"] / 60_000 if "step_ms" in run else run["seconds"]["training"] / 60


def note(stem: str) -> str:
    """What one should know of a stem's runs, in a line."""
    runs = saved_runs(stem)
    training = runs[0]["profile"]["training"]
    steps = f"{runs[0]['steps']:,} steps of {training['batch_size']}"
    return f"{seeds_of(stem).capitalize()}; {training['pairs']:,} pairs, {steps}."


def seeds_of(*names: str) -> str:
    """ "seeds 0 to 4": those that all of some recipes have."""
    runs = study.shared({stem: saved_runs(stem) for stem in stems_of(names)})
    return seeds_in_words({run["seed"] for run in next(iter(runs.values()))})


def chance(stem: str, figure: str, split: str = "new_scenes") -> str:
    """What chance gives of a figure, asked of the models of a stem."""
    return f"{100 * saved_runs(stem)[0]['metrics'][split][figure]['chance']:.1f} %"


def measured(claim: Claim, bench: Bench) -> str:
    """What the ledger says was measured; where the runs are not whole, that."""
    return _or_left_out(lambda: claim.measured(bench))


def judged(claim: Claim, bench: Bench) -> str:
    """The ledger's verdict, likewise."""
    return _or_left_out(lambda: claim.judged(bench))


def _guarded(tell: Callable[..., object]) -> Callable[..., object]:
    """The same, but where runs are not whole it says so in the place of the table or the figure."""
    return lambda *arguments, **options: _or_left_out(lambda: tell(*arguments, **options))


def _or_left_out(tell: Callable[[], object]) -> object:
    try:
        return tell()
    except LclError as error:
        return f"*left out: {error}*"


# --- figures


def _gains_chart() -> plots.Chart:
    names = [name for name in ALL if there(stem_of(name))]
    panels = {
        COLUMNS[figure]: {name: gain(stem_of(name), "clip-laptop", figure) for name in names}
        for figure in (I2T, T2I, ZERO, "alignment")
    }
    return plots.gains(panels, "clip", {COLUMNS[figure]: {"clip-ping": points} for figure, points in PAPER.items()})


def _prices_chart(bench: Bench) -> plots.Chart:
    names = [*ALL, *([LONGER] if there(LONGER) else [])]
    found = {short(stem_of(name)): (tables.step_time(name, bench).middle, tables.recall(name)) for name in names}
    return plots.gain_by_cost(found, "time of all steps, relative to clip's", "points of recall@1 gained")


def _sizes_chart() -> plots.Chart:
    lines = tables.by_size(I2T)
    gap = {pairs: gain_of(lines["clip-ping"][pairs], lines["clip"][pairs]) for pairs in SIZES}
    return charts.by_size(lines, gap, "image→text R@1 (%)")


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


def _limits(values: Sequence[float]) -> str:
    return f"{min(values):,.0f} and {max(values):,.0f}"


def vocabulary(bench: Bench) -> dict[str, object]:
    """What templates may name: values, and functions that say it in words where runs are not whole."""
    made = bench.provenance
    long = storage.read_json(study.FOLDER / "memory.json")
    trainer, readers = zip(*(row[1:] for row in long["rows"] if row[0] >= 500), strict=True)
    waits = bench.facts[baselines.WAITS]
    plan, refused = planned.with_entries(storage.read_json(study.FOLDER / "plan.json"))
    runs = planned.standing(plan)
    found: dict[str, object] = {
        "about": About(), "bench": bench, "claims": CLAIMS, "measured": lambda claim: measured(claim, bench),
        "judged": lambda claim: judged(claim, bench), "there": there, "seeds": seeds_of, "chance": chance,
        "peers": lambda: ", ".join(
            f"{package} {made['packages'][package] or 'not installed'}"
            for package in baselines.PACKAGES
            if package in made["packages"]  # an earlier bench did not look for the others
        ),
        "note": note, "depths": tables.depths, "costs": lambda: tables.costs(bench),
        "sizes": tables.sizes, "change": tables.change, "changes": tables.changes, "times_longer": times_longer,
        "rates": tables.rates, "untouched": tables.untouched, "bought": tables.bought, "every_gain": tables.every_gain,
        "by_seed": tables.by_seed, "splits": list(SPLITS), "meanings": scenes.SPLITS,
        "races": lambda: tables.races(bench), "growths": lambda: tables.growths(bench), "race": bench.races.__getitem__,
        "shares": lambda: tables.shares(bench) if baselines.LIMIT in bench.facts else "",
        "stems": [stem for stem in read_study().seeds if there(stem)],
        "summary": lambda stem: tables.as_markdown(tables.summary(saved_runs(stem))),
        "comparison": lambda names, figures, split="new_scenes": tables.as_markdown(comparison(stems_of(names), figures, split)),
        "gains": lambda names, figures, split="new_scenes", over="clip": tables.as_markdown(
            gains(stems_of(names), stem_of(over), figures, split)
        ),
        "gain": lambda name, figure, over="clip", split="new_scenes": gain(stem_of(name), stem_of(over), figure, split),
        "level": lambda name, figure, split="new_scenes": level(saved_runs(stem_of(name)), split, figure),
        "beside_paper": tables.beside_paper, "per_minute": lambda name: tables.per_minute(name, bench),
        "all_recipes": ALL, "main_recipes": MAIN, "vit_stems": [f"{name}-laptop-vit" for name in MAIN],
        "bench_about": f"{made['machine']['processor']}, {made['machine']['threads']} threads, torch "
        f"{made['packages']['torch']}, commit `{commit_of(made)}`",
        "waits": lambda: f"{median(waits):.1%} ({min(waits):.1%} to {max(waits):.1%})",
        "memory": {"trainer": _limits(trainer), "readers": _limits(readers), "epochs": long["epochs"], "count": long["workers"],
            "commit": commit_of(long["provenance"])},
        "same_places": f"{bench.facts[baselines.SAME][0]:.4%}", "search_memory": f"{bench.facts[baselines.HELD][0]:,.0f}",
        "I2T": I2T, "T2I": T2I, "ZERO": ZERO, "paper": PAPER,
        "answers": Answers(plan, runs), "board": Board(plan, runs, refused),
    }  # fmt: skip
    return {name: _guarded(value) if callable(value) else value for name, value in found.items()}


def pages(only: Sequence[str] = ()) -> dict[Path, bytes]:
    """Every file that is made here, by its path: the bytes that it should have. `only` names pages of docs/, default all."""
    bench = load_bench(study.FOLDER / "bench.json")
    out: dict[Path, bytes] = {}
    drawings: dict[str, Callable[[], plots.Chart]] = {
        "gains": _gains_chart,
        "prices": lambda: _prices_chart(bench),
        "growth": lambda: _growth_chart(bench),
        "sizes": _sizes_chart,
        "answers": lambda: found["answers"].chart(),
    }

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
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = str(found["comparison"](MAIN, [I2T, T2I, ZERO, "alignment"]))
    missing = [wrong for stem in stems_of(MAIN) if (wrong := standing(stem)[1])]
    table += f"\n\n**Left out**: {'; '.join(missing)}." if missing else ""
    before, rest = readme.split(BEGIN)
    out[ROOT / "README.md"] = f"{before}{BEGIN}\n{table}\n{END}{rest.split(END, 1)[1]}".encode()
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
