"""What runs in and beside each Dask worker: its setting-up for CASA, and the nanny that tells how it died.

Imported only where Dask already is: by the Dask layer and by its workers.
"""

from __future__ import annotations

import asyncio
import os
import pickle
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import psutil
from distributed import Nanny, Status, Worker, WorkerPlugin
from distributed.utils import sync
from tornado.ioloop import PeriodicCallback

from surgeline.parallel.casampi_session import NestedSessions, NestedSettings
from surgeline.parallel.environment import without_mpi
from surgeline.parallel.mpiserver import SetUp
from surgeline.parallel.othertasks import ResultKeeper
from surgeline.parallel.standstill import LOOK_SECONDS, PULSE_LOOKS, Watched
from surgeline.paths import casa_log, safe_name
from surgeline.work.casaprocess import CasaProcess
from surgeline.work.environment import memory_kills
from surgeline.work.execution import execute_pickled
from surgeline.work.privatefiles import current_mask
from surgeline.work.scratch import Scratch
from surgeline.work.staging import run_brought
from surgeline.work.surroundings import Answer, Ask, FactQuery, Surroundings

EXIT_TOPIC = "surgeline-worker-exit"
READY_TOPIC = "surgeline-worker-ready"
PULSE_TOPIC = "surgeline-worker-pulse"
_KILL_SECONDS = 2.0


class TellingNanny(Nanny):  # type: ignore[misc]
    """A nanny that tells the scheduler's listeners how its worker process ended, and for how long it is stopped."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        """As Dask's own."""
        super().__init__(*arguments, **options)
        self._watched = Watched()
        self._looks = 0
        self.periodic_callbacks["look"] = PeriodicCallback(self._look, LOOK_SECONDS * 1000)

    def _look(self) -> None:
        """Tell that it is there, now and then, and for how long its worker process has been stopped."""
        before = self._watched.seconds
        seconds = self._watched.look(self.pid)
        self._looks += 1
        news = before or seconds or self._looks % PULSE_LOOKS == 0
        if news and self.status == Status.running and self.worker_address:
            self.log_event(PULSE_TOPIC, {"worker": self.worker_address, "stopped": seconds})

    async def instantiate(self) -> Status:
        """Start the worker process; also one that replaces another, when the session may be an MPI client."""
        self._memory_kills = memory_kills()
        with _without_interrupts(), without_mpi():
            return await super().instantiate()

    def _on_worker_exit_sync(self, exitcode: int | None) -> None:
        # A worker that ends because it was told to is no news.
        if self.status == Status.running:
            self.log_event(
                EXIT_TOPIC,
                {
                    "worker": self.worker_address,
                    "name": self.name,
                    "exitcode": exitcode,
                    "out_of_memory": exitcode == -signal.SIGKILL and memory_kills() > self._memory_kills,
                },
            )
        super()._on_worker_exit_sync(exitcode)

    async def kill(self, timeout: float = 5, reason: str = "nanny-kill") -> None:
        """End the worker process: one in the midst of a CASA job does not end itself, however long it is given."""
        await super().kill(timeout=min(timeout, _KILL_SECONDS), reason=reason)


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """A block in which what this thread starts does not hear Ctrl-C, which a terminal sends to all of its processes.

    It is for the session to end its workers: one in the midst of Python's own start would print where it was.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@dataclass
class CasaWorker(WorkerPlugin):  # type: ignore[misc]
    """Sets a worker process up for CASA: its own log file, a fixed working folder, offline data.

    Attributes:
        folder: the current directory of jobs; None: the worker's own, of a machine that does not share the session's.
        logs: where the worker logs, unless it has a folder of its own.
        casaconfig: further settings for casaconfig.
        threads: how many threads CASA may use.
        memory: bytes that a worker may use that does not say it itself.
        nested_settings: what MPI sessions are started with.
        ends_unfit: a worker that cannot be set up ends with what started it, and leaves the reason in its output;
            otherwise whoever registers this is told.
        umask: the mask with which files are made, the session's.
    """

    folder: Path | None
    logs: Path
    casaconfig: Mapping[str, Any]
    threads: int
    memory: int | None
    nested_settings: NestedSettings
    ends_unfit: bool = False
    umask: int = field(default_factory=current_mask)
    surroundings: Surroundings = field(init=False)
    nested: NestedSessions = field(init=False)
    # Where jobs are that are brought their files; of a worker with a folder of its own.
    scratch: Scratch | None = field(init=False, default=None)
    name = "surgeline-casa-worker"

    def setup(self, worker: Worker) -> None:
        """Called by Dask in each worker process before it is given a job, and in each that replaces one."""
        if isinstance(worker, ResultKeeper):
            return
        output = os.dup(2)
        try:
            self._set_up(worker)
        except Exception:
            if not self.ends_unfit:
                raise
            # Nobody waits for it: it would seem to be there, and be given nothing.
            os.write(output, traceback.format_exc().encode())
            nanny = os.getppid()
            # At once, so that this is the last that it wrote; the first process of a container can only be asked.
            os.kill(nanny, signal.SIGTERM if nanny == 1 else signal.SIGKILL)
            os._exit(1)
        finally:
            os.close(output)

    def _set_up(self, worker: Worker) -> None:
        name = f"worker-{worker.name}"
        folder, logs = (self.folder, self.logs) if self.folder else (Path.cwd(), Path.cwd())
        os.umask(self.umask)
        offers = worker.state.total_resources
        process = CasaProcess(folder, casa_log(logs, name), self.casaconfig, self.threads)
        process.prepare()
        # What a job prints would otherwise garble the session's own display.
        output = (logs / f"{safe_name(name)}.out").open("ab")
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
        output.close()
        os.chdir(folder)
        # Once, and before any job: two threads that import parts of casatasks at once lock each other out.
        import_module("casatasks")
        self.surroundings = Surroundings(name, partial(_ask_scheduler, worker))
        if self.folder is None:
            self.scratch = Scratch(folder / f"brought-{safe_name(name)}")
        set_up = SetUp(
            self.scratch.folder if self.scratch else folder,
            logs,
            logs,
            self.casaconfig,
            self.threads,
            int(offers["memory"]) if "memory" in offers else self.memory,
            asking=True,
            client_host="",
            client_process=0,
            own_cubes=False,
            prefix=f"{safe_name(name)}-",
        )
        servers = self.nested_settings.servers or int(offers["cores"])
        self.nested = NestedSessions(replace(self.nested_settings, servers=servers), set_up)
        # The scheduler knows a worker well before it gives it jobs.
        worker.log_event(
            READY_TOPIC,
            {
                "worker": worker.address,
                "name": worker.name,
                "environment_id": self.surroundings.environment_id,
                "environment": dict(self.surroundings.environment),
                # Its nanny, where it has one of its own, began when the machine was given to it.
                "age": time.time() - psutil.Process(os.getppid()).create_time(),
            },
        )

    def run(self, pickled_jobs: Sequence[bytes], mpi: bool) -> list[bytes]:
        """Run pickled jobs, one after the other, in this process or in MPI sessions; their pickled outcomes."""
        execute = self.nested.execute_pickled if mpi else execute_pickled
        if self.scratch is not None:
            return [run_brought(pickled, self.scratch, execute, self.surroundings) for pickled in pickled_jobs]
        return [execute(pickled, self.surroundings) for pickled in pickled_jobs]

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the worker is to end: at once, since CASA takes a second to unload itself."""
        if isinstance(worker, ResultKeeper):
            return
        self.nested.close(kill=True)
        if self.scratch is not None:
            self.scratch.remove()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def answer_on_scheduler(scheduler: Any, ask: Ask) -> None:
    """Have the scheduler, which runs in the session's process, answer workers' questions for facts."""

    async def handle(query: bytes) -> bytes:
        return pickle.dumps(await asyncio.to_thread(ask, pickle.loads(query)))

    scheduler.handlers["surgeline_facts"] = handle


def _ask_scheduler(worker: Worker, query: FactQuery) -> Answer:
    pickled = sync(worker.loop, worker.scheduler.surgeline_facts, query=pickle.dumps(query))
    answer: Answer = pickle.loads(pickled)
    return answer
