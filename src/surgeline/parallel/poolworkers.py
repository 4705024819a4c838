"""Dask workers that are flow runs of a Prefect work pool."""

from __future__ import annotations

import socket
import threading
from collections.abc import Mapping
from typing import Any

from surgeline.clusters import poolruns
from surgeline.clusters.poolruns import FLOW
from surgeline.clusters.prefectapi import PATIENT_RETRIES
from surgeline.clusters.workpool import WorkPool
from surgeline.errors import ClusterError
from surgeline.parallel.batchworkers import BatchWorkers
from surgeline.parallel.crew import Worker

_CONNECT_SECONDS = 10.0


class PoolWorkers(BatchWorkers):
    """Workers that are flow runs, asked for and given back as those of a queue are."""

    place = "flow run"

    def _recruit(self, message: Mapping[str, Any]) -> Worker:
        worker = super()._recruit(message)
        threading.Thread(target=self._reach, args=(worker.address,), name="reach", daemon=True).start()
        return worker

    def _reach(self, address: str) -> None:
        """Tell where a worker came that this machine cannot reach: nothing would ever come back from it."""
        host, _, port = address.partition("://")[2].rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS).close()
        except ConnectionRefusedError:
            # It has ended.
            return
        except OSError as error:
            self._tell(
                f"a worker of cluster {self.cluster!r} came, and its address {address} cannot be reached from here "
                f"({error}): run the session where it can, as in a Job of the pool (surgeline deploy), or give its "
                "Jobs the network of their nodes (pod_template: {spec: {hostNetwork: true}})"
            )

    def _close_fleet(self) -> None:
        super()._close_fleet()
        if self._fleet is None:
            return
        manager = self._manager
        assert isinstance(manager, WorkPool)
        # Cancelled flow runs may still be ending; and Prefect keeps a deployment for ever.
        try:
            with manager.api.client(PATIENT_RETRIES) as client:
                poolruns.clear(client, self._own_name)
        except ClusterError as error:
            by_hand = f"prefect deployment delete {FLOW}/{self._own_name}"
            self._tell(f"{error.message}; what the session made there may be left: {by_hand}")
