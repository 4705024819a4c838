"""What may happen at the same moment in backends with workers, brought about one step after the other."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import psutil
import pytest

from support import wait_until
from surgeline.config import load
from surgeline.parallel.backend import open_backend
from surgeline.parallel.dispatch import Dispatcher
from surgeline.parallel.mpihelpers import MpiBackend
from surgeline.parallel.nested import Parent
from surgeline.work.execution import execute_pickled
from surgeline.work.jobs import FunctionCall
from surgeline.work.outcome import Outcome
from surgeline.work.surroundings import Surroundings
from surgeline.work.taskqueue import TaskQueue

cloudpickle.register_pickle_by_value(sys.modules[__name__])


class Servers:
    """Stands for the servers of an MPI session: each answers when a test has it do so."""

    def __init__(self, *ranks: int) -> None:
        self.living: dict[int, Any] = dict.fromkeys(ranks)
        self.lost: dict[int, str] = {}
        self.requests: dict[int, tuple[int, list[bytes]]] = {}
        self.dies_when_sent_to: int | None = None
        self.may_be_read = threading.Event()
        self.may_be_read.set()
        self.is_read = threading.Event()
        self.discarded: list[int] = []

    def dies(self, rank: int) -> None:
        self.lost[rank] = "killed by signal 9 (SIGKILL)"
        del self.living[rank]

    def push(self, rank: int, jobs: list[bytes]) -> int | None:
        if rank == self.dies_when_sent_to:
            self.dies(rank)
            return None
        number = len(self.requests) + 1
        self.requests[number] = rank, jobs
        return number

    def results(self, number: int) -> list[bytes]:
        self.is_read.set()
        assert self.may_be_read.wait(20)
        rank, jobs = self.requests[number]
        return [execute_pickled(job, Surroundings(f"server-{rank}")) for job in jobs]

    def discard_results(self, number: int) -> None:
        self.discarded.append(number)


class Backend(MpiBackend):
    """The backend without its session."""

    def __init__(self, servers: Servers) -> None:
        Dispatcher.__init__(self, retries=1, lost=None)
        self.workers = len(servers.living)
        self._servers = servers  # type: ignore[assignment]
        self._flying, self._busy, self._doing, self._dead = {}, {}, {}, {}
        self._collector.start()

    def close(self) -> None:
        self._stop_collecting()


@pytest.fixture
def servers() -> Servers:
    return Servers(1, 2)


@pytest.fixture
def backend(servers: Servers) -> Iterator[Backend]:
    opened = Backend(servers)
    yield opened
    servers.may_be_read.set()
    opened.close()


def same(value: Any) -> Any:
    return value


def test_a_job_cancelled_while_its_outcome_is_read_is_told_once(backend: Backend, servers: Servers) -> None:
    told: list[Outcome] = []
    servers.may_be_read.clear()
    ticket = backend.submit(FunctionCall(same, 1), told.append)
    backend._answered(1)
    assert servers.is_read.wait(20)
    backend.cancel([ticket])
    servers.may_be_read.set()
    wait_until(lambda: not backend.running(ticket), 20, "the outcome is delivered")
    assert [outcome.failure and outcome.failure.kind for outcome in told] == ["cancelled"]
    backend.submit(FunctionCall(same, 2), told.append)
    backend._answered(2)
    wait_until(lambda: len(told) == 2, 20, "the next outcome is delivered")
    assert told[1].value == 2


def test_a_cancelled_job_keeps_its_place_until_it_has_ended(backend: Backend, servers: Servers) -> None:
    told: list[Outcome] = []
    tickets = [backend.submit(FunctionCall(same, number), told.append) for number in range(2)]
    backend.cancel(tickets)
    backend.submit(FunctionCall(same, 2), told.append)
    assert [outcome.failure and outcome.failure.kind for outcome in told] == ["cancelled"] * 2
    assert len(servers.requests) == 2
    backend._answered(2)
    wait_until(lambda: len(servers.requests) == 3, 20, "the third is sent")
    assert servers.requests[3][0] == servers.requests[2][0]
    assert servers.discarded == [2]


def test_a_server_that_dies_as_a_job_is_sent_costs_nothing(backend: Backend, servers: Servers) -> None:
    told: list[Outcome] = []
    servers.dies_when_sent_to = 1
    ticket = backend.submit(FunctionCall(same, 1), told.append)
    assert backend.running(ticket)
    assert [rank for rank, _ in servers.requests.values()] == [2]
    backend._answered(1)
    wait_until(lambda: bool(told), 20, "the outcome is delivered")
    assert (told[0].value, told[0].losses) == (1, ())


def append(path: str, text: str) -> str:
    with Path(path).open("a") as file:
        file.write(text)
    return Path(path).read_text()


def test_what_a_dead_server_had_half_changed_is_put_back_first_or_not_worked_on(
    backend: Backend, servers: Servers, tmp_path: Path
) -> None:
    told: dict[str, Outcome] = {}
    data = tmp_path / "data"
    change = FunctionCall(append, str(data), "changed").declare(changes=[str(data)])
    put_back = FunctionCall(Path.write_text, data, "as it was, and ")
    backend.submit(change.declare(name="kept", mends=[put_back]), lambda outcome: told.setdefault("kept", outcome))
    backend.submit(change.declare(name="not kept"), lambda outcome: told.setdefault("not kept", outcome))
    data.write_text("half changed")
    servers.dies(2)
    backend._died(2, 2)
    wait_until(lambda: "not kept" in told, 20, "it is told")
    failure = told["not kept"].failure
    assert failure is not None and failure.message.endswith(f"(SIGKILL), while it changed {data}")
    servers.living[3] = None
    servers.dies(1)
    backend._died(1, 1)
    wait_until(lambda: len(servers.requests) == 3, 20, "it is sent again")
    backend._answered(3)
    wait_until(lambda: "kept" in told, 20, "it is told")
    assert told["kept"].value == "as it was, and changed"
    assert len(told["kept"].losses) == 1


def test_jobs_of_a_bundle_that_are_cancelled_one_by_one_stay_cancelled(backend: Backend, servers: Servers) -> None:
    told: dict[str, Outcome] = {}
    backend._mean_seconds["same"] = 1e-4
    with backend._lock:
        # Without a free worker they wait, and then go together.
        backend._held += 1
        tickets = [backend.submit(FunctionCall(same, n), lambda o: told.setdefault(o.call, o)) for n in range(20)]
        backend._held -= 1
        backend._feed()
        [first, second, *_] = next(bundle.jobs for bundle in backend._sent.values() if len(bundle.jobs) > 2)
    assert {first.ticket, second.ticket} <= set(tickets)
    backend.cancel([first.ticket])
    backend.cancel([second.ticket])
    assert first.cancelled
    assert second.cancelled


def test_a_job_that_cannot_reach_its_nested_session_fails_and_the_next_one_runs(tmp_path: Path) -> None:
    backend = open_backend(load(overrides=["backend=serial"]), folder=tmp_path)
    with TaskQueue(backend) as queue:
        queue.add(FunctionCall(same, threading.Lock()).declare(mpi=True))
        queue.add_functioncall(same, 2)
        failed, ran = queue.get_results()
    backend.close()
    assert failed.failure is not None
    assert "cannot pickle" in failed.failure.message
    assert ran.value == 2


def test_a_parent_that_was_killed_and_not_waited_for_does_not_live() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        parent = Parent(os.uname().nodename, child.pid, psutil.Process(child.pid).create_time())
        assert parent.lives()
        child.kill()
        wait_until(lambda: not parent.lives(), 10, "the parent is gone")
        assert psutil.Process(child.pid).status() == psutil.STATUS_ZOMBIE
