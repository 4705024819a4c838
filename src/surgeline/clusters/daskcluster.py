"""A session's DaskCluster in Kubernetes: the pod in which its scheduler runs, and the way to it."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress

from surgeline.clusters.batch import Contact
from surgeline.clusters.kubernetes import Kubernetes, why_it_waits
from surgeline.clusters.kubernetesapi import SESSION_LABEL, Manifest
from surgeline.clusters.poddeletion import delete
from surgeline.clusters.podmanifests import SCHEDULER_PORT, cluster_manifest, secret_manifest
from surgeline.errors import ClusterError

_LOOK_SECONDS = 0.25
# The operator acts within a second or two; one that has not after so long has missed it, and is asked anew.
_UNACTED_SECONDS = 20.0


class DaskCluster:
    """The scheduler of a session, in a pod.

    Attributes:
        scheduler_address: how this process reaches it.
    """

    def __init__(
        self, manager: Kubernetes, contact: Contact, threads: int, start_timeout: float, files: Mapping[str, str]
    ) -> None:
        """Prepare; nothing is made yet.

        Args:
            manager: the cluster.
            contact: the session's name there.
            threads: threads that CASA may use in each worker.
            start_timeout: seconds that the scheduler's pod may take to start.
            files: what lets pods in, see `certificates.contents`; empty without TLS.
        """
        self._manager = manager
        self._api = manager.api
        self._contact, self._name = contact, contact.name
        self._files = files
        self._made: Manifest = {}
        self._protocol = "tls" if files else "tcp"
        self._labels = f"{SESSION_LABEL}={contact.name}"
        self._manifest = cluster_manifest(manager.settings, contact, threads)
        self._seconds = start_timeout
        self.scheduler_address = ""

    def open(self, is_over: Callable[[], bool] = lambda: False) -> None:
        """Make it if it is not there, and wait until the scheduler answers.

        Args:
            is_over: whether nobody waits for it any more.

        Raises:
            ClusterError: Kubernetes refuses it, or its pod does not start in time; says why, in Kubernetes' words.
        """
        self._make()
        deadline = time.monotonic() + self._seconds
        unacted = time.monotonic() + _UNACTED_SECONDS
        while not is_over():
            words = self._why_not_ready()
            if not words:
                break
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the scheduler's pod of {self._name} did not start within {self._seconds:g} s: {words}",
                    f"see `kubectl describe pods -l {self._labels}`; on a busy cluster raise dask.start_timeout",
                )
            if time.monotonic() > unacted and not self._is_acted_on():
                self._api.delete("DaskCluster", self._name)
                unacted = time.monotonic() + _UNACTED_SECONDS
            self._make()
            time.sleep(_LOOK_SECONDS)
        if not self.scheduler_address and not is_over():
            self.scheduler_address = self._address()

    def close(self, timeout: float = 20) -> None:
        """Delete it and all that belongs to it, and wait for its pods to be gone, no longer than so many seconds."""
        deadline = time.monotonic() + timeout
        # What cannot be deleted now ends by itself: the operator finds that no session is connected to it.
        with suppress(ClusterError):
            delete(self._api, self._name)
            while self._api.listed("Pod", self._labels) and time.monotonic() < deadline:
                time.sleep(_LOOK_SECONDS)
        self._api.close()

    def _make(self) -> None:
        made = self._api.create(self._manifest)
        if made is not None:
            self._made = made
            # That of one before would go with it, some time after it.
            if self._files:
                self._api.delete("Secret", self._name)
        if self._files:
            self._api.create(secret_manifest(self._contact, self._files, self._made))

    def _is_acted_on(self) -> bool:
        found = self._api.listed("DaskCluster", fields=f"metadata.name={self._name}")
        return bool(found and found[0].get("status"))

    def _why_not_ready(self) -> str:
        """Why the scheduler does not answer yet; empty when it does."""
        pods = self._api.listed("Pod", f"{self._labels},dask.org/component=scheduler")
        pods = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
        if not pods:
            return "it is not made yet, and the Dask operator sees to that: does it run?"
        conditions = {c["type"]: c["status"] for pod in pods for c in pod["status"].get("conditions", ())}
        return "" if conditions.get("Ready") == "True" else why_it_waits(pods[-1]) or "it is not ready yet"

    def _address(self) -> str:
        forwarded = self._manager.settings.port_forward
        service = f"{self._name}-scheduler"
        if forwarded is not True:
            host = f"{service}.{self._api.namespace()}.svc"
            with suppress(socket.gaierror):
                socket.getaddrinfo(host, SCHEDULER_PORT)
                return f"{self._protocol}://{host}:{SCHEDULER_PORT}"
            if forwarded is False:
                raise ClusterError(
                    f"{host} is not known here: the session does not run in a pod of that cluster",
                    "leave port_forward out",
                )
        return f"{self._protocol}://127.0.0.1:{self._api.forward(service, SCHEDULER_PORT)}"
