"""What `surgeline plan` says of clusters with a queue, with no workload manager in reach."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import queue_stages
from support import surgeline
from surgeline import FunctionCall
from surgeline.work.estimates import Estimates, default_file
from surgeline.work.outcome import Outcome

CLASSES = {
    "small": {"memory": "2GB"},
    "fat": {"cores": 4, "memory": "16GB", "maximum": 3},
    "gpu": {"gpus": 1, "gres": "gpu:a100:1", "queue": "gpu", "maximum": 1},
}


class Planner:
    """Somebody with a recipe and a configuration, and no Slurm."""

    def __init__(self, folder: Path) -> None:
        queue_stages.install(folder / "plugins")
        self.folder = folder
        self.environment = {
            "PYTHONPATH": str(folder / "plugins"),
            "XDG_CACHE_HOME": str(folder / "cache"),
            "PATH": "/nowhere",
        }

    def plans(self, *stages: dict[str, Any], **cluster: Any) -> str:
        """The plan for stages of two jobs each, on a cluster of these settings."""
        recipe = self.folder / "recipe.yaml"
        content = [
            {"task": "work", "name": f"stage {number}", "arguments": {"jobs": 2}, **stage}
            for number, stage in enumerate(stages)
        ]
        recipe.write_text(yaml.safe_dump({"name": "queue", "stages": content}))
        session = self.folder / "session"
        session.mkdir(exist_ok=True)
        settings = {"dask": {"cluster": "site"}, "clusters": {"site": cluster}}
        (session / "config.yaml").write_text(yaml.safe_dump(settings))
        planned = surgeline("plan", recipe, "--workdir", session, **self.environment)
        assert planned.returncode == 0, planned.stderr
        return planned.stdout


@pytest.fixture
def planner(tmp_path: Path) -> Planner:
    return Planner(tmp_path)


def test_each_stage_goes_to_the_smallest_class_that_its_jobs_fit(planner: Planner) -> None:
    planned = planner.plans(
        {},
        {"resources": {"memory": "6GB"}},
        {"resources": {"gpus": 1}},
        {"resources": {"cores": 8, "memory": "100GB"}},
        type="slurm",
        maximum=10,
        workers=CLASSES,
    )
    assert (
        "stage 0: on cluster 'site' of type slurm: workers of class 'small' (1 core, 2 GB, 3600 s), at most 10, "
        "for 1 core a job\n"
    ) in planned
    assert "workers of class 'fat' (4 cores, 16 GB, 3600 s), at most 3, for 1 core, 6 GB a job\n" in planned
    assert "workers of class 'gpu' (1 core, 4 GB, 1 GPU, 3600 s), at most 1, for 1 core, 1 GPU a job\n" in planned
    assert "workers made to measure (8 cores, 100 GB, 3600 s), at most 3, for 8 cores, 100 GB a job\n" in planned


def test_what_is_submitted_is_shown_once_for_each_class_in_use(planner: Planner) -> None:
    planned = planner.plans({}, {}, {"resources": {"gpus": 1}}, type="slurm", workers=CLASSES, account="astro")
    small, gpu = planned.split("what is submitted for a worker of class ")[1:]
    assert small.startswith("'small' of cluster 'site':\n\n#!/usr/bin/env bash\n")
    assert gpu.startswith("'gpu' of cluster 'site':\n\n#!/usr/bin/env bash\n")
    for line in ("#SBATCH -J surgeline-SESSION\n", "#SBATCH -A astro\n", "#SBATCH -t 1:00:00\n"):
        assert line in small and line in gpu
    assert "#SBATCH --gres=gpu:a100:1\n" in gpu and "#SBATCH -p gpu\n" in gpu
    assert "-m surgeline.parallel.batchworker tls://SESSION_HOST:PORT --name" in small
    assert f"--tls-key {planner.folder}/session/logs/surgeline-SESSION/key.pem" in small
    assert not (planner.folder / "session" / "logs").exists(), "nothing was written"


def test_what_is_known_of_the_session_stands_in_what_is_submitted(planner: Planner) -> None:
    planned = planner.plans({}, type="slurm", host="login1", port=8786, tls=False, name="hi-survey")
    assert "tcp://login1:8786 --name" in planned
    assert "#SBATCH -J hi-survey-SESSION\n" in planned
    assert "--tls-" not in planned


def test_of_htcondor_the_submit_file_is_shown(planner: Planner) -> None:
    classes = {"small": {}, "gpu": {"gpus": 2}}
    planned = planner.plans({"resources": {"gpus": 2}}, type="htcondor", workers=classes)
    assert "workers of class 'gpu' (1 core, 4 GB, 2 GPUs), at most 16, for 1 core, 2 GPUs a job\n" in planned
    assert "request_gpus = 2\n" in planned.lower()
    assert planned.rstrip().lower().endswith("queue 1")


def test_where_jobs_go_that_find_no_worker_is_told(planner: Planner) -> None:
    planned = planner.plans({}, type="slurm", otherwise="local", queue_deadline="30m")
    assert "at most 16, for 1 core a job; without any after 1800 s in the queue, on cluster 'local'\n" in planned


def test_jobs_that_took_much_memory_before_go_to_larger_workers(
    planner: Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", planner.environment["XDG_CACHE_HOME"])
    estimates = Estimates(default_file(planner.environment))
    job = FunctionCall(queue_stages.work, "stage 0", 0, queue_stages.WorkParameters())
    outcome = Outcome("work 0", "work()", started=100.0, ended=160.0, peak_memory=6 * 10**9)
    estimates.learn("stage 0", job, outcome)
    estimates.save()
    planned = planner.plans({}, {}, type="slurm", workers=CLASSES)
    assert "stage 0: on cluster 'site' of type slurm: workers of class 'fat'" in planned
    assert "stage 1, after stage 0: on cluster 'site' of type slurm: workers of class 'small'" in planned


def test_pods_are_planned_as_they_would_be_made(planner: Planner) -> None:
    planned = planner.plans({"resources": {"gpus": 1}}, type="kubernetes", image="casa:1", memory="2GB")
    assert "stage 0: on cluster 'site' of type kubernetes: workers made to measure (1 core, 2 GB, 1 GPU)" in planned
    _, _, manifests = planned.partition("of cluster 'site':\n")
    cluster, group = yaml.safe_load_all(manifests)
    assert (cluster["kind"], group["kind"]) == ("DaskCluster", "DaskWorkerGroup")
    [container] = group["spec"]["worker"]["spec"]["containers"]
    assert container["image"] == "casa:1"
    assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    [scheduler] = cluster["spec"]["scheduler"]["spec"]["containers"]
    assert "nvidia.com/gpu" not in scheduler["resources"]["limits"]
