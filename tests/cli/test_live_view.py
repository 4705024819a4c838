"""What a user sees in a terminal while a session runs."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import cheap_stages
import queue_stages
from support import processes_in, surgeline, wait_until
from terminals import CTRL_C, Terminal, in_terminal

# Jobs that go on until a file appears, then a stage that waits for them.
STAGES = [
    {"task": "make"},
    {"task": "work", "name": "images", "arguments": {"jobs": 3, "go": "go"}},
    {"task": "total", "name": "sum of all"},
]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The stages as installed packages; gives their PYTHONPATH."""
    folder = tmp_path_factory.mktemp("plugins")
    cheap_stages.install(folder)
    queue_stages.install(folder)
    return str(folder)


@pytest.fixture
def session(tmp_path: Path, plugins: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command line of a session whose jobs run in its own process."""
    monkeypatch.setenv("PYTHONPATH", plugins)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "cheap", "stages": STAGES}))
    options = ("--set", "backend=serial", "--set", "session.weblog=false")
    return ["run", str(recipe), "--workdir", str(tmp_path / "session"), *options]


@pytest.fixture
def go(tmp_path: Path) -> Path:
    """What its jobs wait for."""
    (tmp_path / "session").mkdir()
    return tmp_path / "session" / "go"


def row(terminal: Terminal, stage: str) -> str:
    """The line of a stage as it is now."""
    return next(line for line in terminal.shown() if re.match(rf"\S+ +{stage}\b", line))


def test_stages_jobs_and_workers_are_shown_as_they_stand(session: list[str], tmp_path: Path) -> None:
    folder = tmp_path / "session"
    with in_terminal(*session, "--set", "backend=dask", "--set", "dask.n_workers=2") as terminal:
        terminal.wait_for("2 running, 1 waiting", "local: 2 there")
        assert re.match(r"✓ +make +finished +1/1 +[\d.]+ s", row(terminal, "make"))
        assert re.match(r"▶ +images +working +0/3 +[\d.]+ s +work \d, work \d$", row(terminal, "images"))
        assert re.match(r"· +sum of all +waiting +after images$", row(terminal, "sum of all"))
        # The same in another terminal, from what the session leaves in its folder.
        wait_until(lambda: "2 running" in surgeline("status", "-w", folder).stdout, 30, "jobs are told of")
        status = surgeline("status", "-w", folder).stdout
        assert f"running as process {terminal.process.pid} on " in status
        assert "local: 2 there" in status and "after images" in status
        # A job whose worker dies runs again.
        next(process for process in processes_in(folder) if process.pid != terminal.process.pid).kill()
        terminal.wait_for("1 worker died running a job", "1 worker lost", "died running 'work")
        # Another is about to start, or is in the midst of that.
        terminal.press(CTRL_C)
        # Once more, as impatient users do.
        terminal.press(CTRL_C)
        assert terminal.end() == 130
    text = "".join(terminal.shown())
    assert "Traceback" not in text
    assert f"surgeline resume --workdir {folder}" in text
    assert re.match("■ +images +interrupted", row(terminal, "images"))
    assert "3 stopped" in text and "failed" not in text
    assert not processes_in(folder)
    # It was written over, not again and again; the cursor is there again.
    assert sum("stage" in line and "state" in line for line in terminal.shown()) == 1
    assert terminal.written.rindex(b"\x1b[?25h") > terminal.written.rindex(b"\x1b[?25l")
    assert not (folder / "logs" / "now.json").exists()


def test_the_second_time_it_is_known_how_long_it_takes(session: list[str], go: Path) -> None:
    go.touch()
    with in_terminal(*session, NO_COLOR="1") as terminal:
        assert terminal.end() == 0
    assert "products:" in terminal.text() and "weblog:" in terminal.text()
    assert b"\x1b[2K" in terminal.written
    assert not re.search(rb"\x1b\[(\d+;)*(3|4|9)\dm", terminal.written)
    go.unlink()
    # In a small window.
    with in_terminal(*session, "--from", "images", columns=60, lines=11) as terminal:
        terminal.wait_for("left     about", "1 running, 2 waiting", "finished before")
        go.touch()
        assert terminal.end() == 0
    assert b"\x1b[32m" in terminal.written
    assert "left " not in terminal.text()


def test_a_dumb_terminal_gets_lines(session: list[str], go: Path) -> None:
    go.touch()
    with in_terminal(*session, TERM="dumb") as terminal:
        assert terminal.end() == 0
    assert b"\x1b" not in terminal.written
    assert "images: finished after" in terminal.text()


def test_a_session_ends_with_its_terminal(session: list[str], tmp_path: Path, go: Path) -> None:
    with in_terminal(*session) as terminal:
        terminal.wait_for("1 running, 2 waiting")
        # Of a command that waits, the user may have enough.
        with in_terminal("logs", "images", "--follow", "--workdir", go.parent) as other:
            # Whatever it has just begun to load.
            wait_until(lambda: "_yaml" in Path(f"/proc/{other.process.pid}/maps").read_text(), 30, "it loads")
            # What is being loaded may swallow the first.
            wait_until(lambda: other.press(CTRL_C) or other.process.poll() is not None, 60, "it ends")
            assert other.end() == 130
            assert "Traceback" not in other.text()
        terminal.close()
        assert terminal.process.wait(60) == 128 + signal.SIGHUP
    assert json.loads((tmp_path / "session" / "run.json").read_text())["state"] == "interrupted"


def test_a_reader_that_goes_away_does_not_end_a_session(session: list[str], go: Path) -> None:
    go.touch()
    for more in ([], ["--json", "--from", "make"]):
        command = [sys.executable, "-m", "surgeline.cli", *session, *more]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            assert process.stdout is not None and process.stderr is not None
            process.stdout.readline()
            process.stdout.close()
            assert process.wait(120) == 0, process.stderr.read()
        assert json.loads((go.parent / "run.json").read_text())["state"] == "finished"
