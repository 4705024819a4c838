"""What a job carries instead of the context: which session, which version; and how it asks for facts."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.context.records import AnyFact, from_stored, name_of, subject_asked
from surgeline.context.store import Context
from surgeline.context.view import matching
from surgeline.errors import ContextError
from surgeline.work.surroundings import Answer, FactQuery, current


@dataclass(frozen=True)
class ContextReference:
    """A context at a version, in a few bytes whatever its size.

    Attributes:
        context: the identifier of the context.
        version: which version of it.
        where: a database's URL or an exported snapshot's file, which the job reads itself; empty: it asks the session
            by the way that its backend has.
    """

    context: str
    version: int
    where: str = ""

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind whose fields equal those given, oldest first, as they stood at this version.

        Raises:
            ContextError: they cannot be had here.
        """
        texts = {name: value for name, value in equal.items() if isinstance(value, str) and "\0" not in value}
        subject = subject_asked(kind, equal)
        query = FactQuery(self.context, self.version, name_of(kind), subject, tuple(sorted(texts.items())))
        found = self._read(query) if self.where else current().facts(query)
        return matching([from_stored(kind, schema, body) for schema, body in found], equal)

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""
        found = self.all(kind, **equal)
        return found[-1] if found else None

    def _read(self, query: FactQuery) -> Answer:
        where = self.where if "://" in self.where else Path(self.where)
        with closing(Context(where, self.context, read_only=True)) as context:
            return answer(context, query)


def answer(context: Context, query: FactQuery) -> Answer:
    """What a context says to a job's query; the session's side of a reference.

    Raises:
        ContextError: the query is of another context.
    """
    if query.context != context.identifier:
        raise ContextError(
            f"a job asks for facts of context {query.context}, and this session's is {context.identifier}",
            "give the job a reference to this context, or one that says where the other is",
        )
    rows = context.holding(query.version, query.kind, query.subject, dict(query.texts))
    return [(row.schema_version, row.body) for row in rows]
