from __future__ import annotations

import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from sqlalchemy import event

from stores import at_once, decision, write_attempts_of
from support import wait_until
from surgeline.context.attempts import Attempt, AttemptWriter, read_attempts, read_environments
from surgeline.context.records import Decision
from surgeline.context.store import Context

ENVIRONMENT = {"host": "here", "versions": {"surgeline": "0.1.0"}}


def attempt(number: int, stage: str = "image", run: str = "run") -> Attempt:
    return Attempt(
        run=run,
        stage=stage,
        job=f"job {number}",
        number=1,
        state="finished",
        started=1.5e9 + number / 3,
        ended=1.6e9 + number / 7,
        worker="worker 1",
        host="here",
        environment="environment",
        body={"call": {"task": "tclean", "arguments": {"vis": "my.ms", "niter": number}}, "outputs": []},
    )


def test_attempts_are_kept_whole_and_in_order(where: str | Path) -> None:
    found = [attempt(number, stage=f"stage {number % 2}", run=f"run {number % 3}") for number in range(12)]
    with closing(Context(where)) as context:
        with closing(AttemptWriter(context)) as writer:
            for each in found:
                writer.add(each, ENVIRONMENT)
        assert read_attempts(context) == found
    with closing(Context(where, context.identifier)) as again:
        assert read_attempts(again) == found
        assert read_attempts(again, stage="stage 1") == found[1::2]
        assert read_attempts(again, run="run 2") == found[2::3]
        assert read_attempts(again, stage="stage 1", run="run 2") == [found[5], found[11]]
        assert read_attempts(again, stage="other") == []


def test_what_is_flushed_is_there(store: Context) -> None:
    with closing(AttemptWriter(store)) as writer:
        writer.flush()
        for number in range(3):
            writer.add(attempt(number), ENVIRONMENT)
            writer.flush()
            assert len(read_attempts(store)) == number + 1


def test_an_environment_is_kept_once_whoever_ran_in_it(store: Context) -> None:
    for _ in range(2):
        with closing(AttemptWriter(store)) as writer:
            for number in range(10):
                writer.add(replace(attempt(number), environment=f"environment {number % 2}"), ENVIRONMENT)
    assert read_environments(store) == {"environment 0": ENVIRONMENT, "environment 1": ENVIRONMENT}
    assert len(read_attempts(store)) == 20


def test_sessions_may_write_the_same_environments_at_the_same_time(where: str | Path) -> None:
    with closing(Context(where)) as context:
        names = [f"environment {number}" for number in range(50)]
        sessions = [(where, f"session {number}", names if number % 2 else names[::-1]) for number in range(4)]
        with at_once(write_attempts_of, *sessions) as processes:
            for process in processes:
                process.result()
        assert sorted(read_environments(context)) == sorted(names)
        for _, identifier, order in sessions:
            with closing(Context(where, identifier)) as own:
                assert [each.environment for each in read_attempts(own)] == order


def test_thousands_of_attempts_are_written_many_at_once(store: Context) -> None:
    transactions = []
    event.listen(store.database.engine, "before_cursor_execute", lambda *what: transactions.append(what[2]))
    began = time.monotonic()
    with closing(AttemptWriter(store)) as writer:
        for number in range(5000):
            writer.add(attempt(number), ENVIRONMENT)
        writer.flush()
    assert time.monotonic() - began < 20
    assert sum(statement.startswith("INSERT INTO attempts") for statement in transactions) < 200
    assert [each.job for each in read_attempts(store)] == [f"job {number}" for number in range(5000)]


def test_commits_go_on_while_attempts_are_written(store: Context) -> None:
    with closing(AttemptWriter(store)) as writer:
        for number in range(300):
            writer.add(attempt(number), ENVIRONMENT)
            if number % 30 == 0:
                store.commit("stage", [decision(str(number))])
    assert len(store.all(Decision)) == 10
    assert len(read_attempts(store)) == 300


def test_what_could_not_be_written_is_told_by_flush_and_those_after_it_are_written(store: Context) -> None:
    with closing(AttemptWriter(store)) as writer:
        writer.add(replace(attempt(1), body={"cannot be told": object()}), ENVIRONMENT)
        with pytest.raises(TypeError, match="not JSON serializable"):
            writer.flush()
        writer.add(attempt(2), ENVIRONMENT)
        writer.flush()
    assert read_attempts(store) == [attempt(2)]


def test_a_store_that_cannot_be_written_is_told_by_flush(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    Context(path).close()
    with closing(Context(path, read_only=True)) as reader, closing(AttemptWriter(reader)) as writer:
        writer.add(attempt(1), ENVIRONMENT)
        with pytest.raises(Exception, match="readonly database"):
            writer.flush()


def test_who_adds_does_not_wait(tmp_path: Path) -> None:
    with closing(Context(tmp_path / "context.db")) as context, closing(AttemptWriter(context)) as writer:
        writer.add(attempt(0), ENVIRONMENT)
        writer.flush()
        with closing(Context(tmp_path / "context.db")) as other, other.database.engine.connect() as busy:
            busy.exec_driver_sql("BEGIN IMMEDIATE")
            for number in range(1, 100):
                writer.add(attempt(number), ENVIRONMENT)
            assert len(read_attempts(context)) == 1
            busy.exec_driver_sql("ROLLBACK")
        wait_until(lambda: len(read_attempts(context)) == 100, 60, "they are written once the store is free")
