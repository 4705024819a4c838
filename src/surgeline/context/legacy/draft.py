"""What a task says of a context before its result is accepted: a draft that can travel with the task."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from surgeline.context.draft import Draft
from surgeline.context.records import AnyFact, Fact, subject_of
from surgeline.context.view import View, matching


@dataclass(frozen=True)
class Changes:
    """What a draft says that its base does not: facts, and kinds and subjects of those that hold no longer."""

    added: tuple[Fact, ...] = ()
    removed: tuple[tuple[type[Fact], str], ...] = ()


class Remembered:
    """A view that is asked each question once; at one version, answers never change."""

    def __init__(self, view: View) -> None:
        self._view = view
        self._answers: dict[Any, list[Any]] = {}

    @property
    def version(self) -> int:
        """The version that is seen."""
        return self._view.version

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind whose fields equal those given, oldest first."""
        question = (kind, *sorted(equal.items()))
        if question not in self._answers:
            self._answers[question] = self._view.all(kind, **equal)
        return list(self._answers[question])

    def last(self, kind: type[AnyFact], /, **equal: Any) -> AnyFact | None:
        """The latest fact of a kind whose fields equal those given, or None."""
        found = self.all(kind, **equal)
        return found[-1] if found else None


class TaskDraft(Draft):
    """A draft that tells what it changes, and that asks its base for no more than it is asked itself."""

    def __init__(self, base: View, commit: Callable[..., int], changes: Changes) -> None:
        """Begin a draft.

        Args:
            base: what it stands upon.
            commit: makes a commit of it.
            changes: what it says from the beginning.
        """
        super().__init__(base, commit)
        self.apply(changes)

    def apply(self, changes: Changes) -> None:
        """Say what another draft upon the same base said."""
        self.add(*changes.added)
        self.take_back(changes.removed)

    def take_back(self, subjects: Iterable[tuple[type[Fact], str]]) -> None:
        """Let facts hold no longer, whether they are there or not."""
        for kind, subject in subjects:
            self._changes.pop((kind, subject), None)
            self._changes[kind, subject] = None

    def changes(self) -> Changes:
        """What it says that its base does not."""
        return Changes(
            tuple(fact for fact in self._changes.values() if fact is not None),
            tuple((kind, str(subject)) for (kind, subject), fact in self._changes.items() if fact is None),
        )

    def all(self, kind: type[AnyFact], /, **equal: Any) -> list[AnyFact]:
        """The facts of a kind as the draft has them, oldest first."""
        changed: dict[Any, Any] = {subject: fact for (of, subject), fact in self._changes.items() if of is kind}
        kept = self._base.all(kind, **equal)
        if not changed:
            return kept
        kept = [fact for fact in kept if subject_of(fact) not in changed]
        return matching([*kept, *(fact for fact in changed.values() if fact is not None)], equal)
