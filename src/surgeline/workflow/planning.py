"""What a session would do, as far as heuristics can tell before it does anything."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, overload

from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.context.records import Fact, Observation
from surgeline.context.store import Context
from surgeline.errors import DataError
from surgeline.parallel.backend import choose
from surgeline.paths import SessionPaths
from surgeline.stages.inputs import find_input
from surgeline.stages.observation import read_observation
from surgeline.stages.stage import Stage
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.procedure import Aside, Everywhere, Procedure, Together
from surgeline.workflow.graph import needs
from surgeline.workflow.known import find_stale, open_context
from surgeline.workflow.recipe import Recipe, StageRequest, cluster_of


class _NotYetKnown(Exception):
    """A heuristic wants the value of a job that has not run."""


class _Unknown(Sequence[Any]):
    """Stands for the values of jobs that have not run."""

    @overload
    def __getitem__(self, index: int) -> Any: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Any]: ...
    def __getitem__(self, index: int | slice) -> Any:
        raise _NotYetKnown

    def __iter__(self) -> Iterator[Any]:
        raise _NotYetKnown

    def __len__(self) -> int:
        raise _NotYetKnown


def plan_session(
    recipe: Recipe,
    workdir: Path,
    configuration: Configuration,
    force: Sequence[str] = (),
    start_from: str | None = None,
) -> str:
    """Describe the stages of a recipe, their jobs where heuristics can tell, and where they would run.

    Starts nothing and writes nothing. What a session in the working folder has already found out is used; of its
    finished stages, those that have to run again are told with the reason.

    Raises:
        SurgelineError: the recipe or an observation is wrong.
    """
    waits = needs(recipe)
    context = _known_so_far(SessionPaths(workdir.absolute()), configuration)
    stale = find_stale(context, recipe, waits, force, start_from)
    withdrawn = [commit.version for commit in context.log() if commit.stage in stale and commit.withdrawn_by is None]
    context.commit("rerun", [], withdrawn=withdrawn)
    finished = set(context.stages())
    lines = [f"recipe {recipe.name}" + (f": {recipe.description}" if recipe.description else "")]
    lines += [f"observation {vis}" for vis in recipe.vis]
    wants_observation = any(request.task == "import" for request in recipe.stages)
    if wants_observation and not recipe.vis:
        lines.append("no observation yet: give --vis")
    requests = {request.name: request for request in recipe.stages}
    uncertain: set[str] = set()
    for name, before in waits.items():
        request = requests[name]
        lines.append("")
        state = "finished before" if name in finished else where(request, configuration)
        after = f", after {', '.join(before)}" if before else ""
        lines.append(f"{name}{after}: {state}")
        if name in stale:
            lines.append(f"    runs again: {stale[name]}")
        if name in finished or (wants_observation and not recipe.vis):
            continue
        if wants_observation and request.task != "import" and context.last(Observation) is None:
            uncertain.add(name)
            lines.append("    (depends on what the import finds)")
            continue
        jobs, facts, complete = _foretell(request, recipe, context, configuration)
        lines += [f"    {job.declared.name}    {job}" for job in jobs]
        if facts is not None:
            context.commit(name, facts)
        if not complete or uncertain.intersection(before):
            uncertain.add(name)
            lines.append("    (what follows depends on what earlier jobs find)")
    return "\n".join(lines)


def where(request: StageRequest, configuration: Configuration) -> str:
    """Where a stage's jobs would run, and what each asks for.

    Raises:
        RecipeError: the stage asks for a cluster that the configuration does not know.
    """
    settings = configuration.settings
    name = cluster_of(request, configuration)
    kind, reason = _choice(request, configuration)
    if kind == "mpi":
        place = "on the servers of an MPI session (surgeline mpirun --show prints its command line)"
    elif kind == "serial":
        place = f"in the session's process, one after the other ({reason})"
    elif settings.clusters[name].type == "local":
        place = f"on cluster {name!r}: {local.plan(configuration, name)}"
    else:
        place = f"on cluster {name!r} of type {settings.clusters[name].type}"
    return f"{place}; {request.resources} a job"


def _choice(request: StageRequest, configuration: Configuration) -> tuple[str, str]:
    """The backend of a stage, and why; one of MPI can be planned without being in an MPI session."""
    if (request.backend or configuration.settings.backend) == "mpi":
        return "mpi", "it is asked for"
    return choose(configuration, request.cluster, request.backend)


def _known_so_far(paths: SessionPaths, configuration: Configuration) -> Context:
    """A copy in memory of what the working folder's context says, for stages to be foretold on."""
    copy = Context(None)
    if not paths.context.is_file() and not paths.identifier.is_file():
        return copy
    with closing(open_context(paths, configuration, read_only=True)) as stored:
        for commit in stored.log():
            if commit.withdrawn_by is None:
                said: list[Fact] = [stored.fact(fact) for fact in stored.said_by(commit.version) if fact.body]
                copy.commit(commit.stage, said, details=commit.details)
    return copy


def _foretell(
    request: StageRequest, recipe: Recipe, context: Context, configuration: Configuration
) -> tuple[list[Job], list[Fact] | None, bool]:
    """The jobs of a stage, its facts when no job has to run for them, and whether these are all its jobs."""
    name = cluster_of(request, configuration)
    serial = _choice(request, configuration)[0] == "serial"
    workers = 1 if serial else local.plan(configuration, name).workers
    stage = Stage(request.name, recipe.vis, context.at(), workers, recipe.name)
    parameters = request.definition.parameters.model_validate(request.arguments)
    jobs: list[Job] = []
    try:
        facts = _walk(request.definition.run(stage, parameters), jobs)
    except _NotYetKnown:
        return jobs, None, False
    except DataError:
        # An observation that is wrong is told by the first stage; others only lack what is not known yet.
        if request.task == "import":
            raise
        return jobs, None, False
    return jobs, facts, True


def _foreseen(job: Job) -> Observation | None:
    """The value of a job that can be had without running it: what an MS holds, read where it is."""
    if not isinstance(job, FunctionCall) or job.function is not read_observation:
        return None
    vis, origin = job.arguments
    if find_input(origin).kind != "MS":
        return None
    with tempfile.TemporaryDirectory() as scratch:
        CasaProcess(Path.cwd(), Path(scratch) / "casa.log").prepare()
        with errors_to(Path(scratch) / "casa.out"):
            found: Observation = read_observation(origin, origin)
    return found.model_copy(update={"vis": vis})


def _walk(procedure: Procedure[Any], jobs: list[Job]) -> Any:
    """Collect the jobs of a procedure until it wants the value of one."""
    try:
        request = next(procedure)
        while True:
            if isinstance(request, Together):
                stopped = None
                values: Sequence[Any] = []
                results = []
                for inner in request.procedures:
                    try:
                        results.append(_walk(inner, jobs))
                    except _NotYetKnown as unknown:
                        stopped = unknown
                if stopped is not None:
                    raise stopped
                values = results
            elif isinstance(request, Aside):
                jobs.extend(request.jobs)
                values = []
            elif isinstance(request, Everywhere):
                jobs.append(request.job)
                values = _Unknown()
            else:
                jobs.extend(request)
                foreseen = [_foreseen(job) for job in request]
                values = _Unknown() if None in foreseen else foreseen
            request = procedure.send(values)
    except StopIteration as stop:
        return stop.value
