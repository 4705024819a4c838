"""The program that ranks of a nested MPI session run: `python -m surgeline.parallel.nested FOLDER`."""

from __future__ import annotations

import os
import pickle
import queue
import shutil
import socket
import sys
import threading
import time
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, TextIO

from surgeline.parallel.mpiserver import serve_if_server
from surgeline.parallel.parcel import write_bytes
from surgeline.work.surroundings import Answer, FactQuery, Surroundings

END = "end\n"
_POLLING_SECONDS = 0.005
_LOOK_SECONDS = 0.2


@dataclass(frozen=True)
class Parent:
    """The process that a nested session was started by, and works for."""

    host: str
    process: int
    created: float

    def lives(self) -> bool:
        """Whether it is there; from another host it cannot be seen."""
        import psutil

        if self.host != socket.gethostname():
            return True
        try:
            parent = psutil.Process(self.process)
            # One that was killed stays as a zombie where nobody waits for it.
            return parent.create_time() == self.created and parent.status() != psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return False


def main() -> NoReturn:
    """Serve as a server; as the client, run the jobs that the parent tells of, until it says that this is all."""
    serve_if_server()
    folder = Path(sys.argv[1])
    numbers: queue.SimpleQueue[int | None] = queue.SimpleQueue()
    set_up, settings, parent = pickle.loads((folder / "plan.pickle").read_bytes())
    # What jobs start may read its input, and is not to take this away.
    told = os.fdopen(os.dup(0))
    with Path(os.devnull).open() as nothing:
        os.dup2(nothing.fileno(), 0)
    threading.Thread(target=_read_input, args=(told, numbers, folder, parent), daemon=True).start()
    threading.Thread(target=_watch_parent, args=(folder, parent), daemon=True).start()

    from surgeline.parallel.servers import Servers, client_introduction
    from surgeline.paths import casa_log
    from surgeline.work.casaprocess import CasaProcess
    from surgeline.work.execution import execute_pickled

    host, process = client_introduction()
    asking = set_up.asking
    set_up = replace(set_up, asking=False, client_host=host, client_process=process)
    name = f"{set_up.prefix}client"
    CasaProcess(set_up.folder, casa_log(set_up.logs, name), set_up.casaconfig, set_up.threads).prepare()
    servers = Servers(
        set_up, settings.start_timeout, settings.server_timeout, lambda _: None, lambda *_: None, ask=None
    )
    os.chdir(set_up.folder)
    surroundings = Surroundings(name, partial(_ask, folder) if asking else None)
    (folder / "ready").touch()
    while (number := numbers.get()) is not None:
        result = execute_pickled((folder / f"job-{number}.pickle").read_bytes(), surroundings)
        if servers.lost:
            how = "; ".join(f"server {rank}: {how}" for rank, how in sorted(servers.lost.items()))
            (folder / "died").write_text(how)
        write_bytes(folder / f"outcome-{number}.pickle", result)
    servers.stop()
    os._exit(0)


def _read_input(told: TextIO, numbers: queue.SimpleQueue[int | None], folder: Path, parent: Parent) -> None:
    for line in told:
        if line == END:
            numbers.put(None)
            return
        numbers.put(int(line))
    _leave(folder, parent)


def _watch_parent(folder: Path, parent: Parent) -> None:
    """End this process with its parent: Open MPI 5 does not pass the end of its input on to ranks."""
    while parent.lives():
        time.sleep(_LOOK_SECONDS)
    _leave(folder, parent)


def _leave(folder: Path, parent: Parent) -> NoReturn:
    """End this process: nobody wants what runs here any more. mpirun then ends the servers."""
    if not parent.lives():
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


def _ask(folder: Path, query: FactQuery) -> Answer:
    """Ask the session by way of the parent process."""
    write_bytes(folder / "question.pickle", pickle.dumps(query))
    answer = folder / "answer.pickle"
    while not answer.exists():
        time.sleep(_POLLING_SECONDS)
    found: Answer | Exception = pickle.loads(answer.read_bytes())
    answer.unlink()
    if isinstance(found, Exception):
        raise found
    return found


if __name__ == "__main__":
    main()
