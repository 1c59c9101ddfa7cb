"""The index of the search over pages: an entry a section. It is a script, since a page from a folder reads no files."""

from __future__ import annotations

import json
import re

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
    told = json.dumps(index, ensure_ascii=True, separators=(",", ":")).replace("</", "<\\/")
    return f"globalThis.LCL.index = {told};\n"
