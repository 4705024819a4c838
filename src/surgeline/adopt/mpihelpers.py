"""What the Pipeline imports as its `mpihelpers`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from surgeline.adopt.engine import current, needed, slot
from surgeline.adopt.executables import Executable, Tier0FunctionCall, Tier0JobRequest, Tier0PipelineTask
from surgeline.adopt.mpiclient import MpiClient
from surgeline.adopt.queue import TaskQueue
from surgeline.adopt.tasks import SentTask as AsyncTask
from surgeline.adopt.tasks import SyncTask
from surgeline.adopt.travelling import everywhere
from surgeline.parallel.environment import Role, role

__all__ = [
    "ENABLE_TIER0_PLOTMS",
    "USE_MPI",
    "AsyncTask",
    "Executable",
    "MPIEnvironment",
    "SyncTask",
    "TaskQueue",
    "Tier0FunctionCall",
    "Tier0JobRequest",
    "Tier0PipelineTask",
    "exec_func",
    "is_mpi_ready",
    "is_mpi_server",
    "mpi_server_list",
    "mpiclient",
    "parse_mpi_input_parameter",
    "parse_parallel_input_parameter",
]

# None outside of an MPI session; `__getattr__` says what they are.
mpiclient: MpiClient | None
mpi_server_list: list[int] | None
# Callers may set these, and do ask for them: whether MPI is used, and whether plotms runs on workers.
USE_MPI = True
ENABLE_TIER0_PLOTMS = True


class _MpiEnvironment:
    """What this process is to MPI."""

    @property
    def is_mpi_enabled(self) -> bool:
        return role() is Role.MPI_SERVER or slot() == "mpi"

    @property
    def is_mpi_client(self) -> bool:
        return slot() == "mpi"

    def mpi_server_rank_list(self) -> list[int]:
        """The ranks of the servers."""
        return _servers() or []


MPIEnvironment = _MpiEnvironment()


def is_mpi_ready() -> bool:
    """Whether jobs can go to the servers of an MPI session."""
    return USE_MPI and slot() == "mpi"


def is_mpi_server() -> bool:
    """Whether this process is such a server."""
    return role() is Role.MPI_SERVER


def parse_mpi_input_parameter(input_arg: Any) -> bool:
    """Whether a task is to use MPI.

    Args:
        input_arg: true, false, or automatic: if there is an MPI session.

    Raises:
        ValueError: it is none of these.
    """
    return _parsed(input_arg, is_mpi_ready)


def parse_parallel_input_parameter(input_arg: Any) -> bool:
    """Whether a task is to give its jobs to workers.

    Args:
        input_arg: true, false, or automatic: if there are any.

    Raises:
        ValueError: it is none of these.
    """
    return _parsed(input_arg, lambda: slot() != "serial")


def exec_func(fn: Callable[..., Any], *args: Any, include_client: bool = True, **kwargs: Any) -> None:
    """Call a function here and in each server of an MPI session.

    Args:
        fn: the function.
        *args: its arguments.
        include_client: whether it is called here, too.
        **kwargs: its arguments by name.

    Raises:
        PipelineException: it failed in a server.
    """
    if include_client:
        fn(*args, **kwargs)
    if is_mpi_ready():
        everywhere(needed(), fn, args, kwargs)


def _parsed(asked: Any, automatic: Callable[[], bool]) -> bool:
    said = str(asked).lower()
    if said == "automatic":
        return automatic()
    if said in ("true", "false"):
        return said == "true"
    raise ValueError(f"it may be true, false or automatic, and is {asked!r}")


def _client() -> MpiClient | None:
    engine = current()
    return MpiClient(engine) if engine is not None and engine.slot == "mpi" else None


def _servers() -> list[int] | None:
    client = _client()
    return client.servers if client is not None else None


def __getattr__(name: str) -> Any:
    # As they are when they are asked for.
    if name == "mpiclient":
        return _client()
    if name == "mpi_server_list":
        return _servers()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
