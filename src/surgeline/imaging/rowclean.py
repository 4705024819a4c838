"""What is done once for all rows of a continuum: normalising, masks, minor cycles, restoring. Runs on workers."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from glob import escape
from pathlib import Path
from typing import Any

from surgeline.imaging import keptimagers
from surgeline.imaging.products import endings, images_named, parts_folder, remove_images
from surgeline.imaging.rowcontrol import History, control_of
from surgeline.imaging.rowimages import (
    MODEL,
    RESIDUAL,
    START,
    continuum_parameters,
    copy_image,
    imager_tools,
    new_imager,
    part_stem,
    set_pixels,
    stems_of,
)
from surgeline.imaging.synthesis import (
    Arguments,
    Record,
    plain,
    plane_noise,
    record_of_dirty,
    threshold_at,
    typical_noise,
)
from surgeline.work.ownfolder import OwnFolder


@dataclass(frozen=True)
class Minor:
    """What came of a minor cycle.

    Attributes:
        arguments: tclean's, with the threshold that follows from the noise.
        history: what was done up to now.
        done: whether nothing is left to do.
        record: what tclean returns, where all is done.
        noise: of each plane of the main image's residual before it, in Jy/beam.
    """

    arguments: Mapping[str, Any]
    history: History
    done: bool
    record: Record
    noise: list[float]


def finish_psf(arguments: Arguments, labels: Sequence[str]) -> None:
    """Make PSF and primary beam of the sums of the parts', and give the parts the start model, if there is one."""
    parameters, gathering = continuum_parameters(arguments), _gathering(arguments, labels)
    # A normalizer that finds a model and no PSF takes it that images are to be divided by their weights.
    for stem in stems_of(parameters):
        remove_images(stem)
    with imager_tools(parameters, gathering) as imager:
        imager.initializeNormalizers()
        imager.initializeDeconvolvers()
        for number, normalizer in enumerate(imager.PStools):
            normalizer.gatherpsfweight()
            normalizer.dividepsfbyweight()
            normalizer.divideweightbysumwt()
            imager.check_psf(number)
        for normalizer in imager.PStools:
            normalizer.normalizeprimarybeam()
    for number, stem in enumerate(stems_of(parameters)):
        for path, ending in images_named(part_stem(arguments, START, number), ("model",)):
            copy_image(path, Path(stem + ending))
    with imager_tools(parameters, gathering) as imager:
        imager.initializeNormalizers()
        _give_model(arguments, imager)


def minor_cycle(
    arguments: Arguments, labels: Sequence[str], history: History, run: str, threshold_sigma: float | None = None
) -> Minor:
    """Make the residual of the sums of the parts', and clean on, unless CASA says that it is clean.

    Args:
        arguments: tclean's.
        labels: whose images to add up.
        history: what was done before.
        run: see `RowPart`.
        threshold_sigma: the first minor cycle sets the threshold to so many times the noise of the dirty image.
    """
    cycle = sum(kind == "executed" for kind, _ in history)
    with _deconvolver(arguments, labels, history, run) as imager:
        _take_residual(arguments, imager, labels[0])
        noise = plane_noise(_first_residual(imager))
        if threshold_sigma is not None and cycle == 0:
            threshold = threshold_at(threshold_sigma, typical_noise(noise), str(arguments["imagename"]))
            arguments = {**arguments, "threshold": threshold}
        done: History = [*history, ("major", [])]
        if int(arguments.get("niter", 0)) < 1:
            return Minor(arguments, done, True, record_of_dirty(arguments), noise)
        _keep_residual(arguments, imager, cycle)
        done += _look(arguments, imager, cycle)
        control = control_of(arguments, done)
        if not control["stop"]:
            done.append(("executed", _execute(imager, control["controls"])))
            if any(record["iterdone"] > 0 for record in done[-1][1]):
                _give_model(arguments, imager)
                return Minor(arguments, done, False, {}, noise)
            # So tclean ends, too, when its minor cycle finds nothing to do.
            imager.updateMask()
            done.append(("begun", _initialised(imager)))
            control = control_of(arguments, done)
        if control["stop"]:
            _revert_masks(imager)
        return Minor(arguments, done, True, control["record"], noise)


def finish_image(arguments: Arguments) -> None:
    """Restore the cleaned image, and remove what parts made."""
    keptimagers.forget()
    if arguments.get("restoration", True):
        with imager_tools(continuum_parameters(arguments, begun=True)) as imager:
            imager.initializeDeconvolvers()
            imager.restoreImages()
            if arguments.get("pbcor"):
                imager.pbcorImages()
    shutil.rmtree(parts_folder(arguments), ignore_errors=True)


def _gathering(arguments: Arguments, labels: Sequence[str]) -> list[list[str]]:
    images = len(stems_of(continuum_parameters(arguments)))
    return [[part_stem(arguments, label, number) for label in labels] for number in range(images)]


@contextmanager
def _deconvolver(arguments: Arguments, labels: Sequence[str], history: History, run: str) -> Iterator[Any]:
    """CASA's deconvolvers and normalizers, in the state in which the last minor cycle left them.

    Automasking keeps in memory what it learnt in earlier cycles. So its tools are kept, and where they are lost, the
    earlier minor cycles are run again.
    """
    cycle = sum(kind == "executed" for kind, _ in history)
    automatic = _masks_itself(arguments)
    stems = stems_of(continuum_parameters(arguments))
    images = [f"{escape(stem)}.*" for stem in stems]
    kept = keptimagers.take(run, keptimagers.DECONVOLVER, images)
    if kept is not None and kept.cycle != cycle:
        kept.end()
        kept = None
    begun = kept is not None
    if kept is None:
        _restore_or_keep(arguments, stems, 0 if automatic else cycle)
        parameters = continuum_parameters(arguments, begun=cycle > 0 and not automatic)
        imager = new_imager(parameters, _gathering(arguments, labels))
        kept = keptimagers.Kept(imager, imager.deleteTools, OwnFolder(stems[0]))
    imager = kept.imager
    try:
        with kept.folder.inside():
            if not begun:
                imager.initializeDeconvolvers()
                if automatic and cycle > 0:
                    _repeat(arguments, imager, history)
            imager.initializeNormalizers()
            try:
                yield imager
            finally:
                # The images that they add up may be others the next time.
                imager.deleteNormalizers()
                imager.PStools = []
    except BaseException:
        kept.end()
        raise
    if automatic:
        kept.cycle = cycle + 1
        keptimagers.keep(run, keptimagers.DECONVOLVER, kept, images)
    else:
        kept.end()


def _masks_itself(arguments: Arguments) -> bool:
    return str(arguments.get("usemask", "user")).startswith("auto")


def _restore_or_keep(arguments: Arguments, stems: Sequence[str], cycle: int) -> None:
    """Keep aside what a minor cycle changes; where that was done, the cycle was begun before, and is begun anew."""
    kept = Path(parts_folder(arguments)) / f"before-{cycle}"
    changed = [
        (Path(stem + ending), kept / f"{number}{ending}")
        for number, stem in enumerate(stems)
        for kind in ("model", "mask")
        for ending in endings(kind)
    ]
    if kept.is_dir():
        for path, aside in changed:
            shutil.rmtree(path, ignore_errors=True)
            if aside.is_dir():
                shutil.copytree(aside, path)
        return
    making = kept.with_name(f"{kept.name}.partial")
    shutil.rmtree(making, ignore_errors=True)
    making.mkdir()
    for path, aside in changed:
        if path.is_dir():
            shutil.copytree(path, making / aside.name)
    making.rename(kept)
    shutil.rmtree(kept.with_name(f"before-{cycle - 1}"), ignore_errors=True)


def _keep_residual(arguments: Arguments, imager: Any, cycle: int) -> None:
    """Where automasking may have to be repeated, keep what it was done on."""
    if _masks_itself(arguments):
        for number in range(imager.NF):
            for path, ending in images_named(imager.allimpars[str(number)]["imagename"], (*RESIDUAL, "model")):
                set_pixels(Path(f"{part_stem(arguments, f'cycle-{cycle}', number)}{ending}"), path)


def _repeat(arguments: Arguments, imager: Any, history: History) -> None:
    """Run all earlier minor cycles again, on the residuals that were kept."""
    done: History = []
    cycle = 0
    for kind, records in history:
        if kind == "major":
            for number in range(imager.NF):
                kept = part_stem(arguments, f"cycle-{cycle}", number)
                for path, ending in images_named(kept, (*RESIDUAL, "model")):
                    set_pixels(Path(imager.allimpars[str(number)]["imagename"] + ending), path)
            _look(arguments, imager, cycle)
        elif kind == "executed":
            _execute(imager, control_of(arguments, done)["controls"])
            cycle += 1
        done.append((kind, records))


def _take_residual(arguments: Arguments, imager: Any, first: str) -> None:
    for number, normalizer in enumerate(imager.PStools):
        normalizer.gatherresidual()
        normalizer.divideresidualbyweight()
        # Where images overlap, gridders have taken out of one model what is in the other, too.
        overlapped = list(images_named(part_stem(arguments, first, number), ("model",))) if imager.NF > 1 else []
        for path, ending in overlapped:
            set_pixels(Path(imager.allimpars[str(number)]["imagename"] + ending), path)
        if overlapped:
            normalizer.multiplymodelbyweight()


def _give_model(arguments: Arguments, imager: Any) -> None:
    """Leave the model for parts to predict visibilities from, where there is one."""
    for number, normalizer in enumerate(imager.PStools):
        images = list(images_named(imager.allimpars[str(number)]["imagename"], ("model",)))
        if images:
            normalizer.dividemodelbyweight()
            for path, ending in images:
                set_pixels(Path(part_stem(arguments, MODEL, number) + ending), path)
            normalizer.multiplymodelbyweight()


def _look(arguments: Arguments, imager: Any, cycle: int) -> History:
    """Show the residual to the deconvolvers, and update the mask; what tclean is told of it, as often as it is."""
    before = _initialised(imager) if cycle == 0 or not _masks_itself(arguments) else []
    imager.updateMask()
    after: History = [("begun", _initialised(imager))]
    return [("begun", before), *after] if cycle == 0 else after


def _initialised(imager: Any) -> list[Record]:
    return [plain(tool.initminorcycle()) for tool in imager.SDtools]


def _execute(imager: Any, controls: Record) -> list[Record]:
    executed = [plain(tool.executeminorcycle(iterbotrecord=controls)) for tool in imager.SDtools]
    for mask, previous in _automatic_masks(imager):
        shutil.rmtree(previous, ignore_errors=True)
        if mask.is_dir():
            shutil.copytree(mask, previous)
    return executed


def _revert_masks(imager: Any) -> None:
    """As tclean does at its end: automasking's last mask was not cleaned in."""
    for mask, previous in _automatic_masks(imager):
        if previous.is_dir():
            shutil.rmtree(mask, ignore_errors=True)
            previous.rename(mask)


def _automatic_masks(imager: Any) -> list[tuple[Path, Path]]:
    stems = [
        imager.allimpars[number]["imagename"]
        for number, deconvolution in imager.alldecpars.items()
        if "auto" in deconvolution["usemask"]
    ]
    return [(Path(f"{stem}.mask"), Path(f"{stem}.prev.mask")) for stem in stems]


def _first_residual(imager: Any) -> str:
    (path, _), *_ = images_named(imager.allimpars["0"]["imagename"], RESIDUAL)
    return str(path)
