"""Measure the ring in what a session of m87.yaml made; exits 1 when it is not the published one.

Its diameter is that of the peak along 72 rays from the centre that makes their radii most equal. The published
ring is 42 ± 3 µas wide (EHT Collaboration 2019, ApJL 875, L1); seen with the beam of 20 µas, it peaks near 39 µas.

Usage: python examples/check_m87.py WORKDIR
"""

from __future__ import annotations

import sys
from itertools import product
from pathlib import Path

import numpy as np
from astropy.io import fits

from surgeline.paths import SessionPaths

EXPECTED, TOLERANCE = 39.0, 3.0
SMALLEST, LARGEST = 10.0, 32.0
RAYS = 72


def ring(plane: np.ndarray, cell: float) -> tuple[float, float]:
    """The diameter of a ring and its scatter; infinite scatter where there is none.

    Args:
        plane: the image, about square.
        cell: the size of its pixels, in the unit that the diameter is wanted in.
    """
    radii = np.arange(SMALLEST, LARGEST + cell / 8, cell / 4)
    angles = np.linspace(0.0, 2.0 * np.pi, RAYS, endpoint=False)[:, None]
    best = (0.0, np.inf)
    middle = plane.shape[0] // 2
    for x, y in product(np.arange(middle - 8.0, middle + 8.5, 1.0), repeat=2):
        values = _between(plane, x + radii * np.cos(angles) / cell, y + radii * np.sin(angles) / cell)
        peaks = radii[values.argmax(axis=1)]
        # A peak at an end of its ray is none.
        if np.mean((peaks <= radii[0]) | (peaks >= radii[-1])) < 0.05 and 2.0 * peaks.std() < best[1]:
            best = (2.0 * float(peaks.mean()), 2.0 * float(peaks.std()))
    return best


def _between(plane: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Values between pixels, by bilinear interpolation."""
    left, low = np.floor(x).astype(int), np.floor(y).astype(int)
    east, north = x - left, y - low
    return (
        plane[left, low] * (1 - east) * (1 - north)
        + plane[left + 1, low] * east * (1 - north)
        + plane[left, low + 1] * (1 - east) * north
        + plane[left + 1, low + 1] * east * north
    )


def main() -> int:
    path = SessionPaths(Path(sys.argv[1])).products / "M87.spw0.continuum.fits"
    with fits.open(path) as opened:
        header = opened[0].header
        plane = np.squeeze(opened[0].data).T.astype(float)
    beam, cell = header["BMAJ"] * 3.6e9, header["CDELT2"] * 3.6e9
    diameter, scatter = ring(plane, cell)
    well = abs(diameter - EXPECTED) <= TOLERANCE and scatter < 2 * TOLERANCE
    print(f"a ring of {diameter:.1f} ± {scatter:.1f} µas with a beam of {beam:.1f} µas: {'ok' if well else 'NOT SO'}")
    return 0 if well else 1


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit(__doc__)
    raise SystemExit(main())
