"""What an MS holds, as existing tasks see it: fields, spectral windows, scans, antennas and sources."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

from surgeline.context import records
from surgeline.context.legacy.units import HERTZ, Frequency, as_degrees, as_hours, direction, epoch
from surgeline.context.matching import frequency_range

if TYPE_CHECKING:
    from surgeline.context.legacy.measurementset import MeasurementSet

# What the observatories' words for intents are called in the existing pipeline.
_INTENTS = {
    "CALIBRATE_AMPLI": "AMPLITUDE",
    "CALIBRATE_ATMOSPHERE": "ATMOSPHERE",
    "CALIBRATE_BANDPASS": "BANDPASS",
    "CALIBRATE_DELAY": "CHECK",
    "CALIBRATE_FLUX": "AMPLITUDE",
    "CALIBRATE_FOCUS": "FOCUS",
    "CALIBRATE_PHASE": "PHASE",
    "CALIBRATE_POINTING": "POINTING",
    "CALIBRATE_POLARIZATION": "POLARIZATION",
    "CALIBRATE_POL_ANGLE": "POLANGLE",
    "CALIBRATE_POL_LEAKAGE": "POLLEAKAGE",
    "CALIBRATE_SIDEBAND_RATIO": "SIDEBAND",
    "CALIBRATE_TARGET": "TARGET",
    "CALIBRATE_WVR": "WVR",
    "OBSERVE_CHECK_SOURCE": "CHECK",
    "OBSERVE_TARGET": "TARGET",
    "SYSTEM_CONFIGURATION": "SYSTEM_CONFIGURATION",
}
_OTHERWISE = {
    ("CALIBRATE_DIFFGAIN", "REFERENCE"): "DIFFGAINREF",
    ("CALIBRATE_DIFFGAIN", "ON_SOURCE"): "DIFFGAINSRC",
    ("OBSERVE_TARGET", "OFF_SOURCE"): "REFERENCE",
}
# Older data join the two parts of an intent by other characters than #.
_WORD = re.compile(r"(.+?)[#._](ON_SOURCE|OFF_SOURCE|REFERENCE|UNSPECIFIED|AMBIENT|HOT|TEST)$")
_ONLY_ON_SOURCE = ("AMBIENT", "HOT", "OFF_SOURCE", "TEST")
_INTENT_OF_ROLE = {"flux": "AMPLITUDE", "bandpass": "BANDPASS", "phase": "PHASE", "target": "TARGET"}
_MOVING = frozenset(
    (
        *("sun", "moon", "mercury", "venus", "mars", "jupiter", "saturn", "uranus", "neptune", "pluto"),
        *("io", "europa", "ganymede", "callisto", "titan", "ceres", "pallas", "juno", "vesta", "lutetia"),
    )
)


def pipeline_intent(word: str, telescope: str) -> str | None:
    """What an observatory's word for an intent is called in the existing pipeline; None where it has no name."""
    parted = _WORD.match(word)
    what, how = (parted[1], parted[2]) if parted else (word, "UNSPECIFIED")
    if (what, how) in _OTHERWISE:
        return _OTHERWISE[what, how]
    if what == "CALIBRATE_AMPLI" and telescope in ("VLA", "EVLA"):
        return "PHASE"
    if how in _ONLY_ON_SOURCE and what not in ("CALIBRATE_ATMOSPHERE", "CALIBRATE_SIDEBAND_RATIO"):
        return None
    return _INTENTS.get(what)


def pipeline_intents(words: Iterable[str], telescope: str) -> set[str]:
    """What observatories' words for intents are called in the existing pipeline."""
    return {name for word in words if (name := pipeline_intent(word, telescope))}


def field_intents(field: records.Field, telescope: str, roles: records.Roles | None) -> frozenset[str]:
    """What a field was observed for: what the observation says, and which roles the session gave it."""
    said = pipeline_intents(field.intents, telescope)
    if roles is None:
        return frozenset(said)
    # Which fields serve as what is the session's to say.
    given = {intent for role, intent in _INTENT_OF_ROLE.items() if field.id in getattr(roles, role)}
    return frozenset(given | (said - set(_INTENT_OF_ROLE.values())))


class Part:
    """A part of an MS: what facts say of it, and attributes that tasks add at will."""

    # Where the MS has parts of this kind, and what such attributes are before a task sets them.
    collection: ClassVar[str]
    begin: ClassVar[Mapping[str, Callable[[Any], Any]]] = {}

    ms: MeasurementSet
    id: int

    def __init__(self, ms: MeasurementSet, identifier: int) -> None:
        vars(self).update(ms=ms, id=identifier)

    def __reduce__(self) -> tuple[Any, ...]:
        # Where it arrives, facts are asked for when they are wanted.
        return _arrived, (self.ms, type(self), self.id)

    @property
    def known(self) -> Any:
        return self.ms.known_parts(self.collection)[self.id]

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        begin = self.begin.get(name)
        return self.ms.attribute(self._path(name), None if begin is None else lambda: begin(self))

    def __setattr__(self, name: str, value: Any) -> None:
        if isinstance(getattr(type(self), name, None), property) or name in vars(self):
            raise AttributeError(f"{name} of {self} is what the observation says, and cannot be set")
        self.ms.attributes.set(self._path(name), value)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Part) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.id} of {self.ms.name}>"

    def _path(self, name: str) -> str:
        return f"{self.collection} {self.id}.{name}"

    def _key(self) -> tuple[str, str, int]:
        return self.ms.name, self.collection, self.id


class _InTheSky(Part):
    """What has a position in the sky."""

    @property
    def ra(self) -> str:
        return as_hours(self.known.ra)

    @property
    def dec(self) -> str:
        return as_degrees(self.known.dec)

    @property
    def mdirection(self) -> dict[str, Any]:
        return direction(self.known.ra, self.known.dec)

    @property
    def frame(self) -> str:
        return str(self.mdirection["refer"])

    @property
    def longitude(self) -> Any:
        return self.mdirection["m0"]

    @property
    def latitude(self) -> Any:
        return self.mdirection["m1"]


class Field(_InTheSky):
    """A field."""

    collection = "fields"
    begin: ClassVar = {"flux_densities": lambda _: set()}

    @property
    def name(self) -> str:
        return casa_name(self.known.name)

    @property
    def intents(self) -> frozenset[str]:
        intents: frozenset[str] = self.ms.known_parts("intents of fields")[self.id]
        return intents

    @property
    def clean_name(self) -> str:
        return clean_name(self.known.name)

    @property
    def identifier(self) -> str:
        return self.name or f"#{self.id}"

    @property
    def source(self) -> Source:
        return next(source for source in self.ms.sources if self.id in source.numbers)

    @property
    def source_id(self) -> int:
        return int(self.source.id)

    @property
    def valid_spws(self) -> set[SpectralWindow]:
        return {window for scan in self.ms.scans if self.id in scan.known.fields for window in scan.spws}


class Source(_InTheSky):
    """A source: fields of one name. They are numbered here in the order of their first fields."""

    collection = "sources"
    begin: ClassVar = {"is_eph_obj": lambda self: self.name.lower() in _MOVING}

    @property
    def known(self) -> Any:
        return self.ms.known_parts("fields")[min(self.numbers)]

    @property
    def numbers(self) -> frozenset[int]:
        numbers: frozenset[int] = self.ms.known_parts("sources")[self.id]
        return numbers

    @property
    def name(self) -> str:
        return str(self.known.name)

    @property
    def fields(self) -> list[Field]:
        return [field for field in self.ms.fields if field.id in self.numbers]

    @property
    def intents(self) -> set[str]:
        return set().union(*(field.intents for field in self.fields))

    @property
    def direction(self) -> dict[str, Any]:
        return self.mdirection


@dataclass(frozen=True)
class Channel:
    """A channel's edges."""

    low: Frequency
    high: Frequency

    def getCentreFrequency(self) -> Frequency:
        """Its middle."""
        centre: Frequency = (self.low + self.high) / 2
        return centre

    def getWidth(self) -> Frequency:
        """Its width."""
        return self.high - self.low


class SpectralWindow(Part):
    """A spectral window."""

    collection = "spectral_windows"
    begin: ClassVar = {
        "band": lambda _: "Unknown",
        "type": lambda _: "Unknown",
        "transitions": lambda _: ["Unknown"],
        **dict.fromkeys(("spectralspec", "receiver", "freq_lo", "sdm_num_bin", "grouping_id"), lambda _: None),
    }

    @property
    def name(self) -> str:
        return str(self.known.name)

    @property
    def intents(self) -> frozenset[str]:
        intents: frozenset[str] = self.ms.known_parts("intents of windows")[self.id]
        return intents

    @property
    def num_channels(self) -> int:
        return int(self.known.channels)

    @property
    def bandwidth(self) -> Frequency:
        return Frequency(self.known.bandwidth, HERTZ)

    @property
    def ref_frequency(self) -> Frequency:
        return Frequency(self.known.reference_frequency, HERTZ)

    @property
    def min_frequency(self) -> Frequency:
        return Frequency(frequency_range(self.known).low, HERTZ)

    @property
    def max_frequency(self) -> Frequency:
        return Frequency(frequency_range(self.known).high, HERTZ)

    @property
    def centre_frequency(self) -> Frequency:
        centre: Frequency = (self.min_frequency + self.max_frequency) / 2
        return centre

    @property
    def mean_frequency(self) -> Frequency:
        return self.centre_frequency

    @property
    def channels(self) -> list[Channel]:
        low, width = frequency_range(self.known).low, abs(self.known.channel_width)
        edges = [Frequency(low + width * number, HERTZ) for number in range(self.num_channels + 1)]
        rising = [Channel(*both) for both in pairwise(edges)]
        return rising if self.known.channel_width > 0 else rising[::-1]

    def channel_range(self, minfreq: Frequency, maxfreq: Frequency) -> tuple[int, int] | tuple[None, None]:
        """The first and last channel that have something of a range of frequencies; None where none has."""
        found = [
            number for number, channel in enumerate(self.channels) if channel.low < maxfreq and channel.high > minfreq
        ]
        return (found[0], found[-1]) if found else (None, None)


class SelectedWindow:
    """A spectral window of which channels are selected: its `id` says which, all else is the window's."""

    def __init__(self, window: SpectralWindow, channels: str) -> None:
        self._window = window
        self.id = f"{window.id}:{channels}" if channels else str(window.id)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._window, name)


class Scan(Part):
    """A scan."""

    collection = "scans"

    @property
    def intents(self) -> frozenset[str]:
        intents: frozenset[str] = self.ms.known_parts("intents of scans")[self.id]
        return intents

    @property
    def fields(self) -> frozenset[Field]:
        return frozenset(field for field in self.ms.fields if field.id in self.known.fields)

    @property
    def spws(self) -> set[SpectralWindow]:
        return {window for window in self.ms.spectral_windows if window.id in self.known.spectral_windows}

    @property
    def antennas(self) -> frozenset[Antenna]:
        return frozenset(self.ms.antennas)

    @property
    def start_time(self) -> dict[str, Any]:
        return epoch(self.known.start)

    @property
    def end_time(self) -> dict[str, Any]:
        return epoch(self.known.end)

    @property
    def time_on_source(self) -> timedelta:
        return timedelta(seconds=self.known.end - self.known.start)


class Antenna(Part):
    """An antenna."""

    collection = "antennas"

    @property
    def name(self) -> str:
        return str(self.known.name)

    @property
    def identifier(self) -> str:
        return self.name or f"#{self.id}"

    @property
    def station(self) -> str:
        return str(self.known.station)

    @property
    def diameter(self) -> float:
        return float(self.known.diameter)

    @property
    def offset(self) -> dict[str, Any]:
        return {
            "longitude offset": {"unit": "m", "value": self.known.east},
            "latitude offset": {"unit": "m", "value": self.known.north},
        }


@dataclass(frozen=True)
class AntennaArray:
    """The telescope and its antennas; the longest baseline in metres."""

    name: str
    antennas: tuple[Antenna, ...]
    longest_baseline: float


def clean_name(name: str) -> str:
    """A field's name with an underscore for each character that CASA's selections might take for something else."""
    return re.sub(r"[^A-Za-z0-9+-]", "_", name)


def casa_name(name: str) -> str:
    """A field's name as CASA's selections take it: between quotes where it might be taken for something else."""
    return f'"{name}"' if name.isdecimal() or name != clean_name(name) else name


def parts_of(known: records.Observation, roles: records.Roles | None, collection: str) -> Mapping[int, Any]:
    """What facts say of the parts of an MS, by their numbers; of its sources the numbers of their fields."""
    if collection == "sources":
        by_name: dict[str, set[int]] = {}
        for field in known.fields:
            by_name.setdefault(field.name, set()).add(field.id)
        return {number: frozenset(fields) for number, fields in enumerate(by_name.values())}
    if collection == "scans":
        return {scan.number: scan for scan in known.scans}
    if not collection.startswith("intents of "):
        return {part.id: part for part in getattr(known, collection)}
    of_fields = {field.id: field_intents(field, known.telescope, roles) for field in known.fields}
    if collection == "intents of fields":
        return of_fields
    of_scans = {scan.number: _scan_intents(scan, known.telescope, of_fields) for scan in known.scans}
    if collection == "intents of scans":
        return of_scans
    return {
        window.id: frozenset().union(
            *(of_scans[scan.number] for scan in known.scans if window.id in scan.spectral_windows)
        )
        for window in known.spectral_windows
    }


def _scan_intents(scan: records.Scan, telescope: str, of_fields: Mapping[int, frozenset[str]]) -> frozenset[str]:
    """What a scan was observed for: of what its fields are for, what the scan itself says, if it says anything."""
    fields: frozenset[str] = frozenset().union(*(of_fields[number] for number in scan.fields))
    return fields & pipeline_intents(scan.intents, telescope) or fields


def _arrived(ms: MeasurementSet, cls: type[Part], identifier: int) -> Part:
    return ms.part(cls, identifier)
