"""What jobs took before: their memory and time, and how many a stage had at once; kept from session to session.

Jobs of one kind (a task, or a function) in one stage are taken to be alike. The most recent ones count: the most
memory of any, with a margin, and the time within which nine in ten ended; this in proportion to the size of what a
job reads, where that is more than was seen. Memory is not: CASA goes through its data in pieces. Sizes are those that
jobs' outcomes tell, so that no file is looked at.

A job that comes with an estimate of its time takes that in proportion to what its like took of theirs.

A job that comes with an estimate of its memory, as imaging jobs do, is compared with those of its kind and stage that
were estimated at half as much or more. If one of them took more than its estimate, so much is added: what estimates
leave out, such as buffers for visibilities, and what a worker has not given back of an earlier job, do not grow with
the image. If all took less, the estimate is lowered in proportion, as the one that came nearest to its own shows,
with a margin. It is never less than what smaller ones took. Its time grows with the estimate, too.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, NonNegativeFloat, NonNegativeInt, ValidationError

from surgeline.paths import write_text
from surgeline.work.fingerprint import Fingerprint
from surgeline.work.jobs import FunctionCall, Job, JobRequest, PipelineTask
from surgeline.work.outcome import Outcome

# A job may take somewhat more than any of its like did; less so where their sizes are compared.
_MEMORY_MARGIN = 1.5
_MARGIN_OF_ESTIMATE = 1.2
# How large another job has been, by its estimate, to be compared with.
_ALIKE = 0.5
_SHARE_WITHIN_TIME = 0.9
# How many of the most recent jobs of a kind count, how many sessions for a stage's width, and how many kinds of jobs
# and stages are kept.
_RECENT_JOBS = 20
_RECENT_SESSIONS = 5
_MOST_KINDS = 500


def default_file(environment: Mapping[str, str]) -> Path:
    """Where estimates are kept unless the caller knows better: in the user's folder for what can be made again."""
    base = environment.get("XDG_CACHE_HOME") or Path(environment.get("HOME") or Path.home(), ".cache")
    return Path(base, "surgeline", "estimates.json")


class _Record(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class _Took(_Record):
    """What one job took: when it ended (Unix time), bytes of memory (0: not known), seconds, bytes that it read.

    `estimated` is how much memory it was estimated to take before it was known, `expected` how long (0: it was not).
    """

    ended: float
    memory: NonNegativeInt
    seconds: NonNegativeFloat
    read: NonNegativeInt
    estimated: NonNegativeInt = 0
    expected: NonNegativeFloat = 0.0


class _Width(_Record):
    """The most jobs at once that a stage had in a session, which first told of it at a time (Unix time)."""

    told: float
    jobs: NonNegativeInt


class _Kind(_Record):
    stage: str
    kind: str
    recent: tuple[_Took, ...]


class _Stage(_Record):
    recipe: str
    stage: str
    recent: tuple[_Width, ...]


class _File(_Record):
    """What the file holds."""

    format: Literal[1] = 1
    jobs: tuple[_Kind, ...] = ()
    stages: tuple[_Stage, ...] = ()


class Estimates:
    """What is known of jobs from their like. Threads may share it."""

    def __init__(self, path: Path | None) -> None:
        """Read what earlier sessions left.

        What cannot be understood there is set aside, as NAME.damaged beside it; what cannot be read is left alone.

        Args:
            path: the file; None for what is learnt in this session only.
        """
        self._path = path
        self._lock = threading.Lock()
        self._took: dict[tuple[str, str], dict[float, _Took]] = {}
        self._widths: dict[tuple[str, str], dict[float, _Width]] = {}
        # When this session first told of a stage's width.
        self._told: dict[tuple[str, str], float] = {}
        # What is known of files, by the names that jobs have for them.
        self._sizes: dict[str, int] = {}
        with self._lock:
            self._merge(_read(path))

    def learn(self, stage: str, job: Job, outcome: Outcome) -> None:
        """Take in what a job took; one that failed teaches nothing."""
        if not outcome.ok:
            return
        with self._lock:
            self._sizes |= {found.path: found.size for found in (*outcome.inputs, *outcome.outputs)}
            took = _Took(
                ended=outcome.ended,
                memory=outcome.peak_memory,
                seconds=max(outcome.ended - outcome.started, 0.0),
                read=_size(outcome.inputs),
                estimated=job.declared.memory or 0,
                expected=job.declared.estimated_seconds or 0.0,
            )
            recent = self._took.setdefault((stage, kind_of(job)), {})
            recent[took.ended] = took
            _keep_latest(recent, _RECENT_JOBS)

    def resources(self, stage: str, job: Job) -> tuple[int | None, float | None]:
        """The memory (bytes) and the time (seconds) that a job is expected to take.

        None for what is not known of it or of its like, and for what the job itself asks for.
        """
        with self._lock:
            recent = list(self._took.get((stage, kind_of(job)), {}).values())
            paths = {*job.declared.reads, *job.declared.changes}
            size = sum(self._sizes.get(path, 0) for path in paths)
        declared = job.declared
        memory = _memory(recent, declared.memory) if declared.resources.memory is None else None
        if declared.seconds is not None:
            return memory, None
        if declared.estimated_seconds is not None:
            return memory, _seconds(recent, declared.estimated_seconds)
        if not recent:
            return memory, None
        growth = max(
            _growth(size, (took.read for took in recent)),
            _growth(declared.memory or 0, (took.estimated for took in recent)),
        )
        return memory, growth * _within(recent)

    def of_stage(self, stage: str) -> tuple[int | None, float | None]:
        """The memory (bytes) and the time (seconds) that jobs of a stage are expected to take, before it has any.

        Those of the kind of job that took the most of each; None where nothing is known.
        """
        with self._lock:
            kinds = [list(took.values()) for (name, _), took in self._took.items() if name == stage and took]
        if not kinds:
            return None, None
        memory = max(took.memory for recent in kinds for took in recent)
        return int(_MEMORY_MARGIN * memory) or None, max(map(_within, kinds))

    def learn_width(self, recipe_name: str, stage: str, jobs: int) -> None:
        """Take in how many jobs a stage has at once at this moment; the most of a session counts."""
        with self._lock:
            told = self._told.setdefault((recipe_name, stage), time.time())
            recent = self._widths.setdefault((recipe_name, stage), {})
            before = recent[told].jobs if told in recent else 0
            recent[told] = _Width(told=told, jobs=max(jobs, before))
            _keep_latest(recent, _RECENT_SESSIONS)

    def width(self, recipe_name: str, stage: str) -> int | None:
        """The most jobs at once that a stage of a recipe had in the last sessions; None where it is not known."""
        with self._lock:
            return max((width.jobs for width in self._widths.get((recipe_name, stage), {}).values()), default=None)

    def save(self) -> None:
        """Write what is known, together with what other sessions wrote meanwhile.

        Two sessions that write at the same moment lose what one of them had to say until it writes again.

        Raises:
            OSError: the file cannot be written.
        """
        if self._path is None:
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._lock:
            self._merge(_read(self._path))
            write_text(self._path, self._content().model_dump_json())

    def _merge(self, known: _File) -> None:
        for kind in known.jobs:
            took = self._took.setdefault((kind.stage, kind.kind), {})
            took |= {one.ended: one for one in kind.recent}
            _keep_latest(took, _RECENT_JOBS)
        for stage in known.stages:
            widths = self._widths.setdefault((stage.recipe, stage.stage), {})
            # This session's own is never smaller here than in the file.
            widths |= {one.told: one for one in stage.recent if one.told not in widths}
            _keep_latest(widths, _RECENT_SESSIONS)
        _keep_latest_kinds(self._took)
        _keep_latest_kinds(self._widths)

    def _content(self) -> _File:
        return _File(
            jobs=tuple(
                _Kind(stage=stage, kind=kind, recent=tuple(recent.values()))
                for (stage, kind), recent in self._took.items()
            ),
            stages=tuple(
                _Stage(recipe=recipe, stage=stage, recent=tuple(recent.values()))
                for (recipe, stage), recent in self._widths.items()
            ),
        )


def kind_of(job: Job) -> str:
    """What jobs that do the same to different things have in common: a task's name, or a function's in full."""
    if isinstance(job, JobRequest):
        return job.task
    called: Any = job
    if isinstance(job, FunctionCall):
        called = job.function
    elif isinstance(job, PipelineTask):
        called = job.cls
    while isinstance(called, partial):
        called = called.func
    if not hasattr(called, "__qualname__"):
        called = type(called)
    return f"{called.__module__}.{called.__qualname__}"


def _memory(recent: Sequence[_Took], estimate: int | None) -> int | None:
    """What a job is expected to take, by its like and by its own estimate."""
    most = max((took.memory for took in recent), default=0)
    if estimate is None:
        return int(_MEMORY_MARGIN * most) or None
    alike = [took for took in recent if took.memory and took.estimated >= _ALIKE * estimate]
    least = max((took.memory for took in recent if 0 < took.estimated <= estimate), default=0)
    if not alike:
        return max(estimate, least)
    beyond = max(took.memory - took.estimated for took in alike)
    share = max(took.memory / took.estimated for took in alike)
    return max(estimate + beyond if beyond > 0 else min(int(_MARGIN_OF_ESTIMATE * share * estimate), estimate), least)


def _seconds(recent: Sequence[_Took], estimate: float) -> float:
    """How long a job is expected to take, by its own estimate and by how near those of its like came."""
    shares = sorted(took.seconds / took.expected for took in recent if took.expected)
    return estimate * (_most(shares) if shares else 1.0)


def _growth(size: int, seen: Iterable[int]) -> float:
    """How many times as large as all that was seen something is; 1 where it is no larger, or nothing is known."""
    largest = max(seen)
    return max(size / largest, 1.0) if largest else 1.0


def _within(recent: Sequence[_Took]) -> float:
    """The seconds within which most jobs of a kind ended."""
    return _most(sorted(took.seconds for took in recent))


def _most(rising: Sequence[float]) -> float:
    """What most of some numbers do not exceed."""
    return rising[math.ceil(_SHARE_WITHIN_TIME * len(rising)) - 1]


def _size(fingerprints: Iterable[Fingerprint]) -> int:
    return sum({found.path: found.size for found in fingerprints}.values())


def _keep_latest(recent: dict[float, Any], number: int) -> None:
    for when in sorted(recent)[:-number]:
        del recent[when]


def _keep_latest_kinds(known: dict[tuple[str, str], dict[float, Any]]) -> None:
    for name in sorted(known, key=lambda name: max(known[name], default=0.0))[:-_MOST_KINDS]:
        del known[name]


def _read(path: Path | None) -> _File:
    """What is in the file, as far as there is one that can be read; a damaged one is set aside."""
    if path is None:
        return _File()
    try:
        content = path.read_bytes()
    except OSError:
        # There is none, or it is not ours to read: then there is nothing to know from earlier.
        return _File()
    try:
        return _File.model_validate_json(content)
    except ValidationError:
        # In a folder that nobody may write to, it stays.
        with suppress(OSError):
            path.replace(path.with_name(f"{path.name}.damaged"))
        return _File()
