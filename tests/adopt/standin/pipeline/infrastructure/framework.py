"""Where a task is."""

import inspect

from . import mpihelpers


def is_top_level_task():
    if mpihelpers.MPIEnvironment.is_mpi_enabled and not mpihelpers.MPIEnvironment.is_mpi_client:
        return False
    try:
        from distributed import get_worker

        get_worker()
    except (ImportError, ValueError):
        depth = [
            frame.function
            for frame in inspect.stack()
            if frame.filename.endswith("pipeline/infrastructure/basetask.py")
        ]
        return depth.count("execute") == 1
    return False
