"""Every slide fits a small laptop's window, or says that it goes on below it."""

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright, which drives the browser, is not installed")
import lab  # noqa: E402

import slides  # noqa: E402

pytestmark = pytest.mark.skipif(
    lab.find_browser() is None, reason="no browser is installed (chromium or google-chrome)"
)


@pytest.fixture(scope="module")
def browser(driver):
    started = driver.chromium.launch(executable_path=lab.find_browser(), args=["--no-sandbox", "--disable-gpu"])
    yield started
    started.close()


@pytest.fixture
def window(browser):
    page = browser.new_page(viewport={"width": 1366, "height": 768})
    yield page
    page.close()


def heights(window) -> list[int]:
    return window.locator("section").evaluate_all("slides => slides.map(slide => slide.offsetHeight)")


def shown(window, lines: int, notes: str = "") -> None:
    slide = {"shown": "<h2>Tall</h2>" + "<p>A sentence.</p>" * lines, "notes": notes}
    window.set_content(slides.PAGE.render(title="Slides", slides=[slide, {"shown": "<h2>Short</h2>", "notes": ""}]))


def test_a_tall_slide_is_made_smaller(window):
    shown(window, 11)
    assert heights(window) == [768, 768] and window.locator("#more").is_hidden()
    assert window.locator("section").first.evaluate("slide => getComputedStyle(slide).getPropertyValue('--fit') < 1")


def test_a_slide_that_stays_too_tall_says_that_it_goes_on(window):
    shown(window, 60)
    assert heights(window)[0] > 768 and window.locator("#more").is_visible()
    window.evaluate("scrollTo(0, document.body.scrollHeight)")
    window.locator("#more").wait_for(state="hidden")


def test_notes_that_do_not_fit_are_hinted_at_and_change_no_size(window):
    shown(window, 3, notes="<p>A note.</p>" * 60)
    assert heights(window) == [768, 768]
    window.keyboard.press("n")
    assert window.locator("#more").is_visible()
    window.keyboard.press("n")
    assert window.locator("#more").is_hidden() and heights(window) == [768, 768]


@pytest.mark.parametrize("stem", ["05_bipartite_matching", "11_to_cc3m_scale"])
def test_no_slide_of_a_chapter_is_wider_or_taller_than_the_window(stem, window):
    title, found = slides.slides_of(slides.ROOT / "notebooks" / f"{stem}.ipynb")
    window.set_content(slides.PAGE.render(title=title, slides=found))
    window.wait_for_function("document.readyState === 'complete'")
    assert max(heights(window)) == 768
    assert window.evaluate("document.documentElement.scrollWidth <= innerWidth")
