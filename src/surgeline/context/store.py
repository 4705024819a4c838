"""The store of facts: what a session knows, in commits that are atomic, ordered and never changed."""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, NoReturn, TypeVar

from pydantic import ValidationError
from pydantic_core import PydanticSerializationError
from sqlalchemy import (
    JSON,
    Connection,
    Select,
    Table,
    Update,
    bindparam,
    case,
    func,
    insert,
    or_,
    select,
    text,
    true,
    update,
)
from sqlalchemy.exc import DatabaseError, DBAPIError

import surgeline
from surgeline.context.database import Database, named
from surgeline.context.draft import Draft
from surgeline.context.records import (
    AnyFact,
    Fact,
    from_stored,
    kind_called,
    name_of,
    subject_asked,
    subject_begins,
    subject_of,
)
from surgeline.context.tables import STILL, commits, contexts, facts, validity, withdrawals
from surgeline.context.view import matching
from surgeline.errors import BadInput, ConflictError, ContextError, WorkfolderError

Result = TypeVar("Result")

# Of how many subjects it is asked at once what holds.
_BATCH = 1000


@dataclass(frozen=True)
class Commit:
    """One commit: a stage's accepted result, or a change by hand.

    Attributes:
        version: its place in the order; the context's version once it was made.
        stage: what made it.
        base: the version that its maker had seen.
        committed: Unix time, in seconds.
        details: what its maker recorded of itself.
        withdrawn_by: the version that says that it holds no longer, or None.
    """

    version: int
    stage: str
    base: int
    committed: float
    details: Mapping[str, Any]
    withdrawn_by: int | None


@dataclass(frozen=True)
class StoredFact:
    """A fact as it is stored: `body` is JSON, empty where a fact was taken back."""

    kind: str
    subject: str
    schema_version: int
    body: str
    version: int
    stage: str


class Context:
    """What a session knows, as facts that are appended and never changed.

    A commit's facts become visible together or never. The context at version N is what commits 1…N say: the
    latest of the facts that say the same thing anew (see `Fact.identity`), without those of withdrawn commits.

    In a file, only the session's own process writes it, and its threads may share it; a PostgreSQL database may
    be written by many processes. What is damaged or newer than this version is told when it is met.
    """

    def __init__(
        self,
        where: str | Path | None,
        identifier: str | None = None,
        patience: float = 0.0,
        waiting: Callable[[str], None] | None = None,
        read_only: bool = False,
    ) -> None:
        """Open the store, made when missing.

        Args:
            where: a file, a PostgreSQL URL, or None for memory.
            identifier: which of a database's contexts; begun when it is not there. A file holds one.
            patience: seconds to wait for a database that cannot be reached.
            waiting: told when such a wait begins and ends.
            read_only: for readers beside the session that owns it.

        Raises:
            WorkfolderError: the file is no context, or cannot be written.
            ContextError: the database cannot be reached, or the store is of a newer version.
        """
        self.where = where
        try:
            self._database = Database(where, patience, waiting, read_only)
            found = identifier or self._database.reading(lambda c: c.execute(select(contexts.c.id)).scalar())
            self.identifier: str = found or uuid.uuid4().hex
            if not read_only:
                self._database.writing(self._begin)
        except (DatabaseError, OSError, UnicodeDecodeError) as error:
            self._unreadable(error)

    def _begin(self, connection: Connection) -> None:
        known = connection.execute(select(contexts.c.id).where(contexts.c.id == self.identifier)).scalar()
        if known is None:
            name = str(self.where.parent) if isinstance(self.where, Path) else ""
            connection.execute(
                # Another process may begin it at the same time.
                text(
                    "INSERT INTO contexts (id, name, created, surgeline) VALUES (:id, :name, :created, :surgeline) "
                    "ON CONFLICT DO NOTHING"
                ),
                {"id": self.identifier, "name": name, "created": time.time(), "surgeline": surgeline.__version__},
            )

    @property
    def database(self) -> Database:
        """The database behind it."""
        return self._database

    @property
    def version(self) -> int:
        """The newest version: how many commits there are."""
        return self.reading(self._head)

    def at(self, version: int | None = None) -> Snapshot:
        """The context as it was at a version, now unless given.

        Raises:
            ContextError: there is no such version yet.
        """
        newest = self.version
        if version is not None and not 0 <= version <= newest:
            raise ContextError(f"the context has no version {version}", f"it has versions 0 to {newest}")
        return Snapshot(self, newest if version is None else version)

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind that hold now and whose fields equal those given, oldest first."""
        return self.at().all(kind, **equal)

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""
        return self.at().last(kind, **equal)

    def commit(
        self,
        stage: str,
        added: Iterable[Fact],
        *,
        base: int | None = None,
        key: str = "",
        details: Mapping[str, Any] | None = None,
        removed: Iterable[tuple[type[Fact], str]] = (),
        withdrawn: Iterable[int] = (),
    ) -> int:
        """Append facts in one transaction; returns the new version.

        Args:
            stage: who says it.
            added: the facts.
            base: the version that they follow from; the newest unless given.
            key: a commit that is tried again with the same key is made once, and gives its version again.
            details: what to record of who says it.
            removed: kinds and subjects (see `subject_of`) of facts that hold no longer.
            withdrawn: versions of commits that hold no longer: what they replaced holds again.

        Raises:
            BadInput: a fact holds what is no text, or no value that can be stored.
            ConflictError: since `base`, another has said something else of the same subjects. Nothing is committed.
            WorkfolderError: the disk is full, or the file cannot be written. Nothing of the commit is kept.
            ContextError: the database was away for longer than patience lasts, or there is nothing to be withdrawn.
        """
        try:
            rows = [
                _Row(name_of(type(fact)), subject_of(fact), fact.schema_version, fact.model_dump_json())
                for fact in added
            ]
            stage.encode()
        except (PydanticSerializationError, UnicodeEncodeError) as error:
            raise BadInput(
                f"what stage {stage!r} says cannot be recorded: {error}", "use names and texts that are UTF-8"
            ) from error
        rows += [_Row(name_of(kind), subject, kind.schema_version, "") for kind, subject in removed]
        undone = tuple(dict.fromkeys(withdrawn))
        content = _Content(stage, rows, base, key or uuid.uuid4().hex, dict(details or {}), undone)
        try:
            return self._database.writing(lambda connection: self._append(connection, content))
        except DBAPIError as error:
            if isinstance(self.where, str):
                raise ContextError(
                    f"stage {stage!r} could not be recorded in the database: {error.orig}",
                    "when the cause is mended: surgeline resume",
                ) from error
            raise WorkfolderError(
                f"stage {stage!r} could not be recorded in {self.where}: {error.orig}",
                "free space or restore write permission, then: surgeline resume",
            ) from error

    def draft(self, stage: str) -> Draft:
        """A transient workspace upon the newest version: to try things, and accept or drop them whole."""
        return Draft(self.at(), lambda **content: self.commit(stage, **content))

    def log(self) -> list[Commit]:
        """Every commit, in order."""
        query = (
            select(commits, withdrawals.c.withdrawn_by)
            .outerjoin(
                withdrawals,
                (withdrawals.c.context == commits.c.context) & (withdrawals.c.version == commits.c.version),
            )
            .where(commits.c.context == self.identifier)
            .order_by(commits.c.version)
        )
        return [
            Commit(row.version, row.stage, row.base, row.committed, self.from_json(row.details), row.withdrawn_by)
            for row in self.reading(lambda connection: connection.execute(query).all())
        ]

    def stages(self) -> list[str]:
        """The stages whose commits hold, in order."""
        query = (
            select(commits.c.stage)
            .where(commits.c.context == self.identifier, ~_is_withdrawn(commits))
            .order_by(commits.c.version)
        )
        return list(self.reading(lambda connection: connection.execute(query).scalars().all()))

    def every(self) -> list[tuple[str, Fact]]:
        """Every fact of the commits that hold, replaced ones too, with the stage that said it, oldest first."""
        query = (
            self._stored()
            .where(facts.c.context == self.identifier, facts.c.body != "")
            .where(~_is_withdrawn(facts))
            .order_by(facts.c.id)
        )
        return [(row.stage, self.fact(row)) for row in self.rows(query)]

    def rows(self, query: Select[Any]) -> list[StoredFact]:
        """Facts as they are stored."""
        return [StoredFact(*row) for row in self.reading(lambda connection: connection.execute(query).all())]

    def subjects(self) -> dict[int, list[tuple[str, str]]]:
        """The kinds and subjects that each commit spoke of, by its version, without what it said of them."""
        query = (
            select(facts.c.version, facts.c.kind, facts.c.subject)
            .where(facts.c.context == self.identifier)
            .order_by(facts.c.id)
        )
        found: dict[int, list[tuple[str, str]]] = {}
        for version, kind, subject in self.reading(lambda connection: connection.execute(query).all()):
            found.setdefault(version, []).append((kind, subject))
        return found

    def said_by(self, version: int) -> list[StoredFact]:
        """What one commit said."""
        return self.rows(
            self._stored().where(facts.c.context == self.identifier, facts.c.version == version).order_by(facts.c.id)
        )

    def holding(
        self,
        version: int,
        kind: str | None = None,
        subject: str | None = None,
        texts: Mapping[str, str] = MappingProxyType({}),
    ) -> list[StoredFact]:
        """The facts that hold at a version, oldest first, as they are stored.

        Args:
            version: which.
            kind: only those of a kind.
            subject: only that of a subject.
            texts: leaves out those that are seen, without their kind, to have other texts in fields of these names;
                the rest is for who asks to compare.
        """
        query = (
            self._stored()
            .join(validity, validity.c.fact == facts.c.id)
            .where(
                validity.c.context == self.identifier,
                validity.c.since <= version,
                validity.c.until > version,
            )
            .order_by(facts.c.id)
        )
        if kind is not None:
            query = query.where(validity.c.kind == kind)
        if subject is not None:
            query = query.where(validity.c.subject == subject)
        known = kind_called(kind) if kind is not None and texts else None
        if known is not None:
            # Older bodies may have other fields.
            older = facts.c.schema_version != known.schema_version
            if subject is None and (begins := subject_begins(known, texts)):
                # Found by the index: no body is read of a fact of another namespace.
                query = query.where(self._begins(validity.c.subject, begins))
            query = query.where(*(or_(older, self._may_be(name, value)) for name, value in texts.items()))
        return self.rows(query)

    def fact(self, stored: StoredFact, kind: type[AnyFact] | None = None) -> AnyFact:
        """A stored fact as what it is.

        Raises:
            WorkfolderError, ContextError: it is damaged, of an unknown kind, or of a newer schema.
        """
        known: Any = kind or kind_called(stored.kind)
        if known is None:
            self.damaged(f"it holds facts of an unknown kind: {stored.kind}; install what defines it")
        try:
            found: AnyFact = from_stored(known, stored.schema_version, stored.body)
            return found
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in first["loc"])
            self.damaged(f"a {stored.kind} in it has another {field}: {first['msg']}")
        except (AttributeError, LookupError, TypeError, ValueError, RecursionError) as error:
            self.damaged(f"a {stored.kind} in it is of no schema: {error}", error)

    def close(self) -> None:
        """Let go of the database."""
        self._database.close()

    def reading(self, query: Callable[[Connection], Result]) -> Result:
        """Run a query that only reads.

        Raises:
            WorkfolderError, ContextError: the database is damaged, or cannot be reached.
        """
        try:
            return self._database.reading(query)
        except (DatabaseError, UnicodeDecodeError) as error:
            self._unreadable(error)

    def from_json(self, text: str) -> Any:
        """What a text of the store says that is JSON.

        Raises:
            WorkfolderError: it is damaged.
        """
        try:
            return json.loads(text)
        except (TypeError, ValueError, RecursionError) as error:
            self.damaged(f"what should be JSON in it is not: {error}", error)

    def _stored(self) -> Select[Any]:
        return select(
            facts.c.kind, facts.c.subject, facts.c.schema_version, facts.c.body, facts.c.version, commits.c.stage
        ).join(commits, (commits.c.context == facts.c.context) & (commits.c.version == facts.c.version))

    def _may_be(self, name: str, value: str) -> Any:
        """Whether a field of a body is a text; the cases keep what is no JSON from being read as such."""
        if self._database.sqlite:
            return case((facts.c.body != "", func.json_extract(facts.c.body, f'$."{name}"') == value))
        # PostgreSQL has no texts with NUL.
        field = facts.c.body.cast(JSON)[name].as_string()
        return case((func.strpos(facts.c.body, r"\u0000") > 0, true()), (facts.c.body != "", field == value))

    def _begins(self, column: Any, text: str) -> Any:
        """Whether a column begins with a text of ASCII that ends with a quotation mark."""
        if self._database.sqlite:
            # Its index is in the order of bytes, and "#" comes next.
            return (column >= text) & (column < text[:-1] + "#")
        return column.startswith(text, autoescape=True)

    def _head(self, connection: Connection) -> int:
        return int(
            connection.execute(
                select(func.coalesce(func.max(commits.c.version), 0)).where(commits.c.context == self.identifier)
            ).scalar_one()
        )

    def _append(self, connection: Connection, content: _Content) -> int:
        # On PostgreSQL writers of one context take turns here; in SQLite the transaction itself is the turn.
        connection.execute(select(contexts.c.id).where(contexts.c.id == self.identifier).with_for_update())
        mine = commits.c.context == self.identifier
        made = connection.execute(select(commits.c.version).where(mine, commits.c.commit_key == content.key)).scalar()
        if made is not None:
            return int(made)
        head = self._head(connection)
        base = head if content.base is None else content.base
        if base < head:
            self._check_conflicts(connection, content, base)
        self._check_withdrawn(connection, content.withdrawn, head)
        version = head + 1
        connection.execute(
            insert(commits).values(
                context=self.identifier,
                version=version,
                commit_key=content.key,
                stage=content.stage,
                base=base,
                committed=time.time(),
                details=json.dumps(content.details),
            )
        )
        for number in content.withdrawn:
            connection.execute(
                insert(withdrawals).values(context=self.identifier, version=number, withdrawn_by=version)
            )
        self._say(connection, version, content.rows)
        self._settle(connection, version, self._touched(connection, content.withdrawn))
        return version

    def _say(self, connection: Connection, version: int, rows: Sequence[_Row]) -> None:
        """Store facts and let them hold from this version on."""
        if not rows:
            return
        subjects = [row.subject or json.dumps([version, place]) for place, row in enumerate(rows)]
        stored = [
            {
                "context": self.identifier,
                "version": version,
                "kind": row.kind,
                "schema_version": row.schema_version,
                "subject": subject,
                "body": row.body,
            }
            for row, subject in zip(rows, subjects, strict=True)
        ]
        adding = insert(facts).returning(facts.c.id, sort_by_parameter_order=True)
        numbers = connection.execute(adding, stored).scalars().all()
        ended = [{"of_kind": row.kind, "of_subject": row.subject} for row in rows if row.subject]
        if ended:
            connection.execute(self._ending(version), ended)
        # Of what one commit says twice, the last word holds.
        last = {(row.kind, subject): place for place, (row, subject) in enumerate(zip(rows, subjects, strict=True))}
        held = [
            self._held(version, kind, subject, numbers[place])
            for (kind, subject), place in last.items()
            if rows[place].body
        ]
        if held:
            connection.execute(insert(validity), held)

    def _touched(self, connection: Connection, versions: Sequence[int]) -> list[tuple[str, str]]:
        if not versions:
            return []
        rows = connection.execute(
            select(facts.c.kind, facts.c.subject).where(
                facts.c.context == self.identifier, facts.c.version.in_(versions)
            )
        )
        # Each once; asked to do that, SQLite reads all facts that there are in the order of their subjects.
        return list(dict.fromkeys((row.kind, row.subject) for row in rows))

    def _settle(self, connection: Connection, version: int, touched: Sequence[tuple[str, str]]) -> None:
        """Let hold what is the latest word of each kind and subject once commits were withdrawn."""
        subjects: dict[str, list[str]] = {}
        for kind, subject in touched:
            subjects.setdefault(kind, []).append(subject)
        for kind, all_of_kind in subjects.items():
            for first in range(0, len(all_of_kind), _BATCH):
                self._settle_some(connection, version, kind, all_of_kind[first : first + _BATCH])

    def _settle_some(self, connection: Connection, version: int, kind: str, subjects: Sequence[str]) -> None:
        newest = (
            select(func.max(facts.c.id))
            .where(facts.c.context == self.identifier, facts.c.kind == kind, facts.c.subject.in_(subjects))
            .where(~_is_withdrawn(facts))
            .group_by(facts.c.subject)
        )
        words = select(facts.c.subject, facts.c.id).where(facts.c.id.in_(newest), facts.c.body != "")
        holding = select(validity.c.subject, validity.c.fact).where(
            validity.c.context == self.identifier,
            validity.c.kind == kind,
            validity.c.subject.in_(subjects),
            validity.c.until == STILL,
        )
        latest = {row.subject: row.id for row in connection.execute(words)}
        current = {row.subject: row.fact for row in connection.execute(holding)}
        changed = [subject for subject in subjects if latest.get(subject) != current.get(subject)]
        ended = [{"of_kind": kind, "of_subject": subject} for subject in changed if subject in current]
        if ended:
            connection.execute(self._ending(version), ended)
        held = [self._held(version, kind, subject, latest[subject]) for subject in changed if subject in latest]
        if held:
            connection.execute(insert(validity), held)

    def _ending(self, version: int) -> Update:
        """Ends what holds of a kind and subject, given as parameters."""
        return (
            update(validity)
            .where(
                validity.c.context == self.identifier,
                validity.c.kind == bindparam("of_kind"),
                validity.c.subject == bindparam("of_subject"),
                validity.c.until == STILL,
            )
            .values(until=version)
        )

    def _held(self, version: int, kind: str, subject: str, fact: int) -> dict[str, Any]:
        return {
            "context": self.identifier,
            "kind": kind,
            "subject": subject,
            "fact": fact,
            "since": version,
            "until": STILL,
        }

    def _check_conflicts(self, connection: Connection, content: _Content, base: int) -> None:
        """Refuse what contradicts something said by others since the base.

        Raises:
            ConflictError: naming the facts and both stages.
        """
        others: dict[tuple[str, str], StoredFact] = {}
        undone = (
            select(withdrawals.c.version, withdrawals.c.withdrawn_by, commits.c.stage)
            .join(
                commits,
                (commits.c.context == withdrawals.c.context) & (commits.c.version == withdrawals.c.withdrawn_by),
            )
            .where(withdrawals.c.context == self.identifier, withdrawals.c.version <= base)
            .where(withdrawals.c.withdrawn_by > base)
        )
        for number, by, stage in connection.execute(undone).all():
            for kind, subject in self._touched(connection, [number]):
                others[kind, subject] = StoredFact(kind, subject, 0, "", by, stage)
        said = (
            self._stored()
            .where(facts.c.context == self.identifier, commits.c.version > base, ~_is_withdrawn(facts))
            .order_by(facts.c.id)
        )
        others |= {(row.kind, row.subject): StoredFact(*row) for row in connection.execute(said)}
        mine = {(row.kind, row.subject): row.body for row in content.rows if row.subject}
        withdrawing = [both for both in self._touched(connection, content.withdrawn) if both not in mine]
        clashes = [others[both] for both, body in mine.items() if both in others and others[both].body != body]
        clashes += [others[both] for both in withdrawing if both in others]
        if not clashes:
            return
        named = "; ".join(f"{clash.kind} {clash.subject}, by {clash.stage!r}" for clash in clashes[:5])
        more = f" and {len(clashes) - 5} more" if len(clashes) > 5 else ""
        raise ConflictError(
            f"stage {content.stage!r} began at version {base}, and what it says contradicts what was said since: "
            f"{named}{more}",
            "let one of these stages need the other in the recipe, or let them make different things",
        )

    def _check_withdrawn(self, connection: Connection, versions: Sequence[int], head: int) -> None:
        """Refuse to withdraw what is not there, or not any more.

        Raises:
            ContextError: naming the version.
        """
        query = select(withdrawals.c.version, withdrawals.c.withdrawn_by).where(
            withdrawals.c.context == self.identifier, withdrawals.c.version.in_(versions)
        )
        before = {row.version: row.withdrawn_by for row in connection.execute(query)} if versions else {}
        for version in versions:
            if not 1 <= version <= head:
                raise ContextError(f"the context has no version {version}", f"it has versions 1 to {head}")
            if version in before:
                raise ContextError(
                    f"version {version} was withdrawn already, by version {before[version]}", "leave it as it is"
                )

    def _unreadable(self, error: Exception) -> NoReturn:
        cause = error.orig if isinstance(error, DBAPIError) else error
        if isinstance(self.where, str):
            raise ContextError(
                f"the database {named(self.where)} cannot be used: {cause}",
                "correct context.url, or mend the database",
            ) from error
        self.damaged(str(cause), error)

    def damaged(self, cause: str, error: Exception | None = None) -> NoReturn:
        """Tell that the store cannot be read.

        Raises:
            WorkfolderError: always.
        """
        raise WorkfolderError(
            f"{named(self.where)} cannot be read as a context: {cause}",
            "if it is damaged, or of another version of Surgeline, move it away and run the recipe anew in an empty "
            "working folder",
        ) from error


class Snapshot:
    """A context as it was at one version; later commits do not change what it says."""

    def __init__(self, context: Context, version: int) -> None:
        self._context = context
        self._version = version
        # What was asked for, and which facts were found: provenance of whoever reads.
        self.asked: set[str] = set()
        self.read: set[tuple[str, str, int]] = set()

    @property
    def context(self) -> Context:
        """The context that it is a version of."""
        return self._context

    @property
    def version(self) -> int:
        """Which version it is."""
        return self._version

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind that held then and whose fields equal those given, oldest first."""
        # Texts are compared by the database, but for NUL, where SQLite's end; what else is asked for, here.
        texts = {name: value for name, value in equal.items() if isinstance(value, str) and "\0" not in value}
        stored = self._context.holding(self._version, name_of(kind), subject_asked(kind, equal), texts)
        found = [(row, self._context.fact(row, kind)) for row in stored]
        self.asked.add(name_of(kind))
        matched = [(row, fact) for row, fact in found if matching([fact], equal)]
        self.read.update((row.kind, row.subject, row.version) for row, _ in matched)
        return [fact for _, fact in matched]

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""
        found = self.all(kind, **equal)
        return found[-1] if found else None


@dataclass(frozen=True)
class _Row:
    kind: str
    subject: str
    schema_version: int
    body: str


@dataclass(frozen=True)
class _Content:
    """What a commit is made of."""

    stage: str
    rows: Sequence[_Row]
    base: int | None
    key: str
    details: Mapping[str, Any]
    withdrawn: tuple[int, ...]


def _is_withdrawn(table: Table) -> Any:
    return (
        select(withdrawals.c.version)
        .where(withdrawals.c.context == table.c.context, withdrawals.c.version == table.c.version)
        .exists()
    )
