"""The type of cluster that examples/own-cluster brings, as an installed package does."""

from __future__ import annotations

import json
import re
import sqlite3
from pathlib import Path

import pytest
import yaml

import cheap_stages
from support import ROOT, install, surgeline, wait_until

EXAMPLE = ROOT / "examples" / "own-cluster"


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("packages")
    cheap_stages.install(folder / "stages")
    return f"{install(EXAMPLE, folder / 'installed')}:{folder / 'stages'}"


@pytest.fixture
def workdir(tmp_path: Path) -> Path:
    """A working folder whose stages go to such a cluster, and a recipe beside it."""
    settings = yaml.safe_load((EXAMPLE / "config.yaml").read_text())
    settings["clusters"]["site"] |= {"folder": str(tmp_path / "spool"), "host": "127.0.0.1", "poll": 0.2}
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(settings))
    stages = [{"task": "make"}, {"task": "change", "arguments": {"jobs": 2}}, {"task": "total"}]
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"stages": stages}))
    return folder


def test_the_configuration_the_plan_and_the_doctor_know_it(workdir: Path, packages: str) -> None:
    shown = surgeline("config", "show", "--workdir", workdir, PYTHONPATH=packages)
    assert "clusters.site.type = 'spool'" in shown.stdout
    planned = surgeline("plan", workdir.parent / "recipe.yaml", "--workdir", workdir, PYTHONPATH=packages)
    assert planned.returncode == 0, planned.stderr
    assert "on cluster 'site' of type spool" in planned.stdout
    text = planned.stdout.partition("what is submitted for a worker of class 'worker' of cluster 'site':")[2]
    words = json.loads(text)
    assert words[words.index("--name") + 1] == "spool-%j"
    assert words[words.index("--memory-limit") + 1] == "4000000000"
    examined = surgeline("doctor", "--workdir", workdir, PYTHONPATH=packages)
    assert re.search(r"cluster 'site': takes workers of class 'worker'", examined.stdout)


def test_a_wrong_type_or_key_is_told_with_the_nearest_that_is_right(workdir: Path, packages: str) -> None:
    recipe = workdir.parent / "recipe.yaml"
    for wrong, right in (("clusters.site.type=spol", "'spool'"), ("clusters.site.foldr=/a", "'folder'")):
        refused = surgeline("plan", recipe, "--workdir", workdir, "--set", wrong, PYTHONPATH=packages)
        assert refused.returncode == 3
        assert f"did you mean {right}" in refused.stderr
    (own_packages,) = packages.split(":")[1:]
    missing = surgeline("plan", recipe, "--workdir", workdir, PYTHONPATH=own_packages)
    assert missing.returncode == 3
    assert "a package may bring others: install it" in missing.stderr


def test_a_package_that_brings_no_cluster_type_is_told_of(workdir: Path, tmp_path: Path, packages: str) -> None:
    for number, (value, told) in enumerate((("spool_cluster:Spool", "is no ClusterType"), ("nowhere:A", "imported"))):
        broken = tmp_path / str(number) / "broken-1.0.dist-info"
        broken.mkdir(parents=True)
        (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 1.0\n")
        (broken / "entry_points.txt").write_text(f"[surgeline.clusters]\nbroken = {value}\n")
        refused = surgeline(
            *("plan", workdir.parent / "recipe.yaml", "--workdir", workdir, "--set", "clusters.site.type=broken"),
            PYTHONPATH=f"{broken.parent}:{packages}",
        )
        assert refused.returncode == 3
        assert told in refused.stderr


def test_a_session_runs_on_its_workers_and_leaves_none(workdir: Path, packages: str) -> None:
    ran = surgeline("run", workdir.parent / "recipe.yaml", "--workdir", workdir, PYTHONPATH=packages)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert json.loads((workdir / "products" / "total.json").read_text()) > 0
    record = json.loads((workdir / "run.json").read_text())
    workers = {job["worker"] for stage in record["stages"] for job in stage["jobs"]}
    assert workers and all("spool-" in worker for worker in workers)
    # Told when the session is over, done by its keeper.
    queue = sqlite3.connect(workdir.parent / "spool" / "queue.db")
    left = "SELECT count(*) FROM jobs WHERE state != 'ended'"
    wait_until(lambda: queue.execute(left).fetchone() == (0,), 20, "no job is left in the queue")
