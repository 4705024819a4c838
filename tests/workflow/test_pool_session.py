"""Sessions of which a stage runs as flow runs of a real work pool: what a user sees, and what is left."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import pytest
import yaml

pytest.importorskip("prefect", reason="Prefect is not installed: pip install 'surgeline[prefect]'")

import cheap_stages
from support import wait_until
from workpools import Pools, prefect_server, record_of, worker_processes

pytestmark = pytest.mark.prefect
SETTINGS = ("type=prefect", "work_pool=quick", "memory=500MB", "maximum=2", "poll=0.5", "idle_seconds=2")


class User:
    """Somebody with a recipe whose second stage runs on the work pool."""

    def __init__(self, folder: Path, pools: Pools, plugins: Path) -> None:
        self.folder = folder
        self.pools = pools
        self.workdir = folder / "session"
        home = folder / "home"
        home.mkdir()
        self.environment = {
            **os.environ,
            "PYTHONPATH": str(plugins),
            "HOME": str(home),
            "PREFECT_API_URL": pools.url,
            "PREFECT_HOME": str(home / "prefect"),
        }

    def starts(self, workdir: Path, cluster: str, **of_change: Any) -> subprocess.Popen[str]:
        """Start a session."""
        stages = [
            {"task": "make"},
            {"task": "change", "cluster": cluster, "arguments": of_change},
            {"task": "total"},
        ]
        recipe = self.folder / "recipe.yaml"
        recipe.write_text(yaml.safe_dump({"name": "pooled", "stages": stages}))
        settings = ["dask.n_workers=1", *(f"clusters.pool.{text}" for text in SETTINGS)]
        return self.calls("run", recipe, workdir, *settings)

    def calls(self, command: str, recipe: Path | None, workdir: Path, *settings: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "surgeline.cli", command, *([recipe] if recipe else [])),
                *("--workdir", workdir),
                *(word for text in settings for word in ("--set", text)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=self.environment,
        )

    def runs(self, workdir: Path, cluster: str, **of_change: Any) -> tuple[int, str]:
        """Run a session to its end; gives its exit code and what it said."""
        session = self.starts(workdir, cluster, **of_change)
        output, _ = session.communicate(timeout=300)
        return session.returncode, output

    def begun(self) -> subprocess.Popen[str]:
        """A session whose second stage runs, and would for long."""
        session = self.starts(self.workdir, "pool", pause=300)
        numbers = self.workdir / "data" / "numbers.json"

        def a_job_runs() -> bool:
            assert session.poll() is None, "the session has ended"
            return numbers.exists() and json.loads(numbers.read_text() or "[0]")[0] != 0

        try:
            wait_until(a_job_runs, 120, "a job runs")
        except AssertionError as error:
            session.kill()
            output, _ = session.communicate()
            states = [(run["name"], run["state"]["name"], run["state"]["message"]) for run in self.pools.flow_runs()]
            raise AssertionError(f"{error}; it said:\n{output}\nflow runs: {states}") from error
        return session


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    cheap_stages.install(folder)
    return folder


@pytest.fixture(scope="module")
def pools(tmp_path_factory: pytest.TempPathFactory, plugins: Path) -> Iterator[Pools]:
    with prefect_server(tmp_path_factory.mktemp("prefect")) as found:
        found.make("quick")
        with found.worker("quick", PYTHONPATH=str(plugins)):
            yield found


@pytest.fixture
def user(tmp_path: Path, pools: Pools, plugins: Path) -> User:
    return User(tmp_path, pools, plugins)


def facts(workdir: Path) -> tuple[dict[str, Any], str]:
    """How each stage ended, and the product of the last."""
    ended = {stage["name"]: stage["state"] for stage in record_of(workdir)["stages"]}
    return ended, (workdir / "products" / "total.json").read_text()


def test_a_stage_on_a_work_pool_gives_what_it_gives_elsewhere(user: User, pools: Pools) -> None:
    code, output = user.runs(user.workdir, "pool")
    assert code == 0, output
    code, output = user.runs(user.folder / "here", "local")
    assert code == 0, output
    assert facts(user.workdir) == facts(user.folder / "here")
    assert record_of(user.workdir)["accounts"]["stages"]["change"]["workers"] > 0
    assert pools.nothing_is_left()


def test_a_job_that_raises_fails_its_stage_with_its_error(user: User, pools: Pools) -> None:
    code, output = user.runs(user.workdir, "pool", pause=-1)
    assert code != 0
    assert "sleep length must be non-negative" in output
    assert pools.nothing_is_left()


def test_a_server_that_has_no_time_is_asked_again(user: User, pools: Pools) -> None:
    """Its database is kept from being written to until the session has met that."""
    with closing(sqlite3.connect(pools.folder / "home" / "prefect.db", timeout=60, isolation_level=None)) as database:
        database.execute("BEGIN IMMEDIATE")
        session = user.starts(user.workdir, "pool")
        assert session.stdout is not None
        output = "".join(takewhile(lambda line: "has no time" not in line, session.stdout))
        database.execute("ROLLBACK")
    rest, _ = session.communicate(timeout=300)
    assert session.returncode == 0, output + rest
    assert pools.nothing_is_left()


def test_a_session_that_is_killed_leaves_nothing(user: User, pools: Pools) -> None:
    session = user.begun()
    [flow_run] = [run["id"] for run in pools.flow_runs("RUNNING")]
    session.kill()
    session.communicate()
    wait_until(lambda: not worker_processes(flow_run), 60, "no process is left")
    wait_until(pools.nothing_is_left, 60, "nothing is left in Prefect")


def test_a_session_is_cancelled_from_outside(user: User, pools: Pools) -> None:
    session = user.begun()
    cancel = user.calls("cancel", None, user.workdir)
    output, _ = cancel.communicate(timeout=120)
    assert cancel.returncode == 0, output
    assert session.wait(60) == 128 + signal.SIGTERM
    session.communicate()
    assert pools.nothing_is_left()
    assert not pools.processes()
