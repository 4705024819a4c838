"""Databases of contexts that are damaged, or that somebody wrote anything into: read, or refused with a way out."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable
from contextlib import closing
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from badinput.hostile import NAMES, assert_told, damaged, examples, mutated, texts, values
from stores import decision, extension, flux
from surgeline.context.attempts import Attempt, read_attempts, read_environments, write_attempts
from surgeline.context.export import export_json
from surgeline.context.lineage import lineage
from surgeline.context.prov import export_prov
from surgeline.context.records import KINDS, Decision, Extension
from surgeline.context.snapshot_file import export_snapshot
from surgeline.context.store import Context
from surgeline.errors import BadInput, ContextError, SurgelineError, WorkfolderError
from surgeline.paths import SessionPaths
from surgeline.workflow.workfolder import read_record

# Columns of texts, in which texts are.
_COLUMNS = {
    "facts": ("kind", "subject", "body"),
    "commits": ("details", "stage"),
    "attempts": ("body", "stage", "environment"),
    "environments": ("body",),
    "contexts": ("id", "name"),
    "alembic_version": ("version_num",),
}


@cache
def whole() -> bytes:
    """A small context's file."""
    with TemporaryDirectory() as name:
        path = Path(name) / "context.db"
        with closing(Context(path)) as context:
            said = [decision("a"), flux(1, 2.5), extension("x", {"deep": [1, None]})]
            context.commit("flag", said, details={"files": {"read": {"data/my.ms": "d"}, "written": {}}})
            context.commit("gaincal", [flux(1, 3.5)])
            context.commit("flag", [], withdrawn=[2])
            times = {"run": "r", "state": "finished", "started": 1.0, "ended": 2.0, "worker": "w", "host": "h"}
            attempt = Attempt(stage="flag", job="j", number=1, environment="e", body={"files": {}}, **times)
            write_attempts(context, [(attempt, {"software": {"casatools": "6"}})], set())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA journal_mode=DELETE")
        return path.read_bytes()


def _uses() -> list[Callable[[Context, Path], Any]]:
    """What is done with contexts."""
    return [
        lambda context, _: context.log(),
        lambda context, _: context.every(),
        lambda context, _: [context.all(kind) for kind in KINDS.values()],
        lambda context, _: context.last(Decision, what="a"),
        lambda context, _: "".join(export_json(context)),
        lambda context, _: "".join(export_prov(context)),
        lambda context, _: lineage(context, "data/my.ms"),
        lambda context, _: read_attempts(context),
        lambda context, _: read_environments(context),
        lambda context, folder: export_snapshot(context, context.version, folder / "snapshot.db"),
        lambda context, _: context.commit("more", [decision("b")]),
    ]


def _use(path: Path, read_only: bool) -> None:
    """Do all that may be done with a file: each works, or is refused."""
    try:
        context = Context(path, read_only=read_only)
    except (ContextError, WorkfolderError) as error:
        assert_told(error)
        return
    with closing(context):
        for use in _uses():
            try:
                use(context, path.parent)
            except SurgelineError as error:
                assert_told(error)


@examples(12)
@given(st.data(), st.booleans())
def test_any_damaged_file_is_read_or_refused(data: st.DataObject, read_only: bool) -> None:
    content = data.draw(damaged(whole()))
    with TemporaryDirectory() as name:
        path = Path(name) / "context.db"
        path.write_bytes(content)
        _use(path, read_only)
        assert {found.name.partition("-")[0] for found in Path(name).iterdir()} <= {"context.db", "snapshot.db"}


@examples(12)
@given(st.data(), st.booleans())
def test_anything_in_the_tables_is_read_or_refused(data: st.DataObject, read_only: bool) -> None:
    with TemporaryDirectory() as name:
        path = Path(name) / "context.db"
        path.write_bytes(whole())
        with closing(sqlite3.connect(path)) as connection:
            for _ in range(data.draw(st.integers(1, 3))):
                table = data.draw(st.sampled_from(sorted(_COLUMNS)))
                column = data.draw(st.sampled_from(_COLUMNS[table]))
                value = data.draw(_cells(connection, table, column))
                try:
                    connection.execute(f"UPDATE {table} SET {column} = ?", (value,))
                except (sqlite3.Error, OverflowError, UnicodeEncodeError):
                    # That cannot be in a table.
                    continue
            connection.commit()
        _use(path, read_only)


def _cells(connection: sqlite3.Connection, table: str, column: str) -> st.SearchStrategy[Any]:
    """What may stand in a column: what stands there, changed, or anything."""
    row = connection.execute(f"SELECT {column} FROM {table}").fetchone()
    anything = texts() | values().map(_as_json)
    try:
        document = json.loads(row[0])
    except (TypeError, ValueError):
        return anything
    return anything | mutated({"": document}).map(lambda said: _as_json(said.get("", said)))


def _as_json(value: Any) -> str:
    return json.dumps(value, default=str, skipkeys=True)


@examples(50)
@given(st.data())
def test_any_record_of_a_kind_is_a_fact_or_refused(data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    body = data.draw(mutated(dict.fromkeys(KINDS[kind].model_fields, "")))
    try:
        fact = KINDS[kind].model_validate(body)
    except ValidationError:
        return
    with closing(Context(None)) as context:
        context.commit("flag", [fact])
        # Two that are not a number are not equal.
        assert repr(context.every()[0][1]) == repr(fact)


@examples(25)
@given(texts(), values())
def test_any_name_is_kept_as_it_is(name: str, value: Any) -> None:
    """No text is a part of the query that it is looked for with."""
    if name != name.encode(errors="replace").decode():
        with closing(Context(None)) as context, pytest.raises(BadInput):
            context.commit("flag", [Decision(stage="flag", what=name, value="", reason="")])
        return
    try:
        facts = [
            Decision(stage=name, what=name, value=name, reason=""),
            Extension(namespace=name, name=name, value=1),
        ]
    except ValidationError:
        return
    with closing(Context(None)) as context:
        context.commit(name, facts, details={"name": name})
        assert context.all(Decision, what=name) == [facts[0]]
        assert context.last(Extension, namespace=name, name=name) == facts[1]
        assert context.stages() == [name] and context.log()[0].details == {"name": name}
        assert not context.all(Decision, what=f"{name}'")


@examples(60)
@given(damaged(json.dumps({"stages": [{"name": NAMES[0], "jobs": []}], "versions": {}}).encode()))
def test_any_record_of_a_run_is_read_or_refused(content: bytes) -> None:
    with TemporaryDirectory() as name:
        (Path(name) / "run.json").write_bytes(content)
        try:
            read_record(SessionPaths(Path(name)))
        except WorkfolderError as error:
            assert_told(error)
