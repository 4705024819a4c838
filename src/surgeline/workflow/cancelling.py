"""Ending the session of a working folder from outside, and taking what sessions left out of the queue."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TextIO

import psutil

from surgeline.clusters import cancelnote, undertaker
from surgeline.errors import ClusterError, SurgelineError, WorkfolderError
from surgeline.parallel.leftbehind import end_left_behind
from surgeline.paths import SessionPaths
from surgeline.workflow.workfolder import check_session

# How long a session may take to end its jobs and workers after it was told to.
PATIENCE_SECONDS = 60.0
# Workers of a session that was killed end by themselves in less.
_CHILDREN_SECONDS = 30.0
_PAUSE_SECONDS = 0.1
# Clocks of processes and of the lock differ by less.
_CLOCKS_DIFFER = 2.0


def cancel_session(paths: SessionPaths, tell: Callable[[str], None], patience: float = PATIENCE_SECONDS) -> None:
    """End the session that runs in a working folder, and take all its jobs out of the queue.

    Args:
        paths: the working folder's.
        tell: called with what was done.
        patience: seconds that the session is given to end by itself, before it is killed.

    Raises:
        WorkfolderError: the folder holds no session, or the session is on another machine or of another user.
        ClusterError: queue jobs could not be cancelled; those of other clusters were.
    """
    check_session(paths)
    with _free(paths, tell, patience) as ended:
        found = cancel_leftovers(paths, tell)
        if number := end_left_behind(paths.workdir):
            tell(f"{number} processes that jobs had left running are ended")
            found = True
    if not ended and not found:
        tell("no session runs there, and none has left anything in a queue")


def cancel_leftovers(paths: SessionPaths, tell: Callable[[str], None]) -> bool:
    """Take the queue jobs of sessions that were killed out of the queue; whether there may have been any.

    No session may run in the folder.

    Raises:
        ClusterError, WorkfolderError: some could not be cancelled; all others were.
    """
    notes = cancelnote.left_behind(paths.logs)
    failures: list[SurgelineError] = []
    for note in notes:
        try:
            note.cancel()
        except (ClusterError, WorkfolderError) as failure:
            failures.append(failure)
        else:
            tell(f"whatever a killed session had left in the queue of cluster {note.cluster!r} is cancelled")
    if failures:
        raise failures[0]
    return bool(notes)


@contextmanager
def _free(paths: SessionPaths, tell: Callable[[str], None], patience: float) -> Iterator[bool]:
    """A block in which no session runs in the folder; gives whether one had to be ended."""
    try:
        lock = paths.lock.open("r+", encoding="utf-8")
    except FileNotFoundError as error:
        raise WorkfolderError(f"no session has run in {paths.workdir}", "there is nothing to cancel") from error
    except OSError as error:
        raise WorkfolderError(
            f"{paths.lock} cannot be written: {error.strerror}", "have the owner of the session cancel it"
        ) from error
    with lock as file:
        ended = False
        # Who runs it under mpirun may start it again.
        while not _locked(file):
            _end_holder(paths, file, tell, patience)
            ended = True
        yield ended


def _locked(file: TextIO) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise WorkfolderError(
                f"{file.name} cannot be locked: {error.strerror}", "use a file system that has locks"
            ) from error
        return False
    return True


def _end_holder(paths: SessionPaths, file: TextIO, tell: Callable[[str], None], patience: float) -> None:
    process = _holder(paths)
    children = process.children(recursive=True)
    try:
        process.send_signal(signal.SIGTERM)
        tell(f"session of process {process.pid} is told to end")
        if _wait_for_lock(file, patience):
            return
        process.kill()
        tell(f"it had not ended after {patience:.0f} s, and is killed")
    except psutil.NoSuchProcess:
        _wait_for_lock(file, patience)
        return
    except psutil.AccessDenied as error:
        raise WorkfolderError(
            f"the session of process {process.pid} is of user {process.username()}", "have that user cancel it"
        ) from error
    _wait_for_lock(file, patience)
    # The one that takes its jobs out of the queue goes on as long as it needs.
    children = [child for child in children if not _is_undertaker(child)]
    _, left = psutil.wait_procs(children, timeout=_CHILDREN_SECONDS)
    for child in left:
        with suppress(psutil.NoSuchProcess):
            child.kill()


def _holder(paths: SessionPaths) -> psutil.Process:
    """The process that holds the lock of a working folder.

    Raises:
        WorkfolderError: it is on another machine, or cannot be found.
    """
    unknown = WorkfolderError(
        f"the working folder {paths.workdir} is held by a process that cannot be found",
        "try again; or end what runs there yourself",
    )
    try:
        said = json.loads(paths.lock.read_text(encoding="utf-8"))
        number, host, since = int(said["process"]), said["host"], float(said["since"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise unknown from error
    if host != socket.gethostname():
        raise WorkfolderError(
            f"the session of {paths.workdir} runs on {host}, as process {number}",
            f"cancel it there: ssh {host} surgeline cancel --workdir {paths.workdir}",
        )
    try:
        process = psutil.Process(number)
    except psutil.NoSuchProcess as error:
        raise unknown from error
    if number == os.getpid() or process.create_time() > since + _CLOCKS_DIFFER:
        raise unknown
    return process


def _wait_for_lock(file: TextIO, seconds: float) -> bool:
    """Wait until the holder of the lock has let it go; whether it has."""
    deadline = time.monotonic() + seconds
    while not _locked(file):
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE_SECONDS)
    return True


def _is_undertaker(process: psutil.Process) -> bool:
    with suppress(psutil.Error):
        return undertaker.__name__ in process.cmdline()
    return False
