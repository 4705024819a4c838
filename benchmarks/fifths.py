"""A session that is watched: what it takes in each fifth of its run, and whether that is the same at the end."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import psutil
from rich.console import Console
from rich.table import Table

from surgeline import Session
from surgeline.config import load
from surgeline.work.outcome import Outcome
from surgeline.workflow.eventlines import EventLines
from surgeline.workflow.graph import needs
from surgeline.workflow.nowfile import NowFile

FIFTHS = 5
_LOOK_SECONDS = 0.05
_MB = 1e6


@dataclass
class Watch:
    """Looks at a session's process as its jobs end, and twenty times a second at what Dask's scheduler knows.

    Attributes:
        jobs: how many there will be.
        folder: the session's working folder, whose files are counted but for the data that jobs write.
        backend: the session's backend that is open, for its scheduler.
        measures: of each measure, what it was in each fifth.
    """

    jobs: int
    folder: Path
    backend: Callable[[], Any] = lambda: None
    measures: dict[str, list[float]] = field(default_factory=dict)
    _ended: int = 0
    _began: float = field(default_factory=time.perf_counter)
    _peak_memory: int = 0
    _peak_known: int = 0

    def __post_init__(self) -> None:
        self._process = psutil.Process()
        self._cpu = self._cpu_seconds()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, name="watch", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def job_ended(self) -> None:
        """One more has ended."""
        self._ended += 1
        if self._ended == 1:
            # What goes before, such as the start of workers, is no job's time.
            self._began, self._cpu = time.perf_counter(), self._cpu_seconds()
        if self._ended % (self.jobs // FIFTHS) == 0:
            self._mark()

    def add(self, measure: str, value: float) -> None:
        """What something was in the fifth that ends now."""
        self.measures.setdefault(measure, []).append(value)

    def memory(self) -> float:
        """The resident memory of the session's process, in MB."""
        return self._process.memory_info().rss / _MB

    def _cpu_seconds(self) -> float:
        return sum(self._process.cpu_times()[:2])

    def _mark(self) -> None:
        now, spent, jobs = time.perf_counter(), self._cpu_seconds(), self.jobs // FIFTHS
        workers = self._process.children(recursive=True)
        self.add("a job, ms", 1e3 * (now - self._began) / jobs)
        self.add("a job, ms of the session's core", 1e3 * (spent - self._cpu) / jobs)
        self.add("memory of the session at the end, MB", self.memory())
        self.add("most memory of the session, MB", max(self._peak_memory, self._process.memory_info().rss) / _MB)
        if workers:
            self.add("memory of its workers, MB", sum(worker.memory_info().rss for worker in workers) / _MB)
        self.add("descriptors", self._process.num_fds())
        self.add("threads", self._process.num_threads())
        self.add("files of the session", self._files())
        if self.backend() is not None:
            self.add("most tasks that Dask's scheduler knew", self._peak_known)
        self._began, self._cpu, self._peak_memory, self._peak_known = time.perf_counter(), spent, 0, 0

    def _files(self) -> int:
        return sum(len(files) for folder, _, files in os.walk(self.folder) if folder != str(self.folder / "data"))

    def _look(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            self._peak_memory = max(self._peak_memory, self._process.memory_info().rss)
            backend = self.backend()
            if backend is not None:
                self._peak_known = max(self._peak_known, len(backend._cluster.scheduler.tasks))


class _Told(EventLines):
    """What `surgeline run --json` tells, and the watch with it."""

    watch: Watch | None = None

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        super().job_ended(stage, ticket, outcome)
        assert self.watch is not None
        self.watch.job_ended()


def run_watched(recipe: Mapping[str, Any], jobs: int, folder: Path, *overrides: str) -> Watch:
    """Run a session as the command line does, with its events in a file, and watch it."""
    workdir = folder / "session"
    with (
        (folder / "events.jsonl").open("w", encoding="utf-8") as events,
        _Told(events, workdir) as told,
        Session(recipe, workdir, load(overrides=overrides), told) as session,
    ):

        def backend() -> Any:
            opened = list(session._backends._opened.values())
            return opened[0] if opened and opened[0].name == "dask" else None

        told.know(session.recipe.name, needs(session.recipe), session._estimates)
        with Watch(jobs, workdir, backend) as told.watch, NowFile(session.paths, told):
            session.run()
    return told.watch


def show(part: str, watch: Watch, others: Mapping[str, float], output: Path) -> None:
    """Print a table of the fifths, and write it."""
    table = Table(title=f"{part}, {watch.jobs} jobs")
    table.add_column("measure")
    for number in range(FIFTHS):
        table.add_column(f"fifth {number + 1}", justify="right")
    table.add_column("last over first", justify="right")
    for measure, values in watch.measures.items():
        ratio = f"{values[-1] / values[0]:.2f}" if values[0] else ""
        table.add_row(measure, *(f"{value:.4g}" for value in values), ratio)
    for measure, value in others.items():
        table.add_row(measure, f"{value:.4g}")
    Console(width=140).print(table)
    output.write_text(json.dumps({"jobs": watch.jobs, "fifths": watch.measures, "others": dict(others)}) + "\n")
