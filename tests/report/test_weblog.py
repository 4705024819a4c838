from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from report.page import ParsedPage, broken_links
from report.reported import (
    HOSTILE,
    START,
    VIS,
    a_job,
    a_record,
    a_stage,
    an_observation,
    fill,
)
from surgeline.clusters.accounting import Accounts
from surgeline.context.records import Image, Picture
from surgeline.context.store import Context
from surgeline.paths import SessionPaths
from surgeline.report.weblog import write_weblog


@pytest.fixture
def context() -> Iterator[Context]:
    known = Context(None)
    yield known
    known.close()


@pytest.fixture
def paths(tmp_path: Path) -> SessionPaths:
    return SessionPaths(tmp_path / "run")


@pytest.fixture(scope="module")
def rich(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The weblog of a session that has all that there is."""
    paths = SessionPaths(tmp_path_factory.mktemp("rich") / "run")
    fill(paths, a_record())
    with closing(Context(paths.context)) as context:
        return write_weblog(paths, a_record(), context).parent


def text_of(folder: Path, name: str) -> str:
    (path,) = folder.glob(name)
    return ParsedPage(path).text


@pytest.mark.parametrize(
    ("page", "shown"),
    [
        ("ms-1-ngc5921.ms.html", [
            "2025-06-15 15:06:40",  # the observation began
            "13:31:08.280", "-05:04:12.00",  # a right ascension and a declination
            "1.412665", "24.41", "5.18",  # GHz, kHz, km/s
            "VA15", "Near to the centre and least flagged.",
        ]),
        ("calibration.html", [
            "14.78", "2.527 ± 0.012", "1.015",  # model and measured flux density, and their ratio
            "8.7 %", "10.3 %",  # flagged
            "Bandpass: calibration/ngc5921.bandpass.B", "Each antenna (2)",
        ]),
        ("flags.html", ["after import", "after flag", "gained since import", "8.2 %"]),
        ("images.html", [
            "mJy/beam", "53.38", "2.12", "25.2", "threshold reached",  # a cube's maximum and rms
            "µJy/beam", "41.1",  # a deep image's rms
        ]),
        ("image-1-ngc5921.cube.html", [
            "Five pixels a beam.", "All 4 channels", "1.412724 GHz", "residual of the cube",
        ]),
        ("stage-5-gaincal.html", [
            "signal to noise 41 an integration", "solution interval", "solint", "caltable=", "all 6 jobs went well",
        ]),
        ("timeline.html", ["killed by signal 9: out of memory", "ran again on worker-", "make_images 12"]),
        ("provenance.html", ["products/ngc5921 cube.fits", "699f1a05a909"]),
        ("environment.html", ["6.7.0.31", "/data/runs/ngc5921"]),
        ("commands.html", ["from casatasks import exportfits, gaincal"]),
    ],
)  # fmt: skip
def test_a_page_has_what_one_looks_for_there(rich: Path, page: str, shown: list[str]) -> None:
    text = text_of(rich, page)
    for part in shown:
        assert part in text, part


def test_home_begins_with_warnings_then_tells_what_was_observed_and_what_came_of_it(rich: Path) -> None:
    text = text_of(rich, "index.html")
    places = [text.rindex(heading) for heading in (" Warnings ", "What was observed", " Results ", " The run ")]
    assert places == sorted(places)
    warnings = text[places[0] : places[1]]
    assert "make_images 12 of stage make_images failed: RuntimeError: no channel of images/<cube>" in warnings
    assert "killed by signal 9: out of memory" in warnings
    assert "make_images 1 3 Restoring beam varies by 12 % (3 times)" in warnings


def test_stages_have_scores_with_their_reasons(rich: Path) -> None:
    text = text_of(rich, "stages.html")
    # What the stage says itself, and what its record shows.
    assert "0.90 fair 10.3 % are flagged" in text
    assert "0.60 poor CASA logged 1 line as SEVERE: No valid channels <found>" in text
    images = text_of(rich, "stage-10-make_images.html")
    assert "0.66 poor 1 of 21 jobs failed and were done without" in images
    assert "0.90 fair 1 worker died; what they did was done again" in images


def test_what_the_workers_cost_is_shown_by_stage_and_in_all(rich: Path) -> None:
    text = text_of(rich, "cost.html")
    assert "flag 400 321 65.0 14.0 0.00 2 9.0 0.00 0.00" in text
    assert "make_images 3500 3000 415 8.0 77.0 1 61.0 99.0 0.00" in text
    assert "asked in vain 11.0 0.00 0.00 11.0 0.00 1 4.0" in text
    assert "in all 3911 3321 480 33.0 77.0 4 20.8" in text
    assert (
        "8 cores, the most at once, for all the time would have cost 15644 core-seconds: what was asked is 0.250"
        in text
    )


def test_a_record_without_accounts_has_no_table_of_them(context: Context, paths: SessionPaths) -> None:
    for accounts in (None, {"of": "another version"}, Accounts().as_json()):
        folder = write_weblog(paths, a_record(accounts=accounts), context).parent
        assert "in core-seconds" not in text_of(folder, "cost.html")


def test_all_links_lead_somewhere_also_when_the_working_folder_was_moved(rich: Path, tmp_path: Path) -> None:
    assert broken_links(rich) == []
    moved = tmp_path / "elsewhere"
    shutil.copytree(rich.parent, moved)
    assert broken_links(moved / "weblog") == []


def test_every_page_leads_to_all_of_the_menu(rich: Path) -> None:
    everywhere = {"index.html", "stages.html", "images.html", "timeline.html", "stage-12-export.html", "logs.html"}
    for path in rich.glob("*.html"):
        page = ParsedPage(path)
        assert everywhere <= set(page.links()), path.name
        assert len(page.anchors) == len(set(page.anchors)), path.name
        assert len(page.all("h1")) == 1, path.name


def test_nothing_in_a_name_can_become_markup(rich: Path) -> None:
    shown = 0
    for path in rich.glob("*.html"):
        page = ParsedPage(path)
        shown += HOSTILE in "".join(page.texts)
        assert all(set(script) == {"src", "defer"} for script in page.all("script")), path.name
        assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes), path.name
    assert shown >= 4
    # A name is no code in the scripts either.
    assert "</script" not in (rich / "now.js").read_text()


def test_styles_load_nothing_from_elsewhere(rich: Path) -> None:
    for path in rich.glob("*.css"):
        style = path.read_text()
        assert "@import" not in style
        assert all(target.startswith("#") for target in re.findall(r"url\(([^)]*)\)", style))


def test_pictures_have_size_and_description(rich: Path) -> None:
    pictures = [image for image in ParsedPage(rich / "index.html").all("img") if image["src"] != "data:,"]
    assert len(pictures) == 4
    for picture in pictures:
        assert str(picture["src"]).startswith("../pictures/")
        assert picture["alt"]
        assert (picture["width"], picture["height"]) == ("480", "360")


def test_tables_can_be_read_aloud(rich: Path) -> None:
    for path in rich.glob("*.html"):
        page = ParsedPage(path)
        assert len(page.all("table")) == len(page.all("caption"))
        assert all(header.get("scope") in ("col", "row") for header in page.all("th"))


def test_a_missing_picture_is_named(context: Context, paths: SessionPaths) -> None:
    context.commit("x", [Picture(path="pictures/gone.png", title="Gone", caption="", topic="calibration")])
    folder = write_weblog(paths, a_record(), context).parent
    assert "The picture pictures/gone.png is missing." in text_of(folder, "calibration.html")


def test_a_run_that_failed_early_says_why(context: Context, paths: SessionPaths) -> None:
    error = "stage 'import' failed: <ngc5921.ms> is no MeasurementSet"
    ended = START + 2
    stages = [
        a_stage("import", "failed", started=START, ended=ended, error="<ngc5921.ms> is no MeasurementSet"),
        a_stage("flag", "waiting"),
    ]
    record = a_record(
        state="failed", error=error, ended=ended, stages=stages,
        sessions=[{"started": START, "ended": ended, "state": "failed"}],
    )  # fmt: skip
    folder = write_weblog(paths, record, context).parent
    text = text_of(folder, "index.html")
    assert f"The run failed. {error}" in text
    assert "Stage import failed: <ngc5921.ms> is no MeasurementSet" in text
    assert "No stage or job failed" not in text
    assert "No observation has been read." in text
    assert "No image has been made." in text
    assert "0.00 bad the stage failed: <ngc5921.ms> is no MeasurementSet" in text
    assert broken_links(folder) == []
    assert not any("None" in ParsedPage(path).text for path in folder.glob("*.html"))


@pytest.mark.parametrize("state", ["running", "interrupted"])
def test_a_run_without_an_end(context: Context, paths: SessionPaths, state: str) -> None:
    stages = [a_stage("import", "running", started=START), a_stage("flag", "waiting")]
    record = a_record(
        state=state, ended=None, stages=stages, sessions=[{"started": START, "ended": None, "state": state}]
    )
    folder = write_weblog(paths, record, context).parent
    assert state in text_of(folder, "index.html")
    assert broken_links(folder) == []


def test_a_record_that_knows_nothing(context: Context, paths: SessionPaths) -> None:
    folder = write_weblog(paths, {}, context).parent
    assert "No stage has begun." in text_of(folder, "timeline.html")
    assert not any("None" in ParsedPage(path).text for path in folder.glob("*.html"))
    assert broken_links(folder) == []


def test_a_page_that_says_the_same_is_not_written_again(context: Context, paths: SessionPaths) -> None:
    stages = [a_stage("import", "running", started=START), a_stage("flag", "waiting")]
    record = a_record(
        state="running", ended=None, stages=stages, sessions=[{"started": START, "ended": None, "state": "running"}]
    )
    folder = write_weblog(paths, record, context).parent
    before = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    stages[0].update(state="finished", ended=START + 5, jobs=[a_job("read", START + 1, 2.0, 0)])
    write_weblog(paths, record, context)
    after = {path.name: path.stat().st_mtime_ns for path in folder.iterdir()}
    written = {name for name in after if after[name] != before.get(name)}
    assert {"index.html", "stages.html", "stage-1-import.html", "now.js"} <= written
    assert not written & {"stage-2-flag.html", "calibration.html", "images.html", "weblog.css", "page.js"}


def test_pages_of_images_that_are_there_no_longer_go(context: Context, paths: SessionPaths) -> None:
    first = context.commit("make_images", [an_image("one"), an_image("two")])
    folder = write_weblog(paths, a_record(), context).parent
    assert len(list(folder.glob("image-*.html"))) == 2
    context.commit("rerun", [], withdrawn=[first])
    context.commit("make_images", [an_image("other")])
    write_weblog(paths, a_record(), context)
    assert [path.name for path in folder.glob("image-*.html")] == ["image-1-other.html"]
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def an_image(name: str) -> Image:
    return Image(path=f"images/{name}.image", stem=f"images/{name}", kind="continuum", field="a", unit="Jy/beam",
                 shape=(8, 8, 1, 1), maximum=1.0, minimum=0.0, mean=0.1, rms=0.1)  # fmt: skip


def test_several_observations_have_a_page_each(context: Context, paths: SessionPaths) -> None:
    second = an_observation().model_copy(update={"vis": f"data/{VIS}"})
    context.commit("import", [an_observation(), second])
    folder = write_weblog(paths, a_record(), context).parent
    assert len(list(folder.glob("ms-*.html"))) == 2
    assert broken_links(folder) == []
