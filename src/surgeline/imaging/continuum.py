"""A continuum image: one job."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from surgeline.imaging.cleaned import STOPS, Cleaned, files_read
from surgeline.imaging.cubeparts import plane_noise
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Procedure


def clean_continuum(arguments: Mapping[str, Any]) -> Procedure[Cleaned]:
    """Image and clean the continuum of one field; `arguments` are tclean's own."""
    stem = str(arguments["imagename"])
    (cleaned,) = yield [
        FunctionCall(clean_in_one, dict(arguments)).declare(
            name=f"clean {stem.rpartition('/')[2]}",
            reads=files_read(arguments),
            writes=[f"{stem}.image"],
            keeps=[f"{escape(stem)}.*"],
        )
    ]
    result: Cleaned = cleaned
    return result


def clean_in_one(arguments: dict[str, Any]) -> Cleaned:
    """Make the dirty image, measure its noise, and clean it. Runs on a worker."""
    from casatasks import tclean

    stem = Path(arguments["imagename"])
    stem.parent.mkdir(parents=True, exist_ok=True)
    # tclean would go on from images that an interrupted attempt left.
    for left in stem.parent.glob(f"{stem.name}.*"):
        shutil.rmtree(left)
    tclean(**{**arguments, "niter": 0, "restoration": False})
    noise = statistics.median(plane_noise(f"{stem}.residual"))
    record = tclean(**{**arguments, "calcpsf": False, "calcres": False})
    return Cleaned(
        arguments=arguments,
        noise=noise,
        iterations=int(record.get("iterdone", 0)),
        major_cycles=int(record.get("nmajordone", 0)),
        stop=STOPS.get(int(record.get("stopcode", 0)), "unknown"),
    )
