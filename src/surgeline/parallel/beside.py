"""An MPI session with other workers beside it: both are busy at the same time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from surgeline.work.jobs import Job
from surgeline.work.outcome import Outcome
from surgeline.work.taskqueue import Backend, Deliver


class MpiBeside:
    """Sends jobs that need MPI to the MPI session, and all others to other workers."""

    def __init__(self, others: Backend, mpi: Backend) -> None:
        self._others = others
        self._mpi = mpi
        self.name = others.name

    @property
    def workers(self) -> int:
        return self._others.workers

    @property
    def environments(self) -> Mapping[str, Mapping[str, Any]]:
        return {**self._mpi.environments, **self._others.environments}

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Queue a job where it belongs."""
        return (self._mpi if job.declared.mpi else self._others).submit(job, deliver, urgent)

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job once on each worker and each server."""
        return self._others.exec_everywhere(job) + self._mpi.exec_everywhere(job)

    def running(self, ticket: str) -> bool:
        """Whether a worker or a server has been given the job."""
        return self._others.running(ticket) or self._mpi.running(ticket)

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs, as each of the two can."""
        named = list(tickets)
        self._others.cancel(named)
        self._mpi.cancel(named)

    def close(self) -> None:
        """Stop both."""
        self._others.close()
        self._mpi.close()
