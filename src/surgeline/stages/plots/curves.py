"""Solutions of calibration tables as curves over time or frequency, thinned to what a picture can show."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from surgeline.stages.observation import unix_time

# More times, and more channels of a window, than these are thinned evenly: a picture has fewer pixels.
_MOST_TIMES = 800
_MOST_CHANNELS = 512
# Windows that lie apart get axes of their own, unless there are more groups of them than these.
_MOST_COLUMNS = 6


@dataclass(frozen=True)
class Curve:
    """Solutions of an antenna that belong together.

    Attributes:
        antenna: its number.
        window: number of the spectral window.
        polarisation: 0 or 1.
        places: where they are along the axis: matplotlib's days, or GHz.
        values: complex; NaN where flagged.
        column: which axes they are drawn in, counted from the left.
    """

    antenna: int
    window: int
    polarisation: int
    places: Any
    values: Any
    column: int = 0


def read_gains(caltable: str) -> tuple[list[Curve], str]:
    """The curves of a table of gains, and what to say of times that were left out."""
    import numpy as np
    from casatools import table

    with closing(table()) as tool:
        tool.open(caltable)
        if not tool.nrows():
            return [], ""
        times = np.unique(tool.getcol("TIME"))
        step = -(-len(times) // _MOST_TIMES)
        if step > 1:
            wanted = np.flatnonzero(np.isin(tool.getcol("TIME"), times[::step]))
            with closing(tool.selectrows(wanted.tolist())) as chosen:
                columns = _columns(chosen)
        else:
            columns = _columns(tool)
    seconds, numbers, windows, fields, values = columns
    days = (seconds + unix_time(0.0)) / 86400.0
    curves = []
    # What was solved on one field says nothing of what would be between it and another: their fluxes may differ.
    for antenna, window, field in sorted(set(zip(numbers.tolist(), windows.tolist(), fields.tolist(), strict=True))):
        rows = np.flatnonzero((numbers == antenna) & (windows == window) & (fields == field))
        rows = rows[np.argsort(days[rows], kind="stable")]
        curves += [
            Curve(antenna, window, polarisation, days[rows], own[rows]) for polarisation, own in enumerate(values)
        ]
    return curves, f", every {step}th time" if step > 1 else ""


def _columns(tool: Any) -> tuple[Any, ...]:
    import numpy as np

    values = np.where(tool.getcol("FLAG"), np.nan, tool.getcol("CPARAM"))[:, 0, :]
    return (*(tool.getcol(name) for name in ("TIME", "ANTENNA1", "SPECTRAL_WINDOW_ID", "FIELD_ID")), values)


def read_bandpass(caltable: str) -> tuple[list[Curve], int, str]:
    """The curves of a table of bandpasses, into how many columns of axes they go, and what was left out."""
    import numpy as np
    from casatools import table

    found: list[tuple[int, int, Any]] = []
    with closing(table()) as tool:
        tool.open(f"{caltable}/SPECTRAL_WINDOW")
        frequencies = [tool.getcell("CHAN_FREQ", row) / 1e9 for row in range(tool.nrows())]
        tool.open(caltable)
        for row in range(tool.nrows()):
            values = np.where(tool.getcell("FLAG", row), np.nan, tool.getcell("CPARAM", row))
            found.append((int(tool.getcell("ANTENNA1", row)), int(tool.getcell("SPECTRAL_WINDOW_ID", row)), values))
    windows = sorted({window for _, window, _ in found})
    columns = columns_of({window: (frequencies[window].min(), frequencies[window].max()) for window in windows})
    steps = {window: -(-len(frequencies[window]) // _MOST_CHANNELS) for window in windows}
    curves = [
        Curve(antenna, window, polarisation, frequencies[window][::step], own[::step], columns[window])
        for antenna, window, values in found
        for step in [steps[window]]
        for polarisation, own in enumerate(values)
    ]
    most = max(steps.values(), default=1)
    thinned = f", every {most}th channel" if most > 1 else ""
    return curves, max(columns.values(), default=0) + 1, thinned


def columns_of(spans: Mapping[int, tuple[float, float]]) -> dict[int, int]:
    """Which column of axes each window goes to: windows that are no farther apart than they are wide share one.

    Args:
        spans: the lowest and the highest frequency of each window, in any unit.
    """
    columns: dict[int, int] = {}
    column, reached = -1, -float("inf")
    for window, (low, high) in sorted(spans.items(), key=lambda item: item[1]):
        if low - reached > high - low:
            column += 1
        reached = max(reached, high)
        columns[window] = column
    return columns if column < _MOST_COLUMNS else dict.fromkeys(columns, 0)
