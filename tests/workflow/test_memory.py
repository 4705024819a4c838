"""Jobs whose memory is known before they start: none is started that no worker can hold."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

import queue_stages
from support import surgeline
from surgeline import Resources
from surgeline.config import load
from surgeline.workflow.asking import memory_of_workers
from surgeline.workflow.recipe import StageRequest

GB = 10**9
# Workers of 2 GB, in the session's own process: what holds for it holds for workers that are all alike.
SETTINGS: dict[str, Any] = {"backend": "serial", "worker": {"memory": "2GB"}}


class User:
    """Somebody with a recipe of one stage, whose jobs are estimated to take so many GB each."""

    def __init__(self, folder: Path) -> None:
        queue_stages.install(folder / "plugins")
        self.session = folder / "session"
        self.session.mkdir()
        self.recipe = folder / "recipe.yaml"
        self.environment = {"PYTHONPATH": str(folder / "plugins"), "XDG_CACHE_HOME": str(folder / "cache")}

    def does(self, command: str, gigabytes: int, settings: dict[str, Any], **stage: Any) -> tuple[int, str]:
        """Exit code and output of a command."""
        stages = [{"task": "work", "arguments": {"jobs": 2, "memory": gigabytes * GB}, **stage}]
        self.recipe.write_text(yaml.safe_dump({"name": "large", "stages": stages}))
        (self.session / "config.yaml").write_text(yaml.safe_dump(settings))
        done = surgeline(command, self.recipe, "--workdir", self.session, **self.environment)
        return done.returncode, done.stdout + done.stderr

    def has_run(self) -> bool:
        return (self.session / "runs").exists()


@pytest.fixture
def user(tmp_path: Path) -> User:
    return User(tmp_path)


def test_what_no_worker_can_hold_is_refused_before_it_starts(user: User) -> None:
    code, told = user.does("run", 5, SETTINGS)
    assert code == 7
    assert "job 'work 0' is estimated to take 5.0 GB of memory, and each worker has 2.0 GB" in told
    assert "use a cluster with larger workers, make the image smaller" in told
    assert not user.has_run()


def test_the_recipe_may_know_better(user: User) -> None:
    code, told = user.does("run", 5, SETTINGS, resources={"memory": "1GB"})
    assert code == 0, told
    assert user.has_run()


def test_what_fits_runs(user: User) -> None:
    code, told = user.does("run", 1, SETTINGS)
    assert code == 0, told
    assert user.has_run()


def test_a_plan_tells_what_jobs_take_and_that_they_do_not_fit(user: User) -> None:
    _, told = user.does("plan", 1, SETTINGS)
    assert "1 core, 1 GB a job\n" in told
    assert "    work 0    1 GB    work(" in told
    assert "would not run" not in told
    _, told = user.does("plan", 5, SETTINGS)
    assert "    would not run: stage 'work': job 'work 0' is estimated to take 5.0 GB of memory" in told


def test_fewer_workers_are_advised_where_they_would_have_enough(user: User) -> None:
    # Two workers have half of this machine each.
    code, told = user.does("plan", 10**4, {"dask": {"n_workers": 2}})
    assert code == 0
    assert "would not run" in told
    assert "start fewer workers" not in told
    each = memory_of_workers(StageRequest(task="flag"), load(overrides=["dask.n_workers=2"]), "dask")
    assert each is not None
    _, told = user.does("plan", int(1.5 * each / GB), {"dask": {"n_workers": 2}})
    assert "start fewer workers (--set dask.n_workers=1)" in told


def test_on_a_cluster_with_a_queue_it_goes_to_a_larger_class(user: User) -> None:
    classes = {"small": {"memory": "2GB"}, "fat": {"memory": "16GB"}}
    _, told = user.does(
        "plan", 5, {"dask": {"cluster": "site"}, "clusters": {"site": {"type": "slurm", "workers": classes}}}
    )
    assert "workers of class 'fat'" in told
    assert "would not run" not in told


def test_work_is_cut_for_the_smallest_class_of_workers() -> None:
    stage = StageRequest(task="flag")
    site = "{type: slurm, workers: {fat: {memory: 16GB}, small: {memory: 2GB}, gpu: {memory: 1GB, gpus: 1}}}"
    overrides = ["dask.cluster=site", f"clusters.site={site}", "worker.memory=1GB"]
    assert memory_of_workers(stage, load(overrides=overrides), "dask") == 2 * GB
    asking = stage.model_copy(update={"resources": Resources(memory=5 * GB)})
    assert memory_of_workers(asking, load(overrides=overrides), "dask") == 5 * GB
    both = [*overrides, "clusters.site.otherwise=local"]
    assert memory_of_workers(stage, load(overrides=both), "dask") == GB
    assert memory_of_workers(stage, load(overrides=overrides), "serial") == GB
