"""Nested MPI sessions: jobs that need MPI, from Dask workers and from a plain process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import psutil
import pytest

from mpiruns import each_mpirun, mpi_of
from support import wait_until
from surgeline.config import load
from surgeline.parallel.backend import open_backend
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher
from surgeline.work.jobs import FunctionCall, Job, JobRequest
from surgeline.work.outcome import Outcome
from surgeline.work.resources import Resources
from surgeline.work.taskqueue import Backend, TaskQueue

pytestmark = pytest.mark.mpi

cloudpickle.register_pickle_by_value(sys.modules[__name__])
PLAIN = Path(__file__).with_name("plain_mpi.py")


def who() -> tuple[int, int, list[int]]:
    """This process, its parent's parent (a worker, when nested), and its servers."""
    from casampi.MPIEnvironment import MPIEnvironment

    return os.getpid(), psutil.Process(os.getppid()).ppid(), MPIEnvironment.mpi_server_rank_list()


def rank_of_this() -> str | None:
    return os.environ.get("OMPI_COMM_WORLD_RANK")


def die_once(marker: str, whom: str) -> str:
    """The first time it is called, the client or a server of the session is killed."""
    from casampi.MPICommandClient import MPICommandClient

    if not Path(marker).exists():
        Path(marker).touch()
        if whom == "client":
            os.kill(os.getpid(), signal.SIGKILL)
        MPICommandClient().push_command_request("os.kill(os.getpid(), 9)", True, [2])
    return "again"


def run_until_gone(marker: str) -> None:
    Path(marker).write_text(str(os.getpid()))
    threading.Event().wait()


def tclean(vis: Path, name: str, specmode: str) -> JobRequest:
    arguments = {"vis": vis, "imagename": name, "specmode": specmode, "imsize": 64, "cell": "15arcsec", "niter": 20}
    return JobRequest("tclean", {**arguments, "parallel": True})


def run(backend: Backend, *jobs: Job) -> list[Outcome]:
    with TaskQueue(backend) as queue:
        for job in jobs:
            queue.add(job)
        return queue.get_results()


def ranks_of(folder: Path) -> list[psutil.Process]:
    """The processes of nested sessions that work in a folder."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        line = " ".join(process.info["cmdline"] or [])
        if "surgeline.parallel.nested" in line and str(folder) in line and process.info["status"] != "zombie":
            found.append(process)
    return found


def pixels(casa: Path, image: Path) -> Any:
    from casatools import image as image_tool

    assert casa
    tool = image_tool()
    tool.open(str(image))
    try:
        return tool.getchunk()
    finally:
        tool.close()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("nested session")


@pytest.fixture(scope="module")
def workers(folder: Path) -> Iterator[Backend]:
    configuration = load(overrides=["backend=dask", "dask.n_workers=2", "dask.retries=1"])
    with closing(open_backend(configuration, folder=folder)) as opened:
        yield opened


@each_mpirun
def test_parallel_imaging_on_a_dask_worker_equals_plain_mpirun(
    mpirun: str, vis: Path, casa: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in mpi_of(mpirun).items():
        monkeypatch.setenv(name, value)
    program = [sys.executable, str(PLAIN), str(vis), "plain.mfs", "mfs", "plain.cube", "cube"]
    line = command(find_launcher(mpirun), 3, program, os.environ, root=os.geteuid() == 0)
    plain = subprocess.run(line, env=clean_environment(), cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert plain.returncode == 0, plain.stderr
    with closing(open_backend(load(overrides=["backend=dask", "dask.n_workers=2"]), folder=tmp_path)) as backend:
        outcomes = run(backend, tclean(vis, "nested.mfs", "mfs"), tclean(vis, "nested.cube", "cube"))
        alone = run(backend, FunctionCall(rank_of_this))
    for outcome in outcomes:
        assert outcome.ok, outcome.failure
        assert outcome.commands[0].startswith("tclean( vis=")
    assert alone[0].value is None
    for product in ("mfs.psf", "mfs.residual", "mfs.image", "cube.residual", "cube.image"):
        one, other = (pixels(casa, tmp_path / f"{whose}.{product}") for whose in ("nested", "plain"))
        assert np.array_equal(one, other), product


def test_a_function_marked_mpi_is_the_client_of_as_many_servers_as_it_asks_cores_for(workers: Backend) -> None:
    [many] = run(workers, FunctionCall(who).declare(mpi=True))
    [one] = run(workers, FunctionCall(who).declare(mpi=True, resources=Resources(cores=3)))
    assert many.result()[2] == [1, 2]
    assert one.result()[2] == [1, 2, 3]


def test_an_idle_session_is_kept_for_the_next_job(workers: Backend) -> None:
    first, second = (run(workers, FunctionCall(who).declare(mpi=True))[0].result() for _ in range(2))
    assert first == second


@pytest.mark.parametrize("whom", ["client", "server"])
def test_a_job_whose_session_died_runs_again_in_another(workers: Backend, tmp_path: Path, whom: str) -> None:
    [outcome] = run(workers, FunctionCall(die_once, str(tmp_path / "marker"), whom).declare(mpi=True))
    assert outcome.result() == "again"
    [loss] = outcome.losses
    assert "SIGKILL" in loss.how
    assert ("server 2" if whom == "server" else "rank 0") in loss.how


def test_a_job_longer_than_its_walltime_is_ended_with_all_ranks(
    workers: Backend, folder: Path, tmp_path: Path
) -> None:
    asked = Resources(cores=2, walltime=1)
    [outcome] = run(workers, FunctionCall(run_until_gone, str(tmp_path / "runs")).declare(mpi=True, resources=asked))
    assert outcome.failure is not None
    assert outcome.failure.kind == "walltime"
    assert "walltime of 1 s" in outcome.failure.message
    assert (tmp_path / "runs").exists()
    client = int((tmp_path / "runs").read_text())
    assert not psutil.pid_exists(client)


def test_a_cancelled_job_leaves_no_rank(workers: Backend, folder: Path, tmp_path: Path) -> None:
    queue = TaskQueue(workers)
    queue.add(FunctionCall(run_until_gone, str(tmp_path / "runs")).declare(mpi=True))
    wait_until(lambda: (tmp_path / "runs").exists(), 60, "the job runs")
    queue.cancel()
    assert [outcome.failure.kind for outcome in queue.get_results() if outcome.failure] == ["cancelled"]
    wait_until(lambda: not ranks_of(folder), 10, "no rank is left")


def test_no_rank_survives_a_killed_worker(workers: Backend, folder: Path, tmp_path: Path) -> None:
    [outcome] = run(workers, FunctionCall(who).declare(mpi=True))
    worker = psutil.Process(outcome.result()[1])
    assert ranks_of(folder)
    worker.send_signal(signal.SIGKILL)
    wait_until(lambda: not ranks_of(folder), 10, "no rank is left")


def test_from_a_plain_process_the_session_is_nested_too(vis: Path, tmp_path: Path) -> None:
    configuration = load(overrides=["backend=serial", "mpi.servers=2"])
    with closing(open_backend(configuration, folder=tmp_path)) as backend:
        nested, image, alone = run(
            backend,
            FunctionCall(who).declare(mpi=True),
            tclean(vis, "serial", "mfs"),
            FunctionCall(rank_of_this),
        )
    assert nested.result()[2] == [1, 2]
    assert image.ok, image.failure
    assert (tmp_path / "serial.image").is_dir()
    assert alone.value is None
    assert not ranks_of(tmp_path)
    assert not [path for path in (tmp_path / "logs").iterdir() if path.is_dir()]


@pytest.mark.parametrize(
    "mpirun, reason",
    [("/nowhere/mpirun", "is no program"), ("/bin/echo", "is not Open MPI's mpirun")],
)
def test_without_a_usable_mpirun_the_job_says_so(mpirun: str, reason: str, tmp_path: Path) -> None:
    configuration = load(overrides=["backend=serial", f"mpi.mpirun={mpirun}"])
    with closing(open_backend(configuration, folder=tmp_path)) as backend:
        [outcome] = run(backend, FunctionCall(who).declare(mpi=True))
    assert outcome.failure is not None
    assert reason in outcome.failure.message
    assert "no MPI session could be started" in outcome.failure.message
