"""How the session of a working folder stands, whether it runs or not: from what it leaves there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from pydantic import BaseModel

from surgeline.paths import SessionPaths
from surgeline.serve.models import SessionDetail
from surgeline.serve.models import Stage as StageDetail
from surgeline.serve.reading import NotBegun
from surgeline.serve.sources import Sources
from surgeline.serve.summaries import detail_of
from surgeline.workflow.nowfile import read_now
from surgeline.workflow.tally import Now, StageNow
from surgeline.workflow.workfolder import check_session, read_record


class FailedJob(BaseModel):
    """A job that failed in the latest run of its stage: which, where, and why."""

    stage: str
    job: str
    call: str
    worker: str
    host: str
    message: str


class Status(BaseModel):
    """How a session stands.

    Attributes:
        session: the session, as `surgeline serve` tells it.
        process: the process that has the working folder, or had it last; None where that is not known.
        now: its stages, jobs and workers; up to two seconds old while it runs.
        failed_jobs: the jobs that failed.
    """

    session: SessionDetail
    process: int | None
    now: Now
    failed_jobs: tuple[FailedJob, ...]


def status_of(paths: SessionPaths) -> Status:
    """Find out how the session of a folder stands.

    Raises:
        WorkfolderError: there is none, or it cannot be read.
        ContextError: its context cannot be read, as when it is of a newer version.
    """
    check_session(paths)
    sources, _ = Sources([paths.workdir]).sessions()
    with suppress(NotBegun):
        sources[0].read(lambda _connection, _context: None)
    detail = detail_of(sources[0])
    now = (read_now(paths) if detail.state == "running" else None) or _from_record(detail)
    return Status(
        session=detail, process=_holder(paths), now=now, failed_jobs=tuple(_failed_jobs(read_record(paths)))
    )


def _holder(paths: SessionPaths) -> int | None:
    try:
        return int(json.loads(paths.lock.read_text(encoding="utf-8"))["process"])
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _from_record(detail: SessionDetail) -> Now:
    began = detail.started or detail.created or 0.0
    return Now(
        time=detail.ended or max([began, *(stage.ended or stage.started or 0.0 for stage in detail.stages)]),
        began=began,
        stages=tuple(_stage_now(stage) for stage in detail.stages),
    )


def _stage_now(stage: StageDetail) -> StageNow:
    ended = sum(stage.jobs.values())
    content = {
        "name": stage.name,
        "state": stage.state,
        "needs": stage.needs,
        "began": stage.started,
        "ended": stage.ended,
        "jobs": ended,
        "done": ended,
        "failed": stage.jobs.get("failed", 0),
        "stopped": stage.jobs.get("cancelled", 0),
    }
    return StageNow.model_validate(content)


def _failed_jobs(record: dict[str, Any]) -> Iterator[FailedJob]:
    for stage in record.get("stages", []):
        for job in stage.get("jobs", []):
            if job.get("state") == "failed":
                told = {key: str(job.get(key) or "") for key in ("call", "worker", "host")}
                message = str((job.get("failure") or {}).get("message", ""))
                yield FailedJob(stage=stage["name"], job=job["name"], message=message, **told)
