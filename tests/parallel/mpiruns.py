"""The mpiruns of this machine, for tests that hold with each of them."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest

_SYSTEM = "/usr/bin/mpirun"
_SYSTEM_LIBRARY = "/usr/lib/x86_64-linux-gnu/libmpi.so.40"
MPIRUNS = [path for path in (str(Path(sys.executable).with_name("mpirun")), _SYSTEM) if shutil.which(path)]
each_mpirun = pytest.mark.parametrize(
    "mpirun", MPIRUNS or [pytest.param("", marks=pytest.mark.skip(reason="there is no mpirun"))]
)


def mpi_of(mpirun: str) -> dict[str, str]:
    """The variables of a user who works with an mpirun and its library, not with the one beside this Python."""
    chosen = {"SURGELINE__MPI__MPIRUN": mpirun}
    if mpirun == _SYSTEM and Path(_SYSTEM_LIBRARY).exists():
        chosen["MPI4PY_LIBMPI"] = _SYSTEM_LIBRARY
    return chosen
