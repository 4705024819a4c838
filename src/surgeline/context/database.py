"""The database behind a context: SQLite in a file or in memory, or PostgreSQL by URL."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import psutil
from sqlalchemy import URL, Connection, Engine, create_engine, event, inspect, make_url, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool, StaticPool

from surgeline.context.tables import metadata
from surgeline.context.views import make_views
from surgeline.errors import ContextError

Result = TypeVar("Result")

# The revision of the tables that this version reads and writes: the newest in `migrations/versions`.
REVISION = "0002"
_MIGRATIONS = Path(__file__).parent / "migrations"
# SQLite's write-ahead log needs memory shared by all who use the file, which these do not give.
_NETWORK_FILESYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "lustre", "gpfs", "beegfs", "ceph", "fuse.sshfs", "9p"}
)
# Seconds to wait for another who writes the same file.
_SQLITE_PATIENCE = 30
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 5.0
# What a server answers to a URL that is wrong: waiting does not mend it.
_REFUSED = re.compile(
    r"authentication failed|no password supplied|does not exist|no pg_hba\.conf entry|not permitted to log in"
    r"|permission denied"
)
# A name that was never found is wrong; one that was may be so again, as those of containers that start anew.
_UNKNOWN_HOST = re.compile(r"failed to resolve host|could not translate host name")


class Database:
    """Connections to the store, and who waits for it when it is away."""

    def __init__(
        self,
        where: str | Path | None,
        patience: float = 0.0,
        waiting: Callable[[str], None] | None = None,
        read_only: bool = False,
    ) -> None:
        """Open a database, making its tables when there are none and bringing older ones up to date.

        Args:
            where: a file, a URL such as postgresql+psycopg://host/name, or None for memory.
            patience: seconds to wait for a database that cannot be reached, each time.
            waiting: told, in a line, when that begins and when it is over.
            read_only: never write to it, its tables included.

        Raises:
            ContextError: it cannot be reached, or was made by a newer version.
            sqlalchemy.exc.DatabaseError: the file is no database, or cannot be written.
        """
        # Who is told to stop sets it to 0: nobody waits any longer then.
        self.patience = patience
        self._waiting = waiting
        self._away = self._reached = False
        self._telling = threading.RLock()
        self._where = where
        # One connection serves all threads of a store in memory; writers of one process always take turns.
        self._in_memory = where is None
        if isinstance(where, Path) and where.exists() and not _may_be_written(where):
            read_only = True
        self._turn = threading.RLock()
        self._header = FileHeader(where) if isinstance(where, Path) else None
        self.engine = _engine(where, read_only, self._header)
        self.sqlite = self.engine.dialect.name == "sqlite"
        self.patiently(lambda: self._make_ready(read_only))

    def reading(self, query: Callable[[Connection], Result]) -> Result:
        """Run a query that only reads; again when the connection was lost."""

        def attempt() -> Result:
            with self._turn if self._in_memory else _no_lock(), self.engine.connect() as connection:
                return query(connection)

        return self.patiently(attempt)

    def writing(self, change: Callable[[Connection], Result]) -> Result:
        """Run a change in one transaction: all of it holds, or nothing of it.

        When the connection is lost it is run again, though it may have been done: so it must know itself again.
        """

        def attempt() -> Result:
            with self._turn, self._transaction() as connection:
                return change(connection)

        return self.patiently(attempt)

    def patiently(self, operation: Callable[[], Result]) -> Result:
        """Do something, again and again while the database is away, as long as patience lasts."""
        began, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            # What another thread had begun before is no sign of its being back.
            away = self._away
            try:
                result = operation()
            except DBAPIError as error:
                if self.sqlite or not _is_away(error, self._reached):
                    raise
                if time.monotonic() - began > self.patience:
                    raise ContextError(
                        f"the database {named(self._where)} cannot be reached: {_first_line(error)}",
                        "start it, or correct context.url; what was committed is kept: surgeline resume",
                    ) from error
                self._tell(True, f"waiting for the database {named(self._where)}: {_first_line(error)}")
                time.sleep(pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
            else:
                self._reached = True
                if away:
                    self._tell(False, "the database is back")
                return result

    def close(self) -> None:
        """Let go of all connections."""
        self.engine.dispose()
        if self._header is not None:
            self._header.close()

    def _tell(self, away: bool, message: str) -> None:
        """Tell that the database is away, or back: once, however many threads wait for it."""
        with self._telling:
            if away != self._away:
                self._away = away
                if self._waiting is not None:
                    self._waiting(message)

    @contextmanager
    def _transaction(self) -> Iterator[Connection]:
        if not self.sqlite:
            with self.engine.begin() as connection:
                yield connection
            return
        with self.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            # Who will write says so at once: a reader that becomes a writer can be refused for good.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.exec_driver_sql("COMMIT")
            except BaseException:
                # A full disk has rolled it back already.
                with suppress(DBAPIError):
                    connection.exec_driver_sql("ROLLBACK")
                raise

    def _make_ready(self, read_only: bool) -> None:
        with self.engine.connect() as connection:
            # Looked at once: another process may be making them.
            tables = inspect(connection).get_table_names()
            found = _revision(connection, tables)
            foreign = tables if self.sqlite and not found else []
        if found == REVISION:
            return
        if foreign:
            raise ContextError(
                f"{named(self._where)} is another program's database, with the tables {', '.join(foreign)}",
                "move it away, or give another folder",
            )
        if found > REVISION:
            raise ContextError(
                f"the context {named(self._where)} was made by a newer version of Surgeline "
                f"(its tables are of revision {found}, this version knows {REVISION})",
                "use that version, or one later",
            )
        if read_only:
            raise ContextError(
                f"the context {named(self._where)} was made by an older version of Surgeline, or is empty",
                "surgeline resume brings it up to date",
            )
        with self._turn, self._transaction() as connection:
            # Another process may have been faster.
            if not self.sqlite:
                connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7318349)")
            found = _revision(connection, inspect(connection).get_table_names())
            if found == REVISION:
                return
            if found == "":
                metadata.create_all(connection)
            else:
                _migrate(connection, found, named(self._where))
            connection.exec_driver_sql("DROP TABLE IF EXISTS alembic_version")
            connection.exec_driver_sql("CREATE TABLE alembic_version (version_num VARCHAR(32) NOT NULL PRIMARY KEY)")
            connection.execute(text("INSERT INTO alembic_version VALUES (:revision)"), {"revision": REVISION})
            make_views(connection)


def named(where: str | Path | None) -> str:
    """What messages call a store: its file, or its URL without the password."""
    return make_url(where).render_as_string() if isinstance(where, str) else str(where)


def _revision(connection: Connection, tables: Sequence[str]) -> str:
    """The revision of the tables that there are, or empty when there are none."""
    if "alembic_version" in tables:
        return str(connection.execute(text("SELECT version_num FROM alembic_version")).scalar() or "")
    # The first version kept no revision.
    return "0001" if "commits" in tables else ""


def _migrate(connection: Connection, found: str, name: str) -> None:
    from alembic.command import stamp, upgrade
    from alembic.config import Config
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(_MIGRATIONS))
    config.attributes["connection"] = connection
    try:
        stamp(config, found)
        upgrade(config, "head")
    except (CommandError, KeyError, TypeError, ValueError) as error:
        raise ContextError(
            f"the context {name} cannot be brought up to date, a fact in it is damaged: {error}",
            "move it away and run the recipe anew in an empty working folder",
        ) from error


def _engine(where: str | Path | None, read_only: bool, header: FileHeader | None) -> Engine:
    if where is None:
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    if isinstance(where, str):
        try:
            # A connection that was lost while nobody used it is made anew, whatever the patience.
            return create_engine(
                where, pool_pre_ping=True, execution_options={"postgresql_readonly": True} if read_only else {}
            )
        except Exception as error:
            raise ContextError(
                f"context.url: {error}",
                "write it like postgresql+psycopg://user@host:5432/database, and pip install 'surgeline[postgres]'",
            ) from error
    if read_only and header is not None:
        return create_engine("sqlite://", creator=partial(_connect_reader, where, header), poolclass=NullPool)
    engine = create_engine(URL.create("sqlite", database=str(where)), connect_args={"timeout": _SQLITE_PATIENCE})
    journal = "DELETE" if _filesystem(where) in _NETWORK_FILESYSTEMS else "WAL"

    @event.listens_for(engine, "connect")
    def durable(connection: Any, _record: Any) -> None:
        _set_journal(connection, journal)
        # What is committed survives a crash of the process and of the machine.
        connection.execute("PRAGMA synchronous=FULL")

    return engine


def _set_journal(connection: sqlite3.Connection, journal: str) -> None:
    """Choose how commits are made safe; SQLite itself does not wait for others who begin the same file."""
    deadline = time.monotonic() + _SQLITE_PATIENCE
    while True:
        try:
            connection.execute(f"PRAGMA journal_mode={journal}")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_FIRST_PAUSE / 10)
        else:
            return


def _connect_reader(path: Path, header: FileHeader) -> sqlite3.Connection:
    """A connection that reads a file; each is for one query, since a session may begin or end meanwhile."""
    options = "mode=ro"
    # Without the log beside it nobody is writing it. Then it is read without making that log: the folder may not be
    # writable, and its owner could not use another's.
    # What is not there, or cannot be read, SQLite itself complains of.
    with suppress(OSError):
        if header.has_log() and not Path(f"{path}-wal").exists():
            options += "&immutable=1"
    return sqlite3.connect(f"file:{quote(str(path))}?{options}", uri=True, timeout=30, check_same_thread=False)


class FileHeader:
    """What a SQLite file says of itself, read through a descriptor that stays open.

    Closing any descriptor of a file gives up all locks that the process has on it, also those that a query in another
    thread relies on.
    """

    def __init__(self, path: Path) -> None:
        """Name a file; it does not have to be there yet."""
        self._path = path
        self._opened: tuple[int, int] | None = None

    def close(self) -> None:
        """Let go of the file; no other query of this process may be reading it."""
        if self._opened is not None:
            os.close(self._opened[1])
            self._opened = None

    def has_log(self) -> bool:
        """Whether the file is written with a write-ahead log.

        Raises:
            OSError: it is not there, or cannot be read.
        """
        inode = self._path.stat().st_ino
        if self._opened is None or self._opened[0] != inode:
            self._opened = (inode, os.open(self._path, os.O_RDONLY | os.O_CLOEXEC))
        return os.pread(self._opened[1], 2, 18) == b"\x02\x02"


def _may_be_written(path: Path) -> bool:
    # Its journal is made beside it.
    return all(os.access(needed, os.W_OK, effective_ids=True) for needed in (path, path.parent))


def _filesystem(path: Path) -> str:
    """The type of the filesystem that a file is on."""
    folder = path.resolve().parent
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (folder, *folder.parents) if parent in mounts), "")


def _is_away(error: DBAPIError, reached: bool) -> bool:
    """Whether the database could not be reached, or was lost, rather than asked for something wrong."""
    if error.connection_invalidated:
        return True
    state = getattr(error.orig, "sqlstate", None)
    if state is None:
        # Never connected.
        cause = str(error.orig)
        wrong = _REFUSED.search(cause) or (not reached and _UNKNOWN_HOST.search(cause))
        return type(error.orig).__name__ == "OperationalError" and not wrong
    # Class 08 is connection trouble, 57P01 to 57P03 a server that stops or starts.
    return str(state).startswith("08") or state in ("57P01", "57P02", "57P03")


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).strip().partition("\n")[0]


@contextmanager
def _no_lock() -> Iterator[None]:
    yield
