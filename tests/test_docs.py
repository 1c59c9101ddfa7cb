"""What is written for people is true: links lead somewhere, names exist, commands are understood, code can be read."""

import ast
import functools
import importlib
import json
import re
import shlex
from pathlib import Path

import pytest
import typer

from lcl.cli.main import app

ROOT = Path(__file__).resolve().parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), ROOT / "data" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SPELLED = {  # as their makers write them
    "LightCLIP": r"\b(?:Lightclip|LightClip|Light-CLIP)\b",
    "CLIP-PING": r"\b(?:CLIP-Ping|Clip-Ping|CLIP PING|ClipPing)\b",
    "JupyterLab": r"\b(?:Jupyterlab|Jupyter Lab|JupyterLabs)\b",
    "PyTorch": r"\b(?:Pytorch|Py-Torch|PyTorc)\b",
    "WebDataset": r"\b(?:Webdataset|WebDataSet|Web Dataset)\b",
    "OpenMoji": r"\b(?:Openmoji|Open Moji)\b",
    "Twemoji": r"\bTwEmoji\b",
    "InfoNCE": r"\b(?:InfoNce|Info-NCE|Infonce)\b",
    "Sinkhorn": r"\bSinkhorne?s\b(?!')|\bSinkhorne\b",
    "EfficientNet": r"\b(?:Efficientnet|Efficient Net)\b",
    "MiniLM": r"\b(?:MiniLm|Minilm)\b",
    "FAISS": r"\b(?:Faiss)\b",
    "ONNX": r"\b(?:Onnx)\b",
    "img2dataset": r"\b(?:Img2dataset|img2Dataset)\b",
}


@functools.cache
def markdown(path: Path) -> str:
    """A page, or the Markdown cells of a notebook."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return "\n\n".join("".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown")


def prose(text: str) -> str:
    """Without blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.S | re.M)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.S | re.M)


def anchors(path: Path) -> set[str]:
    """The names of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", prose(markdown(path)), flags=re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


every_page = pytest.mark.parametrize("path", [*PAGES, *NOTEBOOKS], ids=lambda path: path.relative_to(ROOT).as_posix())


@every_page
def test_links_lead_somewhere(path):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(markdown(path))):
        if target.startswith("https://"):
            continue
        file, _, anchor = target.partition("#")
        there = (path.parent / file).resolve() if file else path
        assert there.exists() and there.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(there), target


@every_page
def test_pictures_have_words(path):
    for words, target in re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", markdown(path)):
        assert len(words) > 20, target


@every_page
def test_what_is_named_exists(path):
    """`lcl.x.y` in backticks can be imported."""
    for name in re.findall(r"`(lcl(?:\.\w+)+)(?:\(\w*\))?`", prose(markdown(path))):
        parts, found = name.split("."), None
        for number in range(len(parts), 0, -1):
            try:
                found = importlib.import_module(".".join(parts[:number]))
            except ImportError:
                continue
            for part in parts[number:]:
                found = getattr(found, part, None) or found.__dataclass_fields__[part]
            break
        assert found is not None, name


@every_page
def test_names_are_spelled_as_their_owners_spell_them(path):
    text = prose(markdown(path))
    for right, wrong in SPELLED.items():
        assert not re.search(wrong, text), f"{re.search(wrong, text)[0]} should be {right}"


@every_page
def test_python_in_a_page_can_be_read(path):
    for source in blocks(markdown(path), "python"):
        ast.parse(source)
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.module.startswith("lcl"):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    if not hasattr(module, alias.name):
                        importlib.import_module(f"{node.module}.{alias.name}")


COMMANDS = [
    (path, line)
    for path in [*PAGES, *NOTEBOOKS]
    for block in [*blocks(markdown(path), "sh"), *blocks(markdown(path), "bat")]
    for line in block.replace("\\\n", " ").splitlines()
    if re.search(r"(?:^|\s|-m |\\)lcl ", line)
]


@pytest.mark.parametrize(("path", "line"), COMMANDS, ids=lambda value: value if isinstance(value, str) else value.name)
def test_a_command_is_understood(path, line):
    """Every subcommand and option of a command in a page exists."""
    words = shlex.split(re.sub(r"^.*?(?:^|\s|-m |\\)lcl ", "", line), comments=True)
    command = typer.main.get_command(app)
    while words and words[0] in getattr(command, "commands", {}):
        command = command.commands[words.pop(0)]
    if getattr(command, "commands", None):
        assert not [word for word in words if not word.startswith("--")] or command.invoke_without_command, line
    known = {name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    assert {word for word in words if word.startswith("-")} <= known, line


def test_there_are_commands_to_check():
    assert len(COMMANDS) > 15


def test_what_make_is_told_to_do_it_can():
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M))
    for path in PAGES:
        for name in re.findall(r"`?make ([a-z-]+)", markdown(path)):
            if re.search(rf"`make {name}|^make {name}", markdown(path), flags=re.M):
                assert name in targets, (path.name, name)


def test_the_course_is_told_in_order_and_whole():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"\(notebooks/(\w+)\.ipynb\)", text) == [path.stem for path in NOTEBOOKS]


@pytest.mark.parametrize(("path", "after"), list(zip(NOTEBOOKS, NOTEBOOKS[1:], strict=False)), ids=lambda path: path.stem)
def test_a_chapter_leads_to_the_next(path, after):
    assert f"({after.name})" in markdown(path).splitlines()[-1] or f"({after.name})" in markdown(path)[-600:]


def test_the_lines_that_readme_counts_are_those_of_the_library():
    """The core that reads like the equations, and all of it: lines of Python, comments and docstrings included."""
    core = [*(ROOT / "lcl/models").glob("*.py"), *(ROOT / "lcl/losses").glob("*.py")]
    core += [ROOT / f"lcl/train/{name}.py" for name in ("recipes", "objectives", "loop")]
    core += [ROOT / f"lcl/eval/{name}.py" for name in ("metrics", "retrieval")]
    count = {"core": core, "all": list((ROOT / "lcl").rglob("*.py"))}
    lines = {name: sum(len(p.read_text(encoding="utf-8").splitlines()) for p in paths) for name, paths in count.items()}
    told = re.search(r"together ([\d,]+) lines. All of `lcl` has ([\d,]+) lines", prose(markdown(ROOT / "README.md")))
    assert [int(number.replace(",", "")) for number in told.groups()] == [lines["core"], lines["all"]]
    assert lines["core"] <= 2925
