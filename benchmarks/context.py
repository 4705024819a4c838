"""What the context costs: commits, history, readers, and a reference to it against a pickled context for each job."""

from __future__ import annotations

import multiprocessing
import pickle
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cloudpickle

from surgeline import FunctionCall, TaskQueue, open_backend
from surgeline.config import load
from surgeline.context.records import Extension
from surgeline.context.reference import ContextReference, answer
from surgeline.context.store import Context

ROOT = Path(__file__).parent.parent
COMMITS, FACTS = 400, 10
HISTORY = 10_000
READERS, READINGS = 64, 20
JOBS = 1000
# Pickled contexts are so slow that fewer jobs have to do; the figures are for each job.
PICKLED_JOBS = {1: 200, 10: 40, 100: 8}


def facts(number: int, count: int = FACTS, size: int = 200) -> list[Extension]:
    """Facts of a size in bytes, about subjects of their own."""
    text = "x" * size
    return [Extension(namespace="bench", name=f"{number}.{place}", value=text) for place in range(count)]


def commit_latency(where: str | Path) -> tuple[float, float]:
    """Median and 99th percentile of a commit of ten facts, in ms."""
    times = []
    with closing(Context(where)) as context:
        for number in range(COMMITS):
            began = time.perf_counter()
            context.commit("stage", facts(number))
            times.append(1e3 * (time.perf_counter() - began))
    return statistics.median(times), statistics.quantiles(times, n=100)[98]


def growth(folder: Path) -> dict[str, float]:
    """How much slower a context opens, and is asked for a hundred facts, once it has a long history."""

    def times(path: Path) -> tuple[float, float]:
        opening, asking = [], []
        for _ in range(20):
            began = time.perf_counter()
            context = Context(path)
            opening.append(time.perf_counter() - began)
            began = time.perf_counter()
            assert len(context.all(Extension)) == 100
            asking.append(time.perf_counter() - began)
            context.close()
        return statistics.median(opening), statistics.median(asking)

    short, long = folder / "short.db", folder / "long.db"
    for path, commits in ((short, 10), (long, HISTORY)):
        with closing(Context(path)) as context:
            for number in range(commits):
                context.commit("stage", facts(number % 10))
    before, after = times(short), times(long)
    return {
        f"opening after {HISTORY} commits over after 10": after[0] / before[0],
        f"a query after {HISTORY} commits over after 10": after[1] / before[1],
        f"opening after {HISTORY} commits, ms": 1e3 * after[0],
        f"a query of 100 facts after {HISTORY} commits, ms": 1e3 * after[1],
    }


def _read(where: str | Path, ready: Any, go: Any, told: Any) -> None:
    with closing(Context(where, read_only=True)) as context:
        ready.release()
        go.wait()
        longest = 0.0
        for _ in range(READINGS):
            began = time.perf_counter()
            # What one commit said is seen whole or not at all.
            assert len(context.all(Extension)) % FACTS == 0
            longest = max(longest, time.perf_counter() - began)
        told.put(longest)


def readers(where: str | Path) -> dict[str, float]:
    """Many processes that read while one commits: the longest that each waited, and what commits took meanwhile."""
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["surgeline.context.store"])
    ready, go, told = processes.Semaphore(0), processes.Event(), processes.Queue()
    with closing(Context(where)) as context:
        context.commit("stage", facts(0))
        reading = [processes.Process(target=_read, args=(where, ready, go, told)) for _ in range(READERS)]
        for process in reading:
            process.start()
        for _ in reading:
            ready.acquire()
        go.set()
        times = []
        while any(process.is_alive() for process in reading):
            began = time.perf_counter()
            context.commit("stage", facts(len(times) % 5))
            times.append(time.perf_counter() - began)
    longest = [told.get() for _ in reading]
    assert all(process.exitcode == 0 for process in reading)
    return {
        f"a reading beside {READERS - 1} others and a writer, longest of each, median, s": statistics.median(longest),
        "a commit meanwhile, median, ms": 1e3 * statistics.median(times),
    }


def spectra(megabytes: int) -> list[Extension]:
    """As many facts as pickle to so many MB: each is named by its number, and holds 500 numbers."""
    one = len(pickle.dumps([Extension(namespace="bench", name="0", value=[0.5 + place for place in range(500)])]))
    return [
        Extension(namespace="bench", name=str(number), value=[number + 0.5 * place for place in range(500)])
        for number in range(int(megabytes * 1e6 / one))
    ]


def read_some(reference: ContextReference, number: int) -> int:
    """A job that needs two of the context's facts."""
    return sum(len(reference.all(Extension, namespace="bench", name=str(name))) for name in (number, number + 1))


def read_pickled(path: str, number: int) -> int:
    """The same job on a context that is pickled to a file for it, as a pipeline does."""
    context = pickle.loads(Path(path).read_bytes())
    Path(path).unlink()
    return sum(fact.name in (str(number), str(number + 1)) for fact in context)


def references(folder: Path) -> dict[str, float]:
    """What a job costs that carries a reference, against one whose context is pickled for it."""
    figures: dict[str, float] = {}
    for megabytes, pickled_jobs in PICKLED_JOBS.items():
        content = spectra(megabytes)
        with closing(Context(folder / f"{megabytes}.db")) as context:
            context.commit("stage", content)
            reference = ContextReference(context.identifier, context.version)
            configuration = load(overrides=["dask.n_workers=2", "backend=dask"])
            with closing(open_backend(configuration, folder=folder, ask=partial(answer, context))) as backend:
                by_reference = _seconds_a_job(backend, JOBS, partial(_referring, reference, megabytes))
                by_pickle = _seconds_a_job(backend, pickled_jobs, partial(_pickling, content, folder))
        figures |= {
            "a job's reference, bytes": len(pickle.dumps(reference)),
            f"bytes sent for a job, pickled context of {megabytes} MB over reference": len(pickle.dumps(content))
            / len(cloudpickle.dumps(_referring(reference, megabytes, 0))),
            f"a job with a reference to {megabytes} MB, ms": 1e3 * by_reference,
            f"seconds a job, pickled context of {megabytes} MB over reference": by_pickle / by_reference,
        }
    return figures


def _referring(reference: ContextReference, megabytes: int, number: int) -> FunctionCall:
    return FunctionCall(read_some, reference, number % (100 * megabytes))


def _pickling(content: list[Extension], folder: Path, number: int) -> FunctionCall:
    path = folder / f"job-{number}.context"
    path.write_bytes(pickle.dumps(content))
    return FunctionCall(read_pickled, str(path), number)


def _seconds_a_job(backend: Any, jobs: int, make: Any) -> float:
    began = time.perf_counter()
    with TaskQueue(backend) as queue:
        for number in range(jobs):
            queue.add(make(number))
        assert all(outcome.result() == 2 for outcome in queue.get_results())
    return (time.perf_counter() - began) / jobs


@contextmanager
def postgresql() -> Iterator[Any]:
    """A server of its own, the one that the tests use."""
    sys.path.insert(0, str(ROOT / "tests"))
    from services.postgresql import PostgreSQL, programs_of_postgresql

    programs = programs_of_postgresql()
    if programs is None:
        raise SystemExit("PostgreSQL is needed: apt-get install postgresql")
    server = PostgreSQL(programs)
    server.start()
    try:
        yield server
    finally:
        server.remove()


def context_figures(folder: Path) -> dict[str, float]:
    """Every figure of the context."""
    figures: dict[str, float] = {}
    with postgresql() as server:
        for name, where in (("SQLite", folder / "latency.db"), ("PostgreSQL", server.url(server.empty_database()))):
            median, slowest = commit_latency(where)
            figures[f"commit of {FACTS} facts, {name}, median, ms"] = median
            figures[f"commit of {FACTS} facts, {name}, 99th percentile, ms"] = slowest
        for name, where in (("SQLite", folder / "readers.db"), ("PostgreSQL", server.url(server.empty_database()))):
            figures |= {f"{name}: {figure}": value for figure, value in readers(where).items()}
    return figures | growth(folder) | references(folder)
