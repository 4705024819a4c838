"""The jobs of a stage and what it would find out, as far as its heuristics can tell before anything has run."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, overload

from surgeline.clusters import local
from surgeline.clusters.batch import most_workers, settings_of, worker_classes
from surgeline.config import Configuration
from surgeline.context.records import Fact, Observation
from surgeline.context.store import Context
from surgeline.errors import DataError
from surgeline.paths import SessionPaths
from surgeline.stages.inputs import find_input
from surgeline.stages.observation import read_observation
from surgeline.stages.stage import Stage
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.procedure import Aside, Everywhere, Here, Procedure, Together
from surgeline.workflow.asking import gpus_of_workers, memory_of_workers
from surgeline.workflow.known import open_context
from surgeline.workflow.places import choice
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


def known_so_far(paths: SessionPaths, configuration: Configuration) -> Context:
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


def foretell(
    request: StageRequest, recipe: Recipe, context: Context, configuration: Configuration
) -> tuple[list[Job], list[Fact] | None, bool]:
    """The jobs of a stage, its facts when no job has to run for them, and whether these are all its jobs."""
    workers = _workers(request, configuration)
    memory = memory_of_workers(request, configuration, choice(request, configuration)[0])
    gpus = gpus_of_workers(request, configuration, choice(request, configuration)[0])
    stage = Stage(request.name, recipe.vis, context.at(), workers, recipe.name, memory=memory, gpus=gpus)
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


def _workers(request: StageRequest, configuration: Configuration) -> int:
    """How many workers a stage would be told that there are."""
    name = cluster_of(request, configuration)
    kind, _ = choice(request, configuration)
    if kind == "serial":
        return 1
    if kind == "dask" and configuration.settings.clusters[name].has_queue:
        return most_workers(settings_of(configuration, name), worker_classes(configuration, name))
    return local.plan(configuration, name).workers


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
            elif isinstance(request, Here):
                jobs.append(request.job)
                raise _NotYetKnown
            else:
                jobs.extend(request)
                foreseen = [_foreseen(job) for job in request]
                values = _Unknown() if None in foreseen else foreseen
            request = procedure.send(values)
    except StopIteration as stop:
        return stop.value
