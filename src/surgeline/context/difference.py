"""What changed: from commit to commit, and between any two versions."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sqlalchemy import and_, func, not_, select

from surgeline.context.reading import rows, stored_facts, up_to_date
from surgeline.context.store import Commit, Context, StoredFact
from surgeline.context.tables import facts, validity


@dataclass(frozen=True)
class LogEntry:
    """A commit, and how many facts it said and took back, by kind."""

    commit: Commit
    said: dict[str, int]
    taken_back: dict[str, int]


@dataclass(frozen=True)
class FieldChange:
    """A field of a fact that changed; `field` is its path, like `scans.3.end`, and None stands for no such field."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True)
class ChangedFact:
    """What is said of the same subject at two versions, and the fields that differ."""

    before: StoredFact
    after: StoredFact
    fields: tuple[FieldChange, ...]


@dataclass(frozen=True)
class Difference:
    """What holds at one version and not at another, and what is said otherwise."""

    before: int
    after: int
    added: tuple[StoredFact, ...]
    gone: tuple[StoredFact, ...]
    changed: tuple[ChangedFact, ...]


def history(context: Context) -> list[LogEntry]:
    """Every commit in order, with the number of its facts."""
    empty = facts.c.body == ""
    query = (
        select(facts.c.version, facts.c.kind, empty, func.count())
        .where(facts.c.context == context.identifier)
        .group_by(facts.c.version, facts.c.kind, empty)
        .order_by(facts.c.version, facts.c.kind)
    )
    numbers: dict[int, tuple[dict[str, int], dict[str, int]]] = {}
    for version, kind, taken_back, number in rows(context, query):
        numbers.setdefault(version, ({}, {}))[bool(taken_back)][kind] = number
    return [LogEntry(commit, *numbers.get(commit.version, ({}, {}))) for commit in context.log()]


def difference(context: Context, before: int, after: int) -> Difference:
    """What changes from one version to another, which may be the earlier one.

    A fact that was said anew with the same content has not changed.

    Raises:
        ContextError: there is no such version.
        WorkfolderError: a fact is damaged.
    """
    for version in (before, after):
        context.at(version)
    gone = _facts_of_one(context, before, after)
    added = _facts_of_one(context, after, before)
    changed = []
    for about in [about for about in gone if about in added]:
        old, new = gone.pop(about), added.pop(about)
        fields = tuple(_compare(_content(context, old), _content(context, new)))
        if fields:
            changed.append(ChangedFact(old, new, fields))
    return Difference(before, after, tuple(added.values()), tuple(gone.values()), tuple(changed))


def _facts_of_one(context: Context, version: int, other: int) -> dict[tuple[str, str], StoredFact]:
    """The facts that hold at a version and not at the other, by kind and subject."""
    here = and_(validity.c.since <= version, validity.c.until > version)
    there = and_(validity.c.since <= other, validity.c.until > other)
    query = select(validity.c.fact).where(validity.c.context == context.identifier, here, not_(there))
    here_only = sorted(number for (number,) in rows(context, query))
    return {(stored.kind, stored.subject): stored for _, stored in stored_facts(context, here_only)}


def _content(context: Context, stored: StoredFact) -> Any:
    return context.from_json(up_to_date(context, stored).body)


def _compare(before: Any, after: Any, path: str = "") -> Iterator[FieldChange]:
    """The differences of two contents, as deep down as they have the same form."""
    if isinstance(before, dict) and isinstance(after, dict):
        for name in {**before, **after}:
            yield from _compare(before.get(name), after.get(name), f"{path}.{name}" if path else name)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for place, (old, new) in enumerate(zip(before, after, strict=True)):
            yield from _compare(old, new, f"{path}.{place}")
    elif before != after:
        yield FieldChange(path, before, after)
