"""In a real browser: whatever a caption holds, no script of it runs, no element of it appears, and its text is there."""

import base64
import json

import nbformat
import pytest
import torch
from PIL import Image

playwright = pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
import lab  # noqa: E402
from commands import lcl  # noqa: E402
from course.test_widgets import KINDS, exhibits, pairs  # noqa: E402, F401

import slides  # noqa: E402
from lcl.course import plots  # noqa: E402
from lcl.course.widgets.base import to_picture  # noqa: E402
from lcl.data.photos import read_caption  # noqa: E402
from lcl.words import printable  # noqa: E402

HOSTILE = [
    "<script>window.hurt = 1</script>",
    "<img src=x onerror='window.hurt = 2'>",
    "</script></title><svg onload=window.hurt=3>",
    "costs $5 and $10, $$",
    "&amp;<b>bold</b> &lt;",
    "a \u202edesrever\u202c \x1b[31mred\x1b[0m\nnew line",
]
ALL = " ".join(HOSTILE)
ELEMENTS = "[onload], [onerror], img:not([src^='data:image/png;base64,'])"
USE = """async ([source, state]) => { // draw an exhibit, use all its controls, and return all that it said
  const {default: view} = await import(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
  const model = {get: (name) => state[name], set() {}, save_changes() {}, on() {}, off() {}}, seen = [];
  const all = (what) => [...document.querySelectorAll(what)], keys = ["ArrowDown", "ArrowRight", "ArrowUp", "Enter"];
  const use = (part, ...events) => {
    events.forEach((event) => part.dispatchEvent(typeof event === "string" ? new Event(event) : event));
    seen.push(document.body.textContent, ...all("[aria-label]").map((named) => named.getAttribute("aria-label")));
  };
  view.render({model, el: document.body});
  seen.push(document.body.textContent);
  for (let n = 0; n < all("select").length; n++) for (let at = 0; at < all("select")[n].options.length; at++) {
    all("select")[n].selectedIndex = at;
    use(all("select")[n], "change");
  }
  for (let n = 0; n < all("input[type=range]").length; n++) for (let value = 0; value < 6; value++) {
    all("input[type=range]")[n].value = value;
    use(all("input[type=range]")[n], "input");
    for (let at = 0; at < all("button").length; at++) use(all("button")[at], "mouseenter", "focus", "click");
  }
  for (const part of all("canvas[tabindex], svg[tabindex]")) {
    for (let n = 0; n < 40; n++) use(part, new KeyboardEvent("keydown", {key: keys[n % 4]}));
  }
  return seen.join();
}"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(lab.find_browser() is None, reason="no browser is installed (chromium or google-chrome)"),
]


@pytest.fixture(scope="module")
def page(driver):
    """A page that reaches nothing, and ends the test with what went wrong in it."""
    browser = driver.chromium.launch(executable_path=lab.find_browser(), args=["--no-sandbox", "--disable-gpu"])
    page, problems = browser.new_page(), []
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("dialog", lambda dialog: problems.append(dialog.message))
    page.route("http*://**", lambda route: (problems.append(route.request.url), route.abort()))
    yield page
    browser.close()
    assert problems == []


def check_unhurt(page, scripts: int = 0) -> None:
    """Nothing of a caption ran, or became an element. scripts: that the page has of its own."""
    page.wait_for_timeout(100)  # an image that fails would say so by then
    assert page.evaluate("window.hurt") is None
    assert page.locator(ELEMENTS).count() == 0 and page.locator("b", has_text="bold").count() == 0
    assert page.locator("script").count() == scripts


def poisoned(value, known: set[str], made: set[str]):
    """Data of an exhibit with all hostile captions after each of its texts, but for those that are names of its own fields."""
    if isinstance(value, dict):
        return {name: poisoned(each, known, made) for name, each in value.items()}
    if isinstance(value, list):
        return [poisoned(each, known, made) for each in value]
    if not isinstance(value, str) or not value or value in known or value.startswith("data:"):
        return value
    made.add(f"{value} {ALL}")
    return f"{value} {ALL}"


@pytest.mark.parametrize("kind", KINDS)
def test_an_exhibit_shows_captions_and_names_as_they_are(kind, exhibits, page):  # noqa: F811
    state, known, made = {"data": exhibits[kind].data}, set(), set()
    if kind == "search":  # what the kernel found, and what it could not do
        found = [{"name": "a cat.png", "cosine": 0.5, "src": to_picture(torch.zeros(3, 8, 8, dtype=torch.uint8))}]
        state["answer"] = {"told": "a picture", "found": found, "problem": "b.png was not added", "count": 1}
    told = json.dumps(state)
    json.loads(told, object_pairs_hook=lambda fields: known.update(name for name, _ in fields))
    page.set_content("<title>exhibit</title>")
    seen = page.evaluate(USE, [exhibits[kind]._esm, {"label": f"label {ALL}"} | poisoned(json.loads(told), known, made)])
    check_unhurt(page)
    assert page.locator("[role=alert]").inner_text() == ""
    assert "\u202e" not in page.locator("[role=status]").inner_text()  # or it would reverse the sentence
    made |= {text.replace("\u202e", r"\u202e").replace("\u202c", r"\u202c") for text in made}
    few = 1 if kind == "curves" else 2  # some tokens are compared only, and not every metric was measured
    assert sum(text in seen for text in made) >= few


def test_a_report_shows_captions_as_they_are(page, tmp_path, monkeypatch):
    """Of a training on pictures whose captions are hostile; what a report shows of them are alternative texts, and drawings."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    for number in range(96):
        Image.effect_noise((24, 24), 90).save(tmp_path / "photos" / f"{number}.png")
    rows = [{"image": f"{number}.png", "caption": f"{number} {ALL}"} for number in range(96)]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    assert lcl("data", "from-folder", "photos", "--captions", "pairs.jsonl", "--out", "shards").code == 0
    options = ("--profile", "smoke", "--batch-size", 32, "--epochs", 1, "--workers", 0, "--name", "x")
    done = lcl("train", "--data", "shards", *options)
    assert done.code == 0 and "report.html" in done.out and "\x1b[31m" not in done.out + done.err
    page.goto((tmp_path / "runs" / "x" / "report.html").as_uri())
    check_unhurt(page)
    alt = " ".join(page.locator("img").evaluate_all("images => images.map(image => image.alt)"))
    assert alt.count(printable(read_caption(ALL))) >= 4  # control characters of a caption count as white space


def test_slides_show_captions_as_they_are(page, tmp_path):
    """In headings, text and code, and in the words of their figures."""
    cells = [nbformat.v4.new_markdown_cell(f"# {HOSTILE[0]} &amp;")]
    for caption in HOSTILE:
        line = " ".join(caption.split())
        cells.append(nbformat.v4.new_markdown_cell(f"## A `{line}`\n\n`{line}` and {HOSTILE[1]}\n\n{HOSTILE[2]}"))
        picture = plots.to_png(plots.Chart(1, 1, "x"))
        bundle = {"image/png": base64.b64encode(picture).decode()}
        output = nbformat.v4.new_output("display_data", bundle, metadata={"image/png": {"alt": caption}})
        cells.append(nbformat.v4.new_code_cell("plot", outputs=[output]))
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "hostile.ipynb")
    title, found = slides.slides_of(tmp_path / "hostile.ipynb")
    page.set_content(slides.PAGE.render(title=title, slides=found))
    page.keyboard.press("n")
    check_unhurt(page, scripts=1)
    assert page.title() == title == f"{HOSTILE[0]} &amp;"
    assert page.locator("img").evaluate_all("images => images.map(image => image.alt)") == HOSTILE
    lines = [" ".join(caption.split()) for caption in HOSTILE]
    assert page.locator("h2 code").all_text_contents() == page.locator("p code").all_text_contents() == lines
    notes = page.locator(".notes").all_text_contents()
    assert len(notes) == 6 and all(HOSTILE[2] in note for note in notes)
