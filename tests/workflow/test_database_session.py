"""Sessions whose context is in a PostgreSQL database."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import yaml

import cheap_stages
from services.postgresql import PASSWORD, PostgreSQL
from support import wait_until
from surgeline.context.attempts import read_attempts
from surgeline.context.store import Context


@pytest.fixture
def plugins(tmp_path: Path) -> str:
    """The cheap stages as an installed package; gives its PYTHONPATH."""
    cheap_stages.install(tmp_path / "plugins")
    return str(tmp_path / "plugins")


def start(
    folder: Path,
    workdir: Path,
    url: str,
    plugins: str,
    pause: float = 0.0,
    patience: float = 60,
    name: str = "cheap",
) -> subprocess.Popen[str]:
    recipe = folder / "cheap.yaml"
    stages = [{"task": "make"}, {"task": "change", "arguments": {"pause": pause}}, {"task": "total"}]
    recipe.write_text(yaml.safe_dump({"name": name, "stages": stages}))
    command = [sys.executable, "-m", "surgeline.cli", "run", str(recipe), "--workdir", str(workdir)]
    return subprocess.Popen(
        [*command, "--set", "backend=serial", "--set", f"context.url={url}", "--set", f"context.patience={patience}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "PYTHONPATH": plugins},
    )


def identifier(workdir: Path) -> str:
    return (workdir / "context.id").read_text().strip()


def test_one_database_serves_several_sessions(tmp_path: Path, plugins: str, postgresql_url: str) -> None:
    workdirs = [tmp_path / name for name in ("one", "two")]
    both = [start(tmp_path, workdir, postgresql_url, plugins) for workdir in workdirs]
    assert [process.wait(60) for process in both] == [0, 0]
    assert not (workdirs[0] / "context.db").exists()
    for workdir in workdirs:
        with closing(Context(postgresql_url, identifier(workdir), read_only=True)) as context:
            assert context.stages() == ["make", "change", "total"]
            total = context.last(cheap_stages.Total)
            assert total is not None
            assert total.total == json.loads((workdir / "products" / "total.json").read_text())
            assert {attempt.stage for attempt in read_attempts(context)} == {"make", "change", "total"}
    again = start(tmp_path, workdirs[0], postgresql_url, plugins)
    assert "3 of 3 stages had finished before" in again.communicate()[0]
    other = start(tmp_path, workdirs[0], postgresql_url, plugins, name="other")
    output, _ = other.communicate()
    assert other.returncode == 6
    assert "already holds a session of another recipe" in output


@pytest.mark.parametrize("mode", ["fast", "immediate"])
def test_a_database_that_goes_away_for_a_while_holds_a_session_up_and_no_more(
    tmp_path: Path, plugins: str, postgresql: PostgreSQL, postgresql_url: str, mode: str
) -> None:
    workdir = tmp_path / "session"
    process = start(tmp_path, workdir, postgresql_url, plugins, pause=0.5)
    output: list[str] = []
    assert process.stdout is not None

    def said(words: str) -> bool:
        output.append(process.stdout.readline())  # type: ignore[union-attr]
        return words in output[-1]

    wait_until(lambda: said("change: began"), 60, "the second stage begins")
    postgresql.stop(mode)  # type: ignore[arg-type]
    try:
        wait_until(lambda: said("waiting for the database"), 60, "the session says that it waits")
    finally:
        postgresql.start()
    rest, _ = process.communicate(timeout=60)
    assert process.returncode == 0, "".join(output) + rest
    assert "the database is back" in rest
    with closing(Context(postgresql_url, identifier(workdir), read_only=True)) as context:
        assert context.stages() == ["make", "change", "total"]
        jobs = [attempt.job for attempt in read_attempts(context)]
        # Nothing is recorded twice, whatever the database had heard of before it went away.
        assert sorted(jobs) == sorted(set(jobs))


def test_a_session_that_waits_for_its_database_can_be_stopped(
    tmp_path: Path, plugins: str, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    process = start(tmp_path, tmp_path / "session", postgresql_url, plugins, pause=0.5, patience=600)
    assert process.stdout is not None
    stdout = process.stdout
    wait_until(lambda: "change: began" in stdout.readline(), 60, "the second stage begins")
    postgresql.stop()
    try:
        wait_until(lambda: "waiting for the database" in stdout.readline(), 60, "the session says that it waits")
        process.terminate()
        process.communicate(timeout=30)
    finally:
        postgresql.start()
    assert process.returncode == 143
    resumed = start(tmp_path, tmp_path / "session", postgresql_url, plugins, pause=0.5)
    output, _ = resumed.communicate(timeout=60)
    assert resumed.returncode == 0, output


def test_a_database_that_does_not_come_back_ends_the_session_with_a_way_out(
    tmp_path: Path, plugins: str, postgresql: PostgreSQL, postgresql_url: str
) -> None:
    nobody_there = postgresql_url.replace(f":{postgresql.port}/", ":1/")
    process = start(tmp_path, tmp_path / "session", nobody_there, plugins, patience=0.5)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 9
    for told in ("cannot be reached", "context.url"):
        assert told in output
    for kept_quiet in ("Traceback", PASSWORD):
        assert kept_quiet not in output
