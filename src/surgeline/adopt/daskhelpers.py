"""What the Pipeline imports as its `daskhelpers`."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Mapping
from typing import Any

from surgeline.adopt.engine import current, needed, slot
from surgeline.adopt.tasks import SentTask as FutureTask
from surgeline.adopt.travelling import everywhere
from surgeline.parallel.environment import Role, role
from surgeline.parallel.environment import without_mpi as sanitized_env

__all__ = [
    "FutureTask",
    "daskclient",
    "exec_func",
    "is_dask_ready",
    "is_dask_worker",
    "is_daskclient_allowed",
    "is_worker",
    "sanitized_env",
    "start_daskcluster",
    "stop_daskcluster",
    "tier0futures",
]

# None where no workers are Dask's; `__getattr__` says what it is.
daskclient: Any
# Callers may set this: whether jobs go to workers of Dask's.
tier0futures = True


def is_dask_ready() -> bool:
    """Whether jobs can go to workers of Dask's, which those of every cluster are."""
    # A caller may have set the client, too.
    return bool(tier0futures and sys.modules[__name__].daskclient)


def is_worker() -> bool:
    """Whether this process runs jobs for another: a worker of Dask's, or a server of an MPI session."""
    return role() in (Role.DASK_WORKER, Role.MPI_SERVER)


def is_dask_worker() -> bool:
    """Whether this process is a worker of Dask's."""
    return role() is Role.DASK_WORKER


def is_daskclient_allowed() -> bool:
    """Whether this process may have workers of its own."""
    return not is_worker()


def start_daskcluster(dask_config: Mapping[str, Any] | None = None) -> Any:
    """Give the client of the workers; Surgeline has started them, or starts them when jobs come.

    Args:
        dask_config: taken for the sake of callers: Surgeline's configuration holds.

    Returns:
        a client of Dask's for what is submitted without the Pipeline; None where no workers are Dask's.
    """
    if dask_config is not None:
        logging.getLogger("surgeline").warning("start_daskcluster: Surgeline's own configuration holds")
    engine = needed()
    engine.open_client()
    return engine.client


def stop_daskcluster() -> None:
    """Have no job go to the workers any more; they end when whoever opened them closes their backend."""
    engine = current()
    if engine is not None and engine.slot == "dask":
        engine.close_client()
        engine.started = False


def exec_func(fn: Callable[..., Any], *args: Any, include_client: bool = True, **kwargs: Any) -> None:
    """Call a function here and in each worker, those that come later before their first job.

    Args:
        fn: the function.
        *args: its arguments.
        include_client: whether it is called here, too.
        **kwargs: its arguments by name.

    Raises:
        PipelineException: it failed in a worker.
    """
    if include_client:
        fn(*args, **kwargs)
    if slot() == "dask":
        everywhere(needed(), fn, args, kwargs)


def __getattr__(name: str) -> Any:
    # As it is when it is asked for.
    if name == "daskclient":
        engine = current()
        return engine.client if engine is not None else None
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
