"""A document of W3C PROV, told bit by bit."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from hashlib import blake2b
from typing import IO, Any

from surgeline.context.jsontext import as_json, separated


class Document:
    """A PROV-JSON document; until all is told its sections are in files, so that it takes no memory."""

    def __init__(self, files: ExitStack) -> None:
        self._files = files
        self._sections: dict[str, IO[str]] = {}
        self._relations = 0
        # What was told that may be met again, and the states of files that something made.
        self._told: set[str] = set()
        self._generated: set[str] = set()

    def tell(self, section: str, identifier: str, content: Mapping[str, Any]) -> None:
        """Tell of something; what is None is left out."""
        if section not in self._sections:
            lines = tempfile.TemporaryFile("w+", encoding="utf-8")  # noqa: SIM115 - closed with the others
            self._sections[section] = self._files.enter_context(lines)
        present = {name: value for name, value in content.items() if value is not None}
        self._sections[section].write(f"{as_json(identifier)}: {as_json(present)}\n")

    def tell_once(self, section: str, identifier: str, content: Mapping[str, Any]) -> None:
        """Tell of something that may be told of already."""
        if identifier not in self._told:
            self._told.add(identifier)
            self.tell(section, identifier, content)

    def relate(self, relation: str, **content: Any) -> None:
        """Tell how things are related; all names are PROV's."""
        self._relations += 1
        self.tell(relation, f"_:r{self._relations}", {f"prov:{name}": value for name, value in content.items()})

    def state(self, path: str, digest: str) -> str:
        """The identifier of a file in a state."""
        identifier = hashed("file", path, digest)
        content = {"prov:label": path, "surgeline:path": path, "surgeline:digest": digest}
        self.tell_once("entity", identifier, {**content, **typed("surgeline:File")})
        return identifier

    def generate(self, state: str, activity: str, time: str) -> bool:
        """Tell what made a state of a file, unless something else is known to have."""
        if state in self._generated:
            return False
        self._generated.add(state)
        self.relate("wasGeneratedBy", entity=state, activity=activity, time=time)
        return True

    def text(self, prefix: Mapping[str, str]) -> Iterator[str]:
        """The document, piece by piece."""
        yield f'{{\n"prefix": {as_json(prefix)}'
        for section, lines in self._sections.items():
            lines.seek(0)
            yield f",\n{as_json(section)}: {{\n"
            yield from separated(line.rstrip("\n") for line in lines)
            yield "\n}"
        yield "\n}\n"


def typed(*names: str) -> dict[str, Any]:
    """The types of something, by their names with prefixes."""
    return {"prov:type": [qualified(name) for name in names]}


def qualified(name: str) -> dict[str, str]:
    """A name with its prefix, as a value."""
    return {"$": name, "type": "prov:QUALIFIED_NAME"}


def hashed(what: str, *content: Any) -> str:
    """An identifier made of what it is for, the same in every export."""
    return f"context:{what}.{blake2b(as_json(content).encode(), digest_size=16).hexdigest()}"
