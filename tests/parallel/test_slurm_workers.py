"""Workers in the queue of a real Slurm: refusals, restarts, walltime, deadlines."""

from __future__ import annotations

import os
import sys
import time
from contextlib import suppress
from pathlib import Path

import cloudpickle
import psutil
import pytest

from queue_clusters import a_long_job, call, lines_of, opened, take_memory, variable, worked
from services.slurm import Slurm
from support import wait_until
from surgeline.errors import ClusterError
from surgeline.work.resources import Resources

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_job_larger_than_every_class_gets_a_worker_made_to_measure(slurm: Slurm, tmp_path: Path) -> None:
    with opened("slurm", tmp_path) as cluster:
        (outcome,) = cluster.run(call(variable, "SLURM_CPUS_ON_NODE", resources=Resources(cores=3)))
        assert outcome.result() == "3"


def test_what_slurm_does_not_have_fails_with_its_own_words(slurm: Slurm, tmp_path: Path) -> None:
    with opened("slurm", tmp_path) as cluster:
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
    with opened("slurm", tmp_path, setting) as cluster, pytest.raises(ClusterError, match=words):
        cluster.queue()


def test_without_slurm_the_start_fails_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with opened("slurm", tmp_path) as cluster, pytest.raises(ClusterError, match="sbatch is not there"):
        cluster.queue()


def test_workers_on_which_casa_does_not_start_fail_the_jobs_and_say_why(slurm: Slurm, tmp_path: Path) -> None:
    nowhere = "{datapath: [], measurespath: /nowhere}"
    with opened("slurm", tmp_path, "maximum=1", casaconfig=nowhere) as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "queue jobs in a row ended before a worker came" in outcome.failure.message
    assert "measures data is not available" in outcome.failure.message


def test_slurm_may_be_restarted_meanwhile(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job("slurm", tmp_path) as job:
        slurm.wait_until_saved()
        slurm.stop_controller(crash=True)
        wait_until(lambda: any("goes on" in text for text in job.cluster.told), 60, "it is told")
        slurm.start_controller()
        wait_until(lambda: any("again" in text for text in job.cluster.told), 60, "it is told")
        assert not job.end().losses


def test_a_requeued_worker_comes_back_and_its_job_runs_again(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job("slurm", tmp_path, "job_extra_directives=[--requeue]") as job:
        slurm.run("scontrol", "requeue", job.identifier())
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "queue" in loss.how


def test_a_worker_that_is_stopped_is_ended_and_its_job_runs_again_in_the_same_place(
    slurm: Slurm, tmp_path: Path
) -> None:
    with a_long_job("slurm", tmp_path, standstill=3) as job:
        (worker,) = [process for process in psutil.process_iter() if at_work(process, tmp_path, job.identifier())]
        worker.suspend()
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
        assert [text for text in job.cluster.told if "which has the long one: stopped by a signal" in text]
    assert "stopped by a signal" in loss.how and "and ended" in loss.how


def at_work(process: psutil.Process, folder: Path, identifier: str) -> bool:
    """Whether a process is that of the worker of a queue job."""
    with suppress(psutil.Error, OSError):
        variables = process.environ()
        number = variables.get("SLURM_ARRAY_JOB_ID"), variables.get("SLURM_ARRAY_TASK_ID")
        named = f"{number[0]}_{number[1]}" if all(number) else variables.get("SLURM_JOB_ID")
        return Path(process.cwd()) == folder and named == identifier
    return False


def test_a_preempted_worker_is_told_and_its_job_runs_again(slurm: Slurm, tmp_path: Path) -> None:
    with a_long_job("slurm", tmp_path) as job:
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
    with opened("slurm", tmp_path, "maximum=1") as cluster:
        killer, innocent = cluster.run(call(die, name="the killer"), call(variable, "HOME"))
    assert killer.failure is not None and killer.failure.kind == "worker died"
    assert killer.failure.message.startswith("3 workers died running it")
    assert "SIGKILL" in killer.failure.message
    assert innocent.ok and not innocent.losses


def test_a_job_that_ran_out_of_memory_gets_a_larger_worker(slurm: Slurm, tmp_path: Path) -> None:
    with opened("slurm", tmp_path, "maximum=2") as cluster:
        (outcome,) = cluster.run(call(take_memory, 600_000_000, name="the hungry one"))
        requested = [berth.kind for berth in cluster.backend.fleet.berths()]
    assert outcome.result() == 600_000_000
    (loss,) = outcome.losses
    assert loss.how.startswith("out of memory")
    assert requested == ["worker", "measured-1"]


def test_jobs_longer_than_the_walltime_that_is_left_start_on_fresh_workers(slurm: Slurm, tmp_path: Path) -> None:
    runs = tmp_path / "runs"
    runs.mkdir()
    with opened("slurm", tmp_path, "maximum=4", "walltime=60") as cluster:
        outcomes = cluster.run(*(call(worked, runs, number, 5.0, name="five seconds") for number in range(60)))
        assert [outcome.result() for outcome in outcomes] == list(range(60))
        assert cluster.losses == []
        assert [lines_of(runs / str(number)) for number in range(60)] == [["ran"]] * 60
        assert len({outcome.worker for outcome in outcomes}) > 4, "workers were replaced"


def test_a_job_that_does_not_end_within_the_walltime_fails_and_says_so(slurm: Slurm, tmp_path: Path) -> None:
    with opened("slurm", tmp_path, "maximum=1", "walltime=60", retries=0) as cluster:
        (outcome,) = cluster.run(call(time.sleep, 600, name="the endless one"))
    assert outcome.failure is not None and outcome.failure.kind == "worker died"
    assert "reached its walltime" in outcome.failure.message


def test_what_the_core_hours_do_not_pay_for_fails_and_says_so(slurm: Slurm, tmp_path: Path) -> None:
    with opened("slurm", tmp_path, "core_hours=0.0001") as cluster:
        (outcome,) = cluster.run(call(variable, "HOME"))
        assert cluster.backend.fleet.berths() == []
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "core-hours" in outcome.failure.message


def test_a_wait_is_told_with_slurms_reason_and_ends_at_its_deadline(slurm: Slurm, tmp_path: Path) -> None:
    slurm.partition("cpu", "DOWN")
    with opened("slurm", tmp_path, "queue_deadline=8") as cluster, cluster.queue() as queue:
        queue.add(call(variable, "HOME"))
        wait_until(lambda: any("PartitionDown" in wait for wait in cluster.backend.waits()), 30, "the reason is told")
        (outcome,) = queue.get_results()
    assert outcome.failure is not None and outcome.failure.kind == "not started"
    assert "within 8 s" in outcome.failure.message and "PartitionDown" in outcome.failure.message


def test_jobs_go_to_another_cluster_when_no_worker_comes_in_time(slurm: Slurm, tmp_path: Path) -> None:
    slurm.partition("cpu", "DOWN")
    with opened("slurm", tmp_path, "queue_deadline=4", "otherwise=local") as cluster:
        (outcome,) = cluster.run(call(variable, "SLURM_JOB_ID"))
    assert outcome.ok and outcome.result() is None
    assert any("otherwise" in text for text in cluster.told)


def test_a_burst_of_a_hundred_workers_is_asked_for_and_given_back(slurm: Slurm, tmp_path: Path) -> None:
    with opened("slurm", tmp_path, "maximum=100", "memory=400MB") as cluster:
        outcomes = cluster.run(*(call(variable, "HOME", name=f"job {number}") for number in range(100)))
        assert all(outcome.ok for outcome in outcomes)
        assert len(cluster.backend.fleet.berths()) == 100
        wait_until(lambda: cluster.alive() == [], 30, "none is kept")
        assert slurm.run("squeue", "--noheader", "--array", "--states=PENDING,RUNNING") == ""
