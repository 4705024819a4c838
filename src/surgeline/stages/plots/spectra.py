"""Spectra of a cube: at its peak, and integrated over its sources."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from surgeline.imaging.synthesis import opened
from surgeline.stages.plots.canvas import BLUE, VERMILION, figure, grid_lines, margins, save
from surgeline.stages.plots.pixels import MOST_AT_A_TIME, Coordinates, read_box, strips

if TYPE_CHECKING:
    from surgeline.stages.plots.images import ImageFiles

# Where no mask says what a source is: pixels that are so many times the noise in any channel.
_SOURCE_SIGMA = 5.0
# Larger planes are not searched for sources: of each pixel the brightest channel is kept in memory.
_MOST_PIXELS_SEARCHED = 4096**2


@dataclass(frozen=True)
class Spectra:
    """Spectra of a cube.

    Attributes:
        peak: at the pixel of the peak, in the image's unit.
        integrated: over sources, in Jy (in the image's unit times pixels, where it has no beam); None where there are
            no sources.
        over: what was integrated over, for people.
        unit: of `integrated`.
    """

    peak: Any
    integrated: Any | None
    over: str
    unit: str


def read_spectra(files: ImageFiles, coordinates: Coordinates, peak: tuple[int, int], noise: float) -> Spectra:
    """Read a cube's spectra, corrected for the primary beam where there is such an image.

    Args:
        files: of the image.
        coordinates: of the image.
        peak: column and row of its peak.
        noise: of a plane.
    """
    import numpy as np

    inside, over = _sources(files, coordinates, noise)
    channels = range(len(coordinates.frequencies))
    with opened(files.corrected or files.image) as tool:
        at_peak = read_box(tool, coordinates, peak, peak, channels)[:, 0, 0]
        if inside is None:
            return Spectra(at_peak, None, "", "")
        rows, columns = np.nonzero(inside)
        low, high = (int(columns.min()), int(rows.min())), (int(columns.max()), int(rows.max()))
        within = inside[low[1] : high[1] + 1, low[0] : high[0] + 1]
        sums = np.empty(len(channels))
        together = max(1, MOST_AT_A_TIME // within.size)
        for begin in channels[::together]:
            some = range(begin, min(begin + together, len(channels)))
            for channel, pixels in zip(some, read_box(tool, coordinates, low, high, some), strict=True):
                sums[channel] = np.nansum(pixels[within]) / (coordinates.beam_pixels(channel) or 1.0)
    unit = coordinates.unit.replace("/beam", "") if coordinates.beams else f"{coordinates.unit} pixels"
    return Spectra(at_peak, sums, over, unit)


def _sources(files: ImageFiles, coordinates: Coordinates, noise: float) -> tuple[Any | None, str]:
    """Which pixels belong to sources, by row and column, and by what that is told; None if there are none."""
    import numpy as np

    columns, rows = coordinates.shape[:2]
    masked = files.masks_sources and Path(files.mask).is_dir()
    if not masked and (columns * rows > _MOST_PIXELS_SEARCHED or not noise > 0.0):
        return None, ""
    inside = np.zeros((rows, columns), dtype=bool)
    with opened(files.mask if masked else files.image) as tool:
        least = 0.0 if masked else _SOURCE_SIGMA * noise
        for _, first, pixels in strips(tool, coordinates, range(len(coordinates.frequencies))):
            inside[first : first + len(pixels)] |= np.nan_to_num(pixels) > least
    count = int(inside.sum())
    if not count:
        return None, ""
    if masked:
        return inside, f"the mask, {count} pixels"
    return inside, f"{count} pixels that are above {_SOURCE_SIGMA:g} times the noise in any channel"


def draw_spectra(title: str, coordinates: Coordinates, spectra: Spectra, path: str) -> None:
    """Draw spectra over velocity where the rest frequency is known, else over frequency."""
    import numpy as np

    shown = [(spectra.peak, BLUE, "at the peak", coordinates.unit)]
    if spectra.integrated is not None:
        shown.insert(0, (spectra.integrated, VERMILION, f"integrated over {spectra.over}", spectra.unit))
    made, grid = figure(len(shown), 1, (9.0, 1.6 + 2.0 * len(shown)), sharex=True)
    gigahertz = np.array(coordinates.frequencies) / 1e9
    places = coordinates.velocity(np.array(coordinates.frequencies)) if coordinates.rest else gigahertz
    for axes, (values, colour, what, unit) in zip(grid[:, 0], shown, strict=True):
        axes.axhline(0.0, color="black", linewidth=0.6)
        axes.step(places, values, where="mid", color=colour, linewidth=1.2)
        axes.plot(places, values, ".", color=colour, markersize=4)
        axes.set_ylabel(unit)
        axes.text(0.01, 0.96, what, transform=axes.transAxes, va="top", fontsize=8)
        low, high = np.nanmin([0.0, np.nanmin(values)]), np.nanmax([0.0, np.nanmax(values)])
        axes.set_ylim(low - 0.08 * (high - low), high + 0.25 * (high - low or 1.0))
        grid_lines(axes)
    last, first = grid[-1, 0], grid[0, 0]
    margin = 0.02 * abs(places[-1] - places[0])
    last.set_xlim(min(places) - margin, max(places) + margin)
    last.ticklabel_format(axis="x", useOffset=False)
    top = 0.45
    if coordinates.rest:
        last.set_xlabel(f"radio velocity, {coordinates.frame} (km/s), of {coordinates.rest / 1e9:.6g} GHz at rest")
        _frequency_axis(first, coordinates)
        top = 0.85
    else:
        last.set_xlabel(f"frequency, {coordinates.frame} (GHz)")
    made.suptitle(title, fontsize=10, y=1.0 - 0.12 / made.get_size_inches()[1])
    margins(made, 0.85, 0.2, 0.6, top, hspace=0.1)
    save(made, path)


def _frequency_axis(axes: Any, coordinates: Coordinates) -> None:
    """Frequencies above velocities, of which they are a linear function."""
    above = axes.twiny()
    ends = axes.get_xlim()
    rest = coordinates.rest / 1e9
    per_kilometre = -rest / 299792.458
    above.set_xlim(*(rest + per_kilometre * end for end in ends))
    above.ticklabel_format(axis="x", useOffset=False)
    above.tick_params(labelsize=8)
    above.set_xlabel("frequency (GHz)", fontsize=9)
