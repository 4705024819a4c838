"""Tells Prefect what happens in a session, beside the states of its flow and its stages."""

from __future__ import annotations

import contextvars
import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from uuid import UUID

from surgeline.context.store import Context
from surgeline.parallel.workforce import Workforce
from surgeline.paths import SessionPaths
from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.taskqueue import Backend
from surgeline.workflow import prefect_artifacts as artifacts
from surgeline.workflow.observer import Observer
from surgeline.workflow.prefect_jobs import JobRun
from surgeline.workflow.queuewatch import Arrival, Wait
from surgeline.workflow.record import RunRecord

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, TaskRun

    Message = Callable[[SyncPrefectClient], None]

# How often progress is told, and which jobs run.
_PAUSE_SECONDS = 1.0
# How long the end of a session waits for a server that is slow to be told the rest.
_PATIENCE_SECONDS = 30.0


@dataclass
class _Stage:
    """What Prefect knows of a stage that runs."""

    task_run: TaskRun
    added: int = 0
    ended: int = 0
    told: tuple[int, int] = (0, 0)
    progress: UUID | None = None


@dataclass
class _Session:
    stages: int = 0
    finished: int = 0
    told: int = -1
    progress: UUID | None = None
    # The jobs that are shown, by their stages and tickets.
    jobs: dict[tuple[str, str], JobRun] = field(default_factory=dict)


class PrefectNews(Observer):
    """Logs, progress, artifacts, and task runs for jobs: told by a thread of its own, and nothing waits for it."""

    def __init__(
        self,
        recipe: str,
        paths: SessionPaths,
        record: RunRecord,
        context: Context,
        jobs_as_tasks: int,
        trouble: Callable[[str], None],
    ) -> None:
        """Prepare.

        Args:
            recipe: the recipe's name.
            paths: of the working folder.
            record: what `run.json` will say.
            context: the session's.
            jobs_as_tasks: how many jobs of each stage are shown as task runs.
            trouble: called once when Prefect could not be told something.
        """
        self._recipe = recipe
        self._paths = paths
        self._record = record
        self._context = context
        self._jobs_as_tasks = jobs_as_tasks
        self._trouble = trouble
        self._troubled = False
        self._messages: queue.SimpleQueue[Message | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._stages: dict[str, _Stage] = {}
        self._session = _Session()
        self._flow_run: FlowRun | None = None
        self._thread: threading.Thread | None = None

    def open(self, flow_run: FlowRun) -> None:
        """Begin to tell, in the name of a flow run whose context this is called in."""
        self._flow_run = flow_run
        context = contextvars.copy_context()
        self._thread = threading.Thread(target=context.run, args=(self._deliver,), name="prefect-news", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Tell the rest, and what the session came to."""
        assert self._thread is not None
        for shown in artifacts.of_session(self._record.content, self._paths):
            self._show(shown)
        for stage, shown in artifacts.pictures(self._context, self._paths, self._recipe):
            self._show(shown, stage)
        self._messages.put(None)
        self._thread.join(_PATIENCE_SECONDS)

    def stage_runs(self, stage: str, task_run: TaskRun) -> None:
        """A stage has become a task run."""
        with self._lock:
            self._stages[stage] = _Stage(task_run)

    def stage_is_over(self, stage: str) -> None:
        """A stage has ended, and all is on record."""
        said = self._record.of_stage(stage)
        facts = artifacts.facts_of(stage, self._context) if said["state"] == "finished" else []
        for shown in artifacts.of_stage(said, facts, self._recipe):
            self._show(shown, stage)

    # What an observer is told.

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins with these stages, some of which had finished before."""
        self._session.stages, self._session.finished = len(stages), len(finished)
        if finished:
            self._log(logging.INFO, f"{len(finished)} of {len(stages)} stages had finished before")

    def runs_again(self, stage: str, reason: str) -> None:
        """A stage that had finished runs again."""
        self._log(logging.INFO, f"{stage} runs again: {reason}")

    def notice(self, text: str) -> None:
        """Something that a user wants to know happens."""
        self._log(logging.INFO, text)

    def starting_workers(self, description: str) -> None:
        """Workers are being started."""
        self._log(logging.INFO, f"starting {description}")

    def stage_began(self, stage: str) -> None:
        """A stage's heuristics begin: not told, a task run says so."""

    def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has put a job into its queue."""
        with self._lock:
            known = self._stages[stage]
            known.added += 1
            if known.added > self._jobs_as_tasks:
                return
        added = time.time()

        def tell(_: SyncPrefectClient) -> None:
            assert self._flow_run is not None
            shown = JobRun(self._flow_run, known.task_run, job.declared.name, ticket, backend, added)
            self._session.jobs[stage, ticket] = shown

        self._messages.put(tell)

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        with self._lock:
            self._stages[stage].ended += 1
        ended = time.time()

        def tell(_: SyncPrefectClient) -> None:
            shown = self._session.jobs.pop((stage, ticket), None)
            if shown is not None:
                shown.end(outcome, ended)

        self._messages.put(tell)
        if outcome.failure and outcome.failure.kind != "cancelled":
            self._log(logging.ERROR, f"job {outcome.job!r} failed: {outcome.failure.message}", stage)

    def workers_wait(self, waits: Sequence[Wait]) -> None:
        """Stages wait for workers: not told, the stages' progress says as much."""

    def workers_came(self, arrival: Arrival) -> None:
        """Workers came out of a queue."""
        self._log(logging.INFO, str(arrival))

    def workers_counted(self, clusters: Sequence[Workforce]) -> None:
        """How many workers each cluster has: not told, since it says nothing of the stages."""

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""
        self._log(logging.WARNING, f"worker {loss.worker} died running {job!r} ({loss.how})")

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""
        if error is None:
            self._session.finished += 1

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made; results are not touched by that."""
        self._log(logging.ERROR, f"the weblog could not be made: {error}")

    # What follows runs in the thread that tells Prefect, but for these two.

    def _log(self, level: int, text: str, stage: str | None = None) -> None:
        self._messages.put(lambda _: self._logger(stage).log(level, text))

    def _show(self, shown: artifacts.Shown, stage: str | None = None) -> None:
        def tell(client: SyncPrefectClient) -> None:
            self._make_artifact(client, shown, stage)

        self._messages.put(tell)

    def _deliver(self) -> None:
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            progress_told = time.monotonic()
            going_on = True
            while going_on:
                try:
                    message = self._messages.get(timeout=_PAUSE_SECONDS)
                    going_on = message is not None
                except queue.Empty:
                    message = None
                try:
                    if message is not None:
                        message(client)
                    if not going_on or time.monotonic() - progress_told > _PAUSE_SECONDS:
                        self._tell_progress(client)
                        progress_told = time.monotonic()
                except Exception as error:  # noqa: BLE001 - whatever it is, the session's results do not depend on it
                    if not self._troubled:
                        self._troubled = True
                        self._trouble(f"Prefect was not told everything: {type(error).__name__}: {error}")

    def _logger(self, stage: str | None) -> logging.LoggerAdapter[Any]:
        from prefect.logging.loggers import flow_run_logger, task_run_logger

        assert self._flow_run is not None
        known = self._stages.get(stage) if stage else None
        return task_run_logger(known.task_run, flow_run=self._flow_run) if known else flow_run_logger(self._flow_run)

    def _make_artifact(self, client: SyncPrefectClient, shown: artifacts.Shown, stage: str | None) -> UUID:
        from prefect.client.schemas.actions import ArtifactCreate

        assert self._flow_run is not None
        known = self._stages.get(stage) if stage else None
        made = client.create_artifact(
            ArtifactCreate(
                key=shown.key,
                type=shown.type,
                # Prefect wants tables as text, everything else as it is.
                data=_json(shown.data) if shown.type == "table" else shown.data,
                description=shown.description,
                flow_run_id=self._flow_run.id,
                task_run_id=known.task_run.id if known else None,
            )
        )
        return made.id

    def _tell_progress(self, client: SyncPrefectClient) -> None:
        from prefect.client.schemas.actions import ArtifactUpdate

        with self._lock:
            stages = dict(self._stages)
        for name, stage in stages.items():
            now = (stage.ended, stage.added)
            if now == stage.told:
                continue
            percent = 100.0 * stage.ended / stage.added
            text = f"stage {name}: {stage.ended} of {stage.added} jobs"
            if stage.progress is None:
                shown = artifacts.Shown(artifacts.key(self._recipe, name, "progress"), "progress", percent, text)
                stage.progress = self._make_artifact(client, shown, name)
            else:
                client.update_artifact(stage.progress, ArtifactUpdate(data=percent, description=text))
            stage.told = now
        session = self._session
        if session.stages and session.finished != session.told:
            percent = 100.0 * session.finished / session.stages
            text = f"{session.finished} of {session.stages} stages"
            if session.progress is None:
                shown = artifacts.Shown(artifacts.key(self._recipe, "progress"), "progress", percent, text)
                session.progress = self._make_artifact(client, shown, None)
            else:
                client.update_artifact(session.progress, ArtifactUpdate(data=percent, description=text))
            session.told = session.finished
        for job in list(session.jobs.values()):
            job.look(time.time())


def _json(value: Any) -> str:
    import json

    return json.dumps(value)
