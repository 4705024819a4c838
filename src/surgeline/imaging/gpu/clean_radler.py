"""Cleans on a CPU, by radler."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from surgeline.errors import BadInput
from surgeline.imaging.gpu.arrays import Array, Device
from surgeline.imaging.gpu.clean_convolution import PsfConvolution
from surgeline.imaging.gpu.clean_loop import DIVERGENCE


class RadlerClean:
    """Högbom's, Clark's or multi-scale clean of images with one PSF and mask."""

    def __init__(
        self,
        device: Device,
        psf: Array,
        usable: Array,
        gain: float,
        algorithm: str,
        sizes: tuple[float, ...],
        bias: float,
    ) -> None:
        """Make ready to clean.

        Raises:
            BadInput: radler is not installed, or cannot clean images of this shape.
        """
        try:
            import radler
        except ImportError as error:
            raise BadInput(
                "radler, which deconvolves images on a CPU, is not installed.", "pip install 'surgeline[cpu-engine]'"
            ) from error
        rows, columns = psf.shape
        if rows % 2 or columns % 2:
            raise BadInput(
                f"radler deconvolves images of even numbers of pixels, and these have {rows} × {columns}.",
                "Make them a pixel larger or smaller, or deconvolve on a GPU (engine 'gpu').",
            )
        self._radler = radler
        self._psf = psf
        self._usable = usable
        # radler pads images by a tenth for its convolutions, and what lies far from a source wraps around.
        self._convolution = None if algorithm == "hogbom" else PsfConvolution(device, psf)
        self._settings = settings = radler.Settings()
        settings.trimmed_image_height, settings.trimmed_image_width = rows, columns
        settings.thread_count = 1
        settings.minor_loop_gain = gain
        settings.divergence_limit = DIVERGENCE
        settings.use_sub_minor_optimization = algorithm != "hogbom"
        # Pixels are counted in pixels: what radler calls the beam is one, too.
        settings.pixel_scale.x = settings.pixel_scale.y = 1.0
        # The scale whose peaks are taken as they are is of two beams.
        self._beam = min((size for size in sizes if size), default=2.0) / 2
        if algorithm == "multiscale":
            settings.algorithm_type = radler.AlgorithmType.multiscale
            settings.multiscale.scale_list = list(sizes)
            settings.multiscale.scale_bias = bias
            settings.multiscale.convolution_padding = 1.5

    def clean(self, residual: Array, threshold: float, iterations: int) -> tuple[Array, Array, int]:
        """Clean to a threshold: what is left, the image of the components, and how many they are."""
        import numpy as np

        self._settings.absolute_threshold = threshold
        self._settings.minor_iteration_count = iterations
        # radler works in these arrays, and does not keep them alive.
        left, model = residual.copy(), np.zeros_like(residual)
        with TemporaryDirectory() as folder:
            if not self._usable.all():
                self._settings.fits_mask = str(_written(self._usable, Path(folder) / "mask.fits"))
            cleaning = self._radler.Radler(self._settings, self._psf, left, model, self._beam)
        cleaning.perform(1)
        done = int(cleaning.iteration_number)
        return left if self._convolution is None else residual - self._convolution.of(model), model, done


def _written(usable: Any, path: Path) -> Path:
    """A mask as the file of FITS that radler reads."""
    from astropy.io import fits

    fits.writeto(path, usable.astype("float32"))
    return path
