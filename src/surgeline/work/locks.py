"""Who holds the lock of a CASA table."""

from __future__ import annotations

import fcntl
import os
import struct
import time
from pathlib import Path

import psutil

from surgeline.errors import DataError

# struct flock on 64-bit Linux: type, whence, start, length, process.
_FLOCK = "hhqqi4x"


def lock_holder(table: Path) -> int | None:
    """The process that holds the read or write lock of a casacore table, or None where it is free.

    casacore locks the first byte of `table.lock` with fcntl; the second one only says that a table is open.
    Locks that this process holds itself do not show.
    """
    try:
        descriptor = os.open(table / "table.lock", os.O_RDONLY)
    except OSError:
        return None
    try:
        asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 1, 0)
        kind, _, _, _, process = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, asked))
    finally:
        os.close(descriptor)
    return None if kind == fcntl.F_UNLCK else int(process)


def wait_until_unlocked(table: Path, timeout: float) -> None:
    """Wait until no other process holds a table's lock.

    Raises:
        DataError: it was still held after `timeout` seconds; names the process.
    """
    deadline = time.monotonic() + timeout
    while (holder := lock_holder(table)) is not None:
        if time.monotonic() > deadline:
            raise DataError(
                f"{table} is locked by process {holder}{_called(holder)}",
                "end that process, or close the table in it, then run again",
            )
        time.sleep(0.1)


def _called(process: int) -> str:
    try:
        return f" ({' '.join(psutil.Process(process).cmdline())[:100]})"
    except (psutil.Error, ValueError):
        return " on another machine"
