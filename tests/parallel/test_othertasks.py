"""Dask tasks that others submit to the scheduler of a session, beside its jobs."""

from __future__ import annotations

import multiprocessing
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from support import wait_until
from surgeline import FunctionCall, TaskQueue
from surgeline.config import load
from surgeline.errors import ClusterError
from surgeline.parallel.localworkers import LocalWorkers
from surgeline.parallel.othertasks import asked_for
from surgeline.work.outcome import Loss
from surgeline.work.resources import Resources
from tasks_of_others import added, at_once, die, die_once, note, wait_for_ever, worked


class Cluster:
    """Two workers, and somebody else's client."""

    def __init__(self, folder: Path, retries: int = 1) -> None:
        self.folder = folder
        self.losses: list[tuple[str, Loss]] = []
        overrides = ["dask.n_workers=2", f"dask.retries={retries}"]
        configuration = load(overrides=overrides, environment={}, home=folder)
        self.workers = LocalWorkers(
            configuration, "local", folder, folder / "logs", lambda name, loss: self.losses.append((name, loss))
        )
        from distributed import Client

        self.client = Client(self.workers.admit_others(), set_as_default=False)

    def processes(self) -> set[int]:
        """Of the workers; not of this process, which keeps results."""
        return {*self.workers._client.run(os.getpid).values()} - {os.getpid()}

    def lines(self, name: str) -> list[str]:
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    def idle(self) -> int:
        """How many workers have nothing to do."""
        with self.workers._lock:
            return len(self.workers._crew.idle())

    def close(self) -> None:
        self.client.close()
        self.workers.close()


@pytest.fixture(scope="module")
def opened(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    cluster = Cluster(tmp_path_factory.mktemp("cluster"))
    yield cluster
    cluster.close()


@pytest.fixture
def cluster(opened: Cluster) -> Cluster:
    wait_until(lambda: opened.idle() == 2, 60, "both workers are there, and idle")
    for path in opened.folder.iterdir():
        if path.is_file():
            path.unlink()
    opened.losses.clear()
    return opened


def test_tasks_spread_over_workers_that_the_first_of_them_does_not_need(cluster: Cluster) -> None:
    futures = cluster.client.map(at_once, range(2), pure=False)
    assert cluster.client.gather(futures) == [0, 1]


def test_jobs_and_tasks_of_others_go_on_side_by_side(cluster: Cluster) -> None:
    futures = cluster.client.map(worked, range(20), pure=False)
    total = cluster.client.submit(added, *futures, pure=False)
    with TaskQueue(cluster.workers) as queue:
        for number in range(20):
            queue.add(FunctionCall(worked, number, "own"))
        outcomes = queue.get_results()
    assert [outcome.result()[0] for outcome in outcomes] == list(range(20))
    assert total.result() == sum(range(20))
    assert len(cluster.lines("worked")) == len(cluster.lines("own")) == 20


def test_a_task_whose_worker_dies_runs_again_and_the_loss_is_told(cluster: Cluster) -> None:
    assert cluster.client.submit(die_once, "dying", pure=False).result() == "dying"
    assert len(cluster.lines("dying")) == 2
    ((name, loss),) = cluster.losses
    assert name == "Dask task die_once" and "SIGKILL" in loss.how


def test_what_has_run_does_not_run_again_when_its_worker_is_gone(cluster: Cluster) -> None:
    kept = cluster.client.map(worked, range(4), pure=False)
    wait_until(lambda: len(cluster.lines("worked")) == 4 and cluster.idle() == 2, 60, "the tasks have run")
    addresses = {worker.address for worker in cluster.workers._crew}
    for process in set(cluster.lines("worked")):
        os.kill(int(process), 9)
    wait_until(
        lambda: cluster.idle() == 2 and addresses.isdisjoint({worker.address for worker in cluster.workers._crew}),
        60,
        "there are others",
    )
    assert [number for number, _ in cluster.client.gather(kept)] == list(range(4))
    assert len(cluster.lines("worked")) == 4


def test_a_task_that_kills_its_workers_fails_and_says_how(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match=r"2 workers died running it.*SIGKILL"):
        cluster.client.submit(die, pure=False).result()


def test_tasks_that_are_sent_to_workers_that_are_gone_wait_for_others(tmp_path: Path) -> None:
    """Their deaths are noticed one after the other, so that a task may come to both."""
    cluster = Cluster(tmp_path, retries=5)
    try:
        for number in range(5):
            wait_until(lambda: cluster.idle() == 2, 60, "both workers are there, and idle")
            for process in cluster.processes():
                os.kill(process, 9)
            assert cluster.client.submit(worked, number, pure=False).result()[0] == number
    finally:
        cluster.close()


def test_a_session_that_ends_leaves_alone_what_others_of_its_process_have_started(
    cluster: Cluster, tmp_path: Path
) -> None:
    before = cluster.processes()
    child = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(600,))
    child.start()
    try:
        Cluster(tmp_path).close()
        assert child.is_alive()
        assert cluster.processes() == before
    finally:
        child.kill()


def test_a_task_that_no_worker_can_read_ends_when_they_all_have(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dask ends a worker that cannot import what it is sent, and starts none in its place."""
    here_alone = ModuleType("here_alone")
    monkeypatch.setitem(sys.modules, "here_alone", here_alone)
    exec("def function(): pass", vars(here_alone))
    cluster = Cluster(tmp_path, retries=5)
    try:
        with pytest.raises(ClusterError, match="all workers have ended"):
            cluster.client.submit(here_alone.function, pure=False).result()
    finally:
        cluster.close()


def test_a_task_that_raises_is_tried_again_as_often_as_it_says(cluster: Cluster) -> None:
    def raise_once() -> str:
        note("raised")
        if len(Path("raised").read_text().splitlines()) == 1:
            raise ValueError("the first time")
        return "the second"

    assert cluster.client.submit(raise_once, pure=False, retries=1).result() == "the second"
    with pytest.raises(ZeroDivisionError):
        cluster.client.submit(lambda: 1 / 0, pure=False).result()


def test_tasks_that_are_cancelled_free_their_workers_and_leave_the_queue(cluster: Cluster) -> None:
    futures = cluster.client.map(lambda _: wait_for_ever(), range(6), pure=False)
    wait_until(lambda: len(cluster.lines("waiting")) == 2, 60, "two of them run")
    cluster.client.cancel(futures)
    wait_until(lambda: cluster.idle() == 2, 60, "the workers are free")
    assert cluster.client.submit(worked, 1, pure=False).result()[0] == 1
    assert len(cluster.lines("waiting")) == 2
    assert not cluster.workers._waiting


def test_a_task_that_asks_for_what_no_worker_is_known_by_fails(cluster: Cluster) -> None:
    with pytest.raises(ClusterError, match="asks for 'TPU'"):
        cluster.client.submit(worked, 1, resources={"TPU": 1}, pure=False).result()


def test_what_tasks_ask_for_is_what_jobs_ask_for() -> None:
    asked = asked_for({"GPU": 1, "MEMORY": 8e9, "cores": 2.0, "walltime": 60})
    assert asked == Resources(cores=2, memory=8 * 10**9, gpus=1, walltime=60)
    assert asked_for({}) == Resources()
