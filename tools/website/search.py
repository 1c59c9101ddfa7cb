"""The index of the search over pages: an entry a section. It is a script, since a page from a folder reads no files."""

from __future__ import annotations

import re

from website.figures import plain
from website.markdown import Heading

LONGEST = 1200  # letters of a section that are searched


def entries(page: str, title: str, headings: list[Heading]) -> list[list[str]]:
    """The sections of a page: [address, title of the page, heading, words]."""
    found = []
    for heading in headings:
        words = re.sub(r"\s+", " ", " ".join(heading.words)).strip()[:LONGEST]
        if heading.text or words:
            found.append([f"{page}#{heading.anchor}".rstrip("#"), title, heading.text or title, words])
    return found


def as_script(index: list[list[str]]) -> str:
    """The index as a plain script."""
    return plain("index", index)
