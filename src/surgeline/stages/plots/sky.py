"""Axes on the sky: a plane of an image with coordinates, beam, colour bar and mask."""

from __future__ import annotations

from typing import Any

from surgeline.stages.plots.canvas import BRIGHTNESS, figure, margins
from surgeline.stages.plots.pixels import Coordinates

# Units of offsets, in degrees, with the largest field that each is good for.
_UNITS = ((1 / 3600, "arcsec", 0.05), (1 / 60, "arcmin", 3.0), (1.0, "degrees", float("inf")))


def sky_figure(
    plane: Any, coordinates: Coordinates, limits: tuple[float, float], colours: str = BRIGHTNESS
) -> tuple[Any, Any, Any]:
    """A figure with one plane of an image.

    Axes are offsets from the image's reference position, which needs no heavy library to draw.

    Args:
        plane: pixels by row and column, of the whole image, which may have been shrunk.
        coordinates: of the image.
        limits: brightness at both ends of the colours.
        colours: name of the colour map.

    Returns:
        the figure, its axes, and the image in it.
    """
    made, ((axes,),) = figure(1, 1, (6.3, 5.65))
    unit, name = _unit(coordinates)
    edges = [
        (end - origin) * cell / unit
        for size, origin, cell in zip(coordinates.shape[:2], coordinates.origin, coordinates.cell, strict=True)
        for end in (-0.5, size - 0.5)
    ]
    low, high = limits
    shown = axes.imshow(
        plane, origin="lower", cmap=colours, vmin=low, vmax=high, extent=edges, interpolation="nearest"
    )
    axes.set(xlabel=f"offset in right ascension ({name})", ylabel=f"offset in declination ({name})")
    axes.set_facecolor("white")
    margins(made, 0.8, 1.25, 0.85, 0.55)
    bar = made.colorbar(shown, cax=made.add_axes((0.83, 0.85 / 5.65, 0.03, 4.25 / 5.65)), extend="both")
    bar.ax.tick_params(labelsize=8)
    bar.set_label(coordinates.unit, size=9)
    made.text(0.8 / 6.3, 0.035, f"offsets from {coordinates.centre} (J2000)", fontsize=8)
    return made, axes, shown


def draw_beam(axes: Any, coordinates: Coordinates, channel: int) -> Any | None:
    """The synthesised beam in the lower left corner; the artist, if there is a beam."""
    from matplotlib.patches import Ellipse

    beam = coordinates.beam(channel)
    if beam is None:
        return None
    unit, _ = _unit(coordinates)
    major, minor = beam[0] / 3600.0 / unit, beam[1] / 3600.0 / unit
    # Right ascension grows to the left, so the left edge is the larger offset.
    (left, right), (bottom, top) = axes.get_xlim(), axes.get_ylim()
    away = 0.6 * major + 0.02 * abs(top - bottom)
    corner = (left + away * (1 if right > left else -1), bottom + away)
    # The position angle counts from north through east, which is to the left; x is drawn reversed.
    ellipse = Ellipse(corner, minor, major, angle=-beam[2], facecolor="white", edgecolor="black", linewidth=0.9)
    axes.add_patch(ellipse)
    return ellipse


def draw_mask(axes: Any, mask: Any, coordinates: Coordinates) -> None:
    """The outline of a mask, which is a plane as the image's; nothing where it holds all pixels or none."""
    import numpy as np

    inside = np.nan_to_num(mask) > 0.0
    if not inside.any() or inside.all():
        return
    unit, _ = _unit(coordinates)
    factor = -(-coordinates.shape[0] // mask.shape[1])
    places = [
        ((np.arange(size) + 0.5) * factor - 0.5 - origin) * cell / unit
        for size, origin, cell in zip(mask.shape[::-1], coordinates.origin, coordinates.cell, strict=True)
    ]
    # White on black is seen on any ground.
    for colour, width in (("black", 1.8), ("white", 0.8)):
        axes.contour(*places, inside.astype(float), levels=[0.5], colors=colour, linewidths=width)


def _unit(coordinates: Coordinates) -> tuple[float, str]:
    """The unit of offsets, in degrees, and its name."""
    field = max(size * abs(cell) for size, cell in zip(coordinates.shape, coordinates.cell, strict=False))
    return next((unit, name) for unit, name, largest in _UNITS if field <= largest)
