"""What backends with workers share: jobs wait in order, and each gets an outcome, whatever becomes of its worker."""

from __future__ import annotations

import queue
import signal
import threading
import time
import traceback
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import cloudpickle

from surgeline.errors import ClusterError
from surgeline.parallel.waiting import Pending, WaitingJobs
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Loss, Outcome
from surgeline.work.taskqueue import Deliver

# Jobs known to be shorter than this travel several at a time, up to so much work in one bundle.
_SHORT_JOB_SECONDS = 0.01
_BUNDLE_SECONDS = 0.05
OUT_OF_MEMORY = "out of memory"
WORKER_DIED = "worker died"
NOT_STARTED = "not started"
# So often a job may lose its worker to those who own the machine; after that something else is wrong.
_BLAMELESS_LOSSES = 10
# Jobs that are not urgent leave half of the workers to the next stage, which may be about to begin, until nothing has
# happened for so long.
_LEISURE_SECONDS = 0.1
# Tells the collector, instead of a bundle's key, that there is a worker more, or work that is not urgent.
LOOK = ""


@dataclass
class Bundle:
    """The jobs that go to a worker at once: one, or several short ones.

    Attributes:
        key: its name among the bundles on their way.
        jobs: what is on its way.
        place: the workers that were taken for it, as the backend has them.
        handle: what the backend knows it by.
        sent: when it was sent, by the monotonic clock.
        ended: whether outcomes of its jobs are being delivered.
    """

    key: str
    jobs: list[Pending]
    place: Any
    handle: Any = None
    sent: float = field(default_factory=time.monotonic)
    ended: bool = False

    @property
    def names(self) -> str:
        """What its jobs are called, in words."""
        first = self.jobs[0].job.declared.name
        return first if len(self.jobs) == 1 else f"{first} and {len(self.jobs) - 1} more"


class Dispatcher(ABC):
    """Jobs wait here, in the order added, until there is an idle worker that they fit.

    So a worker's death is blamed on the job that it ran, and on no other; and a job never waits behind one that
    waits for a larger worker. A job whose worker died is run again, as often as configured; then it fails, and the
    failure says how the workers died.
    """

    workers: int

    def __init__(self, retries: int, lost: Callable[[str, Loss], None] | None) -> None:
        """Prepare to dispatch.

        Args:
            retries: how often a job is tried again when its worker died.
            lost: called with a job's name and its Loss when a worker dies running it.
        """
        self._retries = retries
        self._lost = lost
        self.environments: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.RLock()
        self._nothing_sent = threading.Condition(self._lock)
        self._waiting = WaitingJobs()
        self._leisure = WaitingJobs()
        self._sent: dict[str, Bundle] = {}
        # By the tickets of the jobs in there, in which bundle each is.
        self._given: dict[str, str] = {}
        self._mean_seconds: dict[str, float] = {}
        self._news: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._held = 0
        self._closed = False
        self._collector = threading.Thread(target=self._collect, name="collect-results", daemon=True)

    @abstractmethod
    def _at_hand(self) -> int:
        """How many workers there are now."""

    @abstractmethod
    def _take(self, key: str, pending: Pending) -> Any:
        """Take what idle workers a job needs, for a bundle of this key; None if it has to wait. The lock is held."""

    @abstractmethod
    def _give_back(self, bundle: Bundle) -> None:
        """A bundle has ended: its workers are idle again, those that live. The lock is held."""

    @abstractmethod
    def _start(self, bundle: Bundle) -> None:
        """Send a bundle to a worker; its key has to come in as news when it has ended. The lock is held."""

    @abstractmethod
    def _receive(self, bundle: Bundle) -> None:
        """Deliver what came of a bundle that has ended."""

    @abstractmethod
    def _run_everywhere(self, pickled: bytes) -> Sequence[bytes]:
        """Run a job once on each worker while nothing else runs; the outcomes, pickled."""

    def _expect(self, pending: Pending) -> None:
        """Say of a job that has come what it needs and how long it takes, where the job does not say it."""
        pending.resources = pending.job.declared.resources
        pending.seconds = pending.job.declared.seconds

    def _more_memory(self, pending: Pending, worker: str) -> bool:
        """Have a job that was too large for a worker run where there is more; whether it may go better there."""
        return True

    def _hopeless(self) -> str | None:
        """Why there will never be a worker again, or None."""
        return None

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Queue a job.

        Jobs that are not urgent are sent to workers for which there is no urgent one.

        Raises:
            ClusterError: the job cannot be pickled, or the workers were stopped.
        """
        pickled = _pickled(job)
        ticket = uuid.uuid4().hex
        pending = Pending(ticket, job, pickled, deliver)
        self._expect(pending)
        with self._lock:
            self._check_open(job)
            (self._waiting if urgent else self._leisure).add(pending)
            self._feed()
        if not urgent or self._hopeless():
            self._news.put(LOOK)
        return ticket

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job once on every worker that there is, after the jobs on their way and before those that wait.

        Workers that come later have not run it.

        Raises:
            ClusterError: the job cannot be pickled, or the workers were stopped.
        """
        pickled = _pickled(job)
        with self._idle():
            self._check_open(job)
            outcomes: list[Outcome] = [cloudpickle.loads(result) for result in self._run_everywhere(pickled)]
        return [replace(outcome, job=job.declared.name, call=str(job)) for outcome in outcomes]

    def running(self, ticket: str) -> bool:
        """Whether a worker has been given the job."""
        return ticket in self._given

    @contextmanager
    def _idle(self) -> Iterator[None]:
        """A block in which no worker has a job."""
        with self._lock:
            self._held += 1
            self._nothing_sent.wait_for(lambda: not self._sent or self._closed)
        try:
            yield
        finally:
            with self._lock:
                self._held -= 1
                self._feed()

    def _check_open(self, job: Job) -> None:
        if self._closed:
            raise ClusterError(f"{job.declared.name} came after its workers were stopped", "open a backend anew")

    def _withdraw(self, named: set[str]) -> dict[str, Bundle]:
        """Drop those jobs of these tickets that wait, and return the bundles on their way that hold others."""
        with self._lock:
            dropped = [
                pending
                for jobs in (self._waiting, self._leisure)
                for pending in jobs.drop(lambda pending: pending.ticket in named)
            ]
            concerned = {
                key: bundle
                for key, bundle in self._sent.items()
                if any(pending.ticket in named for pending in bundle.jobs)
            }
            for bundle in concerned.values():
                for pending in bundle.jobs:
                    pending.cancelled |= pending.ticket in named
        for pending in dropped:
            self._deliver_failure(pending, Failure("cancelled", "it was cancelled before it began"))
        return concerned

    def _stop_collecting(self) -> None:
        """Deliver what has ended, and tell of the other jobs that they were cancelled."""
        with self._lock:
            self._closed = True
            self._nothing_sent.notify_all()
        self._news.put(None)
        if self._collector.ident is not None:
            self._collector.join(timeout=30)

    def _feed(self) -> None:
        """Send waiting jobs to idle workers; called with the lock held."""
        while self._waiting and not self._held and self._send_first(self._waiting):
            pass

    def _feed_at_leisure(self, busy: int) -> None:
        """Send jobs that are not urgent while fewer workers are busy; called with the lock held, after `_feed`."""
        while self._leisure and not self._held and len(self._sent) < busy and self._send_first(self._leisure):
            pass

    def _send_first(self, jobs: WaitingJobs) -> bool:
        """Send the first job for which there is a worker; whether there is one. Called with the lock held."""
        for head in jobs.heads():
            # Dask keeps what it knows of each kind of key for ever, and shows it by kind.
            key = f"{head.job.called}-{uuid.uuid4().hex}"
            place = self._take(key, head)
            if place is not None:
                sent = self._next_bundle(head) if jobs is self._waiting else jobs.pop(head)
                bundle = Bundle(key, sent, place)
                self._sent[key] = bundle
                self._given.update((pending.ticket, key) for pending in sent)
                self._start(bundle)
                return True
        return False

    def _forget(self, key: str) -> Bundle | None:
        """A bundle is on its way no more; called with the lock held."""
        bundle = self._sent.pop(key, None)
        for pending in bundle.jobs if bundle is not None else ():
            # It may have been sent again by now.
            if self._given.get(pending.ticket) == key:
                del self._given[pending.ticket]
        return bundle

    def _next_bundle(self, head: Pending) -> list[Pending]:
        name = head.job.declared.name
        seconds = self._mean_seconds.get(name, _SHORT_JOB_SECONDS)
        most = 1
        # Those that go together die together, and which of them was the cause shows when they are tried again.
        alone = bool(head.losses) or head.job.declared.mpi or not head.job.may_run_again
        if seconds < _SHORT_JOB_SECONDS and self._retries > 0 and not alone:
            fair_share = (self._waiting.behind(head) - 1) // (2 * self.workers)
            most = min(fair_share, int(_BUNDLE_SECONDS / max(seconds, 1e-4)))
        return self._waiting.pop(head, lambda job: job.job.declared.name == name and not job.losses, most)

    # What follows runs in the collector's thread.

    def _collect(self) -> None:
        """Deliver the outcomes of each bundle that ends, until the backend is closed."""
        while (key := self._next_news()) is not None:
            with self._lock:
                bundle = self._sent.get(key)
                if bundle is not None:
                    bundle.ended = True
            if bundle is not None:
                self._receive(bundle)
            # Only now: the worker's next job could take the result of this one with it.
            with self._lock:
                if self._forget(key) is bundle and bundle is not None:
                    self._give_back(bundle)
                if not self._sent:
                    self._nothing_sent.notify_all()
                self._feed()
                if not self._waiting:
                    self._feed_at_leisure(self._at_hand() // 2)
            if why := self._hopeless():
                self._fail_all(Failure(WORKER_DIED, why))
        self._fail_all(Failure("cancelled", "the workers were stopped before it ended"))

    def _fail_all(self, failure: Failure) -> None:
        with self._lock:
            for bundle in self._sent.values():
                bundle.ended = True
            left = [
                *self._waiting.drop(lambda _: True),
                *self._leisure.drop(lambda _: True),
                *(pending for bundle in self._sent.values() for pending in bundle.jobs),
            ]
            self._sent.clear()
            self._given.clear()
        for pending in left:
            self._deliver_failure(pending, failure)

    def _next_news(self) -> str | None:
        """Wait for what happens next; while nothing does, have work done that is not urgent."""
        while True:
            try:
                return self._news.get(timeout=_LEISURE_SECONDS if self._leisure else None)
            except queue.Empty:
                with self._lock:
                    self._feed()
                    self._feed_at_leisure(self._at_hand())

    def _deliver_results(self, bundle: Bundle, results: Sequence[bytes]) -> None:
        for pending, result in zip(bundle.jobs, results, strict=True):
            self._deliver_result(pending, result)

    def _deliver_result(self, pending: Pending, result: bytes) -> None:
        name, call = pending.job.declared.name, str(pending.job)
        if pending.cancelled:
            self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))
            return
        try:
            outcome: Outcome = cloudpickle.loads(result)
        except Exception as error:  # noqa: BLE001 - unpickling runs code of the value's own
            message = f"its value cannot be unpickled here: {type(error).__name__}: {error}"
            self._deliver_failure(pending, Failure("unpicklable", message, traceback.format_exc()))
            return
        if outcome.failure is not None and outcome.failure.kind == WORKER_DIED:
            # The worker lives; the MPI session that it had started for the job does not.
            self._after_death([pending], outcome.worker, outcome.failure.message)
            return
        seconds = outcome.ended - outcome.started
        self._mean_seconds[name] = 0.5 * (self._mean_seconds.get(name, seconds) + seconds)
        pending.deliver(replace(outcome, job=name, call=call, losses=tuple(pending.losses)))

    def _after_death(
        self, jobs: Iterable[Pending], worker: str, how: str, name: str = "", blamed: bool = True
    ) -> None:
        """Run a dead worker's jobs again, or fail those that were retried often enough.

        Args:
            jobs: what it had been given.
            worker: its address.
            how: how it died.
            name: what it was called, for the jobs to go elsewhere.
            blamed: whether a job may have been the cause, rather than whoever owns the machine.
        """
        again = []
        for pending in jobs:
            if pending.cancelled:
                self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))
                continue
            loss = Loss(f"worker-{name}" if name else worker, how, time.time())
            pending.losses.append(loss)
            if name:
                pending.avoid.add(name)
            pending.blamed += blamed
            if self._lost is not None:
                self._lost(pending.job.declared.name, loss)
            kind = OUT_OF_MEMORY if how.startswith(OUT_OF_MEMORY) else WORKER_DIED
            blameless = len(pending.losses) - pending.blamed
            hopeless = pending.blamed > self._retries or blameless > _BLAMELESS_LOSSES
            if not pending.job.may_run_again:
                hopeless, how = True, f"{how}, while it changed {', '.join(pending.job.declared.changes)}"
            if hopeless or (kind == OUT_OF_MEMORY and not self._more_memory(pending, worker)):
                number = len(pending.losses)
                which = f"{number} workers died running it, the last one: " if number > 1 else "its worker died: "
                self._deliver_failure(pending, Failure(kind, which + how))
            else:
                again.append(pending)
        self._put_first(again)

    def _put_first(self, jobs: list[Pending]) -> None:
        """Have jobs run again, before all others; what they have written so far is in their way."""
        for pending in jobs:
            pending.pickled = cloudpickle.dumps(pending.job.declare(overwrite=True, again=True))
        with self._lock:
            if not self._closed:
                self._waiting.put_first(jobs)
                return
        for pending in jobs:
            self._deliver_failure(pending, Failure("cancelled", "the workers were stopped before it ended"))

    def _deliver_failure(self, pending: Pending, failure: Failure) -> None:
        if pending.cancelled:
            failure = Failure("cancelled", "it was cancelled")
        now = time.time()
        losses = tuple(pending.losses)
        job = pending.job
        pending.deliver(Outcome(job.declared.name, str(job), failure=failure, started=now, ended=now, losses=losses))


def _pickled(job: Job) -> bytes:
    try:
        pickled: bytes = cloudpickle.dumps(job)
    except Exception as error:
        raise ClusterError(
            f"{job.declared.name} cannot travel to a worker: {error}",
            "its function and arguments have to pickle; open files, locks and tools inside the job instead",
        ) from error
    return pickled


def described_exit(exitcode: int | None) -> str:
    """How a process ended, in words; a signal is a negative exit code, as `subprocess` has it."""
    if exitcode is None:
        return "its process ended"
    if exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    return f"killed by signal {-exitcode} ({signal.Signals(-exitcode).name})"
