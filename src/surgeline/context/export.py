"""A context at a version as JSON for others to read, and the schema of that."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue, models_json_schema
from pydantic_core.core_schema import FloatSchema

import surgeline
from surgeline.context.attempts import read_environments
from surgeline.context.jsontext import as_json, separated
from surgeline.context.reading import (
    attempts_until,
    commits_until,
    kinds_at,
    numbers_at,
    stored_facts,
    up_to_date,
)
from surgeline.context.records import KINDS, kind_called, name_of
from surgeline.context.store import Context

FORMAT = "surgeline context"
FORMAT_VERSION = 1


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
    yield as_json(head)[:-1] + ',\n"commits": [\n'
    yield from separated(as_json(vars(commit)) for commit in commits_until(context, seen))
    yield '\n],\n"facts": {'
    for place, name in enumerate(kinds_at(context, seen)):
        yield f"{',' if place else ''}\n{as_json(name)}: [\n"
        yield from separated(_facts_as_json(context, seen, name))
        yield "\n]"
    yield '\n},\n"attempts": [\n'
    used: set[str] = set()
    yield from separated(_attempts_as_json(context, seen, used))
    environments = {name: body for name, body in read_environments(context).items() if name in used}
    yield f'\n],\n"environments": {as_json(environments)}\n}}\n'


def _facts_as_json(context: Context, version: int, name: str) -> Iterator[str]:
    for _, stored in stored_facts(context, numbers_at(context, version, name)):
        fact = up_to_date(context, stored)
        head = {
            "subject": fact.subject,
            "version": fact.version,
            "stage": fact.stage,
            "schema_version": fact.schema_version,
        }
        # A body is JSON already.
        yield f'{as_json(head)[:-1]}, "body": {fact.body}}}'


def _attempts_as_json(context: Context, version: int, environments: set[str]) -> Iterator[str]:
    """Attempts as JSON; their environments are added to those given."""
    for attempt in attempts_until(context, version):
        # Of a worker that was lost nobody knows where it was.
        if attempt.environment:
            environments.add(attempt.environment)
        yield as_json(vars(attempt))


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
