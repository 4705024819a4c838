"""A Prefect server with a work pool whose flow runs are processes of this machine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

from support import wait_until
from surgeline.workflow.prefect_server import EmbeddedServer

# A server on a machine that has other things to do.
START_SECONDS = 180.0


class Pools:
    """What a user of a Prefect server does, and sees."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder

    def ask(self, method: str, path: str, content: Any = None) -> Any:
        answer = httpx.request(method, f"{self.url}/{path}", json=content, trust_env=False, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None

    def make(self, name: str, **about: Any) -> None:
        """Make a pool, with Prefect's own template for processes."""
        template = {
            "job_configuration": {"env": "{{ env }}", "stream_output": True},
            "variables": {"type": "object", "properties": {"env": {"type": "object"}}},
        }
        content = {"name": name, "type": "process", "base_job_template": template, **about}
        self.ask("POST", "work_pools/", content)

    @contextmanager
    def worker(self, name: str, *options: str, **environment: str) -> Iterator[psutil.Process]:
        """A worker of a pool, until the end of a block; with nothing left of what it started."""
        variables = {
            "PREFECT_API_URL": self.url,
            "PREFECT_HOME": str(self.folder / "home of worker"),
            "PREFECT_WORKER_QUERY_SECONDS": "1",
            "DO_NOT_TRACK": "1",
            **environment,
        }
        with (self.folder / f"worker of {name}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "worker", "start", "--pool", name, *options],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
            )
            try:
                wait_until(lambda: self.is_online(name), START_SECONDS, "a worker of the pool is online")
                yield psutil.Process(process.pid)
            finally:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(30)
                # It may wait long for what it watches.
                process.kill()
                process.wait()

    def is_online(self, name: str) -> bool:
        return bool(self.ask("GET", f"work_pools/{name}")["status"] == "READY")

    def flow_runs(self, *states: str) -> list[dict[str, Any]]:
        """All flow runs of workers, or those in some states."""
        asked: dict[str, Any] = {"tags": {"all_": ["surgeline"]}}
        if states:
            asked["state"] = {"type": {"any_": list(states)}}
        found: list[dict[str, Any]] = self.ask("POST", "flow_runs/filter", {"flow_runs": asked})
        return found

    def processes(self) -> list[psutil.Process]:
        """Those that run workers of whatever flow run."""
        return worker_processes(*(run["id"] for run in self.flow_runs()))

    def nothing_is_left(self) -> bool:
        """Whether nothing runs or waits, and sessions have left neither a deployment nor a secret."""
        return not (
            self.flow_runs("SCHEDULED", "PENDING", "RUNNING", "CANCELLING")
            or self.ask("POST", "deployments/filter", {})
            or self.ask("GET", "block_types/slug/secret/block_documents")
        )


@contextmanager
def prefect_server(folder: Path) -> Iterator[Pools]:
    """A server, until the end of a block."""
    with EmbeddedServer(folder / "home", folder / "log", START_SECONDS) as server:
        yield Pools(server.api_url, folder)


def worker_processes(*flow_runs: str) -> list[psutil.Process]:
    """The processes that run the workers of flow runs."""
    names = {f"prefect-{identifier}" for identifier in flow_runs}
    return [process for process in psutil.process_iter(["cmdline"]) if names & {*(process.info["cmdline"] or ())}]


def record_of(workdir: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((workdir / "run.json").read_text())
    return found
