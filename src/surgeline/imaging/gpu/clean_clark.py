"""Clark's clean on a GPU: components of the bright pixels alone, then one convolution for the rest of the image."""

from __future__ import annotations

from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.clean_convolution import PsfConvolution
from surgeline.imaging.gpu.clean_loop import clean_components


class ClarkClean:
    """Clark's clean (1980) of images with one PSF and mask.

    As in radler the whole PSF is subtracted from the bright pixels, where Clark took a patch of it, and bright is
    what is not below the threshold.
    """

    def __init__(self, device: Device, psf: Array, usable: Array, gain: float) -> None:
        self._device = device
        self._psf = psf
        self._usable = usable
        self._gain = gain
        self._convolution = PsfConvolution(device, psf)

    def clean(self, residual: Array, threshold: float, iterations: int) -> tuple[Array, Array, int]:
        """Clean to a threshold: what is left, the image of the components, and how many they are."""
        components, done = clean_bright(
            self._device,
            residual,
            self._usable,
            self._psf,
            gain=self._gain,
            threshold=threshold,
            iterations=iterations,
        )
        return residual - self._convolution.of(components), components, done


def clean_bright(
    device: Device, image: Array, usable: Array, psf: Array, *, gain: float, threshold: float, iterations: int
) -> tuple[Array, int]:
    """Clean the usable pixels of an image that are not below a threshold; the image stays as it is.

    Returns:
        The image of the components, and how many they are.
    """
    xp = device.xp
    pixels = xp.reshape(image, (-1,))
    bright = xp.nonzero((xp.abs(pixels) >= threshold) & (xp.reshape(usable, (-1,)) != 0))[0]
    values = pixels[bright]
    components, done = clean_components(
        device,
        values,
        xp.ones_like(values, dtype=xp.uint8),
        psf,
        gain=gain,
        threshold=threshold,
        iterations=iterations,
        positions=xp.astype(bright, xp.int32),
    )
    model = xp.zeros_like(pixels)
    model[bright] = components
    return xp.reshape(model, image.shape), done
