"""Dask workers that are pods of Kubernetes, with a scheduler that is one, too."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from concurrent.futures import CancelledError
from contextlib import suppress
from typing import Any

from surgeline.clusters import certificates
from surgeline.clusters.batch import Contact
from surgeline.clusters.daskcluster import DaskCluster
from surgeline.clusters.kubernetes import Kubernetes
from surgeline.errors import ClusterError
from surgeline.parallel.batchworkers import WORKER_MODULE, BatchWorkers
from surgeline.parallel.daskhelpers import within
from surgeline.parallel.dispatch import LOOK, Bundle
from surgeline.parallel.podscheduler import Answers, forget_worker
from surgeline.work.surroundings import Ask

_LOOK_SECONDS = 0.5
# How long a connection to a scheduler may take that is said to be there.
_CONNECT_SECONDS = 10.0


class PodWorkers(BatchWorkers):
    """Workers that are pods, asked for and given back as those of a queue are.

    A scheduler's pod that is lost comes again, and its workers with it: what ran there runs again.
    """

    place = "pod"

    def _announce(self) -> Contact:
        contact = Contact("", WORKER_MODULE, self._own_name, self._own_folder)
        manager = self._manager
        assert isinstance(manager, Kubernetes)
        self._answers: Answers | None = None
        # The one whose scheduler was lost, until there is another.
        self._lost_client: Any = None
        self._stopping = threading.Event()
        self._watcher = threading.Thread(target=self._watch_scheduler, name="watch-scheduler", daemon=True)
        self._security = certificates.make() if manager.settings.tls else None
        files = certificates.contents(self._security) if self._security else {}
        self._cluster_there = DaskCluster(manager, contact, self._threads, self._start_timeout, files)
        return contact

    def _open_scheduler(self) -> Any:
        self._cluster_there.open()
        return self._cluster_there

    def _close_scheduler(self) -> None:
        self._cluster_there.close()

    def _await_workers(self, *_: Any) -> None:
        self._watcher.start()

    def _new_client(self, ask: Ask | None) -> Any:
        from distributed import Client

        from surgeline.parallel.workerprocess import CasaWorker

        client = Client(
            self._cluster.scheduler_address,
            security=self._security,
            set_as_default=False,
            timeout=_CONNECT_SECONDS,
        )
        # What workers do of a scheduler that lived on, out of reach, has been taken for lost: they end when
        # this is taken from them, and their nannies start others. A new scheduler does not know it.
        with suppress(Exception):
            within(_CONNECT_SECONDS, lambda: client.unregister_worker_plugin(CasaWorker.name))
        if ask is not None:
            self._answers = Answers(client, ask)
        return client

    def close(self) -> None:
        """Delete all pods. Nothing is left behind."""
        self._stopping.set()
        if self._watcher.ident is not None:
            self._watcher.join()
        super().close()
        if self._answers is not None:
            self._answers.close()

    def _forget_worker(self, address: str) -> None:
        # One that is being replaced knows none of them.
        with suppress(Exception):
            forget_worker(self._client, address)

    def cancel(self, tickets: Iterable[str]) -> None:
        """Stop jobs; while the scheduler is away, those that ran there have ended already."""
        if self._client is self._lost_client:
            self._withdraw(set(tickets))
        else:
            super().cancel(tickets)

    def _start(self, bundle: Bundle) -> None:
        try:
            super()._start(bundle)
        except Exception:  # noqa: BLE001 - whatever Dask makes of a scheduler that went a moment ago
            bundle.handle = None
            self._news.put(bundle.key)

    def _receive(self, bundle: Bundle) -> None:
        client = bundle.handle.client if bundle.handle is not None else None
        if client is self._client and client is not self._lost_client:
            super()._receive(bundle)
        else:
            self._after_death(bundle.jobs, bundle.place[0], "the scheduler of its cluster was lost", blamed=False)

    def _watch_scheduler(self) -> None:
        """See to it that there is a scheduler, as long as the session lasts."""
        while not self._stopping.wait(_LOOK_SECONDS):
            if self._client.status != "running" or self._client is self._lost_client:
                self._replace_scheduler()

    def _lose_scheduler(self, client: Any) -> None:
        # Whoever notices first: nothing more is sent to workers that are lost with it.
        if client is not self._client:
            return
        self._lost_client = client
        with self._lock:
            gone = [worker.address for worker in self._crew]
        for address in gone:
            self._discharge(address)

    def _replace_scheduler(self) -> None:
        self._tell(f"the scheduler of cluster {self.cluster!r} is gone: what ran there runs again when it is back")
        before = self._client
        self._lose_scheduler(before)
        with suppress(Exception):
            before.close(timeout=1)
        while not self._stopping.is_set():
            try:
                self._cluster_there.open(self._stopping.is_set)
                self._client = self._connect()
            except (ClusterError, OSError, TimeoutError, CancelledError) as error:
                self._tell(f"it does not come back yet: {error}")
                self._stopping.wait(_CONNECT_SECONDS)
            else:
                self._lost_client = None
                self._news.put(LOOK)
                return
