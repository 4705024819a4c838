"""An image that one job makes: a continuum, or any that is to be made by an MPI session of the job's own."""

from __future__ import annotations

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Any

from surgeline.imaging.cleaned import Cleaned, files_read
from surgeline.imaging.memory import bytes_of_one_job
from surgeline.imaging.products import parts_folder, product, remove, remove_images
from surgeline.imaging.seconds import seconds_of_one_job
from surgeline.imaging.synthesis import plane_noise, threshold_at, typical_noise
from surgeline.work.jobs import FunctionCall
from surgeline.work.ownfolder import own_folder
from surgeline.work.procedure import Procedure
from surgeline.work.selection import selections


def clean_in_one_job(
    arguments: Mapping[str, Any],
    threshold_sigma: float | None = None,
    mpi: bool = False,
    visibilities: int | None = None,
) -> Procedure[Cleaned]:
    """Image and clean one field.

    Args:
        arguments: tclean's own.
        threshold_sigma: clean down to so many times the noise of the dirty image instead of to `threshold`.
        mpi: by tclean(parallel=True), in an MPI session with a server for each of the job's cores.
        visibilities: how many it is made of, where that is known.
    """
    stem = str(arguments["imagename"])
    own = {**arguments, "parallel": True} if mpi else dict(arguments)
    (cleaned,) = yield [
        FunctionCall(clean, own, threshold_sigma).declare(
            name=f"clean {stem.rpartition('/')[2]}",
            reads=files_read(arguments),
            selects=selections("tclean", own),
            writes=[product(arguments, "image" if arguments.get("restoration", True) else "residual")],
            keeps=[f"{escape(stem)}.*"],
            mpi=mpi,
            # In an MPI session the servers share it, in ways of CASA's own.
            memory=None if mpi else bytes_of_one_job(arguments),
            estimated_seconds=None if mpi or visibilities is None else seconds_of_one_job(arguments, visibilities),
        )
    ]
    result: Cleaned = cleaned
    return result


def clean(arguments: dict[str, Any], threshold_sigma: float | None) -> Cleaned:
    """Make the dirty image, measure its noise, and clean it. Runs on a worker."""
    from casatasks import tclean

    stem = Path(arguments["imagename"])
    stem.parent.mkdir(parents=True, exist_ok=True)
    # tclean would go on from images that an interrupted attempt left.
    remove_images(str(stem))
    remove(Path(parts_folder(arguments)))
    to_clean = int(arguments.get("niter", 0)) > 0
    with own_folder(str(stem)):
        restored = not to_clean and arguments.get("restoration", True)
        record = tclean(**{**arguments, "niter": 0, "restoration": restored})
        noise = typical_noise(plane_noise(product(arguments, "residual")))
        if threshold_sigma is not None:
            arguments = {**arguments, "threshold": threshold_at(threshold_sigma, noise, str(stem))}
        if to_clean:
            record = tclean(**{**arguments, "calcpsf": False, "calcres": False})
            # One call would have counted the major cycle that made the dirty image, too.
            record["nmajordone"] += 1
            record["summarymajor"] = [0, *record["summarymajor"]]
    # By which the ranks of an MPI session told each other of their parts.
    for extension in ("workdirectory", "gridwt_temp"):
        remove(Path(f"{stem}.{extension}"))
    return Cleaned(arguments, noise, record)
