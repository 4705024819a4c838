"""Sessions that Prefect orchestrates, on real servers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

import cheap_stages
from support import wait_until
from surgeline.config import load
from surgeline.errors import ConfigError
from surgeline.workflow import prefect as orchestration
from surgeline.workflow import recipe as recipes
from surgeline.workflow.prefect_server import EmbeddedServer
from surgeline.workflow.session import Session

httpx = pytest.importorskip("httpx", reason="Prefect is not installed: pip install 'surgeline[prefect]'")
pytest.importorskip("prefect", reason="Prefect is not installed: pip install 'surgeline[prefect]'")
pytestmark = pytest.mark.prefect

STAGES: list[dict[str, Any]] = [
    {"task": "make"},
    {"task": "change", "arguments": {"by": 2}},
    {"task": "total"},
]
# A server on a machine that has other things to do.
START_SECONDS = 180.0


class User:
    """Somebody with a recipe of cheap stages and a working folder."""

    def __init__(self, folder: Path, plugins: str, api_url: str | None) -> None:
        self.folder = folder
        self.workdir = folder / "session"
        self._environment = {**os.environ, "PYTHONPATH": plugins, "HOME": str(folder / "home")}
        self._environment.pop("PREFECT_API_URL", None)
        if api_url is not None:
            self._environment["PREFECT_API_URL"] = api_url
        (folder / "home").mkdir()

    def starts(
        self, stages: list[dict[str, Any]], *settings: str, workdir: Path | None = None, **environment: str
    ) -> subprocess.Popen[str]:
        """Begin a session, or go on with it."""
        recipe = self.folder / "cheap.yaml"
        recipe.write_text(yaml.safe_dump({"name": "cheap", "stages": stages}))
        overrides = ["backend=serial", f"prefect.start_timeout={START_SECONDS}", *settings]
        return subprocess.Popen(
            [
                *(sys.executable, "-m", "surgeline.cli", "run", recipe, "--workdir", workdir or self.workdir),
                *(part for text in overrides for part in ("--set", text)),
            ],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**self._environment, **environment},
        )

    def runs(self, stages: list[dict[str, Any]], *settings: str, **options: Any) -> tuple[int, str]:
        """Run a session to its end; gives its exit code and what it said."""
        process = self.starts(stages, "orchestrator=prefect", *settings, **options)
        output, _ = process.communicate(timeout=300)
        return process.returncode, output

    @property
    def flow_run(self) -> str:
        """What Prefect knows the session by."""
        found: str = json.loads((self.workdir / "flow_run.json").read_text())["flow_run"]
        return found

    @property
    def record(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.workdir / "run.json").read_text())
        return found


class Api:
    """What a Prefect server says of a flow run."""

    def __init__(self, url: str) -> None:
        self.url = url

    def flow_run(self, identifier: str) -> dict[str, Any]:
        found: dict[str, Any] = httpx.get(f"{self.url}/flow_runs/{identifier}", trust_env=False).json()
        return found

    def of(self, what: str, identifier: str) -> list[dict[str, Any]]:
        """Its task runs, artifacts or states of a kind."""
        asked = {"flow_runs": {"id": {"any_": [identifier]}}}
        found: list[dict[str, Any]] = httpx.post(f"{self.url}/{what}/filter", json=asked, trust_env=False).json()
        return found

    def task_runs(self, identifier: str) -> dict[str, dict[str, Any]]:
        """By their names."""
        return {run["name"]: run for run in self.of("task_runs", identifier)}

    def states(self, identifier: str) -> list[str]:
        """The names of a flow run's states, in order."""
        asked = {"flow_run_id": identifier}
        found = httpx.get(f"{self.url}/flow_run_states/", params=asked, trust_env=False).json()
        return [state["name"] for state in sorted(found, key=lambda state: str(state["timestamp"]))]

    def logs(self, identifier: str) -> list[str]:
        """The messages of its log."""
        asked = {"logs": {"flow_run_id": {"any_": [identifier]}}}
        return [
            entry["message"] for entry in httpx.post(f"{self.url}/logs/filter", json=asked, trust_env=False).json()
        ]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cheap stages as an installed package; gives its PYTHONPATH."""
    folder = tmp_path_factory.mktemp("plugins")
    cheap_stages.install(folder)
    return str(folder)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """A server for all tests that do not mind which."""
    folder = tmp_path_factory.mktemp("prefect")
    with EmbeddedServer(folder / "home", folder / "log", START_SECONDS) as server:
        yield Api(server.api_url)


@pytest.fixture
def user(tmp_path: Path, plugins: str, api: Api) -> User:
    return User(tmp_path, plugins, api.url)


@pytest.fixture
def user_without_server(tmp_path: Path, plugins: str) -> User:
    return User(tmp_path, plugins, None)


def facts(workdir: Path) -> list[tuple[str, str, str]]:
    """What holds at the end, as anybody can read it."""
    with closing(sqlite3.connect(workdir / "context.db")) as database:
        return database.execute("SELECT stage, kind, body FROM current_facts ORDER BY stage, kind, body").fetchall()


def said(process: subprocess.Popen[str], words: str) -> Callable[[], bool]:
    """Whether a session has said something by now."""
    assert process.stdout is not None
    stdout = process.stdout

    def so_far() -> bool:
        line = stdout.readline()
        assert line or process.poll() is None, f"it ended without saying {words!r}"
        return words in line

    return so_far


def test_a_session_is_a_flow_with_a_task_run_for_each_stage_and_finds_out_the_same(user: User, api: Api) -> None:
    code, output = user.runs(STAGES, "prefect.jobs_as_tasks=2")
    assert code == 0, output
    alone = user.starts(STAGES, workdir=user.folder / "alone")
    assert alone.communicate(timeout=60) and alone.returncode == 0
    assert facts(user.workdir) == facts(user.folder / "alone") != []
    products = [(folder / "products" / "total.json").read_text() for folder in (user.workdir, user.folder / "alone")]
    assert products[0] == products[1]

    flow_run = api.flow_run(user.flow_run)
    assert (flow_run["name"], flow_run["state_name"]) == ("session", "Completed")
    assert set(flow_run["tags"]) == {"surgeline", "cheap"}
    assert flow_run["parameters"] == {"recipe": "cheap", "vis": [], "workdir": str(user.workdir)}
    runs = api.task_runs(user.flow_run)
    stages = {name: runs[name] for name in ("make", "change", "total") if "stage" in runs[name]["tags"]}
    assert [run["state_name"] for run in stages.values()] == ["Completed"] * len(stages)
    (needed,) = runs["total"]["task_inputs"]["wait_for"]
    assert needed["id"] == runs["change"]["id"]
    # The first two of four: keeping the data as they were, and a change.
    jobs = [run for run in api.of("task_runs", user.flow_run) if "job" in run["tags"] and "change" in run["tags"]]
    assert [run["name"] for run in sorted(jobs, key=lambda run: str(run["start_time"]))] == [
        "keep data/numbers.json as it is",
        "change 0",
    ]
    assert {run["state_name"] for run in jobs} == {"Completed"}
    shown = {artifact["key"]: artifact for artifact in api.of("artifacts", user.flow_run)}
    assert json.loads(shown["cheap-total-facts"]["data"])[0]["fact"] == "cheap.Total"
    assert len(json.loads(shown["cheap-change-jobs"]["data"])) == 4
    assert shown["cheap-change-progress"]["data"] == 100
    assert shown["cheap-progress"]["description"] == "3 of 3 stages"
    assert "by = 2" in shown["cheap-change-summary"]["data"]
    assert str(user.workdir / "weblog" / "index.html") in shown["cheap-weblog"]["data"]
    # Prefect writes log lines some time after it was given them.
    wait_until(
        lambda: any("starting this process" in message for message in api.logs(user.flow_run)),
        60,
        "the session's log is there",
    )


def test_a_stage_that_fails_is_shown_so_and_a_session_that_goes_on_is_the_same_run_tried_again(
    user: User, api: Api
) -> None:
    wrong = [*STAGES[:2], {"task": "total", "arguments": {"output": "nowhere/total.json"}}]
    code, output = user.runs(wrong)
    assert code == 7, output
    failed = api.task_runs(user.flow_run)["total"]
    assert failed["state_name"] == "Failed"
    assert "stage 'total': job 'sum up' failed" in failed["state"]["message"]
    assert "stage 'total': job 'sum up' failed" in api.flow_run(user.flow_run)["state"]["message"]
    assert api.flow_run(user.flow_run)["state_name"] == "Failed"
    first = user.flow_run
    code, output = user.runs(STAGES)
    assert code == 0, output
    assert user.flow_run == first
    assert api.states(first) == ["Pending", "Running", "Failed", "AwaitingRetry", "Running", "Completed"]
    # What had finished has not been run again.
    names = [run["name"] for run in api.of("task_runs", first) if "stage" in run["tags"]]
    assert sorted(names) == ["change", "make", "total", "total"]


def test_to_cancel_in_prefect_is_to_cancel_the_session(user: User, api: Api) -> None:
    slow = [STAGES[0], {"task": "change", "arguments": {"pause": 300.0}}]
    process = user.starts(slow, "orchestrator=prefect", "backend=dask", "dask.n_workers=1")
    wait_until(said(process, "change: began"), 120, "the second stage begins")
    httpx.post(
        f"{api.url}/flow_runs/{user.flow_run}/set_state",
        json={"state": {"type": "CANCELLING", "name": "Cancelling"}},
        trust_env=False,
    ).raise_for_status()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 130, output
    assert "cancelled in Prefect" in output
    assert api.flow_run(user.flow_run)["state_name"] == "Cancelled"
    wait_until(lambda: api.task_runs(user.flow_run)["change"]["state_name"] == "Cancelled", 30, "so is its stage")
    assert user.record["state"] == "interrupted"
    assert [stage["state"] for stage in user.record["stages"]] == ["finished", "interrupted"]


def test_a_session_that_is_told_to_end_is_cancelled_in_prefect(user: User, api: Api) -> None:
    process = user.starts([STAGES[0], {"task": "change", "arguments": {"pause": 300.0}}], "orchestrator=prefect")
    wait_until(said(process, "change: began"), 120, "the second stage begins")
    process.terminate()
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 128 + signal.SIGTERM, output
    assert api.flow_run(user.flow_run)["state"]["message"] == "stopped by SIGTERM"
    assert api.flow_run(user.flow_run)["state_name"] == "Cancelled"


def task_states(user: User) -> list[tuple[str, str]]:
    """The names and states of all task runs, as the session's own server keeps them."""
    with closing(sqlite3.connect(user.workdir / "prefect" / "prefect.db")) as database:
        return database.execute("SELECT name, state_name FROM task_run ORDER BY expected_start_time").fetchall()


def test_a_server_of_the_sessions_own_ends_with_it_and_knows_it_when_it_goes_on(user_without_server: User) -> None:
    user = user_without_server
    slow = [STAGES[0], {"task": "change", "arguments": {"pause": 300.0}}]
    # As where a proxy is needed for everything else.
    process = user.starts(slow, "orchestrator=prefect", HTTP_PROXY="http://127.0.0.1:9")
    wait_until(said(process, "change: began"), START_SECONDS, "the second stage begins")
    wait_until(lambda: ("change", "Running") in task_states(user), 30, "Prefect knows it")
    servers = [child for child in psutil.Process(process.pid).children() if "prefect_server" in str(child.cmdline())]
    assert len(servers) == 1
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, left = psutil.wait_procs(servers, timeout=20)
    assert left == []
    code, output = user.runs(STAGES)
    assert code == 0, output
    assert "1 of 3 stages had finished before" in output
    with closing(sqlite3.connect(user.workdir / "prefect" / "prefect.db")) as database:
        assert database.execute("SELECT state_name, run_count FROM flow_run").fetchall() == [("Completed", 2)]
    states = task_states(user)
    # Of the stage in which the session was killed nobody could tell Prefect.
    assert states == [("make", "Completed"), ("change", "Running"), ("change", "Completed"), ("total", "Completed")]
    assert list((user.folder / "home" / ".prefect").glob("*")) == []


def test_a_server_of_the_sessions_own_that_is_killed_costs_nothing_but_what_prefect_knows(
    user_without_server: User,
) -> None:
    user = user_without_server
    temporary = user.folder / "temporary"
    temporary.mkdir()
    process = user.starts(
        [STAGES[0], {"task": "change", "arguments": {"pause": 2.0}}], "orchestrator=prefect", TMPDIR=str(temporary)
    )
    wait_until(said(process, "change: began"), START_SECONDS, "the second stage begins")
    (server,) = [
        child for child in psutil.Process(process.pid).children() if "prefect_server" in str(child.cmdline())
    ]
    server.kill()
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    assert "Prefect was not told that the session has finished" in output
    # What Prefect could not send.
    assert "EventsWorker" not in output and "Unable to connect" not in output and "Error logging" not in output
    assert [path.name for path in temporary.iterdir() if path.name.startswith("surgeline-")] == []


def test_a_server_that_keeps_what_it_knows_in_postgresql(
    tmp_path: Path, plugins: str, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = postgresql_url.replace("+psycopg", "+asyncpg")
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", database)
    with EmbeddedServer(tmp_path / "prefect", tmp_path / "log", START_SECONDS) as server:
        api, user = Api(server.api_url), User(tmp_path, plugins, server.api_url)
        code, output = user.runs(STAGES, "prefect.jobs_as_tasks=10")
        assert code == 0, output
        assert api.flow_run(user.flow_run)["state_name"] == "Completed"
        wait_until(lambda: len(api.of("task_runs", user.flow_run)) == 9, 30, "three stages and six jobs are known")
    assert not (tmp_path / "prefect" / "prefect.db").exists()


def test_a_server_that_does_not_answer_is_told(tmp_path: Path, plugins: str) -> None:
    code, output = User(tmp_path, plugins, "http://127.0.0.1:9/api").runs(STAGES)
    assert code == 8
    for told in ("http://127.0.0.1:9/api", "does not answer", "PREFECT_API_URL"):
        assert told in output
    assert "Traceback" not in output


def test_without_prefect_installed_the_way_out_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(orchestration, "find_spec", lambda _: None)
    recipe = recipes.parse({"name": "none", "stages": [{"task": "export"}]}, "here")
    with pytest.raises(ConfigError, match=r"surgeline\[prefect\]"):
        Session(recipe, tmp_path / "session", load(overrides=["orchestrator=prefect"]))
    assert not (tmp_path / "session").exists()
