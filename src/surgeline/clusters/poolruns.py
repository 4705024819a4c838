"""Flow runs of a session's workers: which there are, what their states mean, and how they are ended."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from uuid import UUID

from surgeline.clusters.batch import Cause, QueuedJob

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

# The flow that each worker is a run of.
FLOW = "surgeline-worker"
# The type of the block that holds what lets workers in.
SECRET = "secret"  # nosec B105  # the name of a kind of block
# As many as the server gives at once.
_PAGE = 200
# How long flow runs that are cancelled may take to end; what is left then has nobody who would end it.
_ENDING_SECONDS = 20.0
_PAUSE_SECONDS = 0.5
_WARNING = 30
_EVENTS = 50
# How Prefect's worker on Kubernetes begins the names of what it tells of pods.
_OF_PODS = "prefect.kubernetes.pod."


def unfinished(client: SyncPrefectClient, name: str) -> list[FlowRun]:
    """The flow runs of a session that have not ended; those that are being cancelled have not, either."""
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
        FlowRunFilterTags,
    )
    from prefect.client.schemas.objects import TERMINAL_STATES, StateType
    from prefect.client.schemas.sorting import FlowRunSort

    of_session = FlowRunFilter(
        tags=FlowRunFilterTags(all_=[name]),
        state=FlowRunFilterState(
            type=FlowRunFilterStateType(any_=[kind for kind in StateType if kind not in TERMINAL_STATES])
        ),
    )
    found: list[FlowRun] = []
    while True:
        page = client.read_flow_runs(
            flow_run_filter=of_session, sort=FlowRunSort.ID_DESC, limit=_PAGE, offset=len(found)
        )
        found += page
        if len(page) < _PAGE:
            return found


def is_waiting(run: FlowRun) -> bool:
    """Whether no worker of the pool has taken it yet."""
    return run.state is not None and run.state.is_scheduled()


def judged(run: FlowRun, why: str, diagnosis: str = "") -> QueuedJob:
    """What a flow run's state says.

    Args:
        run: the flow run.
        why: what holds up all that waits in its pool.
        diagnosis: what is known besides of how its pod ended.
    """
    identifier, state = str(run.id), run.state
    if state is None:
        return QueuedJob(identifier, "waiting", "it has no state yet")
    said = f"{state.name}: {state.message}" if state.message else state.name or ""
    if state.is_running():
        return QueuedJob(identifier, "running")
    if state.is_cancelling() or state.is_cancelled():
        return QueuedJob(
            identifier, "ended", f"cancelled: {state.message}" if state.message else "cancelled", "cancelled"
        )
    if state.is_completed():
        return QueuedJob(identifier, "ended", "ended by itself", "completed")
    if state.is_failed() or state.is_crashed():
        cause = _cause(state.message or "", diagnosis)
        return QueuedJob(identifier, "ended", f"{said} ({diagnosis})" if diagnosis else said, cause)
    if state.is_scheduled():
        return QueuedJob(identifier, "waiting", f"{state.name}: {why or 'a worker of its work pool will take it'}")
    return QueuedJob(identifier, "waiting", said)


def diagnosis(client: SyncPrefectClient, run: FlowRun) -> str:
    """What Prefect's worker on Kubernetes told of how a flow run's pod ended; empty for any other."""
    from prefect.events.filters import EventFilter, EventNameFilter, EventRelatedFilter

    if run.state is None or not run.state.is_crashed():
        return ""
    asked = EventFilter(
        event=EventNameFilter(prefix=[_OF_PODS]), related=EventRelatedFilter(id=[f"prefect.flow-run.{run.id}"])
    )
    told: list[str] = []
    for event in client.read_events(asked, limit=_EVENTS).events:
        resource: Any = event.resource
        told += [resource[key] for key in ("kubernetes.reason", "kubernetes.diagnosis") if key in resource]
    return ", ".join(dict.fromkeys(told))


def last_warning(client: SyncPrefectClient, run: UUID) -> str:
    """The last warning in a flow run's log; empty where there is none."""
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId, LogFilterLevel
    from prefect.client.schemas.sorting import LogSort

    asked = LogFilter(flow_run_id=LogFilterFlowRunId(any_=[run]), level=LogFilterLevel(ge_=_WARNING))
    found = client.read_logs(asked, limit=1, sort=LogSort.TIMESTAMP_DESC)
    return found[0].message if found else ""


def cancel(client: SyncPrefectClient, run: UUID) -> None:
    """Have a flow run end; one that has not begun is cancelled at once, and one that is gone is none the worse."""
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelling

    with suppress(ObjectNotFound):
        client.set_flow_run_state(run, Cancelling())


def clear(client: SyncPrefectClient, name: str, patience: float = _ENDING_SECONDS) -> None:
    """Cancel all flow runs of a session, and remove its deployment and what let its workers in.

    Args:
        client: of the server.
        name: the session's batch name.
        patience: seconds that flow runs may take to end.
    """
    from prefect.exceptions import ObjectNotFound
    from prefect.states import Cancelled

    for run in unfinished(client, name):
        cancel(client, run.id)
    deadline = time.monotonic() + patience
    while (left := unfinished(client, name)) and time.monotonic() < deadline:
        time.sleep(_PAUSE_SECONDS)
    for run in left:
        # Whoever ran it is gone; and if it does run, it sees that it is not wanted.
        client.set_flow_run_state(run.id, Cancelled(message="its session ended"), force=True)
    with suppress(ObjectNotFound):
        client.delete_deployment(client.read_deployment_by_name(f"{FLOW}/{name}").id)
    with suppress(ObjectNotFound):
        client.delete_block_document(client.read_block_document_by_name(name, SECRET).id)


def _cause(message: str, diagnosis: str) -> Cause:
    """Why a flow run failed or crashed, as far as Prefect tells."""
    told = f"{message} {diagnosis}".lower()
    if "oomkilled" in told or "out-of-memory" in told:
        return "out of memory"
    if "evicted" in diagnosis.lower():
        return "preempted"
    if "job was deleted" in told:
        return "cancelled"
    return "failed"
