"""Every page of ours loads without an error, fits a telephone, and hides nothing from a screen reader."""

from __future__ import annotations

import functools
import http.server
import os
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from autograder.demo import Grade, overview
from autograder.evaluation import Result
from autograder.exercises import STAGES
from autograder.publish.release import start_page
from lora_ref.checks.verdicts import Fault, Verdict


def look(page, shot, grave, url: str, name: str) -> None:
    """Open a page as wide as a screen and as a telephone; it must have no error and nothing grave."""
    page.errors.clear()
    page.goto(url)
    page.wait_for_load_state("load")
    shot(page, name)
    assert page.errors == [], name  # before axe looks for style sheets in places of its own
    assert grave(page) == [], name
    page.set_viewport_size({"width": 390, "height": 800})
    wide = page.evaluate("document.documentElement.scrollWidth")
    shot(page, f"{name}-narrow")
    page.set_viewport_size({"width": 1280, "height": 900})
    assert wide <= 390, f"{name} is {wide} wide on a telephone of 390"


def test_the_start_page_of_the_students_zip(page, shot, grave, tmp_path):
    (tmp_path / "START.html").write_text(start_page("lora_ref-0.1.0-py3-none-any.whl", list(STAGES), None))
    look(page, shot, grave, (tmp_path / "START.html").as_uri(), "start")


def test_the_demos_overview(page, shot, grave, tmp_path):
    fault = Fault("16.0, expected 2.0", "the division by rank is missing", read="section 2.1")
    failed = Result("2.1", "LoRALayer", 4, (Verdict("2.1/scaling", "scaling is alpha / rank", 4, fault),))
    grades = [
        Grade("complete", "02_lora_layer", 22.0, 22.0, 3.0, failed=None),
        Grade("buggy", "02_lora_layer", 15.25, 22.0, 3.0, failed),
    ]
    (tmp_path / "index.html").write_text(overview(grades, list(STAGES), "no bwrap on the PATH"))
    # the smallest picture there is: the page's own errors are wanted, not those of a missing file
    dot = "89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000154a24f5f"
    (tmp_path / "training_comparison.png").write_bytes(bytes.fromhex(dot + "0000000049454e44ae426082"))
    look(page, shot, grave, (tmp_path / "index.html").as_uri(), "demo")


@pytest.fixture(scope="module")
def served(request):
    """The site: the folder that LORA_SITE names, or else the one that is built without running the notebooks."""
    folder = Path(os.environ.get("LORA_SITE") or request.getfixturevalue("site"))
    handler = functools.partial(Quiet, directory=str(folder))
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)  # pages from files may not load each other
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield SimpleNamespace(folder=folder, url=f"http://127.0.0.1:{server.server_port}/")
    server.shutdown()
    server.server_close()


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files and keeps the log to itself."""

    def log_message(self, *_):
        pass


@pytest.mark.parametrize("name", ["index", "stages/02_lora_layer", "instructor_guide", "search"])
def test_a_page_of_the_site(served, page, shot, grave, name):
    look(page, shot, grave, f"{served.url}{name}.html", f"site-{name.replace('/', '-')}")


@pytest.mark.slow
def test_every_page_of_the_site(served, page, shot, grave):
    pages = [file.relative_to(served.folder).as_posix() for file in sorted(served.folder.rglob("*.html"))]
    pages = [name for name in pages if "_static/" not in name]
    assert len(pages) > 10
    for name in pages:
        look(page, shot, grave, f"{served.url}{name}", "site-" + name.removesuffix(".html").replace("/", "-"))
