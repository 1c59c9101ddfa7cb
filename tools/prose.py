"""Check the project's prose: words that its readers stumble over, spelling, and how hard the sentences are to read.

    python tools/prose.py             every place with a word of the list or a typing mistake; exit code 1 if there is one
    python tools/prose.py --measure   words, length of a sentence, semicolons and "one" as a pronoun, by document

Prose is what people read: Markdown, the Markdown of notebooks, and docstrings and comments of Python files.
"""

from __future__ import annotations

import argparse
import ast
import io
import json
import re
import subprocess
import sys
import tempfile
import tokenize
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("lcl", "tools", "benchmarks", "docs", "data", "notebooks")
NO = r"(?! (?:runs?|steps?|sets?|pairs?|scenes?|loops?|batch|batches|loss|losses|code|data|curves?|captions?|time|cells?|words|"
NO += r"images?|pictures?|rows?|process|processes|script|state|objectives?|examples?|events?|settings?|configuration|split)\b)"
# A word to avoid → what to write. The field's own words come first: its readers look for them.
WORDS = {
    r"\bwhoever\b": "anyone who",
    r"\bto the bit\b": "bitwise identical",
    r"\bcan(?:not|'t| not) be told from\b": "does not differ significantly from",
    rf"\btrainings\b|\b(?:a|each|every|another|this|kept|whole) training\b{NO}": "training run",
    r"\bkept (?:runs?|checkpoints?)\b": "saved run",
    r"\bdustbin\b|\btolls?\b": "unmatched, dual price",
    r"\b(?:two|both|each|another|other) hands?\b": "drawing style",
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\bexhibits?\b": "interactive figure",
    r"\b(?:watched|asked) pairs\b": "validation pairs, test pairs",
    r"\bthings?\b": "object, class, or the noun itself",
}
PRONOUN = r"\bone (?:can|may|must|would|sees|has|is|does|asks|wants|takes|knows|trains|could|should)\b|\bwhoever\b"
SENTENCE = re.compile(r"(?<=[.!?:])\s+|\n\s*\n|\n(?=[-|#*\d])")


def markdown_of(path: Path) -> list[tuple[str, str]]:
    """A document's places and their Markdown."""
    if path.suffix == ".md":
        return [(str(number), line) for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1)]
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    found = [(number, "".join(cell["source"])) for number, cell in enumerate(cells) if cell["cell_type"] == "markdown"]
    return [(f"cell {number}", text) for number, text in found]


def comments_of(path: Path) -> Iterator[tuple[str, str]]:
    """The docstrings and comments of a Python file, with their lines."""
    text = path.read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield str(node.lineno), node.value.value
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            yield str(token.start[0]), token.string


def documents() -> dict[Path, list[tuple[str, str]]]:
    """All prose: by file, places and texts."""
    paths = sorted(ROOT.glob("*.md")) + [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*"))]
    found = {}
    for path in paths:
        if any(part.startswith((".", "cache", "node_modules")) for part in path.relative_to(ROOT).parts):
            continue
        if path.suffix in (".md", ".ipynb"):
            found[path] = markdown_of(path)
        elif path.suffix == ".py":
            found[path] = list(comments_of(path))
    return found


def plain(text: str) -> str:
    """Prose without code, formulas, pictures, links' addresses, tables' rules and quoted words."""
    text = re.sub(r"!\[[^\]]*\]\([^)]*\)|```.*?```|\$\$.*?\$\$|<[^>]+>", " ", text, flags=re.DOTALL)
    text = re.sub(r"`[^`]*`|\$[^$]*\$|“[^”]*”|\"[^\"\n]*\"|https?://\S+", " X ", text)
    return re.sub(r"\]\([^)]*\)|^\s*\|[-:| ]+\|\s*$", " ", text, flags=re.MULTILINE)


def stumbling(text: str) -> list[tuple[str, str]]:
    """Words of the list in a text, and what to write."""
    return [(match[0], instead) for word, instead in WORDS.items() for match in re.finditer(word, plain(text), flags=re.I)]


def misspelt(found: dict[Path, list[tuple[str, str]]]) -> list[str]:
    """What codespell says of the texts, with the places."""
    with tempfile.TemporaryDirectory() as folder:
        names, places = {}, {}
        for number, (path, texts) in enumerate(found.items()):
            lines = [(place, line) for place, text in texts for line in text.split("\n")]
            names[f"{number}.txt"], places[f"{number}.txt"] = path, [place for place, _ in lines]
            (Path(folder) / f"{number}.txt").write_text("\n".join(line for _, line in lines), encoding="utf-8")
        command = [sys.executable, "-m", "codespell_lib", "--ignore-words-list", "fo,nd,ot,te,ue,ba,wit", "."]
        said = subprocess.run(command, cwd=folder, capture_output=True, text=True, encoding="utf-8").stdout
    rows = []
    for line in said.splitlines():
        name, row, words = line.removeprefix("./").split(":", 2)
        rows.append(f"{names[name].relative_to(ROOT)}:{places[name][int(row) - 1]}:{words}")
    return rows


def measures(text: str) -> tuple[int, float, float, float]:
    """Words, words a sentence, and of 1,000 words the semicolons and the uses of "one" as a pronoun (roughly)."""
    sentences = [re.findall(r"[^\W\d_][\w'’-]*", part) for part in SENTENCE.split(plain(text))]
    lengths = [len(words) for words in sentences if len(words) > 2]
    count = sum(lengths)
    pronouns = re.findall(PRONOUN, plain(text), re.I)
    shares = (1000 * plain(text).count(";") / max(count, 1), 1000 * len(pronouns) / max(count, 1))
    return count, count / max(len(lengths), 1), *shares


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--measure", action="store_true", help="measure the documents instead")
    options = parser.parse_args()
    found = documents()
    if options.measure:
        print("| document | words | words a sentence | semicolons | one |\n|---|---:|---:|---:|---:|")
        for path, texts in found.items():
            if path.suffix != ".py":
                words, length, semicolons, one = measures("\n".join(text for _, text in texts))
                print(f"| {path.relative_to(ROOT)} | {words:,} | {length:.1f} | {semicolons:.1f} | {one:.1f} |")
        return 0
    faults = [
        f"{path.relative_to(ROOT)}:{place}: {word!r}: write {instead}"
        for path, texts in found.items()
        for place, text in texts
        for word, instead in stumbling(text)
    ] + misspelt(found)
    print("\n".join(faults) or "The word list and the spelling check find nothing.")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
