"""One run of a recipe in one working folder; it can stop and go on."""

from __future__ import annotations

import errno
import os
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from pydantic_core import to_jsonable_python

import surgeline
from surgeline.clusters.accounting import Accounts, Ran, account, name_of_place, stays_here, stays_in_queue_jobs
from surgeline.config import Configuration, load
from surgeline.context.attempts import AttemptWriter
from surgeline.context.records import Fact
from surgeline.context.reference import ContextReference, answer
from surgeline.context.store import Snapshot
from surgeline.errors import (
    BadInput,
    ClusterError,
    Interrupted,
    JobFailed,
    SurgelineError,
    WorkfolderError,
)
from surgeline.parallel.backend import Backends, choose
from surgeline.parallel.environment import Role, role
from surgeline.parallel.foresight import Foreseen
from surgeline.parallel.leftbehind import end_left_behind, mark_of
from surgeline.paths import SessionPaths, remove_unfinished, write_text
from surgeline.report.writer import WeblogWriter
from surgeline.stages.inputs import check_unlocked, find_input
from surgeline.stages.stage import Stage
from surgeline.work.allocator import give_memory_back
from surgeline.work.estimates import Estimates, default_file
from surgeline.work.jobs import Job
from surgeline.work.outcome import Loss, Outcome
from surgeline.work.ownfolder import remove_left
from surgeline.work.procedure import Here, Procedure, drive
from surgeline.work.surroundings import Answer, FactQuery
from surgeline.work.taskqueue import Backend, TaskQueue
from surgeline.workflow import recipe as recipes
from surgeline.workflow.asking import declared, gpus_of_workers, memory_of_workers
from surgeline.workflow.callhere import CallHere
from surgeline.workflow.cancelling import cancel_leftovers
from surgeline.workflow.checking import check_can_run_alone, check_memory, check_resources
from surgeline.workflow.driver import Driver, run_stages
from surgeline.workflow.graph import needs
from surgeline.workflow.keeping import (
    StageData,
    check_can_be_undone,
    check_untouched,
    cost,
    drop_states,
    put_back,
    set_aside,
    take_over,
)
from surgeline.workflow.known import find_stale, open_context
from surgeline.workflow.lookahead import what_comes
from surgeline.workflow.notebook import Shown
from surgeline.workflow.observer import Observer
from surgeline.workflow.provenance import FilesUsed, attempts_of
from surgeline.workflow.queuewatch import QueueWatch
from surgeline.workflow.recipe import Recipe, StageRequest, cluster_of
from surgeline.workflow.record import RunRecord
from surgeline.workflow.results import Results
from surgeline.workflow.workfolder import WorkfolderLock, disk_full, is_full


class Session:
    """Runs the stages of a recipe, those that do not depend on each other at once, each on its cluster.

    What a stage found out is committed to the context when all of it went well; a session that was stopped, by
    whatever, goes on after the last stage that was committed. When the recipe was changed since, the stages that
    this concerns run again, and no others.
    """

    def __init__(
        self,
        recipe: Recipe | Mapping[str, Any] | str | Path,
        workdir: str | Path = "surgeline-session",
        configuration: Configuration | None = None,
        observer: Observer | None = None,
        force: Sequence[str] = (),
        start_from: str | None = None,
        only: str | None = None,
        vis: str | Path | Sequence[str | Path] = (),
    ) -> None:
        """Check everything that can be checked before anything starts, and take the working folder.

        Args:
            recipe: what is to be run: a YAML file or the name of a packaged recipe; what such a file says, as a
                mapping, whose tasks may also be what `surgeline.stage` made; or a `Recipe`.
            workdir: the working folder.
            configuration: that of the working folder unless given.
            observer: told of what happens.
            force, start_from: stages to run again by name, and the first of them.
            only: the one stage to run now, of which all that it needs has finished.
            vis: observations that replace those that the recipe names.

        Raises:
            SurgelineError: the recipe, an observation or the working folder is wrong; says what to do.
        """
        self.paths = SessionPaths(Path(workdir).absolute())
        self.recipe = recipe = recipes.given(recipe, vis)
        self.configuration = configuration or load(self.paths.workdir)
        self._observers = [observer] if observer is not None else []
        self._needs = dict(needs(recipe))
        if not recipe.vis and any(request.task == "import" for request in recipe.stages):
            raise BadInput("there is no observation to reduce", "give one with --vis, or `vis:` in the recipe")
        for request in recipe.stages:
            check_resources(request, self.configuration)
        if self.configuration.settings.orchestrator == "prefect":
            from surgeline.workflow.prefect import check_installed

            check_installed()
        self._lock = WorkfolderLock(self.paths, self.configuration.settings.session.private)
        try:
            self._prepare_folder()
            self._cancel_leftovers()
            self.context = open_context(self.paths, self.configuration, partial(self._tell, "notice"))
        except BaseException:
            self._lock.release()
            raise
        try:
            self._stale = find_stale(self.context, recipe, self._needs, force, start_from)
            check_can_be_undone(self.paths, self.context.log(), self._stale)
            if only is not None:
                check_can_run_alone(only, self._needs, set(self.context.stages()) - set(self._stale))
            with self._writing():
                write_text(self.paths.recipe, recipe.to_yaml())
        except BaseException:
            self.context.close()
            self._lock.release()
            raise
        names = {request.name for request in recipe.stages}
        self._finished = names.intersection(self.context.stages()) - set(self._stale)
        self._only = only
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
            partial(self._tell, "notice"),
            mark_of(self.paths.workdir),
        )
        self._watch = QueueWatch(
            self._backends.surging,
            partial(self._tell, "workers_wait"),
            partial(self._tell, "workers_came"),
            self._backends.workforce,
            partial(self._tell, "workers_counted"),
        )
        self._estimates = Estimates(default_file(os.environ))
        # The jobs that workers had, for the accounts.
        self._ran: list[Ran] = []
        self._queues: list[TaskQueue | CallHere] = []
        self._asides: list[TaskQueue] = []
        self._stopping = False
        self._told_to_stop = False
        self._shown = Shown(recipe.name, self.paths)
        self._shown.know(recipe.name, self._needs, self._estimates)
        self._shown.began([request.name for request in recipe.stages], sorted(self._finished))
        self._observers.append(self._shown)
        self._weblog: WeblogWriter | None = None
        self._driver = self._choose_driver()

    @classmethod
    def resume(
        cls,
        workdir: str | Path = "surgeline-session",
        configuration: Configuration | None = None,
        observer: Observer | None = None,
        force: Sequence[str] = (),
        start_from: str | None = None,
    ) -> Session:
        """Take up the session of a working folder again.

        Args:
            workdir: the working folder.
            configuration: that of the working folder unless given.
            observer: told of what happens.
            force, start_from: stages to run again by name, and the first of them.

        Raises:
            WorkfolderError: the folder holds no session.
        """
        saved = SessionPaths(Path(workdir).absolute()).recipe
        if not saved.is_file():
            raise WorkfolderError(
                f"{workdir} holds no session that could go on",
                "begin one: surgeline run RECIPE --vis … --workdir …",
            )
        return cls(recipes.load(str(saved)), workdir, configuration, observer, force, start_from)

    def run(self) -> Results:
        """Run every stage that has not finished; in a notebook, show how far it is.

        Raises:
            SurgelineError: a stage failed. Those that do not need it have run, and all that finished is kept.
        """
        with self._shown.while_it_runs():
            self._driver.run_session(self._run_here)
        return self.results

    @property
    def results(self) -> Results:
        """What the session has found and made so far; they can be read after it is closed, too."""
        return Results(self.paths.workdir, self.configuration)

    def __repr__(self) -> str:
        return self._shown.as_text()

    def _repr_html_(self) -> str:
        """How it is shown in a notebook."""
        return self._shown.as_html()

    def _choose_driver(self) -> Driver:
        settings = self.configuration.settings
        if settings.orchestrator == "session":
            return Driver()
        from surgeline.workflow.prefect import PrefectDriver
        from surgeline.workflow.prefect_news import PrefectNews

        tell = partial(self._tell, "notice")
        news = PrefectNews(
            self.recipe.name, self.paths, self._record, self.context, settings.prefect.jobs_as_tasks, tell
        )
        self._observers.append(news)
        return PrefectDriver(self.recipe, self._needs, self.paths, settings.prefect, news, self.stop, tell)

    def _run_here(self) -> None:
        self._tell("began", [request.name for request in self.recipe.stages], sorted(self._finished))
        if self.configuration.settings.session.weblog:
            self._weblog = WeblogWriter(self.paths, self.context, partial(self._tell, "weblog_failed"))
        error: BaseException | None = None
        try:
            if role() is Role.MPI_CLIENT:
                # The servers of an MPI session wait for their client, whether a stage needs them or not.
                self._backends.get(asked="mpi")
            # A workload manager that would refuse workers says so now, not after hours.
            for name in self._what_comes((), self._unfinished()):
                self._backends.get(name)
            self._watch.start()
            first = [r for r in self._unfinished() if self._finished.issuperset(self._needs[r.name])]
            self._foresee((), first)
            self._put_data_back()
            if any(request.task == "import" for request in self._unfinished()):
                for reference in self.recipe.vis:
                    check_unlocked(find_input(reference), self.configuration.settings.session.lock_timeout)
            self._run_stages()
        except BaseException as caught:
            error = caught
            if not isinstance(caught, Exception):
                # When mpirun ends a session because a rank died, what that rank was doing is known only here.
                for server, jobs in self._backends.doing().items():
                    self._tell("notice", f"{server} was running {jobs}")
            elif self._told_to_stop:
                error = _interrupted()
                raise error from caught
            raise
        finally:
            self._finish(error)

    def stop(self) -> None:
        """Cancel every job, from any thread; `run` then ends with Interrupted."""
        self._told_to_stop = True
        self._end_stages()

    def _end_stages(self) -> None:
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

    @property
    def accounts(self) -> Accounts:
        """What the workers cost, in all runs of the session; complete once `run` has ended."""
        return self._record.accounts

    def _cancel_leftovers(self) -> None:
        """Take out of the queue what a session that was killed had left there."""
        try:
            cancel_leftovers(self.paths, partial(self._tell, "notice"))
        except (ClusterError, WorkfolderError) as error:
            # No reason not to go on elsewhere; what it left ends by itself when it finds no session.
            self._tell("notice", f"a session that was killed left queue jobs: {error}")

    def _prepare_folder(self) -> None:
        paths = self.paths
        if paths.recipe.is_file() and (paths.context.is_file() or paths.identifier.is_file()):
            before = recipes.saved(paths.recipe)
            if before.name != self.recipe.name or (before.vis and not set(before.vis) & set(self.recipe.vis)):
                raise WorkfolderError(
                    f"{paths.workdir} already holds a session of another recipe or other data",
                    f"go on with that one: surgeline resume --workdir {paths.workdir}; or give another folder",
                )
        with self._writing():
            paths.make()
            remove_unfinished(paths)
        remove_left(paths.workdir)
        self._end_left_behind()

    def _end_left_behind(self) -> None:
        """End what jobs have started and left running on this machine."""
        if number := end_left_behind(self.paths.workdir):
            self._tell("notice", f"jobs had left {number} processes running, which are ended")

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
        failures = run_stages(
            self._unfinished(),
            self._needs,
            self._finished,
            lambda request: self._driver.run_stage(request, partial(self._run_stage, request)),
            self._foresee,
            self._end_stages,
        )
        for aside in self._asides:
            # One that failed has been told and is on record; no result depends on it.
            aside.get_results()
        if failures:
            raise failures[0]

    def _unfinished(self) -> list[StageRequest]:
        return [
            request
            for request in self.recipe.stages
            if request.name not in self._finished and self._only in (None, request.name)
        ]

    def _foresee(self, at_work: Sequence[StageRequest], ahead: Sequence[StageRequest]) -> None:
        """Tell clusters with a queue what comes; those that are not open are opened."""
        self._backends.foresee(self._what_comes(at_work, ahead))

    def _what_comes(self, at_work: Sequence[StageRequest], ahead: Sequence[StageRequest]) -> dict[str, Foreseen]:
        return what_comes(at_work, ahead, self.recipe.name, self.configuration, self._estimates)

    def _run_stage(self, request: StageRequest) -> None:
        self._tell("stage_began", request.name)
        key = uuid.uuid4().hex
        self._record.stage_begins(request.name)
        self._renew_weblog()
        try:
            backend = self._backend(request)
            known = self.context.at()
            reference = ContextReference(self.context.identifier, known.version)
            memory = memory_of_workers(request, self.configuration, self._kind(request))
            stage = Stage(
                request.name,
                self.recipe.vis,
                known,
                backend.workers,
                self.recipe.name,
                reference,
                memory,
                request.resources.cores,
                gpus_of_workers(request, self.configuration, self._kind(request)),
            )
            definition = request.definition
            parameters = definition.parameters.model_validate(request.arguments)
            files = FilesUsed()
            facts = self._drive(request, definition.run(stage, parameters), backend, files)
            # What its jobs have told, which may be gigabytes, is let go by now.
            give_memory_back()
            if self._stopping:
                raise JobFailed(f"stage {request.name!r} was stopped", "go on with it: surgeline resume")
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
            self._renew_weblog()
            self._tell("stage_ended", request.name, str(error).partition("\n")[0])
            if self._told_to_stop:
                raise _interrupted() from error
            raise
        # As far as it is known by now: a session may be killed at any time.
        self._account()
        self._record.stage(request.name, state="finished", ended=time.time())
        self._renew_weblog()
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
        number = self._commits[request.name] + 1
        data = StageData(request.name, number)
        cluster = cluster_of(request, self.configuration)

        def added(ticket: str, job: Job, on: Backend = backend) -> None:
            submitted[ticket] = time.time()
            self._watch.job_added(request.name, cluster, ticket, job, on)
            self._tell("job_added", request.name, ticket, job, on)

        def ended(ticket: str, job: Job, outcome: Outcome) -> None:
            put = submitted.pop(ticket)
            self._watch.job_ended(request.name, ticket)
            self._ran += _times(request.name, outcome, put)
            self._record.job(request.name, job, outcome, put)
            self._renew_weblog()
            files.add(job, outcome)
            environment = backend.environments.get(outcome.environment, {})
            for attempt in attempts_of(self._run, request.name, job, outcome, put):
                self._attempts.add(attempt, environment)
            self._estimates.learn(request.name, job, outcome)
            self._tell("job_ended", request.name, ticket, outcome)

        def run_batch(jobs: Sequence[Job]) -> list[Any]:
            keeping = data.jobs_before(jobs)
            if keeping:
                run_jobs(keeping)
            return run_jobs(data.with_way_back(jobs))

        def run_jobs(jobs: Sequence[Job]) -> list[Any]:
            jobs = [declared(request, job, self._estimates) for job in jobs]
            check_memory(request, jobs, self.configuration, self._kind(request))
            with TaskQueue(backend, added=added, done=ended) as queue:
                self._queues.append(queue)
                try:
                    self._estimates.learn_width(self.recipe.name, request.name, len(jobs))
                    for job in jobs:
                        queue.add(job)
                    if self._stopping:
                        # It was told so before this queue was there to be cancelled.
                        queue.cancel()
                    return self._values(request.name, queue.get_results())
                finally:
                    self._queues.remove(queue)

        def run_aside(jobs: Sequence[Job]) -> None:
            aside = TaskQueue(backend, urgent=False, added=added, done=ended)
            self._asides.append(aside)
            for job in jobs:
                aside.add(declared(request, job, self._estimates))

        def run_everywhere(job: Job) -> list[Any]:
            outcomes = backend.exec_everywhere(job.declare(overwrite=True))
            return self._values(request.name, outcomes)

        def run_here(call: Here) -> Any:
            there = [path for path in call.job.declared.changes if (self.paths.workdir / path).exists()]
            job = call.job.declare(changes=there, overwrite=True)
            take_over(self.paths, self.context.log(), request.name, number, there)
            if keeping := data.jobs_before([job]):
                run_jobs(keeping)
            with CallHere(
                self._backends.get(asked="serial"),
                backend,
                lambda given: declared(request, given, self._estimates),
                added,
                ended,
                partial(data.truly_changed, self.paths),
            ) as made:
                self._queues.append(made)
                try:
                    if self._stopping:
                        made.cancel()
                    return self._values(request.name, [made.outcome_of(Here(job))])[0]
                finally:
                    self._queues.remove(made)

        return drive(procedure, run_batch, run_aside, run_everywhere, run_here)

    def _values(self, stage: str, outcomes: Sequence[Outcome]) -> list[Any]:
        failed = [outcome for outcome in outcomes if not outcome.ok]
        if not failed:
            return [outcome.value for outcome in outcomes]
        first = next((o for o in failed if o.failure and o.failure.kind != "cancelled"), failed[0])
        assert first.failure is not None
        if is_full(self.paths.workdir) or "No space left" in first.failure.message + first.failure.traceback:
            raise disk_full(self.paths.workdir, first.failure.message)
        others = f" (and {len(failed) - 1} more of its {len(outcomes)} jobs)" if len(failed) > 1 else ""
        raise JobFailed(
            f"stage {stage!r}: job {first.job!r} failed{others}: {first.failure.message}",
            f"it was {first.call}; its log is in {self.paths.logs}; when the cause is mended: "
            f"surgeline resume --workdir {self.paths.workdir}",
        )

    def _kind(self, request: StageRequest) -> str:
        """By which kind of backend a stage's jobs go."""
        return choose(self.configuration, request.cluster, request.backend)[0]

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
        self._watch.stop()
        try:
            # What they cost is known when the last has ended.
            self._backends.close()
            self._end_left_behind()
        finally:
            self._conclude(error)

    def _account(self) -> None:
        """Record what the workers have cost so far."""
        now = time.time()
        began = self._record.began
        jobs = list(self._ran)
        stays = [
            stay
            for workers in list(self._backends.surging.values())
            for stay in stays_in_queue_jobs(workers.fleet.berths(), workers.fleet.classes, now)
        ]
        if standing := list(self._backends.standing):
            workers = sum(number for number, _ in standing)
            cores = self.configuration.settings.worker.threads
            ready = min(ready for _, ready in standing)
            stays += stays_here(workers, cores, jobs, stays, began, ready, now)
        self._record.account(account(stays, jobs, began, now))

    def _conclude(self, error: BaseException | None) -> None:
        failed = isinstance(error, Exception) and not isinstance(error, Interrupted)
        # After one stage alone there may be others left.
        left = self._only is not None and not self._needs.keys() <= set(self.context.stages())
        state = "failed" if failed else "interrupted" if error is not None or left else "finished"
        self._account()
        try:
            self._record.set(states=cost(self.paths))
            self._record.end(state, str(error) if error else None)
        except SurgelineError:
            # The error that ended the run is the one to be told.
            if error is None:
                raise
        # They help the next session, and no result depends on them.
        with suppress(OSError):
            self._estimates.save()
        if self._weblog is not None:
            self._weblog.finish()

    def _renew_weblog(self) -> None:
        """Have the pages tell how it stands, while it goes on."""
        if self._weblog is not None:
            self._weblog.renew()

    def _tell(self, what: str, *details: Any) -> None:
        for observer in self._observers:
            getattr(observer, what)(*details)


def _interrupted() -> Interrupted:
    return Interrupted("the session was stopped; what had finished is kept", "go on with: surgeline resume")


def _times(stage: str, outcome: Outcome, submitted: float) -> Iterator[Ran]:
    """When and where workers had a job: those that were lost running it, and the one that ended it."""
    begin = submitted
    for loss in outcome.losses:
        yield Ran(stage, name_of_place(loss.worker), begin, loss.when, lost=True)
        begin = loss.when
    if outcome.worker:
        yield Ran(stage, name_of_place(outcome.worker), outcome.started, outcome.ended)
