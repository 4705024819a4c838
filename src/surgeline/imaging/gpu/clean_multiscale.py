"""Multi-scale clean on a GPU: an image is a sum of points and of round shapes of some sizes."""

from __future__ import annotations

from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.clean_clark import clean_bright
from surgeline.imaging.gpu.clean_convolution import PsfConvolution
from surgeline.imaging.gpu.clean_loop import DIVERGENCE
from surgeline.imaging.gpu.clean_scales import Scales

# By what part a peak is cleaned down before the scales are compared again.
_PART_OF_A_SCALE = 0.2


class MultiscaleClean:
    """Cornwell's multi-scale clean (2008) of images with one PSF and mask, step by step as radler does it.

    The scale with the greatest peak is cleaned like Clark, in the image convolved with the scale's shape, until its
    peak is a fifth lower; then the scales are compared again.
    """

    def __init__(self, device: Device, psf: Array, scales: Scales, gain: float) -> None:
        self._device = device
        self._scales = scales
        self._gain = gain
        self._convolution = PsfConvolution(device, psf)
        once = [scales.smooth(psf, scale) for scale in range(len(scales.sizes))]
        self._psfs = [scales.smooth(image, scale) for scale, image in enumerate(once)]
        middle = psf.shape[0] // 2, psf.shape[1] // 2
        self._gains = [gain / float(image[middle]) for image in once]

    def clean(self, residual: Array, threshold: float, iterations: int) -> tuple[Array, Array, int]:
        """Clean to a threshold: what is left, the image of the components, and how many they are."""
        scales = self._scales
        left, model, done = residual, self._device.xp.zeros_like(residual), 0
        numbers = range(len(scales.sizes))
        peaks = {scale: scales.peak_of(left, scale) for scale in numbers}
        compared = set(numbers)
        # Scales whose peaks are all near the threshold may take turns for long with little gained.
        turns_near_threshold = max(8, 3 * len(scales.sizes) // 2)
        most = DIVERGENCE * max(peaks.values())
        while done < iterations and turns_near_threshold and max(peaks.values()) <= most:
            best = max(compared, key=lambda scale: (peaks[scale], -scale))
            peak = peaks[best]
            if peak <= threshold:
                break
            goal = peak * (1 - _PART_OF_A_SCALE)
            if goal < threshold:
                goal = threshold
                turns_near_threshold -= 1
            points, more = clean_bright(
                self._device,
                scales.smooth(left, best),
                scales.usable[best],
                self._psfs[best],
                gain=self._gains[best],
                threshold=goal / scales.factors[best],
                iterations=iterations - done,
            )
            model = model + scales.smooth(points, best)
            left = residual - self._convolution.of(model)
            done += more
            # Only scales that may soon be the strongest are looked at.
            compared = {scale for scale in numbers if scale == best or peaks[scale] > peak * (1 - self._gain)}
            peaks |= {scale: scales.peak_of(left, scale) for scale in compared}
        return left, model, done
