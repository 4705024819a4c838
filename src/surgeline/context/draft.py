"""A transient workspace upon a context: to try things, and accept or drop them whole."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

from surgeline.context.records import AnyFact, Fact, name_of, subject_of
from surgeline.context.view import View, matching
from surgeline.errors import ContextError


class Draft:
    """Facts that are said for trial: seen by who holds the draft, by nobody else until it is accepted."""

    def __init__(self, base: View, commit: Callable[..., int]) -> None:
        """Begin a draft.

        Args:
            base: what it stands upon.
            commit: makes a commit of it.
        """
        self._base = base
        self._commit = commit
        self._ended = ""
        # Until it is changed it is the same commit, however often it is tried: the answer to a try may be lost.
        self._key = uuid.uuid4().hex
        # By kind and subject, or the fact itself where it has none; None for what was taken back.
        self._changes: dict[tuple[type[Fact], str | int], Fact | None] = {}

    @property
    def version(self) -> int:
        """The version that it stands upon."""
        return self._base.version

    def add(self, *facts: Fact) -> None:
        """Say facts anew."""
        self._check_open()
        self._key = uuid.uuid4().hex
        for fact in facts:
            key = (type(fact), subject_of(fact) or id(fact))
            # What is said anew also takes its new place in the order.
            self._changes.pop(key, None)
            self._changes[key] = fact

    def remove(self, kind: type[Fact], /, **equal: Any) -> int:
        """Take back the facts of a kind whose fields equal those given; returns how many."""
        self._check_open()
        self._key = uuid.uuid4().hex
        found = self.all(kind, **equal)
        for fact in found:
            subject = subject_of(fact)
            if not subject and (kind, id(fact)) not in self._changes:
                raise ContextError(f"a {name_of(kind)} has no identity, so it cannot be taken back", "say another")
            self._changes.pop((kind, subject or id(fact)), None)
            if subject:
                self._changes[kind, subject] = None
        return len(found)

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind as the draft has them, oldest first."""
        changed: dict[Any, Any] = {subject: fact for (of, subject), fact in self._changes.items() if of is kind}
        kept = [fact for fact in self._base.all(kind, **equal) if subject_of(fact) not in changed]
        return matching([*kept, *(fact for fact in changed.values() if fact is not None)], equal)

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""
        found = self.all(kind, **equal)
        return found[-1] if found else None

    def accept(self, **details: Any) -> int:
        """Commit everything that was said, whole; returns the new version.

        Raises:
            ConflictError: others have said something else of the same subjects since the draft began.
        """
        self._check_open()
        version = self._commit(
            added=[fact for fact in self._changes.values() if fact is not None],
            removed=[(kind, str(subject)) for (kind, subject), fact in self._changes.items() if fact is None],
            base=self.version,
            key=self._key,
            details=details,
        )
        self._ended = "accepted"
        return version

    def drop(self) -> None:
        """Forget everything that was said."""
        self._check_open()
        self._ended = "dropped"
        self._changes.clear()

    def _check_open(self) -> None:
        if self._ended:
            raise ContextError(f"the draft was {self._ended} already", "begin another")
