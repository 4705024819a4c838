"""MPI itself, joined once by every rank: casampi at our pace, and a channel for what jobs ask the session."""

from __future__ import annotations

import pickle
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from surgeline.errors import ClusterError
from surgeline.work.surroundings import Answer, FactQuery

# casampi polls; its own intervals (0.1 to 5 s) make a blocking no-op take half a second.
_POLLING_SECONDS = {
    "mpi_start_service_sleep_time": 0.01,
    "mpi_stop_service_sleep_time": 0.05,
    "mpi_check_start_service_sleep_time": 0.01,
    "mpi_check_stop_service_sleep_time": 0.01,
    "mpi_monitor_status_service_heartbeat": 1.0,
    "mpi_ping_status_request_handler_service_sleep_time": 0.1,
    "mpi_ping_status_response_handler_service_sleep_time": 0.1,
    "mpi_command_request_handler_service_sleep_time": 0.001,
    "mpi_command_response_handler_service_sleep_time": 0.001,
    "mpi_command_request_queue_service_sleep_time": 0.001,
    "mpi_push_command_request_block_mode_sleep_time": 0.001,
}
_QUESTION, _ANSWER = 1, 2
_ANSWER_POLLING_SECONDS = 0.001


@dataclass(frozen=True)
class Channel:
    """A communicator of all ranks, beside those that casampi has for itself."""

    communicator: Any
    _on_their_way: list[Any] = field(default_factory=list)

    def ask(self, query: FactQuery) -> Answer:
        """Ask the client's session, from a server.

        Raises:
            SurgelineError: what the session raised.
        """
        self.communicator.send(pickle.dumps(query), dest=0, tag=_QUESTION)
        # A blocking receive would keep a core busy while a database is away.
        while not self.communicator.Iprobe(source=0, tag=_ANSWER):
            time.sleep(_ANSWER_POLLING_SECONDS)
        answer = pickle.loads(self.communicator.recv(source=0, tag=_ANSWER))
        if isinstance(answer, Exception):
            raise answer
        found: Answer = answer
        return found

    def questions(self) -> Iterator[tuple[int, FactQuery]]:
        """What servers have asked since the last call: the rank and its query; for the client."""
        from mpi4py import MPI

        status = MPI.Status()
        while self.communicator.Iprobe(source=MPI.ANY_SOURCE, tag=_QUESTION, status=status):
            rank = status.Get_source()
            yield rank, pickle.loads(self.communicator.recv(source=rank, tag=_QUESTION))

    def answer(self, rank: int, answer: Answer | Exception) -> None:
        """Answer a server; one that died meanwhile is not waited for."""
        # Requests hold the bytes that MPI reads until it has sent them.
        self._on_their_way[:] = [sending for sending in self._on_their_way if not sending.Test()]
        self._on_their_way.append(self.communicator.isend(pickle.dumps(answer), dest=rank, tag=_ANSWER))


def open_channel() -> Channel:
    """Make the channel, as every rank of the session does at the same time."""
    from casampi.MPIEnvironment import MPIEnvironment

    return Channel(MPIEnvironment.mpi_comm_world_factory())


def join(timeout: float) -> None:
    """Start MPI in this process, as every rank of the session does; CASA has to be prepared before.

    Args:
        timeout: after so many seconds without a sign of life casampi gives a server up.

    Raises:
        ClusterError: MPI or casampi cannot be used here; says why.
    """
    try:
        # mpi4py first: after casatools it would take the MPI library that casatools brings along.
        import mpi4py

        del mpi4py
        from casampi.MPIEnvironment import MPIEnvironment
    except ImportError as error:
        raise ClusterError(f"MPI cannot be used: {error}", "pip install surgeline[mpi]") from error
    if not MPIEnvironment.is_mpi_enabled:
        why = str(MPIEnvironment.mpi_error_msg).strip().splitlines()[-1]
        raise ClusterError(
            f"casampi finds no MPI session: {why}",
            "begin one: surgeline mpirun -n 4 -- run …; see also: surgeline doctor",
        )
    for name, seconds in _POLLING_SECONDS.items():
        setattr(MPIEnvironment, name, seconds)
    MPIEnvironment.mpi_monitor_status_service_timeout = timeout
    # Several lines of CASA's log for each command say nothing that an Outcome does not.
    MPIEnvironment.command_handling_log_level = "DEBUG"
    from casatools import logsink

    logsink().showconsole(False)
