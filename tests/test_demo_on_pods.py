"""The main job on real data, on pods of a real Kubernetes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from astropy.io import fits

from services.kubernetes import WORKER_IMAGE, Kubernetes
from support import RECIPE, surgeline
from surgeline.stages.inputs import find_input
from surgeline.workflow import recipe as recipes


@pytest.fixture
def shared(kubernetes: Kubernetes) -> Iterator[Path]:
    """A folder in which pods may write, which run as another user."""
    before = os.umask(0)
    shared = kubernetes.folder / "shared"
    shared.mkdir()
    yield shared
    os.umask(before)


def test_the_demo_on_pods_gives_the_same_pixels(kubernetes: Kubernetes, shared: Path, tmp_path: Path) -> None:
    kubernetes.start_operator()
    observation = Path(find_input(recipes.load(str(RECIPE)).vis[0]).path).parent
    volumes = [{"path": str(folder), "host_path": str(folder)} for folder in (shared, observation)]
    frugal = {"name": "worker", "resources": {"requests": {"cpu": "100m"}}}
    pods = {
        "type": "kubernetes",
        "image": WORKER_IMAGE,
        "maximum": 2,
        "memory": "2GB",
        "poll": 1,
        "volumes": volumes,
        "pod_template": {"spec": {"containers": [frugal]}},
    }
    workdir = shared / "session"
    workdir.mkdir()
    # Pods run as another user.
    settings = {"dask": {"cluster": "pods"}, "clusters": {"pods": pods}, "session": {"private": False}}
    (workdir / "config.yaml").write_text(yaml.safe_dump(settings))
    ran = surgeline("run", RECIPE, "--workdir", workdir, timeout=500)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    serial = surgeline("run", RECIPE, "--workdir", tmp_path / "serial", "--set", "backend=serial")
    assert serial.returncode == 0, serial.stdout + serial.stderr
    products = sorted((workdir / "products").glob("*.fits"))
    assert len(products) == 4
    for product in products:
        other = tmp_path / "serial" / "products" / product.name
        assert np.array_equal(fits.getdata(product), fits.getdata(other), equal_nan=True), product.name
    record = json.loads((workdir / "run.json").read_text())
    ran_on = {job["worker"].partition("@")[0] for stage in record["stages"] for job in stage["jobs"]}
    assert all(name.startswith("worker-kubernetes-surgeline-") for name in ran_on), ran_on
    assert kubernetes.run("kubectl", "get", "daskclusters,daskworkergroups", "--output=name") == ""
