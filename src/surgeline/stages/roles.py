"""Which field is what: flux, bandpass and phase calibrator, target."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from fnmatch import fnmatchcase

from surgeline.context.records import Field, Observation, Roles
from surgeline.errors import DataError, nearest

# Flux calibrators whose models CASA's setjy knows: name, right ascension and declination (J2000, degrees).
_FLUX_CALIBRATORS = (
    ("3C48", 24.422081, 33.159759),
    ("3C123", 69.268230, 29.670505),
    ("3C138", 80.291192, 16.639459),
    ("3C147", 85.650575, 49.852009),
    ("3C196", 123.400138, 48.217378),
    ("3C286", 202.784533, 30.509155),
    ("3C295", 212.835277, 52.202770),
)
_SAME_POSITION_DEGREES = 60.0 / 3600.0
# Calibrators are named by their position: 1445+099, J1445+0958, B0134+329.
_POSITION_NAME = re.compile(r"^[JB]?\d{4}[+-]\d{2,4}")


def known_flux_calibrator(field: Field) -> str | None:
    """The name of the flux calibrator at a field's position, or None."""
    for name, right_ascension, declination in _FLUX_CALIBRATORS:
        east = (field.ra - right_ascension + 180.0) % 360.0 - 180.0
        distance = math.hypot(east * math.cos(math.radians(declination)), field.dec - declination)
        if distance < _SAME_POSITION_DEGREES:
            return name
    return None


def find_roles(
    observation: Observation,
    flux: Sequence[str] = (),
    bandpass: Sequence[str] = (),
    phase: Sequence[str] = (),
    target: Sequence[str] = (),
) -> Roles:
    """Decide what each observed field is for: by what the recipe says, else by intents, else by what is known.

    Args:
        observation: what the MS holds.
        flux, bandpass, phase, target: names, numbers or patterns such as `1331*` that a recipe gives.

    Raises:
        DataError: a pattern matches no field, or no target is left.
    """
    observed = {number for scan in observation.scans for number in scan.fields}
    fields = [field for field in observation.fields if field.id in observed]
    reasons = []
    found: dict[str, tuple[int, ...]] = {}
    given = {"flux": flux, "bandpass": bandpass, "phase": phase, "target": target}
    for role, patterns in given.items():
        if patterns:
            found[role] = _matching(fields, patterns, observation.vis)
            reasons.append(f"{role}: the recipe says so")
    by_intent = {
        "flux": _with_intent(fields, "CALIBRATE_FLUX", "CALIBRATE_AMPLI"),
        "bandpass": _with_intent(fields, "CALIBRATE_BANDPASS"),
        "phase": _with_intent(fields, "CALIBRATE_PHASE"),
        "target": _with_intent(fields, "OBSERVE_TARGET"),
    }
    for role, numbers in by_intent.items():
        if role not in found and numbers:
            found[role] = numbers
            reasons.append(f"{role}: by intent")
    if "flux" not in found:
        known = {field.id: name for field in fields if (name := known_flux_calibrator(field))}
        found["flux"] = tuple(known)
        reasons += [f"flux: field {number} is at the position of {name}" for number, name in known.items()]
    if "bandpass" not in found:
        found["bandpass"] = found["flux"][:1] or _longest_calibrator(observation, fields)
        reasons.append("bandpass: the flux calibrator, usually the brightest")
    assigned = {number for numbers in found.values() for number in numbers}
    unassigned = [field for field in fields if field.id not in assigned]
    if "phase" not in found:
        found["phase"] = tuple(field.id for field in unassigned if _POSITION_NAME.match(field.name))
        if not found["phase"] and "target" in found:
            found["phase"] = found["flux"][:1]
        reasons.append("phase: named by its position, as calibrators are")
    if "target" not in found:
        found["target"] = tuple(field.id for field in unassigned if field.id not in found["phase"])
        reasons.append("target: what is left")
    if not found["target"]:
        raise DataError(
            f"{observation.vis} has no field left that could be the target",
            "name it in the recipe's import stage: arguments: {target: [NAME]}",
        )
    return Roles(
        vis=observation.vis,
        flux=found["flux"],
        bandpass=found["bandpass"],
        phase=found["phase"] or found["bandpass"],
        target=found["target"],
        reason="; ".join(reasons),
    )


def _with_intent(fields: Sequence[Field], *intents: str) -> tuple[int, ...]:
    return tuple(
        field.id for field in fields if any(given.startswith(wanted) for given in field.intents for wanted in intents)
    )


def _matching(fields: Sequence[Field], patterns: Sequence[str], vis: str) -> tuple[int, ...]:
    numbers: list[int] = []
    for pattern in patterns:
        # A name may look like a number, or hold what patterns are made of.
        matching = (
            [field.id for field in fields if field.name == pattern]
            or [field.id for field in fields if str(field.id) == pattern]
            or [field.id for field in fields if fnmatchcase(field.name, pattern)]
        )
        if not matching:
            raise DataError(f"{vis} has no field {pattern!r}", nearest(pattern, [field.name for field in fields]))
        numbers += [number for number in matching if number not in numbers]
    return tuple(numbers)


def _longest_calibrator(observation: Observation, fields: Sequence[Field]) -> tuple[int, ...]:
    calibrators = [field.id for field in fields if _POSITION_NAME.match(field.name)]
    seconds = {
        number: sum(scan.end - scan.start for scan in observation.scans if number in scan.fields)
        for number in calibrators
    }
    return tuple(sorted(calibrators, key=lambda number: -seconds[number])[:1])
