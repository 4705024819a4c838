"""What was observed: the array, uv coverage, elevations, and the timeline of scans. `draw` runs as a job."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from surgeline.context.records import Field, Observation, PictureKind, Scan
from surgeline.stages.observation import unix_time
from surgeline.stages.plots.canvas import (
    BLUE,
    VERMILION,
    colour,
    figure,
    grid_lines,
    margins,
    marker,
    save,
    shortened,
)

# More fields than this have no line of their own in a timeline: the first ones are shown.
_MOST_FIELDS = 40
# More than these have no place for a name or a number.
_MOST_NAMED_ANTENNAS = 80
_MOST_NUMBERED_SCANS = 60
_MOST_IN_A_LEGEND = 18
_POINTS_OF_A_SCAN = 9
_MINUTES_BETWEEN_POINTS = 5.0
# Days of the stars in a day of the sun.
_SIDEREAL = 1.002737909


def draw(observation: Observation, roles: Mapping[str, Sequence[int]], paths: Mapping[PictureKind, str]) -> None:
    """Draw all pictures of an observation.

    Args:
        observation: what the MS holds.
        roles: which fields serve as what, for data without intents.
        paths: where each goes: `array`, `uv coverage`, `elevation` and `scans`.
    """
    _draw_array(observation, paths["array"])
    _draw_uv_coverage(observation, paths["uv coverage"])
    _draw_elevation(observation, paths["elevation"])
    _draw_scans(observation, roles, paths["scans"])


def _draw_array(observation: Observation, path: str) -> None:
    made, ((axes,),) = figure(1, 1, (6.4, 6.0))
    antennas = observation.antennas
    axes.plot([found.east for found in antennas], [found.north for found in antennas], "o", color=BLUE, markersize=4)
    if len(antennas) <= _MOST_NAMED_ANTENNAS:
        for found in antennas:
            place = (found.east, found.north)
            axes.annotate(found.name, place, (4, 3), textcoords="offset points", fontsize=7)
    grid_lines(axes)
    axes.margins(0.1)
    axes.set(xlabel="east (m)", ylabel="north (m)", title=f"{len(antennas)} antennas of {observation.telescope}")
    axes.set_aspect("equal", adjustable="datalim")
    margins(made, 0.8, 0.2, 0.6, 0.4)
    save(made, path)


def _draw_uv_coverage(observation: Observation, path: str) -> None:
    import numpy as np

    made, ((axes,),) = figure(1, 1, (6.4, 6.0))
    samples = np.array(observation.uv_samples or [(0.0, 0.0)]) / 1e3
    axes.plot(*samples.T, ".", color=BLUE, markersize=1.5, label="u, v")
    axes.plot(*-samples.T, ".", color=VERMILION, markersize=1.5, label="conjugate")
    grid_lines(axes)
    axes.legend(fontsize=8, markerscale=6, loc="upper right")
    title = f"uv coverage, longest baseline {observation.longest_baseline:.0f} m"
    axes.set(xlabel="u (km)", ylabel="v (km)", title=title)
    axes.set_aspect("equal", adjustable="datalim")
    margins(made, 0.8, 0.2, 0.6, 0.4)
    save(made, path)


def _draw_elevation(observation: Observation, path: str) -> None:
    import numpy as np

    made, ((axes,),) = figure(1, 1, (9.0, 4.2))
    shown = _fields_by_scans(observation)
    height = Heights(observation)
    for number, (field, scans) in enumerate(shown):
        times, heights = [], []
        for scan in scans if height.known else ():
            count = int(np.clip((scan.end - scan.start) / 60.0 / _MINUTES_BETWEEN_POINTS, 2, _POINTS_OF_A_SCAN))
            sampled = np.linspace(scan.start, scan.end, count)
            # Nothing joins one scan to the next.
            times += [*map(_moment, sampled), _moment(scan.end)]
            heights += [*height.of(field, sampled), np.nan]
        label = shortened(field.name, 20) if number < _MOST_IN_A_LEGEND else None
        style = {"color": colour(number, len(shown)), "markersize": 4, "linewidth": 1.6}
        axes.plot(times, heights, marker=marker(number), label=label, **style)
    # Simulated observations may be of what has set.
    lowest = min(0.0, axes.get_ylim()[0]) if height.known else 0.0
    axes.set_yticks(range(-90, 91, 15))
    axes.set(ylabel="elevation (degrees)", ylim=(lowest, 90), title="elevation over time")
    if not height.known:
        why = f"where {observation.telescope} stands is not known to CASA"
        axes.text(0.5, 0.5, why, transform=axes.transAxes, ha="center", fontsize=10)
    else:
        axes.legend(fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    grid_lines(axes)
    _time_axis(axes, observation)
    margins(made, 0.7, 1.9, 0.6, 0.4)
    save(made, path)


class Heights:
    """How high fields stand above the horizon of an observatory, without refraction."""

    def __init__(self, observation: Observation) -> None:
        from casatools import measures

        self._start = observation.start
        self._hour_angles: dict[int, tuple[float, float]] = {}
        tool = measures()
        try:
            place = tool.observatory(observation.telescope)
            self.known = bool(place)
            if not self.known:
                return
            self._latitude = float(tool.measure(place, "WGS84")["m1"]["value"])
            tool.doframe(place)
            day = (observation.start - unix_time(0.0)) / 86400.0
            tool.doframe(tool.epoch("UTC", {"value": day, "unit": "d"}))
            for field in observation.fields:
                direction = tool.direction(
                    "J2000", {"value": field.ra, "unit": "deg"}, {"value": field.dec, "unit": "deg"}
                )
                found = tool.measure(direction, "HADEC")
                self._hour_angles[field.id] = (found["m0"]["value"], found["m1"]["value"])
        finally:
            tool.done()

    def of(self, field: Field, times: Any) -> Any:
        """Elevations of a field in degrees, at Unix times."""
        import numpy as np

        start, declination = self._hour_angles[field.id]
        angle = start + (np.asarray(times) - self._start) / 86400.0 * _SIDEREAL * 2.0 * math.pi
        along, across = math.sin(self._latitude), math.cos(self._latitude)
        sine = along * math.sin(declination) + across * math.cos(declination) * np.cos(angle)
        return np.degrees(np.arcsin(sine))


def _draw_scans(observation: Observation, roles: Mapping[str, Sequence[int]], path: str) -> None:
    fields = _fields_by_scans(observation)
    intents: dict[str, list[Scan]] = {}
    for scan in observation.scans:
        for intent in _intents(scan, roles):
            intents.setdefault(intent, []).append(scan)
    rows = (len(fields), max(1, len(intents)))
    size = (9.0, 1.5 + (0.28 if sum(rows) < 20 else 0.2) * sum(rows))
    made, grid = figure(2, 1, size, sharex=True, height_ratios=[count + 0.4 for count in rows])
    above, below = grid[:, 0]
    few = len(observation.scans) <= _MOST_NUMBERED_SCANS
    for number, (_, scans) in enumerate(fields):
        _bars(above, number, scans, colour(number, len(fields)))
        for scan in scans if few else ():
            middle = _moment((scan.start + scan.end) / 2)
            above.annotate(str(scan.number), (middle, number - 0.15), ha="center", va="bottom", fontsize=7)
        above.axhline(number, color="#eeeeee", linewidth=0.6, zorder=0)
    for number, scans in enumerate(intents.values()):
        _bars(below, number, scans, colour(number, len(intents)))
        below.axhline(number, color="#eeeeee", linewidth=0.6, zorder=0)
    for axes, names in ((above, [shortened(field.name, 22) for field, _ in fields]), (below, list(intents))):
        axes.set_yticks(range(len(names)), names)
        axes.set_ylim(len(names) - 0.4, -0.8)
        axes.grid(axis="x", color="#dddddd", linewidth=0.6)
        axes.set_axisbelow(True)
    observed = len({number for scan in observation.scans for number in scan.fields})
    more = f" (the first {len(fields)} of {observed})" if len(fields) < observed else ""
    above.set_title("fields by scan" + more)
    told = any(scan.intents for scan in observation.scans)
    below.set_title("intents" if told else "what fields serve as, in data without intents")
    _time_axis(below, observation)
    margins(made, 1.9, 0.2, 0.6, 0.4, hspace=1.4 / (sum(rows) / 2))
    save(made, path)


def _bars(axes: Any, row: int, scans: Sequence[Scan], filled: Any) -> None:
    from matplotlib.dates import date2num

    begins = [float(date2num(_moment(scan.start))) for scan in scans]
    spans = [(begin, max(scan.end - scan.start, 1.0) / 86400.0) for begin, scan in zip(begins, scans, strict=True)]
    axes.broken_barh(spans, (row - 0.05, 0.42), facecolors=[filled], edgecolor="white", linewidth=0.3)


def _intents(scan: Scan, roles: Mapping[str, Sequence[int]]) -> list[str]:
    """What a scan was for: its intents without what all of them share, or what its fields serve as."""
    if scan.intents:
        return sorted({intent.partition("#")[0].replace("_", " ").lower() for intent in scan.intents})
    return [role for role, fields in roles.items() if set(fields) & set(scan.fields)]


def _fields_by_scans(observation: Observation) -> list[tuple[Field, list[Scan]]]:
    """The fields that are shown, each with its scans."""
    shown: dict[int, list[Scan]] = {}
    for scan in observation.scans:
        for number in scan.fields:
            shown.setdefault(number, []).append(scan)
    return [(observation.field(number), shown[number]) for number in sorted(shown)[:_MOST_FIELDS]]


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(float(seconds), UTC)


def _time_axis(axes: Any, observation: Observation) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=9)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator, show_offset=False))
    axes.set_xlabel(f"time (UTC, from {_moment(observation.start):%Y-%m-%d %H:%M})")
