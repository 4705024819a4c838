"""What a stage's jobs ask of GPUs, and how many of them its workers have."""

from __future__ import annotations

from pathlib import Path

import pytest

from surgeline import FunctionCall
from surgeline.clusters import local
from surgeline.config import load
from surgeline.work.estimates import Estimates
from surgeline.work.resources import Resources
from surgeline.workflow.asking import declared, gpus_of_workers
from surgeline.workflow.recipe import StageRequest

SITE = "{type: slurm, workers: {small: {memory: 2GB}, gpu: {memory: 8GB, gpus: 1, maximum: 3}}}"


def test_a_job_made_for_a_gpu_asks_for_one_whatever_else_its_stage_asks_for(tmp_path: Path) -> None:
    job = FunctionCall(print).declare(resources=Resources(gpus=1))
    stage = StageRequest(task="make_images", resources=Resources(memory=10**9))
    estimates = Estimates(tmp_path / "estimates.json")
    assert declared(stage, job, estimates).declared.resources == Resources(memory=10**9, gpus=1)
    assert declared(stage, FunctionCall(print), estimates).declared.resources.gpus == 0


def test_a_cluster_has_as_many_gpus_as_the_workers_of_its_classes_that_have_some() -> None:
    stage = StageRequest(task="make_images")
    assert gpus_of_workers(stage, load(overrides=["dask.cluster=site", f"clusters.site={SITE}"]), "dask") == 3
    without = load(overrides=["dask.cluster=site", "clusters.site={type: slurm, memory: 2GB}"])
    assert gpus_of_workers(stage, without, "dask") == 0
    # Workers are made to measure for what the recipe asks for.
    asking = stage.model_copy(update={"resources": Resources(gpus=1)})
    assert gpus_of_workers(asking, without, "dask") is None


def test_local_workers_share_one_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    stage = StageRequest(task="make_images")
    for devices, gpus in (([], 0), (["/dev/nvidia0"], 1), (["/dev/nvidia0", "/dev/nvidia1"], 1)):
        monkeypatch.setattr(local, "gpus_here", lambda variables, root, devices=devices: devices)
        assert gpus_of_workers(stage, load(overrides=[]), "dask") == gpus
        assert gpus_of_workers(stage, load(overrides=[]), "serial") == gpus
