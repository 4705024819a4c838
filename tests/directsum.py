"""Images of visibilities and back by summing every term in double precision: slow, and right."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from surgeline.imaging.gpu.gridder import Engine, Gridder

SPEED_OF_LIGHT = 299792458.0
CELL = (2e-3, 1.5e-3)


@dataclass
class DirectSum:
    """The geometry of an observation and an image; what a gridder makes of it can be compared with exact values."""

    uvw: NDArray[np.float64]
    frequency: NDArray[np.float64]
    npix: tuple[int, int]
    cell: tuple[float, float]
    center: tuple[float, float] = (0.0, 0.0)
    w_term: bool = True
    divide_by_n: bool = False
    # Pixels to compare: the corners, middles of edges, the centre, and 32 at random.
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros((0, 2), int))

    @classmethod
    def observed(
        cls,
        random: np.random.Generator,
        covered: float,
        rows: int = 40,
        channels: int = 3,
        npix: tuple[int, int] = (64, 48),
        cell: tuple[float, float] = CELL,
        **how: Any,
    ) -> DirectSum:
        """Rows anywhere in so much of the uv plane around its centre, with positive and negative w."""
        frequency = np.linspace(0.95e9, 1.05e9, channels)
        most = [covered * SPEED_OF_LIGHT / (2 * size * 1.05e9) for size in cell]
        uvw = random.uniform(-1, 1, (rows, 3)) * [*most, 60]
        special = [(i, j) for i in (0, npix[0] // 2, npix[0] - 1) for j in (0, npix[1] // 2, npix[1] - 1)]
        pixels = np.concatenate([special, random.integers(0, npix, (32, 2))])
        return cls(uvw, frequency, npix, cell, pixels=pixels, **how)

    def gridder(self, engine: Engine, epsilon: float, double: bool = False) -> Gridder:
        """A gridder for this."""
        return Gridder.plan(
            self.uvw,
            self.frequency,
            self.npix,
            self.cell,
            epsilon,
            engine,
            center=self.center,
            w_term=self.w_term,
            divide_by_n=self.divide_by_n,
            double=double,
        )

    def visibilities(self, random: np.random.Generator, kind: type = np.complex64) -> NDArray[Any]:
        """Noise."""
        shape = len(self.uvw), len(self.frequency)
        return (random.normal(size=shape) + 1j * random.normal(size=shape)).astype(kind)

    def sky(self, random: np.random.Generator, kind: type = np.float32) -> NDArray[Any]:
        """Sources in the chosen pixels."""
        image = np.zeros(self.npix, kind)
        image[tuple(self.pixels.T)] = random.normal(size=len(self.pixels))
        return image

    def error_of_image(self, image: NDArray[Any], vis: NDArray[Any]) -> float:
        """The relative error of an image of visibilities, which are weighted already, at the chosen pixels."""
        return relative_error(image[tuple(self.pixels.T)], self.vis2dirty(vis))

    def error_of_model(self, model: NDArray[Any], image: NDArray[Any]) -> float:
        """The relative error of the visibilities of an image."""
        return relative_error(model, self.dirty2vis(image, np.arange(len(self.uvw))))

    def _directions(self, pixels: NDArray[np.int64]) -> tuple[NDArray[np.float64], ...]:
        l, m = (  # noqa: E741
            self.center[axis] + (pixels[:, axis] - self.npix[axis] // 2) * self.cell[axis] for axis in (0, 1)
        )
        return l, m, np.sqrt(1 - l**2 - m**2)

    def _phases(self, pixels: NDArray[np.int64], rows: NDArray[np.int64]) -> NDArray[np.float64]:
        """In turns: (pixels, rows, channels)."""
        l, m, n = self._directions(pixels)  # noqa: E741
        u, v, w = self.uvw[rows].T
        path = np.multiply.outer(l, u) + np.multiply.outer(m, v)
        if self.w_term:
            path -= np.multiply.outer(n - 1, w)
        return path[:, :, None] * (self.frequency / SPEED_OF_LIGHT)

    def vis2dirty(self, vis: NDArray[np.complex128]) -> NDArray[np.float64]:
        """The values at the chosen pixels, of visibilities that are weighted already."""
        rows = np.arange(len(self.uvw))
        values = np.einsum("prc,rc->p", np.exp(2j * np.pi * self._phases(self.pixels, rows)), vis).real
        return values / self._directions(self.pixels)[2] if self.divide_by_n else values

    def dirty2vis(self, image: NDArray[np.floating], rows: NDArray[np.int64]) -> NDArray[np.complex128]:
        """The visibilities of some rows; of an image that is zero nearly everywhere, or small."""
        pixels = np.argwhere(image)
        values = image[pixels[:, 0], pixels[:, 1]].astype(float)
        if self.divide_by_n:
            values = values / self._directions(pixels)[2]
        return np.einsum("prc,p->rc", np.exp(-2j * np.pi * self._phases(pixels, rows)), values)


def relative_error(found: NDArray[np.generic], exact: NDArray[np.generic]) -> float:
    """The L2 norm of the difference over that of the exact values."""
    assert found.shape == exact.shape
    return float(np.linalg.norm((found - exact).ravel()) / np.linalg.norm(exact.ravel()))
