"""What this process is to MPI and Dask, and the variables by which MPI would take its children for ranks.

A child that inherits them joins its parent's MPI world in its parent's place as soon as it loads MPI, as every import
of casampi does: it aborts, it waits for ever, or it brings the session down.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from itertools import count

from surgeline.errors import ClusterError

# What mpirun, mpiexec and srun tell the processes that they start, and MPI_Init the libraries below it. What users
# set of the same families stays: MCA parameters, where an installation lies, that root may run.
_TELLS_A_RANK = re.compile(
    r"""
    # Open MPI 4 and 5, with ORTE, PMIx and PRRTE. MCA parameters of these names are mpirun's own, others the user's.
      OMPI_(?!MCA_|ALLOW_RUN_AS_ROOT).* | OMPI_MCA_PREFIXES
    | (OMPI|PRTE)_MCA_(
          (orte|prte|ess|pmix)(_.*)? | initial_wdir | num_procs | num_restarts | cpu_type | cpu_model
        | mpi_oversubscribe | mpi_yield_when_idle | shmem_RUNTIME_QUERY_hint
      )
    # MPI_Init sets the last of these to what its own mpirun wants.
    | PMIX_(?!MCA_|PREFIX$).* | PMIX_MCA_psec
    | PRR?TE_(?!MCA_|ALLOW_RUN_AS_ROOT|PREFIX$).*
    | ORTE_.* | OPAL_(SYS|USER)_PARAMS_GIVEN
    # MPICH, Intel MPI and all else that Hydra starts.
    | PMI2?_.* | MPI_LOCALNRANKS | MPI_LOCALRANKID | MPIR_CVAR_CH3_INTERFACE_HOSTNAME
    | HYDI_.* | HYDRA_BSTRAP_.* | HYDRA_LAUNCH_TYPE | HYDRA_IP_VERSION
    | I_MPI_(MPIRUN | HYDRA_UUID | (INFO|INTERNAL)_.* | PIN_INFO | PIN_MAPPING | RETURN_WIN_MEM_NUMA)
    # Slurm: within a step Open MPI takes itself for a rank that srun started. What else tells of the job may stay.
    | SLURM_(MPI_TYPE | PMI.* | STEP_?ID | PROCID)
    """,
    re.VERBOSE,
)
# MPI_Init of ranks that share a machine sets these, unless the user has: without a network, or without backtraces.
_SET_BY_MPI_INIT = re.compile(r"PSM2?_DEVICES | (HFI|IPATH)_NO_BACKTRACE", re.VERBOSE)


class Role(StrEnum):
    """What a process is."""

    MPI_CLIENT = "MPI client"
    MPI_SERVER = "MPI server"
    DASK_WORKER = "Dask worker"
    PLAIN = "plain process"

    @property
    def with_article(self) -> str:
        """As in a sentence: an MPI server, a Dask worker."""
        return f"{'an' if self.startswith('MPI') else 'a'} {self}"


def role() -> Role:
    """What this process is; in a block of `without_mpi` the same as outside.

    Of several ranks of Open MPI the first is the client. A Dask worker is one whatever its variables say, which may
    be its session's.
    """
    if _is_dask_worker:
        return Role.DASK_WORKER
    size, rank = (_environment.inherited(f"OMPI_COMM_WORLD_{what}") for what in ("SIZE", "RANK"))
    if size in (None, "1") or rank is None:
        return Role.PLAIN
    return Role.MPI_CLIENT if rank == "0" else Role.MPI_SERVER


def check_client() -> None:
    """Check that this process may open an MPI session.

    Raises:
        ClusterError: it is a server or a Dask worker, or was not started by mpirun.
    """
    found = role()
    if found is Role.MPI_CLIENT:
        return
    if found is Role.PLAIN:
        raise ClusterError(
            "backend mpi needs an MPI session, and this process was not started by mpirun",
            "start it by: surgeline mpirun -n 4 -- run …; or leave `backend: mpi` out",
        )
    raise ClusterError(
        f"this process runs jobs, as {found.with_article}, and starts no MPI session",
        "give the jobs to the task queue of the session's own process",
    )


def servers_here() -> int:
    """How many of the MPI session's servers share this machine, its client's."""
    return max(1, int(os.environ.get("OMPI_COMM_WORLD_LOCAL_SIZE", "2")) - 1)


def clean_environment(variables: Mapping[str, str] = os.environ) -> dict[str, str]:
    """The variables without those that would make a child process a rank: `env` of a `subprocess`."""
    return {name: value for name, value in variables.items() if not _TELLS_A_RANK.fullmatch(name)}


@contextmanager
def without_mpi() -> Iterator[None]:
    """A block in which whatever is started is no rank, however it is started.

    The variables leave `os.environ`, and the environment that C sees, for the whole process. Blocks may be nested,
    and overlap in several threads: when the last one ends the variables are back, each with its value.
    """
    _environment.clean()
    try:
        yield
    finally:
        _environment.put_back()


def become_dask_worker() -> None:
    """Make this process a Dask worker: it and its children are no ranks, whatever its session is."""
    global _is_dask_worker
    _is_dask_worker = True
    # For good, like a block that does not end.
    _environment.clean()


class _Environment:
    """The variables of this process, and those that were taken out of it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._blocks = 0
        # By name, as Python and as C had them: of what MPI_Init sets, Python hears nothing.
        self._of_python: dict[str, str] = {}
        self._of_c: dict[str, str | None] = {}

    def inherited(self, name: str) -> str | None:
        """The value of a variable as it is outside of all blocks."""
        with self._lock:
            return self._of_python.get(name, os.environ.get(name))

    def clean(self) -> None:
        """Take the variables out, until `put_back` has been called as often as this."""
        with self._lock:
            of_c = _variables_of_c()
            self._blocks += 1
            kept = clean_environment()
            for name in os.environ.keys() - kept.keys():
                self._of_c.setdefault(name, of_c.get(name))
                self._of_python.setdefault(name, os.environ.pop(name))
            for name in of_c.keys() - kept.keys():
                if _TELLS_A_RANK.fullmatch(name) or _SET_BY_MPI_INIT.fullmatch(name):
                    self._of_c.setdefault(name, of_c[name])
                    os.unsetenv(name)

    def put_back(self) -> None:
        """Bring the variables back, as Python and as C had them, if this was the last block."""
        with self._lock:
            self._blocks -= 1
            if self._blocks:
                return
            os.environ.update(self._of_python)
            for name, value in self._of_c.items():
                if value is None:
                    os.unsetenv(name)
                else:
                    os.putenv(name, value)
            self._of_python.clear()
            self._of_c.clear()


_environment = _Environment()
_is_dask_worker = False


def _variables_of_c() -> dict[str, str]:
    """The environment that C has, which children inherit."""
    import ctypes

    entries = ctypes.POINTER(ctypes.c_char_p).in_dll(ctypes.CDLL(None), "environ")
    found = {}
    for position in count():
        entry = entries[position]
        if entry is None:
            break
        name, _, value = os.fsdecode(entry).partition("=")
        found[name] = value
    return found
