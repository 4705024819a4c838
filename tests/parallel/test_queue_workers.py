"""Workers in the queues of a real Slurm and a real HTCondor: what holds for both."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from queue_clusters import a_long_job, call, opened, variable, wait_for, worked
from services.htcondor import HTCondor
from services.slurm import Slurm
from support import wait_until
from surgeline.work.resources import Resources

# Which of the two it is shows only when a test runs.
pytestmark = pytest.mark.cluster


@dataclass
class Manager:
    """A workload manager, spoken to by its own commands as its users and administrators do."""

    kind: str
    service: Slurm | HTCondor

    def queue(self) -> list[str]:
        """What its queue holds that is, or will be, of use."""
        if self.kind == "slurm":
            return self.service.run("squeue", "--noheader", "--array", "--states=PENDING,RUNNING").splitlines()
        return self.service.run("condor_q", "-af", "ClusterId").splitlines()

    def cancel(self, identifier: str) -> None:
        """End a queue job."""
        self.service.run("scancel" if self.kind == "slurm" else "condor_rm", identifier)

    def node_of(self, identifier: str) -> str:
        """The machine that a queue job runs on."""
        if isinstance(self.service, HTCondor):
            return self.service.node_of(identifier)
        return self.service.run("squeue", "--noheader", "--jobs", identifier, "--format=%N").split()[0]


@pytest.fixture(params=["slurm", "htcondor"])
def manager(request: pytest.FixtureRequest) -> Manager:
    return Manager(request.param, request.getfixturevalue(request.param))


def test_workers_come_when_jobs_need_them_and_go_when_none_does(manager: Manager, tmp_path: Path) -> None:
    with opened(manager.kind, tmp_path, "maximum=3") as cluster:
        cluster.queue()
        assert manager.queue() == [], "no worker is asked for before there is a job"
        outcomes = cluster.run(*(call(variable, "HOME", name=f"job {i}") for i in range(9)))
        assert [outcome.job for outcome in outcomes] == [f"job {i}" for i in range(9)]
        before = {outcome.worker for outcome in outcomes}
        assert 1 <= len(before) <= 3
        wait_until(lambda: manager.queue() == [], 30, "the queue is empty")
        # And again, when there is work again.
        (again,) = cluster.run(call(variable, "HOME"))
        assert again.ok and again.worker not in before
    wait_until(lambda: manager.queue() == [], 30, "nothing is left")


def test_jobs_go_to_workers_of_the_class_that_they_fit(manager: Manager, tmp_path: Path) -> None:
    gpu: dict[str, Any] = {"gpus": 1, "maximum": 1}
    classes = {"small": {"maximum": 1}, "fat": {"cores": 2, "memory": "1GB", "maximum": 1}, "gpu": gpu}
    if manager.kind == "slurm":
        gpu["queue"] = "gpu"
    go, started = tmp_path / "go", tmp_path / "started"
    with opened(manager.kind, tmp_path, f"workers={classes}") as cluster:
        with cluster.queue() as queue:
            queue.add(call(wait_for, go, started, resources=Resources(cores=2)))
            queue.add(call(variable, "CUDA_VISIBLE_DEVICES", resources=Resources(gpus=1)))
            # Behind one that waits for a class whose only worker is busy, and free to take any other.
            queue.add(call(variable, "HOME", name="another large one", resources=Resources(cores=2)))
            queue.add(call(worked, tmp_path, 1, 0.0))
            wait_until(lambda: started.exists() and (tmp_path / "1").exists(), 60, "two jobs ran")
            go.touch()
            fat, gpus, large, small = queue.get_results()
        assert gpus.result() in ("0", "1", "GPU-0", "GPU-1")
        assert fat.ok and large.ok and small.ok
        assert large.worker == fat.worker
        berths = {berth.kind: berth for berth in cluster.backend.fleet.berths()}
        assert fat.worker.endswith(berths["fat"].identifier)
        assert gpus.worker.endswith(berths["gpu"].identifier)
        assert berths["gpu"].host.startswith("g")


def test_a_cancelled_worker_is_told_and_only_its_own_job_runs_again(manager: Manager, tmp_path: Path) -> None:
    with a_long_job(manager.kind, tmp_path) as job:
        identifier = job.identifier()
        manager.cancel(identifier)
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "cancelled" in loss.how and identifier in loss.how


def test_the_job_of_a_node_that_fails_runs_again_on_another(manager: Manager, tmp_path: Path) -> None:
    with a_long_job(manager.kind, tmp_path) as job:
        node = manager.node_of(job.identifier())
        manager.service.kill_node(node)
        job.wait_until_it_runs_again()
        assert manager.node_of(job.identifier()) != node
        (loss,) = job.end().losses
    # HTCondor waits longer for a machine than a job should have to.
    assert node in loss.how


def test_workers_that_cannot_start_are_told_with_what_they_said(manager: Manager, tmp_path: Path) -> None:
    broken = "job_script_prologue=['echo this is broken', 'exit 3']"
    with opened(manager.kind, tmp_path, "maximum=1", broken) as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "exit code 3" in outcome.failure.message and "this is broken" in outcome.failure.message


def test_a_cancelled_job_ends_and_a_worker_is_there_for_the_next(manager: Manager, tmp_path: Path) -> None:
    with opened(manager.kind, tmp_path, "maximum=1") as cluster:
        with cluster.queue() as queue:
            queue.add(call(wait_for, tmp_path / "go", tmp_path / "started"))
            wait_until((tmp_path / "started").exists, 60, "it runs")
            queue.cancel()
            (outcome,) = queue.get_results()
        assert outcome.failure is not None and outcome.failure.kind == "cancelled"
        (after,) = cluster.run(call(variable, "HOME"))
        assert after.ok


def test_a_job_runs_once_on_each_worker_that_there_is(manager: Manager, tmp_path: Path) -> None:
    with opened(manager.kind, tmp_path, "maximum=2") as cluster:
        (first,) = cluster.backends.get(manager.kind).exec_everywhere(call(variable, "HOME"))
        assert first.ok
