"""JupyterLab in a real browser that reaches nothing but this machine."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import nbformat
from chapters import quick
from playwright.sync_api import Locator, Page, Playwright

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
QUIET = {  # nothing asks for news, and every cell stays in the page
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    "notebook-extension/tracker": {"windowingMode": "none"},
    "docmanager-extension/plugin": {"autosave": False},
}


def find_browser() -> str | None:
    """The browser that is installed, if any."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


@dataclass
class Lab:
    """A running JupyterLab over a copy of the notebooks, and a browser. base: its address. refused: requests elsewhere."""

    base: str
    token: str
    browser: object
    notebooks: Path
    refused: list[str] = field(default_factory=list)

    @contextlib.contextmanager
    def open(self, path: str) -> Iterator["Sheet"]:
        """A notebook in a page of its own, its kernel idle; afterwards the kernel is ended."""
        page = self.browser.new_page(viewport={"width": 1280, "height": 1000})
        page.set_default_timeout(20_000)
        sheet = Sheet(page)
        page.on("pageerror", lambda error: sheet.errors.append(str(error)))
        page.route("**/*", self._guard)
        try:
            page.goto(f"{self.base}/lab/tree/{path}?token={self.token}&reset")
            page.wait_for_selector("#jupyterlab-splash", state="detached")
            # the toolbar says "idle" before any kernel exists; the status bar tells the truth
            page.locator("#jp-main-statusbar").get_by_text(re.compile(r"\| Idle$")).wait_for(timeout=90_000)
            yield sheet
        finally:
            with contextlib.suppress(Exception):
                page.evaluate("() => window.jupyterapp.serviceManager.sessions.shutdownAll()")
            page.close()

    def _guard(self, route) -> None:
        if route.request.url.startswith((self.base, self.base.replace("http", "ws", 1), "data:", "blob:")):
            return route.continue_()
        self.refused.append(route.request.url)
        return route.abort()


@dataclass
class Sheet:
    """An open notebook. errors: what the page itself met."""

    page: Page
    errors: list[str] = field(default_factory=list)

    def run_all(self, seconds: float) -> None:
        """Run every cell and wait until all have run."""
        cells = "window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code')"
        forget = f"{cells}.forEach(cell => {{ cell.model.executionCount = null; }});"  # the counts that were committed
        self.page.evaluate(f"() => {{ {forget} window.jupyterapp.commands.execute('notebook:run-all-cells') }}")
        done = "cell => cell.model.executionCount && cell.model.executionState === 'idle'"
        self.page.wait_for_function(f"() => {cells}.every({done})", timeout=seconds * 1000)

    def failures(self) -> list[str]:
        """The texts of outputs that tell of an error."""
        found = self.page.locator(".jp-NotebookPanel [data-mime-type='application/vnd.jupyter.error']")
        return found.all_inner_texts()

    def exhibits(self) -> list[tuple[str, Locator]]:
        """The exhibits on the page, with their kinds."""
        found = self.page.locator(".jp-NotebookPanel [data-lcl]")
        return [(found.nth(n).get_attribute("data-lcl"), found.nth(n)) for n in range(found.count())]


@contextlib.contextmanager
def running_lab(work: Path, executable: str, driver: Playwright) -> Iterator[Lab]:
    """A browser, and JupyterLab in the smoke profile over copies of the notebooks in `work`, without their longest cells."""
    root = work / "course"
    root.mkdir()
    for path in ROOT.iterdir():
        if path.name not in ("notebooks", ".git", "runs"):
            (root / path.name).symlink_to(path)
    shutil.copytree(ROOT / "notebooks", root / "notebooks", ignore=shutil.ignore_patterns(".ipynb_checkpoints"))
    for path in (root / "notebooks").glob("*.ipynb"):
        nbformat.write(quick(path), path)
    for name, settings in QUIET.items():
        path = work / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(settings))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, base = secrets.token_hex(16), f"http://127.0.0.1:{port}"
    environment = os.environ | {
        "LCL_PROFILE": "smoke", "OMP_NUM_THREADS": "1", "JUPYTER_PLATFORM_DIRS": "1", "HOME": str(work),
        "JUPYTERLAB_SETTINGS_DIR": str(work / "settings"), "JUPYTER_RUNTIME_DIR": str(work / "runtime"),
    }  # fmt: skip
    command = [
        sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
        "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={root}",
        "--LabApp.expose_app_in_browser=True",
    ]  # fmt: skip
    with (work / "lab.log").open("w") as log:
        server = subprocess.Popen(command, cwd=root, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        for _ in range(400):
            assert server.poll() is None, (work / "lab.log").read_text()
            try:
                urllib.request.urlopen(f"{base}/api?token={token}", timeout=2).close()
                break
            except OSError:
                time.sleep(0.25)
        browser = driver.chromium.launch(
            executable_path=executable, headless=True,
            args=["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
                  "--disable-component-update", "--no-first-run"],
        )  # fmt: skip
        yield Lab(base, token, browser, root / "notebooks")
        browser.close()
    finally:
        server.terminate()
        server.wait(15)
