"""Where every stage and job of a run lies in time: the geometry of the weblog's timeline."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from surgeline.report.names import stage_file
from surgeline.report.units import clock, duration, gigabytes

_STEPS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
_UNITS = ("d", "h", "min", "s")
_MOST_TICKS = 8
_NARROWEST = 0.1
# Of more bars in a lane, those are left out that nobody sees.
_MOST_BARS = 1000
# Finer is not seen.
_STEPS_OF_LOAD = 500
# Six colours that colour-blind people can tell apart, each plain, striped and dotted.
COLOURS = 18


@dataclass(frozen=True)
class Bar:
    """A stage or job: left edge and width in percent of the run, and where the page says more."""

    left: float
    width: float
    colour: int
    title: str
    target: str
    label: str = ""
    failed: bool = False


@dataclass(frozen=True)
class Mark:
    """A moment, in percent of the run."""

    left: float
    title: str


@dataclass(frozen=True)
class Lane:
    """One worker's jobs and losses, or stages that do not overlap."""

    name: str
    bars: Sequence[Bar]
    losses: Sequence[Mark] = ()


@dataclass(frozen=True)
class Load:
    """How many jobs ran and how many waited over time: areas, as `d` of SVG paths in a box of 100 by `most`."""

    running: str
    waiting: str
    most_running: int
    most_waiting: int

    @property
    def most(self) -> int:
        return max(1, self.most_running, self.most_waiting)


@dataclass(frozen=True)
class Timeline:
    """The stages above the workers; `pauses` are where a session ended and a later one resumed."""

    stages: Sequence[Lane]
    workers: Sequence[Lane]
    load: Load
    ticks: Sequence[Mark]
    pauses: Sequence[Mark]


class RunningTime:
    """The time that a run ran: pauses between its sessions are cut out."""

    def __init__(self, record: Mapping[str, Any], now: float) -> None:
        """Take the sessions of a record; the last runs until `now` (Unix time) where it has no end."""
        sessions = [session for session in record.get("sessions") or [record] if session.get("started")]
        ends = [*(_last_end(record, session["started"]) for session in sessions[1:]), now]
        self.intervals = [
            (session["started"], max(session.get("ended") or end, session["started"]))
            for session, end in zip(sessions, ends, strict=False)
        ]
        self.total = sum(end - start for start, end in self.intervals)

    def percent(self, when: float) -> float:
        """Where a Unix time lies between the first start (0) and the last end (100)."""
        elapsed = sum(min(max(when - start, 0.0), end - start) for start, end in self.intervals)
        return round(100 * elapsed / self.total, 3) if self.total else 0.0


def _last_end(record: Mapping[str, Any], before: float) -> float:
    """When the last job ended before a moment: a session that crashed had no time to say when."""
    ends = (job.get("ended") for stage in record.get("stages", ()) for job in stage.get("jobs", ()))
    return max((end for end in ends if end and end <= before), default=0.0)


def draw(record: Mapping[str, Any], now: float, page: Callable[[int, int], str]) -> Timeline | None:
    """Lay a run out in time, or None where nothing has begun.

    Args:
        record: what `run.json` says of it.
        now: until when is counted (Unix time).
        page: where more is said of a job, given its stage's place in the recipe and its own in the stage.
    """
    time = RunningTime(record, now)
    if not time.total or not any(stage.get("started") for stage in record.get("stages", [])):
        return None
    return Timeline(
        _stage_lanes(record, time, now),
        _worker_lanes(record, time, page),
        _load(record, time),
        _ticks(time),
        _pauses(time),
    )


def _stage_lanes(record: Mapping[str, Any], time: RunningTime, now: float) -> list[Lane]:
    """Stages side by side in as few lanes as their overlaps allow."""
    lanes: list[list[Bar]] = []
    ends: list[float] = []
    for number, stage in enumerate(record["stages"]):
        if not stage.get("started"):
            continue
        start, end = stage["started"], stage.get("ended") or now
        bar = Bar(
            left=time.percent(start),
            width=max(time.percent(end) - time.percent(start), _NARROWEST),
            colour=number % COLOURS,
            title=f"Stage {stage['name']}: {duration(end - start)}, {stage.get('state')}",
            target=stage_file(number, stage["name"]),
            label=stage["name"],
            failed=stage.get("state") == "failed",
        )
        lane = next((index for index, last in enumerate(ends) if last <= start), len(lanes))
        if lane == len(lanes):
            lanes.append([])
            ends.append(0.0)
        lanes[lane].append(bar)
        ends[lane] = end
    return [Lane("stages" if index == 0 else "", bars) for index, bars in enumerate(lanes)]


def _worker_lanes(record: Mapping[str, Any], time: RunningTime, page: Callable[[int, int], str]) -> list[Lane]:
    bars: dict[str, list[Bar]] = {}
    losses: dict[str, list[Mark]] = {}
    for stage_number, stage in enumerate(record["stages"]):
        for number, job in enumerate(stage.get("jobs", [])):
            for loss in job.get("losses") or ():
                losses.setdefault(loss["worker"], []).append(_loss_mark(loss, job, time))
            if job.get("worker") and job.get("started") and job.get("ended"):
                bar = _job_bar(job, stage["name"], stage_number, page(stage_number, number), time)
                bars.setdefault(job["worker"], []).append(bar)
    names = _ordered(bars.keys() | losses.keys())
    return [Lane(name, _in_sight(bars.get(name, ())), losses.get(name, ())) for name in names]


def _in_sight(bars: Sequence[Bar]) -> Sequence[Bar]:
    """The bars; of very many, the widest of those of a stage that lie on each other, narrower than what is seen."""
    if len(bars) <= _MOST_BARS:
        return bars
    widest: dict[tuple[int, int, bool], Bar] = {}
    for bar in bars:
        place = (int(bar.left / _NARROWEST), bar.colour, bar.failed)
        if place not in widest or bar.width > widest[place].width:
            widest[place] = bar
    return list(widest.values())


def _load(record: Mapping[str, Any], time: RunningTime) -> Load:
    jobs = [job for stage in record["stages"] for job in stage.get("jobs", ()) if job.get("started")]
    running = _counts(
        [(time.percent(job["started"]), time.percent(job["ended"])) for job in jobs if job.get("ended")]
    )
    waiting = _counts(
        [(time.percent(job["submitted"]), time.percent(job["started"])) for job in jobs if job.get("submitted")]
    )
    most = max(1, *running, *waiting)
    return Load(_area(running, most), _area(waiting, most), max(running), max(waiting))


def _counts(spans: Sequence[tuple[float, float]]) -> list[int]:
    """How many spans (in percent) there are at once, at most, in each of the steps of a drawing."""
    changes = [(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans]
    most = [0] * _STEPS_OF_LOAD
    count = reached = 0
    # Of a moment at which one ends and another begins, the end comes first.
    for at, change in sorted(changes):
        step = min(int(at * _STEPS_OF_LOAD / 100), _STEPS_OF_LOAD - 1)
        most[reached + 1 : step + 1] = [count] * (step - reached)
        reached = max(reached, step)
        count += change
        most[step] = max(most[step], count)
    return most


def _area(counts: Sequence[int], most: int) -> str:
    """Steps from left to right, upwards from `most`, drawn where the count changes."""
    parts = [f"M0 {most}"]
    for step, (count, before) in enumerate(zip(counts, [0, *counts], strict=False)):
        if count != before:
            parts.append(f"H{100 * step / _STEPS_OF_LOAD:g}V{most - count}")
    return "".join([*parts, f"H100V{most}Z"])


def _loss_mark(loss: Mapping[str, Any], job: Mapping[str, Any], time: RunningTime) -> Mark:
    title = f"{loss['worker']} was lost at {clock(loss['when'])} UTC: {loss['how']} ({job['name']})"
    return Mark(time.percent(loss["when"]), title)


def _job_bar(job: Mapping[str, Any], stage: str, stage_number: int, target: str, time: RunningTime) -> Bar:
    left = time.percent(job["started"])
    failed = job.get("state") == "failed"
    return Bar(
        left=left,
        width=max(time.percent(job["ended"]) - left, _NARROWEST),
        colour=stage_number % COLOURS,
        title=(
            f"{job['name']} (stage {stage}): {duration(job['ended'] - job['started'])}, "
            f"peak memory {gigabytes(job.get('peak_memory'))} GB{', failed' if failed else ''}"
        ),
        target=target,
        failed=failed,
    )


def _ordered(names: Iterable[str]) -> list[str]:
    # By length first, so that worker-10 comes after worker-9.
    return sorted(names, key=lambda name: (len(name), name))


def _ticks(time: RunningTime) -> list[Mark]:
    step = next((step for step in _STEPS if time.total / step <= _MOST_TICKS), _STEPS[-1])
    while time.total / step > _MOST_TICKS:
        step *= 2
    return [
        Mark(round(100 * count * step / time.total, 3), _tick_label(count * step))
        for count in range(int(time.total // step) + 1)
    ]


def _tick_label(elapsed: int) -> str:
    if elapsed == 0:
        return "0"
    counts = (elapsed // 86400, elapsed // 3600 % 24, elapsed // 60 % 60, elapsed % 60)
    return " ".join(f"{count} {unit}" for count, unit in zip(counts, _UNITS, strict=True) if count)


def _pauses(time: RunningTime) -> list[Mark]:
    return [
        Mark(time.percent(start), f"resumed after {duration(start - before)}")
        for (_, before), (start, _) in zip(time.intervals, time.intervals[1:], strict=False)
    ]
