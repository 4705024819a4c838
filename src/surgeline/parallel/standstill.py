"""Workers that stand still: stopped by a signal and never told to go on, or on a machine that says nothing any more.

A worker in the midst of a long call of CASA may say nothing for hours. So it is not the worker that is listened to,
but its nanny, a process of its own that never runs CASA: it sees whether the worker's process is stopped.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection
from contextlib import suppress
from dataclasses import dataclass, field

import psutil

# How often a nanny looks at its worker, and after how many looks it says that it is there when there is no news.
LOOK_SECONDS = 1.0
PULSE_LOOKS = 30
# Who looks later than this after the last time stood still itself, and does not know what others did meanwhile.
_LATEST_NANNY_SECONDS = 10.0
_LATEST_SESSION_SECONDS = 60.0
# When it is told of a worker that is stopped, and of one of which nothing is heard.
STOPPED_SECONDS = 10.0
SILENT_SECONDS = 3 * PULSE_LOOKS * LOOK_SECONDS


class Watched:
    """A process that somebody on its machine looks at: for how long it has been stopped, as far as that was seen."""

    def __init__(self) -> None:
        """None is looked at yet."""
        self.seconds = 0.0
        self._process: int | None = None
        self._looked = time.monotonic()

    def look(self, process: int | None) -> float:
        """Look at a process, given by its number; for how many seconds it has been stopped."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LATEST_NANNY_SECONDS), now
        stopped = process == self._process and process is not None and _is_stopped(process)
        self._process = process
        self.seconds = self.seconds + passed if stopped else 0.0
        return self.seconds


def _is_stopped(process: int) -> bool:
    """Whether a process is stopped by a signal; one that a debugger holds is not."""
    with suppress(psutil.Error):
        return bool(psutil.Process(process).status() == psutil.STATUS_STOPPED)
    return False


@dataclass
class Silence:
    """For how long nothing has been heard of workers, as far as the session itself did not stand still."""

    _seconds: dict[str, float] = field(default_factory=dict)
    _looked: float = field(default_factory=lambda: time.monotonic())

    def heard(self, address: str) -> None:
        """Something is heard of a worker."""
        self._seconds[address] = 0.0

    def look(self, addresses: Collection[str]) -> dict[str, float]:
        """The seconds for which nothing has been heard of each of these workers; others are forgotten."""
        now = time.monotonic()
        passed, self._looked = min(now - self._looked, _LATEST_SESSION_SECONDS), now
        self._seconds = {address: self._seconds.get(address, 0.0) + passed for address in addresses}
        return self._seconds


@dataclass
class Standstills:
    """Tells once of each worker that stands still, and says which of them do so for too long.

    Attributes:
        what: how they stand still, in words.
        patience: after so many seconds it is told.
        limit: after so many it is too long.
        tell: called with what a user wants to know.
    """

    what: str
    patience: float
    limit: float
    tell: Callable[[str], None]
    # Of whom it is told, and whether that they are ended, too.
    _told: dict[str, bool] = field(default_factory=dict)

    def hear(self, address: str, called: str, seconds: float, why: str = "") -> str:
        """Hear that a worker stands still, or goes on.

        Args:
            address: the worker's.
            called: what it is called, and what it does.
            seconds: for how long it has stood still.
            why: the reason, where that is known.

        Returns:
            when that is too long, how it is ended, in words; else nothing.
        """
        what = f"{self.what} for {seconds:.0f} s" + (f" ({why})" if why else "")
        over = seconds >= self.limit
        if seconds < min(self.patience, self.limit / 2):
            news = "it goes on" if address in self._told else ""
            self._told.pop(address, None)
        else:
            news = (
                ""
                if self._told.get(address) is over
                else what + ("; it is ended" if over else f"; after {self.limit:g} s it is ended")
            )
            self._told[address] = over
        if news:
            self.tell(f"{called}: {news}")
        return f"{what}, and ended" if over else ""
