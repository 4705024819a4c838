"""Sessions whose workers are jobs of a real Slurm or HTCondor: what a user sees of queues, what is left in them."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest
import yaml
from astropy.io import fits

import queue_stages
from services.htcondor import HTCondor
from services.slurm import Slurm
from support import RECIPE, start_surgeline, surgeline, wait_until
from surgeline import FunctionCall
from surgeline.config import load
from surgeline.paths import SessionPaths
from surgeline.work.estimates import Estimates, default_file
from surgeline.work.outcome import Outcome
from surgeline.workflow.cancelling import cancel_session
from surgeline.workflow.doctor import examine

pytestmark = pytest.mark.cluster

SETTINGS = ("memory=1GB", "maximum=2", "poll=0.5", "idle_seconds=2")


class User:
    """Somebody with a recipe of stages that wait and note where they ran, and a working folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        queue_stages.install(folder / "plugins")
        monkeypatch.setenv("PYTHONPATH", str(folder / "plugins"))
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        self.recipe = folder / "recipe.yaml"
        self.workdir = folder / "session"
        self.manager = "slurm"
        self.cache = folder / "cache"
        self.started: list[subprocess.Popen[str]] = []

    def writes(self, *stages: dict[str, Any]) -> None:
        """Write the recipe."""
        content = [{"task": "work", "name": name, "arguments": stage} for name, stage in self._named(stages)]
        self.recipe.write_text(yaml.safe_dump({"name": "queue", "stages": content}))

    @staticmethod
    def _named(stages: tuple[dict[str, Any], ...]) -> list[tuple[str, dict[str, Any]]]:
        return list(zip(("one", "two", "three"), stages, strict=False))

    def arguments(self, command: str, *settings: str) -> list[str | Path]:
        cluster = (f"type={self.manager}", *SETTINGS, *settings)
        overrides = [f"dask.cluster={self.manager}", *(f"clusters.{self.manager}.{text}" for text in cluster)]
        recipe = [self.recipe] if command == "run" else []
        return [
            command,
            *recipe,
            "--workdir",
            self.workdir,
            *(part for text in overrides for part in ("--set", text)),
        ]

    def runs(self, *settings: str, command: str = "run") -> subprocess.CompletedProcess[str]:
        """Run a session to its end."""
        return surgeline(*self.arguments(command, *settings))

    def starts(self, *settings: str) -> subprocess.Popen[str]:
        """Start a session."""
        self.started.append(start_surgeline(*self.arguments("run", *settings)))
        return self.started[-1]

    def queue_jobs_of(self, stage: str) -> list[str]:
        """The queue job that each of a stage's jobs ran in, attempts included."""
        return [line for path in self.workdir.glob(f"runs/{stage}-?") for line in path.read_text().split()]

    def environment_of(self, stage: str) -> dict[str, str]:
        """The environment variables of a stage's first job."""
        found: dict[str, str] = json.loads((self.workdir / "runs" / f"{stage}-0.environment").read_text())
        return found

    def cancels(self) -> subprocess.CompletedProcess[str]:
        """Use `surgeline cancel`."""
        return surgeline("cancel", "--workdir", self.workdir)

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.workdir / "run.json").read_text())
        return found

    @property
    def notes(self) -> list[Path]:
        """What says how to cancel queue jobs."""
        return list(self.workdir.glob("logs/*/cancel.json"))


@pytest.fixture
def user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[User]:
    found = User(tmp_path, monkeypatch)
    yield found
    for session in found.started:
        # Of a test that failed; its undertaker does the rest.
        session.kill()
        session.wait()


@pytest.fixture
def queue(slurm: Slurm) -> Callable[..., list[str]]:
    """The jobs that Slurm's queue holds; with `--states=all` those that ended, too."""
    return lambda *options: slurm.run("squeue", "--noheader", "--array", "--format=%i", *options).split()


def killed_with_its_undertaker(session: subprocess.Popen[str]) -> None:
    """Kill a session so that nobody is left who could clean up after it."""
    processes = [psutil.Process(session.pid), *psutil.Process(session.pid).children()]
    for process in processes:
        process.kill()
    psutil.wait_procs(processes[1:], timeout=10)
    session.communicate()


def test_a_stage_uses_the_workers_of_the_one_before(user: User, queue: Callable[..., list[str]]) -> None:
    before = set(queue("--states=all"))
    both = {"jobs": 2, "seconds": 1, "together": True}
    user.writes(both, both, {"jobs": 1})
    ran = user.runs()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(set(user.queue_jobs_of("one"))) == 2
    assert set(user.queue_jobs_of("two")) == set(user.queue_jobs_of("one")) > set(user.queue_jobs_of("three"))
    assert len(set(queue("--states=all")) - before) == 2, "nothing else was submitted"
    assert re.search(r"2 workers of class 'worker' of cluster 'slurm' came after \d+ s in the queue", ran.stdout)
    # What it cost.
    assert re.search(r"(?m)^workers:  \d+ core-seconds \(\d+ used, .*of what 2 cores all the time", ran.stdout)
    accounts = user.record["accounts"]
    one, two = accounts["stages"]["one"], accounts["stages"]["two"]
    assert (one["workers"], two["workers"]) == (2, 0)
    assert one["starting"] > 0 == two["starting"]
    assert two["used"] >= 2
    assert accounts["in_vain"]["workers"] == 0
    assert 0 < accounts["ratio"] <= 1
    page = (user.workdir / "weblog" / "cost.html").read_text()
    assert "What the workers cost" in page
    assert user.notes == []


def test_workers_of_the_next_stage_are_asked_for_before_it_begins(
    user: User, queue: Callable[..., list[str]]
) -> None:
    # As if the second stage had had two jobs before, of ten minutes each.
    estimates = Estimates(default_file({"XDG_CACHE_HOME": str(user.cache)}))
    job = FunctionCall(queue_stages.work, "two", 0, queue_stages.WorkParameters())
    estimates.learn("two", job, Outcome("work 0", "work()", started=0.0, ended=600.0, peak_memory=10**8))
    estimates.learn_width("queue", "two", 2)
    estimates.save()
    user.writes({"go": "go"}, {"jobs": 2, "together": True})
    session = user.starts()
    wait_until(lambda: len(user.queue_jobs_of("one")) == 1, 60, "the first stage is at work")
    logs = user.workdir / "logs"
    wait_until(lambda: len(list(logs.glob("casa-worker-*"))) == 2, 60, "the second stage's second worker is there")
    assert not (user.workdir / "runs" / "two-0").exists()
    ahead = queue()
    (user.workdir / "go").touch()
    output, _ = session.communicate(timeout=120)
    assert session.returncode == 0, output
    assert len(ahead) == 2
    assert len(set(user.queue_jobs_of("two"))) == 2
    assert set(user.queue_jobs_of("one")) < set(user.queue_jobs_of("two"))


def test_a_killed_session_leaves_nothing_in_the_queue_and_goes_on(
    user: User, queue: Callable[..., list[str]]
) -> None:
    user.writes({}, {"go": "go"})
    session = user.starts()
    wait_until(lambda: len(user.queue_jobs_of("two")) == 1, 60, "the second stage is at work")
    session.send_signal(signal.SIGKILL)
    session.communicate()
    wait_until(lambda: queue() == [], 60, "the queue is empty")
    (user.workdir / "go").touch()
    resumed = user.runs(command="resume")
    assert resumed.returncode == 0, resumed.stdout + resumed.stderr
    assert "1 of 2 stages had finished before" in resumed.stdout
    assert len(user.queue_jobs_of("one")) == 1 and len(user.queue_jobs_of("two")) == 2
    # Of the run that was killed it is known what it had cost when its last stage ended.
    sessions = user.record["sessions"]
    assert [session["state"] for session in sessions] == ["running", "finished"]
    asked = [session["accounts"]["total"]["asked"] for session in sessions]
    assert all(asked) and user.record["accounts"]["total"]["asked"] == pytest.approx(sum(asked))


def test_cancel_ends_a_session_and_leaves_nothing_in_the_queue(
    user: User, slurm: Slurm, queue: Callable[..., list[str]]
) -> None:
    user.writes({"jobs": 2, "together": True, "go": "never"})
    session = user.starts()
    wait_until(lambda: len(user.queue_jobs_of("one")) == 2, 60, "the stage is at work")
    assert len(user.notes) == 1
    done = user.cancels()
    assert done.returncode == 0, done.stderr
    assert f"session of process {session.pid} is told to end" in done.stdout
    wait_until(lambda: queue() == [], 30, "the queue is empty")
    output, _ = session.communicate(timeout=30)
    assert session.returncode == 128 + signal.SIGTERM, output
    assert user.notes == []
    again = user.cancels()
    assert again.returncode == 0
    assert "no session runs there, and none has left anything in a queue" in again.stdout


def test_cancel_kills_a_session_that_does_not_end(user: User, queue: Callable[..., list[str]]) -> None:
    user.writes({"go": "never"})
    session = user.starts()
    wait_until(lambda: len(user.queue_jobs_of("one")) == 1, 60, "the stage is at work")
    session.send_signal(signal.SIGSTOP)
    told: list[str] = []
    cancel_session(SessionPaths(user.workdir), told.append, patience=0.5)
    assert "and is killed" in told[1] and "'slurm' is cancelled" in told[2]
    wait_until(lambda: queue() == [], 30, "the queue is empty")
    session.communicate()
    assert user.notes == []


def test_what_a_session_killed_long_ago_left_is_cancelled_by_cancel_and_by_the_next_session(
    user: User, slurm: Slurm, queue: Callable[..., list[str]]
) -> None:
    user.writes({"go": "go"})
    for command in ("cancel", "resume"):
        # Workers that wait in the queue do not notice that their session is gone.
        slurm.partition("cpu", "DOWN")
        session = user.starts()
        wait_until(lambda: len(queue("--states=PENDING")) == 1, 60, "its worker waits")
        killed_with_its_undertaker(session)
        assert len(queue()) == 1 and len(user.notes) == 1
        slurm.partition("cpu", "UP")
        (user.workdir / "go").touch()
        done = user.cancels() if command == "cancel" else user.runs(command="resume")
        assert done.returncode == 0, done.stdout + done.stderr
        assert "left in the queue of cluster 'slurm' is cancelled" in done.stdout
        wait_until(lambda: queue() == [], 30, "the queue is empty")
        assert user.notes == []


def test_waiting_is_told_with_slurms_reason_until_the_deadline(user: User, slurm: Slurm) -> None:
    slurm.partition("cpu", "DOWN")
    user.writes({})
    ran = user.runs("queue_deadline=8")
    assert ran.returncode == 7, ran.stdout + ran.stderr
    waits = re.findall(r"one: 1 worker of class 'worker' of cluster 'slurm' in the queue for \d+ s: (.+)", ran.stdout)
    assert waits[0].startswith("PartitionDown")
    assert len(waits) == len(set(waits)), "a reason is told once"
    assert re.search(r"no worker of cluster 'slurm': no worker came within 8 s: PartitionDown", ran.stderr)


def test_a_stage_whose_workers_never_come_goes_elsewhere(user: User, slurm: Slurm) -> None:
    slurm.partition("cpu", "DOWN")
    user.writes({"jobs": 2})
    ran = user.runs("queue_deadline=3", "otherwise=local")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert user.queue_jobs_of("one") == ["here", "here"]
    assert "jobs go elsewhere, as its `otherwise` says" in ran.stdout


def test_a_wrong_partition_fails_at_once_in_slurms_words(user: User, slurm: Slurm) -> None:
    user.writes({})
    ran = user.runs("queue=nowhere")
    assert ran.returncode == 8
    assert "invalid partition specified: nowhere" in ran.stderr
    assert user.notes == []


def test_the_doctor_asks_slurm(slurm: Slurm, tmp_path: Path) -> None:
    def found(*settings: str) -> list[Any]:
        overrides = [f"clusters.slurm.{text}" for text in ("type=slurm", *SETTINGS, *settings)]
        return [finding for finding in examine(tmp_path, load(tmp_path, overrides)) if "'slurm'" in finding.what]

    good, _ = found()
    assert good.well and "takes workers of class 'worker' (1 core, 1 GB, 3600 s)" in good.found
    (refused,) = found("queue=nowhere")
    assert not refused.well and "invalid partition specified: nowhere" in refused.found
    _, unreachable = found("host=127.0.0.1")
    assert not unreachable.well and "interface" in unreachable.way_out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def in_a_job(slurm: Slurm, tmp_path: Path) -> Callable[..., str]:
    """Runs a command in a job of Slurm, and gives its output."""

    def running(options: list[str], command: list[str | Path]) -> str:
        output = tmp_path / "job.out"
        output.unlink(missing_ok=True)
        line = " ".join(f"'{part}'" for part in (sys.executable, "-m", "surgeline.cli", *command))
        identifier = slurm.run("sbatch", "--parsable", f"--output={output}", *options, f"--wrap={line}")
        slurm.wait_for_job(identifier, "COMPLETED", seconds=180)
        return output.read_text()

    return running


@pytest.mark.parametrize("cores", [1, 2])
def test_within_an_allocation_the_local_cluster_is_that(user: User, in_a_job: Any, cores: int) -> None:
    if cores > len(os.sched_getaffinity(0)):
        pytest.skip("there are not so many cores here")
    user.writes({"jobs": 4, "seconds": 0.5})
    output = in_a_job([f"--cpus-per-task={cores}", "--mem=2000M"], ["run", user.recipe, "--workdir", user.workdir])
    assert user.record["state"] == "finished", output
    assert user.record["workers"] == cores
    # A fixed allocation, which others are compared with.
    assert user.record["accounts"]["ratio"] == pytest.approx(1)
    if cores > 1:
        # They share the allocation's memory.
        assert f"starting {cores} local workers, 1.0 GB each" in output


def test_within_a_job_of_htcondor_the_local_cluster_is_its_slot(
    user: User, htcondor: HTCondor, tmp_path: Path
) -> None:
    user.writes({"jobs": 2})
    command = ["-m", "surgeline.cli", "run", user.recipe, "--workdir", user.workdir]
    text = (
        f"executable = {sys.executable}\narguments = {' '.join(map(str, command))}\ngetenv = true\n"
        f"initialdir = {tmp_path}\noutput = job.out\nerror = job.out\nshould_transfer_files = no\n"
        "request_cpus = 1\nrequest_memory = 1500\nqueue\n"
    )
    htcondor.run("condor_submit", "-", input=text)
    wait_until(lambda: htcondor.run("condor_q", "-af", "ClusterId") == "", 120, "the job has ended")
    assert user.record["state"] == "finished", (tmp_path / "job.out").read_text()
    assert user.record["workers"] == 1


def test_within_an_allocation_a_slurm_cluster_surges_beyond_it(user: User, in_a_job: Any, slurm: Slurm) -> None:
    user.writes({"jobs": 1})
    options = ["--partition=urgent", "--cpus-per-task=2", "--mem=1500M", "--job-name=outer", "--time=7"]
    output = in_a_job(options, user.arguments("run"))
    assert user.record["state"] == "finished", output
    (inner,) = set(user.queue_jobs_of("one"))
    told = slurm.run("scontrol", "show", "job", inner)
    # It goes to the partition of the job that the session is in, and is otherwise what its settings say.
    assert "Partition=urgent" in told and "TimeLimit=01:00:00" in told and "NumCPUs=1 " in told
    assert "JobName=surgeline-" in told and "mem=954M" in told
    # And what tells of the outer job is not what the worker is told.
    variables = user.environment_of("one")
    assert variables["SLURM_JOB_ID"] == inner
    assert variables["SLURM_JOB_NAME"].startswith("surgeline-")
    assert "outer" not in variables.values()
    assert variables["SLURM_CPUS_ON_NODE"] == "1" and variables.get("SLURM_MEM_PER_NODE") == "954"


def test_on_htcondor_stages_share_workers_and_cancel_leaves_none(user: User, htcondor: HTCondor) -> None:
    user.manager = "htcondor"

    def queue() -> list[str]:
        return htcondor.run("condor_q", "-af:j", "JobStatus").splitlines()

    both = {"jobs": 2, "together": True}
    user.writes(both, both)
    ran = user.runs()
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert len(set(user.queue_jobs_of("one"))) == 2
    assert set(user.queue_jobs_of("two")) == set(user.queue_jobs_of("one"))
    assert user.record["accounts"]["stages"]["one"]["workers"] == 2
    wait_until(lambda: queue() == [], 60, "the queue is empty")

    # As if for the first time: jobs so short would otherwise get one worker.
    shutil.rmtree(user.workdir)
    shutil.rmtree(user.cache)
    user.writes({**both, "go": "never"})
    session = user.starts()
    wait_until(lambda: len(user.queue_jobs_of("one")) == 2, 60, "the stage is at work")
    killed_with_its_undertaker(session)
    done = user.cancels()
    assert done.returncode == 0, done.stderr
    assert "left in the queue of cluster 'htcondor' is cancelled" in done.stdout
    wait_until(lambda: queue() == [], 60, "the queue is empty")
    assert user.notes == []


def test_the_doctor_asks_htcondor(htcondor: HTCondor, tmp_path: Path) -> None:
    def found() -> list[Any]:
        overrides = [f"clusters.site.{text}" for text in ("type=htcondor", "transfer_files=true", *SETTINGS)]
        return [finding for finding in examine(tmp_path, load(tmp_path, overrides)) if "'site'" in finding.what]

    good, _ = found()
    assert good.well and "takes workers of class 'worker'" in good.found, good
    htcondor.stop_schedd()
    (silent,) = found()
    assert not silent.well and "condor_status -schedd" in silent.way_out
    assert list(tmp_path.iterdir()) == []


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The demo without any worker."""
    folder = tmp_path_factory.mktemp("reference") / "serial"
    ran = surgeline("run", RECIPE, "--workdir", folder, "--set", "backend=serial")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return folder


@pytest.mark.parametrize("manager", ["slurm", "htcondor"])
def test_the_demo_gives_the_same_pixels(
    user: User, serial: Path, manager: str, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue(manager)
    user.manager, user.recipe = manager, RECIPE
    ran = user.runs("maximum=2")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    products = sorted(path.name for path in (serial / "products").glob("*.fits"))
    assert len(products) >= 4
    for product in products:
        one, other = (fits.getdata(folder / "products" / product) for folder in (user.workdir, serial))
        assert np.array_equal(one, other, equal_nan=True), product
    jobs = [job for stage in user.record["stages"] for job in stage["jobs"]]
    assert all(job["worker"].startswith(f"worker-{manager}-") for job in jobs)
