"""XML files of others, read as trees without what XML lets a file do to whoever reads it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from xml.parsers import expat

from surgeline.errors import BadInput

# The largest procedures and requests that there are have some 100 kB and a depth of ten.
_LARGEST = 4 * 2**20
_DEEPEST = 50


@dataclass
class Element:
    """An element of an XML file.

    Attributes:
        name: without the prefix of its namespace.
        line: where in the file it begins.
        attributes: by their names, without prefixes.
        text: the text directly in it.
        children: the elements directly in it.
    """

    name: str
    line: int
    attributes: dict[str, str]
    text: str = ""
    children: list[Element] = field(default_factory=list)

    def all(self, *path: str) -> Iterator[Element]:
        """The elements at a path of names below it, in the order of the file."""
        if not path:
            yield self
            return
        for child in self.children:
            if child.name == path[0]:
                yield from child.all(*path[1:])

    def first(self, *path: str) -> Element | None:
        """The first element at a path; None where there is none."""
        return next(self.all(*path), None)

    def said(self, *path: str) -> str:
        """The text of the first element at a path; empty where there is none."""
        found = self.first(*path)
        return found.text.strip() if found is not None else ""


def read(path: Path) -> Element:
    """Read an XML file.

    A file that declares a type of document is refused: nothing that is read here has one, and it is by such that an
    entity can grow to any size, or name other files.

    Raises:
        BadInput: it cannot be read, is no XML, or no XML of this kind; says which file and line.
    """
    try:
        size = path.stat().st_size
        content = path.read_bytes() if size <= _LARGEST else b""
    except OSError as error:
        raise BadInput(f"{path} cannot be read: {error.strerror}", "give the path of an XML file") from error
    if size > _LARGEST:
        raise BadInput(f"{path} has {size / 2**20:.0f} MB, and no procedure is so large", "give a procedure's file")
    builder = _Builder(path)
    try:
        builder.parser.Parse(content, True)
    # An encoding that Python does not have is a LookupError, one that cannot be read a ValueError.
    except (expat.ExpatError, LookupError, ValueError) as error:
        line = builder.parser.CurrentLineNumber
        raise BadInput(f"{path}:{line} is not XML: {error}", "correct it there, or get the file anew") from error
    assert builder.root is not None, "a file without an element is not XML"
    return builder.root


class _Builder:
    """Makes elements of what the parser finds."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._open: list[Element] = []
        self.root: Element | None = None
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._begin
        self.parser.EndElementHandler = self._end
        self.parser.CharacterDataHandler = self._say
        self.parser.StartDoctypeDeclHandler = self._refuse

    def _begin(self, name: str, attributes: dict[str, str]) -> None:
        if len(self._open) == _DEEPEST:
            raise BadInput(
                f"{self._path}:{self.parser.CurrentLineNumber}: elements are nested {_DEEPEST} deep, and those of a "
                "procedure are not",
                "give a procedure's file",
            )
        told = {key.rpartition(":")[2]: value for key, value in attributes.items()}
        element = Element(name.rpartition(":")[2], self.parser.CurrentLineNumber, told)
        if self._open:
            self._open[-1].children.append(element)
        else:
            self.root = element
        self._open.append(element)

    def _end(self, name: str) -> None:
        self._open.pop()

    def _say(self, text: str) -> None:
        if self._open:
            self._open[-1].text += text

    def _refuse(self, *_: object) -> None:
        raise BadInput(
            f"{self._path}:{self.parser.CurrentLineNumber} declares a type of document (DOCTYPE), which can do harm "
            "when it is read",
            "take the declaration out: no procedure needs one",
        )
