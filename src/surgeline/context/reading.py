"""What a context said at a version, read a part at a time: for exports and comparisons."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

from sqlalchemy import Select, func, select

from surgeline.context.attempts import Attempt, read_attempts
from surgeline.context.records import kind_called
from surgeline.context.store import Commit, Context, StoredFact
from surgeline.context.tables import attempts, commits, facts, validity

# How many facts are in memory at once.
_PAGE = 1000


def kinds_at(context: Context, version: int) -> dict[str, int]:
    """How many facts of each kind hold at a version, by the kinds' names."""
    query = (
        select(validity.c.kind, func.count())
        .where(*_holding(context, version))
        .group_by(validity.c.kind)
        .order_by(validity.c.kind)
    )
    return dict(rows(context, query))


def numbers_at(context: Context, version: int, kind: str) -> list[int]:
    """The numbers of the facts of a kind that hold at a version, oldest first."""
    query = select(validity.c.fact).where(*_holding(context, version), validity.c.kind == kind)
    return sorted(number for (number,) in rows(context, query))


def stored_facts(context: Context, numbers: Sequence[int]) -> Iterator[tuple[int, StoredFact]]:
    """The facts of these numbers, which rise, each with its number; only some of them are in memory at a time."""
    content = (facts.c.kind, facts.c.subject, facts.c.schema_version, facts.c.body, facts.c.version, commits.c.stage)
    for page in pages(numbers):
        query = (
            select(facts.c.id, *content)
            .join(commits, (commits.c.context == facts.c.context) & (commits.c.version == facts.c.version))
            .where(facts.c.id.in_(page))
            .order_by(facts.c.id)
        )
        for number, *row in rows(context, query):
            yield number, StoredFact(*row)


def up_to_date(context: Context, stored: StoredFact) -> StoredFact:
    """A fact as its kind is now; as it was stored where nobody here knows the kind.

    Raises:
        WorkfolderError, ContextError: it is damaged, or of a newer schema.
    """
    kind = kind_called(stored.kind)
    if kind is None:
        return stored
    body = context.fact(stored, kind).model_dump_json()
    return replace(stored, schema_version=kind.schema_version, body=body)


def commits_until(context: Context, version: int) -> list[Commit]:
    """The commits up to a version as they stood then: what was withdrawn later had not been."""
    return [
        commit if (commit.withdrawn_by or 0) <= version else replace(commit, withdrawn_by=None)
        for commit in context.log()[:version]
    ]


def attempts_until(context: Context, version: int) -> Iterator[Attempt]:
    """The attempts that had ended when a version was made, stage by stage; all of them for the newest version."""
    log = context.log()
    last = math.inf if version >= len(log) else log[version - 1].committed if version else 0.0
    query = select(attempts.c.stage).where(attempts.c.context == context.identifier).distinct()
    for stage in sorted(stage for (stage,) in rows(context, query)):
        yield from (attempt for attempt in read_attempts(context, stage) if attempt.ended <= last)


def rows(context: Context, query: Select[Any]) -> Sequence[Any]:
    """What a query of columns that are never empty finds.

    Raises:
        WorkfolderError, ContextError: the store is damaged, or cannot be reached.
    """
    found = context.reading(lambda connection: connection.execute(query).all())
    if any(value is None for row in found for value in row):
        context.damaged("a column is empty that never is")
    return found


def pages(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    """Numbers, as many at a time as facts may be in memory."""
    return (numbers[first : first + _PAGE] for first in range(0, len(numbers), _PAGE))


def _holding(context: Context, version: int) -> tuple[Any, ...]:
    return (validity.c.context == context.identifier, validity.c.since <= version, validity.c.until > version)
