from __future__ import annotations

import json
import os
import random
import select
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
import yaml

import cheap_stages
from support import surgeline
from surgeline.context.records import Extension
from surgeline.context.store import Context

SEED = 20260
# Forks a session for each working folder that it is told, and tells its process and how it ended.
FORKING = """
import os, sys
from pathlib import Path
import casaconfig, casadata, dask.system, distributed.system, rich.console, sqlalchemy.dialects.sqlite
from surgeline.config import load
from surgeline.parallel import serial
from surgeline.workflow import recipe as recipes
from surgeline.workflow.session import Session

configuration = load(overrides=["backend=serial", "session.weblog=false"])
for line in sys.stdin:
    process = os.fork()
    if process == 0:
        with Session(recipes.load(sys.argv[1]), Path(line.strip()), configuration) as session:
            session.run()
        os._exit(0)
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""
KILLS = 50

STAGES: list[dict[str, Any]] = [
    {"task": "make"},
    {"task": "change", "name": "first change"},
    {"task": "total", "name": "first total", "arguments": {"output": "products/first.json"}},
    {"task": "change", "name": "second change", "arguments": {"by": 5}},
    {"task": "total", "name": "second total", "arguments": {"output": "products/second.json"}},
]


@pytest.fixture(scope="module")
def plugins(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The cheap stages as an installed package; gives its PYTHONPATH."""
    folder = tmp_path_factory.mktemp("plugins")
    cheap_stages.install(folder)
    return str(folder)


@pytest.fixture
def run(tmp_path: Path, plugins: str) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Writes a recipe of stages and runs it."""

    def running(
        stages: list[dict[str, Any]], *options: str, command: str = "run", workdir: str = "session"
    ) -> subprocess.CompletedProcess[str]:
        recipe = tmp_path / "cheap.yaml"
        recipe.write_text(yaml.safe_dump({"name": "cheap", "stages": stages}))
        return surgeline(
            command, recipe, "--workdir", tmp_path / workdir, "--set", "backend=serial", *options, PYTHONPATH=plugins
        )

    return running


def changed(position: int, **arguments: Any) -> list[dict[str, Any]]:
    """The stages, one with other arguments."""
    stages = [dict(stage) for stage in STAGES]
    stages[position] = {**stages[position], "arguments": {**stages[position].get("arguments", {}), **arguments}}
    return stages


def expected(first: int = 1, second: int = 5, count: int = 20) -> tuple[int, int]:
    """The two sums, computed otherwise."""
    numbers = list(range(count))
    sums = []
    for by in (first, second):
        for job in range(3):
            numbers = [3 * number + by + job for number in numbers]
        sums.append(sum(numbers))
    return sums[0], sums[1]


def totals(workdir: Path) -> tuple[int, int]:
    return tuple(json.loads((workdir / "products" / f"{name}.json").read_text()) for name in ("first", "second"))  # type: ignore[return-value]


def runs_again(output: str) -> list[str]:
    return [
        line.partition("] ")[2].partition(" runs again")[0] for line in output.splitlines() if " runs again: " in line
    ]


Run = Callable[..., subprocess.CompletedProcess[str]]


def test_what_has_not_changed_does_not_run_again(run: Run, tmp_path: Path) -> None:
    assert run(STAGES).returncode == 0
    again = run(STAGES)
    assert "5 of 5 stages had finished before" in again.stdout
    assert "began" not in again.stdout
    assert totals(tmp_path / "session") == expected()


def test_a_changed_argument_runs_its_stage_again_and_what_depends_on_it(run: Run, tmp_path: Path) -> None:
    run(STAGES)
    planned = run(changed(3, by=7), command="plan")
    assert "runs again: argument by: 5 → 7" in planned.stdout
    done = run(changed(3, by=7))
    assert runs_again(done.stdout) == ["second change", "second total"]
    assert totals(tmp_path / "session") == expected(second=7)
    with closing(Context(tmp_path / "session" / "context.db")) as context:
        # What was is not forgotten.
        before, now = (
            context.at(version).last(cheap_stages.Total, path="products/second.json") for version in (5, None)
        )
    assert (before and before.total, now and now.total) == (expected()[1], expected(second=7)[1])
    replaced = tmp_path / "session" / "replaced" / "5" / "products" / "second.json"
    assert json.loads(replaced.read_text()) == expected()[1]


def test_a_stage_that_only_reads_runs_again_on_the_data_as_it_had_found_them(run: Run, tmp_path: Path) -> None:
    run(STAGES)
    done = run(STAGES, "--force", "first total")
    assert runs_again(done.stdout) == ["first total", "second change", "second total"]
    assert "data/numbers.json is put back as it was before second change" in done.stdout
    assert totals(tmp_path / "session") == expected()


def test_everything_from_a_stage_on_can_be_asked_for(run: Run, tmp_path: Path) -> None:
    run(STAGES)
    done = run(STAGES, "--from", "second change")
    assert runs_again(done.stdout) == ["second change", "second total"]
    assert totals(tmp_path / "session") == expected()
    wrong = run(STAGES, "--from", "secnd change")
    assert wrong.returncode == 4
    assert "second change" in wrong.stderr


def test_a_new_and_a_removed_stage_concern_those_after_them(run: Run, tmp_path: Path) -> None:
    run(STAGES)
    more = [*STAGES[:3], {"task": "change", "name": "between", "arguments": {"jobs": 1}}, *STAGES[3:]]
    assert runs_again(run(more).stdout) == ["second change", "second total"]
    assert totals(tmp_path / "session") != expected()
    assert sorted(runs_again(run(STAGES).stdout)) == ["between", "second change", "second total"]
    assert totals(tmp_path / "session") == expected()


def test_what_had_finished_beside_a_stage_that_did_not_finish_is_kept(run: Run, tmp_path: Path) -> None:
    unfinished = {"task": "make", "name": "beside", "needs": [], "arguments": {"path": "later/numbers.json"}}
    stages = [unfinished, {"task": "make", "needs": []}]
    assert run(stages).returncode == 7
    (tmp_path / "session" / "later").mkdir()
    done = run(stages)
    assert done.returncode == 0, done.stderr
    assert "1 of 2 stages had finished before" in done.stdout and runs_again(done.stdout) == []


def test_what_is_not_kept_cannot_be_put_back_and_that_is_told_before_anything_is_touched(
    run: Run, tmp_path: Path
) -> None:
    run(STAGES, "--set", "session.keep_states=running")
    refused = run(changed(3, by=7))
    assert refused.returncode == 5
    assert "data/numbers.json is not kept as it was" in refused.stderr
    assert "--from" in refused.stderr
    assert totals(tmp_path / "session") == expected()
    again = run(changed(3, by=7), "--from", "make")
    assert again.returncode == 0, again.stderr
    assert totals(tmp_path / "session") == expected(second=7)


def test_a_copied_working_folder_leaves_the_original_alone(run: Run, tmp_path: Path) -> None:
    run(STAGES)
    subprocess.run(["cp", "-a", tmp_path / "session", tmp_path / "copy"], check=True)
    data = tmp_path / "session" / "data" / "numbers.json"
    before = (data.read_bytes(), data.stat().st_mtime_ns)
    assert run(changed(3, by=7), workdir="copy").returncode == 0
    assert totals(tmp_path / "copy") == expected(second=7)
    assert (data.read_bytes(), data.stat().st_mtime_ns) == before
    assert totals(tmp_path / "session") == expected()


def test_a_stage_tries_things_in_a_draft_and_accepts_or_drops_them_whole(run: Run, tmp_path: Path) -> None:
    least = expected()[1] + 1
    stages = [STAGES[0], STAGES[1], STAGES[3], STAGES[4], {"task": "consider", "arguments": {"least": least}}]
    done = run(stages)
    assert done.returncode == 0, done.stderr
    with closing(Context(tmp_path / "session" / "context.db")) as context:
        assert context.all(cheap_stages.Total) == [cheap_stages.Total(path="considered", total=2 * expected()[1])]
        assert context.stages()[-1] == "consider"
        assert len(context.at(context.version - 1).all(cheap_stages.Total)) == 1


def test_what_others_said_stays_and_runs_again_what_had_read_otherwise(run: Run, tmp_path: Path) -> None:
    run(STAGES)
    with closing(Context(tmp_path / "session" / "context.db")) as context:
        context.commit("by hand", [Extension(namespace="mine", name="note", value="windy")])
    assert runs_again(run(STAGES).stdout) == []
    with closing(Context(tmp_path / "session" / "context.db")) as context:
        numbers = context.last(cheap_stages.Numbers)
        assert numbers is not None
        context.commit("by hand", [numbers.model_copy(update={"count": 21})])
    done = run(STAGES)
    assert runs_again(done.stdout)[0] == "first change"
    assert "which 'by hand' has said anew" in done.stdout
    with closing(Context(tmp_path / "session" / "context.db")) as context:
        assert context.all(Extension)[0].value == "windy"
        assert "5 of 5 stages had finished before" in run(STAGES).stdout


def test_stages_that_run_at_once_and_contradict_each_other_are_told(run: Run, tmp_path: Path) -> None:
    stages = [
        {"task": "make"},
        {"task": "make", "name": "make more", "arguments": {"path": "data/more.json", "count": 30}},
        {"task": "total", "name": "one", "needs": ["make more"], "arguments": {"pause": 0.3}},
        {
            "task": "total",
            "name": "other",
            "needs": ["make more"],
            "arguments": {"pause": 0.3, "path": "data/more.json"},
        },
    ]
    done = run(stages)
    assert done.returncode == 9
    for told in ("cheap.Total", "products/total.json", "'one'", "'other'", "needs the other"):
        assert told in done.stderr.replace("need the other", "needs the other")
    with closing(Context(tmp_path / "session" / "context.db")) as context:
        # The first to end is kept, and nothing of the second.
        assert len(context.stages()) == 3
        assert len(context.all(cheap_stages.Total)) == 1


def test_kill_9_at_random_moments_changes_neither_facts_nor_products(tmp_path: Path, plugins: str) -> None:
    """Whatever was interrupted, resume ends with what an undisturbed run has."""
    chance = random.Random(SEED)
    slow = [
        {**stage, "arguments": {**stage.get("arguments", {}), "pause": 0.02}} if stage["task"] != "make" else stage
        for stage in STAGES
    ]
    recipe = tmp_path / "cheap.yaml"
    recipe.write_text(yaml.safe_dump({"name": "cheap", "stages": slow}))
    forks = subprocess.Popen(
        [sys.executable, "-c", FORKING, str(recipe)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        # What is not read yet is to be seen by `select`.
        bufsize=0,
        env={**os.environ, "PYTHONPATH": plugins},
    )
    took: list[float] = []

    def attempt(workdir: Path, seconds: float | None) -> bool:
        """Run the session in a process of its own, killed after so long; whether it came to its end."""
        assert forks.stdin and forks.stdout
        began, anew = time.monotonic(), not workdir.exists()
        forks.stdin.write(f"{workdir}\n".encode())
        process = int(forks.stdout.readline())
        if seconds is not None and not select.select([forks.stdout], [], [], seconds)[0]:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        ended = forks.stdout.readline() == b"0\n"
        if ended and anew:
            took.append(time.monotonic() - began)
        return ended

    whole = tmp_path / "whole"
    assert attempt(whole, None)
    kills = rounds = 0
    while kills < KILLS:
        rounds += 1
        workdir = tmp_path / f"round {rounds}"
        # Later than an undisturbed session ends, nothing is left to be killed.
        while not attempt(workdir, chance.uniform(0.0, min(took))):
            kills += 1
            if kills >= KILLS:
                break
        if kills >= KILLS:
            assert attempt(workdir, None)
        assert totals(workdir) == totals(whole) == expected(), f"seed {SEED}, round {rounds}"
        assert facts(workdir) == facts(whole), f"seed {SEED}, round {rounds}"
    forks.communicate()


def facts(workdir: Path) -> list[tuple[str, str, str]]:
    """What holds at the end, as anybody can read it."""
    with closing(sqlite3.connect(workdir / "context.db")) as database:
        return database.execute("SELECT stage, kind, body FROM current_facts ORDER BY stage, kind, body").fetchall()
