"""What a model looks like through the PSF."""

from __future__ import annotations

from surgeline.imaging.gpu.arrays import Array, Device


class PsfConvolution:
    """Convolves images with a PSF whose peak is at the middle pixel (size // 2 along both axes)."""

    def __init__(self, device: Device, psf: Array) -> None:
        self._fft = device.xp.fft
        rows, columns = psf.shape
        # Half as much again: what wraps around then stays outside the image.
        self._padded = (rows + (rows + 1) // 2, columns + (columns + 1) // 2)
        self._transform = self._transformed(psf)
        self._inside = (slice(rows // 2, rows // 2 + rows), slice(columns // 2, columns // 2 + columns))

    def _transformed(self, image: Array) -> Array:
        return self._fft.rfftn(image, s=self._padded, axes=(0, 1))

    def of(self, image: Array) -> Array:
        """An image, convolved; the PSF counts as zero beyond its edges."""
        return self._fft.irfftn(self._transformed(image) * self._transform, s=self._padded, axes=(0, 1))[self._inside]
