"""Weblogs over HTTP: their pages work as they do from files, and nothing else of a folder is served."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from urllib.parse import urljoin

import pytest

from report.chromium import browsing
from report.reported import a_record, fill
from serve.serving import Server, serving
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report.weblog import write_weblog


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = SessionPaths(tmp_path_factory.mktemp("served") / "run")
    fill(paths, a_record())
    with closing(Context(paths.context)) as context:
        write_weblog(paths, a_record(), context)
    (paths.workdir / "pictures" / "page.html").write_text("<script>alert(1)</script>")
    (paths.workdir / "weblog" / "away").symlink_to("/etc/passwd")
    (paths.logs / "surgeline-1").mkdir(parents=True)
    (paths.logs / "surgeline-1" / "key.pem").write_text("secret")
    return paths.workdir


@pytest.fixture(scope="module")
def weblog(folder: Path) -> Iterator[tuple[Server, str]]:
    """A server, and where it has the session's folder."""
    with serving(folder) as server:
        yield server, server.session("run")


def test_pages_come_with_all_that_they_link_to(weblog: tuple[Server, str], folder: Path) -> None:
    server, session = weblog
    with browsing() as browser:
        page = browser.page
        page.goto(server.url + "sessions")
        page.get_by_role("link", name="run").click()
        assert page.locator("h1").inner_text() == "Spectral line"
        page.wait_for_load_state("networkidle")
        assert (
            page.evaluate("[...document.images].filter((image) => image.complete && image.naturalWidth).length") >= 4
        )
        links = {link.get_attribute("href") for link in page.locator("a[href]").all()}
        page.get_by_role("link", name="Timeline").first.click()
        page.locator("#jobs th", has_text="Seconds").get_by_role("button").click()
        assert page.locator("#jobs th[aria-sort]").count() == 1
        assert browser.complaints == []
        assert all(url.startswith((server.url, "data:")) for url in browser.asked)
    for link in links:
        assert server.get(urljoin(f"{session}/weblog/index.html", str(link).partition("#")[0])).status == 200, link


def test_with_a_token_a_browser_comes_by_the_link(folder: Path) -> None:
    with serving(folder, SURGELINE_SERVE_TOKEN="correct-horse-battery-staple") as server:
        with browsing() as browser:
            page = browser.page
            page.goto(server.told[0].removeprefix("for one browser: "))
            page.get_by_role("link", name="weblogs").click()
            page.get_by_role("link", name="run").click()
            assert page.locator("h1").inner_text() == "Spectral line"
            page.wait_for_load_state("networkidle")
            assert page.evaluate("[...document.images].filter((image) => image.naturalWidth).length") >= 4
            assert browser.complaints == []
        assert server.get("/sessions").status == 401
        assert server.stop() == 0
        assert [line.partition(":")[0] for line in server.rest] == ["for one browser"]
        server.rest.clear()


def test_the_folder_itself_leads_to_home(weblog: tuple[Server, str]) -> None:
    server, session = weblog
    assert server.get(f"{session}/weblog").headers["location"] == f"{session}/weblog/index.html"


def test_only_pages_may_run_scripts_and_products_are_saved(weblog: tuple[Server, str]) -> None:
    server, session = weblog
    page = server.get(f"{session}/weblog/index.html")
    assert "script-src 'self'" in page.headers["content-security-policy"]
    for path in ("products/ngc5921%20cube.fits", "pictures/page.html"):
        answer = server.get(f"{session}/{path}")
        assert answer.headers["content-disposition"].startswith("attachment")
        assert "sandbox" in answer.headers["content-security-policy"]
    log = server.get(f"{session}/logs/casa-worker-0.log")
    assert log.headers["content-type"] == "text/plain" and b"all is well" in log.body


@pytest.mark.parametrize(
    "path",
    ["context.db", "run.json", "data/x", "weblog/away", "weblog/../context.db", "weblog/%2e%2e/context.db",
     "weblog/none.html", "weblog//etc/passwd", "pictures", "logs/surgeline-1/key.pem"],
)  # fmt: skip
def test_nothing_else_is_served(weblog: tuple[Server, str], path: str) -> None:
    server, session = weblog
    assert server.get(f"{session}/{path}").status in (403, 404)
