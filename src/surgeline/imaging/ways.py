"""The ways in which an image can be made in parallel, and the rule by which one is chosen.

Unless the user says it, this is the way:

- A cube goes by `channels`, which gives every pixel as one tclean does. One whose channels cannot be parted goes by
  `mpi` if its job has several cores, and is `serial` if not.
- A continuum goes by `rows` where there are several workers and so many visibilities that major cycles are what takes
  its time. Smaller ones are `serial`: other images are made beside them. What does not go by rows is made by `mpi` if
  its job has several cores, and is `serial` if not.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from surgeline.errors import BadInput
from surgeline.imaging import continuum, cubearguments
from surgeline.imaging.cleaned import Cleaned, files_read
from surgeline.imaging.cube import clean_cube
from surgeline.imaging.gpu.enginearguments import check_engine
from surgeline.imaging.gpu.engines import CASA, Gridding
from surgeline.imaging.onejob import clean_in_one_job
from surgeline.imaging.rowcut import count_visibilities
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Procedure
from surgeline.work.selection import selections

Way = Literal["auto", "rows", "channels", "mpi", "serial"]

# With fewer visibilities a major cycle takes seconds, about as long as the handling of parts.
WORTH_CUTTING = 20_000_000


# What no way has: tclean's argument, the value that it has to have, and what to do instead.
_FIXED: dict[str, tuple[Any, str]] = {
    "interactive": (False, "give a mask, or usemask='auto-multithresh'"),
    "restart": (True, "give the image another name"),
    "calcpsf": (True, "leave it out: images are made from the beginning"),
    "calcres": (True, "leave it out: images are made from the beginning"),
}


@dataclass(frozen=True)
class Chosen:
    """How an image is made: rows, channels, mpi or serial, and why so."""

    way: Way
    reason: str


def clean_image(
    arguments: Mapping[str, Any],
    workers: int,
    way: Way = "auto",
    threshold_sigma: float | None = None,
    memory: int | None = None,
    cores: int = 1,
    visibilities: int | None = None,
    gridding: Gridding = CASA,
    gpus: int | None = None,
) -> Procedure[tuple[Cleaned, Chosen]]:
    """Image and clean, in the way that is asked for or that suits the image.

    Args:
        arguments: tclean's own.
        workers: how many jobs can run at once.
        way: auto for the one that the rule gives.
        threshold_sigma: clean down to so many times the noise of the dirty image instead of to `threshold`.
        memory: what a worker has, in bytes, if it is known.
        cores: how many each job has.
        visibilities: how many it is made of (each correlation counts), where that is known: how long jobs take
            follows from it.
        gridding: what grids it.
        gpus: how many jobs can have a GPU at once, where that is known.

    Raises:
        BadInput: the image cannot be made in the way that is asked for, or not with that engine.
        JobFailed: it is to be gridded by a GPU, there is none, and nothing else may do it.
    """
    check_way(arguments, way, gridding)
    if gridding.engine != "casa":
        if gridding.engine == "gpu" and gpus == 0:
            gridding = gridding.instead("no worker has a GPU")
        parts = min(workers, gpus) if gridding.engine == "gpu" and gpus else workers
        cleaned = yield from continuum.clean_by_rows(arguments, parts, threshold_sigma, gridding, memory)
        return cleaned, Chosen("rows", "so engines grid")
    chosen = yield from choose(arguments, workers, way, cores)
    if chosen.way == "channels":
        cleaned = yield from clean_cube(arguments, workers, threshold_sigma, memory, visibilities)
    elif chosen.way == "rows":
        cleaned = yield from continuum.clean_by_rows(arguments, workers, threshold_sigma)
    else:
        cleaned = yield from clean_in_one_job(arguments, threshold_sigma, chosen.way == "mpi", visibilities)
    return cleaned, chosen


def check_way(arguments: Mapping[str, Any], way: Way, gridding: Gridding = CASA) -> None:
    """Refuse a way in which an image cannot be made, or what is to grid it, before any work starts.

    Raises:
        BadInput: naming the argument and what to do instead.
    """
    for name, (value, instead) in _FIXED.items():
        if arguments.get(name, value) != value:
            raise BadInput(f"{name}={arguments[name]!r} cannot be had of jobs that make an image anew", instead)
    check_engine(arguments, gridding)
    if gridding.engine != "casa" and way not in ("auto", "rows"):
        raise BadInput(f"engine={gridding.engine!r} does not go by {way}", "leave out in which way: it goes by rows")
    if way == "rows" or gridding.engine != "casa":
        continuum.check_arguments(arguments)
    elif way == "channels":
        cubearguments.check_arguments(arguments)


def choose(arguments: Mapping[str, Any], workers: int, way: Way, cores: int) -> Procedure[Chosen]:
    """Choose the way by the rule, or take the one that is asked for; for arguments see `clean_image`.

    Raises:
        BadInput: the image cannot be made in the way that is asked for.
    """
    check_way(arguments, way)
    if way != "auto":
        return Chosen(way, "it was asked for")
    by_mpi = Chosen("mpi", "its job has several cores") if cores > 1 else None
    if _is_cube(arguments):
        refused = _refusal(arguments, "channels")
        if refused is None and cubearguments.must_be_whole(arguments):
            refused = "what CASA does in a channel depends on which others there are"
        if refused is None:
            return Chosen("channels", "every pixel is that of one tclean")
        return by_mpi or Chosen("serial", refused)
    refused = _refusal(arguments, "rows")
    if refused is not None:
        return by_mpi or Chosen("serial", refused)
    if workers < 2:
        return Chosen("serial", "there is one worker")
    name = str(arguments["imagename"]).rpartition("/")[2]
    (visibilities,) = yield [
        FunctionCall(count_visibilities, dict(arguments)).declare(
            name=f"count visibilities of {name}",
            reads=files_read(arguments),
            selects=selections("tclean", arguments),
        )
    ]
    told = f"it has {visibilities:,} visibilities; rows are worth cutting from {WORTH_CUTTING:,} on"
    return Chosen("rows" if visibilities >= WORTH_CUTTING else "serial", told)


def _refusal(arguments: Mapping[str, Any], way: Way) -> str | None:
    try:
        check_way(arguments, way)
    except BadInput as refused:
        return str(refused)
    return None


def _is_cube(arguments: Mapping[str, Any]) -> bool:
    return str(arguments.get("specmode", "mfs")).startswith("cube")
