"""What a stage's jobs ask of the workers that run them, and what memory these have."""

from __future__ import annotations

from surgeline.clusters import local
from surgeline.clusters.batch import settings_of, worker_classes
from surgeline.clusters.surge import class_asked_for
from surgeline.config import Configuration
from surgeline.parallel.environment import servers_here
from surgeline.work.estimates import Estimates
from surgeline.work.jobs import Job
from surgeline.work.resources import Resources
from surgeline.workflow.recipe import StageRequest, cluster_of


def declared(request: StageRequest, job: Job, estimates: Estimates) -> Job:
    """A job as it is submitted: with what its stage asks for, or else it itself, and what is known of its like."""
    own = job.declared.resources
    asked = request.resources if request.resources != Resources() else own
    # Without the GPU that a job is made for it cannot run at all.
    asked = asked.model_copy(update={"gpus": max(asked.gpus, own.gpus)})
    memory, seconds = estimates.resources(request.name, job.declare(resources=asked))
    if memory is not None:
        asked = asked.model_copy(update={"memory": memory})
    # A stage that was interrupted left files of jobs that now run anew.
    return job.declare(resources=asked, overwrite=True, seconds=seconds)


def before_there_are_any(request: StageRequest, estimates: Estimates) -> tuple[Resources, float | None]:
    """What a stage's jobs will ask for, and their seconds, as far as that is known from those of earlier sessions."""
    memory, seconds = estimates.of_stage(request.name)
    asked = request.resources
    if asked.memory is None and memory is not None:
        asked = asked.model_copy(update={"memory": memory})
    return asked, seconds


def memory_of_workers(request: StageRequest, configuration: Configuration, backend: str) -> int | None:
    """The memory that each worker gives a stage's jobs, in bytes; None where that is not known.

    On a cluster with a queue it is that of the smallest class of workers for the stage: with work cut to fit it, all
    classes can take part. What the recipe says that each job is to have counts for more.

    Args:
        request: the stage.
        configuration: the whole configuration.
        backend: by which its jobs go: dask, mpi or serial.

    Raises:
        ConfigError: the settings of its cluster are wrong.
        RecipeError: it asks for a cluster that there is not.
    """
    if request.resources.memory is not None:
        return request.resources.memory
    if backend == "mpi":
        return local.memory_of_each(configuration, servers_here())
    if backend == "serial":
        return local.memory_of_each(configuration, 1)
    name = cluster_of(request, configuration)
    if not configuration.settings.clusters[name].has_queue:
        return local.plan(configuration, name).memory
    found = class_asked_for(worker_classes(configuration, name), request.resources)
    memory = found.offers.memory if found else None
    otherwise = settings_of(configuration, name).otherwise
    if otherwise is None:
        return memory
    # Whatever finds no worker goes there.
    there = memory_of_workers(request.model_copy(update={"cluster": otherwise}), configuration, backend)
    return min((known for known in (memory, there) if known is not None), default=None)


def gpus_of_workers(request: StageRequest, configuration: Configuration, backend: str) -> int | None:
    """How many of a stage's jobs can have a GPU at once; None where that is not known.

    Args:
        request: the stage.
        configuration: the whole configuration.
        backend: by which its jobs go: dask, mpi or serial.

    Raises:
        ConfigError: the settings of its cluster are wrong.
        RecipeError: it asks for a cluster that there is not.
    """
    name = cluster_of(request, configuration)
    if backend != "dask" or not configuration.settings.clusters[name].has_queue:
        return local.gpus()
    found = sum(one.maximum for one in worker_classes(configuration, name) if one.offers.gpus)
    # Of no class, workers are made to the measure of what the recipe asks for.
    return found or (None if request.resources.gpus else 0)
