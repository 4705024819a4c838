"""What sessions leave behind: many are started and ended, one after the other, half of them by force.

Each runs a small recipe on a backend; every second one is killed at some moment of its run (the seed, which is
printed, says when), and its working folder is left as it is then. Looked at after each: processes, listening and
connected sockets, System V and POSIX shared memory, and files of the temporary folder. Whatever there is more of at
the end than after the first sessions, is listed.

Runs alone, on a machine that nothing else uses, since shared memory does not say whose it is:
`python benchmarks/soak.py --sessions 200 --backends serial dask mpi`.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from report import report
from surgeline.parallel.mpirun import command, find_launcher

SESSIONS = 200
BACKENDS = ("serial", "dask", "mpi")
# What every session leaves once, such as a resource that stays open in this process, is none of its growth.
FIRST = 4
# A session that takes longer hangs.
DEADLINE_SECONDS = 300.0
# What a session that is killed has started ends by itself, within so many seconds.
ENDING_SECONDS = 60.0
SESSION = """
import sys
from surgeline import FunctionCall, Session, stage
from surgeline.parallel.mpiserver import serve_if_server

def square(number):
    return number * number

@stage
def squares(stage, numbers: int = 20):
    yield [FunctionCall(square, number).declare(name="square") for number in range(numbers)]
    return []

if __name__ == "__main__":
    serve_if_server()
    with Session({"name": "soak", "stages": [{"task": squares}]}, sys.argv[1]) as session:
        session.run()
"""


def here(marker: str) -> set[str]:
    """What there is of sessions with this word in their command line or environment, and of shared memory."""
    found = set()
    for process in psutil.process_iter():
        try:
            if process.pid != os.getpid() and (marker in process.environ().get("SURGELINE_SOAK", "")):
                found.add(f"process {process.pid}: {' '.join(process.cmdline())[:120]}")
                found |= {f"socket of {process.pid}: {one.laddr}" for one in process.net_connections()}
        except (psutil.Error, OSError):
            continue
    found |= {f"shared memory {path}" for path in Path("/dev/shm").iterdir()}
    segments = Path("/proc/sysvipc/shm")
    if segments.exists():
        found |= {f"segment {line.split()[1]}" for line in segments.read_text().splitlines()[1:]}
    return found


@contextmanager
def own_temporary_folder() -> Iterator[Path]:
    """A temporary folder that nothing but the sessions uses."""
    with tempfile.TemporaryDirectory(prefix="surgeline-soak-") as name:
        yield Path(name)


def run_session(backend: str, folder: Path, temporary: Path, marker: str, killed_after: float | None) -> bool:
    """Run one session, or a part of it; whether it did what was expected."""
    script = folder / "session.py"
    script.write_text(SESSION)
    line = [sys.executable, str(script), str(folder / "session")]
    environment = {
        **os.environ,
        "TMPDIR": str(temporary),
        "SURGELINE_SOAK": marker,
        "SURGELINE__BACKEND": backend,
        "SURGELINE__DASK__N_WORKERS": "2",
    }
    if backend == "mpi":
        line = command(find_launcher(), 3, line, environment, root=os.geteuid() == 0)
    with (folder / "output").open("wb") as output:
        process = subprocess.Popen(
            line, cwd=folder, env=environment, stdout=output, stderr=output, start_new_session=True
        )
    try:
        process.wait(killed_after or DEADLINE_SECONDS)
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait()
        return killed_after is not None
    if process.returncode:
        print((folder / "output").read_text(errors="replace")[-2000:])
    return process.returncode == 0


def soak(backend: str, sessions: int, chance: random.Random) -> dict[str, float]:
    """Run sessions on a backend, and count what they leave."""
    marker = f"{os.getpid()}-{backend}"
    wrong = 0
    began = time.perf_counter()
    seconds: list[float] = []
    with own_temporary_folder() as temporary:
        for number in range(sessions):
            folder = Path(tempfile.mkdtemp(prefix="surgeline-soaked-"))
            # By force every second time, at any moment of as long as one that was left alone took.
            after = chance.uniform(0.1, max(seconds, default=5.0)) if number % 2 else None
            started = time.perf_counter()
            wrong += not run_session(backend, folder, temporary, marker, after)
            if after is None:
                seconds.append(time.perf_counter() - started)
            deadline = time.monotonic() + ENDING_SECONDS
            while any(one.startswith("process") for one in here(marker)) and time.monotonic() < deadline:
                time.sleep(0.1)
            shutil.rmtree(folder, ignore_errors=True)
            if number + 1 == FIRST:
                before = here(marker), set(temporary.rglob("*"))
        left = sorted(here(marker) - before[0]) + sorted(map(str, set(temporary.rglob("*")) - before[1]))
    for one in left:
        print(f"{backend}: left behind: {one}")
    return {
        f"{backend}: sessions": sessions,
        f"{backend}: that failed or did not end": wrong,
        f"{backend}: processes, sockets, shared memory and temporary files more than after {FIRST}": len(left),
        f"{backend}: minutes": (time.perf_counter() - began) / 60,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="What sessions leave behind that are started and ended in a row.")
    parser.add_argument("--sessions", type=int, default=SESSIONS, help="how many on each backend; 5 at least")
    parser.add_argument("--backends", nargs="+", default=BACKENDS, choices=BACKENDS)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    print(f"seed {asked.seed}")
    chance = random.Random(asked.seed)
    figures: dict[str, float] = {}
    for backend in asked.backends:
        figures |= soak(backend, max(asked.sessions, FIRST + 1), chance)
    report(figures, "soak")


if __name__ == "__main__":
    main()
