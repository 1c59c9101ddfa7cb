"""The ledger of claims: every name in it is there, every statement has its source, and every claim its verdict."""

import ast
import dataclasses
import importlib
import re
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest
from made_plan import made_run

import verdicts
from answers import MIXED, NOT, SUPPORTED, UNTESTED, Answers
from benchmarks.run import load_bench
from claims import CLAIMS, DEFINITIONS, OURS, SOURCES
from lcl import storage
from lcl.config import LclError
from lcl.course import study

ROOT = Path(__file__).resolve().parent.parent
PLAN = storage.read_json(study.FOLDER / "plan.json")
BENCH = load_bench(study.FOLDER / "bench.json")
TEXT = (ROOT / "docs" / "claims.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", sorted({name for each in DEFINITIONS for name in each.functions}))
def test_a_function_of_the_ledger_is_there(name):
    parts = name.split(".")
    found = importlib.import_module(".".join(parts[:2]))
    for part in parts[2:]:
        assert hasattr(found, part), name
        found = getattr(found, part)


@pytest.mark.parametrize("name", sorted({name for each in (*DEFINITIONS, *CLAIMS) for name in each.tests}))
def test_a_test_of_the_ledger_is_there(name):
    file, function = name.split("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert function in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("cell", sorted({each.cell for each in (*DEFINITIONS, *CLAIMS)}), ids=" ".join)
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


def test_the_ledger_covers_both_papers_and_names_every_source():
    rows = [each.title for each in (*CLAIMS, *DEFINITIONS)]
    assert [re.sub(r"^\d+\. ", "", title) for title in re.findall(r"^### (.+)$", TEXT, re.M)] == rows
    assert {each.paper.split(" (")[0] for each in (*DEFINITIONS, *CLAIMS)} == {"CLIP", "LightCLIP", "CLIP-PING", OURS}
    assert {each.source for each in (*DEFINITIONS, *CLAIMS)} <= set(SOURCES)
    for each in (*DEFINITIONS, *CLAIMS):
        assert f"{each.stated} [{each.source}]" in TEXT
        assert (each.source == "our reading") == (each.paper == OURS)


def test_every_claim_names_arms_of_the_plan_and_has_one_verdict():
    rows = re.findall(r"^\| \d+ \| (.+?) \| .+? \| .+? \| \*\*(.+?)\*\* \|$", TEXT, re.M)
    assert [title for title, _ in rows] == [claim.title for claim in CLAIMS]
    assert {verdict for _, verdict in rows} <= {SUPPORTED, NOT, MIXED, UNTESTED}
    for claim in CLAIMS:
        assert set(claim.arms) <= set(PLAN["arms"]) and len(set(claim.arms)) == len(claim.arms)


def test_every_primary_comparison_is_behind_one_claim():
    asked = []
    answers = SimpleNamespace(verdict_of=lambda *pairs: asked.extend(pairs))
    for claim in CLAIMS:
        before = len(asked)
        claim.verdict(verdicts.Evidence(answers, BENCH))
        for pair in asked[before:]:
            assert set(pair) <= set(claim.arms), claim.title
    assert sorted(asked) == sorted({(each["arm"], each["over"]) for each in PLAN["primary"]})


def test_a_claim_of_a_single_seed_shows_it_without_an_interval(monkeypatch):
    one = {"clip": [made_run("clip", 0, 0.5)], "clip-ping": [made_run("clip-ping", 0, 0.75), made_run("clip-ping", 1, 0.9)]}
    monkeypatch.setattr(verdicts, "saved_runs", one.__getitem__)
    assert verdicts.above("clip-ping", "recall@1") == "recall@1 +25.0 (one seed: no interval)"
    one["clip"].append(made_run("clip", 1, 0.6))
    assert re.fullmatch(r"recall@1 \+27.5 \(-4.3 to \+59.3\)", verdicts.above("clip-ping", "recall@1"))


def test_a_verdict_is_of_all_its_comparisons():
    answers = Answers(study.read_study(), BENCH)
    with pytest.raises(LclError, match="no primary comparison of siglip over clip"):
        answers.verdict_of(("siglip", "clip"))
    pair = ("clip-ping", "clip+distil")  # two comparisons, of two metrics
    cases = (SUPPORTED, SUPPORTED, SUPPORTED), (SUPPORTED, NOT, MIXED), (NOT, NOT, NOT), (UNTESTED, NOT, UNTESTED)
    for first, second, expected in cases:
        given = iter((first, second))
        answers.comparisons = [
            dataclasses.replace(each, verdict=next(given)) if (each.arm, each.over) == pair else each
            for each in answers.comparisons
        ]
        assert answers.verdict_of(pair) == expected


@pytest.mark.parametrize(
    ("step", "banks", "said"), [(1.05, 0.05, SUPPORTED), (1.05, 0.5, MIXED), (1.2, 0.05, MIXED), (1.2, 0.5, NOT)]
)
def test_overhead_is_minimal_if_steps_and_banks_take_less_than_a_tenth(monkeypatch, step, banks, said):
    race = SimpleNamespace(longer=SimpleNamespace(high=step))
    monkeypatch.setattr(verdicts.prices, "clip_minutes", lambda bench: 10.0)
    monkeypatch.setattr(verdicts.prices, "bank_minutes", lambda bench: SimpleNamespace(high=10 * banks))
    assert verdicts.cheap(verdicts.Evidence(None, SimpleNamespace(races={"recipe-clip-ping": race}))) == said
