"""Gain calibration: how each antenna's gain varies over time."""

from __future__ import annotations

from surgeline.context.records import (
    CalibrationTable,
    Decision,
    Fact,
    Observation,
    ReferenceAntenna,
    Roles,
)
from surgeline.paths import caltable
from surgeline.stages.plots import asking
from surgeline.stages.solving import flagged_fraction, selections, solve
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Aside, Procedure, together

# Of phases solved for each integration, how many may have failed before the calibrators are held to be too faint.
_MOST_FAILED = 0.1


class Parameters(StageParameters):
    """How to solve.

    Attributes:
        solint: solution interval.
        spw: windows and channels to solve on, in CASA's syntax; left out, every window without its edges.
        phases_first: take out the phases of each integration before amplitudes are solved for, so that phases
            that drift within an interval do not lower them; left out, wherever the calibrators are bright enough.
        minimum_snr: solutions below it are flagged.
    """

    solint: str = "inf"
    spw: str = ""
    phases_first: bool | None = None
    minimum_snr: float = 3.0


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Solve on all calibrators of each MS, with its bandpass applied, each spectral window by its own job."""
    found = yield from together([_one(stage, parameters, observation) for observation in stage.known(Observation)])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, parameters: Parameters, observation: Observation) -> Procedure[list[Fact]]:
    vis = observation.vis
    roles = stage.required(Roles, vis=vis)
    calibrators = tuple(sorted({*roles.flux, *roles.bandpass, *roles.phase}))
    bandpasses = [table.path for table in stage.known(CalibrationTable, vis=vis, kind="B")]
    common = {
        "field": ",".join(str(number) for number in calibrators),
        "refant": ",".join(stage.required(ReferenceAntenna, vis=vis).names),
        "gaintype": "G",
        "minsnr": parameters.minimum_snr,
    }
    spw = selections(observation, parameters.spw)
    gains, phases, short = (caltable(stage.name, vis, kind) for kind in ("G", "P", "Pint"))

    phases_first, reason = parameters.phases_first, "the recipe says so"
    if phases_first is not False:
        arguments = {**common, "solint": "int", "calmode": "p", "gaintable": bandpasses}
        yield from solve("gaincal", observation, spw, short, arguments)
    if phases_first is None:
        (failed,) = yield [FunctionCall(flagged_fraction, short).declare(name=f"flags of {short}", reads=[short])]
        phases_first = failed <= _MOST_FAILED
        reason = f"{failed:.1%} of the phases of single integrations could not be solved for"

    facts: list[Fact] = [CalibrationTable(vis=vis, path=gains, kind="G", solved_on=calibrators)]
    interval = {**common, "solint": parameters.solint}
    if phases_first:
        with_phases = {**interval, "gaintable": [*bandpasses, short]}
        yield from together(
            [
                solve("gaincal", observation, spw, gains, {**with_phases, "calmode": "a"}),
                solve("gaincal", observation, spw, phases, {**interval, "calmode": "p", "gaintable": bandpasses}),
            ]
        )
        facts.append(CalibrationTable(vis=vis, path=phases, kind="P", solved_on=calibrators))
    else:
        yield from solve("gaincal", observation, spw, gains, {**interval, "calmode": "ap", "gaintable": bandpasses})
    facts.append(
        Decision(
            stage=stage.name,
            what=f"amplitudes of {vis}",
            value="with the phases of each integration taken out" if phases_first else "together with phases",
            reason=reason,
        )
    )
    for table, what in [(gains, "gains"), *([(phases, "phases")] if phases_first else [])]:
        plot, pictures = asking.of_solutions("gains", table, observation, vis, f"{vis}: {what}")
        yield Aside([plot])
        facts += pictures
    return facts
