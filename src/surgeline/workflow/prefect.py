"""Sessions that Prefect orchestrates: the session is a flow run, each of its stages a task run."""

from __future__ import annotations

import contextvars
import json
import logging
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any
from uuid import UUID

from surgeline.clusters.prefectapi import import_quietly
from surgeline.config import PrefectSettings
from surgeline.errors import ClusterError, ConfigError, Interrupted, SurgelineError
from surgeline.paths import SessionPaths, write_text
from surgeline.workflow.driver import Driver
from surgeline.workflow.prefect_news import PrefectNews
from surgeline.workflow.prefect_server import EmbeddedServer
from surgeline.workflow.recipe import Recipe, StageRequest

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun, State
    from prefect.flows import Flow

# How often Prefect is asked whether somebody cancelled the session.
_LOOK_SECONDS = 1.0
# How long the end of a session waits for logs and events that are still on their way.
_DRAIN_SECONDS = 30.0
# Those of Prefect's own loggers that say what they could not send.
_COMPLAINING = ("prefect._internal.concurrency", "prefect.events.clients")


def check_installed() -> None:
    """See whether Prefect is there.

    Raises:
        ConfigError: it is not.
    """
    if find_spec("prefect") is None:
        raise ConfigError(
            "orchestrator is 'prefect', and Prefect is not installed",
            "pip install 'surgeline[prefect]'; or leave it out: --set orchestrator=session",
        )


class PrefectDriver(Driver):
    """Runs a session as a flow run, or as a part of the one that it is called in, and its stages as task runs of it.

    What has finished is known from the session's context, never from Prefect: no result is kept there, and a stage
    that has been committed is not given to Prefect again. A session that goes on is the same flow run, tried again.
    """

    def __init__(
        self,
        recipe: Recipe,
        needs: Mapping[str, tuple[str, ...]],
        paths: SessionPaths,
        settings: PrefectSettings,
        news: PrefectNews,
        stop: Callable[[], None],
        tell: Callable[[str], None],
    ) -> None:
        """Prepare; nothing is started.

        Args:
            recipe: what is run.
            needs: for each stage, those that it waits for.
            paths: of the working folder.
            settings: the configuration's.
            news: tells Prefect what happens.
            stop: ends the session; called when it is cancelled in Prefect.
            tell: called with what a user wants to know.
        """
        self._recipe = recipe
        self._needs = needs
        self._paths = paths
        self._settings = settings
        self._news = news
        self._stop = stop
        self._tell = tell
        self._states: dict[str, State[Any]] = {}
        self._embedded = False
        self._context = contextvars.copy_context()

    def run_session(self, run: Callable[[], None]) -> None:
        """Run a whole session; what it raises is passed on.

        Raises:
            ClusterError: Prefect's server cannot be reached, or started.
        """
        import_quietly()
        from prefect.context import FlowRunContext

        around = FlowRunContext.get()
        if around is not None and around.flow_run is not None:
            self._run_within(around.flow_run, run)
            return
        with _without_complaints(), ExitStack() as at_last:
            self._connect(at_last)
            self._run_as_flow(run)

    def run_stage(self, request: StageRequest, run: Callable[[], None]) -> None:
        """Run a stage as a task run; what it raises is passed on.

        Raises:
            ClusterError: Prefect did not let it run.
        """
        from prefect import states
        from prefect.cache_policies import NO_CACHE
        from prefect.context import TaskRunContext
        from prefect.tasks import Task

        errors: list[Exception] = []
        began = False
        tags = ["stage", request.task, *([request.cluster] if request.cluster else [])]

        def stage(arguments: dict[str, Any], cluster: str | None) -> State[Any]:
            nonlocal began
            began = True
            context = TaskRunContext.get()
            assert context is not None
            context.task_run.tags = tags
            self._news.stage_runs(request.name, context.task_run)
            try:
                run()
            except Exception as error:
                errors.append(error)
                if isinstance(error, Interrupted):
                    return states.Cancelled(message=str(error))
                if isinstance(error, SurgelineError):
                    return states.Failed(message=str(error))
                raise
            finally:
                self._news.stage_is_over(request.name)
            return states.Completed()

        task = Task(
            fn=stage,
            name=request.task,
            task_run_name=lambda: request.name,
            # For each tag of a task Prefect asks its server for a place, since their number may be limited. On a
            # server of the session's own it is not, and each question may take seconds: SQLite takes one writer.
            tags=[] if self._embedded else tags,
            persist_result=False,
            cache_policy=NO_CACHE,
        )
        call = partial(
            task,
            request.arguments,
            request.cluster,
            wait_for=[self._states[name] for name in self._needs[request.name] if name in self._states],
            return_state=True,
        )
        state: State[Any] = self._context.copy().run(call)
        self._states[request.name] = state
        if errors:
            raise errors[0]
        if not began:
            raise ClusterError(
                f"Prefect did not run stage {request.name!r}: {state.name}: {state.message}",
                "mend that, then: surgeline resume",
            )

    def _connect(self, at_last: ExitStack) -> None:
        """Find the server that is configured, or start one until the end."""
        from prefect.client.orchestration import get_client
        from prefect.settings import PREFECT_API_URL, temporary_settings

        url = PREFECT_API_URL.value()
        if url is None:
            self._embedded = True
            self._tell("starting a Prefect server for this session")
            log = self._paths.logs / "prefect.log"
            server = at_last.enter_context(EmbeddedServer(self._paths.prefect, log, self._settings.start_timeout))
            _reach_without_proxy("127.0.0.1")
            settings = {
                "api.url": server.api_url,
                "ui_url": server.address,
                "home": self._paths.prefect,
                "results.local_storage_path": self._paths.prefect / "storage",
                # Nobody starts it again when it is gone.
                "client.max_retries": 3,
            }
            at_last.enter_context(temporary_settings(settings))
        with get_client(sync_client=True) as client:
            error = client.api_healthcheck()
            if error is not None:
                raise ClusterError(
                    f"Prefect's server at {url} does not answer: {error}",
                    "start it, correct PREFECT_API_URL, or unset that: the session then starts one of its own",
                )
        at_last.callback(_drain)

    def _run_as_flow(self, run: Callable[[], None]) -> None:
        from prefect import states
        from prefect.client.orchestration import get_client
        from prefect.context import FlowRunContext
        from prefect.flow_engine import run_flow
        from prefect.flows import Flow

        errors: list[BaseException] = []
        began = False
        handler = signal.getsignal(signal.SIGTERM)

        def session(recipe: str, vis: list[str], workdir: str) -> State[Any]:
            nonlocal began
            began = True
            context = FlowRunContext.get()
            assert context is not None and context.flow_run is not None
            try:
                with _handled_by(handler):
                    self._run_within(context.flow_run, run)
            except BaseException as error:
                errors.append(error)
                if isinstance(error, Interrupted) or not isinstance(error, Exception):
                    return states.Cancelled(message=str(error))
                if isinstance(error, SurgelineError):
                    return states.Failed(message=str(error))
                raise
            return states.Completed()

        flow = Flow(fn=session, name=re.sub(r"[/%&<>]", "-", self._recipe.name), persist_result=False)
        parameters = {
            "recipe": self._recipe.name,
            "vis": list(self._recipe.vis),
            "workdir": str(self._paths.workdir),
        }
        with get_client(sync_client=True) as client:
            flow_run = self._flow_run(client, flow, parameters)
        try:
            run_flow(flow, flow_run, parameters, return_type="state")
        except Exception as error:
            if errors:
                raise errors[0] from None
            if not began:
                raise ClusterError(f"Prefect did not run the session: {error}", "see Prefect's server") from error
            self._tell(f"Prefect was not told that the session has finished: {error}")
        if errors:
            raise errors[0]
        if not began:
            raise ClusterError("Prefect did not run the session", "see what Prefect shows of its flow run")

    def _flow_run(self, client: SyncPrefectClient, flow: Flow[..., Any], parameters: dict[str, Any]) -> FlowRun:
        """The flow run of the working folder, to be tried again; or a new one, where this server knows none."""
        from prefect import states
        from prefect.exceptions import ObjectNotFound

        note = self._paths.flow_run
        if note.is_file():
            identifier = UUID(json.loads(note.read_text(encoding="utf-8"))["flow_run"])
            try:
                client.set_flow_run_state(identifier, states.AwaitingRetry(message="the session goes on"), force=True)
                return client.read_flow_run(identifier)
            except ObjectNotFound:
                self._tell("Prefect's server does not know the session's flow run: it begins a new one")
        flow_run = client.create_flow_run(
            flow,
            name=self._paths.workdir.name,
            parameters=parameters,
            tags=["surgeline", self._recipe.name],
            state=states.Pending(),
        )
        write_text(note, json.dumps({"flow_run": str(flow_run.id)}) + "\n")
        return flow_run

    def _run_within(self, flow_run: FlowRun, run: Callable[[], None]) -> None:
        """Run the session in the context of its flow run."""
        from prefect.utilities.urls import url_for

        self._context = contextvars.copy_context()
        if url := url_for(flow_run):
            self._tell(f"Prefect shows the session at {url}")
        over = threading.Event()
        watch = threading.Thread(
            target=contextvars.copy_context().run,
            args=(self._watch, flow_run.id, over),
            name="prefect-cancel",
            daemon=True,
        )
        watch.start()
        self._news.open(flow_run)
        try:
            run()
        finally:
            over.set()
            self._news.close()
            watch.join()

    def _watch(self, flow_run: UUID, over: threading.Event) -> None:
        """Stop the session when it is cancelled in Prefect."""
        import httpx
        from prefect.client.orchestration import get_client

        with get_client(sync_client=True) as client:
            while not over.wait(_LOOK_SECONDS):
                try:
                    state = client.read_flow_run(flow_run).state
                except httpx.HTTPError:
                    # It may be starting again.
                    continue
                if state is not None and (state.is_cancelling() or state.is_cancelled()):
                    self._tell("the session is cancelled in Prefect")
                    self._stop()
                    return


def _reach_without_proxy(host: str) -> None:
    """Have no proxy asked for a host, which only this machine knows."""
    for name in ("no_proxy", "NO_PROXY"):
        known = [known for known in os.environ.get(name, "").split(",") if known]
        if host not in known:
            os.environ[name] = ",".join([*known, host])


@contextmanager
def _without_complaints() -> Iterator[None]:
    """A block in which nobody but the session says on the terminal that Prefect's server is gone.

    Prefect's own threads would print every event that they cannot send.
    """
    loggers = [logging.getLogger(name) for name in _COMPLAINING]
    before, logging.raiseExceptions = logging.raiseExceptions, False
    for logger in loggers:
        # Levels are set anew with each flow run.
        logger.addFilter(_refuse)
    try:
        yield
    finally:
        for logger in loggers:
            logger.removeFilter(_refuse)
        logging.raiseExceptions = before


def _refuse(_: logging.LogRecord) -> bool:
    return False


def _drain() -> None:
    """Wait for logs and events that are still on their way, unless nobody is there to take them.

    Prefect itself waits for 5 s when a process ends, which a busy server may need for one answer.
    """
    from prefect.client.orchestration import get_client
    from prefect.events.worker import EventsWorker
    from prefect.logging.handlers import APILogWorker

    with get_client(sync_client=True) as client:
        if client.api_healthcheck() is not None:
            return

    APILogWorker.drain_all(timeout=_DRAIN_SECONDS)
    EventsWorker.drain_all(timeout=_DRAIN_SECONDS)


@contextmanager
def _handled_by(handler: Any) -> Iterator[None]:
    """A block in which SIGTERM is handled as it was before Prefect took it."""
    if threading.current_thread() is not threading.main_thread() or handler is None:
        yield
        return
    prefects = signal.signal(signal.SIGTERM, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, prefects)
