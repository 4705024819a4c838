"""What workers cost, and what of it did work: for each stage and in all, from the times of workers and of jobs.

A worker's time is cut at the ends of its jobs. What went before a job, since the one before it or since the worker
was asked for, is that job's stage's; what came after the last job, too. A worker that never had a job was asked for
in vain. Only times are counted in which a worker had its cores: waiting in the queue costs nothing.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Protocol, Self

from surgeline.clusters.fleet import Berth
from surgeline.work.resources import Resources

# What workers in queue jobs are called in outcomes of jobs: worker-slurm-12_3-r1 is the second start of 12_3.
_IN_A_QUEUE_JOB = re.compile(r"worker-(?:slurm|htcondor|kubernetes)-(.+?)(?:-r\d+|@.+)?")
# From here on core-hours are told, rather than core-seconds.
_CORE_HOURS = 2


class _Class(Protocol):
    """What has to be known of a worker class."""

    @property
    def offers(self) -> Resources: ...


@dataclass(frozen=True)
class Stay:
    """The time of one worker; all times are Unix times.

    Attributes:
        worker: its name, as `name_of_place` gives it for the jobs that ran there.
        cores: how many cores it had.
        gpus: how many GPUs it had.
        submitted: when it was asked for.
        started: when it was given its cores; None: never.
        came: when it was ready for jobs; None: never.
        ended: when it gave its cores back, or the moment until which is counted.
    """

    worker: str
    cores: int
    gpus: int
    submitted: float
    started: float | None
    came: float | None
    ended: float


@dataclass(frozen=True, slots=True)
class Ran:
    """A job's time on a worker, in Unix times.

    Attributes:
        stage: the stage whose job it is.
        worker: where it ran, as `name_of_place` gives it.
        started: when it began; of one that was lost, the earliest that it can have begun.
        ended: when it ended.
        lost: it ended with its worker, so that it came to nothing.
    """

    stage: str
    worker: str
    started: float
    ended: float
    lost: bool = False


@dataclass(frozen=True)
class Account:
    """What workers cost, in core-seconds where nothing else is said.

    Attributes:
        workers: how many were first of use here.
        queued: seconds for which these waited in the queue, all together.
        asked: in all; the sum of the following four.
        used: while they ran jobs that ended.
        lost: while they ran jobs that were lost with them.
        starting: before they were ready for jobs.
        idle: while they were ready, and had none.
        gpu_asked: GPU-seconds in all.
        gpu_used: GPU-seconds while they ran jobs that ended.
    """

    workers: int = 0
    queued: float = 0.0
    asked: float = 0.0
    used: float = 0.0
    lost: float = 0.0
    starting: float = 0.0
    idle: float = 0.0
    gpu_asked: float = 0.0
    gpu_used: float = 0.0

    def __add__(self, other: Account) -> Account:
        return Account(*(getattr(self, f.name) + getattr(other, f.name) for f in fields(self)))


@dataclass(frozen=True)
class Accounts:
    """What all workers of a session cost, beside a fixed allocation of as many cores as there were at most at once.

    Attributes:
        stages: what is of each stage.
        in_vain: what is of workers that never had a job.
        peak_cores: the most cores at once.
        peak_gpus: the most GPUs at once.
        fixed: core-seconds of so many cores from the session's beginning to its end.
        gpu_fixed: the same for GPUs.
    """

    stages: Mapping[str, Account] = field(default_factory=dict)
    in_vain: Account = Account()
    peak_cores: int = 0
    peak_gpus: int = 0
    fixed: float = 0.0
    gpu_fixed: float = 0.0

    @property
    def total(self) -> Account:
        return sum(self.stages.values(), self.in_vain)

    @property
    def ratio(self) -> float | None:
        """What was asked over what the fixed allocation would have cost; None where nothing was asked."""
        return self.total.asked / self.fixed if self.fixed else None

    def __add__(self, other: Accounts) -> Accounts:
        """Those of two sessions in one working folder; each would have had a fixed allocation of its own."""
        names = dict.fromkeys([*self.stages, *other.stages])
        none = Account()
        return Accounts(
            {name: self.stages.get(name, none) + other.stages.get(name, none) for name in names},
            self.in_vain + other.in_vain,
            max(self.peak_cores, other.peak_cores),
            max(self.peak_gpus, other.peak_gpus),
            self.fixed + other.fixed,
            self.gpu_fixed + other.gpu_fixed,
        )

    def __str__(self) -> str:
        total = self.total
        if not total.asked:
            return "no worker was asked for"
        hours = total.asked >= _CORE_HOURS * 3600
        unit, scale, digits = ("core-hours", 3600.0, 1) if hours else ("core-seconds", 1.0, 0)
        parts = {"used": total.used, "idle": total.idle, "starting": total.starting, "lost": total.lost}
        told = ", ".join(
            f"{value / scale:.{digits}f} {name}" for name, value in parts.items() if value or name != "lost"
        )
        gpus = f"; {total.gpu_asked:.0f} GPU-seconds, {total.gpu_used:.0f} used" if total.gpu_asked else ""
        cores = f"{self.peak_cores} core{'s' if self.peak_cores > 1 else ''}"
        return (
            f"{total.asked / scale:.{digits}f} {unit} ({told}){gpus}; "
            f"{self.ratio:.2f} of what {cores} all the time would have cost"
        )

    def as_json(self) -> dict[str, Any]:
        """For `run.json`; `from_json` reads it."""
        return {**asdict(self), "total": asdict(self.total), "ratio": self.ratio}

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> Self:
        """What `as_json` gave.

        Raises:
            ValueError: it is something else.
        """
        try:
            stages = {name: Account(**account) for name, account in said["stages"].items()}
            own = {f.name: said[f.name] for f in fields(cls) if f.name not in ("stages", "in_vain")}
            return cls(stages, Account(**said["in_vain"]), **own)
        except (AttributeError, KeyError, TypeError) as error:
            raise ValueError(f"these are no accounts: {error}") from error


def name_of_place(worker: str) -> str:
    """What a worker's queue job is called, or the worker itself where it is in none; given its name in an outcome."""
    match = _IN_A_QUEUE_JOB.fullmatch(worker)
    return match[1] if match else worker


def stays_in_queue_jobs(berths: Iterable[Berth], classes: Mapping[str, _Class], now: float) -> list[Stay]:
    """The workers of a cluster with a queue."""
    return [
        Stay(
            berth.identifier,
            classes[berth.kind].offers.cores,
            classes[berth.kind].offers.gpus,
            berth.submitted,
            berth.started,
            berth.came,
            berth.ended if berth.ended is not None else now,
        )
        for berth in berths
    ]


def stays_here(
    workers: int, cores: int, jobs: Iterable[Ran], elsewhere: Iterable[Stay], began: float, came: float, now: float
) -> list[Stay]:
    """The workers that were there from a session's beginning to its end.

    Args:
        workers: how many.
        cores: of each of them.
        jobs: all jobs; those that ended on none of the others did on these.
        elsewhere: the others.
        began: when the session began.
        came: when they were ready.
        now: until when is counted.
    """
    others = {stay.worker for stay in elsewhere}
    # A worker that was lost had the name of the one that took its place, or is known by its address only.
    names = sorted({job.worker for job in jobs if not job.lost} - others)
    names += [f"idle {number}" for number in range(workers - len(names))]
    return [Stay(name, cores, 0, began, began, came, now) for name in names]


def account(stays: Sequence[Stay], jobs: Iterable[Ran], began: float, ended: float) -> Accounts:
    """Share the time of workers out among stages.

    Args:
        stays: all workers.
        jobs: all jobs that workers were given.
        began: when the session began.
        ended: when it ended, or until when is counted.
    """
    of_worker: dict[str, list[Ran]] = defaultdict(list)
    for job in jobs:
        of_worker[job.worker].append(job)
    stages: dict[str, Account] = defaultdict(Account)
    in_vain = Account()
    for stay in stays:
        for stage, share in _shares(stay, sorted(of_worker[stay.worker], key=lambda job: job.ended)):
            if stage is None:
                in_vain += share
            else:
                stages[stage] += share
    seconds = max(0.0, ended - began)
    cores, gpus = (_peak((stay, getattr(stay, what)) for stay in stays) for what in ("cores", "gpus"))
    return Accounts(dict(stages), in_vain, cores, gpus, cores * seconds, gpus * seconds)


def _shares(stay: Stay, jobs: Sequence[Ran]) -> Iterator[tuple[str | None, Account]]:
    """What of a worker's time is of which stage; None: of none."""
    # Clocks of machines differ somewhat: no job is taken to have run outside of its worker's time.
    started = min(stay.started, stay.ended) if stay.started is not None else stay.ended
    ready = [job.started for job in jobs if not job.lost] + ([stay.came] if stay.came is not None else [])
    came = max(min(ready, default=stay.ended), started)
    yield jobs[0].stage if jobs else None, Account(workers=1, queued=max(0.0, started - stay.submitted))
    cut = started
    for job in jobs:
        end = min(max(job.ended, cut), stay.ended)
        yield job.stage, _share(stay, cut, end, came, job)
        cut = end
    yield jobs[-1].stage if jobs else None, _share(stay, cut, stay.ended, came, None)


def _share(stay: Stay, begin: float, end: float, came: float, job: Ran | None) -> Account:
    """What a piece of a worker's time cost, with the job at its end."""
    seconds = end - begin
    starting = max(0.0, min(end, came) - begin)
    working = min(max(0.0, end - max(job.started, begin)), seconds - starting) if job else 0.0
    used, lost = (0.0, working) if job and job.lost else (working, 0.0)
    return Account(
        asked=stay.cores * seconds,
        used=stay.cores * used,
        lost=stay.cores * lost,
        starting=stay.cores * starting,
        idle=stay.cores * max(0.0, seconds - starting - working),
        gpu_asked=stay.gpus * seconds,
        gpu_used=stay.gpus * used,
    )


def _peak(stays: Iterable[tuple[Stay, int]]) -> int:
    """The most at once of what workers have."""
    changes = [
        change
        for stay, number in stays
        if stay.started is not None
        for change in ((stay.started, number), (stay.ended, -number))
    ]
    most = there = 0
    # Of a moment at which one ends and another starts, the end comes first.
    for _, change in sorted(changes):
        there += change
        most = max(most, there)
    return most
