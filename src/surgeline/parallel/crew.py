"""The workers that are there, what each can take, and which of them is best for a job."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field

from surgeline.work.resources import Resources

# A job is not started where less than its expected time, and so much more, is left.
_MARGIN = 1.2
_MARGIN_SECONDS = 2.0
# With so much of its walltime left no other worker of its class would be better.
_FRESH = 0.9
# Of so many kinds of jobs it is remembered who had the last one.
_MOST_REMEMBERED = 10_000


@dataclass
class Worker:
    """One worker process, which has one job at a time.

    Attributes:
        address: where Dask reaches it.
        name: what it is called; one that replaces it in the same place has the same name and another address.
        kind: the worker class that it is of.
        offers: what it gives to a job.
        ends: when its walltime is over, by this process's monotonic clock; None where there is no end.
        busy: the key of what it was given; None while it is idle.
        idle_since: since when it is idle, by the monotonic clock.
        leaving: it is given nothing any more.
        stopped: its process stands still, and it is given nothing until it goes on.
    """

    address: str
    name: str
    kind: str
    offers: Resources
    ends: float | None = None
    busy: str | None = None
    idle_since: float = field(default_factory=time.monotonic)
    leaving: bool = False
    stopped: bool = False

    def time_left(self) -> float | None:
        """Seconds until its walltime is over; None where there is no end."""
        return None if self.ends is None else self.ends - time.monotonic()

    def lasts(self, seconds: float | None) -> bool:
        """Whether a job that is expected to run so long ends before the worker does; a fresh one is tried anyway."""
        left = self.time_left()
        if left is None:
            return True
        fresh = left > _FRESH * (self.offers.walltime or 0)
        return fresh or left > (seconds or 0.0) * _MARGIN + _MARGIN_SECONDS


class Crew:
    """All workers of a cluster. Not safe for threads: whoever has it has a lock."""

    def __init__(self) -> None:
        self._workers: dict[str, Worker] = {}
        # Which worker last had a job that is best run where the one before it was.
        self._last: dict[str, str] = {}

    def __len__(self) -> int:
        return len(self._workers)

    def __iter__(self) -> Iterator[Worker]:
        return iter(self._workers.values())

    def __contains__(self, address: str) -> bool:
        return address in self._workers

    def join(self, worker: Worker) -> None:
        """A worker has come; one that is known stays what it is."""
        self._workers.setdefault(worker.address, worker)

    def find(self, address: str) -> Worker | None:
        """The worker of that address, if it is there."""
        return self._workers.get(address)

    def leave(self, address: str) -> Worker | None:
        """A worker is gone."""
        return self._workers.pop(address, None)

    def idle(self) -> list[Worker]:
        """The workers that have nothing to do and may be given something."""
        return [
            worker
            for worker in self._workers.values()
            if worker.busy is None and not worker.leaving and not worker.stopped
        ]

    def last(self, near: str) -> Worker | None:
        """The worker that had the last job of this name, if it is still there."""
        return self._workers.get(self._last.get(near, ""))

    def take(
        self,
        key: str,
        asked: Resources,
        seconds: float | None,
        avoid: Collection[str] = (),
        number: int = 1,
        near: str = "",
    ) -> list[str]:
        """Give idle workers something to do: the smallest that fits, and others beside it when one is not enough.

        Args:
            key: what they are given.
            asked: what one of them has to offer.
            seconds: how long it is expected to take, where that is known.
            avoid: names of workers to be taken only if there are no others.
            number: how many are needed.
            near: what they are given is best done where what was called the same was done last.

        Returns:
            Their addresses; none when there are not enough.
        """
        fit = [worker for worker in self.idle() if asked.fits(worker.offers) and worker.lasts(seconds)]
        if len(fit) < number:
            return []
        if number < len(fit):
            last = self._last.get(near)
            fit.sort(key=lambda worker: (worker.name in avoid, worker.address != last, *_size(worker.offers)))
        for worker in fit[:number]:
            worker.busy = key
        if near:
            # The latest ones stand last.
            self._last.pop(near, None)
            self._last[near] = fit[0].address
            if len(self._last) > _MOST_REMEMBERED:
                del self._last[next(iter(self._last))]
        return [worker.address for worker in fit[:number]]

    def give_back(self, addresses: Collection[str]) -> None:
        """These have nothing to do any more, as far as they are still there."""
        for address in addresses:
            if worker := self._workers.get(address):
                worker.busy, worker.idle_since = None, time.monotonic()


def _size(offers: Resources) -> tuple[float, ...]:
    return (offers.gpus, offers.memory or float("inf"), offers.cores)
