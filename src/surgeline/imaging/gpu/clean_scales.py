"""The scales that a clean looks at an image in, and how it ranks their peaks."""

from __future__ import annotations

from math import ceil, log2
from typing import TYPE_CHECKING

from surgeline.imaging.gpu.arrays import Array, Device

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class Scales:
    """Scales in pixels, in ascending order; 0 is a point.

    The shape of a scale is Cornwell's parabola (2008), tapered by a Hann window, with a sum of 1; to find a scale's
    peaks the image is convolved with it. Peaks of larger scales count for more, by a factor of 1 / bias for each
    doubling, counted from the smallest scale that is no point. Shapes and factors are those of radler.
    """

    def __init__(self, device: Device, usable: Array, sizes: tuple[float, ...], bias: float) -> None:
        """Prepare for images of the same shape as `usable` (uint8), which says where components may be put."""
        self._xp = device.xp
        self.sizes = sizes
        smallest = min((size for size in sizes if size), default=1.0)
        self.factors = [bias ** -log2(size / smallest) if size else 1.0 for size in sizes]
        self._transforms = [
            self._xp.fft.rfftn(device.array(_shape_of(size, usable.shape)), axes=(0, 1)) if size else None
            for size in sizes
        ]
        self.usable = [self._without_edges(usable, half_width(size)) for size in sizes]

    def _without_edges(self, usable: Array, width: int) -> Array:
        inside = slice(width, usable.shape[0] - width), slice(width, usable.shape[1] - width)
        found = self._xp.zeros_like(usable)
        found[inside] = usable[inside]
        return found

    def smooth(self, image: Array, scale: int) -> Array:
        """An image convolved with the shape of a scale; its opposite edges are taken to meet, as in radler."""
        transform = self._transforms[scale]
        if transform is None:
            return image
        fft = self._xp.fft
        return fft.irfftn(fft.rfftn(image, axes=(0, 1)) * transform, s=tuple(image.shape), axes=(0, 1))

    def peak_of(self, image: Array, scale: int) -> float:
        """The greatest absolute value that an image has in a scale, times the scale's factor."""
        found = self._xp.max(self._xp.abs(self.smooth(image, scale)) * self.usable[scale])
        return float(found) * self.factors[scale]

    def peak(self, image: Array) -> float:
        """The greatest peak of all scales."""
        return max(self.peak_of(image, scale) for scale in range(len(self.sizes)))


def half_width(size: float) -> int:
    """How many pixels a scale's shape reaches from its middle one; its components keep that far from the edges."""
    return ceil(size / 2)


def _shape_of(size: float, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The shape of a scale, in the middle of an image whose middle was moved to its first pixel."""
    import numpy as np

    reach = half_width(size)
    steps = np.arange(-reach, reach + 1)
    distance = np.hypot(steps[:, None], steps)
    width = 2 * reach + 2
    taper = np.where(2 * distance <= width, 0.5 + 0.5 * np.cos(2 * np.pi * distance / width), 0.0)
    parabola = np.maximum(1 - (distance / size) ** 2, 0)
    image = np.zeros(shape)
    image[np.ix_(steps, steps)] = taper * parabola / np.sum(taper * parabola)
    return image.astype(np.float32)
