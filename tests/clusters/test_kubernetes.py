"""What is asked of Kubernetes, and what is made of its answers, with no cluster in reach."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from surgeline.clusters.batch import Contact, WorkerClass, made_to_measure, worker_classes, workload_manager
from surgeline.clusters.kubernetes import Kubernetes, KubernetesSettings, why_it_waits
from surgeline.clusters.podmanifests import identifier, merged
from surgeline.config import PACKAGED, load
from surgeline.errors import ConfigError
from surgeline.work.resources import Resources

GOLDEN = Path(__file__).with_name("pods.yaml")
# Every setting that a manifest depends on.
FULL = """
image: registry.example.org/casa:6.7
image_pull_policy: Always
image_pull_secrets: [registry]
service_account: worker
gpu_resource: amd.com/gpu
node_selector: {pool: radio}
tolerations: [{key: radio, operator: Exists}]
priority_class: surge
volumes:
  - {path: /data, claim: observations, read_only: true}
  - {path: /work, host_path: /lustre/work, sub_path: ours}
scratch: 200GB
environment: {MODE: night}
user: 5023
group: 5000
python: /opt/casa/bin/python3
worker_extra_args: [--lifetime, 1h]
death_timeout: 90
cores: 2
memory: 8GB
gpus: 1
pod_template:
  metadata: {annotations: {team: radio}}
  spec: {hostNetwork: true, containers: [{name: worker, stdin: true}]}
scheduler_template: {spec: {hostAliases: []}}
"""
CONTACT = Contact("", "surgeline.parallel.batchworker", "surgeline-1a2b3c4d", Path("/work/logs"))


def classes(*overrides: str) -> tuple[WorkerClass, ...]:
    own = [f"clusters.pods.{text}" for text in ("type=kubernetes", "image=casa", *overrides)]
    return worker_classes(load(overrides=own, environment={}, home=Path("/nowhere")), "pods", {})


def test_what_is_asked_for_is_just_what_the_settings_say(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").write_text(
        yaml.safe_dump({"clusters": {"pods": {"type": "kubernetes", **FULL_SETTINGS}}})
    )
    configuration = load(tmp_path, environment={}, home=tmp_path / "home")
    [worker] = worker_classes(configuration, "pods", {})
    assert workload_manager(configuration, "pods", {}).text(worker, CONTACT) == GOLDEN.read_text()


FULL_SETTINGS: dict[str, Any] = yaml.safe_load(FULL)


def test_a_job_gets_all_the_memory_that_its_pod_was_asked_for_it() -> None:
    from surgeline.clusters.podmanifests import worker_manifest

    [worker] = classes("memory=2GB")
    [container] = worker_manifest(worker, CONTACT, "name")["spec"]["worker"]["spec"]["containers"]
    assert int(container["resources"]["limits"]["memory"]) > 2e9
    assert container["args"][container["args"].index("--memory-limit") + 1] == "2000000000"


def test_a_pod_is_made_to_the_measure_of_a_job_and_has_no_end() -> None:
    found = made_to_measure(classes(), Resources(cores=4, memory=3 * 10**10, walltime=3600), "measured-1")
    assert found.offers == Resources(cores=4, memory=3 * 10**10)


def test_names_are_such_as_kubernetes_takes() -> None:
    [worker] = classes("workers={Fat & slow: {}}")
    assert identifier(CONTACT, worker, 3) == "surgeline-1a2b3c4d-fat-slow-3"


@pytest.mark.parametrize(
    "ours, theirs, together",
    [
        ({"a": 1}, {"b": 2}, {"a": 1, "b": 2}),
        ({"a": {"b": 1, "c": 2}}, {"a": {"c": 3}}, {"a": {"b": 1, "c": 3}}),
        ({"a": [1]}, {"a": [2]}, {"a": [2]}),
        (
            [{"name": "x", "v": 1}, {"name": "y"}],
            [{"name": "x", "w": 2}, {"name": "z"}],
            [{"name": "x", "v": 1, "w": 2}, {"name": "y"}, {"name": "z"}],
        ),
    ],
)
def test_what_a_user_says_wins_and_named_items_are_put_together(ours: Any, theirs: Any, together: Any) -> None:
    assert merged(ours, theirs) == together


@pytest.mark.parametrize(
    "setting, words",
    [
        ("image=null", "image is missing"),
        ("volumes=[{path: /data}]", "either claim or host_path"),
        ("volumes=[{path: data, claim: x}]", "volumes"),
        ("user=0", "greater than 0"),
        ("name=Surge_Line", "name"),
        ("walltime=3600", "unknown key"),
        ("workers={fat: {namespace: radio}}", "say it of the whole cluster"),
        ("workers={fat: {imag: x}}", "image"),
    ],
)
def test_wrong_settings_are_refused_by_name(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        classes(setting)


def test_every_key_is_explained_in_the_packaged_configuration_with_its_default() -> None:
    packaged = PACKAGED.read_text()
    block = packaged[packaged.index("  # pods:") : packaged.index("  # A cluster of type prefect")]
    explained = yaml.safe_load(re.sub(r"(?m)^  # ?", "", block))["pods"]
    assert set(explained) == KubernetesSettings.model_fields.keys()
    del explained["workers"]
    assert KubernetesSettings.model_validate(explained) == KubernetesSettings(
        type="kubernetes", image=explained["image"]
    )


def test_why_a_pod_waits_is_told_in_kubernetes_words() -> None:
    unscheduled = {
        "type": "PodScheduled",
        "status": "False",
        "reason": "Unschedulable",
        "message": "0/1 nodes are available: 1 Insufficient memory.",
    }
    pending: dict[str, Any] = {"spec": {}, "status": {"phase": "Pending", "conditions": [unscheduled]}}
    assert why_it_waits(pending) == "Unschedulable: 0/1 nodes are available: 1 Insufficient memory."
    waiting = {"reason": "ErrImagePull", "message": "no such host"}
    pulling = {"spec": {}, "status": {"phase": "Pending", "containerStatuses": [{"state": {"waiting": waiting}}]}}
    assert why_it_waits(pulling) == "ErrImagePull: no such host"
    last = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    crashing = {"state": {"waiting": {"reason": "CrashLoopBackOff"}}, "lastState": last, "restartCount": 3}
    killed = {"spec": {}, "status": {"phase": "Running", "containerStatuses": [crashing]}}
    assert "used more memory than its limit" in why_it_waits(killed)


class Answers:
    """What the API server says, in place of one."""

    def __init__(self) -> None:
        self.pods: list[dict[str, Any]] = []

    def listed(self, kind: str, labels: str = "", fields: str = "") -> list[dict[str, Any]]:
        groups = [{"metadata": {"name": "g", "labels": {}}}]
        return {"DaskWorkerGroup": groups, "Pod": self.pods}.get(kind, [])


def pod(uid: str, state: dict[str, Any], restarts: int = 0, phase: str = "Running", **status: Any) -> dict[str, Any]:
    container = {"state": state, "restartCount": restarts, "lastState": status.pop("last", {})}
    return {
        "metadata": {"name": uid, "uid": uid, "creationTimestamp": uid, "labels": {"dask.org/workergroup-name": "g"}},
        "spec": {"nodeName": "n1"},
        "status": {"phase": phase, "containerStatuses": [container], **status},
    }


def test_what_became_of_a_pod_is_told_once_and_then_what_there_is() -> None:
    manager = Kubernetes(KubernetesSettings(type="kubernetes", image="casa"))
    manager.api = answers = Answers()  # type: ignore[assignment]

    def seen(*pods: dict[str, Any]) -> tuple[str, str, str]:
        answers.pods = list(pods)
        found = manager.look(CONTACT)["g"]
        return found.state, found.cause, found.words

    running = {"running": {}}
    killed = {"terminated": {"reason": "OOMKilled", "exitCode": 137}}
    assert seen() == ("waiting", "", "its pod is not made yet: the Dask operator sees to that")
    assert seen(pod("1", running)) == ("running", "", "")
    assert seen(pod("1", killed))[:2] == ("waiting", "out of memory")
    assert seen(pod("1", running, 1, last=killed))[:2] == ("waiting", "out of memory")
    assert seen(pod("1", running, 1, last=killed)) == ("running", "", "")
    evicted = pod("1", {}, 1, "Failed", reason="Evicted", message='Usage of "scratch" exceeds the limit "10M".')
    assert seen(evicted)[:2] == ("waiting", "failed")
    unscheduled = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "no room"}
    pending = pod("2", {}, 0, "Pending", conditions=[unscheduled])
    assert seen(evicted, pending)[:2] == ("waiting", "failed")
    assert seen(evicted, pending) == ("waiting", "", "Unschedulable: no room")
    assert seen(evicted, pod("2", running)) == ("running", "", "")
    assert seen(pod("3", running))[:2] == ("waiting", "cancelled")
    assert seen(pod("3", running)) == ("running", "", "")
