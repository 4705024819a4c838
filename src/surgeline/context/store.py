"""The store of facts: one commit for each finished stage, atomic and ordered, in SQLite."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from sqlalchemy import Engine, Float, ForeignKey, String, create_engine, event, select
from sqlalchemy.exc import DatabaseError
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.orm import Session as Transaction
from sqlalchemy.pool import StaticPool

from surgeline.context.records import KINDS, Fact
from surgeline.errors import WorkfolderError

AnyFact = TypeVar("AnyFact", bound=Fact)


class _Table(DeclarativeBase):
    pass


class _CommitRow(_Table):
    __tablename__ = "commits"

    version: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    stage: Mapped[str] = mapped_column(String, index=True)
    when: Mapped[float] = mapped_column(Float)


class _FactRow(_Table):
    __tablename__ = "facts"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    version: Mapped[int] = mapped_column(ForeignKey("commits.version"), index=True)
    kind: Mapped[str] = mapped_column(String, index=True)
    body: Mapped[str] = mapped_column(String)


class Context:
    """What a session knows. Only the session's own process writes it; its threads may share it.

    A stage's facts become visible together, when the stage is committed, or never. What is damaged, or was written
    by another version, is a WorkfolderError when it is read.
    """

    def __init__(self, path: Path | None) -> None:
        """Open the store in a file, made when missing, or in memory when there is no path.

        Raises:
            WorkfolderError: the file is no context, or cannot be written.
        """
        self._path = path
        self._lock = threading.Lock()
        self._engine = _engine(path)
        try:
            _Table.metadata.create_all(self._engine)
        except DatabaseError as error:
            raise self._unreadable(str(error.orig)) from error

    def commit(self, stage: str, facts: Iterable[Fact]) -> int:
        """Append a finished stage and its facts in one transaction; returns the new version.

        Raises:
            WorkfolderError: the disk is full, or the file cannot be written. Nothing of the commit is kept.
        """
        try:
            with self._lock, Transaction(self._engine) as transaction, transaction.begin():
                commit = _CommitRow(stage=stage, when=time.time())
                transaction.add(commit)
                transaction.flush()
                version = commit.version
                transaction.add_all(
                    _FactRow(version=version, kind=type(fact).__name__, body=fact.model_dump_json()) for fact in facts
                )
        except DatabaseError as error:
            raise WorkfolderError(
                f"stage {stage!r} could not be recorded in {self._path}: {error.orig}",
                "free space or restore write permission, then: surgeline resume",
            ) from error
        return version

    def stages(self) -> list[str]:
        """The stages that were committed, in order."""
        with self._reading() as transaction:
            return list(transaction.scalars(select(_CommitRow.stage).order_by(_CommitRow.version)))

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind whose fields equal those given, oldest first.

        Of facts that say the same thing anew (see `Fact.identity`) only the latest is returned.
        """
        with self._reading() as transaction:
            rows = transaction.scalars(
                select(_FactRow.body).where(_FactRow.kind == kind.__name__).order_by(_FactRow.id)
            ).all()
        latest: dict[Any, AnyFact] = {}
        for number, body in enumerate(rows):
            fact = self._fact(kind, body)
            identity = tuple(getattr(fact, name) for name in kind.identity) or number
            # A fact said anew also takes its new place in the order.
            latest.pop(identity, None)
            latest[identity] = fact
        return [
            fact for fact in latest.values() if all(getattr(fact, name) == value for name, value in equal.items())
        ]

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""
        found = self.all(kind, **equal)
        return found[-1] if found else None

    def every(self) -> list[tuple[str, Fact]]:
        """Every fact ever committed with the stage that did, oldest first."""
        with self._reading() as transaction:
            rows = transaction.execute(
                select(_CommitRow.stage, _FactRow.kind, _FactRow.body)
                .join(_CommitRow, _CommitRow.version == _FactRow.version)
                .order_by(_FactRow.id)
            ).all()
        unknown = sorted({kind for _, kind, _ in rows} - set(KINDS))
        if unknown:
            raise self._unreadable(f"it holds facts of unknown kinds: {', '.join(unknown)}")
        return [(stage, self._fact(KINDS[kind], body)) for stage, kind, body in rows]

    def close(self) -> None:
        """Let go of the file."""
        self._engine.dispose()

    @contextmanager
    def _reading(self) -> Iterator[Transaction]:
        try:
            with self._lock, Transaction(self._engine) as transaction:
                yield transaction
        except DatabaseError as error:
            raise self._unreadable(str(error.orig)) from error

    def _fact(self, kind: type[AnyFact], body: str) -> AnyFact:
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            raise self._unreadable(f"a {kind.__name__} in it has another {field}: {first['msg']}") from error

    def _unreadable(self, cause: str) -> WorkfolderError:
        return WorkfolderError(
            f"{self._path} cannot be read as a context: {cause}",
            "if it is damaged, or of another version of Surgeline, move it away and run the recipe anew in an empty "
            "working folder",
        )


def _engine(path: Path | None) -> Engine:
    if path is None:
        return create_engine("sqlite://", poolclass=StaticPool, connect_args={"check_same_thread": False})
    engine = create_engine(f"sqlite:///{path}", connect_args={"timeout": 30})

    @event.listens_for(engine, "connect")
    def durable(connection: Any, _record: Any) -> None:
        # What is committed survives a crash of the process and of the machine.
        connection.execute("PRAGMA synchronous=FULL")

    return engine
