"""What Dask loads into each worker process (`--preload`): it becomes a Dask worker before it is given anything."""

from __future__ import annotations

from surgeline.parallel.environment import become_dask_worker


def dask_setup(worker: object) -> None:
    """Called by Dask in each worker process as it starts, and in each that replaces one."""
    become_dask_worker()
