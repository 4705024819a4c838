"""Nested MPI sessions: a job that needs MPI runs in an mpirun of its own, from a plain process or a Dask worker."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

import cloudpickle
import psutil

from surgeline.config import Configuration
from surgeline.errors import ClusterError, ContextError, SurgelineError
from surgeline.parallel.dispatch import OUT_OF_MEMORY, WORKER_DIED, described_exit
from surgeline.parallel.environment import Role, clean_environment, role
from surgeline.parallel.mpirun import command, find_launcher
from surgeline.parallel.mpiserver import SetUp
from surgeline.parallel.mpiwords import cause_told
from surgeline.parallel.nested import END, Parent
from surgeline.parallel.parcel import write_bytes
from surgeline.paths import nested_folder
from surgeline.work.allowance import allowance
from surgeline.work.execution import execute_pickled
from surgeline.work.jobs import Job
from surgeline.work.outcome import Failure, Outcome
from surgeline.work.surroundings import Surroundings

_POLLING_SECONDS = 0.01
# After the client was told that nothing more comes, its servers take so long to end, and no longer.
_END_SECONDS = 20.0


@dataclass(frozen=True)
class NestedSettings:
    """What nested sessions of a worker are started with.

    Attributes:
        mpirun: the mpirun to use; None for the one that is found.
        servers: servers of a session for a job that does not say its cores; None: one for each core of the worker.
        start_timeout: seconds to wait for the servers.
        server_timeout: seconds without a sign of life after which a server is given up.
        idle_seconds: how long a session waits for the next job.
    """

    mpirun: str | None
    servers: int | None
    start_timeout: float
    server_timeout: float
    idle_seconds: float


def nested_settings(configuration: Configuration, workers: int | None) -> NestedSettings:
    """What the configuration says of nested sessions, beside so many workers; None: in one with cores of its own."""
    settings = configuration.settings.mpi
    servers = workers if settings.servers == "auto" else settings.servers
    return NestedSettings(
        settings.mpirun, servers, settings.start_timeout, settings.server_timeout, settings.idle_seconds
    )


def servers_asked(job: Job, settings: NestedSettings) -> int:
    """How many servers a job asks for: as many as cores, where it says them."""
    cores = job.declared.resources.cores
    return cores if cores > 1 else settings.servers or 1


class NestedSessions:
    """Runs a worker's jobs that need MPI; an idle session is kept for a while, for the next of them."""

    def __init__(self, settings: NestedSettings, set_up: SetUp) -> None:
        """Prepare; no session is started before it is needed.

        Args:
            settings: how sessions are started.
            set_up: what their servers are told; its notes are put below, and its client is each session's own.
        """
        self._settings = settings
        self._set_up = set_up
        self._lock = threading.Lock()
        self._idle: _Session | None = None
        self._running: _Session | None = None
        self._stopped = False
        self._timer: threading.Timer | None = None

    def execute_pickled(self, pickled: bytes, surroundings: Surroundings) -> bytes:
        """Run a pickled job in the client of an MPI session; returns its pickled Outcome.

        What becomes of the session is told in the Outcome: that it died, that its walltime was over, or that it
        could not be started.
        """
        try:
            job: Job = cloudpickle.loads(pickled)
        except Exception:  # noqa: BLE001 - unpickling runs code of the arguments' own
            # Its Outcome says so.
            return execute_pickled(pickled, surroundings)
        started = time.time()
        session = None
        with self._lock:
            self._stopped = False
        try:
            session = self._session(_servers_for(job, self._settings))
            session.wait_until_ready()
            result = session.run(pickled, job.declared.resources.walltime, surroundings)
        except _SessionDied as death:
            return _failed(job, death.kind, str(death), started, surroundings)
        except SurgelineError as error:
            return _failed(
                job, "exception", f"no MPI session could be started for it: {error}", started, surroundings
            )
        except Exception as error:  # noqa: BLE001 - whatever it is, it is the job's outcome
            if session is not None:
                session.kill()
            how = f"its MPI session could not be used: {type(error).__name__}: {error}"
            return _failed(job, "exception", how, started, surroundings)
        finally:
            with self._lock:
                self._running = None
        self._keep(session)
        return result

    def stop_running(self) -> None:
        """Kill the session that runs a job, or starts for it; from any thread."""
        with self._lock:
            self._stopped = True
            session = self._running
        if session is not None:
            session.kill()

    def close(self, kill: bool = False) -> None:
        """End the idle session, in order or, where there is no time for that, by killing it."""
        with self._lock:
            session, self._idle = self._idle, None
            if self._timer is not None:
                self._timer.cancel()
        if session is not None:
            if kill:
                session.kill()
            else:
                session.end()

    def _session(self, servers: int) -> _Session:
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            session, self._idle = self._idle, None
            if session is not None and session.servers == servers and session.alive:
                self._running = session
                return session
        if session is not None:
            session.end()
        session = _Session(servers, self._settings, self._set_up)
        with self._lock:
            self._running = session
            stopped = self._stopped
        if stopped:
            session.kill()
        return session

    def _keep(self, session: _Session) -> None:
        if self._settings.idle_seconds == 0:
            session.end()
            return
        with self._lock:
            self._idle = session
            self._timer = threading.Timer(self._settings.idle_seconds, self.close)
            self._timer.daemon = True
            self._timer.start()


class _SessionDied(Exception):
    def __init__(self, kind: str, how: str) -> None:
        super().__init__(how)
        self.kind = kind


class _Session:
    """One mpirun, its client and its servers. Jobs and outcomes go by files, told of by the client's input."""

    def __init__(self, servers: int, settings: NestedSettings, set_up: SetUp) -> None:
        if role() is Role.MPI_SERVER:
            raise ClusterError(
                "this process is a server of an MPI session: it runs jobs, and starts no MPI session",
                "give jobs that need MPI to the task queue of the session's own process",
            )
        launcher = find_launcher(settings.mpirun)
        self.servers = servers
        self._start_timeout = settings.start_timeout
        self._ready = False
        self._jobs = 0
        self._folder = nested_folder(set_up.logs, f"{socket.gethostname()}-{os.getpid()}-{time.monotonic_ns()}")
        self._folder.mkdir(parents=True)
        parent = Parent(socket.gethostname(), os.getpid(), psutil.Process().create_time())
        plan = (replace(set_up, notes=self._folder / "notes"), settings, parent)
        (self._folder / "plan.pickle").write_bytes(pickle.dumps(plan))
        program = [sys.executable, "-m", "surgeline.parallel.nested", str(self._folder)]
        environment = clean_environment(os.environ)
        line = command(launcher, servers + 1, program, environment, root=os.geteuid() == 0)
        self._output = set_up.logs / f"casa-{set_up.prefix}mpirun.out"
        with self._output.open("ab") as output:
            # Sessions before this one wrote to it too.
            self._said_before = output.tell()
            self._process = subprocess.Popen(
                line,
                env=environment,
                cwd=set_up.folder,
                bufsize=0,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )

    def wait_until_ready(self) -> None:
        """Wait for its servers.

        Raises:
            ClusterError: mpirun ended, or it takes too long.
        """
        if self._ready:
            return
        try:
            self._wait_for(self._folder / "ready", time.monotonic() + self._start_timeout, None)
        except _SessionDied as death:
            raise ClusterError(f"mpirun ended: {death}", f"see {self._output}, and: surgeline doctor") from death
        except _TimeIsOver as error:
            self.kill()
            raise ClusterError(
                f"a nested MPI session did not start within {self._start_timeout:g} s",
                f"see {self._output}; on a busy machine raise mpi.start_timeout",
            ) from error
        self._ready = True

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def run(self, pickled: bytes, walltime: int | None, surroundings: Surroundings) -> bytes:
        """Run a pickled job in the client; its pickled Outcome.

        Raises:
            _SessionDied: mpirun ended, a server died, or the walltime was over.
        """
        self._jobs += 1
        job = self._folder / f"job-{self._jobs}.pickle"
        outcome = self._folder / f"outcome-{self._jobs}.pickle"
        job.write_bytes(pickled)
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(f"{self._jobs}\n".encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            # Its end is told below, with how it ended.
            pass
        deadline = None if walltime is None else time.monotonic() + walltime
        try:
            self._wait_for(outcome, deadline, surroundings)
        except _TimeIsOver:
            self.kill()
            raise _SessionDied(
                "walltime", f"it ran longer than its walltime of {walltime} s, and was ended"
            ) from None
        finally:
            job.unlink(missing_ok=True)
        result = outcome.read_bytes()
        outcome.unlink()
        died = self._folder / "died"
        if died.exists():
            how = died.read_text()
            self.kill()
            raise _SessionDied(OUT_OF_MEMORY if OUT_OF_MEMORY in how else WORKER_DIED, how)
        return result

    def end(self) -> None:
        """End the session in order: its client hears that this is all. It is killed when it does not end."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(END.encode())
            self._process.stdin.flush()
            self._process.wait(_END_SECONDS)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            pass
        self.kill()

    def kill(self) -> None:
        """Kill mpirun and every rank, and remove what they left."""
        ranks = []
        # It may end by itself, or by another thread that does the same.
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            if self.alive:
                ranks = psutil.Process(self._process.pid).children(recursive=True)
                os.killpg(self._process.pid, signal.SIGKILL)
        for rank in ranks:
            try:
                rank.kill()
            except psutil.Error:
                continue
        psutil.wait_procs(ranks, timeout=5)
        self._process.wait()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _wait_for(self, path: Path, deadline: float | None, surroundings: Surroundings | None) -> None:
        """Wait until a file is there, and answer meanwhile what the job asks its session."""
        while not path.exists():
            if deadline is not None and time.monotonic() > deadline:
                raise _TimeIsOver
            if not self.alive and not path.exists():
                how = self._last_words()
                self.kill()
                raise _SessionDied(WORKER_DIED, how)
            if surroundings is not None:
                self._answer(surroundings)
            time.sleep(_POLLING_SECONDS)

    def _answer(self, surroundings: Surroundings) -> None:
        question = self._folder / "question.pickle"
        if not question.exists():
            return
        query = pickle.loads(question.read_bytes())
        question.unlink()
        try:
            answer: object = surroundings.facts(query)
        except SurgelineError as error:
            answer = error
        except Exception as error:  # noqa: BLE001 - the job waits for an answer, whatever it is
            answer = ContextError(
                f"the session could not answer: {type(error).__name__}: {error}",
                "see what the session itself says; when that is mended: surgeline resume",
            )
        write_bytes(self._folder / "answer.pickle", pickle.dumps(answer))

    def _last_words(self) -> str:
        """How mpirun ended, and what it said of the rank that was the cause."""
        with self._output.open("rb") as output:
            output.seek(self._said_before)
            said = cause_told(output.read()[-20_000:].decode(errors="replace"))
        ended = f"mpirun: {described_exit(self._process.returncode)}"
        return f"{said} ({ended})" if said else f"its MPI session ended; {ended}; see {self._output}"


class _TimeIsOver(Exception):
    pass


def _servers_for(job: Job, settings: NestedSettings) -> int:
    """As many servers as the job asks cores for; in a scheduler's job, as many as it was given."""
    held = allowance()
    return held.cores if held.scheduler is not None else servers_asked(job, settings)


def _failed(job: Job, kind: str, message: str, started: float, surroundings: Surroundings) -> bytes:
    outcome = Outcome(
        job.declared.name,
        str(job),
        failure=Failure(kind, message),
        started=started,
        ended=time.time(),
        host=socket.gethostname(),
        worker=surroundings.worker,
        process=os.getpid(),
        environment=surroundings.environment_id,
    )
    pickled: bytes = cloudpickle.dumps(outcome)
    return pickled
