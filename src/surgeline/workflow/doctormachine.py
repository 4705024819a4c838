"""This machine and the working folder's file system, as `surgeline doctor` finds them."""

from __future__ import annotations

import ipaddress
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import psutil

from surgeline.clusters.scheduler import address_for_workers
from surgeline.errors import ClusterError
from surgeline.work.allowance import allowance
from surgeline.work.environment import gpus_here
from surgeline.workflow.finding import Finding, judged

_LEAST_FREE_GIGABYTES = 5.0
_LEAST_AVAILABLE_GIGABYTES = 1.0
_LEAST_OPEN_FILES = 1024
# Another process tries to take the locks of both kinds: CASA's tables have the first, working folders the second.
_TRY_LOCKS = """
import fcntl, sys
for name in ("lockf", "flock"):
    with open(sys.argv[1], "r+") as file:
        try:
            getattr(fcntl, name)(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            print(name)
        except OSError:
            pass
"""
_LOCK_SECONDS = 20


def examine_machine() -> Iterator[Finding]:
    """Examine cores, memory, GPUs, the limit of open files, and the network that workers elsewhere would use."""
    allowed = allowance()
    yield Finding("cores", "ok", f"{allowed.cores} by {allowed.cores_by}")
    available = psutil.virtual_memory().available
    limit = f"{allowed.memory / 1e9:.1f} GB by {allowed.memory_by}" if allowed.memory else "no limit is known"
    told = f"{limit}, of which {min(available, allowed.memory or available) / 1e9:.1f} GB are free now"
    if available > _LEAST_AVAILABLE_GIGABYTES * 1e9:
        yield Finding("memory", "ok", told)
    else:
        yield Finding("memory", "warning", told, "end other programs, or start fewer workers: --set dask.n_workers=1")
    yield _gpus()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield judged("open files", soft >= _LEAST_OPEN_FILES, f"at most {soft}", _more_files(hard))
    yield _interface()


def examine_folder(workdir: Path) -> Iterator[Finding]:
    """Examine whether the working folder can be written, holds locks between processes, and has room."""
    folder = workdir.absolute()
    try:
        folder = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".surgeline-") as file:
            yield Finding("working folder", "ok", f"{folder} can be written")
            yield _locks(Path(file.name), folder)
    except OSError as error:
        yield Finding(
            "working folder", "bad", f"{folder} cannot be written: {error.strerror}", "give another with --workdir"
        )
        return
    free = shutil.disk_usage(folder).free / 1e9
    yield judged(
        "disk",
        free > _LEAST_FREE_GIGABYTES,
        f"{free:.0f} GB free at {folder}",
        "free some, or give another --workdir",
    )


def _locks(path: Path, folder: Path) -> Finding:
    """Whether a lock of one process keeps another out."""
    import fcntl

    kind, options = _file_system(folder)
    what, where = "file locks", f"on the file system of {folder} ({kind})"
    try:
        with path.open("r+b") as by_record, path.open("r+b") as whole:
            fcntl.lockf(by_record, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(whole, fcntl.LOCK_EX | fcntl.LOCK_NB)
            command = [sys.executable, "-c", _TRY_LOCKS, str(path)]
            taken = subprocess.run(command, capture_output=True, text=True, timeout=_LOCK_SECONDS).stdout.split()
    except (OSError, subprocess.TimeoutExpired) as error:
        problem = f"cannot be taken {where}: {error}"
        return Finding(what, "bad", problem, "use another --workdir; mount Lustre with the option flock")
    if taken:
        problem = f"of kind {' and '.join(taken)} do not keep other processes out {where}"
        return Finding(what, "bad", problem, "two sessions could write at once: use another --workdir")
    if "localflock" in options:
        problem = f"hold between processes of one machine only {where}, which is mounted with localflock"
        return Finding(
            what, "warning", problem, "do not start sessions of one folder on two machines; or mount with flock"
        )
    return Finding(what, "ok", f"keep other processes out {where}")


def _file_system(folder: Path) -> tuple[str, str]:
    """The kind of the file system that a folder is on, and the options of its mount."""
    mounts = [(part.mountpoint, part.fstype, part.opts) for part in psutil.disk_partitions(all=True)]
    within = [mount for mount in mounts if folder.resolve().is_relative_to(mount[0])]
    _, kind, options = max(within, key=lambda mount: len(mount[0]), default=("", "unknown", ""))
    return kind, options


def _more_files(hard: int) -> str:
    if hard >= _LEAST_OPEN_FILES or hard == resource.RLIM_INFINITY:
        return f"ulimit -n {_LEAST_OPEN_FILES}"
    return f"have the administrator allow more than {hard} (nofile in /etc/security/limits.conf)"


def _gpus() -> Finding:
    devices = gpus_here(os.environ, Path("/"))
    if not devices:
        return Finding("GPU", "not here", "none; imaging runs on CPUs")
    told = f"{len(devices)}: {', '.join(devices)}"
    missing = [name for name in ("torch", "triton") if find_spec(name) is None]
    if missing:
        return Finding(
            "GPU", "warning", f"{told}, not used without {', '.join(missing)}", "pip install 'surgeline[gpu]'"
        )
    return Finding("GPU", "ok", told)


def _interface() -> Finding:
    """Where workers on other machines would look for a session, unless their cluster names a host or an interface."""
    what = "network interface"
    try:
        address = address_for_workers(None, None)
    except ClusterError as error:
        return Finding(what, "not here", f"{error.message}; workers on this machine need none")
    if ipaddress.ip_address(address).is_loopback:
        return Finding(what, "not here", "this machine has no network; its own workers need none")
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(found.family == socket.AF_INET and found.address == address for found in addresses)
    ]
    where = f" ({', '.join(names)})" if names else ""
    return Finding(what, "ok", f"workers on other machines would look for the session at {address}{where}")
