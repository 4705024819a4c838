"""Commands that look at sessions, their events for machines, and what is said of what cannot be."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

import cheap_stages
from support import ordinary_user, surgeline, wait_until
from surgeline.config import load
from surgeline.errors import ConfigError, WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.workflow.cancelling import cancel_session
from surgeline.workflow.events import json_schema
from surgeline.workflow.joblogs import Asked, log_lines
from surgeline.workflow.reporting import make_report
from surgeline.workflow.status import status_of

STAGES: list[dict[str, Any]] = [
    {"task": "make"},
    {"task": "change", "name": "first change", "arguments": {"jobs": 2}},
    {"task": "total", "name": "broken", "arguments": {"output": "nowhere/total.json"}, "needs": ["make"]},
    {"task": "total", "needs": ["first change", "broken"]},
]


class Run:
    """A session that failed in one of its stages, and what its command told."""

    def __init__(self, folder: Path) -> None:
        cheap_stages.install(folder / "plugins")
        self.environment = {"PYTHONPATH": str(folder / "plugins"), "XDG_CACHE_HOME": str(folder / "cache")}
        self.recipe = folder / "recipe.yaml"
        self.recipe.write_text(yaml.safe_dump({"name": "cheap", "stages": STAGES}))
        self.workdir = folder / "session"
        self.done = self("run", self.recipe, "--json", "--set", "backend=serial")
        self.events = [json.loads(line) for line in self.done.stdout.splitlines()]

    def __call__(self, *arguments: str | Path, workdir: Path | None = None) -> subprocess.CompletedProcess[str]:
        return surgeline(*arguments, "--workdir", workdir or self.workdir, **self.environment)

    def of(self, kind: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["event"] == kind]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return Run(tmp_path_factory.mktemp("run"))


# Events


def test_every_line_is_an_event_as_documented(run: Run) -> None:
    validator = Draft202012Validator(json_schema())
    for event in run.events:
        validator.validate(event)
    times = [event["time"] for event in run.events]
    assert times == sorted(times)


def test_events_tell_the_session_from_its_beginning_to_its_end(run: Run) -> None:
    begun, ended = run.of("session")
    assert run.events[0] == begun
    assert (begun["state"], begun["recipe"], begun["workdir"]) == ("running", "cheap", str(run.workdir))
    assert begun["stages"] == ["make", "first change", "broken", "total"]
    assert ended["state"] == "failed" and ended["seconds"] > 0
    stages = [(event["name"], event["state"]) for event in run.of("stage")]
    assert stages[:2] == [("make", "running"), ("make", "finished")]
    assert Counter(stages)[("broken", "failed")] == 1
    assert not any(name == "total" for name, _ in stages)
    jobs: dict[str, list[str]] = {}
    for event in run.of("job"):
        jobs.setdefault(event["job"], []).append(event["state"])
    assert all(states[0] == "waiting" and states[-1] in ("finished", "failed") for states in jobs.values())
    make = next(event for event in run.of("job") if event["name"] == "make" and event["state"] == "finished")
    assert make["resources"]["cores"] == 1 and make["seconds"] >= 0 and make["worker"] == "session"


def test_the_last_event_is_the_error_with_its_way_out(run: Run) -> None:
    assert run.done.returncode == 7
    error = run.events[-1]
    assert (error["event"], error["kind"], error["exit_code"]) == ("error", "JobFailed", 7)
    assert "stage 'broken'" in error["message"] and "surgeline resume" in error["way_out"]
    # For people it is on standard error, as always.
    assert run.done.stderr.startswith(f"surgeline: {error['message']}")


def test_a_wrong_command_line_is_an_event_too(tmp_path: Path) -> None:
    for arguments, code in ((("run", "nosuch", "--json"), 4), (("run", "--jsn", "--json"), 2)):
        done = surgeline(*arguments)
        (event,) = map(json.loads, done.stdout.splitlines())
        assert (event["event"], event["exit_code"], done.returncode) == ("error", code, code)
        assert event["way_out"]


# How it stands, and its logs


def test_status_tells_what_failed_and_what_waits_for_it(run: Run) -> None:
    told = run("status").stdout
    assert told.splitlines()[0] == f"cheap in {run.workdir}"
    assert "failed, " in told and f"surgeline resume --workdir {run.workdir}" in told
    lines = {line.split()[1]: line for line in told.splitlines() if len(line.split()) > 2}
    assert "finished" in lines["make"] and "1/1" in lines["make"]
    assert "failed" in lines["broken"]
    assert re.search(r"waiting +after broken$", lines["total"])
    assert "broken: sum up on session" in told
    # The command that it proposes shows why.
    proposed = next(line for line in told.splitlines() if "surgeline logs" in line).partition(": ")[2]
    shown = surgeline(*shlex.split(proposed)[1:])
    assert "==> sum up (failed)" in shown.stdout and "No such file or directory: 'nowhere/total.json'" in shown.stdout


def test_status_for_machines(run: Run) -> None:
    told = json.loads(run("status", "--json").stdout)
    assert told["session"]["state"] == "failed"
    assert {stage["name"]: stage["state"] for stage in told["session"]["stages"]} == {
        "make": "finished", "first change": "finished", "broken": "failed", "total": "waiting",
    }  # fmt: skip
    assert [job["stage"] for job in told["failed_jobs"]] == ["broken"]


def test_logs_of_a_stage_and_of_a_job(run: Run) -> None:
    log = run.workdir / "logs" / "casa-session.log"
    record = json.loads((run.workdir / "run.json").read_text())
    change = next(stage for stage in record["stages"] if stage["name"] == "first change")
    job = next(job for job in change["jobs"] if job["name"] == "change 1")
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job["started"]))
    earlier = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job["started"] - 100))
    before = log.read_text() if log.exists() else ""
    log.write_text(f"{earlier}\tINFO\ttclean\tlong ago\n{moment}\tINFO\ttclean\tjust then\n  and more of it\n")
    try:
        of_job = run("logs", "first change", "change 1").stdout
        assert "just then" in of_job and "  and more of it" in of_job and "long ago" not in of_job
        of_stage = run("logs", "first change").stdout
        headings = [line.split(" (")[0] for line in of_stage.splitlines() if line.startswith("==> change")]
        assert headings == ["==> change 0", "==> change 1"]
        # Of what has ended there is nothing to follow.
        assert run("logs", "first change", "--follow").stdout == of_stage
    finally:
        log.write_text(before)


def test_jobs_of_one_second_keep_to_themselves(run: Run, tmp_path: Path) -> None:
    folder = tmp_path / "session"
    shutil.copytree(run.workdir, folder)
    record = json.loads((folder / "run.json").read_text())
    job = next(stage for stage in record["stages"] if stage["name"] == "make")["jobs"][0]
    moment = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(job["started"]))

    def task(name: str) -> list[str]:
        signs = f"{moment}\tINFO\t{name}::::casa\t#####"
        return [
            signs,
            f"{signs} Begin Task: {name}",
            f"{moment}\tINFO\t{name}\tit works",
            f"{signs} End Task: {name}",
            signs,
        ]

    lines = [*task("flagdata"), *task("bandpass"), *task("gaincal")]
    (folder / "logs" / "casa-session.log").write_text("\n".join(lines) + "\n")
    job["log"] = [line for line in task("bandpass") if "Task" in line]
    (folder / "run.json").write_text(json.dumps(record))
    assert run("logs", "make", workdir=folder).stdout.splitlines()[1:-1] == task("bandpass")


def test_a_log_is_followed_until_the_stage_has_ended(run: Run, tmp_path: Path) -> None:
    stages = [{"task": "make"}, {"task": "total", "arguments": {"pause": 4}}]
    recipe, workdir = tmp_path / "slow.yaml", tmp_path / "slow"
    recipe.write_text(yaml.safe_dump({"name": "slow", "stages": stages}))
    environment = {**os.environ, **run.environment}
    command = [sys.executable, "-m", "surgeline.cli"]
    options = ["--workdir", str(workdir), "--set", "backend=serial", "--set", "session.weblog=false"]
    with subprocess.Popen(
        [*command, "run", str(recipe), *options], env=environment, stdout=subprocess.PIPE
    ) as session:
        record = workdir / "run.json"
        wait_until(lambda: record.exists() and '"running"' in record.read_text().split('"total"')[-1], 60, "it runs")
        follow = [*command, "logs", "total", "-f", "--workdir", str(workdir)]
        with subprocess.Popen(follow, env=environment, stdout=subprocess.PIPE, text=True) as following:
            line = time.strftime("%Y-%m-%d %H:%M:%S\tINFO\ttclean\t", time.gmtime()) + "a line while it runs\n"
            with (workdir / "logs" / "casa-session.log").open("a") as log:
                log.write(line)
            assert following.stdout is not None
            told = following.stdout.read()
        assert session.wait(60) == 0
    assert "session: " in told and "a line while it runs" in told
    assert told.splitlines()[-1] == "==> stage 'total' finished"


# The weblog


def test_the_weblog_is_made_anew_and_opened_where_there_is_a_screen(run: Run, tmp_path: Path) -> None:
    page = run.workdir / "weblog" / "index.html"
    page.unlink()
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o755)
    no_screen = dict.fromkeys(("DISPLAY", "WAYLAND_DISPLAY", "BROWSER"), "")
    done = surgeline("report", "--open", "--workdir", run.workdir, **{**run.environment, **no_screen})
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{page}\n" and page.is_file()
    assert "no browser here" in done.stderr
    done = surgeline(
        "report", "--open", "-w", run.workdir, **{**run.environment, **no_screen, "BROWSER": str(browser)}
    )
    assert done.returncode == 0 and not done.stderr
    wait_until(lambda: (tmp_path / "opened").exists(), 10, "the browser is started")
    assert (tmp_path / "opened").read_text() == f"{page.as_uri()}\n"


def test_two_sessions_are_compared(run: Run, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(run.workdir, other)
    done = run("report", "--compare", other)
    assert done.returncode == 0, done.stderr
    assert "cheap" in Path(done.stdout.strip()).read_text()


# What cannot be


REFUSED: list[tuple[list[str], int, str]] = [
    (["logs", "first chnge"], 2, "did you mean 'first change'"),
    (["logs", "first change", "change 7"], 2, "did you mean 'change"),
    (["report", "--compare", "/no/such/folder"], 6, "--workdir"),
]


@pytest.mark.parametrize(("arguments", "code", "said"), REFUSED, ids=lambda value: str(value))
def test_what_there_is_not_names_what_there_is(run: Run, arguments: list[str], code: int, said: str) -> None:
    done = run(*arguments)
    assert_refused(done, code, said)


@pytest.mark.parametrize("command", [["status"], ["logs", "make"], ["report"], ["cancel"], ["resume"]], ids=" ".join)
def test_a_folder_without_a_session_is_told_with_a_way_out(run: Run, tmp_path: Path, command: list[str]) -> None:
    assert_refused(run(*command, workdir=tmp_path), 6, "no session")
    missing = run(*command, workdir=tmp_path / "missing")
    assert_refused(missing, 6, "missing")
    if command == ["status"]:
        beside = run("status", workdir=run.workdir.parent)
        assert_refused(beside, 6, "sessions are in: ")
        assert str(os.path.relpath(run.workdir)) in beside.stderr


@pytest.mark.parametrize("command", [["status"], ["logs", "make"], ["report"]], ids=" ".join)
def test_a_damaged_record_is_told_with_a_way_out(run: Run, tmp_path: Path, command: list[str]) -> None:
    damaged = tmp_path / "damaged"
    shutil.copytree(run.workdir, damaged)
    (damaged / "run.json").write_text('{"stages": [')
    assert_refused(run(*command, workdir=damaged), 6, "surgeline resume")


def test_a_killed_session_is_not_said_to_run(run: Run, tmp_path: Path) -> None:
    killed = tmp_path / "killed"
    shutil.copytree(run.workdir, killed)
    record = json.loads((killed / "run.json").read_text())
    record["state"], record["stages"][3]["state"] = "running", "running"
    (killed / "run.json").write_text(json.dumps(record))
    told = run("status", workdir=killed).stdout
    assert "interrupted" in told and "surgeline resume" in told and "running as process" not in told
    assert "total" in run("logs", "total", "--follow", workdir=killed).stdout


def test_a_reader_that_goes_away_is_no_error(run: Run) -> None:
    command = f"{sys.executable} -m surgeline.cli status --workdir {run.workdir} | head -1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, env={**os.environ, **run.environment}
    )
    assert done.stderr == ""
    title, code = done.stdout.splitlines()
    assert title.startswith("cheap in ")
    assert code in ("0", "141")


def test_without_a_command_help_is_told() -> None:
    done = surgeline()
    assert done.returncode == 2
    assert done.stderr.startswith("Usage: surgeline") and "Exit codes:" in done.stderr


def assert_refused(done: subprocess.CompletedProcess[str], code: int, said: str) -> None:
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert done.stderr.startswith("surgeline: ") and said in done.stderr, done.stderr
    # The way out stands in a line of its own.
    assert done.stderr.count("\n") >= 2


def test_what_may_not_be_read_or_written_is_told_with_a_way_out(run: Run, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir="/var/tmp"))
    try:
        folder.chmod(0o755)
        shutil.copytree(run.workdir, folder / "of-somebody-else")
        # As a session with `session.private: false` has it.
        subprocess.run(["chmod", "-R", "go+rX", folder / "of-somebody-else"], check=True)
        shutil.copytree(run.workdir, folder / "closed" / "session")
        (folder / "closed").chmod(0o700)
        others, closed = (SessionPaths(folder / name) for name in ("of-somebody-else", "closed/session"))
        # What is imported while it runs is out of reach for somebody else, too.
        status_of(others)
        make_report(others)
        with ordinary_user():
            # Who may read may look.
            assert status_of(others).session.state == "failed"
            assert any("==> make" in line for line in log_lines(others, Asked("make")))
            refused: list[Callable[[], object]] = [
                lambda: make_report(others),
                lambda: cancel_session(others, print),
                lambda: status_of(closed),
                lambda: list(log_lines(closed, Asked("make"))),
                lambda: cancel_session(closed, print),
                lambda: load(closed.workdir),
            ]
            for ask in refused:
                with pytest.raises((WorkfolderError, ConfigError), match="Permission denied") as told:
                    ask()
                assert told.value.way_out
    finally:
        shutil.rmtree(folder)


# Completion


def completed(words: str, **environment: str) -> list[str]:
    """What bash is told to propose for the last word of a line."""
    line = f"surgeline {words}"
    done = surgeline(
        **{
            **environment,
            "_SURGELINE_COMPLETE": "complete_bash",
            "COMP_WORDS": line,
            "COMP_CWORD": str(len(line.split(" ")) - 1),
        }
    )
    return [line for line in done.stdout.split("\n") if line]


def test_tab_proposes_commands_recipes_stages_and_keys(run: Run) -> None:
    assert {"run", "resume", "report"} <= set(completed("r"))
    assert completed("run cali") == ["calimage"]
    assert "gaincal" in completed("run calimage --from ")
    stages = completed(f"logs --workdir {run.workdir} ")
    assert {"make", "broken"} <= {stage.strip('"') for stage in stages}
    assert completed(f"logs --workdir {run.workdir} broken ") == ["sum up"]
    assert "dask.n_workers=" in completed("run calimage --set dask.")
    assert "Image" in completed("context show Im")
    # Where nothing can be found out there is nothing to propose, and no error.
    assert completed("logs --workdir /no/such/folder ") == []


def test_completion_can_be_installed() -> None:
    done = surgeline("--show-completion", "bash")
    assert done.returncode == 0 and "_SURGELINE_COMPLETE=complete_bash" in done.stdout
