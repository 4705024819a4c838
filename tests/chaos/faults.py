"""What can happen to a session: each fault, how it is done and undone, and where it applies."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import psutil

from chaos import chaos_stages
from chaos.runs import Run, Work

QUEUES = ("slurm", "htcondor")
BATCH = (*QUEUES, "kubernetes")
# Sites whose workers are Dask's, on this machine.
DASK = ("dask", "postgresql", "prefect")
WITH_WORKERS = (*DASK, "mpi", *BATCH)
LOCAL = ("serial", "mpi", *DASK)
ANYWHERE = (*LOCAL, *QUEUES, "kubernetes")


class NothingThere(Exception):
    """What the fault is for is not there at this moment."""


# Undoes a fault; None where there is nothing to undo.
Undo = Callable[[], None] | None
Happening = Callable[[Run, Random], Undo]
Whom = Callable[[Run], list[psutil.Process]]


@dataclass(frozen=True)
class Fault:
    """Something that can happen.

    Attributes:
        name: what it is called, in the table of docs/reliability.md too.
        sites: the names of those sites where it can.
        do: has it happen now, and gives what undoes it.
        seconds: how long it may last before it is undone.
    """

    name: str
    sites: Collection[str]
    do: Happening
    seconds: float = 5.0


def _signal(number: signal.Signals, whom: Whom, many: bool = False) -> Happening:
    def do(run: Run, numbers: Random) -> Undo:
        found = whom(run)
        if not found:
            raise NothingThere
        for process in numbers.sample(found, numbers.randint(1, len(found)) if many else 1):
            with suppress(psutil.NoSuchProcess):
                run.tell(f"{number.name} to {process.pid}, {' '.join(process.cmdline())[-60:]}")
                process.send_signal(number)
        return None

    return do


def _stop(whom: Whom, for_ever: bool = False) -> Happening:
    def do(run: Run, numbers: Random) -> Undo:
        found = whom(run)
        if not found:
            raise NothingThere
        process = numbers.choice(found)
        with suppress(psutil.NoSuchProcess):
            run.tell(f"{process.pid} is stopped, {' '.join(process.cmdline())[-60:]}")
            process.suspend()

        def undo() -> None:
            with suppress(psutil.NoSuchProcess):
                process.resume()

        return None if for_ever else undo

    return do


def _workers(run: Run) -> list[psutil.Process]:
    return run.workers()


def _nannies(run: Run) -> list[psutil.Process]:
    """The processes that watch workers, where these are no threads of the session."""
    session = run.session()
    return [parent for worker in run.workers() if (parent := worker.parent()) is not None and parent != session]


def stop_with_nanny(run: Run, numbers: Random) -> Undo:
    """A worker and what watches it stand still, as on a machine that is suspended."""
    nannies = _nannies(run)
    if not nannies:
        raise NothingThere
    for process in (nanny := numbers.choice(nannies), *nanny.children()):
        with suppress(psutil.NoSuchProcess):
            run.tell(f"{process.pid} is stopped for ever, {' '.join(process.cmdline())[-60:]}")
            process.suspend()
    return None


def _session(run: Run) -> list[psutil.Process]:
    session = run.session()
    return [session] if session is not None else []


def _servers(run: Run) -> list[psutil.Process]:
    """Servers of an MPI job, without their keepers."""
    ranks = run.ranks()
    return [process for process in ranks if process.parent() in ranks]


def _keepers(run: Run) -> list[psutil.Process]:
    servers = _servers(run)
    return [process for process in run.ranks() if process not in servers]


def _mpirun(run: Run) -> list[psutil.Process]:
    return [process for process in run.processes() if "mpirun" in process.name() or "prterun" in process.name()]


def _supervisor(run: Run) -> list[psutil.Process]:
    return [run.process] if run.runs() else []


def _prefect_server(run: Run) -> list[psutil.Process]:
    return [process for process in run.processes() if any("prefect_server" in word for word in process.cmdline())]


def _job_that(misbehaves: Callable[[], None]) -> Happening:
    def do(run: Run, numbers: Random) -> Undo:
        run.tell(f"some job is to {misbehaves.__name__.replace('_', ' ')}")
        (run.folder / "wishes" / f"{misbehaves.__name__}.{numbers.randrange(10**6)}").touch()
        return None

    return do


def fill_the_disk(run: Run, numbers: Random) -> Undo:
    """Leave no byte on the small file system that the working folder is on."""
    ballast = run.workdir / "ballast"
    if not run.workdir.is_mount():
        raise NothingThere
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 512):
            with suppress(OSError):
                while file.write(bytes(size)):
                    pass
    run.tell(f"the disk is full: {shutil.disk_usage(run.workdir).free} bytes are left")

    def undo() -> None:
        ballast.unlink()
        run.tell("the disk has room again")

    return undo


def make_read_only(run: Run, numbers: Random) -> Undo:
    """Nothing can be made in the working folder; the session may not, as root may, write all the same."""
    if not (run.site.apart and run.workdir.exists()):
        raise NothingThere
    folders = [run.workdir, *(path for path in run.workdir.rglob("*") if path.is_dir() and not path.is_symlink())]
    for folder in folders:
        with suppress(FileNotFoundError):
            folder.chmod(0o555)
    run.tell("the working folder is read-only")

    def undo() -> None:
        for folder in folders:
            with suppress(FileNotFoundError):
                folder.chmod(0o755)
        run.tell("the working folder can be written again")

    return undo


def _network(*rules: str) -> Happening:
    """Rules for the network that a session has for itself and its workers."""

    def do(run: Run, numbers: Random) -> Undo:
        if not (run.site.apart and run.runs()):
            raise NothingThere

        def apply(*words: str) -> None:
            subprocess.run(
                ["nsenter", "--target", str(run.process.pid), "--net", *words], check=False, capture_output=True
            )

        for rule in rules:
            apply(*rule.split())
        run.tell(f"network: {'; '.join(rules)}")

        def undo() -> None:
            apply("iptables", "-F")
            apply("tc", "qdisc", "del", "dev", "lo", "root")
            run.tell("the network is as it was")

        return undo

    return do


def _outage(name: str, what: str, stop: Callable[[Any], Any], start: Callable[[Any], Any]) -> Happening:
    """A service of the site is away for a while."""

    def do(run: Run, numbers: Random) -> Undo:
        service = run.site.services[name]
        if what in run.away:
            raise NothingThere
        run.away.add(what)
        stop(service)
        run.tell(f"{what} is gone")

        def undo() -> None:
            start(service)
            run.away.discard(what)
            run.tell(f"{what} is back")

        return undo

    return do


def _deleted(kind: str, component: str) -> Happening:
    """An object of Kubernetes is deleted by somebody, one of those that a session has at that moment."""

    def do(run: Run, numbers: Random) -> Undo:
        kubernetes = run.site.services["kubernetes"]
        labels = "app.kubernetes.io/managed-by=surgeline"
        labels += f",dask.org/component={component}" if component else ""
        found = kubernetes.try_to_run("kubectl", "get", kind, "--output=name", f"--selector={labels}").stdout.split()
        if not found:
            raise NothingThere
        victim = numbers.choice(found)
        run.tell(f"{victim} is deleted")
        kubernetes.try_to_run("kubectl", "delete", victim, "--wait=false")
        return None

    return do


def drain(run: Run, numbers: Random) -> Undo:
    """Every pod has to leave, and none may come."""
    kubernetes = run.site.services["kubernetes"]
    kubernetes.drain()
    run.tell("the node is drained")

    def undo() -> None:
        kubernetes.uncordon()
        run.tell("the node takes pods again")

    return undo


def skew_clocks(run: Run, numbers: Random) -> Undo:
    """Clocks of workers that were started with a clock of their own go wrong, by up to a day."""
    clock = run.folder / "clock"
    offset = f"{numbers.choice('+-')}{numbers.randrange(10, 86400)}"
    clock.write_text(f"{offset}\n")
    run.tell(f"clocks of workers are off by {offset} s")

    def undo() -> None:
        clock.write_text("+0\n")

    return undo


FAULTS = [
    Fault("a worker is killed", WITH_WORKERS, _signal(signal.SIGKILL, _workers)),
    Fault("a worker is told to end", WITH_WORKERS, _signal(signal.SIGTERM, _workers)),
    Fault("a worker crashes", WITH_WORKERS, _signal(signal.SIGSEGV, _workers)),
    Fault("several workers are killed", WITH_WORKERS, _signal(signal.SIGKILL, _workers, many=True)),
    Fault("a worker stands still", WITH_WORKERS, _stop(_workers), 8.0),
    Fault("a worker is stopped for ever", WITH_WORKERS, _stop(_workers, for_ever=True)),
    Fault("a worker and its nanny are stopped for ever", BATCH, stop_with_nanny),
    Fault("a nanny is killed", BATCH, _signal(signal.SIGKILL, _nannies)),
    Fault("the session is killed", ANYWHERE, _signal(signal.SIGKILL, _session)),
    Fault("SIGTERM to the session", ANYWHERE, _signal(signal.SIGTERM, _session)),
    Fault("SIGINT to the session", ANYWHERE, _signal(signal.SIGINT, _session)),
    Fault("the session's terminal ends", ANYWHERE, _signal(signal.SIGHUP, _session)),
    Fault("the session crashes", ANYWHERE, _signal(signal.SIGSEGV, _session)),
    Fault("the session stands still", ANYWHERE, _stop(_session), 8.0),
    Fault("an MPI server is killed", ["mpi"], _signal(signal.SIGKILL, _servers)),
    Fault("the keeper of an MPI server is killed", ["mpi"], _signal(signal.SIGKILL, _keepers)),
    Fault("mpirun is killed", ["mpi"], _signal(signal.SIGKILL, _mpirun)),
    Fault("SIGTERM to mpirun", ["mpi"], _signal(signal.SIGTERM, _mpirun)),
    Fault("who watches mpirun is killed", ["mpi"], _signal(signal.SIGKILL, _supervisor)),
    Fault("SIGTERM to who watches mpirun", ["mpi"], _signal(signal.SIGTERM, _supervisor)),
    *(
        Fault(f"a job: {function.__name__.replace('_', ' ')}", ANYWHERE, _job_that(function))
        for function in chaos_stages.MISBEHAVIOUR.values()
        if function not in (chaos_stages.close_descriptors, chaos_stages.leave)
    ),
    # In the session's own process nobody would be left who could tell of these.
    Fault("a job: close descriptors", WITH_WORKERS, _job_that(chaos_stages.close_descriptors)),
    Fault("a job: leave", WITH_WORKERS, _job_that(chaos_stages.leave)),
    # What is mounted later, pods do not see.
    Fault("the disk is full", (*LOCAL, *QUEUES), fill_the_disk),
    Fault("the working folder is read-only", LOCAL, make_read_only),
    Fault("the network is cut", DASK, _network("iptables -A INPUT -p tcp -j DROP")),
    Fault("connections are refused", DASK, _network("iptables -A INPUT -p tcp -j REJECT --reject-with tcp-reset")),
    Fault(
        "a third of all packets is lost",
        DASK,
        _network("iptables -A INPUT -p tcp -m statistic --mode random --probability 0.33 -j DROP"),
    ),
    Fault("the network is slow", DASK, _network("tc qdisc add dev lo root tbf rate 2mbit burst 64kb latency 2s")),
    Fault("workers' clocks are wrong", ["slurm"], skew_clocks),
    Fault(
        "slurmctld is stopped",
        ["slurm"],
        _outage("slurm", "slurmctld", lambda slurm: slurm.stop_controller(), lambda slurm: slurm.start_controller()),
        10.0,
    ),
    Fault(
        "slurmctld is killed",
        ["slurm"],
        _outage(
            "slurm",
            "slurmctld",
            lambda slurm: slurm.stop_controller(crash=True),
            lambda slurm: slurm.start_controller(),
        ),
        10.0,
    ),
    Fault(
        "a node of Slurm is lost",
        ["slurm"],
        _outage(
            "slurm", "node n1", lambda slurm: slurm.kill_node("n1"), lambda slurm: slurm.start_node("n1", wait=False)
        ),
        20.0,
    ),
    Fault(
        "a schedd is stopped",
        ["htcondor"],
        _outage("htcondor", "the schedd", lambda pool: pool.stop_schedd(), lambda pool: pool.start_schedd()),
        10.0,
    ),
    Fault(
        "a schedd is killed",
        ["htcondor"],
        _outage(
            "htcondor", "the schedd", lambda pool: pool.stop_schedd(crash=True), lambda pool: pool.start_schedd()
        ),
        10.0,
    ),
    Fault(
        "PostgreSQL is stopped",
        ["postgresql"],
        _outage("postgresql", "PostgreSQL", lambda server: server.stop(), lambda server: server.start()),
        10.0,
    ),
    Fault(
        "PostgreSQL is killed",
        ["postgresql"],
        _outage("postgresql", "PostgreSQL", lambda server: server.stop("immediate"), lambda server: server.start()),
        10.0,
    ),
    Fault("a pod is deleted", ["kubernetes"], _deleted("pods", "worker")),
    Fault("a worker group is deleted", ["kubernetes"], _deleted("daskworkergroups", "")),
    Fault("the scheduler's pod is deleted", ["kubernetes"], _deleted("pods", "scheduler")),
    Fault(
        "the operator is stopped",
        ["kubernetes"],
        _outage("kubernetes", "the operator", lambda pods: pods.stop_operator(), lambda pods: pods.start_operator()),
        20.0,
    ),
    Fault(
        "the operator is killed",
        ["kubernetes"],
        _outage(
            "kubernetes",
            "the operator",
            lambda pods: pods.stop_operator(crash=True),
            lambda pods: pods.start_operator(),
        ),
        20.0,
    ),
    Fault(
        "the API server is killed",
        ["kubernetes"],
        _outage("kubernetes", "the API server", lambda pods: pods.stop_api_server(), lambda pods: pods.start()),
        20.0,
    ),
    Fault(
        "the kubelet is killed",
        ["kubernetes"],
        _outage("kubernetes", "the kubelet", lambda pods: pods.stop_kubelet(), lambda pods: pods.start_kubelet()),
        20.0,
    ),
    Fault("the node is drained", ["kubernetes"], drain, 5.0),
    Fault("Prefect's server is killed", ["prefect"], _signal(signal.SIGKILL, _prefect_server)),
    Fault("Prefect's server stands still", ["prefect"], _stop(_prefect_server), 10.0),
]


def faults_for(site: str, work: Work) -> list[Fault]:
    """What can happen to sessions of a recipe there."""
    return [
        fault for fault in FAULTS if site in fault.sites and (work.misbehaves or not fault.name.startswith("a job: "))
    ]


def on_small_disk(folder: Path) -> bool:
    """Mount a small file system at a folder, whose disk can then be filled; whether that is allowed here."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=150m", "tmpfs", str(folder)]
    return os.geteuid() == 0 and subprocess.run(mount, capture_output=True).returncode == 0
