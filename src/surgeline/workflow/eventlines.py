"""Tells a session as events for machines, one JSON object a line."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

import surgeline
from surgeline.errors import Interrupted
from surgeline.parallel.workforce import Workforce
from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.taskqueue import Backend
from surgeline.workflow.events import (
    Event,
    JobEvent,
    NoticeEvent,
    SessionEvent,
    StageEvent,
    WorkerEvent,
    WorkersEvent,
)
from surgeline.workflow.queuewatch import Arrival, Wait
from surgeline.workflow.tally import Tally

_SECONDS_BETWEEN_LOOKS = 0.5


class EventLines(Tally):
    """Writes each event when it happens; a reader that goes away is not missed."""

    def __init__(self, output: TextIO, workdir: Path, at_first_job: Callable[[], None] | None = None) -> None:
        """Take what is written to, and the session's working folder; `at_first_job`: see `Tally`."""
        super().__init__(at_first_job)
        self._output = output
        self._workdir = str(workdir.absolute())
        self._writing = threading.Lock()
        self._jobs: dict[str, tuple[str, Job]] = {}
        self._reasons: dict[tuple[str, str], str] = {}
        self._begun: SessionEvent | None = None
        self._end = threading.Event()
        self._watch = threading.Thread(target=self._look_for_running, name="events", daemon=True)

    def __enter__(self) -> Self:
        self._watch.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._end.set()
        self._watch.join()
        if self._begun is None:
            return
        interrupted = isinstance(error, Interrupted) or (error is not None and not isinstance(error, Exception))
        now = time.time()
        ended = {
            "time": now,
            "state": "finished" if error is None else "interrupted" if interrupted else "failed",
            "seconds": now - self._begun.time,
            "error": getattr(error, "message", str(error)) if error is not None else None,
        }
        self._write(self._begun.model_copy(update=ended))

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins."""
        super().began(stages, finished)
        self._begun = SessionEvent(
            state="running",
            stages=list(stages),
            finished=list(finished),
            workdir=self._workdir,
            recipe=self._recipe,
            process=os.getpid(),
            host=socket.gethostname(),
            surgeline=surgeline.__version__,
        )
        self._write(self._begun)

    def runs_again(self, stage: str, reason: str) -> None:
        """A stage that had finished runs again."""
        self._write(NoticeEvent(text=f"{stage} runs again: {reason}", stage=stage))

    def notice(self, text: str) -> None:
        """Something that a user wants to know happens."""
        self._write(NoticeEvent(text=text))

    def starting_workers(self, description: str) -> None:
        """Workers are being started."""
        self._write(WorkerEvent(state="starting", description=description))

    def stage_began(self, stage: str) -> None:
        """A stage begins."""
        super().stage_began(stage)
        self._write(StageEvent(name=stage, state="running", needs=list(self.stage(stage).needs)))

    def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has put a job into its queue."""
        self._jobs[ticket] = stage, job
        # Before anybody can see that it runs.
        self._write(_job_event(ticket, stage, job, state="waiting"))
        super().job_added(stage, ticket, job, backend)

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        super().job_ended(stage, ticket, outcome)
        job = self._jobs[ticket][1]
        failure = outcome.failure
        event = _job_event(
            ticket,
            stage,
            job,
            state="finished" if failure is None else "cancelled" if failure.kind == "cancelled" else "failed",
            started=outcome.started,
            ended=outcome.ended,
            seconds=max(outcome.ended - outcome.started, 0.0),
            cpu_seconds=outcome.cpu_seconds,
            peak_memory=outcome.peak_memory or None,
            worker=outcome.worker or None,
            host=outcome.host or None,
            losses=len(outcome.losses),
            error=failure.message if failure else None,
        )
        with self._writing:
            del self._jobs[ticket]
            self._put(event)

    def workers_wait(self, waits: Sequence[Wait]) -> None:
        """Stages wait for workers that wait in a queue."""
        super().workers_wait(waits)
        reasons = {(wait.cluster, wait.kind): wait.reason for wait in waits}
        for wait in waits:
            if self._reasons.get((wait.cluster, wait.kind)) != wait.reason:
                self._write(
                    WorkerEvent(
                        state="waiting",
                        workers=wait.workers,
                        cluster=wait.cluster,
                        kind=wait.kind,
                        seconds=wait.seconds,
                        reason=wait.explanation or wait.reason,
                        stages=list(wait.stages),
                    )
                )
        self._reasons = reasons

    def workers_came(self, arrival: Arrival) -> None:
        """Workers came out of a queue."""
        self._write(
            WorkerEvent(
                state="came",
                workers=arrival.workers,
                cluster=arrival.cluster,
                kind=arrival.kind,
                seconds=arrival.queued,
            )
        )

    def workers_counted(self, clusters: Sequence[Workforce]) -> None:
        """How many workers each cluster has."""
        super().workers_counted(clusters)
        self._write(WorkersEvent(clusters=list(clusters)))

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""
        super().worker_lost(job, loss)
        self._write(WorkerEvent(state="lost", workers=1, worker=loss.worker, job=job, reason=loss.how))

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""
        super().stage_ended(stage, error)
        line = self.stage(stage)
        assert line.state != "waiting" and line.ended is not None
        self._write(
            StageEvent(
                name=stage,
                state=line.state,
                needs=list(line.needs),
                jobs=line.jobs,
                failed=line.failed,
                seconds=line.ended - (line.began or line.ended),
                error=error,
            )
        )

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made."""
        self._write(NoticeEvent(text=f"the weblog could not be made: {error}"))

    def _look_for_running(self) -> None:
        while not self._end.wait(_SECONDS_BETWEEN_LOOKS):
            self.look()

    def _job_runs(self, ticket: str) -> None:
        with self._writing:
            # Nothing is told of a job after its end.
            if known := self._jobs.get(ticket):
                stage, job = known
                self._put(_job_event(ticket, stage, job, state="running", started=time.time()))

    def _write(self, event: Event) -> None:
        with self._writing:
            self._put(event)

    def _put(self, event: Event) -> None:
        with suppress(OSError, ValueError):
            self._output.write(event.model_dump_json(exclude_none=True) + "\n")
            self._output.flush()


def _job_event(ticket: str, stage: str, job: Job, **more: object) -> JobEvent:
    declared = job.declared
    expected = declared.seconds if declared.seconds is not None else declared.estimated_seconds
    content = {
        "job": ticket,
        "name": declared.name,
        "stage": stage,
        "call": str(job),
        "resources": declared.resources,
        "expected": expected,
        **more,
    }
    return JobEvent.model_validate(content)
