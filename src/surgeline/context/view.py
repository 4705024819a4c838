"""What a context says at one version: what stages and workers read."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Protocol

from surgeline.context.records import AnyFact


class View(Protocol):
    """Facts as they stand at a version of a context."""

    @property
    def version(self) -> int:
        """The version that is seen."""

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind whose fields equal those given, oldest first."""

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""


def matching(facts: Iterable[AnyFact], equal: dict[str, Any]) -> list[AnyFact]:
    """Those of the facts whose fields equal the values given."""
    return [fact for fact in facts if all(getattr(fact, name) == value for name, value in equal.items())]
