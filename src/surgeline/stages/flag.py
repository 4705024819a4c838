"""Flag: autocorrelations, shadowed and dead data, the beginnings of scans, interference; then choose the
reference antenna among what is left."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from pydantic import NonNegativeFloat

from surgeline.context.records import Decision, Fact, FlagSummary, Observation, ReferenceAntenna
from surgeline.stages.plots import asking
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import Job, JobRequest
from surgeline.work.procedure import Aside, Procedure

_REFERENCE_ANTENNAS = 5
_PLAIN_NAME = re.compile(r"[A-Za-z0-9_.+-]+")


class Parameters(StageParameters):
    """What to flag.

    Attributes:
        autocorrelations: flag them.
        shadow: flag antennas shadowed by others.
        zeros: flag visibilities that are exactly zero.
        quack: seconds at the beginning of each scan to flag.
        interference: flag interference by CASA's tfcrop on the raw data.
        commands: further flagdata commands, such as `antenna='ea05' spw='0:0~3'`.
        reference_antenna: names in order of preference; left out, central antennas with few flags are taken.
    """

    autocorrelations: bool = True
    shadow: bool = True
    zeros: bool = True
    quack: NonNegativeFloat = 0.0
    interference: bool = False
    commands: tuple[str, ...] = ()
    reference_antenna: tuple[str, ...] = ()


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Flag each MS in one pass over its data."""
    observations = stage.known(Observation)
    # Flags are counted before and after in the same pass over the data.
    commands = ["mode='summary' name='before'", *flag_commands(parameters), "mode='summary' name='after'"]
    counted = yield [
        JobRequest("flagdata", {"vis": seen.vis, "mode": "list", "inpfile": commands}).declare(
            name=f"flag {seen.vis}"
        )
        for seen in observations
    ]
    facts: list[Fact] = []
    plots: list[Job] = []
    for observation, reports in zip(observations, counted, strict=True):
        early, late = (_report(reports, name) for name in ("before", "after"))
        facts.append(flag_summary(observation.vis, "import", early))
        flags = flag_summary(observation.vis, stage.name, late)
        facts.append(flags)
        shares = flagged_shares(observation, {"before": early, "after": late})
        plot, pictures = asking.of_flags(stage.name, observation.vis, shares)
        plots.append(plot)
        facts += pictures
        chosen = choose_reference_antenna(observation, flags, parameters.reference_antenna)
        facts.append(chosen)
        facts.append(
            Decision(
                stage=stage.name,
                what=f"reference antenna of {observation.vis}",
                value=", ".join(chosen.names),
                reason=chosen.reason,
            )
        )
    yield Aside(plots)
    return facts


def flag_commands(parameters: Parameters) -> list[str]:
    """The flagdata commands that parameters ask for."""
    commands = []
    if parameters.autocorrelations:
        commands.append("mode='manual' autocorr=True reason='autocorrelation'")
    if parameters.shadow:
        commands.append("mode='shadow' tolerance=0.0 reason='shadow'")
    if parameters.zeros:
        commands.append("mode='clip' clipzeros=True reason='zeros'")
    if parameters.quack:
        commands.append(f"mode='quack' quackinterval={parameters.quack} quackmode='beg' reason='quack'")
    if parameters.interference:
        commands.append("mode='tfcrop' datacolumn='DATA' reason='interference'")
    return [*commands, *parameters.commands]


def _report(reports: dict[str, Any], name: str) -> dict[str, Any]:
    """One of the summaries that a list of flagdata commands returns."""
    return next(report for report in reports.values() if isinstance(report, dict) and report.get("name") == name)


def flag_summary(vis: str, after: str, counted: dict[str, Any]) -> FlagSummary:
    """Fractions from the counts that flagdata's summary returns."""
    return FlagSummary(
        vis=vis,
        after=after,
        total=_fraction(counted),
        fields=_fractions(counted, "field"),
        antennas=_fractions(counted, "antenna"),
    )


def flagged_shares(
    observation: Observation, counted: Mapping[str, dict[str, Any]]
) -> dict[str, dict[str, dict[str, float]]]:
    """Fractions by antenna, spectral window and field, then by when, from flagdata's summaries at these times."""
    known = {
        "antenna": [antenna.name for antenna in observation.antennas],
        "spw": [str(window.id) for window in observation.spectral_windows],
        "field": list(dict.fromkeys(field.name for field in observation.fields)),
    }
    return {
        "spectral window" if by == "spw" else by: {
            when: {name: fractions[name] for name in names if name in fractions}
            for when, report in counted.items()
            for fractions in [_fractions(report, by)]
        }
        for by, names in known.items()
    }


def _fractions(counted: dict[str, Any], by: str) -> dict[str, float]:
    return {name: _fraction(counts) for name, counts in counted.get(by, {}).items()}


def _fraction(counts: dict[str, float]) -> float:
    return float(counts["flagged"] / counts["total"]) if counts["total"] else 0.0


def choose_reference_antenna(
    observation: Observation, flags: FlagSummary, asked: tuple[str, ...] = ()
) -> ReferenceAntenna:
    """The antennas that are nearest the array's centre and least flagged, unless the recipe names some."""
    if asked:
        return ReferenceAntenna(vis=observation.vis, names=asked, reason="the recipe says so")
    farthest = max((math.hypot(found.east, found.north) for found in observation.antennas), default=0.0) or 1.0

    def badness(number: int) -> float:
        found = observation.antennas[number]
        return math.hypot(found.east, found.north) / farthest + flags.antennas.get(found.name, 0.0)

    # A list of names is an expression to CASA, in which ; and & have a meaning.
    every = range(len(observation.antennas))
    plain = [number for number in every if _PLAIN_NAME.fullmatch(observation.antennas[number].name)]
    order = sorted(plain or every, key=badness)[:_REFERENCE_ANTENNAS]
    best = observation.antennas[order[0]]
    return ReferenceAntenna(
        vis=observation.vis,
        names=tuple(observation.antennas[number].name for number in order),
        reason=(
            f"{best.name} is {math.hypot(best.east, best.north):.0f} m from the array's centre and "
            f"{flags.antennas.get(best.name, 0.0):.0%} flagged"
        ),
    )
