"""Real mpiruns, with small programs as ranks in place of sessions."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import socket
import subprocess
import sys
import termios
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from parallel.mpiruns import MPIRUNS, each_mpirun
from support import processes_in, wait_until
from surgeline.parallel.supervisor import without_repeats

pytestmark = pytest.mark.mpi

DRIVER = """
import sys
from surgeline.errors import SurgelineError
from surgeline.parallel import supervisor
from surgeline.parallel.mpirun import find_launcher

mpirun, restarts, orderly, leaving, program, *arguments = sys.argv[1:]
supervisor.ORDERLY_SECONDS, supervisor.LEAVING_SECONDS = float(orderly), float(leaving)
try:
    code = supervisor.supervise(
        find_launcher(mpirun), 3, program.split(), arguments, int(restarts),
        lambda text: print(text, file=sys.stderr, flush=True),
    )
except SurgelineError as error:
    print(f"{type(error).__name__}: {error}", file=sys.stderr)
    code = error.exit_code
sys.exit(code)
"""
# What every rank begins with; it logs in its current directory.
RANK = """
import os, signal, sys, time
from pathlib import Path
from surgeline.parallel.mpinotes import find_supervisor, tell_begun, tell_ending

rank = int(os.environ["OMPI_COMM_WORLD_RANK"])
first_time = "--force" in sys.argv
find_supervisor()

def log(text):
    with open("log", "a") as file:
        file.write(f"{rank} {text}\\n")

def log_signals(then=lambda number: None):
    def note(number, _):
        log(signal.Signals(number).name)
        then(number)
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, note)

def wait_for(name):
    while not Path(name).exists():
        time.sleep(0.02)

def hang():
    while True:
        time.sleep(0.05)
"""


class Supervised:
    """A supervisor that runs a program as three ranks."""

    def __init__(self, folder: Path, mpirun: str, body: str, *arguments: str, **options: Any) -> None:
        self.folder = folder
        (folder / "driver.py").write_text(DRIVER)
        (folder / "rank.py").write_text(RANK + body)
        program = options.pop("program", f"{sys.executable} {folder / 'rank.py'}")
        limits = [
            str(options.pop(name, default)) for name, default in (("restarts", 2), ("orderly", 60), ("leaving", 5))
        ]
        self.process = subprocess.Popen(
            [sys.executable, str(folder / "driver.py"), mpirun, *limits, program, *arguments],
            cwd=folder,
            **{
                "stdin": subprocess.PIPE,
                "stdout": subprocess.PIPE,
                "stderr": subprocess.PIPE,
                "text": True,
                **options,
            },
        )

    def end(self, given: str | None = None) -> tuple[int, str, str]:
        """Wait for the end: the exit code, and what was written."""
        written, errors = self.process.communicate(given, timeout=60)
        return self.process.returncode, written, errors

    def log(self) -> list[str]:
        """What ranks have logged so far, in the order of ranks."""
        path = self.folder / "log"
        return sorted(path.read_text().splitlines()) if path.exists() else []

    def wait_for_log(self, line: str) -> None:
        """Wait until a rank has logged a line."""
        wait_until(lambda: line in self.log(), 30, f"logged {line!r}")


@pytest.fixture(autouse=True)
def nothing_is_left_running(tmp_path: Path) -> Iterator[None]:
    yield
    left = processes_in(tmp_path)
    for process in left:
        process.kill()
    assert left == []


@each_mpirun
def test_the_sessions_own_exit_code_counts_whatever_mpirun_makes_of_it(tmp_path: Path, mpirun: str) -> None:
    # Ranks that end without MPI_Finalize, as CASA's do; mpirun calls that an error and says so at length.
    body = """
from mpi4py import rc
rc.finalize = False
from mpi4py import MPI
MPI.COMM_WORLD.Barrier()
if rank == 0:
    tell_begun()
    print("asked", sys.argv[1:], "and told", sys.stdin.readline(), flush=True)
    print("an error", file=sys.stderr, flush=True)
    tell_ending(7)
    Path("ended").touch()
# As soon as one of the others is gone, mpirun may take from the first what it has to read.
wait_for("ended")
os._exit(0)
"""
    code, written, errors = Supervised(tmp_path, mpirun, body, "run", "x").end("good news\n")
    assert code == 7
    assert written == "asked ['run', 'x'] and told good news\n\n"
    assert errors.splitlines()[0].startswith(f"$ {mpirun} -n 3 ")
    assert errors.splitlines()[1:] == ["an error"]


@each_mpirun
def test_a_session_that_mpirun_took_down_goes_on(tmp_path: Path, mpirun: str) -> None:
    body = """
def end(*_):
    tell_ending(143)
    os._exit(143)

if rank == 0:
    # mpirun tells the client to stop, which may have the time to do so in order.
    signal.signal(signal.SIGTERM, end)
    tell_begun()
    log(f"begun {sys.argv[1:]}")
    if first_time:
        Path("begun").touch()
        hang()
    tell_ending(0)
elif rank == 2 and first_time:
    wait_for("begun")
    os.kill(os.getpid(), signal.SIGKILL)
elif first_time:
    hang()
"""
    supervised = Supervised(tmp_path, mpirun, body, "run", "x", "--force", "flag", "--set", "a=1", "--from=import")
    code, _, errors = supervised.end()
    assert code == 0
    assert supervised.log() == [
        "0 begun ['run', 'x', '--force', 'flag', '--set', 'a=1', '--from=import']",
        "0 begun ['run', 'x', '--set', 'a=1']",
    ]
    first, told, second = errors.splitlines()
    assert first.endswith("run x --force flag --set a=1 --from=import")
    assert told == (
        f"the MPI job is gone: rank 2 on {socket.gethostname()} was killed by SIGKILL; what had finished is kept, "
        "and the session is started again (1 of 2)"
    )
    assert second.endswith("run x --set a=1")


def test_a_session_is_not_started_again_for_ever(tmp_path: Path) -> None:
    body = """
if rank == 0:
    tell_begun()
    log("begun")
    os.kill(os.getpid(), signal.SIGSEGV)
hang()
"""
    supervised = Supervised(tmp_path, MPIRUNS[0], body, "run", "x", "--force", "flag", restarts=1)
    code, _, errors = supervised.end()
    assert code == 8
    assert supervised.log() == ["0 begun", "0 begun"]
    assert errors.endswith(
        f"ClusterError: the MPI job was taken down 2 times, at last: rank 0 on {socket.gethostname()} was killed by "
        "SIGSEGV\n  what had finished is kept, go on with: surgeline mpirun -n 3 -- run x\n"
    )


@each_mpirun
def test_a_job_that_failed_before_its_session_began_is_told_by_mpiruns_own_words(tmp_path: Path, mpirun: str) -> None:
    code, _, errors = Supervised(tmp_path, mpirun, "", "run", program="/no/such/program").end()
    assert code == 8
    assert errors.count("$ ") == 1
    assert "Executable: /no/such/program" in errors
    assert "ClusterError: the session did not begin; exit code " in errors
    assert ": prterun was unable to launch" in errors or ": mpirun was unable to launch" in errors


def test_a_rank_that_fails_before_the_session_began_is_told_and_not_started_again(tmp_path: Path) -> None:
    body = """
if rank == 1:
    raise RuntimeError("no MPI here")
hang()
"""
    code, _, errors = Supervised(tmp_path, MPIRUNS[0], body, "run").end()
    assert code == 8
    assert errors.count("$ ") == 1
    assert "RuntimeError: no MPI here" in errors
    assert "Exit code:    1" in errors


@each_mpirun
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_goes_to_the_client_alone_which_ends_in_order(
    tmp_path: Path, mpirun: str, number: signal.Signals
) -> None:
    body = """
def end(number):
    Path("stop").touch()
    for server in (1, 2):
        wait_for(f"stopped-{server}")
    tell_ending(128 + number)
    os._exit(128 + number)

log_signals(end if rank == 0 else lambda number: None)
if rank == 0:
    tell_begun()
log("ready")
wait_for("stop")
Path(f"stopped-{rank}").touch()
"""
    supervised = Supervised(tmp_path, mpirun, body, "run")
    for rank in range(3):
        supervised.wait_for_log(f"{rank} ready")
    supervised.process.send_signal(number)
    code, _, errors = supervised.end()
    assert code == 128 + number
    assert supervised.log() == [f"0 {number.name}", "0 ready", "1 ready", "2 ready"]
    assert len(errors.splitlines()) == 1


@each_mpirun
def test_ctrl_c_on_a_terminal_reaches_the_client_once(tmp_path: Path, mpirun: str) -> None:
    body = """
log_signals()
if rank == 0:
    tell_begun()
    log("begun")
    wait_for("enough")
    tell_ending(130)
    os._exit(130)
hang()
"""
    terminal, its_end = pty.openpty()

    def control_terminal() -> None:
        os.setsid()
        fcntl.ioctl(its_end, termios.TIOCSCTTY, 0)

    streams = dict.fromkeys(("stdin", "stdout", "stderr"), its_end)
    supervised = Supervised(tmp_path, mpirun, body, "run", preexec_fn=control_terminal, **streams)
    supervised.wait_for_log("0 begun")
    os.write(terminal, b"\x03")
    supervised.wait_for_log("0 SIGINT")
    assert [line for line in supervised.log() if "SIG" in line] == ["0 SIGINT"]
    (tmp_path / "enough").touch()
    assert supervised.process.wait(timeout=30) == 130
    assert supervised.log().count("0 SIGINT") == 1
    os.close(its_end)
    os.close(terminal)


@each_mpirun
def test_who_does_not_end_is_ended_with_all_that_it_started(tmp_path: Path, mpirun: str) -> None:
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 1:
    # A child that nobody above knows of any more.
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            log("hidden")
            hang()
        os._exit(0)
    os.wait()
if rank == 0:
    tell_begun()
    log("begun")
hang()
"""
    supervised = Supervised(tmp_path, mpirun, body, "run", orderly=0.5)
    supervised.wait_for_log("0 begun")
    supervised.wait_for_log("1 hidden")
    supervised.process.send_signal(signal.SIGTERM)
    code, _, errors = supervised.end()
    assert code == 143
    assert errors.endswith("stopped by SIGTERM; what had finished is kept\n")


def test_a_second_signal_ends_everything_at_once(tmp_path: Path) -> None:
    body = """
log_signals()
if rank == 0:
    tell_begun()
    log("begun")
hang()
"""
    supervised = Supervised(tmp_path, MPIRUNS[0], body, "run", orderly=3600)
    supervised.wait_for_log("0 begun")
    supervised.process.send_signal(signal.SIGINT)
    supervised.wait_for_log("0 SIGINT")
    supervised.process.send_signal(signal.SIGINT)
    assert supervised.end()[0] == 130


def test_a_signal_before_the_session_began_ends_the_job(tmp_path: Path) -> None:
    supervised = Supervised(tmp_path, MPIRUNS[0], "log('here')\nhang()\n", "run", orderly=3600)
    supervised.wait_for_log("0 here")
    supervised.process.send_signal(signal.SIGTERM)
    assert supervised.end()[0] == 143


@each_mpirun
def test_when_the_supervisor_is_killed_everything_ends(tmp_path: Path, mpirun: str) -> None:
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 0:
    tell_begun()
    log("begun")
hang()
"""
    supervised = Supervised(tmp_path, mpirun, body, "run")
    supervised.wait_for_log("0 begun")
    supervised.process.kill()
    wait_until(lambda: not processes_in(tmp_path), 10, "mpirun and its ranks have ended")


@each_mpirun
def test_when_mpirun_is_killed_its_ranks_end_before_the_session_goes_on(tmp_path: Path, mpirun: str) -> None:
    body = """
if rank == 0:
    tell_begun()
    log(f"begun {os.getpid()}")
    if not first_time:
        tell_ending(0)
        sys.exit(0)
elif not first_time:
    sys.exit(0)
hang()
"""
    supervised = Supervised(tmp_path, mpirun, body, "run", "--force", "flag")
    wait_until(lambda: len(supervised.log()) == 1, 30, "it has begun")
    old = int(supervised.log()[0].split()[-1])
    psutil.Process(old).parent().kill()
    code, _, errors = supervised.end()
    assert code == 0
    assert "the MPI job is gone: mpirun was killed by SIGKILL; " in errors
    assert not psutil.pid_exists(old)


def test_servers_that_do_not_leave_do_not_hold_up_the_end(tmp_path: Path) -> None:
    body = """
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if rank == 0:
    tell_begun()
    tell_ending(0)
    sys.exit(0)
hang()
"""
    assert Supervised(tmp_path, MPIRUNS[0], body, "run", leaving=0.5).end()[0] == 0


def test_the_session_knows_whether_there_is_a_terminal(tmp_path: Path) -> None:
    # mpirun gives ranks a terminal of its own even when its output goes to a file.
    body = """
from rich.console import Console
if rank == 0:
    print(sys.stdout.isatty(), Console().is_terminal, flush=True)
    tell_ending(0)
"""
    code, written, _ = Supervised(tmp_path, MPIRUNS[0], body, "run").end()
    assert (code, written) == (0, "True False\n")


def test_only_the_client_speaks_for_the_session(tmp_path: Path) -> None:
    body = """
import subprocess
speak = "from surgeline.parallel.mpinotes import *; find_supervisor(); tell_begun(); tell_ending(5)"
if rank == 0:
    subprocess.run([sys.executable, "-c", speak], check=True)
    wait_for("spoken")
    tell_ending(4)
elif rank == 1:
    tell_begun()
    tell_ending(6)
    Path("spoken").touch()
"""
    assert Supervised(tmp_path, MPIRUNS[0], body, "run").end()[0] == 4


@pytest.mark.parametrize(
    ("arguments", "again"),
    [
        ("run r.yaml --vis a.ms", "run r.yaml --vis a.ms"),
        ("run r.yaml --force flag --force=gaincal --from x -w d", "run r.yaml -w d"),
        ("--debug resume --from=x", "--debug resume"),
        ("run --set a=1 -- --force", "run --set a=1 -- --force"),
        ("resume --force", "resume"),
    ],
)
def test_what_must_not_be_asked_twice_is_left_out(arguments: str, again: str) -> None:
    assert without_repeats(arguments.split()) == again.split()
