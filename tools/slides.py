"""Slides from the notebooks: a page a chapter, complete in itself, for a class without a network.

python tools/slides.py [NAME …]   writes build/slides/NAME.html. A heading begins a slide; on it stand the first paragraph below
it, the equations and the figures; the rest are notes, shown by the key N. Left and right, space and a finger turn the page, up
and down scroll.
"""

import base64
import contextlib
import html
import re
import sys
from pathlib import Path

import latex2mathml.converter
import mistune
import nbformat
from jinja2 import Template

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "build" / "slides"

PAGE = Template(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>{{ title | e }}</title>
<style>
html { scroll-snap-type: y mandatory; } body { margin: 0; font: 1.5vw/1.45 sans-serif; color: #222; }
section { --fit: 1; min-height: 100vh; box-sizing: border-box; padding: 4vh 6vw; scroll-snap-align: start; display: flex;
  flex-direction: column; justify-content: center; font-size: calc(1.5vw * var(--fit)); }
section > * { max-width: 100%; } section > p { overflow-x: auto; overflow-y: hidden; flex-shrink: 0; }
h1 { font-size: 2.1em; margin: 0 0 .4em; color: #0072B2; } h2 { font-size: 1.7em; margin: 0 0 .5em; color: #0072B2; }
img { max-width: 100%; max-height: calc(58vh * var(--fit)); display: block; margin: .6em auto; object-fit: contain; }
pre { white-space: pre-wrap; } code { background: #eee; padding: 0 .2em; overflow-wrap: anywhere; }
table { border-collapse: collapse; } td, th { padding: .1em .8em; text-align: left; }
.notes { display: none; border-top: 2px solid #E69F00; margin-top: 1em; padding-top: .5em; font-size: .75em; }
.with-notes .notes { display: block; } footer { font-size: .9vw; color: #666; margin-top: 1em; }
math[display=block] { margin: .6em 0; font-size: 1.2em; }
#more { position: fixed; right: 1em; bottom: .6em; padding: .2em .8em; border-radius: 1em; background: #E69F00; color: #222; }
@media print { section { page-break-after: always; } .notes { display: block; } #more { display: none; } }
</style></head><body>
{% for slide in slides %}<section id="{{ loop.index }}">{{ slide.shown }}{% if slide.notes %}
<aside class="notes">{{ slide.notes }}</aside>{% endif %}
<footer>{{ title | e }} · {{ loop.index }} / {{ slides | length }} · drawings: OpenMoji (CC BY-SA 4.0), Twemoji (CC BY 4.0)
</footer></section>
{% endfor %}
<div id="more" aria-hidden="true" hidden>↓ more</div>
<script>
const pages = [...document.querySelectorAll("section")];
const shown = () => pages.findIndex((page) => page.getBoundingClientRect().bottom > innerHeight / 2);
function hint() { // a slide that goes on below the window says so
  const page = pages[shown()];
  document.getElementById("more").hidden = !page || page.getBoundingClientRect().bottom < innerHeight + 8;
}
function fit() { // a slide that is taller than the window gets smaller type and pictures, down to 0.7; its notes do not count
  const notes = document.body.classList.contains("with-notes");
  document.body.classList.remove("with-notes");
  for (const page of pages) {
    for (let size = 1; size > 0.69; size -= 0.05) {
      page.style.setProperty("--fit", size);
      if (page.offsetHeight <= innerHeight + 1) break;
    }
  }
  document.body.classList.toggle("with-notes", notes);
  hint();
}
addEventListener("load", fit);
addEventListener("resize", fit);
addEventListener("scroll", hint);
function go(by) {
  const now = shown();
  pages[Math.max(0, Math.min(pages.length - 1, now + by))].scrollIntoView();
}
addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const by = { ArrowRight: 1, PageDown: 1, " ": 1, ArrowLeft: -1, PageUp: -1 }[event.key];
  if (by) { event.preventDefault(); go(by); }
  if (event.key === "n" || event.key === "N") document.body.classList.toggle("with-notes");
  hint();
});
</script></body></html>
"""
)


FOLD = re.compile(r"<details><summary>(.*?)</summary>(.*?)</details>", re.S)
FORMULA = r"\$\$[\s\S]+?\$\$|\$[^$\n]+?\$"
COPIED = re.compile(r'"|\\(?:href|style|class)\b')  # what the converter writes into attributes as it is


def to_mathml(source: str) -> str:
    """$LaTeX$ or $$LaTeX$$ as MathML; as text if it cannot be read, or would bring attributes of its own into the page."""
    formula, display = source.strip("$").strip(), "block" if source.startswith("$$") else "inline"
    with contextlib.suppress(Exception):  # the converter has no error of its own
        if not COPIED.search(formula):
            safe = formula.replace("<", r"\lt ").replace(">", r"\gt ")  # the converter copies those in \text
            return latex2mathml.converter.convert(safe, display=display)
    return html.escape(source)


def formulas(markdown: mistune.Markdown) -> None:
    """A plugin of mistune: formulas, except in code."""

    def parse(_, match: re.Match, state: mistune.InlineState) -> int:
        state.append_token({"type": "formula", "raw": match[0]})
        return match.end()

    markdown.inline.register("formula", FORMULA, parse, before="link")
    markdown.renderer.register("formula", lambda _, source: to_mathml(source))


def to_html(text: str) -> str:
    """Markdown with LaTeX to HTML with MathML. Diagrams become part of the page."""
    text = re.sub(r"\]\((\w+)\.ipynb\)", r"](\1.html)", text)  # a chapter's slides lie beside it
    page = mistune.create_markdown(plugins=["table", formulas])(text)
    return re.sub(r'src="diagrams/([\w-]+\.svg)"', lambda found: f'src="{embedded(found[1])}"', page)


def embedded(diagram: str) -> str:
    """A diagram's file as the `src` of an image."""
    return "data:image/svg+xml;base64," + base64.b64encode((ROOT / "notebooks" / "diagrams" / diagram).read_bytes()).decode()


def split(text: str) -> tuple[str, str]:
    """What a slide shows of its text (lists, equations and the first paragraph), and what its notes do, with what is folded."""
    shown, notes = [], []
    for part in re.split(r"\n\s*\n", FOLD.sub("", text).strip()):
        lists = re.match(r"(?:[-*|]|\d+\.) ?", part) and not part.startswith("**")
        if part.startswith(("$$", "|", "![")) or lists or not any(not p.startswith("#") for p in shown):
            shown.append(part)
        else:
            notes.append(part)
    notes += [f"**{title}**\n\n{body.strip()}" for title, body in FOLD.findall(text)]
    return "\n\n".join(shown), "\n\n".join(notes)


def slides_of(path: Path) -> tuple[str, list[dict[str, str]]]:
    """The slides of a notebook: its title, and for every slide what is shown and what is noted."""
    slides: list[dict[str, str]] = []
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown" and not cell.source.startswith("<details>"):
            for part in re.split(r"^(?=#{1,3} )", cell.source, flags=re.M):
                if part.startswith("#"):
                    shown, notes = split(re.sub(r"^### ", "## ", part))
                    slides.append({"shown": to_html(shown), "notes": to_html(notes)})
                elif part.strip():
                    slides[-1]["notes"] += to_html(part)
        elif cell.cell_type == "code":
            for output in cell.outputs:
                picture = output.get("data", {}).get("image/png")
                if picture:
                    words = html.escape(output.metadata.get("image/png", {}).get("alt", ""))
                    if "<img" in slides[-1]["shown"]:  # one figure a slide
                        slides.append({"shown": "", "notes": ""})
                    slides[-1]["shown"] += f'<img alt="{words}" src="data:image/png;base64,{"".join(picture.split())}">'
    title = re.search(r"^# (.+)$", nbformat.read(path, as_version=4).cells[0].source, re.M)[1]
    return title, slides


def main() -> None:
    """Write the slides of some chapters, or of all."""
    names = sys.argv[1:] or [path.stem for path in sorted((ROOT / "notebooks").glob("*.ipynb"))]
    TARGET.mkdir(parents=True, exist_ok=True)
    for name in names:
        title, slides = slides_of(ROOT / "notebooks" / f"{name}.ipynb")
        (TARGET / f"{name}.html").write_text(PAGE.render(title=title, slides=slides), encoding="utf-8")
        print(f"{TARGET / name}.html: {len(slides)} slides")


if __name__ == "__main__":
    main()
