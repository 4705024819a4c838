"""What happens in a session, as it happens: a feed that can go on where it was left."""

from __future__ import annotations

import hashlib
import re
import time
from base64 import urlsafe_b64encode
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace

from anyio import sleep, to_thread
from pydantic import BaseModel
from sqlalchemy import Connection

from surgeline.serve.models import Attempt, Commit, RunState, Stage, Trouble
from surgeline.serve.queries import attempts_after, commits_after, holding_commits
from surgeline.serve.reading import NotBegun, Unreadable
from surgeline.serve.record import Record
from surgeline.serve.sources import Session
from surgeline.serve.stages import merged_stages

# A mark of the context, its version, the number of an attempt, and marks of stages and of the run.
POSITION = r"([A-Za-z0-9_-]{6})\.([0-9]{1,9})\.([0-9]{1,18})\.((?:[A-Za-z0-9_-]{6})*)"

_SECONDS_BETWEEN_LOOKS = 0.4
_SECONDS_BETWEEN_HEARTBEATS = 5.0
_MILLISECONDS_UNTIL_RECONNECT = 1000
_AT_ONCE = 500
_NO_CONTEXT = "______"


@dataclass(frozen=True)
class Position:
    """Up to where a client was told.

    Attributes:
        context: a mark of the context; another one in the same folder is told from its beginning.
        version: the last commit.
        attempt: the last attempt.
        marks: of how each stage and the run stood when that was told last.
    """

    context: str = _NO_CONTEXT
    version: int = 0
    attempt: int = 0
    marks: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.context}.{self.version}.{self.attempt}.{''.join(self.marks)}"

    @classmethod
    def parse(cls, text: str) -> Position:
        """The position that was written as a text; the beginning where that is none."""
        found = re.fullmatch(POSITION, text)
        if found is None:
            return cls()
        context, version, attempt, marks = found.groups()
        return cls(context, int(version), int(attempt), tuple(re.findall(".{6}", marks)))


@dataclass(frozen=True)
class Event:
    """One thing that happened, and the position after it; none where it need not be told again."""

    kind: str
    content: BaseModel
    position: Position | None

    def __str__(self) -> str:
        number = f"id: {self.position}\n" if self.position else ""
        return f"{number}event: {self.kind}\ndata: {self.content.model_dump_json()}\n\n"


@dataclass(frozen=True)
class News:
    """What happened after a position, and whether that was all."""

    events: list[Event]
    position: Position
    complete: bool


def position_after(record: Record, stages: list[Stage], context: str, version: int, attempt: int) -> Position:
    """The position after all that is told of a session at once."""
    return Position(_mark(context), version, attempt, tuple(_marks(record, stages)))


def news_since(session: Session, position: Position) -> News:
    """What happened after a position: attempts, then commits, then changes of stages and of the run.

    Raises:
        Unreadable: the store cannot be read now.
    """
    # First: what it calls finished has been committed by then.
    record = session.read_record()

    def ask(connection: Connection, context: str) -> tuple[Position, list[Attempt], list[Commit], list[Stage]]:
        mark = _mark(context)
        begin = position if position.context == mark else Position(mark, marks=position.marks)
        return (
            begin,
            attempts_after(connection, context, begin.attempt, _AT_ONCE, {}),
            commits_after(connection, context, begin.version, _AT_ONCE),
            merged_stages(record, holding_commits(connection, context)),
        )

    try:
        position, attempts, commits, stages = session.read(ask)
    except NotBegun:
        attempts, commits, stages = [], [], merged_stages(record, {})
    events = []
    for attempt in attempts:
        position = replace(position, attempt=attempt.id)
        events.append(Event("attempt", attempt, position))
    for commit in commits:
        position = replace(position, version=commit.version)
        events.append(Event("commit", commit, position))
    complete = max(len(attempts), len(commits)) < _AT_ONCE
    if complete:
        changes = _changes(record, stages, position)
        events += changes
        position = (changes[-1].position if changes else None) or position
    return News(events, position, complete)


async def feed(session: Session, position: Position, follow: bool, ending: Callable[[], bool]) -> AsyncIterator[str]:
    """The events after a position as text/event-stream.

    Args:
        session: whose.
        position: after which.
        follow: go on with what happens from now on.
        ending: whether the server is about to end.
    """
    yield f"retry: {_MILLISECONDS_UNTIL_RECONNECT}\n\n"
    last_told = time.monotonic()
    trouble = ""
    while not ending():
        try:
            news = await to_thread.run_sync(news_since, session, position)
            events, position, complete, trouble = news.events, news.position, news.complete, ""
        except Unreadable as error:
            told_already, trouble, complete = error.message == trouble, error.message, True
            content = Trouble(detail=error.message, way_out=error.way_out)
            events = [] if told_already else [Event("unreadable", content, None)]
        if events:
            yield "".join(map(str, events))
            last_told = time.monotonic()
        elif time.monotonic() - last_told > _SECONDS_BETWEEN_HEARTBEATS:
            # Keeps proxies from giving up, and finds out whether anybody still listens.
            yield ": nothing new\n\n"
            last_told = time.monotonic()
        if complete and not follow:
            return
        if complete:
            await sleep(_SECONDS_BETWEEN_LOOKS)


def _changes(record: Record, stages: list[Stage], position: Position) -> list[Event]:
    """What changed of stages and then of the run since a position."""
    now = _marks(record, stages)
    # What is not so any more need not be remembered.
    told = [mark for mark in position.marks if mark in now]
    events = []
    contents: list[Stage | RunState] = [*stages, _run_state(record)]
    for mark, content in zip(now, contents, strict=bool(now)):
        if mark not in told:
            told.append(mark)
            kind = "stage" if isinstance(content, Stage) else "session"
            events.append(Event(kind, content, replace(position, marks=tuple(told))))
    return events


def _run_state(record: Record) -> RunState:
    return RunState(state=record.state, started=record.started, ended=record.ended, error=record.error)


def _marks(record: Record, stages: list[Stage]) -> list[str]:
    """A mark of how each stage stands, and then of how the run does; none where there is no record."""
    if not record.stages:
        return []
    run = _mark(f"{record.state} {record.started} {record.ended}")
    return [*(_mark(f"{one.name} {one.state} {one.started} {one.ended}") for one in stages), run]


def _mark(text: str) -> str:
    """Six letters that are others for another text."""
    return urlsafe_b64encode(hashlib.sha256(text.encode()).digest())[:6].decode()
