"""The API of a Kubernetes cluster: a few requests, each bounded in time, from any thread."""

from __future__ import annotations

import asyncio
import logging
import threading
import warnings
from collections.abc import Coroutine, Mapping
from typing import Any

from surgeline.clusters.batch import BUSY
from surgeline.errors import ClusterError, SchedulerSilent

# A server that has not answered after so many seconds will not.
_SECONDS = 30.0
_GONE = 404
_EXISTS = 409

Manifest = Mapping[str, Any]
# All that a session makes has this label, with the session's name.
SESSION_LABEL = "surgeline.session"
# Where resources of a kind are found: the version of its API, and its name in addresses.
_PLACES = {
    "DaskCluster": ("kubernetes.dask.org/v1", "daskclusters"),
    "DaskWorkerGroup": ("kubernetes.dask.org/v1", "daskworkergroups"),
    "Deployment": ("apps/v1", "deployments"),
    "Event": ("v1", "events"),
    "Pod": ("v1", "pods"),
    "Secret": ("v1", "secrets"),
}


class Refused(ClusterError):
    """The server answered, and said no.

    Attributes:
        status: its HTTP status.
    """

    def __init__(self, message: str, way_out: str, status: int) -> None:
        super().__init__(message, way_out)
        self.status = status


class KubernetesApi:
    """One namespace of a cluster, as the user's kubeconfig, or a pod's service account, gives access to it."""

    def __init__(self, context: str | None, namespace: str | None) -> None:
        """Prepare; nothing is asked yet.

        Args:
            context: a context of the kubeconfig; None: its current one.
            namespace: where everything is made; None: the context's own.
        """
        self._context = context
        self._namespace = namespace
        self._api: Any = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._starting = threading.Lock()
        self._forwards: list[Any] = []

    def namespace(self) -> str:
        """Where everything is made.

        Raises:
            ClusterError: no cluster is in reach.
        """
        found: str = self._run(self._find_namespace())
        return found

    def create(self, manifest: Manifest, dry_run: bool = False) -> Manifest | None:
        """Create a resource, unless it is there already; in a dry run the server only says whether it would.

        Returns:
            it, as the server made it; None where it was there.

        Raises:
            ClusterError: the server refuses, in its own words, or does not answer.
        """
        parameters = {"dryRun": "All"} if dry_run else {}
        try:
            made: Manifest = self._run(self._request("POST", manifest["kind"], parameters=parameters, body=manifest))
        except Refused as refusal:
            if refusal.status != _EXISTS:
                raise
            return None
        return made

    def listed(self, kind: str, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        """The resources of a kind that have these labels, and values of these fields.

        Raises:
            ClusterError: the server refuses, in its own words, or does not answer.
        """
        parameters = {"labelSelector": labels, "fieldSelector": fields}
        answer = self._run(self._request("GET", kind, parameters={k: v for k, v in parameters.items() if v}))
        found: list[dict[str, Any]] = answer["items"]
        return found

    def delete(self, kind: str, name: str) -> None:
        """Delete a resource and all that belongs to it; one that is gone already is none the worse.

        Raises:
            ClusterError: the server refuses, in its own words, or does not answer.
        """
        try:
            self._run(self._request("DELETE", kind, name, parameters={"propagationPolicy": "Background"}))
        except Refused as refusal:
            if refusal.status != _GONE:
                raise

    def log(self, pod: str, lines: int, previous: bool = False) -> str:
        """The last lines that a pod wrote, or its container before it was started again.

        Raises:
            ClusterError: the server refuses, in its own words, or does not answer.
        """
        parameters = {"tailLines": str(lines), "previous": str(previous).lower()}
        text: str = self._run(self._request("GET", "Pod", f"{pod}/log", parameters=parameters, as_text=True))
        return text

    def forward(self, service: str, port: int) -> int:
        """Forward a port of this machine to one of a service, whichever pod it has; until `close`.

        Returns:
            the port here.

        Raises:
            ClusterError: the server refuses, in its own words, or does not answer.
        """
        found: int = self._run(self._forward(service, port))
        return found

    def close(self) -> None:
        """End what was forwarded."""
        with self._starting:
            loop, self._loop, self._api = self._loop, None, None
        if loop is None:
            return
        forwards, self._forwards = self._forwards, []

        async def stop() -> None:
            for forward in forwards:
                await forward.stop()
            loop.stop()

        asyncio.run_coroutine_threadsafe(stop(), loop)

    def _run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        import httpx
        import kr8s

        with self._starting:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                self._loop.set_exception_handler(_log_for_kr8s)
                threading.Thread(target=self._loop.run_forever, name="kubernetes-api", daemon=True).start()
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result(timeout=_SECONDS)
        except (TimeoutError, kr8s.APITimeoutError) as error:
            future.cancel()
            raise _silent(f"no answer in {_SECONDS:.0f} s") from error
        except kr8s.ServerError as error:
            status = error.response.status_code if error.response is not None else 0
            if status in BUSY:
                raise _silent(str(error)) from error
            raise Refused(f"Kubernetes refuses: {error}", _way_out(status, str(error)), status) from error
        except (httpx.HTTPError, OSError, ValueError, kr8s.ConnectionClosedError) as error:
            raise _silent(str(error) or type(error).__name__) from error

    async def _find_namespace(self) -> str:
        return self._namespace or str((await self._connected()).namespace)

    async def _connected(self) -> Any:
        if self._api is None:
            import kr8s

            with warnings.catch_warnings():
                # It warns of clusters that it was not tested with, older and newer ones.
                warnings.simplefilter("ignore", UserWarning)
                self._api = await kr8s.asyncio.api(context=self._context)
        return self._api

    async def _request(
        self,
        method: str,
        kind: str,
        name: str = "",
        parameters: Mapping[str, str] | None = None,
        body: Manifest | None = None,
        as_text: bool = False,
    ) -> Any:
        api = await self._connected()
        version, plural = _PLACES[kind]
        async with api.call_api(
            method,
            version=version,
            namespace=await self._find_namespace(),
            url=f"{plural}/{name}" if name else plural,
            params=dict(parameters or {}),
            json=body,
        ) as answer:
            return answer.text if as_text else answer.json()

    async def _forward(self, service: str, port: int) -> int:
        from kr8s.asyncio.objects import Service

        found = await Service.get(service, namespace=await self._find_namespace(), api=await self._connected())
        forward = found.portforward(port, local_port="auto")
        self._forwards.append(forward)
        await forward.start()
        return int(forward.local_port)


def _log_for_kr8s(_: Any, context: Mapping[str, Any]) -> None:
    """What goes wrong in what is forwarded, as while a pod is replaced; who is at the other end sees it break."""
    logging.getLogger("kr8s").debug(context["message"], exc_info=context.get("exception"))


def _silent(words: str) -> SchedulerSilent:
    return SchedulerSilent(
        f"Kubernetes does not answer: {words}",
        "see whether it does: kubectl version; the kubeconfig is that of $KUBECONFIG, else ~/.kube/config",
    )


def _way_out(status: int, words: str) -> str:
    if status == _GONE and "page not found" in words:
        return (
            "the Dask operator is not installed there, perhaps: "
            "https://kubernetes.dask.org/en/latest/installing.html says how"
        )
    if "forbidden" in words:
        return "see `kubectl auth can-i --list`; docs/kubernetes.md has the Role that is needed"
    return "correct the cluster's settings"
