"""Provenance: a record of every attempt of every job."""

from __future__ import annotations

import json
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Connection, insert, select, text

from surgeline.context.store import Context
from surgeline.context.tables import attempts, contexts, environments

# How many attempts go into the store at once, at most.
_BATCH = 500


@dataclass(frozen=True)
class Attempt:
    """One attempt of a job: what ran, on what, where, and what came of it.

    Attributes:
        run: the run of the session that it belongs to.
        stage: the stage whose job it is.
        job: the job's name.
        number: 1 for the first attempt of the job in this run.
        state: finished, failed, cancelled, or lost (its worker died).
        started, ended: Unix times, in seconds.
        worker, host: where it ran.
        environment: the identity of the machine and versions that it ran with.
        body: the call, its inputs and outputs with their fingerprints, resources asked and used, failure.
    """

    run: str
    stage: str
    job: str
    number: int
    state: str
    started: float
    ended: float
    worker: str
    host: str
    environment: str
    body: Mapping[str, Any] = field(default_factory=dict)


class AttemptWriter:
    """Writes attempts as they end, in a thread of its own, many at once when many end at once."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._queue: queue.SimpleQueue[tuple[Attempt, Mapping[str, Any]] | None] = queue.SimpleQueue()
        self._known: set[str] = set()
        self._written = threading.Condition()
        self._waiting = 0
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._write, name="write-attempts", daemon=True)
        self._thread.start()

    def add(self, attempt: Attempt, environment: Mapping[str, Any]) -> None:
        """Have an attempt written, and the environment that it names if it is not known yet."""
        with self._written:
            self._waiting += 1
        self._queue.put((attempt, environment))

    def flush(self) -> None:
        """Wait until all attempts so far are written.

        Raises:
            Exception: what kept them from being written.
        """
        with self._written:
            self._written.wait_for(lambda: self._waiting == 0)
            error, self._error = self._error, None
        if error is not None:
            raise error

    def close(self) -> None:
        """Write what is left and end."""
        self._queue.put(None)
        self._thread.join()

    def _write(self) -> None:
        ended = False
        while not ended:
            batch = [self._queue.get()]
            while len(batch) < _BATCH and not self._queue.empty():
                batch.append(self._queue.get())
            ended = None in batch
            found = [item for item in batch if item is not None]
            try:
                if found:
                    write_attempts(self._context, found, self._known)
            except Exception as error:  # noqa: BLE001 - raised again by `flush`, in who waits for it
                self._error = error
            with self._written:
                self._waiting -= len(found)
                self._written.notify_all()


def write_attempts(context: Context, found: list[tuple[Attempt, Mapping[str, Any]]], known: set[str]) -> None:
    """Write attempts in one transaction, and those of their environments that are not among the known ones."""

    tried = False

    def write(connection: Connection) -> None:
        nonlocal tried
        # Writers take turns, so that a transaction whose end nobody heard of has ended.
        connection.execute(select(contexts.c.id).where(contexts.c.id == context.identifier).with_for_update())
        if tried and _is_there(connection, context, found[0][0]):
            return
        tried = True
        new = {
            attempt.environment: json.dumps(body)
            for attempt, body in found
            if attempt.environment not in (*known, "")
        }
        if new:
            connection.execute(
                # Another session may write the same at the same time; in this order they do not wait for each other.
                text("INSERT INTO environments (id, body) VALUES (:id, :body) ON CONFLICT DO NOTHING"),
                [{"id": name, "body": new[name]} for name in sorted(new)],
            )
        connection.execute(
            insert(attempts),
            [
                {**vars(attempt), "context": context.identifier, "body": json.dumps(attempt.body)}
                for attempt, _ in found
            ],
        )

    context.database.writing(write)
    known.update(attempt.environment for attempt, _ in found)


def _is_there(connection: Connection, context: Context, attempt: Attempt) -> bool:
    same = (getattr(attempts.c, name) == value for name, value in vars(attempt).items() if name != "body")
    query = select(attempts.c.id).where(attempts.c.context == context.identifier, *same)
    return connection.execute(query).first() is not None


def read_attempts(context: Context, stage: str | None = None, run: str | None = None) -> list[Attempt]:
    """The attempts of a context in the order in which they ended, or those of a stage or run."""
    names = [column.name for column in attempts.c if column.name not in ("id", "context", "body")]
    query = select(attempts).where(attempts.c.context == context.identifier).order_by(attempts.c.id)
    if stage is not None:
        query = query.where(attempts.c.stage == stage)
    if run is not None:
        query = query.where(attempts.c.run == run)
    rows = context.reading(lambda connection: connection.execute(query).all())
    return [Attempt(**{name: getattr(row, name) for name in names}, body=context.from_json(row.body)) for row in rows]


def read_environments(context: Context) -> dict[str, Any]:
    """The environments of a database's attempts, by their identity."""
    query = select(environments)
    rows = context.reading(lambda connection: connection.execute(query).all())
    return {row.id: context.from_json(row.body) for row in rows}
