"""What of a stage's demands can be seen to be impossible before anything starts."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from surgeline.clusters import local
from surgeline.clusters.batch import settings_of
from surgeline.config import Configuration
from surgeline.errors import JobFailed, RecipeError, nearest
from surgeline.parallel.backend import choose
from surgeline.work.jobs import Job
from surgeline.workflow.asking import memory_of_workers
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
    if configuration.settings.clusters[name].has_queue:
        # Made to measure, a worker has what a job asks for; whether there is such a machine the manager says.
        settings_of(configuration, name)
        return
    asked, given = request.resources, local.plan(configuration, name)
    if asked.gpus > local.gpus():
        raise RecipeError(
            f"stage {request.name!r} asks for {asked.gpus} GPUs a job, and local workers "
            f"{'share one' if local.gpus() else 'have none'}",
            "leave `gpus` out, or run the stage on a cluster whose workers have them",
        )
    if asked.memory and given.memory and asked.memory > given.memory:
        raise RecipeError(
            f"stage {request.name!r} asks for {asked.memory / 1e9:.1f} GB a job, "
            f"and each local worker has {given.memory / 1e9:.1f} GB",
            "start fewer workers (--set dask.n_workers=1), or ask for less",
        )


def check_memory(request: StageRequest, jobs: Sequence[Job], configuration: Configuration, backend: str) -> None:
    """Refuse jobs that are estimated to take more memory than any worker can have, before one of them is started.

    What the recipe says of the memory of the stage's jobs counts for more than estimates. On a cluster with a queue a
    job that is larger than the workers of all classes has one made to its measure.

    Args:
        request: the stage.
        jobs: as they would be submitted.
        configuration: the whole configuration.
        backend: by which they would go: dask, mpi or serial.

    Raises:
        JobFailed: naming the job, the estimate, and what can be done.
    """
    estimated = [(job.declared.resources.memory or 0, job.declared.name) for job in jobs if job.declared.memory]
    name = cluster_of(request, configuration)
    made_to_measure = backend == "dask" and configuration.settings.clusters[name].has_queue
    if not estimated or made_to_measure or request.resources.memory:
        return
    asked, job = max(estimated, key=lambda found: found[0])
    given = memory_of_workers(request, configuration, backend)
    if given is None or asked <= given:
        return
    together = local.memory_of_each(configuration, 1) or 0
    fewer = [f"start fewer workers (--set dask.n_workers={together // asked})"] if together >= asked else []
    way_out = [*fewer, "use a cluster with larger workers", "make the image smaller"]
    raise JobFailed(
        f"stage {request.name!r}: job {job!r} is estimated to take {asked / 1e9:.1f} GB of memory, "
        f"and each worker has {given / 1e9:.1f} GB",
        f"{', '.join(way_out)}; or, if you know better, give the stage resources: {{memory: …}} in the recipe",
    )


def check_can_run_alone(stage: str, needs: Mapping[str, Collection[str]], finished: Collection[str]) -> None:
    """See whether one stage of a session can run now without others.

    Args:
        stage: its name.
        needs: for each stage of the recipe, those that it waits for.
        finished: the stages that need not run again.

    Raises:
        RecipeError: there is no such stage, or one that it needs has to run before it.
    """
    if stage not in needs:
        raise RecipeError(f"the recipe has no stage {stage!r}", nearest(stage, needs))
    missing = [name for name in needs[stage] if name not in finished]
    if missing:
        raise RecipeError(
            f"stage {stage!r} needs {', '.join(missing)} to have finished",
            "run that first: surgeline resume, or a deployment of it",
        )
