"""How each kind of exhibit is used, by mouse and by keyboard; each use must change the picture, and say so in words."""

import time
from collections.abc import Callable

from playwright.sync_api import Locator, Page


def _drawn(exhibit: Locator) -> str:
    """What an exhibit shows: its drawings, its cards, and the pixels of its canvases; not its controls, nor its words."""
    return exhibit.evaluate(
        """root => [...root.querySelectorAll("svg, figure, table, [data-condition], .lcl-card")].map(part => part.outerHTML)
             .join() + [...root.querySelectorAll("canvas")].map(canvas => canvas.toDataURL()).join()"""
    )


def _changes(exhibit: Locator, use: Callable[[], None], picture: bool = True, words: bool = True) -> None:
    """A use changes the picture, and what is said of it; not all do both."""
    before, said = _drawn(exhibit), _says(exhibit)
    use()
    for _ in range(200):  # a page draws when it gets to it
        if (not picture or _drawn(exhibit) != before) and (not words or _says(exhibit) != said):
            return
        time.sleep(0.05)
    assert not picture or _drawn(exhibit) != before, "the picture did not change"
    assert not words or _says(exhibit) != said, f"the same is said as before: {said!r}"


def _says(exhibit: Locator) -> str:
    return exhibit.locator("[role=status]").inner_text()


def _slide(page: Page, exhibit: Locator, label: str, key: str = "ArrowRight") -> None:
    exhibit.get_by_role("slider", name=label, exact=True).focus()
    page.keyboard.press(key)


def _choose(page: Page, exhibit: Locator, label: str) -> None:
    """The next option of a choice, by keyboard, if there is more than one."""
    select = exhibit.get_by_label(label, exact=True)
    if select.locator("option").count() > 1:
        select.focus()
        page.keyboard.press("ArrowDown")


def _alignment(page: Page, exhibit: Locator) -> None:
    words = exhibit.locator(".lcl-words button")
    pressed = [words.nth(number).get_attribute("aria-pressed") == "true" for number in range(words.count())]
    assert sum(pressed) == 1 and "names" in words.nth(pressed.index(True)).get_attribute("class")  # begins with an object
    other = 2 if pressed.index(True) < 2 else 0
    _changes(exhibit, lambda: words.nth(other).hover(), picture=False)
    words.nth(other).focus()
    _changes(exhibit, lambda: page.keyboard.press("Tab"), picture=False)
    assert words.nth(other + 1).get_attribute("aria-pressed") == "true"
    _changes(exhibit, lambda: exhibit.get_by_label("show").select_option(index=1))
    assert exhibit.locator("rect.lit").count() >= 16 and "cosines" in _says(exhibit)
    _changes(exhibit, lambda: exhibit.get_by_label("show").select_option(index=0))
    lit = 0
    for number in range(words.count()):  # some are unmatched
        words.nth(number).hover()
        lit += exhibit.locator("rect.lit, rect.box").count()
    assert lit > 0, "no word lights anything"
    said = _says(exhibit)
    _choose(page, exhibit, "solver")
    _choose(page, exhibit, "checkpoint")
    assert _says(exhibit)
    _changes(exhibit, lambda: _slide(page, exhibit, "scene"))
    assert _says(exhibit) != said
    words.nth(2).hover()


def _labels(page: Page, exhibit: Locator) -> None:
    _changes(exhibit, lambda: _slide(page, exhibit, "step", "Home"))
    _changes(exhibit, lambda: _slide(page, exhibit, "step", "End"))
    _changes(exhibit, lambda: _slide(page, exhibit, "T"))
    _changes(exhibit, lambda: _slide(page, exhibit, "α"))
    assert not exhibit.get_by_role("checkbox").is_checked()
    canvas = exhibit.locator("canvas").first
    _changes(exhibit, lambda: canvas.hover(position={"x": 200, "y": 120}))
    canvas.focus()
    _changes(exhibit, lambda: page.keyboard.press("ArrowDown"))


def _guesser(page: Page, exhibit: Locator) -> None:
    words = exhibit.locator(".lcl-controls button")
    assert exhibit.locator(".lcl-bar").count() == 0  # nothing is given away
    exhibit.get_by_role("button", name="show the predictions").click()
    assert exhibit.locator(".lcl-bar").count() > 0
    _changes(exhibit, lambda: words.nth(1).click())
    assert exhibit.locator(".lcl-bar").count() == 0
    assert words.nth(1).inner_text() == "[MASK]" and words.nth(1).get_attribute("aria-pressed") == "true"
    words.nth(2).focus()
    _changes(exhibit, lambda: page.keyboard.press("Enter"), picture=False)
    exhibit.get_by_label("your guess").fill("surely not this")
    exhibit.get_by_label("your guess").focus()
    _changes(exhibit, lambda: page.keyboard.press("Enter"))
    assert "is not it" in _says(exhibit) and exhibit.locator(".lcl-bar").count() > 0
    _changes(exhibit, lambda: _slide(page, exhibit, "scene"))


def _neighbours(page: Page, exhibit: Locator) -> None:
    _changes(exhibit, lambda: _slide(page, exhibit, "scene"))
    assert exhibit.locator("figure button").count() > 5  # from the scenes to begin with, every neighbour leads on
    right = "one => one.getBoundingClientRect().right"
    ends = f"all => all.map(one => ({right})(one.closest('figure')) - ({right})(one))"
    assert min(exhibit.locator("figure button").evaluate_all(ends)) > 0, "a picture covers the frame of its figure"
    _changes(exhibit, lambda: exhibit.locator("figure button").first.click())
    _changes(exhibit, lambda: page.keyboard.press("Enter"))  # back: it has the focus
    _changes(exhibit, lambda: exhibit.get_by_label("targets").select_option(index=2))
    assert exhibit.locator(".lcl-target").count() > 0
    exhibit.get_by_label("targets").focus()
    _changes(exhibit, lambda: page.keyboard.press("ArrowDown"))


def _board(page: Page, exhibit: Locator) -> None:
    show = exhibit.get_by_label("show")
    _changes(exhibit, lambda: exhibit.get_by_label("compared with").select_option(index=0))  # a run compared with itself
    _changes(exhibit, lambda: exhibit.get_by_label("compared with").select_option(index=1))
    show.focus()
    _changes(exhibit, lambda: page.keyboard.press("ArrowDown"))
    assert exhibit.locator("table tbody tr").count() > 5
    _changes(exhibit, lambda: _choose(page, exhibit, "split"))
    assert exhibit.get_by_label("split").evaluate("select => select === document.activeElement"), "the focus was lost"
    _changes(exhibit, lambda: show.select_option(index=2))
    _changes(exhibit, lambda: _choose(page, exhibit, "found by"))
    _changes(exhibit, lambda: exhibit.get_by_label("direction", exact=True).select_option(index=1))
    if exhibit.get_by_role("slider").count():
        _changes(exhibit, lambda: _slide(page, exhibit, "which"))


def _map(page: Page, exhibit: Locator) -> None:
    plane = exhibit.locator("canvas").nth(1)
    plane.scroll_into_view_if_needed()
    box = plane.bounding_box()

    def lasso() -> None:
        corners = [(0.15, 0.15), (0.85, 0.15), (0.85, 0.5), (0.85, 0.85), (0.15, 0.85), (0.15, 0.5), (0.15, 0.2)]
        at = [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in corners]
        page.mouse.move(*at[0])
        page.mouse.down()
        for x, y in at[1:]:
            page.mouse.move(x, y, steps=3)
        page.mouse.up()

    _changes(exhibit, lasso)
    assert exhibit.locator(".lcl-gallery figure").count() > 0 and "gathered" in _says(exhibit)
    plane.focus()
    _changes(exhibit, lambda: page.keyboard.press("Escape"))
    assert exhibit.locator(".lcl-gallery figure").count() == 0
    _changes(exhibit, lambda: page.keyboard.press("ArrowRight"))
    _changes(exhibit, lambda: page.keyboard.press("ArrowUp"))
    _changes(exhibit, lambda: page.keyboard.press("+"), words=False)
    _changes(exhibit, lambda: page.keyboard.press("Enter"))
    _changes(exhibit, lambda: exhibit.get_by_label("colour").select_option(index=1), words=False)
    _choose(page, exhibit, "map")


def _curves(page: Page, exhibit: Locator) -> None:
    assert "Done." in _says(exhibit) or "Stopped." in _says(exhibit)
    _changes(exhibit, lambda: _slide(page, exhibit, "smoothing", "End"), words=False)
    panel = exhibit.locator("svg").first
    _changes(exhibit, lambda: panel.hover(position={"x": 150, "y": 100}))
    _changes(exhibit, lambda: page.mouse.move(0, 0))
    panel.focus()
    _changes(exhibit, lambda: page.keyboard.press("ArrowLeft"))
    _changes(exhibit, lambda: exhibit.get_by_label("logarithmic loss").check(), words=False)


def _search(page: Page, exhibit: Locator) -> None:
    words = exhibit.get_by_label("sentence", exact=True)
    words.fill("a red boat and a cat")
    _changes(exhibit, lambda: words.press("Enter"))
    assert exhibit.locator("figure img").count() > 1 and "the nearest of" in _says(exhibit)
    words.fill("")
    _changes(exhibit, lambda: exhibit.get_by_role("button", name="search", exact=True).click())
    exhibit.get_by_text("say what to look for").wait_for()
    _changes(exhibit, lambda: exhibit.get_by_role("button", name="open the folder").click(), picture=False)  # none is shown yet
    dropped = exhibit.get_by_label("or drop pictures here")
    dropped.set_input_files([{"name": "page.png", "mimeType": "image/png", "buffer": b"<html>404 Not Found</html>"}])
    exhibit.get_by_text("page.png was not added").wait_for()
    words.fill("a red boat and a cat")
    _changes(exhibit, lambda: words.press("Enter"))


def explorers(page: Page) -> int:
    """Move the first slider and the first dropdown of every explorer, by keyboard: each time the kernel draws another picture.

    Returns how many explorers there are. (An arrow that opens no list is JupyterLab's: it goes to the next cell.)
    """
    found = page.locator(".jp-NotebookPanel .jp-OutputArea-output:has(.widget-slider):has(img)")
    for number in range(found.count()):
        explorer = found.nth(number)
        _press(page, explorer.locator(".noUi-handle").first, explorer.locator("img").last, "ArrowRight")
        if explorer.locator("select").count():
            _press(page, explorer.locator("select").first, explorer.locator("img").last, "Space", "ArrowDown", "Enter")
    return found.count()


def _press(page: Page, control: Locator, picture: Locator, *keys: str) -> None:
    """Press keys on a control; the picture has to follow."""
    before = picture.get_attribute("src")
    control.focus()
    for key in keys:
        page.keyboard.press(key)
    for _ in range(200):
        if picture.get_attribute("src") != before:
            break
        time.sleep(0.05)
    assert picture.get_attribute("src") != before, "the explorer's picture did not follow its control"


HANDS = {
    "alignment": _alignment,
    "labels": _labels,
    "guesser": _guesser,
    "neighbours": _neighbours,
    "map": _map,
    "board": _board,
    "curves": _curves,
    "search": _search,
}
"""By kind, what one does with an exhibit."""
