"""Sessions in which things go wrong at random moments: nothing is lost, nothing is left, and it is told.

SURGELINE_CHAOS_SEED sets the seed, which is shown; SURGELINE_CHAOS_ROUNDS how many rounds there are at each site;
SURGELINE_CHAOS_ONLY a regular expression for the names of faults.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest

from chaos import chaos_stages
from chaos.faults import Fault, NothingThere, Undo, faults_for, on_small_disk
from chaos.runs import CLOCK, Galaxy, Run, Site, Work
from parallel.mpiruns import MPIRUNS, mpi_of
from services.kubernetes import WORKER_IMAGE, Kubernetes

ROUNDS = int(os.environ.get("SURGELINE_CHAOS_ROUNDS") or 0)
# The short form does the same each time: at each site workers are lost, and the session.
SEED = int(os.environ.get("SURGELINE_CHAOS_SEED") or (time.time() if ROUNDS else 3598))
ONLY = os.environ.get("SURGELINE_CHAOS_ONLY", "")
MEMORY = "worker.memory=800MB"

# Shorter than some of the times for which a worker is made to stand still.
WORKERS = ("backend=dask", "worker.standstill_limit=6")
LOCAL_WORKERS = (*WORKERS, "dask.n_workers=2", MEMORY)


def site_of(name: str, request: pytest.FixtureRequest) -> Site:
    """Where sessions are run, with the services that this takes."""
    if name == "serial":
        return Site(name, ("backend=serial",))
    if name == "mpi":
        return Site(name, ("backend=mpi", MEMORY), ranks=3, environment=mpi_of(MPIRUNS[0]))
    if name == "dask":
        return Site(name, LOCAL_WORKERS)
    if name == "prefect":
        return Site(name, (*LOCAL_WORKERS, "orchestrator=prefect"))
    if name == "postgresql":
        server, url = request.getfixturevalue("postgresql"), request.getfixturevalue("postgresql_url")
        # Its network is that of the server.
        settings = (*LOCAL_WORKERS, f"context.url={url}")
        return Site(name, settings, services={name: server}, database=url, apart=False)
    if name == "kubernetes":
        return on_pods(request.getfixturevalue("kubernetes"))
    manager = request.getfixturevalue(name)
    cluster = (f"type={name}", "memory=800MB", "maximum=2", "poll=0.5", "idle_seconds=2")
    settings = (*WORKERS, f"dask.cluster={name}", *(f"clusters.{name}.{text}" for text in cluster))
    if name == "slurm":
        settings += (f"clusters.slurm.job_script_prologue={clocks()}",)
        queue = partial(queued, manager.try_to_run, "squeue", "--noheader", "--format=%i %T")
    else:
        queue = partial(queued, manager.try_to_run, "condor_q", "-af", "ClusterId", "JobStatus")
    return Site(name, settings, queue=queue, services={name: manager}, apart=False)


def on_pods(kubernetes: Kubernetes) -> Site:
    """Where workers are pods, which see of this machine what is in the folder of their Kubernetes."""
    kubernetes.start_operator()
    plugins = kubernetes.folder / "plugins"
    if not plugins.exists():
        chaos_stages.install(plugins)
    # The machine has few cores; and what is installed beside the session is not in the image.
    variables = [{"name": "PYTHONPATH", "value": str(plugins)}]
    container = {"name": "worker", "resources": {"requests": {"cpu": "100m"}}, "env": variables}
    cluster = {
        "type": "kubernetes",
        "image": WORKER_IMAGE,
        "memory": "800MB",
        "maximum": 2,
        "poll": 0.5,
        "idle_seconds": 2,
        "volumes": [{"path": str(kubernetes.folder), "host_path": str(kubernetes.folder)}],
        "pod_template": {"spec": {"containers": [container]}},
    }
    return Site(
        "kubernetes",
        (
            *WORKERS,
            "dask.cluster=kubernetes",
            "session.private=false",
            f"clusters.kubernetes={json.dumps(cluster)}",
        ),
        environment=kubernetes.environment(),
        queue=partial(
            queued,
            kubernetes.try_to_run,
            *("kubectl", "get", "--output=name", "daskclusters,daskworkergroups"),
        ),
        services={"kubernetes": kubernetes},
        apart=False,
        pods=kubernetes.folder,
    )


@contextmanager
def everybody_may_write() -> Iterator[None]:
    """What is made in this block may be written by pods, which run as another user."""
    before = os.umask(0)
    try:
        yield
    finally:
        os.umask(before)


def queued(run: Callable[..., subprocess.CompletedProcess[str]], *command: str) -> list[str]:
    """What a queue holds; a manager that does not answer may still hold something."""
    done = run(*command)
    return done.stdout.splitlines() if done.returncode == 0 else [done.stderr]


def clocks() -> list[str]:
    """Lines of a job script that give a worker a clock which can be put wrong, where libfaketime is installed."""
    library = Path("/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1")
    if not library.exists():
        return []
    told = {
        "FAKETIME_TIMESTAMP_FILE": f"${CLOCK}",
        "FAKETIME_NO_CACHE": 1,
        "LD_PRELOAD": library,
    }
    return [f"export {name}={value}" for name, value in told.items()]


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What comes out where nothing happens."""
    return undisturbed(tmp_path_factory.mktemp("undisturbed") / "run", Site("serial", ("backend=serial",)), Work())


def undisturbed(folder: Path, site: Site, work: Work) -> dict[str, Any]:
    """Run a recipe in peace."""
    run = Run(folder, site, work)
    run.start()
    assert run.wait() == 0, run.told("it fails by itself")
    found = work.found(run)
    run.check(found)
    assert len(found) > 4
    return found


@contextmanager
def disk_for(run: Run, faults: list[Fault]) -> Iterator[None]:
    """A small disk for the working folder, where it is to be filled."""
    mounted = any(fault.name == "the disk is full" for fault in faults) and on_small_disk(run.workdir)
    try:
        yield
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(run.workdir)], check=True)


def one_round(folder: Path, site: Site, work: Work, expected: dict[str, Any], seed: str, most: int = 3) -> list[str]:
    """One session with one to `most` faults, and what became of it; the names of the faults that happened."""
    numbers = Random(seed)
    possible = [fault for fault in faults_for(site.name, work) if re.search(ONLY, fault.name)]
    faults = numbers.sample(possible, min(len(possible), numbers.randint(1, most)))
    moments = sorted(numbers.uniform(0, 0.95) for _ in faults)
    run = Run(folder, site, work)
    run.tell(
        f"seed {seed}: " + ", ".join(f"{f.name} at {moment:.0%}" for f, moment in zip(faults, moments, strict=True))
    )
    happened, undone = [], Undone()
    with disk_for(run, faults):
        try:
            run.start()
            for fault, moment in zip(faults, moments, strict=True):
                if moment < 0.2:
                    # While it starts, when no job has begun.
                    time.sleep(numbers.uniform(0, 3))
                else:
                    run.wait_for_moment((moment - 0.2) / 0.75, undone.what_is_due)
                    time.sleep(numbers.uniform(0, 0.2))
                if not run.runs():
                    break
                try:
                    undo = fault.do(run, numbers)
                except NothingThere:
                    run.tell(f"nothing there for: {fault.name}")
                    continue
                happened.append(fault.name)
                undone.after(numbers.uniform(0, fault.seconds), undo)
            while undone and run.runs():
                undone.what_is_due()
                time.sleep(0.05)
            undone.all()
            if run.wait() != 0:
                run.start()
                assert run.wait() == 0, run.told("resume fails")
            run.check(expected)
        finally:
            undone.all()
            run.kill_all()
    return happened


class Undone(list[tuple[float, Callable[[], None]]]):
    """What faults have to be undone, and when."""

    def after(self, seconds: float, undo: Undo) -> None:
        """Have a fault undone in so many seconds."""
        if undo is not None:
            self.append((time.monotonic() + seconds, undo))

    def what_is_due(self) -> None:
        """Undo what has lasted long enough."""
        for item in [item for item in self if item[0] <= time.monotonic()]:
            self.remove(item)
            item[1]()

    def all(self) -> None:
        """Undo all that is left."""
        while self:
            self.pop()[1]()


# Where sessions run, and for how many rounds where nobody says it. The others are for long nights.
SHORT = {"serial": 2, "dask": 2, "slurm": 1}
# What Open MPI leaves when its mpirun is killed depends on the moment, to the hundredth of a second.
LONG = ("mpi", "htcondor", "postgresql", "prefect", "kubernetes")
MARKS = {
    "mpi": pytest.mark.mpi,
    "slurm": pytest.mark.cluster,
    "htcondor": pytest.mark.cluster,
    "prefect": pytest.mark.prefect,
    "kubernetes": pytest.mark.kubernetes,
}
# A round of NGC 5921 takes as long as so many of the others.
SLOWER = 5


def at(*names: str) -> pytest.MarkDecorator:
    """At each of these sites."""
    return pytest.mark.parametrize("name", [pytest.param(name, marks=MARKS.get(name, ())) for name in names])


@at(*SHORT, *(LONG if ROUNDS else ()))
@pytest.mark.timeout(0)
def test_whatever_happens_nothing_is_lost_and_nothing_is_left(
    name: str, request: pytest.FixtureRequest, expected: dict[str, Any], tmp_path: Path
) -> None:
    rounds(tmp_path, site_of(name, request), Work(), expected, ROUNDS or SHORT[name])


if ROUNDS:

    @pytest.fixture(scope="module")
    def galaxy(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
        """What comes out of NGC 5921 where nothing happens."""
        return undisturbed(tmp_path_factory.mktemp("galaxy") / "run", Site("serial", ("backend=serial",)), Galaxy())

    @at(*SHORT, *LONG)
    @pytest.mark.timeout(0)
    def test_a_real_observation_comes_out_the_same(
        name: str, request: pytest.FixtureRequest, galaxy: dict[str, Any], tmp_path: Path
    ) -> None:
        rounds(tmp_path, site_of(name, request), Galaxy(), galaxy, -(-ROUNDS // SLOWER))


def rounds(folder: Path, site: Site, work: Work, expected: dict[str, Any], number: int) -> None:
    """So many sessions, each with faults of its own; what went wrong in any of them is told at the end."""
    problems = []
    folder = site.pods / folder.name if site.pods else folder
    for turn in range(number):
        seed = f"{SEED}-{site.name}-{turn}"
        try:
            with everybody_may_write() if site.pods else nullcontext():
                happened = one_round(folder / str(turn), site, work, expected, seed)
            print(f"{seed}: {', '.join(happened) or 'nothing'}", flush=True)
        except Exception as problem:  # noqa: BLE001 - the other rounds are run, too
            print(f"{seed}: FAILED {problem}", flush=True)
            problems.append(f"{seed}: {problem}")
    assert not problems, "\n\n".join(problems)
