"""What mpirun says on its standard error about the end of a job, told apart from what ranks write there."""

from __future__ import annotations

import re
import signal
from typing import IO

# Open MPI frames what it has to say by two lines of 74 dashes.
_FRAME = b"-" * 74
_MOST_LINES = 60
_ABOUT_AN_END = re.compile(
    r"with PID \d+ on node \S+ (exited on signal|exiting improperly|calling)"
    r"|exited with non-zero status|returned a non-zero exit code|MPI_ABORT was invoked"
    r"|lost communication with a remote daemon"
)
_BY_SIGNAL = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exited on signal (\d+)")
_BY_ABORT = re.compile(r"MPI_ABORT was invoked on rank (\d+)")
# Open MPI 4 names a rank [[17854,1],1], Open MPI 5 [prterun-host-10403@1,1].
_BY_EXIT = re.compile(r"Process name: \[\S*,(\d+)\] Exit code: (\d+)")
_WITHOUT_FINALIZE = re.compile(r"process rank (\d+) with PID \d+ on node (\S+) exiting improperly")
_BY_CONNECTION = re.compile(r"lost communication with a remote daemon.* Remote daemon ?: \S+ on node (\S+)")


class MpirunWords:
    """Passes standard error on, line by line, and keeps what mpirun itself says.

    What it says about processes that ended is held back, since only the end shows whether anybody needs to know.
    """

    def __init__(self, target: IO[bytes]) -> None:
        self._target = target
        self._unfinished = b""
        self._framed: list[bytes] = []
        self._about_the_end: list[bytes] = []
        self._said: list[bytes] = []

    def hear(self, text: bytes) -> None:
        """Take what came next."""
        *lines, self._unfinished = (self._unfinished + text).split(b"\n")
        for line in lines:
            self._hear_line(line + b"\n")

    def finish(self) -> None:
        """Nothing more comes."""
        self._give_up_frame()
        self._pass_on(self._unfinished)

    def _hear_line(self, line: bytes) -> None:
        is_frame = line.strip() == _FRAME
        if not self._framed and not is_frame:
            self._pass_on(line)
            return
        self._framed.append(line)
        if is_frame and len(self._framed) > 1:
            self._keep(b"".join(self._framed))
            self._framed = []
        elif len(self._framed) > _MOST_LINES:
            # A rank that writes lines of dashes.
            self._give_up_frame()

    def _give_up_frame(self) -> None:
        self._pass_on(b"".join(self._framed))
        self._framed = []

    def show_held_back(self) -> None:
        """Write what was held back."""
        self._pass_on(b"".join(self._about_the_end))
        self._about_the_end = []

    def cause(self) -> str | None:
        """Which rank ended the job, where and how, as far as mpirun has told."""
        return cause_told(b"".join(self._said).decode(errors="replace"))

    def tells_of_lost_server(self) -> bool:
        """Whether the job ended because a rank other than 0 was killed, or its host was lost."""
        text = _one_line(b"".join(self._said).decode(errors="replace"))
        killed = _BY_SIGNAL.search(text)
        return killed.group(1) != "0" if killed else _BY_CONNECTION.search(text) is not None

    def first_paragraph(self) -> str:
        """What mpirun said first, or nothing."""
        return first_paragraph(b"".join(self._said).decode(errors="replace"))

    def _keep(self, said: bytes) -> None:
        self._said.append(said)
        if _ABOUT_AN_END.search(_one_line(said.decode(errors="replace"))):
            self._about_the_end.append(said)
        else:
            self._pass_on(said)

    def _pass_on(self, text: bytes) -> None:
        if text.strip() or text.endswith(b"\n"):
            self._target.write(text)
            self._target.flush()


def cause_told(words: str) -> str | None:
    """Find in the words of Open MPI 4 or 5 which rank ended a job, on which host, by which signal or exit code."""
    text = _one_line(words)
    if found := _BY_SIGNAL.search(text):
        rank, host, number = found.groups()
        return f"rank {rank} on {host} was killed by {_signal_name(int(number))}"
    if found := _BY_ABORT.search(text):
        return f"rank {found.group(1)} called MPI_Abort"
    if found := _BY_EXIT.search(text):
        return f"rank {found.group(1)} ended with exit code {found.group(2)}"
    if found := _WITHOUT_FINALIZE.search(text):
        return f"rank {found.group(1)} on {found.group(2)} ended without MPI_Finalize"
    if found := _BY_CONNECTION.search(text):
        return f"the connection to host {found.group(1)} was lost"
    return None


def first_paragraph(words: str) -> str:
    """The first paragraph of what Open MPI says, as one line."""
    paragraphs = words.replace(_FRAME.decode(), "\n\n").split("\n\n")
    return next((_one_line(paragraph) for paragraph in paragraphs if paragraph.strip()), "")


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _signal_name(number: int) -> str:
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"
