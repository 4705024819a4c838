"""What is known of a session while it runs: its stages, jobs and workers, and the time that is left."""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from pydantic import BaseModel

from surgeline.parallel.workforce import Workforce
from surgeline.work.estimates import Estimates
from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.taskqueue import Backend
from surgeline.workflow.observer import Observer
from surgeline.workflow.queuewatch import Wait
from surgeline.workflow.timeleft import Expectation, of_stages, time_left

# Backends are not asked more often which jobs run.
_LOOK_SECONDS = 0.5
# So many names of running jobs are worth telling of a stage.
_MOST_NAMES = 3

State = Literal["waiting", "running", "finished", "failed", "interrupted"]


class StageNow(BaseModel):
    """A stage at a moment.

    Attributes:
        name: the stage's.
        state: waiting, running, finished, failed or interrupted.
        before: it had finished before this run.
        needs: the stages that it waits for.
        began, ended: Unix times.
        jobs, done: how many jobs it has so far, and how many of them have ended.
        failed, stopped: how many of these failed, and how many were cancelled.
        working: how many run.
        names: the names of some that run.
        lost: how many workers died running one of its jobs, which are then tried again.
        waits: what its jobs wait for in queues.
    """

    name: str
    state: State = "waiting"
    before: bool = False
    needs: tuple[str, ...] = ()
    began: float | None = None
    ended: float | None = None
    jobs: int = 0
    done: int = 0
    failed: int = 0
    stopped: int = 0
    working: int = 0
    names: tuple[str, ...] = ()
    lost: int = 0
    waits: tuple[str, ...] = ()


class Now(BaseModel):
    """A session at a moment.

    Attributes:
        time: when that was (Unix time).
        began: when this run began.
        stages: every stage, in the order of the recipe.
        workers: the workers of each cluster.
        lost: how many workers died running a job.
        left: the time that is left, in words; empty where nothing is known of it.
    """

    time: float
    began: float
    stages: tuple[StageNow, ...] = ()
    workers: tuple[Workforce, ...] = ()
    lost: int = 0
    left: str = ""


@dataclass(slots=True)
class _Pending:
    """A job that has not ended: what it is called, how long it may take, and since when it runs."""

    stage: str
    name: str
    seconds: float | None
    backend: Backend = field(repr=False)
    running: float | None = None


class Tally(Observer):
    """Counts what a session tells. Threads share it."""

    def __init__(self, at_first_job: Callable[[], None] | None = None) -> None:
        """Begin with nothing; `at_first_job` is called when the first job goes to its backend."""
        self._at_first_job = at_first_job
        self._lock = threading.Lock()
        self._began = time.time()
        self._stages: dict[str, StageNow] = {}
        # Jobs that have not ended: all, and those that run. There may be many thousands that wait: of these it is
        # counted how many may take how long, so that nobody who looks goes through them.
        self._pending: dict[str, _Pending] = {}
        self._running: dict[str, _Pending] = {}
        self._waiting: Counter[float | None] = Counter()
        self._waits: Sequence[Wait] = ()
        self._workers: Sequence[Workforce] = ()
        self._most_at_once = 0
        self._lost = 0
        self._looked = 0.0
        self._estimates: Estimates | None = None
        self._recipe = ""
        self._needs: Mapping[str, tuple[str, ...]] = {}
        self._stopping = False

    def stop(self) -> None:
        """The session is told to stop: what ends with an error from now on has not failed."""
        self._stopping = True

    def know(self, recipe: str, needs: Mapping[str, tuple[str, ...]], estimates: Estimates) -> None:
        """Tell which recipe it is, which stages wait for which, and what earlier sessions took."""
        self._recipe, self._needs, self._estimates = recipe, needs, estimates

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins with these stages, some of which had finished before."""
        with self._lock:
            for name in stages:
                before = name in finished
                state: State = "finished" if before else "waiting"
                self._stages[name] = StageNow(name=name, state=state, before=before, needs=self._needs.get(name, ()))

    def stage_began(self, stage: str) -> None:
        """A stage's heuristics begin."""
        with self._lock:
            needs = self._needs.get(stage, ())
            self._stages[stage] = StageNow(name=stage, state="running", needs=needs, began=time.time())

    def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has put a job into its queue."""
        declared = job.declared
        seconds = declared.seconds if declared.seconds is not None else declared.estimated_seconds
        if self._at_first_job is not None:
            self._at_first_job()
            self._at_first_job = None
        with self._lock:
            self._stages[stage].jobs += 1
            self._pending[ticket] = _Pending(stage, declared.name, seconds, backend)
            self._waiting[seconds] += 1
            self._most_at_once = max(self._most_at_once, backend.workers)

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""
        with self._lock:
            line = self._stages[stage]
            line.done += 1
            cancelled = outcome.failure is not None and outcome.failure.kind == "cancelled"
            line.failed += not outcome.ok and not cancelled
            line.stopped += cancelled
            self._drop(ticket)

    def workers_wait(self, waits: Sequence[Wait]) -> None:
        """Stages wait for workers that wait in a queue."""
        with self._lock:
            self._waits = tuple(waits)

    def workers_counted(self, clusters: Sequence[Workforce]) -> None:
        """How many workers each cluster has."""
        with self._lock:
            self._workers = tuple(clusters)

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""
        with self._lock:
            self._lost += 1
            for ticket, pending in self._running.items():
                if pending.name == job:
                    # It waits again.
                    pending.running = None
                    del self._running[ticket]
                    self._waiting[pending.seconds] += 1
                    self._stages[pending.stage].lost += 1
                    break

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""
        with self._lock:
            line = self._stages[stage]
            line.state = "finished" if error is None else "interrupted" if self._stopping else "failed"
            line.ended = time.time()

    def stage(self, name: str) -> StageNow:
        """A stage as it is now, without what has to be looked for."""
        with self._lock:
            return self._stages[name].model_copy()

    def look(self) -> None:
        """See which jobs run by now."""
        with self._lock:
            waiting = [(ticket, job) for ticket, job in self._pending.items() if job.running is None]
        for ticket, job in waiting:
            # Backends may be slow to answer, and must not be asked with the lock held.
            if job.backend.running(ticket):
                with self._lock:
                    # It may have ended meanwhile.
                    if ticket not in self._pending:
                        continue
                    job.running = time.time()
                    self._running[ticket] = job
                    self._discount(job.seconds)
                self._job_runs(ticket)

    def _drop(self, ticket: str) -> None:
        """A job has ended; called with the lock held."""
        job = self._pending.pop(ticket, None)
        if self._running.pop(ticket, None) is None and job is not None:
            self._discount(job.seconds)

    def _discount(self, seconds: float | None) -> None:
        """A job that may take so long waits no more; called with the lock held."""
        self._waiting[seconds] -= 1
        if not self._waiting[seconds]:
            del self._waiting[seconds]

    def _job_runs(self, ticket: str) -> None:
        """A job was seen to run that had not been before."""

    def now(self) -> Now:
        """The session as it is now."""
        moment = time.time()
        if moment - self._looked > _LOOK_SECONDS:
            self._looked = moment
            self.look()
        with self._lock:
            jobs = [Expectation(seconds, number=number) for seconds, number in self._waiting.items()]
            running: dict[str, list[str]] = defaultdict(list)
            for job in self._running.values():
                running[job.stage].append(job.name)
                jobs.append(Expectation(job.seconds, moment - (job.running or moment)))
            stages = tuple(self._with_jobs(stage, running[stage.name]) for stage in self._stages.values())
            workers = tuple(self._workers)
        at_once = sum(cluster.there for cluster in workers) or self._most_at_once
        ahead = [stage.name for stage in stages if stage.state == "waiting"]
        known = of_stages(self._estimates, self._recipe, ahead) if self._estimates else [(None, None)] * len(ahead)
        runs = any(stage.state == "running" for stage in stages)
        left = str(time_left(jobs, known, at_once)) if runs else ""
        return Now(time=moment, began=self._began, stages=stages, workers=workers, lost=self._lost, left=left)

    def _with_jobs(self, stage: StageNow, names: Sequence[str]) -> StageNow:
        return stage.model_copy(
            update={
                "working": len(names),
                "names": tuple(names[:_MOST_NAMES]),
                "waits": tuple(str(wait) for wait in self._waits if stage.name in wait.stages),
            }
        )
