"""A stage: finds antennas whose amplitudes on the flux calibrator are unlike those of the others."""

from __future__ import annotations

from statistics import median
from typing import Annotated, Any, ClassVar

from pydantic import Field

from surgeline import JobRequest, stage
from surgeline.context.records import Decision, Fact, Observation, Roles
from surgeline.stages.stage import Stage
from surgeline.work.procedure import Procedure, together


# --8<-- [start:fact]
class OddAntenna(Fact):
    """An antenna of which too much or too little is seen: `ratio` is its amplitude over the median of all."""

    kind_name: ClassVar[str] = "odd_antennas.OddAntenna"
    identity: ClassVar[tuple[str, ...]] = ("vis", "name")

    vis: str
    name: str
    ratio: float


# --8<-- [end:fact]
# --8<-- [start:run]
@stage
def odd_antennas(stage: Stage, factor: Annotated[float, Field(gt=1.0)] = 1.5) -> Procedure[list[Fact]]:
    """Look at each MS, all of them side by side.

    Args:
        stage: what is known, and where.
        factor: what counts as odd: so many times the median amplitude, or less than the median over this.

    Raises:
        DataError: no stage before has said which fields serve as what.
    """
    found = yield from together([_look(stage, factor, seen) for seen in stage.known(Observation)])
    return [fact for facts in found for fact in facts]


def _look(stage: Stage, factor: float, seen: Observation) -> Procedure[list[Fact]]:
    roles = stage.required(Roles, vis=seen.vis)
    selected = {"vis": seen.vis, "field": ",".join(map(str, roles.flux)), "axis": "amplitude"}
    # One job for each antenna. They run on whatever workers there are, and their values come in this order.
    values = yield [
        JobRequest("visstat", {**selected, "antenna": antenna.name}).declare(name=f"amplitudes of {antenna.name}")
        for antenna in seen.antennas
    ]
    amplitudes = {antenna.name: _amplitude(value) for antenna, value in zip(seen.antennas, values, strict=True)}
    usual = median(amplitudes.values())
    odd: list[Fact] = [
        OddAntenna(vis=seen.vis, name=name, ratio=amplitude / usual)
        for name, amplitude in amplitudes.items()
        if not 1 / factor < amplitude / usual < factor
    ]
    told = Decision(
        stage=stage.name,
        what=f"odd antennas of {seen.vis}",
        value=", ".join(fact.name for fact in odd if isinstance(fact, OddAntenna)) or "none",
        reason=f"amplitudes more than {factor:g} times off their median of {usual:.3g}",
    )
    return [*odd, told]


def _amplitude(value: dict[str, Any]) -> float:
    """The median amplitude of what visstat tells, which is by spectral window."""
    return median(statistics["median"] for statistics in value.values())


# --8<-- [end:run]
