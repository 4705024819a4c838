"""The Dask backend: start, use and stop a cluster."""

from __future__ import annotations

import logging
import queue
import signal
import tempfile
import threading
import time
import traceback
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import CancelledError
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import cloudpickle
import psutil

from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.errors import ClusterError
from surgeline.work.execution import execute_pickled
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Loss, Outcome
from surgeline.work.surroundings import Ask
from surgeline.work.taskqueue import Deliver

# How long the news of how a worker died may take to follow the news that it did.
_DEATH_NEWS_SECONDS = 3.0
# Jobs known to be shorter than this travel several at a time, up to so much work in one bundle.
_SHORT_JOB_SECONDS = 0.01
_BUNDLE_SECONDS = 0.05
_OUT_OF_MEMORY = "out of memory"
# Jobs that are not urgent wait until nothing has happened for so long: the next stage may be about to begin.
_LEISURE_SECONDS = 0.1
# Tells the collector, instead of a bundle's key, that there is a worker more, or work that is not urgent.
_LOOK = ""


@dataclass
class _Pending:
    """A job whose outcome has not been delivered yet."""

    ticket: str
    job: Job
    pickled: bytes
    deliver: Deliver
    losses: list[Loss] = field(default_factory=list)
    cancelled: bool = False


@dataclass
class _Bundle:
    """The jobs that one Dask task runs: one, or several short ones."""

    jobs: list[_Pending]
    future: Any


class DaskBackend:
    """Runs jobs on the workers of a Dask cluster.

    Jobs wait here, in the order added, and there are never more on their way than living workers: so a worker's
    death is blamed on the job that it ran, and on no other. A result leaves its worker as soon as it is there, and
    nothing of it is held on the cluster. A job whose worker died is run again, as often as configured; then it
    fails, and the failure says how the workers died.
    """

    name = "dask"

    def __init__(
        self,
        configuration: Configuration,
        cluster_name: str,
        folder: Path,
        logs: Path,
        lost: Callable[[str, Loss], None] | None = None,
        ask: Ask | None = None,
    ) -> None:
        """Start a cluster and connect to it.

        Args:
            configuration: the whole configuration.
            cluster_name: which of its named clusters.
            folder: the current directory of jobs.
            logs: where workers write their logs.
            lost: called with a job's name and its Loss when a worker dies running it.
            ask: answers jobs that ask for facts of the session's context.

        Raises:
            ClusterError: the cluster's type cannot be started, no worker came in time, or CASA does not start there.
        """
        from distributed import Client

        from surgeline.parallel.workerprocess import (
            EXIT_TOPIC,
            READY_TOPIC,
            CasaWorker,
            TellingNanny,
            answer_on_scheduler,
        )

        settings = configuration.settings
        kind = settings.clusters[cluster_name].type
        if kind != "local":
            raise ClusterError(
                f"cluster {cluster_name!r} is of type {kind!r}, and this version starts local clusters only",
                "name a cluster of `type: local`, or leave `cluster:` out",
            )
        asked = local.plan(configuration, cluster_name)
        self.workers = asked.workers
        self._memory = asked.memory
        self._retries = settings.dask.retries
        self._lost = lost
        self.environments: dict[str, Mapping[str, Any]] = {}
        self._lock = threading.RLock()
        self._waiting: deque[_Pending] = deque()
        self._leisure: deque[_Pending] = deque()
        self._sent: dict[str, _Bundle] = {}
        self._mean_seconds: dict[str, float] = {}
        self._done: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._alive: set[str] = set()
        self._closed = False
        self._deaths: dict[str, str] = {}
        self._death_news = threading.Condition()
        self._scratch = tempfile.TemporaryDirectory(prefix="surgeline-", ignore_cleanup_errors=True)
        logs.mkdir(parents=True, exist_ok=True)
        # Dask's own log is for those who debug Dask; what matters of it is told in outcomes.
        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
        try:
            self._cluster = local.start(asked, TellingNanny, Path(self._scratch.name))
        except Exception as error:
            self._scratch.cleanup()
            raise ClusterError(
                f"cluster {cluster_name!r} could not be started: {error}", "see dask.host and dask.dashboard_address"
            ) from error
        try:
            if ask is not None:
                answer_on_scheduler(self._cluster.scheduler, ask)
            self._client = Client(self._cluster, set_as_default=False)
            self._client.subscribe_topic(EXIT_TOPIC, self._hear_of_exit)
            self._client.subscribe_topic("worker-restart-memory", self._hear_of_memory)
            self._client.subscribe_topic(READY_TOPIC, self._hear_of_worker)
            self._client.subscribe_topic("all", self._hear_of_departure)
            self._client.register_plugin(CasaWorker(folder, logs, dict(settings.casaconfig), asked.threads))
            self._client.wait_for_workers(1, timeout=settings.dask.start_timeout)
            self._alive.update(self._client.scheduler_info(n_workers=-1)["workers"])
        except TimeoutError as error:
            self._cluster.close()
            raise ClusterError(
                f"no worker of cluster {cluster_name!r} came within {settings.dask.start_timeout:g} s",
                f"see {logs}; on a busy machine raise dask.start_timeout",
            ) from error
        except BaseException as error:
            self._cluster.close()
            if not isinstance(error, Exception):
                raise
            raise ClusterError(
                f"the workers of cluster {cluster_name!r} could not be set up for CASA: {error}",
                f"see {logs}, and `casaconfig:` in the configuration",
            ) from error
        self._collector = threading.Thread(target=self._collect, name="collect-results", daemon=True)
        self._collector.start()

    def submit(self, job: Job, deliver: Deliver, urgent: bool = True) -> str:
        """Queue a job for the cluster.

        Jobs that are not urgent are sent to workers for which there is no urgent one.

        Raises:
            ClusterError: the job cannot be pickled, or the cluster was stopped.
        """
        try:
            pickled = cloudpickle.dumps(job)
        except Exception as error:
            raise ClusterError(
                f"{job.declared.name} cannot travel to a worker: {error}",
                "its function and arguments have to pickle; open files, locks and tools inside the job instead",
            ) from error
        ticket = uuid.uuid4().hex
        with self._lock:
            if self._closed:
                raise ClusterError(f"{job.declared.name} came after its cluster was stopped", "open a backend anew")
            (self._waiting if urgent else self._leisure).append(_Pending(ticket, job, pickled, deliver))
            self._feed()
        if not urgent:
            self._done.put(_LOOK)
        return ticket

    def running(self, ticket: str) -> bool:
        """Whether a worker has been given the job."""
        with self._lock:
            return any(pending.ticket == ticket for bundle in self._sent.values() for pending in bundle.jobs)

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs; a worker that runs one of them is replaced, since CASA cannot be interrupted."""
        named = set(tickets)
        with self._lock:
            dropped = []
            for jobs in (self._waiting, self._leisure):
                dropped += [pending for pending in jobs if pending.ticket in named]
                kept = [pending for pending in jobs if pending.ticket not in named]
                jobs.clear()
                jobs.extend(kept)
            stopped = {
                key: bundle
                for key, bundle in self._sent.items()
                if any(pending.ticket in named for pending in bundle.jobs)
            }
            for bundle in stopped.values():
                for pending in bundle.jobs:
                    pending.cancelled = pending.ticket in named
        for pending in dropped:
            self._deliver_failure(pending, Failure("cancelled", "it was cancelled before it began"))
        busy = [address for address, keys in self._client.processing().items() if not stopped.keys().isdisjoint(keys)]
        # They are gone from here on: no other job is to share their fate.
        self._alive.difference_update(busy)
        self._client.cancel([bundle.future for bundle in stopped.values()], force=True)
        if busy:
            with suppress(TimeoutError, KeyError):
                self._client.restart_workers(busy, timeout=30, raise_for_error=False)

    def close(self) -> None:
        """Stop the cluster. A process that does not end by itself is killed; none is left behind."""
        with self._lock:
            self._closed = True
        workers = [child for child in psutil.Process().children(recursive=True) if _is_worker(child)]
        self._done.put(None)
        self._collector.join(timeout=30)
        with suppress(TimeoutError, OSError):
            self._client.close(timeout=5)
        with suppress(TimeoutError, OSError):
            self._cluster.close(timeout=20)
        _, alive = psutil.wait_procs(workers, timeout=2)
        for child in alive:
            with suppress(psutil.Error):
                child.kill()
        self._scratch.cleanup()

    def _feed(self) -> None:
        """Send waiting jobs to free workers; called with the lock held."""
        while self._waiting and len(self._sent) < len(self._alive):
            self._send(self._next_bundle())

    def _feed_at_leisure(self) -> None:
        """Send jobs that are not urgent to workers for which there is no urgent one; called with the lock held."""
        while not self._waiting and self._leisure and len(self._sent) < len(self._alive):
            self._send([self._leisure.popleft()])

    def _send(self, jobs: list[_Pending]) -> None:
        key = f"{jobs[0].job.declared.name}-{uuid.uuid4().hex}"
        # pure=False: jobs have side effects, so equal ones are not the same one.
        future = self._client.submit(_run_on_worker, [job.pickled for job in jobs], key=key, pure=False)
        self._sent[key] = _Bundle(jobs, future)
        future.add_done_callback(lambda done: self._done.put(done.key))

    def _next_bundle(self) -> list[_Pending]:
        jobs = [self._waiting.popleft()]
        name = jobs[0].job.declared.name
        seconds = self._mean_seconds.get(name, _SHORT_JOB_SECONDS)
        # Those that go together die together, and which of them was the cause shows when they are tried again.
        if seconds < _SHORT_JOB_SECONDS and self._retries > 0 and not jobs[0].losses:
            fair_share = len(self._waiting) // (2 * self.workers)
            most = min(fair_share, int(_BUNDLE_SECONDS / max(seconds, 1e-4)))
            while len(jobs) < most and self._waiting[0].job.declared.name == name and not self._waiting[0].losses:
                jobs.append(self._waiting.popleft())
        return jobs

    # The next four are called from Dask's event loop: they must not wait for Dask.

    def _hear_of_exit(self, event: tuple[float, Any]) -> None:
        message = event[1]
        with self._death_news:
            self._deaths.setdefault(message["worker"], _described(message["exitcode"]))
            self._death_news.notify_all()

    def _hear_of_memory(self, event: tuple[float, Any]) -> None:
        message = event[1]
        limit = f" of the {self._memory / 1e9:.2f} GB that it may use" if self._memory else ""
        with self._death_news:
            self._deaths[message["worker"]] = f"{_OUT_OF_MEMORY}: it used {message['rss'] / 1e9:.2f} GB{limit}"
            self._death_news.notify_all()

    def _hear_of_worker(self, event: tuple[float, Any]) -> None:
        message = event[1]
        self.environments[message["environment_id"]] = message["environment"]
        self._alive.add(message["worker"])
        self._done.put(_LOOK)

    def _hear_of_departure(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") == "remove-worker":
            self._alive.discard(event[1]["worker"])

    # What follows runs in the collector's thread.

    def _collect(self) -> None:
        """Deliver the outcomes of each bundle that ends, until the backend is closed."""
        while (key := self._next_news()) is not None:
            with self._lock:
                bundle = self._sent.pop(key, None)
            if bundle is not None:
                self._collect_bundle(bundle)
            # Only now: the worker's next job could take the result of this one with it.
            with self._lock:
                self._feed()
        with self._lock:
            left = [
                *self._waiting,
                *self._leisure,
                *(pending for bundle in self._sent.values() for pending in bundle.jobs),
            ]
            self._waiting.clear()
            self._leisure.clear()
            self._sent.clear()
        for pending in left:
            self._deliver_failure(pending, Failure("cancelled", "the cluster was stopped before it ended"))

    def _next_news(self) -> str | None:
        """Wait for what happens next; while nothing does, have work done that is not urgent."""
        while True:
            try:
                return self._done.get(timeout=_LEISURE_SECONDS if self._leisure else None)
            except queue.Empty:
                with self._lock:
                    self._feed_at_leisure()

    def _collect_bundle(self, bundle: _Bundle) -> None:
        from distributed import KilledWorker

        try:
            results = bundle.future.result()
        except KilledWorker as error:
            self._alive.discard(error.last_worker.address)
            self._after_death(bundle, error.last_worker.address)
        except CancelledError:
            for pending in bundle.jobs:
                if pending.cancelled:
                    self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))
            self._put_first([pending for pending in bundle.jobs if not pending.cancelled])
        # Whatever else it is, it is these jobs' outcome.
        except Exception as error:  # noqa: BLE001
            for pending in bundle.jobs:
                self._deliver_failure(pending, Failure("exception", f"it could not be run: {error!r}"))
        else:
            for pending, result in zip(bundle.jobs, results, strict=True):
                self._deliver_result(pending, result)
        bundle.future.release()

    def _deliver_result(self, pending: _Pending, result: bytes) -> None:
        name, call = pending.job.declared.name, str(pending.job)
        try:
            outcome: Outcome = cloudpickle.loads(result)
        except Exception as error:  # noqa: BLE001 - unpickling runs code of the value's own
            message = f"its value cannot be unpickled here: {type(error).__name__}: {error}"
            self._deliver_failure(pending, Failure("unpicklable", message, traceback.format_exc()))
            return
        seconds = outcome.ended - outcome.started
        self._mean_seconds[name] = 0.5 * (self._mean_seconds.get(name, seconds) + seconds)
        pending.deliver(replace(outcome, job=name, call=call, losses=tuple(pending.losses)))

    def _after_death(self, bundle: _Bundle, worker: str) -> None:
        """Run a dead worker's jobs again, or fail those that were retried often enough."""
        how = self._how_it_died(worker)
        again = []
        for pending in bundle.jobs:
            if pending.cancelled:
                self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))
                continue
            loss = Loss(worker, how, time.time())
            pending.losses.append(loss)
            if self._lost is not None:
                self._lost(pending.job.declared.name, loss)
            if len(pending.losses) > self._retries:
                kind = _OUT_OF_MEMORY if how.startswith(_OUT_OF_MEMORY) else "worker died"
                number = len(pending.losses)
                which = f"{number} workers died running it, the last one: " if number > 1 else "its worker died: "
                self._deliver_failure(pending, Failure(kind, which + how))
            else:
                again.append(pending)
        self._put_first(again)

    def _put_first(self, jobs: list[_Pending]) -> None:
        """Have jobs run again, before all others; what they have written so far is in their way."""
        for pending in jobs:
            pending.pickled = cloudpickle.dumps(pending.job.declare(overwrite=True))
        with self._lock:
            self._waiting.extendleft(reversed(jobs))

    def _how_it_died(self, worker: str) -> str:
        with self._death_news:
            self._death_news.wait_for(lambda: worker in self._deaths, timeout=_DEATH_NEWS_SECONDS)
            return self._deaths.get(worker, "its connection broke")

    def _deliver_failure(self, pending: _Pending, failure: Failure) -> None:
        if pending.cancelled:
            failure = Failure("cancelled", "it was cancelled")
        now = time.time()
        losses = tuple(pending.losses)
        job = pending.job
        pending.deliver(Outcome(job.declared.name, str(job), failure=failure, started=now, ended=now, losses=losses))


def _run_on_worker(pickled_jobs: list[bytes]) -> list[bytes]:
    from distributed import get_worker

    from surgeline.parallel.workerprocess import CasaWorker

    surroundings = get_worker().plugins[CasaWorker.name].surroundings
    return [execute_pickled(pickled, surroundings) for pickled in pickled_jobs]


def _described(exitcode: int | None) -> str:
    if exitcode is None:
        return "its process ended"
    if exitcode >= 0:
        return f"its process ended with exit code {exitcode}"
    return f"killed by signal {-exitcode} ({signal.Signals(-exitcode).name})"


def _is_worker(child: psutil.Process) -> bool:
    """Whether a child process is one of Dask's, rather than something that the caller started."""
    with suppress(psutil.Error):
        return "spawn_main" in " ".join(child.cmdline())
    return False
