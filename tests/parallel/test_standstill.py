"""Workers that are stopped and never woken: it is told, and their jobs run elsewhere."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import cloudpickle
import psutil
import pytest

from support import wait_until
from surgeline import FunctionCall, Outcome, TaskQueue
from surgeline.config import load
from surgeline.parallel.backend import Backends
from surgeline.parallel.standstill import Silence, Standstills, Watched
from surgeline.work.taskqueue import Backend

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LIMIT = 3.0


@dataclass
class Opened:
    """Local workers, with what their session tells."""

    backend: Backend
    told: list[str] = field(default_factory=list)

    def run(self, job: FunctionCall) -> Outcome:
        with TaskQueue(self.backend) as queue:
            queue.add(job)
            (outcome,) = queue.get_results()
        return outcome


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    folder = tmp_path_factory.mktemp("workers")
    settings = ("backend=dask", "dask.n_workers=2", "worker.memory=1GB", f"worker.standstill_limit={LIMIT}")
    told: list[str] = []
    configuration = load(overrides=settings, environment={}, home=folder)
    with Backends(configuration, folder, folder / "logs", tell=told.append) as backends:
        yield Opened(backends.get(), told)


def stop_once(marker: Path) -> str:
    """Stop the own process, the first time."""
    if not marker.exists():
        marker.write_text(str(os.getpid()))
        os.kill(os.getpid(), signal.SIGSTOP)
    return "went on"


def hold_pythons_lock(seconds: float) -> str:
    """As long calls of CASA may: no other thread of Python's runs meanwhile."""
    import ctypes

    ctypes.PyDLL(None).usleep(int(seconds * 1e6))
    return "at work"


def test_a_stopped_worker_is_told_of_and_ended_and_its_job_runs_elsewhere(workers: Opened, tmp_path: Path) -> None:
    workers.told.clear()
    outcome = workers.run(FunctionCall(stop_once, tmp_path / "stopped").declare(name="the stopped one"))
    assert outcome.result() == "went on"
    (loss,) = outcome.losses
    assert loss.how.startswith("stopped by a signal for") and loss.how.endswith("and ended")
    first, last = workers.told
    assert "which has the stopped one: stopped by a signal for" in first and f"after {LIMIT:g} s it is ended" in first
    assert last.endswith("it is ended")
    assert not psutil.pid_exists(int((tmp_path / "stopped").read_text()))


def test_one_that_is_woken_in_time_goes_on_with_its_job(workers: Opened, tmp_path: Path) -> None:
    workers.told.clear()
    marker = tmp_path / "stopped"
    with TaskQueue(workers.backend) as queue:
        queue.add_functioncall(stop_once, marker)
        wait_until(lambda: bool(workers.told), 30, "it is told")
        os.kill(int(marker.read_text()), signal.SIGCONT)
        (outcome,) = queue.get_results()
    assert outcome.result() == "went on" and not outcome.losses
    wait_until(lambda: workers.told[-1].endswith("it goes on"), 10, "it is told")


def test_one_that_is_long_at_work_is_left_alone(workers: Opened) -> None:
    workers.told.clear()
    outcome = workers.run(FunctionCall(hold_pythons_lock, LIMIT + 1))
    assert outcome.result() == "at work" and not outcome.losses
    assert workers.told == []


def test_who_stood_still_itself_does_not_hold_that_time_against_others(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    monkeypatch.setattr(psutil.Process, "status", lambda _: psutil.STATUS_STOPPED)
    watched, silence = Watched(), Silence()
    watched.look(os.getpid())
    silence.heard("worker")
    now = 5.0
    assert (watched.look(os.getpid()), silence.look(["worker"])["worker"]) == (5.0, 5.0)
    now = 3600.0
    assert watched.look(os.getpid()) < 30 and silence.look(["worker"])["worker"] < 100
    silence.heard("worker")
    assert silence.look(["worker"])["worker"] == 0.0


def test_what_is_not_heard_of_is_told_once_and_ended_once() -> None:
    told: list[str] = []
    standstills = Standstills("nothing is heard of it", 90.0, 300.0, told.append)
    ended = [standstills.hear("tls://n1", "worker-1", seconds, "suspended") for seconds in range(0, 400, 10)]
    assert told == [
        "worker-1: nothing is heard of it for 90 s (suspended); after 300 s it is ended",
        "worker-1: nothing is heard of it for 300 s (suspended); it is ended",
    ]
    assert ended[:30] == [""] * 30 and all(ended[30:])
