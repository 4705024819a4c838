"""The Dask backend: start, use and stop a cluster."""

from __future__ import annotations

import logging
import tempfile
import threading
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import CancelledError
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.errors import ClusterError
from surgeline.parallel import workerpreload
from surgeline.parallel.casampi_session import nested_settings, servers_asked
from surgeline.parallel.dispatch import LOOK, OUT_OF_MEMORY, Bundle, Dispatcher, described_exit
from surgeline.parallel.environment import without_mpi
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Loss
from surgeline.work.surroundings import Ask

# How long the news of how a worker died may take to follow the news that it did.
_DEATH_NEWS_SECONDS = 3.0
# How long a nanny may take to replace a worker.
_REPLACEMENT_SECONDS = 60.0


class DaskBackend(Dispatcher):
    """Runs jobs on the workers of a Dask cluster.

    A result leaves its worker as soon as it is there, and nothing of it is held on the cluster.
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
        super().__init__(settings.dask.retries, lost)
        self._memory = asked.memory
        self._nested = nested_settings(configuration, asked.workers)
        self._latest_nested = ""
        self._alive: set[str] = set()
        self._deaths: dict[str, str] = {}
        self._latest_address: dict[Any, str] = {}
        self._death_news = threading.Condition()
        self._scratch = tempfile.TemporaryDirectory(prefix="surgeline-", ignore_cleanup_errors=True)
        logs.mkdir(parents=True, exist_ok=True)
        # Dask's own log is for those who debug Dask; what matters of it is told in outcomes.
        logging.getLogger("distributed").setLevel(logging.CRITICAL + 1)
        try:
            with without_mpi():
                self._cluster = local.start(asked, TellingNanny, Path(self._scratch.name), [workerpreload.__name__])
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
            self._client.register_plugin(
                CasaWorker(folder, logs, dict(settings.casaconfig), asked.threads, asked.memory, self._nested)
            )
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
        self._collector.start()

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs; a worker that runs one of them is replaced, since CASA cannot be interrupted."""
        stopped = self._withdraw(set(tickets))
        busy = [address for address, keys in self._client.processing().items() if not stopped.keys().isdisjoint(keys)]
        # They are gone from here on: no other job is to share their fate.
        self._alive.difference_update(busy)
        self._client.cancel([bundle.handle for bundle in stopped.values()], force=True)
        if busy:
            with suppress(TimeoutError, KeyError):
                self._client.restart_workers(busy, timeout=30, raise_for_error=False)

    def close(self) -> None:
        """Stop the cluster. A process that does not end by itself is killed; none is left behind."""
        workers = [child for child in psutil.Process().children(recursive=True) if _is_worker(child)]
        self._stop_collecting()
        with suppress(TimeoutError, OSError):
            self._client.close(timeout=5)
        with suppress(TimeoutError, OSError):
            self._cluster.close(timeout=20)
        _, alive = psutil.wait_procs(workers, timeout=2)
        for child in alive:
            with suppress(psutil.Error):
                child.kill()
        self._scratch.cleanup()

    def _living(self) -> int:
        return len(self._alive)

    def _start(self, bundle: Bundle) -> None:
        pickled = [pending.pickled for pending in bundle.jobs]
        mpi = bundle.jobs[0].job.declared.mpi
        # An MPI session that is idle there saves the next one's start.
        near = [self._latest_nested] if mpi and self._latest_nested in self._alive else None
        # pure=False: jobs have side effects, so equal ones are not the same one.
        bundle.handle = self._client.submit(
            _run_on_worker,
            pickled,
            mpi,
            key=bundle.key,
            pure=False,
            workers=near,
            allow_other_workers=near is not None,
        )
        bundle.handle.add_done_callback(lambda done: self._news.put(done.key))

    def _places(self, job: Job) -> int:
        return servers_asked(job, self._nested) if job.declared.mpi else 1

    def _run_everywhere(self, pickled: bytes) -> Sequence[bytes]:
        # One that is being replaced is waited for.
        with suppress(TimeoutError):
            self._client.wait_for_workers(self.workers, timeout=_REPLACEMENT_SECONDS)
        found = self._client.run(_run_directly, pickled)
        return [found[address] for address in sorted(found)]

    # The next four are called from Dask's event loop: they must not wait for Dask.

    def _hear_of_exit(self, event: tuple[float, Any]) -> None:
        message = event[1]
        with self._death_news:
            # One that dies as soon as it has an address dies before its nanny knows that; which then tells none, or
            # that of the one before.
            worker = self._latest_address.get(message["name"]) or message["worker"] or ""
            self._deaths.setdefault(worker, described_exit(message["exitcode"]))
            self._death_news.notify_all()

    def _hear_of_memory(self, event: tuple[float, Any]) -> None:
        message = event[1]
        limit = f" of the {self._memory / 1e9:.2f} GB that it may use" if self._memory else ""
        with self._death_news:
            self._deaths[message["worker"]] = f"{OUT_OF_MEMORY}: it used {message['rss'] / 1e9:.2f} GB{limit}"
            self._death_news.notify_all()

    def _hear_of_worker(self, event: tuple[float, Any]) -> None:
        message = event[1]
        self.environments[message["environment_id"]] = message["environment"]
        self._latest_address[message["name"]] = message["worker"]
        self._alive.add(message["worker"])
        self._news.put(LOOK)

    def _hear_of_departure(self, event: tuple[float, Any]) -> None:
        if isinstance(event[1], dict) and event[1].get("action") == "remove-worker":
            self._alive.discard(event[1]["worker"])

    # What follows runs in the collector's thread.

    def _receive(self, bundle: Bundle) -> None:
        from distributed import KilledWorker

        try:
            worker, results = bundle.handle.result()
        except KilledWorker as error:
            self._alive.discard(error.last_worker.address)
            worker = error.last_worker.address
            self._after_death(bundle.jobs, worker, self._how_it_died(worker))
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
            if bundle.jobs[0].job.declared.mpi:
                self._latest_nested = worker
            self._deliver_results(bundle, results)
        bundle.handle.release()

    def _how_it_died(self, worker: str) -> str:
        with self._death_news:
            self._death_news.wait_for(lambda: worker in self._deaths, timeout=_DEATH_NEWS_SECONDS)
            return self._deaths.get(worker, "its connection broke")


def _run_on_worker(pickled_jobs: list[bytes], mpi: bool) -> tuple[str, list[bytes]]:
    """Run jobs on the Dask worker that this is; its address, and their outcomes."""
    from distributed import get_worker

    from surgeline.parallel.workerprocess import CasaWorker

    worker = get_worker()
    return worker.address, worker.plugins[CasaWorker.name].run(pickled_jobs, mpi)


def _run_directly(pickled: bytes, dask_worker: Any) -> bytes:
    from surgeline.parallel.workerprocess import CasaWorker

    results: list[bytes] = dask_worker.plugins[CasaWorker.name].run([pickled], mpi=False)
    return results[0]


def _is_worker(child: psutil.Process) -> bool:
    """Whether a child process is one of Dask's, rather than something that the caller started."""
    with suppress(psutil.Error):
        return "spawn_main" in " ".join(child.cmdline())
    return False
