"""A real Kubernetes with a work pool of Prefect's, as the users of both have it."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                # It may wait long for what it watches.
                process.kill()
                process.wait()

    def answers(self) -> bool:
        try:
            return bool(httpx.get(f"{self.url}/health", timeout=1, trust_env=False).status_code == 200)
        except httpx.HTTPError:
            return False

    def deploy(
        self, name: str, stages: list[dict[str, Any]], size: str, stage: str | None = None, **settings: Any
    ) -> str:
        """Deploy a session, or a stage, as a user does; its working folder has its name. Gives the deployment."""
        workdir = self.folder / name
        workdir.mkdir(exist_ok=True)
        recipe = self.folder / f"{name}.yaml"
        recipe.write_text(yaml.safe_dump({"name": name, "stages": stages}))
        (workdir / "config.yaml").write_text(yaml.safe_dump({"clusters": {"pods": self.cluster}, **settings}))
        words = ["--workdir", workdir, "--set", "backend=serial", "--pool", "pool", "--class", size]
        words += ["--stage", stage] if stage else []
        done = surgeline("deploy", recipe, *words, **self.environment, PYTHONPATH=str(self.folder / "plugins"))
        assert done.returncode == 0, done.stdout + done.stderr
        deployed = f"surgeline-session/{name}.{stage}" if stage else f"surgeline-session/{name}"
        assert f"prefect deployment run '{deployed}'" in done.stdout
        found = self.ask("get", f"deployments/name/{deployed}")
        return str(found["id"])

    def ask(self, method: str, path: str, **options: Any) -> Any:
        """What the server answers, once it has time for it: its database takes one writer."""
        deadline = time.monotonic() + _SECONDS
        while True:
            answer = getattr(httpx, method)(f"{self.url}/{path}", trust_env=False, timeout=30, **options)
            if answer.status_code != httpx.codes.SERVICE_UNAVAILABLE or time.monotonic() > deadline:
                answer.raise_for_status()
                return answer.json()
            time.sleep(0.5)

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
    # Pods run as another user.
    before = os.umask(0)
    folder = Path(tempfile.mkdtemp(prefix="pool-", dir=kubernetes.folder))
    folder.chmod(0o777)
    found = Site(kubernetes, folder)
    with found.running(*found.server):
        wait_until(found.answers, _SECONDS, "Prefect's server answers")
        yield found
    os.umask(before)
