"""Bandpass: how each antenna's response varies over frequency."""

from __future__ import annotations

from surgeline.context.records import CalibrationTable, Fact, Observation, ReferenceAntenna, Roles
from surgeline.paths import caltable
from surgeline.stages.plots import asking
from surgeline.stages.solving import selections, solve
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.procedure import Aside, Procedure, together


class Parameters(StageParameters):
    """How to solve.

    Attributes:
        solint: solution interval of the bandpass.
        combine: what a solution may span, as in CASA.
        minimum_snr: solutions below it are flagged.
        initial_phase: take out the phases of the calibrator, integration by integration, before.
    """

    solint: str = "inf"
    combine: str = "scan"
    minimum_snr: float = 3.0
    initial_phase: bool = True


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Solve on the bandpass calibrator of each MS, each spectral window by its own job."""
    found = yield from together([_one(stage, parameters, observation) for observation in stage.known(Observation)])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, parameters: Parameters, observation: Observation) -> Procedure[list[Fact]]:
    roles = stage.required(Roles, vis=observation.vis)
    antennas = ",".join(stage.required(ReferenceAntenna, vis=observation.vis).names)
    table = caltable(stage.name, observation.vis, "B")
    common = {
        "field": ",".join(str(number) for number in roles.bandpass),
        "refant": antennas,
        "minsnr": parameters.minimum_snr,
    }
    gaintable = []
    if parameters.initial_phase:
        phases = caltable(stage.name, observation.vis, "G0")
        arguments = {**common, "solint": "int", "calmode": "p"}
        yield from solve("gaincal", observation, selections(observation, ""), phases, arguments)
        gaintable = [phases]
    yield from solve(
        "bandpass",
        observation,
        [str(window.id) for window in observation.spectral_windows],
        table,
        {**common, "solint": parameters.solint, "combine": parameters.combine, "gaintable": gaintable},
    )
    title = f"{observation.vis}: bandpass"
    plot, pictures = asking.of_solutions("bandpass", table, observation, observation.vis, title)
    yield Aside([plot])
    return [CalibrationTable(vis=observation.vis, path=table, kind="B", solved_on=roles.bandpass), *pictures]
