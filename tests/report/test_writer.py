from __future__ import annotations

import json
import tracemalloc
from contextlib import closing
from pathlib import Path

from report.page import ParsedPage, broken_links
from report.reported import START, a_job, a_record, a_stage, begin_folder
from support import wait_until
from surgeline import FunctionCall, Session, stage
from surgeline.config import load
from surgeline.context.records import Decision, Fact
from surgeline.paths import SessionPaths
from surgeline.report.writer import WeblogWriter
from surgeline.stages.stage import Parameters, Stage
from surgeline.work.procedure import Procedure


def running(*states: str) -> dict[str, object]:
    stages = [a_stage(f"stage {number}", state, started=START) for number, state in enumerate(states)]
    return a_record(state="running", ended=None, stages=stages)


def test_pages_follow_the_saved_record_in_a_thread_of_their_own(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path / "run")
    told: list[str] = []
    with closing(begin_folder(paths, running("running", "waiting"))) as context:
        writer = WeblogWriter(paths, context, told.append)
        assert not paths.weblog.exists()
        writer.renew()
        wait_until(paths.weblog.exists, 30, "the first pages are there")
        paths.record.write_text(json.dumps(running("finished", "running")))
        writer.renew()
        news = paths.weblog.with_name("now.js")
        wait_until(
            lambda: news.exists() and '"finished"' in news.read_text(), 60, "the pages tell of the second stage"
        )
        paths.record.write_text(json.dumps(a_record()))
        writer.finish()
    assert "make_images" in ParsedPage(paths.weblog).text
    assert broken_links(paths.weblog.parent) == []
    assert told == []


def test_what_keeps_pages_from_being_written_is_told_once(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path / "run")
    told: list[str] = []
    with closing(begin_folder(paths, running("running"))) as context:
        paths.weblog.parent.rmdir()
        paths.weblog.parent.write_text("this is no folder")
        writer = WeblogWriter(paths, context, told.append)
        writer.renew()
        wait_until(lambda: bool(told), 30, "it was told")
        writer.finish()
    assert len(told) == 1 and "Error" in told[0]


def test_pages_of_very_many_jobs_take_no_memory_of_the_session(tmp_path: Path) -> None:
    paths = SessionPaths(tmp_path / "run")
    told: list[str] = []
    jobs = [a_job(f"image {number}", START + number, 1.0, number % 2) for number in range(6_000)]
    record = a_record(stages=[a_stage("make_images", "finished", started=START, jobs=jobs)])
    with closing(begin_folder(paths, record)) as context:
        writer = WeblogWriter(paths, context, told.append)
        tracemalloc.start()
        try:
            writer.finish()
            _, most = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert most < paths.record.stat().st_size / 2
    assert "all 6000 jobs went well" in ParsedPage(paths.weblog).text
    assert broken_links(paths.weblog.parent) == []
    assert told == []


def look_at_the_weblog() -> str:
    """What a job of the second stage sees in the working folder."""
    news, first = Path("weblog/now.js"), Path("weblog/stage-1-decide.html")
    states = '"stage-1-decide.html": "finished", "stage-2-look.html": "running"'
    wait_until(lambda: news.exists() and states in news.read_text(), 60, "the weblog follows the session")
    return ParsedPage(first).text


@stage
def decide(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Decides."""
    yield from ()
    return [Decision(stage=stage.name, what="the answer", value="forty-two", reason="it was computed")]


@stage
def look(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Looks at what the weblog says of the stage before."""
    (seen,) = yield [FunctionCall(look_at_the_weblog)]
    return [Decision(stage=stage.name, what="seen", value=str("forty-two" in seen), reason="by a job")]


def test_a_session_can_be_watched_while_it_runs(tmp_path: Path) -> None:
    recipe = {"name": "watched", "stages": [{"task": decide}, {"task": look}]}
    with Session(recipe, tmp_path / "run", load(overrides=["backend=serial"])) as session:
        session.run()
    text = ParsedPage(tmp_path / "run" / "weblog" / "stage-2-look.html").text
    assert "seen True by a job" in text
    assert 'data-state="ended"' in (tmp_path / "run" / "weblog" / "index.html").read_text()
