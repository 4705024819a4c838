"""What is asked of a store: each question a part of the answer, found by the key that the part before ended with."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import Connection, Select, Table, and_, case, func, or_, select

from surgeline.context.tables import attempts, commits, contexts, environments, facts, validity, withdrawals
from surgeline.serve.models import Attempt, AttemptDetail, Change, Commit, Environment, Fact
from surgeline.serve.reading import NotThere

_SUMMARY = [attempts.c[name] for name in Attempt.model_fields]


class NoSuchVersion(NotThere):
    """A version that the context does not have."""


class ContextState(NamedTuple):
    """Of a context: when it was created, its newest version, and when that was committed."""

    created: float
    version: int
    committed: float | None


class HoldingCommit(NamedTuple):
    """Of a commit that holds: its version, and when it was committed."""

    version: int
    committed: float


def newest_version(connection: Connection, context: str) -> int:
    """How many commits there are."""
    query = select(func.coalesce(func.max(commits.c.version), 0)).where(commits.c.context == context)
    return int(connection.execute(query).scalar_one())


def checked_version(connection: Connection, context: str, version: int | None) -> int:
    """A version that the context has, the newest for None.

    Raises:
        NoSuchVersion: it has it not.
    """
    newest = newest_version(connection, context)
    if version is not None and version > newest:
        raise NoSuchVersion(f"the context has no version {version}", f"it has versions 0 to {newest}")
    return newest if version is None else version


def state_of(connection: Connection, context: str) -> ContextState:
    """How a context stands."""
    query = (
        select(contexts.c.created, func.coalesce(func.max(commits.c.version), 0), func.max(commits.c.committed))
        .outerjoin(commits, commits.c.context == contexts.c.id)
        .where(contexts.c.id == context)
        .group_by(contexts.c.id, contexts.c.created)
    )
    return ContextState(*connection.execute(query).one())


def commits_after(connection: Connection, context: str, version: int, limit: int) -> list[Commit]:
    """Commits in order, after a version."""
    query = (
        select(commits, withdrawals.c.withdrawn_by)
        .outerjoin(withdrawals, and_(*_same(withdrawals, commits)))
        .where(commits.c.context == context, commits.c.version > version)
        .order_by(commits.c.version)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    withdrawn = connection.execute(
        select(withdrawals.c.version, withdrawals.c.withdrawn_by)
        .where(
            withdrawals.c.context == context,
            withdrawals.c.withdrawn_by > version,
            withdrawals.c.withdrawn_by <= (rows[-1].version if rows else version),
        )
        .order_by(withdrawals.c.version)
    ).all()
    return [
        Commit(
            version=row.version,
            stage=row.stage,
            base=row.base,
            committed=row.committed,
            details=_content(row.details),
            withdrawn_by=row.withdrawn_by,
            withdraws=[other.version for other in withdrawn if other.withdrawn_by == row.version],
        )
        for row in rows
    ]


def holding_commits(connection: Connection, context: str) -> dict[str, HoldingCommit]:
    """Of each stage the latest commit that holds."""
    query = (
        select(commits.c.stage, commits.c.version, commits.c.committed)
        .outerjoin(withdrawals, and_(*_same(withdrawals, commits)))
        .where(commits.c.context == context, withdrawals.c.version.is_(None))
        .order_by(commits.c.version)
    )
    return {row.stage: HoldingCommit(row.version, row.committed) for row in connection.execute(query)}


def attempts_after(
    connection: Connection, context: str, number: int, limit: int, equal: Mapping[str, str | None]
) -> list[Attempt]:
    """Attempts in the order in which they ended, whose columns equal what is given."""
    query = (
        select(*_SUMMARY)
        .where(attempts.c.context == context, attempts.c.id > number)
        .order_by(attempts.c.id)
        .limit(limit)
    )
    for name, value in equal.items():
        if value is not None:
            query = query.where(attempts.c[name] == value)
    return [Attempt(**row._mapping) for row in connection.execute(query)]


def attempt_numbered(connection: Connection, context: str, number: int) -> AttemptDetail | None:
    """One attempt, with all that is recorded of it."""
    query = select(*_SUMMARY, attempts.c.body).where(attempts.c.context == context, attempts.c.id == number)
    row = connection.execute(query).first()
    return None if row is None else AttemptDetail(**{**row._mapping, "body": _content(row.body)})


def latest_attempt(connection: Connection, context: str) -> int:
    """The number of the attempt that ended last; 0 when there is none."""
    query = select(attempts.c.id).where(attempts.c.context == context).order_by(attempts.c.id.desc()).limit(1)
    return int(connection.execute(query).scalar() or 0)


def facts_at(
    connection: Connection,
    context: str,
    version: int,
    number: int,
    limit: int,
    *,
    kind: str | None = None,
    subject: str | None = None,
) -> list[Fact]:
    """Facts that hold at a version, oldest first."""
    query = (
        _facts()
        .join(validity, validity.c.fact == facts.c.id)
        .where(validity.c.context == context, _holds(version), facts.c.id > number)
        .order_by(facts.c.id)
        .limit(limit)
    )
    if kind is not None:
        query = query.where(validity.c.kind == kind)
    if subject is not None:
        query = query.where(validity.c.subject == subject)
    return [_fact(row) for row in connection.execute(query)]


def facts_that_name(connection: Connection, context: str, kind: str, text: str) -> list[Fact]:
    """Every fact of a kind, of whatever version, in whose body a text stands; the newest first."""
    query = (
        _facts()
        .where(facts.c.context == context, facts.c.kind == kind, facts.c.body.contains(text, autoescape=True))
        .order_by(facts.c.id.desc())
    )
    return [_fact(row) for row in connection.execute(query)]


def changes_between(
    connection: Connection, context: str, versions: tuple[int, int], number: int, limit: int
) -> list[tuple[int, Change]]:
    """What two versions say differently, each with the number by which the next part is found."""
    first, second = versions
    before = func.max(case((_holds(first), validity.c.fact))).label("before")
    after = func.max(case((_holds(second), validity.c.fact))).label("after")
    newest = func.max(validity.c.fact).label("newest")
    query = (
        select(validity.c.kind, validity.c.subject, before, after, newest)
        .where(validity.c.context == context, or_(_holds(first), _holds(second)))
        .group_by(validity.c.kind, validity.c.subject)
        # A withdrawal can let hold again what held before.
        .having(before.is_distinct_from(after), newest > number)
        .order_by(newest)
        .limit(limit)
    )
    rows = connection.execute(query).all()
    found = _facts_numbered(connection, (row[side] for row in rows for side in (2, 3)))
    return [
        (row.newest, Change(kind=row.kind, subject=row.subject, before=found[row.before], after=found[row.after]))
        for row in rows
    ]


def environments_after(connection: Connection, context: str, name: str, limit: int) -> list[Environment]:
    """The environments of a context's attempts by their identity, after one."""
    used = select(attempts.c.environment).where(attempts.c.context == context)
    query = (
        select(environments)
        .where(environments.c.id.in_(used), environments.c.id > name)
        .order_by(environments.c.id)
        .limit(limit)
    )
    return [Environment(id=row.id, body=_content(row.body)) for row in connection.execute(query)]


def _facts_numbered(connection: Connection, numbers: Iterable[int | None]) -> dict[int | None, Fact | None]:
    wanted = {number for number in numbers if number is not None}
    rows = connection.execute(_facts().where(facts.c.id.in_(wanted)))
    return {None: None, **{row.id: _fact(row) for row in rows}}


def _facts() -> Select[Any]:
    return select(facts, commits.c.stage).join(commits, and_(*_same(commits, facts)))


def _fact(row: Any) -> Fact:
    return Fact(
        id=row.id,
        kind=row.kind,
        subject=row.subject,
        schema_version=row.schema_version,
        version=row.version,
        stage=row.stage,
        body=_content(row.body),
    )


def _holds(version: int) -> Any:
    return and_(validity.c.since <= version, validity.c.until > version)


def _same(one: Table, other: Table) -> Sequence[Any]:
    return one.c.context == other.c.context, one.c.version == other.c.version


def _content(text: str) -> dict[str, Any]:
    """What stored JSON says; numbers that JSON has no word for are texts, as in facts."""
    content = json.loads(text, parse_constant=str)
    if not isinstance(content, dict):
        raise ValueError("what is stored is no JSON object")
    return content
