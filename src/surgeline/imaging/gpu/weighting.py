"""The weights by which visibilities are gridded: natural, uniform and Briggs', as CASA's imager computes them.

But for natural weighting they depend on how dense the weights of all visibilities are in the plane of u and v. That
density is a grid of as many cells as the image has pixels, which fits it; parts have theirs added up.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from surgeline.imaging.gpu.visibilities import LIGHT_SPEED, Seen, Window

if TYPE_CHECKING:
    from numpy.typing import NDArray

# So many visibilities are looked at at a time.
_PIECE = 1_000_000


def density(window: Window, seen: Seen, weights: NDArray[Any], grid: NDArray[Any], cell: tuple[float, float]) -> None:
    """Add a window's weights to the density.

    Args:
        window: whose.
        seen: where they are.
        weights: of each row and channel.
        grid: to which they are added: as many cells as the image has pixels.
        cell: a pixel's sides, in radians.
    """
    import numpy as np

    flat = grid.reshape(-1)
    for rows, place, conjugate in _cells(window, seen, grid.shape, cell):
        for cells in (place, conjugate):
            inside = cells >= 0
            flat += np.bincount(cells[inside], weights[rows][inside], len(flat))


def weigh(
    window: Window,
    seen: Seen,
    weights: NDArray[Any],
    grid: NDArray[Any],
    cell: tuple[float, float],
    robust: float | None,
) -> NDArray[Any]:
    """Natural weights made uniform, or Briggs'.

    Args:
        window: whose they are.
        seen: as for `density`.
        weights: as for `density`.
        grid: the density of all parts.
        cell: as for `density`.
        robust: Briggs' parameter; None for uniform weights.
    """
    import numpy as np

    flat = grid.reshape(-1)
    if robust is None:
        slope, least = 1.0, 0.0
    else:
        slope, least = 25.0 * 10.0 ** (-2.0 * robust) * flat.sum() / np.square(flat).sum(), 1.0
    found = np.zeros(weights.shape, np.float32)
    for rows, place, _ in _cells(window, seen, grid.shape, cell):
        # A visibility outside of the grid is of a finer scale than the image has.
        dense = np.where(place >= 0, flat[place], 0)
        divisor = dense * slope + least
        piece = weights[rows]
        found[rows] = np.divide(piece, divisor, where=(dense > 0) & (piece > 0), out=np.zeros(piece.shape))
    return found


def _cells(
    window: Window, seen: Seen, shape: tuple[int, ...], cell: tuple[float, float]
) -> Iterator[tuple[slice, NDArray[Any], NDArray[Any]]]:
    """Pieces of the rows, with the cell of each of their visibilities and of its conjugate; -1 for outside."""
    import numpy as np

    scale = [side * size / LIGHT_SPEED for side, size in zip(shape, cell, strict=True)]
    step = max(1, _PIECE // len(window.channels))
    for first in range(0, len(seen.field_uv), step):
        rows = slice(first, first + step)
        found = []
        # North is up in the grid as it is in the image, which in MSs' v it is not.
        for signs in ((1, -1), (-1, 1)):
            place = np.zeros((len(seen.field_uv[rows]), len(window.channels)), np.int64)
            outside = np.zeros(place.shape, bool)
            for axis, sign in enumerate(signs):
                centre = shape[axis] // 2
                at = np.floor(np.outer(sign * seen.field_uv[rows, axis] * scale[axis], window.frequency) + centre)
                outside |= (at <= 0) | (at >= shape[axis])
                place = place * shape[axis] + np.where(outside, 0, at).astype(np.int64)
            found.append(np.where(outside, -1, place))
        yield rows, found[0], found[1]
