"""What all kinds of imaging need of CASA's synthesis tools: their parameters, their records, images on disk."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from surgeline.errors import DataError

Arguments = Mapping[str, Any]
# What CASA's deconvolver and iteration control return, as plain Python values.
Record = dict[str, Any]

# tclean's arguments that CASA's imager calls otherwise.
_IMAGER_NAMES = {
    "vis": "msname",
    "timerange": "timestr",
    "uvrange": "uvdist",
    "observation": "obs",
    "intent": "state",
    "gain": "loopgain",
    "smallscalebias": "scalebias",
}


def imager_parameters(arguments: Arguments) -> Any:
    """CASA's imaging parameters from tclean's arguments, filled up and amended as tclean does."""
    import inspect

    from casatasks.private.imagerhelpers.input_parameters import ImagerParameters

    from surgeline.work.casasignature import signature

    tclean = {**signature("tclean").default_values(), **arguments}
    given = {_IMAGER_NAMES.get(name, name): value for name, value in tclean.items()}
    taken = {
        name: given.get(name, parameter.default)
        for name, parameter in inspect.signature(ImagerParameters).parameters.items()
    }
    if given["gridder"] not in ("mosaic", "awp2"):
        taken["mosweight"] = False
    return ImagerParameters(**taken)


def plain(record: Mapping[str, Any]) -> Record:
    """The same record with plain numbers for numpy's, so that it is small to send and CASA takes it back."""
    return {
        name: value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
        for name, value in record.items()
    }


@contextmanager
def opened(path: str | Path) -> Iterator[Any]:
    """CASA's image tool with an image open."""
    from casatools import image

    with closing(image()) as tool:
        tool.open(str(path))
        yield tool


def plane_noise(path: str, planes: slice | None = None) -> list[float]:
    """The noise of each plane of an image: 1.4826 times the median absolute deviation of its valid pixels.

    Args:
        path: the image.
        planes: which of its planes; all unless given. What has no valid pixels is left out.
    """
    import numpy as np

    noise = []
    with opened(path) as tool:
        *sides, channels = (int(size) for size in tool.shape())
        for plane in range(channels)[planes or slice(None)]:
            corners = [0, 0, 0, plane], [*(size - 1 for size in sides), plane]
            inside = tool.getchunk(*corners)[tool.getchunk(*corners, getmask=True)]
            if inside.size:
                noise.append(float(1.4826 * np.median(np.abs(inside - np.median(inside)))))
    return noise


def typical_noise(noise: Sequence[float]) -> float:
    """The noise of the plane in the middle of them; NaN where none has valid pixels."""
    return statistics.median(noise) if noise else math.nan


def threshold_at(sigma: float, noise: float, imagename: str) -> str:
    """tclean's threshold at so many times the noise.

    Raises:
        DataError: the noise is not known.
    """
    if math.isnan(noise):
        raise DataError(
            f"no pixel of {imagename} is valid, so that it has no noise to clean down to",
            "see whether it lies where the primary beam sees, and pblimit; or give a threshold",
        )
    return f"{sigma * noise:.6g}Jy"


def record_of_dirty(arguments: Arguments) -> Record:
    """What tclean returns when it is not to clean: the residuals have to be there."""
    from casatasks.private.imagerhelpers.imager_return_dict import ImagingDict

    return dict(ImagingDict().construct_residual_dict(imager_parameters(arguments)))
