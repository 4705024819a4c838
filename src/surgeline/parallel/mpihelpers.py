"""The casampi backend: the session is the client of an MPI session, whose servers run its jobs."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import cloudpickle

from surgeline.clusters import local
from surgeline.config import Configuration
from surgeline.errors import ClusterError
from surgeline.parallel.casampi_session import NestedSessions, nested_settings
from surgeline.parallel.dispatch import LOOK, WORKER_DIED, Bundle, Dispatcher
from surgeline.parallel.environment import servers_here
from surgeline.parallel.mpinotes import tell_running
from surgeline.parallel.mpiserver import SetUp
from surgeline.parallel.servers import Servers, client_introduction
from surgeline.parallel.waiting import Pending
from surgeline.paths import casa_log, mpi_notes
from surgeline.work.casaprocess import CasaProcess, errors_to
from surgeline.work.execution import execute_pickled
from surgeline.work.jobs import Job, JobRequest
from surgeline.work.outcome import Failure, Loss, Outcome
from surgeline.work.surroundings import Ask, Surroundings


class MpiBackend(Dispatcher):
    """Runs jobs on the servers of the MPI session that this process is the client of.

    A job that is marked `mpi` has all servers to itself. CASA's parallel imaging of a continuum runs in this process,
    as its client. Other jobs that are marked so, and that one when a server was lost, run in a nested session:
    casampi knows no session with a gap in it, and a server that has imaged a cube by itself images none for a client.

    A server that dies is not replaced: its job runs again on another, and the session goes on with those left.
    """

    name = "mpi"

    def __init__(
        self,
        configuration: Configuration,
        folder: Path,
        logs: Path,
        lost: Callable[[str, Loss], None] | None = None,
        ask: Ask | None = None,
    ) -> None:
        """Start the services of the MPI session, and set its servers up.

        Args:
            configuration: the whole configuration.
            folder: the current directory of jobs.
            logs: where CASA and servers log.
            lost: called with a job's name and its Loss when a server dies running it.
            ask: answers jobs that ask for facts of the session's context.

        Raises:
            ClusterError: this process is no client of an MPI session, or a server did not start.
        """
        settings = configuration.settings
        super().__init__(settings.mpi.retries, lost)
        process = CasaProcess(folder, casa_log(logs, "session"), settings.casaconfig, settings.worker.threads)
        process.prepare()
        self._folder = folder
        self._flying: dict[int, str] = {}
        self._busy: dict[int, int] = {}
        self._doing: dict[int, str] = {}
        self._dead: dict[str, tuple[int, str]] = {}
        self._quiet = errors_to(process.log_file.with_suffix(".out"))
        self._quiet.__enter__()
        self._client = ThreadPoolExecutor(1, thread_name_prefix="mpi-client")
        self._client_busy = threading.Event()
        host, number = client_introduction()
        set_up = SetUp(
            folder,
            logs,
            mpi_notes(logs),
            dict(settings.casaconfig),
            settings.worker.threads,
            local.memory_of_each(configuration, servers_here()),
            ask is not None,
            host,
            number,
            own_cubes=True,
        )
        try:
            self._servers = Servers(
                set_up, settings.mpi.start_timeout, settings.mpi.server_timeout, self._answered, self._died, ask
            )
        except BaseException:
            self._quiet.__exit__(None, None, None)
            raise
        self._surroundings = Surroundings("client", ask)
        self._nested = NestedSessions(
            nested_settings(configuration, len(self._servers.living)),
            replace(set_up, own_cubes=False, prefix="nested-"),
        )
        self.workers = len(self._servers.living)
        self.environments = {
            server.environment_id: server.environment for server in self._servers.living.values()
        } | {self._surroundings.environment_id: self._surroundings.environment}
        self._collector.start()

    def doing(self) -> dict[str, str]:
        """Which jobs each busy server has, for the case that mpirun ends the session."""
        return {f"server {rank}": jobs for rank, jobs in sorted(self._doing.copy().items())}

    def cancel(self, tickets: Iterable[str]) -> None:
        """Drop jobs; one that runs cannot be stopped without losing its server, so it is left to itself.

        It keeps its place until it has ended. A nested session is stopped.
        """
        for bundle in self._withdraw(set(tickets)).values():
            with self._lock:
                if bundle.ended or not all(pending.cancelled for pending in bundle.jobs):
                    continue
                dropped, bundle.jobs = bundle.jobs, []
                for pending in dropped:
                    self._given.pop(pending.ticket, None)
            if isinstance(bundle.handle, Future) and not bundle.handle.cancel():
                self._nested.stop_running()
            for pending in dropped:
                self._deliver_failure(pending, Failure("cancelled", "it was cancelled"))

    def close(self) -> None:
        """End the servers, and MPI in this process, which cannot begin it again."""
        self._stop_collecting()
        self._client.shutdown(wait=False, cancel_futures=True)
        self._nested.stop_running()
        self._nested.close()
        self._servers.stop(finalize=not self._client_busy.is_set())
        self._quiet.__exit__(None, None, None)

    def _at_hand(self) -> int:
        return len(self._servers.living)

    def _take(self, key: str, pending: Pending) -> int | None:
        """How many servers the bundle takes; which of them shows when it is sent."""
        living = len(self._servers.living)
        places = living if pending.job.declared.mpi else 1
        taken = sum(min(bundle.place, living) for bundle in self._sent.values())
        return places if living and taken + places <= living else None

    def _give_back(self, bundle: Bundle) -> None:
        """What is taken is counted from what was sent."""

    def _start(self, bundle: Bundle) -> None:
        if bundle.jobs[0].job.declared.mpi:
            own = _is_parallel_continuum(bundle.jobs[0].job) and not self._servers.lost
            bundle.handle = self._client.submit(self._run_here if own else self._run_nested, bundle.jobs[0].pickled)
            bundle.handle.add_done_callback(lambda _: self._news.put(bundle.key))
            return
        rank = next((rank for rank in sorted(self._servers.living) if rank not in self._busy), None)
        try:
            number = rank and self._servers.push(rank, [pending.pickled for pending in bundle.jobs])
        except OSError as error:
            bundle.handle = error
            self._news.put(bundle.key)
            return
        if rank is None or number is None:
            # The server died a moment ago: they wait for another.
            self._forget(bundle.key)
            self._waiting.put_first(bundle.jobs)
            return
        bundle.handle = number
        self._busy[rank] = number
        self._flying[number] = bundle.key
        self._doing[rank] = bundle.names
        tell_running(rank, self._doing[rank])

    def _more_memory(self, pending: Pending, worker: str) -> bool:
        """All servers are alike, and none comes for one that died: the job would end them one by one."""
        return False

    def _run_everywhere(self, pickled: bytes) -> Sequence[bytes]:
        try:
            found = self._servers.everywhere(pickled)
        except OSError as error:
            raise ClusterError(
                f"a job for all servers could not be sent: {error}", "see the folder of logs"
            ) from error
        return [self._death_everywhere(rank) if result is None else result for rank, result in sorted(found.items())]

    def _death_everywhere(self, rank: int) -> bytes:
        failure = Failure(WORKER_DIED, f"its worker died: {self._servers.lost[rank]}")
        now = time.time()
        outcome = Outcome("", "", failure=failure, started=now, ended=now, worker=f"server-{rank}")
        pickled: bytes = cloudpickle.dumps(outcome)
        return pickled

    def _run_here(self, pickled: bytes) -> tuple[bytes, set[int]]:
        """Run a job in this process, with all servers at its command; and the ranks of those that died meanwhile."""
        before = Path.cwd()
        os.chdir(self._folder)
        self._client_busy.set()
        try:
            return execute_pickled(pickled, self._surroundings), set(self._servers.lost)
        finally:
            os.chdir(before)
            self._client_busy.clear()

    def _run_nested(self, pickled: bytes) -> tuple[bytes, set[int]]:
        """Run a job in a session of its own, to which the idle servers of this one leave their cores."""
        return self._nested.execute_pickled(pickled, self._surroundings), set()

    def _hopeless(self) -> str | None:
        if self._servers.living:
            return None
        deaths = "; ".join(f"server {rank}: {how}" for rank, how in sorted(self._servers.lost.items()))
        return f"no server of the MPI session is left ({deaths})"

    # The next two are called from the thread that watches the servers.

    def _answered(self, number: int) -> None:
        with self._lock:
            key = self._flying.pop(number)
            for rank in [rank for rank, owned in self._busy.items() if owned == number]:
                del self._busy[rank], self._doing[rank]
                tell_running(rank, None)
        self._news.put(key)

    def _died(self, rank: int, number: int | None) -> None:
        with self._lock:
            self._busy.pop(rank, None)
            self._doing.pop(rank, None)
            key = self._flying.pop(number, LOOK) if number is not None else LOOK
            if key:
                self._dead[key] = (rank, self._servers.lost[rank])
        self._news.put(key)

    # What follows runs in the collector's thread.

    def _receive(self, bundle: Bundle) -> None:
        if isinstance(bundle.handle, OSError):
            failure = Failure("exception", f"it could not be sent: {bundle.handle}")
            for pending in bundle.jobs:
                self._deliver_failure(pending, failure)
        elif isinstance(bundle.handle, Future):
            for pending in bundle.jobs:
                self._receive_own(pending, bundle.handle)
        elif bundle.key in self._dead:
            rank, how = self._dead.pop(bundle.key)
            self._after_death(bundle.jobs, f"server-{rank}", how)
        elif not bundle.jobs:
            self._servers.discard_results(bundle.handle)
        else:
            try:
                results = self._servers.results(bundle.handle)
            except (ClusterError, OSError) as error:
                for pending in bundle.jobs:
                    self._deliver_failure(pending, Failure("exception", f"it could not be run: {error}"))
            else:
                self._deliver_results(bundle, results)

    def _receive_own(self, pending: Pending, ran: Future[tuple[bytes, set[int]]]) -> None:
        """Deliver what came of a job that ran in this process; servers that it had may have died meanwhile."""
        try:
            result, died = ran.result()
        except OSError as error:
            self._deliver_failure(pending, Failure("exception", f"it could not be run: {error}"))
            return
        if died:
            rank = min(died)
            self._after_death([pending], f"server-{rank}", self._servers.lost[rank])
        else:
            self._deliver_result(pending, result)


def _is_parallel_continuum(job: Job) -> bool:
    return isinstance(job, JobRequest) and job.task == "tclean" and job.arguments.get("specmode", "mfs") == "mfs"
