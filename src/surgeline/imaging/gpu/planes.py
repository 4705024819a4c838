"""Planes of cells to an image, and back: Fourier transforms, screens of w, and the correction for the window."""

from __future__ import annotations

from typing import Any

from surgeline.imaging.gpu import screen_kernels as kernels
from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.geometry import Geometry
from surgeline.imaging.gpu.uvwgrid import UvwGrid

# Pixels that one program works on.
_BLOCK = 1024


class Planes:
    """How the planes of a grid and the pixels of an image belong together."""

    def __init__(self, device: Device, geometry: Geometry, grid: UvwGrid) -> None:
        import numpy as np

        xp = device.xp
        self._device, self._npix, self._grid = device, geometry.npix, grid
        pixels = [np.arange(side) - side // 2 for side in geometry.npix]
        self._squares = [
            device.array((middle + size * pixel) ** 2, xp.float64)
            for middle, size, pixel in zip(geometry.center, geometry.cell, pixels, strict=True)
        ]
        spacing = 1 / grid.density[2] if grid.w_term else 0.0
        self._scales = device.array(np.array([grid.first_w, spacing, grid.center[2]]), xp.float64)
        along = [
            device.array(1 / grid.window.transform(pixel / cells), xp.float64)
            for pixel, cells in zip(pixels, grid.cells, strict=True)
        ]
        correction = along[0][:, None] * along[1][None, :]
        if grid.w_term or geometry.divide_by_n:
            squares = self._squares[0][:, None] + self._squares[1][None, :]
            n_less_one = -squares / (1 + xp.sqrt(1 - squares))
            if geometry.divide_by_n:
                correction = correction / (1 + n_less_one)
            if grid.w_term:
                correction = correction * grid.window.correct((n_less_one - grid.center[2]) * spacing)
        self._correction = xp.astype(correction, xp.float32)

    def zeros(self, count: int) -> Array:
        """So many planes without anything."""
        return self._device.zeros((count, *self._grid.cells), self._device.xp.complex64)

    def no_image(self) -> Array:
        """An image without anything, as add_to_image wants it."""
        return self._device.zeros((self._npix[1], self._npix[0]), self._device.xp.float32)

    def add_to_image(self, image: Array, planes: Array, begin: int) -> None:
        """Add what the planes from number `begin` on are in an image to it."""
        xp = self._device.xp
        half = self._npix[1] // 2
        for number in range(planes.shape[0]):
            lines = xp.permute_dims(xp.fft.ifft(planes[number, ...], axis=1, norm="forward"), (1, 0))
            # Those that are no pixels are left out before the second transform; axes that are transformed come last,
            # as transforms are fastest then.
            lines = self._device.array(xp.concat([lines[-half:, :], lines[:half, :]], axis=0))
            lines = self._device.array(xp.fft.ifft(lines, axis=1, norm="forward"))
            self._run(kernels.add_plane_to_image, image, lines, begin + number)

    def finished(self, image: Array) -> Array:
        """The pixels of what add_to_image made, without what the window does to them, divided by n if asked."""
        return self._device.array(self._device.xp.permute_dims(image, (1, 0)) * self._correction)

    def prepared(self, image: Array) -> Array:
        """Pixels as of_image wants them."""
        return self._device.array(self._device.xp.permute_dims(image * self._correction, (1, 0)))

    def of_image(self, image: Array, begin: int, count: int) -> Array:
        """So many planes from number `begin` on of an image that is prepared."""
        xp = self._device.xp
        planes = self.zeros(count)
        half = self._npix[1] // 2
        for number in range(count):
            lines = self._device.zeros((self._npix[1], self._grid.cells[0]), xp.complex64)
            self._run(kernels.put_image_on_plane, image, lines, begin + number)
            lines = xp.permute_dims(xp.fft.fft(lines, axis=1), (1, 0))
            planes[number, :, :half], planes[number, :, -half:] = lines[:, half:], lines[:, :half]
            planes[number, ...] = xp.fft.fft(planes[number, ...], axis=1)
        return planes

    def _run(self, kernel: Any, image: Array, lines: Array, number: int) -> None:
        width, height = self._npix
        self._device.launch(
            kernel, (-(-width * height // _BLOCK),), image, self._device.parts(lines), *self._squares, self._scales,
            number, width, height, self._grid.cells[0], W_TERM=self._grid.w_term, BLOCK=_BLOCK,
        )  # fmt: skip
