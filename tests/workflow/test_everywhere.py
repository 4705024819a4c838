"""A stage that sets all workers up, on each backend; and a session under mpirun that nobody supervises."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cheap_stages
from mpiruns import each_mpirun, mpi_of
from support import surgeline
from surgeline.context.store import Context
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import command, find_launcher


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    cheap_stages.install(tmp_path / "plugins")
    stages = [{"task": "prepare"}, {"task": "make"}, {"task": "change"}, {"task": "total"}]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"name": "cheap", "stages": stages}))
    return path


def workers_prepared(workdir: Path) -> int:
    context = Context(workdir / "context.db")
    try:
        prepared = context.last(cheap_stages.Total, path="prepared")
        assert prepared is not None
        assert context.last(cheap_stages.Total, path="products/total.json") is not None
        return prepared.total
    finally:
        context.close()


@pytest.mark.parametrize(("backend", "workers"), [("serial", 1), ("dask", 2)])
def test_a_stage_sets_up_every_worker(recipe: Path, tmp_path: Path, backend: str, workers: int) -> None:
    settings = ["--set", f"backend={backend}", "--set", "dask.n_workers=2"]
    ran = surgeline("run", recipe, "--workdir", tmp_path / "session", *settings, PYTHONPATH=str(tmp_path / "plugins"))
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert workers_prepared(tmp_path / "session") == workers


@pytest.mark.mpi
@each_mpirun
def test_plain_mpirun_runs_a_session_and_a_finished_one(mpirun: str, recipe: Path, tmp_path: Path) -> None:
    workdir = tmp_path / "session"
    program = [sys.executable, "-m", "surgeline.cli", "run", str(recipe), "--workdir", str(workdir)]
    line = command(find_launcher(mpirun), 4, program, {}, root=os.geteuid() == 0)
    environment = {**clean_environment(), **mpi_of(mpirun), "PYTHONPATH": str(tmp_path / "plugins")}
    # The second finds nothing to do, and ends its servers all the same.
    for _ in range(2):
        ran = subprocess.run(line, env=environment, capture_output=True, text=True, timeout=120)
        assert ran.returncode == 0, ran.stdout + ran.stderr
    assert workers_prepared(workdir) == 3
    wrong = subprocess.run(
        [*line, "--force", "nothing"], env=environment, capture_output=True, text=True, timeout=120
    )
    assert wrong.returncode in (2, 4)
    assert "nothing" in wrong.stderr
