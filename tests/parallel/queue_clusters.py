"""A cluster whose workers are jobs of a real workload manager, with what its user sees of it."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle

from support import wait_until
from surgeline import FunctionCall, Outcome, TaskQueue
from surgeline.config import load
from surgeline.parallel.backend import Backends
from surgeline.parallel.batchworkers import BatchWorkers
from surgeline.work.outcome import Loss
from surgeline.work.surroundings import Ask

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@dataclass
class Opened:
    """A cluster with what a user sees of it."""

    kind: str
    backends: Backends
    folder: Path
    losses: list[tuple[str, Loss]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def alive(self) -> list[str]:
        """The queue jobs that are, or will be, of use."""
        return [berth.identifier for berth in self.backend.fleet.berths() if berth.alive]

    @property
    def backend(self) -> BatchWorkers:
        return self.backends.surging[self.kind]

    def queue(self) -> TaskQueue:
        return TaskQueue(self.backends.get(self.kind))

    def run(self, *jobs: FunctionCall) -> list[Outcome]:
        with self.queue() as queue:
            for job in jobs:
                queue.add(job)
            return queue.get_results()


@contextmanager
def opened(
    kind: str,
    folder: Path,
    *overrides: str,
    retries: int = 2,
    start_timeout: float = 120,
    ask: Ask | None = None,
    casaconfig: str = "{}",
    standstill: float = 300,
) -> Iterator[Opened]:
    """A cluster named by its type, small and quick to look at its queue."""
    found = Opened.__new__(Opened)
    found.kind, found.folder, found.losses, found.told = kind, folder, [], []
    settings = [f"type={kind}", "memory=500MB", "poll=0.5", "idle_seconds=2", *overrides]
    of_cluster = [f"clusters.{kind}.{text}" for text in settings]
    found.backends = Backends(
        load(
            overrides=[
                *(f"dask.retries={retries}", f"dask.start_timeout={start_timeout}", f"casaconfig={casaconfig}"),
                f"worker.standstill_limit={standstill}",
                *of_cluster,
            ],
            environment={},
            home=folder,
        ),
        folder,
        folder / "logs",
        lost=lambda job, loss: found.losses.append((job, loss)),
        ask=ask,
        tell=found.told.append,
    )
    with found.backends:
        yield found


def call(function: Any, *arguments: Any, **declared: Any) -> FunctionCall:
    return FunctionCall(function, *arguments).declare(**declared)


def variable(name: str) -> str | None:
    return os.environ.get(name)


def worked(runs: Path, number: int, seconds: float) -> int:
    """Work, and leave a line for each time that it was done."""
    with (runs / str(number)).open("a") as file:
        file.write("ran\n")
    time.sleep(seconds)
    return number


def take_memory(size: int) -> int:
    """Take bytes beside the 0.3 GB of a worker."""
    taken = bytearray(size)
    taken[::4096] = b"x" * len(taken[::4096])
    # The nanny looks a few times a second.
    time.sleep(1.0)
    return len(taken)


def wait_for(path: Path, started: Path) -> str:
    """Tell which queue job this runs in, and wait."""
    from distributed import get_worker

    identifier = re.sub(r"^[a-z]+-|-r\d+$|@.*$", "", get_worker().name)
    with started.open("a") as file:
        file.write(f"{identifier}\n")
    while not path.exists():
        time.sleep(0.02)
    return identifier


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


@dataclass
class LongOne:
    """A cluster with a job that waits to be told to end, and others beside it that have run."""

    cluster: Opened
    queue: TaskQueue
    started: Path
    go: Path
    runs: Path

    def identifier(self) -> str:
        """Which queue job runs it, or ran it last."""
        return lines_of(self.started)[-1]

    def wait_until_it_runs_again(self, times: int = 2) -> None:
        wait_until(lambda: len(lines_of(self.started)) == times, 90, f"it runs for the {times}th time")

    def end(self) -> Outcome:
        """Its outcome, when the others' were not harmed."""
        self.go.touch()
        long_one, *others = self.queue.get_results()
        assert [outcome.result() for outcome in others] == list(range(6))
        assert [lines_of(self.runs / str(number)) for number in range(6)] == [["ran"]] * 6, "none ran twice"
        assert not any(outcome.losses for outcome in others)
        assert long_one.ok
        assert self.cluster.losses == [("the long one", loss) for loss in long_one.losses]
        return long_one


@contextmanager
def a_long_job(kind: str, folder: Path, *overrides: str, **options: Any) -> Iterator[LongOne]:
    runs = folder / "runs"
    runs.mkdir()
    with opened(kind, folder, "maximum=2", *overrides, **options) as cluster, cluster.queue() as queue:
        found = LongOne(cluster, queue, folder / "started", folder / "go", runs)
        queue.add(call(wait_for, found.go, found.started, name="the long one"))
        for number in range(6):
            queue.add(call(worked, runs, number, 0.1))
        wait_until(found.started.exists, 60, "the job runs")
        wait_until(
            lambda: len(cluster.backend._sent) == 1 and not cluster.backend._waiting, 60, "the others have run"
        )
        yield found
