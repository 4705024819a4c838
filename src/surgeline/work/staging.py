"""A job that comes with what it works on, and goes with what has come of it."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from copy import copy
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import cloudpickle

from surgeline.errors import SurgelineError
from surgeline.work.artifacts import Artifact, matching
from surgeline.work.datastore import DataStore
from surgeline.work.execution import never_run
from surgeline.work.jobs import Declaration, Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.packs import Place, Traffic
from surgeline.work.scratch import Scratch
from surgeline.work.surroundings import Surroundings

# The kind of a failure to bring a job's files, or to take them back.
NOT_BROUGHT = "data"
ExecutePickled = Callable[[bytes, Surroundings], bytes]


@dataclass(frozen=True)
class BroughtJob(Job):
    """A job for a worker that has to be brought what it works on.

    Attributes:
        job: what is run there, with paths as they are there.
        declared: what it needs.
        store: where its files are, and where what comes of it is left.
        artifacts: what it works on.
        places: where in the store each file is, by its digest.
        limit: how many bytes its worker may keep for later jobs; None for half of its disk.
    """

    job: Job
    declared: Declaration
    store: DataStore
    artifacts: tuple[Artifact, ...]
    places: Mapping[str, Place]
    limit: int | None = None

    def as_it_runs(self) -> Job:
        """The job by itself."""
        job = copy(self.job)
        object.__setattr__(job, "declared", self.declared)
        return job

    @property
    def may_run_again(self) -> bool:
        """It finds its files as they were: it is brought them anew."""
        return True

    def _content(self) -> tuple[Any, ...]:
        return (self.job, self.artifacts)

    def __str__(self) -> str:
        return str(self.job)


@dataclass(frozen=True)
class BroughtOutcome(Outcome):
    """What came of a job that was brought its files.

    Attributes:
        artifacts: what it made and changed; of what it removed there is none.
        places: where in the store what is new of it is, by its digest.
        traffic: what its worker sent and fetched.
        folder: where it ran.
    """

    artifacts: tuple[Artifact, ...] = ()
    places: Mapping[str, Place] = field(default_factory=dict)
    traffic: Traffic = field(default_factory=Traffic)
    folder: str = ""

    def plain(self, **changes: Any) -> Outcome:
        """What the job's own outcome is, with changes."""
        return Outcome(**{**{part.name: getattr(self, part.name) for part in fields(Outcome)}, **changes})


def run_brought(pickled: bytes, scratch: Scratch, execute: ExecutePickled, surroundings: Surroundings) -> bytes:
    """Run a pickled job; one that comes with its files in a folder with these alone. Its pickled outcome."""
    try:
        job = cloudpickle.loads(pickled)
    except Exception:  # noqa: BLE001 - whoever executes it tells it
        return execute(pickled, surroundings)
    if not isinstance(job, BroughtJob):
        return execute(pickled, surroundings)
    outcome = _run(job, scratch, execute, surroundings)
    dumped: bytes = cloudpickle.dumps(outcome)
    return dumped


def _run(job: BroughtJob, scratch: Scratch, execute: ExecutePickled, surroundings: Surroundings) -> BroughtOutcome:
    began = time.time()
    traffic = Traffic()
    artifacts: list[Artifact] = []
    places: dict[str, Place] = {}
    outcome = None
    folder = Path.cwd()
    try:
        scratch.bring(job.store, job.artifacts, job.places, job.limit, traffic)
        declared = job.declared
        for path in (*declared.writes, *declared.changes, *declared.keeps):
            # What has an absolute path is where workers reach it, too.
            (scratch.folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.chdir(scratch.folder)
        outcome = cloudpickle.loads(execute(cloudpickle.dumps(job.as_it_runs()), surroundings))
        if outcome.ok:
            names = {*declared.writes, *declared.changes, *matching(scratch.folder, declared.keeps)}
            own = sorted(name for name in names if not Path(name).is_absolute())
            artifacts, places = scratch.take(job.store, own, job.places, traffic)
    except (SurgelineError, OSError) as error:
        failure = Failure(NOT_BROUGHT, str(error))
        outcome = replace(outcome or never_run(failure, surroundings), failure=failure, value=None)
    finally:
        os.chdir(folder)
        scratch.clear()
    told = {part.name: getattr(outcome, part.name) for part in fields(Outcome)}
    told |= {"started": began, "ended": time.time()}
    return BroughtOutcome(
        **told, artifacts=tuple(artifacts), places=places, traffic=traffic, folder=str(scratch.folder)
    )
