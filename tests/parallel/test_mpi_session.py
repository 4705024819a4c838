"""The casampi backend in real MPI sessions, under each mpirun of this machine."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from mpiruns import MPIRUNS, each_mpirun, mpi_of
from support import wait_until
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher

pytestmark = pytest.mark.mpi
PROGRAM = Path(__file__).with_name("mpi_ranks.py")
Seen = dict[str, Any]
Ranks = list[psutil.Process]


def line_of(mpirun: str, scenario: str, folder: Path, vis: Path, ranks: int = 3) -> list[str]:
    program = [sys.executable, str(PROGRAM), scenario, str(folder), str(vis)]
    return command(find_launcher(mpirun), ranks, program, {}, root=os.geteuid() == 0)


def run(mpirun: str, scenario: str, folder: Path, vis: Path) -> tuple[Seen, subprocess.CompletedProcess[str]]:
    ran = subprocess.run(
        line_of(mpirun, scenario, folder, vis),
        env={**clean_environment(), **mpi_of(mpirun)},
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=200,
    )
    results = folder / "results.json"
    assert results.exists(), ran.stdout + ran.stderr
    return json.loads(results.read_text()), ran


@contextmanager
def started(mpirun: str, scenario: str, folder: Path, vis: Path) -> Iterator[tuple[psutil.Popen, Ranks]]:
    """A session whose jobs run, and all its processes."""
    with psutil.Popen(
        line_of(mpirun, scenario, folder, vis),
        env={**clean_environment(), **mpi_of(mpirun)},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    ) as process:
        try:
            wait_until(lambda: (folder / "runs 0").exists() and (folder / "runs 1").exists(), 60, "jobs run")
            yield process, process.children(recursive=True)
        finally:
            if process.poll() is None:
                for child in process.children(recursive=True):
                    child.kill()
                process.kill()


@pytest.fixture(scope="module", params=MPIRUNS)
def contained(
    request: pytest.FixtureRequest, vis: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Seen, subprocess.CompletedProcess[str]]:
    return run(request.param, "contained", tmp_path_factory.mktemp("contained"), vis)


@pytest.fixture(scope="module", params=MPIRUNS)
def losing(request: pytest.FixtureRequest, vis: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return run(request.param, "losing", tmp_path_factory.mktemp("losing"), vis)[0]


@pytest.fixture(scope="module")
def beside(vis: Path, tmp_path_factory: pytest.TempPathFactory) -> Seen:
    return run(MPIRUNS[0], "beside", tmp_path_factory.mktemp("beside"), vis)[0]


def test_an_mpi_session_ends_well_and_says_nothing(contained: tuple[Seen, subprocess.CompletedProcess[str]]) -> None:
    _, ran = contained
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_five_hundred_jobs_come_back_in_order(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    assert seen["order"]
    assert (seen["name"], seen["workers"]) == ("mpi", 2)


def test_what_is_too_large_for_casampi_travels_all_the_same(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    assert seen["large"]
    assert seen["left"] == []
    assert not seen["left at the end"]


def test_jobs_that_misbehave_are_told_and_harm_no_server(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    left, raised, untold, kept, printed, moved, stayed = seen["misbehaved"]
    assert left["failure"]["message"] == "the job called sys.exit(3)"
    assert raised["failure"]["message"] == "ValueError: on purpose"
    assert "misbehave" in raised["failure"]["traceback"]
    assert untold["failure"]["message"] == "Untold: 1"
    assert kept["failure"]["kind"] == "unpicklable"
    assert moved["value"] == "/"
    assert stayed["value"] == printed["value"]
    assert {outcome["worker"] for outcome in seen["misbehaved"]} <= {"server-1", "server-2"}
    assert not any(outcome["losses"] for outcome in seen["misbehaved"])


def test_each_kind_of_job_runs_on_servers_and_asks_its_session(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    task, request, question = seen["kinds"]
    assert task["value"] == 42
    assert request["failure"] is None
    assert request["commands"][0].startswith("listobs( vis=")
    assert question["value"] == [[1, "the session"]]


def test_answers_of_any_size_arrive_whole_and_failures_are_told(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    failed, *answers = seen["answers"]
    said, way_out = failed["failure"]["message"].splitlines()
    assert said == "the session could not answer: OSError: the store is gone"
    assert "surgeline resume" in way_out
    sizes = [10, *range(100_000, 100_020), 5_000_000]
    assert [outcome["value"] for outcome in answers] == [[size] * 3 for size in sizes]


def test_what_a_job_starts_is_no_rank_and_does_not_outlive_its_server(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    program, left, _ = seen["started"]
    assert program["value"] == "1"
    wait_until(lambda: not psutil.pid_exists(left["value"]), 10, "what a job left behind is gone")


def test_a_value_that_does_not_survive_its_way_is_told(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    failure = seen["started"][2]["failure"]
    assert (failure["kind"], failure["message"][-24:]) == ("unpicklable", "RuntimeError: on the way")


def test_a_job_for_all_servers_may_be_large(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    assert seen["large everywhere"] == [160_000_000] * 2


def test_a_cancelled_nested_session_does_not_go_on(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    assert seen["nested cancelled"][0]["failure"]["kind"] == "cancelled"
    assert seen["after"] == "after"


def test_servers_are_set_up_by_one_call(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    processes = {outcome["value"] for outcome in seen["set up"]}
    assert len(processes) == 2
    assert {process for process, _ in seen["who"]} <= processes
    assert {text for _, text in seen["who"]} == {"ready"}


def test_a_server_starts_no_workers_and_says_why(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    dask, mpi, auto = seen["others"]
    for told in (dask, mpi):
        assert "MPI server" in told
        assert "session's own process" in told
    assert auto == "it was opened"


def test_cancelled_jobs_are_told_at_once_and_servers_go_on(contained: tuple[Seen, Any]) -> None:
    seen, _ = contained
    assert [outcome["failure"]["kind"] for outcome in seen["cancelled"]] == ["cancelled"] * 3
    assert seen["after"] == "after"
    assert "after its workers were stopped" in seen["closed"]


def test_a_server_killed_in_a_casa_task_is_told_and_its_job_runs_again(losing: Seen) -> None:
    first, *others = losing["one"]
    assert first["failure"] is None
    [loss] = first["losses"]
    assert loss["how"] == "killed by signal 9 (SIGKILL)"
    assert loss["worker"] != first["worker"]
    assert losing["lost"] == ["flag_and_die: killed by signal 9 (SIGKILL)"]
    assert [outcome["value"] for outcome in others] == list(range(20))


def test_parallel_imaging_goes_on_when_a_server_was_lost(losing: Seen) -> None:
    [image] = losing["image"]
    assert image["failure"] is None
    assert image["worker"] == "nested-client"


def test_when_no_server_is_left_jobs_fail_and_say_so(losing: Seen) -> None:
    for outcome in (*losing["all"][:1], *losing["none left"]):
        assert outcome["failure"]["kind"] == "worker died"
        assert "no server of the MPI session is left" in outcome["failure"]["message"]
        assert "SIGKILL" in outcome["failure"]["message"]


def test_dask_and_mpi_work_at_the_same_time(beside: Seen) -> None:
    assert beside["names"] == ["dask", "mpi"]
    worker, server = beside["at once"]
    assert (worker["value"], worker["worker"][:7]) == ("none", "worker-")
    assert (server["value"], server["worker"][:7]) == ("none", "server-")
    assert {outcome["worker"][:7] for outcome in beside["everywhere"]} == {"worker-", "server-"}


def test_parallel_imaging_goes_to_the_servers_beside_dask(beside: Seen) -> None:
    [image] = beside["image"]
    assert image["failure"] is None
    assert image["worker"] == "client"


def test_a_dask_worker_starts_no_workers_and_says_why(beside: Seen) -> None:
    assert all("Dask worker" in told and "session's own process" in told for told in beside["others"])


def test_a_dask_worker_that_replaces_one_is_no_rank_either(beside: Seen) -> None:
    died, same, rank = beside["replaced"]
    assert died["failure"]["kind"] == "worker died"
    assert same["value"] == 5
    assert rank["value"] == "none"


def test_a_server_that_dies_in_a_job_for_all_is_told_though_its_note_is_lost(vis: Path, tmp_path: Path) -> None:
    seen, _ = run(MPIRUNS[-1], "everywhere", tmp_path, vis)
    lived, died = seen["died"]
    assert (lived["value"], lived["worker"]) == ("lived", "server-1")
    assert (died["failure"]["kind"], died["worker"]) == ("worker died", "server-2")
    assert "was not written" in died["failure"]["message"]
    assert [outcome["value"] for outcome in seen["after"]] == list(range(20))


@each_mpirun
def test_a_script_that_closes_nothing_ends_well(mpirun: str, vis: Path, tmp_path: Path) -> None:
    _, ran = run(mpirun, "unclosed", tmp_path, vis)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, "", "")


def test_a_server_that_hangs_is_ended_and_its_job_runs_again(vis: Path, tmp_path: Path) -> None:
    seen, _ = run(MPIRUNS[0], "hanging", tmp_path, vis)
    [outcome] = seen["stopped"]
    assert outcome["value"] == "went on"
    assert [loss["how"] for loss in outcome["losses"]] == ["it did not answer, and was ended"]


@each_mpirun
def test_no_rank_survives_the_client(mpirun: str, vis: Path, tmp_path: Path) -> None:
    with started(mpirun, "waiting", tmp_path, vis) as (process, ranks):
        client = next(rank for rank in ranks if rank.environ().get("OMPI_COMM_WORLD_RANK") == "0")
        client.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs([process, *ranks], timeout=10)
        assert not alive


@each_mpirun
def test_no_network_hears_a_rank_and_none_survives_mpirun(mpirun: str, vis: Path, tmp_path: Path) -> None:
    with started(mpirun, "waiting", tmp_path, vis) as (process, ranks):
        heard = [found for rank in ranks for found in rank.net_connections("inet") if found.status == "LISTEN"]
        assert all(found.laddr.ip.startswith("127.") for found in heard), heard
        process.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(ranks, timeout=10)
        assert not alive
