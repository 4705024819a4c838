"""Moments: the integrated intensity and the mean velocity of each cube."""

from __future__ import annotations

from typing import Literal

from pydantic import PositiveFloat

from surgeline.context.records import Decision, Fact, Image
from surgeline.imaging.statistics import measure
from surgeline.imaging.synthesis import plane_noise
from surgeline.stages.plots import asking
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall, Job, JobRequest
from surgeline.work.procedure import Aside, Procedure, together

_SUFFIX: dict[int, Literal["moment 0", "moment 1"]] = {0: "moment 0", 1: "moment 1"}


class Parameters(StageParameters):
    """Which pixels count.

    Attributes:
        threshold: only pixels above so many Jy/beam; left out, from the noise.
        threshold_sigma: without `threshold`, only pixels above so many times the cube's noise.
    """

    threshold: PositiveFloat | None = None
    threshold_sigma: PositiveFloat = 4.0


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Make moments 0 and 1 of each cube, each by its own job.

    Where there is a cube as it was cleaned, its noise is the same everywhere, and moments are of that one.
    """
    cubes = sorted(stage.known(Image, kind="cube"), key=lambda cube: not cube.corrected)
    of_stems = {cube.stem: cube for cube in cubes}
    found = yield from together([_one(stage, parameters, cube) for cube in of_stems.values()])
    return [fact for facts in found for fact in facts]


def _one(stage: Stage, parameters: Parameters, cube: Image) -> Procedure[list[Fact]]:
    threshold, reason = parameters.threshold, "the recipe says so"
    if threshold is None:
        (planes,) = yield [
            FunctionCall(plane_noise, cube.path).declare(name=f"noise of {cube.path}", reads=[cube.path])
        ]
        noise = sorted(planes)[len(planes) // 2]
        threshold = parameters.threshold_sigma * noise
        reason = f"{parameters.threshold_sigma:g} times the noise of {noise * 1e3:.3g} mJy/beam"
    made = {number: f"{cube.stem}.moment{number}" for number in _SUFFIX}
    yield [
        JobRequest(
            "immoments",
            {
                "imagename": cube.path,
                "moments": [number],
                "excludepix": [-1000.0, threshold],
                "outfile": path,
            },
        ).declare(name=f"moment {number} of {cube.field}", reads=[cube.path], writes=[path])
        for number, path in made.items()
    ]
    results = yield [
        FunctionCall(measure, path).declare(name=f"measure moment {number}", reads=[path])
        for number, path in made.items()
    ]
    plots: list[Job] = []
    facts: list[Fact] = [
        Decision(
            stage=stage.name,
            what=f"moments of {cube.field}",
            value=f"pixels above {threshold * 1e3:.3g} mJy/beam",
            reason=reason,
        )
    ]
    for (number, path), measured in zip(made.items(), results, strict=True):
        facts.append(Image(path=path, stem=path, kind=_SUFFIX[number], field=cube.field, **measured))
        what = "integrated intensity" if number == 0 else "mean velocity"
        caption = f"{what}, {measured['minimum']:.5g} to {measured['maximum']:.5g} {measured['unit']}"
        plot, pictures = asking.of_moment(f"{cube.field}: moment {number}", caption, path, number)
        plots.append(plot)
        facts += pictures
    yield Aside(plots)
    return facts
