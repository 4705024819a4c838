"""The choice of backend, made here and nowhere else."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Self

from surgeline.clusters import local
from surgeline.clusters.batch import settings_of
from surgeline.config import Configuration, load
from surgeline.errors import ClusterError
from surgeline.parallel.environment import Role, check_client, role
from surgeline.parallel.foresight import NOTHING_MORE, Foreseen
from surgeline.parallel.workforce import Workforce
from surgeline.paths import casa_log
from surgeline.work.casapaths import check_folder
from surgeline.work.casaprocess import CasaProcess
from surgeline.work.outcome import Loss
from surgeline.work.surroundings import Ask
from surgeline.work.taskqueue import Backend

if TYPE_CHECKING:
    from surgeline.clusters.fleet import Fleet
    from surgeline.parallel.batchworkers import BatchWorkers
    from surgeline.parallel.mpihelpers import MpiBackend

# What runs jobs where no cluster does.
_WITHOUT_CLUSTER = {"serial": "this process", "mpi": "the MPI session"}


def choose(configuration: Configuration, cluster: str | None = None, asked: str | None = None) -> tuple[str, str]:
    """Say which backend jobs go through, and why.

    Args:
        configuration: the user's configuration.
        cluster: the named cluster that is asked for, if one is.
        asked: the backend that a stage asks for, if it does.

    Raises:
        ClusterError: that backend cannot be started by a process such as this one.
    """
    settings = configuration.settings
    found = role()
    configured = settings.backend if settings.backend != "auto" else None
    wanted = asked or configured
    if found in (Role.MPI_SERVER, Role.DASK_WORKER):
        if wanted in ("dask", "mpi"):
            raise ClusterError(
                f"this process runs jobs, as {found.with_article}, and starts no workers (backend: {wanted})",
                "give the jobs to the task queue of the session's own process",
            )
        return "serial", f"this process is {found.with_article}, and starts no workers"
    if wanted == "mpi":
        check_client()
    if wanted is not None:
        return wanted, f"the {'stage' if asked else 'configuration'} says backend: {wanted}"
    if found is Role.MPI_CLIENT:
        if cluster is not None:
            return "dask", f"the stage names the cluster {cluster!r}"
        if settings.mpi.dask_beside:
            return "dask", "the configuration says mpi.dask_beside"
        return "mpi", "this process is the client of an MPI session"
    name = cluster or settings.dask.cluster
    if settings.clusters[name].type == "local" and local.plan(configuration, name).workers == 1:
        return "serial", "one local worker would gain nothing"
    return "dask", f"cluster {name!r} has several workers"


class Backends:
    """The backends of one session: each is opened when it is first asked for, and all are closed together.

    In an MPI session, jobs that need MPI go to its servers, whichever backend runs the others.
    """

    def __init__(
        self,
        configuration: Configuration,
        folder: Path,
        logs: Path,
        lost: Callable[[str, Loss], None] | None = None,
        ask: Ask | None = None,
        starting: Callable[[str], None] | None = None,
        tell: Callable[[str], None] | None = None,
        mark: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        """Prepare; nothing is started.

        Args:
            configuration: the whole configuration.
            folder: the current directory of jobs.
            logs: where CASA and workers log.
            lost: called with a job's name and its Loss when a worker dies running it.
            ask: answers jobs that ask for facts of the session's context; called in threads of its own.
            starting: called with a description of the workers that are about to be started.
            tell: called with what a user wants to know.
            mark: environment variables by which processes are known in which jobs run on this machine.

        Raises:
            WorkfolderError: CASA cannot work in that folder.
        """
        check_folder(folder)
        self._configuration = configuration
        self._folder = folder
        self._logs = logs
        self._lost = lost
        self._ask = ask
        self._starting = starting or (lambda _: None)
        self._tell = tell or (lambda _: None)
        self._mark = mark
        self._opening = threading.Lock()
        self._opened: dict[str, Backend] = {}
        self._mpi: MpiBackend | None = None
        # The clusters with a queue that are open, by name.
        self.surging: dict[str, BatchWorkers] = {}
        # Of all others that were opened, how many workers each has, and when (Unix time) these were ready.
        self.standing: list[tuple[int, float]] = []
        # Local workers that are being started.
        self._local_to_come: list[Workforce] = []
        self._closed = False

    def foresee(self, foreseen: Mapping[str, Foreseen]) -> None:
        """Tell clusters with a queue what comes next, by their names; those that are not open are opened.

        Raises:
            ClusterError: a workload manager refuses workers, in its own words.
        """
        for name in foreseen:
            self.get(name)
        for name, workers in list(self.surging.items()):
            workers.foresee(foreseen.get(name, NOTHING_MORE))

    def get(self, cluster: str | None = None, asked: str | None = None) -> Backend:
        """The backend for jobs of a cluster, started if need be; see `choose`.

        Raises:
            ClusterError: the workers could not be started.
        """
        with self._opening:
            if self._closed:
                raise ClusterError("the session is stopping", "go on with it: surgeline resume")
            kind, _ = choose(self._configuration, cluster, asked)
            mpi = self._get("mpi", self._open_mpi) if role() is Role.MPI_CLIENT else None
            if kind == "mpi":
                assert mpi is not None
                return mpi
            if kind == "serial":
                others = self._get("serial", self._open_serial)
            else:
                name = cluster or self._configuration.settings.dask.cluster
                others = self._get(f"dask {name}", lambda: self._open_dask(name))
            if mpi is None:
                return others
            from surgeline.parallel.beside import MpiBeside

            return MpiBeside(others, mpi)

    @property
    def workers(self) -> int:
        """How many workers there are in all."""
        return sum(backend.workers for backend in self._opened.values())

    def workforce(self) -> list[Workforce]:
        """The workers of each cluster that is open, as they are now."""
        found = list(self._local_to_come)
        for key, backend in list(self._opened.items()):
            name = key.removeprefix("dask ")
            if name in self.surging:
                found.append(_of_queue(name, self.surging[name].fleet))
            else:
                found.append(Workforce(_WITHOUT_CLUSTER.get(key, name), backend.workers))
        return found

    def doing(self) -> dict[str, str]:
        """Which jobs each busy server of an MPI session has."""
        return self._mpi.doing() if self._mpi is not None else {}

    def close(self) -> None:
        """Stop all workers."""
        self.refuse()
        for backend in self._opened.values():
            backend.close()
        self._opened.clear()

    def refuse(self) -> None:
        """Start nothing any more."""
        self._closed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _get(self, key: str, start: Callable[[], Backend]) -> Backend:
        if key not in self._opened:
            self._opened[key] = start()
            if key.removeprefix("dask ") not in self.surging:
                self.standing.append((self._opened[key].workers, time.time()))
        return self._opened[key]

    def _open_serial(self) -> Backend:
        from surgeline.parallel.casampi_session import nested_settings
        from surgeline.parallel.serial import SerialBackend

        self._starting("this process")
        settings = self._configuration.settings
        log = casa_log(self._logs, "session")
        process = CasaProcess(self._folder, log, settings.casaconfig, settings.worker.threads)
        cores = local.plan(self._configuration, settings.dask.cluster).workers
        return SerialBackend(process, self._ask, nested_settings(self._configuration, cores), self._mark)

    def _open_dask(self, name: str) -> Backend:
        if self._configuration.settings.clusters[name].has_queue:
            return self._open_batch(name)
        from surgeline.parallel.localworkers import LocalWorkers

        asked = local.plan(self._configuration, name)
        self._starting(str(asked))
        self._local_to_come = [Workforce(name, 0, asked.workers)]
        try:
            return LocalWorkers(
                self._configuration, name, self._folder, self._logs, self._lost, self._ask, self._tell, self._mark
            )
        finally:
            self._local_to_come = []

    def _open_batch(self, name: str) -> Backend:
        from surgeline.parallel.batchworkers import BatchWorkers
        from surgeline.parallel.podworkers import PodWorkers
        from surgeline.parallel.poolworkers import PoolWorkers

        kind = self._configuration.settings.clusters[name].type
        own: dict[str, type[BatchWorkers]] = {"kubernetes": PodWorkers, "prefect": PoolWorkers}
        workers = own.get(kind, BatchWorkers)(
            self._configuration, name, self._folder, self._logs, self._lost, self._ask, self._tell
        )
        self.surging[name] = workers
        backend = self._bringing(workers, name)
        otherwise = workers.otherwise
        if otherwise is None:
            return backend
        from surgeline.parallel.otherwise import Otherwise

        return Otherwise(backend, lambda: self.get(otherwise), self._tell)

    def _bringing(self, workers: Backend, name: str) -> Backend:
        """The same workers, brought the files of their jobs where they do not share the session's."""
        settings = settings_of(self._configuration, name)
        if settings.data is None:
            return workers
        from surgeline.parallel.bringing import Bringing, own_store

        store = own_store(settings.data, settings.data_options)
        try:
            return Bringing(
                workers, store, self._folder, self._logs, settings.data_cache, settings.reachable, self._tell
            )
        except BaseException:
            del self.surging[name]
            workers.close()
            raise

    def _open_mpi(self) -> Backend:
        from surgeline.parallel.mpihelpers import MpiBackend

        self._starting("the servers of the MPI session")
        self._mpi = MpiBackend(self._configuration, self._folder, self._logs, self._lost, self._ask)
        return self._mpi


def _of_queue(name: str, fleet: Fleet) -> Workforce:
    alive = [berth for berth in fleet.berths() if berth.alive]
    there = sum(berth.state == "running" and berth.came is not None for berth in alive)
    waiting = [berth.kind for berth in alive if berth.state == "waiting"]
    reasons = dict.fromkeys(reason for kind in dict.fromkeys(waiting) if (reason := fleet.reason(kind)))
    return Workforce(name, there, len(alive) - there - len(waiting), len(waiting), "; ".join(reasons))


def open_backend(
    configuration: Configuration | None = None,
    cluster: str | None = None,
    folder: Path | None = None,
    logs: Path | None = None,
    lost: Callable[[str, Loss], None] | None = None,
    ask: Ask | None = None,
) -> Backend:
    """Start a backend: the workers of a cluster, the servers of an MPI session, or this process alone.

    Args:
        configuration: the user's configuration unless given.
        cluster: one of the configuration's named clusters; its `dask.cluster` unless given.
        folder: the current directory of jobs; this process's unless given.
        logs: where CASA and workers log; `folder/logs` unless given.
        lost: called with a job's name and its Loss when a worker dies running it.
        ask: answers jobs that ask for facts of the session's context; called in threads of its own.

    Raises:
        ClusterError: the workers could not be started.
    """
    folder = (folder or Path.cwd()).resolve()
    backends = Backends(configuration or load(), folder, logs or folder / "logs", lost, ask)
    return backends.get(cluster)
