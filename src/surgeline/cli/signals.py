"""What Ctrl-C, the end of a terminal and SIGTERM do to a session."""

from __future__ import annotations

import shlex
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from surgeline.errors import Interrupted

# How long what a signal raises may be on its way before the session is told to stop by other means.
_SWALLOWED_SECONDS = 5.0


class Signals:
    """Those signals that end a session, and the one that came."""

    def __init__(self) -> None:
        self.number: int | None = None
        self._stop: Callable[[], None] | None = None
        self._again: threading.Timer | None = None

    def stop_by(self, stop: Callable[[], None]) -> None:
        """Say how the session is told to stop, from any thread; at once, if a signal has come."""
        self._stop = stop
        if self.number is not None:
            raise _Stopped(self.number)

    def come(self, number: int) -> None:
        """Note that one came. Where what it raises is swallowed, by a library that is being loaded or in the midst of
        a collection of garbage, the session is told to stop all the same."""
        self.number = number
        self._again = threading.Timer(_SWALLOWED_SECONDS, lambda: self._stop and self._stop())
        self._again.daemon = True
        self._again.start()

    def over(self) -> None:
        """The session has ended."""
        if self._again is not None:
            self._again.cancel()


@contextmanager
def signals_interrupt(workdir: Path, stopping: Callable[[], None]) -> Iterator[Signals]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into an Interrupted; further ones wait until all is closed.

    Args:
        workdir: the working folder, for the way to go on.
        stopping: called when the first of them comes.
    """
    # nohup has the end of a terminal ignored.
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    signals = Signals()

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        stopping()
        signals.come(number)
        raise _Stopped(number)

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield signals
    except _Stopped as stop:
        raise stop.told(workdir) from None
    except Interrupted:
        if signals.number is None:
            raise
        raise _Stopped(signals.number).told(workdir) from None
    finally:
        signals.over()
        for number, handler in before.items():
            signal.signal(number, handler)


_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Stopped(BaseException):
    """Raised in the main thread by a signal; not an Exception, so that nothing on its way takes it for one."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number

    def __str__(self) -> str:
        return f"stopped by {signal.Signals(self.number).name}"

    def told(self, workdir: Path) -> Interrupted:
        command = f"surgeline resume --workdir {shlex.quote(str(workdir))}"
        error = Interrupted(f"{self}; what had finished is kept", f"go on with: {command}")
        error.exit_code = 128 + self.number  # type: ignore[misc]  # as shells have it
        return error
