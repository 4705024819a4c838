"""The servers of this process's MPI session, as its client sees them: casampi's commands, health, and the end."""

from __future__ import annotations

import atexit
import json
import os
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from importlib import import_module
from typing import Any

import cloudpickle
import psutil

from surgeline.errors import ClusterError, ContextError, SurgelineError
from surgeline.parallel.environment import check_client
from surgeline.parallel.mpichannel import Channel, join, open_channel
from surgeline.parallel.mpiserver import Introduction, SetUp
from surgeline.parallel.parcel import Parcel, discard, pack, unpack
from surgeline.paths import server_end_request, server_note
from surgeline.work.surroundings import Answer, Ask

# Between looks for responses: at once after the last one, then less and less often.
_QUICK_SECONDS = 0.001
_SLOW_SECONDS = 0.02
_LOOK_FOR_DEAD_SECONDS = 0.2
# How long a server that did not answer may take to be ended by its keeper.
_END_SECONDS = 20.0
# How long its keeper may take to tell how a server died.
_NOTE_SECONDS = 5.0
_STOP_SECONDS = 20.0
# casampi looks at a request a moment after it has put the response there; those of long ago are dropped.
_KEPT_REQUESTS = 1000
_RUN = "surgeline_server.run(surgeline_jobs)"
_SET_UP = "from surgeline.parallel.mpiserver import Server\nsurgeline_server = Server(surgeline_set_up)"


class Servers:
    """The servers of an MPI session, for the one client that opens them, once in its process.

    Attributes:
        living: the servers that there are, by rank.
        lost: how the others died, by rank.
    """

    def __init__(
        self,
        set_up: SetUp,
        start_timeout: float,
        server_timeout: float,
        answered: Callable[[int], None],
        died: Callable[[int, int | None], None],
        ask: Ask | None,
    ) -> None:
        """Start casampi's services and set every server up.

        Args:
            set_up: what servers are told.
            start_timeout: seconds to wait for them.
            server_timeout: seconds without a sign of life after which a server is ended.
            answered: called with the number of a request that has been answered.
            died: called with a server's rank when it died, and the number of the request that it had, if any.
            ask: answers jobs' questions for facts.

        Raises:
            ClusterError: this process is no client of an MPI session, or a server did not start.
        """
        check_client()
        shutil.rmtree(set_up.notes, ignore_errors=True)
        set_up.notes.mkdir(parents=True)
        self._notes = set_up.notes
        self._answered = answered
        self._died = died
        self._ask = ask
        self._lock = threading.Lock()
        self._running: dict[int, int] = {}
        self._old: deque[int] = deque()
        self._told_to_end: dict[int, float] = {}
        self._gone: dict[int, float] = {}
        self.lost: dict[int, str] = {}
        self._ending = threading.Event()
        self._work = threading.Event()
        join(server_timeout)
        self._commands, self._monitor = _within(start_timeout, _start_casampi)
        self._requests: dict[int, dict[str, Any]] = self._commands.get_command_request_list()
        self._responses: dict[int, dict[str, Any]] = self._commands.get_command_response_list()
        self.living: dict[int, Introduction] = _within(start_timeout, self._set_up, set_up)
        self._answers = ThreadPoolExecutor(1, thread_name_prefix="answer-servers")
        self._watcher = threading.Thread(target=self._watch, name="watch-servers", daemon=True)
        self._watcher.start()
        # Before casampi's own end, which takes MPI away from the watcher.
        atexit.register(self.stop)

    def _set_up(self, set_up: SetUp) -> Mapping[int, Introduction]:
        ranks = sorted(self._monitor.get_server_status())
        asked = self._commands.push_command_request(_SET_UP, False, ranks, {"surgeline_set_up": set_up})
        # Where one cannot be set up, this says why; in the next step all would wait for it.
        _check(self._commands.get_command_response(asked, True))
        asked = self._commands.push_command_request("surgeline_server.connect()", False, ranks)
        self._channel = open_channel()
        found = _check(self._commands.get_command_response(asked, True))
        return {introduction.rank: introduction for introduction in found}

    def push(self, rank: int, jobs: list[bytes]) -> int | None:
        """Send pickled jobs to an idle server; returns the request's number, or None when the server has died.

        Raises:
            OSError: they are large, and the file for them cannot be written.
        """
        parcel = pack(cloudpickle.dumps(jobs), self._notes)
        with self._lock:
            number = self._request(rank, parcel)
            if number is not None:
                self._running[number] = rank
        self._work.set()
        return number

    def _request(self, rank: int, parcel: Parcel) -> int | None:
        """Have casampi send a parcel to a server that lives; the lock is held."""
        if rank not in self.living:
            discard(parcel)
            return None
        return int(self._commands.push_command_request(_RUN, False, rank, {"surgeline_jobs": parcel})[0])

    def results(self, number: int) -> list[bytes]:
        """The pickled outcomes of a request that was answered, once.

        Raises:
            ClusterError: casampi could not deliver the request or its answer.
        """
        response = self._responses[number]
        try:
            [parcel] = _check([response])
            results: list[bytes] = cloudpickle.loads(unpack(parcel))
        finally:
            self._forget(number)
        return results

    def discard_results(self, number: int) -> None:
        """Drop what came of a request that nobody waits for any more."""
        parcel = self._responses[number].get("ret")
        if parcel is not None:
            discard(parcel)
        self._forget(number)

    def everywhere(self, job: bytes) -> dict[int, bytes | None]:
        """Run a pickled job on every living server, all of them idle.

        Returns:
            the pickled outcomes, by rank; None of a server that died meanwhile.

        Raises:
            ClusterError: casampi could not deliver it, or the session was stopped.
            OSError: it is large, and the file for it cannot be written.
        """
        asked = {}
        for rank in sorted(self.living):
            # A parcel can be unpacked once.
            parcel = pack(cloudpickle.dumps([job]), self._notes)
            with self._lock:
                asked[rank] = self._request(rank, parcel)
        while any(rank in self.living and number not in self._responses for rank, number in asked.items()):
            if self._ending.is_set():
                raise ClusterError("the servers were stopped while a job ran on all of them", "open a backend anew")
            time.sleep(_QUICK_SECONDS)
        return {rank: None if number is None else self._result_or_death(number) for rank, number in asked.items()}

    def _result_or_death(self, number: int) -> bytes | None:
        if number in self._responses:
            return self.results(number)[0]
        self._give_up(number)
        return None

    def stop(self, finalize: bool = True) -> None:
        """End the servers and MPI in this process; where that cannot be, all end together with this process.

        Args:
            finalize: whether this process has no MPI call under way.
        """
        atexit.unregister(self.stop)
        self._ending.set()
        self._work.set()
        self._watcher.join(timeout=_STOP_SECONDS)
        self._answers.shutdown(wait=False, cancel_futures=True)
        # MPI cannot be finalised when a rank is gone or busy: mpirun ends the others when this process has ended.
        atexit.unregister(self._commands.stop_services)
        communicator = import_module("casampi.private.MPICommunicator").MPICommunicator()
        communicator.set_finalize_mpi_environment(False)
        if finalize and not self.lost and not self._running:
            stopping = threading.Thread(target=self._commands.stop_services, args=(True,), daemon=True)
            stopping.start()
            stopping.join(timeout=_STOP_SECONDS)
        shutil.rmtree(self._notes, ignore_errors=True)

    def _give_up(self, number: int) -> None:
        """Forget a request whose server died."""
        # casampi would otherwise look for its response for ever.
        self._responses[number] = {"status": "timeout", "successful": False, "ret": None}
        discard(self._requests[number]["parameters"]["surgeline_jobs"])
        self._forget(number)

    def _forget(self, number: int) -> None:
        self._responses[number].update(ret=None, parameters=None)
        self._requests[number].update(parameters=None)
        self._old.append(number)
        if len(self._old) > _KEPT_REQUESTS:
            oldest = self._old.popleft()
            self._responses.pop(oldest, None)
            self._requests.pop(oldest, None)

    # What follows runs in the watcher's thread.

    def _watch(self) -> None:
        pause = _SLOW_SECONDS
        next_look = 0.0
        while not self._ending.is_set():
            if self._take_responses() or self._take_questions():
                pause = _QUICK_SECONDS
            else:
                pause = min(1.1 * pause, _SLOW_SECONDS)
            if time.monotonic() >= next_look:
                self._look_for_dead()
                next_look = time.monotonic() + _LOOK_FOR_DEAD_SECONDS
            if self._running:
                time.sleep(pause)
            else:
                self._work.clear()
                if not self._running and self._work.wait(_LOOK_FOR_DEAD_SECONDS):
                    pause = _QUICK_SECONDS

    def _take_responses(self) -> bool:
        with self._lock:
            answered = [number for number in self._running if number in self._responses]
            for number in answered:
                del self._running[number]
        for number in answered:
            self._answered(number)
        return bool(answered)

    def _take_questions(self) -> bool:
        if self._ask is None:
            return False
        asked = list(self._channel.questions())
        for rank, query in asked:
            self._answers.submit(_answer, self._channel, rank, self._ask, query)
        return bool(asked)

    def _look_for_dead(self) -> None:
        for rank, server in list(self.living.items()):
            note = server_note(self._notes, rank)
            now = time.monotonic()
            if note.exists():
                self._bury(rank, json.loads(note.read_text())["how"])
            elif server.host == socket.gethostname() and not psutil.pid_exists(server.keeper):
                self._bury(rank, "the process that kept it was killed")
            elif rank in self._told_to_end:
                if now > self._told_to_end[rank] + _END_SECONDS:
                    self._bury(rank, "it did not answer, and could not be ended")
            elif self._monitor.get_server_status_keyword(rank, "timeout"):
                self._told_to_end[rank] = now
                # Where the folder is away, or the disk full, the server is given up all the same.
                with suppress(OSError):
                    server_end_request(self._notes, rank).touch()
            elif server.host != socket.gethostname() or psutil.pid_exists(server.process):
                continue
            elif now > self._gone.setdefault(rank, now) + _NOTE_SECONDS:
                self._bury(rank, f"its process ended; {note}, which would say how, was not written")

    def _bury(self, rank: int, how: str) -> None:
        with self._lock:
            # casampi itself then gives up what it waits for from that server, and sends it nothing more.
            self._monitor.set_server_status_keyword(rank, "timeout", True)
            self.lost[rank] = how
            self.living.pop(rank)
            numbers = [number for number, owner in self._running.items() if owner == rank]
            for number in numbers:
                del self._running[number]
        for number in numbers:
            self._give_up(number)
        self._died(rank, numbers[0] if numbers else None)


def _start_casampi() -> tuple[Any, Any]:
    # casampi's client half of it: the communicators that the servers make at the same moment.
    import_module("casampi.private.start_mpi")
    commands = import_module("casampi.MPICommandClient").MPICommandClient()
    commands.set_log_mode("unified")
    commands.start_services()
    imager = import_module("casatasks.private.imagerhelpers.parallel_imager_helper")
    imager.time = _QuickLooks()  # type: ignore[attr-defined]
    return commands, import_module("casampi.private.MPIMonitorClient").MPIMonitorClient()


class _QuickLooks:
    """Stands for the module `time` in CASA's parallel imager, which looks once a second whether a step is done.

    Some fifteen steps of an image would take as many seconds, however small it is.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(time, name)

    def sleep(self, _: float) -> None:
        time.sleep(_SLOW_SECONDS)


def _within(seconds: float, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call what may never return, and give it up after a while."""
    done: list[Any] = []
    failed: list[BaseException] = []

    def call() -> None:
        try:
            done.append(function(*arguments))
        except BaseException as error:  # noqa: BLE001 - raised again below
            failed.append(error)

    thread = threading.Thread(target=call, name="start-servers", daemon=True)
    thread.start()
    thread.join(seconds)
    if failed:
        raise failed[0]
    if not done:
        raise ClusterError(
            f"the servers of the MPI session did not all start within {seconds:g} s",
            "see the messages of mpirun above; on a busy machine raise mpi.start_timeout",
        )
    return done[0]


def _check(responses: list[dict[str, Any]]) -> list[Any]:
    """The values of casampi's responses.

    Raises:
        ClusterError: one was not successful.
    """
    for response in responses:
        if not response["successful"]:
            raise ClusterError(
                f"casampi could not run a command on server {response.get('server')}: "
                f"{str(response.get('traceback')).strip().splitlines()[-1]}",
                "see its log, casa-server-N.log and .out",
            )
    return [response["ret"] for response in responses]


def _answer(channel: Channel, rank: int, ask: Ask, query: Any) -> None:
    answer: Answer | Exception
    try:
        answer = ask(query)
    except SurgelineError as error:
        answer = error
    except Exception as error:  # noqa: BLE001 - the server waits for an answer, whatever it is
        answer = ContextError(
            f"the session could not answer: {type(error).__name__}: {error}",
            "see what the session itself says; when that is mended: surgeline resume",
        )
    channel.answer(rank, answer)


def client_introduction() -> tuple[str, int]:
    """Where this process runs, for those who watch it."""
    return socket.gethostname(), os.getpid()
