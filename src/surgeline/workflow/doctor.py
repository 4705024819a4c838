"""What sessions need of a machine, examined without starting anything."""

from __future__ import annotations

import fcntl
import resource
import shutil
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.parallel.backend import choose
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
    """Examine Python, CASA and its data, the working folder's file system, limits, and the workers to be."""
    yield from _casa()
    yield from _folder(workdir)
    limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    yield Finding("open files", limit >= _LEAST_OPEN_FILES, f"at most {limit}", f"ulimit -n {_LEAST_OPEN_FILES}")
    name = configuration.settings.dask.cluster
    kind, reason = choose(configuration, name)
    yield Finding("backend", True, f"{kind}: {reason}")
    if configuration.settings.clusters[name].type == "local":
        asked = local.plan(configuration, name)
        enough = asked.memory is None or asked.memory > _LEAST_MEMORY_GIGABYTES * 1e9
        yield Finding("workers", enough, str(asked), "start fewer: --set dask.n_workers=1")
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
