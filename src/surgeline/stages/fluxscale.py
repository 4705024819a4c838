"""Flux scale: measure the other calibrators against the flux calibrator, and scale their gains."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeline.context.records import CalibrationTable, Decision, Fact, FluxDensity, Observation, Roles
from surgeline.paths import caltable
from surgeline.stages.plots import asking
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import Job, JobRequest
from surgeline.work.procedure import Aside, Procedure


class Parameters(StageParameters):
    """Nothing to override: the roles of fields say it all."""


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Scale the gains of each MS that has calibrators of unknown flux density."""
    asked: list[tuple[Observation, Roles, CalibrationTable, tuple[int, ...]]] = []
    facts: list[Fact] = []
    for observation in stage.known(Observation):
        roles = stage.required(Roles, vis=observation.vis)
        gains = stage.required(CalibrationTable, vis=observation.vis, kind="G")
        transfer = tuple(number for number in gains.solved_on if number not in roles.flux)
        if roles.flux and transfer:
            asked.append((observation, roles, gains, transfer))
        else:
            facts.append(
                Decision(
                    stage=stage.name,
                    what=f"flux scale of {observation.vis}",
                    value="none to measure",
                    reason="every calibrator has a model" if roles.flux else "there is no flux calibrator",
                )
            )
    results = yield [
        JobRequest(
            "fluxscale",
            {
                "vis": observation.vis,
                "caltable": gains.path,
                "fluxtable": caltable(stage.name, observation.vis, "F"),
                "reference": [str(number) for number in roles.flux],
                "transfer": [str(number) for number in transfer],
            },
        ).declare(name=f"fluxscale {observation.vis}")
        for observation, roles, gains, transfer in asked
    ]
    plots: list[Job] = []
    for (observation, roles, gains, transfer), result in zip(asked, results, strict=True):
        model = stage.known(FluxDensity, vis=observation.vis, kind="model")
        standard = model[0].standard if model else "the model"
        for number in transfer:
            facts += _measured(observation, number, result, standard)
        scaled = caltable(stage.name, observation.vis, "F")
        title = f"{observation.vis}: gains on the flux scale"
        # Of single antennas, the gains before have pictures: these differ by factors alone.
        plot, pictures = asking.of_solutions("gains", scaled, observation, observation.vis, title, single=False)
        plots.append(plot)
        facts += pictures
        facts.append(
            CalibrationTable(
                vis=observation.vis,
                path=scaled,
                kind="F",
                solved_on=gains.solved_on,
                supersedes=gains.path,
            )
        )
        facts.append(
            Decision(
                stage=stage.name,
                what=f"flux scale of {observation.vis}",
                value=", ".join(observation.field(number).name for number in transfer),
                reason="measured against " + ", ".join(observation.field(number).name for number in roles.flux),
            )
        )
    yield Aside(plots)
    return facts


def _measured(observation: Observation, number: int, result: Mapping[str, Any], standard: str) -> list[FluxDensity]:
    """A calibrator's flux densities from what fluxscale returns."""
    found = result.get(str(number), {})
    return [
        FluxDensity(
            vis=observation.vis,
            field=number,
            name=observation.field(number).name,
            spectral_window=window.id,
            kind="measured",
            flux=float(found[str(window.id)]["fluxd"][0]),
            error=float(found[str(window.id)]["fluxdErr"][0]),
            standard=standard,
        )
        for window in observation.spectral_windows
        if str(window.id) in found and found[str(window.id)]["fluxd"][0] > 0
    ]
