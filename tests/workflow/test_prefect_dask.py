"""Prefect flows of a user's own, whose tasks run in the queue of a real Slurm and are told to a real server."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from services.slurm import Slurm
from support import wait_until
from surgeline.errors import ClusterError, ConfigError
from surgeline.workflow import prefect_dask
from surgeline.workflow.prefect_server import EmbeddedServer

pytest.importorskip("prefect_dask", reason="Prefect is not installed: pip install 'surgeline[prefect]'")
pytestmark = pytest.mark.prefect

START_SECONDS = 180.0

# What a user writes, but for the waiting: a test looks at the queue meanwhile.
FLOW = """\
import json, os, subprocess, sys, time
from pathlib import Path

import dask
from prefect import flow, task
from surgeline.workflow.prefect_dask import task_runner


def wait_for(*names):
    while not all(Path(name).exists() for name in names):
        time.sleep(0.05)


def queue_job():
    # An element of an array is known to scancel by its number in the array only.
    array, element = (os.environ.get(f"SLURM_ARRAY_{what}_ID") for what in ("JOB", "TASK"))
    return f"{array}_{element}" if array else os.environ["SLURM_JOB_ID"]


def note(name):
    with Path(name).open("a") as file:
        file.write(queue_job() + "\\n")


@task
def together(number, of):
    note(f"together-{number}")
    wait_for(*(f"together-{other}" for other in range(of)))
    return number * 10


@task
def added(parts):
    note("added")
    return sum(parts)


@task
def lost_once():
    note("lost")
    if not Path("lost-before").exists():
        Path("lost-before").touch()
        subprocess.run(["scancel", queue_job()], check=True)
        time.sleep(600)
    return queue_job()


@task
def endless():
    note("endless")
    time.sleep(600)


@task
def variable(name):
    return os.environ.get(name)


runner = task_runner("batch")


@flow(task_runner=runner)
def surge():
    wait_for("begin")
    parts = together.map(range(3), of=3)
    sum_of_parts = added.submit(parts)
    sum_of_parts.wait()
    wait_for("end")
    return [parts.result(), sum_of_parts.result()]


@flow(task_runner=runner)
def loss():
    others = together.map(range(2), of=2)
    return [lost_once.submit().result(), others.result()]


@flow(task_runner=runner)
def gpu():
    with dask.annotate(resources={"GPU": 1, "MEMORY": 400e6}):
        partition = variable.submit("SLURM_JOB_PARTITION")
        devices = variable.submit("CUDA_VISIBLE_DEVICES")
    with dask.annotate(resources={"TPU": 1}):
        impossible = variable.submit("HOME")
    elsewhere = variable.submit("SLURM_JOB_PARTITION")
    try:
        impossible.result()
    except Exception as error:
        why = str(error)
    return [partition.result(), devices.result(), elsewhere.result(), why]


@flow(task_runner=runner)
def killed():
    for future in [endless.submit(), endless.submit()]:
        future.result()


if __name__ == "__main__":
    Path("returned").write_text(json.dumps(globals()[sys.argv[1]]()))
"""

CONFIGURATION = """\
clusters:
  batch:
    type: slurm
    host: 127.0.0.1
    memory: 500MB
    maximum: 3
    poll: 0.5
    idle_seconds: 2
    workers:
      cpu: {}
      gpu: {queue: gpu, gpus: 1}
"""


@pytest.fixture(scope="module")
def api_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server for all tests."""
    folder = tmp_path_factory.mktemp("prefect")
    with EmbeddedServer(folder / "home", folder / "log", START_SECONDS) as server:
        yield server.api_url


class User:
    """Somebody with flows in a file, in a folder of their own."""

    def __init__(self, folder: Path, api_url: str) -> None:
        self.folder = folder
        self._environment = {**os.environ, "PREFECT_API_URL": api_url, "HOME": str(folder / "home")}
        (folder / "home").mkdir()
        (folder / "flows.py").write_text(FLOW)
        (folder / "config.yaml").write_text(CONFIGURATION)
        self.started: list[subprocess.Popen[bytes]] = []

    def starts(self, flow: str) -> subprocess.Popen[bytes]:
        """Begin a flow."""
        with (self.folder / "output").open("wb") as output:
            self.started.append(
                subprocess.Popen(
                    [sys.executable, "flows.py", flow],
                    cwd=self.folder,
                    env=self._environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
        return self.started[-1]

    def returns(self, process: subprocess.Popen[bytes]) -> list[object]:
        """What a flow returned, when it has ended."""
        assert process.wait(timeout=300) == 0, self.output
        found: list[object] = json.loads((self.folder / "returned").read_text())
        return found

    def runs(self, flow: str) -> list[object]:
        """Run a flow to its end."""
        return self.returns(self.starts(flow))

    def lines(self, name: str) -> list[str]:
        """The Slurm jobs in which a task began."""
        path = self.folder / name
        return path.read_text().splitlines() if path.exists() else []

    @property
    def output(self) -> str:
        return (self.folder / "output").read_text()


@pytest.fixture
def user(slurm: Slurm, tmp_path: Path, api_url: str) -> Iterator[User]:
    user = User(tmp_path, api_url)
    yield user
    for process in user.started:
        process.kill()
        process.wait()


@pytest.fixture
def queue(slurm: Slurm) -> Callable[[], list[str]]:
    """The jobs that wait or run."""
    return lambda: slurm.run("squeue", "--noheader", "--array", "--states=PENDING,RUNNING", "--format=%i").split()


def test_workers_come_for_tasks_and_go_while_the_flow_goes_on(user: User, queue: Callable[[], list[str]]) -> None:
    process = user.starts("surge")
    wait_until(lambda: "Beginning flow run" in user.output, 60, "the flow begins")
    assert queue() == []
    (user.folder / "begin").touch()
    wait_until(lambda: bool(user.lines("added")), 120, "all parts were made, three at once")
    wait_until(lambda: queue() == [], 60, "no worker is kept, though the flow still wants results")
    assert process.poll() is None
    (user.folder / "end").touch()
    assert user.returns(process) == [[0, 10, 20], 30]
    began = [user.lines(f"together-{number}") for number in range(3)]
    assert len({job for (job,) in began}) == 3, "each ran once, on a worker of its own"


def test_a_task_whose_worker_is_lost_runs_again_on_another(user: User, queue: Callable[[], list[str]]) -> None:
    last, others = user.runs("loss")
    first, again = user.lines("lost")
    assert last == again != first
    assert others == [0, 10]
    assert [len(user.lines(f"together-{number}")) for number in range(2)] == [1, 1], "nothing else ran again"
    assert "cancelled" in user.output, "the loss is told with its cause"
    assert queue() == []


def test_a_task_that_asks_for_a_gpu_gets_one_and_others_do_not(user: User) -> None:
    partition, devices, elsewhere, why = user.runs("gpu")
    assert (partition, elsewhere) == ("gpu", "cpu")
    assert devices is not None
    assert "asks for 'TPU'" in str(why)


def test_nothing_stays_in_the_queue_when_the_flow_is_killed(user: User, queue: Callable[[], list[str]]) -> None:
    process = user.starts("killed")
    wait_until(lambda: len(user.lines("endless")) == 2, 120, "the tasks run")
    process.kill()
    process.wait()
    wait_until(lambda: queue() == [], 30, "nothing is left")


def in_a_flow(url: str | None, *settings: str) -> None:
    """What happens as the first task of a flow is submitted."""
    from prefect.settings import PREFECT_API_URL, temporary_settings

    known = {} if url is None else {PREFECT_API_URL: url}
    with (
        temporary_settings(known, restore_defaults=set() if known else {PREFECT_API_URL}),
        prefect_dask.task_runner("batch", settings=["clusters.batch.type=slurm", *settings]) as runner,
    ):
        _ = runner.client


@pytest.mark.parametrize(
    "url, settings, words",
    [
        (None, ["clusters.batch.host=127.0.0.1"], "none is named"),
        ("http://127.0.0.1:4200/api", ["clusters.batch.host=192.0.2.1"], "on other machines"),
        ("http://localhost:4200/api", ["clusters.batch.host=192.0.2.1"], "on other machines"),
    ],
)
def test_a_server_that_workers_do_not_reach_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, url: str | None, settings: list[str], words: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ClusterError, match=words) as refusal:
        in_a_flow(url, *settings)
    assert "prefect server start" in refusal.value.way_out


def test_clusters_whose_scheduler_is_elsewhere_or_that_nobody_knows_are_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="of type kubernetes"):
        in_a_flow("http://192.0.2.1:4200/api", "clusters.batch.type=kubernetes")
    with pytest.raises(ConfigError, match="no cluster 'nowhere'"), prefect_dask.task_runner("nowhere") as runner:
        _ = runner.client


def test_without_prefect_dask_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prefect_dask, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="not installed") as refusal:
        prefect_dask.task_runner("batch")
    assert refusal.value.way_out == "pip install 'surgeline[prefect]'"
