"""What a session would do, as far as heuristics can tell before it does anything."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, overload

from surgeline.clusters import certificates, local
from surgeline.clusters.batch import (
    BATCH_TYPES,
    Contact,
    WorkerClass,
    made_to_measure,
    most_workers,
    settings_of,
    worker_classes,
    workload_manager,
)
from surgeline.clusters.settings import BatchSettings
from surgeline.clusters.surge import smallest_first
from surgeline.config import Configuration
from surgeline.context.records import Fact, Observation
from surgeline.context.store import Context
from surgeline.errors import DataError, JobFailed
from surgeline.parallel.backend import choose
from surgeline.parallel.batchworkers import WORKER_MODULE
from surgeline.paths import SessionPaths, queue_folder
from surgeline.stages.inputs import find_input
from surgeline.stages.observation import read_observation
from surgeline.stages.stage import Stage
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.work.estimates import Estimates, default_file
from surgeline.work.jobs import FunctionCall, Job
from surgeline.work.procedure import Aside, Everywhere, Procedure, Together
from surgeline.work.resources import Resources
from surgeline.workflow.asking import before_there_are_any, declared, gpus_of_workers, memory_of_workers
from surgeline.workflow.checking import check_memory
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
    paths = SessionPaths(workdir.absolute())
    estimates = Estimates(default_file(os.environ))
    queues = Queues(configuration, estimates)
    context = _known_so_far(paths, configuration)
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
        after = f", after {', '.join(before)}" if before else ""
        again = [f"    runs again: {stale[name]}"] if name in stale else []
        if name in finished:
            lines += [f"{name}{after}: finished before", *again]
            continue
        blind = wants_observation and request.task != "import" and context.last(Observation) is None
        if blind or (wants_observation and not recipe.vis):
            lines += [f"{name}{after}: {where(request, configuration, queues)}", *again]
            if recipe.vis:
                uncertain.add(name)
                lines.append("    (depends on what the import finds)")
            continue
        jobs, facts, complete = _foretell(request, recipe, context, configuration)
        jobs = [declared(request, job, estimates) for job in jobs]
        lines += [f"{name}{after}: {where(request, configuration, queues, jobs)}", *again]
        lines += [f"    {job.declared.name}{_expected(job)}    {job}" for job in jobs]
        lines += _refusal(request, configuration, jobs)
        if facts is not None:
            context.commit(name, facts)
        if not complete or uncertain.intersection(before):
            uncertain.add(name)
            lines.append("    (what follows depends on what earlier jobs find)")
    return "\n".join([*lines, *queues.texts(paths)])


class Queues:
    """The clusters with a queue that stages would use, and which of their worker classes."""

    def __init__(self, configuration: Configuration, estimates: Estimates) -> None:
        """Prepare; `estimates` is what is known of jobs from earlier sessions."""
        self._configuration = configuration
        self._estimates = estimates
        self._used: dict[str, dict[str, WorkerClass]] = {}

    def place(self, request: StageRequest, name: str, jobs: Sequence[Job]) -> str:
        """Which workers of a cluster a stage's jobs go to, how many there are at most, and where else they may go.

        Args:
            request: the stage.
            name: the cluster.
            jobs: what is known of the stage's jobs.

        Raises:
            ConfigError: the cluster's settings are wrong.
        """
        settings = settings_of(self._configuration, name)
        asked = self.asked(request, jobs)
        of_class: dict[str, list[Resources]] = {}
        for resources in asked:
            of_class.setdefault(self._class_for(resources, name).name, []).append(resources)
        told = "; ".join(self._told(self._used[name][kind], settings.maximum, of_class[kind]) for kind in of_class)
        late = f" after {settings.queue_deadline} s in the queue" if settings.queue_deadline else ""
        elsewhere = f"; without any{late}, on cluster {settings.otherwise!r}" if settings.otherwise else ""
        return f"on cluster {name!r} of type {settings.type}: {told}{elsewhere}"

    def asked(self, request: StageRequest, jobs: Sequence[Job]) -> list[Resources]:
        """What a stage's jobs ask for, each amount once; what earlier ones took, where none is known yet."""
        of_jobs = [job.declared.resources for job in jobs]
        return list(dict.fromkeys(of_jobs or [before_there_are_any(request, self._estimates)[0]]))

    def texts(self, paths: SessionPaths) -> Iterator[str]:
        """The lines of what would be submitted for a worker of each class that is used.

        Raises:
            ClusterError: what forms it is not installed.
        """
        for name, classes in self._used.items():
            manager = workload_manager(self._configuration, name)
            contact = contact_to_be(self._configuration, name, paths)
            for kind in (worker_class.name for worker_class in smallest_first(classes.values())):
                yield ""
                yield f"what is submitted for a worker of class {kind!r} of cluster {name!r}:"
                yield ""
                yield manager.text(classes[kind], contact).rstrip()

    def _class_for(self, asked: Resources, name: str) -> WorkerClass:
        """The smallest class that a job fits, or one that is made to its measure."""
        used = self._used.setdefault(name, {})
        classes = worker_classes(self._configuration, name)
        known = {worker_class.name: worker_class for worker_class in (*classes, *used.values())}
        fitting = smallest_first(c for c in known.values() if asked.fits(c.offers))
        found = known[fitting[0].name] if fitting else made_to_measure(classes, asked, f"measured-{len(known)}")
        return used.setdefault(found.name, found)

    @staticmethod
    def _told(worker_class: WorkerClass, maximum: int, asked: Iterable[Resources]) -> str:
        kind = "made to measure" if worker_class.name.startswith("measured-") else f"of class {worker_class.name!r}"
        most = min(worker_class.maximum, maximum)
        return f"workers {kind} ({worker_class.offers}), at most {most}, for {_amounts(asked)} a job"


def contact_to_be(configuration: Configuration, name: str, paths: SessionPaths) -> Contact:
    """How workers would find a session, with words in the place of what only a session knows."""
    settings = settings_of(configuration, name)
    own_name = f"{settings.name}-SESSION"
    folder = queue_folder(paths.logs, own_name)
    if not isinstance(settings, BatchSettings):
        return Contact("", WORKER_MODULE, own_name, folder)
    authority, certificate, key = (folder / file for file in certificates.NAMES)
    return Contact(
        f"{'tls' if settings.tls else 'tcp'}://{settings.host or 'SESSION_HOST'}:{settings.port or 'PORT'}",
        WORKER_MODULE,
        own_name,
        folder,
        (authority, certificate, key) if settings.tls else None,
    )


def where(request: StageRequest, configuration: Configuration, queues: Queues, jobs: Sequence[Job] = ()) -> str:
    """Where a stage's jobs would run, and what each asks for.

    Args:
        request: the stage.
        configuration: the whole configuration.
        queues: remembers which worker classes are used.
        jobs: what is known of its jobs.

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
    elif settings.clusters[name].type in BATCH_TYPES:
        return queues.place(request, name, jobs)
    elif settings.clusters[name].type == "local":
        place = f"on cluster {name!r}: {local.plan(configuration, name)}"
    else:
        place = f"on cluster {name!r} of type {settings.clusters[name].type}"
    return f"{place}; {_amounts(queues.asked(request, jobs))} a job"


def _amounts(asked: Iterable[Resources]) -> str:
    """What jobs ask for, in words: of amounts that differ in memory only, the least and the most."""
    alike: dict[Resources, list[int]] = {}
    for resources in asked:
        memory = alike.setdefault(resources.model_copy(update={"memory": None}), [])
        memory += [resources.memory] if resources.memory else []
    told = []
    for rest, memory in alike.items():
        least = rest.model_copy(update={"memory": min(memory, default=None)})
        most = f" (up to {max(memory) / 1e9:.3g} GB)" if len(memory) > 1 else ""
        told.append(f"{least}{most}")
    return " or ".join(told)


def _expected(job: Job) -> str:
    """What a job is expected to take, where it is known."""
    memory, seconds = job.declared.resources.memory, job.declared.seconds
    told = [f"{memory / 1e9:.3g} GB"] if memory else []
    told += [f"{seconds:.0f} s"] if seconds else []
    return f"    {', '.join(told)}" if told else ""


def _refusal(request: StageRequest, configuration: Configuration, jobs: Sequence[Job]) -> list[str]:
    """That the stage would be refused, if it would be."""
    try:
        check_memory(request, jobs, configuration, _choice(request, configuration)[0])
    except JobFailed as refused:
        return [f"    would not run: {refused.message}", f"    {refused.way_out}"]
    return []


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
    workers = _workers(request, configuration)
    memory = memory_of_workers(request, configuration, _choice(request, configuration)[0])
    gpus = gpus_of_workers(request, configuration, _choice(request, configuration)[0])
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
    kind, _ = _choice(request, configuration)
    if kind == "serial":
        return 1
    if kind == "dask" and configuration.settings.clusters[name].type in BATCH_TYPES:
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
            else:
                jobs.extend(request)
                foreseen = [_foreseen(job) for job in request]
                values = _Unknown() if None in foreseen else foreseen
            request = procedure.send(values)
    except StopIteration as stop:
        return stop.value
