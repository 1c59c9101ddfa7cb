"""The index of symptoms is held to the code: its commands, its lines of Python, its chapters and the names of all checks."""

import ast
import functools
import inspect
import math
import re
import shlex
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
import typer
from test_docs import NOTEBOOKS, ROOT, anchors, markdown

from lcl.cli.main import app
from lcl.train import diagnosis, outside

PAGE = ROOT / "docs" / "symptoms.md"
LABELS = ("Means", "Check", "Fix", "See")
CHAPTERS = {int(path.stem[:2]): path for path in NOTEBOOKS}
TEXT = markdown(PAGE)


def entries() -> dict[str, dict[str, str]]:
    """{symptom: {label: text on one line}}."""
    found = {}
    for part in re.split(r"^### ", TEXT, flags=re.M)[1:]:
        heading, body = re.split(r"\n", part.split("\n## ")[0], maxsplit=1)
        points = re.findall(r"^- \*\*(\w+):\*\* (.+?)(?=^- |\Z)", body, flags=re.M | re.S)
        found[heading] = {label: " ".join(text.split()) for label, text in points}
    return found


ENTRIES = entries()
every_entry = pytest.mark.parametrize("symptom", ENTRIES)


def names_of_checks() -> set[str]:
    """The first argument of every `Finding` in the checks; where it is made of two words, with each of the second."""
    trees = [ast.parse(inspect.getsource(module)) for module in (diagnosis, outside)]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call.args[0] for call in calls if getattr(call.func, "id", "") == "Finding"]
    whole = {name.value for name in named if isinstance(name, ast.Constant)}
    parts = {name.values[0].value for name in named if isinstance(name, ast.JoinedStr)}
    return whole | {part + what for part in parts for what in ("captions", "pictures")}


def spans(text: str) -> list[str]:
    return re.findall(r"`([^`]+)`", text)


def emphasised(text: str) -> list[str]:
    return re.findall(r"(?<![*\w])\*([^*]+)\*(?![*\w])", re.sub(r"`[^`]*`", "", text))


def understood(line: str) -> bool:
    """Does a command of `lcl` exist, with all its options?"""
    words, command = shlex.split(line)[1:], typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)}
    return not getattr(command, "commands", None) and {word for word in words if word.startswith("-")} <= known


def test_the_table_lists_every_symptom_once_and_in_order():
    rows = re.findall(r"^\| \[([^\]]+)\]\(#([^)]+)\) \| .+ \| (\d+)(?:, case (\d+))? \|$", TEXT, flags=re.M)
    assert [name for name, *_ in rows] == list(ENTRIES) and len(ENTRIES) > 30
    assert {anchor for _, anchor, *_ in rows} <= anchors(PAGE) and len({anchor for _, anchor, *_ in rows}) == len(rows)
    for name, _, chapter, case in rows:  # the chapter is the first of the entry
        assert ENTRIES[name]["See"].startswith(f"[chapter {chapter}{f', case {case}' if case else ''}]"), name


@every_entry
def test_an_entry_says_what_to_check_and_what_to_do(symptom):
    assert tuple(ENTRIES[symptom]) == LABELS and all(text.endswith(".") for text in ENTRIES[symptom].values())


def test_a_command_that_does_not_exist_is_noticed():
    assert understood("lcl diagnose runs/mine") and understood("lcl data verify shards --near")
    assert not understood("lcl cure runs/mine") and not understood("lcl diagnose runs/mine --deep")


def test_commands_and_options_exist():
    words = [span for part in ENTRIES.values() for text in part.values() for span in spans(text)]
    lines = [span for span in words if span.startswith("lcl ")]
    assert [line for line in lines if not understood(line)] == [] and len(set(lines)) > 12
    assert [span for span in words if span.startswith("--") and not understood(f"lcl train {span}")] == []


def test_every_check_of_the_diagnosis_helps_with_a_symptom():
    mentioned = {name for part in ENTRIES.values() for name in emphasised(part["Check"])} - {"training", "another"}  # emphasis
    assert mentioned == names_of_checks() and len(mentioned) == len(diagnosis.CHECKS) + 6  # of encoders from elsewhere
    assert len(re.findall("eleven checks", TEXT)) == 1 and len(diagnosis.CHECKS) == 11


@functools.cache
def headings(chapter: int) -> set[str]:
    """A chapter's sections, without the minutes of exercises."""
    return set(re.findall(r"^#{2,3} (.+?)(?: \(\w+, \d+ minutes\))?$", markdown(CHAPTERS[chapter]), flags=re.M))


@every_entry
def test_the_chapters_have_these_cases_and_sections(symptom):
    text = ENTRIES[symptom]["See"]
    links = list(re.finditer(r"\[chapter (\d+)(?:, case (\d+))?\]\(\.\./notebooks/(\w+)\.ipynb\)([^\[]*)", text))
    assert links and "".join(link[0] for link in links) == text
    for link in links:
        number, case, stem, rest = link.groups()
        assert CHAPTERS[int(number)].stem == stem
        assert set(emphasised(rest)) <= headings(int(number)), rest
        assert case or emphasised(rest), "name a case or a section"
        assert not case or number == "12" and any(heading.startswith(f"{case} · ") for heading in headings(12)), link[0]


def test_every_case_of_the_chapter_is_a_symptom():
    cases = {found[1] for heading in headings(12) if (found := re.match(r"(\d+) · ", heading))}
    assert set(re.findall(r"chapter 12, case (\d+)", TEXT)) == cases == {str(number) for number in range(1, 11)}


@pytest.fixture(scope="module")
def names(tokenizer):
    """What the table of names promises: a healthy batch, an untrained model."""
    torch.manual_seed(0)
    v, t = F.normalize(torch.randn(2, 16, 8), dim=2)
    steps = [SimpleNamespace(logit_scale=3.0 + step) for step in range(3)]
    return {
        "math": math, "torch": torch, "F": F, "v": v, "t": t, "logit_scale": 3.0, "loss": math.log(16), "y": torch.eye(16),
        "model": torch.nn.Linear(8, 8).eval(), "images": torch.zeros(16, 3, 8, 8, dtype=torch.uint8),
        "captions": ["a cat", "a dog"] * 8, "encode": lambda captions: t[: len(captions)],
        "neighbours": torch.arange(16).roll(1), "run": SimpleNamespace(tokenizer=tokenizer, curve=[*steps, object()]),
    }  # fmt: skip


def python_lines(symptom: str) -> list[str]:
    """The lines of Python that an entry has for its check; not single names, files and commands."""
    lines = [span for span in spans(ENTRIES[symptom]["Check"]) if re.search(r"[ (.]", span) and not span.startswith("lcl")]
    return [line for line in lines if line not in ("log.jsonl", "rejected.csv", "loss.backward()")]


def value(symptom: str, names: dict, number: int = 0, **change):
    """The value of an entry's `number`-th line of Python."""
    return eval(python_lines(symptom)[number], names | change)  # the page is ours


@pytest.mark.parametrize("symptom", [symptom for symptom in ENTRIES if python_lines(symptom)])
def test_the_lines_of_python_run(symptom, names):
    for number in range(len(python_lines(symptom))):
        value(symptom, names, number)


def test_the_names_of_the_table_are_those_of_the_lines(names):
    table = re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.+?) \|", TEXT, flags=re.M)))
    assert sorted(table) == sorted(set(names) - {"math", "torch", "F"})


def test_the_lines_tell_ill_from_healthy(names):
    """The values that the page promises, for a healthy batch and for an ill one."""
    v, s = names["v"], names["logit_scale"] * names["v"] @ names["t"].T
    assert [x.item() for x in value("First loss far above ln B", names)[0]] == pytest.approx([1, 1])
    assert value("First loss far above ln B", names, v=5 * v)[0][0].item() == pytest.approx(5)
    own = torch.arange(len(v))
    directions = [value("Image to text improves, text to image lags", names, number).item() for number in (0, 1)]
    assert directions == pytest.approx([F.cross_entropy(s, own).item(), F.cross_entropy(s.T, own).item()])
    assert value("First loss below ln B", names) == pytest.approx(16)
    assert value("All cosines near 1", names).item() < 0.2 < value("All cosines near 1", names, v=v + 9).item()
    assert value("Loss falls, but recall stays at chance", names, t=v).item() == 1
    assert value("Purity is 100 %, and the neighbour loss falls fast", names).item() == 0
    assert value("Loss is low, but not comparable with another recipe", names).item() == 0
    softened = torch.full((16, 16), 1 / 16)
    assert value("Loss is low, but not comparable with another recipe", names, y=softened).item() == pytest.approx(math.log(16))
    assert value("Recall is low, although the results look right", names) == 14
    assert value("Zero-shot at chance, but retrieval works", names) == names["run"].tokenizer.unseen("a zebra in the snow")
    assert value("Loss falls, then flattens early", names) == [3, 4, 5]
