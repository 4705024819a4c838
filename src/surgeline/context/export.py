"""A context at a version for others to read: as JSON with its schema, as a file for jobs, and as W3C PROV."""

from __future__ import annotations

import json
import math
import sqlite3
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import IO, Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import FloatSchema
from sqlalchemy import Connection, Select, func, insert, select
from sqlalchemy.exc import DatabaseError

import surgeline
from surgeline.context.attempts import Attempt, read_attempts, read_environments
from surgeline.context.database import Database
from surgeline.context.records import KINDS, Fact, kind_called, name_of
from surgeline.context.store import Commit, Context, StoredFact
from surgeline.context.tables import STILL, attempts, commits, contexts, facts, validity, withdrawals
from surgeline.errors import WorkfolderError
from surgeline.paths import safe_name

FORMAT = "surgeline context"
FORMAT_VERSION = 1

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
    return dict(_rows(context, query))


def numbers_at(context: Context, version: int, kind: str) -> list[int]:
    """The numbers of the facts of a kind that hold at a version, oldest first."""
    query = select(validity.c.fact).where(*_holding(context, version), validity.c.kind == kind)
    return sorted(number for (number,) in _rows(context, query))


def stored_facts(context: Context, numbers: Sequence[int]) -> Iterator[tuple[int, StoredFact]]:
    """The facts of these numbers, which rise, each with its number; only some of them are in memory at a time."""
    content = (facts.c.kind, facts.c.subject, facts.c.schema_version, facts.c.body, facts.c.version, commits.c.stage)
    for page in _pages(numbers):
        query = (
            select(facts.c.id, *content)
            .join(commits, (commits.c.context == facts.c.context) & (commits.c.version == facts.c.version))
            .where(facts.c.id.in_(page))
            .order_by(facts.c.id)
        )
        for number, *row in _rows(context, query):
            yield number, StoredFact(*row)


def up_to_date(context: Context, stored: StoredFact, kind: type[Fact] | None) -> StoredFact:
    """A fact as its kind is now; as it was stored where nobody here knows the kind.

    Raises:
        WorkfolderError, ContextError: it is damaged, or of a newer schema.
    """
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
    for stage in sorted(stage for (stage,) in _rows(context, query)):
        yield from (attempt for attempt in read_attempts(context, stage) if attempt.ended <= last)


# JSON


def export_json(context: Context, version: int | None = None) -> Iterator[str]:
    """The context at a version as the text of a JSON document, piece by piece; `json_schema` describes it.

    Raises:
        ContextError: there is no such version, or it holds what only a newer Surgeline knows.
        WorkfolderError: a fact is damaged.
    """
    seen = context.at(version).version
    head = {
        "format": FORMAT,
        "format_version": FORMAT_VERSION,
        "surgeline": surgeline.__version__,
        "context": context.identifier,
        "version": seen,
    }
    yield _json(head)[:-1] + ',\n"commits": [\n'
    yield from _separated(_json(vars(commit)) for commit in commits_until(context, seen))
    yield '\n],\n"facts": {'
    for place, name in enumerate(kinds_at(context, seen)):
        yield f"{',' if place else ''}\n{_json(name)}: [\n"
        yield from _separated(_facts_as_json(context, seen, name))
        yield "\n]"
    yield '\n},\n"attempts": [\n'
    used: set[str] = set()
    yield from _separated(_attempts_as_json(context, seen, used))
    environments = {name: body for name, body in read_environments(context).items() if name in used}
    yield f'\n],\n"environments": {_json(environments)}\n}}\n'


def _facts_as_json(context: Context, version: int, name: str) -> Iterator[str]:
    kind = kind_called(name)
    for _, stored in stored_facts(context, numbers_at(context, version, name)):
        fact = up_to_date(context, stored, kind)
        head = {
            "subject": fact.subject,
            "version": fact.version,
            "stage": fact.stage,
            "schema_version": fact.schema_version,
        }
        # A body is JSON already.
        yield f'{_json(head)[:-1]}, "body": {fact.body}}}'


def _attempts_as_json(context: Context, version: int, environments: set[str]) -> Iterator[str]:
    """Attempts as JSON; their environments are added to those given."""
    for attempt in attempts_until(context, version):
        # Of a worker that was lost nobody knows where it was.
        if attempt.environment:
            environments.add(attempt.environment)
        yield _json(vars(attempt))


class _SchemaOfFacts(GenerateJsonSchema):
    """Numbers in facts may be what JSON has no word for."""

    def float_schema(self, schema: FloatSchema) -> JsonSchemaValue:
        return {"anyOf": [super().float_schema(schema), {"enum": ["NaN", "Infinity", "-Infinity"]}]}


def json_schema(kinds: Iterable[str] = ()) -> dict[str, Any]:
    """The JSON Schema of what `export_json` gives.

    Args:
        kinds: names of kinds beside Surgeline's own; facts of those that nobody here knows may say anything.
    """
    known = {name_of(kind): kind for kind in KINDS.values()}
    known |= {name: kind for name in kinds if (kind := kind_called(name)) is not None}
    references, definitions = models_json_schema(
        [(kind, "validation") for kind in known.values()],
        ref_template="#/$defs/{model}",
        schema_generator=_SchemaOfFacts,
    )
    of_kinds = {
        name: _list(_fact_schema({"const": kind.schema_version}, references[kind, "validation"]))
        for name, kind in known.items()
    }
    text, number, count, anything = {"type": "string"}, {"type": "number"}, {"type": "integer"}, {"type": "object"}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": f"urn:surgeline:context:format:{FORMAT_VERSION}",
        "title": "What a context of Surgeline says at a version",
        **_object(
            format={"const": FORMAT},
            format_version={"const": FORMAT_VERSION},
            surgeline=text,
            context=text,
            version=count,
            commits=_list(
                _object(
                    version=count,
                    stage=text,
                    base=count,
                    committed=number,
                    details=anything,
                    withdrawn_by={"type": ["integer", "null"]},
                )
            ),
            facts={
                "type": "object",
                "properties": of_kinds,
                "additionalProperties": _list(_fact_schema(count, anything)),
            },
            attempts=_list(
                _object(
                    run=text,
                    stage=text,
                    job=text,
                    number=count,
                    state={"enum": ["finished", "failed", "cancelled", "lost"]},
                    started=number,
                    ended=number,
                    worker=text,
                    host=text,
                    environment=text,
                    body=anything,
                )
            ),
            environments={"type": "object", "additionalProperties": anything},
        ),
        **definitions,
    }


def _fact_schema(schema_version: Mapping[str, Any], body: Mapping[str, Any]) -> dict[str, Any]:
    return _object(
        subject={"type": "string"},
        version={"type": "integer"},
        stage={"type": "string"},
        schema_version=schema_version,
        body=body,
    )


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(**properties: Any) -> dict[str, Any]:
    """The schema of an object that has these properties and no others."""
    return {"type": "object", "properties": properties, "required": [*properties], "additionalProperties": False}


# A file for jobs


def export_snapshot(context: Context, version: int, path: Path) -> None:
    """Write what holds at a version into a file of its own, for jobs that have no other way to the store.

    `Context(path, read_only=True)` answers from it, at that version, as the context itself does. Of earlier versions,
    of what stages recorded of themselves and of attempts it knows nothing. A file of that name is replaced.

    Raises:
        ContextError: there is no such version.
        WorkfolderError: the file cannot be written.
    """
    seen = context.at(version).version
    try:
        with tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent) as folder:
            partial = Path(folder) / path.name
            database = Database(partial)
            try:
                database.writing(lambda target: _copy(context, seen, target))
            finally:
                database.close()
            with closing(sqlite3.connect(partial)) as connection:
                # A write-ahead log would have to be made beside it even by those who only read.
                connection.execute("PRAGMA journal_mode=DELETE")
            partial.chmod(0o444)
            partial.replace(path)
    except (OSError, DatabaseError, sqlite3.Error) as error:
        cause = error.orig if isinstance(error, DatabaseError) else error
        raise WorkfolderError(
            f"the snapshot {path} could not be written: {cause}", "free space or restore write permission"
        ) from error


def _copy(context: Context, version: int, target: Connection) -> None:
    mine = context.identifier
    rows_of = {
        contexts: select(contexts).where(contexts.c.id == mine),
        commits: select(commits).where(commits.c.context == mine, commits.c.version <= version),
        withdrawals: select(withdrawals).where(withdrawals.c.context == mine, withdrawals.c.withdrawn_by <= version),
    }
    for table, query in rows_of.items():
        rows = [row._asdict() for row in _rows(context, query)]
        if rows:
            target.execute(insert(table), [row | {"details": "{}"} if table is commits else row for row in rows])
    for kind in kinds_at(context, version):
        for page in _pages(numbers_at(context, version, kind)):
            said, held = [], []
            for number, fact in stored_facts(context, page):
                about = {"context": mine, "kind": kind, "subject": fact.subject}
                content = {"version": fact.version, "schema_version": fact.schema_version, "body": fact.body}
                said.append({"id": number, **about, **content})
                # Of earlier versions it would tell only a part: so it tells nothing of them.
                held.append({"fact": number, **about, "since": version, "until": STILL})
            target.execute(insert(facts), said)
            target.execute(insert(validity), held)


# PROV


def export_prov(context: Context, version: int | None = None) -> Iterator[str]:
    """The provenance of all that was said up to a version, as the text of a PROV-JSON document, piece by piece.

    Entities are facts, and files in a state; activities are commits, and attempts of jobs; agents are the machines
    with the versions that attempts ran with, and the Surgeline that made a commit. A file's state is generated by the
    attempt that made it, or by the commit where no attempt says so, and derived from what that attempt read. A fact
    is derived from the fact that it replaced and from the file that it is about, and invalidated by the commit that
    replaced it, took it back, or withdrew the one that had said it.

    Raises:
        ContextError: there is no such version.
    """
    seen = context.at(version).version
    made = commits_until(context, seen)
    with ExitStack() as files:
        document = _Document(files)
        _tell_attempts(document, context, made)
        for commit in made:
            _tell_commit(document, context, commit)
        _tell_facts(document, context, made)
        yield from document.text(
            {"surgeline": "urn:surgeline:terms:", "context": f"urn:surgeline:context:{context.identifier}:"}
        )


class _Document:
    """A PROV-JSON document; until all is told its sections are in files, so that it takes no memory."""

    def __init__(self, files: ExitStack) -> None:
        self._files = files
        self._sections: dict[str, IO[str]] = {}
        self._relations = 0
        # What was told that may be met again, and the states of files that something made.
        self._told: set[str] = set()
        self._generated: set[str] = set()

    def tell(self, section: str, identifier: str, content: Mapping[str, Any]) -> None:
        """Tell of something; what is None is left out."""
        if section not in self._sections:
            lines = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the others
            self._sections[section] = self._files.enter_context(lines)
        present = {name: value for name, value in content.items() if value is not None}
        self._sections[section].write(f"{_json(identifier)}: {_json(present)}\n")

    def tell_once(self, section: str, identifier: str, content: Mapping[str, Any]) -> None:
        """Tell of something that may be told of already."""
        if identifier not in self._told:
            self._told.add(identifier)
            self.tell(section, identifier, content)

    def relate(self, relation: str, **content: Any) -> None:
        """Tell how things are related; all names are PROV's."""
        self._relations += 1
        self.tell(relation, f"_:r{self._relations}", {f"prov:{name}": value for name, value in content.items()})

    def state(self, path: str, digest: str) -> str:
        """The identifier of a file in a state."""
        identifier = _hashed("file", path, digest)
        content = {"prov:label": path, "surgeline:path": path, "surgeline:digest": digest}
        self.tell_once("entity", identifier, {**content, **_type("surgeline:File")})
        return identifier

    def generate(self, state: str, activity: str, time: str) -> bool:
        """Tell what made a state of a file, unless something else is known to have."""
        if state in self._generated:
            return False
        self._generated.add(state)
        self.relate("wasGeneratedBy", entity=state, activity=activity, time=time)
        return True

    def text(self, prefix: Mapping[str, str]) -> Iterator[str]:
        """The document, piece by piece."""
        yield f'{{\n"prefix": {_json(prefix)}'
        for section, lines in self._sections.items():
            lines.seek(0)
            yield f",\n{_json(section)}: {{\n"
            yield from _separated(line.rstrip("\n") for line in lines)
            yield "\n}"
        yield "\n}\n"


def _tell_attempts(document: _Document, context: Context, made: Sequence[Commit]) -> None:
    commit_of = {(commit.details.get("run"), commit.stage): _commit(commit.version) for commit in made}
    used: set[str] = set()
    for attempt in attempts_until(context, len(made)):
        activity = _hashed("attempt", vars(attempt))
        began, ended, body = _time(attempt.started), _time(attempt.ended), attempt.body
        content = {
            "prov:startTime": began,
            "prov:endTime": ended,
            "prov:label": attempt.job,
            **{
                f"surgeline:{name}": getattr(attempt, name)
                for name in ("stage", "number", "state", "run", "host", "worker")
            },
            "surgeline:call": body.get("call"),
            "surgeline:commands": "\n".join(body.get("commands", ())) or None,
        }
        document.tell_once("activity", activity, {**content, **_type("surgeline:Attempt")})
        if attempt.environment:
            document.relate("wasAssociatedWith", activity=activity, agent=_environment(attempt.environment))
            used.add(attempt.environment)
        if (attempt.run, attempt.stage) in commit_of:
            commit = commit_of[attempt.run, attempt.stage]
            document.relate("wasInformedBy", informed=commit, informant=activity)
        read = [document.state(*file) for file in _states(body.get("inputs", ()))]
        for state in read:
            document.relate("used", activity=activity, entity=state)
        written = _states(body.get("outputs", ())) if attempt.state == "finished" else []
        for state in (document.state(*file) for file in written):
            # What a job left as it was is nothing that it made.
            if state not in read and document.generate(state, activity, ended):
                for source in read:
                    document.relate("wasDerivedFrom", generatedEntity=state, usedEntity=source, activity=activity)
    known = read_environments(context)
    for identity in sorted(used):
        document.tell("agent", _environment(identity), _agent(known.get(identity, {})))


def _tell_commit(document: _Document, context: Context, commit: Commit) -> None:
    activity, time, details = _commit(commit.version), _time(commit.committed), commit.details
    content = {
        "prov:endTime": time,
        "prov:label": commit.stage,
        "surgeline:version": commit.version,
        "surgeline:base": commit.base,
        **{f"surgeline:{name}": details.get(name) for name in ("task", "recipe", "run")},
        "surgeline:arguments": _json(details["arguments"]) if "arguments" in details else None,
    }
    document.tell("activity", activity, {**content, **_type("surgeline:Commit")})
    if "surgeline" in details:
        agent = f"context:surgeline.{safe_name(details['surgeline'])}"
        label = f"Surgeline {details['surgeline']}"
        document.tell_once("agent", agent, {"prov:label": label, **_type("prov:SoftwareAgent")})
        document.relate("wasAssociatedWith", activity=activity, agent=agent)
    read = [document.state(*file) for file in details.get("files", {}).get("read", {}).items() if file[1]]
    for entity in (*read, *_facts_read(context, details.get("read", ()))):
        document.relate("used", activity=activity, entity=entity)
    for path, digest in _left_by(commit).items():
        state = document.state(path, digest)
        if state not in read:
            document.generate(state, activity, time)


def _tell_facts(document: _Document, context: Context, made: Sequence[Commit]) -> None:
    version, mine = len(made), context.identifier
    said = select(facts.c.id).where(facts.c.context == mine, facts.c.version <= version, facts.c.body != "")
    ended = (
        select(validity.c.fact, func.max(validity.c.until))
        .where(validity.c.context == mine, validity.c.since <= version)
        .group_by(validity.c.fact)
        .having(func.max(validity.c.until) <= version)
    )
    old, new = validity.alias(), validity.alias()
    replaced = (
        select(new.c.fact, old.c.fact)
        .join(old, (old.c.context == new.c.context) & (old.c.kind == new.c.kind) & (old.c.subject == new.c.subject))
        .where(new.c.context == mine, new.c.since <= version, new.c.since == old.c.until)
        # What holds again, once its successor was withdrawn, does not stem from that.
        .where(new.c.fact > old.c.fact)
    )
    invalidated_by, revision_of = dict(_rows(context, ended)), dict(_rows(context, replaced))
    left = {
        commit.version: {json.dumps([path]): (path, it) for path, it in _left_by(commit).items()} for commit in made
    }
    times = {commit.version: _time(commit.committed) for commit in made}
    for number, stored in stored_facts(context, sorted(number for (number,) in _rows(context, said))):
        fact = _fact(number)
        content = {
            "prov:label": f"{stored.kind} {stored.subject}",
            "surgeline:kind": stored.kind,
            "surgeline:subject": stored.subject,
            "surgeline:schema_version": stored.schema_version,
            "prov:value": stored.body,
        }
        document.tell("entity", fact, {**content, **_type(f"surgeline:{safe_name(stored.kind)}")})
        document.relate("wasGeneratedBy", entity=fact, activity=_commit(stored.version), time=times[stored.version])
        if number in revision_of:
            document.relate(
                "wasDerivedFrom",
                generatedEntity=fact,
                usedEntity=_fact(revision_of[number]),
                type=_qualified("prov:Revision"),
            )
        if stored.subject in left[stored.version]:
            file = document.state(*left[stored.version][stored.subject])
            document.relate("wasDerivedFrom", generatedEntity=fact, usedEntity=file)
        if number in invalidated_by:
            by = invalidated_by[number]
            document.relate("wasInvalidatedBy", entity=fact, activity=_commit(by), time=times[by])


def _facts_read(context: Context, read: Iterable[tuple[str, str, int]]) -> Iterator[str]:
    """The identifiers of the facts that a commit says it read."""
    wanted: dict[int, set[tuple[str, str]]] = {}
    for kind, subject, version in read:
        wanted.setdefault(version, set()).add((kind, subject))
    for version, subjects in wanted.items():
        query = (
            select(facts.c.id, facts.c.kind, facts.c.subject)
            .where(facts.c.context == context.identifier, facts.c.version == version, facts.c.body != "")
            .order_by(facts.c.id)
        )
        # Of what one commit says twice, the last word holds.
        found = {(kind, subject): number for number, kind, subject in _rows(context, query)}
        yield from (_fact(number) for about, number in found.items() if about in subjects)


def _left_by(commit: Commit) -> dict[str, str]:
    """The digests of the files that a commit made or changed."""
    changes = commit.details.get("files", {})
    left = {**changes.get("written", {}), **changes.get("changed", {})}
    return {path: digest for path, digest in left.items() if digest}


def _states(files: Iterable[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """Paths and digests of what an attempt found or left; what was not there has no digest."""
    return [(file["path"], file["digest"]) for file in files if file.get("digest")]


def _agent(environment: Mapping[str, Any]) -> dict[str, Any]:
    """An environment's versions one by one, so that they can be asked for, and all else as JSON."""
    host = environment.get("machine", {}).get("host")
    return {
        "prov:label": host,
        "surgeline:host": host,
        **{f"surgeline:software.{safe_name(name)}": it for name, it in environment.get("software", {}).items()},
        **{f"surgeline:{safe_name(name)}": _json(it) for name, it in environment.items() if name != "software"},
        **_type("prov:SoftwareAgent", "surgeline:Environment"),
    }


def _type(*names: str) -> dict[str, Any]:
    return {"prov:type": [_qualified(name) for name in names]}


def _qualified(name: str) -> dict[str, str]:
    return {"$": name, "type": "prov:QUALIFIED_NAME"}


def _commit(version: int) -> str:
    return f"context:commit.{version}"


def _fact(number: int) -> str:
    return f"context:fact.{number}"


def _environment(identity: str) -> str:
    return f"context:environment.{safe_name(identity)}"


def _hashed(what: str, *content: Any) -> str:
    """An identifier made of what it is for, the same in every export."""
    return f"context:{what}.{blake2b(_json(content).encode(), digest_size=16).hexdigest()}"


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix, UTC).isoformat()


# What all of them need


def _holding(context: Context, version: int) -> tuple[Any, ...]:
    return (validity.c.context == context.identifier, validity.c.since <= version, validity.c.until > version)


def _rows(context: Context, query: Select[Any]) -> Sequence[Any]:
    return context.database.reading(lambda connection: connection.execute(query).all())


def _pages(numbers: Sequence[int]) -> Iterator[Sequence[int]]:
    return (numbers[first : first + _PAGE] for first in range(0, len(numbers), _PAGE))


def _separated(texts: Iterable[str]) -> Iterator[str]:
    return (f",\n{text}" if place else text for place, text in enumerate(texts))


def _json(value: Any) -> str:
    return json.dumps(_in_words_of_json(value), allow_nan=False)


def _in_words_of_json(value: Any) -> Any:
    """Numbers that JSON has no word for as the texts that facts have for them."""
    if isinstance(value, Mapping):
        return {name: _in_words_of_json(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_in_words_of_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
    return value
