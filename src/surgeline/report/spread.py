"""How the jobs of a stage spread: a box and whiskers for each resource, in percent of the largest of all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import quantiles

from surgeline.report import units
from surgeline.report.stageview import JobView, StageView


@dataclass(frozen=True)
class Spread:
    """Least, lower quartile, median, upper quartile and largest of a stage's jobs; `at`: in percent of all."""

    stage: StageView
    jobs: int
    at: tuple[float, float, float, float, float]
    told: tuple[str, str, str, str, str]


@dataclass(frozen=True)
class Chart:
    """The stages side by side in one resource; `scale` is what stands at 100 percent."""

    title: str
    scale: str
    rows: Sequence[Spread]


def spreads(stages: Sequence[StageView]) -> list[Chart]:
    """Time, memory, use of the processor and waiting of jobs, by stage; none without jobs."""
    charts = (
        _chart("Seconds of a job", stages, lambda job: job.seconds, units.seconds),
        _chart("Seconds that a job waited", stages, lambda job: job.waited, units.seconds),
        _chart("Peak memory of a job (GB)", stages, lambda job: job.record["peak_memory"] or None, units.gigabytes),
        _chart("Processors in use by a job, on average", stages, lambda job: job.busy, units.significant),
    )
    return [chart for chart in charts if chart.rows]


def _chart(
    title: str,
    stages: Sequence[StageView],
    value: Callable[[JobView], float | None],
    told: Callable[[float | None], str],
) -> Chart:
    found = {stage: [number for job in stage.jobs if (number := value(job)) is not None] for stage in stages}
    largest = max((max(numbers) for numbers in found.values() if numbers), default=0.0)
    if not largest:
        return Chart(title, "", ())
    rows = [_spread(stage, numbers, largest, told) for stage, numbers in found.items() if numbers]
    return Chart(title, told(largest), rows)


def _spread(stage: StageView, numbers: list[float], largest: float, told: Callable[[float | None], str]) -> Spread:
    low, middle, high = quantiles(numbers, n=4, method="inclusive") if len(numbers) > 1 else numbers * 3
    five = (min(numbers), low, middle, high, max(numbers))
    at = tuple(round(100 * number / largest, 2) for number in five)
    return Spread(stage, len(numbers), (at[0], at[1], at[2], at[3], at[4]), _five(told, five))


def _five(
    told: Callable[[float | None], str], five: tuple[float, float, float, float, float]
) -> tuple[str, str, str, str, str]:
    least, low, middle, high, most = five
    return told(least), told(low), told(middle), told(high), told(most)
