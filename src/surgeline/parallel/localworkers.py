"""Dask workers that are children of the session's process."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType
from typing import Any

import psutil

from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.errors import ClusterError
from surgeline.parallel import workerpreload
from surgeline.parallel.casampi_session import NestedSettings, nested_settings, servers_asked
from surgeline.parallel.crew import Worker
from surgeline.parallel.daskhelpers import DaskBackend
from surgeline.parallel.dispatch import LOOK
from surgeline.parallel.mainscript import keep_main_out_of_workers
from surgeline.parallel.waiting import Pending
from surgeline.work.outcome import Loss
from surgeline.work.resources import Resources
from surgeline.work.surroundings import Ask
from surgeline.work.temporaryfolder import TemporaryFolder

# How long a nanny may take to replace a worker.
_REPLACEMENT_SECONDS = 60.0
# While there is none, how often it is seen whether one may come.
_LOOK_SECONDS = 1.0
# The states of a nanny that has no worker any more.
_OVER = ("closed", "closing", "failed")
_ANY_WORKER = Resources()


class LocalWorkers(DaskBackend):
    """A fixed number of workers, all alike; their nannies replace those that die."""

    def __init__(
        self,
        configuration: Configuration,
        cluster_name: str,
        folder: Path,
        logs: Path,
        lost: Callable[[str, Loss], None] | None = None,
        ask: Ask | None = None,
        tell: Callable[[str], None] | None = None,
        mark: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Start them: see `DaskBackend`; `mark` are variables that each of their processes begins with."""
        self._mark = mark
        self._plan = local.plan(configuration, cluster_name)
        self.workers = self._plan.workers
        self._scratch = TemporaryFolder()
        self._looking = threading.Event()
        super().__init__(configuration, cluster_name, folder, logs, lost, ask, tell)

    def close(self) -> None:
        """Stop the cluster. A process that does not end by itself is killed; none is left behind."""
        # Only its own: other sessions of this process have theirs, and whoever opened this may have children, too.
        own = {nanny.pid for nanny in self._cluster.workers.values()}
        workers = [child for child in psutil.Process().children() if child.pid in own]
        super().close()
        _, alive = psutil.wait_procs(workers, timeout=2)
        for child in alive:
            with suppress(psutil.Error):
                child.kill()

    def _start_cluster(self) -> Any:
        from surgeline.parallel.workerprocess import TellingNanny

        keep_main_out_of_workers()
        return local.start(self._plan, TellingNanny, self._scratch.path, [workerpreload.__name__], self._mark)

    def _await_workers(self, configuration: Configuration, cluster_name: str, logs: Path) -> None:
        seconds = configuration.settings.dask.start_timeout
        try:
            self._client.wait_for_workers(1, timeout=seconds)
        except TimeoutError as error:
            raise ClusterError(
                f"no worker of cluster {cluster_name!r} came within {seconds:g} s",
                f"see {logs}; on a busy machine raise dask.start_timeout",
            ) from error
        # Not with the lock held, which Dask's event loop may be waiting for.
        there = self._client.scheduler_info(n_workers=-1)["workers"]
        with self._lock:
            for address in there.keys() - self._departed:
                self._crew.join(self._recruit({"worker": address, "name": there[address]["name"]}))

    def _hopeless(self) -> str | None:
        """Whether all workers have ended so that Dask starts none again, as when one cannot read what it is sent."""
        if len(self._crew) or not (self._waiting or self._leisure):
            return None
        if all(nanny.status.name in _OVER for nanny in self._cluster.workers.values()):
            return "all workers have ended, and none is started again; their output is in the folder of logs"
        if not self._looking.is_set():
            # Those that are ending, or being replaced.
            self._looking.set()
            again = threading.Timer(_LOOK_SECONDS, self._look_again)
            again.daemon = True
            again.start()
        return None

    def _look_again(self) -> None:
        self._looking.clear()
        self._news.put(LOOK)

    def _clean_up(self) -> None:
        self._scratch.remove()

    def _recruit(self, message: Mapping[str, Any]) -> Worker:
        return Worker(message["worker"], str(message["name"]), "local", Resources(memory=self._plan.memory or None))

    def _memory_of_each(self) -> int | None:
        return self._plan.memory

    def _nested_settings(self, configuration: Configuration) -> NestedSettings:
        return nested_settings(configuration, self.workers)

    def _places(self, pending: Pending) -> int:
        """A job that needs MPI takes the cores of as many workers as it has servers."""
        if not pending.job.declared.mpi:
            return 1
        return min(servers_asked(pending.job, self._nested), max(len(self._crew), 1))

    def _asked(self, pending: Pending) -> Resources:
        # They share one machine and are all alike: what does not fit one fits none, and is tried.
        return _ANY_WORKER

    def _run_everywhere(self, pickled: bytes) -> Any:
        # One that is being replaced is waited for.
        with suppress(TimeoutError):
            self._client.wait_for_workers(self.workers, timeout=_REPLACEMENT_SECONDS)
        return super()._run_everywhere(pickled)
