"""The images in the Pipeline's lists, of targets and of calibrators."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from surgeline.paths import PIPELINE_FOLDER

_LISTS = ("sciimlist", "calimlist")
# Of an image that has several Taylor terms, the first one is what people look at.
_FIRST_TERM = ".tt0"


@dataclass(frozen=True)
class ListedFile:
    """An image that the Pipeline lists.

    Attributes:
        path: relative to the session's working folder.
        field: what it shows.
        kind: whether it is a cube.
    """

    path: str
    field: str
    kind: Literal["cube", "continuum"]


def listed_files(context: Any, folder: Path) -> Iterator[ListedFile]:
    """The images that a context lists, those that are there.

    Args:
        context: the Pipeline's.
        folder: where the Pipeline works.
    """
    for name in _LISTS:
        images = getattr(context, name, None)
        for item in images.get_imlist() if images is not None else ():
            for file in (item["imagename"], f"{item['imagename']}{_FIRST_TERM}"):
                if (folder / file / "table.dat").is_file():
                    kind: Literal["cube", "continuum"] = "cube" if item.get("specmode") == "cube" else "continuum"
                    yield ListedFile(f"{PIPELINE_FOLDER}/{file}", str(item.get("sourcename", "")), kind)
