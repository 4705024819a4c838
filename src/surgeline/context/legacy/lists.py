"""The lists that existing tasks keep in their context: results of tasks, and registries of images."""

from __future__ import annotations

import logging
import re
import uuid
from collections.abc import Iterator, MutableMapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, overload

from surgeline.context.legacy.facts import ListedImage, ResultBody, StoredResult
from surgeline.context.legacy.values import decode, encode, fingerprint
from surgeline.context.records import Fact

if TYPE_CHECKING:
    from surgeline.context.legacy.context import LegacyContext

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class ResultEntry:
    """A result in the list of results: what it is called at once, all of it when it is read."""

    results: Results
    key: str
    task: str
    stage: str

    @property
    def uuid(self) -> uuid.UUID:
        return uuid.UUID(self.key)

    @property
    def stage_number(self) -> int:
        return int(self.stage.partition("_")[0])

    def read(self) -> Any:
        """The result itself.

        Raises:
            ContextError: its file is missing or damaged, or what it needs is not installed here.
        """
        found = self.results.body(self.key)
        # What the existing pipeline keeps is itself a stand-in that reads the result from a file.
        return found.read() if callable(getattr(found, "read", None)) else found


class Results(Sequence[ResultEntry]):
    """The results that were accepted, in order. Reading one does not read the others."""

    def __init__(self, context: LegacyContext) -> None:
        self._context = context
        self._new: dict[str, Any] = {}

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._context, "results")

    def append(self, result: Any) -> None:
        """Add a result; it is stored when the context is accepted."""
        own = getattr(result, "uuid", None)
        key = own.hex if isinstance(own, uuid.UUID) else uuid.uuid4().hex
        made_by = getattr(result, "task", None) or type(result)
        task = made_by if isinstance(made_by, str) else getattr(made_by, "__name__", str(made_by))
        self._new[key] = result
        self._context.draft.add(StoredResult(key=key, task=task, stage=self._context.stage))

    def body(self, key: str) -> Any:
        """The result of a key."""
        if key in self._new:
            return self._new[key]
        fact = self._context.draft.last(ResultBody, key=key)
        assert fact is not None
        return decode(fact.body, self._context, f"result {key}", self._context.folder)

    def unsaid(self, folder: Path | None) -> Iterator[tuple[Fact, bool]]:
        """The results that were added: facts, each with whether it holds from now on."""
        for key, result in self._new.items():
            body = encode(result, self._context, f"result {key}", folder)
            yield ResultBody(key=key, body=body), True

    def forget(self) -> None:
        """Forget what was added, as it is stored or dropped."""
        self._new.clear()

    @overload
    def __getitem__(self, place: int) -> ResultEntry: ...

    @overload
    def __getitem__(self, place: slice) -> list[ResultEntry]: ...

    def __getitem__(self, place: int | slice) -> ResultEntry | list[ResultEntry]:
        return self._entries()[place]

    def __len__(self) -> int:
        return len(self._entries())

    def __repr__(self) -> str:
        return f"<{len(self)} results>"

    def _entries(self) -> list[ResultEntry]:
        return [ResultEntry(self, fact.key, fact.task, fact.stage) for fact in self._context.draft.all(StoredResult)]


@dataclass(frozen=True)
class _StoredItem:
    """An image as it was read: its place in the registry, and the fingerprint of what it was."""

    item: dict[str, Any]
    place: int
    before: str


class ImageLibrary:
    """A registry of images: dictionaries, which tasks may change in place."""

    def __init__(self, context: LegacyContext, name: str) -> None:
        self._context = context
        self._name = name
        self._items: list[dict[str, Any]] | None = None
        self._stored: list[_StoredItem] = []

    def __reduce__(self) -> tuple[Any, ...]:
        return getattr, (self._context, self._name)

    def get_imlist(self) -> list[dict[str, Any]]:
        """The images."""
        if self._items is None:
            facts = sorted(self._context.draft.all(ListedImage, registry=self._name), key=lambda fact: fact.place)
            for fact in facts:
                item = decode(fact.item, self._context, f"an image of {self._name}", self._context.folder)
                self._stored.append(_StoredItem(item, fact.place, fingerprint(self._encoded(item, None))))
            self._items = [stored.item for stored in self._stored]
        return self._items

    def add_item(self, imageitem: Any, overwrite_on_export: bool = True) -> None:
        """Add an image.

        With `overwrite_on_export`, an image of the same name stays as it is; otherwise it stands beside others of
        the same product, and its version tells them apart.
        """
        items = self.get_imlist()
        item = dict(imageitem)
        if overwrite_on_export:
            if self.find_imageitem(imageitem) >= 0:
                _LOG.warning("image %s is in %s already", item["imagename"], self._name)
                return
        else:
            versions = self.product_in_list(imageitem)
            if versions > 1:
                item["version"] = versions
                # The caller's own goes by its version, too.
                with suppress(AttributeError):
                    imageitem.version = versions
        items.append(item)

    def delete_item(self, imageitem: Any) -> None:
        """Take the image of a name out of the registry, if it is there."""
        place = self.find_imageitem(imageitem)
        if place >= 0:
            del self.get_imlist()[place]

    def clear_imlist(self) -> None:
        """Take all images out of the registry."""
        self.get_imlist().clear()

    def find_imageitem(self, imageitem: Any) -> int:
        """Where the image of a name is in the list, or -1."""
        name = dict(imageitem)["imagename"]
        return next((place for place, item in enumerate(self.get_imlist()) if item["imagename"] == name), -1)

    def product_in_list(self, imageitem: Any) -> int:
        """How many versions of an image's product there are, this one counted; 0 when it is the first."""
        name = _product(dict(imageitem)["imagename"])
        for item in self.get_imlist():
            if item.get("version") == 1 and _product(item["imagename"]) == name:
                item["version_count"] += 1
                return int(item["version_count"])
        return 0

    def unsaid(self, folder: Path | None) -> Iterator[tuple[Fact, bool]]:
        """What has changed since the registry was read: facts, each with whether it holds from now on."""
        if self._items is None:
            return
        # Items may be equal, so that they are told apart by what they are.
        there = {id(stored.item): stored for stored in self._stored}
        place = max((stored.place for stored in self._stored), default=-1)
        for item in self._items:
            stored = there.pop(id(item), None)
            if stored is None:
                place += 1
                yield self._fact(place, item, folder), True
            elif fingerprint(self._encoded(item, None)) != stored.before:
                yield self._fact(stored.place, item, folder), True
        for stored in there.values():
            yield ListedImage(registry=self._name, place=stored.place, imagename="", item=None), False

    def forget(self) -> None:
        """Forget what was changed, as it is stored or dropped."""
        self._items, self._stored = None, []

    def _fact(self, place: int, item: MutableMapping[str, Any], folder: Path | None) -> ListedImage:
        stored = self._encoded(item, folder)
        return ListedImage(registry=self._name, place=place, imagename=str(item["imagename"]), item=stored)

    def _encoded(self, item: MutableMapping[str, Any], folder: Path | None) -> Any:
        return encode(item, self._context, f"an image of {self._name}", folder)


def _product(imagename: str) -> str:
    """An image's name without what tells the stage and the cycle that made it."""
    name = re.sub(r"\.s\d+_\d+\.", ".", Path(imagename).name)
    return re.sub(r"\.iter\d+(\.image)?(?=\.|$)", "", name)
