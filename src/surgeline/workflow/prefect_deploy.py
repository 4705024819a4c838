"""Registers a session, or a stage of it, with Prefect, to be run as a Job of a work pool on Kubernetes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from surgeline.clusters.batch import WorkerClass, settings_of, worker_classes
from surgeline.clusters.kubernetes import KubernetesSettings
from surgeline.config import Configuration
from surgeline.errors import BadInput, ClusterError, nearest
from surgeline.workflow.checking import check_can_run_alone
from surgeline.workflow.graph import needs
from surgeline.workflow.prefect import check_installed
from surgeline.workflow.recipe import Recipe
from surgeline.workflow.worktemplate import base_job_template

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient


def place_of(configuration: Configuration, cluster: str, name: str | None) -> tuple[WorkerClass, str | None]:
    """The worker class whose image, folders and size a Job is to have, and the namespace.

    Args:
        configuration: the whole configuration.
        cluster: one of its clusters, of type kubernetes.
        name: one of the cluster's worker classes; None: its first.

    Raises:
        BadInput: there is no such cluster or class, or it is of another type.
        ConfigError: the cluster's settings are wrong.
    """
    clusters = configuration.settings.clusters
    if cluster not in clusters:
        of_pods = [name for name, known in clusters.items() if known.type == "kubernetes"]
        way_out = nearest(cluster, of_pods) if of_pods else "write one of type kubernetes under `clusters:`"
        raise BadInput(f"there is no cluster {cluster!r}", f"{way_out}; name it with --cluster")
    if clusters[cluster].type != "kubernetes":
        raise BadInput(
            f"cluster {cluster!r} is of type {clusters[cluster].type}, and Jobs of a work pool are pods",
            "name one of type kubernetes",
        )
    settings = settings_of(configuration, cluster)
    assert isinstance(settings, KubernetesSettings)
    classes = {found.name: found for found in worker_classes(configuration, cluster)}
    if name is not None and name not in classes:
        raise BadInput(f"cluster {cluster!r} has no worker class {name!r}", nearest(name, classes))
    return classes[name or next(iter(classes))], settings.namespace


def deploy(
    recipe: Recipe,
    workdir: Path,
    settings: Sequence[str],
    worker_class: WorkerClass,
    namespace: str | None,
    pool: str,
    stage: str | None = None,
) -> str:
    """Register a deployment, and make its work pool if there is none of that name.

    The size of the Job is that of the worker class, whatever the pool was made with.

    Args:
        recipe: what is to be run, with its observations as the Job sees them.
        workdir: the working folder, as the Job sees it.
        settings: as for `--set`.
        worker_class, namespace: see `place_of`.
        pool: the work pool's name.
        stage: the one stage to be run, of which all that it needs has to have finished by then; None: all.

    Returns:
        the deployment's name, as `prefect deployment run` takes it.

    Raises:
        RecipeError: the recipe has no such stage.
        ConfigError: Prefect is not installed.
        ClusterError: its server does not answer, or is none that pods could reach.
    """
    waits = needs(recipe)
    if stage is not None:
        check_can_run_alone(stage, waits, waits)
    check_installed()
    import httpx
    from prefect.client.orchestration import get_client
    from prefect.settings import PREFECT_API_URL

    if PREFECT_API_URL.value() is None:
        raise ClusterError(
            "a deployment needs a Prefect server that the work pool's Jobs reach, and none is named",
            "export PREFECT_API_URL=http://…:4200/api",
        )
    from surgeline.workflow.prefect_flow import ENTRYPOINT, session

    offers = worker_class.offers
    name = recipe.name if stage is None else f"{recipe.name}.{stage}"
    with get_client(sync_client=True) as client:
        try:
            _make_pool(client, pool, worker_class, namespace)
            client.create_deployment(
                flow_id=client.create_flow(session),
                name=name,
                entrypoint=ENTRYPOINT,
                parameters={
                    "recipe": yaml.safe_load(recipe.to_yaml()),
                    "workdir": str(workdir),
                    "settings": list(settings),
                    "stage": stage,
                },
                work_pool_name=pool,
                tags=["surgeline"],
                job_variables={
                    "cores": str(offers.cores),
                    "memory": str(offers.memory),
                    "gpus": str(offers.gpus),
                },
            )
        except httpx.HTTPError as error:
            raise ClusterError(
                f"Prefect's server at {PREFECT_API_URL.value()} did not take the deployment: {error}",
                "see whether it runs: prefect version; and PREFECT_API_URL",
            ) from error
    return f"{session.name}/{name}"


def _make_pool(client: SyncPrefectClient, name: str, worker_class: WorkerClass, namespace: str | None) -> None:
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.exceptions import ObjectAlreadyExists

    template = base_job_template(worker_class, namespace)
    try:
        client.create_work_pool(WorkPoolCreate(name=name, type="kubernetes", base_job_template=template))
    except ObjectAlreadyExists:
        # Whoever made it may have changed its template; what a deployment says of its own size holds there, too.
        return
