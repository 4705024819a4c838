"""Queue jobs that tell what they were given, on a workload manager as a session has it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any
from uuid import uuid4

from support import wait_until
from surgeline.clusters.batch import Contact, QueuedJob, worker_classes, workload_manager
from surgeline.config import load

# What a queue job runs in place of a worker. DO is a command for the shell.
_WORKER = """\
import json, os, subprocess, sys, time
told = {"words": sys.argv[1:], "folder": os.getcwd(), "variables": dict(os.environ)}
print(json.dumps(told), flush=True)
code = subprocess.run(os.environ.get("DO", "sleep 600"), shell=True).returncode
sys.exit(code) if code >= 0 else os.kill(os.getpid(), -code)
"""
_SMALL = "memory: 100MB, python: /usr/bin/python3"


class Cluster:
    """A named cluster and the contact of a session whose workers do as they are told."""

    def __init__(self, folder: Path, settings: str, **variables: str) -> None:
        """Prepare, in a folder; settings are YAML such as `type: slurm, cores: 2`."""
        (folder / "home").mkdir(exist_ok=True)
        (folder / "home" / "probe.py").write_text(_WORKER)
        own = [f"clusters.batch={{{_SMALL}}}", f"clusters.batch={{{settings}}}"]
        configuration = load(overrides=own, environment={}, home=folder / "home")
        environment = {**os.environ, "PYTHONPATH": str(folder / "home"), **variables}
        self.manager = workload_manager(configuration, "batch", environment)
        self.classes = {found.name: found for found in worker_classes(configuration, "batch", {})}
        self.worker = next(iter(self.classes.values()))
        self.contact = Contact("tcp://127.0.0.1:8786", "probe", f"surgeline-{uuid4().hex[:8]}", folder / "logs")
        self.contact.folder.mkdir(exist_ok=True)

    def submit(self, count: int = 1) -> list[str]:
        """Submit so many workers of the first class; their identifiers."""
        return self.manager.submit(self.worker, self.contact, count)

    def find(self, identifier: str) -> QueuedJob | None:
        """A job as the queue, or the manager's accounts, have it."""
        return self.manager.look(self.contact).get(identifier) or self.manager.fate(self.contact, identifier)

    def wait(self, identifier: str, state: str) -> QueuedJob:
        """Wait until a job is waiting, running, held or ended."""

        def is_so() -> bool:
            found = self.find(identifier)
            return found is not None and found.state == state

        wait_until(is_so, 60, f"queue job {identifier} is {state}")
        found = self.find(identifier)
        assert found is not None
        return found

    def told(self, identifier: str, start: int = 1) -> dict[str, Any]:
        """What a job's process was given when it started for the n-th time, once it has."""
        output = self.manager.output(self.worker, self.contact, identifier)

        def starts() -> list[str]:
            lines = output.read_text().splitlines(keepends=True) if output.exists() else []
            return [line for line in lines if line.startswith("{") and line.endswith("\n")]

        wait_until(lambda: len(starts()) >= start, 60, f"queue job {identifier} has written {output}")
        found: dict[str, Any] = json.loads(starts()[start - 1])
        return found
