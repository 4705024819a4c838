"""A private HTCondor pool for the tests: every daemon on this machine, in one temporary folder, gone when they end.

Debian 12 has no HTCondor, so the programs are those of Debian 13, with the libraries that they need, in a cache
folder (SURGELINE_TEST_CACHE, else ~/.cache/surgeline-tests). `python -m services.htcondor` puts them there.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from services.daemons import Daemons, kill_all
from services.packages import FetchFailed, cache, made_once, need_programs, only_suite, output
from services.ports import free_port, is_listened_on
from support import wait_until

# What HTCondor's programs link to, and what that links to in its turn.
_PACKAGES = """\
condor libc6 libstdc++6 libgcc-s1 libgomp1 libssl3t64 libcurl4t64 libscitokens0t64 libvomsapi1t64 libexpat1
libsqlite3-0 libuuid1 libpcre2-8-0 libmunge2 libkrb5-3 libgssapi-krb5-2 libk5crypto3 libkrb5support0 libcom-err2
libkeyutils1 libnghttp2-14 libnghttp3-9 libidn2-0 librtmp1 libssh2-1t64 libpsl5t64 libldap2 libzstd1 libbrotli1 zlib1g
libunistring5 libsasl2-2 libgnutls30t64 libhogweed6t64 libnettle8t64 libgmp10 libp11-kit0 libtasn1-6 libffi8 libcrypt1
libdb5.3t64 libselinux1 libcap2 libpam0g libaudit1 libcap-ng0
"""

_CONFIGURATION = """\
RELEASE_DIR = {programs}/usr
BIN = $(RELEASE_DIR)/bin
SBIN = $(RELEASE_DIR)/sbin
LIB = $(RELEASE_DIR)/lib/condor
LIBEXEC = $(RELEASE_DIR)/libexec/condor
LOCAL_DIR = {folder}
LOCAL_CONFIG_FILE =
LOCAL_CONFIG_DIR =
REQUIRE_LOCAL_CONFIG_FILE = False
RUN = $(LOCAL_DIR)
LOG = $(LOCAL_DIR)
LOCK = $(LOCAL_DIR)
SPOOL = $(LOCAL_DIR)
EXECUTE = $(LOCAL_DIR)/execute
CONDOR_HOST = 127.0.0.1
NETWORK_INTERFACE = 127.0.0.1
BIND_ALL_INTERFACES = False
ENABLE_IPV6 = False
COLLECTOR_HOST = 127.0.0.1:{port}
USE_SHARED_PORT = False
UID_DOMAIN = tests
FILESYSTEM_DOMAIN = tests
DEFAULT_DOMAIN_NAME = tests
SEC_DEFAULT_AUTHENTICATION = REQUIRED
SEC_DEFAULT_AUTHENTICATION_METHODS = FS
# Daemons that no condor_master started do not know each other by it.
SEC_USE_FAMILY_SESSION = False
ALLOW_READ = *
ALLOW_WRITE = *
ALLOW_DAEMON = *
ALLOW_NEGOTIATOR = *
ALLOW_ADMINISTRATOR = *
MAIL = /bin/true
SUBMIT_REQUIREMENT_NAMES = Group
SUBMIT_REQUIREMENT_Group = AcctGroup =!= "closed"
SUBMIT_REQUIREMENT_Group_REASON = "the accounting group closed takes no jobs"
# Everything at once, rather than each five minutes.
NEGOTIATOR_INTERVAL = 1
NEGOTIATOR_MIN_INTERVAL = 1
NEGOTIATOR_CYCLE_DELAY = 1
# The negotiator comes every second anyway; calling it while it calls, each waits for the other for 20 seconds.
SCHEDD_SEND_RESCHEDULE = False
SCHEDD_INTERVAL = 2
SCHEDD_MIN_INTERVAL = 0
PERIODIC_EXPR_INTERVAL = 2
MAX_PERIODIC_EXPR_INTERVAL = 2
UPDATE_INTERVAL = 2
POLLING_INTERVAL = 1
PID_SNAPSHOT_INTERVAL = 1
JOB_START_DELAY = 0
STARTER_INITIAL_UPDATE_INTERVAL = 1
STARTER_UPDATE_INTERVAL = 2
SHADOW_QUEUE_UPDATE_INTERVAL = 2
MachineMaxVacateTime = 3
KILLING_TIMEOUT = 5
# A machine that is dead is forgotten after as many seconds, and its jobs wait again: 20 is the least.
CLASSAD_LIFETIME = 10
JOB_DEFAULT_LEASE_DURATION = 20
RECONNECT_BACKOFF_CEILING = 1
# A machine gives as much to a job as it asks for.
NUM_CPUS = {cpus}
MEMORY = {memory}
NUM_SLOTS = 1
NUM_SLOTS_TYPE_1 = 1
SLOT_TYPE_1 = 100%
SLOT_TYPE_1_PARTITIONABLE = True
START = True
SUSPEND = False
PREEMPT = False
KILL = False
WANT_SUSPEND = False
WANT_VACATE = False
STARTD_ENFORCE_DISK_LIMITS = False
# Looking for what is not there takes seconds at each start.
BENCHMARKS_JOBLIST =
RUNBENCHMARKS = False
HIBERNATE_CHECK_INTERVAL = 0
DOCKER =
SINGULARITY =
JAVA =
FILETRANSFER_PLUGINS = $(LIBEXEC)/curl_plugin
"""
_STATES = {"1": "idle", "2": "running", "3": "removed", "4": "completed", "5": "held", "6": "transferring output"}


class HTCondor(Daemons):
    """Real daemons, with machines n1, n2… and, with GPUs, g1…; tests may stop, kill and start them as they like.

    As root, whose jobs HTCondor refuses, all of it runs in user namespaces in which root is called `daemon`; files
    stay root's. No condor_master: it would start again what a test has killed. The accounting group `closed` is
    refused.
    """

    def __init__(
        self,
        programs: Path,
        *,
        nodes: int = 2,
        cpus: int = 4,
        memory: int = 4096,
        gpu_nodes: int = 1,
        gpus: int = 2,
        enforce_memory: bool = False,
    ) -> None:
        """Make a pool with the programs of a folder: memory in MB for each machine."""
        super().__init__("htcondor")
        self._programs = programs
        self._prefix: list[str] = []
        if os.geteuid() == 0:
            account = pwd.getpwnam("daemon")
            self._prefix = ["unshare", "--user", f"--map-user={account.pw_uid}", f"--map-group={account.pw_gid}"]
        self._port = free_port()
        text = _CONFIGURATION.format(programs=programs, folder=self.folder, port=self._port, cpus=cpus, memory=memory)
        if enforce_memory:
            text += "use POLICY : HOLD_IF_MEMORY_EXCEEDED\n"
        (self.folder / "condor_config").write_text(text)
        with_gpus = [f"g{number}" for number in range(1, gpu_nodes + 1)]
        self.nodes = [f"n{number}" for number in range(1, nodes + 1)] + with_gpus
        for name in self.nodes:
            text = f"include : {self.folder}/condor_config\nLOCAL_DIR = {self.folder}/{name}\nSTARTD_NAME = {name}\n"
            if name in with_gpus:
                text += f"MACHINE_RESOURCE_GPUs = {', '.join(map(str, range(gpus)))}\n"
            (self.folder / name / "execute").mkdir(parents=True)
            self._configuration(name).write_text(text)
        commands = self.folder / "bin"
        commands.mkdir()
        for command in (programs / "usr" / "bin").glob("condor_*"):
            (commands / command.name).write_text(f'#!/bin/sh\nexec {" ".join(self._prefix)} {command} "$@"\n')
            (commands / command.name).chmod(0o755)

    def environment(self) -> dict[str, str]:
        """The environment variables by which HTCondor and its commands are found."""
        return {
            "CONDOR_CONFIG": str(self.folder / "condor_config"),
            "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}",
        }

    def start(self) -> None:
        """Start what does not run, and wait until every machine takes jobs."""
        if not self._runs("collector"):
            # The others tell it of themselves when they start.
            self._start_daemon("collector", "-p", str(self._port))
            self._wait_for("collector", lambda: is_listened_on(self._port), "condor_collector answers")
        if not self._runs("negotiator"):
            self._start_daemon("negotiator")
        if not self._runs("schedd"):
            self.start_schedd()
        for name in self.nodes:
            if not self._runs(name):
                self.start_node(name, wait=False)
        self._wait_for_nodes(self.nodes)

    def stop(self) -> None:
        """End all of it at once, as a power cut does, and jobs too; its queue stays."""
        super().stop()
        # The daemons' own children, such as condor_shadow.
        here = self.environment()["CONDOR_CONFIG"]
        kill_all(
            lambda process: process.name().startswith("condor_") and process.environ().get("CONDOR_CONFIG") == here,
            "child of HTCondor's daemons",
        )
        for name in self.nodes:
            self._end_jobs(name)

    def start_schedd(self) -> None:
        """Start condor_schedd with the queue that it had, and wait until it answers."""
        self._start_daemon("schedd")
        self._wait_for("schedd", lambda: self.try_to_run("condor_q").returncode == 0, "condor_schedd answers")

    def stop_schedd(self, *, crash: bool = False) -> None:
        """Stop condor_schedd, as an administrator does or as a power cut does, and wait until it is gone."""
        shadows = psutil.Process(self._daemons["schedd"].pid).children(recursive=True)
        self._end("schedd", signal.SIGKILL if crash else signal.SIGTERM)
        if crash:
            for shadow in shadows:
                shadow.kill()

    def start_node(self, name: str, *, wait: bool = True) -> None:
        """Start a machine's condor_startd, and wait until it takes jobs."""
        (self.folder / name / ".startd_address").unlink(missing_ok=True)
        self._start_daemon(name, program="startd", CONDOR_CONFIG=str(self._configuration(name)))
        if wait:
            self._wait_for_nodes([name])

    def kill_node(self, name: str) -> None:
        """End a machine as a power cut does: condor_startd and all that runs of its jobs, at once.

        HTCondor gives its jobs to another machine when it has waited for this one for 20 seconds.
        """
        self._end(name, signal.SIGKILL)
        self._end_jobs(name)

    def job_state(self, identifier: str) -> str:
        """A job's state in a word: idle, running, held, completed…; empty of one that HTCondor does not know."""
        for command in ("condor_q", "condor_history"):
            status = self.try_to_run(command, identifier, "-af", "JobStatus").stdout.strip()
            if status:
                return _STATES[status]
        return ""

    def wait_for_job(self, identifier: str, *states: str, seconds: float = 60) -> str:
        """Wait until a job is in one of these states; which."""
        wait_until(
            lambda: self.job_state(identifier) in states, seconds, f"job {identifier} is {' or '.join(states)}"
        )
        return self.job_state(identifier)

    def node_of(self, identifier: str) -> str:
        """The machine on which a job runs."""
        return self.run("condor_q", identifier, "-af", "RemoteHost").split("@")[1]

    def tidy(self) -> None:
        """End all jobs and start what is down, as the next test expects it."""
        self.start()
        if self._jobs():
            self.try_to_run("condor_rm", "-all")
            patience = time.monotonic() + 3
            wait_until(lambda: not self._jobs() or time.monotonic() > patience, 60, "no jobs in the queue")
            # What waits for a dead machine would do so for half a minute.
            self.try_to_run("condor_rm", "-all", "-forcex")
            slots = ("-constraint", "PartitionableSlot", "NumDynamicSlots")
            wait_until(lambda: set(self._ads(*slots)) == {"0"}, 60, "the machines are free")

    def _jobs(self) -> list[str]:
        return self.run("condor_q", "-allusers", "-af", "ClusterId").split()

    def _ads(self, *arguments: str) -> list[str]:
        *options, attribute = arguments
        return self.try_to_run("condor_status", *options, "-af", attribute).stdout.splitlines()

    def _wait_for_nodes(self, names: Sequence[str]) -> None:
        # Not what is left of the ones that have been killed: each start has another address.
        def are_there() -> bool:
            files = [self.folder / name / ".startd_address" for name in names]
            known = self._ads("MyAddress")
            # The file's first line; the others are its version.
            return all(file.exists() and file.read_text().partition("\n")[0] in known for file in files)

        wait_until(are_there, 60, f"{', '.join(names)} are in HTCondor's pool")

    def _configuration(self, node: str) -> Path:
        return self.folder / f"{node}.config"

    def _start_daemon(self, name: str, *arguments: str, program: str = "", **environment: str) -> None:
        path = self._programs / "usr" / "sbin" / f"condor_{program or name}"
        self._start(name, *self._prefix, path, "-f", *arguments, **environment)

    def _end_jobs(self, name: str) -> None:
        """Kill all that a machine runs, wherever it has gone since: each job's condor_starter, then its processes."""
        configuration, execute = str(self._configuration(name)), f"{self.folder / name}/"
        # It tells the submitting side how its job's processes ended, so it has to go first.
        kill_all(lambda process: process.environ().get("CONDOR_CONFIG") == configuration, "condor_starter")
        kill_all(
            lambda process: process.environ().get("_CONDOR_SCRATCH_DIR", "").startswith(execute), "process of a job"
        )


def programs_of_htcondor() -> Path:
    """The folder of HTCondor's programs, fetched if they are not there yet.

    Raises FetchFailed if they cannot be.
    """
    return made_once(cache() / "htcondor", _fetch)


def _fetch(tree: Path) -> None:
    """Unpack HTCondor and its libraries, and have its programs use these; nothing is installed."""
    need_programs("patchelf")
    work = tree.with_name("fetched")
    apt = only_suite(work, "trixie")
    output("apt-get", "download", "-qq", *_PACKAGES.split(), cwd=work, **apt)
    for package in work.glob("*.deb"):
        output("dpkg-deb", "-x", package, work / "unpacked")
    unpacked = work / "unpacked"
    libraries = tree / "lib"
    libraries.mkdir(parents=True)
    for pattern in ("usr/lib/*/*.so*", "lib/*/*.so*", "usr/lib/*.so*"):
        for library in unpacked.glob(pattern):
            shutil.copy2(library, libraries / library.name, follow_symlinks=False)
    for part in ("bin", "sbin", "libexec", "lib/condor"):
        shutil.copytree(unpacked / "usr" / part, tree / "usr" / part, symlinks=True)
    # The programs name the folder in which they will be.
    folder = cache() / "htcondor" / "lib"
    loader = folder / next(libraries.glob("ld-linux*")).name
    options = ("--set-interpreter", str(loader), "--force-rpath", "--set-rpath", str(folder))
    for file in (tree / "usr").rglob("*"):
        if file.is_file() and not file.is_symlink() and _is_program(file):
            output("patchelf", *options, file)


def _is_program(path: Path) -> bool:
    with path.open("rb") as file:
        if file.read(4) != b"\x7fELF":
            return False
    return subprocess.run(["patchelf", "--print-interpreter", path], capture_output=True).returncode == 0


@pytest.fixture(scope="session")
def htcondor_programs() -> Path:
    """The folder of HTCondor's programs."""
    try:
        return programs_of_htcondor()
    except FetchFailed as error:
        pytest.skip(f"HTCondor cannot be fetched: {error}")


@pytest.fixture(scope="session")
def htcondor_pool(htcondor_programs: Path) -> Iterator[HTCondor]:
    """A running pool of two machines and one with two GPUs, one for all tests of a process."""
    pool = HTCondor(htcondor_programs)
    try:
        pool.start()
        yield pool
    finally:
        pool.remove()


@pytest.fixture
def htcondor(htcondor_pool: HTCondor, monkeypatch: pytest.MonkeyPatch) -> Iterator[HTCondor]:
    """That pool, found by HTCondor's commands while a test runs, with nothing in its queue and every machine up."""
    htcondor_pool.is_found(monkeypatch)
    yield htcondor_pool
    htcondor_pool.tidy()


@pytest.fixture
def htcondor_with(htcondor_programs: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., HTCondor]]:
    """Starts a pool of a test's own, with what it asks for; the commands find it from then on."""
    pools: list[HTCondor] = []

    def start(**wishes: Any) -> HTCondor:
        pools.append(HTCondor(htcondor_programs, **wishes))
        pools[-1].start()
        pools[-1].is_found(monkeypatch)
        return pools[-1]

    yield start
    for pool in pools:
        pool.remove()


if __name__ == "__main__":
    print(programs_of_htcondor())
