from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from report.page import ParsedPage
from report.reported import START, a_record, a_stage, begin_folder
from surgeline.context.records import Decision, Fact, Image, Product
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.report.comparison import write_comparison


def a_session(folder: Path, seconds: float, solint: str, rms: float, digest: str) -> SessionPaths:
    paths = SessionPaths(folder)
    stages = [
        a_stage("gaincal", started=START, ended=START + seconds, arguments={"solint": solint, "minsnr": 3}),
        a_stage("export", started=START, ended=START + 1),
    ]
    facts: list[Fact] = [
        Decision(stage="gaincal", what="interval", value=solint, reason="the recipe says so"),
        Decision(stage="gaincal", what="antenna", value="<15>", reason="central"),
        Product(path="products/a.fits", kind="cube", size=1000, sha256="ab" * 32),
        Product(path="products/b.fits", kind="cube", size=1000, sha256=digest * 32),
        Image(path="images/a.image", stem="images/a", kind="cube", field="<a>", unit="Jy/beam", shape=(8, 8, 1, 4),
              maximum=1.0, minimum=0.0, mean=0.1, rms=rms),
    ]  # fmt: skip
    with closing(begin_folder(paths, a_record(stages=stages))) as context:
        context.commit("gaincal", facts)
    return paths


@pytest.fixture
def page(tmp_path: Path) -> ParsedPage:
    left = a_session(tmp_path / "left", 10.0, "int", 0.02, "cd")
    right = a_session(tmp_path / "right", 15.0, "inf", 0.03, "ef")
    written = write_comparison(left, right, tmp_path / "compared")
    assert written == tmp_path / "compared" / "index.html"
    return ParsedPage(written)


def test_what_differs_stands_side_by_side_and_what_is_equal_does_not(page: ParsedPage) -> None:
    assert "gaincal: solint 'int' 'inf'" in page.text
    assert "gaincal: interval int (the recipe says so) inf (the recipe says so)" in page.text
    assert "minsnr" not in page.text and "<15>" not in page.text


def test_times_products_and_images_are_compared(page: ParsedPage) -> None:
    assert "10.0 15.0 +50.0 %" in page.text
    assert "products/a.fits equal" in page.text and "products/b.fits different" in page.text
    assert "images/a.image mJy/beam 20.00 30.00 +50.0 % 1000 1000 0" in page.text


def test_sessions_of_different_stages_can_be_compared(tmp_path: Path) -> None:
    left = a_session(tmp_path / "left", 10.0, "int", 0.02, "cd")
    right = SessionPaths(tmp_path / "right")
    begin_folder(right, a_record(stages=[a_stage("other")], state="running", ended=None)).close()
    text = ParsedPage(write_comparison(left, right, tmp_path / "compared")).text
    assert "products/a.fits only left" in text
    assert "None" not in text


def test_a_folder_without_a_session_is_named(tmp_path: Path) -> None:
    left = a_session(tmp_path / "left", 10.0, "int", 0.02, "cd")
    with pytest.raises(WorkfolderError, match=r"nothing holds no session"):
        write_comparison(left, SessionPaths(tmp_path / "nothing"), tmp_path / "compared")
    assert not (tmp_path / "nothing").exists()
