"""The pictures of a session, as pages show them: by what they show, and as links that move with the folder."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from surgeline.context.records import Picture, name_of
from surgeline.context.store import Context
from surgeline.paths import SessionPaths

_PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True)
class LinkedPicture:
    """A picture, the stage that made it, and where its file is, seen from a page; empty where there is none."""

    fact: Picture
    stage: str
    link: str
    width: int | None = None
    height: int | None = None


def link(path: str, paths: SessionPaths) -> str:
    """A path of the working folder as a link that works wherever that folder is moved to."""
    return quote(os.path.relpath(paths.workdir / path, paths.weblog.parent))


def pictures_of(context: Context, version: int, paths: SessionPaths) -> list[LinkedPicture]:
    """All pictures that there are at a version of a context, in the order in which they were told."""
    return [
        _linked(context.fact(said, Picture), said.stage, paths) for said in context.holding(version, name_of(Picture))
    ]


def _linked(fact: Picture, stage: str, paths: SessionPaths) -> LinkedPicture:
    try:
        with (paths.workdir / fact.path).open("rb") as file:
            begin = file.read(24)
    except OSError:
        return LinkedPicture(fact, stage, "")
    return LinkedPicture(fact, stage, link(fact.path, paths), *_png_size(begin))


def _png_size(begin: bytes) -> tuple[int | None, int | None]:
    """Width and height, which let the page lay itself out before it has read the picture."""
    if not begin.startswith(_PNG_SIGNATURE) or len(begin) < 24:
        return None, None
    return int.from_bytes(begin[16:20], "big"), int.from_bytes(begin[20:24], "big")


def grouped(
    pictures: Iterable[LinkedPicture], by: Callable[[LinkedPicture], str]
) -> list[tuple[str, list[LinkedPicture]]]:
    """Pictures by something that they have in common, in the order in which that was met."""
    groups: dict[str, list[LinkedPicture]] = {}
    for picture in pictures:
        groups.setdefault(by(picture), []).append(picture)
    return list(groups.items())


def overviews(pictures: Iterable[LinkedPicture]) -> list[LinkedPicture]:
    """Those that show a whole: not one plane or antenna of many."""
    return [picture for picture in pictures if not picture.fact.one_of_many]


def planes(pictures: Sequence[LinkedPicture]) -> list[LinkedPicture]:
    """The planes of a cube among pictures, in the order of channels."""
    found = [picture for picture in pictures if picture.fact.kind == "plane"]
    return sorted(found, key=lambda picture: picture.fact.channel or 0)


def file_name(path: str) -> str:
    """The last part of a path."""
    return Path(path).name
