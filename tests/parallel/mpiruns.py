"""The mpirun that tests are run with."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

# The one beside this Python, unless another is to be tested: continuous integration does both.
MPIRUNS = [os.environ.get("SURGELINE_TEST_MPIRUN") or str(Path(sys.executable).with_name("mpirun"))]
_SYSTEM_LIBRARY = "/usr/lib/x86_64-linux-gnu/libmpi.so.40"
each_mpirun = pytest.mark.parametrize("mpirun", MPIRUNS)


def mpi_of(mpirun: str) -> dict[str, str]:
    """The variables of a user who works with an mpirun and its library, not with the one beside this Python."""
    chosen = {"SURGELINE__MPI__MPIRUN": mpirun}
    if mpirun.startswith("/usr/bin/"):
        chosen["MPI4PY_LIBMPI"] = _SYSTEM_LIBRARY
    return chosen
