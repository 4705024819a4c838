"""The Pipeline's context as jobs find it: one file for each version, which a worker reads once."""

from __future__ import annotations

import gc
import os
import pickle
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any

# Jobs of this stage, and of plots of the one before that are still under way.
_VERSIONS_KEPT = 2


@dataclass(frozen=True)
class Snapshot:
    """A context of one version, pickled in a file that workers can read.

    Attributes:
        path: the file.
        digest: of what is in it.
    """

    path: str
    digest: str

    @classmethod
    def of(cls, path: str) -> Snapshot:
        """The snapshot in a file; one that has not changed is not read again."""
        whole = str(Path(path).absolute())
        state = Path(whole).stat()
        return cls(whole, _digest(whole, state.st_ino, state.st_mtime_ns, state.st_size))

    def load(self) -> Any:
        """The context as it was, for a job to keep: what a job changes in it, no other finds changed.

        Raises:
            OSError: the file is not there, and this process has not read it before.
        """
        with _without_collection():
            return pickle.loads(content(self.path, self.digest))


def save(context: Any) -> Snapshot:
    """Take a snapshot of a context, beside what its tasks make; `remove` it when its jobs have ended."""
    # Not called `.context`: whoever goes on with the latest of these must not find a job's.
    handle, path = tempfile.mkstemp(prefix=".surgeline-", suffix=".snapshot", dir=Path(context.output_dir).absolute())
    os.close(handle)
    try:
        with _without_collection():
            context.save(path)
        return Snapshot.of(path)
    except BaseException:
        Path(path).unlink()
        raise


def remove(snapshot: Snapshot) -> None:
    """Remove the file of a snapshot."""
    Path(snapshot.path).unlink(missing_ok=True)


@lru_cache(maxsize=_VERSIONS_KEPT)
def content(path: str, digest: str) -> bytes:
    """What is in a snapshot; read once by a process for each version."""
    return Path(path).read_bytes()


@lru_cache(maxsize=_VERSIONS_KEPT)
def _digest(path: str, file: int, changed: int, size: int) -> str:
    return blake2b(Path(path).read_bytes(), digest_size=16).hexdigest()


@contextmanager
def _without_collection() -> Iterator[None]:
    """A block in which Python does not look for garbage, which costs more than to read and make many objects."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
