"""Visibilities as gridders take them: the rows of a part, in Stokes parameters, seen from the centre of an image.

What CASA's imager reads of an MS is read here, too: the same rows, channels, column, flags, weights and frequencies.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from surgeline.errors import DataError
from surgeline.imaging.rowcut import selected_rows
from surgeline.imaging.synthesis import Record

if TYPE_CHECKING:
    from numpy.typing import NDArray

LIGHT_SPEED = 299792458.0  # m/s
# The units of CASA's coordinates of directions.
RADIANS = {
    "rad": 1.0,
    "deg": math.pi / 180,
    "'": math.pi / 10800,
    "arcmin": math.pi / 10800,
    "arcsec": math.pi / 648000,
}
# The codes of MSs for frames of frequency.
_NAMES = ("REST", "LSRK", "LSRD", "BARY", "GEO", "TOPO", "GALACTO", "LGROUP", "CMB")
_FRAMES = {**dict(enumerate(_NAMES)), 64: "Undefined"}
# So many values of a column are in memory at a time beyond what is kept of them.
_PIECE = 2_000_000
# The codes of MSs for products of two hands, and each Stokes parameter as a sum of them.
_CIRCULAR = {5: "RR", 6: "RL", 7: "LR", 8: "LL"}
_LINEAR = {9: "XX", 10: "XY", 11: "YX", 12: "YY"}
_STOKES: dict[str, tuple[dict[str, complex], dict[str, complex]]] = {
    "I": ({"RR": 0.5, "LL": 0.5}, {"XX": 0.5, "YY": 0.5}),
    "Q": ({"RL": 0.5, "LR": 0.5}, {"XX": 0.5, "YY": -0.5}),
    "U": ({"RL": -0.5j, "LR": 0.5j}, {"XY": 0.5, "YX": 0.5}),
    "V": ({"RR": 0.5, "LL": -0.5}, {"XY": -0.5j, "YX": 0.5j}),
}


@dataclass(frozen=True)
class Window:
    """Some rows of one spectral window and polarization setup of an MS.

    Attributes:
        vis: the MS.
        rows: their numbers in it.
        channels: those that are selected.
        frequency: of each of these, in Hz, in the frame of the MS.
        frame: what that is, such as TOPO.
        hands: the codes of its correlations.
    """

    vis: str
    rows: NDArray[Any]
    channels: NDArray[Any]
    frequency: NDArray[Any]
    frame: str
    hands: tuple[int, ...]

    @property
    def parallel_hands(self) -> int:
        """How many of its correlations are of a hand with itself: those that Stokes I is of."""
        return len({5, 8, 9, 12}.intersection(self.hands))

    def sums(self, stokes: str) -> list[dict[int, complex]]:
        """Each Stokes parameter as a sum of the window's correlations, by their places.

        Raises:
            DataError: it has not the correlations that one needs.
        """
        circular = any(code in _CIRCULAR for code in self.hands)
        names = [(_CIRCULAR if circular else _LINEAR).get(code, str(code)) for code in self.hands]
        found: list[dict[int, complex]] = []
        for parameter in stokes:
            parts = _STOKES[parameter][0 if circular else 1]
            there = [name for name in parts if name in names]
            if parameter == "I" and len(there) == 1:
                # Of a receiver with one hand this is all that is known.
                parts = {there[0]: 1.0}
            elif len(there) < len(parts):
                raise DataError(
                    f"{self.vis} has correlations {', '.join(names)}; Stokes {parameter} needs {', '.join(parts)}",
                    "image Stokes parameters that the correlations give",
                )
            found.append({names.index(name): factor for name, factor in parts.items()})
        return found


@dataclass(frozen=True)
class Seen:
    """Where the visibilities of a window are, as an image has it.

    Attributes:
        uvw: of each row, in metres, from the image's centre. They are stretched by what the image's frame makes of
            the frequencies of the row's time, so that the window's own frequencies hold for all rows.
        shift: by how much further away the image's centre is than the field's, in metres, stretched likewise.
        field_uv: u and v from the field's centre, by which CASA weights, stretched likewise.
        stretch: that factor.
    """

    uvw: NDArray[Any]
    shift: NDArray[Any]
    field_uv: NDArray[Any]
    stretch: NDArray[Any]


def windows(selections: Sequence[tuple[Record, str]]) -> list[Window]:
    """The selected rows, by spectral window.

    Args:
        selections: CASA's selection of each MS, and which of the rows that it selects, as TaQL.

    Raises:
        DataError: a field moves, which is followed by CASA's imagers only.
    """
    return [window for selection, taql in selections for window in _windows_of(selection, taql)]


def _windows_of(selection: Record, taql: str) -> Iterator[Window]:
    import numpy as np
    from casatools import ms, table

    vis = selection["msname"]
    rows = selected_rows(selection, taql)
    with closing(table()) as tool:
        tool.open(vis)
        setups, fields = (tool.getcol(name)[rows] for name in ("DATA_DESC_ID", "FIELD_ID"))
        tool.open(f"{vis}/DATA_DESCRIPTION")
        spws, polarizations = tool.getcol("SPECTRAL_WINDOW_ID"), tool.getcol("POLARIZATION_ID")
        tool.open(f"{vis}/FIELD")
        if "EPHEMERIS_ID" in tool.colnames() and (tool.getcol("EPHEMERIS_ID")[np.unique(fields)] >= 0).any():
            raise DataError(f"{vis} has fields that move", "leave engine out: CASA's imager follows them")
        with closing(ms()) as selector:
            chosen = selector.msseltoindex(vis, spw=selection["spw"] or "*")["channel"]
        for setup in np.unique(setups):
            spw = int(spws[setup])
            tool.open(f"{vis}/SPECTRAL_WINDOW")
            frequency = tool.getcell("CHAN_FREQ", spw)
            reference = tool.getcell("MEAS_FREQ_REF", spw)
            # All of a range: tclean's continua leave no channels out between its ends, either.
            ranges = [np.arange(first, last + 1) for one, first, last, _ in chosen if one == spw]
            channels = np.unique(np.concatenate(ranges)).astype(int)
            tool.open(f"{vis}/POLARIZATION")
            hands = tuple(int(code) for code in tool.getcell("CORR_TYPE", int(polarizations[setup])))
            frame = _FRAMES[int(reference)]
            yield Window(vis, rows[setups == setup], channels, frequency[channels], frame, hands)


def see(window: Window, coordinates: Record, known: dict[tuple[Any, ...], float]) -> Seen:
    """Where a window's visibilities are, as an image of these coordinates has it.

    Args:
        window: whose.
        coordinates: CASA's coordinate system of the image.
        known: how frequencies are stretched, by time and field, as earlier windows had it; what is new is added.
    """
    import numpy as np
    from casatools import measures, msmetadata, table

    with closing(table()) as tool:
        tool.open(window.vis)
        chosen = tool.selectrows(window.rows)
        uvw, time, field = chosen.getcol("UVW").T, chosen.getcol("TIME"), chosen.getcol("FIELD_ID")
        chosen.close()
        scale = tool.getcolkeyword("TIME", "MEASINFO")["Ref"]
    stretch = np.ones(len(uvw))
    seen = np.empty_like(uvw)
    shift = np.zeros(len(uvw))
    tool = measures()
    metadata = msmetadata()
    try:
        metadata.open(window.vis)
        for one in np.unique(field):
            of_field = field == one
            centre = metadata.phasecenter(int(one))
            turn = _turn(tool, centre, coordinates["direction0"])
            seen[of_field] = uvw[of_field] @ turn
            shift[of_field] = seen[of_field, 2] - uvw[of_field, 2]
            times, which = np.unique(time[of_field], return_inverse=True)
            tool.doframe(coordinates["telescopeposition"])
            tool.doframe(centre)
            factors = [
                _stretch(tool, window.frame, coordinates["spectral2"]["system"], scale, when) for when in times
            ]
            stretch[of_field] = np.array(factors)[which]
    finally:
        metadata.done()
        tool.done()
    return Seen(seen * stretch[:, None], shift * stretch, uvw[:, :2] * stretch[:, None], stretch)


def _stretch(tool: Any, frame: str, wanted: str, scale: str, seconds: float) -> float:
    """By what a frequency is multiplied to be one of another frame, at a time."""
    if frame == wanted or {frame, wanted} & {"Undefined", "REST"}:
        return 1.0
    tool.doframe(tool.epoch(scale, {"value": seconds, "unit": "s"}))
    one = 1e9
    converted: float = tool.measure(tool.frequency(frame, {"value": one, "unit": "Hz"}), wanted)["m0"]["value"]
    return converted / one


def _turn(tool: Any, centre: Record, direction: Record) -> NDArray[Any]:
    """The matrix that turns u, v, w of a field (as a row) into those of an image's centre."""
    import numpy as np

    east, north = (value * RADIANS[name] for value, name in zip(direction["crval"], direction["units"], strict=True))
    longitude, latitude = centre["m0"]["value"], centre["m1"]["value"]
    if centre["refer"] == direction["system"]:
        ours = _axes(longitude, latitude)
    else:
        # Each axis by itself, as the other frame has it.
        ours = np.array(
            [_converted(tool, axis, centre["refer"], direction["system"]) for axis in _axes(longitude, latitude)]
        )
    return np.asarray(ours @ _axes(east, north).T)


def _converted(tool: Any, axis: NDArray[Any], frame: str, wanted: str) -> list[float]:
    longitude, latitude = math.atan2(axis[1], axis[0]), math.asin(max(-1.0, min(1.0, axis[2])))
    angles = ({"value": angle, "unit": "rad"} for angle in (longitude, latitude))
    found = tool.measure(tool.direction(frame, *angles), wanted)
    longitude, latitude = found["m0"]["value"], found["m1"]["value"]
    return [math.cos(latitude) * math.cos(longitude), math.cos(latitude) * math.sin(longitude), math.sin(latitude)]


def _axes(longitude: float, latitude: float) -> NDArray[Any]:
    """The directions of u, v and w, as rows."""
    import numpy as np

    (sine, cosine), (height, width) = ((math.sin(angle), math.cos(angle)) for angle in (longitude, latitude))
    return np.array(
        [[-sine, cosine, 0], [-height * cosine, -height * sine, width], [width * cosine, width * sine, height]]
    )


def natural_weights(window: Window) -> tuple[NDArray[Any], NDArray[Any]]:
    """The weight of each visibility as it stands in the MS, and which are gridded: two arrays of rows by channels.

    A visibility of which one hand is flagged is left out, as tclean does: its Stokes parameters are not known. What
    antennas have with themselves is weighted, and not gridded.
    """
    import numpy as np

    shape = (len(window.rows), len(window.channels))
    weights, gridded = np.empty(shape, np.float32), np.empty(shape, bool)
    with _rows(window) as tool:
        spectrum = "WEIGHT_SPECTRUM" in tool.colnames() and tool.iscelldefined("WEIGHT_SPECTRUM", 0)
        crossed = tool.getcol("ANTENNA1") != tool.getcol("ANTENNA2")
        for rows in _pieces(window):
            used = ~_cut(tool, "FLAG", window, rows).any(axis=0) & ~_whole(tool, "FLAG_ROW", rows)[None]
            if spectrum:
                weight = _cut(tool, "WEIGHT_SPECTRUM", window, rows)
            else:
                weight = _whole(tool, "WEIGHT", rows)[:, None]
            # Of both parallel hands, which stand first and last.
            mean = (weight[0] + weight[-1]) / 2
            weights[rows] = np.where(used, mean, 0).T
            gridded[rows] = used.T & crossed[rows, None]
    return weights, gridded


def read(window: Window, seen: Seen, stokes: str, column: str) -> list[NDArray[Any]]:
    """The visibilities of a window in each Stokes parameter, as rows by channels, seen from the image's centre.

    Args:
        window: whose.
        seen: where they are.
        stokes: the parameters, such as IQUV.
        column: data or corrected; like tclean, where there are no corrected ones the data are taken.

    Raises:
        DataError: the MS has no such visibilities.
    """
    import numpy as np

    sums = window.sums(stokes)
    found = [np.empty((len(window.rows), len(window.channels)), np.complex64) for _ in sums]
    turning = seen.shift.any()
    with _rows(window) as tool:
        names = tool.colnames()
        name = "CORRECTED_DATA" if column == "corrected" and "CORRECTED_DATA" in names else "DATA"
        if name not in names:
            raise DataError(f"{window.vis} has no column {name}", "image an MS that holds visibilities")
        for rows in _pieces(window):
            data = _cut(tool, name, window, rows)
            for plane, parts in zip(found, sums, strict=True):
                piece = sum(np.complex64(factor) * data[place] for place, factor in parts.items())
                plane[rows] = np.asarray(piece).T
            if turning:
                turns = np.outer(seen.shift[rows] / LIGHT_SPEED, window.frequency)
                phase = np.exp(-2j * math.pi * turns).astype(np.complex64)
                for plane in found:
                    plane[rows] *= phase
    return found


@contextmanager
def _rows(window: Window) -> Iterator[Any]:
    """The rows of a window as a table."""
    from casatools import table

    with closing(table()) as tool:
        tool.open(window.vis)
        with closing(tool.selectrows(window.rows)) as chosen:
            yield chosen


def _pieces(window: Window) -> Iterator[slice]:
    step = max(1, _PIECE // (len(window.hands) * max(1, int(window.channels[-1] - window.channels[0] + 1))))
    for first in range(0, len(window.rows), step):
        yield slice(first, min(first + step, len(window.rows)))


def _whole(tool: Any, name: str, rows: slice) -> NDArray[Any]:
    found: NDArray[Any] = tool.getcol(name, rows.start, rows.stop - rows.start)
    return found


def _cut(tool: Any, name: str, window: Window, rows: slice) -> NDArray[Any]:
    """A column's values for the window's channels: correlations by channels by rows."""
    first, last = int(window.channels[0]), int(window.channels[-1])
    found: NDArray[Any] = tool.getcolslice(
        name, [0, first], [len(window.hands) - 1, last], [1, 1], rows.start, rows.stop - rows.start
    )
    return found[:, window.channels - first]
