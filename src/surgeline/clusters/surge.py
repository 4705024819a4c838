"""How many workers of which class there are to be now: from what jobs ask for, what limits allow and what comes next.

Pure: nothing here starts, waits or looks at a clock. Each job goes to the smallest class in which it fits; an idle
worker of a larger one serves it, too, but none is asked for. What is wanted in each class is the sum of

- the workers that have a job, which go on whatever the limits say;
- one for each waiting job, fewer where jobs are so short that a worker would take longer to start than to do them;
- what the class is told to keep;
- what the next stages will use: workers that are there are kept for them, and once nothing waits any more, so that
  the present stages are finishing, those that will be missing are asked for,

as far as the maximum of the class, that of the cluster and the core-hours left allow, in this order.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from surgeline.work.resources import Resources

# How long a worker takes to start where nothing is known of it.
STARTUP_SECONDS = 10.0
# Idle workers are kept for what begins within so many times what a worker takes to start, or sooner than others would
# come; longer, they would waste far more than a start costs.
_STARTS_TO_KEEP = 10


class Class(Protocol):
    """What has to be known of a class of workers (see `WorkerClass`)."""

    @property
    def name(self) -> str: ...
    @property
    def offers(self) -> Resources: ...
    @property
    def maximum(self) -> int: ...
    @property
    def minimum(self) -> int: ...


@dataclass(frozen=True)
class Headcount:
    """The workers of one class: those that could take a job now, have one, or are awaited from the queue.

    An idle worker that no job may be given to any more, since its walltime nears its end, is none of them.
    """

    idle: int = 0
    busy: int = 0
    queued: int = 0


@dataclass(frozen=True)
class Demand:
    """Jobs of the present stages that ask for the same; `seconds` is what one is expected to take, where known."""

    asked: Resources
    waiting: int
    running: int = 0
    seconds: float | None = None


@dataclass(frozen=True)
class Ahead:
    """Jobs of the stages that come next, as far as they can be foreseen.

    Attributes:
        asked: what each of them asks for.
        jobs: how many there will be at once; None where that is not known.
        seconds: what one is expected to take, where known.
        begins_in: in how many seconds the first of them can begin, where known: without it they are expected soon.
    """

    asked: Resources
    jobs: int | None
    seconds: float | None = None
    begins_in: float | None = None


@dataclass(frozen=True)
class Wanted:
    """How many workers of a class there are to be, those at work and in the queue included, and why."""

    workers: int
    reason: str


@dataclass(frozen=True)
class Unserved:
    """Waiting jobs for which no worker is there or asked for.

    Attributes:
        asked: what each of them asks for.
        jobs: how many there are.
        reason: why no worker comes, for people.
        for_ever: whether it stays so, whatever becomes of the workers that there are.
    """

    asked: Resources
    jobs: int
    reason: str
    for_ever: bool


@dataclass(frozen=True)
class Decision:
    """What to have now.

    Attributes:
        wanted: for each class, by its name.
        unserved: the jobs that get no worker for now.
        crowded: with the workers that are not wanted any more, there would be more than the cluster's maximum, so
            that they have to go before others come.
    """

    wanted: Mapping[str, Wanted]
    unserved: tuple[Unserved, ...] = ()
    crowded: bool = False


def smallest_first(classes: Iterable[Class]) -> list[Class]:
    """Classes in the order in which they are given jobs: fewest GPUs, then least memory, then fewest cores."""
    return sorted(classes, key=lambda c: (c.offers.gpus, c.offers.memory or float("inf"), c.offers.cores, c.name))


def decide(
    classes: Iterable[Class],
    demands: Iterable[Demand],
    present: Mapping[str, Headcount],
    ahead: Iterable[Ahead] = (),
    maximum: int | None = None,
    core_seconds_left: float | None = None,
    startup_seconds: float = STARTUP_SECONDS,
    queue_seconds: float = 0.0,
) -> Decision:
    """Say how many workers of each class to have now. Fewer than there are means that idle ones can go.

    Args:
        classes: the classes of workers that the cluster has.
        demands: what the present stages' jobs ask for, those running included.
        present: the workers that there are, by class; none of a class that is not named.
        ahead: what is known of the jobs that come next.
        maximum: how many workers of all classes there may be at once; None for no limit but those of the classes.
        core_seconds_left: what is left of the budget; None without one.
        startup_seconds: how long a worker takes from the beginning of its queue job to its first job; this is paid,
            so it has to be worth it.
        queue_seconds: how long queue jobs wait before they begin; this costs nothing but time.
    """
    ranked = smallest_first(classes)
    deciding = _Deciding(ranked, present, maximum, core_seconds_left, startup_seconds, queue_seconds)
    alike: dict[tuple[str, ...], list[Demand]] = {}
    for demand in demands:
        fitting = tuple(c.name for c in ranked if demand.asked.fits(c.offers))
        alike.setdefault(fitting, []).append(demand)
    # Those that fit in the fewest classes choose first among idle workers.
    groups = [_Group(deciding, fitting, alike[fitting]) for fitting in sorted(alike, key=lambda f: (len(f), f))]
    deciding.serve(groups)
    deciding.keep_minimum()
    deciding.look_ahead(ahead, finishing=not any(group.waiting for group in groups))
    return deciding.decision(groups)


def class_asked_for(classes: Iterable[Class], asked: Resources) -> Class | None:
    """The class of which workers are asked for, for jobs that ask for this; None where they fit in none."""
    return next(iter(_askable([c for c in smallest_first(classes) if asked.fits(c.offers)])), None)


def _askable(fitting: Sequence[Class]) -> list[Class]:
    """Those of the classes in which a job fits whose workers may be asked for; with GPUs only where no other fits."""
    allowed = [c for c in fitting if c.maximum > 0]
    return [c for c in allowed if c.offers.gpus == 0] or allowed


def _workers_for(jobs: int, seconds: float, startup_seconds: float) -> int:
    """How many workers for so many jobs of so many seconds in all: each has as much to do as it takes to start."""
    return min(jobs, max(1, int(seconds / max(startup_seconds, 1e-9)))) if jobs else 0


class _Group:
    """Jobs that fit in the same classes: any worker that can take one of them can take each."""

    def __init__(self, deciding: _Deciding, fitting: tuple[str, ...], demands: Sequence[Demand]) -> None:
        startup = deciding.startup_seconds
        self.fitting = [deciding.classes[name] for name in fitting]
        self.demands = demands
        self.waiting = sum(demand.waiting for demand in demands)
        self.running = sum(demand.running for demand in demands)
        self.granted = 0
        self.stopped = "" if fitting else "no class of workers offers so much"
        self.home = next(iter(_askable(self.fitting)), None)
        if fitting and self.home is None:
            self.stopped = "the maximum of each class in which they fit is 0"
        short = [demand for demand in demands if demand.seconds is not None and demand.seconds < startup]
        number = sum(demand.waiting + demand.running for demand in short)
        work = sum((demand.waiting + demand.running) * (demand.seconds or 0.0) for demand in short)
        # Those that run the short jobs there are will take others when they are done.
        of_short = _workers_for(number, work, startup) - sum(demand.running for demand in short)
        of_short = min(max(of_short, 0), sum(demand.waiting for demand in short))
        self.needed = of_short + self.waiting - sum(demand.waiting for demand in short)
        # One for each worker that is needed, idle ones first: the class that it is taken from.
        self.takes = deciding.take_idle(self.fitting, self.needed)
        if self.home is not None:
            self.takes += [self.home] * (self.needed - len(self.takes))
        seconds = sum(demand.waiting * _expected(demand, startup) for demand in demands)
        self.seconds_of_job = seconds / max(self.waiting, 1)
        self.seconds_of_worker = seconds / max(self.needed, 1)


def _expected(jobs: Demand | Ahead, startup_seconds: float) -> float:
    """Seconds that a job may take: as expected, or as long as it asks for; or else as long as a worker's start."""
    return jobs.seconds if jobs.seconds is not None else float(jobs.asked.walltime or startup_seconds)


@dataclass
class _Standing:
    """What is decided of one class so far."""

    workers: int
    # Those that may stay and that no waiting job takes.
    idle: int
    grounds: Counter[str] = field(default_factory=Counter)
    jobs: int = 0
    notes: dict[str, None] = field(default_factory=dict)


class _Deciding:
    """The numbers as they grow, and what is left of the limits."""

    def __init__(
        self,
        ranked: Sequence[Class],
        present: Mapping[str, Headcount],
        maximum: int | None,
        core_seconds_left: float | None,
        startup_seconds: float,
        queue_seconds: float,
    ) -> None:
        self.classes = {c.name: c for c in ranked}
        self.present = {c.name: present.get(c.name, Headcount()) for c in ranked}
        self.maximum = maximum
        self.purse = core_seconds_left
        self.startup_seconds = startup_seconds
        self.comes_in = queue_seconds + startup_seconds
        self.standing = {
            c.name: _Standing(count.busy, max(min(count.idle, c.maximum - count.busy), 0))
            for c, count in zip(ranked, self.present.values(), strict=True)
        }

    def take_idle(self, fitting: Sequence[Class], number: int) -> list[Class]:
        """Idle workers that nobody took before, smallest first; the classes of each."""
        taken: list[Class] = []
        for c in fitting:
            some = min(self.standing[c.name].idle, number - len(taken))
            self.standing[c.name].idle -= some
            taken += [c] * some
        return taken

    def grant(self, c: Class, ground: str, seconds: float, least: float) -> str:
        """Have one worker more of a class, or say which limit forbids it.

        Args:
            c: the class.
            ground: what it is for.
            seconds: how long it will work, as far as it is known.
            least: how long it has to work at least to be worth its start.
        """
        standing, count = self.standing[c.name], self.present[c.name]
        start = 0.0 if standing.workers < count.busy + count.idle else self.startup_seconds
        if standing.workers >= c.maximum:
            why = f"{c.maximum} is the maximum of its class"
        elif self.maximum is not None and sum(s.workers for s in self.standing.values()) >= self.maximum:
            why = f"{self.maximum} is the cluster's maximum"
        elif self.purse is not None and (self.purse <= 0 or self.purse < c.offers.cores * (start + least)):
            why = "the core-hours left do not pay for more"
        else:
            if self.purse is not None:
                self.purse -= c.offers.cores * (start + seconds)
            standing.workers += 1
            standing.grounds[ground] += 1
            return ""
        standing.notes[why] = None
        return why

    def serve(self, groups: Sequence[_Group]) -> None:
        """Grant workers for waiting jobs, one by one to whoever has the fewest, so that no limit starves a group."""
        for group in groups:
            if self.purse is not None and group.home is not None:
                running = sum(d.running * _expected(d, self.startup_seconds) for d in group.demands)
                self.purse -= group.home.offers.cores * running
        left = [group for group in groups if group.takes]
        while left:
            group = min(left, key=lambda group: group.running + group.granted)
            c = group.takes[group.granted]
            group.stopped = self.grant(c, _WAITING, group.seconds_of_worker, group.seconds_of_job)
            if group.stopped:
                group.takes = group.takes[: group.granted] + [t for t in group.takes[group.granted :] if t != c]
            else:
                group.granted += 1
            if group.granted == len(group.takes):
                left.remove(group)
        for group in groups:
            for name in {c.name for c in group.takes[: group.granted]}:
                self.standing[name].jobs += group.waiting

    def keep_minimum(self) -> None:
        """Keep as many as each class is told to, where there is still room for them."""
        for c in self.classes.values():
            while self.standing[c.name].workers < c.minimum and not self.grant(c, _MINIMUM, 0.0, 0.0):
                pass

    def look_ahead(self, ahead: Iterable[Ahead], finishing: bool) -> None:
        """Keep what the next stages will use; once the present ones are finishing, ask for what will be missing."""
        # Workers that have a job, or are about to have one, will be there for the next stage.
        free = {name: standing.workers for name, standing in self.standing.items()}
        fitting = [(jobs, [c for c in self.classes.values() if jobs.asked.fits(c.offers)]) for jobs in ahead]

        def turn(pair: tuple[Ahead, list[Class]]) -> tuple[bool, bool, int]:
            # Who only keeps, or keeps all that there is, comes after those who ask for what is missing: otherwise it
            # would take what these asked for, and they would ask again.
            jobs, classes = pair
            return (jobs.begins_in or 0.0) > self.comes_in, jobs.jobs is None, len(classes)

        for jobs, classes in sorted(fitting, key=turn):
            begins_in = jobs.begins_in or 0.0
            if begins_in > max(self.comes_in, _STARTS_TO_KEEP * self.startup_seconds):
                continue
            askable = _askable(classes)
            seconds = _expected(jobs, self.startup_seconds)
            wanted = jobs.jobs
            if wanted is not None and jobs.seconds is not None and jobs.seconds < self.startup_seconds:
                wanted = _workers_for(wanted, wanted * jobs.seconds, self.startup_seconds)
            there = 0
            for c in askable:
                some = free[c.name] if wanted is None else min(free[c.name], wanted - there)
                free[c.name] -= some
                there += some
            for c in askable:
                while there != wanted and self.spare(c) and not self.grant(c, _KEPT, seconds, seconds):
                    there += 1
            if finishing and askable and begins_in <= self.comes_in:
                # Of a stage of unknown width the first job, at least, will find a worker.
                enough = 1 if wanted is None else wanted
                while there < enough and not self.grant(askable[0], _NEXT, seconds, seconds):
                    there += 1

    def spare(self, c: Class) -> bool:
        """Whether there are more workers of a class, at work or in the queue, than are wanted so far."""
        count = self.present[c.name]
        return self.standing[c.name].workers < count.busy + count.idle + count.queued

    def decision(self, groups: Sequence[_Group]) -> Decision:
        """The numbers, and what to tell people."""
        wanted = {
            name: Wanted(standing.workers, self._reason(self.present[name].busy, standing))
            for name, standing in self.standing.items()
        }
        at_work = any(count.busy for count in self.present.values())
        unserved = [
            Unserved(
                demand.asked,
                demand.waiting,
                group.stopped,
                group.home is None or (not at_work and not any(w.workers for w in wanted.values())),
            )
            for group in groups
            if group.needed and not any(wanted[c.name].workers for c in group.fitting)
            for demand in group.demands
            if demand.waiting
        ]
        together = sum(
            max(wanted[name].workers, count.busy + count.idle + count.queued) for name, count in self.present.items()
        )
        return Decision(wanted, tuple(unserved), self.maximum is not None and together > self.maximum)

    @staticmethod
    def _reason(busy: int, standing: _Standing) -> str:
        jobs = f"{standing.jobs} waiting job" + ("s" if standing.jobs != 1 else "")
        told = [f"{busy} at work"] if busy else []
        for ground, words in _WORDS.items():
            if number := standing.grounds[ground]:
                told.append(f"{number} {words.format(jobs=jobs)}")
        return "; ".join([", ".join(told) or "nothing needs any", *standing.notes])


_WAITING, _KEPT, _NEXT, _MINIMUM = "waiting", "kept", "next", "minimum"
_WORDS = {
    _WAITING: "for {jobs}",
    _KEPT: "kept for the next stage",
    _NEXT: "asked for ahead of the next stage",
    _MINIMUM: "kept as its minimum",
}
