"""The commands `surgeline context …`: what a session knows, how it came to know it, and its export."""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from surgeline.errors import BadInput, ContextError, WorkfolderError, nearest

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from surgeline.context.lineage import FileState, Step
    from surgeline.context.store import Context, StoredFact

# So much of a long value is shown; --json has all of it.
_SHOWN = 160
# So wide is what is not written to a terminal.
_WIDTH = 200
_STATES = ("finished", "failed", "cancelled", "lost")

app = typer.Typer(help="Show, compare and export what a session knows.", no_args_is_help=True, rich_markup_mode=None)

Workdir = Annotated[Path, typer.Option("--workdir", "-w", help="The session's working folder.")]
Url = Annotated[str | None, typer.Option("--url", help="A database's URL, in place of a working folder.")]
Identifier = Annotated[str | None, typer.Option("--context", help="Which of the database's contexts.")]
Version = Annotated[int | None, typer.Option("--version", help="As of this version; the newest unless given.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]
_WORKDIR = Path("surgeline-session")


class Format(StrEnum):
    """What a context is exported as."""

    JSON = "json"
    PROV = "prov"
    SCHEMA = "schema"


@app.command()
def show(
    kind: Annotated[str | None, typer.Argument(help="A kind of fact, such as Image.")] = None,
    version: Version = None,
    as_json: AsJson = False,
    workdir: Workdir = _WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Show which kinds of facts there are, or the facts of a kind."""
    from surgeline.context.reading import kinds_at, up_to_date
    from surgeline.context.records import KINDS

    with _opened(workdir, url, identifier) as context:
        seen = context.at(version).version
        kinds = kinds_at(context, seen)
        if kind is None:
            namespaces = _namespaces(context, seen)
            if as_json:
                _print_json({"version": seen, "kinds": kinds, "namespaces": namespaces})
            else:
                _show_kinds(seen, kinds, namespaces)
            return
        if kind not in kinds and kind not in KINDS:
            raise BadInput(f"the context has no facts of a kind {kind!r}", nearest(kind, kinds or KINDS))
        facts = [up_to_date(context, fact) for fact in context.holding(seen, kind)]
        if as_json:
            _print_json([_fact_as_json(fact) for fact in facts])
        else:
            _show_facts(facts)


@app.command()
def log(as_json: AsJson = False, workdir: Workdir = _WORKDIR, url: Url = None, identifier: Identifier = None) -> None:
    """Show every commit: which stage said how much, and what holds no longer."""
    from surgeline.context.difference import history

    with _opened(workdir, url, identifier) as context:
        entries = history(context)
    if as_json:
        _print_json([{**vars(entry.commit), "said": entry.said, "taken_back": entry.taken_back} for entry in entries])
        return
    rows = []
    for entry in entries:
        commit = entry.commit
        facts = _numbers(entry.said) + (f"; taken back: {_numbers(entry.taken_back)}" if entry.taken_back else "")
        withdrawn = "" if commit.withdrawn_by is None else f"by {commit.withdrawn_by}"
        task = str(commit.details.get("task", ""))
        rows.append((commit.version, _time(commit.committed), commit.stage, task, commit.base, withdrawn, facts))
    _print_rows(("version", "committed", "stage", "task", "base", "withdrawn", "facts"), rows)


@app.command()
def diff(
    before: Annotated[int, typer.Argument(help="A version.")],
    after: Annotated[int, typer.Argument(help="Another version.")],
    as_json: AsJson = False,
    workdir: Workdir = _WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Show what two versions of the context say otherwise."""
    from surgeline.context.difference import difference

    with _opened(workdir, url, identifier) as context:
        found = difference(context, before, after)
    if as_json:
        _print_json(
            {
                "before": found.before,
                "after": found.after,
                "added": [_fact_as_json(fact) for fact in found.added],
                "gone": [_fact_as_json(fact) for fact in found.gone],
                "changed": [
                    {
                        "before": _fact_as_json(change.before),
                        "after": _fact_as_json(change.after),
                        "fields": [vars(field) for field in change.fields],
                    }
                    for change in found.changed
                ],
            }
        )
        return
    console = _console()
    for mark, facts in (("+", found.added), ("-", found.gone)):
        for fact in facts:
            console.print(f"{mark} {_title(fact)}, by {fact.stage} ({fact.version}): {_short(fact.body)}")
    for change in found.changed:
        by = f"by {change.before.stage} ({change.before.version}), then {change.after.stage} ({change.after.version})"
        console.print(f"~ {_title(change.after)}, {by}")
        for field in change.fields:
            console.print(f"    {field.field}: {_short(_json(field.before))} → {_short(_json(field.after))}")
    console.print(f"{len(found.added)} added, {len(found.gone)} gone, {len(found.changed)} changed")


@app.command()
def lineage(
    product: Annotated[str, typer.Argument(help="An image, a product or any other file of the session.")],
    as_json: AsJson = False,
    workdir: Workdir = _WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Show all that led to a file: stages, jobs, CASA's commands, facts and files, the newest at the top."""
    from surgeline.context.lineage import lineage as trace

    with _opened(workdir, url, identifier) as context:
        found = trace(context, product, workdir if url is None else None)
    if as_json:
        _print_json({**asdict(found), "facts": [_fact_as_json(fact) for fact in found.facts]})
        return
    from rich.tree import Tree

    tree = Tree(_file(found.product))
    for fact in found.facts:
        tree.add(f"{_title(fact)}: {_short(fact.body)}")
    environments = {identity: number for number, identity in enumerate(found.environments, start=1)}
    for step in found.steps:
        _add_step(tree, step, environments)
    if found.given:
        given = tree.add("given to the session")
        for file in found.given:
            given.add(f"{file.path} {_digest(file.digest)}")
    for identity, number in environments.items():
        _add_environment(tree, number, found.environments[identity])
    # Long lines are wrapped beside the branches.
    _console().print(tree, soft_wrap=False)


@app.command()
def attempts(
    stage: Annotated[str | None, typer.Option("--stage", help="Only those of a stage.")] = None,
    state: Annotated[str | None, typer.Option("--state", help=f"Only those that are {', '.join(_STATES)}.")] = None,
    as_json: AsJson = False,
    workdir: Workdir = _WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Show the attempts of jobs: where and how long they ran, and what came of them."""
    from surgeline.context.attempts import read_attempts

    if state is not None and state not in _STATES:
        raise BadInput(f"attempts have no state {state!r}", nearest(state, _STATES))
    with _opened(workdir, url, identifier) as context:
        found = read_attempts(context, stage)
        if stage is not None and not found:
            stages = {attempt.stage for attempt in read_attempts(context)}
            raise BadInput(
                f"there are no attempts of a stage {stage!r}", nearest(stage, stages) if stages else "there are none"
            )
    found = [attempt for attempt in found if state in (None, attempt.state)]
    if as_json:
        _print_json([vars(attempt) for attempt in found])
        return
    rows = []
    for attempt in found:
        seconds, memory = f"{attempt.ended - attempt.started:.1f}", attempt.body.get("peak_memory")
        rows.append(
            (
                attempt.stage,
                attempt.job,
                attempt.number,
                attempt.state,
                _time(attempt.started),
                seconds,
                f"{memory / 2**20:.0f}" if memory else "",
                f"{attempt.worker} ({attempt.host})",
                (attempt.body.get("failure") or {}).get("message", ""),
            )
        )
    _print_rows(("stage", "job", "attempt", "state", "started", "seconds", "MiB", "worker", "cause"), rows)


@app.command()
def export(
    version: Version = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="json, prov (W3C PROV-JSON), or schema (the JSON Schema of json)."),
    ] = Format.JSON,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")] = None,
    workdir: Workdir = _WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Export the whole context at a version."""
    from surgeline.context.export import export_json, json_schema
    from surgeline.context.prov import export_prov
    from surgeline.context.reading import kinds_at

    with _opened(workdir, url, identifier) as context:
        seen = context.at(version).version
        pieces: Iterable[str]
        match form:
            case Format.JSON:
                pieces = export_json(context, seen)
            case Format.PROV:
                pieces = export_prov(context, seen)
            case Format.SCHEMA:
                pieces = [json.dumps(json_schema(kinds_at(context, seen)), indent=1), "\n"]
        if output is None:
            sys.stdout.writelines(pieces)
        else:
            _write_new(output, pieces)
            typer.echo(f"wrote {output}")


@app.command()
def import_pickled(
    path: Annotated[Path, typer.Argument(help="The file, such as pipeline-20250101T000000.context.")],
    trusted: Annotated[bool, typer.Option("--trusted", help="You know who made the file, and trust them.")] = False,
    workdir: Workdir = _WORKDIR,
) -> None:
    """Read a context that the existing pipeline pickled. A pickle is a program: read only those that you trust."""
    from surgeline.context.legacy import read_pickled_context
    from surgeline.context.store import Context
    from surgeline.paths import SessionPaths
    from surgeline.workflow.workfolder import WorkfolderLock

    try:
        translated = read_pickled_context(path, trusted)
    except BadInput as error:
        if trusted:
            raise
        way_out = f"if you know who made it, and trust them: surgeline context import-pickled {path} --trusted"
        raise BadInput(error.message, way_out) from error
    paths = SessionPaths(workdir.absolute())
    lock = WorkfolderLock(paths)
    try:
        paths.make()
        with closing(Context(paths.context)) as context:
            version = context.commit("import-pickled", translated.facts, details={"file": str(path)})
    finally:
        lock.release()
    for left in translated.left:
        typer.echo(f"left out: {left}")
    typer.echo(f"{len(translated.facts)} facts are version {version} of the context in {workdir}")


@contextmanager
def _opened(workdir: Path, url: str | None, identifier: str | None) -> Iterator[Context]:
    """A context, opened for reading only.

    Raises:
        WorkfolderError: the working folder holds no session.
        ContextError: the database has no such context, or several and none was named.
    """
    from sqlalchemy import select

    from surgeline.context.store import Context
    from surgeline.context.tables import contexts

    where: str | Path
    if url is None:
        where, identifier = _place(workdir, identifier)
    else:
        where = url
    context = Context(where, identifier, read_only=True)
    # The repr of a URL hides its password.
    name = where if isinstance(where, Path) else repr(context.database.engine.url)
    try:
        known = context.database.reading(lambda c: list(c.execute(select(contexts.c.id)).scalars()))
        if identifier is None and len(known) > 1:
            raise ContextError(f"{name} holds {len(known)} contexts", f"name one: --context {known[0]}, …")
        if context.identifier not in known:
            raise ContextError(
                f"{name} holds no context {identifier or ''}".rstrip(),
                nearest(identifier, known) if identifier and known else "begin a session: surgeline run",
            )
        yield context
    finally:
        context.close()


def _place(workdir: Path, identifier: str | None) -> tuple[str | Path, str | None]:
    """Where a working folder's session keeps its context, and which it is.

    Raises:
        WorkfolderError: there is no session.
    """
    from surgeline.config import load
    from surgeline.paths import SessionPaths

    paths = SessionPaths(workdir.absolute())
    configured = load(paths.workdir).settings.context.url
    if configured is not None and paths.identifier.is_file():
        return configured, identifier or paths.identifier.read_text(encoding="utf-8").strip()
    if paths.context.is_file():
        return paths.context, identifier
    raise WorkfolderError(
        f"{workdir} holds no session: there is no {paths.context.name} in it",
        "name the folder that has one: --workdir, or its database: --url",
    )


def _namespaces(context: Context, version: int) -> dict[str, int]:
    """How many extensions there are in each namespace."""
    return dict(Counter(json.loads(fact.body)["namespace"] for fact in context.holding(version, "Extension")))


def _show_kinds(version: int, kinds: Mapping[str, int], namespaces: Mapping[str, int]) -> None:
    from surgeline.context.records import kind_called

    rows: list[tuple[Any, ...]] = []
    for name, number in kinds.items():
        kind = kind_called(name)
        meaning = (kind.__doc__ or "").partition("\n")[0] if kind else "(not known to what is installed here)"
        rows.append((name, number, meaning))
        if name == "Extension":
            rows += [(f"  {namespace}", number, "") for namespace, number in sorted(namespaces.items())]
    typer.echo(f"version {version}")
    _print_rows(("kind", "facts", "what they are"), rows)


def _show_facts(facts: Sequence[StoredFact]) -> None:
    contents = [_content(fact) for fact in facts]
    fields = list(dict.fromkeys(name for content in contents for name in content))
    rows = [
        (fact.version, fact.stage, *(_shown(content[name]) if name in content else "" for name in fields))
        for fact, content in zip(facts, contents, strict=True)
    ]
    _print_rows(("version", "stage", *fields), rows)


def _content(fact: StoredFact) -> dict[str, Any]:
    content = json.loads(fact.body)
    return content if isinstance(content, dict) else {"body": content}


def _fact_as_json(fact: StoredFact) -> dict[str, Any]:
    return {**vars(fact), "body": json.loads(fact.body)}


def _add_step(tree: Tree, step: Step, environments: Mapping[str, int]) -> None:
    """A stage as a branch: what it made, from what, by which jobs."""
    task = f", task {step.task}" if step.task and step.task != step.stage else ""
    by = f", by Surgeline {step.surgeline}" if step.surgeline else ""
    withdrawn = "" if step.withdrawn_by is None else f", withdrawn by version {step.withdrawn_by}"
    branch = tree.add(f"{step.stage} (version {step.version}{task}){withdrawn}, {_time(step.committed)}{by}")
    if step.arguments:
        branch.add(f"arguments: {_short(_json(step.arguments))}")
    for verb, files in (("made", step.made), ("changed", step.changed)):
        for file in files:
            branch.add(f"{verb} {file.path} {_digest(file.digest)}")
    for file in step.read:
        branch.add(f"read {_file(file)}")
    facts = Counter((fact.kind, fact.stage, fact.version) for fact in step.facts)
    for (kind, stage, version), number in facts.items():
        branch.add(f"read {number} {kind} of {stage} ({version})")
    if not step.recorded:
        versions = ", ".join(str(version) for version in step.follows)
        branch.add("what it read is not on record" + (f"; it followed version {versions}" if versions else ""))
    for job in step.jobs:
        ran = branch.add(f"job {job.job}: {job.call}")
        again = f", attempt {job.attempt}" if job.attempt > 1 else ""
        environment = f", environment {environments[job.environment]}" if job.environment in environments else ""
        where = f"{job.worker} ({job.host})"
        ran.add(f"{_time(job.started)}, {job.ended - job.started:.1f} s on {where}{again}{environment}")
        for command in job.commands:
            ran.add(f"CASA: {command}")


def _add_environment(tree: Tree, number: int, environment: Mapping[str, Any]) -> None:
    machine = environment.get("machine", {})
    said = ", ".join(str(machine[name]) for name in ("host", "operating_system", "processor") if machine.get(name))
    branch = tree.add(f"environment {number}: {said}")
    branch.add(", ".join(f"{name} {version}" for name, version in environment.get("software", {}).items()))


def _file(file: FileState) -> str:
    if file.version is None:
        origin = "as given"
    elif file.altered:
        origin = f"no longer as {file.stage} ({file.version}) had left it"
    else:
        origin = f"as {file.stage} ({file.version}) left it"
    return f"{file.path} {_digest(file.digest)}, {origin}"


def _digest(digest: str) -> str:
    """The beginning of a digest, as many letters as tell files apart."""
    method, _, value = digest.rpartition(":")
    return f"{method}:{value[:12]}".removeprefix(":") if value else "(no digest on record)"


def _numbers(numbers: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items())


def _title(fact: StoredFact) -> str:
    from surgeline.context.records import kind_called

    kind = kind_called(fact.kind)
    # What stands beside all others of its kind has a subject that says nothing.
    return fact.kind if kind is not None and not kind.identity else f"{fact.kind} {fact.subject}"


def _time(unix: float) -> str:
    return datetime.fromtimestamp(unix).isoformat(sep=" ", timespec="seconds")


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _shown(value: Any) -> str:
    return _short(value if isinstance(value, str) and value.isprintable() else _json(value))


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def _console() -> Console:
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def _print_rows(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table where it fits, else each row by itself, one field a line."""
    from rich.measure import Measurement
    from rich.table import Table

    console = _console()
    table = Table(*header, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*(str(cell) for cell in row))
    options = console.options.update(max_width=10**6)
    if not rows:
        console.print("there are none")
    elif Measurement.get(console, options, table).maximum <= console.width:
        console.print(table)
    else:
        width = max(len(name) for name in header)
        for row in rows:
            for name, cell in zip(header, row, strict=True):
                console.print(f"{name:{width}}  {cell}")
            console.print()


def _print_json(content: Any) -> None:
    sys.stdout.write(json.dumps(content, indent=1) + "\n")


def _write_new(path: Path, pieces: Iterable[str]) -> None:
    """Write a file that appears once it is complete.

    Raises:
        BadInput: there is one already, or it cannot be written.
    """
    if path.exists():
        raise BadInput(f"{path} already exists", "give another name, or remove it")
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("w", encoding="utf-8") as handle:
            handle.writelines(pieces)
        temporary.replace(path)
    except OSError as error:
        raise BadInput(f"{path} cannot be written: {error.strerror}", "give another name, or free space") from error
    finally:
        temporary.unlink(missing_ok=True)
