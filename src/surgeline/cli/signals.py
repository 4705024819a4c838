"""What Ctrl-C, the end of a terminal and SIGTERM do to a session."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from surgeline.errors import Interrupted


@contextmanager
def signals_interrupt(workdir: Path, stopping: Callable[[], None]) -> Iterator[None]:
    """Turn the first SIGINT, SIGTERM or SIGHUP into an Interrupted; further ones wait until all is closed.

    Args:
        workdir: the working folder, for the way to go on.
        stopping: called when the first of them comes.
    """
    # nohup has the end of a terminal ignored.
    numbers = [number for number in _SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]

    def interrupt(number: int, _frame: FrameType | None) -> None:
        for other in numbers:
            signal.signal(other, signal.SIG_IGN)
        stopping()
        raise _Stopped(number)

    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    except _Stopped as stop:
        raise stop.told(workdir) from None
    finally:
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
