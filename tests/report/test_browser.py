"""The weblog in a real browser, from files, as somebody opens it who was sent a working folder."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from report.chromium import DESK, PHONE, Browser, browsing
from report.reported import (
    START,
    a_job,
    a_large_record,
    a_record,
    a_stage,
    an_observation,
    begin_folder,
    facts_of_calibration,
    fill,
)
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report.comparison import write_comparison
from surgeline.report.weblog import write_weblog

# What a browser lays out in a fraction of a second on any machine.
MOST_NODES = 40_000
MOST_BYTES = 3_000_000


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with browsing() as found:
        yield found


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    paths = SessionPaths(tmp_path_factory.mktemp("rich") / "run")
    record = a_record()
    # Of each kind of page a few are enough.
    record["stages"] = [record["stages"][number] for number in (0, 4, 6, 9)]
    fill(paths, record)
    with closing(Context(paths.context)) as context:
        write_weblog(paths, record, context)
    write_comparison(paths, paths, paths.workdir / "compared")
    return paths.workdir


def test_every_page_is_quiet_local_and_accessible(rich: Path, browser: Browser) -> None:
    browser.complaints.clear()
    browser.asked.clear()
    violations = []
    for path in sorted([*rich.glob("weblog/*.html"), *rich.glob("compared/*.html")]):
        page = browser.open(path)
        page.emulate_media(color_scheme="light")
        page.evaluate("document.querySelectorAll('main details').forEach((part) => { part.open = true; })")
        violations += browser.violations()
        page.emulate_media(color_scheme="dark")
        page.set_viewport_size(PHONE)
        violations += browser.violations()
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path.name
        page.set_viewport_size(DESK)
    assert violations == []
    assert browser.complaints == []
    here = (f"{rich.as_uri()}/", "data:")
    assert [url for url in browser.asked if not url.startswith(here)] == []


def test_without_a_mouse_all_can_be_reached(rich: Path, browser: Browser) -> None:
    page = browser.open(next(rich.glob("weblog/stage-*-make_images.html")))
    wanted = page.evaluate(
        """() => { const all = document.querySelectorAll(
            'a[href]:not([tabindex="-1"]), button, summary, input, .scroll, pre');
        const seen = [...all].filter((part) => part.checkVisibility() && part.getClientRects().length);
        seen.forEach((part, number) => { part.dataset.reach = number; }); return seen.length; }"""
    )
    reached = set()
    for _ in range(wanted + 5):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.dataset.reach"))
    assert {str(number) for number in range(wanted)} <= reached
    # The first of all leads past the menu.
    page.reload()
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.closest('main') !== null")


def test_tables_are_sorted_and_filtered(rich: Path, browser: Browser) -> None:
    page = browser.open(next(rich.glob("weblog/stage-*-make_images.html")))
    rows = page.locator("#jobs tbody tr")
    header = page.locator("#jobs th", has_text="Seconds").get_by_role("button")
    header.click()
    seconds = [float(row.locator("td").nth(3).inner_text()) for row in rows.all()]
    assert seconds == sorted(seconds) and len(seconds) == 21
    header.click()
    assert float(rows.first.locator("td").nth(3).inner_text()) == max(seconds)
    page.get_by_role("searchbox", name="Filter: Jobs of make_images").fill("failed")
    assert [row.locator("th").inner_text() for row in rows.all() if row.is_visible()] == ["make_images 12"]


def test_a_cube_is_gone_through_channel_by_channel_with_the_keyboard(rich: Path, browser: Browser) -> None:
    page = browser.open(next(rich.glob("weblog/image-*cube.html")))
    slider = page.get_by_role("slider", name="Channel")
    slider.focus()
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    assert page.locator(".planes img").get_attribute("src").endswith("/pictures/plane-2.png")
    assert page.locator(".planes output").inner_text() == "channel 2, 1.412749 GHz"
    page.get_by_role("button", name="Channel before").click()
    assert slider.get_attribute("aria-valuetext") == "channel 1, 1.412724 GHz"


def test_a_picture_opens_large_and_arrows_lead_to_the_next(rich: Path, browser: Browser) -> None:
    page = browser.open(rich / "weblog" / "index.html")
    page.locator("a.enlarge").first.click()
    shown = page.locator("dialog img")
    assert shown.is_visible()
    first = shown.get_attribute("src")
    page.keyboard.press("ArrowRight")
    assert shown.get_attribute("src") != first
    page.keyboard.press("Escape")
    assert not shown.is_visible()


def test_on_a_phone_the_menu_opens_when_it_is_asked_for(rich: Path, browser: Browser) -> None:
    page = browser.open(rich / "weblog" / "index.html")
    page.set_viewport_size(PHONE)
    menu = page.get_by_role("navigation", name="Pages")
    assert not menu.is_visible()
    page.get_by_role("button", name="Menu").click()
    menu.get_by_role("link", name="Timeline").click()
    assert page.locator("h1").inner_text() == "Timeline"
    page.set_viewport_size(DESK)


def test_a_link_into_a_closed_part_opens_it(rich: Path, browser: Browser) -> None:
    page = browser.open(rich / "weblog" / "timeline.html")
    page.locator("#jobs a", has_text="make_images 12").click()
    assert page.locator("tr:target th").inner_text() == "make_images 12"


def test_many_jobs_and_antennas_make_no_page_that_is_slow_to_open(browser: Browser, tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path / "run")
    record = a_large_record(500)
    with closing(begin_folder(paths, record)) as context:
        observation = an_observation()
        antennas = [observation.antennas[0].model_copy(update={"id": n, "name": f"A{n}"}) for n in range(30)]
        context.commit("import", [observation.model_copy(update={"antennas": tuple(antennas)})])
        context.commit("gaincal", facts_of_calibration())
        write_weblog(paths, record, context)
    for path in paths.weblog.parent.glob("*.html"):
        assert path.stat().st_size < MOST_BYTES, path.name
        page = browser.open(path)
        assert page.evaluate("document.querySelectorAll('*').length") < MOST_NODES, path.name


@pytest.mark.parametrize("state", ["running", "failed", "nothing"])
def test_pages_of_unfinished_sessions_are_accessible_too(browser: Browser, tmp_path: Path, state: str) -> None:
    paths = SessionPaths(tmp_path / "run")
    stages = [a_stage("import", "running", started=START), a_stage("flag")]
    if state == "failed":
        failure = {"kind": "exception", "message": "no <rows>", "traceback": "Traceback"}
        job = a_job("read", START, 3.0, 0, state="failed", failure=failure)
        stages = [a_stage("import", "failed", started=START, ended=START + 4, error="no rows", jobs=[job])]
    record = {} if state == "nothing" else a_record(state=state, stages=stages, ended=None, error="no rows")
    with closing(begin_folder(paths, record)) as context:
        write_weblog(paths, record, context)
    browser.complaints.clear()
    violations = []
    for name in ("index", "timeline", "stage-1-import"):
        if (paths.weblog.parent / f"{name}.html").exists():
            browser.open(paths.weblog.parent / f"{name}.html")
            violations += browser.violations()
    assert violations == []
    assert browser.complaints == []


def test_a_page_of_a_running_session_follows_it_and_keeps_what_was_opened(browser: Browser, tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path / "run")
    jobs = [a_job(f"read-{number:02}", START + number, 0.5, 0) for number in range(20)]
    stages = [
        a_stage("import", "finished", started=START, ended=START + 3, jobs=jobs),
        a_stage("flag", "running", started=time.time()),
    ]
    record = a_record(state="running", stages=stages, ended=None)
    record["stages"][0]["jobs"][0]["log"] = ["2026-10-09 09:00:00\tWARN\tflagdata::\tbeware"]
    with closing(begin_folder(paths, record)) as context:
        folder = write_weblog(paths, record, context).parent
        browser.complaints.clear()
        page = browser.open(folder / "stage-1-import.html")
        # What runs is told beside the stages, though the page itself has not changed since.
        page.locator("nav a[href^=stage-2] .state.running").wait_for(state="attached")
        page.locator("summary", has_text="line of CASA's log").click()
        page.get_by_role("searchbox").fill("read-07")
        record["stages"][0]["arguments"] = {"flux": ["told later"]}
        write_weblog(paths, record, context)
        page.get_by_text("told later").wait_for()
        page.locator("#jobs tbody:not(:has(tr:not([hidden]) ~ tr:not([hidden])))").wait_for()
        assert page.get_by_role("searchbox").input_value() == "read-07"
        assert page.evaluate("document.activeElement.className") == "filter"
        assert page.locator("details[open] pre.log").is_visible()
        # When it has ended, nothing is looked for any more.
        record.update(state="finished", ended=time.time())
        write_weblog(paths, record, context)
        page.locator("html[data-state=ended]").wait_for()
    assert browser.complaints == []


def test_two_sessions_are_shown_side_by_side(rich: Path, browser: Browser, tmp_path: Path) -> None:
    other = SessionPaths(tmp_path / "other")
    record = json.loads(SessionPaths(rich).record.read_text())
    record["stages"][1]["arguments"] = {"solint": "inf"}
    fill(other, record)
    (other.workdir / "products" / "ngc5921 cube.fits").write_bytes(b"OTHER")
    page = browser.open(write_comparison(SessionPaths(rich), other, tmp_path / "compared"))
    assert "gaincal: solint" in page.locator("#arguments").inner_text()
    assert "equal" in page.locator("#products tbody").inner_text().lower()
    assert page.locator("#pictures img").count() >= 8
