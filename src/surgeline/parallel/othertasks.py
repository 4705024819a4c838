"""Dask tasks that others submit to a session's scheduler: each waits for its worker in the session's own queue.

So all that holds for jobs holds for them: which worker they get, how many workers there are, who is blamed for a
worker's death and how often they run again. Imported only where Dask already is.
"""

from __future__ import annotations

import asyncio
import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import dask
from dask.utils import key_split
from distributed import SchedulerPlugin, Worker
from distributed.comm import get_address_host
from distributed.protocol import pickle

from surgeline.clusters.daskoptions import dask_options
from surgeline.errors import ClusterError, SurgelineError
from surgeline.parallel.dispatch import Bundle
from surgeline.work.jobs import Declaration, Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.resources import Resources
from surgeline.work.taskqueue import Deliver

# A task may go to this address only, which no worker has, until it is its turn.
_NOWHERE = "nowhere"
# Dask itself is to let a task run again whenever it lost its worker: its losses are counted in the session's queue.
_FORGIVEN = 10**6
# What Dask's users call what a worker has to offer, and what it is here.
_NAMES = {
    **dict.fromkeys(("core", "cores", "cpu", "cpus"), "cores"),
    **dict.fromkeys(("gpu", "gpus"), "gpus"),
    "memory": "memory",
    "walltime": "walltime",
}


def asked_for(annotated: Mapping[str, float]) -> Resources:
    """What a task asks for by `dask.annotate(resources={"GPU": 1, "MEMORY": 8e9})`; memory in bytes, walltime in s.

    Raises:
        ValueError: no worker is known by such a thing.
    """
    asked: dict[str, int] = {}
    for name, amount in annotated.items():
        if name.lower() not in _NAMES:
            raise ValueError(f"it asks for {name!r}; a worker has CORES, MEMORY, GPU and WALLTIME")
        asked[_NAMES[name.lower()]] = math.ceil(amount)
    return Resources.model_validate(asked)


class ResultKeeper(Worker):  # type: ignore[misc]
    """Keeps the results of others' tasks in the session's process; it is given nothing to run.

    With a copy here, workers may go as soon as they have nothing to do, and what has run once never runs again.
    """


@dataclass(frozen=True)
class OthersTask(Job):
    """Stands for a task in the session's queue."""

    key: Any
    declared: Declaration

    def __str__(self) -> str:
        return f"{self.declared.name} ({self.key})"


@dataclass
class Attempt:
    """A task on its way to a worker, or there.

    Attributes:
        key: of the task.
        bundle: the key of its bundle in the session's queue.
        address: the worker.
        end: how it ended: with a result or an exception of its own; with its worker; since nobody wants it any more,
            or it is to be tried again; or before it began.
        over: set when it has ended.
        started: Unix time.
    """

    key: Any
    bundle: str
    address: str
    end: Literal["finished", "lost", "stopped", "gone"] = "gone"
    over: threading.Event = field(default_factory=threading.Event)
    started: float = field(default_factory=time.time)


# Told apart by identity: a task may be in the queue more than once in its life.
@dataclass(eq=False)
class _Entry:
    """A task's place in the session's queue."""

    key: Any
    ticket: str = ""


@dataclass
class _Known:
    """What is known of a task that Dask has not forgotten.

    Attributes:
        asked: what its worker has to offer, or why there is none.
        entry: its place in the queue; None while it has none.
        attempt: while it runs.
    """

    asked: Resources | str
    entry: _Entry | None = None
    attempt: Attempt | None = None


class OtherTasks(SchedulerPlugin):  # type: ignore[misc]
    """Puts others' tasks into the session's queue when they could run, and sends each to the worker that it got.

    All but `stands_for`, `send`, `knows` and what the queue calls back runs in the scheduler's event loop.
    """

    name = "surgeline-other-tasks"

    def __init__(
        self,
        cluster: Any,
        own_client: str,
        submit: Callable[[Job, Deliver], str],
        withdraw: Callable[[set[str]], object],
        ended: Callable[[str], None],
    ) -> None:
        """Prepare; `open` begins.

        Args:
            cluster: Dask's, with its scheduler in this process.
            own_client: the identifier of the session's own client, whose tasks are left alone.
            submit: puts a task into the session's queue.
            withdraw: takes tickets out of it.
            ended: told the key of each bundle that has ended.
        """
        self._cluster = cluster
        self._scheduler = cluster.scheduler
        self._own = own_client
        self._submit = submit
        self._withdraw = withdraw
        self._ended = ended
        self._known: dict[Any, _Known] = {}
        self._withdrawn: set[str] = set()
        self._keeping: set[asyncio.Task[None]] = set()

    async def open(self, port: int) -> None:
        """Begin, with a keeper of results that listens at that port of the scheduler's address; 0: at any."""
        with dask.config.set(dask_options(1)):
            self._keeper = ResultKeeper(
                self._cluster.scheduler_address,
                nthreads=1,
                name="results",
                host=get_address_host(self._cluster.scheduler_address),
                port=port,
                security=self._cluster.security,
                memory_limit=0,
                dashboard=False,
            )
            await self._keeper
        self._scheduler.add_plugin(self, name=self.name)

    async def end(self) -> None:
        """Keep nothing any more."""
        self._scheduler.remove_plugin(name=self.name)
        await self._keeper.close(nanny=False)

    # The next are called in the session's threads.

    def stands_for(self, job: Job) -> bool:
        """Whether a job in the queue is one of these tasks."""
        return isinstance(job, OthersTask)

    def knows(self, key: Any) -> bool:
        """Whether anybody still wants a task."""
        return key in self._known

    def send(self, bundle: Bundle) -> None:
        """Have a task run on the worker that was taken for it; does not wait for it."""
        task = bundle.jobs[0].job
        assert isinstance(task, OthersTask)
        bundle.handle = Attempt(task.key, bundle.key, bundle.place[0])
        self._cluster.loop.add_callback(self._begin, bundle.handle)

    def _deliver(self, entry: _Entry, outcome: Outcome) -> None:
        self._cluster.loop.add_callback(self._settle, entry, outcome.failure)

    # What follows runs in the scheduler's event loop.

    def update_graph(self, scheduler: Any, *, client: str, tasks: list[Any], **_: Any) -> None:
        """Called by Dask when tasks have come, before any of them is sent anywhere."""
        if client == self._own:
            return
        for key in tasks:
            task = scheduler.tasks[key]
            if key in self._known or task.run_spec is None:
                continue
            try:
                asked: Resources | str = asked_for(task.resource_restrictions or {})
            except ValueError as error:
                asked = str(error)
            self._known[key] = _Known(asked)
            task.resource_restrictions = task.host_restrictions = None
            task.worker_restrictions = {_NOWHERE}
            task.suspicious = -_FORGIVEN

    def transition(self, key: Any, start: str, finish: str, *_: Any, **__: Any) -> None:
        """Called by Dask when a task, of whomever, has come into another state."""
        known = self._known.get(key)
        # Where its worker is gone already, a task that is sent there stays what it is.
        if known is None or start == finish:
            return
        if start == "processing" and known.attempt is not None:
            attempt, known.attempt = known.attempt, None
            self._has_ended(known, attempt, finish)
        if finish == "no-worker" and known.entry is None:
            self._enqueue(key, known)
        elif start == "no-worker" and finish != "processing" and known.entry is not None:
            self._take_back(known.entry)
            known.entry = None
        if finish == "forgotten":
            del self._known[key]

    def _enqueue(self, key: Any, known: _Known) -> None:
        entry = known.entry = _Entry(key)
        try:
            if isinstance(known.asked, str):
                raise ClusterError(known.asked)
            declared = Declaration(f"Dask task {key_split(key)}", known.asked)
            entry.ticket = self._submit(OthersTask(key, declared), partial(self._deliver, entry))
        except SurgelineError as error:
            self._soon(self._settle, entry, Failure("not started", error.message))

    def _take_back(self, entry: _Entry) -> None:
        """Have a task leave the queue; many at once, since each time all that wait are looked at."""
        if not self._withdrawn:
            self._soon(self._take_all_back)
        self._withdrawn.add(entry.ticket)

    def _take_all_back(self) -> None:
        tickets, self._withdrawn = self._withdrawn, set()
        self._withdraw(tickets)

    def _begin(self, attempt: Attempt) -> None:
        known, task = self._known.get(attempt.key), self._scheduler.tasks.get(attempt.key)
        if known is None or known.attempt is not None or task is None or task.state != "no-worker":
            self._is_over(attempt, "gone")
            return
        known.attempt = attempt
        task.worker_restrictions = {attempt.address}
        self._scheduler.transitions({attempt.key: "processing"}, stimulus_id=attempt.bundle)
        if task.state == "no-worker":
            # Its worker went in the meantime.
            known.attempt = None
            self._is_over(attempt, "lost")

    def _has_ended(self, known: _Known, attempt: Attempt, state: str) -> None:
        task = self._scheduler.tasks[attempt.key]
        # A worker that takes its address later is another one.
        task.worker_restrictions = {_NOWHERE}
        if state not in ("memory", "erred") and attempt.address not in self._scheduler.workers:
            # Its entry stays: it goes back into the queue when it is known how its worker died.
            self._is_over(attempt, "lost")
            return
        known.entry = None
        if state == "memory":
            keeping = asyncio.get_running_loop().create_task(self._keep(attempt))
            self._keeping.add(keeping)
            keeping.add_done_callback(self._keeping.discard)
        else:
            self._is_over(attempt, "finished" if state == "erred" else "stopped")

    async def _keep(self, attempt: Attempt) -> None:
        """Copy a result to the keeper; until then its worker is not free."""
        try:
            task = self._scheduler.tasks.get(attempt.key)
            if task is not None and task.who_has:
                where = [worker.address for worker in task.who_has]
                await self._scheduler.gather_on_worker(self._keeper.address, {attempt.key: where})
        finally:
            self._is_over(attempt, "finished")

    def _is_over(self, attempt: Attempt, end: Literal["finished", "lost", "stopped", "gone"]) -> None:
        attempt.end = end
        attempt.over.set()
        # Not before Dask has come to rest: whether a task is still wanted shows then.
        self._soon(self._ended, attempt.bundle)

    def _settle(self, entry: _Entry, failure: Failure | None) -> None:
        """A task has left the session's queue for good."""
        known = self._known.get(entry.key)
        if known is None or known.entry is not entry:
            return
        known.entry = None
        task = self._scheduler.tasks[entry.key]
        if failure is None or task.state != "no-worker":
            return
        error = ClusterError(failure.message, failure.traceback)
        why = f"surgeline-failed-{time.time()}"
        follow = self._scheduler.transition(
            entry.key, "erred", exception=pickle.dumps(error), cause=entry.key, stimulus_id=why
        )
        self._scheduler.transitions(follow, stimulus_id=why)

    @staticmethod
    def _soon(call: Callable[..., object], *arguments: Any) -> None:
        asyncio.get_running_loop().call_soon(call, *arguments)
