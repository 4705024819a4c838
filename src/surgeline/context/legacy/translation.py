"""Facts made of the objects that the existing pipeline keeps, live or as what is left of them in a pickle."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from surgeline.context.legacy.units import unix_time
from surgeline.context.records import Antenna, Field, Observation, Scan, SpectralWindow
from surgeline.errors import BadInput

_MOST_CHANNELS = 10**7


def observation_from(ms: Any) -> Observation:
    """What an MS of the existing pipeline holds, as a fact. Rows and size are not told there, and 0.

    Raises:
        BadInput: it is no such MS.
    """
    try:
        scans = tuple(_scan(scan) for scan in _by_id(ms.scans))
        antennas = tuple(_antenna(antenna) for antenna in _by_id(ms.antenna_array.antennas))
        windows = _by_id(ms.spectral_windows)
        correlations = _correlations(ms)
        return Observation(
            vis=ms.name,
            origin=getattr(ms, "origin_ms", "") or ms.name,
            telescope=ms.antenna_array.name,
            observer=getattr(ms, "observer", ""),
            project=getattr(ms, "project_id", ""),
            start=min((scan.start for scan in scans), default=0.0),
            end=max((scan.end for scan in scans), default=0.0),
            rows=0,
            size=0,
            fields=tuple(_field(field) for field in _by_id(ms.fields)),
            spectral_windows=tuple(_spectral_window(window, correlations) for window in windows),
            scans=scans,
            antennas=antennas,
            longest_baseline=max(
                (math.hypot(a.east - b.east, a.north - b.north) for a in antennas for b in antennas), default=0.0
            ),
        )
    except (AttributeError, TypeError, KeyError, IndexError, ValueError) as error:
        name = getattr(ms, "name", type(ms).__name__)
        raise BadInput(
            f"{name} cannot be taken for an MS of the existing pipeline: {type(error).__name__}: {error}",
            "give an Observation, as read_observation makes one of a MeasurementSet",
        ) from error


def _field(field: Any) -> Field:
    position = getattr(field, "mdirection", None) or field._mdirection
    return Field(
        id=field.id,
        name=str(field.name).strip('"'),
        ra=math.degrees(_radians(position["m0"])) % 360.0,
        dec=math.degrees(_radians(position["m1"])),
        intents=_intents(field),
    )


def _spectral_window(window: Any, correlations: tuple[str, ...]) -> SpectralWindow:
    frequencies = _numbers(window.channels.chan_freqs)
    widths = _numbers(window.channels.chan_widths)
    step = frequencies[1] - frequencies[0] if len(frequencies) > 1 else widths[0]
    return SpectralWindow(
        id=window.id,
        name=window.name,
        channels=len(frequencies),
        reference_frequency=frequencies[len(frequencies) // 2],
        channel_width=math.copysign(widths[0], step),
        bandwidth=sum(abs(width) for width in widths),
        correlations=correlations,
    )


def _scan(scan: Any) -> Scan:
    windows = {int(description.spw.id) for description in scan.data_descriptions}
    return Scan(
        number=scan.id,
        fields=tuple(field.id for field in _by_id(scan.fields)),
        spectral_windows=tuple(sorted(windows)),
        start=unix_time(scan.start_time),
        end=unix_time(scan.end_time),
        intents=_intents(scan),
    )


def _antenna(antenna: Any) -> Antenna:
    return Antenna(
        id=antenna.id,
        name=antenna.name,
        station=antenna.station,
        east=float(antenna.offset["longitude offset"]["value"]),
        north=float(antenna.offset["latitude offset"]["value"]),
        diameter=float(getattr(antenna.diameter, "value", None) or _value(antenna.diameter)),
    )


def _intents(thing: Any) -> tuple[str, ...]:
    """What a field or scan was observed for: the observatory's words, or the pipeline's where it kept no others."""
    states = getattr(thing, "states", ())
    words = {word.strip() for state in states for word in str(state.obs_mode).split(",") if word.strip()}
    return tuple(sorted(words or set(thing.intents)))


def _correlations(ms: Any) -> tuple[str, ...]:
    kinds = list(getattr(ms, "polarizations", ()))
    names = kinds[0].corr_type_string if kinds else ()
    return tuple(str(name[0] if isinstance(name, list) else name) for name in names)


def _by_id(things: Iterable[Any]) -> list[Any]:
    return sorted(things, key=lambda thing: int(thing.id))


def _numbers(values: Any) -> list[float]:
    """Numbers that are listed, or said by their start, step and number."""
    if hasattr(values, "num_terms"):
        if values.num_terms > _MOST_CHANNELS:
            raise ValueError(f"no window has {values.num_terms} channels")
        return [float(values.start + values.delta * term) for term in range(values.num_terms)]
    return [float(value) for value in values]


def _radians(quantity: Mapping[str, Any]) -> float:
    value = float(quantity["value"])
    return math.radians(value) if quantity["unit"] == "deg" else value


def _value(quantity: Any) -> float:
    return float(quantity["value"] if isinstance(quantity, Mapping) else quantity)
