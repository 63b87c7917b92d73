"""A real browser: the system's Chromium, driven by Playwright; and real Jupyter servers for it to look at.

Screenshots go to pytest's folder for the run, below `browser-shots`: look at them after a change.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import ipywidgets
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    *("--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--disable-dev-shm-usage"),
]
SECONDS = 120  # for a page of Jupyter's, a server or a cell, on a busy machine
ELSEWHERE = re.compile(r"^https?://(?!(127\.0\.0\.1|localhost|\[::1\])[:/])")
expect.set_options(timeout=SECONDS * 1000)


@pytest.fixture(scope="session", autouse=True)
def chromium_first(chromium):
    """Without it, skip before a site or a graded class is made only to be looked at."""


@pytest.fixture(scope="session")
def widgets():
    """What a page with widgets needs; with the oldest releases it is skipped."""
    if ipywidgets.__version__.startswith("7."):
        pytest.skip("JupyterLab 4 draws no widgets of ipywidgets 7, which Colab has: pip takes 8")


@pytest.fixture(scope="module")
def browser(chromium):
    """Chromium with a fresh profile; for one module only, because while it runs nothing else here may use asyncio."""
    with sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=chromium, headless=True, args=FLAGS)
        yield found
        found.close()


@pytest.fixture
def page(browser):
    """A page in a profile of its own. `page.errors` has what the console called an error, and exceptions of scripts."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    context.set_default_timeout(SECONDS * 1000)
    # formgrader asks for MathJax from elsewhere, and a page has loaded only when that has come, or failed
    context.route(ELSEWHERE, lambda route: route.abort())
    opened = context.new_page()
    opened.errors = []
    opened.on("console", lambda m: opened.errors.append(f"{m.text} ({m.location})") if m.type == "error" else None)
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    yield opened
    context.close()


@pytest.fixture(scope="session")
def shot(tmp_path_factory):
    """`shot(page, name)` keeps a picture of what is shown."""
    folder = tmp_path_factory.mktemp("browser-shots")

    def save(page: Page, name: str, whole: bool = False) -> None:
        page.screenshot(path=folder / f"{name}.png", full_page=whole)

    return save


@pytest.fixture(scope="session")
def grave():
    """`grave(page)`: axe-core's serious and critical findings, one text each."""
    axe = Axe()

    def look(page: Page) -> list[str]:
        found = axe.run(page).response["violations"]
        return [
            f"{v['id']} ({v['impact']}): {v['help']}: " + "; ".join(str(node["target"]) for node in v["nodes"][:5])
            for v in found
            if v["impact"] in ("serious", "critical")
        ]

    return look


@pytest.fixture(scope="module")
def jupyter(tmp_path_factory):
    """`jupyter(folder)` starts JupyterLab there, as a fresh user; its `.url` ends in a slash."""
    started = []

    def start(folder: Path, *options: str) -> SimpleNamespace:
        home = tmp_path_factory.mktemp("home")
        settings = home / "config" / "lab" / "user-settings" / "@jupyterlab" / "notebook-extension"
        settings.mkdir(parents=True)
        # all cells are in the page, also those that are not on the screen: a test finds them by what they hold
        (settings / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
        (home / "config" / "labconfig").mkdir()
        news = {"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": True}}  # asks to go online
        (home / "config" / "labconfig" / "page_config.json").write_text(json.dumps(news))
        keep = {name: value for name, value in os.environ.items() if not name.startswith(("JUPYTER", "PYTHONPATH"))}
        environment = keep | {"HOME": str(home), "LORA_PROFILE": "tiny", "MPLCONFIGDIR": str(home)}
        for name in ("config", "data", "runtime"):
            environment[f"JUPYTER_{name.upper()}_DIR"] = str(home / name)
        environment |= {"IPYTHONDIR": str(home / "ipython"), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ServerApp.port=0"]
        command += ["--IdentityProvider.token=", "--ServerApp.password=", *options]
        log = home / "server.log"
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=subprocess.STDOUT)
        started.append(process)
        until = time.monotonic() + SECONDS
        while time.monotonic() < until and process.poll() is None:
            for file in (home / "runtime").glob("jpserver-*.json"):
                try:
                    return SimpleNamespace(url=json.loads(file.read_text())["url"], log=log)
                except (ValueError, KeyError):  # half written
                    pass
            time.sleep(0.1)
        pytest.fail(f"JupyterLab did not start:\n{log.read_text()[-3000:]}")

    yield start
    for process in started:
        process.terminate()
    for process in started:
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
