"""Where a stage puts its jobs and collects their results, whatever backend runs them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import TracebackType
from typing import Any, Protocol, Self

from surgeline.work.htmltext import bar, element, joined, table
from surgeline.work.jobs import FunctionCall, Job, JobRequest, PipelineTask
from surgeline.work.outcome import Outcome

Deliver = Callable[[Outcome], None]


class Backend(Protocol):
    """How jobs are dispatched; its implementations are in `surgeline.parallel`."""

    name: str

    @property
    def environments(self) -> Mapping[str, Mapping[str, Any]]:
        """The machines and versions that its workers run jobs with, by their identity."""

    @property
    def workers(self) -> int:
        """How many jobs can run at once."""

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Send a job off; `deliver` is called with its Outcome, once, from another thread.

        Jobs that are not urgent may wait until no other does. Returns a ticket.
        """

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job once on each worker that there is, while nothing else runs there."""

    def running(self, ticket: str) -> bool:
        """Whether a job is being worked on, rather than waiting for a worker."""

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs, running ones too where the backend can; each still gets an Outcome."""

    def close(self) -> None:
        """Stop the workers. No process is left behind."""


class TaskQueue:
    """Runs jobs on a backend and returns their outcomes.

    One failed job neither hides its cause nor loses the results of the others: every job added gives one
    Outcome, in the order added.

    Use it as a context manager: leaving it waits for its jobs, or cancels them when an exception leaves it.
    """

    def __init__(
        self,
        backend: Backend,
        unique: bool = False,
        urgent: bool = True,
        added: Callable[[str, Job], None] | None = None,
        done: Callable[[str, Job, Outcome], None] | None = None,
    ) -> None:
        """Of a backend; nothing is started.

        Args:
            backend: runs the jobs: what `surgeline.open_backend` gave.
            unique: drop a job that equals one already added.
            urgent: go before jobs that are not; where it is not, it lets the jobs of others go first.
            added: called with the ticket of a job and the job when it was added.
            done: called with these and with its Outcome when it ended, from another thread.
        """
        self._backend = backend
        self._unique = unique
        self._urgent = urgent
        self._added = added
        self._done = done
        self._hashes: set[str] = set()
        self._change = threading.Condition()
        self._outcomes: list[Outcome | None] = []
        self._tickets: list[str] = []
        self._completed: list[int] = []
        self._taken = 0
        self._untold: Exception | None = None

    def add(self, job: Job) -> bool:
        """Put a job into the queue; False when it was dropped as a duplicate.

        Args:
            job: a FunctionCall, JobRequest or PipelineTask.

        Raises:
            ClusterError: the backend was closed, or the job cannot be pickled.
        """
        identity = job.content_hash() if self._unique else ""
        if identity in self._hashes:
            return False
        with self._change:
            place = len(self._outcomes)
            self._outcomes.append(None)
            self._tickets.append("")
        known = threading.Event()

        def deliver(outcome: Outcome) -> None:
            # Nothing is told of a job's end before its start has been.
            known.wait()
            try:
                if self._done:
                    self._done(self._tickets[place], job, outcome)
            except Exception as error:  # noqa: BLE001 - raised again by `get_results`
                self._untold = self._untold or error
            with self._change:
                self._outcomes[place] = outcome
                self._completed.append(place)
                self._change.notify_all()

        try:
            ticket = self._backend.submit(job, deliver, self._urgent)
        except BaseException:
            with self._change:
                del self._outcomes[place], self._tickets[place]
            raise
        self._tickets[place] = ticket
        if self._unique:
            self._hashes.add(identity)
        try:
            if self._added:
                self._added(ticket, job)
        finally:
            known.set()
        return True

    def add_functioncall(self, function: Callable[..., Any], /, *arguments: Any, **keywords: Any) -> bool:
        """Add a call of any picklable function.

        Args:
            function: what is called.
            arguments, keywords: what it is called with.

        Returns:
            False when it was dropped as a duplicate.
        """
        return self.add(FunctionCall(function, *arguments, **keywords))

    def add_jobrequest(self, task: str, arguments: Mapping[str, Any]) -> bool:
        """Add a call of a casatasks task.

        Args:
            task: its name.
            arguments: those that do not have their default, by name.

        Returns:
            False when it was dropped as a duplicate.

        Raises:
            BadInput: there is no such task or argument, or a value has a type that it does not take.
        """
        return self.add(JobRequest(task, arguments))

    def add_pipelinetask(self, cls: type[Any], arguments: Mapping[str, Any], context: Any) -> bool:
        """Add a task of a pipeline framework: `cls(cls.Inputs(context, **arguments)).execute()`.

        Args:
            cls: the task's class.
            arguments: of its Inputs.
            context: what its Inputs take first.

        Returns:
            False when it was dropped as a duplicate.

        Raises:
            BadInput: the class has no Inputs.
        """
        return self.add(PipelineTask(cls, arguments, context))

    def map(self, function: Callable[..., Any], *iterables: Iterable[Any]) -> None:
        """Add one call of `function` for each group of items of the `iterables`, as the built-in `map` pairs them."""
        for arguments in zip(*iterables, strict=False):
            self.add(FunctionCall(function, *arguments))

    def get_results(self) -> list[Outcome]:
        """Wait for all jobs and return the outcomes of those added since the last call, in the order added.

        What `done` raised when it was told of an outcome is raised here, once all jobs have ended.
        """
        with self._change:
            self._change.wait_for(lambda: len(self._completed) == len(self._outcomes))
            outcomes = [outcome for outcome in self._outcomes if outcome is not None]
            self._outcomes.clear()
            self._tickets.clear()
            self._completed.clear()
            self._taken = 0
            untold, self._untold = self._untold, None
        if untold is not None:
            raise untold
        return outcomes

    def as_completed(self) -> Iterator[Outcome]:
        """Yield outcomes as jobs end; jobs added meanwhile are waited for too."""
        while True:
            with self._change:
                if self._taken == len(self._outcomes):
                    return
                self._change.wait_for(lambda: len(self._completed) > self._taken)
                outcome = self._outcomes[self._completed[self._taken]]
                self._taken += 1
            assert outcome is not None
            yield outcome

    def cancel(self) -> None:
        """Stop every job that has not ended; its Outcome says that it was cancelled."""
        with self._change:
            pending = [
                ticket
                for ticket, outcome in zip(self._tickets, self._outcomes, strict=True)
                if outcome is None and ticket
            ]
        self._backend.cancel(pending)

    def __len__(self) -> int:
        return len(self._outcomes)

    def __repr__(self) -> str:
        outcomes = list(self._outcomes)
        ended = [outcome for outcome in outcomes if outcome is not None]
        failed = sum(not outcome.ok for outcome in ended)
        told = [f"{len(outcomes)} jobs", f"{len(ended)} ended", *([f"{failed} failed"] if failed else [])]
        return f"<TaskQueue on {self._backend.name}, {self._backend.workers} workers: {', '.join(told)}>"

    def _repr_html_(self) -> str:
        """How it is shown in a notebook: how far it is, and which jobs failed."""
        outcomes = list(self._outcomes)
        ended = [outcome for outcome in outcomes if outcome is not None]
        failed = [(outcome.job, outcome.failure.message) for outcome in ended if outcome.failure is not None]
        state = "failed" if failed else "finished" if len(ended) == len(outcomes) else "running"
        told = [element("code", repr(self)), bar(len(ended), len(outcomes), state, "jobs that ended")]
        return joined([*told, table(("failed job", "why"), failed)] if failed else told)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        if error is not None:
            self.cancel()
        with self._change:
            self._change.wait_for(lambda: len(self._completed) == len(self._outcomes))
