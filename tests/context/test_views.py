from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.exc import DBAPIError

from stores import decision, flux
from surgeline.context.attempts import Attempt, AttemptWriter
from surgeline.context.records import FluxDensity, subject_of
from surgeline.context.store import Context

FIELD_1 = subject_of(flux(1, 0.0))


@pytest.fixture
def filled(store: Context) -> Context:
    """A context in which something of each kind has happened."""
    store.commit("setjy", [flux(1, 1.0), flux(2, 1.0), decision("model")])
    store.commit("fluxscale", [flux(1, 2.0)])
    store.commit("by hand", [], removed=[(FluxDensity, subject_of(flux(2, 0.0)))])
    store.commit("rerun", [], withdrawn=[2], details={"why": "a test"})
    with closing(AttemptWriter(store)) as writer:
        for number, state in enumerate(("lost", "finished"), start=1):
            writer.add(
                Attempt("run", "image", "cube", number, state, 10.0, 10.0 + number, "w", "far", "e", {"memory": 5}),
                {"casa": "6.7"},
            )
        writer.add(Attempt("run", "image", "other", 1, "finished", 10.0, 14.0, "w", "near", "unknown"), {})
    return store


def ask(context: Context, question: str) -> list[tuple[Any, ...]]:
    """Ask as anybody does who has no more than the database."""
    where = context.where if isinstance(context.where, str) else f"sqlite:///{context.where}"
    with create_engine(where).begin() as connection:
        return [tuple(row) for row in connection.execute(text(question))]


def test_what_holds_now_and_who_said_it(filled: Context) -> None:
    rows = ask(filled, "SELECT kind, subject, version, stage, body FROM current_facts ORDER BY version, kind")
    assert [row[:4] for row in rows] == [
        ("Decision", "[1, 2]", 1, "setjy"),
        ("FluxDensity", FIELD_1, 1, "setjy"),
    ]
    assert json.loads(rows[1][4])["flux"] == 1.0


def test_what_was_said_of_a_subject_from_when_until_when(filled: Context) -> None:
    history = f"SELECT since, until, version, stage FROM fact_history WHERE subject = '{FIELD_1}' ORDER BY since"
    assert ask(filled, history) == [(1, 2, 1, "setjy"), (2, 4, 2, "fluxscale"), (4, None, 1, "setjy")]
    at_two = (
        "SELECT subject FROM fact_history WHERE kind = 'FluxDensity' AND since <= 2 AND (until > 2 OR until IS NULL)"
    )
    assert len(ask(filled, at_two)) == 2


def test_what_happened_and_what_was_withdrawn(filled: Context) -> None:
    log = "SELECT version, stage, base, withdrawn_by, details FROM commit_log ORDER BY version"
    assert ask(filled, log) == [
        (1, "setjy", 0, None, "{}"),
        (2, "fluxscale", 1, 4, "{}"),
        (3, "by hand", 2, None, "{}"),
        (4, "rerun", 3, None, '{"why": "a test"}'),
    ]


def test_where_jobs_ran_how_long_and_what_came_of_it(filled: Context) -> None:
    question = "SELECT job, number, state, host, seconds, environment FROM job_attempts ORDER BY job, number"
    assert ask(filled, question) == [
        ("cube", 1, "lost", "far", 1.0, '{"casa": "6.7"}'),
        ("cube", 2, "finished", "far", 2.0, '{"casa": "6.7"}'),
        ("other", 1, "finished", "near", 4.0, "{}"),
    ]
    slowest = "SELECT stage, max(seconds), count(*) FROM job_attempts WHERE state = 'finished' GROUP BY stage"
    assert ask(filled, slowest) == [("image", 4.0, 2)]
    assert ask(filled, "SELECT DISTINCT context FROM job_attempts") == [(filled.identifier,)]


CHANGES = (
    "UPDATE commits SET stage = 'another'",
    "DELETE FROM commits WHERE version = 4",
    "UPDATE facts SET body = ''",
    "DELETE FROM facts",
    "UPDATE attempts SET state = 'finished' WHERE state = 'lost'",
    "DELETE FROM attempts",
    "UPDATE withdrawals SET withdrawn_by = 1",
    "DELETE FROM withdrawals",
    "UPDATE environments SET body = ''",
    "DELETE FROM environments",
)


def test_the_database_itself_refuses_to_rewrite_history(filled: Context) -> None:
    def everything() -> list[list[tuple[Any, ...]]]:
        return [ask(filled, f"SELECT * FROM {name}") for name in ("commit_log", "fact_history", "job_attempts")]

    before = everything()
    for change in CHANGES:
        with pytest.raises(DBAPIError, match="are never changed"):
            ask(filled, change)
    assert everything() == before


def test_postgresql_refuses_to_empty_a_table_of_history(postgresql_url: str) -> None:
    with closing(Context(postgresql_url)) as context:
        context.commit("stage", [decision("one")])
        for table in ("commits", "facts", "attempts"):
            with pytest.raises(DBAPIError, match="are never changed"):
                ask(context, f"TRUNCATE {table} CASCADE")
        assert len(context.every()) == 1


def test_the_views_are_there_for_any_program_that_reads_sqlite(tmp_path: Path) -> None:
    path = tmp_path / "context.db"
    with closing(Context(path)) as context:
        context.commit("stage", [decision("one")])
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            assert database.execute("SELECT stage, json_extract(body, '$.what') FROM current_facts").fetchall() == [
                ("stage", "one")
            ]
