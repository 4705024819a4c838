"""How much memory imaging jobs take, known before they start, and how many channels of a cube fit a worker.

The numbers are fits to the peak resident memory of jobs with CASA 6.7, rounded up: cubes up to 2048 pixels a side and
16 channels, continua up to 3072 pixels a side. What does not follow from tclean's arguments is left out, such as
buffers for the visibilities of very many baselines and channels, and 3 GB that mosaics of a few telescopes take whose
beams CASA makes in two dimensions (the VLA before 2010, GMRT); what jobs took puts that right (work/estimates.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeline.imaging.cleaned import sides_of

# A worker that has imported CASA, and has done jobs of other stages, in bytes.
PROCESS = 480_000_000
# Of cubes, bytes for each pixel of a plane: once for a job, and for each plane that it grids.
_ONCE = 40
_EACH = 56
# The same beyond that: for the weights of mosaics, and for automasks.
_MOSAIC_EACH = 24
_AUTOMASK_EACH = 36
# Of continua, bytes for each pixel: to grid and to clean with hogbom or clark.
_CONTINUUM = 66
# The same beyond that for mosaics, for asp, and for each term of mtmfs.
_MOSAIC = 40
_ASP = 130
_TERM = 84
# The convolution functions: of wproject, bytes for each pixel and plane of w, and how many planes there are taken to
# be where CASA chooses. Those of awproject do not depend on the image, and are as large for all channels as for one.
_W_PLANE = 4
_W_PLANES = 64
_CONVOLUTION_FUNCTIONS = {"awproject": 1_500_000_000}
# Of engines that grid, bytes for each pixel, the same for each PSF of mtmfs, and for each visibility.
_ENGINE = 60
_ENGINE_TERM = 12
_VISIBILITY = 40
# Other names that tclean has for the same gridders.
_SAME = {
    **dict.fromkeys(("wprojectft", "widefield"), "wproject"),
    **dict.fromkeys(("mosaicft", "ftmosaic"), "mosaic"),
    **dict.fromkeys(("awprojectft", "awp2", "awphpg"), "awproject"),
}


def bytes_of_part(arguments: Mapping[str, Any], channels: int) -> int:
    """The most memory that a job takes at a time which images so many channels, its guards among them, in bytes."""
    once, each = _of_cube(arguments)
    return _of_process(arguments) + pixels_of_plane(arguments) * (once + each * channels)


def channels_that_fit(arguments: Mapping[str, Any], memory: int) -> int:
    """How many channels, guards among them, a job with so many bytes of memory can image; it may be none."""
    once, each = _of_cube(arguments)
    pixels = pixels_of_plane(arguments)
    return max(0, (memory - _of_process(arguments) - pixels * once) // (pixels * each))


def bytes_of_continuum(arguments: Mapping[str, Any]) -> int:
    """The most memory that a job takes at a time which images and cleans a continuum, in bytes."""
    return _of_process(arguments) + pixels_of_plane(arguments) * (_to_grid(arguments) + _of_deconvolver(arguments))


def bytes_of_rows_part(arguments: Mapping[str, Any]) -> int:
    """The most memory that a job takes at a time which grids some rows of a continuum, in bytes."""
    return _of_process(arguments) + pixels_of_plane(arguments) * (_to_grid(arguments) + _TERM * _terms(arguments))


def bytes_of_engine(arguments: Mapping[str, Any], visibilities: int) -> int:
    """The most memory that a job takes at a time in which an engine grids so many visibilities, in bytes."""
    return PROCESS + pixels_of_plane(arguments) * _of_engine(arguments) + visibilities * _VISIBILITY


def visibilities_that_fit(arguments: Mapping[str, Any], memory: int) -> int:
    """How many visibilities a job with so many bytes of memory can hold in which an engine grids.

    An image that leaves next to nothing of the memory makes no endless number of parts; its jobs are refused.
    """
    return max(memory - bytes_of_engine(arguments, 0), memory // 10) // _VISIBILITY


def bytes_of_one_job(arguments: Mapping[str, Any]) -> int:
    """The most memory that a job takes at a time which makes a whole image, in bytes."""
    if str(arguments.get("specmode", "mfs")).startswith("cube"):
        return bytes_of_part(arguments, max(1, int(arguments.get("nchan", 1))))
    return bytes_of_continuum(arguments)


def _of_process(arguments: Mapping[str, Any]) -> int:
    """What does not depend on the image."""
    return PROCESS + _CONVOLUTION_FUNCTIONS.get(gridder_of(arguments), 0)


def _of_engine(arguments: Mapping[str, Any]) -> int:
    """Bytes for each pixel of a continuum that an engine grids."""
    return _ENGINE + _ENGINE_TERM * 2 * _terms(arguments)


def _of_cube(arguments: Mapping[str, Any]) -> tuple[int, int]:
    each = _EACH + (_MOSAIC_EACH if gridder_of(arguments) == "mosaic" else 0)
    each += _AUTOMASK_EACH if arguments.get("usemask") == "auto-multithresh" else 0
    return _ONCE + _convolution_functions(arguments) + _of_deconvolver(arguments), each


def _to_grid(arguments: Mapping[str, Any]) -> int:
    """Bytes for each pixel of a continuum that is gridded."""
    return _CONTINUUM + _convolution_functions(arguments)


def _of_deconvolver(arguments: Mapping[str, Any]) -> int:
    """Bytes for each pixel beyond those of hogbom."""
    deconvolver = arguments.get("deconvolver")
    if deconvolver == "asp":
        return _ASP
    scales = max(1, len(arguments.get("scales", ())))
    if terms := _terms(arguments):
        # What is kept of each term, and the PSFs convolved with each pair of scales and terms.
        planes = scales * terms
        return _TERM * terms + 2 * planes * (planes + 1)
    # The same of scales; the plane of the residual is transformed, too.
    return 40 + 20 * scales + 2 * scales * (scales + 1) if deconvolver == "multiscale" else 0


def _convolution_functions(arguments: Mapping[str, Any]) -> int:
    """Bytes for each pixel that gridders take beyond the standard one."""
    return _W_PLANE * planes_of_w(arguments) + (_MOSAIC if gridder_of(arguments) == "mosaic" else 0)


def planes_of_w(arguments: Mapping[str, Any]) -> int:
    """How many planes of w convolution functions are made for; none but with wproject."""
    if gridder_of(arguments) != "wproject":
        return 0
    planes = int(arguments.get("wprojplanes", 1))
    return planes if planes > 0 else _W_PLANES


def _terms(arguments: Mapping[str, Any]) -> int:
    """How many Taylor terms there are; none without mtmfs."""
    return int(arguments.get("nterms", 2)) if arguments.get("deconvolver", "hogbom") == "mtmfs" else 0


def gridder_of(arguments: Mapping[str, Any]) -> str:
    """The gridder, by the one of its names that stands here."""
    gridder = str(arguments.get("gridder", "standard"))
    return _SAME.get(gridder, gridder)


def pixels_of_plane(arguments: Mapping[str, Any]) -> int:
    """Of one channel, in all its polarizations."""
    width, height = sides_of(arguments)
    planes = len(str(arguments.get("stokes", "I")).replace("pseudo", ""))
    return width * height * planes
