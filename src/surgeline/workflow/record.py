"""`run.json`: what a session did, for people and programs to read while it runs and afterwards."""

from __future__ import annotations

import errno
import json
import platform
import socket
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

import surgeline
from surgeline.clusters.accounting import Accounts
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths, write_text
from surgeline.work.jobs import Job
from surgeline.work.outcome import Outcome
from surgeline.workflow.recipe import Recipe
from surgeline.workflow.workfolder import disk_full

_PACKAGES = ("casatools", "casatasks", "casadata", "numpy", "astropy", "dask", "distributed", "SQLAlchemy")
_SECONDS_BETWEEN_SAVES = 1.0


class RunRecord:
    """The record of a session, saved whole each time; threads may share it."""

    def __init__(
        self,
        paths: SessionPaths,
        recipe: Recipe,
        needs: Mapping[str, tuple[str, ...]],
        default_cluster: str,
        finished: Collection[str],
    ) -> None:
        """Begin a record, or go on with the one that an earlier run of the same session left, for finished stages."""
        self._path = paths.record
        self._lock = threading.Lock()
        self._saved = 0.0
        earlier = self._earlier()
        stages = {stage["name"]: _ended(stage) for stage in earlier.get("stages", []) if stage["name"] in finished}
        self.content: dict[str, Any] = {
            "surgeline": surgeline.__version__,
            "versions": versions(),
            "host": socket.gethostname(),
            "platform": platform.platform(),
            "cores": psutil.cpu_count(),
            "workdir": str(paths.workdir),
            "backend": earlier.get("backend"),
            "workers": earlier.get("workers"),
            "recipe": recipe.model_dump(mode="json"),
            "started": earlier.get("started", time.time()),
            "ended": None,
            "state": "running",
            "error": None,
            "accounts": earlier.get("accounts"),
            "sessions": [
                *earlier.get("sessions", []),
                {"started": time.time(), "ended": None, "state": "running"},
            ],
            "stages": [
                stages.get(request.name)
                or {
                    "name": request.name,
                    "task": request.task,
                    "state": "finished" if request.name in finished else "waiting",
                    "started": None,
                    "ended": None,
                    "arguments": request.arguments,
                    "cluster": request.cluster or default_cluster,
                    "needs": list(needs[request.name]),
                    "error": None,
                    "jobs": [],
                }
                for request in recipe.stages
            ],
        }

    def _earlier(self) -> dict[str, Any]:
        try:
            content = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            # The context, not this record, says what is finished; a lost record only loses history.
            return {}
        return content if isinstance(content, dict) else {}

    def set(self, **changes: Any) -> None:
        """Change what is said of the whole run."""
        with self._lock:
            self.content.update(changes)

    def stage(self, name: str, **changes: Any) -> None:
        """Change what is said of a stage, and save."""
        with self._lock:
            next(stage for stage in self.content["stages"] if stage["name"] == name).update(changes)
        self.save()

    def job(self, stage_name: str, job: Job, outcome: Outcome, submitted: float) -> None:
        """Add a job that ended."""
        entry = {
            "name": outcome.job,
            "call": outcome.call,
            "state": "finished" if outcome.ok else "failed",
            "submitted": submitted,
            "started": outcome.started,
            "ended": outcome.ended,
            "host": outcome.host,
            "worker": outcome.worker,
            "process": outcome.process,
            "peak_memory": outcome.peak_memory,
            "cpu_seconds": outcome.cpu_seconds,
            "resources": str(job.declared.resources),
            "failure": vars(outcome.failure) if outcome.failure else None,
            "losses": [vars(loss) for loss in outcome.losses],
            "commands": list(outcome.commands),
            "log": list(outcome.log),
        }
        if outcome.failure and outcome.failure.kind == "cancelled":
            entry["state"] = "cancelled"
        with self._lock:
            next(stage for stage in self.content["stages"] if stage["name"] == stage_name)["jobs"].append(entry)
            due = time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES
        if due:
            self.save()

    def account(self, accounts: Accounts) -> None:
        """Say what the workers of this run have cost so far; those of the runs before are added to it."""
        with self._lock:
            self.content["sessions"][-1]["accounts"] = accounts.as_json()
            self.content["accounts"] = self._accounts().as_json()

    @property
    def began(self) -> float:
        """When this run began (Unix time)."""
        return float(self.content["sessions"][-1]["started"])

    @property
    def accounts(self) -> Accounts:
        """What the workers of all runs of the session have cost."""
        with self._lock:
            return self._accounts()

    def _accounts(self) -> Accounts:
        known = Accounts()
        for session in self.content["sessions"]:
            # An earlier version of Surgeline kept none.
            with suppress(ValueError, KeyError):
                known += Accounts.from_json(session["accounts"])
        return known

    def end(self, state: str, error: str | None) -> None:
        """Say how the run ended, and save."""
        with self._lock:
            now = time.time()
            self.content.update(state=state, error=error, ended=now)
            self.content["sessions"][-1].update(state=state, ended=now)
        self.save()

    def save(self) -> None:
        """Write the record.

        Raises:
            WorkfolderError: it could not be written.
        """
        with self._lock:
            self._saved = time.monotonic()
            try:
                write_text(self._path, json.dumps(self.content, indent=1) + "\n")
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise disk_full(self._path.parent) from error
                raise WorkfolderError(
                    f"{self._path} could not be written: {error.strerror}",
                    "free space or restore write permission, then: surgeline resume",
                ) from error


def _ended(stage: dict[str, Any]) -> dict[str, Any]:
    """What is said of a stage that has finished; who was to say so may have been killed just before."""
    last = max((job["ended"] for job in stage["jobs"]), default=stage["started"])
    return {**stage, "state": "finished", "ended": stage["ended"] or last, "error": None}


def versions() -> dict[str, str]:
    """Versions of what results depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
