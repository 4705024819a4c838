"""Ending sessions from outside, those without a queue, too."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

import queue_stages
from support import processes_in, start_surgeline, surgeline, wait_until
from surgeline.errors import WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.workflow.cancelling import cancel_session
from surgeline.workflow.workfolder import WorkfolderLock


@pytest.fixture
def recipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of a stage that never ends."""
    queue_stages.install(tmp_path / "plugins")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "plugins"))
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump({"stages": [{"task": "work", "arguments": {"jobs": 2, "go": "never"}}]}))
    return path


@pytest.mark.parametrize("backend", ["dask", "serial"])
def test_a_session_on_this_machine_is_ended_with_its_workers(recipe: Path, tmp_path: Path, backend: str) -> None:
    workdir = tmp_path / "session"
    settings = ["--set", f"backend={backend}", "--set", "dask.n_workers=2"]
    session = start_surgeline("run", recipe, "--workdir", workdir, *settings)
    wait_until(lambda: any(workdir.glob("runs/*")), 60, "a job runs")
    done = surgeline("cancel", "--workdir", workdir)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"session of process {session.pid} is told to end\n"
    output, _ = session.communicate(timeout=30)
    assert session.returncode == 128 + signal.SIGTERM, output
    assert json.loads((workdir / "run.json").read_text())["state"] == "interrupted"
    assert not processes_in(workdir)


@pytest.fixture
def held(tmp_path: Path) -> Iterator[SessionPaths]:
    """A working folder that is held."""
    paths = SessionPaths(tmp_path)
    lock = WorkfolderLock(paths)
    yield paths
    lock.release()


@pytest.mark.parametrize(
    ("holder", "words"),
    [
        ({"process": 12, "host": "node17", "since": 0.0}, "runs on node17, as process 12"),
        # Not the one that took it: that has ended, and another has its number.
        ({"process": 1, "host": socket.gethostname(), "since": 0.0}, "held by a process that cannot be found"),
        ({"process": 2**22 + 1, "host": socket.gethostname(), "since": time.time()}, "that cannot be found"),
        ({}, "that cannot be found"),
    ],
)
def test_who_cannot_be_told_to_end_is_told_of(held: SessionPaths, holder: dict[str, object], words: str) -> None:
    held.lock.write_text(json.dumps(holder))
    with pytest.raises(WorkfolderError, match=words):
        cancel_session(held, print)


def test_where_no_session_is_there_is_none_to_cancel(tmp_path: Path) -> None:
    done = surgeline("cancel", "--workdir", tmp_path)
    assert done.returncode == 6
    assert "holds no session" in done.stderr
    assert list(tmp_path.iterdir()) == []
