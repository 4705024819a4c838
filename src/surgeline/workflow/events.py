"""What happens in a session as events for machines: one JSON object a line, of the models below.

Kinds and states are those of the feed that `surgeline serve` gives. Times are Unix times, durations seconds, memory
bytes. A field that is not known, or says nothing of such a state, is left out. Later versions may add fields and
kinds; they take none away and do not change what one means.
"""

from __future__ import annotations

import time
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from surgeline.parallel.workforce import Workforce
from surgeline.work.resources import Resources


class Event(BaseModel):
    """What all events have.

    Attributes:
        event: what kind it is.
        time: when it happened.
    """

    model_config = ConfigDict(extra="forbid")

    event: str
    time: float = Field(default_factory=time.time)


class SessionEvent(Event):
    """A run of a session begins, or has ended.

    Attributes:
        state: running: it begins; finished, failed or interrupted: it has ended so.
        stages: all stages of the recipe, in its order.
        finished: those that had finished before this run.
        workdir: the working folder.
        recipe: the recipe's name.
        process: the session's process.
        host: where that runs.
        surgeline: the version.
        seconds: how long the run took; of one that has ended.
        error: why it failed; of one that has.
    """

    event: Literal["session"] = "session"
    state: Literal["running", "finished", "failed", "interrupted"]
    stages: list[str]
    finished: list[str]
    workdir: str
    recipe: str
    process: int
    host: str
    surgeline: str
    seconds: float | None = None
    error: str | None = None


class StageEvent(Event):
    """A stage begins, or has ended.

    Attributes:
        name: the stage's.
        state: running: it begins; finished, failed or interrupted: it has ended so.
        needs: the stages that it waited for.
        jobs: how many jobs it had; of one that has ended.
        failed: how many of these failed.
        seconds: how long it took.
        error: why it failed; of one that has.
    """

    event: Literal["stage"] = "stage"
    name: str
    state: Literal["running", "finished", "failed", "interrupted"]
    needs: list[str]
    jobs: int | None = None
    failed: int | None = None
    seconds: float | None = None
    error: str | None = None


class JobEvent(Event):
    """A job was added, was seen to run, or has ended. Of short ones it is not seen that they run.

    Attributes:
        job: what tells it from all others of the run.
        name: what it is called.
        stage: whose it is.
        state: waiting: it was added; running: a worker has it; finished, failed or cancelled: it has ended so.
        call: the call that it is.
        resources: what it asks for: cores, memory, GPUs and walltime.
        expected: how long it is expected to run.
        started, ended: when it did.
        seconds: how long it ran.
        cpu_seconds: the processor time that it used.
        peak_memory: the largest resident size of its process.
        worker, host: where it ran.
        losses: how many workers had died running it before.
        error: why it failed; of one that has.
    """

    event: Literal["job"] = "job"
    job: str
    name: str
    stage: str
    state: Literal["waiting", "running", "finished", "failed", "cancelled"]
    call: str
    resources: Resources
    expected: float | None = None
    started: float | None = None
    ended: float | None = None
    seconds: float | None = None
    cpu_seconds: float | None = None
    peak_memory: int | None = None
    worker: str | None = None
    host: str | None = None
    losses: int | None = None
    error: str | None = None


class WorkerEvent(Event):
    """Workers are started, wait in a queue, came out of it, or one was lost.

    Attributes:
        state: starting; waiting: in a queue, while jobs wait for it, told when that begins and when the reason
            changes; came: out of the queue; lost: it died running a job.
        workers: how many it is told of; null: not said.
        cluster, kind: the cluster and the worker class; of those that wait or came.
        seconds: how long they are, or were, in the queue.
        reason: why they wait, in the scheduler's words; how one died.
        stages: the stages whose jobs wait for them.
        worker: the name of the one that was lost.
        job: the name of the job that it ran.
        description: what is started, in words.
    """

    event: Literal["worker"] = "worker"
    state: Literal["starting", "waiting", "came", "lost"]
    workers: int | None = None
    cluster: str | None = None
    kind: str | None = None
    seconds: float | None = None
    reason: str | None = None
    stages: list[str] = Field(default_factory=list)
    worker: str | None = None
    job: str | None = None
    description: str | None = None


class WorkersEvent(Event):
    """How many workers each cluster has, told when that has changed.

    Attributes:
        clusters: each cluster's name, and how many of its workers are there, starting, and waiting in a queue for
            which reason.
    """

    event: Literal["workers"] = "workers"
    clusters: list[Workforce]


class NoticeEvent(Event):
    """Something that a user wants to know.

    Attributes:
        text: what it is.
        stage: the stage that it is about; one that had finished and runs again, with the reason.
    """

    event: Literal["notice"] = "notice"
    text: str
    stage: str | None = None


class ErrorEvent(Event):
    """Why the command ends otherwise than well; the last line.

    Attributes:
        kind: the error, as the list of exit codes calls it.
        message: what happened.
        way_out: what to do about it.
        exit_code: with what the command ends.
    """

    event: Literal["error"] = "error"
    kind: str
    message: str
    way_out: str
    exit_code: int


KINDS: tuple[type[Event], ...] = (
    SessionEvent, StageEvent, JobEvent, WorkerEvent, WorkersEvent, NoticeEvent, ErrorEvent,
)  # fmt: skip
AnyEvent = Annotated[
    SessionEvent | StageEvent | JobEvent | WorkerEvent | WorkersEvent | NoticeEvent | ErrorEvent,
    Field(discriminator="event"),
]


def json_schema() -> dict[str, Any]:
    """The JSON Schema of a line."""
    return TypeAdapter(AnyEvent).json_schema(mode="serialization")
