"""Whether mpirun and mpi4py are of one MPI: a job of two ranks that say what they see."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from textwrap import shorten

from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpirun import Launcher, command
from surgeline.parallel.mpiwords import first_paragraph

_RANKS = 2
_JOB_SECONDS = 30.0
_ENDING_SECONDS = 5.0
_SIZE, _LIBRARY = "surgeline: ranks ", "surgeline: library "
# mpi4py finds its library at run time, and MPI tells its version before it is started; the file that was found shows
# only among those that the process has mapped. Each line is written at once, so that those of ranks do not mingle.
_PROGRAM = f"""
import os
import mpi4py
mpi4py.rc.initialize = False
from mpi4py import MPI
with open("/proc/self/maps") as maps:
    files = [f"({{line.split()[-1]}})" for line in maps if "/libmpi.so" in line]
os.write(1, " ".join(["{_LIBRARY}" + MPI.Get_library_version().split(",")[0], *files[:1], "\\n"]).encode())
MPI.Init()
os.write(1, f"{_SIZE}{{MPI.COMM_WORLD.Get_size()}}\\n".encode())
"""


@dataclass(frozen=True)
class World:
    """What came of the job.

    Attributes:
        sizes: the number of ranks that each rank sees, one item for each rank that said so.
        library: the MPI library that mpi4py loads, its version and file; empty where no rank said it.
        complaint: what was said of errors, or that the job took too long.
    """

    sizes: tuple[int, ...]
    library: str
    complaint: str

    @property
    def is_one(self) -> bool:
        return self.sizes == (_RANKS,) * _RANKS


def examine_world(launcher: Launcher, variables: Mapping[str, str] = os.environ) -> World:
    """Run the job, in an environment without traces of another MPI job, and collect what its ranks say."""
    environment = clean_environment(variables)
    line = command(launcher, _RANKS, [sys.executable, "-c", _PROGRAM], environment, root=os.geteuid() == 0)
    with subprocess.Popen(
        line, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as job:
        try:
            told, errors = job.communicate(timeout=_JOB_SECONDS)
        except subprocess.TimeoutExpired:
            # It takes its ranks along, as it would not when killed.
            job.terminate()
            with suppress(subprocess.TimeoutExpired):
                job.wait(_ENDING_SECONDS)
            job.kill()
            return World((), "", f"it had not ended after {_JOB_SECONDS:g} s")
    return World(
        tuple(int(size) for size in _told(told, _SIZE)),
        " and ".join(sorted(set(_told(told, _LIBRARY)))),
        _cause(errors),
    )


def _told(text: str, about: str) -> list[str]:
    return [line.removeprefix(about).strip() for line in text.splitlines() if line.startswith(about)]


def _cause(errors: str) -> str:
    """What tells most of what went wrong: Python's own last line, else what mpirun said first."""
    raised = [line for line in errors.splitlines() if line.partition(":")[0].endswith(("Error", "Exception"))]
    return shorten(raised[-1] if raised else first_paragraph(errors), 160)
