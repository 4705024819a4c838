"""What CASA logged while a stage or a job ran, taken from the logs of workers."""

from __future__ import annotations

import calendar
import re
import time
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.errors import BadInput, WorkfolderError, nearest
from surgeline.paths import SessionPaths, casa_log
from surgeline.serve.record import RecordReader
from surgeline.workflow.workfolder import check_session, read_record

# CASA begins a line with the time, UTC, in whole seconds.
_TIME = re.compile(r"^(\d{4})-(\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\t")
_SECONDS_BETWEEN_LOOKS = 0.5
_OVER = ("finished", "failed", "interrupted")


@dataclass(frozen=True)
class Asked:
    """Whose log is asked for: a stage's, or of one of its jobs."""

    stage: str
    job: str | None = None


def log_lines(paths: SessionPaths, asked: Asked, follow: bool = False) -> Iterator[str]:
    """The lines of a stage or a job; with `follow` also those that come until it has ended.

    Of what has ended, each job's lines are told under its name. Which worker has a job is known when that has ended:
    so what comes is told of all workers.

    Raises:
        WorkfolderError: the folder holds no session.
        BadInput: there is no such stage or job.
    """
    check_session(paths)
    stage = _find_stage(paths, asked.stage)
    if not follow or stage["state"] in _OVER:
        jobs = _find_jobs(stage, asked.job)
        logs = _Logs(paths, jobs)
        for job in jobs:
            yield from _of_job(logs, job)
        if not jobs:
            yield _without_jobs(stage)
        return
    yield from _following(paths, asked, stage)


def stage_names(paths: SessionPaths) -> list[str]:
    """The stages of a session."""
    return [stage["name"] for stage in read_record(paths).get("stages", [])]


def job_names(paths: SessionPaths, stage: str) -> list[str]:
    """The jobs of a stage that have ended in its latest run."""
    return [job["name"] for job in _find_stage(paths, stage).get("jobs", [])]


def _find_stage(paths: SessionPaths, name: str) -> Mapping[str, Any]:
    stages: Sequence[Mapping[str, Any]] = read_record(paths).get("stages", [])
    if not stages:
        raise WorkfolderError(
            f"the session of {paths.workdir} has not begun, and there are no logs",
            f"let it run: surgeline resume --workdir {paths.workdir}",
        )
    for stage in stages:
        if stage["name"] == name:
            return stage
    raise BadInput(f"the session has no stage {name!r}", nearest(name, [stage["name"] for stage in stages]))


def _find_jobs(stage: Mapping[str, Any], name: str | None) -> Sequence[Mapping[str, Any]]:
    jobs: Sequence[Mapping[str, Any]] = sorted(stage.get("jobs", []), key=lambda job: job["started"] or 0.0)
    if name is None:
        return jobs
    found = [job for job in jobs if job["name"] == name]
    if not found:
        names = [job["name"] for job in jobs]
        told = nearest(name, names) if names else "none of its jobs has ended; to see what comes: --follow"
        raise BadInput(f"no job {name!r} of stage {stage['name']!r} has ended", told)
    return found


def _without_jobs(stage: Mapping[str, Any]) -> str:
    if stage["state"] == "waiting":
        return f"stage {stage['name']!r} has not begun; it waits for {', '.join(stage['needs']) or 'nothing'}"
    error = f": {stage['error']}" if stage.get("error") else ""
    return f"stage {stage['name']!r} ({stage['state']}) has no jobs that have ended{error}"


class _Logs:
    """What workers logged while they had some jobs, each log read once."""

    def __init__(self, paths: SessionPaths, jobs: Sequence[Mapping[str, Any]]) -> None:
        self._paths = paths
        self._began = min((job["started"] or 0.0 for job in jobs), default=0.0)
        self._ended = max((job["ended"] or 0.0 for job in jobs), default=0.0)
        # Of each worker the times of its lines, which rise, and the lines.
        self._known: dict[str, tuple[list[int], list[str]]] = {}

    def between(self, worker: str, began: float, ended: float) -> list[str]:
        """The lines of a worker's log of a time; one without a time belongs to the line before it."""
        if worker not in self._known:
            log = casa_log(self._paths.logs, worker)
            there = _between(log, self._began, self._ended) if worker and log.is_file() else ()
            times: list[int] = []
            lines: list[str] = []
            for moment, line in there:
                times.append(moment)
                lines.append(line)
            self._known[worker] = times, lines
        times, lines = self._known[worker]
        return lines[bisect_left(times, int(began)) : bisect_right(times, ended)]


def _of_job(logs: _Logs, job: Mapping[str, Any]) -> Iterator[str]:
    """A heading, the lines of CASA's log, and why it failed."""
    began, ended = job["started"] or 0.0, job["ended"] or 0.0
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(began))
    where = f"{job['worker']} ({job['host']})"
    yield f"==> {job['name']} ({job['state']}): {moment} UTC, {ended - began:.1f} s on {where}"
    lines = _without_neighbours(logs.between(job["worker"], began, ended), job.get("log") or [])
    # Of a worker that shares no files with the session, what mattered came back with the job.
    yield from lines or job.get("log") or []
    failure = job.get("failure")
    if failure:
        yield f"failed ({failure['kind']}): {failure['message']}"
        yield from failure.get("traceback", "").splitlines()
    yield ""


def _between(log: Path, began: float, ended: float) -> Iterator[tuple[int, str]]:
    """The lines of a CASA log of a time, each with its own; one without has that of the line before it."""
    moment = 0
    with log.open(encoding="utf-8", errors="replace") as handle:
        for line in handle:
            if match := _TIME.match(line):
                # Clocks may be put back.
                moment = max(calendar.timegm(tuple(int(part) for part in match.groups())), moment)
                if moment > ended:
                    return
            if moment >= int(began):
                yield moment, line.rstrip("\n")


def _without_neighbours(lines: list[str], kept: Sequence[str]) -> list[str]:
    """The lines of a job without those of its worker's other jobs in the same second, as far as they can be told.

    Args:
        lines: what the worker logged in the seconds of the job.
        kept: those of the job's own that it brought back: where its tasks begin and end, and warnings.
    """
    if not kept:
        return lines
    if "Begin Task" in kept[0] and kept[0] in lines:
        # There is a line of number signs before it.
        lines = lines[max(lines.index(kept[0]) - 1, 0) :]
    if "End Task" in kept[-1] and kept[-1] in lines:
        last = len(lines) - 1 - lines[::-1].index(kept[-1])
        lines = lines[: last + 2]
    return lines


def _following(paths: SessionPaths, asked: Asked, stage: Mapping[str, Any]) -> Iterator[str]:
    """The lines of all workers since a stage began, and those that come until it, or its job, has ended."""
    began = stage["started"]
    read: dict[Path, int] = {}
    record = RecordReader(paths)
    while True:
        # First: what ends meanwhile has written all by then.
        running = record.read().state == "running"
        current = _find_stage(paths, asked.stage)
        ended = any(job["name"] == asked.job for job in current.get("jobs", []))
        over = not running or ended or current["state"] in _OVER
        began = began or current["started"]
        if began:
            for log in sorted(paths.logs.glob("casa-*.log")):
                yield from _new_lines(log, read, began)
        if over:
            break
        time.sleep(_SECONDS_BETWEEN_LOOKS)
    if asked.job is None or not ended:
        error = f": {current['error']}" if current.get("error") else ""
        state = "interrupted" if current["state"] == "running" else current["state"]
        yield f"==> stage {asked.stage!r} {state}{error}"
        return
    jobs = _find_jobs(current, asked.job)
    logs = _Logs(paths, jobs)
    for job in jobs:
        yield from _of_job(logs, job)


def _new_lines(log: Path, read: dict[Path, int], began: float) -> Iterator[str]:
    """What a log has beyond what was read of it; the first time what it has from a moment on."""
    worker = log.stem.removeprefix("casa-")
    with log.open("rb") as handle:
        if log not in read:
            offset = 0
            for line in handle:
                match = _TIME.match(line.decode("utf-8", errors="replace"))
                if match and calendar.timegm(tuple(int(part) for part in match.groups())) >= int(began):
                    break
                offset += len(line)
            read[log] = offset
        handle.seek(read[log])
        content = handle.read()
    # What is not a whole line yet is told later.
    whole = content[: content.rfind(b"\n") + 1]
    read[log] += len(whole)
    for line_of_log in whole.decode("utf-8", errors="replace").splitlines():
        yield f"{worker}: {line_of_log}"
