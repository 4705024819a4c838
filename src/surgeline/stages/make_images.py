"""Make images, all side by side, each in the way that suits it: by channels, by rows, or by a job of its own."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

from surgeline.context.records import Command, Decision, Fact, Image, ImagePlan
from surgeline.errors import DataError
from surgeline.imaging.cleaned import Cleaned
from surgeline.imaging.gpu.engines import Engine, Gridding, Otherwise
from surgeline.imaging.products import product
from surgeline.imaging.statistics import measure
from surgeline.imaging.ways import Way, check_way, clean_image
from surgeline.stages.plots import asking
from surgeline.stages.plots.images import ImageFiles
from surgeline.stages.plots.pixels import read_frequencies
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Aside, Procedure, together


class Parameters(StageParameters):
    """Which of the planned images to make, and how.

    Attributes:
        images: their names, or patterns of them, such as *.cube; all unless given.
        parallel: how each is made: channels and rows by many jobs; serial by one; mpi by tclean(parallel=True) in an
            MPI session of its job, which has a server for each of the job's cores; auto by the rule of
            `surgeline.imaging.ways`.
        engine: what grids: casa is CASA's imager; cpu is ducc0 and gpu our own kernels on a GPU, for continua alone.
        otherwise: cpu where that may do it when there is no GPU, or one fails.
    """

    images: tuple[str, ...] = ("*",)
    parallel: Way = "auto"
    engine: Engine = "casa"
    otherwise: Otherwise | None = None


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Make the planned images.

    Raises:
        DataError: there are none.
        BadInput: one cannot be made in the way that is asked for, or not with that engine.
        JobFailed: there is no GPU for the engine that needs one.
    """
    plans = stage.known(ImagePlan)
    if not plans:
        raise DataError("no image is planned", "put plan_images before make_images, with cubes or continua on")
    chosen = [plan for plan in plans if any(fnmatchcase(plan.name, pattern) for pattern in parameters.images)]
    if not chosen:
        names = ", ".join(plan.name for plan in plans)
        raise DataError(f"no image of stage {stage.name!r} is planned", f"these are: {names}")
    gridding = Gridding(parameters.engine, parameters.otherwise)
    for plan in chosen:
        check_way(plan.arguments, parameters.parallel, gridding)
    found = yield from together([_one(stage, plan, parameters.parallel, gridding) for plan in chosen])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, plan: ImagePlan, way: Way, gridding: Gridding) -> Procedure[list[Fact]]:
    cleaned, chosen = yield from clean_image(
        plan.arguments,
        stage.workers,
        way,
        plan.threshold_sigma,
        stage.memory,
        stage.cores,
        plan.visibilities,
        gridding,
        stage.gpus,
    )
    made = {product(plan.arguments, "image"): False}
    if plan.arguments.get("pbcor"):
        made[product(plan.arguments, "image.pbcor")] = True
    path, *corrected = made
    details = {
        "field": plan.field,
        "kind": plan.kind,
        "stem": plan.arguments["imagename"],
        "threshold": cleaned.threshold,
        "iterations": cleaned.iterations,
        "major_cycles": cleaned.major_cycles,
        "stop": cleaned.stop,
    }
    looks = [
        FunctionCall(measure, image).declare(name=f"measure {image.rpartition('/')[2]}", reads=[image])
        for image in made
    ]
    if plan.kind == "cube":
        looks.append(FunctionCall(read_frequencies, path).declare(name=f"frequencies of {plan.name}", reads=[path]))
    found = yield looks
    measured = found[0]
    frequencies = found[len(made)] if plan.kind == "cube" else ()
    files = ImageFiles(
        path,
        residual=product(plan.arguments, "residual"),
        mask=f"{plan.arguments['imagename']}.mask",
        corrected="".join(corrected),
        masks_sources=plan.arguments.get("usemask") != "pb",
    )
    caption = (
        f"peak {measured['maximum'] * 1e3:.4g}, rms {measured['rms'] * 1e3:.3g} mJy/beam; "
        f"{cleaned.iterations} iterations, stopped by: {cleaned.stop}"
    )
    plot, pictures = asking.of_image(plan.name, plan.name, caption, files, frequencies, plan.vis)
    yield Aside([plot])
    # However it was made, its pixels are those of this one call.
    command = Command(stage=stage.name, text=JobRequest("tclean", cleaned.arguments).command())
    return [
        *(
            Image(path=image, corrected=corrected, **details, **numbers)
            for (image, corrected), numbers in zip(made.items(), found, strict=False)
        ),
        command,
        Decision(
            stage=stage.name,
            what=f"how deep to clean {plan.name}",
            value=_depth(plan, cleaned.arguments),
            reason=f"the noise of the dirty image is {cleaned.noise * 1e3:.3g} mJy/beam",
        ),
        Decision(stage=stage.name, what=f"how to make {plan.name}", value=chosen.way, reason=chosen.reason),
        *_engine(stage, plan, cleaned),
        *pictures,
    ]


def _engine(stage: Stage, plan: ImagePlan, cleaned: Cleaned) -> list[Fact]:
    """What gridded an image, where that is not CASA's imager."""
    gridding = cleaned.gridding
    if gridding.engine == "casa":
        return []
    what = f"what grids {plan.name}"
    return [Decision(stage=stage.name, what=what, value=f"engine {gridding.engine}", reason=gridding.told)]


def _depth(plan: ImagePlan, arguments: Mapping[str, Any]) -> str:
    if plan.threshold_sigma is not None:
        return f"{arguments['threshold']}, {plan.threshold_sigma:g} times the noise of the dirty image"
    if arguments.get("nsigma"):
        return f"{arguments['nsigma']:g} times the noise of the residual, plane by plane"
    return str(arguments.get("threshold", "to the limit of iterations"))
