"""The jobs of a cube that is cleaned in parts. These functions run on workers and keep all state on disk.

A part is a channel range with images of its own. A cleaning cycle of a part starts from what is on disk and can
be run again: what the cycle changes is kept aside until the next one begins.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Arguments = Mapping[str, Any]
# What initminorcycle and executeminorcycle of CASA's deconvolver return, as plain Python values.
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

# What a minor and a major cycle change.
_CHANGED = ("model", "residual")
JOINED = ("image", "image.pbcor", "residual", "model", "psf", "pb", "mask", "sumwt")


@dataclass(frozen=True)
class Part:
    """A channel range of a cube.

    tclean interpolates the model between neighbouring channels when it predicts visibilities, so a part carries
    *guard* channels beyond its own: they are gridded, never cleaned, and given the neighbour's model.

    Attributes:
        arguments: tclean's, for the part's own channels and its guards.
        guards: how many guard channels come before and after its own.
        neighbours: the image names of the parts before and after it, or empty.
    """

    arguments: Mapping[str, Any]
    guards: tuple[int, int]
    neighbours: tuple[str, str]

    @property
    def imagename(self) -> str:
        return str(self.arguments["imagename"])

    @property
    def own(self) -> slice:
        """The part's own planes among all that its images have."""
        before, after = self.guards
        return slice(before, int(self.arguments["nchan"]) - after)


def begin_part(part: Part) -> tuple[list[Record], list[float]]:
    """Make the PSF, primary beam and dirty image of a part, and its mask.

    Returns:
        the deconvolver's records before and after the mask was set up, as tclean takes them; and the noise of
        each of the part's own planes of the dirty image, in Jy/beam.
    """
    stem = Path(part.imagename)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # tclean would go on from images that an interrupted attempt left.
    for left in stem.parent.glob(f"{stem.name}.*"):
        shutil.rmtree(left) if left.is_dir() else left.unlink()
    with _imager(part.arguments) as imager:
        imager.makePSF()
        imager.makePB()
        imager.runMajorCycle(isCleanCycle=False)
        before = _plain(imager.SDtools[0].initminorcycle())
        imager.updateMask()
        # A record that is taken with the guards masked is the one that counts.
        imager.SDtools[0].initminorcycle()
    _mask_guards(part)
    with _imager(_with_own_mask(part.arguments), gridding=False) as imager:
        after = _initialised(imager)
    return [before, after], plane_noise(f"{part.imagename}.residual")[part.own]


def minor_cycle(part: Part, cycle: int, controls: Record) -> Record:
    """Run the minor cycle of a part, and leave the model of its outermost channels for its neighbours.

    Args:
        part: the part.
        cycle: 1 for the first; with it an interrupted attempt of the same cycle is known, and undone.
        controls: the iteration controls, common to all parts.

    Returns:
        the deconvolver's record of the minor cycle.
    """
    _restore_or_keep(part.imagename, cycle)
    with _imager(_with_own_mask(part.arguments), gridding=False) as imager:
        _initialised(imager)
        executed = imager.SDtools[0].executeminorcycle(iterbotrecord=controls)
    _leave_edges(part)
    return _plain(executed)


def major_cycle(part: Part) -> Record:
    """Grid the residual of a part's model, with its guards set to the neighbours' model.

    Returns:
        the deconvolver's record of the new residual.
    """
    _take_edges(part)
    with _imager(_with_own_mask(part.arguments)) as imager:
        imager.runMajorCycle()
        return _initialised(imager)


def finish_part(part: Part) -> None:
    """Restore the cleaned image of a part, each plane with its own beam, and take its guards away."""
    with _imager(_with_own_mask(part.arguments), gridding=False) as imager:
        imager.restoreImages()
        if part.arguments.get("pbcor"):
            imager.pbcorImages()
    stem = Path(part.imagename)
    for extension in JOINED:
        if Path(f"{stem}.{extension}").is_dir():
            _trim(part, f"{stem}.{extension}", trimmed_name(part.imagename, extension))
    for left in (*stem.parent.glob(f"{stem.name}.before-*"), *stem.parent.glob(f"{stem.name}.edges.npz")):
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def edges_name(imagename: str) -> str:
    """Where a part leaves the model of its outermost channels for its neighbours."""
    return f"{imagename}.edges.npz"


def trimmed_name(imagename: str, extension: str) -> str:
    """Where a part's image without guards is."""
    return f"{imagename}.own.{extension}"


def next_controls(arguments: Arguments, history: Sequence[tuple[str, Sequence[Record]]]) -> Record:
    """Decide, by CASA's own iteration control, whether the whole cube is clean, and how to go on if not.

    Args:
        arguments: tclean's, for the whole cube.
        history: the records of all parts so far, in order: ("begun", one a part) and ("executed", one a part).

    Returns:
        `stop`: 0, or tclean's stop code; `controls` for the next minor cycle; `iterations`; `major_cycles`.
    """
    from casatools import iterbotsink

    parameters = _parameters(arguments)
    control = iterbotsink()
    control.setupiteration(iterpars=parameters.getIterPars())
    most = parameters.getIterPars()["nmajor"]
    stop = cycles = 0
    try:
        for kind, records in history:
            if kind == "begun":
                control.resetminorcycleinfo()
                for record in records:
                    control.mergeinitrecord(record, 0)
                stop = control.cleanComplete(reachedMajorLimit=0 <= most <= cycles)
            else:
                control.getminorcyclecontrols()
                control.resetminorcycleinfo()
                for record in records:
                    control.mergeexecrecord(record, 0)
                if any(record["iterdone"] > 0 for record in records):
                    control.cleanComplete(lastcyclecheck=True)
                    control.endmajorcycle()
                    cycles += 1
        summary = control.getiterationsummary()
        return {
            "stop": int(stop),
            "controls": _plain(control.getminorcyclecontrols()),
            "iterations": int(summary["iterdone"]),
            "major_cycles": cycles,
        }
    finally:
        control.done()


def join_parts(parts: Sequence[str], imagename: str) -> None:
    """Join the images of all parts by reference: the cube's files hold no pixels, the parts keep them."""
    from casatools import image

    for extension in JOINED:
        files = [trimmed_name(part, extension) for part in parts]
        outfile = Path(f"{imagename}.{extension}")
        if not all(Path(file).is_dir() for file in files):
            continue
        if len(files) == 1:
            outfile.unlink(missing_ok=True)
            outfile.symlink_to(os.path.relpath(files[0], outfile.parent))
            continue
        with closing(image()) as tool:
            joined = tool.imageconcat(
                str(outfile),
                infiles=files,
                axis=3,
                relax=True,
                overwrite=True,
                reorder=False,
                mode="nomovevirtual",
            )
            joined.done()


def plane_noise(path: str) -> list[float]:
    """The noise of each plane of an image: 1.4826 times the median absolute deviation of its valid pixels."""
    import numpy as np
    from casatools import image

    with closing(image()) as tool:
        tool.open(path)
        pixels = tool.getchunk()
        valid = tool.getchunk(getmask=True)
    noise = []
    for plane in range(pixels.shape[3]):
        inside = pixels[..., plane][valid[..., plane]]
        if inside.size:
            noise.append(float(1.4826 * np.median(np.abs(inside - np.median(inside)))))
    return noise


def _restore_or_keep(imagename: str, cycle: int) -> None:
    kept = Path(f"{imagename}.before-{cycle}")
    if kept.is_dir():
        # A worker died in this cycle, or before its result was taken: begin it again from where it began.
        for extension in _CHANGED:
            shutil.rmtree(f"{imagename}.{extension}", ignore_errors=True)
            if (kept / extension).is_dir():
                shutil.copytree(kept / extension, f"{imagename}.{extension}")
        return
    making = Path(f"{imagename}.before-{cycle}.partial")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for extension in _CHANGED:
        if Path(f"{imagename}.{extension}").is_dir():
            shutil.copytree(f"{imagename}.{extension}", making / extension)
    making.rename(kept)
    shutil.rmtree(f"{imagename}.before-{cycle - 1}", ignore_errors=True)


def _parameters(arguments: Arguments) -> Any:
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


@contextmanager
def _imager(arguments: Arguments, gridding: bool = True) -> Iterator[Any]:
    """CASA's imager, ready to grid unless it is only to deconvolve or restore; its tools end with the block."""
    from casatasks.private.imagerhelpers.imager_base import PySynthesisImager

    imager = PySynthesisImager(params=_parameters(arguments))
    try:
        if gridding:
            imager.initializeImagers()
            imager.initializeNormalizers()
            imager.setWeighting()
        imager.initializeDeconvolvers()
        yield imager
    finally:
        imager.deleteTools()


def _initialised(imager: Any) -> Record:
    """Make the deconvolver ready for a minor cycle; CASA wants it initialised before and after its mask."""
    imager.SDtools[0].initminorcycle()
    imager.updateMask()
    return _plain(imager.SDtools[0].initminorcycle())


def _mask_guards(part: Part) -> None:
    """Take the guards out of the clean mask."""
    from casatools import image

    if not any(part.guards):
        return
    with closing(image()) as tool:
        tool.open(f"{part.imagename}.mask")
        pixels = tool.getchunk()
        guarded = pixels.copy()
        pixels[...] = 0
        pixels[..., part.own] = guarded[..., part.own]
        tool.putchunk(pixels)


def _leave_edges(part: Part) -> None:
    """Write the model of a part's outermost own channels to where its neighbours look for it."""
    import numpy as np
    from casatools import image

    if not any(part.neighbours):
        return
    width = max(part.guards)
    with closing(image()) as tool:
        tool.open(f"{part.imagename}.model")
        pixels = tool.getchunk()[..., part.own]
    whole = Path(edges_name(part.imagename))
    partial = whole.with_name(f"partial-{whole.name}")
    np.savez(partial, first=pixels[..., :width], last=pixels[..., -width:])
    partial.replace(whole)


def _take_edges(part: Part) -> None:
    """Set the model of a part's guards to what its neighbours cleaned."""
    import numpy as np
    from casatools import image

    before, after = part.neighbours
    if not before and not after:
        return
    with closing(image()) as tool:
        tool.open(f"{part.imagename}.model")
        pixels = tool.getchunk()
        if before:
            pixels[..., : part.guards[0]] = np.load(edges_name(before))["last"][..., -part.guards[0] :]
        if after:
            pixels[..., -part.guards[1] :] = np.load(edges_name(after))["first"][..., : part.guards[1]]
        tool.putchunk(pixels)


def _trim(part: Part, path: str, outfile: str) -> None:
    """Write a part's image without its guards."""
    from casatools import image, regionmanager

    last = int(part.arguments["nchan"]) - part.guards[1] - 1
    with closing(image()) as tool:
        tool.open(path)
        shape = tool.shape()
        box = regionmanager().box(blc=[0, 0, 0, part.guards[0]], trc=[*(int(size) - 1 for size in shape[:3]), last])
        tool.subimage(outfile, region=box, overwrite=True, keepaxes=[0, 1, 2, 3]).done()


def _with_own_mask(arguments: Arguments) -> Arguments:
    """The mask that a part was begun with is on disk, and CASA takes it from there when none is given."""
    return {**arguments, "mask": ""}


def _plain(record: Mapping[str, Any]) -> Record:
    """The same record with plain numbers for numpy's, so that it is small to send and CASA takes it back."""
    return {
        name: value.item() if hasattr(value, "item") and not getattr(value, "ndim", 0) else value
        for name, value in record.items()
    }
