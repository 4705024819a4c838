"""What is asked of a Prefect work pool, and what is made of its answers, with no server in reach."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import UUID

import pytest
import yaml

from surgeline.clusters.batch import Contact, QueuedJob, WorkerClass, worker_classes, workload_manager
from surgeline.clusters.poolruns import judged
from surgeline.clusters.prefectapi import PrefectApi
from surgeline.clusters.workpool import WorkPoolSettings
from surgeline.config import PACKAGED, Configuration, load
from surgeline.errors import ConfigError

GOLDEN = Path(__file__).with_name("flow_run.yaml")
FILES = (Path("/work/logs/authority.pem"), Path("/work/logs/certificate.pem"), Path("/work/logs/key.pem"))
CONTACT = Contact(
    "tls://10.0.0.5:8786", "surgeline.parallel.batchworker", "surgeline-1a2b3c4d", Path("/work/logs"), FILES
)
RUN = UUID(int=1)


def configured(*overrides: str) -> Configuration:
    own = [f"clusters.pool.{text}" for text in ("type=prefect", "work_pool=astro", *overrides)]
    return load(overrides=own, environment={}, home=Path("/nowhere"))


def classes(*overrides: str) -> tuple[WorkerClass, ...]:
    return worker_classes(configured(*overrides), "pool", {})


def asked(*overrides: str) -> dict[str, Any]:
    """The flow run of a worker of the first class."""
    configuration = configured(*overrides)
    worker = worker_classes(configuration, "pool", {})[0]
    _, run = yaml.safe_load_all(workload_manager(configuration, "pool", {}).text(worker, CONTACT))
    found: dict[str, Any] = run
    return found


def test_what_is_asked_for_is_just_what_the_settings_say() -> None:
    configuration = configured(
        *("name=radio", "interface=ib0", "python=/opt/casa/bin/python3", "worker_extra_args=[--lifetime, 1h]"),
        *("death_timeout=90", "cores=2", "memory=8GB", "job_variables={image: casa:6.7}"),
        "workers={gpu: {gpus: 1, job_variables: {image: casa-gpu:6.7}}}",
    )
    [worker] = worker_classes(configuration, "pool", {})
    assert workload_manager(configuration, "pool", {}).text(worker, CONTACT) == GOLDEN.read_text()


def test_workers_are_told_where_certificates_are_kept_only_where_there_are_any() -> None:
    assert asked()["parameters"]["secret"] == CONTACT.name
    configuration = configured()
    [worker] = worker_classes(configuration, "pool", {})
    text = workload_manager(configuration, "pool", {}).text(worker, replace(CONTACT, certificates=None))
    assert "secret" not in text


def test_a_job_gets_all_the_memory_that_its_flow_run_was_asked_for_it() -> None:
    run = asked("memory=2GB")
    arguments = run["parameters"]["arguments"]
    assert int(run["job_variables"]["memory"]) > 2e9
    assert arguments[arguments.index("--memory-limit") + 1] == "2000000000"


def test_what_the_user_says_to_the_template_wins() -> None:
    assert asked("job_variables={memory: 9Gi}")["job_variables"]["memory"] == "9Gi"


@pytest.mark.parametrize(
    "setting, words",
    [
        ("work_pool=null", "work_pool is missing"),
        ("name=Surge_Line", "name"),
        ("walltime=3600", "unknown key"),
        ("command_prefix=ssh", "unknown key"),
        ("workers={fat: {work_pool: other}}", "say it of the whole cluster"),
        ("workers={fat: {job_variable: x}}", "job_variable"),
    ],
)
def test_wrong_settings_are_refused_by_name(setting: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        classes(setting)


def test_every_key_is_explained_in_the_packaged_configuration_with_its_default() -> None:
    packaged = PACKAGED.read_text()
    block = packaged[packaged.index("  # pool:") : packaged.index("# What each worker process may use")]
    explained = yaml.safe_load(re.sub(r"(?m)^  # ?", "", block))["pool"]
    assert set(explained) == WorkPoolSettings.model_fields.keys()
    del explained["workers"]
    assert WorkPoolSettings.model_validate(explained) == WorkPoolSettings(
        type="prefect", work_pool=explained["work_pool"]
    )


def test_nothing_is_left_by_a_command_that_names_the_server() -> None:
    manager = workload_manager(configured(), "pool", {})
    manager.api = PrefectApi("http://prefect:4200/api")  # type: ignore[attr-defined]
    assert manager.cancel_all(CONTACT)[1:] == [
        *("-m", "surgeline.clusters.poolcancel", "surgeline-1a2b3c4d", "http://prefect:4200/api"),
    ]


@pytest.mark.parametrize(
    "kind, name, message, diagnosis, expected",
    [
        ("SCHEDULED", "Late", None, "", ("waiting", "Late: no worker is online", "")),
        ("PENDING", "InfrastructurePending", "its pod is pending", "", ("waiting", "its pod is pending", "")),
        ("RUNNING", "Running", None, "", ("running", "", "")),
        ("COMPLETED", "Completed", None, "", ("ended", "ended by itself", "completed")),
        ("CANCELLING", "Cancelling", None, "", ("ended", "cancelled", "cancelled")),
        ("CANCELLED", "Cancelled", "by somebody", "", ("ended", "by somebody", "cancelled")),
        ("FAILED", "Failed", "ended with exit code 3", "", ("ended", "ended with exit code 3", "failed")),
        ("CRASHED", "Crashed", "status code: -9", "", ("ended", "status code: -9", "failed")),
        ("CRASHED", "Crashed", "No active pods", "OOMKilled", ("ended", "OOMKilled", "out of memory")),
        ("CRASHED", "Crashed", "No active pods", "Evicted", ("ended", "Evicted", "preempted")),
        ("CRASHED", "Crashed", "Kubernetes job was deleted", "", ("ended", "was deleted", "cancelled")),
    ],
)
def test_a_state_is_told_with_its_cause(
    kind: str, name: str, message: str | None, diagnosis: str, expected: tuple[str, str, str]
) -> None:
    objects = pytest.importorskip("prefect.client.schemas.objects", reason="Prefect is not installed")
    run: Any = SimpleNamespace(id=RUN, state=objects.State(type=kind, name=name, message=message))
    found: QueuedJob = judged(run, "no worker is online", diagnosis)
    state, words, cause = expected
    assert (found.identifier, found.state, found.cause) == (str(RUN), state, cause)
    assert words in found.words
