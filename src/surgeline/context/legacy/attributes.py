"""Attributes that tasks add at will to the context and to what it holds: read when asked for, changes noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from surgeline.context.legacy.values import Keeper, decode, encode, fingerprint
from surgeline.context.records import Extension, Fact

# What the store has of an attribute that it has not.
_ABSENT = ""
_UNCHANGING = (str, int, float, bool, tuple, type(None))
# An attribute that was taken away.
_GONE = object()


@dataclass
class _Seen:
    """An attribute in memory.

    Attributes:
        value: what it is now, or `_GONE`.
        before: the fingerprint of what it was when it was read, to notice that it was changed in place.
        stored: the fingerprint of what the store has.
    """

    value: Any
    before: str
    stored: str


class Attributes:
    """The attributes of one owner, each an `Extension` fact."""

    def __init__(self, keeper: Keeper, namespace: str, owner: str) -> None:
        """Begin.

        Args:
            keeper: the context.
            namespace: what the facts say that they belong to.
            owner: whose attributes they are, in errors.
        """
        self._keeper = keeper
        self._namespace = namespace
        self._owner = owner
        self._seen: dict[str, _Seen] = {}
        # What the store has, with its fingerprint; read once for each version.
        self._stored: dict[str, tuple[Any, str]] | None = None

    def get(self, name: str, begin: Callable[[], Any] | None = None) -> Any:
        """An attribute's value; what `begin` gives where it has none.

        Raises:
            KeyError: there is none, and no beginning.
        """
        body, stored = self._in_store(name)
        seen = self._seen.get(name)
        # What somebody else committed takes the place of what was only read.
        if seen is None or (seen.stored != stored and not self._changed(name)):
            if stored:
                value = decode(body, self._keeper, self._what(name), self._keeper.folder)
            elif begin is not None:
                value = begin()
                # What cannot be changed in place may yet begin otherwise, when what it follows from does.
                if isinstance(value, _UNCHANGING):
                    return value
            else:
                raise KeyError(name)
            seen = self._seen[name] = _Seen(value, self._mark(name, value), stored)
        if seen.value is _GONE:
            raise KeyError(name)
        return seen.value

    def set(self, name: str, value: Any) -> None:
        """Give an attribute another value."""
        self._seen[name] = _Seen(value, _ABSENT, self._in_store(name)[1])

    def delete(self, name: str) -> None:
        """Take an attribute away.

        Raises:
            KeyError: there is none.
        """
        self.get(name)
        self.set(name, _GONE)

    def names(self) -> list[str]:
        """The attributes that were set, by the tasks so far and since."""
        kept = [name for name in self._all_stored() if name not in self._seen]
        return kept + [
            name
            for name, seen in self._seen.items()
            if seen.value is not _GONE and (seen.stored or self._changed(name))
        ]

    def unsaid(self, folder: Path | None) -> Iterator[tuple[Fact, bool]]:
        """What has changed since it was read: facts, each with whether it holds from now on.

        Args:
            folder: where large values are written; without it they are encoded whole.
        """
        for name, seen in self._seen.items():
            if seen.value is _GONE:
                if seen.stored:
                    yield Extension(namespace=self._namespace, name=name, value=None), False
            elif self._changed(name):
                value = encode(seen.value, self._keeper, self._what(name), folder)
                yield Extension(namespace=self._namespace, name=name, value=value), True

    def renew(self) -> None:
        """Go on with a new version of the context, in which what was changed so far is said."""
        for name, seen in list(self._seen.items()):
            if seen.value is _GONE:
                del self._seen[name]
            elif self._changed(name):
                seen.before = seen.stored = self._mark(name, seen.value)
        self._stored = None

    def forget(self) -> None:
        """Forget all that was changed."""
        self._seen.clear()
        self._stored = None

    def _changed(self, name: str) -> bool:
        seen = self._seen[name]
        return self._mark(name, seen.value) not in (seen.before, seen.stored)

    def _mark(self, name: str, value: Any) -> str:
        return _ABSENT if value is _GONE else fingerprint(encode(value, self._keeper, self._what(name)))

    def _in_store(self, name: str) -> tuple[Any, str]:
        return self._all_stored().get(name, (None, _ABSENT))

    def _all_stored(self) -> dict[str, tuple[Any, str]]:
        if self._stored is None:
            facts = self._keeper.draft.all(Extension, namespace=self._namespace)
            self._stored = {fact.name: (fact.value, fingerprint(fact.value)) for fact in facts}
        return self._stored

    def _what(self, name: str) -> str:
        return f"attribute {name!r} of {self._owner}"
