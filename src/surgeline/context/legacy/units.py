"""Frequencies, times and directions in the form in which existing pipeline tasks take them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from functools import total_ordering
from typing import Any

# Units are told by what one of them is in Hz, under this name.
_HERTZ = "hz"
HERTZ: Mapping[str, Any] = {"name": "HERTZ", "symbol": "Hz", _HERTZ: Decimal(1)}
GIGAHERTZ: Mapping[str, Any] = {"name": "GIGAHERTZ", "symbol": "GHz", _HERTZ: Decimal(10**9)}

_MJD_OF_UNIX_EPOCH = 40587
_DAY = 86400.0


@total_ordering
class Frequency:
    """A frequency, as a number of units; units are dictionaries that say how many Hz one of them is, as `hz`."""

    def __init__(self, value: float | Decimal | str = 0, units: Mapping[str, Any] = GIGAHERTZ) -> None:
        self.value = Decimal(str(value))
        self.units = units

    def to_units(self, other: Mapping[str, Any] = GIGAHERTZ) -> Decimal:
        """Its number in other units."""
        return self.value * (Decimal(self.units[_HERTZ]) / Decimal(other[_HERTZ]))

    def convert_to(self, units: Mapping[str, Any] = GIGAHERTZ) -> Frequency:
        """Give it other units; returns itself."""
        self.value, self.units = self.to_units(units), units
        return self

    def str_to_precision(self, precision: int) -> str:
        """Its text with so many decimals."""
        name, size = next(
            ((name, size) for name, size in (("GHz", 9), ("MHz", 6), ("kHz", 3)) if abs(self.hertz) >= 10**size),
            ("Hz", 0),
        )
        return f"{self.hertz.scaleb(-size):.{precision}f} {name}"

    @property
    def hertz(self) -> Decimal:
        return self.to_units(HERTZ)

    def __eq__(self, other: object) -> bool:
        return self.hertz == other.hertz if isinstance(other, Frequency) else NotImplemented

    def __lt__(self, other: Frequency) -> bool:
        return self.hertz < other.hertz if isinstance(other, Frequency) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hertz)

    def __abs__(self) -> Frequency:
        return Frequency(abs(self.value), self.units)

    def __add__(self, other: Frequency) -> Frequency:
        return Frequency(self.value + other.to_units(self.units), self.units)

    def __sub__(self, other: Frequency) -> Frequency:
        return Frequency(self.value - other.to_units(self.units), self.units)

    def __mul__(self, number: float | Decimal) -> Frequency:
        return Frequency(self.value * Decimal(str(number)), self.units)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        """Half of it, say; or how many times another frequency it is."""
        if isinstance(other, Frequency):
            return self.hertz / other.hertz
        return Frequency(self.value / Decimal(str(other)), self.units)

    def __str__(self) -> str:
        return self.str_to_precision(3)

    def __repr__(self) -> str:
        return f"Frequency({self.value}, {self.units['symbol']})"


def epoch(unix_seconds: float) -> dict[str, Any]:
    """A time as CASA's measure of it."""
    return {
        "type": "epoch",
        "refer": "UTC",
        "m0": {"unit": "d", "value": unix_seconds / _DAY + _MJD_OF_UNIX_EPOCH},
    }


def unix_time(measure: Mapping[str, Any]) -> float:
    """The time that CASA's measure says, in days or seconds since MJD 0."""
    quantity = measure["m0"]
    days = float(quantity["value"]) / (_DAY if quantity["unit"] == "s" else 1.0)
    return (days - _MJD_OF_UNIX_EPOCH) * _DAY


def direction(right_ascension: float, declination: float) -> dict[str, Any]:
    """A position in degrees as CASA's measure of it."""
    return {
        "type": "direction",
        "refer": "J2000",
        "m0": {"unit": "rad", "value": math.remainder(math.radians(right_ascension), 2 * math.pi)},
        "m1": {"unit": "rad", "value": math.radians(declination)},
    }


def as_hours(degrees: float) -> str:
    """A right ascension as hours, minutes and seconds."""
    hours, minutes, seconds = _sexagesimal(degrees % 360.0 / 15.0)
    return f"{hours % 24:02d}:{minutes:02d}:{seconds}"


def as_degrees(degrees: float) -> str:
    """A declination as degrees, minutes and seconds, as CASA writes it."""
    whole, minutes, seconds = _sexagesimal(abs(degrees))
    return f"{'-' if degrees < 0 else '+'}{whole:03d}.{minutes:02d}.{seconds}"


def _sexagesimal(value: float) -> tuple[int, int, str]:
    # In thousandths of a second, so that 59.9999 s is told as the next minute.
    minutes, rest = divmod(round(value * 3600_000), 60_000)
    return minutes // 60, minutes % 60, f"{rest / 1000:06.3f}"
