"""Stores opened to be read beside the sessions that write them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Protocol, TypeVar

from sqlalchemy import Connection, make_url
from sqlalchemy.exc import ArgumentError, DatabaseError, DBAPIError

from surgeline.context.database import Database, FileHeader
from surgeline.errors import BadInput, ContextError, SurgelineError

Result = TypeVar("Result")

_SECONDS_TO_CONNECT = "5"
_SECONDS_AWAY = 2.0
_TRIES, _PAUSE = 20, 0.05


class Unreadable(ContextError):
    """A store cannot be read now: it is damaged, of another version, or away."""


class NotThere(ContextError):
    """The store can be read, and has not what was asked for."""


class NotBegun(NotThere):
    """There is no store yet."""


class Store(Protocol):
    """Where one context or many are kept."""

    def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run a query that only reads.

        Raises:
            NotThere: there is nothing yet, or not what is asked for.
            Unreadable: it cannot be read now.
        """


class FileStore:
    """A working folder's store; each query has a connection of its own, so that none outlasts the session."""

    def __init__(self, path: Path) -> None:
        """Name a store; it does not have to be there yet."""
        self.path = path
        self._header = FileHeader(path)
        # Of the file of that number, which another one may replace.
        self._opened: tuple[int, Database] | None = None

    def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run a query that only reads; see `Store.read`."""
        for _ in range(_TRIES):
            before = self._state()
            trouble: Exception | None = None
            try:
                found = self._database().reading(query)
            # What is stored is JSON; other text is damage.
            except (SurgelineError, DatabaseError, ValueError, OSError) as error:
                trouble = error
            # Where no lock was held, it must not have been written meanwhile.
            if self._state() == before:
                if trouble is None:
                    return found
                raise _told(self.path, trouble) from trouble
            time.sleep(_PAUSE)
        raise Unreadable(f"{self.path} is written faster than it can be read", "ask again")

    def _database(self) -> Database:
        try:
            status = self.path.stat()
        except OSError:
            status = None
        if status is None or not status.st_size:
            raise NotBegun(f"there is no {self.path} yet", "surgeline run begins it")
        opened = self._opened
        if opened is None or opened[0] != status.st_ino:
            opened = self._opened = (status.st_ino, Database(self.path, read_only=True))
        return opened[1]

    def _state(self) -> tuple[int, ...]:
        """What changes when the file is written while it is read without locks."""
        try:
            if not self._header.has_log():
                return ()
            status = self.path.stat()
            # Only without the log beside it there are no locks.
            with suppress(FileNotFoundError):
                return (Path(f"{self.path}-wal").stat().st_ino,)
            return (status.st_ino, status.st_mtime_ns, status.st_size)
        except OSError:
            return ()


class DatabaseStore:
    """A database that holds many contexts; its connections are kept and shared."""

    def __init__(self, url: str) -> None:
        """Name a database; it is reached when it is asked.

        Raises:
            BadInput: this is no URL of a database.
        """
        way_out = "write it like postgresql+psycopg://user@host:5432/database, and pip install 'surgeline[postgres]'"
        try:
            parsed = make_url(url)
            self.shown = parsed.render_as_string(hide_password=True)
            parsed.get_dialect().import_dbapi()
        except (ArgumentError, ImportError, ValueError) as error:
            raise BadInput(f"a source is no URL of a database that can be read here: {error}", way_out) from error
        if parsed.get_backend_name() != "postgresql":
            raise BadInput(f"{self.shown} is no PostgreSQL database", way_out)
        if parsed.get_driver_name().startswith("psycopg"):
            parsed = parsed.set(query={"connect_timeout": _SECONDS_TO_CONNECT, **parsed.query})
        self._url = parsed.render_as_string(hide_password=False)
        self._opening = threading.Lock()
        self._database: Database | None = None
        # While it is away, not every question waits for it anew: until when, and why.
        self._away: tuple[float, Unreadable] | None = None

    def read(self, query: Callable[[Connection], Result]) -> Result:
        """Run a query that only reads; see `Store.read`."""
        try:
            return self._opened().reading(query)
        except (NotThere, Unreadable):
            raise
        except ContextError as error:
            told = Unreadable(error.message, error.way_out)
            self._away = (time.monotonic() + _SECONDS_AWAY, told)
            raise told from error
        except (DatabaseError, ValueError) as error:
            raise Unreadable(
                f"the database {self.shown} cannot be read: {_cause(error)}", "correct the URL, or mend the database"
            ) from error

    def _opened(self) -> Database:
        with self._opening:
            if self._away is not None and time.monotonic() < self._away[0]:
                raise Unreadable(*self._away[1].args)
            if self._database is None:
                self._database = Database(self._url, read_only=True)
            return self._database


def _told(path: Path, error: Exception) -> ContextError:
    if isinstance(error, NotThere):
        return error
    if isinstance(error, SurgelineError):
        return Unreadable(error.message, error.way_out)
    return Unreadable(
        f"{path} cannot be read: {_cause(error)}",
        "if it is damaged, move it away and run the recipe anew in an empty working folder",
    )


def _cause(error: Exception) -> object:
    return error.orig if isinstance(error, DBAPIError) else error
