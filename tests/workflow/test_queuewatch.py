"""What is told of waits in queues and of workers that come, with no workload manager in reach."""

from __future__ import annotations

import io
import time

import pytest
from rich.console import Console
from rich.text import Text

from surgeline import FunctionCall
from surgeline.clusters.fleet import Berth
from surgeline.work.outcome import Loss
from surgeline.workflow.progress import Progress
from surgeline.workflow.queuewatch import Arrival, Arrivals, Wait


def berth(identifier: str, came: float | None = None, kind: str = "small", **other: object) -> Berth:
    found = Berth(identifier, kind, submitted=100.0, **other)  # type: ignore[arg-type]
    if came is not None:
        found.state, found.started, found.came = "running", came - 2.0, came
    return found


def test_workers_that_come_together_are_told_of_together() -> None:
    arrivals = Arrivals("site")
    first = [berth("1", came=110), berth("2"), berth("3", kind="fat"), berth("4", came=112, kind="gpu")]
    # The only one of its class that is on its way.
    assert arrivals.look(first, now=112) == [Arrival("site", "gpu", 1, 10.0)]
    second = [first[0], berth("2", came=112), *first[2:]]
    assert arrivals.look(second, now=112.5) == [Arrival("site", "small", 2, 10.0)]
    assert arrivals.look(second, now=120) == []


def test_those_who_came_are_not_kept_back_for_long_by_those_who_wait() -> None:
    arrivals = Arrivals("site")
    berths = [berth("1", came=110), berth("2")]
    assert arrivals.look(berths, now=111) == []
    assert arrivals.look(berths, now=114) == [Arrival("site", "small", 1, 8.0)]
    # Nor by those who will never come.
    gone = [berth("3", came=200), berth("4", state="ended"), berth("5", released=True)]
    assert arrivals.look(gone, now=200) == [Arrival("site", "small", 1, 98.0)]


@pytest.fixture
def screen() -> io.StringIO:
    return io.StringIO()


def told(screen: io.StringIO) -> list[str]:
    """The lines without their times."""
    return [line.split("] ", 1)[1] for line in screen.getvalue().splitlines()]


def wait(seconds: float, reason: str, workers: int = 3, explanation: str = "") -> Wait:
    return Wait("site", "small", workers, time.time() - seconds, reason, explanation, ("image", "cube"))


def test_without_a_terminal_a_reason_is_told_once_and_again_when_it_changes(screen: io.StringIO) -> None:
    progress = Progress(Console(file=screen, width=200))
    progress.workers_wait([wait(1, "just submitted")])
    assert told(screen) == [], "not worth a word yet"
    for seconds in (10, 11, 12):
        progress.workers_wait([wait(seconds, "Priority")])
    progress.workers_wait([wait(20, "Resources", workers=1, explanation="Resources; expected to start at noon")])
    progress.workers_wait([])
    progress.workers_came(Arrival("site", "small", 1, 25.2))
    progress.workers_wait([wait(40, "Resources")])
    assert told(screen) == [
        "image, cube: 3 workers of class 'small' of cluster 'site' in the queue for 10 s: Priority",
        "image, cube: 1 worker of class 'small' of cluster 'site' in the queue for 20 s: "
        "Resources; expected to start at noon",
        "1 worker of class 'small' of cluster 'site' came after 25 s in the queue",
        "image, cube: 3 workers of class 'small' of cluster 'site' in the queue for 40 s: Resources",
    ]


class Elsewhere:
    """A backend none of whose jobs has a worker."""

    name = "dask"
    workers = 3

    def running(self, ticket: str) -> bool:
        return False


def test_on_a_terminal_the_stage_shows_what_it_waits_for(screen: io.StringIO) -> None:
    console = Console(file=screen, width=200, force_terminal=True)
    with Progress(console) as progress:
        progress.began(["image", "other"], [])
        for stage in ("image", "other"):
            progress.stage_began(stage)
            progress.job_added(stage, f"ticket {stage}", FunctionCall(print), Elsewhere())  # type: ignore[arg-type]
        progress.workers_wait([wait(12, "Resources [n1]: no node is free")])
    lines = Text.from_ansi(screen.getvalue()).plain.splitlines()
    rows = (f"▶  {stage}" for stage in ("image", "other"))
    image, other = (next(line for line in reversed(lines) if line.startswith(row)) for row in rows)
    assert "waiting for a worker" in image and "waiting for a worker" in other
    assert (
        "3 workers of class 'small' of cluster 'site' in the queue for 12 s: Resources [n1]: no node is free" in image
    )
    assert "queue" not in other


def test_a_lost_worker_is_called_by_its_name(screen: io.StringIO) -> None:
    progress = Progress(Console(file=screen, width=200))
    progress.worker_lost("clean", Loss("worker-slurm-12_3", "its queue job 12_3: cancelled by root", 0.0))
    assert told(screen) == ["worker slurm-12_3 died running 'clean' (its queue job 12_3: cancelled by root)"]
