"""A tiny batch system: it runs commands on this machine, some at a time. It stands for whatever a site has.

Usage: python -m spool FOLDER submit GROUP COUNT OUTPUT   < the command as JSON; prints the jobs' numbers
       python -m spool FOLDER list GROUP                  prints a line of JSON for each job
       python -m spool FOLDER cancel NUMBER…
       python -m spool FOLDER cancel-group GROUP

In the command and in OUTPUT, %j stands for the job's number. A keeper starts with the first job and ends after the
last.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

# So many commands run at once.
SLOTS = int(os.environ.get("SPOOL_SLOTS", "4"))
_PAUSE_SECONDS = 0.1
_COLUMNS = ("number", "state", "code", "wanted")


def opened(folder: Path) -> sqlite3.Connection:
    """The queue of a folder; every statement is a transaction of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    queue = sqlite3.connect(folder / "queue.db", timeout=30, isolation_level=None)
    queue.execute(
        "CREATE TABLE IF NOT EXISTS jobs (number INTEGER PRIMARY KEY, job_group TEXT, command TEXT, output TEXT,"
        " state TEXT DEFAULT 'waiting', code INTEGER, wanted INTEGER DEFAULT 1)"
    )
    return queue


def submit(folder: Path, group: str, count: str, output: str) -> None:
    """Put a command into the queue, some times."""
    command, queue = sys.stdin.read(), opened(folder)
    insert = "INSERT INTO jobs (job_group, command, output) VALUES (?, ?, ?)"
    print(*(queue.execute(insert, (group, command, output)).lastrowid for _ in range(int(count))))
    subprocess.Popen(
        [sys.executable, __file__, str(folder), "keep"],
        start_new_session=True,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def listed(folder: Path, group: str) -> None:
    """Say what became of a group's jobs."""
    for row in opened(folder).execute(f"SELECT {', '.join(_COLUMNS)} FROM jobs WHERE job_group = ?", (group,)):
        print(json.dumps(dict(zip(_COLUMNS, row, strict=True))))


def cancel(folder: Path, *numbers: str) -> None:
    """Take jobs out of the queue, and end those that run."""
    opened(folder).executemany("UPDATE jobs SET wanted = 0 WHERE number = ?", [(number,) for number in numbers])


def cancel_group(folder: Path, group: str) -> None:
    """Do so with all jobs of a group."""
    opened(folder).execute("UPDATE jobs SET wanted = 0 WHERE job_group = ?", (group,))


def keep(folder: Path) -> None:
    """Start and end commands as long as there are any; one keeper is enough."""
    with (folder / "keeper.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        queue = opened(folder)
        running: dict[int, subprocess.Popen[bytes]] = {}
        # What a keeper that was killed left behind is not known any more.
        queue.execute("UPDATE jobs SET state = 'ended' WHERE state = 'running'")
        queue.execute("UPDATE jobs SET state = 'ended' WHERE state = 'waiting' AND NOT wanted")
        while True:
            for number, process in list(running.items()):
                if process.poll() is not None:
                    del running[number]
                    queue.execute(
                        "UPDATE jobs SET state = 'ended', code = ? WHERE number = ?", (process.returncode, number)
                    )
            for (number,) in queue.execute(
                "SELECT number FROM jobs WHERE state = 'running' AND NOT wanted"
            ).fetchall():
                os.killpg(running[number].pid, signal.SIGKILL)
            queue.execute("UPDATE jobs SET state = 'ended' WHERE state = 'waiting' AND NOT wanted")
            waiting = "SELECT number, command, output FROM jobs WHERE state = 'waiting' ORDER BY number LIMIT ?"
            for number, command, output in queue.execute(waiting, (SLOTS - len(running),)).fetchall():
                words = [word.replace("%j", str(number)) for word in json.loads(command)]
                with Path(output.replace("%j", str(number))).open("ab") as file:
                    running[number] = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True)
                queue.execute("UPDATE jobs SET state = 'running' WHERE number = ?", (number,))
            if not running and not queue.execute("SELECT 1 FROM jobs WHERE state = 'waiting'").fetchone():
                return
            time.sleep(_PAUSE_SECONDS)


VERBS: Mapping[str, Callable[..., None]] = {
    "submit": submit,
    "list": listed,
    "cancel": cancel,
    "cancel-group": cancel_group,
    "keep": keep,
}

if __name__ == "__main__":
    if len(sys.argv) < 3 or sys.argv[2] not in VERBS:
        raise SystemExit(__doc__)
    VERBS[sys.argv[2]](Path(sys.argv[1]), *sys.argv[3:])
