"""The facts that the adaptation layer adds to those of `records`: what existing tasks keep in their context."""

from __future__ import annotations

from typing import Any, ClassVar

from surgeline.context.records import Fact


class TableType(Fact):
    """What a calibration table corrects, in the words of the existing pipeline: gaincal, bandpass, tsys, …"""

    kind_name: ClassVar[str] = "legacy.table type"
    identity: ClassVar[tuple[str, ...]] = ("table",)

    table: str
    caltype: str


class ListedImage(Fact):
    """An image in one of the context's registries of images.

    Attributes:
        registry: sciimlist, calimlist, rmsimlist or subimlist.
        place: its place in the registry; places are never used twice, and some may be empty.
        item: what the registry says of it, as `legacy_values` stores values.
    """

    kind_name: ClassVar[str] = "legacy.image"
    identity: ClassVar[tuple[str, ...]] = ("registry", "place")

    registry: str
    place: int
    imagename: str
    item: Any


class StoredResult(Fact):
    """That the result of a task was accepted; `ResultBody` is what it is.

    Attributes:
        key: the result's own unique identifier.
        task: the class of the task, or of the result where that is not known.
        stage: the context's stage at that time, such as 3_0.
    """

    kind_name: ClassVar[str] = "legacy.result"
    identity: ClassVar[tuple[str, ...]] = ("key",)

    key: str
    task: str
    stage: str


class ResultBody(Fact):
    """The result of a task, as `legacy_values` stores values: apart, so that one result is read alone."""

    kind_name: ClassVar[str] = "legacy.result body"
    identity: ClassVar[tuple[str, ...]] = ("key",)

    key: str
    body: Any


LEGACY_KINDS: tuple[type[Fact], ...] = (TableType, ListedImage, StoredResult, ResultBody)
