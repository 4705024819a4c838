"""A small process that outlives a session which was killed, and takes the session's jobs out of the queue.

Run as `python -m surgeline.clusters.undertaker COMMAND…`, with a pipe from the session as its standard input.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from types import FrameType

_DONE = b"done\n"
# A scheduler that is away may be restarting; after so long nobody can say that it will come back.
_PATIENCE_SECONDS = 3600.0
_PAUSE_SECONDS = 10.0
# Asking again and again is not to keep a machine busy.
_LONGEST_PAUSE_SECONDS = 60.0
_COMMAND_SECONDS = 60.0


class Undertaker:
    """The session's side: start it before the first job is submitted, dismiss it when none is left."""

    def __init__(self, command: Sequence[str], environment: Mapping[str, str]) -> None:
        """Start it.

        Args:
            command: what takes all jobs of the session out of the queue.
            environment: the variables that it is run with.
        """
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__, *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=dict(environment),
            # What ends the session's terminal or group of processes is not to end it, too.
            start_new_session=True,
        )

    def dismiss(self, done: bool) -> None:
        """Have it end without doing anything, or, when not all is done, do its work by itself."""
        assert self._process.stdin is not None
        if done:
            self._process.communicate(_DONE)
        else:
            self._process.stdin.close()


def wait_and_bury(command: Sequence[str]) -> None:
    """Wait for the session to end; unless it says that nothing is left to be done, run the command."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # The job that the session runs in is being ended, with all of its processes.
    signal.signal(signal.SIGTERM, _told_to_end)
    try:
        said = sys.stdin.buffer.read()
    except _ToldToEnd:
        said = b""
    if said != _DONE:
        bury(command)
        # A submission that was under way when the session was killed may have come after that.
        time.sleep(_PAUSE_SECONDS)
        bury(command)


def bury(command: Sequence[str], patience: float = _PATIENCE_SECONDS) -> bool:
    """Run a command until it succeeds, or patience (in seconds) is over; whether it did."""
    deadline = time.monotonic() + patience
    pause = _PAUSE_SECONDS
    while True:
        try:
            if subprocess.run(command, capture_output=True, timeout=_COMMAND_SECONDS).returncode == 0:
                return True
        except (OSError, subprocess.TimeoutExpired):
            pass
        if time.monotonic() >= deadline:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


class _ToldToEnd(Exception):
    """A signal to end."""


def _told_to_end(_: int, __: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _ToldToEnd


if __name__ == "__main__":
    wait_and_bury(sys.argv[1:])
