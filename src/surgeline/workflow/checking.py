"""What of a stage's demands can be seen to be impossible before anything starts."""

from __future__ import annotations

from surgeline.clusters import local
from surgeline.clusters.batch import BATCH_TYPES, settings_of
from surgeline.config import Configuration
from surgeline.errors import RecipeError
from surgeline.parallel.backend import choose
from surgeline.workflow.recipe import StageRequest, cluster_of


def check_resources(request: StageRequest, configuration: Configuration) -> None:
    """Refuse what no worker of the stage's cluster could ever give, rather than wait for it.

    Raises:
        RecipeError: the stage asks for more than its workers have, or for a cluster that there is not.
        ConfigError: the settings of its cluster are wrong.
    """
    name = cluster_of(request, configuration)
    kind, _ = choose(configuration, request.cluster, request.backend)
    if kind == "mpi":
        return
    if configuration.settings.clusters[name].type in BATCH_TYPES:
        # Made to measure, a worker has what a job asks for; whether there is such a machine the manager says.
        settings_of(configuration, name)
        return
    asked, given = request.resources, local.plan(configuration, name)
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
