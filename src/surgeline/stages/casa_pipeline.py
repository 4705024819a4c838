"""A task of the existing CASA Pipeline, with its jobs on Surgeline's workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from surgeline.adopt.conducting import FIRST_TASK, Conducted, TaskCall, conduct
from surgeline.adopt.procedures import TASK, value_of
from surgeline.context.legacy import ListedImage
from surgeline.context.records import CalibrationApplication, Decision, Fact, Image, PipelineStage, subject_of
from surgeline.errors import DataError
from surgeline.imaging.statistics import measure
from surgeline.paths import pipeline_context
from surgeline.stages.stage import Parameters as StageParameters
from surgeline.stages.stage import Stage, stage
from surgeline.work.jobs import FunctionCall
from surgeline.work.procedure import Here, Procedure


def _task(name: str) -> str:
    if not TASK.fullmatch(name):
        raise ValueError("it is no task of the CASA Pipeline: h_, hif_, hifa_, hifv_, hsd_ or hsdn_ and a name")
    return name


class Parameters(StageParameters):
    """The task.

    Attributes:
        task: its name, such as hifv_importdata; h_init comes first.
        arguments: its arguments; a text that is a literal of Python means that, as in procedures.
        project: for h_init: what the Pipeline's context is told of the project, by record and name.
        intents: for h_init: what it is told that the processing is for.
    """

    task: Annotated[str, AfterValidator(_task)]
    arguments: dict[str, Any] = Field(default_factory=dict)
    project: dict[str, dict[str, Any]] = Field(default_factory=dict)
    intents: dict[str, str] = Field(default_factory=dict)


@stage
def run(stage: Stage, parameters: Parameters) -> Procedure[list[Fact]]:
    """Run a task of an existing CASA Pipeline, whose results become facts; `surgeline casa-pipeline run` has many."""
    before = stage.context.last(PipelineStage)
    if parameters.task == FIRST_TASK:
        before = None
    elif before is None:
        raise DataError(f"stage {stage.name!r} has no context of the Pipeline's", f"begin with a stage {FIRST_TASK}")
    kept = pipeline_context(stage.name, stage.context.version)
    arguments = {name: value_of(said) for name, said in parameters.arguments.items()}
    call = TaskCall(
        stage.name,
        parameters.task,
        arguments,
        parameters.project,
        parameters.intents,
        before,
        stage.context.version,
        kept,
    )
    job = FunctionCall(conduct, call).declare(
        name=parameters.task,
        reads=[before.context] if before is not None else [],
        writes=[kept],
        changes=before.data if before is not None else [],
    )
    conducted: Conducted = yield Here(job)
    moved = [
        Decision(
            stage=stage.name, what=f"{name} moved to {place}", value="moved", reason="an earlier attempt left it"
        )
        for name, place in conducted.moved
    ]
    images = yield from _images(stage, conducted)
    return [conducted.stage, *_said_anew(stage, conducted), *conducted.scores, *images, *moved]


def _images(stage: Stage, conducted: Conducted) -> Procedure[list[Image]]:
    """What the images are like that the Pipeline lists since this task."""
    known = {image.path for image in stage.known(Image)}
    made = [image for image in conducted.images if image.path not in known]
    found = yield [
        FunctionCall(_measured, image.path).declare(name=f"measure {Path(image.path).name}", reads=[image.path])
        for image in made
    ]
    return [
        Image(
            path=image.path,
            stem=image.path.partition(".image")[0],
            kind=image.kind,
            field=image.field,
            corrected=".pbcor" in image.path,
            **numbers,
        )
        for image, numbers in zip(made, found, strict=True)
        if numbers is not None
    ]


def _measured(path: str) -> dict[str, Any] | None:
    """An image in numbers; None where it cannot be read, of which the Pipeline's stage is to know nothing."""
    try:
        return measure(path)
    except RuntimeError:
        return None


def _said_anew(stage: Stage, conducted: Conducted) -> Iterator[Fact]:
    """What the Pipeline's context says otherwise than it did; what it says no longer is taken back."""
    known: dict[type[Fact], Mapping[str, Fact]] = {}
    for fact in conducted.facts:
        kind = type(fact)
        if kind not in known:
            known[kind] = {subject_of(held): held for held in stage.context.all(kind)}
        if known[kind].get(subject_of(fact)) != fact:
            yield fact
    said = {(type(fact), subject_of(fact)) for fact in conducted.facts}
    for registered in (CalibrationApplication, ListedImage):
        subjects = [(registered, subject_of(held)) for held in stage.context.all(registered)]
        stage.taken_back.extend(subject for subject in subjects if subject not in said)
