"""The jobs of a continuum whose major cycles run on parts of its rows. These functions run on workers.

Each part grids its own rows onto images of its own. These are added up, and CASA's normalizer and deconvolver go on
with the sums as they do in one tclean. All state is on disk, and each job can be run again.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from glob import escape
from pathlib import Path
from typing import Any

from surgeline.imaging import keptimagers
from surgeline.imaging.gpu.engines import CASA, Gridding
from surgeline.imaging.products import images_named, parts_folder
from surgeline.imaging.rowimages import (
    DENSITY,
    MODEL,
    SHARED_DENSITY,
    add_images,
    continuum_parameters,
    copy_image,
    imager_tools,
    new_imager,
    part_stem,
    set_pixels,
    slabs,
    stems_of,
)
from surgeline.imaging.synthesis import Arguments, Record, opened
from surgeline.work.ownfolder import OwnFolder, own_folder


@dataclass(frozen=True)
class RowPart:
    """Some of the rows of a continuum.

    Attributes:
        arguments: tclean's, for the whole continuum.
        label: what the part is called among those of its image.
        rows: of which MS, by CASA's key of it, it has which rows, as TaQL.
        coordinates: the coordinate system of each image, the main one first; it follows from all rows.
        run: what tells the imagers that are kept for this image from others.
        visibilities: about how many unflagged ones it has; each correlation counts.
        gridding: what grids it.
    """

    arguments: Mapping[str, Any]
    label: str
    rows: tuple[tuple[str, str], ...]
    coordinates: tuple[Record, ...]
    run: str
    visibilities: int
    gridding: Gridding = CASA


def weigh_part(part: RowPart) -> bool:
    """Grid the weights of a part's rows; False where its weights depend on no other part's."""
    with _gridder(part) as imager:
        if imager.weightpars["multifield"] or not weights_need_density(imager.weightpars):
            return False
        imager.SItool.getweightdensity()
    return True


def share_density(arguments: Arguments, labels: Sequence[str]) -> None:
    """Add up the weights that parts have gridded, for all of them to weight their rows by.

    Args:
        arguments: tclean's.
        labels: whose images to add up.
    """
    add_up(arguments, labels, SHARED_DENSITY, DENSITY)
    folder = Path(parts_folder(arguments))
    path = folder / f"{SHARED_DENSITY}.0.gridwt"
    parameters = continuum_parameters(arguments)
    # CASA keeps with it which density is for which field, by "MS_field", where the MSs are those that a part has.
    fields = {key.rpartition("_")[2] for part in folder.glob("rows-*.0.gridwt") for key in _fields_of(part)}
    keys = [f"{vis}_{field}" for vis in range(len(parameters.getSelPars())) for field in sorted(fields)]
    with opened(path) as tool:
        known = {name: value for name, value in tool.miscinfo().items() if name[:3] not in ("key", "val")}
        known |= {f"key{place}": key for place, key in enumerate(keys)}
        known |= {f"val{place}": 0 for place in range(len(keys))}
        known["multimapsize"] = len(keys)
        weighting = parameters.getWeightPars()
        if weighting["rmode"] == "norm":
            # `robust` is relative to the mean density, which CASA knows of each part alone.
            known["f2"] = known["f2"] * 0 + 25.0 * 10.0 ** (-2.0 * weighting["robust"]) / _mean_density(path)
        tool.setmiscinfo(known)


def make_psf(part: RowPart) -> None:
    """Grid the PSF of a part's rows; the first part makes the primary beam, too."""
    with _gridder(part, weighted=True) as imager:
        imager.SItool.makepsf()
        if not int(part.label.rpartition("-")[2]):
            imager.SItool.makepb()


def make_primary_beam(part: RowPart) -> None:
    """Have CASA make the primary beam, where what grids a part is not CASA's imager."""
    # It does not depend on the gridder; of this one nothing else is computed.
    imager = _gridder_of(replace(part, arguments={**part.arguments, "gridder": "standard"}))
    with own_folder(part_stem(part.arguments, part.label, 0)):
        try:
            imager.initializeImagers()
            imager.SItool.makepb()
        finally:
            imager.deleteTools()


def major_cycle(part: RowPart) -> None:
    """Grid the residual of a part's rows and of the model that the whole image has; at first there is none."""
    with _gridder(part, weighted=True) as imager:
        for number in range(imager.NF):
            for path, ending in images_named(part_stem(part.arguments, MODEL, number), ("model",)):
                set_pixels(Path(part_stem(part.arguments, part.label, number) + ending), path)
        imager.SItool.executemajorcycle(controls={"lastcycle": False})


def add_up(arguments: Arguments, labels: Sequence[str], label: str, kinds: Sequence[str]) -> None:
    """Add the images of several parts up into those of one more, in the order given."""
    for number in range(len(stems_of(continuum_parameters(arguments)))):
        stems = [part_stem(arguments, one, number) for one in labels]
        total = part_stem(arguments, label, number)
        for _, ending in images_named(stems[0], kinds):
            add_images([Path(stem + ending) for stem in stems], Path(total + ending))
        # The first part has those of the whole image.
        for path, ending in images_named(stems[0], ("pb", "model")):
            copy_image(path, Path(total + ending))


def save_model(arguments: Arguments, vis: str, coordinates: Sequence[Record]) -> None:
    """Write the model to one MS as `savemodel` says: all of its rows by one job, since no two may write to it.

    Args:
        arguments: tclean's.
        vis: the MS.
        coordinates: the coordinate system of each image; see `RowPart`.
    """
    # CASA puts the writing off where there are iterations and it could not know which cycle is the last one.
    parameters = continuum_parameters({**arguments, "niter": 0}, begun=True, saving=True)
    with imager_tools(parameters) as imager:
        imager.allselpars = {key: one for key, one in imager.allselpars.items() if one["msname"] == vis}
        for number, system in enumerate(coordinates):
            imager.allimpars[str(number)]["csys"] = dict(system)
        imager.initializeImagers()
        imager.initializeNormalizers()
        imager.predictModel()


@contextmanager
def _gridder(part: RowPart, weighted: bool = False) -> Iterator[Any]:
    """CASA's imager of a part, kept from an earlier job or new; it is kept unless the block raises."""
    stems = [part_stem(part.arguments, part.label, number) for number in range(len(part.coordinates))]
    images = [f"{escape(stem)}.*" for stem in stems]
    kept = keptimagers.take(part.run, part.label, images)
    if kept is None:
        keptimagers.make_room(part.run)
        gridder = _gridder_of(part)
        kept = keptimagers.Kept(gridder, gridder.deleteTools, OwnFolder(stems[0]))
        # It has no tools as yet, and no weights.
        kept.cycle = -1
    try:
        with kept.folder.inside():
            if kept.cycle < 0:
                kept.imager.initializeImagers()
                kept.imager.SItool.setweighting(**kept.imager.weightpars)
            density = Path(part_stem(part.arguments, SHARED_DENSITY, 0) + ".gridwt")
            if weighted and density.is_dir() and kept.cycle < 1:
                kept.imager.SItool.setweightdensity(str(density))
            yield kept.imager
    except BaseException:
        kept.end()
        raise
    kept.cycle = int(weighted)
    keptimagers.keep(part.run, part.label, kept, images)


def _gridder_of(part: RowPart) -> Any:
    """CASA's imager of a part's rows, without any tool as yet."""
    imager = new_imager(continuum_parameters(part.arguments))
    imager.allselpars = {key: {**imager.allselpars[key], "taql": taql} for key, taql in part.rows}
    for number, coordinates in enumerate(part.coordinates):
        images = imager.allimpars[str(number)]
        images["imagename"] = part_stem(part.arguments, part.label, number)
        images["csys"] = dict(coordinates)
        # The whole image has it already.
        images.pop("startmodel", None)
    return imager


def _fields_of(density: Path) -> list[str]:
    with opened(density) as tool:
        return [str(value) for name, value in tool.miscinfo().items() if name.startswith("key")]


def _mean_density(path: Path) -> float:
    """The mean over all visibilities of the density of weights where they are."""
    total = squares = 0.0
    with opened(path) as tool:
        for blc, trc in slabs(tool.shape()):
            density = tool.getchunk(blc, trc)
            total += float(density.sum())
            squares += float((density * density).sum())
    return squares / total


def weights_need_density(weighting: Record) -> bool:
    """Whether the weight of a visibility depends on how many others are near it."""
    return weighting["type"] not in ("natural", "radial")
