"""The base job template of a Prefect work pool on Kubernetes: a function of the settings of a cluster."""

from __future__ import annotations

from typing import Any

from surgeline.clusters.batch import WorkerClass
from surgeline.clusters.kubernetes import KubernetesSettings
from surgeline.clusters.podmanifests import SCRATCH, job_pod

# The container's name is Prefect's, which refuses others.
_CONTAINER = "prefect-job"
_SECONDS_KEPT = 600
# Variables that Prefect's worker looks for by their names, besides those that the manifest has.
_PASSED_ON = (
    *("name", "command", "env", "labels", "namespace"),
    *("job_watch_timeout_seconds", "pod_watch_timeout_seconds", "stream_output"),
)


def base_job_template(worker_class: WorkerClass, namespace: str | None) -> dict[str, Any]:
    """A template that a pool is made with, and whose variables a deployment or a flow run may say otherwise.

    Args:
        worker_class: of a cluster of type kubernetes: its image, volumes, user, nodes, and the size of its workers.
        namespace: where Jobs are made; None: in the one called default.
    """
    settings, offers = worker_class.settings, worker_class.offers
    assert isinstance(settings, KubernetesSettings)
    variables: dict[str, tuple[str, Any, str]] = {
        "name": ("string", None, "The name of the Job; Prefect's own unless given."),
        "command": ("string", None, "What the container runs; Prefect's own unless given."),
        # A worker passes its own on, which is a folder of its machine.
        "env": ("object", {"PREFECT_HOME": f"{SCRATCH}/prefect"}, "Environment variables."),
        "labels": ("object", {}, "Labels of the Job, besides Prefect's."),
        "namespace": ("string", namespace or "default", "Where the Job is made."),
        "image": ("string", settings.image, "An image that has Surgeline."),
        "cores": ("string", str(offers.cores), "Cores that are asked for."),
        "memory": ("string", str(offers.memory), "Bytes, as Kubernetes writes them: 8Gi."),
        "gpus": ("string", str(offers.gpus), f"How many {settings.gpu_resource}."),
        "finished_job_ttl": ("integer", _SECONDS_KEPT, "Seconds for which a Job that has ended is kept."),
        "job_watch_timeout_seconds": ("integer", None, "Seconds after which a Job is given up."),
        "pod_watch_timeout_seconds": ("integer", 600, "Seconds that a pod may take to start."),
        "stream_output": ("boolean", True, "Whether its output goes to the worker's."),
    }
    resources = {"memory": "{{ memory }}", settings.gpu_resource: "{{ gpus }}"}
    container = {
        "name": _CONTAINER,
        "image": "{{ image }}",
        "args": "{{ command }}",
        "resources": {"requests": {"cpu": "{{ cores }}", **resources}, "limits": resources},
    }
    pod = {"parallelism": 1, "completions": 1, "restartPolicy": "Never", **job_pod(worker_class, container)}
    manifest = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"labels": "{{ labels }}", "namespace": "{{ namespace }}", "generateName": "{{ name }}-"},
        "spec": {"backoffLimit": 0, "ttlSecondsAfterFinished": "{{ finished_job_ttl }}", "template": {"spec": pod}},
    }
    return {
        "job_configuration": {"job_manifest": manifest, **{name: f"{{{{ {name} }}}}" for name in _PASSED_ON}},
        "variables": {
            "type": "object",
            "properties": {
                name: {"type": kind, "title": name, "description": text}
                | ({} if default is None else {"default": default})
                for name, (kind, default, text) in variables.items()
            },
        },
    }
