"""The working folder: made, checked, and held by one session at a time."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
import socket
import time
from pathlib import Path
from typing import Any, TextIO

from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.work.casapaths import check_folder
from surgeline.work.privatefiles import PrivateFiles

_LEAST_FREE_BYTES = 50_000_000


class WorkfolderLock:
    """Holds a working folder for this process, until it is released or the process ends, however it ends."""

    def __init__(self, paths: SessionPaths, private: bool = True) -> None:
        """Make the folder and take its lock.

        Args:
            paths: the folder's.
            private: whether it, if there was none, and all that this process makes while it holds it, is for nobody
                else; otherwise as this process's own mask says.

        Raises:
            WorkfolderError: it cannot be written, is full, no place for CASA to work, or held by another session.
        """
        check_folder(paths.workdir)
        self._private = PrivateFiles() if private else None
        try:
            self._take(paths)
        except BaseException:
            self._end_privacy()
            raise

    def _take(self, paths: SessionPaths) -> None:
        try:
            paths.workdir.mkdir(parents=True, exist_ok=True)
            self._file: TextIO = paths.lock.open("a+", encoding="utf-8")
        except OSError as error:
            raise WorkfolderError(
                f"the working folder {paths.workdir} cannot be written: {error.strerror}",
                "give another with --workdir, or change its permissions",
            ) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            self._file.close()
            if error.errno not in (errno.EAGAIN, errno.EACCES):
                raise WorkfolderError(
                    f"{paths.lock} cannot be locked: {error.strerror}", "use a file system that has locks"
                ) from error
            raise WorkfolderError(
                f"the working folder {paths.workdir} belongs to {_holder(paths)}, which is still running",
                "wait for it, stop it, or give another folder with --workdir",
            ) from error
        free = shutil.disk_usage(paths.workdir).free
        if free < _LEAST_FREE_BYTES:
            self.release()
            raise disk_full(paths.workdir)
        self._file.seek(0)
        self._file.truncate()
        json.dump({"process": os.getpid(), "host": socket.gethostname(), "since": time.time()}, self._file)
        self._file.flush()

    def release(self) -> None:
        """Let another session have the folder."""
        self._file.close()
        self._end_privacy()

    def _end_privacy(self) -> None:
        if self._private is not None:
            self._private.end()


def check_session(paths: SessionPaths) -> None:
    """See that a folder holds a session.

    Raises:
        WorkfolderError: it does not, or cannot be looked into.
    """
    workdir = paths.workdir
    try:
        # A recipe alone may be one that somebody is about to run.
        if any(path.exists() for path in (paths.record, paths.lock, paths.context, paths.identifier)):
            return
        there = workdir.is_dir()
        beside = _sessions_in(workdir if there else workdir.parent)
    except OSError as error:
        raise WorkfolderError(
            f"{workdir} cannot be read: {error.strerror}", "have its owner let you read it, or name another folder"
        ) from error
    problem = f"{workdir} holds no session" if there else f"there is no folder {workdir}"
    names = ", ".join(os.path.relpath(path) for path in beside)
    found = f"sessions are in: {names}" if beside else "begin one: surgeline run RECIPE --vis …"
    raise WorkfolderError(problem, f"name a session's working folder: --workdir …; {found}")


def read_record(paths: SessionPaths) -> dict[str, Any]:
    """What run.json says, as it stands there; empty where a session has left none yet.

    Raises:
        WorkfolderError: it cannot be read, or is no record.
    """
    try:
        content = json.loads(paths.record.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise WorkfolderError(
            f"{paths.record} cannot be read: {error.strerror}", "have its owner let you read it"
        ) from error
    except ValueError:
        content = None
    if not isinstance(content, dict) or not isinstance(content.get("stages"), list):
        raise WorkfolderError(
            f"{paths.record} is damaged, or not of this version of Surgeline",
            f"what had finished is in the context and not lost: surgeline resume --workdir {paths.workdir}",
        )
    return content


def _sessions_in(folder: Path) -> list[Path]:
    """Some folders within one that hold sessions."""
    try:
        return sorted(path.parent for path in folder.glob("*/run.json"))[:5]
    except OSError:
        return []


def disk_full(workdir: Path, met: str = "") -> WorkfolderError:
    """The error for a full disk, and what met it there; what had finished is kept."""
    free = shutil.disk_usage(workdir).free
    return WorkfolderError(
        f"the disk of {workdir} is full: {free / 1e6:.0f} MB are left" + (f" ({met})" if met else ""),
        f"free some space, then: surgeline resume --workdir {workdir}",
    )


def is_full(workdir: Path) -> bool:
    """Whether what is left of the disk would not hold another table."""
    return shutil.disk_usage(workdir).free < 1_000_000


def _holder(paths: SessionPaths) -> str:
    try:
        holder = json.loads(paths.lock.read_text(encoding="utf-8"))
        return f"a session of process {holder['process']} on {holder['host']}"
    except (OSError, ValueError, KeyError):
        return "another session"
