from __future__ import annotations

import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from serve.serving import Fresh, Server
from support import wait_until

# Commits five facts at a time, and begins and ends its session again and again; tells how long commits took.
WRITER = """
import json, sys, time
from contextlib import closing
from pathlib import Path
from surgeline.context import database
from surgeline.context.attempts import Attempt, write_attempts
from surgeline.context.records import Decision
from surgeline.context.store import Context

# On a network's file system there is no write-ahead log.
database._filesystem = lambda path: sys.argv[3]
ending, slowest, commits = time.monotonic() + float(sys.argv[2]), 0.0, 0
while time.monotonic() < ending:
    with closing(Context(Path(sys.argv[1]))) as context:
        for _ in range(10):
            began = time.monotonic()
            facts = [Decision(stage="flag", what=str(n), value="yes" * 100, reason="because") for n in range(5)]
            version = context.commit("flag", facts)
            attempt = Attempt("run", "flag", f"job {version}", 1, "finished", 1.0, 2.0, "worker", "host", "e")
            write_attempts(context, [(attempt, {})], set())
            slowest, commits = max(slowest, time.monotonic() - began), commits + 1
print(json.dumps([commits, slowest]))
"""


def ask_until(done: threading.Event, server: Server, path: str) -> int:
    """Ask over and over; whatever is told is whole. Gives how often."""
    asked = 0
    while not done.is_set():
        version = server.json(f"{path}/facts?limit=1")["version"]
        before = max(0, version - 3)
        assert len(server.every(f"{path}/diff?before={before}&after={version}")) == 5 * (version - before)
        # The attempt of the newest version may not have been written yet; that of the one before has.
        jobs = [attempt["job"] for attempt in server.every(f"{path}/attempts?cursor={before}")]
        assert jobs == [f"job {number}" for number in range(before + 1, before + 1 + len(jobs))]
        assert len(jobs) >= version - before - 1
        asked += 1
    return asked


@pytest.mark.parametrize("filesystem", ["ext4", "nfs4"])
def test_a_store_is_read_while_it_is_written_and_neither_keeps_the_other_waiting(
    fresh: Fresh, filesystem: str
) -> None:
    server, path, done = fresh.server, fresh.path, threading.Event()
    fresh.folder.mkdir()
    writer = subprocess.Popen(
        [sys.executable, "-c", WRITER, fresh.folder / "context.db", "2", filesystem],
        stdout=subprocess.PIPE,
        text=True,
    )
    with ThreadPoolExecutor() as readers:
        try:
            wait_until(lambda: server.json(path)["version"] > 0, 10, "the store has begun")
            asking = [readers.submit(ask_until, done, server, path) for _ in range(2)]
            output, _ = writer.communicate(timeout=30)
        finally:
            done.set()
            writer.kill()
    commits, slowest = json.loads(output)
    assert min(one.result() for one in asking) > 1
    assert slowest < 1
    assert server.json(path)["version"] == commits
    assert len(server.every(f"{path}/facts?limit=1000")) == 5 * commits
