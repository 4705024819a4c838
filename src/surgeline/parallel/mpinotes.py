"""What the client of an MPI job tells its supervisor, by files: that the session has begun, what runs, how it ended.

The exit code of mpirun does not tell: it is 1 when any rank exited without MPI_Finalize, whatever the session did.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.errors import ClusterError

NOTES_VARIABLE = "SURGELINE_MPI_NOTES"
_RANK_VARIABLE = "OMPI_COMM_WORLD_RANK"
_BEGUN = "begun.json"
_ENDING = "ending.json"
_RUNNING = "running-{}.json"

# Where this process leaves its notes; None where nobody waits for them.
_folder: Path | None = None


def find_supervisor() -> None:
    """Find out whether a supervisor waits for notes of this process; called before all else.

    Only rank 0 leaves notes. What tells where is taken out of the environment: children are not to speak for it.
    """
    global _folder
    folder = os.environ.pop(NOTES_VARIABLE, "")
    _folder = Path(folder) if folder and os.environ.get(_RANK_VARIABLE) == "0" else None


def tell_begun() -> None:
    """Tell the supervisor, where there is one, that the session has begun: from now on a restart goes on with it.

    Raises:
        ClusterError: the supervisor's folder is not there.
    """
    if _folder is None or (_folder / _BEGUN).exists():
        return
    try:
        _write(_folder / _BEGUN, {"pid": os.getpid(), "host": socket.gethostname()})
    except OSError as error:
        raise ClusterError(
            f"{_folder} on {socket.gethostname()}, where `surgeline mpirun` looks for notes of the session, "
            f"cannot be written: {error.strerror}",
            "set TMPDIR to a folder that all hosts share",
        ) from error


def tell_running(rank: int, jobs: str | None) -> None:
    """Tell the supervisor, where there is one, which jobs a server has now, or that it has none."""
    if _folder is None:
        return
    # A note that cannot be written costs a word in a message, and is no reason to stop.
    with suppress(OSError):
        path = _folder / _RUNNING.format(rank)
        if jobs is None:
            path.unlink()
        else:
            _write(path, {"jobs": jobs})


def tell_ending(code: int) -> None:
    """Tell the supervisor, where there is one, the exit code with which the session ends now."""
    if _folder is None:
        return
    try:
        _write(_folder / _ENDING, {"code": code})
    except OSError as error:
        # This process is about to exit, and has to.
        print(f"surgeline: its exit code {code} could not be told to `surgeline mpirun`: {error}", file=sys.stderr)


@dataclass(frozen=True)
class Notes:
    """The notes as their reader sees them, in a folder that was empty when the job started."""

    folder: Path

    @property
    def begun(self) -> bool:
        return (self.folder / _BEGUN).exists()

    @property
    def client(self) -> int | None:
        """The process of rank 0, where it has begun and runs on this host."""
        told = _read(self.folder / _BEGUN)
        return int(told["pid"]) if told and told["host"] == socket.gethostname() else None

    def running(self) -> dict[int, str]:
        """By rank, the jobs that servers had last."""
        found = {}
        for path in self.folder.glob(_RUNNING.format("*")):
            if told := _read(path):
                found[int(path.stem.removeprefix("running-"))] = str(told["jobs"])
        return found

    @property
    def code(self) -> int | None:
        """The session's exit code, or None while it has not ended."""
        told = _read(self.folder / _ENDING)
        return int(told["code"]) if told else None


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    return content


def _write(path: Path, content: dict[str, Any]) -> None:
    """Write a note so that its reader sees all of it or nothing."""
    unfinished = path.with_suffix(f".{threading.get_ident()}")
    unfinished.write_text(json.dumps(content), encoding="utf-8")
    unfinished.replace(path)
