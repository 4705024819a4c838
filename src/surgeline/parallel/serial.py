"""Jobs one after the other in this process: the reference that parallel results must equal."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from time import time
from types import MappingProxyType

import cloudpickle

from surgeline.errors import ClusterError
from surgeline.parallel.casampi_session import NestedSessions, NestedSettings
from surgeline.parallel.leftbehind import marked
from surgeline.parallel.mpiserver import SetUp
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.work.execution import execute
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.surroundings import Ask, Surroundings
from surgeline.work.taskqueue import Deliver


class SerialBackend:
    """Runs jobs in a thread of this process, so that the main thread can go on watching for signals."""

    name = "serial"
    workers = 1

    def __init__(
        self,
        process: CasaProcess,
        ask: Ask | None,
        nested: NestedSettings,
        mark: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Prepare this process.

        Args:
            process: how it runs CASA.
            ask: answers jobs that ask for facts of the session's context.
            nested: how MPI sessions are started for jobs that need one.
            mark: environment variables by which processes are known that jobs start.
        """
        process.prepare()
        set_up = SetUp(
            process.folder,
            process.log_file.parent,
            process.log_file.parent,
            process.casaconfig,
            process.threads,
            memory=None,
            asking=ask is not None,
            client_host="",
            client_process=0,
            own_cubes=False,
            prefix="session-",
        )
        self._nested = NestedSessions(nested, set_up)
        self._surroundings = Surroundings("session", ask)
        self.environments = {self._surroundings.environment_id: self._surroundings.environment}
        self._quiet = errors_to(process.log_file.with_suffix(".out"))
        self._quiet.__enter__()
        self._folder = process.folder
        self._mark = mark
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="serial")
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}
        self._now: tuple[str, Job, Deliver] | None = None
        self._abandoned = False
        self._closed = False

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Queue a job behind those before it, urgent or not: this process never has idle moments to fill."""
        ticket = uuid.uuid4().hex
        with self._lock:
            if self._closed:
                raise ClusterError(f"{job.declared.name} came after its backend was closed", "open a backend anew")
            future = self._thread.submit(self._run, ticket, job, deliver)
            self._waiting[ticket] = future
        future.add_done_callback(lambda done: self._tell_cancelled(done, job, deliver))
        return ticket

    def _run(self, ticket: str, job: Job, deliver: Deliver) -> None:
        with self._lock:
            self._now = (ticket, job, deliver)
        try:
            outcome = self._execute(job)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this job's outcome
            outcome = _failed(job, "exception", f"it could not be run: {type(error).__name__}: {error}")
        finally:
            with self._lock:
                abandoned = self._now is None
                self._now = None
                self._waiting.pop(ticket, None)
        if not abandoned:
            deliver(outcome)

    def _execute(self, job: Job) -> Outcome:
        if not job.declared.mpi:
            before = Path.cwd()
            os.chdir(self._folder)
            try:
                with marked(self._mark):
                    return execute(job, self._surroundings)
            finally:
                os.chdir(before)
        pickled = self._nested.execute_pickled(cloudpickle.dumps(job), self._surroundings)
        try:
            outcome: Outcome = cloudpickle.loads(pickled)
        except Exception as error:  # noqa: BLE001 - unpickling runs code of the value's own
            return _failed(job, "unpicklable", f"its value cannot be unpickled here: {type(error).__name__}: {error}")
        return replace(outcome, job=job.declared.name, call=str(job))

    def exec_everywhere(self, job: Job) -> list[Outcome]:
        """Run a job in this process, which is the only worker."""
        ended: SimpleQueue[Outcome] = SimpleQueue()
        self.submit(job, ended.put)
        return [ended.get()]

    @staticmethod
    def _tell_cancelled(done: Future[None], job: Job, deliver: Deliver) -> None:
        if done.cancelled():
            deliver(_cancelled(job, "it was cancelled before it began"))

    def running(self, ticket: str) -> bool:
        """Whether this is the job being worked on."""
        now = self._now
        return now is not None and now[0] == ticket

    def cancel(self, tickets: Iterable[str]) -> None:
        """Drop jobs that have not begun; the one that runs cannot be stopped, so it is left to itself."""
        named = set(tickets)
        with self._lock:
            futures = [future for ticket, future in self._waiting.items() if ticket in named]
            running = self._now if self._now is not None and self._now[0] in named else None
            if running is not None:
                self._now = None
                self._abandoned = True
        for future in futures:
            future.cancel()
        if running is not None:
            self._nested.stop_running()
            _, job, deliver = running
            deliver(_cancelled(job, "it was left to itself: CASA cannot be stopped inside this process"))

    def close(self) -> None:
        """Drop what waits, and wait for the job that runs unless it was left to itself."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=not self._abandoned, cancel_futures=True)
        self._nested.close()
        self._quiet.__exit__(None, None, None)


def _cancelled(job: Job, why: str) -> Outcome:
    return _failed(job, "cancelled", why)


def _failed(job: Job, kind: str, why: str) -> Outcome:
    now = time()
    return Outcome(job.declared.name, str(job), failure=Failure(kind, why), started=now, ended=now)
