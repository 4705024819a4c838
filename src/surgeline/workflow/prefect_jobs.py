"""A job of a stage as a task run in Prefect."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any
from uuid import uuid4

from surgeline.work.outcome import Outcome
from surgeline.work.taskqueue import Backend

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun, State, TaskRun


class JobRun:
    """Tells Prefect the states of one job, by the events that Prefect's own task engine sends.

    They carry the times at which things happened, and nothing waits for the server to take them.
    """

    def __init__(
        self, flow_run: FlowRun, stage: TaskRun, name: str, ticket: str, backend: Backend, added: float
    ) -> None:
        """A job was put into a queue.

        Args:
            flow_run: the session's.
            stage: its stage's.
            name: the job's.
            ticket: what its backend knows it by.
            backend: runs it.
            added: when it was (Unix time).
        """
        from prefect.client.schemas.objects import TaskRun, TaskRunResult

        self._ticket = ticket
        self._backend = backend
        # Any: Prefect's own kind of time, which a datetime is good enough for.
        moment: Any = datetime.fromtimestamp(added, UTC)
        self._run: Any = TaskRun(
            id=uuid4(),
            name=name,
            flow_run_id=flow_run.id,
            task_key="job",
            dynamic_key=f"{stage.id}-{ticket}",
            tags=["job", stage.name],
            task_inputs={"__parents__": [TaskRunResult(id=stage.id)]},
            expected_start_time=moment,
        )
        self._enter("Pending", added)

    def look(self, now: float) -> None:
        """See whether the job is being worked on by now (Unix time)."""
        if self._run.run_count == 0 and self._backend.running(self._ticket):
            self._enter("Running", now)

    def end(self, outcome: Outcome, now: float) -> None:
        """The job has ended, by now (Unix time); tells the workers that it lost, too."""
        for loss in outcome.losses:
            self._enter("AwaitingRetry", loss.when, f"{loss.worker} died: {loss.how}")
        if outcome.started and (outcome.losses or self._run.run_count == 0):
            self._enter("Retrying" if outcome.losses else "Running", outcome.started)
        failure = outcome.failure
        name = "Completed" if failure is None else "Cancelled" if failure.kind == "cancelled" else "Failed"
        self._enter(name, outcome.ended or now, outcome.call if failure is None else failure.message)

    def _enter(self, name: str, when: float, message: str | None = None) -> None:
        from prefect import states
        from prefect.utilities.engine import emit_task_run_state_change_event

        run, before = self._run, self._run.state
        form: Callable[..., State[Any]] = getattr(states, name)
        state = form(timestamp=datetime.fromtimestamp(when, UTC), message=message)
        if before is not None and state.timestamp <= before.timestamp:
            # Clocks of machines differ; Prefect wants states in their order.
            state.timestamp = before.timestamp + timedelta(microseconds=1)
        state.state_details.task_run_id, state.state_details.flow_run_id = run.id, run.flow_run_id
        run.state, run.state_id, run.state_type, run.state_name = state, state.id, state.type, state.name
        if before is not None and before.is_running():
            run.total_run_time += state.timestamp - before.timestamp
        if state.is_running():
            run.run_count += 1
            run.start_time = run.start_time or state.timestamp
        if state.is_final():
            run.end_time = state.timestamp
        emit_task_run_state_change_event(run, before, state)
