"""Workers in the queue of a real Slurm: what its users see of jobs, losses and waits."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from services.slurm import Slurm
from support import wait_until
from surgeline import FunctionCall, Outcome, TaskQueue
from surgeline.config import load
from surgeline.errors import ClusterError
from surgeline.parallel.backend import Backends
from surgeline.parallel.batchworkers import BatchWorkers
from surgeline.work.outcome import Loss
from surgeline.work.resources import Resources

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

pytestmark = pytest.mark.cluster


@dataclass
class Opened:
    """A cluster with what a user sees of it."""

    backends: Backends
    folder: Path
    losses: list[tuple[str, Loss]] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    @property
    def backend(self) -> BatchWorkers:
        return self.backends.surging["slurm"]

    def queue(self) -> TaskQueue:
        return TaskQueue(self.backends.get("slurm"))

    def run(self, *jobs: FunctionCall) -> list[Outcome]:
        with self.queue() as queue:
            for job in jobs:
                queue.add(job)
            return queue.get_results()


@contextmanager
def opened(folder: Path, *overrides: str) -> Iterator[Opened]:
    found = Opened.__new__(Opened)
    found.folder, found.losses, found.told = folder, [], []
    settings = ["type=slurm", "memory=500MB", "poll=0.5", "idle_seconds=2", *overrides]
    found.backends = Backends(
        load(overrides=[f"clusters.slurm.{text}" for text in settings], environment={}, home=folder),
        folder,
        folder / "logs",
        lost=lambda job, loss: found.losses.append((job, loss)),
        tell=found.told.append,
    )
    with found.backends:
        yield found


@pytest.fixture
def jobs_of_slurm(slurm: Slurm) -> Any:
    """What Slurm's queue holds, by squeue."""
    return lambda *options: slurm.run("squeue", "--noheader", "--array", *options).splitlines()


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


def wait_for(path: Path, started: Path) -> str:
    """Tell which of Slurm's jobs this is, and wait."""
    identifier = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        identifier = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    with started.open("a") as file:
        file.write(f"{identifier}\n")
    while not path.exists():
        time.sleep(0.02)
    return identifier


def lines_of(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def test_workers_come_when_jobs_need_them_and_go_when_none_does(
    slurm: Slurm, jobs_of_slurm: Any, tmp_path: Path
) -> None:
    with opened(tmp_path, "maximum=3") as cluster:
        cluster.queue()
        assert jobs_of_slurm() == [], "no worker is asked for before there is a job"
        outcomes = cluster.run(*(call(variable, "SLURM_JOB_ID", name=f"job {i}") for i in range(9)))
        assert [outcome.job for outcome in outcomes] == [f"job {i}" for i in range(9)]
        of_slurm = {outcome.result() for outcome in outcomes}
        assert 1 <= len(of_slurm) <= 3
        wait_until(lambda: jobs_of_slurm("--states=PENDING,RUNNING") == [], 30, "the queue is empty")
        # And again, when there is work again.
        (again,) = cluster.run(call(variable, "SLURM_JOB_ID"))
        assert again.result() not in of_slurm
    wait_until(lambda: jobs_of_slurm() == [], 30, "nothing is left")


def test_jobs_go_to_workers_of_the_class_that_they_fit(slurm: Slurm, tmp_path: Path) -> None:
    classes = {
        "small": {"maximum": 1},
        "fat": {"cores": 2, "memory": "1GB", "maximum": 1},
        "gpu": {"gpus": 1, "queue": "gpu", "maximum": 1},
    }
    go = tmp_path / "go"
    with opened(tmp_path, f"workers={classes}") as cluster:
        with cluster.queue() as queue:
            queue.add(call(wait_for, go, tmp_path / "fat runs", resources=Resources(cores=2)))
            queue.add(call(variable, "CUDA_VISIBLE_DEVICES", resources=Resources(gpus=1)))
            # Behind one that waits for a class whose only worker is busy, and free to take any other.
            queue.add(call(variable, "SLURM_CPUS_ON_NODE", resources=Resources(cores=2)))
            queue.add(call(worked, tmp_path, 1, 0.0))
            wait_until(lambda: (tmp_path / "fat runs").exists() and (tmp_path / "1").exists(), 60, "two jobs ran")
            go.touch()
            fat, gpu, large, small = queue.get_results()
        partitions = {
            berth.kind: slurm.run("scontrol", "show", "job", berth.identifier)
            for berth in cluster.backend.fleet.berths()
        }
    assert fat.ok
    assert (gpu.result(), large.result(), small.result()) == ("0", "2", 1)
    assert "Partition=gpu" in partitions["gpu"]
    assert "NumCPUs=2" in partitions["fat"]


def test_a_job_larger_than_every_class_gets_a_worker_made_to_measure(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path) as cluster:
        (outcome,) = cluster.run(call(variable, "SLURM_CPUS_ON_NODE", resources=Resources(cores=3)))
        assert outcome.result() == "3"


def test_what_slurm_does_not_have_fails_with_its_own_words(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path) as cluster:
        (outcome,) = cluster.run(call(variable, "HOME", resources=Resources(cores=500)))
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "More processors requested than permitted" in outcome.failure.message


@pytest.mark.parametrize(
    "setting, words",
    [("queue=nowhere", "invalid partition"), ("queue=closed", "nvalid account or account/partition")],
)
def test_what_slurm_refuses_fails_the_start_with_its_own_words(
    slurm: Slurm, tmp_path: Path, setting: str, words: str
) -> None:
    with opened(tmp_path, setting) as cluster, pytest.raises(ClusterError, match=words):
        cluster.queue()


def test_without_slurm_the_start_fails_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with opened(tmp_path) as cluster, pytest.raises(ClusterError, match="sbatch is not there"):
        cluster.queue()


@dataclass
class LongOne:
    """A cluster with a job that waits to be told to end, and others beside it that have run."""

    cluster: Opened
    queue: TaskQueue
    started: Path
    go: Path
    runs: Path

    def identifier(self) -> str:
        """Which of Slurm's jobs runs it, or ran it last."""
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
def a_long_job(folder: Path, *overrides: str) -> Iterator[LongOne]:
    runs = folder / "runs"
    runs.mkdir()
    with opened(folder, "maximum=2", *overrides) as cluster, cluster.queue() as queue:
        found = LongOne(cluster, queue, folder / "started", folder / "go", runs)
        queue.add(call(wait_for, found.go, found.started, name="the long one"))
        for number in range(6):
            queue.add(call(worked, runs, number, 0.1))
        wait_until(found.started.exists, 60, "the job runs")
        wait_until(lambda: len(list(runs.iterdir())) == 6, 60, "the others have run")
        yield found


def test_a_cancelled_worker_is_told_and_only_its_own_job_runs_again(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job(tmp_path) as job:
        identifier = job.identifier()
        slurm.run("scancel", identifier)
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "cancelled" in loss.how and identifier in loss.how


def test_the_job_of_a_node_that_fails_runs_again_on_another(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job(tmp_path) as job:
        identifier = job.identifier()
        (node,) = set(slurm.run("squeue", "--noheader", "--jobs", identifier, "--format=%N").split())
        slurm.kill_node(node)
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "node" in loss.how


def test_slurm_may_be_restarted_meanwhile(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job(tmp_path) as job:
        slurm.stop_controller(crash=True)
        wait_until(lambda: any("goes on" in text for text in job.cluster.told), 60, "it is told")
        slurm.start_controller()
        wait_until(lambda: any("again" in text for text in job.cluster.told), 60, "it is told")
        assert not job.end().losses


def test_a_requeued_worker_comes_back_and_its_job_runs_again(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job(tmp_path, "job_extra_directives=[--requeue]") as job:
        slurm.run("scontrol", "requeue", job.identifier())
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "queue" in loss.how


def test_a_preempted_worker_is_told_and_its_job_runs_again(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job(tmp_path) as job:
        identifier = job.identifier()
        urgent = slurm.run(
            *("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive"),
            *("--output=/dev/null", "--wrap=sleep 1"),
        )
        slurm.wait_for_job(urgent, "COMPLETED", "COMPLETING", "RUNNING")
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "preempted" in loss.how and identifier in loss.how


def die() -> None:
    os.kill(os.getpid(), 9)


def test_a_job_that_kills_three_workers_fails_and_is_named(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path, "maximum=1") as cluster:
        killer, innocent = cluster.run(call(die, name="the killer"), call(variable, "HOME"))
    assert killer.failure is not None and killer.failure.kind == "worker died"
    assert killer.failure.message.startswith("3 workers died running it")
    assert "SIGKILL" in killer.failure.message
    assert innocent.ok and not innocent.losses


def take_memory(size: int) -> int:
    taken = bytearray(size)
    taken[::4096] = b"x" * len(taken[::4096])
    # The nanny looks a few times a second.
    time.sleep(1.0)
    return len(taken)


def test_a_job_that_ran_out_of_memory_gets_a_larger_worker(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path, "maximum=2") as cluster:
        (outcome,) = cluster.run(call(take_memory, 600_000_000, name="the hungry one"))
        requested = [berth.kind for berth in cluster.backend.fleet.berths()]
    assert outcome.result() == 600_000_000
    (loss,) = outcome.losses
    assert loss.how.startswith("out of memory")
    assert requested == ["worker", "measured-1"]


def test_jobs_longer_than_the_walltime_that_is_left_start_on_fresh_workers(slurm: Slurm, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with opened(tmp_path, "maximum=4", "walltime=60") as cluster:
        outcomes = cluster.run(*(call(worked, runs, number, 5.0, name="five seconds") for number in range(60)))
        assert [outcome.result() for outcome in outcomes] == list(range(60))
        assert cluster.losses == []
        assert [lines_of(runs / str(number)) for number in range(60)] == [["ran"]] * 60
        assert len({outcome.worker for outcome in outcomes}) > 4, "workers were replaced"


def test_workers_that_cannot_start_are_told_with_what_they_said(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path, "maximum=1", "job_script_prologue=['echo this is broken', 'exit 3']") as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "exit code 3" in outcome.failure.message and "this is broken" in outcome.failure.message


def test_a_wait_is_told_with_slurms_reason_and_ends_at_its_deadline(slurm: Slurm, tmp_path: Path) -> None:
    slurm.partition("cpu", "DOWN")
    with opened(tmp_path, "queue_deadline=8") as cluster, cluster.queue() as queue:
        queue.add(call(variable, "HOME"))
        wait_until(lambda: any("PartitionDown" in wait for wait in cluster.backend.waits()), 30, "the reason is told")
        (outcome,) = queue.get_results()
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "within 8 s" in outcome.failure.message and "PartitionDown" in outcome.failure.message


def test_jobs_go_to_another_cluster_when_no_worker_comes_in_time(slurm: Slurm, tmp_path: Path) -> None:
    slurm.partition("cpu", "DOWN")
    with opened(tmp_path, "queue_deadline=4", "otherwise=local") as cluster:
        (outcome,) = cluster.run(call(variable, "SLURM_JOB_ID"))
    assert outcome.ok and outcome.result() is None
    assert any("otherwise" in text for text in cluster.told)


def test_a_hundred_workers_are_asked_for_and_those_that_are_not_needed_given_back(
    slurm: Slurm, jobs_of_slurm: Any, tmp_path: Path
) -> None:
    with opened(tmp_path, "maximum=100", "memory=400MB") as cluster:
        outcomes = cluster.run(*(call(variable, "HOME", name=f"job {number}") for number in range(100)))
        assert all(outcome.ok for outcome in outcomes)
        assert len(cluster.backend.fleet.berths()) == 100
        wait_until(lambda: jobs_of_slurm("--states=PENDING,RUNNING") == [], 30, "the queue is empty")


def test_a_cancelled_job_ends_and_a_worker_is_there_for_the_next(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path, "maximum=1") as cluster:
        with cluster.queue() as queue:
            queue.add(call(wait_for, tmp_path / "go", tmp_path / "started"))
            wait_until((tmp_path / "started").exists, 60, "it runs")
            queue.cancel()
            (outcome,) = queue.get_results()
        assert outcome.failure is not None and outcome.failure.kind == "cancelled"
        (after,) = cluster.run(call(variable, "HOME"))
        assert after.ok


def test_a_job_runs_once_on_each_worker_that_there_is(slurm: Slurm, tmp_path: Path) -> None:
    with opened(tmp_path, "maximum=2") as cluster:
        (first,) = cluster.backends.get("slurm").exec_everywhere(call(variable, "SLURM_JOB_ID"))
        assert first.result()
