"""How long a session still takes, as far as that is known: from jobs' own estimates and from what their like took."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from surgeline.work.estimates import Estimates


@dataclass(frozen=True)
class Left:
    """The time that is left of what is known, and what is not known.

    Attributes:
        seconds: for all of which it is known; None where it is known of nothing.
        unknown_jobs: jobs of running stages of which nobody knows how long they take.
        unknown_stages: stages to come of whose jobs nothing is known yet.
    """

    seconds: float | None = None
    unknown_jobs: int = 0
    unknown_stages: int = 0

    def __str__(self) -> str:
        if self.seconds is None:
            return ""
        kinds = ((self.unknown_jobs, "job"), (self.unknown_stages, "stage"))
        unknown = [f"{number} {kind}{'s' if number != 1 else ''}" for number, kind in kinds if number]
        rest = f"; not known of {' and '.join(unknown)}" if unknown else ""
        return f"about {duration(self.seconds)} of what is known{rest}"


@dataclass(frozen=True)
class Expectation:
    """How long a job is expected to run, in seconds, how long it has run by now, and how many are like it.

    None: not known.
    """

    seconds: float | None
    since: float = 0.0
    number: int = 1


def time_left(jobs: Iterable[Expectation], ahead: Sequence[tuple[float | None, int | None]], workers: int) -> Left:
    """What is left: the jobs of running stages side by side, then the stages to come, one after the other.

    Batches that follow the first of a stage are counted only once they are there: it is rather too little than too
    much.

    Args:
        jobs: those that have not ended.
        ahead: of each stage to come the seconds of a job and the number of its jobs, from earlier sessions.
        workers: how many jobs run at once.
    """
    workers = max(workers, 1)
    total, longest, unknown_jobs, known_jobs = 0.0, 0.0, 0, 0
    for job in jobs:
        # One that takes longer than it was to take may take any time.
        if job.seconds is None or job.since > job.seconds:
            unknown_jobs += job.number
        else:
            known_jobs += job.number
            total += job.number * (job.seconds - job.since)
            longest = max(longest, job.seconds - job.since)
    known = [(seconds, width) for seconds, width in ahead if seconds is not None and width is not None]
    unknown_stages = len(ahead) - len(known)
    if not known_jobs and not known:
        return Left(None, unknown_jobs, unknown_stages)
    now = max(total / workers, longest)
    later = sum(seconds * math.ceil(width / workers) for seconds, width in known)
    return Left(now + later, unknown_jobs, unknown_stages)


def of_stages(estimates: Estimates, recipe: str, stages: Iterable[str]) -> list[tuple[float | None, int | None]]:
    """What earlier sessions told of stages to come: the seconds of a job, and the number of jobs."""
    return [(estimates.of_stage(stage)[1], estimates.width(recipe, stage)) for stage in stages]


def duration(seconds: float) -> str:
    """A time in words, as exact as somebody who waits wants it: 40 s, 3 min, 2 h 10 min."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 100:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} days {hours % 24} h"
