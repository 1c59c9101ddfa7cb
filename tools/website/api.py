"""The reference of `lcl` from its docstrings: a page a room, read from the source without importing it."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from pathlib import Path

SECTIONS = re.compile(r"^(Args|Attributes|Returns|Yields|Raises):[ \t]*(.*)$", flags=re.M)
TITLES = {"Args": "Arguments", "Attributes": "Attributes", "Returns": "Returns", "Yields": "Yields", "Raises": "Raises"}


@dataclass(frozen=True)
class Room:
    """A folder of `lcl`, or its modules that lie in no folder.

    Attributes:
        name: of the package.
        modules: by dotted name, in order.
    """

    name: str
    modules: dict[str, Path]

    @property
    def page(self) -> str:
        """Its page in the site."""
        return f"api-{self.name.replace('.', '-')}.html"


def rooms(package: Path) -> list[Room]:
    """All rooms of a package, itself first."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package.parent).with_suffix("").parts
        dotted = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        room = ".".join(parts[: min(2, len(parts) - 1)])
        found.setdefault(room, {})[dotted] = path
    return [Room(name, found[name]) for name in sorted(found)]


def to_markdown(room: Room) -> str:
    """The reference of a room: every public class, function and constant with a docstring, by module."""
    parts = [f"# The reference of `{room.name}`"]
    for dotted, path in room.modules.items():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        members = list(public(tree.body))
        if not ast.get_docstring(tree) and not members:
            continue
        parts += [f"## {dotted}", document(ast.get_docstring(tree))]
        for node in members:
            parts += of_class(node) if isinstance(node, ast.ClassDef) else of_function(node, "###")
    return "\n\n".join(filter(None, parts)) + "\n"


def public(body: list[ast.stmt]) -> list[ast.ClassDef | ast.FunctionDef]:
    """Classes and functions that are meant for others, and say what they do."""
    kinds = ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef
    return [node for node in body if isinstance(node, kinds) and not node.name.startswith("_") and ast.get_docstring(node)]


def of_class(node: ast.ClassDef) -> list[str]:
    """A class: how it is made, what it says of itself, its public methods."""
    made = next((part for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"), None)
    fields = [ast.unparse(part) for part in node.body if isinstance(part, ast.AnnAssign)]
    call = signature(made, node.name) if made else f"class {node.name}" + "".join(f"\n    {field}" for field in fields)
    parts = [f"### {node.name}", block(call), document(ast.get_docstring(node))]
    for method in public(node.body):
        parts += of_function(method, "####", node.name)
    return parts


def of_function(node: ast.FunctionDef, level: str, owner: str = "") -> list[str]:
    """A function or method: its signature and its docstring."""
    name = f"{owner}.{node.name}".strip(".")
    return [f"{level} {name}", block(signature(node, node.name)), document(ast.get_docstring(node))]


def signature(node: ast.FunctionDef, name: str) -> str:
    """How something is called; an argument a line if it is long."""
    arguments = ast.unparse(node.args)
    arguments = re.sub(r"^(self|cls)(, |$)", "", arguments)
    returns = f" -> {ast.unparse(node.returns)}" if node.returns and node.name != "__init__" else ""
    short = f"{name}({arguments}){returns}"
    if len(short) <= 88:
        return short
    lines = "".join(f"    {part},\n" for part in split(arguments))
    return f"{name}(\n{lines}){returns}"


def split(arguments: str) -> list[str]:
    """Arguments at the commas that lie in no bracket and no string."""
    parts, depth, quote = [""], 0, ""
    for sign in arguments:
        quote = ("" if quote == sign else quote) if quote else sign if sign in "\"'" else ""
        depth += (sign in "([{") - (sign in ")]}") if not quote else 0
        if sign == "," and not depth and not quote:
            parts.append("")
        else:
            parts[-1] += sign
    return [part.strip() for part in parts]


def block(code: str) -> str:
    """A block of Python."""
    return f"```python\n{code}\n```"


def document(docstring: str | None) -> str:
    """A docstring in Google style as Markdown: its sections become lists."""
    if not docstring:
        return ""
    pieces = SECTIONS.split(docstring)
    parts = [pieces[0].strip()]
    for title, first, body in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        inside, rest = body_of(f"{' ' * 4}{first}\n{body.strip(chr(10))}" if first else body.strip("\n"))
        parts += [f"**{TITLES[title]}**", inside if title in ("Returns", "Yields") else as_list(inside), rest]
    return "\n\n".join(filter(None, parts))


def body_of(text: str) -> tuple[str, str]:
    """The indented lines at the beginning, without their indentation, and what follows them."""
    lines = text.split("\n")
    end = next((number for number, line in enumerate(lines) if line and not line.startswith("    ")), len(lines))
    return "\n".join(line[4:] for line in lines[:end]).strip(), "\n".join(lines[end:]).strip()


def as_list(text: str) -> str:
    """`name: words`, one or more lines each, as a list."""
    items = re.sub(r"^([\w*, ]+):", lambda found: f"- `{found[1]}`:", text, flags=re.M)
    return items if items.startswith("- ") else text
