"""What a session tells those who watch it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from surgeline.parallel.workforce import Workforce
from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.taskqueue import Backend
from surgeline.workflow.queuewatch import Arrival, Wait


class Observer(Protocol):
    """Is told what happens in a session, from several threads."""

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins with these stages, some of which had finished before."""

    def runs_again(self, stage: str, reason: str) -> None:
        """A stage that had finished runs again."""

    def notice(self, text: str) -> None:
        """Something that a user wants to know happens."""

    def starting_workers(self, description: str) -> None:
        """Workers are being started."""

    def stage_began(self, stage: str) -> None:
        """A stage's heuristics begin."""

    def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has put a job into its queue."""

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""

    def workers_wait(self, waits: Sequence[Wait]) -> None:
        """Stages wait for workers that wait in a queue; told each second, and once when none does any more."""

    def workers_came(self, arrival: Arrival) -> None:
        """Workers came out of a queue."""

    def workers_counted(self, clusters: Sequence[Workforce]) -> None:
        """How many workers each cluster has; told when that has changed."""

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made; results are not touched by that."""
