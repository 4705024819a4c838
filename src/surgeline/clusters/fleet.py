"""The queue jobs of a session: as many of each worker class as are wanted, and what became of each."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass

from surgeline.clusters.batch import Contact, QueuedJob, WorkerClass, WorkloadManager
from surgeline.clusters.undertaker import Undertaker
from surgeline.errors import ClusterError, SchedulerSilent

# So many queue jobs of a class in a row that end before their worker came mean that none ever will.
_FAILED_STARTS = 3
# A job that was submitted may be unknown to the scheduler's tools for a moment.
_UNKNOWN_SECONDS = 30.0
# After a refusal, the next attempt to submit; each pause is twice as long as that before.
_FIRST_PAUSE_SECONDS = 2.0
_LONGEST_PAUSE_SECONDS = 30.0
# A scheduler that has granted nothing for so long since it does not answer will not.
_PATIENCE_SECONDS = 600.0
# Decisions follow each other no quicker than this.
_TICK_SECONDS = 0.1
_TAIL_LINES = 5


@dataclass
class Berth:
    """One queue job, in which one worker runs.

    Attributes:
        identifier: what the scheduler knows it by.
        kind: the worker class.
        state: waiting, running, held or ended.
        words: why it waits, or how it ended, in the scheduler's words.
        cause: of one that ended, see `QueuedJob`.
        lost: cause and words of how it last came to run no more; empty until then. What is said of it afterwards, as
            when it is taken out of the queue, does not change them.
        submitted, started, came, ended: Unix times; `came` is when its worker was first ready for jobs.
        released: it was told to end, since nothing needs it.
    """

    identifier: str
    kind: str
    submitted: float
    state: str = "waiting"
    words: str = ""
    cause: str = ""
    lost: tuple[str, str] = ("", "")
    host: str = ""
    started: float | None = None
    came: float | None = None
    ended: float | None = None
    released: bool = False

    @property
    def alive(self) -> bool:
        """Whether it is, or will be, of use."""
        return self.state in ("waiting", "running") and not self.released


@dataclass(frozen=True)
class Wish:
    """What a fleet should be like: how many berths of each class, and which berths nothing needs."""

    berths: Mapping[str, int]
    release: Sequence[str] = ()


@dataclass(frozen=True)
class _Refusal:
    """Why no worker of a class was granted; since when, and until when nothing is asked again (monotonic seconds)."""

    error: ClusterError
    since: float
    until: float
    pause: float = _FIRST_PAUSE_SECONDS

    @classmethod
    def after(cls, before: _Refusal | None, error: ClusterError) -> _Refusal:
        """What there is after an attempt that gave this error, given what there was before it."""
        now = time.monotonic()
        if before is None or type(before.error) is not type(error):
            return cls(error, now, now + _FIRST_PAUSE_SECONDS)
        pause = min(2 * before.pause, _LONGEST_PAUSE_SECONDS)
        return cls(error, before.since, now + pause, pause)


class Fleet:
    """Submits queue jobs and watches them, in a thread of its own.

    What is lost is replaced, since what is wanted is a number. When the session is killed, its undertaker takes all
    of its jobs out of the queue.
    """

    def __init__(
        self,
        manager: WorkloadManager,
        contact: Contact,
        classes: Sequence[WorkerClass],
        decide: Callable[[Sequence[Berth]], Wish],
        lost: Callable[[Berth], None],
        tell: Callable[[str], None],
    ) -> None:
        """Prepare; nothing is submitted before `start`.

        Args:
            manager: the scheduler.
            contact: how workers find their session.
            classes: the worker classes.
            decide: says what the fleet should be like, given what it is; called in the fleet's thread.
            lost: told of a berth that no longer runs, whatever the reason; called in the fleet's thread.
            tell: told of what a user wants to know.
        """
        self._manager = manager
        self._contact = contact
        self.classes = {worker_class.name: worker_class for worker_class in classes}
        self._decide = decide
        self._lost = lost
        self._tell = tell
        self._berths: dict[str, Berth] = {}
        self._changed = threading.Condition()
        self._look_now = True
        self._wake = threading.Event()
        self._closed = threading.Event()
        self._silent = False
        self._failed_starts: dict[str, list[Berth]] = {}
        self._refused: dict[str, _Refusal] = {}
        self._thread = threading.Thread(target=self._watch, name="fleet", daemon=True)
        self._undertaker: Undertaker | None = None

    def start(self) -> None:
        """Begin."""
        self._undertaker = Undertaker(self._manager.cancel_all(self._contact), os.environ)
        self._thread.start()

    def close(self) -> bool:
        """Take all queue jobs out of the queue, and end; when the scheduler does not answer, as soon as it does.

        Returns:
            whether they are out of the queue now.
        """
        self._closed.set()
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join()
        left = [berth for berth in self._berths.values() if berth.state != "ended"]
        taken_out = True
        try:
            self._manager.cancel([berth.identifier for berth in left])
        except ClusterError as error:
            self._tell(f"{error.message}; the workers are taken out of its queue when it does")
            taken_out = False
        for berth in left:
            self._end(berth, "cancelled", "its session ended")
        if self._undertaker is not None:
            self._undertaker.dismiss(done=taken_out)
        return taken_out

    def consider(self) -> None:
        """Decide anew soon: something has changed."""
        self._wake.set()

    def add(self, worker_class: WorkerClass) -> None:
        """Know one class more."""
        self.classes.setdefault(worker_class.name, worker_class)

    def berths(self) -> list[Berth]:
        """All queue jobs that there ever were."""
        with self._changed:
            return list(self._berths.values())

    def find(self, identifier: str) -> Berth | None:
        """The berth of that name in the queue."""
        return self._berths.get(identifier)

    def arrived(self, identifier: str) -> None:
        """The worker of a berth is there."""
        with self._changed:
            berth = self._berths.get(identifier)
            if berth is None:
                return
            now = time.time()
            berth.state = "running" if berth.state == "waiting" else berth.state
            berth.started = berth.started or now
            berth.came = berth.came or now
            self._failed_starts.pop(berth.kind, None)
        self._wake.set()

    def fate(self, identifier: str, seconds: float) -> Berth | None:
        """What became of a berth whose worker is gone, waiting so long for the scheduler to say."""
        deadline = time.monotonic() + seconds
        with self._changed:
            berth = self._berths.get(identifier)
            while berth is not None and berth.state == "running" and not self._closed.is_set():
                self._look_now = True
                self._wake.set()
                self._changed.wait(min(1.0, max(0.0, deadline - time.monotonic())))
                if time.monotonic() >= deadline:
                    break
            return berth

    def trouble(self, kind: str) -> str | None:
        """Why no worker of a class will come, unless something is done; None when one may."""
        failed = self._failed_starts.get(kind, [])
        if len(failed) >= _FAILED_STARTS:
            last = failed[-1]
            return f"{len(failed)} queue jobs in a row ended before a worker came; {last.identifier} {last.words}" + (
                f"; the end of its output: {tail}" if (tail := self._tail(last)) else ""
            )
        refusal = self._refused.get(kind)
        if refusal is None:
            return None
        silent = time.monotonic() - refusal.since
        if isinstance(refusal.error, SchedulerSilent) and silent < _PATIENCE_SECONDS:
            return None
        return refusal.error.message

    def reason(self, kind: str) -> str:
        """Why those of a class that wait are waiting, in the scheduler's words."""
        waiting = self._first_waiting(kind)
        return waiting.words if waiting else ""

    def explain(self, kind: str) -> str:
        """The same at length, asked of the scheduler now; empty where it says no more.

        Raises:
            ClusterError: the scheduler does not answer.
        """
        waiting = self._first_waiting(kind)
        return self._manager.explain(self._contact, waiting.identifier) if waiting else ""

    def _first_waiting(self, kind: str) -> Berth | None:
        return next((b for b in self.berths() if b.kind == kind and b.state == "waiting" and not b.released), None)

    # What follows runs in the fleet's thread.

    def _watch(self) -> None:
        poll = self._manager.settings.poll
        due = 0.0
        while not self._closed.is_set():
            now = time.monotonic()
            again = [refusal.until for refusal in self._refused.values() if refusal.until > now]
            self._wake.wait(max(0.0, min([due, *again]) - now))
            self._wake.clear()
            if self._closed.is_set():
                break
            if self._look_now or time.monotonic() >= due:
                self._look_now = False
                self._look()
                due = time.monotonic() + poll
            self._adjust()
            self._closed.wait(_TICK_SECONDS)

    def _look(self) -> None:
        if not any(berth.state != "ended" for berth in self._berths.values()):
            return
        try:
            found = self._manager.look(self._contact)
        except ClusterError as error:
            self._tell_of_silence(error)
            return
        if self._silent:
            self._tell("the scheduler answers again")
        self._silent = False
        for berth in self.berths():
            if berth.state != "ended":
                self._update(berth, found.get(berth.identifier))
        with self._changed:
            self._changed.notify_all()

    def _update(self, berth: Berth, found: QueuedJob | None) -> None:
        found = found or self._manager.fate(self._contact, berth.identifier)
        if found is None:
            if berth.state == "waiting" and time.time() - berth.submitted < _UNKNOWN_SECONDS:
                return
            self._end(berth, "", "is gone from the queue, and nobody knows how")
        elif found.state == "ended":
            self._end(berth, found.cause, found.words)
        elif found.state == "held":
            # It would not start by itself: another takes its place.
            self._end(berth, found.cause or "failed", found.words)
            with suppress(ClusterError):
                self._manager.cancel([berth.identifier])
        else:
            before, berth.host, berth.words = berth.state, found.host or berth.host, found.words
            berth.state = found.state
            if found.state == "running":
                berth.started = berth.started or time.time()
            elif before == "running":
                berth.cause, berth.words = found.cause or "requeued", found.words or "was put back into the queue"
                berth.lost = berth.cause, berth.words
                self._lost(berth)

    def _end(self, berth: Berth, cause: str, words: str) -> None:
        with self._changed:
            if berth.state == "running" or not any(berth.lost):
                berth.lost = cause, words
            berth.state, berth.cause, berth.words, berth.ended = "ended", cause, words, time.time()
            if berth.came is None and not berth.released and cause in ("completed", "failed", "out of memory"):
                self._failed_starts.setdefault(berth.kind, []).append(berth)
            self._changed.notify_all()
        self._lost(berth)

    def _adjust(self) -> None:
        wish = self._decide(self.berths())
        released = [berth for name in wish.release if (berth := self._berths.get(name)) and berth.alive]
        for kind, number in wish.berths.items():
            alive = [berth for berth in self._berths.values() if berth.kind == kind and berth.alive]
            missing = number - len([berth for berth in alive if berth not in released])
            if missing > 0 and len(self._failed_starts.get(kind, [])) < _FAILED_STARTS:
                self._submit(kind, missing)
            elif missing < 0:
                # The latest: the others have waited longer.
                waiting = [berth for berth in alive if berth.state == "waiting" and berth not in released]
                released += waiting[missing:]
        if released:
            self._release(released)

    def _submit(self, kind: str, number: int) -> None:
        before = self._refused.get(kind)
        if before is not None and time.monotonic() < before.until:
            return
        try:
            identifiers = self._manager.submit(self.classes[kind], self._contact, number)
        except ClusterError as error:
            refusal = self._refused[kind] = _Refusal.after(before, error)
            if before is None or refusal.since != before.since:
                silent = isinstance(error, SchedulerSilent)
                self._tell(f"{error.message}; it is asked again" if silent else str(error))
            return
        self._refused.pop(kind, None)
        now = time.time()
        with self._changed:
            for identifier in identifiers:
                self._berths[identifier] = Berth(identifier, kind, now)
        self._look_now = True

    def _release(self, berths: Sequence[Berth]) -> None:
        try:
            self._manager.cancel([berth.identifier for berth in berths])
        except ClusterError as error:
            self._tell_of_silence(error)
            return
        for berth in berths:
            berth.released = True
        self._look_now = True

    def _tell_of_silence(self, error: ClusterError) -> None:
        """Tell once that the scheduler does not answer: it may be restarting, and workers that run go on."""
        if not self._silent:
            self._tell(f"{error.message}; what runs goes on")
        self._silent = True

    def _tail(self, berth: Berth) -> str:
        """The last lines that a berth's worker wrote."""
        path = self._manager.output(self.classes[berth.kind], self._contact, berth.identifier)
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        return " | ".join([line.strip() for line in text.splitlines() if line.strip()][-_TAIL_LINES:])
