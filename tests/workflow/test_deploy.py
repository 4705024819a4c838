"""What a work pool's Jobs are made from, with no server and no cluster in reach."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from surgeline.clusters.batch import WorkerClass
from surgeline.config import load
from surgeline.errors import BadInput
from surgeline.workflow.prefect_deploy import place_of
from surgeline.workflow.worktemplate import base_job_template

GOLDEN = Path(__file__).with_name("base_job_template.yaml")
SETTINGS = (
    *("type=kubernetes", "image=registry.example.org/casa:6.7", "memory=8GB", "namespace=astro"),
    *("volumes=[{path: /work, claim: work}]", "environment={MODE: night}", "gpu_resource=amd.com/gpu"),
    *("pod_template={spec: {hostNetwork: true}}", "workers={cpu: {}, gpu: {gpus: 2, node_selector: {pool: fast}}}"),
)


def chosen(name: str | None, cluster: str = "pods") -> tuple[WorkerClass, str | None]:
    overrides = [f"clusters.pods.{text}" for text in SETTINGS]
    return place_of(load(overrides=overrides, environment={}, home=Path("/nowhere")), cluster, name)


def test_the_template_is_just_what_the_settings_say() -> None:
    assert yaml.safe_dump(base_job_template(*chosen("gpu")), sort_keys=False) == GOLDEN.read_text()


def test_prefect_takes_the_template_and_makes_the_job_of_it() -> None:
    worker = pytest.importorskip("prefect_kubernetes.worker", reason="Prefect is not installed")
    template = base_job_template(*chosen("gpu"))
    default = {
        name: about["default"] for name, about in template["variables"]["properties"].items() if "default" in about
    }
    text = json.dumps(template["job_configuration"]["job_manifest"])
    for name, value in {**default, "name": "night", "command": "x"}.items():
        text = text.replace(f'"{{{{ {name} }}}}"', json.dumps(value)).replace(f"{{{{ {name} }}}}", str(value))
    made = worker.KubernetesWorkerJobConfiguration(job_manifest=json.loads(text), **{"namespace": "astro"})
    [container] = made.job_manifest["spec"]["template"]["spec"]["containers"]
    assert container["resources"]["limits"] == {"memory": "8000000000", "amd.com/gpu": "2"}


@pytest.mark.parametrize(
    "name, cluster, words", [("gpus", "pods", "gpu"), (None, "pod", "pods"), (None, "local", "type local")]
)
def test_what_is_no_pod_is_refused_by_name(name: str | None, cluster: str, words: str) -> None:
    with pytest.raises(BadInput, match=words):
        chosen(name, cluster)
