"""Looks at the queues in which workers wait, and tells which stages wait for them, why, and when they come."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from surgeline.clusters.fleet import Berth
from surgeline.errors import ClusterError
from surgeline.work.jobs import Job
from surgeline.work.resources import Resources
from surgeline.work.taskqueue import Backend

if TYPE_CHECKING:
    from surgeline.clusters.fleet import Fleet
    from surgeline.parallel.batchworkers import BatchWorkers
    from surgeline.parallel.workforce import Workforce

_LOOK_SECONDS = 1.0
# The scheduler is asked for reasons at length when a wait gets long, and then not often.
_EXPLAIN_AFTER_SECONDS = 10.0
_EXPLAIN_AGAIN_SECONDS = 60.0
# Workers of a class that come within so many seconds are told of together.
_TOGETHER_SECONDS = 3.0


@dataclass(frozen=True)
class Wait:
    """Workers of a class that wait in a queue, and for which stages' jobs wait.

    Attributes:
        cluster: the cluster, as the configuration names it.
        kind: the worker class.
        workers: how many wait.
        since: since when (Unix time).
        reason: why, in the scheduler's words; empty where it does not say.
        explanation: the same at length, where that was asked for.
        stages: those whose jobs wait for such workers.
    """

    cluster: str
    kind: str
    workers: int
    since: float
    reason: str
    explanation: str
    stages: tuple[str, ...]

    @property
    def seconds(self) -> float:
        return max(0.0, time.time() - self.since)

    def __str__(self) -> str:
        why = self.explanation or self.reason
        told = f"{workers_in_words(self.workers, self.kind, self.cluster)} in the queue for {self.seconds:.0f} s"
        return f"{told}: {why}" if why else told


@dataclass(frozen=True)
class Arrival:
    """Workers of a class that came: how many, and the longest time that one of them had been in the queue."""

    cluster: str
    kind: str
    workers: int
    queued: float

    def __str__(self) -> str:
        came = f"{workers_in_words(self.workers, self.kind, self.cluster)} came"
        return f"{came} after {self.queued:.0f} s in the queue"


def workers_in_words(number: int, kind: str, cluster: str) -> str:
    """As in a sentence: 2 workers of class 'small' of cluster 'slurm'."""
    return f"{number} worker{'s' if number != 1 else ''} of class {kind!r} of cluster {cluster!r}"


class Arrivals:
    """Puts together those workers of a cluster that come at about the same time."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._told: set[str] = set()

    def look(self, berths: Iterable[Berth], now: float) -> list[Arrival]:
        """Those that came since the last look, as soon as no other of their class is about to."""
        by_kind: dict[str, list[Berth]] = defaultdict(list)
        about_to_come = set()
        for berth in berths:
            if berth.came is not None and berth.identifier not in self._told:
                by_kind[berth.kind].append(berth)
            elif berth.came is None and berth.alive:
                about_to_come.add(berth.kind)
        found = []
        for kind, came in by_kind.items():
            if kind in about_to_come and now - min(b.came or now for b in came) < _TOGETHER_SECONDS:
                continue
            self._told.update(berth.identifier for berth in came)
            queued = max((b.started or b.submitted) - b.submitted for b in came)
            found.append(Arrival(self._cluster, kind, len(came), queued))
        return found


@dataclass
class _Explained:
    """The reason at length that the scheduler gave, when, and what it was in short."""

    text: str
    when: float
    reason: str


@dataclass
class _Waiting:
    """A job that has not ended, where it was put, and what it asks for."""

    cluster: str
    asked: Resources
    backend: Backend = field(repr=False)


class QueueWatch:
    """Watches the clusters with a queue of a session, in a thread of its own.

    Those who listen are told each second which workers wait, as long as there are any that a stage waits for, and
    once when there are none any more; and how many workers each cluster has, whenever that has changed.
    """

    def __init__(
        self,
        clusters: Mapping[str, BatchWorkers],
        waits: Callable[[Sequence[Wait]], None],
        came: Callable[[Arrival], None],
        workforce: Callable[[], Sequence[Workforce]],
        counted: Callable[[Sequence[Workforce]], None],
    ) -> None:
        """Prepare.

        Args:
            clusters: the clusters with a queue that are open, by name; more may be opened later.
            waits: told who waits.
            came: told who came.
            workforce: counts the workers of each cluster, of those without a queue, too.
            counted: told what it counted.
        """
        self._clusters = clusters
        self._tell_waits = waits
        self._tell_came = came
        self._workforce = workforce
        self._tell_counted = counted
        self._last_counted: Sequence[Workforce] = ()
        self._lock = threading.Lock()
        self._jobs: dict[str, dict[str, _Waiting]] = defaultdict(dict)
        self._arrivals: dict[str, Arrivals] = {}
        self._explained: dict[tuple[str, str], _Explained] = {}
        self._someone_waits = False
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="queue-watch", daemon=True)

    def start(self) -> None:
        """Begin to look."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._end.set()
        if self._thread.ident is not None:
            self._thread.join()

    def job_added(self, stage: str, cluster: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has a job more."""
        with self._lock:
            self._jobs[stage][ticket] = _Waiting(cluster, job.declared.resources, backend)

    def job_ended(self, stage: str, ticket: str) -> None:
        """A job of a stage has ended."""
        with self._lock:
            self._jobs[stage].pop(ticket, None)

    def _watch(self) -> None:
        while not self._end.wait(_LOOK_SECONDS):
            self._look()

    def _look(self) -> None:
        found = []
        for name, workers in list(self._clusters.items()):
            berths = workers.fleet.berths()
            for arrival in self._arrivals.setdefault(name, Arrivals(name)).look(berths, time.time()):
                self._tell_came(arrival)
            found += self._waits(name, workers.fleet, berths)
        if found or self._someone_waits:
            self._tell_waits(found)
        self._someone_waits = bool(found)
        counted = self._workforce()
        if counted != self._last_counted:
            self._last_counted = counted
            self._tell_counted(counted)

    def _waits(self, cluster: str, fleet: Fleet, berths: Sequence[Berth]) -> list[Wait]:
        by_kind: dict[str, list[Berth]] = defaultdict(list)
        for berth in berths:
            if berth.alive and berth.state == "waiting":
                by_kind[berth.kind].append(berth)
        found = []
        for kind, waiting in by_kind.items():
            # Others were asked for ahead of need.
            if stages := self._waiting_for(cluster, fleet.classes[kind].offers):
                since = min(berth.submitted for berth in waiting)
                reason = fleet.reason(kind)
                long = self._explanation(cluster, kind, fleet, reason) if self._is_long(since) else ""
                found.append(Wait(cluster, kind, len(waiting), since, reason, long, stages))
        return found

    @staticmethod
    def _is_long(since: float) -> bool:
        return time.time() - since > _EXPLAIN_AFTER_SECONDS

    def _waiting_for(self, cluster: str, offers: Resources) -> tuple[str, ...]:
        """The stages of which a job waits that fits such workers."""
        with self._lock:
            jobs = [(stage, list(of_stage.items())) for stage, of_stage in self._jobs.items()]
        return tuple(
            stage
            for stage, of_stage in jobs
            if any(
                job.cluster == cluster and job.asked.fits(offers) and not job.backend.running(ticket)
                for ticket, job in of_stage
            )
        )

    def _explanation(self, cluster: str, kind: str, fleet: Fleet, reason: str) -> str:
        known = self._explained.get((cluster, kind))
        now = time.monotonic()
        if known is None or known.reason != reason or now - known.when > _EXPLAIN_AGAIN_SECONDS:
            try:
                text = fleet.explain(kind)
            except ClusterError:
                # It does not answer just now, which the fleet tells.
                text = ""
            known = self._explained[cluster, kind] = _Explained(text, now, reason)
        return known.text
