"""The fields that are observed, and where in the sky they are."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from surgeline.simulate.simulation import Simulation

LIGHT_SPEED = 299792458.0  # m/s
ARCSEC = math.pi / 180 / 3600


@dataclass(frozen=True)
class Field:
    """A field: its role, flux, phase or target; its centre (J2000); the intents of its scans."""

    name: str
    role: str
    right_ascension_deg: float
    declination_deg: float
    intents: str


_FLUX_INTENTS = "CALIBRATE_FLUX#UNSPECIFIED,CALIBRATE_BANDPASS#UNSPECIFIED"
_CALIBRATORS = (
    Field("1331+305=3C286", "flux", 202.7845333, 30.5091553, _FLUX_INTENTS),
    Field("J1445+0958", "phase", 221.3186033, 9.9766861, "CALIBRATE_PHASE#UNSPECIFIED"),
)
TARGET = Field("TARGET", "target", 215.0, 20.0, "OBSERVE_TARGET#UNSPECIFIED")
DISH_METRES = 25.0
# The primary beam is a Gaussian of so many wavelengths over the dish's diameter at half power; pointings of a mosaic
# are half of that apart.
_PRIMARY_BEAM_WIDTHS = 1.2


def fields_of(simulation: Simulation) -> list[Field]:
    """The calibrators, and the target or its pointings."""
    if simulation.pointings == 1:
        return [*_CALIBRATORS, TARGET]
    pointings = []
    for number, east in enumerate(pointing_offsets(simulation)):
        right_ascension, declination = direction_of(TARGET, east, 0.0)
        name = f"{TARGET.name}_{number + 1}"
        pointings.append(Field(name, TARGET.role, right_ascension, declination, TARGET.intents))
    return [*_CALIBRATORS, *pointings]


def pointing_offsets(simulation: Simulation) -> list[float]:
    """How far east of the target's centre each pointing is, in arcsec."""
    spacing = float(primary_beam_arcsec(np.array([simulation.start_frequency_hz]))[0]) / 2
    return [(number - (simulation.pointings - 1) / 2) * spacing for number in range(simulation.pointings)]


def direction_of(centre: Field, l_arcsec: float, m_arcsec: float) -> tuple[float, float]:
    """Right ascension and declination in degrees of what is so far east and north of a field's centre."""
    declination = math.radians(centre.declination_deg)
    east, north = l_arcsec * ARCSEC, m_arcsec * ARCSEC
    outward = math.sqrt(1 - east**2 - north**2)
    turn = math.atan2(east, outward * math.cos(declination) - north * math.sin(declination))
    height = math.asin(north * math.cos(declination) + outward * math.sin(declination))
    return centre.right_ascension_deg + math.degrees(turn), math.degrees(height)


def offset_of(centre: Field, direction: tuple[float, float]) -> tuple[float, float]:
    """How far east and north of a field's centre a direction is, in arcsec, projected as interferometers see it."""
    turn = math.radians(direction[0] - centre.right_ascension_deg)
    declination, height = math.radians(centre.declination_deg), math.radians(direction[1])
    east = math.cos(height) * math.sin(turn)
    north = math.sin(height) * math.cos(declination) - math.cos(height) * math.sin(declination) * math.cos(turn)
    return east / ARCSEC, north / ARCSEC


def primary_beam_arcsec(frequency_hz: NDArray[np.float64]) -> NDArray[np.float64]:
    """The primary beam's width at half power, in arcsec, at each frequency: it is a Gaussian."""
    return np.asarray(_PRIMARY_BEAM_WIDTHS * LIGHT_SPEED / frequency_hz / DISH_METRES / ARCSEC)
