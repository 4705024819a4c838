"""The cells of u, v and w that visibilities are put on: how many, how large, and where they begin."""

from __future__ import annotations

from dataclasses import dataclass

from surgeline.imaging.gpu.geometry import SPEED_OF_LIGHT, Geometry
from surgeline.imaging.gpu.window import OVERSAMPLING, Window

# The least cells along u and v, so that a tile's window does not meet itself.
_LEAST_CELLS = 32


@dataclass(frozen=True)
class UvwGrid:
    """Cells along u and v, and planes along w; visibilities with negative w are mirrored first."""

    window: Window
    # Along u and v.
    cells: tuple[int, int]
    # Cells for each wavelength of u and v, and planes for each of w.
    density: tuple[float, float, float]
    planes: int
    # The w of the first plane, in wavelengths.
    first_w: float
    # The centre of the image and the middle of its n − 1: visibilities are turned there.
    center: tuple[float, float, float]

    @classmethod
    def of(cls, geometry: Geometry) -> UvwGrid:
        """The grid for a geometry.

        Raises:
            BadInput: no window keeps its error.
        """
        import numpy as np

        window = Window.of(geometry.epsilon)
        (nx, ny), (dx, dy), (l0, m0) = geometry.npix, geometry.cell, geometry.center
        cells = smooth(max(OVERSAMPLING * nx, _LEAST_CELLS)), smooth(max(OVERSAMPLING * ny, _LEAST_CELLS))
        if not geometry.w_term:
            return cls(window, cells, (cells[0] * dx, cells[1] * dy, 0.0), 1, 0.0, (l0, m0, 0.0))
        nearest, farthest = _n_less_one(geometry)
        w = np.abs(geometry.uvw[:, 2])
        least = w.min() * geometry.frequency.min() / SPEED_OF_LIGHT
        most = w.max() * geometry.frequency.max() / SPEED_OF_LIGHT
        # Planes farther apart than all w are would be of no use, and infinitely so where n hardly changes.
        density = max(OVERSAMPLING * (nearest - farthest), 1 / max(most - least, 1.0))
        planes = int(np.ceil((most - least) * density)) + window.support + 1
        # The window of the least w begins at the first plane.
        first_w = least - (window.support // 2) / density
        center = l0, m0, (nearest + farthest) / 2
        return cls(window, cells, (cells[0] * dx, cells[1] * dy, density), planes, first_w, center)

    @property
    def w_term(self) -> bool:
        """Whether there are planes of w at all."""
        return self.density[2] > 0


def smooth(least: float) -> int:
    """The first even number that is not less and has no prime factors but 2, 3, 5 and 7: fast to transform."""
    number = int(-(-least // 2)) * 2
    while True:
        rest = number
        for prime in (2, 3, 5, 7):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return number
        number += 2


def _n_less_one(geometry: Geometry) -> tuple[float, float]:
    """The largest and the least n − 1 in the image."""
    nearest = farthest = 0.0
    for middle, size, side in zip(geometry.center, geometry.cell, geometry.npix, strict=True):
        low, high = middle - size * (side // 2), middle + size * (side - 1 - side // 2)
        nearest += 0.0 if low <= 0 <= high else min(low**2, high**2)
        farthest += max(low**2, high**2)
    return -nearest / (1 + (1 - nearest) ** 0.5), -farthest / (1 + (1 - farthest) ** 0.5)
