"""What is asked of Kubernetes: manifests, as functions of what is asked for and of nothing else."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from surgeline.clusters.batch import Contact, WorkerClass
from surgeline.clusters.certificates import NAMES
from surgeline.clusters.kubernetes import KubernetesSettings
from surgeline.clusters.kubernetesapi import SESSION_LABEL
from surgeline.work.casaprocess import thread_environment

SCHEDULER_PORT = 8786
_HTTP_PORT = 8787
# What the scheduler's container runs.
SCHEDULER_MODULE = "surgeline.parallel.podscheduler"
SCRATCH = "/scratch"
# Where a session's pods find what lets them in.
CERTIFICATES = "/etc/surgeline"
# What the nanny takes beside its worker, which may use all that it was promised.
_NANNY_BYTES = 256 * 2**20
# A worker in the midst of a CASA call does not end by itself, however long it is given.
_GRACE_SECONDS = 5
# Secrets belong to root and the group of the pod.
_GROUP_READS = 0o440
_SCHEDULER_RESOURCES = {
    "requests": {"cpu": "100m", "memory": "512Mi"},
    "limits": {"memory": "2Gi"},
}

Manifest = dict[str, Any]


def cluster_manifest(settings: KubernetesSettings, contact: Contact, threads: int) -> Manifest:
    """A session's DaskCluster: its scheduler, and no workers.

    Args:
        settings: the cluster's.
        contact: how workers find their session.
        threads: threads that CASA may use in each worker.
    """
    selector = {"dask.org/cluster-name": contact.name, "dask.org/component": "scheduler"}
    container = {
        **_container("scheduler", settings),
        "command": [settings.interpreter, "-m", SCHEDULER_MODULE, *([CERTIFICATES] if settings.tls else [])],
        "ports": [
            {"name": "tcp-comm", "containerPort": SCHEDULER_PORT, "protocol": "TCP"},
            {"name": "http-dashboard", "containerPort": _HTTP_PORT, "protocol": "TCP"},
        ],
        "readinessProbe": {"httpGet": {"port": "http-dashboard", "path": "/health"}, "periodSeconds": 1},
        "livenessProbe": {
            "httpGet": {"port": "http-dashboard", "path": "/health"},
            "initialDelaySeconds": 30,
            "periodSeconds": 20,
            "timeoutSeconds": 10,
        },
        "resources": _SCHEDULER_RESOURCES,
    }
    service = {
        "type": "ClusterIP",
        "selector": selector,
        "ports": [
            {"name": "tcp-comm", "protocol": "TCP", "port": SCHEDULER_PORT, "targetPort": "tcp-comm"},
            {"name": "http-dashboard", "protocol": "TCP", "port": _HTTP_PORT, "targetPort": "http-dashboard"},
        ],
    }
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": contact.name, "labels": _labels(contact)},
        "spec": {
            # The scheduler says that it is idle only while no session is connected to it.
            "idleTimeout": settings.death_timeout,
            # The operator makes a group of its own; this session has its workers in others.
            "worker": {"replicas": 0, "spec": {"containers": [{"name": "none", "image": settings.image}]}},
            "scheduler": {
                "spec": merged(
                    _let_in(_pod(settings, container), settings, contact), settings.scheduler_template.get("spec", {})
                ),
                "service": service,
            },
        },
    }


def worker_manifest(worker_class: WorkerClass, contact: Contact, name: str) -> Manifest:
    """A worker: a DaskWorkerGroup of one.

    Args:
        worker_class: what is asked for.
        contact: how it finds its session.
        name: its own, see `identifier`.
    """
    settings, offers = worker_class.settings, worker_class.offers
    assert isinstance(settings, KubernetesSettings)
    assert offers.memory is not None
    gpus = {settings.gpu_resource: str(offers.gpus)} if offers.gpus else {}
    memory = str(offers.memory + _NANNY_BYTES)
    container = _container_of(worker_class, "worker")
    container["env"].append({"name": "SURGELINE_POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}})
    container |= {
        "command": [settings.interpreter, "-m", contact.module],
        "args": [
            # That of its service, for pods of its namespace.
            f"{'tls' if settings.tls else 'tcp'}://{contact.name}-scheduler:{SCHEDULER_PORT}",
            *("--name", f"kubernetes-{name}@$(SURGELINE_POD)"),
            *(_options_of_tls() if settings.tls else ()),
            *("--nthreads", "1", "--nanny", "--no-dashboard"),
            *("--memory-limit", str(offers.memory)),
            *("--death-timeout", str(settings.death_timeout)),
            *("--local-directory", SCRATCH),
            *("--resources", f"cores={offers.cores},memory={offers.memory},gpus={offers.gpus}"),
            *settings.worker_extra_args,
        ],
        "resources": {
            "requests": {"cpu": str(offers.cores), "memory": memory, **gpus},
            "limits": {"memory": memory, **gpus},
        },
    }
    labels = {**_labels(contact), "surgeline.class": name_of_class(worker_class)}
    template = settings.pod_template
    metadata = {"metadata": template["metadata"]} if "metadata" in template else {}
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskWorkerGroup",
        "metadata": {"name": name, "labels": labels},
        "spec": {
            "cluster": contact.name,
            "worker": {
                "replicas": 1,
                **metadata,
                "spec": merged(_let_in(_pod_of(settings, container), settings, contact), template.get("spec", {})),
            },
        },
    }


def secret_manifest(contact: Contact, files: Mapping[str, str], owner: Mapping[str, Any]) -> Manifest:
    """What lets a session's pods in, which goes when its DaskCluster does.

    Args:
        contact: the session's name there.
        files: what is in the files, by their names.
        owner: the DaskCluster as it was made.
    """
    reference = {key: owner[key] for key in ("apiVersion", "kind")}
    reference |= {key: owner["metadata"][key] for key in ("name", "uid")}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": contact.name, "labels": _labels(contact), "ownerReferences": [reference]},
        "stringData": dict(files),
    }


def job_pod(worker_class: WorkerClass, container: Manifest) -> Manifest:
    """The pod of something else that sees what workers see: a Job of a work pool.

    Args:
        worker_class: whose image, folders, user and nodes it has.
        container: what is to be said of its container, its name at least.
    """
    settings = worker_class.settings
    assert isinstance(settings, KubernetesSettings)
    template = {key: value for key, value in settings.pod_template.get("spec", {}).items() if key != "containers"}
    own = merged(_container_of(worker_class, container["name"]), container)
    # Unlike a worker it may be a session, which asks for pods itself.
    token = {"automountServiceAccountToken": settings.service_account is not None}
    return dict(merged({**_pod_of(settings, own), **token}, template))


def identifier(contact: Contact, worker_class: WorkerClass, number: int) -> str:
    """The name of a session's worker: surgeline-1a2b3c4d-gpu-3."""
    return f"{contact.name}-{name_of_class(worker_class)}-{number}"


def name_of_class(worker_class: WorkerClass) -> str:
    """A worker class, as part of the name of a resource."""
    return re.sub(r"[^a-z0-9]+", "-", worker_class.name.lower()).strip("-")


def merged(ours: Any, theirs: Any) -> Any:
    """Ours, with what theirs says otherwise; items of lists that have names are merged by these."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        return {**ours, **{key: merged(ours[key], theirs[key]) if key in ours else theirs[key] for key in theirs}}
    if _are_named(ours) and _are_named(theirs):
        found = {item["name"]: item for item in ours}
        for item in theirs:
            found[item["name"]] = merged(found.get(item["name"], {}), item)
        return list(found.values())
    return theirs


def _are_named(items: Any) -> bool:
    return (
        isinstance(items, Sequence)
        and not isinstance(items, str)
        and all(isinstance(item, Mapping) and "name" in item for item in items)
    )


def _labels(contact: Contact) -> dict[str, str]:
    return {"app.kubernetes.io/managed-by": "surgeline", SESSION_LABEL: contact.name}


def _container(name: str, settings: KubernetesSettings) -> Manifest:
    return {
        "name": name,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "workingDir": SCRATCH,
        "env": [{"name": "HOME", "value": SCRATCH}, {"name": "TMPDIR", "value": SCRATCH}],
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        },
        "volumeMounts": [
            {"name": "scratch", "mountPath": SCRATCH},
            {"name": "tmp", "mountPath": "/tmp"},  # nosec B108  # the pod's own
        ],
    }


def _container_of(worker_class: WorkerClass, name: str) -> Manifest:
    """A container that sees the cluster's volumes and has its variables."""
    settings = worker_class.settings
    assert isinstance(settings, KubernetesSettings)
    container = _container(name, settings)
    container["env"] += [*_variables(thread_environment(worker_class.threads)), *_variables(settings.environment)]
    container["volumeMounts"] += [_mount(number, volume) for number, volume in enumerate(settings.volumes)]
    return container


def _pod_of(settings: KubernetesSettings, container: Manifest) -> Manifest:
    """A pod with the cluster's volumes."""
    pod = _pod(settings, container)
    pod["volumes"] += [_volume(number, volume) for number, volume in enumerate(settings.volumes)]
    return pod


def _pod(settings: KubernetesSettings, container: Manifest) -> Manifest:
    pod: Manifest = {
        "containers": [container],
        "volumes": [
            {"name": "scratch", "emptyDir": {"sizeLimit": str(settings.scratch)} if settings.scratch else {}},
            {"name": "tmp", "emptyDir": {}},
        ],
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": settings.user,
            "runAsGroup": settings.group,
            "fsGroup": settings.group,
        },
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": _GRACE_SECONDS,
    }
    if settings.service_account:
        pod["serviceAccountName"] = settings.service_account
    if settings.image_pull_secrets:
        pod["imagePullSecrets"] = [{"name": name} for name in settings.image_pull_secrets]
    if settings.node_selector:
        pod["nodeSelector"] = dict(settings.node_selector)
    if settings.tolerations:
        pod["tolerations"] = [dict(toleration) for toleration in settings.tolerations]
    if settings.priority_class:
        pod["priorityClassName"] = settings.priority_class
    return pod


def _let_in(pod: Manifest, settings: KubernetesSettings, contact: Contact) -> Manifest:
    """A pod with what lets it in, which its group alone can read."""
    if settings.tls:
        secret = {"secretName": contact.name, "defaultMode": _GROUP_READS}
        pod["volumes"].append({"name": "certificates", "secret": secret})
        for container in pod["containers"]:
            mount = {"name": "certificates", "mountPath": CERTIFICATES, "readOnly": True}
            container["volumeMounts"].append(mount)
    return pod


def _options_of_tls() -> list[str]:
    flags = ("--tls-ca-file", "--tls-cert", "--tls-key")
    return [word for flag, name in zip(flags, NAMES, strict=True) for word in (flag, f"{CERTIFICATES}/{name}")]


def _variables(values: Mapping[str, str]) -> list[Manifest]:
    return [{"name": name, "value": value} for name, value in values.items()]


def _mount(number: int, volume: Any) -> Manifest:
    mount: Manifest = {"name": f"volume-{number}", "mountPath": volume.path}
    if volume.sub_path:
        mount["subPath"] = volume.sub_path
    if volume.read_only:
        mount["readOnly"] = True
    return mount


def _volume(number: int, volume: Any) -> Manifest:
    if volume.claim:
        source: Manifest = {"persistentVolumeClaim": {"claimName": volume.claim}}
    else:
        source = {"hostPath": {"path": volume.host_path, "type": "Directory"}}
    return {"name": f"volume-{number}", **source}
