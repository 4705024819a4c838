"""Gain calibration: how each antenna's gain varies over time."""

from __future__ import annotations

from typing import Literal

from surgeline.context.records import CalibrationTable, Fact, Observation, Picture, ReferenceAntenna, Roles
from surgeline.paths import caltable, picture
from surgeline.stages import plots
from surgeline.stages.solving import selections, solve
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Aside, Procedure, together


class Parameters(StageParameters):
    """How to solve.

    Attributes:
        solint: solution interval.
        spw: windows and channels to solve on, in CASA's syntax; left out, every window without its edges.
        calmode: amplitude and phase (ap), phase (p) or amplitude (a).
        minimum_snr: solutions below it are flagged.
    """

    solint: str = "inf"
    spw: str = ""
    calmode: Literal["ap", "p", "a"] = "ap"
    minimum_snr: float = 3.0


def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Solve on all calibrators of each MS, with its bandpass applied, each spectral window by its own job."""
    found = yield from together([_one(stage, parameters, observation) for observation in stage.known(Observation)])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, parameters: Parameters, observation: Observation) -> Procedure[list[Fact]]:
    roles = stage.required(Roles, vis=observation.vis)
    calibrators = tuple(sorted({*roles.flux, *roles.bandpass, *roles.phase}))
    table = caltable(stage.name, observation.vis, "G")
    bandpasses = stage.known(CalibrationTable, vis=observation.vis, kind="B")
    yield from solve(
        "gaincal",
        observation,
        selections(observation, parameters.spw),
        table,
        {
            "field": ",".join(str(number) for number in calibrators),
            "refant": ",".join(stage.required(ReferenceAntenna, vis=observation.vis).names),
            "solint": parameters.solint,
            "calmode": parameters.calmode,
            "gaintype": "G",
            "minsnr": parameters.minimum_snr,
            "gaintable": [bandpass.path for bandpass in bandpasses],
        },
    )
    path = picture(f"{stage.name}.{observation.vis}")
    names = [antenna.name for antenna in observation.antennas]
    drawing = FunctionCall(plots.gains, table, names, path).declare(name=f"plot {path}", reads=[table], writes=[path])
    yield Aside([drawing])
    return [
        CalibrationTable(vis=observation.vis, path=table, kind="G", solved_on=calibrators),
        Picture(
            path=path,
            title=f"{observation.vis}: gains",
            caption="Amplitude and phase over time, one colour for each antenna.",
            topic="calibration",
        ),
    ]
