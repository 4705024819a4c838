"""Workers in the queue of a real HTCondor: holds, evictions, restarts, machines that do not share a filesystem."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import cloudpickle
import pytest

from queue_clusters import a_long_job, call, opened, variable
from services.htcondor import HTCondor
from support import wait_until
from surgeline.errors import ClusterError

# Workers cannot import this file: its functions travel whole.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def test_a_held_worker_is_told_and_another_takes_its_place(htcondor: HTCondor, tmp_path: Path) -> None:
    with a_long_job("htcondor", tmp_path) as job:
        identifier = job.identifier()
        htcondor.run("condor_hold", identifier)
        job.wait_until_it_runs_again()
        assert job.identifier() != identifier
        (loss,) = job.end().losses
    assert "held" in loss.how and identifier in loss.how
    wait_until(lambda: htcondor.run("condor_q", "-af", "ClusterId") == "", 30, "none is left in the queue")


def test_an_evicted_worker_comes_back_and_its_job_runs_again(htcondor: HTCondor, tmp_path: Path) -> None:
    with a_long_job("htcondor", tmp_path) as job:
        htcondor.run("condor_vacate_job", "-fast", job.identifier())
        job.wait_until_it_runs_again()
        (loss,) = job.end().losses
    assert "queue" in loss.how


def test_the_schedd_may_be_restarted_meanwhile(htcondor: HTCondor, tmp_path: Path) -> None:
    with a_long_job("htcondor", tmp_path) as job:
        htcondor.stop_schedd()
        wait_until(lambda: any("goes on" in text for text in job.cluster.told), 60, "it is told")
        htcondor.start_schedd()
        wait_until(lambda: any("again" in text for text in job.cluster.told), 60, "it is told")
        assert job.end().ok


def test_without_a_schedd_the_start_fails_and_says_so(htcondor: HTCondor, tmp_path: Path) -> None:
    htcondor.stop_schedd()
    with opened("htcondor", tmp_path) as cluster, pytest.raises(ClusterError, match="schedd"):
        cluster.queue()


def where() -> tuple[str, str]:
    return os.environ["_CONDOR_SCRATCH_DIR"], str(Path.cwd())


def test_workers_of_machines_with_files_of_their_own_run_in_their_own_folder(
    htcondor: HTCondor, tmp_path: Path
) -> None:
    with opened("htcondor", tmp_path, "transfer_files=true", "shared_filesystem=false") as cluster:
        place, other = cluster.run(call(where), call(variable, "HOME"))
    scratch, current = place.result()
    assert current == scratch
    assert other.ok
