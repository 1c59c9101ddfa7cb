"""The site in a real browser, opened from a folder, with every request to elsewhere refused: all pages, in light and dark, on a
wide page and on a phone; every interactive figure by mouse and by keyboard. Pictures of each are kept in `build/browser/`."""

import functools
import http.server
import json
import threading

import pytest
from filelock import FileLock

playwright = pytest.importorskip("playwright", reason="playwright, which drives the browser, is not installed")
import hands  # noqa: E402
import lab  # noqa: E402
from test_browser import SHOWN  # noqa: E402

from website import exhibits, place  # noqa: E402
from website.build import build  # noqa: E402

PICTURES = lab.ROOT / "build" / "browser" / "site"
LOOKS = {"light-wide": ("light", 1280, 900), "dark-wide": ("dark", 1280, 900),
         "light-phone": ("light", 400, 800), "dark-phone": ("dark", 400, 800)}  # fmt: skip

pytestmark = pytest.mark.skipif(
    lab.find_browser() is None, reason="no browser is installed (chromium or google-chrome); `make site` runs without one"
)


class Visit:
    """A page that opens from the site's folder. problems: what went wrong in it, and what it asked of others."""

    def __init__(self, browser, look: str):
        theme, width, height = LOOKS[look]
        self.context = browser.new_context(
            viewport={"width": width, "height": height}, color_scheme=theme, offline=True, reduced_motion="reduce"
        )
        self.page, self.problems = self.context.new_page(), []
        self.page.set_default_timeout(60_000)
        self.page.on("pageerror", lambda error: self.problems.append(str(error)))
        self.page.on("console", lambda said: self.problems.append(said.text) if said.type in ("error", "warning") else None)
        self.page.on("requestfailed", lambda request: self.problems.append(f"failed: {request.url[:200]}"))
        self.page.route("http*://**", lambda route: (self.problems.append(route.request.url), route.abort()))

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.context.close()


@pytest.fixture(scope="module")
def made():
    """All interactive figures, as `make site` makes them; two processes that test side by side make them once."""
    exhibits.KEPT.mkdir(parents=True, exist_ok=True)
    with FileLock(exhibits.KEPT / "lock"):
        return list(exhibits.figures([path.stem for path in place.chapters()]))


@pytest.fixture(scope="module")
def site(made, tmp_path_factory):
    """The folder of a site, and its pages."""
    folder = tmp_path_factory.mktemp("a site") / "below" / "é"  # no letter of its path may matter
    return folder, build(folder, made)


@pytest.fixture(scope="module")
def browser(driver):
    started = driver.chromium.launch(executable_path=lab.find_browser(), args=["--no-sandbox", "--disable-gpu"])
    yield started
    started.close()


@pytest.mark.parametrize("look", LOOKS)
def test_every_page_opens_and_fits(look, site, browser):
    folder, pages = site
    (PICTURES / look).mkdir(parents=True, exist_ok=True)
    with Visit(browser, look) as visit:
        for each in pages:
            visit.page.goto((folder / each.name).as_uri())
            wide = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1], f"{each.name} is {wide[0]} pixels wide, and the window only {wide[1]}"
            cut = visit.page.locator("main pre.output, main .formula").evaluate_all(
                "all => all.filter(one => one.scrollWidth > one.clientWidth + 1).map(one => one.textContent.slice(0, 50))"
            )
            assert not cut or look.endswith("phone"), f"{each.name}: {cut}"
            drawn = visit.page.locator("img.diagram:visible").evaluate_all("all => all.map(one => one.clientWidth)")
            assert all(width > 500 for width in drawn), f"{each.name}: the type of its diagrams is too small"
            back = visit.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (back == "rgb(255, 255, 255)") == look.startswith("light"), each.name
            assert visit.page.locator("main h1").first.is_visible(), each.name
            assert visit.page.locator(".exhibit [data-lcl]").count() == len(each.alive), each.name
            assert all(not text for text in visit.page.locator("[role=alert]").all_inner_texts()), each.name
            visit.page.screenshot(path=PICTURES / look / f"{each.name[:-5]}.jpg", type="jpeg", quality=60)
            assert visit.problems == [], each.name


def test_chapters_show_the_figures_that_their_notebooks_show(site, made):
    """All of them, but those of a training run that no checkpoint saves."""
    _, pages = site
    found = {each.name[:-5]: [figure.kind for figure in each.alive] for each in pages if each.part == "Chapters" and each.alive}
    assert found == {stem: kinds for stem, kinds in SHOWN.items() if stem.partition("_")[2] in exhibits.MAKERS}
    assert sum(map(len, found.values())) == len(made)


@pytest.mark.parametrize("look", ["light-wide", "dark-phone"])
def test_every_interactive_figure_is_used_on_its_page(look, site, browser):
    folder, pages = site
    (PICTURES / "figures").mkdir(parents=True, exist_ok=True)
    used = []
    with Visit(browser, look) as visit:
        for each in pages:
            if not each.alive:
                continue
            visit.page.goto((folder / each.name).as_uri())
            for number, figure in enumerate(each.alive):
                exhibit = visit.page.locator(".exhibit [data-lcl]").nth(number)
                assert exhibit.get_attribute("data-lcl") == figure.kind
                exhibit.scroll_into_view_if_needed()
                hands.HANDS[figure.kind](visit.page, exhibit)
                exhibit.screenshot(path=PICTURES / "figures" / f"{look}-{figure.name}.png")
                assert exhibit.locator("[role=alert]").inner_text() == ""
                used.append(figure.kind)
        assert visit.problems == []
    assert set(used) == set(hands.HANDS) - {"search"}  # which asks a kernel, and a site has none


@pytest.mark.parametrize("look", ["dark-wide", "light-phone"])
def test_every_interactive_figure_opens_alone(look, site, made, browser):
    folder, _ = site
    with Visit(browser, look) as visit:
        visit.page.goto((folder / "figures-alone.html").as_uri())
        links = visit.page.locator("#alone-list a[data-kind]")
        assert links.count() == len(made)
        for number, figure in enumerate(made):
            links.nth(number).focus()
            visit.page.keyboard.press("Enter")
            exhibit = visit.page.locator(f"#alone [data-exhibit='{figure.name}'] [data-lcl='{figure.kind}']")
            exhibit.wait_for()
            assert visit.page.locator("[data-lcl]").count() == 1
            assert exhibit.locator("[role=status]").inner_text()
            wide = visit.page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
            assert wide[0] <= wide[1], figure.name
            hands.HANDS[figure.kind](visit.page, exhibit)
        assert visit.problems == []


def test_search_menu_and_theme_by_keyboard(site, browser):
    folder, _ = site
    with Visit(browser, "light-phone") as visit:
        page, press = visit.page, visit.page.keyboard.press
        page.goto((folder / "index.html").as_uri())
        press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        page.locator("#menu-button").focus()
        assert not page.locator("#menu").is_visible()
        press("Enter")
        assert page.locator("#menu").is_visible()
        press("Enter")
        assert not page.locator("#menu").is_visible()
        page.locator("#theme-button").focus()
        press("Enter")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        press("/")
        page.keyboard.type("sinkhorn log")
        found = page.locator("#found a")
        page.wait_for_function(  # the results of all that was typed; a word of a heading is not marked
            """[...document.querySelectorAll("#found mark")].map(mark => mark.textContent.toLowerCase())
                 .filter(Boolean).sort().join().match(/^(log,)*(sinkhorn,)*sinkhorn$/)"""
        )
        assert found.count() > 2
        assert page.locator("script[src='assets/index.js']").count() == 1
        page.screenshot(path=PICTURES / "search.png")
        press("ArrowDown")
        press("Enter")
        page.wait_for_url(lambda url: "index.html" not in url)
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"  # it was kept
        press("/")
        page.keyboard.type("<img src=x onerror=alert(1)>")
        page.get_by_text("No page has all words of").wait_for()
        assert page.locator("#found img").count() == 0
        press("Escape")
        assert not page.locator("#found").is_visible() and visit.problems == []


def test_the_figure_of_the_first_page_moves_until_it_is_used(site, browser):
    folder, _ = site
    context = browser.new_context(reduced_motion="no-preference")
    page = context.new_page()
    page.goto((folder / "index.html").as_uri())
    pressed = "[...document.querySelectorAll('.moving button')].findIndex(word => word.getAttribute('aria-pressed') === 'true')"
    first = page.evaluate(pressed)
    page.wait_for_function(f"{pressed} !== {json.dumps(first)}")
    page.locator(".moving button").first.focus()
    assert page.evaluate(pressed) == 0
    page.wait_for_timeout(3000)
    assert page.evaluate(pressed) == 0
    context.close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder and writes no log."""

    def log_message(self, *_):
        pass


def test_it_works_below_any_address(site, browser):
    folder, pages = site
    handler = functools.partial(Quiet, directory=folder.parent.parent)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    base = f"http://127.0.0.1:{server.server_port}/below/%C3%A9/"
    context = browser.new_context()
    page, elsewhere, failed = context.new_page(), [], []
    page.on("request", lambda request: None if request.url.startswith((base, "data:")) else elsewhere.append(request.url))
    page.on("response", lambda response: failed.append(response.url) if response.status >= 400 else None)
    page.goto(base)
    page.locator(".moving [data-lcl]").wait_for()
    alive = next(each for each in pages if each.alive and each.name != "index.html")
    page.locator(f"#menu a[href='{alive.name}']").click()
    page.locator(".exhibit [data-lcl]").first.wait_for()
    page.locator("#query").fill("bank")
    page.locator("#found a").first.click()
    context.close()
    server.shutdown()
    assert elsewhere == [] and failed == []
