"""Two clusters of which the second takes what the first has no worker for."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from surgeline.errors import SurgelineError
from surgeline.parallel.dispatch import NOT_STARTED
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.taskqueue import Backend, Deliver


@dataclass
class _Given:
    """Where a job is: which backend has it, and as what."""

    backend: Backend
    ticket: str = ""
    cancelled: bool = False


class Otherwise:
    """Sends jobs to one backend, and to another those for which no worker came in time."""

    def __init__(self, first: Backend, second: Callable[[], Backend], tell: Callable[[str], None]) -> None:
        """Prepare.

        Args:
            first: the backend that jobs go to.
            second: opens the one for what the first does not take.
            tell: called with what a user wants to know.
        """
        self._first = first
        self._open_second = second
        self._second: Backend | None = None
        self._opening = threading.Lock()
        self._tell = tell
        self._given: dict[str, _Given] = {}
        self.name = first.name

    @property
    def workers(self) -> int:
        return self._first.workers

    @property
    def environments(self) -> Mapping[str, Mapping[str, Any]]:
        return {**self._first.environments, **(self._second.environments if self._second else {})}

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Queue a job with the first."""
        given = _Given(self._first)

        def ended(outcome: Outcome) -> None:
            self._given.pop(ticket, None)
            deliver(outcome)

        def receive(outcome: Outcome) -> None:
            if outcome.failure is None or outcome.failure.kind != NOT_STARTED or given.cancelled:
                ended(outcome)
                return
            # Not in the thread that watches the first's queue: the second may take a while to start.
            threading.Thread(
                target=self._pass_on,
                args=(given, job, ended, urgent, outcome.failure),
                name="otherwise",
                daemon=True,
            ).start()

        ticket = uuid.uuid4().hex
        self._given[ticket] = given
        given.ticket = self._first.submit(job, receive, urgent)
        return ticket

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job once on each worker of the first, and of the second where there are any."""
        found = self._first.exec_everywhere(job)
        return found + self._second.exec_everywhere(job) if self._second else found

    def running(self, ticket: str) -> bool:
        """Whether a worker has been given the job."""
        given = self._given.get(ticket)
        return given is not None and given.backend.running(given.ticket)

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs, wherever they are."""
        for ticket in tickets:
            if given := self._given.get(ticket):
                given.cancelled = True
                given.backend.cancel([given.ticket])

    def close(self) -> None:
        """Stop the first; the second is closed by who opens it."""
        self._first.close()

    def _pass_on(self, given: _Given, job: Job, deliver: Deliver, urgent: bool, failure: Failure) -> None:
        try:
            with self._opening:
                if self._second is None:
                    self._tell(f"{failure.message}; jobs go elsewhere, as its `otherwise` says")
                    self._second = self._open_second()
            given.backend = self._second
            given.ticket = self._second.submit(job, deliver, urgent)
        except SurgelineError as error:
            message = f"{failure.message}; and elsewhere: {error.message}"
            deliver(Outcome(job.declared.name, str(job), failure=Failure(failure.kind, message)))
            return
        if given.cancelled:
            given.backend.cancel([given.ticket])
