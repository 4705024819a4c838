"""Deconvolution of an image: what sources are in it, and what is left without them."""

from __future__ import annotations

from collections.abc import Collection
from contextlib import nullcontext
from dataclasses import dataclass
from math import isfinite
from typing import Any, Literal, Protocol

from surgeline.errors import BadInput, nearest
from surgeline.imaging.gpu.arrays import Array, Device, InterpretedDevice
from surgeline.imaging.gpu.clean_loop import DIVERGENCE
from surgeline.imaging.gpu.clean_scales import Scales, half_width

Algorithm = Literal["hogbom", "clark", "multiscale"]
DeconvolutionEngine = Literal["radler", "gpu"]

ALGORITHMS = ("hogbom", "clark", "multiscale")
ENGINES = ("radler", "gpu")
# The peak of a PSF that was divided by the sum of the weights is 1, but for the errors of gridding.
_PEAK_ERROR = 0.01


@dataclass(frozen=True)
class Deconvolved:
    """What came of a deconvolution."""

    # The model that was given and the components that were found, a flux for each pixel.
    model: Array
    # What the components leave of the image.
    residual: Array
    # How many components were found.
    iterations: int
    # The peak came down to the threshold; as many components as were asked for were found; the peak grew to four
    # times what it was.
    stopped: Literal["threshold", "iterations", "diverged"]


class _Clean(Protocol):
    def clean(self, residual: Array, threshold: float, iterations: int) -> tuple[Array, Array, int]:
        """Clean to a threshold: what is left, the image of the components, and how many they are."""


def deconvolve(
    residual: Array,
    psf: Array,
    model: Array,
    *,
    algorithm: Algorithm,
    iterations: int,
    threshold: float = 0.0,
    gain: float = 0.1,
    mask: Array | None = None,
    scales: Collection[float] = (),
    scale_bias: float = 0.6,
    engine: DeconvolutionEngine = "radler",
) -> Deconvolved:
    """Find the components of an image, one after another, and subtract what the PSF makes of them.

    Both engines find the same components, but for the last digits of float32. Components may be negative.

    Arguments:
        residual: the image.
        psf: the PSF, with a peak of 1 at the middle pixel (size // 2 along both axes).
        model: the model so far; the components are added to a copy of it. The three have the same shape.
        algorithm: `hogbom`; `clark`, which is faster where few pixels are bright; `multiscale`, for extended sources.
        iterations: how many components there may be.
        threshold: the peak, as an absolute value in the unit of the image, at which to stop. `multiscale` compares it
            with the greatest peak of all scales, as their bias has it.
        gain: what part of a peak is taken for a component, more than 0 and up to 1.
        mask: true where there may be components; everywhere if there is none.
        scales: widths in pixels of the shapes that `multiscale` looks for, 0 for a point. Good ones are 0 and two,
            four and eight times the width of the PSF's peak.
        scale_bias: what the peaks of a scale are divided by for each doubling of its width, counted from the smallest
            that is no point, more than 0 and up to 1: less of it finds more of the flux in large shapes.
        engine: `radler` on a CPU, `gpu` on a GPU; what is made of a GPU's arrays stays there with the latter.

    Raises:
        BadInput: this cannot be deconvolved.
        GpuError: there is no GPU, or it has not enough memory.
    """
    for name, choice, choices in (("algorithm", algorithm, ALGORITHMS), ("engine", engine, ENGINES)):
        if choice not in choices:
            raise BadInput(f"There is no {name} {choice!r} to deconvolve with.", nearest(choice, choices))
    _check_numbers(gain, threshold, iterations)
    # Plain numbers: kernels are compiled for the types of their arguments.
    gain, iterations = float(gain), int(iterations)
    sizes = _sizes(algorithm, scales, scale_bias)
    on_gpu = engine == "gpu"
    if on_gpu:
        from surgeline.imaging.gpu.devices import gpu_errors, the_device

        device = the_device()
    else:
        # NumPy's arrays in this computer's memory; no kernel runs.
        device = InterpretedDevice()
    with gpu_errors(device.name) if on_gpu else nullcontext():
        image, beam = _image(device, "residual", residual), _image(device, "PSF", psf)
        known = _image(device, "model", model)
        usable = _usable(device, mask, image)
        _check_images(image, beam, known, usable)
        ranking = _scales(device, usable, beam, sizes, scale_bias)
        cleaning: _Clean
        if not on_gpu:
            from surgeline.imaging.gpu.clean_radler import RadlerClean

            cleaning = RadlerClean(device, beam, usable, gain, algorithm, sizes, scale_bias)
        elif algorithm == "hogbom":
            from surgeline.imaging.gpu.clean_hogbom import HogbomClean

            cleaning = HogbomClean(device, beam, usable, gain)
        elif algorithm == "clark":
            from surgeline.imaging.gpu.clean_clark import ClarkClean

            cleaning = ClarkClean(device, beam, usable, gain)
        else:
            from surgeline.imaging.gpu.clean_multiscale import MultiscaleClean

            cleaning = MultiscaleClean(device, beam, ranking, gain)
        found = _cleaned(cleaning, ranking, image, known, threshold, iterations)
        if device.holds(residual):
            return found
        return Deconvolved(device.host(found.model), device.host(found.residual), found.iterations, found.stopped)


def _cleaned(
    cleaning: _Clean, ranking: Scales, residual: Array, model: Array, threshold: float, iterations: int
) -> Deconvolved:
    """Clean until there is a reason to stop: a clean of bright pixels alone may leave others that became bright."""
    import numpy as np

    # The peaks are compared with it in single precision.
    threshold = float(np.float32(threshold))
    done = 0
    peak = ranking.peak(residual)
    while peak > threshold and done < iterations:
        before = peak
        residual, components, more = cleaning.clean(residual, threshold, iterations - done)
        model = model + components
        done += more
        peak = ranking.peak(residual)
        if peak > DIVERGENCE * before:
            return Deconvolved(model, residual, done, "diverged")
        if not more:
            # It is above the threshold by a rounding error.
            return Deconvolved(model, residual, done, "threshold")
    return Deconvolved(model, residual, done, "threshold" if peak <= threshold else "iterations")


def _check_numbers(gain: float, threshold: float, iterations: int) -> None:
    if not 0 < gain <= 1:
        raise BadInput(f"The gain is {gain}.", "It is what part of a peak is subtracted: more than 0, and up to 1.")
    if not (isfinite(threshold) and threshold >= 0):
        raise BadInput(f"The threshold is {threshold}.", "Give an absolute value, as the image has them; 0 for none.")
    if iterations < 0:
        raise BadInput(f"There cannot be {iterations} iterations.", "Give how many components there may be.")


def _sizes(algorithm: str, scales: Collection[float], bias: float) -> tuple[float, ...]:
    """The scales that are looked at, in ascending order; that of a point for what knows no others."""
    if algorithm != "multiscale":
        if scales:
            raise BadInput(f"The algorithm {algorithm!r} knows no scales.", "Leave them out, or take 'multiscale'.")
        return (0.0,)
    if not scales or not all(isfinite(size) and size >= 0 for size in scales):
        raise BadInput(
            f"The scales of 'multiscale' are {list(scales)}.",
            "Give widths in pixels, such as 0, 6, 12 and 24 where the PSF's peak is 3 pixels wide.",
        )
    if not 0 < bias <= 1:
        raise BadInput(f"The scale bias is {bias}.", "It is more than 0, and up to 1; 0.6 suits most images.")
    return tuple(sorted({float(size) for size in scales}))


def _image(device: Device, name: str, values: Any) -> Array:
    """An image as single precision on the device."""
    import numpy as np

    try:
        there = values if device.holds(values) else np.ascontiguousarray(values, np.float32)
    except (TypeError, ValueError) as error:
        raise BadInput(
            f"The {name} is no image of numbers in this computer's memory: {error}.",
            "Give an array of NumPy, or one of torch on this GPU.",
        ) from error
    found = device.array(there, device.xp.float32)
    if found.ndim != 2 or 0 in found.shape:
        raise BadInput(f"The {name} has the shape {tuple(found.shape)}.", "An image has two axes, and some pixels.")
    wrong = int(device.xp.sum(device.xp.astype(~device.xp.isfinite(found), device.xp.int32)))
    if wrong:
        raise BadInput(
            f"{wrong} pixels of the {name} are not finite.",
            "Set pixels that have no value to 0, and leave them out of the mask.",
        )
    return found


def _usable(device: Device, mask: Any, like: Array) -> Array:
    """Where there may be components: 1, and 0 elsewhere."""
    import numpy as np

    kind = device.xp.uint8
    if mask is None:
        return device.xp.ones_like(like, dtype=kind)
    there = mask if device.holds(mask) else np.asarray(mask)
    return device.array(there != 0, kind)


def _check_images(residual: Array, psf: Array, model: Array, usable: Array) -> None:
    for name, image in (("PSF", psf), ("model", model), ("mask", usable)):
        if tuple(image.shape) != tuple(residual.shape):
            raise BadInput(
                f"The {name} has the shape {tuple(image.shape)}, the residual {tuple(residual.shape)}.",
                "All images of a deconvolution have the same pixels.",
            )
    peak = float(psf[psf.shape[0] // 2, psf.shape[1] // 2])
    if abs(peak - 1) > _PEAK_ERROR:
        raise BadInput(
            f"The PSF is {peak:.6g} at its middle pixel, and not 1.",
            "Divide the PSF and the residual by the sum of the weights, and put the PSF's peak at size // 2.",
        )


def _scales(device: Device, usable: Array, psf: Array, sizes: tuple[float, ...], bias: float) -> Scales:
    shortest = min(psf.shape)
    for size in sizes:
        if 2 * half_width(size) >= shortest:
            raise BadInput(
                f"A scale of {size:g} pixels does not fit into an image of {psf.shape[0]} × {psf.shape[1]}.",
                f"Leave it out: a scale is less than {shortest} pixels wide.",
            )
    scales = Scales(device, usable, sizes, bias)
    for scale, size in enumerate(sizes):
        peak = float(scales.smooth(psf, scale)[psf.shape[0] // 2, psf.shape[1] // 2])
        if peak <= 0:
            raise BadInput(
                f"The PSF shows nothing of a scale of {size:g} pixels: its peak in that scale is {peak:.2g}.",
                "Leave it out: the data lack the short baselines for it.",
            )
    return scales
