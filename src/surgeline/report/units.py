"""Numbers and times as astronomers write them. What is not known is a dash."""

from __future__ import annotations

import math
from datetime import UTC, datetime

UNKNOWN = "–"
_SPEED_OF_LIGHT = 299792.458  # km/s


def significant(value: float | None, digits: int = 3) -> str:
    """A number with so many significant digits, with an exponent only where it is very small or large."""
    if value is None or not math.isfinite(value):
        return UNKNOWN
    if value == 0:
        return "0"
    exponent = math.floor(math.log10(abs(value)))
    if exponent < -4 or exponent > 6:
        return f"{value:.{digits - 1}e}"
    return f"{value:.{max(0, digits - 1 - exponent)}f}"


def with_error(value: float, error: float) -> str:
    """A measured value with its error, both to the error's second significant digit."""
    if not error > 0 or not math.isfinite(error):
        return significant(value, 4)
    decimals = min(max(0, 1 - math.floor(math.log10(error))), 9)
    return f"{value:.{decimals}f} ± {error:.{decimals}f}"


def seconds(value: float | None) -> str:
    """Seconds for a column whose header names the unit."""
    if value is None:
        return UNKNOWN
    return f"{value:.2f}" if value < 1 else f"{value:.1f}" if value < 100 else f"{value:.0f}"


def duration(value: float | None) -> str:
    """A span of time, given in seconds, in the units that suit it."""
    if value is None:
        return UNKNOWN
    if value < 99.95:
        return f"{seconds(value)} s"
    whole = round(value)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 86400:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600:02d} h"


def utc(unix: float | None) -> str:
    """A Unix time as date and time, UTC."""
    return _moment(unix, "%Y-%m-%d %H:%M:%S")


def clock(unix: float | None) -> str:
    """A Unix time as time of day, UTC."""
    return _moment(unix, "%H:%M:%S")


def _moment(unix: float | None, form: str) -> str:
    return UNKNOWN if not unix else datetime.fromtimestamp(unix, UTC).strftime(form)


def gigabytes(size: float | None) -> str:
    """Bytes as GB, for a column whose header names the unit."""
    return UNKNOWN if not size else f"{size / 1e9:.2f}"


def size(count: float) -> str:
    """Bytes in the unit that suits them."""
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{significant(count)} {unit}"
        count /= 1000
    return f"{significant(count)} TB"


def percent(fraction: float | None) -> str:
    """A fraction from 0 to 1 in percent."""
    return UNKNOWN if fraction is None else f"{100 * fraction:.1f} %"


def right_ascension(degrees: float) -> str:
    """Right ascension, given in degrees, in hours, minutes and seconds."""
    # Rounded before it is brought into the circle, so that it never becomes 24 hours.
    return _sexagesimal(round(degrees * 240_000) % 86_400_000, 3)


def declination(degrees: float) -> str:
    """Declination in degrees, minutes and seconds of arc."""
    return ("-" if degrees < 0 else "+") + _sexagesimal(round(abs(degrees) * 360_000), 2)


def _sexagesimal(count: int, decimals: int) -> str:
    # From a count of the last decimal of a second, so that 59.9996 never becomes 60.
    whole, fraction = divmod(count, 10**decimals)
    return f"{whole // 3600:02d}:{whole // 60 % 60:02d}:{whole % 60:02d}.{fraction:0{decimals}d}"


def channel_velocity(width: float, frequency: float) -> float:
    """The width of a channel in km/s, from its width and frequency in the same unit."""
    return abs(width) / frequency * _SPEED_OF_LIGHT if frequency else math.nan


def flux_scale(unit: str, reference: float) -> tuple[float, str]:
    """The factor and unit that bring a brightness near to `reference` to a handy size: Jy, mJy or µJy."""
    if unit.startswith("Jy") and math.isfinite(reference) and reference > 0:
        for factor, prefix in ((1.0, ""), (1e3, "m"), (1e6, "µ")):
            if reference * factor >= 0.1 or prefix == "µ":
                return factor, prefix + unit
    return 1.0, unit


def plural(count: int, noun: str) -> str:
    """A count with its noun: 1 job, 2 jobs."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
