"""Högbom's clean on a GPU: the PSF of each component is subtracted from the whole image."""

from __future__ import annotations

from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.clean_loop import clean_components


class HogbomClean:
    """Högbom's clean (1974) of images with one PSF and mask."""

    def __init__(self, device: Device, psf: Array, usable: Array, gain: float) -> None:
        self._device = device
        self._psf = psf
        self._usable = device.xp.reshape(usable, (-1,))
        self._gain = gain

    def clean(self, residual: Array, threshold: float, iterations: int) -> tuple[Array, Array, int]:
        """Clean to a threshold: what is left, the image of the components, and how many they are."""
        xp = self._device.xp
        values = xp.reshape(xp.asarray(residual, copy=True), (-1,))
        components, done = clean_components(
            self._device, values, self._usable, self._psf, gain=self._gain, threshold=threshold, iterations=iterations
        )
        return xp.reshape(values, residual.shape), xp.reshape(components, residual.shape), done
