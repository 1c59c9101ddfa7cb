"""Pages of results are made from results/ alone, to the byte; every name in the ledger of claims is there."""

import ast
import importlib
import io
import json
import re
from contextlib import redirect_stdout
from pathlib import Path

import nbformat
import pytest
from jinja2 import meta
from PIL import Image

import pages
import tables
import verdicts
from benchmarks.run import Bench
from benchmarks.timing import Benchmark
from claims import CLAIMS
from lcl.config import get_profile
from lcl.course import study
from lcl.course.study import Gain, gain, level, percent, saved_runs
from lcl.train.recipes import RECIPES
from refresh_notebooks import BEFORE, shows_results
from verdicts import I2T, NDCG, PAPER, T2I, ZERO, verdict

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def made():
    return pages.pages()


def test_every_page_and_figure_is_that_of_the_results_to_the_byte(made):
    names = {"README.md", "results.md", "figures.md", "claims.md", "gains.png", "prices.png", "growth.png"}
    names |= {"answers.md", "leaderboard.md"}
    assert names <= {path.name for path in made}
    other = [path.name for path, data in made.items() if not path.exists() or not pages.same(path, data)]
    assert other == [], "run `python tools/pages.py`"


def test_a_changed_page_or_figure_is_noticed(made, tmp_path):
    for name, other in (("results.md", "claims.md"), ("growth.png", "gains.png")):
        data, path = made[ROOT / "docs" / name], tmp_path / name
        path.write_bytes(data)
        assert pages.same(path, data) and not pages.same(path, made[ROOT / "docs" / other])
    drawn = Image.open(io.BytesIO(made[ROOT / "docs" / "growth.png"])).convert("RGB")
    drawn.paste((90, 90, 90), (100, 100, 140, 110))  # a word
    drawn.save(tmp_path / "growth.png")
    assert not pages.same(tmp_path / "growth.png", made[ROOT / "docs" / "growth.png"])


@pytest.mark.slow
def test_making_them_twice_gives_the_same_bytes(made):
    assert pages.pages() == made


@pytest.mark.slow
def test_another_figure_in_results_changes_the_pages(made, monkeypatch):
    """No test that cannot fail: one run a little better, and README, results and ledger say something else."""
    kept = study.standing

    def better(stem):
        runs, wrong = kept(stem)
        if stem == "clip-ping-laptop":
            for run in runs:
                run["metrics"]["new_scenes"]["image_to_text_recall@1"]["value"] += 0.01
        return runs, wrong

    monkeypatch.setattr(study, "standing", better)
    changed = {path.name for path, data in pages.pages().items() if made[path] != data}
    assert {"README.md", "results.md", "figures.md", "claims.md", "gains.png", "prices.png"} <= changed


@pytest.mark.slow
def test_what_is_left_out_of_a_study_is_named_in_the_pages(monkeypatch):
    kept, gone = study.standing, "clip-laptop-depth12"

    def half(stem):
        return ([], f"{stem}: seed 1 missing") if stem == gone else kept(stem)

    monkeypatch.setattr(study, "standing", half)
    monkeypatch.setattr(pages, "standing", half)
    monkeypatch.setattr(tables, "standing", half)
    made = {path.name: data.decode() for path, data in pages.pages().items() if path.suffix == ".md"}
    found = f"*left out: only whole sets of runs are averaged: {gone}: seed 1 missing."
    assert f"**Left out**, for only whole sets of runs are averaged: {gone}: seed 1 missing" in made["results.md"]
    assert found in made["results.md"].replace("\n", " ")  # in the place of the table
    assert found in made["claims.md"]  # in the place of the figure
    assert found not in made["README.md"]


@pytest.mark.slow
def test_readme_names_what_its_table_lacks(monkeypatch):
    kept = study.standing

    def half(stem):
        return ([], f"{stem}: seed 1 missing") if stem == "lightclip-laptop" else kept(stem)

    monkeypatch.setattr(study, "standing", half)
    monkeypatch.setattr(pages, "standing", half)
    monkeypatch.setattr(tables, "standing", half)
    assert "**Left out**: lightclip-laptop: seed 1 missing." in pages.pages()[ROOT / "README.md"].decode()


@pytest.mark.parametrize("name", sorted(path.name for path in pages.TEMPLATES.glob("*.jinja")))
def test_a_template_names_nothing_that_is_not_there(name):
    """Not even in a part that is left out as long as its runs are not there."""
    tree = pages.ENVIRONMENT.parse((pages.TEMPLATES / name).read_text(encoding="utf-8"))
    known = set(pages.vocabulary(pages.load_bench(ROOT / "results" / "bench.json"))) | {"figure"}
    assert meta.find_undeclared_variables(tree) <= known


@pytest.mark.parametrize(
    ("few", "many", "mean", "said"),
    [
        ((72, 73, 73), (75, 77, 75), -19 / 3, "shrinks"),  # 12, 11, 12 points of the fewest; 5, 6, 5 of the most
        ((72, 73, 73), (83, 82, 81), 0, "cannot be told"),
        ((62, 64, 63), (83, 83, 84), 11, "grows"),
    ],
    ids=["shrinks", "holds", "grows"],
)
def test_how_a_gain_changes_with_more_pairs_is_of_equal_seeds(monkeypatch, few, many, mean, said):
    kept = {"clip-laptop-4k": (60, 62, 61), "clip-laptop-64k": (70, 71, 70)}
    kept |= {"clip-ping-laptop-4k": few, "clip-ping-laptop-64k": many}
    kept |= {f"{name}-laptop": kept[f"{name}-laptop-4k"] for name in ("clip", "clip-ping")}
    monkeypatch.setattr(tables, "values", lambda stems, figure: [kept[stem] for stem in stems])
    found = tables.change(I2T, "-4k", "-64k")
    assert found.mean == pytest.approx(mean) and found.seeds == 3
    rows = tables.changes().splitlines()[2:]
    assert rows[0] == "| 4,096 → 16,384 |" + " +0.0 (no interval: equal differences): cannot be told |" * 3
    assert rows[1:] == [f"| {few} → 65,536 |" + f" {found}: {said} |" * 3 for few in ("16,384", "4,096")]


def test_of_learning_rates_it_is_said_which_was_best_and_what_one_seed_is_worth():
    usual, other = {"0.002": 60.0, "0.004": 59.0}, {"0.002": 60.0, "0.004": 63.0}
    assert tables.best_rate(usual, "0.002", 1.25) == (
        "In recall@1, mean of both ways, none of them is above the profile's 0.002; from seed to seed that figure varies by 1.2 "
        "(standard deviation). This is one seed."
    )
    told = tables.best_rate(other, "0.002", 1.25)
    assert "the best of them, 0.004, lies 3.0 points above the profile's 0.002" in told and "rather too high" in told


def test_what_is_said_of_equal_time_is_so():
    """README, results in full and chapters 7, 9 and 14 say it in words."""
    bench, times = pages.load_bench(ROOT / "results" / "bench.json"), float(verdicts.times_longer())
    slower = [name for name in RECIPES if bench.races[f"recipe-{name}"].longer.high >= times]
    assert slower == ["a-clip-ping"]  # "longer than the steps of any recipe take but …"
    clip = verdicts.clip_minutes(bench)
    steps, banks = tables.added_minutes("lightclip-ping", bench)
    assert clip * times < clip + steps.middle + banks.middle
    beside = {name: {each: gain(f"{name}-laptop", "clip-laptop-longer", each).sign for each in (I2T, T2I, ZERO, ALIGN)}
              for name in ("lightclip", "clip-ping", "lightclip-ping")}  # fmt: skip
    assert beside["lightclip"][I2T] == beside["lightclip"][T2I] == 0 and beside["lightclip"][ALIGN] == 1
    assert beside["clip-ping"] == {I2T: 0, T2I: 0, ZERO: 1, ALIGN: 0}
    assert beside["lightclip-ping"][I2T] == beside["lightclip-ping"][ZERO] == 1
    assert all(gain("clip-laptop-longer", "clip-laptop", each).sign == 1 for each in (I2T, T2I, ZERO))
    share = gain("clip-laptop-longer", "clip-laptop", I2T).mean / gain("lightclip-laptop", "clip-laptop", I2T).mean
    assert share > 0.5  # "much of what recipes gain"
    assert beside["lightclip"][ZERO] == -1 and beside["lightclip-ping"][ALIGN] == 1 and beside["lightclip-ping"][T2I] == 0
    assert bench.races["recipe-lightclip"].longer.middle == pytest.approx(1.5, abs=0.1)  # "about one and a half times"
    for path in ("README.md", *(f"notebooks/{name}.ipynb" for name in ("07_lightclip", "09_clip_ping", "14_capstone"))):
        assert f"{times:g} times as many steps" in " ".join((ROOT / path).read_text(encoding="utf-8").split()), path


def test_what_chapter_9_says_of_the_number_of_pairs_is_so():
    def signs(few, many):
        return [gain(f"clip-ping-laptop{few}", f"clip-laptop{many}", figure).sign for figure in (I2T, T2I, ZERO)]

    assert signs("-4k", "-4k")[:2] == [0, 0]  # "nothing in retrieval that three seeds could tell"
    assert abs(tables.change(I2T, "", "-64k").mean) < 2 > abs(tables.change(T2I, "", "-64k").mean)  # "about what they gain"
    assert signs("", "-64k") == [1, 0, 0] and signs("-4k", "") == [-1, -1, -1]  # a quarter of the pairs
    assert gain("clip+xnn-laptop", "clip-laptop", I2T, "unseen_concepts").mean == pytest.approx(-0.3, abs=0.05)


def test_what_chapter_9_says_of_live_teachers_is_so():
    found = {figure: gain("a-clip-ping-laptop", "clip-ping-laptop", figure) for figure in (I2T, T2I, ZERO)}
    assert [each.sign for each in found.values()] == [-1, -1, 0] and abs(found[ZERO].mean) < 1  # "as much"
    assert found[I2T].mean == pytest.approx(-5, abs=0.75) and found[T2I].mean == pytest.approx(-6, abs=0.75)


LEVELS = [  # where, the words, and for every number in them what it is of: stem, split, figure
    (r"R@5 is (\d+) %", [("clip", "new_scenes", "image_to_text_recall@5")]),
    (r"`unseen_drawings`: (\d+) %", [("clip", "unseen_drawings", I2T)]),
    (r"near (\d+) % in the table", [("clip", "new_scenes", I2T)]),
    (r"about (\d+) % with none or a wrong one", [("clip+mlm", "new_scenes", "masked_word_no_image")]),
]


@pytest.mark.parametrize(("words", "meant"), LEVELS, ids=lambda value: value if isinstance(value, str) else "")
def test_levels_that_the_teachers_sheet_says_are_those_of_results(words, meant):
    found = re.search(words, " ".join((ROOT / "docs" / "teaching.md").read_text(encoding="utf-8").split()))
    assert found, f"the words are gone: {words}"
    for said, (recipe, split, figure) in zip(found.groups(), meant, strict=True):
        assert level(saved_runs(f"{recipe}-laptop"), split, figure).mean == pytest.approx(float(said), abs=2)


def test_what_the_teachers_sheet_says_of_neighbours_is_what_chapter_8_printed():
    words = " ".join((ROOT / "docs" / "teaching.md").read_text(encoding="utf-8").split())
    said = re.search(r"captions find (\d+) % of a scene's objects, pictures (\d+) %", words)
    cells = nbformat.read(ROOT / "notebooks" / "08_neighbour_mining.ipynb", as_version=4).cells
    shown = json.dumps([cell.get("outputs", []) for cell in cells])
    printed = {round(float(number)) for number in re.findall(r"\b\d\d\.\d\b", shown)}
    assert said and {int(number) for number in said.groups()} <= printed


def test_chapter_14_hands_over_what_the_seeds_of_the_study_reached():
    text = (ROOT / "notebooks" / "14_capstone.ipynb").read_text(encoding="utf-8")
    said = re.search(r"with (\d+) seeds, reached recall@1 of ([\d.]+)% to ([\d.]+)% image to text", text)
    found = percent(saved_runs("lightclip-ping-laptop"), "new_scenes", I2T)
    assert said and said.groups() == (str(len(found)), f"{min(found):.1f}", f"{max(found):.1f}")


UP, UNSURE, DOWN = Gain(2.0, 1.0, 3.0, 3), Gain(1.0, -1.0, 3.0, 3), Gain(-2.0, -3.0, -1.0, 3)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": UP, "b": UP}, "holds here: every interval lies above zero"),
        ({"a": UP, "b": UNSURE}, "holds here for a; of the rest these seeds cannot tell"),
        ({"a": UNSURE, "b": DOWN}, "lies below zero for b; of the rest these seeds cannot tell"),
        ({"a": DOWN, "b": UP}, "holds here for b; lies below zero for a"),
        ({"a": DOWN}, "lies below zero for a"),
        ({"a": UNSURE}, "is not shown by these seeds"),
        ({"a": Gain(2.0, 2.0, 2.0, 3)}, "is not shown by these seeds"),  # equal differences make no interval
    ],
    ids=str,
)
def test_a_verdict_says_what_the_intervals_bear(found, said):
    assert verdict(found) == said


def test_what_is_said_to_be_bought_is_what_intervals_bear():
    table, luck = tables.bought(tables.ALL).split("\n\n")
    head, _, *rows = ([cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines())
    assert head == ["recipe, above `clip`", *tables.SPLITS.values()] and [row[0].strip("`") for row in rows] == list(tables.ALL)
    count = 0
    for name, *cells in rows:
        stem = f"{name.strip('`')}-laptop"
        for split, cell in zip(tables.SPLITS, cells, strict=True):
            told = set(cell.replace("retrieval", "image→text, text→image").split(", ")) - {"nothing that could be told"}
            borne = set()
            for figure, what in tables.BUYS.items():
                if tables.learned(stem, split, figure):
                    here, count = gain(stem, "clip-laptop", figure, split), count + 1
                    borne |= {what} if here.sign == 1 else {f"*less* {what}"} if here.sign == -1 else set()
            assert told == borne, (name, split)
    assert luck.startswith(f"These are {count} intervals. ")


@pytest.mark.parametrize(
    ("signs", "said"),
    [
        ({"image→text": 1, "text→image": 1, "pointing": 1}, "retrieval, pointing"),
        ({"image→text": 1, "text→image": 0, "pointing": -1}, "image→text, *less* pointing"),
        ({"image→text": -1, "text→image": 1, "pointing": 0}, "text→image, *less* image→text"),
        ({"image→text": 0, "text→image": 0}, "nothing that could be told"),
    ],
    ids=str,
)
def test_signs_of_intervals_in_words(signs, said):
    assert tables.in_words(signs) == said


@pytest.mark.parametrize("name", sorted({name for claim in CLAIMS for name in claim.functions}))
def test_a_function_of_the_ledger_is_there(name):
    parts = name.split(".")
    found = importlib.import_module(".".join(parts[:2]))
    for part in parts[2:]:
        assert hasattr(found, part), name
        found = getattr(found, part)


@pytest.mark.parametrize("name", sorted({name for claim in CLAIMS for name in claim.tests}))
def test_a_test_of_the_ledger_is_there(name):
    file, function = name.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("cell", sorted({claim.cell for claim in CLAIMS}), ids=" ".join)
def test_a_cell_of_the_ledger_is_there(cell):
    """Below that heading, and before the next of its kind, stands a code cell that holds these words."""
    notebook, heading, words = cell
    cells = nbformat.read(ROOT / "notebooks" / f"{notebook}.ipynb", as_version=4).cells
    below, held = False, []
    for each in cells:
        if each.cell_type == "markdown":
            for title in re.findall(r"^## (.+)$", each.source, flags=re.M):
                below = title == heading
        elif below:
            held.append(each.source)
    assert held, f"{notebook} has no heading {heading!r}"
    assert any(words in source for source in held), f"no cell below {heading!r} holds {words!r}"


def test_the_ledger_covers_both_papers_and_says_what_is_whose():
    text = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")
    assert [line.split(" · ")[1] for line in text.splitlines() if line.startswith("## ")] == [claim.title for claim in CLAIMS]
    assert {claim.paper.split(" (")[0] for claim in CLAIMS} == {"CLIP", "LightCLIP", "CLIP-PING", "ours"}
    for claim in CLAIMS:
        assert claim.stated in text and claim.reading in text and claim.figure in text and claim.differs in text


def test_of_a_whole_study_nothing_is_left_out(made):
    """Not by a slip of the pen either: a name in a template that there is not would be left out, too."""
    told = [path.name for path, data in made.items() if path.suffix == ".md" and re.search(rb"\*left out\b", data, re.I)]
    assert told == []


def test_what_is_no_better_than_chance_is_not_bought(monkeypatch):
    def run_of(value):
        return {"metrics": {"new_scenes": {"alignment": {"value": value, "chance": 0.2}}}}

    monkeypatch.setattr(tables, "saved_runs", lambda stem: [run_of(0.1), run_of(0.28)])
    assert not tables.learned("clip-laptop", "new_scenes", "alignment") and not tables.learned("clip-laptop", "new_scenes", ZERO)
    monkeypatch.setattr(tables, "saved_runs", lambda stem: [run_of(0.13), run_of(0.28)])
    assert tables.learned("clip-laptop", "new_scenes", "alignment")


@pytest.mark.parametrize(
    ("ratios", "banks", "gained", "said"),
    [
        ((1.5, 1.4, 1.6), (), Gain(6.0, 3.0, 9.0, 3), "2.0 (0.8 to 3.8)"),  # 3 minutes more, 2.4 to 3.6
        ((1.0, 0.9, 1.1), (2, 2, 2), Gain(6.0, 3.0, 9.0, 3), "3.0 (1.2 to 4.5)"),  # the banks' 2, and up to 0.6
        ((1.0, 1.0, 1.0), (2, 1, 3), Gain(6.0, 3.0, 9.0, 3), "3.0 (1.0 to 9.0)"),  # banks alone, 1 to 3
        ((1.5, 1.4, 1.6), (), Gain(6.0, -3.3, 9.0, 3), "2.0 (-1.4 to 3.8)"),
        ((1.0, 0.9, 1.1), (), Gain(6.0, 3.0, 9.0, 3), "takes no time that could be told"),
    ],
    ids=str,
)
def test_points_per_minute_bear_the_spread_of_both(monkeypatch, ratios, banks, gained, said):
    laptop = get_profile("laptop").training  # clip's steps take 6 minutes

    def race_of(key, laps):
        return Benchmark(key, "", "", "", laptop.pairs, tuple(laps), (1.0, 1.0, 1.0))

    times = {"recipe-clip": [6 * 60 / laptop.steps] * 3, "recipe-a": ratios, "banks": [60.0 * each for each in banks or (1,)]}
    found = {key: race_of(key, laps) for key, laps in times.items()}
    monkeypatch.setattr(tables, "saved_runs", lambda stem: [{"teacher": {"widths": 1} if banks else None}])
    monkeypatch.setattr(tables, "recall", lambda name: gained)
    assert tables.per_minute("a", Bench(found, {}, {}, 3, 1.0, {})) == said


def test_the_papers_own_gains_stand_beside_ours():
    told = tables.beside_paper()
    for figure, paper in PAPER.items():
        here = gain("clip-ping-laptop", "clip-laptop", figure)
        assert f"({here.mean:+.1f} to the paper's {paper:+.1f})" in told


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_tables_of_kept_runs_in_a_notebook_are_those_of_results(path):
    """Cells that need nothing but results/ are run again: they say what they said when the notebook was made, figures too."""
    shown: list[object] = []
    scope = {"display": shown.append}
    exec(BEFORE, scope)
    for cell in filter(shows_results, nbformat.read(path, as_version=4).cells):
        shown.clear()
        told, tree = io.StringIO(), ast.parse(cell.source)
        last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
        with redirect_stdout(told):
            exec(compile(tree, path.name, "exec"), scope)
            if last:
                shown.append(eval(compile(ast.Expression(last.value), path.name, "eval"), scope))
        figures = [each.alt if hasattr(each, "alt") else repr(each) for each in shown if each is not None]  # or a table
        said = "".join(output.text for output in cell.outputs if output.output_type == "stream")
        words = [output.data["text/plain"] for output in cell.outputs if output.output_type != "stream"]
        assert (said, words) == (told.getvalue(), figures), "run `python tools/refresh_notebooks.py --results`"


def test_what_a_notebook_shows_of_results_is_tagged():
    """But for a cell that times towers, too, and the checks of exercises."""
    calls = re.compile(r"(?<!\.)\b(comparison(_table)?|gains?(_table)?|values|arms_table|saved_runs|load_bench)\(|\bstudy\.")
    for path in NOTEBOOKS:
        for number, cell in enumerate(nbformat.read(path, as_version=4).cells):
            if cell.cell_type == "code" and calls.search(cell.source) and cell.outputs:
                tagged = "results" in cell.metadata.get("tags", [])
                assert tagged or "make_language(" in cell.source or "# checks" in cell.source, (path.stem, number)


def test_the_depths_that_a_notebook_prints_are_those_of_results():
    """Its cell times towers, too, so it is not run again here."""
    cells = nbformat.read(ROOT / "notebooks" / "07_lightclip.ipynb", as_version=4).cells
    (cell,) = (cell for cell in cells if "make_language(" in cell.source and cell.cell_type == "code" and cell.outputs)
    printed = "".join(output.text for output in cell.outputs if output.output_type == "stream").splitlines()[1:]
    rows = {int(line.split()[0]): re.findall(r"[\d.]+ ± +[\d.]+", line) for line in printed if line.split()[0].isdigit()}
    for depth in (1, 2, 4, 8, 12):
        found = [level(saved_runs(f"clip-laptop-depth{depth}"), "new_scenes", figure) for figure in (I2T, T2I, ZERO)]
        assert [" ".join(each.split()) for each in rows[depth]] == list(map(str, found))


def test_there_are_tables_to_check():
    shown = [path.stem[:2] for path in NOTEBOOKS if any(map(shows_results, nbformat.read(path, as_version=4).cells))]
    assert shown == ["04", "05", "06", "07", "09", "10", "14"]


ALIGN = "alignment"
NUMBERS = "none one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen".split()
NUMBERS += ["seventeen", "eighteen", "nineteen", "twenty"]
SAID = [  # where, the words, and for every number in them what it is of: recipe, over which, figures
    ("notebooks/05_bipartite_matching.ipynb", r"by about (\w+) points of recall@1 and of zero-shot, and (\w+) of nDCG",
     [("clip+match", "clip", (I2T, T2I, ZERO)), ("clip+match", "clip", NDCG)]),
    ("notebooks/07_lightclip.ipynb", r"(\w+) points of recall@1 both ways, (\w+) of zero-shot, (\w+) of nDCG and",
     [("lightclip", "clip", (I2T, T2I)), ("lightclip", "clip", (ZERO,)), ("lightclip", "clip", NDCG)]),
    ("notebooks/07_lightclip.ipynb", r"Over `clip\+match` alone, recall@1 gains about (\w+) points and alignment (\w+)",
     [("lightclip", "clip+match", (I2T, T2I)), ("lightclip", "clip+match", (ALIGN,))]),
    ("notebooks/09_clip_ping.ipynb", r"(\w+) points of recall@1 in both directions and (\w+) of zero-shot accuracy over CLIP",
     [("clip-ping", "clip", (I2T, T2I)), ("clip-ping", "clip", (ZERO,))]),
    ("docs/teaching.md", r"\+(\d+) points of recall@1, \+(\d+) zero-shot over `clip`",
     [("clip-ping", "clip", (I2T, T2I)), ("clip-ping", "clip", (ZERO,))]),
]  # fmt: skip


@pytest.mark.parametrize(("path", "words", "meant"), SAID, ids=lambda value: value[:40] if isinstance(value, str) else "")
def test_what_is_said_in_words_is_what_was_measured(path, words, meant):
    """A round number in a sentence lies within three quarters of a point of every figure that it speaks of."""
    file = ROOT / path
    text = file.read_text(encoding="utf-8")
    if file.suffix == ".ipynb":
        text = "\n".join(cell.source for cell in nbformat.reads(text, as_version=4).cells if cell.cell_type == "markdown")
    found = re.search(words, " ".join(text.split()))
    assert found, f"the sentence is gone: {words}"
    for said, (recipe, over, figures) in zip(found.groups(), meant, strict=True):
        number = int(said) if said.isdigit() else NUMBERS.index(said)
        for figure in figures:
            assert gain(f"{recipe}-laptop", f"{over}-laptop", figure).mean == pytest.approx(number, abs=0.75), (said, figure)
