"""A stage of a session's record with the sums and the facts that pages show of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import median
from typing import Any

from surgeline.context.records import Decision
from surgeline.context.view import View
from surgeline.report.names import job_anchor, stage_file
from surgeline.report.script import stage_calls
from surgeline.report.timeline import COLOURS

# A task that warns at every integration must not make a page that no browser opens.
_MOST_LOG_LINES = 500
_MOST_MESSAGES = 100
# Nor must a stage of many thousands of jobs.
_MOST_JOBS = 1000

_NO_JOB: Mapping[str, Any] = {
    "name": "", "call": "", "state": "", "submitted": None, "started": None, "ended": None, "host": "",
    "worker": "", "process": 0, "peak_memory": 0, "cpu_seconds": 0.0, "resources": "", "failure": None,
    "losses": (), "commands": (), "log": (),
}  # fmt: skip
_NO_STAGE: Mapping[str, Any] = {
    "name": "", "task": "", "state": "waiting", "started": None, "ended": None, "arguments": {},
    "cluster": "", "needs": (), "error": None, "jobs": (),
}  # fmt: skip


@dataclass(frozen=True)
class LogMessage:
    """What CASA said, how often, and which jobs it said it in."""

    priority: str
    origin: str
    text: str
    count: int
    jobs: tuple[str, ...]


class JobView:
    """A job of the record with its place on the page of its stage."""

    def __init__(self, stage: StageView, number: int, record: Mapping[str, Any]) -> None:
        self.stage = stage
        # There may be very many: a record that lacks nothing is not made again.
        self.record = record if _NO_JOB.keys() <= record.keys() else {**_NO_JOB, **record}
        self.anchor = job_anchor(number)

    @property
    def link(self) -> str:
        """Where its stage's page tells of it."""
        return f"{self.stage.file}#{self.anchor if self.is_shown else 'jobs'}"

    @property
    def is_shown(self) -> bool:
        """Whether its stage's page tells of it by itself."""
        return len(self.stage.jobs) <= _MOST_JOBS or self in self.stage.noteworthy

    @property
    def seconds(self) -> float | None:
        started, ended = self.record["started"], self.record["ended"]
        return float(ended - started) if started and ended else None

    @property
    def waited(self) -> float | None:
        """From when it was put into the queue until it began, in seconds; other attempts are part of it."""
        started, submitted = self.record["started"], self.record["submitted"]
        return max(0.0, float(started - submitted)) if started and submitted else None

    @property
    def losses(self) -> Sequence[Mapping[str, Any]]:
        return self.record["losses"] or ()

    @property
    def busy(self) -> float | None:
        """The share of its time in which it used a processor."""
        return (self.record["cpu_seconds"] or 0.0) / self.seconds if self.seconds else None


def noteworthy(jobs: Sequence[JobView]) -> dict[JobView, None]:
    """The jobs that a page tells of one by one, in their order.

    These are all; of very many those that failed or lost a worker, and then the longest.
    """

    def worth(job: JobView) -> tuple[bool, float]:
        return job.record["state"] == "failed" or bool(job.losses), job.seconds or 0.0

    chosen = set(sorted(jobs, key=worth, reverse=True)[:_MOST_JOBS])
    return dict.fromkeys(job for job in jobs if job in chosen)


class StageView:
    """A stage of the record."""

    def __init__(self, number: int, record: Mapping[str, Any], view: View, end: float) -> None:
        """Take a stage as `run.json` has it.

        Args:
            number: its place in the recipe, from 0.
            record: what is recorded of it.
            view: the context, for its decisions.
            end: when the session ended, or until when is counted (Unix time).
        """
        self.number = number
        self.record = {**_NO_STAGE, **record}
        self.name: str = self.record["name"]
        self.state: str = self.record["state"]
        self.file = stage_file(number, self.name)
        self.jobs = [JobView(self, place, job) for place, job in enumerate(self.record["jobs"])]
        self.decisions = view.all(Decision, stage=self.name)
        self._view = view
        self._end = end

    @cached_property
    def calls(self) -> list[str]:
        """What plain CASA runs for what it did."""
        return stage_calls(self.record, self._view)

    @cached_property
    def noteworthy(self) -> dict[JobView, None]:
        """Those that its page tells of one by one."""
        return noteworthy(self.jobs)

    @property
    def colour(self) -> int:
        return self.number % COLOURS

    @property
    def seconds(self) -> float | None:
        started, ended = self.record["started"], self.record["ended"]
        if not started or not (ended or self.state == "running"):
            return None
        return float((ended or self._end) - started)

    @property
    def job_seconds(self) -> float:
        return float(sum(job.seconds or 0 for job in self.jobs))

    @property
    def cpu_seconds(self) -> float:
        return float(sum(job.record["cpu_seconds"] or 0 for job in self.jobs))

    @property
    def peak_memory(self) -> int:
        return max((job.record["peak_memory"] or 0 for job in self.jobs), default=0)

    @property
    def waits(self) -> list[float]:
        """How long each job waited until it began, in seconds."""
        return [job.waited for job in self.jobs if job.waited is not None]

    @property
    def usual_wait(self) -> float | None:
        return median(self.waits) if self.waits else None

    @property
    def workers(self) -> list[str]:
        """The workers that its jobs ended on, each once."""
        return list(dict.fromkeys(job.record["worker"] for job in self.jobs if job.record["worker"]))

    @cached_property
    def losses(self) -> list[tuple[Mapping[str, Any], JobView]]:
        """Each loss of a worker with the job that ran on it, oldest first."""
        found = [(loss, job) for job in self.jobs for loss in job.losses]
        return sorted(found, key=lambda pair: float(pair[0]["when"]))

    @cached_property
    def failed_jobs(self) -> list[JobView]:
        """Those that failed, in the order in which they ended."""
        return [job for job in self.jobs if job.record["state"] == "failed"]

    @cached_property
    def log(self) -> list[tuple[str, str]]:
        """The lines of CASA's log that matter, each with its job's name."""
        return [(job.record["name"], line) for job in self.jobs for line in job.record["log"] or ()]

    @property
    def shown_log(self) -> list[tuple[str, str]]:
        return self.log[:_MOST_LOG_LINES]

    @cached_property
    def messages(self) -> list[LogMessage]:
        """What CASA warned of: SEVERE before WARN, equal lines counted together."""
        jobs: dict[tuple[str, str, str], list[str]] = {}
        for name, line in self.log:
            parts = [part.strip() for part in line.split("\t")]
            if len(parts) >= 4 and parts[1] in ("WARN", "SEVERE"):
                message = (parts[1], parts[2].strip(":"), " ".join(parts[3:]))
                jobs.setdefault(message, []).append(name)
        found = [LogMessage(*message, len(names), tuple(dict.fromkeys(names))) for message, names in jobs.items()]
        return sorted(found, key=lambda message: (message.priority, -message.count))

    @property
    def shown_messages(self) -> list[LogMessage]:
        return self.messages[:_MOST_MESSAGES]

    def count(self, priority: str) -> int:
        """How many lines of this priority CASA logged."""
        return sum(message.count for message in self.messages if message.priority == priority)
