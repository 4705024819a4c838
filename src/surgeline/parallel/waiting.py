"""Jobs that wait for a worker: in the order added, and those that ask for the same in one line."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import count

from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss
from surgeline.work.resources import Resources
from surgeline.work.taskqueue import Deliver


@dataclass
class Pending:
    """A job whose outcome has not been delivered yet.

    Attributes:
        ticket: what its submitter knows it by.
        pickled: the job, as it travels.
        deliver: called with its outcome.
        resources: what a worker has to offer for it: what it declares, and what is known of its like.
        seconds: how long it is expected to run, where that is known.
        blamed: how many of the losses it may itself be the cause of.
        avoid: names of workers that died running it; it goes elsewhere where it can.
    """

    ticket: str
    job: Job
    pickled: bytes
    deliver: Deliver
    resources: Resources = field(default_factory=Resources)
    seconds: float | None = None
    losses: list[Loss] = field(default_factory=list)
    blamed: int = 0
    avoid: set[str] = field(default_factory=set)
    cancelled: bool = False
    order: int = 0


# Jobs of one line are alike to workers: whichever of them can take one can take the next.
_Line = tuple[Resources, bool, frozenset[str]]


class WaitingJobs:
    """Lines of jobs. Not safe for threads: whoever has it has a lock."""

    def __init__(self) -> None:
        self._lines: dict[_Line, deque[Pending]] = {}
        self._later = count(1)
        self._sooner = count(-1, -1)

    def __len__(self) -> int:
        return sum(map(len, self._lines.values()))

    def __iter__(self) -> Iterator[Pending]:
        return (pending for line in self._lines.values() for pending in line)

    def add(self, pending: Pending) -> None:
        """Put a job behind all others."""
        pending.order = next(self._later)
        self._line(pending).append(pending)

    def put_first(self, jobs: Iterable[Pending]) -> None:
        """Put jobs before all others, in the order given."""
        for pending in reversed(list(jobs)):
            pending.order = next(self._sooner)
            self._line(pending).appendleft(pending)

    def heads(self) -> list[Pending]:
        """The first of each line, in the order added."""
        if len(self._lines) == 1:
            return [line[0] for line in self._lines.values()]
        return sorted((line[0] for line in self._lines.values()), key=lambda pending: pending.order)

    def behind(self, head: Pending) -> int:
        """How many jobs stand in the line of a head, itself included."""
        return len(self._lines[_line_of(head)])

    def pop(self, head: Pending, also: Callable[[Pending], bool] = lambda _: False, most: int = 1) -> list[Pending]:
        """Take the head of a line, and up to `most` in all of those right behind it that go with it."""
        key = _line_of(head)
        line = self._lines[key]
        taken = [line.popleft()]
        while line and len(taken) < most and also(line[0]):
            taken.append(line.popleft())
        if not line:
            del self._lines[key]
        return taken

    def drop(self, chosen: Callable[[Pending], bool]) -> list[Pending]:
        """Take out the jobs that are chosen."""
        dropped: list[Pending] = []
        for key, line in list(self._lines.items()):
            kept = deque(pending for pending in line if not chosen(pending))
            if len(kept) < len(line):
                dropped += [pending for pending in line if chosen(pending)]
                self._lines[key] = kept
            if not kept:
                del self._lines[key]
        return sorted(dropped, key=lambda pending: pending.order)

    def _line(self, pending: Pending) -> deque[Pending]:
        return self._lines.setdefault(_line_of(pending), deque())


def _line_of(pending: Pending) -> _Line:
    return pending.resources, pending.job.declared.mpi, frozenset(pending.avoid)
