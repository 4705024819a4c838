"""`run.json`: what a session did, for people and programs to read while it runs and afterwards."""

from __future__ import annotations

import errno
import json
import platform
import socket
import threading
import time
from collections.abc import Collection, Mapping, Sequence
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
# It is saved again after so many times as long as saving took: with 100,000 jobs, too, that takes 2.5 % of the time.
_REST = 39


class RunRecord:
    """The record of a session, saved whole each time; threads may share it.

    What is said of a job that ended does not change any more. It is kept as the line that it is in the file, which
    takes a fraction of the memory and is not made again each time.
    """

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
        self._next_save = 0.0
        earlier = self._earlier()
        stages = {stage["name"]: _ended(stage) for stage in earlier.get("stages", []) if stage["name"] in finished}
        self._jobs = {
            request.name: [json.dumps(job) for job in stages.get(request.name, {}).pop("jobs", [])]
            for request in recipe.stages
        }
        self._content: dict[str, Any] = {
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

    @property
    def content(self) -> dict[str, Any]:
        """All that it says, as it is in the file."""
        with self._lock:
            stages = [self._with_jobs(stage) for stage in self._content["stages"]]
            return {**self._content, "stages": stages}

    def of_stage(self, name: str) -> dict[str, Any]:
        """What it says of a stage."""
        with self._lock:
            return self._with_jobs(self._stage(name))

    def set(self, **changes: Any) -> None:
        """Change what is said of the whole run."""
        with self._lock:
            self._content.update(changes)

    def stage_begins(self, name: str) -> None:
        """A stage begins, with no jobs yet, and save."""
        with self._lock:
            self._jobs[name] = []
        self.stage(name, state="running", started=time.time(), ended=None, error=None)

    def stage(self, name: str, **changes: Any) -> None:
        """Change what is said of a stage, and save."""
        with self._lock:
            self._stage(name).update(changes)
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
        line = json.dumps(entry)
        with self._lock:
            self._jobs[stage_name].append(line)
            due = time.monotonic() > self._next_save
        if due:
            self.save()

    def account(self, accounts: Accounts) -> None:
        """Say what the workers of this run have cost so far; those of the runs before are added to it."""
        with self._lock:
            self._content["sessions"][-1]["accounts"] = accounts.as_json()
            self._content["accounts"] = self._accounts().as_json()

    @property
    def began(self) -> float:
        """When this run began (Unix time)."""
        return float(self._content["sessions"][-1]["started"])

    @property
    def accounts(self) -> Accounts:
        """What the workers of all runs of the session have cost."""
        with self._lock:
            return self._accounts()

    def _accounts(self) -> Accounts:
        known = Accounts()
        for session in self._content["sessions"]:
            # An earlier version of Surgeline kept none.
            with suppress(ValueError, KeyError):
                known += Accounts.from_json(session["accounts"])
        return known

    def end(self, state: str, error: str | None) -> None:
        """Say how the run ended, and save."""
        with self._lock:
            now = time.time()
            self._content.update(state=state, error=error, ended=now)
            self._content["sessions"][-1].update(state=state, ended=now)
        self.save()

    def save(self) -> None:
        """Write the record.

        Raises:
            WorkfolderError: it could not be written.
        """
        with self._lock:
            began = time.monotonic()
            try:
                write_text(self._path, self._text())
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise disk_full(self._path.parent) from error
                raise WorkfolderError(
                    f"{self._path} could not be written: {error.strerror}",
                    "free space or restore write permission, then: surgeline resume",
                ) from error
            finally:
                ended = time.monotonic()
                self._next_save = ended + max(_SECONDS_BETWEEN_SAVES, _REST * (ended - began))

    def _stage(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = next(stage for stage in self._content["stages"] if stage["name"] == name)
        return found

    def _with_jobs(self, stage: Mapping[str, Any]) -> dict[str, Any]:
        return {**stage, "jobs": [json.loads(line) for line in self._jobs[stage["name"]]]}

    def _text(self) -> str:
        """The whole, as it is in the file: a job is a line."""
        stages = [_with_list(stage, "jobs", self._jobs[stage["name"]]) for stage in self._content["stages"]]
        return _with_list(self._content, "stages", stages) + "\n"


def _with_list(content: Mapping[str, Any], name: str, items: Sequence[str]) -> str:
    """An object as JSON, of which one list, its last entry, is JSON already."""
    entries = [f" {json.dumps(key)}: {json.dumps(value)}" for key, value in content.items() if key != name]
    listed = ",\n".join(items)
    return "{\n" + ",\n".join([*entries, f" {json.dumps(name)}: [\n{listed}\n]"]) + "\n}"


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
