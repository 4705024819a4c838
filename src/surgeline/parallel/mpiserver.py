"""A server of an MPI session: the process that runs jobs, and its keeper, which outlives it to tell how it died."""

from __future__ import annotations

import json
import mmap
import os
import select
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import cloudpickle

from surgeline.parallel.descendants import adopted_orphans, ends_with_parent, kill_descendants
from surgeline.parallel.dispatch import OUT_OF_MEMORY, described_exit
from surgeline.parallel.environment import Role, role, without_mpi
from surgeline.parallel.mpichannel import join, open_channel
from surgeline.parallel.parcel import Parcel, pack, unpack
from surgeline.paths import casa_log, safe_name, server_end_request, server_note, write_text
from surgeline.work.casaprocess import CasaProcess
from surgeline.work.execution import execute_pickled
from surgeline.work.privatefiles import current_mask
from surgeline.work.surroundings import Surroundings

_LOOK_SECONDS = 0.2
# Tells a server's process the pipe to its keeper.
_TO_KEEPER = "SURGELINE_MPI_KEEPER"
# The file whose one byte says whether the server has a job.
_AT_WORK = "SURGELINE_MPI_AT_WORK"
# How long casampi waits for a sign of life before the session has told its own limit.
_FIRST_TIMEOUT = 60.0


@dataclass(frozen=True)
class SetUp:
    """What the client tells each server when the session begins.

    Attributes:
        folder: the current directory of jobs.
        logs: where CASA and servers log.
        notes: where parcels and notes of deaths are put.
        casaconfig: further settings for casaconfig.
        threads: how many threads CASA may use.
        memory: bytes that the server may use before it is ended, or None.
        asking: whether there is a session that answers jobs' questions.
        client_host, client_process: where the client runs.
        own_cubes: whether servers image cubes each by itself, as jobs; otherwise only all together, for the client.
        prefix: begins the names of the servers, where several sessions log to one folder.
        umask: the mask with which files are made, the session's.
    """

    folder: Path
    logs: Path
    notes: Path
    casaconfig: Mapping[str, Any]
    threads: int
    memory: int | None
    asking: bool
    client_host: str
    client_process: int
    own_cubes: bool
    prefix: str = ""
    umask: int = field(default_factory=current_mask)


@dataclass(frozen=True)
class Introduction:
    """What a server says of itself when it has been set up."""

    rank: int
    host: str
    process: int
    keeper: int
    environment_id: str
    environment: Mapping[str, Any]


def serve_if_server() -> None:
    """In a server of an MPI session: serve until the session is over, then end this process. Elsewhere: nothing.

    A script that is started by mpirun and opens a backend calls this first, before it imports much.
    """
    if role() is Role.MPI_SERVER:
        _keep()


class Server:
    """What runs jobs in a server's process; made, and called, by casampi's commands."""

    def __init__(self, set_up: SetUp) -> None:
        rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
        name = f"{set_up.prefix}server-{rank}"
        self._set_up = set_up
        os.umask(set_up.umask)
        CasaProcess(set_up.folder, casa_log(set_up.logs, name), set_up.casaconfig, set_up.threads).prepare()
        # The number of threads was fixed when CASA was loaded, before the session was there to say it.
        import_module("casatasks").casalog.ompSetNumThreads(set_up.threads)
        if set_up.own_cubes:
            _image_cubes_alone()
        output = (set_up.logs / f"{safe_name(name)}.out").open("ab")
        # What a job prints would otherwise garble the session's own display.
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        output.close()
        os.chdir(set_up.folder)
        told = {
            "notes": str(set_up.notes),
            "memory": set_up.memory,
            "client_host": set_up.client_host,
            "client_process": set_up.client_process,
        }
        os.write(int(os.environ[_TO_KEEPER]), json.dumps(told).encode() + b"\n")
        self._at_work = mmap.mmap(int(os.environ[_AT_WORK]), 1)
        self._surroundings = Surroundings(name)
        if set_up.own_cubes:
            # MPI is here, and what jobs start is no rank.
            self._outside = without_mpi()
            self._outside.__enter__()
        self._rank = rank

    def connect(self) -> Introduction:
        """Open the channel, as every rank of the session does at the same time."""
        channel = open_channel()
        self._surroundings.ask = channel.ask if self._set_up.asking else None
        return Introduction(
            self._rank,
            socket.gethostname(),
            os.getpid(),
            os.getppid(),
            self._surroundings.environment_id,
            dict(self._surroundings.environment),
        )

    def run(self, parcel: Parcel) -> Parcel:
        """Run a parcel of pickled jobs, one after the other; returns their pickled outcomes."""
        jobs: list[bytes] = cloudpickle.loads(unpack(parcel))
        # CASA's parallel imaging leaves all servers in the folder that the session's process was in.
        os.chdir(self._set_up.folder)
        self._at_work[0] = True
        results = [execute_pickled(pickled, self._surroundings) for pickled in jobs]
        self._at_work[0] = False
        return pack(cloudpickle.dumps(results), self._set_up.notes)


def _image_cubes_alone() -> None:
    """Have CASA image cubes in this process as it does without MPI.

    In a rank its gridder of cubes would wait for orders of a controller, for ever; which of the two it does is fixed
    for a process when it images its first cube. It looks at the number of ranks on the machine.
    """
    os.environ.pop("OMPI_COMM_WORLD_LOCAL_SIZE", None)
    import_module("casatasks.private.task_tclean").mpi_available = False  # type: ignore[attr-defined]


def _keep() -> NoReturn:
    """Run the server in a child process, and stay.

    mpirun ends all ranks when one dies. It watches the processes that it started; so when a server dies its keeper
    stays, and the session goes on with the servers that are left.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    from_server, to_keeper = os.pipe()
    launcher = os.getppid()
    end_with_keeper = ends_with_parent(signal.SIGKILL)
    # What a server had started is the keeper's to end.
    with adopted_orphans(), tempfile.TemporaryFile() as at_work:
        at_work.truncate(1)
        server = os.fork()
        if server == 0:
            end_with_keeper()
            os.close(from_server)
            _serve(to_keeper, at_work.fileno())
        os.close(to_keeper)
        _Keeper(server, launcher, from_server, at_work.fileno()).watch()


def _serve(to_keeper: int, at_work: int) -> NoReturn:
    """The server's process: casampi's own loop."""
    code = 1
    errors = os.dup(2)
    # CASA repeats its log on the terminal; what was said there matters when the server could not start.
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 1)
        os.dup2(said.fileno(), 2)
        try:
            # Its log file is named when the session says where logs are.
            CasaProcess(Path.cwd(), Path(os.devnull)).prepare()
            join(_FIRST_TIMEOUT)
            os.environ[_TO_KEEPER] = str(to_keeper)
            os.environ[_AT_WORK] = str(at_work)
            # This import serves until the session is over. Before casatasks, which would do the same half imported.
            import_module("casampi.private.start_mpi")
            code = 0
        except BaseException:  # noqa: BLE001 - the process ends here, and has to say why
            traceback.print_exc()
            sys.stderr.flush()
            said.seek(0)
            os.write(errors, said.read())
        finally:
            # CASA takes a second to unload itself, and may not survive it.
            os._exit(code)


class _Keeper:
    """Watches a server, and says how it ended."""

    def __init__(self, server: int, launcher: int, from_server: int, at_work: int) -> None:
        self._server = server
        self._launcher = launcher
        self._from_server: int | None = from_server
        self._at_work = at_work
        self._told: dict[str, Any] = {}
        self._reason: str | None = None
        self._rank = int(os.environ["OMPI_COMM_WORLD_RANK"])

    def watch(self) -> NoReturn:
        """Watch until the server has ended; then, if it died, until the session is over."""
        while (ended := os.waitpid(self._server, os.WNOHANG))[0] == 0:
            self._listen()
            if os.getppid() != self._launcher or self._client_is_gone():
                self._reason = "its session ended"
                os.kill(self._server, signal.SIGKILL)
            elif self._told:
                self._check_memory()
                if server_end_request(Path(self._told["notes"]), self._rank).exists():
                    self._reason = "it did not answer, and was ended"
                    os.kill(self._server, signal.SIGKILL)
        kill_descendants(())
        code = os.waitstatus_to_exitcode(ended[1])
        self._listen()
        # A job may have ended its process as if all were well.
        orderly = code == 0 and os.pread(self._at_work, 1, 0) == bytes(1)
        if orderly or not self._told:
            # Before the session knows its servers it cannot do without one: then mpirun is to end it all.
            os._exit(code if code >= 0 else 128 - code)
        note = {"how": self._reason or described_exit(code), "when": time.time()}
        # A session that has ended already took the folder away; another then sees for itself that the server is gone.
        with suppress(OSError):
            write_text(server_note(Path(self._told["notes"]), self._rank), json.dumps(note))
        while os.getppid() == self._launcher and not self._client_is_gone():
            time.sleep(_LOOK_SECONDS)
        os._exit(1)

    def _listen(self) -> None:
        """Hear what the server says when it has been set up; its end is heard as the end of what it says."""
        if self._from_server is None:
            time.sleep(_LOOK_SECONDS)
            return
        ready, _, _ = select.select([self._from_server], [], [], _LOOK_SECONDS)
        if ready:
            line = os.read(self._from_server, 2**16)
            if line:
                self._told = json.loads(line.splitlines()[-1])
            else:
                os.close(self._from_server)
                self._from_server = None

    def _client_is_gone(self) -> bool:
        if self._told.get("client_host") != socket.gethostname():
            return False
        try:
            os.kill(self._told["client_process"], 0)
        except ProcessLookupError:
            return True
        except PermissionError:
            return False
        return False

    def _check_memory(self) -> None:
        limit = self._told["memory"]
        if limit is None:
            return
        try:
            pages = int(Path(f"/proc/{self._server}/statm").read_text().split()[1])
        except (OSError, IndexError):
            return
        used = pages * os.sysconf("SC_PAGE_SIZE")
        if used > limit:
            self._reason = f"{OUT_OF_MEMORY}: it used {used / 1e9:.2f} GB of the {limit / 1e9:.2f} GB that it may use"
            os.kill(self._server, signal.SIGKILL)
