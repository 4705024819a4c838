"""What jobs start and leave on this machine: it has a mark, and ends with the session or before the next one."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

_VARIABLE = "SURGELINE_JOBS_OF"
_KILLING_SECONDS = 10.0
_LOOKING_SECONDS = 0.05


def mark_of(folder: Path) -> Mapping[str, str]:
    """The environment variables of processes in which a working folder's jobs run."""
    return {_VARIABLE: str(folder.resolve())}


@contextmanager
def marked(mark: Mapping[str, str]) -> Iterator[None]:
    """A block in which what this process starts has a mark, whatever becomes of its parents."""
    before = {name: os.environ.get(name) for name in mark}
    os.environ.update(mark)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def end_left_behind(folder: Path) -> int:
    """Kill what jobs of a working folder, in which none runs any more, have left; how many processes it was.

    Looks for processes of this user on this machine; where there is no /proc, none is found.
    """
    killed: set[int] = set()
    deadline = time.monotonic() + _KILLING_SECONDS
    while (left := _marked_processes(folder)) and time.monotonic() < deadline:
        for process in left:
            with suppress(ProcessLookupError, PermissionError):
                os.kill(process, signal.SIGKILL)
        killed.update(left)
        time.sleep(_LOOKING_SECONDS)
    return len(killed)


def _marked_processes(folder: Path) -> list[int]:
    sought = [f"{name}={value}".encode() for name, value in mark_of(folder).items()]
    found = []
    with suppress(OSError), os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            with suppress(OSError):
                if entry.stat().st_uid != os.geteuid():
                    continue
                # Of one that has ended, and whose end nobody has asked for yet, it is empty.
                variables = Path("/proc", entry.name, "environ").read_bytes().split(b"\0")
                if all(text in variables for text in sought):
                    found.append(int(entry.name))
    return found
