"""What a working folder says of its session besides the store: run.json, recipe.yaml and session.lock."""

from __future__ import annotations

import json
import socket
from collections import Counter
from typing import Annotated, Any

import psutil
import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError

from surgeline import yamltext
from surgeline.paths import SessionPaths

# Clocks of processes and of the lock differ by less.
_CLOCKS_DIFFER = 2.0


def _count_states(jobs: Any) -> Any:
    """How many jobs are in which state: thousands of jobs need not be kept for that."""
    return Counter(job["state"] for job in jobs) if isinstance(jobs, list) else jobs


class StageRecord(BaseModel):
    """What run.json says of a stage."""

    name: str
    task: str = ""
    state: str = "waiting"
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    cluster: str | None = None
    needs: tuple[str, ...] = ()
    jobs: Annotated[dict[str, int], BeforeValidator(_count_states)] = Field(default_factory=dict)


class Record(BaseModel):
    """What run.json says of a session."""

    state: str = "unknown"
    started: float | None = None
    ended: float | None = None
    error: str | None = None
    host: str | None = None
    backend: str | None = None
    workers: int | None = None
    recipe: dict[str, Any] = Field(default_factory=dict)
    stages: tuple[StageRecord, ...] = ()


class RecordReader:
    """Reads the record of a working folder; again only when it has changed."""

    def __init__(self, paths: SessionPaths) -> None:
        """Name a folder; it does not have to be there yet."""
        self._paths = paths
        self._last: tuple[tuple[int, int], Record | None] = ((0, 0), None)

    def read(self) -> Record:
        """The record as it is now, in which nothing runs whose process is gone; empty where there is none."""
        record = self._record() or Record()
        if record.state != "running" or not self._process_is_gone():
            return record
        stages = tuple(
            stage.model_copy(update={"state": "interrupted"}) if stage.state == "running" else stage
            for stage in record.stages
        )
        return record.model_copy(update={"state": "interrupted", "stages": stages})

    def recipe(self) -> dict[str, Any]:
        """The recipe, also while there is no record of a run."""
        found = (self._record() or Record()).recipe
        if found:
            return found
        try:
            content = yamltext.load(self._paths.recipe.read_text(encoding="utf-8"))
        except (OSError, ValueError, yaml.YAMLError):
            return {}
        return content if isinstance(content, dict) else {}

    def _record(self) -> Record | None:
        path = self._paths.record
        try:
            status = path.stat()
            state = (status.st_ino, status.st_mtime_ns)
            if state != self._last[0]:
                self._last = (state, _parsed(path.read_bytes()))
        except OSError:
            return None
        return self._last[1]

    def _process_is_gone(self) -> bool:
        """Whether the session's process was on this machine and is no more."""
        try:
            holder = json.loads(self._paths.lock.read_text(encoding="utf-8"))
            if holder["host"] != socket.gethostname():
                return False
            # A process that began later has only its number.
            return bool(psutil.Process(holder["process"]).create_time() > holder["since"] + _CLOCKS_DIFFER)
        except psutil.NoSuchProcess:
            return True
        except (OSError, ValueError, KeyError, TypeError, psutil.Error):
            return False


def _parsed(content: bytes) -> Record | None:
    try:
        return Record.model_validate(json.loads(content))
    # A job without a state, or a file that is no record: the store still says what is finished.
    except (ValidationError, ValueError, KeyError, TypeError):
        return None
