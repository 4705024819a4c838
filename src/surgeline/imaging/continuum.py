"""A continuum image: one job, which measures the noise of the dirty image and cleans down to it."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from surgeline.imaging.cleaned import STOPS, Cleaned, vis_of
from surgeline.imaging.cubeparts import plane_noise
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Procedure


def clean_continuum(arguments: Mapping[str, Any], threshold_sigma: float | None = None) -> Procedure[Cleaned]:
    """Image and clean the continuum of one field.

    Args:
        arguments: tclean's own.
        threshold_sigma: clean down to so many times the noise of the dirty image instead of to `threshold`.
    """
    stem = str(arguments["imagename"])
    (cleaned,) = yield [
        FunctionCall(clean_to_noise, dict(arguments), threshold_sigma).declare(
            name=f"clean {stem.rpartition('/')[2]}", reads=vis_of(arguments), writes=[f"{stem}.image"]
        )
    ]
    result: Cleaned = cleaned
    return result


def clean_to_noise(arguments: dict[str, Any], threshold_sigma: float | None) -> Cleaned:
    """Make the dirty image, measure its noise, and clean; see `clean_continuum`. Runs on a worker."""
    from casatasks import tclean

    stem = Path(arguments["imagename"])
    stem.parent.mkdir(parents=True, exist_ok=True)
    # tclean would go on from images that an interrupted attempt left.
    for left in stem.parent.glob(f"{stem.name}.*"):
        shutil.rmtree(left)
    tclean(**{**arguments, "niter": 0, "restoration": False})
    noise = statistics.median(plane_noise(f"{stem}.residual"))
    if threshold_sigma is not None:
        arguments = {**arguments, "threshold": f"{threshold_sigma * noise:.6g}Jy"}
    record = tclean(**{**arguments, "calcpsf": False, "calcres": False})
    return Cleaned(
        arguments=arguments,
        noise=noise,
        iterations=int(record.get("iterdone", 0)),
        major_cycles=int(record.get("nmajordone", 0)),
        stop=STOPS.get(int(record.get("stopcode", 0)), "unknown"),
    )
