"""Sessions that run as Jobs of a Prefect work pool, on a real Kubernetes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

import cheap_stages
from services.kubernetes import WORKER_IMAGE, Kubernetes
from services.ports import free_port
from support import surgeline, wait_until

httpx = pytest.importorskip("httpx", reason="Prefect is not installed: pip install 'surgeline[prefect]'")
_SECONDS = 180


class Site:
    """A Kubernetes with a work pool, and a Prefect server that its Jobs reach."""

    def __init__(self, kubernetes: Kubernetes, folder: Path) -> None:
        self.kubernetes = kubernetes
        self.folder = folder
        port = free_port()
        self.url = f"http://{kubernetes.outside_address}:{port}/api"
        self.environment = {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(folder / "prefect"),
            "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
            "PREFECT_SERVER_UI_ENABLED": "false",
            "DO_NOT_TRACK": "1",
        }
        self.server = ["server", "start", "--host", "0.0.0.0", "--port", str(port)]
        cheap_stages.install(folder / "plugins")
        namespace = kubernetes.run("kubectl", "config", "view", "--minify", "--output=jsonpath={..namespace}")
        self.cluster = {
            "type": "kubernetes",
            "image": WORKER_IMAGE,
            "namespace": namespace,
            "volumes": [{"path": str(folder), "host_path": str(folder)}],
            "environment": {"PYTHONPATH": str(folder / "plugins")},
            "workers": {"small": {"memory": "60MB"}, "large": {"memory": "1GB"}},
        }

    @contextmanager
    def running(self, *command: str) -> Iterator[None]:
        """A program of Prefect's, until the end of a block."""
        with (self.folder / f"{command[0]}.log").open("wb") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", *command],
                env={**os.environ, **self.environment},
                stdout=log,
                stderr=log,
            )
            try:
                yield
            finally:
                process.terminate()
                process.wait(60)

    def answers(self) -> bool:
        try:
            return bool(httpx.get(f"{self.url}/health", timeout=1, trust_env=False).status_code == 200)
        except httpx.HTTPError:
            return False

    def deploy(self, name: str, stages: list[dict[str, Any]], size: str) -> str:
        """Deploy a session as a user does; the working folder is named as it is. Gives the deployment."""
        workdir = self.folder / name
        workdir.mkdir()
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({"name": name, "stages": stages}))
        (workdir / "config.yaml").write_text(yaml.safe_dump({"clusters": {"pods": self.cluster}}))
        words = ["--workdir", workdir, "--set", "backend=serial", "--pool", "pool", "--class", size]
        done = surgeline("deploy", recipe, *words, **self.environment, PYTHONPATH=str(self.folder / "plugins"))
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"prefect deployment run 'surgeline-session/{name}'" in done.stdout
        found = self.ask("get", f"deployments/name/surgeline-session/{name}")
        return str(found["id"])

    def ask(self, method: str, path: str, **options: Any) -> Any:
        answer = getattr(httpx, method)(f"{self.url}/{path}", trust_env=False, timeout=30, **options)
        answer.raise_for_status()
        return answer.json()

    def run(self, deployment: str) -> dict[str, Any]:
        """Run a deployment to its end; the state in which it is then."""
        flow_run = self.ask("post", f"deployments/{deployment}/create_flow_run", json={})["id"]
        deadline = time.monotonic() + _SECONDS
        while True:
            state: dict[str, Any] = self.ask("get", f"flow_runs/{flow_run}")["state"]
            if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
                return state
            assert time.monotonic() < deadline, (state, (self.folder / "worker.log").read_text()[-3000:])
            time.sleep(0.2)


@pytest.fixture
def site(kubernetes: Kubernetes) -> Iterator[Site]:
    before = os.umask(0)
    folder = kubernetes.folder / "pool"
    folder.mkdir()
    found = Site(kubernetes, folder)
    with found.running(*found.server):
        wait_until(found.answers, _SECONDS, "Prefect's server answers")
        yield found
    os.umask(before)


def test_a_session_runs_as_a_job_of_a_work_pool(site: Site) -> None:
    stages = [{"task": "make"}, {"task": "change", "arguments": {"by": 2}}, {"task": "total"}]
    good = site.deploy("good", stages, "large")
    bad = site.deploy("bad", [{"task": "change"}], "large")
    large = site.deploy("large", stages, "small")
    with site.running("worker", "start", "--pool", "pool", "--type", "kubernetes"):
        state = site.run(good)
        assert state["type"] == "COMPLETED", (state, (site.folder / "worker.log").read_text()[-3000:])
        record = json.loads((site.folder / "good" / "run.json").read_text())
        assert [stage["state"] for stage in record["stages"]] == ["finished"] * 3
        failed = site.run(bad)
        assert failed["type"] == "FAILED"
        assert "change" in failed["message"]
        # Python itself does not fit in there.
        assert site.run(large)["type"] == "CRASHED"
