"""A private Slurm cluster for the tests: all on this machine, in one temporary folder, gone when they end."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal

import psutil
import pytest

from services.daemons import Daemons, kill_all
from services.ports import free_port
from support import wait_until

# Any character devices will do for GPUs that nobody computes on: jobs are told their numbers, as of real ones.
_DEVICES = ("null", "zero", "full", "random", "urandom", "tty", "ptmx", "console")

_CONFIGURATION = """\
ClusterName={cluster}
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
# A job that is requeued may start again after as many seconds as a credential is good for.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=1,bf_yield_interval=100000
SlurmdParameters=config_overrides
PreemptType=preempt/partition_prio
PreemptMode={preempt}
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=30
# A node that has not answered for as many seconds is down.
SlurmdTimeout=4
MessageTimeout=4
KillWait={kill_wait}
MinJobAge={remember}
InactiveLimit=0
Waittime=0
EpilogMsgTime=0
CompleteWait=0
JobRequeue={requeue}
MailProg=/bin/true
GresTypes=gpu
"""
# A job is killed that takes more than it asked for: looked at each second, for want of a control group of its own.
_ENFORCEMENT = """\
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherFrequency=task=1
JobAcctGatherParams=OverMemoryKill
"""


class Slurm(Daemons):
    """Real daemons, with nodes n1, n2… and, with GPUs, g1…; tests may stop, kill and start them as they like.

    The partitions are `cpu` (the default), `gpu`, `urgent` (the nodes of `cpu`, whose jobs its own preempt), `short`
    (at most a minute) and `closed` (whose accounts nobody has).
    """

    def __init__(
        self,
        *,
        nodes: int = 2,
        cpus: int = 4,
        memory: int = 4096,
        gpu_nodes: int = 1,
        gpus: int = 2,
        enforce_memory: bool = False,
        requeue: bool = False,
        preempt: str = "CANCEL",
        kill_wait: int = 2,
        remember: int = 300,
    ) -> None:
        """Make a cluster: memory in MB for each node, and for how many seconds it remembers ended jobs."""
        super().__init__("slurm")
        (self.folder / "state").mkdir()
        key = self.folder / "munge.key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(128))
        without = [f"n{number}" for number in range(1, nodes + 1)]
        with_gpus = [f"g{number}" for number in range(1, gpu_nodes + 1)]
        self.nodes = without + with_gpus
        text = _CONFIGURATION.format(
            cluster=self.folder.name,
            host=socket.gethostname().split(".")[0],
            port=free_port(),
            user=pwd.getpwuid(os.geteuid()).pw_name,
            folder=self.folder,
            preempt=preempt,
            kill_wait=kill_wait,
            remember=remember,
            requeue=int(requeue),
        )
        text += _ENFORCEMENT if enforce_memory else "JobAcctGatherType=jobacct_gather/none\n"
        for name in self.nodes:
            (self.folder / "spool" / name).mkdir(parents=True)
            text += (
                f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={free_port()} State=UNKNOWN"
                f" CPUs={cpus} Sockets=1 CoresPerSocket={cpus} ThreadsPerCore=1 RealMemory={memory}"
                + (f" Gres=gpu:{gpus}" if name in with_gpus else "")
                + "\n"
            )
        defaults = "DefMemPerCPU=128"
        for partition in (
            "cpu Default=YES",
            "urgent PriorityTier=10 PreemptMode=OFF",
            "short MaxTime=1",
            "closed AllowAccounts=observatory",
        ):
            text += f"PartitionName={partition} {defaults} Nodes={','.join(without)}\n"
        if with_gpus:
            text += f"PartitionName=gpu {defaults} Nodes={','.join(with_gpus)}\n"
        (self.folder / "slurm.conf").write_text(text)
        gres = [f"NodeName={name} Name=gpu File=/dev/{device}\n" for name in with_gpus for device in _DEVICES[:gpus]]
        (self.folder / "gres.conf").write_text("".join(gres))
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\nConstrainCores=no\nConstrainRAMSpace=no\n")

    def environment(self) -> dict[str, str]:
        """The environment variables by which Slurm's commands find it."""
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def start(self) -> None:
        """Start what does not run, and wait until every node takes jobs."""
        if not self._runs("munged"):
            folder = self.folder
            # --force: it does not like what others may have done to the folder's parents.
            self._start(
                "munged",
                *(_program("munged"), "--foreground", "--force", f"--socket={folder}/munge.socket"),
                *(f"--key-file={folder}/munge.key", f"--pid-file={folder}/munged.pid"),
                *(f"--seed-file={folder}/munge.seed", f"--log-file={folder}/munged.log"),
            )
            self._wait_for("munged", (folder / "munge.socket").exists, "munged listens")
        if not self._runs("slurmctld"):
            self.start_controller()
        for name in self.nodes:
            if not self._runs(name):
                self.start_node(name, wait=False)
        for name in self.run("sinfo", "--noheader", "--states=drain", "--Node", "--format=%N").split():
            self.run("scontrol", "update", f"NodeName={name}", "State=RESUME")
        self.wait_for_nodes("idle", "mixed", "allocated")

    def stop(self) -> None:
        """End all of it at once, as a power cut does, and jobs too; its queue stays."""
        super().stop()
        self._end_jobs(self.nodes)

    def start_controller(self) -> None:
        """Start slurmctld with the queue that it had, and wait until it answers."""
        self._start("slurmctld", _program("slurmctld"), "-D")
        self._wait_for(
            "slurmctld", lambda: "is UP" in self.try_to_run("scontrol", "ping").stdout, "slurmctld answers"
        )

    def stop_controller(self, *, crash: bool = False) -> None:
        """Stop slurmctld, as an administrator does or as a crash does, and wait until it is gone.

        After a crash it knows nothing of the last five seconds or so.
        """
        self._end("slurmctld", signal.SIGKILL if crash else signal.SIGTERM)

    def wait_until_saved(self) -> None:
        """Have slurmctld save its queue: after a crash it starts jobs again of which it does not know that they run.

        That jobs of an array were started is saved with the next change only.
        """
        for job in self.run("squeue", "--noheader", "--states=RUNNING", "--format=%A").split():
            self.run("scontrol", "update", f"JobId={job}", "Comment=saved")
        changed = time.time()
        queue = self.folder / "state" / "job_state"
        wait_until(lambda: queue.stat().st_mtime > changed, 30, "slurmctld has saved its queue")

    def start_node(self, name: str, *, wait: bool = True) -> None:
        """Start a node's slurmd, and wait until the node takes jobs."""
        self._start(name, _program("slurmd"), "-D", "-N", name, SLURMD_NODENAME=name)
        if wait:
            self.wait_for_nodes("idle", "mixed", "allocated", names=[name])

    def kill_node(self, name: str, *, told: bool = False) -> None:
        """End a node as a power cut does: slurmd and all that runs of its jobs, at once.

        slurmctld finds it out within ten seconds or so, or is told by an administrator.
        """
        self._end(name, signal.SIGKILL)
        self._end_jobs([name])
        if told:
            self.run("scontrol", "update", f"NodeName={name}", "State=DOWN", "Reason=no power")

    def partition(self, name: str, state: Literal["UP", "DOWN", "DRAIN", "INACTIVE"]) -> None:
        """Take a partition down, or up again."""
        self.run("scontrol", "update", f"PartitionName={name}", f"State={state}")

    def job_state(self, identifier: str) -> str:
        """A job's state in a word, such as PENDING or NODE_FAIL; empty of one that Slurm knows no longer."""
        return self.try_to_run(
            "squeue", "--noheader", "--states=all", f"--jobs={identifier}", "--format=%T"
        ).stdout.strip()

    def wait_for_job(self, identifier: str, *states: str, seconds: float = 60) -> str:
        """Wait until a job is in one of these states; which."""
        wait_until(
            lambda: self.job_state(identifier) in states, seconds, f"job {identifier} is {' or '.join(states)}"
        )
        return self.job_state(identifier)

    def wait_for_nodes(self, *states: str, names: Sequence[str] = (), seconds: float = 60) -> None:
        """Wait until these nodes, or all, are in one of these states: idle, mixed, allocated, down…"""
        awaited = set(names or self.nodes)

        def states_of_nodes() -> dict[str, str]:
            lines = self.try_to_run("sinfo", "--noheader", "--Node", "--format=%N %T").stdout.splitlines()
            return dict(line.split() for line in lines)

        def are_so() -> bool:
            now = states_of_nodes()
            return all(now.get(name) in states for name in awaited)

        try:
            wait_until(are_so, seconds, f"nodes {', '.join(sorted(awaited))} are {' or '.join(states)}")
        except AssertionError as error:
            why = self.try_to_run("sinfo", "--list-reasons", "--noheader", "--format=%N: %E").stdout
            raise AssertionError(f"{error}; they are {states_of_nodes()}; {why}") from error

    def node_of(self, identifier: str) -> str:
        """The node on which a job runs."""
        return self.run("squeue", "--noheader", f"--jobs={identifier}", "--format=%N")

    def tidy(self) -> None:
        """End all jobs and start what is down, as the next test expects it."""
        self.start()
        jobs = self.run("squeue", "--noheader", "--format=%A").split()
        if jobs:
            self.run("scancel", *jobs)
        for line in self.run("sinfo", "--noheader", "--format=%R %a").splitlines():
            if not line.endswith(" up"):
                self.partition(line.split()[0], "UP")
        self.wait_for_nodes("idle")

    def _end_jobs(self, names: Sequence[str]) -> None:
        """Kill all that nodes run, wherever it has gone since: each job's slurmstepd, then its processes."""
        logs = {str(self.folder / f"{name}.log") for name in names}
        here = self.environment().items()

        # It tells its slurmctld how its job's processes ended, so it has to go first.
        def is_step(process: psutil.Process) -> bool:
            return process.name() == "slurmstepd" and any(file.path in logs for file in process.open_files())

        def is_job(process: psutil.Process) -> bool:
            environment = process.environ()
            return environment.get("SLURMD_NODENAME") in names and environment.items() >= here

        kill_all(is_step, "slurmstepd")
        kill_all(is_job, "process of a job")


@pytest.fixture(scope="session")
def slurm_programs() -> None:
    """That Slurm is installed."""
    missing = [name for name in ("munged", "slurmctld", "slurmd", "sbatch") if _program(name) is None]
    if missing:
        pytest.skip(f"Slurm is not installed: no {', '.join(missing)} on the PATH or in /usr/sbin")


@pytest.fixture(scope="session")
def slurm_cluster(slurm_programs: None) -> Iterator[Slurm]:
    """A running cluster of two nodes and one with two GPUs, one for all tests of a process."""
    cluster = Slurm()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.remove()


@pytest.fixture
def slurm(slurm_cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> Iterator[Slurm]:
    """That cluster, found by Slurm's commands while a test runs, with nothing in its queue and every node up."""
    slurm_cluster.is_found(monkeypatch)
    yield slurm_cluster
    slurm_cluster.tidy()


@pytest.fixture
def slurm_with(slurm_programs: None, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Slurm]]:
    """Starts a cluster of a test's own, with what it asks for; the commands find it from then on."""
    clusters: list[Slurm] = []

    def start(**wishes: Any) -> Slurm:
        clusters.append(Slurm(**wishes))
        clusters[-1].start()
        clusters[-1].is_found(monkeypatch)
        return clusters[-1]

    yield start
    for cluster in clusters:
        cluster.remove()


def _program(name: str) -> str | None:
    # Debian keeps daemons where ordinary users do not look.
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
