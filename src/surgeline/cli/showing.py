"""How what a session knows is printed: facts, steps, files and tables."""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from rich.console import Console
    from rich.tree import Tree

    from surgeline.context.lineage import FileState, Step
    from surgeline.context.store import Context, StoredFact

# So much of a long value is shown; --json has all of it.
_SHOWN = 160
# So wide is what is not written to a terminal.
_WIDTH = 200


def namespaces_at(context: Context, version: int) -> dict[str, int]:
    """How many extensions there are in each namespace."""
    return dict(Counter(json.loads(fact.body)["namespace"] for fact in context.holding(version, "Extension")))


def show_kinds(version: int, kinds: Mapping[str, int], namespaces: Mapping[str, int]) -> None:
    """Print how many facts there are of each kind, and what these are."""
    from surgeline.context.records import kind_called

    rows: list[tuple[Any, ...]] = []
    for name, number in kinds.items():
        kind = kind_called(name)
        meaning = (kind.__doc__ or "").partition("\n")[0] if kind else "(not known to what is installed here)"
        rows.append((name, number, meaning))
        if name == "Extension":
            rows += [(f"  {namespace}", number, "") for namespace, number in sorted(namespaces.items())]
    typer.echo(f"version {version}")
    print_rows(("kind", "facts", "what they are"), rows)


def show_facts(facts: Sequence[StoredFact]) -> None:
    """Print facts of one kind, a row for each."""
    contents = [_content(fact) for fact in facts]
    fields = list(dict.fromkeys(name for content in contents for name in content))
    rows = [
        (fact.version, fact.stage, *(_shown(content[name]) if name in content else "" for name in fields))
        for fact, content in zip(facts, contents, strict=True)
    ]
    print_rows(("version", "stage", *fields), rows)


def _content(fact: StoredFact) -> dict[str, Any]:
    content = json.loads(fact.body)
    return content if isinstance(content, dict) else {"body": content}


def fact_as_json(fact: StoredFact) -> dict[str, Any]:
    """A fact as it is put into JSON."""
    return {**vars(fact), "body": json.loads(fact.body)}


def add_step(tree: Tree, step: Step, environments: Mapping[str, int]) -> None:
    """A stage as a branch: what it made, from what, by which jobs."""
    task = f", task {step.task}" if step.task and step.task != step.stage else ""
    by = f", by Surgeline {step.surgeline}" if step.surgeline else ""
    withdrawn = "" if step.withdrawn_by is None else f", withdrawn by version {step.withdrawn_by}"
    branch = tree.add(f"{step.stage} (version {step.version}{task}){withdrawn}, {time_in_words(step.committed)}{by}")
    if step.arguments:
        branch.add(f"arguments: {shortened(on_one_line(step.arguments))}")
    for verb, files in (("made", step.made), ("changed", step.changed)):
        for file in files:
            branch.add(f"{verb} {file.path} {digest_in_words(file.digest)}")
    for file in step.read:
        branch.add(f"read {file_in_words(file)}")
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
        ran.add(f"{time_in_words(job.started)}, {job.ended - job.started:.1f} s on {where}{again}{environment}")
        for command in job.commands:
            ran.add(f"CASA: {command}")


def add_environment(tree: Tree, number: int, environment: Mapping[str, Any]) -> None:
    """A machine, and the versions that jobs ran with there, as a branch."""
    machine = environment.get("machine", {})
    said = ", ".join(str(machine[name]) for name in ("host", "operating_system", "processor") if machine.get(name))
    branch = tree.add(f"environment {number}: {said}")
    branch.add(", ".join(f"{name} {version}" for name, version in environment.get("software", {}).items()))


def file_in_words(file: FileState) -> str:
    """A file, the beginning of its digest, and who left it so."""
    if file.version is None:
        origin = "as given"
    elif file.altered:
        origin = f"no longer as {file.stage} ({file.version}) had left it"
    else:
        origin = f"as {file.stage} ({file.version}) left it"
    return f"{file.path} {digest_in_words(file.digest)}, {origin}"


def digest_in_words(digest: str) -> str:
    """The beginning of a digest, as many letters as tell files apart."""
    method, _, value = digest.rpartition(":")
    return f"{method}:{value[:12]}".removeprefix(":") if value else "(no digest on record)"


def numbers_in_words(numbers: Mapping[str, int]) -> str:
    """As in a list: 3 Image, 1 Observation."""
    return ", ".join(f"{number} {kind}" for kind, number in numbers.items())


def title_of(fact: StoredFact) -> str:
    """A fact's kind and subject."""
    from surgeline.context.records import kind_called

    kind = kind_called(fact.kind)
    # What stands beside all others of its kind has a subject that says nothing.
    return fact.kind if kind is not None and not kind.identity else f"{fact.kind} {fact.subject}"


def time_in_words(unix: float) -> str:
    """A Unix time as a local one."""
    return datetime.fromtimestamp(unix).isoformat(sep=" ", timespec="seconds")


def on_one_line(value: Any) -> str:
    """A value as JSON, in the letters that it has."""
    return json.dumps(value, ensure_ascii=False)


def _shown(value: Any) -> str:
    return shortened(value if isinstance(value, str) and value.isprintable() else on_one_line(value))


def shortened(text: str) -> str:
    """A text, cut where it is long."""
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}… ({len(text)} characters)"


def plain_console() -> Console:
    """A console for what is printed once: no colours of its own, no emoji, as wide as a file may be."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _WIDTH
    return Console(width=width, markup=False, highlight=False, emoji=False, soft_wrap=True)


def print_rows(header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """A table where it fits, else each row by itself, one field a line."""
    from rich.measure import Measurement
    from rich.table import Table

    console = plain_console()
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


def print_json(content: Any) -> None:
    """Print JSON."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
