"""Combine pointings: mosaics from images of their pointings, by linear combination, for all targets side by side.

Each mosaic is a tree of jobs: some make partial sums of a few pointings each, others add those up, a few at a time.
What is computed is told in `imaging/linearmosaic.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePath

from pydantic import Field, PositiveFloat

from surgeline.context.records import Dataset, Decision, Fact, Image, ImagePlan, Observation, Product
from surgeline.errors import DataError
from surgeline.imaging.linearmosaic import (
    Layout,
    PointingImage,
    add_pointings,
    add_sums,
    finish,
    lay_out,
    remove,
)
from surgeline.imaging.statistics import measure
from surgeline.paths import image, product, safe_name
from surgeline.stages.export import export_fits
from surgeline.stages.plots import asking
from surgeline.stages.plots.images import ImageFiles
from surgeline.stages.plots.pixels import read_frequencies
from surgeline.stages.pointings import Mosaic, Pointing, find_mosaics, pointings_of
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Aside, Procedure, together


class Parameters(StageParameters):
    """What to combine.

    Attributes:
        images: names, or patterns of names, of the planned images of pointings; all unless given.
        width: how many pointings, and then how many partial sums, one job adds up.
        cutoff: a mosaic is blank where its noise is more than the inverse of this times its least.
    """

    images: tuple[str, ...] = ("*",)
    width: int = Field(default=4, ge=2)
    cutoff: PositiveFloat = Field(default=0.2, lt=1.0)


@dataclass(frozen=True)
class _Part:
    """The image of a pointing, and what it is of."""

    pointing: Pointing
    plan: ImagePlan
    image: Image

    @property
    def files(self) -> PointingImage:
        """What tclean made of it; of images with Taylor terms the first term."""
        stem = self.image.stem
        term = ".tt0" if self.plan.arguments.get("deconvolver") == "mtmfs" else ""
        return PointingImage(f"{stem}.image{term}", f"{stem}.residual{term}", f"{stem}.pb{term}")


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Make each mosaic.

    Raises:
        DataError: no images are of pointings that overlap.
    """
    combined = []
    for kind, windows in _kinds(stage):
        parts = _parts(stage, parameters, kind, windows)
        for mosaic in find_mosaics([part.pointing for part in parts]):
            own = [part for part in parts if part.pointing in mosaic.pointings]
            combined.append(_combine(stage, parameters, mosaic, own))
    if not combined:
        raise DataError(
            "no images are of pointings that overlap",
            "give plan_images mosaic: linear, and put make_images before this stage; "
            "images whose gridder is mosaic are combined already",
        )
    found = yield from together(combined)
    return [fact for facts in found for fact in facts]


def _kinds(stage: Stage) -> list[tuple[str, str]]:
    """The kinds of images and their windows, each of which makes mosaics of its own."""
    return list(dict.fromkeys((plan.kind, plan.spectral_windows) for plan in stage.known(ImagePlan)))


def _parts(stage: Stage, parameters: Parameters, kind: str, windows: str) -> list[_Part]:
    """The images of single pointings, of one kind and of the same windows."""
    datasets = {found.path: found for found in stage.known(Dataset)}
    observations = {found.vis: found for found in stage.known(Observation)}
    images = {found.stem: found for found in stage.known(Image, kind=kind, corrected=False)}
    parts = []
    for plan in stage.known(ImagePlan, kind=kind, spectral_windows=windows):
        made = images.get(plan.arguments["imagename"])
        chosen = any(fnmatchcase(plan.name, pattern) for pattern in parameters.images)
        single = plan.vis in datasets and plan.arguments.get("gridder", "standard") != "mosaic"
        if made is None or not chosen or not single:
            continue
        dataset = datasets[plan.vis]
        origin = datasets[dataset.parent] if dataset.kind == "line" else dataset
        pointings = pointings_of([(dataset, observations[origin.parent])])
        selected = str(plan.arguments.get("field", ""))
        parts += [_Part(pointing, plan, made) for pointing in pointings if pointing.selection == selected]
    return parts


def _combine(stage: Stage, parameters: Parameters, mosaic: Mosaic, parts: Sequence[_Part]) -> Procedure[list[Fact]]:
    name, stem = _names(stage, mosaic, parts[0])
    path, sensitivity = f"{stem}.image.pbcor", f"{stem}.sensitivity"
    images = [part.files.image for part in parts]
    (layout,) = yield [
        FunctionCall(lay_out, images, mosaic.ra, mosaic.dec).declare(name=f"lay out {name}", reads=images)
    ]
    sums = yield from _reduce(name, stem, parameters.width, parts, layout)
    (least,) = yield [
        FunctionCall(finish, sums, layout, path, sensitivity, parameters.cutoff).declare(
            name=f"finish {name}", reads=[sums], writes=[path, sensitivity]
        )
    ]
    exported = product(f"{name}.sensitivity.fits")
    (measured, frequencies, (size, checksum), _) = yield [
        FunctionCall(measure, path).declare(name=f"measure {name}", reads=[path]),
        FunctionCall(read_frequencies, path).declare(name=f"frequencies of {name}", reads=[path]),
        FunctionCall(export_fits, sensitivity, exported, False, {"OBJECT": mosaic.name}).declare(
            name=f"export {exported}", reads=[sensitivity], writes=[exported]
        ),
        FunctionCall(remove, [sums]).declare(name=f"tidy up {name}", keeps=[sums]),
    ]
    caption = f"corrected for the primary beam; noise {least * 1e3:.3g} mJy/beam where it is least"
    plot, pictures = asking.of_image(name, name, caption, ImageFiles(path), frequencies)
    yield Aside([plot])
    beam = layout.beam
    return [
        Image(path=path, stem=stem, kind=parts[0].image.kind, field=mosaic.name, corrected=True, **measured),
        Product(path=exported, kind="sensitivity", size=size, sha256=checksum),
        Decision(
            stage=stage.name,
            what=name,
            value=f"{len(parts)} pointings on {layout.shape[0]} × {layout.shape[1]} pixels, with a beam of "
            f"{beam.major:.4g} × {beam.minor:.4g} arcsec, {beam.angle:.3g}°"
            + (", to which they were convolved" if layout.smoothed else ""),
            reason="pointings that overlap: " + ", ".join(part.pointing.field.name for part in parts),
        ),
        *pictures,
    ]


def _names(stage: Stage, mosaic: Mosaic, part: _Part) -> tuple[str, str]:
    """The mosaic's name, after those of its pointings' images, and its stem."""
    several = len(stage.known(Observation)) > 1
    prefix = f"{safe_name(PurePath(part.pointing.observation.vis).stem)}." if several else ""
    windows = part.plan.spectral_windows
    spw = "all_spws" if "," in windows else f"spw{windows}"
    name = f"{prefix}{mosaic.name}.linear_mosaic.{spw}.{part.plan.kind}"
    return name, image(name)


def _reduce(name: str, stem: str, width: int, parts: Sequence[_Part], layout: Layout) -> Procedure[str]:
    """Add all pointings up, a few in each job, then their sums, until there is one; its path."""
    jobs, sums = [], []
    for number, first in enumerate(range(0, len(parts), width)):
        files = [part.files for part in parts[first : first + width]]
        boxes = layout.boxes[first : first + width]
        sums.append(f"{stem}.sum.0.{number}")
        jobs.append(
            FunctionCall(add_pointings, files, boxes, layout, sums[-1]).declare(
                name=f"add pointings {first + 1} to {first + len(files)} of {name}",
                reads=[path for each in files for path in (each.image, each.residual, each.primary_beam)],
                writes=[sums[-1]],
            )
        )
    yield jobs
    level = 0
    while len(sums) > 1:
        level += 1
        below, sums, jobs = sums, [], []
        for number, first in enumerate(range(0, len(below), width)):
            group = below[first : first + width]
            sums.append(f"{stem}.sum.{level}.{number}")
            jobs.append(
                FunctionCall(add_sums, group, sums[-1], layout).declare(
                    name=f"add up {len(group)} sums of {name}", reads=group, writes=[sums[-1]]
                )
            )
        yield jobs
        yield [FunctionCall(remove, below).declare(name=f"tidy up sums of {name}", keeps=below)]
    return sums[0]
