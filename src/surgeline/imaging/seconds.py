"""How long imaging jobs take, roughly, before the first of their kind has run.

The numbers are from jobs with CASA 6.7 and one thread, of 11 million visibilities, with 256 to 1024 pixels a side and
up to 32 channels. Faster machines, dishes whose beams take long to compute, and the iterations of minor cycles make
it another time: it is the order of magnitude, which what jobs took puts right (work/estimates.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeline.imaging.memory import gridder_of, pixels_of_plane, planes_of_w

# What a job takes in any case.
_START = 0.6
# For each visibility of one correlation that is gridded once.
_VISIBILITY = {"standard": 2.1e-7, "wproject": 2.8e-7, "mosaic": 2e-6, "awproject": 2e-6}
# For each channel that is gridded once, and each of its pixels.
_CHANNEL = 0.05
_PIXEL = 2.5e-7
# The convolution functions of wproject, for each pixel and plane of w.
_W_PIXEL = 6e-7
# To predict visibilities from a model and to grid what is left takes so many times as long as to grid alone.
_WITH_MODEL = 1.5
# How many major cycles there are taken to be after the first, where tclean may have as many as it needs.
_CYCLES = 4


def seconds_of_dirty(arguments: Mapping[str, Any], visibilities: int, channels: int = 1) -> float:
    """To make PSF and dirty image of so many visibilities (each correlation counts) and channels, in s."""
    return _gridded(2, arguments, visibilities, channels)


def seconds_to_grid(arguments: Mapping[str, Any], visibilities: int, channels: int = 1) -> float:
    """To make a PSF, or a dirty image, in s."""
    return _gridded(1, arguments, visibilities, channels)


def seconds_of_major_cycle(arguments: Mapping[str, Any], visibilities: int, channels: int = 1) -> float:
    """To make the residual of a model, in s."""
    return _gridded(_WITH_MODEL, arguments, visibilities, channels)


def seconds_of_one_job(arguments: Mapping[str, Any], visibilities: int) -> float:
    """To make a whole image and clean it, in s."""
    cube = str(arguments.get("specmode", "mfs")).startswith("cube")
    channels = max(1, int(arguments.get("nchan", 1))) if cube else 1
    most = int(arguments.get("nmajor", -1))
    cycles = 0 if int(arguments.get("niter", 0)) < 1 else _CYCLES if most < 0 else most
    return _gridded(2 + cycles * _WITH_MODEL, arguments, visibilities, channels)


def _gridded(times: float, arguments: Mapping[str, Any], visibilities: int, channels: int) -> float:
    """A job that grids everything so many times, in s."""
    return _START + _convolution_functions(arguments) + times * _to_grid(arguments, visibilities, channels)


def _to_grid(arguments: Mapping[str, Any], visibilities: int, channels: int) -> float:
    of_visibilities = visibilities * _VISIBILITY.get(gridder_of(arguments), _VISIBILITY["standard"])
    return of_visibilities + channels * (_CHANNEL + pixels_of_plane(arguments) * _PIXEL)


def _convolution_functions(arguments: Mapping[str, Any]) -> float:
    return _W_PIXEL * pixels_of_plane(arguments) * planes_of_w(arguments)
