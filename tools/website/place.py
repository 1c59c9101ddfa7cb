"""Where everything lies in the site: one flat folder of pages, so that it works at any address, and `assets` below it."""

from __future__ import annotations

import posixpath
import re
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PICTURES = (".png", ".svg", ".gif", ".jpg")
DARK = re.compile(r"@media \(prefers-color-scheme: dark\)\{(.*)\}(?=</style>)")


def documents(root: Path = ROOT) -> list[Path]:
    """All documents, README first: those of the project, of docs/ and of data/."""
    return [root / "README.md", *sorted(set(root.glob("*.md")) - {root / "README.md"}), root / "data" / "README.md",
            *sorted((root / "docs").glob("*.md"))]  # fmt: skip


def chapters(root: Path = ROOT) -> list[Path]:
    """The notebooks in their order."""
    return sorted((root / "notebooks").glob("*.ipynb"))


def page_of(path: str) -> str:
    """The page of a document or notebook, by its path below the root."""
    folder, name = posixpath.split(path)
    stem = posixpath.splitext(name)[0]
    return f"{stem if folder in ('notebooks', 'docs') else f'{folder}-{stem}'.strip('-')}.html".replace("README", "readme")


@dataclass
class Site:
    """The pages that exist, and what the pages ask for: pictures to be copied, files whose text gets a page of its own.

    Attributes:
        target: the folder of the site.
        root: the folder of the project.
        pages: path of a document below the root → page.
        sources: files and folders that some page links to, by path below the root.
    """

    target: Path
    root: Path = ROOT
    pages: dict[str, str] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    dark: dict[str, str] = field(default_factory=dict)

    def __post_init__(self):
        (self.target / "assets" / "pictures").mkdir(parents=True, exist_ok=True)
        paths = [*documents(self.root), *chapters(self.root)]
        self.pages |= {path.relative_to(self.root).as_posix(): "" for path in paths}
        self.pages |= {path: page_of(path) for path in self.pages}

    def link(self, source: str, address: str) -> str:
        """What a link of a document is in the site. source: the document's path below the root."""
        if re.match(r"[a-z]+:|#|$", address):
            return address if re.match(r"(?:https?:|mailto:|#)", address) else "#"
        path, _, anchor = address.partition("#")
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), path))
        anchor = f"#{anchor}" if anchor else ""
        if path in self.pages:
            return self.pages[path] + anchor
        if path.startswith("..") or not (self.root / path).exists():
            return "#"
        self.sources[path] = "source-" + re.sub(r"[^\w.-]", "-", path.strip("./")) + ".html"
        return self.sources[path]

    def picture(self, source: str, address: str) -> str:
        """Copy a document's picture into the site; returns its address there. A diagram gets a second file for dark pages."""
        path = self.root / posixpath.normpath(posixpath.join(posixpath.dirname(source), address))
        if path.suffix not in PICTURES or not path.exists():
            return ""
        content = path.read_bytes()
        if path.suffix == ".svg" and (found := DARK.search(content.decode())):
            text = content.decode()
            dark = text[: found.start()] + found[1] + text[found.end() :]
            content = (text[: found.start()] + text[found.end() :]).encode()
            name = self.keep_picture(f"{path.stem}-dark.svg", dark.encode())
            self.dark[f"assets/pictures/{path.name}"] = name
        return self.keep_picture(path.name, content)

    def keep_picture(self, name: str, content: bytes) -> str:
        """Write a picture; returns its address in the site."""
        (self.target / "assets" / "pictures" / name).write_bytes(content)
        return f"assets/pictures/{name}"
