"""The jobs of a cube that is cleaned in parts. These functions run on workers and keep all state on disk.

A part is a channel range with images of its own. CASA's deconvolver sees copies of the part's own planes and one
more: a *spare* plane without emission, whose PSF has the worst sidelobe of the whole cube, on which automasks depend.
A cleaning cycle of a part starts from what is on disk and can be run again: its residual and model are cut anew from
what was gridded, and masks that change are kept aside until the next one begins.
"""

from __future__ import annotations

import pickle
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from surgeline.imaging import automask, keptimagers
from surgeline.imaging.cubearguments import start_of
from surgeline.imaging.cubeplanes import (
    TRIMMED,
    Part,
    clear_spare_mask,
    cut_out,
    leave_edges,
    make_model,
    name_beam,
    put_back,
    put_spare,
    restore_or_keep,
    take_model,
    trim,
    trimmed_stem,
)
from surgeline.imaging.products import remove
from surgeline.imaging.synthesis import Record, imager_parameters, opened, plain, plane_noise
from surgeline.work.ownfolder import OwnFolder

# What a cycle with automasks changes and cannot make anew.
MASKS = ("mask", "automask.npz")
# The row of channels in CASA's summary of a minor cycle.
_CHANNEL = 5


@dataclass(frozen=True)
class Begun:
    """What is known of a part when its dirty image is made.

    Attributes:
        record: the deconvolver's, before there is a mask.
        noise: of each of the part's own planes of the dirty image, in Jy/beam.
        beams: of each of the part's own planes, as CASA's image tool gives them; empty if all have the same.
    """

    record: Record
    noise: list[float]
    beams: list[dict[str, Any]]


def begin_part(part: Part) -> Begun:
    """Make the PSF, primary beam and dirty image of a part."""
    stem = Path(part.imagename)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # tclean would go on from images that an interrupted attempt left.
    for left in stem.parent.glob(f"{escape(stem.name)}.*"):
        remove(left)
    coordinates = _coordinates(part)
    Path(f"{stem}.coordinates").write_bytes(pickle.dumps(coordinates))
    with _gridder(part, coordinates) as imager:
        imager.makePSF()
        imager.makePB()
        imager.runMajorCycle(isCleanCycle=False)
    make_model(part)
    keptimagers.know(part.run, part.imagename, _open_images(part))
    cut_out(part, "psf")
    cut_out(part, "residual")
    if Path(f"{stem}.pb").is_dir():
        cut_out(part, "pb")
    with deconvolver(part) as tool:
        record = plain(tool.initminorcycle())
    return Begun(record, plane_noise(f"{stem}.residual", part.own), beams_of(f"{stem}.psf")[part.own])


def mask_part(part: Part, sidelobe: float, beam: Mapping[str, Any] | None) -> Record:
    """Make the clean mask of a part.

    Args:
        part: the part.
        sidelobe: the worst of the PSFs of the whole cube.
        beam: by which regions of automasks are measured.

    Returns:
        the deconvolver's record with the mask.
    """
    for extension in ("model", "mask", "automask.npz"):
        remove(Path(f"{part.cleaning}.{extension}"))
    put_spare(part, "psf", -sidelobe)
    if beam is not None:
        name_beam(part, "residual", beam)
    with deconvolver(part, mask=part.arguments.get("mask", "")) as tool:
        tool.initminorcycle()
        if automask.is_on(part.arguments):
            automask.first_mask(part, tool, sidelobe)
            return plain(tool.initminorcycle())
        tool.setupmask()
        clear_spare_mask(part)
    return _show_residual(part)


def minor_cycle(part: Part, cycle: int, controls: Record, beam: Mapping[str, Any] | None) -> Record:
    """Run the minor cycle of a part, and leave the model of its outermost channels for its neighbours.

    Args:
        part: the part.
        cycle: 1 for the first; with it an interrupted attempt of the same cycle is known, and undone.
        controls: the iteration controls, common to all parts.
        beam: see `mask_part`.

    Returns:
        the deconvolver's record of the minor cycle, with channels counted as in the whole cube.
    """
    shown = keptimagers.take(part.run, keptimagers.DECONVOLVER, _cleaned_images(part))
    if restore_or_keep(part.imagename, cycle, MASKS if automask.is_on(part.arguments) else ()):
        if shown is not None:
            shown.end()
            shown = None
        cut_out(part, "residual", beam=beam)
        cut_out(part, "model")
    with _ending(shown or _new_deconvolver(part)) as tool:
        if shown is None:
            tool.initminorcycle()
        executed = plain(tool.executeminorcycle(iterbotrecord=controls))
    leave_edges(part)
    return {**executed, "summaryminor": _in_cube(part, executed["summaryminor"])}


def major_cycle(part: Part, cycle: int, controls: Record, sidelobe: float, beam: Mapping[str, Any] | None) -> Record:
    """Grid the residual of a part's model, with its guards set to the neighbours' model, and mask it if need be.

    Args:
        part: the part.
        cycle: the minor cycle that made the model.
        controls: of that cycle.
        sidelobe: see `mask_part`.
        beam: see `mask_part`.

    Returns:
        the deconvolver's record of the new residual.
    """
    take_model(part)
    with _gridder(part, pickle.loads(Path(f"{part.imagename}.coordinates").read_bytes())) as imager:
        imager.runMajorCycle()
    if automask.is_on(part.arguments):
        # As the minor cycle had it, if this one is begun for a second time.
        put_back(part.imagename, cycle, MASKS)
        with deconvolver(part) as tool:
            automask.next_mask(part, tool, controls, sidelobe, beam)
            return plain(tool.initminorcycle())
    cut_out(part, "residual", beam=beam)
    return _show_residual(part)


def finish_part(part: Part, cycles: int, restoringbeam: Any) -> None:
    """Restore the cleaned image of a part and take its guards away.

    Args:
        part: the part.
        cycles: how many minor cycles there were.
        restoringbeam: tclean's; the common beam of the whole cube itself.
    """
    keptimagers.forget(part.run)
    stem = Path(part.imagename)
    if cycles and automask.is_on(part.arguments):
        # tclean leaves the mask that it cleaned in last, not the one that it would have cleaned in next.
        put_back(part.imagename, cycles, MASKS)
    for extension in TRIMMED:
        trim(part, extension)
    if part.arguments.get("restoration", True):
        with deconvolver(part, imagename=trimmed_stem(part.imagename), restoringbeam=restoringbeam) as tool:
            tool.restore()
            if part.arguments.get("pbcor"):
                tool.pbcor()
    for pattern in ("before-*", "edges.npz", "coordinates", "clean.*"):
        for left in stem.parent.glob(f"{escape(stem.name)}.{pattern}"):
            remove(left)


def beams_of(path: str) -> list[dict[str, Any]]:
    """The beam of each plane of an image."""
    with opened(path) as tool:
        found = tool.restoringbeam()
        planes = int(tool.shape()[3])
    if "beams" not in found:
        return [found] * planes
    return [found["beams"][f"*{plane}"]["*0"] for plane in range(planes)]


def common_beam(beams: list[dict[str, Any]]) -> dict[str, Any]:
    """The smallest beam that all of these can be convolved to, by CASA's own choice."""
    from casatools import image

    tool = image()
    try:
        tool.fromshape("", [1, 1, 1, len(beams)])
        for plane, beam in enumerate(beams):
            tool.setrestoringbeam(beam=beam, channel=plane, polarization=-1)
        found = tool.commonbeam()
        return {"major": found["major"], "minor": found["minor"], "positionangle": found["pa"]}
    finally:
        tool.done()


def _in_cube(part: Part, summary: Any) -> Any:
    """What is told of a minor cycle, a column for each plane, with the channels' numbers in the whole cube."""
    full = bool(part.arguments.get("fullsummary", False))
    planes, whole = part.cleaned.stop - part.cleaned.start, int(part.arguments["nchan"])
    # Without the full summary CASA counts on through the polarizations.
    polarization, plane = divmod(summary[_CHANNEL], whole if full else planes)
    told = summary.copy()
    told[_CHANNEL] = plane - part.own_of_cleaned.start + part.first + (0 if full else whole) * polarization
    return told if part.spare is None else told[:, plane != part.spare]


@contextmanager
def _gridder(part: Part, coordinates: Mapping[str, Any]) -> Iterator[Any]:
    """CASA's imager, ready to grid a part's planes: kept from an earlier job, with its weights, or new."""
    from casatasks.private.imagerhelpers.imager_base import PySynthesisImager

    kept = keptimagers.take(part.run, part.imagename, _open_images(part))
    known = kept is not None
    if kept is None:
        keptimagers.make_room(part.run)
        parameters = imager_parameters({**part.arguments, "imagename": part.imagename, "mask": "", "startmodel": ""})
        parameters.getImagePars()["0"] |= {"nchan": part.gridded, **coordinates}
        gridder = PySynthesisImager(params=parameters)
        kept = keptimagers.Kept(gridder, gridder.deleteTools, OwnFolder(part.imagename))
    try:
        with kept.folder.inside():
            if not known:
                kept.imager.initializeImagers()
                kept.imager.initializeNormalizers()
                kept.imager.setWeighting()
            yield kept.imager
    except BaseException:
        kept.end()
        raise
    keptimagers.keep(part.run, part.imagename, kept, _open_images(part))


def _open_images(part: Part) -> list[str]:
    """What a gridder has open, or may have."""
    return [f"{escape(part.imagename)}.{extension}" for extension in ("psf", "residual", "model")]


def _coordinates(part: Part) -> dict[str, Any]:
    """What makes the channels of a part's planes those of the whole cube: CASA's parameters that say so.

    These are the coordinates of the whole cube, counted from the part's first channel: so they are the same to the
    last bit, whatever start, width and frame are. CASA takes them for channels of equal width in a known frame.
    """
    from casatasks.private.imagerhelpers.imager_base import PySynthesisImager
    from casatools import coordsys

    first = part.first - part.guards[0]
    if part.alone:
        return {}
    if part.arguments.get("specmode") == "cubedata":
        return {"start": start_of(part.arguments, first)}
    imager = PySynthesisImager(params=imager_parameters({**part.arguments, "imagename": f"{part.imagename}.whole"}))
    try:
        imager.initializeImagers()
        whole = imager.SItool.getcsys()["coordsys"]
    finally:
        imager.deleteTools()
    tool = coordsys()
    try:
        tool.fromrecord(whole)
        reference = tool.referencepixel("spectral")["numeric"]
        tool.setreferencepixel(reference - first, "spectral")
        return {"csys": tool.torecord()}
    finally:
        tool.done()


def _show_residual(part: Part) -> Record:
    """Show the deconvolver the residual; it is kept for the minor cycle, and what it says is returned."""
    shown = _new_deconvolver(part)
    try:
        with shown.folder.inside():
            record = plain(shown.imager.initminorcycle())
    except BaseException:
        shown.end()
        raise
    keptimagers.keep(part.run, keptimagers.DECONVOLVER, shown, _cleaned_images(part))
    return record


def _cleaned_images(part: Part) -> list[str]:
    """What a deconvolver has open, or may have."""
    return [f"{escape(part.cleaning)}.*"]


def deconvolver(part: Part, **other: Any) -> AbstractContextManager[Any]:
    """CASA's deconvolver on the planes that it is to see; it ends with the block."""
    return _ending(_new_deconvolver(part, **other))


@contextmanager
def _ending(kept: keptimagers.Kept) -> Iterator[Any]:
    try:
        with kept.folder.inside():
            yield kept.imager
    finally:
        kept.end()


def _new_deconvolver(part: Part, **other: Any) -> keptimagers.Kept:
    from casatools import synthesisdeconvolver

    # The mask that a part was begun with is on disk.
    arguments = {**part.arguments, "imagename": part.cleaning, "mask": "", "startmodel": "", **other}
    tool = synthesisdeconvolver()
    made = keptimagers.Kept(tool, tool.done, OwnFolder(part.imagename))
    try:
        with made.folder.inside():
            parameters = imager_parameters(arguments).getDecPars()["0"]
            tool.setupdeconvolution(decpars={**parameters, "noRequireSumwt": True})
    except BaseException:
        made.end()
        raise
    return made
