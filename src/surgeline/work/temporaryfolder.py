"""A temporary folder that does not stay when its process is killed: the next one of its user removes it."""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from contextlib import suppress
from pathlib import Path


class TemporaryFolder:
    """A folder of this process alone, locked for as long as that lives."""

    def __init__(self) -> None:
        """Make it; those that processes of this user left when they were killed are removed."""
        _remove_left()
        made = Path(tempfile.mkdtemp(prefix=f".{_beginning()}"))
        self._lock: int | None = os.open(made, os.O_RDONLY)
        with suppress(OSError):
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Nobody finds it by this name before it is locked.
        self.path = made.rename(made.with_name(made.name.removeprefix(".")))

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> None:
        """Take it away, with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None


def _beginning() -> str:
    """How the names of these folders begin; machines that share a disk may not see each other's locks."""
    return f"surgeline-{socket.gethostname()}-{os.getuid()}-"


def _remove_left() -> None:
    for folder in Path(tempfile.gettempdir()).glob(f"{_beginning()}*"):
        # Somebody else's, or gone meanwhile, or on a file system without locks.
        with suppress(OSError):
            descriptor = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(descriptor)
