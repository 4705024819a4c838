"""Workers that are flow runs of a Prefect work pool: settings, and the `WorkloadManager`."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from uuid import UUID

import yaml
from pydantic import Field

from surgeline.clusters import poolruns
from surgeline.clusters.batch import Contact, QueuedJob, WorkerClass
from surgeline.clusters.clustertypes import ClusterType
from surgeline.clusters.poolruns import FLOW, SECRET
from surgeline.clusters.prefectapi import PATIENT_RETRIES, PrefectApi
from surgeline.clusters.settings import BatchSettings
from surgeline.clusters.workercommand import worker_options
from surgeline.errors import ClusterError, nearest
from surgeline.work.casaprocess import thread_environment

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import WorkPool as PrefectWorkPool

# Where a flow run finds the flow.
ENTRYPOINT = "surgeline.clusters.poolworker.worker"
# Prefect's processes and the nanny beside a worker, which may use all that it was promised.
_OTHERS_BYTES = 768 * 2**20
# By which a pool's template is told the size of a worker.
_SIZES = ("cores", "memory", "gpus")
# A pool whose flow runs are processes where its own worker runs: they have what there is.
_SIZELESS = "process"


class WorkPoolSettings(BatchSettings):
    """What clusters have besides whose workers are flow runs of a work pool."""

    of_cluster = BatchSettings.of_cluster | {"work_pool"}

    type: Literal["prefect"]
    # As the name of a block, whose names are longer by a session's own.
    name: str = Field(default="surgeline", pattern=r"^[a-z]([a-z0-9-]*[a-z0-9])?$")
    work_pool: str
    job_variables: Mapping[str, Any] = Field(default_factory=dict)
    workers: Mapping[str, WorkPoolSettings] = Field(default_factory=dict)


class WorkPool:
    """A Prefect work pool, by its server's API; keeps `WorkloadManager`.

    A session has one deployment, and each worker is a flow run of it, which the pool's own workers start.
    """

    def __init__(self, settings: WorkPoolSettings) -> None:
        """Prepare; nothing is asked yet.

        Args:
            settings: the cluster's.
        """
        self.settings = settings
        self.api = PrefectApi()
        self._made: set[str] = set()

    def text(self, worker_class: WorkerClass, contact: Contact, count: int = 1) -> str:
        """The session's deployment, and so many flow runs of it."""
        runs = [self._flow_run(worker_class, contact) for _ in range(count)]
        return yaml.safe_dump_all([self._deployment(contact), *runs], sort_keys=False)

    def check(self, worker_class: WorkerClass, contact: Contact) -> None:
        """See whether the server answers, and has such a pool, which takes flow runs of that size; nothing is made.

        Raises:
            ClusterError: it has not, or does not answer; or Prefect is not installed.
        """
        with self.api.client(PATIENT_RETRIES) as client:
            pool = self._pool(client)
        if pool.is_paused:
            raise ClusterError(
                f"work pool {pool.name!r} is paused, and starts nothing",
                f"prefect work-pool resume {pool.name}",
            )
        variables = pool.base_job_template.get("variables", {}).get("properties", {})
        own = worker_class.settings
        assert isinstance(own, WorkPoolSettings)
        for name in own.job_variables:
            if name not in variables:
                raise ClusterError(
                    f"the template of work pool {pool.name!r} has no variable {name!r}", nearest(name, variables)
                )
        missing = [name for name in _SIZES if name not in variables]
        if missing and pool.type != _SIZELESS:
            raise ClusterError(
                f"the template of work pool {pool.name!r}, of type {pool.type}, has no variables "
                f"{', '.join(missing)}: it cannot be told that a worker of class {worker_class.name!r} needs "
                f"{worker_class.offers}",
                "give it these; `surgeline deploy … --pool NAME` makes a pool for Kubernetes that has them",
            )

    def submit(self, worker_class: WorkerClass, contact: Contact, count: int) -> list[str]:
        """Create flow runs for so many workers, and the session's deployment if it is not there.

        Raises:
            ClusterError: they were refused, in the server's words, or it does not answer.
        """
        asked = self._flow_run(worker_class, contact)
        made: list[str] = []
        try:
            with self.api.client() as client:
                if "secret" in asked["parameters"]:
                    _keep_secret(client, contact)
                flow = client.create_flow_from_name(FLOW)
                deployment = client.create_deployment(flow, **self._deployment(contact))
                for _ in range(count):
                    made.append(str(client.create_flow_run_from_deployment(deployment, **asked).id))
        except ClusterError:
            if not made:
                raise
            # The rest is asked for again, and refused again if need be.
        self._made.update(made)
        return made

    def look(self, contact: Contact) -> dict[str, QueuedJob]:
        """All flow runs of a session that have not ended.

        One whose making was not confirmed in time is cancelled: it was asked for again.

        Raises:
            ClusterError: the server does not answer.
        """
        with self.api.client() as client:
            found = poolruns.unfinished(client, contact.name)
            runs = [run for run in found if str(run.id) in self._made]
            for run in found:
                if run not in runs:
                    poolruns.cancel(client, run.id)
            why = self._why_nothing_starts(client) if any(poolruns.is_waiting(run) for run in runs) else ""
        return {str(run.id): poolruns.judged(run, why) for run in runs}

    def fate(self, contact: Contact, identifier: str) -> QueuedJob | None:
        """What became of a flow run; None where the server does not answer."""
        from prefect.exceptions import ObjectNotFound

        try:
            with self.api.client() as client:
                try:
                    run = client.read_flow_run(UUID(identifier))
                except ObjectNotFound:
                    return QueuedJob(identifier, "ended", "its flow run was deleted", "cancelled")
                return poolruns.judged(run, "", poolruns.diagnosis(client, run))
        except ClusterError:
            return None

    def explain(self, contact: Contact, identifier: str) -> str:
        """The last warning in a flow run's log.

        Raises:
            ClusterError: the server does not answer.
        """
        with self.api.client() as client:
            return poolruns.last_warning(client, UUID(identifier))

    def cancel(self, identifiers: Sequence[str]) -> None:
        """Cancel flow runs.

        Raises:
            ClusterError: the server does not answer.
        """
        if identifiers:
            with self.api.client() as client:
                for identifier in identifiers:
                    poolruns.cancel(client, UUID(identifier))

    def cancel_all(self, contact: Contact) -> list[str]:
        """The command that cancels all flow runs of a session, and removes what else it made."""
        return [sys.executable, "-m", "surgeline.clusters.poolcancel", contact.name, self.api.url()]

    def output(self, worker_class: WorkerClass, contact: Contact, identifier: str) -> Path:
        """The file that a worker's own output goes to: none, since its end is in what its flow run says."""
        return contact.folder / f"{identifier}.log"

    def _deployment(self, contact: Contact) -> dict[str, Any]:
        return {
            "name": contact.name,
            "entrypoint": ENTRYPOINT,
            "work_pool_name": self.settings.work_pool,
            "tags": [contact.name, "surgeline"],
        }

    def _flow_run(self, worker_class: WorkerClass, contact: Contact) -> dict[str, Any]:
        settings, offers = worker_class.settings, worker_class.offers
        assert isinstance(settings, WorkPoolSettings) and offers.memory is not None
        parameters: dict[str, Any] = {
            "module": contact.module,
            "arguments": [
                contact.scheduler,
                *worker_options(worker_class),
            ],
            "environment": thread_environment(worker_class.threads),
        }
        if contact.certificates:
            # Not by their paths: Jobs may be another user's, who may not read them.
            parameters["secret"] = contact.name
        if settings.python:
            parameters["python"] = settings.python
        sizes = {"cores": offers.cores, "memory": offers.memory + _OTHERS_BYTES, "gpus": offers.gpus}
        return {
            "name": f"{contact.name}-{worker_class.name}",
            "tags": [contact.name, "surgeline"],
            "parameters": parameters,
            "job_variables": {**{name: str(size) for name, size in sizes.items()}, **settings.job_variables},
        }

    def _pool(self, client: SyncPrefectClient) -> PrefectWorkPool:
        from prefect.exceptions import ObjectNotFound

        name = self.settings.work_pool
        try:
            return client.read_work_pool(name)
        except ObjectNotFound as error:
            raise ClusterError(
                f"Prefect's server at {self.api.url()} has no work pool {name!r}",
                f"`surgeline deploy … --pool {name}` makes one for Kubernetes, and "
                f"`prefect work-pool create {name} --type …` any other",
            ) from error

    def _why_nothing_starts(self, client: SyncPrefectClient) -> str:
        """What holds up all that waits in the pool; empty where nothing does."""
        pool = self._pool(client)
        if pool.is_paused:
            return f"work pool {pool.name!r} is paused"
        if str(getattr(pool.status, "value", pool.status)) == "NOT_READY":
            return f"no worker of work pool {pool.name!r} is online: prefect worker start --pool {pool.name}"
        if pool.concurrency_limit is not None:
            used = client.read_work_pool_concurrency_status(pool.name, flow_run_limit=0).active_slots
            if used >= pool.concurrency_limit:
                return f"{used} flow runs are on their way in work pool {pool.name!r}, which is its limit"
        return ""


def _keep_secret(client: SyncPrefectClient, contact: Contact) -> None:
    """Have the server keep, encrypted, what lets a session's workers in."""
    from prefect.client.schemas.actions import BlockDocumentCreate
    from prefect.exceptions import ObjectAlreadyExists

    kind = client.read_block_type_by_slug(SECRET)
    schema = client.get_most_recent_block_schema_for_block_type(kind.id)
    assert schema is not None and contact.certificates is not None
    content = json.dumps([path.read_text(encoding="ascii") for path in contact.certificates])
    try:
        client.create_block_document(
            BlockDocumentCreate(
                name=contact.name, data={"value": content}, block_type_id=kind.id, block_schema_id=schema.id
            )
        )
    except ObjectAlreadyExists:
        return


WORK_POOL = ClusterType(WorkPoolSettings, lambda settings, _: WorkPool(settings))
