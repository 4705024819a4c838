"""What is left of a context when whoever writes it is killed, or its disk is full."""

from __future__ import annotations

import random
import resource
import sqlite3
import subprocess
import sys
import time
from collections import defaultdict
from contextlib import closing, suppress
from pathlib import Path

from stores import PROCESSES, commit_until_killed, decision
from surgeline.context.records import Decision
from surgeline.context.store import Context
from surgeline.context.tables import STILL


def spans(path: Path) -> tuple[set[tuple[int, int, int]], set[tuple[int, int, int]]]:
    """From when until when each fact holds: as the store has it, and as it follows from facts and withdrawals."""
    with closing(sqlite3.connect(path)) as database:
        stored = database.execute("SELECT fact, since, until FROM validity").fetchall()
        withdrawn = dict(database.execute("SELECT version, withdrawn_by FROM withdrawals"))
        (newest,) = database.execute("SELECT max(version) FROM commits").fetchone()
        words = defaultdict(list)
        for number, version, kind, subject, body in database.execute(
            "SELECT id, version, kind, subject, body FROM facts ORDER BY id"
        ):
            words[kind, subject].append((number, version, body))
    worked_out = set()
    for said in words.values():
        holder, since = None, 0
        for version in range(1, newest + 2):
            standing = [word for word in said if word[1] <= version and withdrawn.get(word[1], STILL) > version]
            now = standing[-1][0] if standing and standing[-1][2] and version <= newest else None
            if now != holder or version > newest:
                if holder is not None:
                    worked_out.add((holder, since, version if version <= newest else STILL))
                holder, since = now, version
    assert len(stored) == len(set(stored))
    return set(stored), worked_out


def kill_a_session(path: Path, seed: int, commits: int, seconds: float) -> list[int]:
    """Kill a session so many seconds after it was told of so many commits; returns the versions that it was told."""
    acknowledged, its_end = PROCESSES.Pipe(duplex=False)
    session = PROCESSES.Process(target=commit_until_killed, args=(path, seed, its_end))
    session.start()
    its_end.close()
    told = [acknowledged.recv() for _ in range(1 + commits)]
    # Not waiting for anything: the moment is what is tried.
    time.sleep(seconds)
    session.kill()
    session.join()
    with acknowledged, suppress(EOFError):
        while True:
            told.append(acknowledged.recv())
    return told[1:]


def test_a_session_that_is_killed_at_any_moment_loses_nothing_that_it_was_told_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    Context(path).close()
    newest = 0
    for seed in range(20):
        numbers = random.Random(seed)
        told = kill_a_session(path, seed, numbers.randrange(10), numbers.uniform(0, 0.01))
        assert told == list(range(newest + 1, newest + len(told) + 1))
        with closing(Context(path)) as context:
            # The last commit may have been made without anybody being told.
            assert context.version - newest - len(told) in (0, 1)
            newest = context.version
            assert [commit.version for commit in context.log()] == list(range(1, newest + 1))
            context.every()
        stored, worked_out = spans(path)
        assert stored == worked_out
    with closing(sqlite3.connect(path)) as database:
        assert database.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_session_that_is_killed_while_it_makes_its_store_is_begun_anew(tmp_path: Path) -> None:
    numbers = random.Random(1)
    for seed in range(8):
        path = tmp_path / f"{seed}.db"
        told = kill_a_session(path, seed, 0, numbers.uniform(0, 0.05))
        with closing(Context(path)) as context:
            assert context.version >= len(told)
            assert context.commit("again", [decision("again")]) == context.version


FILL_DISK = """
import resource, sys
from pathlib import Path
from stores import decision
from surgeline.context.records import Decision
from surgeline.context.store import Context
from surgeline.errors import WorkfolderError

context = Context(Path(sys.argv[1]))
version = 0
_, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
# A file that may not grow is refused by the system as a full disk is.
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), hard))
try:
    while True:
        version = context.commit("stage", [decision(f"{version} {number}", "yes" * 50) for number in range(20)])
except WorkfolderError as error:
    print(repr(str(error)))
for _ in range(2):
    try:
        context.commit("again", [decision("again", "yes" * 100_000)])
    except WorkfolderError:
        print(version, context.version, len(context.all(Decision)))
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
print(context.commit("room", [decision("room")]))
"""


def test_a_full_disk_is_told_whenever_it_fills_and_the_session_goes_on_once_there_is_room(tmp_path: Path) -> None:
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[1] == resource.RLIM_INFINITY
    for limit in (300_000, 323_456, 1_000_000):
        path = tmp_path / f"{limit}.db"
        code = [sys.executable, "-c", FILL_DISK, str(path), str(limit)]
        answer = subprocess.run(code, capture_output=True, text=True, check=True, cwd=Path(__file__).parent.parent)
        message, *kept, room = answer.stdout.splitlines()
        for told in (str(path), "'stage'", "free space", "surgeline resume"):
            assert told in message
        version = int(kept[0].split()[0])
        assert version >= 2
        assert kept == [f"{version} {version} {20 * version}"] * 2
        assert int(room) == version + 1
        with closing(Context(path)) as context:
            assert context.stages() == ["stage"] * version + ["room"]
            assert context.all(Decision)[-1] == decision("room")
        stored, worked_out = spans(path)
        assert stored == worked_out
