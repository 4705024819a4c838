"""Workers that are pods of Kubernetes, made by the Dask operator: settings, and the `WorkloadManager`."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, model_validator

from surgeline.clusters.batch import Cause, Contact, QueuedJob, WorkerClass
from surgeline.clusters.clustertypes import ClusterType
from surgeline.clusters.kubernetesapi import SESSION_LABEL, KubernetesApi
from surgeline.clusters.settings import Bytes, SurgeSettings
from surgeline.errors import ClusterError

_GROUP = "dask.org/workergroup-name"
# The newest lines of what a container wrote, where it does not start.
_TAIL_LINES = 3
# A pod with one of these will not start by itself.
_HOPELESS = {
    "CrashLoopBackOff",
    "CreateContainerConfigError",
    "ErrImageNeverPull",
    "ImagePullBackOff",
    "InvalidImageName",
}
_OUT_OF_MEMORY = "OOMKilled"
_UNMADE = "its pod is not made yet: the Dask operator sees to that"


class Volume(BaseModel):
    """A folder that workers see.

    Attributes:
        path: where they see it; the session's working folder has to have the same path in both.
        claim: the PersistentVolumeClaim that it is.
        host_path: or the folder of each node.
        sub_path: or a folder in it.
        read_only: whether they may not write there.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    path: str = Field(pattern="^/")
    claim: str | None = None
    host_path: str | None = None
    sub_path: str | None = None
    read_only: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Volume:
        if (self.claim is None) == (self.host_path is None):
            raise ValueError("give either claim or host_path")
        return self


class KubernetesSettings(SurgeSettings):
    """What clusters of Kubernetes have besides."""

    of_cluster = SurgeSettings.of_cluster | {"context", "namespace", "port_forward", "scheduler_template", "tls"}

    type: Literal["kubernetes"]
    # As the name of a resource, whose names are longer by a session's own.
    name: str = Field(default="surgeline", pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$", max_length=20)
    image: str
    image_pull_policy: Literal["Always", "IfNotPresent", "Never"] = "IfNotPresent"
    image_pull_secrets: tuple[str, ...] = ()
    service_account: str | None = None
    gpu_resource: str = "nvidia.com/gpu"
    node_selector: Mapping[str, str] = Field(default_factory=dict)
    tolerations: tuple[Mapping[str, Any], ...] = ()
    priority_class: str | None = None
    volumes: tuple[Volume, ...] = ()
    scratch: Bytes | None = None
    environment: Mapping[str, str] = Field(default_factory=dict)
    user: int = Field(default=1000, gt=0)
    group: int = Field(default=1000, ge=0)
    pod_template: Mapping[str, Any] = Field(default_factory=dict)

    context: str | None = None
    namespace: str | None = None
    port_forward: bool | Literal["auto"] = "auto"
    scheduler_template: Mapping[str, Any] = Field(default_factory=dict)
    tls: bool = True
    workers: Mapping[str, KubernetesSettings] = Field(default_factory=dict)

    @property
    def reachable(self) -> tuple[str, ...]:
        """Folders that workers have under the same path as the session, though they do not share its own."""
        return (*self.data_reachable, *(volume.path for volume in self.volumes))


class Kubernetes:
    """Kubernetes, by its API; keeps `WorkloadManager`.

    A worker is a DaskWorkerGroup of one, so that each can be released by itself. What the operator makes of it, a
    Deployment, starts the pod anew wherever it is lost.
    """

    def __init__(self, settings: KubernetesSettings) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: the cluster's.
        """
        self.settings = settings
        self.api = KubernetesApi(settings.context, settings.namespace)
        self._numbers = count(1)
        # Of each group's container, how often it had begun when it was last seen: its pod, and that pod's restarts.
        self._starts: dict[str, tuple[str, int]] = {}

    def text(self, worker_class: WorkerClass, contact: Contact, count: int = 1) -> str:
        """The manifests of the session's DaskCluster, and of so many workers."""
        from surgeline.clusters.podmanifests import cluster_manifest, identifier, worker_manifest

        groups = [
            worker_manifest(worker_class, contact, identifier(contact, worker_class, number + 1))
            for number in range(count)
        ]
        cluster = cluster_manifest(self.settings, contact, worker_class.threads)
        return yaml.safe_dump_all([cluster, *groups], sort_keys=False)

    def check(self, worker_class: WorkerClass, contact: Contact) -> None:
        """Have the server say whether it would take such resources; nothing is made.

        Raises:
            ClusterError: it would not, or the Dask operator is not there, or the server does not answer.
        """
        load_operator()
        for manifest in yaml.safe_load_all(self.text(worker_class, contact)):
            self.api.create(manifest, dry_run=True)

    def submit(self, worker_class: WorkerClass, contact: Contact, count: int) -> list[str]:
        """Create so many worker groups of one.

        Raises:
            ClusterError: they were refused; with the server's own words.
        """
        from surgeline.clusters.podmanifests import identifier, worker_manifest

        identifiers: list[str] = []
        for _ in range(count):
            name = identifier(contact, worker_class, next(self._numbers))
            try:
                self.api.create(worker_manifest(worker_class, contact, name))
            except ClusterError:
                if not identifiers:
                    raise
                # The rest is asked for again, and refused again if need be.
                break
            identifiers.append(name)
        return identifiers

    def look(self, contact: Contact) -> dict[str, QueuedJob]:
        """All worker groups of a session.

        Raises:
            ClusterError: the server does not answer.
        """
        ours = f"{SESSION_LABEL}={contact.name}"
        groups = [group["metadata"]["name"] for group in self.api.listed("DaskWorkerGroup", ours)]
        pods: dict[str, list[dict[str, Any]]] = {}
        for pod in self.api.listed("Pod", f"{ours},dask.org/component=worker"):
            pods.setdefault(pod["metadata"]["labels"].get(_GROUP, ""), []).append(pod)
        without = [name for name in groups if name not in pods]
        refusals = self._refusals(ours) if without else {}
        made = {name: self._judged(name, pods[name]) for name in groups if name in pods}
        return made | {name: QueuedJob(name, "waiting", refusals.get(name, _UNMADE)) for name in without}

    def fate(self, contact: Contact, identifier: str) -> QueuedJob | None:
        """What became of a worker group that is not there any more: somebody has deleted it."""
        self._starts.pop(identifier, None)
        return QueuedJob(identifier, "ended", "its worker group was deleted", "cancelled")

    def explain(self, contact: Contact, identifier: str) -> str:
        """The last warning about a worker's pod.

        Raises:
            ClusterError: the server does not answer.
        """
        pods = self.api.listed("Pod", f"{_GROUP}={identifier}")
        for pod in pods[-1:]:
            name = pod["metadata"]["name"]
            warnings = self.api.listed("Event", fields=f"involvedObject.name={name},type=Warning")
            if warnings:
                last = max(warnings, key=lambda event: event.get("lastTimestamp") or "")
                return f"{last['reason']}: {last['message']}"
        return ""

    def cancel(self, identifiers: Sequence[str]) -> None:
        """Delete worker groups.

        Raises:
            ClusterError: the server does not answer.
        """
        for identifier in identifiers:
            self.api.delete("DaskWorkerGroup", identifier)
            self._starts.pop(identifier, None)

    def cancel_all(self, contact: Contact) -> list[str]:
        """The command that deletes all that there is of a session."""
        command = [sys.executable, "-m", "surgeline.clusters.poddeletion", contact.name]
        options = {"--namespace": self.settings.namespace, "--context": self.settings.context}
        return command + [word for option, value in options.items() if value for word in (option, value)]

    def output(self, worker_class: WorkerClass, contact: Contact, identifier: str) -> Path:
        """The file that a worker's own output goes to: none, since Kubernetes keeps it."""
        return contact.folder / f"{identifier}.log"

    def _refusals(self, labels: str) -> dict[str, str]:
        """Why pods could not be made, by worker group: a quota, say."""
        found = {}
        for deployment in self.api.listed("Deployment", f"{labels},dask.org/component=worker"):
            for condition in deployment.get("status", {}).get("conditions", ()):
                if condition["type"] == "ReplicaFailure" and condition["status"] == "True":
                    found[deployment["metadata"]["labels"].get(_GROUP, "")] = str(condition["message"])
        return found

    def _judged(self, identifier: str, pods: Sequence[Mapping[str, Any]]) -> QueuedJob:
        """What a worker group's pods say: the newest counts, and the one before it tells why there is another."""
        newest = max(pods, key=lambda pod: str(pod["metadata"]["creationTimestamp"]))
        container: Mapping[str, Any] = next(iter(newest["status"].get("containerStatuses", ())), {})
        start = newest["metadata"]["uid"], int(container.get("restartCount", 0))
        before = self._starts.get(identifier)
        host = newest["spec"].get("nodeName", "")
        job = _job(identifier, newest, container, host)
        if job.cause:
            return QueuedJob(identifier, job.state, job.words + self._said(newest, container), job.cause, host)
        if job.state == "running" or before is not None:
            self._starts[identifier] = start
        if before is None or (job.state == "running" and before == start):
            return job
        if before[0] != start[0] or newest["status"].get("phase") == "Failed":
            cause, words = _replaced([pod for pod in pods if pod["metadata"]["uid"] == before[0]])
        else:
            states = container.get("state", {}), container.get("lastState", {})
            ended = next((state["terminated"] for state in states if "terminated" in state), None)
            if ended is None:
                return job
            cause, words = _ended(ended)
        # Seen once as one that waits, it is taken for lost, and then for one that came anew.
        return QueuedJob(identifier, "waiting", words, cause, host)

    def _said(self, pod: Mapping[str, Any], container: Mapping[str, Any]) -> str:
        """The end of what a container wrote that does not start."""
        if not container.get("restartCount"):
            return ""
        try:
            lines = self.api.log(pod["metadata"]["name"], _TAIL_LINES, previous=True).splitlines()
        except ClusterError:
            return ""
        return f"; the end of its output: {' | '.join(lines)}" if lines else ""


def load_operator() -> None:
    """Import what speaks to Kubernetes.

    Raises:
        ClusterError: it is not installed.
    """
    try:
        import kr8s  # noqa: F401
    except ModuleNotFoundError as error:
        raise ClusterError(
            "clusters of type kubernetes need dask-kubernetes, which is not installed",
            "pip install 'surgeline[kubernetes]'",
        ) from error


def why_it_waits(pod: Mapping[str, Any]) -> str:
    """Why a pod does not run, in Kubernetes' words; empty if it does."""
    return _job("", pod, next(iter(pod["status"].get("containerStatuses", ())), {}), "").words


def _job(identifier: str, pod: Mapping[str, Any], container: Mapping[str, Any], host: str) -> QueuedJob:
    status = pod["status"]
    waiting = container.get("state", {}).get("waiting", {})
    if waiting.get("reason") in _HOPELESS:
        told = f"{waiting['reason']}: {waiting.get('message', '')}".removesuffix(": ")
        last = container.get("lastState", {}).get("terminated")
        if not last:
            return QueuedJob(identifier, "held", told, "failed", host)
        cause, words = _ended(last)
        return QueuedJob(identifier, "held", f"{told}; {words}", cause, host)
    if status.get("phase") == "Running" and "running" in container.get("state", {}):
        return QueuedJob(identifier, "running", host=host)
    for condition in status.get("conditions", ()):
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            reason = condition.get("reason", "it is not scheduled")
            return QueuedJob(identifier, "waiting", f"{reason}: {condition.get('message', '')}")
    words = f"{waiting['reason']}: {waiting.get('message', '')}".removesuffix(": ") if waiting else ""
    return QueuedJob(
        identifier, "waiting", words or f"its pod is {status.get('phase', 'unknown').lower()}", host=host
    )


def _ended(terminated: Mapping[str, Any]) -> tuple[Cause, str]:
    """How a container ended."""
    reason = terminated.get("reason", "it ended")
    if reason == _OUT_OF_MEMORY:
        return "out of memory", "OOMKilled: it used more memory than its limit"
    return "failed", f"{reason}, exit code {terminated.get('exitCode', 'unknown')}"


def _replaced(gone: Sequence[Mapping[str, Any]]) -> tuple[Cause, str]:
    """Why there is another pod in the place of one that is gone, or about to be."""
    for pod in gone:
        status = pod["status"]
        if status.get("reason") == "Evicted":
            words = str(status.get("message", ""))
            # Its own limit, rather than what others do on the node.
            return "failed" if "exceeds the limit" in words else "preempted", f"Evicted: {words}"
        if status.get("phase") == "Failed":
            return "node failure", f"{status.get('reason', 'Failed')}: {status.get('message', '')}"
    return "cancelled", "its pod was deleted, and there is another in its place"


KUBERNETES = ClusterType(KubernetesSettings, lambda settings, _: Kubernetes(settings))
