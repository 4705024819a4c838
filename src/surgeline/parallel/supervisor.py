"""Runs a session as an MPI job from outside it: ends it in order, and starts it again when mpirun took it down."""

from __future__ import annotations

import os
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import FrameType

import psutil

from surgeline.errors import ClusterError
from surgeline.parallel.descendants import adopted_orphans, ends_with_parent, kill_descendants
from surgeline.parallel.environment import clean_environment
from surgeline.parallel.mpinotes import NOTES_VARIABLE, Notes
from surgeline.parallel.mpirun import Launcher, command
from surgeline.parallel.mpiwords import MpirunWords
from surgeline.work.temporaryfolder import TemporaryFolder

# How long a session that was told to stop may take to end in order.
ORDERLY_SECONDS = 30.0
# How long servers may take to leave when the session has ended, and mpirun to end its ranks when told to.
LEAVING_SECONDS = 10.0
_LOOKING_SECONDS = 0.1
_RESTING_SECONDS = 2.0
# What a session that goes on must not be asked again: it would run anew what has run.
_NOT_REPEATED = ("--force", "--from")


@dataclass(frozen=True)
class _End:
    """How one MPI job ended: by the client's notes, and by mpirun's exit code and words."""

    code: int | None
    begun: bool
    running: Mapping[int, str]
    returncode: int
    words: MpirunWords

    @property
    def was_taken_down(self) -> bool:
        """Whether mpirun ended the session; it may still have had the time to tell what it made of that."""
        return self.code is None or (self.code != 0 and self.begun and self.words.tells_of_lost_server())

    def cause(self) -> str:
        """What ended the job: which rank, how, and what it ran."""
        if told := self.words.cause():
            rank = re.search(r"\brank (\d+)", told)
            jobs = self.running.get(int(rank[1])) if rank else None
            return f"{told} while it ran {jobs}" if jobs else told
        if self.returncode < 0:
            return f"mpirun was killed by {signal.Signals(-self.returncode).name}"
        return f"mpirun ended with exit code {self.returncode}, and did not say why"


def supervise(
    launcher: Launcher,
    ranks: int,
    program: Sequence[str],
    arguments: Sequence[str],
    restarts: int,
    say: Callable[[str], None],
) -> int:
    """Run a session as an MPI job to its end, and return the session's own exit code.

    The first SIGINT or SIGTERM goes to the client alone, since mpirun would give it a second at most to end. A
    second one ends everything at once. No process is left behind, whatever happens.

    Args:
        launcher: the mpirun.
        ranks: how many processes, the client among them.
        program: what each rank runs, such as Python with this package's command line.
        arguments: those of the program: `run` or `resume` and what belongs to it.
        restarts: how often the session is started again after mpirun took it down.
        say: is told the command lines, and what happens.

    Raises:
        BadInput: fewer than two ranks.
        ClusterError: the session did not begin, or was taken down once more than it may be restarted.
    """
    again = without_repeats(arguments)
    with _signals_noted() as signals, adopted_orphans(), TemporaryFolder() as scratch:
        for attempt in range(restarts + 1):
            folder = scratch / str(attempt)
            folder.mkdir()
            environment = {**clean_environment(os.environ), **_terminal(), NOTES_VARIABLE: str(folder)}
            asked = again if attempt else arguments
            line = command(launcher, ranks, [*program, *asked], environment, root=os.geteuid() == 0)
            say(f"$ {shlex.join(line)}")
            end = _run_job(line, environment, Notes(folder), signals)
            if signals:
                if end.code is None:
                    say(f"stopped by {signal.Signals(signals[0]).name}; what had finished is kept")
                return 0 if end.code == 0 else 128 + signals[0]
            if end.code is not None and not end.was_taken_down:
                return end.code
            if not end.begun:
                raise _did_not_begin(end)
            if attempt < restarts:
                say(
                    f"the MPI job is gone: {end.cause()}; what had finished is kept, "
                    f"and the session is started again ({attempt + 1} of {restarts})"
                )
    raise _taken_down(end, restarts + 1, f"surgeline mpirun -n {ranks} -- {shlex.join(again)}")


def without_repeats(arguments: Sequence[str]) -> list[str]:
    """The arguments with which a session goes on after it was begun: without `--force X` and `--from X`."""
    kept: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            return [*kept, argument, *waiting]
        if argument in _NOT_REPEATED:
            next(waiting, None)
        elif not argument.startswith(tuple(f"{option}=" for option in _NOT_REPEATED)):
            kept.append(argument)
    return kept


def _run_job(line: Sequence[str], environment: dict[str, str], notes: Notes, signals: list[int]) -> _End:
    before = psutil.Process().children(recursive=True)
    with subprocess.Popen(
        line,
        env=environment,
        stderr=subprocess.PIPE,
        # Ctrl-C on a terminal reaches this process alone, which passes it on once.
        process_group=0,
        preexec_fn=ends_with_parent(),
    ) as process:
        job = _Job(process, notes, signals)
        try:
            job.wait()
        finally:
            job.end()
            kill_descendants(before)
            job.finish()
    end = _End(notes.code, notes.begun, notes.running(), process.returncode, job.words)
    if end.code is None and not signals and (not end.begun or job.words.cause() is None):
        job.words.show_held_back()
    return end


class _Job:
    """An mpirun that runs, listened to without a thread: mpirun would be signalled at the end of each of them."""

    def __init__(self, process: subprocess.Popen[bytes], notes: Notes, signals: list[int]) -> None:
        assert process.stderr is not None
        self._process = process
        self._stderr: int | None = process.stderr.fileno()
        self._notes = notes
        self._signals = signals
        self.words = MpirunWords(sys.stderr.buffer)

    def wait(self) -> None:
        """Wait until mpirun has ended, or has had its time, or a second signal has come."""
        deadline = float("inf")
        passed_on = ended = False
        while self._process.poll() is None and time.monotonic() < deadline and len(self._signals) < 2:
            if not ended and self._notes.code is not None:
                ended = True
                deadline = time.monotonic() + LEAVING_SECONDS
            elif not ended and not passed_on and self._signals:
                passed_on = True
                deadline = time.monotonic() + ORDERLY_SECONDS
                self._pass_on(self._signals[0])
            self._listen()

    def end(self) -> None:
        """End mpirun if it still runs; it takes along its ranks on other hosts, as it would not when killed."""
        if self._process.poll() is None:
            self._process.terminate()
        deadline = time.monotonic() + LEAVING_SECONDS
        while self._process.poll() is None and time.monotonic() < deadline:
            self._listen()
        self._process.kill()
        self._process.wait()

    def finish(self) -> None:
        """Hear the rest, when all who could write are gone."""
        deadline = time.monotonic() + _RESTING_SECONDS
        while self._stderr is not None and time.monotonic() < deadline:
            self._listen()
        self.words.finish()

    def _pass_on(self, number: int) -> None:
        """Tell the client to stop; where it has not begun, or runs elsewhere, mpirun has to tell it."""
        client = self._notes.client
        if client in {child.pid for child in psutil.Process(self._process.pid).children(recursive=True)}:
            with suppress(ProcessLookupError):
                os.kill(client, number)
        else:
            self._process.terminate()

    def _listen(self) -> None:
        """Hear what is written within a moment."""
        if self._stderr is None:
            time.sleep(_LOOKING_SECONDS)
        elif select.select([self._stderr], [], [], _LOOKING_SECONDS)[0]:
            text = os.read(self._stderr, 2**16)
            self.words.hear(text)
            if not text:
                self._stderr = None


@contextmanager
def _signals_noted() -> Iterator[list[int]]:
    """While this holds, SIGINT and SIGTERM do nothing but become items of a list."""
    noted: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        noted.append(number)

    before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield noted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _terminal() -> dict[str, str]:
    """What the client has to know of the terminal: mpirun gives each rank one of its own even where there is none."""
    if not sys.stdout.isatty():
        return {"TTY_COMPATIBLE": "0", "TERM": "dumb"}
    size = shutil.get_terminal_size()
    return {"COLUMNS": str(size.columns), "LINES": str(size.lines)}


def _did_not_begin(end: _End) -> ClusterError:
    said = end.words.first_paragraph() or end.cause()
    return ClusterError(
        f"the session did not begin; exit code {end.returncode} of mpirun: {said}", "see above, and: surgeline doctor"
    )


def _taken_down(end: _End, times: int, to_go_on: str) -> ClusterError:
    cause = end.cause()
    killed = "the kernel kills what uses too much memory: fewer ranks leave more to each; "
    return ClusterError(
        f"the MPI job was taken down{f' {times} times, at last' if times > 1 else ''}: {cause}",
        f"{killed if 'SIGKILL' in cause else ''}what had finished is kept, go on with: {to_go_on}",
    )
