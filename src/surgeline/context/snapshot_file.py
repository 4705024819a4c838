"""A context at a version as a file of its own."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

from sqlalchemy import Connection, insert, select
from sqlalchemy.exc import DatabaseError

from surgeline.context.database import Database
from surgeline.context.reading import kinds_at, numbers_at, pages, rows, stored_facts
from surgeline.context.store import Context
from surgeline.context.tables import STILL, commits, contexts, facts, validity, withdrawals
from surgeline.errors import WorkfolderError


def export_snapshot(context: Context, version: int, path: Path) -> None:
    """Write what holds at a version into a file of its own, for jobs that have no other way to the store.

    `Context(path, read_only=True)` answers from it, at that version, as the context itself does. Of earlier versions,
    of what stages recorded of themselves and of attempts it knows nothing. A file of that name is replaced.

    Raises:
        ContextError: there is no such version.
        WorkfolderError: the file cannot be written.
    """
    seen = context.at(version).version
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            database = Database(partial)
            try:
                database.writing(lambda target: _copy(context, seen, target))
            finally:
                database.close()
            with closing(sqlite3.connect(partial)) as connection:
                # A write-ahead log would have to be made beside it even by those who only read.
                connection.execute("PRAGMA journal_mode=DELETE")
            partial.chmod(0o444)
            partial.replace(path)
    except (OSError, DatabaseError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DatabaseError) else error
        raise WorkfolderError(
            f"the snapshot {path} could not be written: {cause}", "free space or restore write permission"
        ) from error


def _copy(context: Context, version: int, target: Connection) -> None:
    mine = context.identifier
    rows_of = {
        contexts: select(contexts).where(contexts.c.id == mine),
        commits: select(commits).where(commits.c.context == mine, commits.c.version <= version),
        withdrawals: select(withdrawals).where(withdrawals.c.context == mine, withdrawals.c.withdrawn_by <= version),
    }
    for table, query in rows_of.items():
        found = [row._asdict() for row in rows(context, query)]
        if found:
            target.execute(insert(table), [row | {"details": "{}"} if table is commits else row for row in found])
    for kind in kinds_at(context, version):
        for page in pages(numbers_at(context, version, kind)):
            said, held = [], []
            for number, fact in stored_facts(context, page):
                about = {"context": mine, "kind": kind, "subject": fact.subject}
                content = {"version": fact.version, "schema_version": fact.schema_version, "body": fact.body}
                said.append({"id": number, **about, **content})
                # Of earlier versions it would tell only a part: so it tells nothing of them.
                held.append({"fact": number, **about, "since": version, "until": STILL})
            target.execute(insert(facts), said)
            target.execute(insert(validity), held)
