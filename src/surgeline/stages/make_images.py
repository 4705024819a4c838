"""Make images: cubes in parts of their channels, continua each by its own jobs, all side by side."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from surgeline.context.records import Command, Decision, Fact, Image, ImagePlan, Picture
from surgeline.errors import DataError
from surgeline.imaging.continuum import clean_continuum
from surgeline.imaging.cube import clean_cube
from surgeline.imaging.statistics import measure
from surgeline.paths import picture
from surgeline.stages import plots
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage
from surgeline.work.jobs import FunctionCall, JobRequest
from surgeline.work.procedure import Aside, Procedure, together


class Parameters(StageParameters):
    """Nothing to override: `plan_images` says what to make."""


def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Make every planned image."""
    plans = stage.known(ImagePlan)
    if not plans:
        raise DataError("no image is planned", "put plan_images before make_images, with cubes or continua on")
    found = yield from together([_one(stage, plan) for plan in plans])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, plan: ImagePlan) -> Procedure[list[Fact]]:
    if plan.kind == "cube":
        cleaned = yield from clean_cube(plan.arguments, stage.workers, plan.threshold_sigma)
    else:
        cleaned = yield from clean_continuum(plan.arguments)
    stem = plan.arguments["imagename"]
    path = f"{stem}.image"
    drawing = picture(plan.name)
    details = {
        "field": plan.field,
        "kind": plan.kind,
        "stem": stem,
        "threshold": cleaned.threshold,
        "iterations": cleaned.iterations,
        "major_cycles": cleaned.major_cycles,
        "stop": cleaned.stop,
    }
    (measured,) = yield [FunctionCall(measure, path).declare(name=f"measure {plan.name}", reads=[path])]
    plot = FunctionCall(plots.image, path, drawing)
    yield Aside([plot.declare(name=f"plot {plan.name}", reads=[path], writes=[drawing])])
    # However it was made, its pixels are those of this one call.
    command = Command(stage=stage.name, text=JobRequest("tclean", cleaned.arguments).command())
    return [
        Image(path=path, **details, **measured),
        command,
        Decision(
            stage=stage.name,
            what=f"how deep to clean {plan.name}",
            value=_depth(plan, cleaned.arguments),
            reason=f"the noise of the dirty image is {cleaned.noise * 1e3:.3g} mJy/beam",
        ),
        Picture(
            path=drawing,
            title=plan.name,
            caption=(
                f"peak {measured['maximum'] * 1e3:.4g}, rms {measured['rms'] * 1e3:.3g} mJy/beam; "
                f"{cleaned.iterations} iterations, stopped by: {cleaned.stop}"
            ),
            topic="image",
        ),
    ]


def _depth(plan: ImagePlan, arguments: Mapping[str, Any]) -> str:
    if plan.threshold_sigma is not None:
        return f"{arguments['threshold']}, {plan.threshold_sigma:g} times the noise of the dirty image"
    if arguments.get("nsigma"):
        return f"{arguments['nsigma']:g} times the noise of the residual, plane by plane"
    return str(arguments.get("threshold", "to the limit of iterations"))
