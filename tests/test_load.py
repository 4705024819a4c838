"""What a session holds at once does not grow with its jobs; `benchmarks/load.py` tries it with many more."""

from __future__ import annotations

import json
import resource
import sqlite3
import sys
import tracemalloc
import weakref
from collections import defaultdict
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from time import gmtime, strftime
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

from report.page import broken_links
from report.reported import START, a_job, a_record, a_stage, begin_folder
from support import wait_until
from surgeline import FunctionCall, Session, TaskQueue, open_backend, stage
from surgeline.clusters.scheduler import start_scheduler
from surgeline.config import load
from surgeline.context.records import Extension
from surgeline.context.store import Context
from surgeline.errors import WorkfolderError
from surgeline.parallel.otherwise import Otherwise
from surgeline.paths import SessionPaths, casa_log
from surgeline.report.weblog import write_weblog
from surgeline.stages.stage import Stage
from surgeline.work.jobs import Job
from surgeline.work.outcome import Outcome
from surgeline.work.procedure import Procedure
from surgeline.work.taskqueue import Backend
from surgeline.workflow import joblogs
from surgeline.workflow import recipe as recipes
from surgeline.workflow import record as records
from surgeline.workflow import tally as tallies
from surgeline.workflow.joblogs import Asked, log_lines
from surgeline.workflow.record import RunRecord
from surgeline.workflow.tally import Tally
from surgeline.workflow.timeleft import Expectation

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

JOBS = 2000
EACH = 20
BATCHES = 8
BATCH = 10
MEGABYTE = 1_000_000


@stage
def many(given: Stage, jobs: int = 1) -> Procedure[None]:
    yield [FunctionCall(abs, number).declare(name="many") for number in range(jobs)]


def one_megabyte(number: int) -> Any:
    return np.full(MEGABYTE // 8, number, dtype=np.int64)


class Results:
    """What became of the results that a stage was given."""

    def __init__(self) -> None:
        self.taken: list[weakref.ref[Any]] = []

    def take(self, values: list[Any]) -> None:
        self.taken += map(weakref.ref, values)

    @property
    def there(self) -> int:
        return sum(one() is not None for one in self.taken)


RESULTS = Results()


@stage
def takes_them_in_turns(given: Stage) -> Procedure[None]:
    """Of each batch it keeps nothing."""
    tracemalloc.start()
    try:
        for _ in range(BATCHES):
            values = yield [FunctionCall(one_megabyte, number).declare(name="large") for number in range(BATCH)]
            RESULTS.take(values)
            del values
    finally:
        tracemalloc.stop()


@stage
def takes_all_at_once(given: Stage) -> Procedure[None]:
    values = yield [FunctionCall(one_megabyte, number).declare(name="large") for number in range(BATCH)]
    RESULTS.take(values)
    assert RESULTS.there == len(values)


class Watching(Tally):
    """Looks at the session's process whenever a job ends."""

    def __init__(self) -> None:
        super().__init__()
        self.process = psutil.Process()
        self.descriptors: dict[str, list[int]] = defaultdict(list)
        self.threads: dict[str, list[int]] = defaultdict(list)
        self.results: dict[str, list[int]] = defaultdict(list)
        self.bytes: list[int] = []

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        super().job_ended(stage, ticket, outcome)
        if len(self.results[stage]) % EACH == 0:
            self.descriptors[stage].append(self.process.num_fds())
            self.threads[stage].append(self.process.num_threads())
        self.results[stage].append(RESULTS.there)
        if stage == "in turns":
            self.bytes.append(tracemalloc.get_traced_memory()[0])


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Watching:
    """A session that has run."""
    told = Watching()
    settings = load(
        overrides=["backend=dask", "dask.n_workers=2", "session.weblog=false"], environment={}, home=Path("/nowhere")
    )
    stages = [
        {"task": many, "name": "first", "arguments": {"jobs": JOBS // 4}},
        {"task": many, "name": "second", "arguments": {"jobs": JOBS // 4}},
        {"task": takes_them_in_turns, "name": "in turns"},
        {"task": takes_all_at_once, "name": "at once"},
        {"task": many, "name": "last", "arguments": {"jobs": BATCH}},
    ]
    with Session(
        {"name": "load", "stages": stages}, tmp_path_factory.mktemp("load") / "w", settings, told
    ) as session:
        session.run()
    return told


def test_descriptors_and_threads_are_no_more_after_thousands_of_jobs(watched: Watching) -> None:
    for counted in (watched.descriptors, watched.threads):
        # Threads that ask the context for the first time take a connection each.
        assert min(counted["second"]) <= max(counted["first"]) + 10


def test_results_that_a_stage_lets_go_are_gone_while_the_next_come(watched: Watching) -> None:
    assert len(RESULTS.taken) == (BATCHES + 1) * BATCH
    assert set(watched.results["in turns"]) == {0}
    # Those of one batch, what is just being read, and what else goes on; in all there were eight batches.
    assert max(watched.bytes) < 2.5 * BATCH * MEGABYTE


def test_nothing_of_what_a_stage_was_given_is_there_in_the_next(watched: Watching) -> None:
    assert set(watched.results["last"]) == {0}


@pytest.fixture(scope="module")
def dask(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Backend]:
    folder = tmp_path_factory.mktemp("dask")
    opened = open_backend(
        load(overrides=["backend=dask", "dask.n_workers=2"], environment={}, home=folder), folder=folder
    )
    yield opened
    opened.close()


# Jobs of one name that are known to be short travel together, others do not.
@pytest.mark.parametrize(("name", "jobs"), [("many", JOBS), ("many {}", JOBS // 10)])
def test_jobs_are_fed_to_the_scheduler_and_not_poured(dask: Any, name: str, jobs: int) -> None:
    known: list[int] = []
    with TaskQueue(dask, done=lambda *_: known.append(len(dask._cluster.scheduler.tasks))) as queue:
        for number in range(jobs):
            queue.add(FunctionCall(abs, number).declare(name=name.format(number)))
        assert [outcome.value for outcome in queue.get_results()] == list(range(jobs))
    assert len(known) == jobs
    # One for each worker, and one that has ended and is about to be forgotten.
    assert max(known) <= 2 * dask.workers
    wait_until(lambda: not dask._sent and not dask._given, 20, "nothing is held of jobs that have ended")


def test_pages_tell_of_very_many_jobs_in_few_words(tmp_path: Path) -> None:
    short = [a_job(f"short {number}", START + number, 0.5, number % 2) for number in range(JOBS)]
    failed = a_job(
        "failed", START, 0.1, 0, state="failed", failure={"kind": "exception", "message": "", "traceback": ""}
    )
    longest = a_job("longest", START, 900.0, 1)
    record = a_record(stages=[a_stage("many", started=START, ended=START + JOBS, jobs=[*short, failed, longest])])
    paths = SessionPaths(tmp_path)
    with closing(begin_folder(paths, record)) as context:
        write_weblog(paths, record, context)
    for name in ("stage-1-many.html", "timeline.html"):
        page = paths.weblog.with_name(name).read_text()
        assert page.count("<tr") < 1100
        assert ">failed<" in page and ">longest<" in page
        assert f"{JOBS + 2 - 1000} shorter ones" in page
        assert len(page) < 2_000_000
    assert broken_links(paths.weblog.parent) == []


def no_op_outcome(number: int) -> Outcome:
    return Outcome(f"job {number}", f"abs({number})", started=1.0, ended=2.0, host="here", worker="worker-0")


class Clock:
    """A time that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def record(tmp_path: Path) -> RunRecord:
    paths = SessionPaths(tmp_path)
    recipe = recipes.given({"name": "load", "stages": [{"task": many}]})
    return RunRecord(paths, recipe, {"many": ()}, "local", ())


def test_however_large_the_record_is_saving_it_takes_a_small_share_of_the_time(
    record: RunRecord, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, saves = Clock(), []
    monkeypatch.setattr(records, "time", clock)

    def write_slowly(path: Path, text: str) -> None:
        saves.append(len(text))
        clock.now += 2.0

    monkeypatch.setattr(records, "write_text", write_slowly)
    for number in range(JOBS):
        clock.now += 0.1
        record.job("many", FunctionCall(abs, number), no_op_outcome(number), 0.5)
    assert 3 <= len(saves) <= 0.1 * JOBS / (39 * 2.0) + 2


def test_a_job_of_the_record_takes_little_more_memory_than_its_line(record: RunRecord) -> None:
    job = FunctionCall(abs, 1)
    tracemalloc.start()
    try:
        for number in range(JOBS):
            record.job("many", job, no_op_outcome(number), 0.5)
        taken = tracemalloc.get_traced_memory()[0] / JOBS
    finally:
        tracemalloc.stop()
    record.save()
    line = record._path.stat().st_size / JOBS
    assert taken < 1.3 * line


def test_the_record_in_the_file_is_what_it_says_and_is_taken_up_again(tmp_path: Path, record: RunRecord) -> None:
    record.stage_begins("many")
    for number in range(3):
        record.job("many", FunctionCall(abs, number), no_op_outcome(number), 0.5)
    record.set(states={"kept": 1})
    record.stage("many", state="finished")
    record.end("finished", None)
    said = json.loads(SessionPaths(tmp_path).record.read_text())
    assert said == record.content
    assert said["stages"][0] == record.of_stage("many")
    assert [job["name"] for job in said["stages"][0]["jobs"]] == ["job 0", "job 1", "job 2"]
    recipe = recipes.given({"name": "load", "stages": [{"task": many}]})
    again = RunRecord(SessionPaths(tmp_path), recipe, {"many": ()}, "local", ("many",))
    assert again.of_stage("many")["jobs"] == said["stages"][0]["jobs"]
    again.stage_begins("many")
    assert again.of_stage("many")["jobs"] == []


class Workers:
    """Runs the jobs that it is told to."""

    name = "workers"
    workers = 4

    def __init__(self) -> None:
        self.given: set[str] = set()

    def running(self, ticket: str) -> bool:
        return ticket in self.given


def test_who_looks_how_far_a_session_is_does_not_go_through_all_jobs_that_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked_at: list[list[Expectation]] = []
    time_left = tallies.time_left

    def counted(jobs: list[Expectation], *others: Any) -> Any:
        looked_at.append(list(jobs))
        return time_left(jobs, *others)

    monkeypatch.setattr(tallies, "time_left", counted)
    tally, workers = Tally(), Workers()
    backend: Any = workers
    tally.began(["many"], [])
    tally.stage_began("many")
    for number in range(JOBS):
        job: Job = FunctionCall(abs, number).declare(name="many", seconds=10.0 if number % 2 else None)
        tally.job_added("many", str(number), job, backend)
    workers.given = {"0", "1", "2", "3"}
    tally.look()
    for number in range(100):
        tally.job_ended("many", str(number), no_op_outcome(number))
    now = tally.now()
    (seen,) = looked_at
    assert len(seen) <= 2 + workers.workers
    assert sum(one.number for one in seen) == JOBS - 100
    assert (now.stages[0].jobs, now.stages[0].done, now.stages[0].working) == (JOBS, 100, 0)
    unknown = (JOBS - 100) // 2
    minutes = round(unknown * 10 / workers.workers / 60)
    assert now.left == f"about {minutes} min of what is known; not known of {unknown} jobs"


def test_a_cluster_with_another_in_reserve_forgets_jobs_that_have_ended(tmp_path: Path) -> None:
    first = open_backend(load(overrides=["backend=serial"], environment={}, home=tmp_path), folder=tmp_path)
    backend = Otherwise(first, lambda: first, print)
    try:
        with TaskQueue(backend) as queue:
            queue.map(abs, range(20))
            assert len(queue.get_results()) == 20
        assert not backend._given
    finally:
        backend.close()


def test_the_logs_of_a_stage_are_read_once_however_many_jobs_it_had(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = [a_job(f"job {number}", START + 10 * number, 5.0, number % 2) for number in range(200)]
    record = a_record(stages=[a_stage("many", started=START, ended=START + 2000, jobs=jobs)])
    paths = SessionPaths(tmp_path)
    begin_folder(paths, record).close()
    for worker in {job["worker"] for job in jobs}:
        said = [(job["name"], job["started"] + 1) for job in jobs if job["worker"] == worker]
        lines = [f"{strftime('%Y-%m-%d %H:%M:%S', gmtime(when))}\tINFO\t{name} says\n more\n" for name, when in said]
        casa_log(paths.logs, worker).write_text("".join(lines))
    read: list[Path] = []
    lines_between = joblogs._between

    def counted(log: Path, *times: float) -> Any:
        read.append(log)
        return lines_between(log, *times)

    monkeypatch.setattr(joblogs, "_between", counted)
    told = "\n".join(log_lines(paths, Asked("many"))).split("==> ")
    assert len(read) == 2
    assert [part.count(" says\n more") for part in told] == [0, *[1] * 200]
    assert all(f"{job['name']} says" in part for job, part in zip(jobs, told[1:], strict=True))
    assert len(list(log_lines(paths, Asked("many", "job 7")))) == 4


def test_a_query_for_one_namespace_reads_nothing_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    with closing(Context(path)) as context:
        context.commit(
            "stage", [Extension(namespace="large", name=str(number), value=number) for number in range(20)]
        )
        context.commit(
            "stage", [Extension(namespace='s"mäll', name=str(number), value=number) for number in range(3)]
        )
        assert len(context.all(Extension, namespace="large")) == 20
    with closing(sqlite3.connect(path)) as connection, connection:
        for (name,) in connection.execute("select name from sqlite_master where type = 'trigger'").fetchall():
            connection.execute(f"drop trigger {name}")
        connection.execute("update facts set body = '{' where subject like '%large%'")
    with closing(Context(path, read_only=True)) as context:
        assert [fact.value for fact in context.all(Extension, namespace='s"mäll')] == [0, 1, 2]
        assert context.all(Extension, namespace="s") == []
        assert context.all(Extension, namespace="larg") == []
        with pytest.raises(WorkfolderError):
            context.all(Extension, namespace="large")


def test_a_scheduler_for_hundreds_of_workers_may_have_their_connections() -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    # What most machines give.
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, before[1]))
    try:
        with start_scheduler("127.0.0.1", None, 0, None, None, threads=1):
            allowed = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert allowed == min(before[1], 65536)
