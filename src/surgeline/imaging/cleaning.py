"""One call that images and cleans, in parallel, with tclean's own parameters: for scripts and notebooks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast, get_args

from surgeline.clusters import local
from surgeline.config import load
from surgeline.errors import BadInput, ClusterError, JobFailed
from surgeline.imaging.cleaned import files_read
from surgeline.imaging.gpu.engines import Engine, Gridding, Otherwise
from surgeline.imaging.ways import Way, check_way, clean_image
from surgeline.parallel.backend import open_backend
from surgeline.parallel.mpirun import find_launcher
from surgeline.work.casasignature import signature
from surgeline.work.jobs import Job
from surgeline.work.procedure import drive
from surgeline.work.taskqueue import Backend, TaskQueue

# tclean's own values of `parallel`.
_AS_TCLEAN = {True: "mpi", False: "serial"}


def clean(
    vis: str | Sequence[str],
    imagename: str,
    *,
    parallel: Way | bool = "auto",
    backend: Backend | None = None,
    workers: int | None = None,
    engine: Engine = "casa",
    otherwise: Otherwise | None = None,
    **arguments: Any,
) -> dict[str, Any]:
    """Image and clean as `casatasks.tclean` does, in parallel: the same parameters, products and record.

    What there is of the image's name is made anew.

    Args:
        vis: the MS, or several.
        imagename: the stem of the products' names, relative to the current directory of the backend's jobs.
        parallel: auto, rows, channels, mpi or serial; see `surgeline.imaging.ways`. True is mpi, False is serial.
        backend: what `surgeline.open_backend` gave; workers on this machine, for this call only, unless given.
        workers: how many there are to be on this machine; as many as configured unless given.
        engine: what grids: casa is CASA's imager; cpu is ducc0, and gpu our own kernels on a GPU, for continua alone:
            see docs/imaging.md.
        otherwise: cpu where that may do it when there is no GPU, or one fails.
        arguments: tclean's further parameters; what is left out has tclean's default.

    Returns:
        tclean's record: `stopcode`, `stopDescription`, `iterdone`, `nmajordone`, `summarymajor`, `summaryminor`, ….
        With another engine than CASA's also `engine`, which gridded in the end, and `engineReason`, why that.

    Raises:
        BadInput: tclean has no such parameter, or it cannot be honoured; before any work starts.
        ClusterError: the workers cannot be started.
        JobFailed: imaging failed, or there is no GPU for the engine that needs one.
    """
    way = cast(Way, _AS_TCLEAN[parallel] if isinstance(parallel, bool) else parallel)
    ways = get_args(Way)
    if way not in ways:
        raise BadInput(f"parallel={parallel!r} is no way to make an image", f"choose one of {', '.join(ways)}")
    given = {"vis": vis if isinstance(vis, str) else list(vis), "imagename": str(imagename), **arguments}
    signature("tclean").check(given)
    gridding = Gridding(engine, otherwise)
    check_way(given, way, gridding)
    if backend is not None:
        return _clean(given, way, gridding, backend, cores=1)
    missing = [file for file in files_read(given) if not Path(file).exists()]
    if missing:
        raise BadInput(f"there is no {missing[0]}", f"the current directory is {Path.cwd()}")
    overrides = ["backend=dask", "dask.cluster=local"] + ([f"dask.n_workers={workers}"] if workers else [])
    configuration = load(overrides=tuple(overrides))
    memory = local.plan(configuration, "local").memory
    opened = open_backend(configuration)
    try:
        cores = opened.workers if _mpi_is_here() else 1
        return _clean(given, way, gridding, opened, cores, memory, local.gpus())
    finally:
        opened.close()


def _check_memory(job: Job, memory: int | None) -> None:
    needed = job.declared.memory
    if memory is not None and needed is not None and needed > memory:
        raise JobFailed(
            f"job {job.declared.name!r} is estimated to take {needed / 1e9:.1f} GB of memory, and each worker has "
            f"{memory / 1e9:.1f} GB",
            "give fewer workers, or make the image smaller",
        )


def _mpi_is_here() -> bool:
    try:
        find_launcher()
    except ClusterError:
        return False
    return find_spec("casampi") is not None


def _clean(
    arguments: Mapping[str, Any],
    way: Way,
    gridding: Gridding,
    backend: Backend,
    cores: int,
    memory: int | None = None,
    gpus: int | None = None,
) -> dict[str, Any]:
    def run_batch(jobs: Sequence[Job]) -> list[Any]:
        with TaskQueue(backend) as queue:
            for job in jobs:
                _check_memory(job, memory)
                # An MPI session is to have all of them.
                cores = backend.workers if job.declared.mpi else job.declared.resources.cores
                resources = job.declared.resources.model_copy(update={"cores": cores})
                queue.add(job.declare(resources=resources, overwrite=True))
            return [outcome.result() for outcome in queue.get_results()]

    def run_aside(jobs: Sequence[Job]) -> None:
        run_batch(jobs)

    def run_everywhere(job: Job) -> list[Any]:
        return [outcome.result() for outcome in backend.exec_everywhere(job)]

    procedure = clean_image(arguments, backend.workers, way, memory=memory, cores=cores, gridding=gridding, gpus=gpus)
    cleaned, _ = drive(procedure, run_batch, run_aside, run_everywhere)
    if gridding.engine == "casa":
        return dict(cleaned.record)
    return {**cleaned.record, "engine": cleaned.gridding.engine, "engineReason": cleaned.gridding.told}
