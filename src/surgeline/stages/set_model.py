"""Set model: what the flux calibrators look like."""

from __future__ import annotations

from pydantic import Field

from surgeline.context.records import Decision, Fact, FluxDensity, Observation, Roles
from surgeline.errors import DataError
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import JobRequest
from surgeline.work.procedure import Procedure


class Parameters(StageParameters):
    """The flux scale.

    Attributes:
        standard: one of setjy's, such as Perley-Butler 2017.
        scale_by_channel: scale the model at each channel, rather than once for a spectral window.
        model: a model image for resolved calibrators.
        flux_densities: Jy by field name; given, they are used instead of the standard.
    """

    standard: str = "Perley-Butler 2017"
    scale_by_channel: bool = True
    model: str = ""
    flux_densities: dict[str, float] = Field(default_factory=dict)


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Write the model of each flux calibrator into its MS."""
    asked = []
    for observation in stage.known(Observation):
        roles = stage.required(Roles, vis=observation.vis)
        if not roles.flux and not parameters.flux_densities:
            raise DataError(
                f"{observation.vis} has no flux calibrator that CASA knows",
                "name one in the import stage (flux: [NAME]) and give its flux_densities in this one",
            )
        asked += [(observation, number) for number in roles.flux]
    jobs = []
    for observation, number in asked:
        arguments: dict[str, object] = {"vis": observation.vis, "field": str(number), "usescratch": True}
        name = observation.field(number).name
        if name in parameters.flux_densities:
            arguments |= {
                "standard": "manual",
                "fluxdensity": [parameters.flux_densities[name], 0.0, 0.0, 0.0],
            }
        else:
            arguments |= {"standard": parameters.standard, "scalebychan": parameters.scale_by_channel}
            if parameters.model:
                arguments["model"] = parameters.model
        jobs.append(JobRequest("setjy", arguments).declare(name=f"set model of {name}"))
    # Jobs that change the same MS take turns; different ones go together.
    models: list[dict[str, dict[str, dict[str, list[float]]]]] = []
    for turn in _turns([observation.vis for observation, _ in asked]):
        models += yield [jobs[position] for position in turn]
    order = [position for turn in _turns([observation.vis for observation, _ in asked]) for position in turn]
    facts: list[Fact] = []
    for position, model in zip(order, models, strict=True):
        observation, number = asked[position]
        name = observation.field(number).name
        standard = "the recipe" if name in parameters.flux_densities else parameters.standard
        for window in observation.spectral_windows:
            found = model.get(str(number), {}).get(str(window.id))
            if found is None:
                continue
            flux = float(found["fluxd"][0])
            facts.append(
                FluxDensity(
                    vis=observation.vis,
                    field=number,
                    name=name,
                    spectral_window=window.id,
                    kind="model",
                    flux=flux,
                    standard=standard,
                )
            )
        facts.append(Decision(stage=stage.name, what=f"flux scale of {name}", value=standard, reason="setjy's model"))
    return facts


def _turns(names: list[str]) -> list[list[int]]:
    """Group positions so that no group has the same name twice."""
    turns: list[list[int]] = []
    for position, name in enumerate(names):
        for turn in turns:
            if all(names[other] != name for other in turn):
                turn.append(position)
                break
        else:
            turns.append([position])
    return turns
