"""Running the command line as a user does, and looking at what it left."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

NOBODY = 65534
ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "examples" / "ngc5921.yaml"


def surgeline(*arguments: str | Path, timeout: float = 300, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command and wait for it."""
    return subprocess.run(
        [sys.executable, "-m", "surgeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, **environment},
    )


@contextmanager
def ordinary_user() -> Iterator[None]:
    """For root, who may write what nobody may, the rights of somebody else."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


def install(project: Path, folder: Path) -> str:
    """What pip would make of a project without dependencies; gives the PYTHONPATH."""
    described = tomllib.loads((project / "pyproject.toml").read_text())
    name, version = described["project"]["name"], described["project"]["version"]
    info = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
    groups = described["project"]["entry-points"]
    entries = [f"[{group}]\n" + "".join(f"{k} = {v}\n" for k, v in named.items()) for group, named in groups.items()]
    (info / "entry_points.txt").write_text("\n".join(entries))
    for module in described["tool"]["setuptools"]["py-modules"]:
        (folder / f"{module}.py").write_text((project / f"{module}.py").read_text())
    return str(folder)


def start_surgeline(*arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command and go on."""
    return subprocess.Popen(
        [sys.executable, "-m", "surgeline.cli", *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def wait_until(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait for a condition, with a deadline and a reason."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"after {seconds} s still not so: {what}"
        time.sleep(0.05)


def processes_in(workdir: Path) -> list[psutil.Process]:
    """The processes whose current directory is a working folder, or one that an imaging job has in it for itself: a
    session's workers, and nothing else."""
    found = []
    for process in psutil.process_iter():
        try:
            folder = Path(process.cwd())
            if workdir in (folder, folder.parent):
                found.append(process)
        except (psutil.Error, OSError):
            continue
    return found
