"""A real browser, which keeps account of what pages say and ask for."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

PHONE = {"width": 390, "height": 800}
DESK = {"width": 1280, "height": 800}


class Browser:
    """A page in headless Chromium, with what was written to its console and what it asked for."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.complaints: list[str] = []
        self.asked: list[str] = []
        page.on("console", lambda message: self.complaints.append(f"{page.url}: {message.text}"))
        page.on("pageerror", lambda error: self.complaints.append(f"{page.url}: {error}"))
        page.on("requestfailed", lambda request: self.complaints.append(f"{page.url}: {request.url} failed"))
        page.on("request", lambda request: self.asked.append(request.url))

    def open(self, path: Path, anchor: str = "") -> Any:
        """Open a file and wait until all of it is there."""
        self.page.goto(path.as_uri() + anchor)
        return self.page

    def violations(self, *rules: str) -> list[str]:
        """What axe finds wrong with the page that is open, by all rules unless some are given."""
        from axe_playwright_python.sync_playwright import Axe

        # Its reading of style sheets would be a request, which pages from files may not make.
        options: dict[str, Any] = {"preload": False}
        if rules:
            options["runOnly"] = list(rules)
        found = Axe().run(self.page, options=options).response["violations"]
        return [f"{self.page.url}: {v['id']} {[node['target'] for node in v['nodes'][:3]]}" for v in found]


@contextmanager
def browsing() -> Iterator[Browser]:
    """A browser for a while; where there is none, tests that need one say so."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed (surgeline[dev])")
    program = shutil.which("chromium")
    if program is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    with playwright.sync_playwright() as started:
        chromium = started.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-quic"])
        try:
            yield Browser(chromium.new_page(viewport=DESK))
        finally:
            chromium.close()
