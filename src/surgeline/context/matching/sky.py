"""Positions on the sky, and the angles between them."""

from __future__ import annotations

import math
from dataclasses import dataclass

_ARCSEC = 3600.0


@dataclass(frozen=True)
class SkyPosition:
    """A position in degrees."""

    ra: float
    dec: float


def separation(one: SkyPosition, other: SkyPosition) -> float:
    """The angle between two positions on the sphere in arcsec (haversine formula)."""
    ra1, dec1, ra2, dec2 = (math.radians(angle) for angle in (one.ra, one.dec, other.ra, other.dec))
    haversine = math.sin((dec2 - dec1) / 2) ** 2 + math.cos(dec1) * math.cos(dec2) * math.sin((ra2 - ra1) / 2) ** 2
    # Rounding may lift opposite positions above 1.
    return math.degrees(2.0 * math.asin(math.sqrt(min(1.0, haversine)))) * _ARCSEC


def strip(position: SkyPosition, width: float) -> int:
    """The strip of declination, `width` arcsec wide, that a position lies in.

    What is less than that apart lies in the same strip or in neighbouring ones: at the poles and across 0 h, too.
    """
    return math.floor(position.dec * _ARCSEC / width)
