"""Jobs one after the other in this process: the reference that parallel results must equal."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from time import time

from surgeline.errors import ClusterError
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.work.execution import execute
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.taskqueue import Deliver


class SerialBackend:
    """Runs jobs in a thread of this process, so that the main thread can go on watching for signals."""

    name = "serial"
    workers = 1

    def __init__(self, process: CasaProcess) -> None:
        process.prepare()
        self._quiet = errors_to(process.log_file.with_suffix(".out"))
        self._quiet.__enter__()
        self._folder = process.folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="serial")
        self._lock = threading.Lock()
        self._waiting: dict[str, Future[None]] = {}
        self._now: str | None = None
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
            self._now = ticket
        before = Path.cwd()
        os.chdir(self._folder)
        try:
            outcome = execute(job, "session")
        finally:
            os.chdir(before)
            with self._lock:
                self._now = None
                self._waiting.pop(ticket, None)
        deliver(outcome)

    @staticmethod
    def _tell_cancelled(done: Future[None], job: Job, deliver: Deliver) -> None:
        if done.cancelled():
            now = time()
            failure = Failure("cancelled", "it was cancelled before it began")
            deliver(Outcome(job.declared.name, str(job), failure=failure, started=now, ended=now))

    def running(self, ticket: str) -> bool:
        """Whether this is the job being worked on."""
        return self._now == ticket

    def cancel(self, tickets: Iterable[str]) -> None:
        """Drop jobs that have not begun; the one that runs cannot be stopped and ends by itself."""
        with self._lock:
            futures = [self._waiting[ticket] for ticket in tickets if ticket in self._waiting]
        for future in futures:
            future.cancel()

    def close(self) -> None:
        """Drop what waits, and wait for the job that runs."""
        with self._lock:
            self._closed = True
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._quiet.__exit__(None, None, None)
