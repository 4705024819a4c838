"""A call in the session's process that gives jobs to the stage's workers itself."""

from __future__ import annotations

from collections.abc import Callable
from types import TracebackType
from typing import Protocol, Self

from surgeline.errors import ClusterError
from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.outcome import Outcome
from surgeline.work.procedure import Here, StageWorkers
from surgeline.work.taskqueue import Backend, TaskQueue


class _Added(Protocol):
    """Is told that a job was given to a backend."""

    def __call__(self, ticket: str, job: Job, on: Backend = ...) -> None: ...


class CallHere:
    """Makes a call in the session's process, and has the session know of the jobs that it gives to workers.

    Use it as a context manager.
    """

    def __init__(
        self,
        here: Backend,
        workers: Backend,
        declared: Callable[[Job], Job],
        added: _Added,
        ended: Callable[[str, Job, Outcome], None],
        truly_changed: Callable[[FunctionCall], FunctionCall],
    ) -> None:
        """Prepare; nothing is called.

        Args:
            here: the backend of the session's own process.
            workers: that of the stage's workers.
            declared: makes of a job what the stage asks for it.
            added: told of each job when it was added.
            ended: told of each job when it ended.
            truly_changed: makes of a call that ended what it says of its files.
        """
        self._here = here
        self._workers = workers
        self._declared = declared
        self._added = added
        self._ended = ended
        self._truly_changed = truly_changed
        self._queues: list[TaskQueue] = []
        self._cancelled = False

    def outcome_of(self, call: Here) -> Outcome:
        """Make the call and wait for what comes of it."""

        def added(ticket: str, job: Job) -> None:
            self._added(ticket, job, on=self._here)

        def ended(ticket: str, job: Job, outcome: Outcome) -> None:
            assert isinstance(job, FunctionCall)
            self._ended(ticket, self._truly_changed(job) if outcome.ok else job, outcome)

        with TaskQueue(self._here, added=added, done=ended) as queue:
            self._queues.append(queue)
            queue.add(call.with_workers(StageWorkers(self._workers, self._open_queue)))
            if self._cancelled:
                queue.cancel()
            (outcome,) = queue.get_results()
        return outcome

    def cancel(self) -> None:
        """Stop the jobs that it gave to workers, and leave the call itself to itself."""
        self._cancelled = True
        for queue in list(self._queues):
            queue.cancel()

    def _open_queue(self) -> TaskQueue:
        if self._cancelled:
            raise ClusterError("the stage was stopped", "go on with it: surgeline resume")
        queue = _StageQueue(self._workers, self._declared, self._added, self._ended)
        self._queues.append(queue)
        return queue

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel()


class _StageQueue(TaskQueue):
    """A queue whose jobs ask for what the stage does."""

    def __init__(
        self,
        backend: Backend,
        declared: Callable[[Job], Job],
        added: Callable[[str, Job], None],
        ended: Callable[[str, Job, Outcome], None],
    ) -> None:
        super().__init__(backend, added=added, done=ended)
        self._declared = declared

    def add(self, job: Job) -> bool:
        """Put a job into the queue; see TaskQueue."""
        return super().add(self._declared(job))
