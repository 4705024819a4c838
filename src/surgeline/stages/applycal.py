"""Apply the calibration to all fields."""

from __future__ import annotations

import math
from typing import Any

from surgeline.context.records import (
    CalibrationApplication,
    CalibrationTable,
    DataColumns,
    Decision,
    Fact,
    Field,
    FlagSummary,
    Observation,
    QualityScore,
    Roles,
)
from surgeline.errors import DataError
from surgeline.stages.flag import flag_summary, flagged_shares
from surgeline.stages.plots import asking
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import JobRequest
from surgeline.work.procedure import Aside, Procedure, together


class Parameters(StageParameters):
    """How to apply.

    Attributes:
        calibrate_weights: scale the weights of the data with the gains, as CASA's calwt.
        mode: CASA's applymode: calflag also flags what has no solution.
    """

    calibrate_weights: bool = True
    mode: str = "calflag"


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Apply the tables of each MS, calibrators with their own gains and targets with the nearest calibrator's."""
    found = yield from together([_one(stage, parameters, observation) for observation in stage.known(Observation)])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, parameters: Parameters, observation: Observation) -> Procedure[list[Fact]]:
    tables = current_tables(stage.known(CalibrationTable, vis=observation.vis))
    if not tables:
        raise DataError(
            f"there is no calibration of {observation.vis} to apply", "put bandpass or gaincal before applycal"
        )
    facts: list[Fact] = []
    # Each call writes to the same MS, so they take turns.
    for field, gain_fields in gain_fields_of(observation, stage.required(Roles, vis=observation.vis)).items():
        arguments: dict[str, Any] = {
            "vis": observation.vis,
            "field": ",".join(str(number) for number in field),
            "gaintable": [table.path for table in tables],
            "gainfield": [
                "" if table.kind == "B" else ",".join(str(number) for number in gain_fields) for table in tables
            ],
            "interp": ["nearest" if table.kind == "B" else "linear" for table in tables],
            "calwt": [parameters.calibrate_weights],
            "applymode": parameters.mode,
            "flagbackup": False,
        }
        names = ", ".join(observation.field(number).name for number in field)
        facts += [
            CalibrationApplication(
                table=table.path,
                vis=observation.vis,
                field=str(arguments["field"]),
                gainfield=gainfield,
                interp=interp,
                calwt=parameters.calibrate_weights,
                state="applied",
                order=order,
            )
            for order, (table, gainfield, interp) in enumerate(
                zip(tables, arguments["gainfield"], arguments["interp"], strict=True)
            )
        ]
        yield [JobRequest("applycal", arguments).declare(name=f"apply to {names}")]
        facts.append(
            Decision(
                stage=stage.name,
                what=f"gains for {names}",
                value=", ".join(observation.field(number).name for number in gain_fields),
                reason="its own" if set(field) == set(gain_fields) else "the phase calibrator nearest in the sky",
            )
        )
    (counted,) = yield [
        JobRequest("flagdata", {"vis": observation.vis, "mode": "summary"}).declare(
            name=f"flag summary of {observation.vis}"
        )
    ]
    shares = flagged_shares(observation, {"after": counted})
    for before in stage.known(FlagSummary, vis=observation.vis)[-1:]:
        shares["antenna"] = {**shares["antenna"], "before": before.antennas}
        shares["field"] = {**shares["field"], "before": before.fields}
    plot, pictures = asking.of_flags(stage.name, observation.vis, shares)
    yield Aside([plot])
    flags: FlagSummary = flag_summary(observation.vis, stage.name, counted)
    columns = {"RAW": "DATA", "CALIBRATED": "CORRECTED_DATA"}
    left = QualityScore(
        stage=stage.name,
        metric="unflagged share",
        vis=observation.vis,
        score=1.0 - flags.total,
        reason=f"{100.0 * flags.total:.3g} % of the data are flagged",
    )
    return [*facts, flags, *pictures, DataColumns(vis=observation.vis, after=stage.name, columns=columns), left]


def current_tables(tables: list[CalibrationTable]) -> list[CalibrationTable]:
    """The tables to apply: gains that were scaled to flux take the place of those they came from."""
    superseded = {table.supersedes for table in tables}
    return [table for table in tables if table.path not in superseded]


def gain_fields_of(observation: Observation, roles: Roles) -> dict[tuple[int, ...], tuple[int, ...]]:
    """For each group of fields, the fields whose gains it is given."""
    calibrators = sorted({*roles.flux, *roles.bandpass, *roles.phase})
    groups: dict[tuple[int, ...], tuple[int, ...]] = {(number,): (number,) for number in calibrators}
    by_calibrator: dict[int, list[int]] = {}
    for number in roles.target:
        target = observation.field(number)
        nearest = min(roles.phase, key=lambda other: _separation(target, observation.field(other)))
        by_calibrator.setdefault(nearest, []).append(number)
    for calibrator, targets in by_calibrator.items():
        groups[tuple(targets)] = (calibrator,)
    return groups


def _separation(one: Field, other: Field) -> float:
    """The angle between two fields, in radians (haversine formula)."""
    ra1, dec1, ra2, dec2 = (math.radians(angle) for angle in (one.ra, one.dec, other.ra, other.dec))
    haversine = math.sin((dec2 - dec1) / 2) ** 2 + math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
    return 2.0 * math.asin(math.sqrt(haversine))
