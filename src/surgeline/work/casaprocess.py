"""Set a process up for CASA: its configuration before the first import, its log file, folder and threads."""

from __future__ import annotations

import os
import re
import socket
import stat
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from importlib import import_module
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

# Libraries read these once, when they are first loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
# What finds a process of CASA by its registrar.
_VIEWERS = ("casaplotms", "casaviewer")


@dataclass(frozen=True)
class CasaProcess:
    """How one process runs CASA.

    Attributes:
        folder: the current directory of jobs.
        log_file: where this process's CASA log goes.
        casaconfig: further settings for casaconfig; they win over the offline defaults.
        threads: how many threads CASA may use.
    """

    folder: Path
    log_file: Path
    casaconfig: Mapping[str, Any] = field(default_factory=dict)
    threads: int = 1

    def prepare(self) -> None:
        """Configure CASA in this process; call it before CASA is first imported.

        A process that has CASA already keeps its configuration and only changes its log file.
        """
        self.log_file.parent.mkdir(parents=True, exist_ok=True)
        if "casatools" in sys.modules:
            import_module("casatasks").casalog.setlogfile(str(self.log_file))
            return
        os.environ.update(thread_environment(self.threads))
        _after_import("casatools", _keep_to_this_machine)
        # casatools bundles older libraries of the same names: Python's own have to be loaded first.
        import_module("sqlite3")
        import_module("ssl")
        settings = _casaconfig_module()
        data = import_module("casadata").datapath
        offline: dict[str, Any] = {
            "datapath": [data],
            "measurespath": data,
            "measures_auto_update": False,
            "data_auto_update": False,
            "nogui": True,
            "agg": True,
            "log2term": False,
        }
        for name, value in {**offline, **self.casaconfig, "logfile": str(self.log_file)}.items():
            setattr(settings, name, value)


def _after_import(name: str, then: Callable[[], None]) -> None:
    """Call a function once, when a module has been imported."""

    class Awaited(MetaPathFinder):
        def find_spec(self, wanted: str, path: object = None, target: object = None) -> ModuleSpec | None:
            if wanted != name:
                return None
            sys.meta_path.remove(self)
            spec = find_spec(name)
            if spec is not None and spec.loader is not None:
                execute = spec.loader.exec_module

                def execute_and_call(module: ModuleType) -> None:
                    execute(module)
                    then()

                spec.loader.exec_module = execute_and_call  # type: ignore[method-assign]
            return spec

    sys.meta_path.insert(0, Awaited())


def _keep_to_this_machine() -> None:
    """Have CASA's registrar heard by nobody, or by this machine alone where there are viewers that ask it.

    When CASA is loaded it listens to the whole network, at every address, and asks nobody who he is.
    """
    port = int(import_module("casatools").ctsys.registry()["uri"].rpartition(":")[2])
    viewers = any(find_spec(name) for name in _VIEWERS)
    for descriptor in _listening_at(port):
        if not viewers:
            # In its place is one that does not listen: what was closed alone could be given to something else.
            with socket.socket() as silent:
                os.dup2(silent.fileno(), descriptor, inheritable=False)
        elif sys.platform == "linux":
            with socket.socket(fileno=os.dup(descriptor)) as registrar:
                registrar.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"lo\0")


def _listening_at(port: int) -> list[int]:
    """The descriptors of this process that listen at a port."""
    found = []
    for descriptor in [int(path.name) for path in Path("/dev/fd").iterdir()]:
        # The folder that was listed is closed by now.
        with suppress(OSError):
            if not stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                continue
            with socket.socket(fileno=os.dup(descriptor)) as known:
                ours = known.family in (socket.AF_INET, socket.AF_INET6) and known.getsockname()[1] == port
                if ours and known.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
                    found.append(descriptor)
    return found


def _casaconfig_module() -> Any:
    # casaconfig parses the command line of the process when it is imported, and this one is not meant for it.
    arguments, sys.argv = sys.argv, sys.argv[:1]
    try:
        return import_module("casaconfig.config")
    finally:
        sys.argv = arguments


@contextmanager
def errors_to(path: Path) -> Iterator[None]:
    """Send what this process writes to standard error to a file: CASA repeats its log there, unasked."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    kept = os.dup(2)
    with path.open("ab") as output:
        os.dup2(output.fileno(), 2)
    try:
        yield
    finally:
        sys.stderr.flush()
        os.dup2(kept, 2)
        os.close(kept)


def thread_environment(threads: int) -> dict[str, str]:
    """The environment variables that hold a child process to so many threads."""
    return {name: str(threads) for name in THREAD_VARIABLES}


def current_log_file() -> Path | None:
    """The CASA log file of this process, or None where CASA has not been prepared."""
    log = getattr(sys.modules.get("casatasks"), "casalog", None)
    if log is not None:
        return Path(log.logfile())
    # Not imported yet: its log, perhaps begun by an earlier session, will be where its configuration says.
    settings = sys.modules.get("casaconfig.config")
    return Path(settings.logfile) if settings is not None else None


# A server of an MPI session adds which it is.
_COMMAND = re.compile(r"\t(\w+)::::casa(?:::MPIServer-\d+)?\t(\1\( .* \))$")
# What every run says of the leap-second table of casadata, whatever the task, and that nobody can act on.
_LEAP_SECONDS = (
    "Leap second table TAI_UTC",
    "Until the table is updated",
    "times and coordinates derived from UTC",
)


def read_log(path: Path | None, offset: int) -> tuple[list[str], list[str]]:
    """Read what CASA logged since `offset`: the lines that matter, and the task calls among them.

    Returns:
        the lines of priority WARN and SEVERE and those that begin or end a task; and the calls, as logged.
    """
    if path is None or not path.exists():
        return [], []
    with path.open("rb") as handle:
        handle.seek(offset)
        lines = handle.read().decode("utf-8", errors="replace").splitlines()
    commands = [match[2] for line in lines if (match := _COMMAND.search(line))]
    kept = [
        line
        for line in lines
        if ("\tWARN\t" in line or "\tSEVERE\t" in line or "Begin Task" in line or "End Task" in line)
        and not any(text in line for text in _LEAP_SECONDS)
    ]
    return kept, commands


def log_size(path: Path | None) -> int:
    """Where a later `read_log` has to begin."""
    return path.stat().st_size if path is not None and path.exists() else 0
