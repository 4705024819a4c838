"""Gains and bandpasses: of all antennas in one picture, and of each in one of its own. Both `draw_…` run as jobs.

A job reads its table once and makes all of its pictures, by one figure whose frame is drawn once.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from surgeline.stages.plots.canvas import (
    LIGHT_GREY,
    Series,
    colour,
    figure,
    grid_lines,
    margins,
    marker,
    save,
)
from surgeline.stages.plots.curves import Curve, read_bandpass, read_gains

# Phases are shown to the first of these that holds all of them, in degrees. Amplitudes that are all the same are
# shown with such a part of them above and below, so that nobody takes the last digit for a scatter.
_PHASE_RANGES = (10, 30, 60, 90, 180)
_LEAST_SPAN = 0.02
_MOST_IN_A_LEGEND, _MOST_IN_A_COLUMN = 64, 32


@dataclass(frozen=True)
class Labels:
    """What is written to solutions: names of antennas by number, and of polarisations in their order."""

    antennas: Mapping[int, str]
    polarisations: tuple[str, ...]


def draw_gains(caltable: str, labels: Labels, overview: str, each: Mapping[int, str]) -> None:
    """Amplitudes and phases of gains over time.

    Args:
        caltable: the table.
        labels: what antennas and polarisations are called.
        overview: where the picture of all antennas goes.
        each: where those of single antennas go, by number.
    """
    curves, thinned = read_gains(caltable)
    title = f"{caltable.rpartition('/')[2]}{thinned}"
    _draw_overview(curves, labels, 1, title, overview, joined=False)
    if each:
        _draw_each(curves, labels, 1, each, joined=False)


def draw_bandpass(caltable: str, labels: Labels, overview: str, each: Mapping[int, str]) -> None:
    """Amplitudes and phases of bandpasses over frequency; the arguments are those of `draw_gains`."""
    curves, columns, thinned = read_bandpass(caltable)
    title = f"{caltable.rpartition('/')[2]}{thinned}"
    _draw_overview(curves, labels, columns, title, overview, joined=True)
    if each:
        _draw_each(curves, labels, columns, each, joined=True)


def _frame(curves: list[Curve], columns: int, title: str, right: float, joined: bool) -> tuple[Any, Any]:
    """The axes that all pictures of a table have, with the same limits: amplitudes above, phases below."""
    import numpy as np

    made, grid = figure(2, columns, (9.0, 5.6), sharey="row", sharex="col")
    amplitudes = np.abs(np.concatenate([curve.values for curve in curves])) if curves else np.zeros(0)
    amplitudes = amplitudes[np.isfinite(amplitudes)]
    for column, (above, below) in enumerate(grid.T):
        places = [curve.places for curve in curves if curve.column == column]
        low, high = (min(map(np.min, places)), max(map(np.max, places))) if places else (0.0, 1.0)
        margin = 0.03 * (high - low) or (1e-6 * abs(high) if joined else 1.0 / 1440.0)
        below.set_xlim(low - margin, high + margin)
        if joined:
            below.ticklabel_format(axis="x", useOffset=False)
            # Numbers of axes side by side must not touch.
            below.locator_params(axis="x", nbins=max(3, 7 // columns), prune="both" if columns > 1 else None)
            above.tick_params(bottom=False)
        else:
            _clock(below)
        grid_lines(above, below)
    first_above, first_below = grid[:, 0]
    if amplitudes.size:
        low, high = float(amplitudes.min()), float(amplitudes.max())
        margin = max(0.05 * (high - low), _LEAST_SPAN * high)
        first_above.set_ylim(low - margin, high + margin)
        phases = np.degrees(np.angle(np.concatenate([curve.values for curve in curves])))
        most = next(most for most in _PHASE_RANGES if most >= np.nanmax(np.abs(phases)))
        first_below.set_ylim(-1.06 * most, 1.06 * most)
        first_below.set_yticks([-most, -most / 2, 0, most / 2, most])
    first_above.set_ylabel("amplitude")
    first_below.set_ylabel("phase (degrees)")
    made.text(0.5, 0.02, "frequency (GHz)" if joined else "time", fontsize=9, ha="center")
    if not amplitudes.size:
        first_above.text(0.5, 0.5, "no solutions", transform=first_above.transAxes, ha="center")
    made.suptitle(title, fontsize=10, y=0.985)
    margins(made, 0.75, right, 0.62, 0.4, hspace=0.08, wspace=0.16)
    return made, grid


def _clock(axes: Any) -> None:
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

    locator = AutoDateLocator(maxticks=8)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))
    axes.xaxis.get_offset_text().set_size(8)


def _draw_overview(curves: list[Curve], labels: Labels, columns: int, title: str, path: str, joined: bool) -> None:
    """All antennas, each by its colour, and by its marker where solutions are not joined by lines."""
    import numpy as np

    antennas = labels.antennas
    named = len(antennas) <= _MOST_IN_A_LEGEND
    legend_columns = 1 if len(antennas) <= _MOST_IN_A_COLUMN else 2
    made, grid = _frame(curves, columns, title, 0.2 + 0.75 * legend_columns * named, joined)
    handles = {}
    for number, (antenna, name) in enumerate(antennas.items()):
        style: dict[str, Any] = {"color": colour(number, len(antennas)), "label": name}
        style |= {"linewidth": 0.7} if joined else {"linestyle": "", "marker": marker(number), "markersize": 3}
        for column, (above, below) in enumerate(grid.T):
            own = [curve for curve in curves if (curve.antenna, curve.column) == (antenna, column)]
            if own:
                places, values = _in_a_row(own)
                (handles[name],) = above.plot(places, np.abs(values), **style)
                below.plot(*_phases(places, values), **style)
    if named and handles:
        made.legend(
            handles.values(), handles, fontsize=7, loc="center right", borderaxespad=0.3,
            ncols=legend_columns, handlelength=1.2, labelspacing=0.25, columnspacing=0.8,
        )  # fmt: skip
    save(made, path)


def _in_a_row(curves: list[Curve]) -> tuple[Any, Any]:
    """Several curves as one, with a gap between them."""
    import numpy as np

    places = [part for curve in curves for part in (curve.places, curve.places[-1:])]
    values = [part for curve in curves for part in (curve.values, [np.nan])]
    return np.concatenate(places), np.concatenate(values)


def _phases(places: Any, values: Any) -> tuple[Any, Any]:
    """Phases in degrees, with gaps where they wrap, and where they are."""
    import numpy as np

    phases = np.degrees(np.angle(values))
    wraps = np.flatnonzero(np.abs(np.diff(phases)) > 180.0) + 1
    return np.insert(places, wraps, np.nan), np.insert(phases, wraps, np.nan)


def _draw_each(curves: list[Curve], labels: Labels, columns: int, each: Mapping[int, str], joined: bool) -> None:
    """One picture an antenna, before the others in grey; a colour for each window (each polarisation, if joined)."""
    import numpy as np

    made, grid = _frame(curves, columns, "", 0.75 if joined else 1.25, joined)
    _draw_all_in_grey(curves, grid, joined)
    windows = sorted({curve.window for curve in curves})
    kinds = sorted({(0 if joined else curve.window, curve.polarisation, curve.column) for curve in curves})
    lines = {}
    both = len({curve.polarisation for curve in curves}) < 2
    for window, polarisation, column in kinds:
        number, count = (polarisation, 2) if joined else (windows.index(window), len(windows))
        name = "both" if both else labels.polarisations[polarisation]
        style: dict[str, Any] = {"color": colour(number, count), "linewidth": 1.1 if joined else 0.6, "label": name}
        if not joined:
            style |= {"label": f"spw {window}, {name}", "marker": "ox"[polarisation], "markersize": 4}
        lines[window, polarisation, column] = [axes.plot([], [], **style)[0] for axes in grid[:, column]]
    shown = {pair[0].get_label(): pair[0] for pair in lines.values()}
    if len(shown) <= _MOST_IN_A_LEGEND // 2:
        made.legend(shown.values(), shown, fontsize=8, loc="center right", borderaxespad=0.3, handlelength=1.6)
    title = made.text(0.5, 0.985, "", fontsize=11, va="top", ha="center")
    drawn = [line for pair in lines.values() for line in pair]
    series = Series(made, [*drawn, title], [line.get_color() for line in drawn] or [LIGHT_GREY])
    for antenna, path in each.items():
        own = [curve for curve in curves if curve.antenna == antenna]
        for (window, polarisation, column), (above, below) in lines.items():
            parts = [
                curve
                for curve in own
                if (0 if joined else curve.window, curve.polarisation, curve.column) == (window, polarisation, column)
            ]
            places, values = _in_a_row(parts) if parts else (np.zeros(0), np.zeros(0, complex))
            above.set_data(places, np.abs(values))
            below.set_data(*_phases(places, values))
        title.set_text(f"antenna {labels.antennas[antenna]}: {_flagged(own)}")
        series.save(path)


def _draw_all_in_grey(curves: list[Curve], grid: Any, joined: bool) -> None:
    import numpy as np

    style: dict[str, Any] = {"color": LIGHT_GREY}
    style |= {"linewidth": 0.5} if joined else {"linestyle": "", "marker": ".", "markersize": 2}
    for column, (above, below) in enumerate(grid.T):
        own = [curve for curve in curves if curve.column == column]
        if own:
            places, values = _in_a_row(own)
            above.plot(places, np.abs(values), **style)
            below.plot(*_phases(places, values), **style)


def _flagged(curves: list[Curve]) -> str:
    import numpy as np

    if not curves:
        return "no solutions"
    values = np.concatenate([curve.values for curve in curves])
    flagged = int((~np.isfinite(values)).sum())
    return f"{flagged} of {len(values)} solutions flagged" if flagged else f"{len(values)} solutions, none flagged"
