"""The commands `surgeline context …`: what a session knows, how it came to know it, and its export."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from surgeline.cli.completion import complete_kinds, complete_stages, complete_words
from surgeline.cli.files import write_new
from surgeline.cli.options import WORKDIR, AsJson, Workdir
from surgeline.cli.showing import (
    add_environment,
    add_step,
    digest_in_words,
    fact_as_json,
    file_in_words,
    namespaces_at,
    numbers_in_words,
    on_one_line,
    plain_console,
    print_json,
    print_rows,
    shortened,
    show_facts,
    show_kinds,
    time_in_words,
    title_of,
)
from surgeline.errors import BadInput, ContextError, WorkfolderError, nearest

if TYPE_CHECKING:
    from surgeline.context.store import Context

_STATES = ("finished", "failed", "cancelled", "lost")

app = typer.Typer(help="Show, compare and export what a session knows.", no_args_is_help=True, rich_markup_mode=None)

Url = Annotated[str | None, typer.Option("--url", help="A database's URL, in place of a working folder.")]
Identifier = Annotated[str | None, typer.Option("--context", help="Which of the database's contexts.")]
Version = Annotated[int | None, typer.Option("--version", help="As of this version; the newest unless given.")]


class Format(StrEnum):
    """What a context is exported as."""

    JSON = "json"
    PROV = "prov"
    SCHEMA = "schema"


@app.command()
def show(
    kind: Annotated[
        str | None, typer.Argument(help="A kind of fact, such as Image.", autocompletion=complete_kinds)
    ] = None,
    version: Version = None,
    as_json: AsJson = False,
    workdir: Workdir = WORKDIR,
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
            namespaces = namespaces_at(context, seen)
            if as_json:
                print_json({"version": seen, "kinds": kinds, "namespaces": namespaces})
            else:
                show_kinds(seen, kinds, namespaces)
            return
        if kind not in kinds and kind not in KINDS:
            raise BadInput(f"the context has no facts of a kind {kind!r}", nearest(kind, kinds or KINDS))
        facts = [up_to_date(context, fact) for fact in context.holding(seen, kind)]
        if as_json:
            print_json([fact_as_json(fact) for fact in facts])
        else:
            show_facts(facts)


@app.command()
def log(as_json: AsJson = False, workdir: Workdir = WORKDIR, url: Url = None, identifier: Identifier = None) -> None:
    """Show every commit: which stage said how much, and what holds no longer."""
    from surgeline.context.difference import history

    with _opened(workdir, url, identifier) as context:
        entries = history(context)
    if as_json:
        print_json([{**vars(entry.commit), "said": entry.said, "taken_back": entry.taken_back} for entry in entries])
        return
    rows = []
    for entry in entries:
        commit = entry.commit
        facts = numbers_in_words(entry.said) + (
            f"; taken back: {numbers_in_words(entry.taken_back)}" if entry.taken_back else ""
        )
        withdrawn = "" if commit.withdrawn_by is None else f"by {commit.withdrawn_by}"
        task = str(commit.details.get("task", ""))
        rows.append(
            (commit.version, time_in_words(commit.committed), commit.stage, task, commit.base, withdrawn, facts)
        )
    print_rows(("version", "committed", "stage", "task", "base", "withdrawn", "facts"), rows)


@app.command()
def diff(
    before: Annotated[int, typer.Argument(help="A version.")],
    after: Annotated[int, typer.Argument(help="Another version.")],
    as_json: AsJson = False,
    workdir: Workdir = WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Show what two versions of the context say otherwise."""
    from surgeline.context.difference import difference

    with _opened(workdir, url, identifier) as context:
        found = difference(context, before, after)
    if as_json:
        print_json(
            {
                "before": found.before,
                "after": found.after,
                "added": [fact_as_json(fact) for fact in found.added],
                "gone": [fact_as_json(fact) for fact in found.gone],
                "changed": [
                    {
                        "before": fact_as_json(change.before),
                        "after": fact_as_json(change.after),
                        "fields": [vars(field) for field in change.fields],
                    }
                    for change in found.changed
                ],
            }
        )
        return
    console = plain_console()
    for mark, facts in (("+", found.added), ("-", found.gone)):
        for fact in facts:
            console.print(f"{mark} {title_of(fact)}, by {fact.stage} ({fact.version}): {shortened(fact.body)}")
    for change in found.changed:
        by = f"by {change.before.stage} ({change.before.version}), then {change.after.stage} ({change.after.version})"
        console.print(f"~ {title_of(change.after)}, {by}")
        for field in change.fields:
            console.print(
                f"    {field.field}: {shortened(on_one_line(field.before))} → {shortened(on_one_line(field.after))}"
            )
    console.print(f"{len(found.added)} added, {len(found.gone)} gone, {len(found.changed)} changed")


@app.command()
def lineage(
    product: Annotated[str, typer.Argument(help="An image, a product or any other file of the session.")],
    as_json: AsJson = False,
    workdir: Workdir = WORKDIR,
    url: Url = None,
    identifier: Identifier = None,
) -> None:
    """Show all that led to a file: stages, jobs, CASA's commands, facts and files, the newest at the top."""
    from surgeline.context.lineage import lineage as trace

    with _opened(workdir, url, identifier) as context:
        found = trace(context, product, workdir if url is None else None)
    if as_json:
        print_json({**asdict(found), "facts": [fact_as_json(fact) for fact in found.facts]})
        return
    from rich.tree import Tree

    tree = Tree(file_in_words(found.product))
    for fact in found.facts:
        tree.add(f"{title_of(fact)}: {shortened(fact.body)}")
    environments = {identity: number for number, identity in enumerate(found.environments, start=1)}
    for step in found.steps:
        add_step(tree, step, environments)
    if found.given:
        given = tree.add("given to the session")
        for file in found.given:
            given.add(f"{file.path} {digest_in_words(file.digest)}")
    for identity, number in environments.items():
        add_environment(tree, number, found.environments[identity])
    # Long lines are wrapped beside the branches.
    plain_console().print(tree, soft_wrap=False)


@app.command()
def attempts(
    stage: Annotated[
        str | None, typer.Option("--stage", help="Only those of a stage.", autocompletion=complete_stages)
    ] = None,
    state: Annotated[
        str | None,
        typer.Option(
            "--state", help=f"Only those that are {', '.join(_STATES)}.", autocompletion=complete_words(_STATES)
        ),
    ] = None,
    as_json: AsJson = False,
    workdir: Workdir = WORKDIR,
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
        print_json([vars(attempt) for attempt in found])
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
                time_in_words(attempt.started),
                seconds,
                f"{memory / 2**20:.0f}" if memory else "",
                f"{attempt.worker} ({attempt.host})",
                (attempt.body.get("failure") or {}).get("message", ""),
            )
        )
    print_rows(("stage", "job", "attempt", "state", "started", "seconds", "MiB", "worker", "cause"), rows)


@app.command()
def export(
    version: Version = None,
    form: Annotated[
        Format,
        typer.Option("--format", help="json, prov (W3C PROV-JSON), or schema (the JSON Schema of json)."),
    ] = Format.JSON,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The file to write.")] = None,
    workdir: Workdir = WORKDIR,
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
            write_new(output, pieces)
            typer.echo(f"wrote {output}")


@app.command()
def import_pickled(
    path: Annotated[Path, typer.Argument(help="The file, such as pipeline-20250101T000000.context.")],
    trusted: Annotated[bool, typer.Option("--trusted", help="You know who made the file, and trust them.")] = False,
    workdir: Workdir = WORKDIR,
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
        known = context.reading(lambda c: list(c.execute(select(contexts.c.id)).scalars()))
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
