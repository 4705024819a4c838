"""One run of a recipe in one working folder; it can stop and go on."""

from __future__ import annotations

import errno
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from pydantic_core import to_jsonable_python

import surgeline
from surgeline.clusters import local
from surgeline.config import Configuration, load
from surgeline.context.attempts import AttemptWriter
from surgeline.context.records import Fact
from surgeline.context.reference import ContextReference, answer
from surgeline.context.store import Snapshot
from surgeline.errors import BadInput, JobFailed, RecipeError, SurgelineError, WorkfolderError
from surgeline.parallel.backend import Backends, choose
from surgeline.parallel.environment import Role, role
from surgeline.paths import SessionPaths, write_text
from surgeline.stages.inputs import check_unlocked, find_input
from surgeline.stages.stage import Stage
from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.procedure import Procedure, drive
from surgeline.work.resources import Resources
from surgeline.work.surroundings import Answer, FactQuery
from surgeline.work.taskqueue import Backend, TaskQueue
from surgeline.workflow import recipe as recipes
from surgeline.workflow.graph import needs
from surgeline.workflow.keeping import (
    StageData,
    check_can_be_undone,
    check_untouched,
    cost,
    drop_states,
    put_back,
    set_aside,
)
from surgeline.workflow.known import find_stale, open_context
from surgeline.workflow.provenance import FilesUsed, attempts_of
from surgeline.workflow.recipe import Recipe, StageRequest, cluster_of
from surgeline.workflow.record import RunRecord
from surgeline.workflow.workfolder import WorkfolderLock, disk_full, is_full


class Observer(Protocol):
    """Is told what happens in a session, from several threads."""

    def began(self, stages: Sequence[str], finished: Sequence[str]) -> None:
        """The session begins with these stages, some of which had finished before."""

    def runs_again(self, stage: str, reason: str) -> None:
        """A stage that had finished runs again."""

    def notice(self, text: str) -> None:
        """Something that a user wants to know happens."""

    def starting_workers(self, description: str) -> None:
        """Workers are being started."""

    def stage_began(self, stage: str) -> None:
        """A stage's heuristics begin."""

    def job_added(self, stage: str, ticket: str, job: Job, backend: Backend) -> None:
        """A stage has put a job into its queue."""

    def job_ended(self, stage: str, ticket: str, outcome: Outcome) -> None:
        """A job has ended."""

    def worker_lost(self, job: str, loss: Loss) -> None:
        """A worker died running a job."""

    def stage_ended(self, stage: str, error: str | None) -> None:
        """A stage has finished, or failed."""

    def weblog_failed(self, error: str) -> None:
        """The weblog could not be made; results are not touched by that."""


class Session:
    """Runs the stages of a recipe, those that do not depend on each other at once, each on its cluster.

    What a stage found out is committed to the context when all of it went well; a session that was stopped, by
    whatever, goes on after the last stage that was committed. When the recipe was changed since, the stages that
    this concerns run again, and no others.
    """

    def __init__(
        self,
        recipe: Recipe,
        workdir: Path,
        configuration: Configuration | None = None,
        observer: Observer | None = None,
        force: Sequence[str] = (),
        start_from: str | None = None,
    ) -> None:
        """Check everything that can be checked before anything starts, and take the working folder.

        Raises:
            SurgelineError: the recipe, an observation or the working folder is wrong; says what to do.
        """
        self.paths = SessionPaths(workdir.absolute())
        self.recipe = recipe
        self.configuration = configuration or load(self.paths.workdir)
        self._observer = observer
        self._needs = dict(needs(recipe))
        if not recipe.vis and any(request.task == "import" for request in recipe.stages):
            raise BadInput("there is no observation to reduce", "give one with --vis, or `vis:` in the recipe")
        for request in recipe.stages:
            self._check_resources(request)
        self._lock = WorkfolderLock(self.paths)
        try:
            self._prepare_folder()
            self.context = open_context(self.paths, self.configuration, partial(self._tell, "notice"))
        except BaseException:
            self._lock.release()
            raise
        try:
            self._stale = find_stale(self.context, recipe, self._needs, force, start_from)
            check_can_be_undone(self.paths, self.context.log(), self._stale)
            with self._writing():
                write_text(self.paths.recipe, recipe.to_yaml())
        except BaseException:
            self.context.close()
            self._lock.release()
            raise
        names = {request.name for request in recipe.stages}
        self._finished = names.intersection(self.context.stages()) - set(self._stale)
        # How often each stage had been committed when the run began; in a run each is at most once more.
        self._commits: Counter[str] = Counter()
        self._run = uuid.uuid4().hex
        self._attempts = AttemptWriter(self.context)
        self._record = RunRecord(
            self.paths, recipe, self._needs, self.configuration.settings.dask.cluster, self._finished
        )
        self._backends = Backends(
            self.configuration,
            self.paths.workdir,
            self.paths.logs,
            self._lost,
            self._answer,
            partial(self._tell, "starting_workers"),
        )
        self._queues: list[TaskQueue] = []
        self._asides: list[TaskQueue] = []
        self._stopping = False

    @classmethod
    def resume(
        cls,
        workdir: Path,
        configuration: Configuration | None = None,
        observer: Observer | None = None,
        force: Sequence[str] = (),
        start_from: str | None = None,
    ) -> Session:
        """Take up the session of a working folder again; `force` names stages to run again, `start_from` the first.

        Raises:
            WorkfolderError: the folder holds no session.
        """
        saved = SessionPaths(workdir.absolute()).recipe
        if not saved.is_file():
            raise WorkfolderError(
                f"{workdir} holds no session that could go on",
                "begin one: surgeline run RECIPE --vis … --workdir …",
            )
        return cls(recipes.load(str(saved)), workdir, configuration, observer, force, start_from)

    def run(self) -> None:
        """Run every stage that has not finished.

        Raises:
            SurgelineError: a stage failed. Those that do not need it have run, and all that finished is kept.
        """
        self._tell("began", [request.name for request in self.recipe.stages], sorted(self._finished))
        error: BaseException | None = None
        try:
            if role() is Role.MPI_CLIENT:
                # The servers of an MPI session wait for their client, whether a stage needs them or not.
                self._backends.get(asked="mpi")
            self._put_data_back()
            if any(r.task == "import" and r.name not in self._finished for r in self.recipe.stages):
                for reference in self.recipe.vis:
                    check_unlocked(find_input(reference), self.configuration.settings.session.lock_timeout)
            self._run_stages()
        except BaseException as caught:
            error = caught
            if not isinstance(caught, Exception):
                # When mpirun ends a session because a rank died, what that rank was doing is known only here.
                for server, jobs in self._backends.doing().items():
                    self._tell("notice", f"{server} was running {jobs}")
            raise
        finally:
            self._finish(error)

    def stop(self) -> None:
        """Cancel every job, from any thread; `run` then ends."""
        self._stopping = True
        self._backends.refuse()
        # Nobody who was told to stop waits for a database that is away.
        self.context.database.patience = 0.0
        for queue in [*self._queues, *self._asides]:
            queue.cancel()

    def close(self) -> None:
        """Stop the workers and let go of the working folder."""
        self._backends.close()
        self._attempts.close()
        self.context.close()
        self._lock.release()

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _prepare_folder(self) -> None:
        paths = self.paths
        if paths.recipe.is_file() and (paths.context.is_file() or paths.identifier.is_file()):
            before = recipes.load(str(paths.recipe))
            if before.name != self.recipe.name or (before.vis and not set(before.vis) & set(self.recipe.vis)):
                raise WorkfolderError(
                    f"{paths.workdir} already holds a session of another recipe or other data",
                    f"go on with that one: surgeline resume --workdir {paths.workdir}; or give another folder",
                )
        with self._writing():
            paths.make()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Say of what cannot be written in the working folder that it is the folder."""
        try:
            yield
        except OSError as error:
            if error.errno == errno.ENOSPC:
                raise disk_full(self.paths.workdir) from error
            raise WorkfolderError(
                f"the working folder {self.paths.workdir} cannot be written: {error.strerror}",
                "give another with --workdir, or change its permissions",
            ) from error

    def _check_resources(self, request: StageRequest) -> None:
        """Refuse what no worker of the stage's cluster could ever give, rather than wait for it."""
        name = cluster_of(request, self.configuration)
        kind, _ = choose(self.configuration, request.cluster, request.backend)
        if kind == "mpi":
            return
        if self.configuration.settings.clusters[name].type != "local":
            return
        asked, given = request.resources, local.plan(self.configuration, name)
        if asked.gpus:
            raise RecipeError(
                f"stage {request.name!r} asks for {asked.gpus} GPUs, and local workers have none",
                "leave `gpus` out",
            )
        if asked.memory and given.memory and asked.memory > given.memory:
            raise RecipeError(
                f"stage {request.name!r} asks for {asked.memory / 1e9:.1f} GB a job, "
                f"and each local worker has {given.memory / 1e9:.1f} GB",
                "start fewer workers (--set dask.n_workers=1), or ask for less",
            )

    def _put_data_back(self) -> None:
        """Withdraw what runs again, and undo what it and interrupted attempts changed in place."""
        for stage, reason in self._stale.items():
            self._tell("runs_again", stage, reason)
        log = self.context.log()
        withdrawn = [commit for commit in log if commit.withdrawn_by is None and commit.stage in self._stale]
        if withdrawn:
            self.context.commit(
                "rerun", [], withdrawn=[commit.version for commit in withdrawn], details={"reasons": self._stale}
            )
            log = self.context.log()
        self._commits = Counter(commit.stage for commit in log)
        put_back(self.paths, log, partial(self._tell, "notice"))
        set_aside(self.paths, withdrawn)
        if len(self._finished) < len(self.recipe.stages):
            check_untouched(self.paths, log)

    def _run_stages(self) -> None:
        waiting = {request.name: request for request in self.recipe.stages if request.name not in self._finished}
        done = set(self._finished)
        failures: list[SurgelineError] = []
        running: dict[Future[None], str] = {}
        with ThreadPoolExecutor(max(1, len(waiting)), thread_name_prefix="stage") as threads:
            try:
                while waiting or running:
                    ready = [name for name in waiting if done.issuperset(self._needs[name])]
                    for name in ready:
                        running[threads.submit(self._run_stage, waiting.pop(name))] = name
                    if not running:
                        break
                    ended, _ = wait(running, return_when=FIRST_COMPLETED)
                    for future in ended:
                        name = running.pop(future)
                        try:
                            future.result()
                            done.add(name)
                        except SurgelineError as failure:
                            failures.append(failure)
            except BaseException:
                # A signal, or an error of Surgeline's own: what still runs is stopped, then all is closed.
                self.stop()
                raise
        for aside in self._asides:
            # One that failed has been told and is on record; no result depends on it.
            aside.get_results()
        if failures:
            raise failures[0]

    def _run_stage(self, request: StageRequest) -> None:
        self._tell("stage_began", request.name)
        key = uuid.uuid4().hex
        self._record.stage(request.name, state="running", started=time.time(), ended=None, error=None, jobs=[])
        try:
            backend = self._backend(request)
            known = self.context.at()
            reference = ContextReference(self.context.identifier, known.version)
            stage = Stage(request.name, self.recipe.vis, known, backend.workers, self.recipe.name, reference)
            definition = request.definition
            parameters = definition.parameters.model_validate(request.arguments)
            files = FilesUsed()
            facts = self._drive(request, definition.run(stage, parameters), backend, files)
            if self._stopping:
                raise JobFailed(f"stage {request.name!r} was stopped", "")
            self._attempts.flush()
            self.context.commit(
                request.name,
                [*facts, *stage.accepted],
                removed=stage.taken_back,
                base=known.version,
                key=key,
                details=self._details(request, known, files),
            )
            if self.configuration.settings.session.keep_states == "running":
                drop_states(self.paths, request.name)
        except Exception as error:
            state = "interrupted" if self._stopping else "failed"
            self._record.stage(request.name, state=state, ended=time.time(), error=str(error))
            self._tell("stage_ended", request.name, str(error).partition("\n")[0])
            raise
        self._record.stage(request.name, state="finished", ended=time.time())
        self._tell("stage_ended", request.name, None)

    def _details(self, request: StageRequest, known: Snapshot, files: FilesUsed) -> dict[str, Any]:
        """What is recorded of a stage beside its facts: enough to explain it, and to see when it is stale."""
        return {
            "task": request.task,
            "arguments": to_jsonable_python(request.arguments),
            "needs": list(self._needs[request.name]),
            "vis": list(self.recipe.vis),
            "recipe": self.recipe.name,
            "run": self._run,
            "surgeline": surgeline.__version__,
            "asked": sorted(known.asked),
            "read": sorted(list(found) for found in known.read),
            **files.as_details(),
        }

    def _drive(
        self, request: StageRequest, procedure: Procedure[list[Fact]], backend: Backend, files: FilesUsed
    ) -> list[Fact]:
        """Run a stage's batches of jobs on a backend, and its heuristics between them here."""
        submitted: dict[str, float] = {}
        data = StageData(request.name, self._commits[request.name] + 1)

        def added(ticket: str, job: Job) -> None:
            submitted[ticket] = time.time()
            self._tell("job_added", request.name, ticket, job, backend)

        def ended(ticket: str, job: Job, outcome: Outcome) -> None:
            self._record.job(request.name, job, outcome, submitted[ticket])
            files.add(job, outcome)
            environment = backend.environments.get(outcome.environment, {})
            for attempt in attempts_of(self._run, request.name, job, outcome, submitted[ticket]):
                self._attempts.add(attempt, environment)
            self._tell("job_ended", request.name, ticket, outcome)

        def run_batch(jobs: Sequence[Job]) -> list[Any]:
            keeping = data.jobs_before(jobs)
            if keeping:
                run_jobs(keeping)
            return run_jobs(jobs)

        def run_jobs(jobs: Sequence[Job]) -> list[Any]:
            with TaskQueue(backend, added=added, done=ended) as queue:
                self._queues.append(queue)
                try:
                    for job in jobs:
                        asked = request.resources if request.resources != Resources() else None
                        # A stage that was interrupted left files of jobs that now run anew.
                        queue.add(job.declare(resources=asked, overwrite=True))
                    return self._values(request.name, queue.get_results())
                finally:
                    self._queues.remove(queue)

        def run_aside(jobs: Sequence[Job]) -> None:
            aside = TaskQueue(backend, urgent=False, added=added, done=ended)
            self._asides.append(aside)
            for job in jobs:
                aside.add(job.declare(overwrite=True))

        def run_everywhere(job: Job) -> list[Any]:
            outcomes = backend.exec_everywhere(job.declare(overwrite=True))
            return self._values(request.name, outcomes)

        return drive(procedure, run_batch, run_aside, run_everywhere)

    def _values(self, stage: str, outcomes: Sequence[Outcome]) -> list[Any]:
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if not failed:
            return [outcome.value for outcome in outcomes]
        first = next((o for o in failed if o.failure and o.failure.kind != "cancelled"), failed[0])
        assert first.failure is not None
        if is_full(self.paths.workdir) or "No space left" in first.failure.message + first.failure.traceback:
            raise disk_full(self.paths.workdir)
        others = f" (and {len(failed) - 1} more of its {len(outcomes)} jobs)" if len(failed) > 1 else ""
        raise JobFailed(
            f"stage {stage!r}: job {first.job!r} failed{others}: {first.failure.message}",
            f"it was {first.call}; its log is in {self.paths.logs}; when the cause is mended: "
            f"surgeline resume --workdir {self.paths.workdir}",
        )

    def _backend(self, request: StageRequest) -> Backend:
        backend = self._backends.get(request.cluster, request.backend)
        self._record.set(backend=backend.name, workers=self._backends.workers)
        if backend.name == "mpi":
            self._record.stage(request.name, cluster="MPI session")
        return backend

    def _answer(self, query: FactQuery) -> Answer:
        return answer(self.context, query)

    def _lost(self, job: str, loss: Loss) -> None:
        self._tell("worker_lost", job, loss)

    def _finish(self, error: BaseException | None) -> None:
        """Record how the run ended and make the weblog, also when it failed."""
        state = "finished" if error is None else "failed" if isinstance(error, Exception) else "interrupted"
        try:
            self._record.set(states=cost(self.paths))
            self._record.end(state, str(error) if error else None)
        except SurgelineError:
            # The error that ended the run is the one to be told.
            if error is None:
                raise
        if self.configuration.settings.session.weblog:
            from surgeline.report.weblog import write_weblog

            try:
                write_weblog(self.paths, self._record.content, self.context)
            except Exception as failure:  # noqa: BLE001 - a page is no reason to fail a run whose results stand
                self._tell("weblog_failed", f"{type(failure).__name__}: {failure}")

    def _tell(self, what: str, *details: Any) -> None:
        if self._observer is not None:
            getattr(self._observer, what)(*details)
