"""What a job finds where it runs: its worker's name, and how facts of the session are asked for."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from surgeline.errors import ContextError
from surgeline.work.environment import environment, identity
from surgeline.work.fingerprint import Fingerprints


@dataclass(frozen=True)
class FactQuery:
    """What a job asks of a session's context: the facts of a kind at a version, of a subject, with these texts."""

    context: str
    version: int
    kind: str
    subject: str | None = None
    texts: tuple[tuple[str, str], ...] = ()


# What answers: each fact as its schema's version and its body.
Answer = list[tuple[int, str]]
Ask = Callable[[FactQuery], Answer]


@dataclass
class Surroundings:
    """What a worker process keeps for its jobs.

    Attributes:
        worker: the worker's name.
        ask: asks the session for facts; None where there is no session.
        environment: the machine and the versions that jobs run with here.
        fingerprints: of files that jobs read and write; those that did not change are not read again.
        answers: what was asked before; a version's facts never change.
    """

    worker: str
    ask: Ask | None = None
    environment: Mapping[str, Any] = field(default_factory=environment)
    fingerprints: Fingerprints = field(default_factory=Fingerprints)
    answers: dict[FactQuery, Answer] = field(default_factory=dict)
    environment_id: str = ""

    def __post_init__(self) -> None:
        self.environment_id = identity(self.environment)

    def facts(self, query: FactQuery) -> Answer:
        """The answer to a query, asked for once.

        Raises:
            ContextError: there is no session to ask.
        """
        if query not in self.answers:
            if self.ask is None:
                raise ContextError(
                    "this process has no session to ask for facts",
                    "give jobs a reference that says where the store is",
                )
            # One stage's queries are few; those of earlier versions will not come again.
            for old in [asked for asked in self.answers if asked.version < query.version]:
                del self.answers[old]
            self.answers[query] = self.ask(query)
        return self.answers[query]


_current: ContextVar[Surroundings] = ContextVar("surroundings")


@contextmanager
def job_in(surroundings: Surroundings) -> Iterator[None]:
    """Let the job that runs in this block find its surroundings."""
    token = _current.set(surroundings)
    try:
        yield
    finally:
        _current.reset(token)


def current() -> Surroundings:
    """The surroundings of the job that runs in this thread.

    Raises:
        ContextError: no job runs in it.
    """
    try:
        return _current.get()
    except LookupError:
        raise ContextError(
            "facts of a session are asked for outside of a job", "open its context, or ask within a job"
        ) from None
