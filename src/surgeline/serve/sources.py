"""Whose sessions are served: working folders, and databases that hold many contexts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from sqlalchemy import Connection, select

from surgeline.context.tables import contexts
from surgeline.paths import SessionPaths, safe_name
from surgeline.serve.folders import FolderContext
from surgeline.serve.reading import DatabaseStore, NotBegun, Store, Unreadable
from surgeline.serve.record import Record, RecordReader

Result = TypeVar("Result")


@dataclass(frozen=True)
class Session:
    """One session that is served.

    Attributes:
        id: what it is called in URLs: the same whenever the same folder or context is served.
        name: what people call it.
        where: its folder, or its database without the password.
        locate: finds the store that keeps its context, and which of the store's contexts it is (None: the only one).
        folder: its working folder, where that is known.
        record: what the folder says of it.
    """

    id: str
    name: str
    where: str
    locate: Callable[[], tuple[Store, str | None]]
    folder: Path | None = None
    record: RecordReader | None = None

    def read_record(self) -> Record:
        """What the folder says of it now; nothing where there is no folder."""
        return self.record.read() if self.record else Record()

    def read(self, query: Callable[[Connection, str], Result]) -> Result:
        """Run a query that only reads; it is given the connection and the context's identifier.

        Raises:
            NotThere: there is no context yet, or it has not what is asked for.
            Unreadable: the store cannot be read now.
        """
        store, identifier = self.locate()

        def asked(connection: Connection) -> Result:
            begun = select(contexts.c.id)
            if identifier is not None:
                begun = begun.where(contexts.c.id == identifier)
            context = connection.execute(begun).scalar()
            if context is None:
                raise NotBegun(f"{self.where} holds no context yet", "surgeline run begins it")
            return query(connection, context)

        return store.read(asked)


class Sources:
    """Finds the sessions of all sources."""

    def __init__(self, sources: Iterable[str | Path]) -> None:
        """Name the sources; none of them has to be there yet.

        Args:
            sources: working folders, and URLs of databases.

        Raises:
            BadInput: a URL is none.
        """
        self._folders: dict[str, Session] = {}
        self._databases: dict[str, DatabaseStore] = {}
        # Contexts are never taken away: one that was found stays known while its database is away.
        self._found: dict[str, Session] = {}
        for source in sources:
            if "://" in str(source):
                database = DatabaseStore(str(source))
                self._databases[database.shown] = database
            else:
                session = _of_folder(Path(source).expanduser().absolute())
                self._folders[session.id] = session

    def sessions(self) -> tuple[list[Session], list[Unreadable]]:
        """All sessions by their ids, and why others cannot be told of."""
        troubles = []
        for database in self._databases.values():
            try:
                self._found |= {session.id: session for session in _of_database(database)}
            except Unreadable as error:
                troubles.append(error)
        found = {**self._found, **self._folders}
        return [found[name] for name in sorted(found)], troubles

    def find(self, identifier: str) -> Session | None:
        """The session of an id, or None.

        Raises:
            Unreadable: it is not among those that are known, and a database cannot be asked.
        """
        known = self._folders.get(identifier) or self._found.get(identifier)
        if known is not None:
            return known
        sessions, troubles = self.sessions()
        found = next((session for session in sessions if session.id == identifier), None)
        if found is None and troubles:
            raise troubles[0]
        return found


def _of_folder(folder: Path) -> Session:
    return Session(
        id=_identifier(folder.name, str(folder)),
        name=folder.name,
        where=str(folder),
        locate=FolderContext(folder).locate,
        folder=folder,
        record=RecordReader(SessionPaths(folder)),
    )


def _of_database(database: DatabaseStore) -> list[Session]:
    rows = database.read(lambda connection: connection.execute(select(contexts.c.id, contexts.c.name)).all())
    return [_of_context(database, row.id, Path(row.name).name) for row in rows]


def _of_context(database: DatabaseStore, context: str, name: str) -> Session:
    return Session(
        id=_identifier(name or context, f"{database.shown}#{context}"),
        name=name or context,
        where=database.shown,
        locate=lambda: (database, context),
    )


def _identifier(name: str, origin: str) -> str:
    return f"{safe_name(name)[:60]}-{hashlib.sha256(origin.encode()).hexdigest()[:8]}"
