"""What is recorded of a stage and of each attempt of its jobs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from surgeline.context.attempts import Attempt
from surgeline.work.fingerprint import Fingerprint
from surgeline.work.jobs import Job
from surgeline.work.outcome import Outcome


@dataclass
class FilesUsed:
    """The files that a stage's jobs read, changed and wrote: digests by path, and the states they were left in."""

    read: dict[str, str] = field(default_factory=dict)
    changed: dict[str, str] = field(default_factory=dict)
    written: dict[str, str] = field(default_factory=dict)
    states: dict[str, str] = field(default_factory=dict)

    def add(self, job: Job, outcome: Outcome) -> None:
        """Add those of a job that ended."""
        before = {found.path: found for found in outcome.inputs}
        after = {found.path: found for found in outcome.outputs}
        self.read.update(_digests(job.declared.reads, before))
        self.changed.update(_digests(job.declared.changes, after))
        self.written.update(_digests(job.declared.writes, after))
        self.states.update({path: found.state for path, found in after.items()})

    def as_details(self) -> dict[str, Any]:
        """What a commit keeps of it."""
        # What the stage itself made is nothing that it depends on.
        read = {path: digest for path, digest in self.read.items() if path not in self.written}
        return {
            "files": {"read": read, "changed": self.changed, "written": self.written},
            "states": self.states,
        }


def attempts_of(run: str, stage: str, job: Job, outcome: Outcome, submitted: float) -> list[Attempt]:
    """The attempts of a job: one for each worker that died running it, and the one that ended."""
    common = {"call": outcome.call, "kind": type(job).__name__, "resources": str(job.declared.resources)}
    began = [submitted, *(loss.when for loss in outcome.losses)]
    lost = [
        Attempt(run, stage, outcome.job, number, "lost", began[number - 1], loss.when, loss.worker, "", "",
                {**common, "failure": {"kind": "worker died", "message": loss.how, "traceback": ""}})
        for number, loss in enumerate(outcome.losses, 1)
    ]  # fmt: skip
    failure = outcome.failure
    state = "finished" if failure is None else "cancelled" if failure.kind == "cancelled" else "failed"
    body = {
        **common,
        "inputs": [_described(found) for found in outcome.inputs],
        "outputs": [_described(found) for found in outcome.outputs],
        "peak_memory": outcome.peak_memory,
        "cpu_seconds": outcome.cpu_seconds,
        "process": outcome.process,
        "submitted": submitted,
        "failure": vars(failure) if failure else None,
        "commands": list(outcome.commands),
        "log": list(outcome.log),
    }
    ended = Attempt(
        run,
        stage,
        outcome.job,
        len(lost) + 1,
        state,
        outcome.started,
        outcome.ended,
        outcome.worker,
        outcome.host,
        outcome.environment,
        body,
    )
    return [*lost, ended]


def _digests(paths: Iterable[str], found: dict[str, Fingerprint]) -> dict[str, str]:
    return {path: found[path].digest for path in paths if path in found}


def _described(found: Fingerprint) -> dict[str, Any]:
    return {"path": found.path, "kind": found.kind, "size": found.size, "digest": found.digest}
