"""A continuum whose major cycles run on parts of its rows, with no MPI: the image that one tclean makes.

Gridding is linear: the residual of all rows is the sum of those of its parts. So each part grids by jobs of its own,
the sums are taken by a few more, and one job after each major cycle does what CASA does once: it normalises, looks
whether the image is clean, and runs the minor cycle.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import Any
from uuid import uuid4

from surgeline.errors import BadInput
from surgeline.imaging import rowparts
from surgeline.imaging.cleaned import Cleaned, files_read, vis_of
from surgeline.imaging.gpu import rowgridding
from surgeline.imaging.gpu.enginearguments import check_engine
from surgeline.imaging.gpu.engines import CASA, Gridding
from surgeline.imaging.keptimagers import DECONVOLVER, forget
from surgeline.imaging.memory import bytes_of_continuum, bytes_of_engine, bytes_of_rows_part, visibilities_that_fit
from surgeline.imaging.products import PRODUCTS, endings, parts_folder, product
from surgeline.imaging.rowclean import Minor, finish_image, finish_psf, minor_cycle
from surgeline.imaging.rowcontrol import History
from surgeline.imaging.rowcut import cut_rows
from surgeline.imaging.rowimages import DENSITY, PSF, RESIDUAL
from surgeline.imaging.rowparts import RowPart, add_up, save_model
from surgeline.imaging.seconds import seconds_of_major_cycle, seconds_to_grid
from surgeline.imaging.synthesis import typical_noise
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Procedure

# So many parts' images are added up by one job; more are added up in several steps.
_AT_ONCE = 4
_GRIDDERS = ("standard", "wproject", "widefield", "mosaic")
_WEIGHTINGS = ("natural", "uniform", "briggs", "briggsabs", "superuniform", "radial")
# What tclean can do and this cannot: the argument, the value that it has to have, and what to do instead.
_FIXED = (
    ("facets", 1, "use gridder='wproject'"),
    ("psfphasecenter", "", "make the image by one job"),
)


def clean_by_rows(
    arguments: Mapping[str, Any],
    workers: int,
    threshold_sigma: float | None = None,
    gridding: Gridding = CASA,
    memory: int | None = None,
) -> Procedure[Cleaned]:
    """Image and clean a continuum, with major cycles on as many parts of its rows as there are workers.

    The image is that of `tclean(**arguments)`, apart from the order in which floats are added. What there is of its
    name is removed first.

    Args:
        arguments: tclean's own.
        workers: how many parts to work on at once.
        threshold_sigma: clean down to so many times the noise of the dirty image instead of to `threshold`.
        gridding: what grids the parts.
        memory: what a worker has, in bytes, if it is known: engines hold their parts' visibilities in memory.

    Raises:
        BadInput: an argument asks for what does not go by rows, or not with that engine.
    """
    check_arguments(arguments)
    check_engine(arguments, gridding)
    jobs = rowparts if gridding.engine == "casa" else rowgridding
    arguments = dict(arguments)
    run = uuid4().hex
    fit = visibilities_that_fit(arguments, memory) if memory and gridding.engine != "casa" else None
    (parts,) = yield [_of_all("cut rows", arguments, FunctionCall(cut_rows, arguments, max(1, workers), run, fit))]
    parts = [replace(part, gridding=gridding) for part in parts]
    labels = [part.label for part in parts]

    density_needed = yield [_of("weigh", part, FunctionCall(jobs.weigh_part, part)) for part in parts]
    if all(density_needed):
        left = yield from _add_up(arguments, labels, DENSITY)
        yield [_of_all("share weights", arguments, FunctionCall(jobs.share_density, arguments, left))]

    told = yield [_gridding("PSF", part, FunctionCall(jobs.make_psf, part), seconds_to_grid) for part in parts]
    parts = _gone_on(parts, told)
    left = yield from _add_up(arguments, labels, PSF)
    yield [_of_all("finish PSF", arguments, FunctionCall(finish_psf, arguments, left))]

    minors: list[Minor] = []
    while not minors or not minors[-1].done:
        cycle = len(minors)
        estimate = seconds_of_major_cycle if cycle else seconds_to_grid
        told = yield [
            _gridding(f"major cycle {cycle}", part, FunctionCall(jobs.major_cycle, part), estimate) for part in parts
        ]
        parts = _gone_on(parts, told)
        left = yield from _add_up(arguments, labels, RESIDUAL)
        history: History = minors[-1].history if minors else []
        minors += yield [
            _of_all(
                f"minor cycle {cycle + 1}",
                arguments,
                FunctionCall(minor_cycle, arguments, left, history, run, threshold_sigma),
            ).declare(near=f"{run} {DECONVOLVER}")
        ]
        arguments = minors[-1].arguments

    # What is kept elsewhere, since a worker was busy, ends with the next image there, or with that worker.
    yield [_of("end", part, FunctionCall(forget, run)) for part in parts]
    if str(arguments.get("savemodel", "none")) != "none":
        yield [
            _of_all("save model", arguments, FunctionCall(save_model, arguments, vis, parts[0].coordinates)).declare(
                reads=[other for other in _reads(arguments) if other != vis], changes=[vis]
            )
            for vis in vis_of(arguments)
        ]
    yield [_of_all("restore", arguments, FunctionCall(finish_image, arguments)).declare(writes=_restored(arguments))]
    gridding = next((part.gridding for part in parts if part.gridding.reason), gridding)
    return Cleaned(arguments, typical_noise(minors[0].noise), minors[-1].record, gridding)


def check_arguments(arguments: Mapping[str, Any]) -> None:
    """Refuse what does not go by rows.

    Raises:
        BadInput: naming the argument and what to do instead.
    """
    specmode = str(arguments.get("specmode", "mfs"))
    if specmode not in ("mfs", "cont"):
        raise BadInput(f"specmode={specmode!r} is no continuum of one plane", "cut a cube by its channels instead")
    gridder = str(arguments.get("gridder", "standard"))
    if gridder not in _GRIDDERS:
        raise BadInput(f"gridder={gridder!r} does not go by rows", f"choose one of {', '.join(_GRIDDERS)}")
    weighting = str(arguments.get("weighting", "natural"))
    if weighting not in _WEIGHTINGS:
        raise BadInput(f"weighting={weighting!r} does not go by rows", f"choose one of {', '.join(_WEIGHTINGS)}")
    for name, value, instead in _FIXED:
        if arguments.get(name, value) != value:
            raise BadInput(f"{name}={arguments[name]!r} does not go by rows", instead)
    stems = [str(arguments["imagename"]), *_outliers(arguments)]
    made = {f"{stem}{ending}" for stem in stems for kind in PRODUCTS for ending in endings(kind)}
    for file in files_read(arguments):
        if file in made:
            raise BadInput(
                f"{file} is to be read, and is one of the images to be made", "give the image another name"
            )


def _gone_on(parts: Sequence[RowPart], told: Sequence[str | None]) -> list[RowPart]:
    """The same parts; where jobs told why another engine took over, that goes on with theirs."""
    return [
        replace(part, gridding=part.gridding.instead(reason)) if reason else part
        for part, reason in zip(parts, told, strict=True)
    ]


def _add_up(arguments: Mapping[str, Any], labels: Sequence[str], kinds: Sequence[str]) -> Procedure[list[str]]:
    """Add parts' images up until few enough are left for one job; returns what these are called."""
    labels = list(labels)
    level = 0
    while len(labels) > _AT_ONCE:
        level += 1
        groups = [labels[first : first + _AT_ONCE] for first in range(0, len(labels), _AT_ONCE)]
        sums = [f"{kinds[0]}-{level}-{number}" for number in range(len(groups))]
        yield [
            FunctionCall(add_up, arguments, group, label, kinds).declare(
                name=f"add {group[0]} to {group[-1]} of {_name(arguments)}",
                reads=_reads(arguments),
                keeps=[_images(arguments, one) for one in (*group, label)],
            )
            for group, label in zip(groups, sums, strict=True)
        ]
        labels = sums
    return labels


def _of(what: str, part: RowPart, job: FunctionCall) -> FunctionCall:
    """A job of one part."""
    return job.declare(
        name=f"{what} of {_name(part.arguments)}, {part.label}",
        resources=part.gridding.resources,
        near=f"{part.run} {part.label}",
        memory=_bytes(part),
        reads=_reads(part.arguments),
        keeps=[_images(part.arguments, label) for label in (part.label, "model", "density")],
    )


def _gridding(what: str, part: RowPart, job: FunctionCall, estimate: Callable[..., float]) -> FunctionCall:
    """A job that grids a part; how long a GPU takes is not known before."""
    seconds = None if part.gridding.engine == "gpu" else estimate(part.arguments, part.visibilities)
    return _of(what, part, job).declare(estimated_seconds=seconds)


def _bytes(part: RowPart) -> int:
    if part.gridding.engine == "casa":
        return bytes_of_rows_part(part.arguments)
    return bytes_of_engine(part.arguments, part.visibilities)


def _of_all(what: str, arguments: Mapping[str, Any], job: FunctionCall) -> FunctionCall:
    """A job that sees to the whole image. CASA wants to see the MSs wherever it is given parameters of imaging."""
    return job.declare(
        name=f"{what} of {_name(arguments)}",
        memory=bytes_of_continuum(arguments),
        reads=_reads(arguments),
        keeps=[f"{escape(stem)}.*" for stem in (str(arguments["imagename"]), *_outliers(arguments))],
    )


def _reads(arguments: Mapping[str, Any]) -> list[str]:
    outliers = str(arguments.get("outlierfile", ""))
    return [*files_read(arguments), *([outliers] if outliers else [])]


def _outliers(arguments: Mapping[str, Any]) -> list[str]:
    """The names of images beside the main one.

    Raises:
        BadInput: there is no such list of them.
    """
    file = Path(str(arguments.get("outlierfile", "")))
    if file == Path():
        return []
    try:
        lines = file.read_text().splitlines()
    except OSError as error:
        raise BadInput(
            f"outlierfile={str(file)!r} cannot be read: {error}", "give the path of a list of images"
        ) from error
    pairs = (line.partition("=") for line in lines)
    return [value.strip() for name, _, value in pairs if name.strip() == "imagename"]


def _restored(arguments: Mapping[str, Any]) -> list[str]:
    if not arguments.get("restoration", True):
        return []
    return [product(arguments, "image")]


def _name(arguments: Mapping[str, Any]) -> str:
    return str(arguments["imagename"]).rpartition("/")[2]


def _images(arguments: Mapping[str, Any], label: str) -> str:
    """A pattern of the images of a part."""
    return f"{escape(parts_folder(arguments))}/{label}.*"
