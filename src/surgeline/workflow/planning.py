"""What a session would do, as far as heuristics can tell before it does anything."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from surgeline.config import Configuration
from surgeline.context.records import Observation
from surgeline.errors import JobFailed
from surgeline.paths import SessionPaths
from surgeline.work.estimates import Estimates, default_file
from surgeline.work.jobs import Job
from surgeline.workflow.asking import declared
from surgeline.workflow.checking import check_memory
from surgeline.workflow.foretelling import foretell, known_so_far
from surgeline.workflow.graph import needs
from surgeline.workflow.known import find_stale
from surgeline.workflow.places import Queues, choice, where
from surgeline.workflow.recipe import Recipe, StageRequest


@dataclass(frozen=True)
class PlannedStage:
    """What is known of a stage before it runs.

    Attributes:
        name: its name.
        task: which of the known stages it is.
        needs: the stages that it waits for.
        state: finished: it has, before; unseen: nothing is known of its jobs until the import has run; foretold: its
            heuristics were asked.
        again: why it runs again; empty of one that does not.
        place: where its jobs would run.
        jobs: those that are known.
        complete: whether these are all; and sure, as what they depend on is known, too.
        refusal: lines that say why it would not run, if it would not.
    """

    name: str
    task: str
    needs: tuple[str, ...]
    state: Literal["finished", "unseen", "foretold"]
    again: str = ""
    place: str = ""
    jobs: tuple[Job, ...] = ()
    complete: bool = True
    refusal: tuple[str, ...] = ()


@dataclass(frozen=True)
class Plan:
    """What a session would do.

    Attributes:
        heading: the recipe and the observations.
        stages: in an order in which they can run.
        submissions: the lines of what would be submitted for workers of clusters with a queue.
    """

    heading: tuple[str, ...]
    stages: tuple[PlannedStage, ...]
    submissions: tuple[str, ...] = field(default=(), repr=False)

    def __str__(self) -> str:
        lines = list(self.heading)
        for stage in self.stages:
            lines += ["", *_told(stage)]
        return "\n".join([*lines, *self.submissions])


def plan_session(
    recipe: Recipe,
    workdir: Path,
    configuration: Configuration,
    force: Sequence[str] = (),
    start_from: str | None = None,
) -> Plan:
    """Foretell the stages of a recipe, their jobs where heuristics can tell, and where they would run.

    Starts nothing and writes nothing. What a session in the working folder has already found out is used; of its
    finished stages, those that have to run again are told with the reason.

    Raises:
        SurgelineError: the recipe or an observation is wrong.
    """
    waits = needs(recipe)
    paths = SessionPaths(workdir.absolute())
    estimates = Estimates(default_file(os.environ))
    queues = Queues(configuration, estimates)
    context = known_so_far(paths, configuration)
    stale = find_stale(context, recipe, waits, force, start_from)
    withdrawn = [commit.version for commit in context.log() if commit.stage in stale and commit.withdrawn_by is None]
    context.commit("rerun", [], withdrawn=withdrawn)
    finished = set(context.stages())
    heading = [f"recipe {recipe.name}" + (f": {recipe.description}" if recipe.description else "")]
    heading += [f"observation {vis}" for vis in recipe.vis]
    wants_observation = any(request.task == "import" for request in recipe.stages)
    if wants_observation and not recipe.vis:
        heading.append("no observation yet: give --vis")
    requests = {request.name: request for request in recipe.stages}
    uncertain: set[str] = set()
    stages = []
    for name, before in waits.items():
        request = requests[name]
        again = stale.get(name, "")
        if name in finished:
            stages.append(PlannedStage(name, request.task, before, "finished", again))
            continue
        blind = wants_observation and request.task != "import" and context.last(Observation) is None
        if blind or (wants_observation and not recipe.vis):
            place = where(request, configuration, queues)
            stages.append(PlannedStage(name, request.task, before, "unseen", again, place, complete=not recipe.vis))
            if recipe.vis:
                uncertain.add(name)
            continue
        jobs, facts, complete = foretell(request, recipe, context, configuration)
        jobs = [declared(request, job, estimates) for job in jobs]
        if facts is not None:
            context.commit(name, facts)
        if not complete or uncertain.intersection(before):
            uncertain.add(name)
        stages.append(
            PlannedStage(
                name,
                request.task,
                before,
                "foretold",
                again,
                where(request, configuration, queues, jobs),
                tuple(jobs),
                name not in uncertain,
                _refusal(request, configuration, jobs),
            )
        )
    return Plan(tuple(heading), tuple(stages), tuple(queues.texts(paths)))


def _told(stage: PlannedStage) -> list[str]:
    """The lines of a stage."""
    after = f", after {', '.join(stage.needs)}" if stage.needs else ""
    again = [f"    runs again: {stage.again}"] if stage.again else []
    if stage.state == "finished":
        return [f"{stage.name}{after}: finished before", *again]
    lines = [f"{stage.name}{after}: {stage.place}", *again]
    lines += [f"    {job.declared.name}{_expected(job)}    {job}" for job in stage.jobs]
    lines += [f"    {line}" for line in stage.refusal]
    if not stage.complete:
        unseen = "depends on what the import finds"
        lines.append(
            f"    ({unseen if stage.state == 'unseen' else 'what follows depends on what earlier jobs find'})"
        )
    return lines


def _expected(job: Job) -> str:
    """What a job is expected to take, where it is known."""
    memory, seconds = job.declared.resources.memory, job.declared.seconds
    told = [f"{memory / 1e9:.3g} GB"] if memory else []
    told += [f"{seconds:.0f} s"] if seconds else []
    return f"    {', '.join(told)}" if told else ""


def _refusal(request: StageRequest, configuration: Configuration, jobs: Sequence[Job]) -> tuple[str, ...]:
    """That the stage would be refused, if it would be."""
    try:
        check_memory(request, jobs, configuration, choice(request, configuration)[0])
    except JobFailed as refused:
        return f"would not run: {refused.message}", refused.way_out
    return ()
