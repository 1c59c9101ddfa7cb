"""Markdown to HTML: formulas as MathML, code in colours, links between pages; no HTML of a text's own but folded parts."""

from __future__ import annotations

import html
import re
from dataclasses import dataclass, field

import mistune
from pygments import highlight
from pygments.formatters import HtmlFormatter
from pygments.lexers import get_lexer_by_name, get_lexer_for_filename
from pygments.util import ClassNotFound

from slides import formulas
from website.place import Site

INTERVAL = re.compile(r"\([^()<>]+ to [^()<>]+\)")  # of a metric
FOLDS = re.compile(r"(</?details>|</?summary>)")


def escape(text: str) -> str:
    """Text as it is, in an element or in an attribute."""
    return html.escape(text)


def plain(rendered: str) -> str:
    """The words of rendered HTML, without formulas."""
    return html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"<math[\s\S]*?</math>", " ", rendered)))


def anchor_of(heading: str) -> str:
    """The name of a heading, as GitHub makes it."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def in_colours(code: str, language: str) -> str:
    """A block of code. language: a name, or a file's name; without colours if it is not known."""
    try:
        lexer = get_lexer_for_filename(language) if "." in language else get_lexer_by_name(language)
    except ClassNotFound:
        return f'<pre class="code" tabindex="0"><code>{escape(code)}</code></pre>'
    coloured = highlight(code, lexer, HtmlFormatter(nowrap=True))
    return f'<pre class="code" tabindex="0"><code>{coloured}</code></pre>'


@dataclass
class Heading:
    """A heading of a page and the words below it."""

    level: int
    anchor: str
    text: str
    words: list[str] = field(default_factory=list)


class Renderer(mistune.HTMLRenderer):
    """Renders one page; `headings` holds what it met, for the table of contents and for the search.

    Args:
        site: knows the pages and pictures.
        source: the document's path below the root.
    """

    def __init__(self, site: Site, source: str):
        super().__init__(escape=True)
        self.site, self.source = site, source
        self.headings = [Heading(1, "", "")]

    def heading(self, text: str, level: int, **attributes) -> str:
        words = plain(text).strip()
        known, anchor = {one.anchor for one in self.headings}, anchor_of(words)
        name, number = anchor, 0
        while name in known:
            number += 1
            name = f"{anchor}-{number}"
        self.headings.append(Heading(level, name, words))
        sign = f'<a class="anchor" href="#{escape(name)}" aria-label="link to this section">#</a>' if level > 1 else ""
        return f'<h{level} id="{escape(name)}">{text}{sign}</h{level}>\n'

    def paragraph(self, text: str) -> str:
        self.headings[-1].words.append(plain(text))
        return f"<p>{text}</p>\n"

    def block_text(self, text: str) -> str:
        self.headings[-1].words.append(plain(text))
        return text

    def block_code(self, code: str, info: str | None = None) -> str:
        self.headings[-1].words.append(code)
        return in_colours(code, (info or "text").split()[0])

    def link(self, text: str, url: str, title: str | None = None) -> str:
        return f'<a href="{escape(self.site.link(self.source, url))}">{text}</a>'

    def image(self, text: str, url: str, title: str | None = None) -> str:
        address, words = self.site.picture(self.source, url), escape(plain(text))
        dark = self.site.dark.get(address)
        if not dark:
            return f'<img alt="{words}" src="{escape(address)}" loading="lazy">' if address else words
        shown = (("light", address), ("dark", dark))
        return "".join(f'<img class="diagram {way}" alt="{words}" src="{escape(src)}">' for way, src in shown)

    def block_html(self, html: str) -> str:
        return folds_only(html)

    def inline_html(self, html: str) -> str:
        return folds_only(html)


def folds_only(text: str) -> str:
    """HTML of a text: comments are left out, folded parts stay, all else is shown as it is."""
    parts = FOLDS.split(re.sub(r"<!--[\s\S]*?-->", "", text))
    words = [part if FOLDS.fullmatch(part) else re.sub(r"`([^`]+)`", r"<code>\1</code>", escape(part)) for part in parts]
    return "".join(words)


def formulas_in_boxes(markdown: mistune.Markdown) -> None:
    """The formulas of the slides; long ones scroll in a box of their own."""
    formulas(markdown)
    inner = markdown.renderer._get_method("formula")

    def formula(_, source: str) -> str:
        made = inner(source)
        return f'<span class="formula" tabindex="0">{made}</span>' if source.startswith("$$") else made

    markdown.renderer.register("formula", formula)


def to_html(text: str, renderer: Renderer, mathematics: bool = True) -> str:
    """A text, or a part of one, as HTML."""
    plugins = ["table", *([formulas_in_boxes] if mathematics else [])]
    made = mistune.create_markdown(renderer=renderer, plugins=plugins)(text)
    return re.sub(r"<table>[\s\S]*?</table>", in_box, made)


def in_box(table: re.Match) -> str:
    """A table in a box that scrolls if need be; its intervals are never broken into lines."""
    whole = INTERVAL.sub(r'<span class="whole">\g<0></span>', table[0])
    return f'<div class="wide" tabindex="0">{whole}</div>'
