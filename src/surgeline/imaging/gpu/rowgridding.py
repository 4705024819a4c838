"""The jobs of a continuum in parts of its rows whose gridding an engine does. These functions run on workers.

Each writes the images that the job of the same name in `rowparts` writes, for which CASA's imager grids; what comes
before and after is the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from surgeline.imaging import keptimagers
from surgeline.imaging.gpu.partgridder import PartGridder
from surgeline.imaging.products import images_named
from surgeline.imaging.rowimages import (
    DENSITY,
    MODEL,
    SHARED_DENSITY,
    part_stem,
    read_pixels,
    take_header,
    write_pixels,
)
from surgeline.imaging.rowparts import RowPart, add_up, make_primary_beam
from surgeline.imaging.synthesis import Arguments
from surgeline.work.ownfolder import OwnFolder

if TYPE_CHECKING:
    from numpy.typing import NDArray

Made = TypeVar("Made")


def weigh_part(part: RowPart) -> bool:
    """Grid the weights of a part's rows; False where its weights depend on no other part's."""
    if part.arguments.get("weighting", "natural") == "natural":
        return False

    def write(gridder: PartGridder) -> None:
        write_pixels(_path(part, *DENSITY), gridder.density()[:, :, None, None], part.coordinates[0])

    _kept(part, write)
    return True


def share_density(arguments: Arguments, labels: Sequence[str]) -> None:
    """Add up the weights that parts have gridded, for all of them to weight their rows by.

    Args:
        arguments: tclean's.
        labels: whose images to add up.
    """
    add_up(arguments, labels, SHARED_DENSITY, DENSITY)


def make_psf(part: RowPart) -> str:
    """Grid the PSF of a part's rows; the first part makes the primary beam, too.

    Returns:
        Why the CPU's engine did it, where the GPU's was to do it; else nothing.
    """
    (images, sums), told = _gridded(part, PartGridder.psfs)
    for term, (image, total) in enumerate(zip(images, sums, strict=True)):
        _write(part, "psf", term, image)
        _write(part, "sumwt", term, total)
    if not int(part.label.rpartition("-")[2]):
        make_primary_beam(part)
        ((beam, _), *_) = images_named(part_stem(part.arguments, part.label, 0), ("pb",))
        for term in range(len(images)):
            # From the first part's images the whole image's have what is noted of it.
            for kind in ("psf", "sumwt"):
                take_header(_path(part, kind, term), beam)
    return told


def major_cycle(part: RowPart) -> str:
    """Grid the residual of a part's rows and of the model that the whole image has; at first there is none.

    Returns:
        As `make_psf` does.
    """
    found = images_named(part_stem(part.arguments, MODEL, 0), ("model",))
    models = [read_pixels(path)[:, :, :, 0] for path, _ in found]
    images, told = _gridded(part, lambda gridder: gridder.residuals(models))
    for term, image in enumerate(images):
        _write(part, "residual", term, image)
    return told


def _gridded(part: RowPart, work: Callable[[PartGridder], Made]) -> tuple[Made, str]:
    """What the part's engine makes; or, where the GPU fails and the recipe allows it, the CPU's, and why."""
    from surgeline.imaging.gpu.devices import GpuError

    try:
        return _kept(part, work), ""
    except GpuError as error:
        reason = error.message.rstrip(".")
        return _kept(replace(part, gridding=part.gridding.instead(reason)), work), reason


def _kept(part: RowPart, work: Callable[[PartGridder], Made]) -> Made:
    """Work with a part's gridder, kept from an earlier job or new; it is kept unless that raises."""
    stem = part_stem(part.arguments, part.label, 0)
    images = [f"{escape(stem)}.*"]
    kept = keptimagers.take(part.run, part.label, images)
    if kept is not None and kept.imager.engine != part.gridding.engine:
        kept.end()
        kept = None
    if kept is None:
        keptimagers.make_room(part.run)
        gridder = PartGridder(part, _shared_density(part))
        kept = keptimagers.Kept(gridder, gridder.close, OwnFolder(stem))
    try:
        made = work(kept.imager)
    except BaseException:
        kept.end()
        raise
    keptimagers.keep(part.run, part.label, kept, images)
    return made


def _shared_density(part: RowPart) -> Callable[[], NDArray[Any] | None]:
    path = Path(f"{part_stem(part.arguments, SHARED_DENSITY, 0)}.gridwt")
    return lambda: read_pixels(path)[:, :, 0, 0] if path.is_dir() else None


def _write(part: RowPart, kind: str, term: int, planes: NDArray[Any]) -> None:
    """Write an image of a part: a plane for each Stokes parameter."""
    write_pixels(_path(part, kind, term), planes[..., None], part.coordinates[0])


def _path(part: RowPart, kind: str, term: int | None = None) -> Path:
    several = part.arguments.get("deconvolver") == "mtmfs"
    ending = f".tt{term}" if several and term is not None else ""
    return Path(f"{part_stem(part.arguments, part.label, 0)}.{kind}{ending}")
