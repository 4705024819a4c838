"""Processes below this one: that they end when it does, and that none is left."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress

import psutil

_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36
_KILLING_SECONDS = 10.0


def ends_with_parent(by: signal.Signals = signal.SIGTERM) -> Callable[[], None]:
    """For a child to call when it begins, as Popen's preexec_fn: it gets a signal when this process is gone.

    Linux sends it at the end of the thread that started the child, and again at that of each thread left. mpirun
    takes a second signal for impatience and leaves its ranks behind; so this process has to have one thread only.
    """
    parent = os.getpid()
    if sys.platform != "linux":
        return lambda: None
    libc = ctypes.CDLL(None)

    def arrange() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, by)
        if os.getppid() != parent:  # it was gone already
            os._exit(1)

    return arrange


@contextmanager
def adopted_orphans() -> Iterator[None]:
    """While this holds, a descendant whose parent is gone becomes a child of this process, so that none gets lost."""
    if sys.platform != "linux":
        yield
        return
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    try:
        yield
    finally:
        libc.prctl(_PR_SET_CHILD_SUBREAPER, 0)


def kill_descendants(spared: Collection[psutil.Process]) -> None:
    """Kill every process below this one but those spared, and those that show up when their parents are gone."""
    deadline = time.monotonic() + _KILLING_SECONDS
    this = psutil.Process()
    while (left := [child for child in this.children(recursive=True) if child not in spared]) and (
        time.monotonic() < deadline
    ):
        for child in left:
            with suppress(psutil.NoSuchProcess):
                child.kill()
        psutil.wait_procs(left, timeout=1)
