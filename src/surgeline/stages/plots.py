"""Plots and pictures for the weblog; each function runs as a job on a worker and writes one PNG file."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from surgeline.context.records import Observation
from surgeline.paths import partial

_MJD_OF_UNIX_EPOCH_SECONDS = 40587.0 * 86400.0


def array(observation: Observation, path: str) -> None:
    """Antenna positions, and uv coverage with its conjugate half."""
    import numpy as np

    figure, (left, right) = _figure(1, 2, (9.0, 4.2))
    for antenna in observation.antennas:
        left.plot(antenna.east, antenna.north, "o", color="#0072b2", markersize=4)
        left.annotate(antenna.name, (antenna.east, antenna.north), (3, 3), textcoords="offset points", fontsize=7)
    left.set(xlabel="east (m)", ylabel="north (m)", title="antennas", aspect="equal")
    samples = np.array(observation.uv_samples or [(0.0, 0.0)]) / 1e3
    right.plot(*samples.T, ".", color="#0072b2", markersize=1)
    right.plot(*-samples.T, ".", color="#d55e00", markersize=1)
    right.set(xlabel="u (km)", ylabel="v (km)", title="uv coverage", aspect="equal")
    _save(figure, path)


def bandpass(caltable: str, antennas: Mapping[int, str], path: str) -> None:
    """Amplitude and phase of bandpass solutions over frequency."""
    import numpy as np
    from casatools import table

    figure, (top, bottom) = _figure(2, 1, (9.0, 6.0), sharex=True)
    with closing(table()) as tool:
        tool.open(f"{caltable}/SPECTRAL_WINDOW")
        frequencies = [tool.getcell("CHAN_FREQ", row) / 1e9 for row in range(tool.nrows())]
        tool.open(caltable)
        for row in range(tool.nrows()):
            gains = np.where(tool.getcell("FLAG", row), np.nan, tool.getcell("CPARAM", row))
            frequency = frequencies[tool.getcell("SPECTRAL_WINDOW_ID", row)]
            colour = _colour(tool.getcell("ANTENNA1", row), max(antennas))
            for gain in gains:
                top.plot(frequency, np.abs(gain), color=colour, linewidth=0.7)
                bottom.plot(frequency, np.degrees(np.angle(gain)), color=colour, linewidth=0.7)
    top.set(ylabel="amplitude")
    bottom.set(ylabel="phase (degrees)", xlabel="frequency (GHz)")
    _save(figure, path)


def gains(caltable: str, antennas: Mapping[int, str], path: str) -> None:
    """Amplitude and phase of gain solutions over time; each antenna is told by its colour and in the legend."""
    import numpy as np
    from casatools import table

    figure, (top, bottom) = _figure(2, 1, (9.0, 6.0), sharex=True)
    with closing(table()) as tool:
        tool.open(caltable)
        times = tool.getcol("TIME") - _MJD_OF_UNIX_EPOCH_SECONDS
        numbers = tool.getcol("ANTENNA1")
        values = np.where(tool.getcol("FLAG"), np.nan, tool.getcol("CPARAM"))[:, 0, :]
    minutes = (times - times.min()) / 60.0 if len(times) else times
    for number, name in antennas.items():
        rows = numbers == number
        for polarisation, marker in zip(values, "ox", strict=False):
            label = name if marker == "o" else None
            style: dict[str, Any] = {"color": _colour(number, max(antennas)), "markersize": 3, "label": label}
            top.plot(minutes[rows], np.abs(polarisation[rows]), marker, **style)
            bottom.plot(minutes[rows], np.degrees(np.angle(polarisation[rows])), marker, **style)
    top.set(ylabel="amplitude")
    top.legend(fontsize=6, ncols=max(1, (len(antennas) + 8) // 9), loc="center left", bbox_to_anchor=(1.0, 0.5))
    bottom.set(ylabel="phase (degrees)", xlabel="time from the first solution (min)", ylim=(-185, 185))
    _save(figure, path)


def image(imagename: str, path: str) -> None:
    """An image with coordinates, beam and colour bar; of a cube, its plane of highest peak.

    Axes are offsets from the image's reference position, in arcmin, which needs no heavy library to draw.
    """
    import numpy as np
    from casatools import image as image_tool
    from casatools import quanta

    with closing(image_tool()) as tool:
        tool.open(imagename)
        pixels = np.where(tool.getchunk(getmask=True), tool.getchunk(), np.nan)
        coordinates = tool.coordsys()
        unit = tool.brightnessunit()
        beam = tool.restoringbeam()
        centre = coordinates.referencevalue("n", "direction")["numeric"]
        cell = np.degrees(coordinates.increment("n", "direction")["numeric"]) * 60.0
        origin = coordinates.referencepixel("direction")["numeric"]
        coordinates.done()
    planes = pixels.reshape(*pixels.shape[:2], -1)
    peaks = [np.nanmax(plane) if np.isfinite(plane).any() else -np.inf for plane in np.moveaxis(planes, -1, 0)]
    best = int(np.argmax(peaks))
    plane = planes[..., best].T

    figure, (axes,) = _figure(1, 1, (6.2, 5.2))
    valid = plane[np.isfinite(plane)]
    # A few bright pixels must not darken all others.
    low, high = np.percentile(valid, (0.1, 99.9)) if valid.size else (0.0, 1.0)
    edges = [
        (np.array([-0.5, size - 0.5]) - origin[axis]) * cell[axis] for axis, size in enumerate(plane.shape[::-1])
    ]
    extent = (*edges[0], *edges[1])
    shown = axes.imshow(plane, origin="lower", cmap="viridis", vmin=low, vmax=high, extent=extent)
    figure.colorbar(shown, ax=axes, label=unit.replace(".", " "))
    angles = quanta()
    east, north = ({"value": float(angle), "unit": "rad"} for angle in centre)
    position = f"{angles.angle(east, form='tim', prec=7)[0]} {angles.angle(north, prec=6)[0]}"
    axes.set(xlabel="offset in right ascension (arcmin)", ylabel="offset in declination (arcmin)")
    channel = f", channel {best} of {planes.shape[2]}" if planes.shape[2] > 1 else ""
    axes.set_title(f"around {position} (J2000){channel}", fontsize=9)
    _draw_beam(axes, beam, best)
    _save(figure, path)


def _draw_beam(axes: Any, beam: dict[str, Any], plane: int) -> None:
    """The synthesised beam in the lower left corner of axes in arcmin."""
    from matplotlib.patches import Ellipse

    if "beams" in beam:
        beam = beam["beams"][f"*{plane}"]["*0"]
    if not beam:
        return
    major, minor = beam["major"]["value"] / 60.0, beam["minor"]["value"] / 60.0
    angle = beam.get("positionangle", beam.get("pa", {"value": 0.0}))["value"]
    # Right ascension grows to the left, so the left edge is the larger offset.
    (left, _), (bottom, _) = axes.get_xlim(), axes.get_ylim()
    corner = (left - 1.2 * major, bottom + 1.2 * major)
    # The position angle counts from north through east, which is to the left; x is drawn reversed.
    axes.add_patch(Ellipse(corner, minor, major, angle=-angle, facecolor="white", edgecolor="black", linewidth=0.8))


def _colour(number: int, last: int) -> Any:
    from matplotlib import colormaps

    return colormaps["viridis"](0.92 * number / max(1, last))


def _figure(rows: int, columns: int, size: tuple[float, float], **options: Any) -> tuple[Any, Any]:
    """A figure that belongs to nobody else: pyplot's global state is not for several jobs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=size, layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, **options).ravel()


def _save(figure: Any, path: str) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    unfinished = partial(path)
    figure.savefig(unfinished, format="png", dpi=110)
    unfinished.rename(path)
